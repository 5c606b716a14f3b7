/* SPDX-License-Identifier: MIT */
/* safetensors files that must be read, and one hostile file per rule that must be refused with its reason. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/formats/safetensors.h"

/* A file: length of the header, header, n bytes of data. */
static ad_buf make(const char *header, size_t header_len, uint64_t claimed, size_t n_data)
{
    ad_buf b = {0};
    ad_buf_append(&b, &claimed, 8);
    ad_buf_append(&b, header, header_len);
    for (size_t i = 0; i < n_data; i++) ad_buf_append(&b, "\x3f", 1);
    return b;
}

/* Parsed from a heap block of exactly its size, so that ASan sees a byte too far. */
static ad_status parse(const ad_buf *b, ad_safetensors **out, ad_err *err)
{
    char *exact = malloc(b->len ? b->len : 1);
    memcpy(exact, b->data, b->len);
    ad_status st = ad_safetensors_parse(out, exact, b->len, "probe", err);
    if (st != AD_OK) free(exact); /* else the caller frees what the tensors point into */
    return st;
}

static void refuse(const char *header, size_t n_data, const char *why)
{
    ad_err err = {0};
    ad_safetensors *s = NULL;
    ad_buf b = make(header, strlen(header), strlen(header), n_data);
    ad_status st = parse(&b, &s, &err);
    ck_assert_msg(st != AD_OK, "accepted: %s", header);
    ck_assert_msg(strstr(err.msg, why) && strstr(err.msg, "probe"), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_ptr_null(s);
    ad_buf_deinit(&b);
}

static void accept(const char *header, size_t n_data)
{
    ad_err err = {0};
    ad_safetensors *s = NULL;
    ad_buf b = make(header, strlen(header), strlen(header), n_data);
    ck_assert_msg(ad_safetensors_parse(&s, b.data, b.len, "probe", &err) == AD_OK, "%s: %s", header, err.msg);
    ad_safetensors_close(&s);
    ad_buf_deinit(&b);
}

#define T(name, dtype, shape, begin, end) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

START_TEST(tensors_are_found_with_their_shape_in_file_order)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2,3]", "8", "32") "," T("a", "BF16", "[4]", "0", "8") "," T("c", "F32", "[]", "32", "36") "}  ";
    ad_err err;
    ad_safetensors *s = NULL;
    ad_buf b = make(header, sizeof header - 1, sizeof header - 1, 36);
    ck_assert_int_eq(ad_safetensors_parse(&s, b.data, b.len, "probe", &err), AD_OK);
    ck_assert_uint_eq(ad_safetensors_count(s), 3);
    ck_assert_str_eq(ad_safetensors_at(s, 0)->name, "a");
    ck_assert_str_eq(ad_safetensors_at(s, 2)->name, "c");
    const ad_tensor *t = ad_safetensors_find(s, "b");
    ck_assert(t && t->dtype == AD_F32 && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3 && t->bytes == 24);
    ck_assert_ptr_eq(t->data, b.data + 8 + sizeof header - 1 + 8);
    ck_assert_ptr_null(ad_safetensors_find(s, "nope"));
    ck_assert_int_eq(ad_safetensors_find(s, "c")->n_dims, 0);
    ad_safetensors_close(&s);
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(empty_files_and_empty_tensors_are_read)
{
    accept("{}", 0);
    accept("{" T("a", "F32", "[0,4]", "0", "0") "}", 0);
    accept("{" T("a", "F32", "[0,4]", "0", "0") "," T("b", "U8", "[3]", "0", "3") "}", 3);
}
END_TEST

START_TEST(a_header_longer_than_the_file_is_refused)
{
    static const uint64_t claims[] = {3, 100, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        ad_err err = {0};
        ad_safetensors *s = NULL;
        ad_buf b = make("{}", 2, claims[i], 0);
        ck_assert_int_eq(parse(&b, &s, &err), AD_EFORMAT);
        ad_buf_deinit(&b);
    }
    for (size_t n = 0; n < 8; n++) {
        ad_err err = {0};
        ad_safetensors *s = NULL;
        ad_buf b = {0};
        ad_buf_append(&b, "\2\0\0\0\0\0\0", n);
        ck_assert_int_eq(ad_safetensors_parse(&s, b.data ? b.data : "", n, "probe", &err), AD_EFORMAT);
        ad_buf_deinit(&b);
    }
}
END_TEST

START_TEST(a_header_that_is_not_one_json_object_is_refused)
{
    refuse("[]", 0, "header");
    refuse("", 0, "header");
    refuse("{", 0, "header");
    refuse("{} x", 0, "header");
    refuse("{}{}", 0, "header");
    refuse("{\"a\xff\":1}", 0, "header");
    refuse("{\"a\\u0000b\":1}", 0, "header");
}
END_TEST

START_TEST(a_name_that_appears_twice_is_refused)
{
    refuse("{" T("a", "U8", "[1]", "0", "1") "," T("a", "U8", "[1]", "1", "2") "}", 2, "duplicate");
}
END_TEST

