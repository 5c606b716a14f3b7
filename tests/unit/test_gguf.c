/* SPDX-License-Identifier: MIT */
/* GGUF files that must be read, and one hostile file per rule that must be refused with its reason. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/formats/gguf.h"
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

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
    if (b->len) memcpy(exact, b->data, b->len);
    ad_status st = ad_gguf_parse(&g, exact, b->len, "probe", &err);
    ck_assert_msg(st == want, "status %d for \"%s\": %s", (int)st, why, err.msg);
    ck_assert_msg(strstr(err.msg, why) && strstr(err.msg, "probe"), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_int_eq(err.code, want);
    ck_assert_ptr_null(g);
    free(exact);
    ad_buf_deinit(b);
}

/* The bytes stay with b, which the caller releases after the close. */
static ad_gguf *accept(const ad_buf *b)
{
    ad_err err = {0};
    ad_gguf *g = NULL;
    ck_assert_msg(ad_gguf_parse(&g, b->data, b->len, "probe", &err) == AD_OK, "%s", err.msg);
    return g;
}

static void release(ad_gguf *g, ad_buf *b)
{
    ad_gguf_close(&g);
    ck_assert_ptr_null(g);
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

/* Each at a value that a wrong width or sign would change. */
START_TEST(integers_of_every_width_read_alike)
{
    static const struct { ad_gguf_type type; size_t bytes; int64_t v; } kinds[] = {
        {AD_GGUF_U8, 1, 0xF0}, {AD_GGUF_I8, 1, -2}, {AD_GGUF_U16, 2, 0xF0F0}, {AD_GGUF_I16, 2, -2}, {AD_GGUF_U32, 4, 0xF0F0F0F0}, {AD_GGUF_I32, 4, -2},
        {AD_GGUF_U64, 8, INT64_MAX}, {AD_GGUF_I64, 8, -2}, {AD_GGUF_I64, 8, INT64_MIN},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        ad_buf b = {0};
        int64_t v = 0, two[2] = {0};
        double f = 0;
        bool yes;
        head(&b, 3, 0, 2);
        str(&b, "one"), u32(&b, kinds[i].type), ad_buf_append(&b, &kinds[i].v, kinds[i].bytes);
        str(&b, "many"), u32(&b, AD_GGUF_ARRAY), u32(&b, kinds[i].type), u64(&b, 2), ad_buf_append(&b, &(int64_t){5}, kinds[i].bytes), ad_buf_append(&b, &kinds[i].v, kinds[i].bytes);
        ad_gguf *g = accept(&b);
        ck_assert(ad_gguf_int(g, "one", &v) && v == kinds[i].v);
        ck_assert(ad_gguf_float(g, "one", &f) && f == (double)kinds[i].v);
        ck_assert(ad_gguf_array_ints(g, "many", two, 2) && two[0] == 5 && two[1] == kinds[i].v);
        ck_assert(!ad_gguf_bool(g, "one", &yes) && !ad_gguf_int(g, "many", &v));
        release(g, &b);
    }
}
END_TEST

START_TEST(floats_of_both_widths_read_alike)
{
    ad_buf b = {0};
    double v = 0;
    float f[3] = {0};
    int64_t i[2];
    head(&b, 3, 0, 4);
    str(&b, "f32"), u32(&b, AD_GGUF_F32), ad_buf_append(&b, &(float){-0.25f}, 4);
    str(&b, "f64"), u32(&b, AD_GGUF_F64), ad_buf_append(&b, &(double){1e300}, 8);
    str(&b, "f32s"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_F32), u64(&b, 2), ad_buf_append(&b, (float[2]){1, 2.5f}, 8);
    str(&b, "f64s"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_F64), u64(&b, 2), ad_buf_append(&b, (double[2]){3, 4.5}, 16);
    ad_gguf *g = accept(&b);
    ck_assert(ad_gguf_float(g, "f32", &v) && v == -0.25);
    ck_assert(ad_gguf_float(g, "f64", &v) && v == 1e300);
    ck_assert(ad_gguf_array_floats(g, "f32s", f, 2) && f[0] == 1 && f[1] == 2.5f);
    ck_assert(ad_gguf_array_floats(g, "f64s", f, 2) && f[0] == 3 && f[1] == 4.5f);
    ck_assert(!ad_gguf_array_ints(g, "f32s", i, 2) && !ad_gguf_array_floats(g, "f32s", f, 3) && !ad_gguf_array_floats(g, "f32", f, 1));
    ck_assert(!ad_gguf_int(g, "f32", i) && !ad_gguf_int(g, "f64", i));
    release(g, &b);
}
END_TEST

START_TEST(a_reader_asks_for_no_more_than_an_array_holds)
{
    ad_buf b = good();
    ad_gguf *g = accept(&b);
    ad_str strs[3];
    int64_t ints[4] = {9, 9, 9, 9};
    float floats[4];
    ck_assert(!ad_gguf_array_strings(g, "a.strs", strs, 3) && !ad_gguf_array_ints(g, "a.ints", ints, 4) && !ad_gguf_array_floats(g, "a.ints", floats, 4));
    ck_assert(ad_gguf_array_ints(g, "a.ints", ints, 2) && ints[0] == 1 && ints[1] == -2 && ints[2] == 9);
    ck_assert(ad_gguf_array_floats(g, "a.ints", floats, 3) && floats[1] == -2);
    ck_assert(!ad_gguf_array_strings(g, "a.ints", strs, 1) && !ad_gguf_array_strings(g, "a.str", strs, 1) && !ad_gguf_array_strings(g, "none", strs, 0));
    ck_assert(ad_gguf_has(g, "a.str") && !ad_gguf_has(g, "a.st") && !ad_gguf_has(g, "a.strx") && !ad_gguf_has(g, ""));
    release(g, &b);
}
END_TEST

START_TEST(version_2_has_the_same_layout)
{
    ad_buf b = good();
    b.data[4] = 2;
    ad_gguf *g = accept(&b);
    ck_assert_uint_eq(ad_gguf_tensor_count(g), 2);
    ck_assert_str_eq(ad_gguf_tensor_at(g, 0)->name, "t.one");
    ck_assert_str_eq(ad_gguf_tensor_at(g, 1)->name, "t.two");
    ck_assert_str_eq(ad_gguf_label(g), "probe");
    release(g, &b);
}
END_TEST

START_TEST(the_longest_names_and_unusual_shapes_are_read)
{
    ad_buf b = {0};
    char name[64] = {0};
    memset(name, 'n', 63);
    head(&b, 3, 4, 1), u64(&b, 65535);
    for (int i = 0; i < 65535; i++) u8(&b, 'k');
    u32(&b, AD_GGUF_U32), u32(&b, 1);
    tensor(&b, name, 4, 2, 1, 0, 0), tensor(&b, "scalar", 0, 0, 0, 0, 32), tensor(&b, "empty", 2, 0, 7, 0, 64), tensor(&b, "byte", 1, 1, 0, 24, 64);
    data(&b, 65);
    ad_gguf *g = accept(&b);
    const ad_tensor *t = ad_gguf_tensor(g, name);
    ck_assert(t && t->n_dims == 4 && t->dims[3] == 2 && t->dims[0] == 1 && t->bytes == 8);
    t = ad_gguf_tensor(g, "scalar");
    ck_assert(t && t->n_dims == 0 && t->bytes == 4);
    t = ad_gguf_tensor(g, "empty");
    ck_assert(t && t->bytes == 0 && ad_tensor_count(t) == 0);
    t = ad_gguf_tensor(g, "byte");
    ck_assert(t && t->bytes == 1 && *(const uint8_t *)t->data == 64);
    release(g, &b);
}
END_TEST

/* By the format's list of types: id, what we call it, bytes of 256 values. Every other id is refused. */
START_TEST(every_type_id_is_read_at_its_size_or_refused)
{
    static const struct { uint32_t id; ad_dtype t; size_t bytes; } known[] = {
        {0, AD_F32, 1024}, {1, AD_F16, 512}, {2, AD_Q4_0, 8 * 18}, {3, AD_Q4_1, 8 * 20}, {6, AD_Q5_0, 8 * 22}, {7, AD_Q5_1, 8 * 24}, {8, AD_Q8_0, 8 * 34},
        {12, AD_Q4_K, 144}, {13, AD_Q5_K, 176}, {14, AD_Q6_K, 210}, {24, AD_I8, 256}, {25, AD_I16, 512}, {26, AD_I32, 1024}, {27, AD_I64, 2048},
        {28, AD_F64, 2048}, {30, AD_BF16, 512},
    };
    for (uint32_t id = 0, k = 0; id < 70; id++) {
        ad_buf b = {0};
        char why[60];
        head(&b, 3, 1, 0), tensor(&b, "the.tensor", 1, 256, 0, id, 0), data(&b, 2048);
        if (k >= sizeof known / sizeof *known || known[k].id != id) {
            snprintf(why, sizeof why, "tensor the.tensor has ggml type %u,", id);
            refuse(&b, AD_EUNSUPPORTED, why);
            continue;
        }
        ad_gguf *g = accept(&b);
        ck_assert_int_eq(ad_gguf_tensor_at(g, 0)->dtype, known[k].t);
        ck_assert_uint_eq(ad_gguf_tensor_at(g, 0)->bytes, known[k].bytes);
        release(g, &b);
        k++;
    }
}
END_TEST

/* Wherever the cut falls, the reason is that bytes are missing. */
START_TEST(every_truncation_of_a_good_file_is_refused)
{
    static const char *const reasons[] = {"the file ends inside", "the file has", "bytes left", "are more than fit", "the file ends before its tensor data", "the file is empty"};
    ad_buf b = good();
    for (size_t n = 0; n < b.len; n++) {
        ad_err err = {0};
        ad_gguf *g = NULL;
        char *exact = malloc(n ? n : 1);
        if (n) memcpy(exact, b.data, n);
        ck_assert_msg(ad_gguf_parse(&g, exact, n, "probe", &err) == AD_EFORMAT, "%zu bytes: %s", n, err.msg);
        size_t k = 0;
        while (k < 6 && !strstr(err.msg, reasons[k])) k++;
        ck_assert_msg(k < 6 && strstr(err.msg, "probe"), "%zu bytes: %s", n, err.msg);
        ck_assert_ptr_null(g);
        free(exact);
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
        head(&b, 3, counts[i], 0), refuse(&b, AD_EFORMAT, "tensors are more than fit");
        head(&b, 3, 0, counts[i]), refuse(&b, AD_EFORMAT, "metadata pairs are more than fit");
    }
}
END_TEST

/* The bytes are there, so only the limits can refuse them. The blocks are zero pages that nobody reads. */
START_TEST(a_hundred_thousand_pairs_and_a_million_tensors_are_the_most)
{
    static const struct { uint64_t tensors, pairs; const char *why; } over[] = {{1000001, 0, "1000001 tensors are more than fit"}, {0, 100001, "100001 metadata pairs are more than fit"}};
    for (int i = 0; i < 2; i++) {
        size_t len = 40u << 20;
        ad_err err = {0};
        ad_gguf *g = NULL;
        ad_buf b = {0};
        char *p = calloc(1, len);
        head(&b, 3, over[i].tensors, over[i].pairs);
        memcpy(p, b.data, b.len);
        ck_assert_int_eq(ad_gguf_parse(&g, p, len, "probe", &err), AD_EFORMAT);
        ck_assert_msg(strstr(err.msg, over[i].why) && strstr(err.msg, "probe"), "%s", err.msg);
        free(p);
        ad_buf_deinit(&b);
    }
}
END_TEST

START_TEST(strings_and_arrays_longer_than_the_file_are_refused)
{
    static const uint64_t lengths[] = {100, UINT64_MAX, UINT64_MAX - 20, (uint64_t)1 << 63, (uint64_t)1 << 61};
    ad_buf b = {0};
    for (size_t i = 0; i < 5; i++) {
        head(&b, 3, 0, 1), u64(&b, lengths[i]), u64(&b, 0), refuse(&b, AD_EFORMAT, "a metadata key says it has");
        head(&b, 3, 1, 0), u64(&b, lengths[i]), pad(&b, 64), refuse(&b, AD_EFORMAT, "a tensor name says it has");
        head(&b, 3, 0, 1), str(&b, "the.key"), u32(&b, AD_GGUF_STRING), u64(&b, lengths[i]), refuse(&b, AD_EFORMAT, "a metadata string says it has");
        for (uint32_t type = 0; type <= AD_GGUF_F64; type++) {
            if (type == AD_GGUF_ARRAY) continue;
            head(&b, 3, 0, 1), str(&b, "the.key"), u32(&b, AD_GGUF_ARRAY), u32(&b, type), u64(&b, lengths[i]), u64(&b, 0), refuse(&b, AD_EFORMAT, "the.key: ");
        }
        head(&b, 3, 0, 1), str(&b, "k"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_STRING), u64(&b, 2), str(&b, "in"), u64(&b, lengths[i]), refuse(&b, AD_EFORMAT, "a string of an array says it has");
    }
    /* a string takes eight bytes at least, so that three do not fit into sixteen */
    head(&b, 3, 0, 1), str(&b, "the.key"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_STRING), u64(&b, 3), str(&b, ""), str(&b, ""), refuse(&b, AD_EFORMAT, "the.key: 3 elements do not fit");
}
END_TEST

START_TEST(odd_keys_are_refused)
{
    ad_buf b = {0};
    head(&b, 3, 0, 1), pair_u32(&b, "", 1), refuse(&b, AD_EFORMAT, "an empty metadata key");
    head(&b, 3, 0, 2), pair_u32(&b, "same", 1), pair_u32(&b, "same", 2), refuse(&b, AD_EFORMAT, "twice");
    head(&b, 3, 0, 1), u64(&b, 3), ad_buf_append(&b, "a\0b", 3), u32(&b, AD_GGUF_U32), u32(&b, 1), refuse(&b, AD_EFORMAT, "NUL");
    head(&b, 3, 0, 1), u64(&b, 70000);
    for (int i = 0; i < 70000; i++) u8(&b, 'k');
    u32(&b, AD_GGUF_U32), u32(&b, 1), refuse(&b, AD_EFORMAT, "too long");
    head(&b, 3, 0, 1), u64(&b, 65536);
    for (int i = 0; i < 65536; i++) u8(&b, 'k');
    u32(&b, AD_GGUF_U32), u32(&b, 1), refuse(&b, AD_EFORMAT, "metadata key kkkk");
    head(&b, 3, 0, 3), pair_u32(&b, "twin", 1), pair_u32(&b, "other", 1), str(&b, "twin"), u32(&b, AD_GGUF_STRING), str(&b, "x"), refuse(&b, AD_EFORMAT, "metadata key twin appears twice");
}
END_TEST

START_TEST(odd_values_are_refused)
{
    static const uint32_t types[] = {13, 14, 255, UINT32_MAX};
    ad_buf b = {0};
    char why[60];
    for (size_t i = 0; i < 4; i++) {
        snprintf(why, sizeof why, "the.key: unknown type %u", types[i]);
        head(&b, 3, 0, 1), str(&b, "the.key"), u32(&b, types[i]), u64(&b, 0), refuse(&b, AD_EFORMAT, why);
        snprintf(why, sizeof why, "the.key: array of unknown type %u", types[i]);
        head(&b, 3, 0, 1), str(&b, "the.key"), u32(&b, AD_GGUF_ARRAY), u32(&b, types[i]), u64(&b, 0), refuse(&b, AD_EFORMAT, why);
    }
    for (unsigned v = 2; v < 256; v++) head(&b, 3, 0, 1), str(&b, "the.key"), u32(&b, AD_GGUF_BOOL), u8(&b, v), refuse(&b, AD_EFORMAT, "the.key: a bool must be 0 or 1");
    head(&b, 3, 0, 1), str(&b, "the.key"), u32(&b, AD_GGUF_ARRAY), u32(&b, AD_GGUF_ARRAY), u64(&b, 0), refuse(&b, AD_EUNSUPPORTED, "the.key: an array of arrays");
}
END_TEST

START_TEST(alignment_must_be_a_u32_power_of_two)
{
    static const uint32_t bad[] = {0, 1, 2, 4, 24, 33, 48, UINT32_MAX};
    static const ad_gguf_type types[] = {AD_GGUF_I32, AD_GGUF_F32, AD_GGUF_U64, AD_GGUF_I64};
    static const char why[] = "general.alignment must be a u32 power of two";
    ad_buf b = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) head(&b, 3, 0, 1), pair_u32(&b, "general.alignment", bad[i]), refuse(&b, AD_EFORMAT, why);
    for (size_t i = 0; i < 4; i++) head(&b, 3, 0, 1), str(&b, "general.alignment"), u32(&b, types[i]), ad_buf_append(&b, &(uint64_t){32}, i < 2 ? 4 : 8), refuse(&b, AD_EFORMAT, why);
    head(&b, 3, 0, 1), str(&b, "general.alignment"), u32(&b, AD_GGUF_STRING), str(&b, "32"), refuse(&b, AD_EFORMAT, why);
}
END_TEST

