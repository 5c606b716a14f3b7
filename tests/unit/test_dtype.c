/* SPDX-License-Identifier: MIT */
/* Number formats: every half and bfloat16 value, and each block format against its formula read value by value. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/tensor/dtype.h"
#include "tests/unit/suite.h"

static unsigned rng_state = 12345;

static uint8_t random_byte(void)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (uint8_t)(rng_state >> 24);
}

static uint32_t random_word(void)
{
    uint32_t w = 0;
    for (int i = 0; i < 4; i++) w = w << 8 | random_byte();
    return w;
}

static float bits_to_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* By the definition: sign, 2^(e - 15), 10 bits of fraction. */
static double half_value(unsigned h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 0 ? ldexp(m, -24) : e == 31 ? (m ? NAN : INFINITY) : ldexp(1024 + m, e - 25);
    return h & 0x8000 ? -v : v;
}

START_TEST(every_half_converts_exactly_and_comes_back)
{
    for (unsigned h = 0; h < 65536; h++) {
        float f = ad_f16_to_f32((uint16_t)h);
        double want = half_value(h);
        if (isnan(want)) {
            ck_assert(isnan(f) && isnan(ad_f16_to_f32(ad_f32_to_f16(f))));
            continue;
        }
        ck_assert_double_eq((double)f, want);
        ck_assert_uint_eq(ad_f32_to_f16(f), h);
    }
}
END_TEST

START_TEST(every_bfloat16_converts_exactly_and_comes_back)
{
    for (unsigned h = 0; h < 65536; h++) {
        float f = ad_bf16_to_f32((uint16_t)h), want = bits_to_float((uint32_t)h << 16);
        if (isnan(want)) {
            ck_assert(isnan(f) && isnan(ad_bf16_to_f32(ad_f32_to_bf16(f))));
            continue;
        }
        ck_assert_int_eq(memcmp(&f, &want, 4), 0);
        ck_assert_uint_eq(ad_f32_to_bf16(f), h);
    }
}
END_TEST

/* By the definition: the upper half of an f32. */
static double bfloat_value(unsigned h)
{
    int e = h >> 7 & 255, m = h & 127;
    double v = e == 0 ? ldexp(m, -133) : e == 255 ? (m ? NAN : INFINITY) : ldexp(128 + m, e - 134);
    return h & 0x8000 ? -v : v;
}

/* Between each two neighbours: just below the middle, the middle itself, just above, and all of that negative. */
static void check_rounding(double (*value)(unsigned), uint16_t (*round_to)(float), unsigned infinity)
{
    for (unsigned h = 0; h + 1 < infinity; h++) {
        float middle = (float)((value(h) + value(h + 1)) / 2); /* exact: f32 has a bit to spare */
        unsigned even = h & 1 ? h + 1 : h;
        ck_assert_double_eq((double)middle, (value(h) + value(h + 1)) / 2);
        ck_assert_uint_eq(round_to(middle), even);
        ck_assert_uint_eq(round_to(nextafterf(middle, 0)), h);
        ck_assert_uint_eq(round_to(nextafterf(middle, INFINITY)), h + 1);
        ck_assert_uint_eq(round_to(-middle), even | 0x8000);
        ck_assert_uint_eq(round_to(-nextafterf(middle, 0)), h | 0x8000);
        ck_assert_uint_eq(round_to(-nextafterf(middle, INFINITY)), (h + 1) | 0x8000);
    }
}

START_TEST(rounding_goes_to_the_nearest_and_ties_to_even)
{
    check_rounding(half_value, ad_f32_to_f16, 0x7C00);
    check_rounding(bfloat_value, ad_f32_to_bf16, 0x7F80);
}
END_TEST

