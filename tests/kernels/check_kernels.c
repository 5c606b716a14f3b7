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

typedef struct {
    ad_kernels k[3];
    int n;
} tables;

static tables all_tables(void)
{
    unsigned here = ad_cpu_detect(), masks[] = {0, AD_CPU_AVX2, AD_CPU_AVX2 | AD_CPU_AVX512};
    tables t = {.n = 0};
    for (int i = 0; i < 3; i++)
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

/* A sum of k products of numbers below 1 in f32: its error stays far below this. */
static double sum_bound(int k)
{
    return 1e-6 * (1 + sqrt(k));
}

static void check_gemm(const ad_kernels *kn, int m, int n, int k)
{
    size_t ldx = (size_t)k + 3, ldy = (size_t)n + 5;
    float *x = new_noise(ldx * (size_t)m), *w = new_noise((size_t)n * (size_t)k), *y = new_guarded(ldy * (size_t)m);
    kn->gemm_nt(y, ldy, x, ldx, w, m, n, k);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double want = 0;
            for (int p = 0; p < k; p++) want += (double)x[(size_t)i * ldx + (size_t)p] * (double)w[(size_t)j * (size_t)k + (size_t)p];
            ck_assert_msg(fabs((double)y[(size_t)i * ldy + (size_t)j] - want) < sum_bound(k), "%s gemm %dx%dx%d at %d,%d", kn->name, m, n, k, i, j);
        }
        for (size_t j = (size_t)n; j < ldy; j++) ck_assert_float_eq(y[(size_t)i * ldy + j], guard_value);
        float *alone = new_guarded((size_t)n);
        kn->gemm_nt(alone, (size_t)n, x + (size_t)i * ldx, ldx, w, 1, n, k);
        ck_assert_msg(!memcmp(alone, y + (size_t)i * ldy, (size_t)n * sizeof *y), "%s gemm %dx%dx%d: row %d depends on the others", kn->name, m, n, k, i);
        free_guarded(alone, (size_t)n);
    }
    free_guarded(y, ldy * (size_t)m);
    free(x), free(w);
}

START_TEST(gemm_is_right_and_its_rows_keep_their_bits)
{
    static const int ks[] = {1, 7, 8, 15, 16, 17, 31, 33, 64, 100, 576, 1537}, ns[] = {1, 2, 3, 4, 5, 9, 16, 31}, ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 17};
    tables t = all_tables();
    for (int a = 0; a < t.n; a++)
        for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
            for (size_t j = 0; j < sizeof ns / sizeof *ns; j++)
                for (size_t l = 0; l < sizeof ms / sizeof *ms; l++) check_gemm(&t.k[a], ms[l], ns[j], ks[i]);
    for (int a = 0; a < t.n; a++) check_gemm(&t.k[a], 19, 300, 2048); /* several cache blocks of weights */
}
END_TEST

START_TEST(gemm_agrees_with_blas)
{
    tables t = all_tables();
    int m = 9, n = 130, k = 577;
    float *x = new_noise((size_t)(m * k)), *w = new_noise((size_t)(n * k)), *y = new_noise((size_t)(m * n)), *b = new_noise((size_t)(m * n));
    ad_gemm_blas_nt(b, (size_t)n, x, (size_t)k, w, m, n, k);
    for (int a = 0; a < t.n; a++) {
        t.k[a].gemm_nt(y, (size_t)n, x, (size_t)k, w, m, n, k);
        for (int i = 0; i < m * n; i++) ck_assert_float_eq_tol(y[i], b[i], 5e-5f);
    }
    free(x), free(w), free(y), free(b);
}
END_TEST