/* Data begins at a multiple of the alignment within the file, and so does the second tensor. */
START_TEST(tensors_are_placed_by_the_alignment)
{
    for (uint32_t a = 8; a <= 4096; a *= 2) {
        ad_buf b = {0};
        head(&b, 3, 2, 1), pair_u32(&b, "general.alignment", a), tensor(&b, "t", 1, 1, 0, 24, 0), tensor(&b, "u", 1, 1, 0, 24, a);
        pad(&b, a);
        size_t start = b.len;
        u8(&b, 1), pad(&b, a), u8(&b, 2);
        ad_gguf *g = accept(&b);
        ck_assert_ptr_eq(ad_gguf_tensor(g, "t")->data, b.data + start);
        ck_assert_ptr_eq(ad_gguf_tensor(g, "u")->data, b.data + start + a);
        release(g, &b);
    }
}
END_TEST

START_TEST(odd_tensor_names_are_refused)
{
    ad_buf b = {0};
    char name[65] = {0};
    memset(name, 'n', 64);
    head(&b, 3, 1, 0), tensor(&b, "", 1, 4, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "tensor name  must have 1 to 63 bytes");
    head(&b, 3, 1, 0), tensor(&b, name, 1, 4, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "tensor name nnnn");
    head(&b, 3, 1, 0), u64(&b, 3), ad_buf_append(&b, "a\0b", 3), u32(&b, 0), u32(&b, 0), u64(&b, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "no NUL");
    head(&b, 3, 2, 0), tensor(&b, "twin", 1, 8, 0, 0, 0), tensor(&b, "twin", 1, 8, 0, 0, 32), data(&b, 64), refuse(&b, AD_EFORMAT, "tensor twin appears twice");
    head(&b, 3, 3, 0), tensor(&b, "twin", 1, 8, 0, 0, 0), tensor(&b, "z", 1, 8, 0, 0, 32), tensor(&b, "twin", 1, 8, 0, 0, 64), data(&b, 96);
    refuse(&b, AD_EFORMAT, "tensor twin appears twice");
}
END_TEST

