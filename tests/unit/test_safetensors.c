/* SPDX-License-Identifier: MIT */
/* safetensors files that must be read, and one hostile file per rule that must be refused with its reason. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/formats/safetensors.h"
#include "core/model/source.h"
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

/* A file: length of the header, header, n bytes of data. */
static ad_buf make(const char *header, size_t header_len, uint64_t claimed, size_t n_data)
{
    ad_buf b = {0};
    ad_buf_append(&b, &claimed, 8);
    ad_buf_append(&b, header, header_len);
    for (size_t i = 0; i < n_data; i++) ad_buf_append(&b, "\x3f", 1);
    return b;
}

/* From a heap block of exactly its size, so that ASan sees a byte too far. Empties b. */
static void refuse_bytes(ad_buf *b, ad_status want, const char *why)
{
    ad_err err = {0};
    ad_safetensors *s = NULL;
    char *exact = malloc(b->len ? b->len : 1);
    if (b->len) memcpy(exact, b->data, b->len);
    ad_status st = ad_safetensors_parse(&s, exact, b->len, "probe", &err);
    ck_assert_msg(st == want, "status %d for \"%s\", not %d: %s", (int)st, why, (int)want, err.msg);
    ck_assert_msg(strstr(err.msg, why) && strstr(err.msg, "probe"), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_int_eq(err.code, want);
    ck_assert_ptr_null(s);
    free(exact);
    ad_buf_deinit(b);
}

static void refuse_as(const char *header, size_t n_data, ad_status want, const char *why)
{
    ad_buf b = make(header, strlen(header), strlen(header), n_data);
    refuse_bytes(&b, want, why);
}

static void refuse(const char *header, size_t n_data, const char *why) { refuse_as(header, n_data, AD_EFORMAT, why); }

static void accept(const char *header, size_t n_data, size_t n_tensors)
{
    ad_err err = {0};
    ad_safetensors *s = NULL;
    ad_buf b = make(header, strlen(header), strlen(header), n_data);
    ck_assert_msg(ad_safetensors_parse(&s, b.data, b.len, "probe", &err) == AD_OK, "%s: %s", header, err.msg);
    ck_assert_uint_eq(ad_safetensors_count(s), n_tensors);
    ck_assert_str_eq(ad_safetensors_label(s), "probe");
    ad_safetensors_close(&s);
    ck_assert_ptr_null(s);
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

/* A line end, an escape, order and blanks: some of these are read by jansson, all to the same end. */
START_TEST(the_same_header_may_be_written_in_many_ways)
{
    accept("{" T("a", "U8", "[1,2]", "0", "2") "}", 2, 1);
    accept("{ \"a\" : {\"shape\" : [ 1 , 2 ] , \"data_offsets\":[ 0,2 ],  \"dtype\": \"U8\" } }", 2, 1);
    accept("{\n\"a\":{\"dtype\":\"U8\",\"shape\":[1,2],\"data_offsets\":[0,2]}}", 2, 1);
    accept("{" T("\\u0061\\n", "U8", "[1,2]", "0", "2") "}", 2, 1);
    accept("{" T("\xc3\xa9", "U8", "[1,2]", "0", "2") "}", 2, 1);
    accept("{" T("a", "U8", "[1,-0,2]", "0", "0") "}", 0, 1);
    accept("{\"__metadata__\":{\"a\":\"b\",\"c\":\"d\"}," T("a", "U8", "[1,2]", "0", "2") "}", 2, 1);
    refuse("{" T("a", "U8", "[01]", "0", "1") "}", 1, "header, byte");
    refuse("{" T("a", "U8", "[1]", "0", "1") ",}", 1, "header, byte");
    refuse("{" T("a", "U8", "[1,]", "0", "1") "}", 1, "header, byte");
    refuse("{\"__metadata__\":{\"a\":\"b\",\"a\":\"b\"}}", 0, "duplicate");
}
END_TEST

START_TEST(empty_files_and_empty_tensors_are_read)
{
    accept("{}", 0, 0);
    accept("{\"__metadata__\":{}}", 0, 0);
    accept("{" T("a", "F32", "[0,4]", "0", "0") "}", 0, 1);
    accept("{" T("a", "F32", "[0,4]", "0", "0") "," T("b", "U8", "[3]", "0", "3") "," T("c", "F32", "[2,0]", "3", "3") "}", 3, 3);
    accept("{" T("b", "U8", "[3]", "0", "3") "," T("z", "F32", "[0]", "0", "0") "}", 3, 2); /* an empty one goes first, whatever its name */
    accept("{" T("a", "U8", "[1,1,1,1,1,1,1,1]", "0", "1") "}", 1, 1); /* eight dimensions are the most */
}
END_TEST

START_TEST(tensors_are_found_whatever_the_order_of_their_names)
{
    static const char header[] = "{" T("d", "U8", "[1]", "0", "1") "," T("b", "U8", "[1]", "1", "2") "," T("a", "U8", "[1]", "2", "3") "," T("c", "U8", "[1]", "3", "4") "}";
    ad_err err;
    ad_safetensors *s = NULL;
    ad_buf b = make(header, sizeof header - 1, sizeof header - 1, 4);
    ck_assert_int_eq(ad_safetensors_parse(&s, b.data, b.len, "probe", &err), AD_OK);
    for (size_t i = 0; i < 4; i++) {
        char name[2] = {"dbac"[i], 0};
        ck_assert_msg(ad_safetensors_find(s, name) == ad_safetensors_at(s, i), "%s", name);
    }
    ad_safetensors_close(&s);
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(whitespace_may_surround_the_header)
{
    accept(" \t\r\n{}", 0, 0);
    accept("{" T("a", "U8", "[1]", "0", "1") "} \t\r\n   ", 1, 1);
}
END_TEST

/* Sizes in bytes of one value, as the format's list of types has them. */
START_TEST(every_supported_type_has_its_size)
{
    static const struct { const char *name; ad_dtype t; size_t bytes; } types[] = {
        {"F32", AD_F32, 4}, {"F16", AD_F16, 2}, {"BF16", AD_BF16, 2}, {"F64", AD_F64, 8}, {"I64", AD_I64, 8}, {"I32", AD_I32, 4},
        {"I16", AD_I16, 2}, {"I8", AD_I8, 1}, {"U8", AD_U8, 1}, {"BOOL", AD_BOOL, 1},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char header[200];
        ad_err err;
        ad_safetensors *s = NULL;
        snprintf(header, sizeof header, "{" T("a", "%s", "[3]", "0", "%zu") "}", types[i].name, 3 * types[i].bytes);
        ad_buf b = make(header, strlen(header), strlen(header), 3 * types[i].bytes);
        ck_assert_msg(ad_safetensors_parse(&s, b.data, b.len, "probe", &err) == AD_OK, "%s", err.msg);
        ck_assert_int_eq(ad_safetensors_find(s, "a")->dtype, types[i].t);
        ck_assert_uint_eq(ad_safetensors_find(s, "a")->bytes, 3 * types[i].bytes);
        ad_safetensors_close(&s);
        ad_buf_deinit(&b);
    }
}
END_TEST

START_TEST(types_that_are_not_served_are_named)
{
    static const char *const types[] = {"F7", "", "f32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "C64", "U16", "U32", "U64"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char header[200], why[80];
        snprintf(header, sizeof header, "{" T("a", "%s", "[8]", "0", "8") "}", types[i]);
        snprintf(why, sizeof why, "tensor a has dtype %s,", types[i]);
        refuse_as(header, 8, AD_EUNSUPPORTED, why);
    }
}
END_TEST

START_TEST(a_file_shorter_than_its_length_field_is_refused)
{
    for (size_t n = 0; n < 8; n++) {
        ad_buf b = {0};
        char why[40];
        snprintf(why, sizeof why, "%zu bytes are too few", n);
        ad_buf_append(&b, "\2\0\0\0\0\0\0", n);
        refuse_bytes(&b, AD_EFORMAT, why);
    }
}
END_TEST

START_TEST(a_header_longer_than_the_file_is_refused)
{
    static const uint64_t claims[] = {3, 100, 100000001, UINT64_MAX, UINT64_MAX - 7, UINT64_MAX - 8, (uint64_t)1 << 63, (uint64_t)1 << 32};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        char why[60];
        snprintf(why, sizeof why, "says it has %llu bytes", (unsigned long long)claims[i]);
        ad_buf b = make("{}", 2, claims[i], 0);
        refuse_bytes(&b, AD_EFORMAT, why);
    }
}
END_TEST

/* The bytes are there, so only the limit can refuse it. The block is zero pages that nobody reads. */
START_TEST(a_header_over_the_limit_is_refused_unread)
{
    uint64_t n = 100000001;
    ad_err err = {0};
    ad_safetensors *s = NULL;
    char *p = calloc(1, 8 + (size_t)n);
    memcpy(p, &n, sizeof n);
    ck_assert_int_eq(ad_safetensors_parse(&s, p, 8 + (size_t)n, "probe", &err), AD_EFORMAT);
    ck_assert_msg(strstr(err.msg, "probe") && strstr(err.msg, "limit 100000000"), "%s", err.msg);
    free(p);
}
END_TEST

START_TEST(a_header_that_is_not_one_json_object_is_refused)
{
    static const char *const syntax[] = {"", "{", "{} x", "{}{}", "{\"a\xff\":1}", "{\"a\\u0000b\":1}", "{\"a\\ud800\":1}", "{} \v", "\xef\xbb\xbf{}", "{'a':1}", "{\"a\":1,}", "nil"};
    static const char *const other[] = {"[]", "[{}]"};
    static const char *const behind[] = {"{" T("a", "F32", "[]", "0", "4") "}{}", "{" T("a", "F32", "[]", "0", "4") "} x", "{" T("a", "F32", "[]", "0", "4") "},"}; /* as usual writers write, and then more */
    for (size_t i = 0; i < sizeof syntax / sizeof *syntax; i++) refuse(syntax[i], 0, "header, byte");
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) refuse(other[i], 0, "must be a JSON object");
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++) refuse(behind[i], 4, "header, byte");
    ad_buf b = make("{}\0", 3, 3, 0); /* padding is whitespace, not zeros */
    refuse_bytes(&b, AD_EFORMAT, "header, byte");
}
END_TEST

