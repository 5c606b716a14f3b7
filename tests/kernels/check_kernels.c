/* SPDX-License-Identifier: MIT */
/* Every kernel of every table this CPU has, against plain f64 formulas, with guards around what it may write; and
 * the promise that a row's bits do not depend on its neighbours. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/tensor/dtype.h"
#include "core/tensor/gemm.h"
#include "tests/kernels/measure.h"
#include "tests/unit/suite.h"

enum { GUARD = 32 };
static const float guard_value = -12345.5f;

enum { N_MASKS = 6 };
typedef struct {
    ad_kernels k[N_MASKS];
    int n;
} tables;

/* Every set of overrides this CPU can run. */
static tables all_tables(void)
{
    const unsigned wide = AD_CPU_AVX2 | AD_CPU_AVX512, masks[N_MASKS] = {0, AD_CPU_AVX2, AD_CPU_AVX2 | AD_CPU_AVX_VNNI, wide, wide | AD_CPU_AVX512_VNNI, wide | AD_CPU_AVX512_VNNI | AD_CPU_AVX512_BF16};
    unsigned here = ad_cpu_detect();
    tables t = {.n = 0};
    for (int i = 0; i < N_MASKS; i++)
        if ((masks[i] & here) == masks[i]) ad_kernels_init(&t.k[t.n++], masks[i]);
    return t;
}

static unsigned rng_state = 1;

static float noise(void)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (float)(rng_state >> 8) / 8388608.0f - 1.0f;
}

static float *new_noise(size_t n)
{
    ck_assert_uint_lt(n, 1u << 24);
    float *p = calloc(n + 1, sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = noise();
    return p;
}

/* n floats with guards on both sides. */
static float *new_guarded(size_t n)
{
    ck_assert_uint_lt(n, 1u << 24); /* gcc sees sizes that cannot be, otherwise */
    float *p = calloc(n + 2 * GUARD, sizeof *p);
    for (size_t i = 0; i < n + 2 * GUARD; i++) p[i] = guard_value;
    return p + GUARD;
}

static void free_guarded(float *p, size_t n)
{
    for (int i = 0; i < GUARD; i++) {
        ck_assert_float_eq(p[-1 - i], guard_value);
        ck_assert_float_eq(p[n + (size_t)i], guard_value);
    }
    free(p - GUARD);
}

/* A sum of k products of numbers below 1 in f32, in one chain: its error stays far below this. */
static double sum_bound(int k)
{
    return 4e-6 * (1 + sqrt(k));
}

/* ---- GEMM ---- */

/* Weights [n, k] packed, and what the packed ones are. */
typedef struct {
    char *data;
    float *values; /* [n, k] */
    ad_matrix m;
} weights;

static weights new_weights(ad_pack type, int n, int k)
{
    weights w = {aligned_alloc(64, ad_pack_bytes(type, n, k)), new_noise((size_t)n * (size_t)k), {0}};
    w.m = ad_matrix_at(type, n, k, w.data);
    for (int r = 0; r < n; r += AD_PANEL)
        ck_assert(ad_pack_panel(type, w.data + (size_t)(r / AD_PANEL) * w.m.panel_bytes, w.values + (size_t)r * (size_t)k, n - r < AD_PANEL ? n - r : AD_PANEL, k));
    for (int r = 0; r < n; r++) ad_matrix_read(&w.m, r, 0, k, w.values + (size_t)r * (size_t)k);
    return w;
}

/* Rows of activations in the form that `type` reads, and what they are after rounding. */
typedef struct {
    char *data;
    size_t stride;
    float *values; /* [m, k] */
} inputs;

static inputs new_inputs(const ad_kernels *kn, ad_pack type, int m, int k)
{
    ad_act form = ad_act_of(type);
    inputs x = {NULL, ad_act_stride(form, k), new_noise((size_t)m * (size_t)k)};
    x.data = aligned_alloc(64, x.stride * (size_t)m);
    memset(x.data, 0, x.stride * (size_t)m);
    for (int i = 0; i < m; i++) {
        float *v = x.values + (size_t)i * (size_t)k;
        char *row = x.data + (size_t)i * x.stride;
        if (form == AD_ACT_F32) memcpy(row, v, (size_t)k * sizeof *v);
        if (form == AD_ACT_BF16) kn->to_bf16((uint16_t *)(void *)row, v, k);
        if (form == AD_ACT_INT8) kn->quantise(row, v, 0, k, k);
        for (int p = 0; p < k; p++) {
            if (form == AD_ACT_BF16) v[p] = ad_bf16_to_f32(((const uint16_t *)(const void *)row)[p]);
            if (form == AD_ACT_INT8) v[p] = (float)((const int8_t *)row)[p] * ((const float *)(const void *)(row + (size_t)(k + 31) / 32 * 32))[p / 32];
        }
    }
    return x;
}

static void check_gemm(const ad_kernels *kn, ad_pack type, int m, int n, int k, bool add)
{
    size_t ldy = (size_t)n + 5;
    weights w = new_weights(type, n, k);
    inputs x = new_inputs(kn, type, m, k);
    float *y = new_guarded(ldy * (size_t)m), *before = new_noise((size_t)(m * n));
    for (int i = 0; i < m && add; i++) memcpy(y + (size_t)i * ldy, before + (size_t)i * (size_t)n, (size_t)n * sizeof *y);
    kn->gemm[type](y, ldy, x.data, x.stride, w.data, w.m.panel_bytes, m, n, k, add);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double want = add ? (double)before[i * n + j] : 0;
            for (int p = 0; p < k; p++) want += (double)x.values[(size_t)i * (size_t)k + (size_t)p] * (double)w.values[(size_t)j * (size_t)k + (size_t)p];
            ck_assert_msg(fabs((double)y[(size_t)i * ldy + (size_t)j] - want) < sum_bound(k), "%s %s gemm %dx%dx%d at %d,%d: %g not %g", kn->name, ad_pack_name(type), m, n, k, i, j, (double)y[(size_t)i * ldy + (size_t)j], want);
        }
        for (size_t j = (size_t)n; j < ldy; j++) ck_assert_float_eq(y[(size_t)i * ldy + j], guard_value);
        float *alone = new_guarded((size_t)n);
        if (add) memcpy(alone, before + (size_t)i * (size_t)n, (size_t)n * sizeof *y);
        kn->gemm[type](alone, (size_t)n, x.data + (size_t)i * x.stride, x.stride, w.data, w.m.panel_bytes, 1, n, k, add);
        ck_assert_msg(!memcmp(alone, y + (size_t)i * ldy, (size_t)n * sizeof *y), "%s %s gemm %dx%dx%d: row %d depends on the others", kn->name, ad_pack_name(type), m, n, k, i);
        free_guarded(alone, (size_t)n);
    }
    free_guarded(y, ldy * (size_t)m);
    free(x.data), free(x.values), free(w.data), free(w.values), free(before);
}

