/* SPDX-License-Identifier: MIT */
/* GGUF files that must be read, and one hostile file per rule that must be refused with its reason. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/formats/gguf.h"

/* ---- a writer ---- */

static void u8(ad_buf *b, unsigned v) { ad_buf_append(b, &(uint8_t){(uint8_t)v}, 1); }
static void u32(ad_buf *b, uint32_t v) { ad_buf_append(b, &v, 4); }
static void u64(ad_buf *b, uint64_t v) { ad_buf_append(b, &v, 8); }

static void str(ad_buf *b, const char *s)
{
    u64(b, strlen(s));
    ad_buf_puts(b, s);
}

static void head(ad_buf *b, uint32_t version, uint64_t tensors, uint64_t pairs)
{
    ad_buf_puts(b, "GGUF");
    u32(b, version);
    u64(b, tensors);
    u64(b, pairs);
}

static void pair_u32(ad_buf *b, const char *key, uint32_t v)
{
    str(b, key);
    u32(b, AD_GGUF_U32);
    u32(b, v);
}

static void tensor(ad_buf *b, const char *name, uint32_t n_dims, uint64_t d0, uint64_t d1, uint32_t type, uint64_t offset)
{
    str(b, name);
    u32(b, n_dims);
    if (n_dims > 0) u64(b, d0);
    for (uint32_t i = 1; i < n_dims; i++) u64(b, d1);
    u32(b, type);
    u64(b, offset);
}

static void pad(ad_buf *b, size_t to)
{
    while (b->len % to) u8(b, 0);
}

static void data(ad_buf *b, size_t n)
{
    pad(b, 32);
    for (size_t i = 0; i < n; i++) u8(b, (unsigned)i);
}