START_TEST(a_name_that_appears_twice_is_refused)
{
    refuse("{" T("a", "U8", "[1]", "0", "1") "," T("a", "U8", "[1]", "1", "2") "}", 2, "duplicate");
    refuse("{" T("a", "U8", "[1]", "0", "1") "," T("\\u0061", "U8", "[1]", "1", "2") "}", 2, "duplicate"); /* the same name, spelt otherwise */
    refuse("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "duplicate");
    refuse("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate");
}
END_TEST

START_TEST(metadata_must_map_strings_to_strings)
{
    static const char *const values[] = {"1", "[]", "null", "\"pt\""};
    static const char *const inner[] = {"1", "null", "[]", "{}", "true", "1.5"};
    char header[100];
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        snprintf(header, sizeof header, "{\"__metadata__\":%s}", values[i]);
        refuse(header, 0, "__metadata__ must be an object");
    }
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
        snprintf(header, sizeof header, "{\"__metadata__\":{\"format\":\"pt\",\"deep\":%s}}", inner[i]);
        refuse(header, 0, "__metadata__ deep must be a string");
    }
}
END_TEST

START_TEST(an_entry_must_have_exactly_its_three_keys)
{
    static const char *const entries[] = {
        "1", "null", "[]", "\"F32\"", "{}",
        "{\"shape\":[1],\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[1]}",
        "{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":1}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":1}",
    };
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        char header[200];
        snprintf(header, sizeof header, "{\"w\":%s}", entries[i]);
        refuse(header, 1, "tensor w must have exactly dtype, shape and data_offsets");
    }
}
END_TEST