static void check_all_shapes(ad_pack type)
{
    static const int ks[] = {1, 2, 7, 31, 32, 33, 64, 100, 577}, ns[] = {1, 15, 16, 17, 40, 65, 100}, ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17};
    tables t = all_tables();
    for (int a = 0; a < t.n; a++)
        for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
            for (size_t j = 0; j < sizeof ns / sizeof *ns; j++)
                for (size_t l = 0; l < sizeof ms / sizeof *ms; l++) check_gemm(&t.k[a], type, ms[l], ns[j], ks[i], type <= AD_PACK_BF16 && (i + j + l) % 2);
}

START_TEST(f32_gemm_is_right_and_its_rows_keep_their_bits)
{
    check_all_shapes(AD_PACK_F32);
}
END_TEST

START_TEST(bf16_gemm_is_right_and_its_rows_keep_their_bits)
{
    check_all_shapes(AD_PACK_BF16);
}
END_TEST

START_TEST(int8_gemm_is_right_and_its_rows_keep_their_bits)
{
    check_all_shapes(AD_PACK_INT8);
}
END_TEST

START_TEST(int4_gemm_is_right_and_its_rows_keep_their_bits)
{
    check_all_shapes(AD_PACK_INT4);
    check_all_shapes(AD_PACK_INT4W);
}
END_TEST

