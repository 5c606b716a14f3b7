/* SPDX-License-Identifier: MIT */
/* The kernel table: plain C defines each answer, CPU-specific files replace slots at start. Any thread;
 * no slot allocates or locks. Every slot reduces in an order fixed by the shape of ONE row (k, never m or n), so a
 * row's result does not depend on which or how many other rows are in the call, bit for bit. */
#ifndef AD_TENSOR_KERNELS_H
#define AD_TENSOR_KERNELS_H

#include "core/tensor/pack.h"

/* CPU features, detected at run time; a mask may switch some off (tests, --cpu-features). */
enum {
    AD_CPU_AVX2 = 1,   /* AVX2 + FMA + F16C */
    AD_CPU_AVX512 = 2, /* AVX-512 F/BW/DQ/VL */
    AD_CPU_AVX512_VNNI = 4,
    AD_CPU_AVX512_BF16 = 8,
    AD_CPU_AVX_VNNI = 16,
};
unsigned ad_cpu_detect(void);
/* "auto" (what is detected), "none", or names joined by commas: "avx2,avx512". False when a name is unknown;
 * *mask is then untouched. Names need not be present on this CPU: the caller compares with ad_cpu_detect. */
bool ad_cpu_parse(const char *list, unsigned *mask);
const char *ad_cpu_name(unsigned bit); /* "avx2" and so on, for one bit of the mask */

enum { AD_KV_PAGE = 16 }; /* positions per page of the KV cache */

/* y[m, n] (row stride ldy, in floats) = x[m, k] W[n, k]^T, or with `add` y += (F32 and BF16 only).
 * x: rows of activations in the weight type's form, ldx bytes apart. w: the first panel; n counts from its first
 * column; panels are panel_bytes apart (more than k needs when only a range of inputs is multiplied: w and x then point
 * at its first value). Each output is summed over k in one chain, in order. INT types: one exact integer sum per
 * block, then sum over blocks of float(sum) * (weight scale * activation scale) [+ minimum * activation sum]. */
typedef void (*ad_gemm_fn)(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add);

typedef struct {
    const char *name; /* "c", "avx2", "avx512-vnni-bf16" ...: for logs and /metrics */

    ad_gemm_fn gemm[AD_PACK_KINDS];

    /* Floats [begin, end) of a row of `cols` into the row's INT8 form (see ad_act): begin is a multiple of 32, end too or
     * the row's end. scale = max |x| / 127, to the nearest. A block with a NaN or infinity gets a scale that is none. */
    void (*quantise)(void *row, const float *x, int begin, int end, int cols);
    /* dst[n] = src[n] rounded to nearest even; infinities and NaN stay what they are. */
    void (*to_bf16)(uint16_t *dst, const float *src, int n);
    void (*to_half)(uint16_t *dst, const float *src, int n); /* IEEE half; too large becomes infinite */

    /* h[n] += y[n] (y may be NULL), x[n] = w[n] * h[n]; squares[i] = sum of h^2 over block i of 32. n is any, h and x begin at
     * a block. The RMS norm of the row is x / sqrt(sum of squares / cols + eps). */
    void (*add_norm)(float *x, float *h, const float *y, const float *w, float *squares, int n);

    /* dst[2 half] = scale * src turned: (v[i], v[i + half]) by the angle of cos[i], sin[i]. dst may be src. */
    void (*rope)(float *dst, const float *src, float scale, const float *cos, const float *sin, int half);

    /* y[n] = silu(scale * gate[n]) * (scale * up[n]). y may be gate or up. */
    void (*swiglu)(float *y, const float *gate, const float *up, float scale, int n);

    /* y[n] = scale * x[n] (+ bias[n] unless NULL). y may be x. */
    void (*scale_add)(float *y, const float *x, float scale, const float *bias, int n);

    /* `rows` query rows at neighbouring positions of one sequence, for the `group` query heads that share one kv head.
     * q, out: row i, head g at [i * ld + g * hd]. Row i attends to n_ctx + i positions. keys, vals: a pointer to the kv
     * head's part of each page: keys transposed [hd, AD_KV_PAGE], values [AD_KV_PAGE, hd]; f32 or (half) IEEE half.
     * score = scale * q.k, softmax in f32, out = sum p v. tmp: rows * group * (n_ctx + rows rounded up to 16) floats. */
    void (*attend)(float *out, const float *q, size_t ld, const void *const *keys, const void *const *vals, bool half, int rows, int n_ctx,
                   int group, int hd, float scale, float *tmp);

    /* Index of the largest value (lowest index on ties); *max gets it. NaN anywhere gives -1. */
    int (*argmax)(const float *x, int n, float *max);
    /* sum over i of exp(x[i] - max), in f64 partial sums of fixed order. */
    double (*sum_exp)(const float *x, int n, float max);
} ad_kernels;

/* Fills every slot with its C version, then overrides by what `cpu` (a mask of AD_CPU_*, all of which this CPU
 * must have) allows. */
void ad_kernels_init(ad_kernels *k, unsigned cpu);
void ad_kernels_init_avx2(ad_kernels *k);
void ad_kernels_init_avxvnni(ad_kernels *k);
void ad_kernels_init_avx512(ad_kernels *k);
void ad_kernels_init_avx512vnni(ad_kernels *k);
void ad_kernels_init_avx512bf16(ad_kernels *k);

#endif