START_TEST(a_shape_must_hold_natural_numbers_and_not_too_many)
{
    static const char *const shapes[] = {"[1.0]", "[-1]", "[\"1\"]", "[null]", "[[1]]", "[true]", "[1,-1]", "[1e0]"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char header[200];
        snprintf(header, sizeof header, "{" T("w", "U8", "%s", "0", "1") "}", shapes[i]);
        refuse(header, 1, "tensor w: its shape must hold");
    }
    refuse("{" T("w", "U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, "tensor w has more than 8 dimensions");
}
END_TEST

START_TEST(offsets_must_be_two_natural_numbers)
{
    static const char *const offsets[] = {"[0.0,1]", "[0,1.0]", "[-1,0]", "[0,-1]", "[0,1,2]", "[0]", "[]", "[\"0\",1]", "[null,1]", "[false,true]"};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        char header[200];
        snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":%s}}", offsets[i]);
        refuse(header, 1, "tensor w: data_offsets must be two");
    }
    refuse("{" T("w", "U8", "[1]", "0", "9223372036854775808") "}", 1, "header, byte"); /* beyond any file */
}
END_TEST

START_TEST(a_size_that_overflows_is_refused)
{
    static const char *const shapes[] = {
        "[4611686018427387904,4]", "[2,9223372036854775807]", "[9223372036854775807]", "[4294967296,4294967296]", "[2305843009213693952]",
        "[4611686018427387904]", /* times four bytes wraps to none */
        "[9223372036854775807,2,0]", /* nothing, but a product on the way does not fit */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char header[200];
        snprintf(header, sizeof header, "{" T("w", "F32", "%s", "0", "0") "}", shapes[i]);
        refuse(header, 0, "tensor w: its size overflows");
    }
    refuse("{" T("w", "F32", "[2,18446744073709551614]", "0", "4") "}", 4, "header, byte");
    accept("{" T("w", "F32", "[0,9223372036854775807,2]", "0", "0") "}", 0, 1);
}
END_TEST