/* Shrinking by a range of inputs: the pointers move, the panels stay as far apart as they are. */
START_TEST(a_gemm_over_ranges_of_inputs_adds_up)
{
    tables t = all_tables();
    int m = 5, n = 48, k = 96;
    for (int a = 0; a < t.n; a++)
        for (int type = AD_PACK_F32; type <= AD_PACK_BF16; type++) {
            weights w = new_weights((ad_pack)type, n, k);
            inputs x = new_inputs(&t.k[a], (ad_pack)type, m, k);
            float *whole = new_noise((size_t)(m * n)), *parts = new_noise((size_t)(m * n));
            t.k[a].gemm[type](whole, (size_t)n, x.data, x.stride, w.data, w.m.panel_bytes, m, n, k, false);
            for (int begin = 0; begin < k; begin += 32) {
                size_t number = type == AD_PACK_F32 ? 4 : 2;
                t.k[a].gemm[type](parts, (size_t)n, x.data + (size_t)begin * number, x.stride, w.data + (size_t)begin * number * AD_PANEL, w.m.panel_bytes, m, n, 32, begin > 0);
            }
            for (int i = 0; i < m * n; i++) ck_assert_float_eq(whole[i], parts[i]); /* one chain over k, continued */
            free(whole), free(parts), free(x.data), free(x.values), free(w.data), free(w.values);
        }
}
END_TEST

START_TEST(f32_gemm_agrees_with_blas)
{
    tables t = all_tables();
    int m = 9, n = 130, k = 577;
    weights w = new_weights(AD_PACK_F32, n, k);
    inputs x = new_inputs(&t.k[0], AD_PACK_F32, m, k);
    float *y = new_noise((size_t)(m * n)), *b = new_noise((size_t)(m * n));
    ad_gemm_blas_nt(b, (size_t)n, x.values, (size_t)k, w.values, m, n, k);
    for (int a = 0; a < t.n; a++) {
        t.k[a].gemm[AD_PACK_F32](y, (size_t)n, x.data, x.stride, w.data, w.m.panel_bytes, m, n, k, false);
        for (int i = 0; i < m * n; i++) ck_assert_float_eq_tol(y[i], b[i], 5e-5f);
    }
    free(x.data), free(x.values), free(w.data), free(w.values), free(y), free(b);
}
END_TEST

/* ---- packing and rounding ---- */

START_TEST(packed_weights_read_back_within_half_a_step)
{
    for (int type = AD_PACK_F32; type < AD_PACK_KINDS; type++)
        for (int k = 1; k < 130; k += 43) {
            float *v = new_noise((size_t)(5 * k)), *got = new_noise((size_t)k);
            char *panel = aligned_alloc(64, ad_pack_panel_bytes((ad_pack)type, k));
            ck_assert(ad_pack_panel((ad_pack)type, panel, v, 5, k));
            ad_matrix m = ad_matrix_at((ad_pack)type, 5, k, panel);
            /* Values below 1 in blocks of 32: half of 2 / 15 or 1 / 127 and the scale's own rounding; 2^-9 for bf16. */
            float bound = type == AD_PACK_F32 ? 0 : type == AD_PACK_BF16 ? 1.0f / 512 : type == AD_PACK_INT8 ? 0.5f / 127 * 1.02f : 0.5f * 2 / 15 * 1.02f;
            for (int r = 0; r < 5; r++) {
                ad_matrix_read(&m, r, 0, k, got);
                for (int i = 0; i < k; i++) ck_assert_float_eq_tol(got[i], v[r * k + i], bound + 1e-9f);
            }
            v[k / 2] = NAN;
            ck_assert(!ad_pack_panel((ad_pack)type, panel, v, 5, k));
            v[k / 2] = INFINITY;
            ck_assert(!ad_pack_panel((ad_pack)type, panel, v, 5, k));
            free(v), free(got), free(panel);
        }
}
END_TEST

