/* SPDX-License-Identifier: MIT */
/* AVX-512 (F, BW, DQ, VL): 16 floats a register, 32 registers, masks for the tails. Any thread. */
#include <immintrin.h>

#include "core/tensor/kernels.h"

#define LANES 16
#define MAX_ROWS 6 /* 24 accumulators + 4 of weights + 1 of a row */
#define EXPAND_COLS 4

typedef __m512 vec;
typedef __m512d vecd;

#define vload(p) _mm512_loadu_ps(p)
#define vstore(p, v) _mm512_storeu_ps(p, v)
#define vload_half(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define vstore_half(p, v) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define vset(x) _mm512_set1_ps(x)
#define vadd(a, b) _mm512_add_ps(a, b)
#define vsub(a, b) _mm512_sub_ps(a, b)
#define vmul(a, b) _mm512_mul_ps(a, b)
#define vdiv(a, b) _mm512_div_ps(a, b)
#define vmax(a, b) _mm512_max_ps(a, b)
#define vfma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define vlargest(v) _mm512_reduce_max_ps(v)
#define vsetd(x) _mm512_set1_pd(x)
#define vhas_nan(v) (_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0)

static inline __mmask16 first(int n)
{
    return (__mmask16)((1u << n) - 1);
}

static inline vec vload_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(first(n), p);
}

static inline void vstore_n(float *p, vec v, int n)
{
    _mm512_mask_storeu_ps(p, first(n), v);
}

static inline int vfind(vec v, float x)
{
    unsigned m = _mm512_cmp_ps_mask(v, _mm512_set1_ps(x), _CMP_EQ_OQ);
    return m ? __builtin_ctz(m) : -1;
}

#include "core/tensor/exp_poly.h"

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2: a polynomial of degree 6 whose error is below a
 * fifth of a unit in the last place; measured over all floats, the result is within 1 unit (tests/kernels).
 * scalef rounds once where the result is denormal and gives 0 and inf beyond the range; a NaN stays one. */
static inline vec vexp(vec x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-110.0f), _mm512_min_ps(_mm512_set1_ps(90.0f), x));
    vec n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
    vec p = exp_poly(r);
    return _mm512_scalef_ps(p, n);
}

/* Each pair of registers is folded into one of its halves' sums, each pair of those into one of quarters. */
static inline __m128 vsum4(vec a, vec b, vec c, vec d)
{
    vec ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    vec cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    vec s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e)); /* elements 2 apart */
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1)); /* elements 1 apart */
    return _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, s));
}

static inline void vadd_f64(vecd s[2], vec v)
{
    s[0] = _mm512_add_pd(s[0], _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
    s[1] = _mm512_add_pd(s[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
}

static inline double vsum_f64(const vecd s[2])
{
    return _mm512_reduce_add_pd(_mm512_add_pd(s[0], s[1]));
}

#include "core/tensor/kernels_vec.h"

void ad_kernels_init_avx512(ad_kernels *k)
{
    fill(k, "avx512");
}