START_TEST(offsets_must_span_exactly_the_tensor)
{
    refuse("{" T("w", "F32", "[2]", "0", "7") "}", 8, "tensor w: data_offsets span 7 bytes, its shape needs 8");
    refuse("{" T("w", "F32", "[2]", "0", "9") "}", 9, "span 9 bytes, its shape needs 8");
    refuse("{" T("w", "F32", "[2]", "8", "0") "}", 8, "tensor w: data_offsets span -8");
    refuse("{" T("w", "F32", "[0]", "1", "0") "}", 0, "tensor w: data_offsets span -1");
    refuse("{" T("w", "F32", "[]", "0", "0") "}", 0, "its shape needs 4");
    refuse("{" T("w", "F32", "[2]", "0", "8") "}", 7, "ends inside tensor w");
    refuse("{" T("w", "F32", "[2]", "9223372036854775799", "9223372036854775807") "}", 8, "ends inside tensor w");
}
END_TEST

START_TEST(holes_overlaps_aliases_and_trailing_bytes_are_refused)
{
    refuse("{" T("a", "U8", "[2]", "1", "3") "}", 3, "tensor a begins at byte 1 of the data, expected 0");
    refuse("{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[2]", "3", "5") "}", 5, "tensor b begins at byte 3 of the data, expected 2");
    refuse("{" T("b", "U8", "[2]", "1", "3") "," T("a", "U8", "[2]", "0", "2") "}", 3, "tensor b begins at byte 1 of the data, expected 2");
    refuse("{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[2]", "0", "2") "}", 2, "expected 2: a hole or an overlap");
    refuse("{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[0]", "1", "1") "}", 2, "tensor b begins at byte 1 of the data, expected 2");
    refuse("{" T("a", "U8", "[2]", "0", "2") "}", 3, "1 bytes follow the last tensor");
    refuse("{}", 1, "1 bytes follow the last tensor");
}
END_TEST

START_TEST(every_truncation_of_a_good_file_is_refused)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("a", "BF16", "[4]", "0", "8") "," T("b", "F32", "[2,3]", "8", "32") "}";
    accept(header, 32, 2);
    ad_buf b = make(header, sizeof header - 1, sizeof header - 1, 32);
    for (size_t n = 0; n < b.len; n++) {
        ad_buf cut = {0};
        ad_buf_append(&cut, b.data, n);
        refuse_bytes(&cut, AD_EFORMAT, n < 8 ? "too few" : n < 8 + sizeof header - 1 ? "header says" : n < b.len - 24 ? "ends inside tensor a" : "ends inside tensor b");
    }
    ad_buf_deinit(&b);
}
END_TEST