/* The same panel lane by lane in pieces, from rows that are unaligned and further apart than they are long. */
START_TEST(lanes_packed_in_pieces_make_the_same_panel)
{
    for (int type = AD_PACK_F32; type <= AD_PACK_BF16; type++)
        for (int k = 1; k < 70; k++) {
            size_t size = ad_pack_panel_bytes((ad_pack)type, k), stride = (size_t)k * 4 + 13;
            float *v = new_noise((size_t)(AD_PANEL * k));
            char *panel = aligned_alloc(64, size), *pieces = aligned_alloc(64, size), *rows = calloc(AD_PANEL + 1, stride), *first = rows + 1;
            for (int r = 0; r < AD_PANEL; r++)
                for (int i = 0; i < k; i++) {
                    uint16_t half = ad_f32_to_bf16(v[r * k + i]);
                    if (type == AD_PACK_F32) memcpy(first + (size_t)r * stride + 4 * i, &v[r * k + i], 4);
                    else memcpy(first + (size_t)r * stride + 2 * i, &half, 2);
                }
            ck_assert(ad_pack_panel((ad_pack)type, panel, v, AD_PANEL, k));
            for (int lane = 0, n; lane < AD_PANEL; lane += n) {
                n = lane + 1 + k % 7 < AD_PANEL ? 1 + k % 7 : AD_PANEL - lane;
                ck_assert(ad_pack_lanes((ad_pack)type, pieces, lane, first + (size_t)lane * stride, stride, n, k));
            }
            ck_assert(!memcmp(panel, pieces, size));
            for (int r = 0; r < AD_PANEL; r++) {
                int width = type == AD_PACK_F32 ? 4 : 2, i = (r * 5 + k) % k;
                char *at = first + (size_t)r * stride + width * i, kept[4];
                memcpy(kept, at, 4);
                float bad = r % 2 ? -INFINITY : NAN;
                memcpy(at, (char *)&bad + 4 - width, (size_t)width); /* bf16: the upper half */
                ck_assert(!ad_pack_lanes((ad_pack)type, pieces, 0, first, stride, AD_PANEL, k));
                memcpy(at, kept, 4);
            }
            ck_assert(ad_pack_lanes((ad_pack)type, pieces, 0, first, stride, AD_PANEL, k) && !memcmp(panel, pieces, size));
            free(v), free(panel), free(pieces), free(rows);
        }
}
END_TEST

/* Random bytes are valid blocks as long as their scales are finite. */
START_TEST(four_bit_blocks_and_eight_bit_ones_are_repacked_exactly)
{
    static const ad_dtype types[] = {AD_Q4_0, AD_Q4_1, AD_Q4_K, AD_Q5_0, AD_Q8_0};
    enum { K = 512, N = 19 };
    for (size_t a = 0; a < sizeof types / sizeof *types; a++) {
        ad_pack type;
        size_t block = ad_dtype_block_bytes(types[a]), row = K / (size_t)ad_dtype_block(types[a]) * block;
        ck_assert(ad_pack_exact(types[a], &type));
        uint8_t *file = calloc(N, row);
        for (size_t i = 0; i < N * row; i++) file[i] = (uint8_t)(noise() * 127); /* never -128 */
        for (size_t i = 0; i < N * row; i += block) {
            uint16_t d = ad_f32_to_f16(noise()), m = ad_f32_to_f16(noise());
            memcpy(file + i, &d, 2);
            if (types[a] == AD_Q4_1 || types[a] == AD_Q4_K) memcpy(file + i + 2, &m, 2);
        }
        char *panels = aligned_alloc(64, ad_pack_bytes(type, N, K));
        ad_matrix m = ad_matrix_at(type, N, K, panels);
        for (int r = 0; r < N; r += AD_PANEL) {
            const void *rows[AD_PANEL];
            int n = N - r < AD_PANEL ? N - r : AD_PANEL;
            for (int i = 0; i < n; i++) rows[i] = file + (size_t)(r + i) * row;
            ck_assert(ad_pack_panel_codes(type, panels + (size_t)(r / AD_PANEL) * m.panel_bytes, types[a], rows, n, K));
        }
        float want[K], got[K];
        for (int r = 0; r < N; r++) {
            ad_dequant_row(types[a], want, file + (size_t)r * row, K);
            ad_matrix_read(&m, r, 0, K, got);
            for (int i = 0; i < K; i++) ck_assert_msg(got[i] == want[i], "%s row %d value %d: %g not %g", ad_dtype_name(types[a]), r, i, (double)got[i], (double)want[i]);
        }
        free(file), free(panels);
    }
}
END_TEST