START_TEST(metadata_must_map_strings_to_strings)
{
    refuse("{\"__metadata__\":1}", 0, "__metadata__");
    refuse("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
}
END_TEST

START_TEST(an_entry_must_have_its_three_keys_of_the_right_types)
{
    refuse("{\"a\":1}", 0, "a");
    refuse("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype");
    refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets");
    refuse("{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype");
    refuse("{" T("a", "F7", "[1]", "0", "1") "}", 1, "F7");
    refuse("{" T("a", "U8", "1", "0", "1") "}", 1, "shape");
    refuse("{" T("a", "U8", "[1.0]", "0", "1") "}", 1, "shape");
    refuse("{" T("a", "U8", "[-1]", "0", "1") "}", 1, "shape");
    refuse("{" T("a", "U8", "[\"1\"]", "0", "1") "}", 1, "shape");
    refuse("{" T("a", "U8", "[1]", "0.0", "1") "}", 1, "data_offsets");
    refuse("{" T("a", "U8", "[1]", "-1", "0") "}", 1, "data_offsets");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "data_offsets");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "data_offsets");
    refuse("{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, "dimensions");
}
END_TEST

START_TEST(a_size_that_overflows_is_refused)
{
    refuse("{" T("a", "F32", "[2,9223372036854775807]", "0", "4") "}", 4, "a");
    refuse("{" T("a", "F32", "[4611686018427387904,4]", "0", "0") "}", 0, "overflow");
    refuse("{" T("a", "F32", "[9223372036854775807]", "0", "4") "}", 4, "overflow");
    refuse("{" T("a", "F32", "[2,18446744073709551614]", "0", "4") "}", 4, "header");
}
END_TEST

START_TEST(offsets_must_span_exactly_the_tensor)
{
    refuse("{" T("a", "F32", "[2]", "0", "7") "}", 8, "needs 8");
    refuse("{" T("a", "F32", "[2]", "8", "0") "}", 8, "data_offsets");
    refuse("{" T("a", "F32", "[2]", "0", "8") "}", 7, "ends inside");
}
END_TEST

START_TEST(holes_overlaps_aliases_and_trailing_bytes_are_refused)
{
    refuse("{" T("a", "U8", "[2]", "1", "3") "}", 3, "expected 0");
    refuse("{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[2]", "3", "5") "}", 5, "hole");
    refuse("{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[2]", "1", "3") "}", 3, "overlap");
    refuse("{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[2]", "0", "2") "}", 2, "overlap");
    refuse("{" T("a", "U8", "[2]", "0", "2") "}", 3, "follow");
    refuse("{}", 1, "follow");
}
END_TEST

START_TEST(every_truncation_of_a_good_file_is_refused)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("a", "BF16", "[4]", "0", "8") "," T("b", "F32", "[2,3]", "8", "32") "}";
    ad_buf b = make(header, sizeof header - 1, sizeof header - 1, 32);
    for (size_t n = 0; n < b.len; n++) {
        ad_err err = {0};
        ad_safetensors *s = NULL;
        ad_buf cut = {0};
        ad_buf_append(&cut, b.data, n);
        ck_assert_msg(n == 0 || parse(&cut, &s, &err) != AD_OK, "%zu bytes were accepted", n);
        ad_buf_deinit(&cut);
    }
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(deep_nesting_is_refused_and_does_not_exhaust_the_stack)
{
    ad_buf h = {0};
    ad_buf_puts(&h, "{\"a\":");
    for (int i = 0; i < 200000; i++) ad_buf_puts(&h, "[");
    ad_err err = {0};
    ad_safetensors *s = NULL;
    ad_buf b = make(h.data, h.len, h.len, 0);
    ck_assert_int_eq(parse(&b, &s, &err), AD_EFORMAT);
    ad_buf_deinit(&h);
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(a_file_over_the_limit_or_missing_is_refused_by_name)
{
    char path[] = "/tmp/ad-safetensors-XXXXXX";
    int fd = mkstemp(path);
    ad_buf b = make("{}", 2, 2, 0);
    ck_assert_int_eq(write(fd, b.data, b.len), (int)b.len);
    close(fd);
    ad_err err = {0};
    ad_safetensors *s = NULL;
    ck_assert_int_eq(ad_safetensors_read(&s, path, 9, &err), AD_ELIMIT);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_int_eq(ad_safetensors_read(&s, path, 10, &err), AD_OK);
    ad_safetensors_close(&s);
    unlink(path);
    ck_assert_int_eq(ad_safetensors_open(&s, path, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_int_eq(ad_safetensors_open(&s, "/tmp", &err), AD_EIO);
    ad_buf_deinit(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("safetensors");
    TCase *t = tcase_create("safetensors");
    tcase_add_test(t, tensors_are_found_with_their_shape_in_file_order);
    tcase_add_test(t, empty_files_and_empty_tensors_are_read);
    tcase_add_test(t, a_header_longer_than_the_file_is_refused);
    tcase_add_test(t, a_header_that_is_not_one_json_object_is_refused);
    tcase_add_test(t, a_name_that_appears_twice_is_refused);
    tcase_add_test(t, metadata_must_map_strings_to_strings);
    tcase_add_test(t, an_entry_must_have_its_three_keys_of_the_right_types);
    tcase_add_test(t, a_size_that_overflows_is_refused);
    tcase_add_test(t, offsets_must_span_exactly_the_tensor);
    tcase_add_test(t, holes_overlaps_aliases_and_trailing_bytes_are_refused);
    tcase_add_test(t, every_truncation_of_a_good_file_is_refused);
    tcase_add_test(t, deep_nesting_is_refused_and_does_not_exhaust_the_stack);
    tcase_add_test(t, a_file_over_the_limit_or_missing_is_refused_by_name);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