static void check_expand(const ad_kernels *kn, int m, int n, int r)
{
    size_t ldy = (size_t)n + 3, ldt = (size_t)r + 2, ldb = (size_t)n + 1;
    float *t = new_noise(ldt * (size_t)m), *bt = new_noise(ldb * (size_t)r), *y = new_guarded(ldy * (size_t)m), *before = new_noise(ldy * (size_t)m);
    for (int i = 0; i < m; i++) memcpy(y + (size_t)i * ldy, before + (size_t)i * ldy, (size_t)n * sizeof *y);
    kn->expand_add(y, ldy, t, ldt, bt, ldb, m, n, r);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double want = (double)before[(size_t)i * ldy + (size_t)j];
            for (int p = 0; p < r; p++) want += (double)t[(size_t)i * ldt + (size_t)p] * (double)bt[(size_t)p * ldb + (size_t)j];
            ck_assert_msg(fabs((double)y[(size_t)i * ldy + (size_t)j] - want) < sum_bound(r), "%s expand %dx%dx%d", kn->name, m, n, r);
        }
        for (size_t j = (size_t)n; j < ldy; j++) ck_assert_float_eq(y[(size_t)i * ldy + j], guard_value);
        float *alone = new_guarded((size_t)n);
        memcpy(alone, before + (size_t)i * ldy, (size_t)n * sizeof *alone);
        kn->expand_add(alone, (size_t)n, t + (size_t)i * ldt, ldt, bt, ldb, 1, n, r);
        ck_assert_msg(!memcmp(alone, y + (size_t)i * ldy, (size_t)n * sizeof *y), "%s expand: row %d depends on the others", kn->name, i);
        free_guarded(alone, (size_t)n);
    }
    free_guarded(y, ldy * (size_t)m);
    free(t), free(bt), free(before);
}

START_TEST(expand_is_right_and_its_rows_keep_their_bits)
{
    static const int ns[] = {1, 5, 8, 15, 16, 17, 33, 64, 67, 192, 577}, rs[] = {1, 2, 3, 8, 9, 64}, ms[] = {1, 2, 3, 4, 5, 9};
    tables t = all_tables();
    for (int a = 0; a < t.n; a++)
        for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
            for (size_t j = 0; j < sizeof rs / sizeof *rs; j++)
                for (size_t l = 0; l < sizeof ms / sizeof *ms; l++) check_expand(&t.k[a], ms[l], ns[i], rs[j]);
}
END_TEST