START_TEST(odd_tensor_sizes_are_refused)
{
    static const struct { uint32_t n; uint64_t d0, d1; } huge[] = {
        {2, (uint64_t)1 << 40, (uint64_t)1 << 40}, {4, (uint64_t)1 << 31, (uint64_t)1 << 31}, {2, (uint64_t)1 << 32, (uint64_t)1 << 32}, {1, (uint64_t)1 << 60, 0}, {1, INT64_MAX, 0},
    };
    ad_buf b = {0};
    for (uint32_t n = 5; n < 8; n++) head(&b, 3, 1, 0), tensor(&b, "the.tensor", n, 1, 1, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "tensor the.tensor has");
    head(&b, 3, 1, 0), tensor(&b, "the.tensor", 1, UINT64_MAX, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "tensor the.tensor: a dimension overflows");
    head(&b, 3, 1, 0), tensor(&b, "the.tensor", 2, 1, (uint64_t)1 << 63, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "tensor the.tensor: a dimension overflows");
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++)
        head(&b, 3, 1, 0), tensor(&b, "the.tensor", huge[i].n, huge[i].d0, huge[i].d1, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "tensor the.tensor: its size overflows");
    static const struct { uint32_t type; uint64_t d0; } ragged[] = {{8, 33}, {8, 31}, {2, 16}, {3, 1}, {6, 48}, {7, 31}, {12, 32}, {13, 128}, {14, 255}};
    for (size_t i = 0; i < sizeof ragged / sizeof *ragged; i++)
        head(&b, 3, 1, 0), tensor(&b, "the.tensor", 1, ragged[i].d0, 0, ragged[i].type, 0), data(&b, 512), refuse(&b, AD_EFORMAT, "rows are not whole");
    head(&b, 3, 1, 0), tensor(&b, "the.tensor", 2, 16, 2, 8, 0), data(&b, 64), refuse(&b, AD_EFORMAT, "not whole Q8_0 blocks"); /* a row, not the whole, must be blocks */
    head(&b, 3, 1, 0), tensor(&b, "the.tensor", 0, 0, 0, 8, 0), data(&b, 64), refuse(&b, AD_EFORMAT, "not whole Q8_0 blocks");
}
END_TEST

