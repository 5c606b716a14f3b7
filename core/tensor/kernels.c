/* SPDX-License-Identifier: MIT */
/* The kernels in plain C: each function here is the definition of its slot, and what runs where no CPU-specific
 * version exists. Sums run in 16 lanes (element i into lane i mod 16) and end in one fixed tree, which any
 * compiler can vectorise without being allowed to reorder anything. Any thread. */
#include "core/tensor/kernels.h"

#include <math.h>
#include <string.h>

#include "core/tensor/dtype.h"

#define LANES 16

static float sum_lanes(float *s)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}

static float dot(const float *a, const float *b, int k)
{
    float s[LANES] = {0};
    int i = 0;
    for (; i + LANES <= k; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] += a[i + l] * b[i + l];
    for (int l = 0; i + l < k; l++) s[l] += a[i + l] * b[i + l];
    return sum_lanes(s);
}

static void gemm_nt(float *y, size_t ldy, const float *x, size_t ldx, const float *w, int m, int n, int k)
{
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) y[i * ldy + j] = dot(x + i * ldx, w + (size_t)j * k, k);
}

static void expand_add(float *y, size_t ldy, const float *t, size_t ldt, const float *bt, size_t ldb, int m, int n, int r)
{
    for (int i = 0; i < m; i++)
        for (int p = 0; p < r; p++)
            for (int j = 0; j < n; j++) y[i * ldy + j] += t[i * ldt + p] * bt[p * ldb + j];
}

static void rmsnorm(float *y, const float *x, const float *w, int k, float eps)
{
    float inv = 1.0f / sqrtf(dot(x, x, k) / (float)k + eps);
    for (int i = 0; i < k; i++) y[i] = w[i] * (x[i] * inv);
}

static void rope(float *v, const float *cos, const float *sin, int half)
{
    for (int i = 0; i < half; i++) {
        float a = v[i], b = v[i + half];
        v[i] = a * cos[i] - b * sin[i];
        v[i + half] = b * cos[i] + a * sin[i];
    }
}

static void swiglu(float *gate, const float *up, int k)
{
    for (int i = 0; i < k; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static void add(float *y, const float *x, int k)
{
    for (int i = 0; i < k; i++) y[i] += x[i];
}

static float largest(const float *x, int n)
{
    float m = -INFINITY;
    for (int i = 0; i < n; i++)
        if (x[i] > m) m = x[i];
    return m;
}

/* Turns scores into weights that sum to one. A NaN score is not seen by the maximum, but its weight is NaN, and
 * with it the sum and the whole row. */
static void softmax(float *s, int n)
{
    float m = largest(s, n), sum[LANES] = {0};
    for (int i = 0; i < n; i++) {
        s[i] = expf(s[i] - m);
        sum[i % LANES] += s[i];
    }
    float inv = 1.0f / sum_lanes(sum);
    for (int i = 0; i < n; i++) s[i] *= inv;
}

static void to_half(void *dst, const float *src, int n)
{
    uint16_t *d = dst;
    for (int i = 0; i < n; i++) d[i] = ad_f32_to_f16(src[i]);
}

/* One page as floats: in place, or converted into buf. */
static const float *page_floats(const void *page, bool half, int n, float *buf)
{
    const uint16_t *h = page;
    if (!half) return page;
    for (int i = 0; i < n; i++) buf[i] = ad_f16_to_f32(h[i]);
    return buf;
}

static void attend(float *out, const float *q, const void *const *keys, const void *const *vals, bool half, int page_len, int n_ctx, int group,
                   int hd, float scale, float *tmp)
{
    size_t row = ((size_t)n_ctx + 15) / 16 * 16;
    float *buf = tmp + row * (size_t)group;
    for (int p = 0; p < n_ctx; p++) {
        const float *page = page_floats(keys[p / page_len], half && p % page_len == 0, (n_ctx - p < page_len ? n_ctx - p : page_len) * hd, buf);
        if (half) page = buf;
        for (int g = 0; g < group; g++) tmp[(size_t)g * row + (size_t)p] = scale * dot(q + (size_t)g * (size_t)hd, page + (size_t)(p % page_len) * (size_t)hd, hd);
    }
    for (int g = 0; g < group; g++) softmax(tmp + (size_t)g * row, n_ctx);
    memset(out, 0, sizeof *out * (size_t)group * (size_t)hd);
    for (int p = 0; p < n_ctx; p++) {
        const float *page = page_floats(vals[p / page_len], half && p % page_len == 0, (n_ctx - p < page_len ? n_ctx - p : page_len) * hd, buf);
        if (half) page = buf;
        const float *v = page + (size_t)(p % page_len) * (size_t)hd;
        for (int g = 0; g < group; g++)
            for (int d = 0; d < hd; d++) out[(size_t)g * (size_t)hd + (size_t)d] += tmp[(size_t)g * row + (size_t)p] * v[d];
    }
}

static int argmax(const float *x, int n, float *max)
{
    int best = -1;
    *max = -INFINITY;
    for (int i = 0; i < n; i++) {
        if (isnan(x[i])) {
            *max = NAN;
            return -1;
        }
        if (best < 0 || x[i] > *max) *max = x[best = i];
    }
    return best;
}

static double sum_exp(const float *x, int n, float max)
{
    double s[LANES] = {0};
    for (int i = 0; i < n; i++) s[i % LANES] += (double)expf(x[i] - max);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}

void ad_kernels_init(ad_kernels *k, unsigned cpu)
{
    *k = (ad_kernels){
        .name = "c",
        .gemm_nt = gemm_nt,
        .expand_add = expand_add,
        .rmsnorm = rmsnorm,
        .rope = rope,
        .swiglu = swiglu,
        .add = add,
        .attend = attend,
        .to_half = to_half,
        .argmax = argmax,
        .sum_exp = sum_exp,
    };
#ifdef AD_HAVE_AVX2
    if (cpu & AD_CPU_AVX2) ad_kernels_init_avx2(k);
#endif
#ifdef AD_HAVE_AVX512
    if (cpu & AD_CPU_AVX512) ad_kernels_init_avx512(k);
#endif
    (void)cpu;
}