/* Parsed from a heap block of exactly its size, so that ASan sees a byte too far. Frees b. */
static void refuse(ad_buf *b, ad_status want, const char *why)
{
    ad_err err = {0};
    ad_gguf *g = NULL;
    char *exact = malloc(b->len ? b->len : 1);
    memcpy(exact, b->data, b->len);
    ad_status st = ad_gguf_parse(&g, exact, b->len, "probe", &err);
    ck_assert_msg(st == want, "status %d for \"%s\": %s", (int)st, why, err.msg);
    ck_assert_msg(strstr(err.msg, why) && strstr(err.msg, "probe"), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_ptr_null(g);
    free(exact);
    ad_buf_deinit(b);
}

/* One of each kind of value, two tensors. */
static ad_buf good(void)
{
    ad_buf b = {0};
    head(&b, 3, 2, 9);
    pair_u32(&b, "general.alignment", 64);
    str(&b, "a.i8"), u32(&b, AD_GGUF_I8), u8(&b, 0xFE);
    str(&b, "a.u64"), u32(&b, AD_GGUF_U64), u64(&b, 7);
    str(&b, "a.big"), u32(&b, AD_GGUF_U64), u64(&b, UINT64_MAX);
    str(&b, "a.f32"), u32(&b, AD_GGUF_F32), ad_buf_append(&b, &(float){1.5f}, 4);
    str(&b, "a.bool"), u32(&b, AD_GGUF_BOOL), u8(&b, 1);
    str(&b, "a.str"), u32(&b, AD_GGUF_STRING), str(&b, "text");
    str(&b, "a.strs"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_STRING), u64(&b, 2), str(&b, "x"), str(&b, "");
    str(&b, "a.ints"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_I32), u64(&b, 3), u32(&b, 1), u32(&b, (uint32_t)-2), u32(&b, 3);
    tensor(&b, "t.one", 2, 4, 3, 0, 0);
    tensor(&b, "t.two", 1, 32, 0, 8, 64);
    pad(&b, 64);
    for (int i = 0; i < 64 + 34; i++) u8(&b, (unsigned)i);
    return b;
}

START_TEST(values_and_tensors_are_read)
{
    ad_buf b = good();
    ad_err err;
    ad_gguf *g = NULL;
    ck_assert_msg(ad_gguf_parse(&g, b.data, b.len, "probe", &err) == AD_OK, "%s", err.msg);
    int64_t i;
    double f;
    bool yes;
    ad_str s, strs[2];
    int64_t ints[3];
    ad_gguf_type type;
    size_t n;
    ck_assert(ad_gguf_int(g, "a.i8", &i) && i == -2);
    ck_assert(ad_gguf_int(g, "a.u64", &i) && i == 7);
    ck_assert(!ad_gguf_int(g, "a.big", &i) && !ad_gguf_int(g, "a.str", &i) && !ad_gguf_int(g, "none", &i));
    ck_assert(ad_gguf_float(g, "a.f32", &f) && f == 1.5);
    ck_assert(ad_gguf_float(g, "a.u64", &f) && f == 7);
    ck_assert(ad_gguf_bool(g, "a.bool", &yes) && yes);
    ck_assert(ad_gguf_str(g, "a.str", &s) && ad_str_eq(s, "text"));
    ck_assert(ad_gguf_array(g, "a.strs", &type, &n) && type == AD_GGUF_STRING && n == 2);
    ck_assert(ad_gguf_array_strings(g, "a.strs", strs, 2) && ad_str_eq(strs[0], "x") && strs[1].len == 0);
    ck_assert(ad_gguf_array_ints(g, "a.ints", ints, 3) && ints[1] == -2);
    ck_assert(!ad_gguf_array(g, "a.str", &type, &n) && !ad_gguf_array_ints(g, "a.strs", ints, 2));
    const ad_tensor *t = ad_gguf_tensor(g, "t.one");
    ck_assert(t && t->n_dims == 2 && t->dims[0] == 3 && t->dims[1] == 4 && t->dtype == AD_F32 && t->bytes == 48);
    t = ad_gguf_tensor(g, "t.two");
    ck_assert(t && t->dtype == AD_Q8_0 && t->bytes == 34);
    ck_assert_ptr_eq((const char *)t->data, b.data + b.len - 34);
    ck_assert_ptr_null(ad_gguf_tensor(g, "t.three"));
    ad_gguf_close(&g);
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(every_truncation_of_a_good_file_is_refused)
{
    ad_buf b = good();
    for (size_t n = 0; n < b.len; n++) {
        ad_buf cut = {0};
        ad_buf_append(&cut, b.data, n);
        if (!n) ad_buf_puts(&cut, "");
        refuse(&cut, AD_EFORMAT, n ? "" : "empty");
    }
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(other_magics_versions_and_byte_orders_are_refused)
{
    ad_buf b = {0};
    ad_buf_puts(&b, "GGML");
    for (int i = 0; i < 5; i++) u32(&b, 0);
    refuse(&b, AD_EFORMAT, "magic");
    static const uint32_t versions[] = {0, 1, 4, 99};
    for (size_t i = 0; i < 4; i++) head(&b, versions[i], 0, 0), refuse(&b, AD_EUNSUPPORTED, "version");
    head(&b, 0x03000000, 0, 0), refuse(&b, AD_EUNSUPPORTED, "big-endian");
}
END_TEST

START_TEST(counts_that_do_not_fit_are_refused_before_memory_is_asked_for)
{
    static const uint64_t counts[] = {1, 1000000, UINT64_MAX, (uint64_t)1 << 62};
    ad_buf b = {0};
    for (size_t i = 0; i < 4; i++) {
        head(&b, 3, counts[i], 0), refuse(&b, AD_EFORMAT, i ? "more than fit" : "");
        head(&b, 3, 0, counts[i]), refuse(&b, AD_EFORMAT, i ? "more than fit" : "");
    }
}
END_TEST

START_TEST(strings_and_arrays_longer_than_the_file_are_refused)
{
    static const uint64_t lengths[] = {100, UINT64_MAX, UINT64_MAX - 20, (uint64_t)1 << 63};
    ad_buf b = {0};
    for (size_t i = 0; i < 4; i++) {
        head(&b, 3, 0, 1), u64(&b, lengths[i]), refuse(&b, AD_EFORMAT, "");
        head(&b, 3, 0, 1), str(&b, "k"), u32(&b, AD_GGUF_STRING), u64(&b, lengths[i]), refuse(&b, AD_EFORMAT, "");
        head(&b, 3, 0, 1), str(&b, "k"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_U32), u64(&b, lengths[i]), refuse(&b, AD_EFORMAT, "do not fit");
        head(&b, 3, 0, 1), str(&b, "k"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_STRING), u64(&b, lengths[i]), refuse(&b, AD_EFORMAT, "do not fit");
    }
}
END_TEST

START_TEST(odd_keys_are_refused)
{
    ad_buf b = {0};
    head(&b, 3, 0, 1), pair_u32(&b, "", 1), refuse(&b, AD_EFORMAT, "empty");
    head(&b, 3, 0, 2), pair_u32(&b, "same", 1), pair_u32(&b, "same", 2), refuse(&b, AD_EFORMAT, "twice");
    head(&b, 3, 0, 1), u64(&b, 3), ad_buf_append(&b, "a\0b", 3), u32(&b, AD_GGUF_U32), u32(&b, 1), refuse(&b, AD_EFORMAT, "NUL");
    head(&b, 3, 0, 1), u64(&b, 70000);
    for (int i = 0; i < 70000; i++) u8(&b, 'k');
    u32(&b, AD_GGUF_U32), u32(&b, 1), refuse(&b, AD_EFORMAT, "too long");
}
END_TEST

START_TEST(odd_values_are_refused)
{
    ad_buf b = {0};
    head(&b, 3, 0, 1), str(&b, "k"), u32(&b, 13), u64(&b, 0), refuse(&b, AD_EFORMAT, "type 13");
    head(&b, 3, 0, 1), str(&b, "k"), u32(&b, AD_GGUF_BOOL), u8(&b, 2), refuse(&b, AD_EFORMAT, "bool");
    head(&b, 3, 0, 1), str(&b, "k"), u32(&b, AD_GGUF_ARRAY), u32(&b, 13), u64(&b, 0), refuse(&b, AD_EFORMAT, "type 13");
    head(&b, 3, 0, 1), str(&b, "k"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_ARRAY), u64(&b, 0), refuse(&b, AD_EUNSUPPORTED, "array of arrays");
}
END_TEST

START_TEST(alignment_must_be_a_power_of_two)
{
    static const uint32_t bad[] = {0, 1, 4, 33, 48};
    ad_buf b = {0};
    for (size_t i = 0; i < 5; i++) head(&b, 3, 0, 1), pair_u32(&b, "general.alignment", bad[i]), refuse(&b, AD_EFORMAT, "general.alignment");
    head(&b, 3, 0, 1), str(&b, "general.alignment"), u32(&b, AD_GGUF_STRING), str(&b, "32"), refuse(&b, AD_EFORMAT, "general.alignment");
}
END_TEST

START_TEST(odd_tensors_are_refused)
{
    ad_buf b = {0};
    head(&b, 3, 1, 0), tensor(&b, "", 1, 4, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "name");
    char name[66] = {0};
    memset(name, 'n', 64);
    head(&b, 3, 1, 0), tensor(&b, name, 1, 4, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "name");
    head(&b, 3, 2, 0), tensor(&b, "t", 1, 8, 0, 0, 0), tensor(&b, "t", 1, 8, 0, 0, 32), data(&b, 64), refuse(&b, AD_EFORMAT, "twice");
    head(&b, 3, 1, 0), tensor(&b, "t", 5, 1, 1, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "dimensions");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, UINT64_MAX, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "overflows");
    head(&b, 3, 1, 0), tensor(&b, "t", 2, (uint64_t)1 << 40, (uint64_t)1 << 40, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "overflows");
    head(&b, 3, 1, 0), tensor(&b, "t", 4, (uint64_t)1 << 31, (uint64_t)1 << 31, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "overflows");
    static const uint32_t types[] = {4, 5, 31, 36, 38, 43, 1000000};
    for (size_t i = 0; i < 7; i++) head(&b, 3, 1, 0), tensor(&b, "t", 1, 256, 0, types[i], 0), data(&b, 512), refuse(&b, AD_EUNSUPPORTED, "type");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, 33, 0, 8, 0), data(&b, 64), refuse(&b, AD_EFORMAT, "blocks");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, 32, 0, 12, 0), data(&b, 160), refuse(&b, AD_EFORMAT, "blocks");
}
END_TEST