START_TEST(quantised_activations_are_the_same_bytes_on_every_cpu_and_a_nan_spoils_its_block)
{
    tables t = all_tables();
    for (int k = 1; k < 200; k += 9) {
        size_t stride = ad_act_stride(AD_ACT_INT8, k), blocks = (size_t)(k + 31) / 32;
        char *want = calloc(1, stride), *got = calloc(1, stride);
        float *x = new_noise((size_t)k), *scales = (float *)(void *)(got + blocks * 32);
        for (int i = 0; i < k && i < 32; i++) x[i] *= 1e-33f; /* a block that counts as zeros */
        t.k[0].quantise(want, x, 0, k, k);
        for (int a = 0; a < t.n; a++) {
            memset(got, 0, stride);
            for (int begin = 0; begin < k; begin += 64) t.k[a].quantise(got, x + begin, begin, begin + 64 < k ? begin + 64 : k, k);
            ck_assert_msg(!memcmp(want, got, stride), "%s, %d", t.k[a].name, k);
            for (size_t b = 0; b < blocks; b++) ck_assert(isfinite(scales[b]));
            float was = x[k - 1];
            x[k - 1] = a % 2 ? NAN : -INFINITY;
            t.k[a].quantise(got, x, 0, k, k);
            ck_assert(!isfinite(scales[blocks - 1]));
            x[k - 1] = was;
        }
        free(want), free(got), free(x);
    }
}
END_TEST

START_TEST(bf16_rounds_to_nearest_even)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++)
        for (int n = 1; n < 70; n++) {
            float *x = new_noise((size_t)n);
            uint16_t h[72] = {0};
            for (int i = 0; i < n; i++) x[i] = i % 9 == 0 ? 1.00390625f : i % 13 == 0 ? (i % 2 ? NAN : INFINITY) : 300 * x[i];
            t.k[a].to_bf16(h, x, n);
            for (int i = 0; i < n; i++) ck_assert_msg(h[i] == ad_f32_to_bf16(x[i]), "%s: %g", t.k[a].name, (double)x[i]);
            ck_assert_uint_eq(h[n], 0);
            free(x);
        }
}
END_TEST

/* ---- element by element ---- */

START_TEST(norm_rope_swiglu_and_scale_add_are_right_for_any_length)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++) {
        for (int n = 1; n < 150; n += n < 70 ? 1 : 13) {
            const ad_kernels *kn = &t.k[a];
            size_t len = (size_t)n, blocks = (len + 31) / 32;
            float *x = new_noise(len), *w = new_noise(len), *y = new_guarded(len), *h = new_guarded(len), *squares = new_guarded(blocks), *v = new_guarded(2 * len), *old = new_noise(2 * len);
            for (int with = 0; with < 2; with++) {
                memcpy(h, x, len * sizeof *h);
                kn->add_norm(y, h, with ? old : NULL, w, squares, n);
                double sum = 0, got = 0;
                for (int i = 0; i < n; i++) {
                    float want = with ? x[i] + old[i] : x[i];
                    ck_assert_float_eq(h[i], want);
                    ck_assert_float_eq(y[i], w[i] * want);
                    sum += (double)want * (double)want;
                }
                for (size_t b = 0; b < blocks; b++) got += (double)squares[b];
                ck_assert_double_eq_tol(got, sum, 1e-5);
            }
            kn->rope(v, old, 0.5f, x, w, n); /* x, w stand for cosine and sine */
            for (int i = 0; i < n; i++) {
                ck_assert_double_eq_tol((double)v[i], 0.5 * ((double)old[i] * (double)x[i] - (double)old[i + n] * (double)w[i]), 1e-6);
                ck_assert_double_eq_tol((double)v[i + n], 0.5 * ((double)old[i + n] * (double)x[i] + (double)old[i] * (double)w[i]), 1e-6);
            }
            kn->swiglu(y, x, w, 20, n);
            for (int i = 0; i < n; i++) {
                double g = 20 * (double)x[i];
                ck_assert_double_eq_tol((double)y[i], g / (1 + exp(-g)) * 20 * (double)w[i], 1e-4);
            }
            kn->scale_add(y, x, 3, w, n);
            for (int i = 0; i < n; i++) ck_assert_float_eq_tol(y[i], 3 * x[i] + w[i], 1e-6f);
            kn->scale_add(y, y, 2, NULL, n);
            for (int i = 0; i < n; i++) ck_assert_float_eq_tol(y[i], 6 * x[i] + 2 * w[i], 2e-6f);
            free_guarded(y, len), free_guarded(h, len), free_guarded(squares, blocks), free_guarded(v, 2 * len);
            free(x), free(w), free(old);
        }
    }
}
END_TEST