START_TEST(rmsnorm_rope_swiglu_and_add_are_right_for_any_length)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++) {
        for (int n = 1; n < 150; n += n < 70 ? 1 : 13) {
            const ad_kernels *kn = &t.k[a];
            size_t len = (size_t)n;
            float *x = new_noise(len), *w = new_noise(len), *y = new_guarded(len), *v = new_guarded(2 * len), *old = new_noise(2 * len);
            double sum = 0;
            for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
            kn->rmsnorm(y, x, w, n, 1e-5f);
            for (int i = 0; i < n; i++) ck_assert_double_eq_tol((double)y[i], (double)w[i] * (double)x[i] / sqrt(sum / n + 1e-5), 3e-6);

            memcpy(v, old, 2 * len * sizeof *v);
            kn->rope(v, x, w, n); /* x, w stand for cosine and sine */
            for (int i = 0; i < n; i++) {
                ck_assert_double_eq_tol((double)v[i], (double)old[i] * (double)x[i] - (double)old[i + n] * (double)w[i], 1e-6);
                ck_assert_double_eq_tol((double)v[i + n], (double)old[i + n] * (double)x[i] + (double)old[i] * (double)w[i], 1e-6);
            }
            for (int i = 0; i < n; i++) y[i] = x[i] * 20;
            kn->swiglu(y, w, n);
            for (int i = 0; i < n; i++) {
                double g = (double)(x[i] * 20);
                ck_assert_double_eq_tol((double)y[i], g / (1 + exp(-g)) * (double)w[i], 4e-6);
            }
            memcpy(y, x, len * sizeof *y);
            kn->add(y, w, n);
            for (int i = 0; i < n; i++) ck_assert_float_eq(y[i], x[i] + w[i]);
            free_guarded(y, len), free_guarded(v, 2 * len);
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
        t.k[a].swiglu(gate, up, 3);
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

static void check_attend(const ad_kernels *kn, bool half, int n_ctx, int group, int hd, int page_len)
{
    int n_pages = (n_ctx + page_len - 1) / page_len;
    size_t page = (size_t)page_len * (size_t)hd, row = ((size_t)n_ctx + 15) / 16 * 16, n_tmp = (size_t)group * row + page;
    float *kv = new_noise(2 * page * (size_t)n_pages), *q = new_noise((size_t)(group * hd)), *out = new_guarded((size_t)(group * hd)), *tmp = new_guarded(n_tmp);
    for (size_t i = 0; i < 2 * page * (size_t)n_pages; i++) kv[i] = ad_f16_to_f32(ad_f32_to_f16(kv[i]));
    const void **keys = calloc((size_t)n_pages, sizeof *keys), **vals = calloc((size_t)n_pages, sizeof *vals);
    for (int p = 0; p < n_pages; p++) {
        const float *k = kv + (size_t)(2 * p) * page;
        keys[p] = half ? new_halves(k, page) : k;
        vals[p] = half ? new_halves(k + page, page) : k + page;
    }
    float scale = 1.0f / sqrtf((float)hd);
    kn->attend(out, q, keys, vals, half, page_len, n_ctx, group, hd, scale, tmp);
    double *s = calloc((size_t)n_ctx, sizeof *s);
    for (int g = 0; g < group; g++) {
        double top = -INFINITY, sum = 0;
        for (int p = 0; p < n_ctx; p++) {
            const float *k = kv + (size_t)(2 * (p / page_len)) * page + (size_t)(p % page_len) * (size_t)hd;
            s[p] = 0;
            for (int d = 0; d < hd; d++) s[p] += (double)q[g * hd + d] * (double)k[d];
            s[p] *= (double)scale;
            top = fmax(top, s[p]);
        }
        for (int p = 0; p < n_ctx; p++) sum += s[p] = exp(s[p] - top);
        for (int d = 0; d < hd; d++) {
            double want = 0;
            for (int p = 0; p < n_ctx; p++) want += s[p] / sum * (double)kv[(size_t)(2 * (p / page_len) + 1) * page + (size_t)(p % page_len) * (size_t)hd + (size_t)d];
            ck_assert_msg(fabs((double)out[g * hd + d] - want) < 5e-6, "%s attend: half %d, %d positions, group %d, head %d", kn->name, half, n_ctx, group, hd);
        }
    }
    for (int p = 0; half && p < n_pages; p++) free((void *)keys[p]), free((void *)vals[p]);
    free_guarded(out, (size_t)(group * hd)), free_guarded(tmp, n_tmp);
    free(kv), free(q), free(keys), free(vals), free(s);
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
    static const int lengths[] = {1, 2, 15, 16, 17, 31, 33, 100, 257};
    for (int a = 0; a < t.n; a++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            for (int group = 1; group <= 9; group += 2) {
                for (int half = 0; half < 2; half++) {
                    check_attend(&t.k[a], half, lengths[i], group, 64, 16);
                    check_attend(&t.k[a], half, lengths[i], group, 20, 16);
                    check_attend(&t.k[a], half, lengths[i], group, 128, 32);
                }
            }
}
END_TEST

START_TEST(a_nan_score_makes_its_row_nan)
{
    tables t = all_tables();
    for (int a = 0; a < t.n; a++) {
        float kv[16 * 16], q[16], out[16], tmp[16 + 256];
        for (int i = 0; i < 16 * 16; i++) kv[i] = noise();
        for (int i = 0; i < 16; i++) q[i] = noise();
        kv[5 * 16 + 2] = NAN;
        const void *page = kv;
        t.k[a].attend(out, q, &page, &page, false, 16, 9, 1, 16, 0.25f, tmp);
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
    tcase_add_test(t, gemm_is_right_and_its_rows_keep_their_bits);
    tcase_add_test(t, gemm_agrees_with_blas);
    tcase_add_test(t, expand_is_right_and_its_rows_keep_their_bits);
    tcase_add_test(t, rmsnorm_rope_swiglu_and_add_are_right_for_any_length);
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
