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

/* ---- y = x W^T ---- */

/* Values for the 16 outputs of a panel at once: what the vector versions do in registers. */
static void start(float *acc, const float *y, int width, bool add)
{
    for (int l = 0; l < AD_PANEL; l++) acc[l] = add && l < width ? y[l] : 0;
}

static void gemm_f32(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    for (int j = 0; j < n; j += AD_PANEL, w = (const char *)w + panel_bytes)
        for (int i = 0; i < m; i++) {
            const float *xi = (const float *)((const char *)x + (size_t)i * ldx), *p = w;
            float *yi = y + (size_t)i * ldy + j, acc[AD_PANEL];
            int width = n - j < AD_PANEL ? n - j : AD_PANEL;
            start(acc, yi, width, add);
            for (int c = 0; c < k; c++, p += AD_PANEL)
                for (int l = 0; l < AD_PANEL; l++) acc[l] += xi[c] * p[l];
            memcpy(yi, acc, sizeof *yi * (size_t)width);
        }
}

static void gemm_bf16(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    for (int j = 0; j < n; j += AD_PANEL, w = (const char *)w + panel_bytes)
        for (int i = 0; i < m; i++) {
            const uint16_t *xi = (const uint16_t *)((const char *)x + (size_t)i * ldx), *p = w;
            float *yi = y + (size_t)i * ldy + j, acc[AD_PANEL];
            int width = n - j < AD_PANEL ? n - j : AD_PANEL;
            start(acc, yi, width, add);
            for (int c = 0; c < k; c += 2, p += 2 * AD_PANEL) {
                float even = ad_bf16_to_f32(xi[c]), odd = c + 1 < k ? ad_bf16_to_f32(xi[c + 1]) : 0;
                for (int l = 0; l < AD_PANEL; l++) acc[l] += even * ad_bf16_to_f32(p[2 * l]) + odd * ad_bf16_to_f32(p[2 * l + 1]);
            }
            memcpy(yi, acc, sizeof *yi * (size_t)width);
        }
}

/* The parts of a row of INT8 activations. */
typedef struct {
    const int8_t *q;
    const float *scale, *sum;
    const int32_t *offset;
} quantised;

static quantised parts_of(const void *row, int blocks)
{
    const char *at = (const char *)row + (size_t)blocks * AD_BLOCK;
    size_t part = (size_t)blocks * sizeof(float);
    return (quantised){row, (const float *)(const void *)at, (const float *)(const void *)(at + part), (const int32_t *)(const void *)(at + 2 * part)};
}

static void gemm_int8(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    int blocks = (k + AD_BLOCK - 1) / AD_BLOCK;
    (void)add;
    for (int j = 0; j < n; j += AD_PANEL, w = (const char *)w + panel_bytes)
        for (int i = 0; i < m; i++) {
            quantised r = parts_of((const char *)x + (size_t)i * ldx, blocks);
            float acc[AD_PANEL] = {0};
            for (int b = 0; b < blocks; b++) {
                const uint8_t *codes = (const uint8_t *)w + ad_pack_codes_at(AD_PACK_INT8, b);
                const uint16_t *scales = (const uint16_t *)(const void *)((const char *)w + ad_pack_scales_at(AD_PACK_INT8, b));
                for (int l = 0; l < AD_PANEL; l++) {
                    int32_t sum = r.offset[b];
                    for (int c = 0; c < AD_BLOCK; c++) sum += codes[c / 4 * 64 + l * 4 + c % 4] * r.q[b * AD_BLOCK + c];
                    acc[l] += (float)sum * (ad_f16_to_f32(scales[l]) * r.scale[b]);
                }
            }
            memcpy(y + (size_t)i * ldy + j, acc, sizeof *y * (size_t)(n - j < AD_PANEL ? n - j : AD_PANEL));
        }
}

