/* SPDX-License-Identifier: MIT */
/* AVX-512 (F, BW, DQ, VL): 16 floats a register, 32 registers, masks for the tails. Any thread. */
#include <immintrin.h>
#include <string.h>

#include "core/tensor/kernels.h"

#define LANES 16
#define TILE 24 /* + 4 of weights, 1 of a row */

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

static inline float vsum(vec v)
{
    return _mm512_reduce_add_ps(v);
}

/* ---- bf16 in registers of 32-bit lanes ---- */

static inline vec even_of(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

static inline vec odd_of(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

#define veven(p) even_of(_mm512_loadu_si512(p))
#define vodd(p) odd_of(_mm512_loadu_si512(p))
#define veven_all(p) even_of(_mm512_set1_epi32(*(const int *)(const void *)(p)))
#define vodd_all(p) odd_of(_mm512_set1_epi32(*(const int *)(const void *)(p)))

static inline void vstore_bf16(uint16_t *p, vec v)
{
    __m512i u = _mm512_castps_si512(v), tie = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i near = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(tie, _mm512_set1_epi32(0x7fff))), 16);
    near = _mm512_mask_or_epi32(near, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(near));
}

/* Magnitudes compare as integers, a NaN above all: then the scale is none. */
static inline int quantise_block(int8_t *q, const float *x, float *scale)
{
    __m512 low = vload(x), high = vload(x + 16);
    __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i top = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude), _mm512_and_si512(_mm512_castps_si512(high), magnitude));
    int bits = _mm512_reduce_max_epi32(top);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    bool good = largest > AD_ACT_TINY && largest <= 3.4028235e38f;
    *scale = largest <= 3.4028235e38f ? largest / 127.0f : __builtin_nanf("");
    __mmask16 all = good ? (__mmask16)-1 : 0;
    vec by = _mm512_set1_ps(good ? 127.0f / largest : 0);
    __m512i a = _mm512_maskz_cvtps_epi32(all, vmul(low, by)), b = _mm512_maskz_cvtps_epi32(all, vmul(high, by));
    _mm_storeu_si128((__m128i *)q, _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtepi32_epi8(b));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
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
