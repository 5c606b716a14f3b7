/* SPDX-License-Identifier: MIT */
/* Number formats: every half and bfloat16 value, and each block format against its formula read value by value. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/tensor/dtype.h"

static unsigned rng_state = 12345;

static uint8_t random_byte(void)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (uint8_t)(rng_state >> 24);
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

START_TEST(rounding_goes_to_the_nearest_and_ties_to_even)
{
    for (unsigned h = 0; h < 0x7BFF; h += 3) { /* neighbours h and h + 1, positive and finite */
        double a = half_value(h), b = half_value(h + 1);
        ck_assert_uint_eq(ad_f32_to_f16((float)(a + (b - a) * 0.5)), h & 1 ? h + 1 : h);
        ck_assert_uint_eq(ad_f32_to_f16((float)(a + (b - a) * 0.5078125)), h + 1);
        ck_assert_uint_eq(ad_f32_to_f16((float)(a + (b - a) * 0.4921875)), h);
    }
    ck_assert_uint_eq(ad_f32_to_f16(65519.0f), 0x7BFF);
    ck_assert_uint_eq(ad_f32_to_f16(65520.0f), 0x7C00);
    ck_assert_uint_eq(ad_f32_to_f16(-1e30f), 0xFC00);
    ck_assert_uint_eq(ad_f32_to_bf16(bits_to_float(0x3F808000)), 0x3F80);
    ck_assert_uint_eq(ad_f32_to_bf16(bits_to_float(0x3F818000)), 0x3F82);
    ck_assert_uint_eq(ad_f32_to_bf16(bits_to_float(0x3F808001)), 0x3F81);
    ck_assert_uint_eq(ad_f32_to_bf16(bits_to_float(0x7F7FFFFF)), 0x7F80);
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
                ck_assert_msg(got[i] == want, "%s value %d: %.9g, not %.9g", ad_dtype_name(t), i, (double)got[i], (double)want);
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
        ck_assert_msg(fabsf(moved[0] - value[0]) >= 0.9f * bound[0], "%s: the bound is far too wide", ad_dtype_name(t));
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

int main(void)
{
    Suite *suite = suite_create("dtype");
    TCase *t = tcase_create("dtype");
    tcase_add_test(t, every_half_converts_exactly_and_comes_back);
    tcase_add_test(t, every_bfloat16_converts_exactly_and_comes_back);
    tcase_add_test(t, rounding_goes_to_the_nearest_and_ties_to_even);
    tcase_add_test(t, every_block_format_follows_its_layout_bit_for_bit);
    tcase_add_test(t, the_error_bound_covers_half_a_step);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