static void gemm_four_bits(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool wide)
{
    int blocks = (k + AD_BLOCK - 1) / AD_BLOCK;
    for (int j = 0; j < n; j += AD_PANEL, w = (const char *)w + panel_bytes)
        for (int i = 0; i < m; i++) {
            quantised r = parts_of((const char *)x + (size_t)i * ldx, blocks);
            float acc[AD_PANEL] = {0};
            for (int b = 0; b < blocks; b++) {
                const uint8_t *codes = (const uint8_t *)w + ad_pack_codes_at(wide ? AD_PACK_INT4W : AD_PACK_INT4, b);
                const void *scales = codes + AD_BLOCK / 2 * AD_PANEL;
                for (int l = 0; l < AD_PANEL; l++) {
                    int32_t sum = 0;
                    for (int c = 0; c < AD_BLOCK; c++) {
                        int both = codes[c / 8 * 64 + l * 4 + c % 4];
                        sum += (c % 8 < 4 ? both & 15 : both >> 4) * r.q[b * AD_BLOCK + c];
                    }
                    float d = wide ? ((const float *)scales)[l] : ad_f16_to_f32(((const uint16_t *)scales)[l]);
                    float min = wide ? ((const float *)scales)[l + AD_PANEL] : ad_f16_to_f32(((const uint16_t *)scales)[l + AD_PANEL]);
                    acc[l] += (float)sum * (d * r.scale[b]);
                    acc[l] += min * r.sum[b];
                }
            }
            memcpy(y + (size_t)i * ldy + j, acc, sizeof *y * (size_t)(n - j < AD_PANEL ? n - j : AD_PANEL));
        }
}

static void gemm_int4(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    (void)add;
    gemm_four_bits(y, ldy, x, ldx, w, panel_bytes, m, n, k, false);
}

static void gemm_int4w(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    (void)add;
    gemm_four_bits(y, ldy, x, ldx, w, panel_bytes, m, n, k, true);
}

/* ---- activations ---- */

static void quantise(void *row, const float *x, int begin, int end, int cols)
{
    int blocks = (cols + AD_BLOCK - 1) / AD_BLOCK;
    int8_t *q = row;
    float *scales = (float *)(void *)((char *)row + (size_t)blocks * AD_BLOCK), *sums = scales + blocks;
    int32_t *offsets = (int32_t *)(void *)(sums + blocks);
    for (int b = begin / AD_BLOCK; b * AD_BLOCK < end; b++) {
        const float *v = x + b * AD_BLOCK - begin;
        int n = end - b * AD_BLOCK < AD_BLOCK ? end - b * AD_BLOCK : AD_BLOCK, sum = 0;
        float top = 0;
        for (int i = 0; i < n; i++) top = fabsf(v[i]) > top || isnan(v[i]) ? fabsf(v[i]) : top; /* a NaN stays: nothing is above it */
        float inverse = top > AD_ACT_TINY && isfinite(top) ? 127.0f / top : 0;
        for (int i = 0; i < AD_BLOCK; i++) {
            int code = i < n && inverse > 0 ? (int)rintf(v[i] * inverse) : 0;
            q[b * AD_BLOCK + i] = (int8_t)code;
            sum += code;
        }
        scales[b] = isfinite(top) ? top / 127.0f : NAN;
        sums[b] = scales[b] * (float)sum;
        offsets[b] = -128 * sum;
    }
}

static void to_bf16(uint16_t *dst, const float *src, int n)
{
    for (int i = 0; i < n; i++) dst[i] = ad_f32_to_bf16(src[i]);
}

static void to_half(uint16_t *dst, const float *src, int n)
{
    for (int i = 0; i < n; i++) dst[i] = ad_f32_to_f16(src[i]);
}

/* ---- element by element ---- */