START_TEST(tensors_must_lie_one_behind_the_other_inside_the_file)
{
    ad_buf b = {0};
    head(&b, 3, 1, 0), tensor(&b, "t", 1, 8, 0, 0, 32), data(&b, 64), refuse(&b, AD_EFORMAT, "tensor t begins at 32, expected 0");
    static const uint64_t wrong[] = {0, 1, 31, 33, 64, (uint64_t)1 << 63, UINT64_MAX - 31};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char why[80];
        snprintf(why, sizeof why, "tensor u begins at %llu, expected 32", (unsigned long long)wrong[i]);
        head(&b, 3, 2, 0), tensor(&b, "t", 1, 8, 0, 0, 0), tensor(&b, "u", 1, 8, 0, 0, wrong[i]), data(&b, 128), refuse(&b, AD_EFORMAT, why);
    }
    head(&b, 3, 2, 0), tensor(&b, "t", 1, 8, 0, 0, 32), tensor(&b, "u", 1, 8, 0, 0, 0), data(&b, 64), refuse(&b, AD_EFORMAT, "tensor t begins at 32, expected 0");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, 8, 0, 0, 0), data(&b, 31), refuse(&b, AD_EFORMAT, "ends inside tensor t");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, (uint64_t)1 << 58, 0, 0, 0), data(&b, 32), refuse(&b, AD_EFORMAT, "ends inside tensor t");
    head(&b, 3, 1, 0), tensor(&b, "t", 1, 8, 0, 0, 0), refuse(&b, AD_EFORMAT, "ends before its tensor data");
}
END_TEST