/* A header cut short whose length field says so: the JSON is incomplete at every byte. */
START_TEST(every_truncation_of_a_header_is_refused)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("a", "BF16", "[4]", "0", "8") "}";
    for (size_t n = 0; n < sizeof header - 1; n++) {
        ad_buf b = make(header, n, n, 8);
        refuse_bytes(&b, AD_EFORMAT, "header, byte");
    }
}
END_TEST

START_TEST(deep_nesting_is_refused_and_does_not_exhaust_the_stack)
{
    ad_buf h = {0};
    ad_buf_puts(&h, "{\"a\":");
    for (int i = 0; i < 200000; i++) ad_buf_puts(&h, "[");
    ad_buf b = make(h.data, h.len, h.len, 0);
    refuse_bytes(&b, AD_EFORMAT, "depth");
    ad_buf_deinit(&h);
}
END_TEST

START_TEST(more_than_a_million_tensors_are_refused)
{
    ad_buf h = {0};
    ad_buf_puts(&h, "{");
    for (int i = 0; i <= 1000000; i++) ad_buf_printf(&h, "%s\"%x\":0", i ? "," : "", (unsigned)i);
    ad_buf_puts(&h, "}");
    ad_buf b = make(h.data, h.len, h.len, 0);
    refuse_bytes(&b, AD_ELIMIT, "more than 1000000 tensors");
    ad_buf_deinit(&h);
}
END_TEST

START_TEST(a_very_long_name_is_read_and_cut_in_messages)
{
    ad_buf name = {0}, h = {0};
    ad_err err = {0};
    ad_safetensors *s = NULL;
    for (int i = 0; i < 5000; i++) ad_buf_puts(&name, "n");
    ad_buf_printf(&h, "{" T("%s", "U8", "[1]", "0", "1") "}", name.data);
    accept(h.data, 1, 1);
    ad_buf b = make(h.data, h.len, h.len, 0);
    ck_assert_int_eq(ad_safetensors_parse(&s, b.data, b.len, "probe", &err), AD_EFORMAT);
    ck_assert_msg(strstr(err.msg, "ends inside tensor nnnn") && strlen(err.msg) < 260, "%s", err.msg);
    ad_buf_deinit(&name), ad_buf_deinit(&h), ad_buf_deinit(&b);
}
END_TEST

/* ---- files ---- */

static void write_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f != NULL, "%s", path);
    ck_assert_uint_eq(fwrite(data, 1, len, f), len);
    ck_assert_int_eq(fclose(f), 0);
}

static char dir[64]; /* of one test; removed in the end */

static const char *in_dir(const char *file)
{
    static char path[8][200];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, file);
    return p;
}