START_TEST(what_is_too_large_becomes_infinite)
{
    ck_assert_uint_eq(ad_f32_to_f16(65519.996f), 0x7BFF);
    ck_assert_uint_eq(ad_f32_to_f16(65520.0f), 0x7C00); /* the middle between the largest and the next power */
    ck_assert_uint_eq(ad_f32_to_f16(-65520.0f), 0xFC00);
    ck_assert_uint_eq(ad_f32_to_f16(1e30f), 0x7C00);
    ck_assert_uint_eq(ad_f32_to_f16(-INFINITY), 0xFC00);
    ck_assert_uint_eq(ad_f32_to_bf16(bits_to_float(0x7F7F7FFF)), 0x7F7F);
    ck_assert_uint_eq(ad_f32_to_bf16(bits_to_float(0x7F7F8000)), 0x7F80);
    ck_assert_uint_eq(ad_f32_to_bf16(bits_to_float(0xFF7FFFFF)), 0xFF80);
    ck_assert_uint_eq(ad_f32_to_bf16(INFINITY), 0x7F80);
    ck_assert_uint_eq(ad_f32_to_f16(-0.0f), 0x8000);
    ck_assert_uint_eq(ad_f32_to_bf16(-0.0f), 0x8000);
    ck_assert_uint_eq(ad_f32_to_f16(0x1p-149f), 0);
}
END_TEST

/* Also those whose upper bits alone would be an infinity, and those that rounding would carry over. */
START_TEST(a_nan_stays_a_nan_of_its_sign)
{
    static const uint32_t nans[] = {0x7F800001, 0x7F80FFFF, 0x7F808000, 0x7FC00000, 0x7FFFFFFF, 0x7FFF8000, 0x7F801FFF};
    for (size_t i = 0; i < 2 * sizeof nans / sizeof *nans; i++) {
        uint32_t sign = i % 2 ? 0x8000 : 0;
        float f = bits_to_float(nans[i / 2] | sign << 16);
        unsigned h = ad_f32_to_f16(f), b = ad_f32_to_bf16(f);
        ck_assert_msg((h & 0x7C00) == 0x7C00 && (h & 0x3FF) && (h & 0x8000) == sign, "%08x: half %04x", nans[i / 2], h);
        ck_assert_msg((b & 0x7F80) == 0x7F80 && (b & 0x7F) && (b & 0x8000) == sign, "%08x: bfloat16 %04x", nans[i / 2], b);
    }
}
END_TEST

/* Block sizes as the formats' tables have them. */
START_TEST(types_have_their_names_blocks_and_sizes)
{
    static const struct { ad_dtype t; const char *name; int block; size_t bytes; bool weight; } table[] = {
        {AD_F32, "F32", 1, 4, true}, {AD_F16, "F16", 1, 2, true}, {AD_BF16, "BF16", 1, 2, true}, {AD_Q8_0, "Q8_0", 32, 34, true}, {AD_Q4_0, "Q4_0", 32, 18, true},
        {AD_Q4_1, "Q4_1", 32, 20, true}, {AD_Q5_0, "Q5_0", 32, 22, true}, {AD_Q5_1, "Q5_1", 32, 24, true}, {AD_Q4_K, "Q4_K", 256, 144, true},
        {AD_Q5_K, "Q5_K", 256, 176, true}, {AD_Q6_K, "Q6_K", 256, 210, true}, {AD_F64, "F64", 1, 8, false}, {AD_I64, "I64", 1, 8, false}, {AD_I32, "I32", 1, 4, false},
        {AD_I16, "I16", 1, 2, false}, {AD_I8, "I8", 1, 1, false}, {AD_U8, "U8", 1, 1, false}, {AD_BOOL, "BOOL", 1, 1, false},
    };
    ck_assert_uint_eq(sizeof table / sizeof *table, AD_DTYPE_COUNT);
    for (size_t i = 0; i < AD_DTYPE_COUNT; i++) {
        ck_assert_str_eq(ad_dtype_name(table[i].t), table[i].name);
        ck_assert_int_eq(ad_dtype_block(table[i].t), table[i].block);
        ck_assert_uint_eq(ad_dtype_block_bytes(table[i].t), table[i].bytes);
        ck_assert_int_eq(ad_dtype_is_weight(table[i].t), table[i].weight);
    }
    ad_tensor t = {.n_dims = 3, .dims = {2, 3, 5}};
    ck_assert_int_eq(ad_tensor_count(&t), 30);
    t.n_dims = 0;
    ck_assert_int_eq(ad_tensor_count(&t), 1);
}
END_TEST