START_TEST(parts_of_split_models_are_refused_and_a_single_part_is_not)
{
    for (unsigned parts = 0; parts < 4; parts++) {
        ad_buf b = {0};
        char why[60];
        head(&b, 3, 0, 1), str(&b, "split.count"), u32(&b, AD_GGUF_U16), u8(&b, parts), u8(&b, 0);
        snprintf(why, sizeof why, "one of %u parts of a split model", parts);
        if (parts > 1) refuse(&b, AD_EUNSUPPORTED, why);
        else release(accept(&b), &b);
    }
}
END_TEST

START_TEST(a_file_that_is_missing_empty_or_no_file_is_named)
{
    char path[] = "/tmp/ad-gguf-XXXXXX";
    int fd = mkstemp(path);
    ad_err err = {0};
    ad_gguf *g = NULL;
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_int_eq(ad_gguf_open(&g, path, &err), AD_EFORMAT);
    ck_assert_msg(strstr(err.msg, path) && strstr(err.msg, "empty"), "%s", err.msg);
    unlink(path);
    ck_assert_int_eq(ad_gguf_open(&g, path, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_int_eq(ad_gguf_open(&g, "/tmp", &err), AD_EIO);
    ck_assert_msg(strstr(err.msg, "/tmp: not a regular file"), "%s", err.msg);
    ck_assert_ptr_null(g);
}
END_TEST

START_TEST(golden_files_open_with_every_tensor_and_token)
{
    static const char *const files[] = {"gguf/llama-gqa-Q4_K_M.gguf", "gguf/llama-spm-mha-F32.gguf", "gguf/mistral-headdim-F32.gguf"};
    for (int f = 0; f < 3; f++) {
        ad_err err = {0};
        ad_gguf *g = NULL;
        ad_gguf_type type;
        size_t tokens;
        ad_str arch;
        ck_assert_msg(ad_gguf_open(&g, golden_path(files[f]), &err) == AD_OK, "%s", err.msg);
        ck_assert(ad_gguf_str(g, "general.architecture", &arch) && arch.len > 0);
        ck_assert_uint_gt(ad_gguf_tensor_count(g), 5);
        for (size_t i = 0; i < ad_gguf_tensor_count(g); i++) {
            const ad_tensor *t = ad_gguf_tensor_at(g, i);
            ck_assert_msg(ad_gguf_tensor(g, t->name) == t, "%s", t->name);
            ck_assert_uint_eq(t->bytes, (size_t)ad_tensor_count(t) / (size_t)ad_dtype_block(t->dtype) * ad_dtype_block_bytes(t->dtype));
        }
        ck_assert(ad_gguf_array(g, "tokenizer.ggml.tokens", &type, &tokens) && type == AD_GGUF_STRING);
        ck_assert_int_eq((int64_t)tokens, ad_gguf_tensor(g, "token_embd.weight")->dims[0]);
        ad_str *list = calloc(tokens, sizeof *list);
        ck_assert(ad_gguf_array_strings(g, "tokenizer.ggml.tokens", list, tokens));
        for (size_t i = 0; i < tokens; i++) ck_assert_uint_lt(list[i].len, 1000);
        free(list);
        ad_gguf_close(&g);
    }
}
END_TEST

/* Every byte of the header, changed to each of a few values: accepted or refused, never a bad access. */
START_TEST(any_one_changed_byte_is_survived)
{
    static const uint8_t values[] = {0, 1, 0x7F, 0x80, 0xFF};
    ad_buf b = good();
    int refused = 0, accepted = 0;
    for (size_t n = 0; n < b.len - 98; n++)
        for (size_t v = 0; v < sizeof values; v++) {
            ad_err err = {0};
            ad_gguf *g = NULL;
            char *exact = malloc(b.len);
            memcpy(exact, b.data, b.len);
            exact[n] = (char)values[v];
            if (ad_gguf_parse(&g, exact, b.len, "probe", &err) == AD_OK) accepted++;
            else refused++, ck_assert_msg(strstr(err.msg, "probe") && !g, "byte %zu: %s", n, err.msg);
            ad_gguf_close(&g);
            free(exact);
        }
    ck_assert_int_gt(refused, 200);
    ck_assert_int_gt(accepted, 200);
    ad_buf_deinit(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gguf");
    TCase *t = tcase_create("gguf");
    tcase_add_test(t, values_and_tensors_are_read);
    tcase_add_test(t, integers_of_every_width_read_alike);
    tcase_add_test(t, floats_of_both_widths_read_alike);
    tcase_add_test(t, a_reader_asks_for_no_more_than_an_array_holds);
    tcase_add_test(t, version_2_has_the_same_layout);
    tcase_add_test(t, the_longest_names_and_unusual_shapes_are_read);
    tcase_add_test(t, every_type_id_is_read_at_its_size_or_refused);
    tcase_add_test(t, every_truncation_of_a_good_file_is_refused);
    tcase_add_test(t, other_magics_versions_and_byte_orders_are_refused);
    tcase_add_test(t, counts_that_do_not_fit_are_refused_before_memory_is_asked_for);
    tcase_add_test(t, a_hundred_thousand_pairs_and_a_million_tensors_are_the_most);
    tcase_add_test(t, strings_and_arrays_longer_than_the_file_are_refused);
    tcase_add_test(t, odd_keys_are_refused);
    tcase_add_test(t, odd_values_are_refused);
    tcase_add_test(t, alignment_must_be_a_u32_power_of_two);
    tcase_add_test(t, tensors_are_placed_by_the_alignment);
    tcase_add_test(t, odd_tensor_names_are_refused);
    tcase_add_test(t, odd_tensor_sizes_are_refused);
    tcase_add_test(t, tensors_must_lie_one_behind_the_other_inside_the_file);
    tcase_add_test(t, parts_of_split_models_are_refused_and_a_single_part_is_not);
    tcase_add_test(t, a_file_that_is_missing_empty_or_no_file_is_named);
    tcase_add_test(t, golden_files_open_with_every_tensor_and_token);
    tcase_add_test(t, any_one_changed_byte_is_survived);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