static void make_dir(void)
{
    strcpy(dir, "/tmp/ad-safetensors-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void)
{
    static const char *const files[] = {"x.safetensors", "config.json", "model.safetensors", "model.safetensors.index.json", "one.safetensors", "two.safetensors", "pytorch_model.bin"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlink(in_dir(files[i]));
    ck_assert_int_eq(rmdir(dir), 0);
}

START_TEST(a_file_over_the_limit_or_missing_is_refused_by_name)
{
    const char *path = in_dir("x.safetensors");
    ad_buf b = make("{}", 2, 2, 0);
    ad_err err = {0};
    ad_safetensors *s = NULL;
    write_file(path, b.data, b.len);
    for (size_t limit = 0; limit < 10; limit++) {
        ck_assert_int_eq(ad_safetensors_read(&s, path, limit, &err), AD_ELIMIT);
        ck_assert_msg(strstr(err.msg, path) && strstr(err.msg, "over the limit"), "%s", err.msg);
        ck_assert_ptr_null(s);
    }
    ck_assert_int_eq(ad_safetensors_read(&s, path, 10, &err), AD_OK);
    ck_assert_str_eq(ad_safetensors_label(s), path);
    ad_safetensors_close(&s);
    unlink(path);
    ck_assert_int_eq(ad_safetensors_open(&s, path, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_int_eq(ad_safetensors_read(&s, path, 10, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_int_eq(ad_safetensors_open(&s, dir, &err), AD_EIO);
    ck_assert_msg(strstr(err.msg, dir) && strstr(err.msg, "not a regular file"), "%s", err.msg);
    ck_assert_ptr_null(s);
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(an_empty_file_is_refused_by_name)
{
    const char *path = in_dir("x.safetensors");
    ad_err err = {0};
    ad_safetensors *s = NULL;
    write_file(path, "", 0);
    ck_assert_int_eq(ad_safetensors_open(&s, path, &err), AD_EFORMAT);
    ck_assert_msg(strstr(err.msg, path) && strstr(err.msg, "too few"), "%s", err.msg);
    ck_assert_int_eq(ad_safetensors_read(&s, path, 100, &err), AD_EFORMAT);
    ck_assert_msg(strstr(err.msg, path) && strstr(err.msg, "too few"), "%s", err.msg);
}
END_TEST

/* What was read stays when the file is cut behind us; a mapping would end in SIGBUS. */
START_TEST(a_read_file_may_be_truncated_behind_us)
{
    const char *path = in_dir("x.safetensors");
    ad_buf b = make("{" T("w", "U8", "[4]", "0", "4") "}", strlen("{" T("w", "U8", "[4]", "0", "4") "}"), strlen("{" T("w", "U8", "[4]", "0", "4") "}"), 4);
    ad_err err = {0};
    ad_safetensors *s = NULL;
    write_file(path, b.data, b.len);
    ck_assert_int_eq(ad_safetensors_read(&s, path, 1000, &err), AD_OK);
    ck_assert_int_eq(truncate(path, 0), 0);
    ck_assert_int_eq(memcmp(ad_safetensors_find(s, "w")->data, "\x3f\x3f\x3f\x3f", 4), 0);
    ad_safetensors_close(&s);
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(golden_files_open_mapped_and_read_alike)
{
    const char *path = golden_path("models/llama-gqa/model.safetensors");
    ad_err err = {0};
    ad_safetensors *mapped = NULL, *owned = NULL;
    ck_assert_msg(ad_safetensors_open(&mapped, path, &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_safetensors_read(&owned, path, (size_t)1 << 30, &err) == AD_OK, "%s", err.msg);
    ck_assert_uint_gt(ad_safetensors_count(mapped), 0);
    ck_assert_uint_eq(ad_safetensors_count(mapped), ad_safetensors_count(owned));
    for (size_t i = 0; i < ad_safetensors_count(mapped); i++) {
        const ad_tensor *a = ad_safetensors_at(mapped, i), *b = ad_safetensors_find(owned, a->name);
        ck_assert_msg(b && a->bytes == b->bytes && a->dtype == b->dtype && !memcmp(a->data, b->data, a->bytes), "%s", a->name);
        ck_assert_uint_eq(a->bytes, (size_t)ad_tensor_count(a) * ad_dtype_block_bytes(a->dtype));
    }
    ad_safetensors_close(&mapped), ad_safetensors_close(&owned);
}
END_TEST

/* ---- several shards ---- */

#define MAP(pairs) "{\"metadata\":{\"total_size\":5.0},\"weight_map\":{" pairs "}}"
#define GOOD_MAP "\"a\":\"one.safetensors\",\"b\":\"two.safetensors\""

static void write_shard(const char *file, const char *header, size_t n_data)
{
    ad_buf b = make(header, strlen(header), strlen(header), n_data);
    write_file(in_dir(file), b.data, b.len);
    ad_buf_deinit(&b);
}

/* Tensors a and extra in the first shard, b in the second. */
static void write_shards(const char *index)
{
    write_file(in_dir("config.json"), "{}", 2);
    write_shard("one.safetensors", "{" T("a", "U8", "[2]", "0", "2") "," T("extra", "U8", "[1]", "2", "3") "}", 3);
    write_shard("two.safetensors", "{" T("b", "U8", "[2]", "0", "2") "}", 2);
    write_file(in_dir("model.safetensors.index.json"), index, strlen(index));
}

static void refuse_dir(ad_status want, const char *why)
{
    ad_err err = {0};
    ad_source *s = NULL;
    ad_status st = ad_source_open(&s, dir, &err);
    ck_assert_msg(st == want, "status %d for \"%s\", not %d: %s", (int)st, why, (int)want, err.msg);
    ck_assert_msg(strstr(err.msg, why) && strstr(err.msg, dir), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_ptr_null(s);
}

static void refuse_index(const char *index, ad_status want, const char *why)
{
    write_shards(index);
    refuse_dir(want, why);
}

START_TEST(mapped_tensors_are_found_in_their_shards_and_unmapped_ones_are_not)
{
    ad_err err = {0};
    ad_source *s = NULL;
    write_shards(MAP(GOOD_MAP));
    ck_assert_msg(ad_source_open(&s, dir, &err) == AD_OK, "%s", err.msg);
    ck_assert_ptr_nonnull(ad_source_tensor(s, "a"));
    ck_assert_str_eq(ad_source_tensor(s, "b")->name, "b");
    ck_assert_ptr_null(ad_source_tensor(s, "extra"));
    ck_assert_ptr_null(ad_source_tensor(s, "none"));
    ck_assert_ptr_nonnull(ad_source_config(s));
    ck_assert_ptr_null(ad_source_gguf(s));
    ad_source_close(&s);
    ck_assert_ptr_null(s);
    refuse_index("{\"weight_map\":{}}", AD_EFORMAT, "weight_map must be a non-empty object");
}
END_TEST

START_TEST(a_shard_must_be_a_plain_name_in_the_same_directory)
{
    static const char *const names[] = {"\"../one.safetensors\"", "\"/etc/passwd\"", "\"sub/one.safetensors\"", "\"sub\\\\one.safetensors\"", "\"..\"", "\".\"", "\".hidden\"", "\"\"", "1", "null", "[\"one.safetensors\"]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char index[200];
        snprintf(index, sizeof index, MAP("\"w\":%s"), names[i]);
        refuse_index(index, AD_EFORMAT, "weight_map[\"w\"] must name a file beside it");
    }
}
END_TEST

START_TEST(a_map_that_disagrees_with_its_shards_is_refused)
{
    refuse_index(MAP("\"a\":\"three.safetensors\""), AD_ENOTFOUND, "three.safetensors");
    refuse_index(MAP("\"a\":\"two.safetensors\""), AD_EFORMAT, "two.safetensors does not hold tensor a");
    refuse_index(MAP(GOOD_MAP ",\"c\":\"two.safetensors\""), AD_EFORMAT, "two.safetensors does not hold tensor c");
    write_shards(MAP(GOOD_MAP));
    write_shard("two.safetensors", "{" T("a", "U8", "[2]", "0", "2") "," T("b", "U8", "[1]", "2", "3") "}", 3);
    refuse_dir(AD_EFORMAT, "tensor a is in 2 shards");
    write_shards(MAP(GOOD_MAP));
    write_shard("two.safetensors", "{" T("b", "U8", "[2]", "0", "2") "}", 1);
    refuse_dir(AD_EFORMAT, "two.safetensors: the file ends inside tensor b");
}
END_TEST

START_TEST(an_index_that_is_not_a_map_is_refused)
{
    static const char *const maps[] = {"{}", "{\"weight_map\":[]}", "{\"weight_map\":1}", "{\"weight_map\":null}"};
    static const char *const broken[] = {"", "{", "{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", "{} x", "{\"\xff\":1}"};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) refuse_index(maps[i], AD_EFORMAT, "weight_map must be a non-empty object");
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) refuse_index(broken[i], AD_EFORMAT, "index.json: line");
    refuse_index("[]", AD_EFORMAT, "index.json: must hold a JSON object");
}
END_TEST

START_TEST(a_directory_without_usable_weights_says_why)
{
    refuse_dir(AD_ENOTFOUND, "no config.json");
    write_file(in_dir("config.json"), "[]", 2);
    refuse_dir(AD_EFORMAT, "config.json: must hold a JSON object");
    write_file(in_dir("config.json"), "{}", 2);
    refuse_dir(AD_ENOTFOUND, "neither model.safetensors nor");
    write_file(in_dir("pytorch_model.bin"), "x", 1);
    refuse_dir(AD_EUNSUPPORTED, "Python pickle");
    write_shards("broken, but not looked at");
    write_shard("model.safetensors", "{" T("only", "U8", "[1]", "0", "1") "}", 1);
    ad_err err = {0};
    ad_source *s = NULL;
    ck_assert_msg(ad_source_open(&s, dir, &err) == AD_OK, "%s", err.msg); /* one file comes before shards */
    ck_assert_uint_eq(ad_source_count(s), 1);
    ck_assert_ptr_nonnull(ad_source_tensor(s, "only"));
    ad_source_close(&s);
}
END_TEST

START_TEST(a_golden_model_in_shards_opens)
{
    ad_err err = {0};
    ad_source *s = NULL;
    ck_assert_msg(ad_source_open(&s, golden_path("models/llama-f16-shard"), &err) == AD_OK, "%s", err.msg);
    ck_assert_uint_gt(ad_source_count(s), 5);
    for (size_t i = 0; i < ad_source_count(s); i++) {
        const ad_tensor *t = ad_source_at(s, i);
        ck_assert_msg(ad_source_tensor(s, t->name) == t, "%s", t->name);
    }
    ck_assert_ptr_null(ad_source_at(s, ad_source_count(s)));
    ad_source_close(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("safetensors");
    TCase *t = tcase_create("bytes"), *files = tcase_create("files");
    tcase_add_test(t, tensors_are_found_with_their_shape_in_file_order);
    tcase_add_test(t, the_same_header_may_be_written_in_many_ways);
    tcase_add_test(t, empty_files_and_empty_tensors_are_read);
    tcase_add_test(t, tensors_are_found_whatever_the_order_of_their_names);
    tcase_add_test(t, whitespace_may_surround_the_header);
    tcase_add_test(t, every_supported_type_has_its_size);
    tcase_add_test(t, types_that_are_not_served_are_named);
    tcase_add_test(t, a_file_shorter_than_its_length_field_is_refused);
    tcase_add_test(t, a_header_longer_than_the_file_is_refused);
    tcase_add_test(t, a_header_over_the_limit_is_refused_unread);
    tcase_add_test(t, a_header_that_is_not_one_json_object_is_refused);
    tcase_add_test(t, a_name_that_appears_twice_is_refused);
    tcase_add_test(t, metadata_must_map_strings_to_strings);
    tcase_add_test(t, an_entry_must_have_exactly_its_three_keys);
    tcase_add_test(t, a_shape_must_hold_natural_numbers_and_not_too_many);
    tcase_add_test(t, offsets_must_be_two_natural_numbers);
    tcase_add_test(t, a_size_that_overflows_is_refused);
    tcase_add_test(t, offsets_must_span_exactly_the_tensor);
    tcase_add_test(t, holes_overlaps_aliases_and_trailing_bytes_are_refused);
    tcase_add_test(t, every_truncation_of_a_good_file_is_refused);
    tcase_add_test(t, every_truncation_of_a_header_is_refused);
    tcase_add_test(t, deep_nesting_is_refused_and_does_not_exhaust_the_stack);
    tcase_add_test(t, more_than_a_million_tensors_are_refused);
    tcase_add_test(t, a_very_long_name_is_read_and_cut_in_messages);
    tcase_add_checked_fixture(files, make_dir, remove_dir);
    tcase_add_test(files, a_file_over_the_limit_or_missing_is_refused_by_name);
    tcase_add_test(files, an_empty_file_is_refused_by_name);
    tcase_add_test(files, a_read_file_may_be_truncated_behind_us);
    tcase_add_test(files, golden_files_open_mapped_and_read_alike);
    tcase_add_test(files, mapped_tensors_are_found_in_their_shards_and_unmapped_ones_are_not);
    tcase_add_test(files, a_shard_must_be_a_plain_name_in_the_same_directory);
    tcase_add_test(files, a_map_that_disagrees_with_its_shards_is_refused);
    tcase_add_test(files, an_index_that_is_not_a_map_is_refused);
    tcase_add_test(files, a_directory_without_usable_weights_says_why);
    tcase_add_test(files, a_golden_model_in_shards_opens);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, files);
    return tu_run(suite);
}