static void add_norm(float *x, float *h, const float *y, const float *w, float *squares, int n)
{
    for (int b = 0; b < n; b += AD_BLOCK) {
        float s[LANES] = {0};
        for (int i = b; i < n && i < b + AD_BLOCK; i++) {
            if (y) h[i] += y[i];
            x[i] = w[i] * h[i];
            s[i % LANES] += h[i] * h[i];
        }
        squares[b / AD_BLOCK] = sum_lanes(s);
    }
}

static void rope(float *dst, const float *src, float scale, const float *cos, const float *sin, int half)
{
    for (int i = 0; i < half; i++) {
        float a = scale * src[i], b = scale * src[i + half];
        dst[i] = a * cos[i] - b * sin[i];
        dst[i + half] = b * cos[i] + a * sin[i];
    }
}

static void swiglu(float *y, const float *gate, const float *up, float scale, int n)
{
    for (int i = 0; i < n; i++) {
        float g = scale * gate[i];
        y[i] = g / (1.0f + expf(-g)) * (scale * up[i]);
    }
}

static void scale_add(float *y, const float *x, float scale, const float *bias, int n)
{
    for (int i = 0; i < n; i++) y[i] = scale * x[i] + (bias ? bias[i] : 0);
}

/* ---- attention ---- */

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

static float number_at(const void *page, bool half, size_t i)
{
    return half ? ad_f16_to_f32(((const uint16_t *)page)[i]) : ((const float *)page)[i];
}

static void attend_one(float *out, const float *q, const void *const *keys, const void *const *vals, bool half, int n_ctx, int hd, float scale, float *s)
{
    for (int p = 0; p < n_ctx; p++) {
        s[p] = 0;
        for (int d = 0; d < hd; d++) s[p] += q[d] * number_at(keys[p / AD_KV_PAGE], half, (size_t)d * AD_KV_PAGE + (size_t)(p % AD_KV_PAGE));
        s[p] *= scale;
    }
    softmax(s, n_ctx);
    for (int d = 0; d < hd; d++) out[d] = 0;
    for (int p = 0; p < n_ctx; p++)
        for (int d = 0; d < hd; d++) out[d] += s[p] * number_at(vals[p / AD_KV_PAGE], half, (size_t)(p % AD_KV_PAGE) * (size_t)hd + (size_t)d);
}

static void attend(float *out, const float *q, size_t ld, const void *const *keys, const void *const *vals, bool half, int rows, int n_ctx, int group,
                   int hd, float scale, float *tmp)
{
    for (int i = 0; i < rows; i++)
        for (int g = 0; g < group; g++) attend_one(out + (size_t)i * ld + g * hd, q + (size_t)i * ld + g * hd, keys, vals, half, n_ctx + i, hd, scale, tmp);
}

/* ---- whole rows ---- */

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
        .gemm = {gemm_f32, gemm_bf16, gemm_int8, gemm_int4, gemm_int4w},
        .quantise = quantise,
        .to_bf16 = to_bf16,
        .to_half = to_half,
        .add_norm = add_norm,
        .rope = rope,
        .swiglu = swiglu,
        .scale_add = scale_add,
        .attend = attend,
        .argmax = argmax,
        .sum_exp = sum_exp,
    };
#ifdef AD_HAVE_AVX2
    if (cpu & AD_CPU_AVX2) ad_kernels_init_avx2(k);
#endif
#ifdef AD_HAVE_AVXVNNI
    if (cpu & AD_CPU_AVX_VNNI) ad_kernels_init_avxvnni(k);
#endif
#ifdef AD_HAVE_AVX512
    if (cpu & AD_CPU_AVX512) ad_kernels_init_avx512(k);
#endif
#ifdef AD_HAVE_AVX512VNNI
    if (cpu & AD_CPU_AVX512_VNNI) ad_kernels_init_avx512vnni(k);
#endif
#ifdef AD_HAVE_AVX512BF16
    if (cpu & AD_CPU_AVX512_BF16) ad_kernels_init_avx512bf16(k);
#endif
    (void)cpu;
}