/* The distance in units in the last place. */
static double ulps(float got, double want)
{
    float near = (float)want;
    double unit = (double)nextafterf(fabsf(near), INFINITY) - (double)fabsf(near);
    return fabs((double)got - want) / unit;
}

START_TEST(the_exponential_is_within_a_unit_in_the_last_place_and_two_among_denormals)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++) {
        double worst = 0, worst_small = 0;
        for (double x = -103.9; x <= 0; x += 1.37e-4) {
            /* A lone number among -inf: the sum is its exponential. */
            float v[16];
            for (int i = 0; i < 16; i++) v[i] = -INFINITY;
            v[3] = (float)x;
            float got = (float)t.k[a].sum_exp(v, 16, 0);
            double off = ulps(got, exp((double)v[3]));
            if (x > -87.3) worst = off > worst ? off : worst;
            else worst_small = off > worst_small ? off : worst_small;
        }
        ck_assert_msg(worst <= 1.01, "%s: %g", t.k[a].name, worst);
        ck_assert_msg(worst_small <= 2.01, "%s: %g", t.k[a].name, worst_small);
    }
}
END_TEST

START_TEST(extreme_scores_neither_overflow_nor_vanish)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++) {
        float x[20];
        for (int i = 0; i < 20; i++) x[i] = i == 7 ? 3e38f : -3e38f;
        ck_assert_double_eq(t.k[a].sum_exp(x, 20, 3e38f), 1.0);
        float gate[3] = {-3e38f, 3e38f, -200}, up[3] = {1, 1, 1};
        t.k[a].swiglu(gate, gate, up, 1, 3);
        ck_assert_msg(fabsf(gate[0]) < 1e-30f || gate[0] == 0, "%s: %g", t.k[a].name, (double)gate[0]);
        ck_assert_float_eq(gate[1], 3e38f);
        ck_assert(fabsf(gate[2]) < 1e-30f);
    }
}
END_TEST

/* Values that a half holds exactly, so that both kinds of pages have the same answer. */
static void *new_halves(const float *from, size_t n)
{
    uint16_t *h = calloc(n, sizeof *h);
    for (size_t i = 0; i < n; i++) h[i] = ad_f32_to_f16(from[i]);
    return h;
}

/* Pages of one kv head: keys [hd, 16], values [16, hd]; read by position below. */
typedef struct {
    float *numbers; /* [n_pages][2][16 * hd] */
    const void **keys, **vals;
    int n_pages, hd;
    bool half;
} kv_pages;

static kv_pages new_pages(int n_ctx, int hd, bool half)
{
    kv_pages kv = {.n_pages = (n_ctx + AD_KV_PAGE - 1) / AD_KV_PAGE, .hd = hd, .half = half};
    size_t block = AD_KV_PAGE * (size_t)hd;
    kv.numbers = new_noise(2 * block * (size_t)kv.n_pages);
    kv.keys = calloc((size_t)kv.n_pages, sizeof *kv.keys), kv.vals = calloc((size_t)kv.n_pages, sizeof *kv.vals);
    for (size_t i = 0; i < 2 * block * (size_t)kv.n_pages; i++) kv.numbers[i] = ad_f16_to_f32(ad_f32_to_f16(kv.numbers[i]));
    for (int p = 0; p < kv.n_pages; p++) {
        const float *k = kv.numbers + 2 * block * (size_t)p;
        kv.keys[p] = half ? new_halves(k, block) : k;
        kv.vals[p] = half ? new_halves(k + block, block) : k + block;
    }
    return kv;
}

static void free_pages(kv_pages *kv)
{
    for (int p = 0; kv->half && p < kv->n_pages; p++) free((void *)kv->keys[p]), free((void *)kv->vals[p]);
    free(kv->numbers), free(kv->keys), free(kv->vals);
}

static float key_at(const kv_pages *kv, int pos, int d)
{
    return kv->numbers[(size_t)(2 * (pos / AD_KV_PAGE)) * AD_KV_PAGE * (size_t)kv->hd + (size_t)(d * AD_KV_PAGE + pos % AD_KV_PAGE)];
}

static float value_at(const kv_pages *kv, int pos, int d)
{
    return kv->numbers[(size_t)(2 * (pos / AD_KV_PAGE) + 1) * AD_KV_PAGE * (size_t)kv->hd + (size_t)(pos % AD_KV_PAGE * kv->hd + d)];
}