START_TEST(tensors_must_lie_one_behind_the_other_inside_the_file)
{
    ad_buf b = {0};
    head(&b, 3, 1, 0), tensor(&b, "t", 1, 8, 0, 0, 32), data(&b, 64), refuse(&b, AD_EFORMAT, "expected 0");
    head(&b, 3, 2, 0), tensor(&b, "t", 1, 8, 0, 0, 0), tensor(&b, "u", 1, 8, 0, 0, 0), data(&b, 64), refuse(&b, AD_EFORMAT, "expected 32");
    head(&b, 3, 2, 0), tensor(&b, "t", 1, 8, 0, 0, 0), tensor(&b, "u", 1, 8, 0, 0, 64), data(&b, 128), refuse(&b, AD_EFORMAT, "expected 32");
    head(&b, 3, 2, 0), tensor(&b, "t", 1, 8, 0, 0, 0), tensor(&b, "u", 1, 8, 0, 0, UINT64_MAX - 31), data(&b, 64), refuse(&b, AD_EFORMAT, "begins at");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, 8, 0, 0, 0), data(&b, 31), refuse(&b, AD_EFORMAT, "ends inside tensor");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, (uint64_t)1 << 60, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "");
}
END_TEST

START_TEST(parts_of_split_models_are_refused)
{
    ad_buf b = {0};
    head(&b, 3, 0, 1), str(&b, "split.count"), u32(&b, AD_GGUF_U16), u8(&b, 3), u8(&b, 0);
    pad(&b, 32);
    refuse(&b, AD_EUNSUPPORTED, "split");
}
END_TEST

START_TEST(a_file_that_is_missing_or_no_file_is_named)
{
    ad_err err;
    ad_gguf *g = NULL;
    ck_assert_int_eq(ad_gguf_open(&g, "/nowhere/x.gguf", &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, "/nowhere/x.gguf"));
    ck_assert_int_eq(ad_gguf_open(&g, "/tmp", &err), AD_EIO);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gguf");
    TCase *t = tcase_create("gguf");
    tcase_add_test(t, values_and_tensors_are_read);
    tcase_add_test(t, every_truncation_of_a_good_file_is_refused);
    tcase_add_test(t, other_magics_versions_and_byte_orders_are_refused);
    tcase_add_test(t, counts_that_do_not_fit_are_refused_before_memory_is_asked_for);
    tcase_add_test(t, strings_and_arrays_longer_than_the_file_are_refused);
    tcase_add_test(t, odd_keys_are_refused);
    tcase_add_test(t, odd_values_are_refused);
    tcase_add_test(t, alignment_must_be_a_power_of_two);
    tcase_add_test(t, odd_tensors_are_refused);
    tcase_add_test(t, tensors_must_lie_one_behind_the_other_inside_the_file);
    tcase_add_test(t, parts_of_split_models_are_refused);
    tcase_add_test(t, a_file_that_is_missing_or_no_file_is_named);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