START_TEST(plain_rows_convert_from_any_address)
{
    for (size_t shift = 0; shift < 4; shift++) {
        uint8_t raw[4 + 4 * 100];
        float got[100];
        for (size_t i = 0; i < sizeof raw; i++) raw[i] = random_byte();
        const uint8_t *src = raw + shift;
        ad_dequant_row(AD_F32, got, src, 100);
        ck_assert_int_eq(memcmp(got, src, sizeof got), 0);
        for (int t = AD_F16; t <= AD_BF16; t++) {
            ad_dequant_row((ad_dtype)t, got, src, 100);
            for (size_t i = 0; i < 100; i++) {
                unsigned h = src[2 * i] | (unsigned)src[2 * i + 1] << 8;
                double want = t == AD_F16 ? half_value(h) : bfloat_value(h);
                ck_assert_msg(isnan(want) ? isnan(got[i]) != 0 : (double)got[i] == want, "%s %04x: %g", ad_dtype_name((ad_dtype)t), h, (double)got[i]);
            }
        }
    }
}
END_TEST

/* ---- block formats, one value at a time, as their layouts say ---- */

static float scale_at(const uint8_t *p)
{
    return ad_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static unsigned nibble(const uint8_t *q, int i) /* of 32: the low halves first */
{
    return i < 16 ? q[i] & 15u : q[i - 16] >> 4;
}

static unsigned fifth_bit(const uint8_t *qh, int i)
{
    return qh[i / 8] >> (i % 8) & 1u;
}

/* Scale and minimum j (0..7) of a K block: six bits each in twelve bytes. */
static void scale_min(const uint8_t *s, int j, unsigned *scale, unsigned *min)
{
    if (j < 4) {
        *scale = s[j] & 63u;
        *min = s[j + 4] & 63u;
    } else {
        *scale = (s[j + 4] & 15u) | (unsigned)(s[j - 4] >> 6) << 4;
        *min = (unsigned)(s[j + 4] >> 4) | (unsigned)(s[j] >> 6) << 4;
    }
}

static float q4_k(const uint8_t *b, int i)
{
    unsigned scale, min, q = b[16 + i / 64 * 32 + i % 32];
    scale_min(b + 4, i / 32, &scale, &min);
    q = i / 32 % 2 ? q >> 4 : q & 15;
    return scale_at(b) * (float)scale * (float)q - scale_at(b + 2) * (float)min;
}

static float q5_k(const uint8_t *b, int i)
{
    unsigned scale, min, q = b[48 + i / 64 * 32 + i % 32];
    scale_min(b + 4, i / 32, &scale, &min);
    q = i / 32 % 2 ? q >> 4 : q & 15;
    q += (b[16 + i % 32] >> (i / 32) & 1u) << 4;
    return scale_at(b) * (float)scale * (float)q - scale_at(b + 2) * (float)min;
}

static float q6_k(const uint8_t *b, int i)
{
    int half = i / 128, quarter = i % 128 / 32, l = i % 32;
    unsigned low = b[half * 64 + (quarter % 2) * 32 + l], high = b[128 + half * 32 + l];
    int q = (int)((quarter < 2 ? low & 15 : low >> 4) | (high >> (2 * quarter) & 3) << 4) - 32;
    int scale = (int8_t)b[192 + half * 8 + quarter * 2 + l / 16];
    return scale_at(b + 208) * (float)scale * (float)q;
}

static float value_at(ad_dtype t, const uint8_t *b, int i)
{
    switch (t) {
    case AD_Q8_0: return scale_at(b) * (float)(int8_t)b[2 + i];
    case AD_Q4_0: return scale_at(b) * (float)((int)nibble(b + 2, i) - 8);
    case AD_Q4_1: return scale_at(b) * (float)nibble(b + 4, i) + scale_at(b + 2);
    case AD_Q5_0: return scale_at(b) * (float)((int)(nibble(b + 6, i) | fifth_bit(b + 2, i) << 4) - 16);
    case AD_Q5_1: return scale_at(b) * (float)(nibble(b + 8, i) | fifth_bit(b + 4, i) << 4) + scale_at(b + 2);
    case AD_Q4_K: return q4_k(b, i);
    case AD_Q5_K: return q5_k(b, i);
    default: return q6_k(b, i);
    }
}

/* The 16-bit numbers of a block become small and finite. */
static void tame_scales(ad_dtype t, uint8_t *b)
{
    static const int at[AD_DTYPE_COUNT][3] = {[AD_Q8_0] = {0, -1}, [AD_Q4_0] = {0, -1}, [AD_Q4_1] = {0, 2, -1}, [AD_Q5_0] = {0, -1}, [AD_Q5_1] = {0, 2, -1},
                                              [AD_Q4_K] = {0, 2, -1}, [AD_Q5_K] = {0, 2, -1}, [AD_Q6_K] = {208, -1}};
    for (int i = 0; i < 3 && at[t][i] >= 0; i++) b[at[t][i] + 1] = (uint8_t)(b[at[t][i] + 1] & 0xBF);
}

static const ad_dtype blocks[] = {AD_Q8_0, AD_Q4_0, AD_Q4_1, AD_Q5_0, AD_Q5_1, AD_Q4_K, AD_Q5_K, AD_Q6_K};

START_TEST(every_block_format_follows_its_layout_bit_for_bit)
{
    for (size_t f = 0; f < sizeof blocks / sizeof *blocks; f++) {
        ad_dtype t = blocks[f];
        size_t bytes = ad_dtype_block_bytes(t);
        int n = ad_dtype_block(t);
        for (int round = 0; round < 500; round++) {
            uint8_t raw[3 * 300 + 1], *b = raw + round % 2; /* also unaligned */
            float got[3 * 256];
            for (size_t i = 0; i < 3 * bytes; i++) b[i] = random_byte();
            for (int k = 0; k < 3; k++) tame_scales(t, b + (size_t)k * bytes);
            ad_dequant_row(t, got, b, (size_t)(3 * n));
            for (int i = 0; i < 3 * n; i++) {
                float want = value_at(t, b + (size_t)(i / n) * bytes, i % n);
                ck_assert_msg(!memcmp(&got[i], &want, sizeof want), "%s value %d: %.9g, not %.9g", ad_dtype_name(t), i, (double)got[i], (double)want);
            }
        }
    }
}
END_TEST

/* Neighbouring codes of one block are at most twice the bound apart. */
START_TEST(the_error_bound_covers_half_a_step)
{
    for (size_t f = 0; f < sizeof blocks / sizeof *blocks; f++) {
        ad_dtype t = blocks[f];
        size_t bytes = ad_dtype_block_bytes(t);
        int n = ad_dtype_block(t);
        uint8_t b[300], other[300];
        float value[256], bound[256], moved[256];
        for (size_t i = 0; i < bytes; i++) b[i] = (uint8_t)(random_byte() | 1);
        tame_scales(t, b);
        ad_dequant_row(t, value, b, (size_t)n);
        ad_dequant_error(t, bound, b, (size_t)n);
        size_t q = t == AD_Q8_0 || t == AD_Q4_0 ? 2 : t == AD_Q4_1 ? 4 : t == AD_Q5_0 ? 6 : t == AD_Q5_1 ? 8 : t == AD_Q4_K ? 16 : t == AD_Q5_K ? 48 : 0;
        memcpy(other, b, bytes);
        other[q] = (uint8_t)(other[q] ^ 1); /* the lowest bit of value 0 */
        ad_dequant_row(t, moved, other, (size_t)n);
        ck_assert_float_ne(moved[0], value[0]);
        ck_assert_msg(fabsf(moved[0] - value[0]) <= 2.0001f * bound[0], "%s: a step of %g, a bound of %g", ad_dtype_name(t), (double)(moved[0] - value[0]), (double)bound[0]);
        /* exactly half a step, but a whole one where codes may be clamped or scales are searched for */
        float steps = t == AD_Q8_0 || t == AD_Q4_1 || t == AD_Q5_1 ? 2 : 1;
        ck_assert_msg(fabsf(moved[0] - value[0]) >= 0.999f * steps * bound[0], "%s: a step of %g, too wide a bound of %g", ad_dtype_name(t), (double)(moved[0] - value[0]), (double)bound[0]);
    }
    float x[2] = {1.0f, 3e-5f}, bound[2];
    ad_dequant_error(AD_F32, bound, x, 2);
    ck_assert(bound[0] == 0 && bound[1] == 0);
    uint16_t h[2] = {0x3C00, 0x3F80};
    ad_dequant_error(AD_F16, bound, h, 1);
    ck_assert_float_ge(bound[0], 0.00024f);
    ck_assert_float_le(bound[0], 0.0005f);
    ad_dequant_error(AD_BF16, bound, h + 1, 1);
    ck_assert_float_ge(bound[0], 0.00195f);
    ck_assert_float_le(bound[0], 0.004f);
}
END_TEST

/* What one more in the code of value i adds, without its sign. */
static float step_at(ad_dtype t, const uint8_t *b, int i)
{
    unsigned scale, min;
    if (t == AD_Q6_K) return fabsf(scale_at(b + 208) * (float)(int8_t)b[192 + i / 16]);
    if (t != AD_Q4_K && t != AD_Q5_K) return fabsf(scale_at(b));
    scale_min(b + 4, i / 32, &scale, &min);
    return fabsf(scale_at(b) * (float)scale);
}

START_TEST(every_value_of_every_block_has_the_bound_of_its_own_step)
{
    for (size_t f = 0; f < sizeof blocks / sizeof *blocks; f++) {
        ad_dtype t = blocks[f];
        size_t bytes = ad_dtype_block_bytes(t);
        int n = ad_dtype_block(t);
        float part = t == AD_Q8_0 || t == AD_Q4_1 || t == AD_Q5_1 ? 0.5f : 1;
        for (int round = 0; round < 20; round++) { /* scales of either sign */
            uint8_t b[3 * 300];
            float bound[3 * 256];
            for (size_t i = 0; i < 3 * bytes; i++) b[i] = random_byte();
            for (int k = 0; k < 3; k++) tame_scales(t, b + (size_t)k * bytes);
            ad_dequant_error(t, bound, b, (size_t)(3 * n));
            for (int i = 0; i < 3 * n; i++) {
                float want = part * step_at(t, b + (size_t)(i / n) * bytes, i % n);
                ck_assert_msg(bound[i] == want, "%s value %d: bound %g, not %g", ad_dtype_name(t), i, (double)bound[i], (double)want);
            }
        }
    }
}
END_TEST

/* Spacing of two floats of a half or bfloat16 is up to twice the bound of what they round to. */
START_TEST(the_error_bound_covers_any_float_that_rounds_to_a_half_or_bfloat16)
{
    for (int i = 0; i < 400000; i++) {
        uint32_t u = random_word();
        if (i % 4 == 0) u &= 0x80FFFFFF; /* and small ones, which become subnormal */
        float x = bits_to_float(u), bound;
        uint16_t h = ad_f32_to_f16(x), b = ad_f32_to_bf16(x);
        if (!isfinite(x)) continue;
        if (isfinite(ad_f16_to_f32(h))) {
            ad_dequant_error(AD_F16, &bound, &h, 1);
            ck_assert_msg(fabsf(ad_f16_to_f32(h) - x) <= bound, "half of %g: off by %g, bound %g", (double)x, (double)fabsf(ad_f16_to_f32(h) - x), (double)bound);
            ck_assert_msg(bound <= fmaxf(fabsf(x) * 0x1.1p-11f, 0x1p-25f), "half of %g: bound %g", (double)x, (double)bound);
        }
        if (isfinite(ad_bf16_to_f32(b))) {
            ad_dequant_error(AD_BF16, &bound, &b, 1);
            ck_assert_msg(fabsf(ad_bf16_to_f32(b) - x) <= bound, "bfloat16 of %g: off by %g, bound %g", (double)x, (double)fabsf(ad_bf16_to_f32(b) - x), (double)bound);
            ck_assert_msg(bound <= fmaxf(fabsf(x) * 0x1.1p-8f, 0x1p-134f), "bfloat16 of %g: bound %g", (double)x, (double)bound);
        }
    }
}
END_TEST

/* ---- quantisers, to see where the bounds come from ---- */

static void put_half(uint8_t *p, float f)
{
    uint16_t h = ad_f32_to_f16(f);
    p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8);
}