static void check_attend(const ad_kernels *kn, bool half, int rows, int n_ctx, int group, int hd)
{
    int last = n_ctx + rows - 1;
    size_t ld = (size_t)(group * hd) + 3, n_tmp = (size_t)(rows * group) * (((size_t)n_ctx + (size_t)rows + 15) / 16 * 16);
    kv_pages kv = new_pages(last, hd, half);
    float *q = new_noise(ld * (size_t)rows), *out = new_guarded(ld * (size_t)rows), *tmp = new_guarded(n_tmp), scale = 1.0f / sqrtf((float)hd);
    double *s = calloc((size_t)last, sizeof *s);
    kn->attend(out, q, ld, kv.keys, kv.vals, half, rows, n_ctx, group, hd, scale, tmp);
    for (int i = 0; i < rows; i++) {
        float *alone = new_guarded(ld);
        kn->attend(alone, q + (size_t)i * ld, ld, kv.keys, kv.vals, half, 1, n_ctx + i, group, hd, scale, tmp);
        ck_assert_msg(!memcmp(alone, out + (size_t)i * ld, (size_t)(group * hd) * sizeof *out), "%s attend: row %d of %d depends on the others", kn->name, i, rows);
        free_guarded(alone, ld);
        for (int g = 0; g < group; g++) {
            const float *query = q + (size_t)i * ld + g * hd;
            double top = -INFINITY, sum = 0;
            for (int p = 0; p < n_ctx + i; p++) {
                s[p] = 0;
                for (int d = 0; d < hd; d++) s[p] += (double)query[d] * (double)key_at(&kv, p, d);
                s[p] *= (double)scale;
                top = fmax(top, s[p]);
            }
            for (int p = 0; p < n_ctx + i; p++) sum += s[p] = exp(s[p] - top);
            for (int d = 0; d < hd; d++) {
                double want = 0;
                for (int p = 0; p < n_ctx + i; p++) want += s[p] / sum * (double)value_at(&kv, p, d);
                ck_assert_msg(fabs((double)out[(size_t)i * ld + (size_t)(g * hd + d)] - want) < 5e-6, "%s attend: half %d, row %d, %d positions, group %d, head %d", kn->name, half, i, n_ctx, group, hd);
            }
        }
    }
    free_guarded(out, ld * (size_t)rows), free_guarded(tmp, n_tmp);
    free_pages(&kv);
    free(q), free(s);
}

START_TEST(halves_round_to_nearest_even)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++)
        for (int n = 1; n < 70; n++) {
            float *x = new_noise((size_t)n);
            uint16_t h[72] = {0};
            for (int i = 0; i < n; i++) x[i] = i % 9 == 0 ? 1e-7f * x[i] : i % 13 == 0 ? 70000 : 300 * x[i];
            t.k[a].to_half(h, x, n);
            for (int i = 0; i < n; i++) ck_assert_uint_eq(h[i], ad_f32_to_f16(x[i]));
            ck_assert_uint_eq(h[n], 0);
            free(x);
        }
}
END_TEST

START_TEST(attention_over_pages_is_softmax_of_scores_times_values)
{
    tables t = all_tables();
    static const int lengths[] = {1, 2, 15, 16, 17, 33, 100}, rows[] = {1, 2, 5, 8};
    for (int a = 0; a < t.n; a++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                for (int group = 1; group <= 9; group += 2)
                    for (int half = 0; half < 2; half++) {
                        check_attend(&t.k[a], half, rows[r], lengths[i], group, 64);
                        check_attend(&t.k[a], half, rows[r], lengths[i], group, 20);
                    }
}
END_TEST

START_TEST(a_nan_score_makes_its_row_nan)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++) {
        float kv[16 * 16], q[16], out[16], tmp[32];
        for (int i = 0; i < 16 * 16; i++) kv[i] = noise();
        for (int i = 0; i < 16; i++) q[i] = noise();
        kv[2 * 16 + 5] = NAN;
        const void *page = kv;
        t.k[a].attend(out, q, 16, &page, &page, false, 1, 9, 1, 16, 0.25f, tmp);
        for (int i = 0; i < 16; i++) ck_assert_msg(isnan(out[i]), "%s", t.k[a].name);
    }
}
END_TEST