static float range_of(const float *x, float *least, float *signed_max)
{
    float lo = x[0], hi = x[0], big = x[0];
    for (int i = 1; i < 32; i++) {
        lo = fminf(lo, x[i]), hi = fmaxf(hi, x[i]);
        if (fabsf(x[i]) > fabsf(big)) big = x[i];
    }
    *least = lo, *signed_max = big;
    return hi - lo;
}

static int clamp_code(float v, int top) { return v < 0 ? 0 : v > (float)top ? top : (int)v; }

static void put_codes(uint8_t *b, ad_dtype t, const int *q)
{
    uint8_t *nibbles = b + (t == AD_Q4_0 ? 2 : t == AD_Q4_1 ? 4 : t == AD_Q5_0 ? 6 : 8), *fifth = b + (t == AD_Q5_0 ? 2 : 4);
    for (int i = 0; i < 16; i++) nibbles[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
    if (t != AD_Q5_0 && t != AD_Q5_1) return;
    memset(fifth, 0, 4);
    for (int i = 0; i < 32; i++) fifth[i / 8] = (uint8_t)(fifth[i / 8] | (q[i] >> 4) << (i % 8));
}

/* Nearest codes for 32 values, the scale first: how such files are made. The step comes back. */
static float quantise(uint8_t *b, ad_dtype t, const float *x)
{
    float least, big, span = range_of(x, &least, &big), step;
    int q[32], levels = t == AD_Q4_0 || t == AD_Q4_1 ? 16 : 32;
    if (t == AD_Q8_0) {
        step = fabsf(big) / 127;
        put_half(b, step);
        for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(int8_t)roundf(x[i] / step);
        return step;
    }
    bool symmetric = t == AD_Q4_0 || t == AD_Q5_0;
    step = symmetric ? big / (float)(-levels / 2) : span / (float)(levels - 1);
    for (int i = 0; i < 32; i++) q[i] = clamp_code(symmetric ? x[i] / step + (float)(levels / 2) + 0.5f : (x[i] - least) / step + 0.5f, levels - 1);
    put_half(b, step);
    if (!symmetric) put_half(b + 2, least);
    put_codes(b, t, q);
    return fabsf(step);
}

/* The step and the least value are stored as halves: each code times 2^-11 of a step, and 2^-11 of the least,
 * come on top of the bound, plus the arithmetic here. */
START_TEST(what_a_block_quantises_lies_within_its_error_bound)
{
    static const ad_dtype simple[] = {AD_Q8_0, AD_Q4_0, AD_Q4_1, AD_Q5_0, AD_Q5_1};
    for (int i = 0; i < 5 * 4000; i++) {
        ad_dtype t = simple[i % 5];
        uint8_t b[34];
        float x[32], y[32], bound[32], worst = 0, step;
        for (int k = 0; k < 32; k++) x[k] = ldexpf((float)(int32_t)random_word(), -31);
        step = quantise(b, t, x);
        ad_dequant_row(t, y, b, 32);
        ad_dequant_error(t, bound, b, 32);
        float most_code = t == AD_Q8_0 ? 127 : t == AD_Q4_0 || t == AD_Q4_1 ? 16 : 32;
        for (int k = 0; k < 32; k++) {
            float slack = (most_code * step + 1) * 0x1.01p-11f, off = fabsf(x[k] - y[k]);
            ck_assert_msg(off <= bound[k] + slack, "%s: %g became %g, bound %g", ad_dtype_name(t), (double)x[k], (double)y[k], (double)bound[k]);
            worst = fmaxf(worst, off / bound[k]);
        }
        ck_assert_msg(worst > 0.3f, "%s: the bound is never approached: %g", ad_dtype_name(t), (double)worst);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dtype");
    TCase *t = tcase_create("dtype");
    tcase_add_test(t, every_half_converts_exactly_and_comes_back);
    tcase_add_test(t, every_bfloat16_converts_exactly_and_comes_back);
    tcase_add_test(t, rounding_goes_to_the_nearest_and_ties_to_even);
    tcase_add_test(t, what_is_too_large_becomes_infinite);
    tcase_add_test(t, a_nan_stays_a_nan_of_its_sign);
    tcase_add_test(t, types_have_their_names_blocks_and_sizes);
    tcase_add_test(t, plain_rows_convert_from_any_address);
    tcase_add_test(t, every_block_format_follows_its_layout_bit_for_bit);
    tcase_add_test(t, the_error_bound_covers_half_a_step);
    tcase_add_test(t, every_value_of_every_block_has_the_bound_of_its_own_step);
    tcase_add_test(t, the_error_bound_covers_any_float_that_rounds_to_a_half_or_bfloat16);
    tcase_add_test(t, what_a_block_quantises_lies_within_its_error_bound);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