START_TEST(argmax_takes_the_first_of_equals_and_sees_every_nan)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++) {
        for (int n = 1; n < 80; n++) {
            float x[80], max;
            for (int i = 0; i < n; i++) x[i] = -5 - (float)((i * 7) % 11);
            for (int at = 0; at < n; at++) {
                float was = x[at];
                x[at] = 1;
                ck_assert_int_eq(t.k[a].argmax(x, n, &max), at);
                ck_assert_float_eq(max, 1);
                float last = x[n - 1];
                x[n - 1] = 1;
                ck_assert_int_eq(t.k[a].argmax(x, n, &max), at);
                x[n - 1] = last;
                x[at] = NAN;
                ck_assert_int_eq(t.k[a].argmax(x, n, &max), -1);
                x[at] = was;
            }
            for (int i = 0; i < n; i++) x[i] = -INFINITY;
            ck_assert_int_eq(t.k[a].argmax(x, n, &max), 0);
        }
    }
}
END_TEST

START_TEST(sum_exp_adds_in_double_precision)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++)
        for (int n = 1; n < 3000; n = n * 3 / 2 + 1) {
            float *x = new_noise((size_t)n);
            double want = 0;
            for (int i = 0; i < n; i++) want += exp((double)x[i] * 9 - 9);
            for (int i = 0; i < n; i++) x[i] *= 9;
            ck_assert_msg(fabs(t.k[a].sum_exp(x, n, 9) - want) < 2e-6 * want, "%s %d", t.k[a].name, n);
            free(x);
        }
}
END_TEST

START_TEST(feature_names_parse_and_unknown_ones_do_not)
{
    unsigned mask = 77;
    ck_assert(ad_cpu_parse("none", &mask) && mask == 0);
    ck_assert(ad_cpu_parse("auto", &mask) && mask == ad_cpu_detect());
    ck_assert(ad_cpu_parse("avx2,avx512", &mask) && mask == (AD_CPU_AVX2 | AD_CPU_AVX512));
    ck_assert(!ad_cpu_parse("avx2,", &mask) && !ad_cpu_parse("sse9", &mask) && !ad_cpu_parse("", &mask));
    ck_assert_uint_eq(mask, AD_CPU_AVX2 | AD_CPU_AVX512);
    ck_assert_str_eq(ad_cpu_name(AD_CPU_AVX512_BF16), "avx512_bf16");
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench_kernels();
    if (argc > 2 && !strcmp(argv[1], "--bandwidth")) return bench_bandwidth(argv[2]);
    Suite *suite = suite_create("kernels");
    TCase *t = tcase_create("kernels");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, f32_gemm_is_right_and_its_rows_keep_their_bits);
    tcase_add_test(t, bf16_gemm_is_right_and_its_rows_keep_their_bits);
    tcase_add_test(t, int8_gemm_is_right_and_its_rows_keep_their_bits);
    tcase_add_test(t, int4_gemm_is_right_and_its_rows_keep_their_bits);
    tcase_add_test(t, a_gemm_over_ranges_of_inputs_adds_up);
    tcase_add_test(t, f32_gemm_agrees_with_blas);
    tcase_add_test(t, packed_weights_read_back_within_half_a_step);
    tcase_add_test(t, lanes_packed_in_pieces_make_the_same_panel);
    tcase_add_test(t, four_bit_blocks_and_eight_bit_ones_are_repacked_exactly);
    tcase_add_test(t, quantised_activations_are_the_same_bytes_on_every_cpu_and_a_nan_spoils_its_block);
    tcase_add_test(t, bf16_rounds_to_nearest_even);
    tcase_add_test(t, norm_rope_swiglu_and_scale_add_are_right_for_any_length);
    tcase_add_test(t, the_exponential_is_within_a_unit_in_the_last_place_and_two_among_denormals);
    tcase_add_test(t, extreme_scores_neither_overflow_nor_vanish);
    tcase_add_test(t, attention_over_pages_is_softmax_of_scores_times_values);
    tcase_add_test(t, halves_round_to_nearest_even);
    tcase_add_test(t, a_nan_score_makes_its_row_nan);
    tcase_add_test(t, argmax_takes_the_first_of_equals_and_sees_every_nan);
    tcase_add_test(t, sum_exp_adds_in_double_precision);
    tcase_add_test(t, feature_names_parse_and_unknown_ones_do_not);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
