/* SPDX-License-Identifier: MIT */
/* AVX2 with FMA: 8 floats a register, 16 registers, mask vectors for the tails. Any thread. */
#include <immintrin.h>

#include "core/tensor/kernels.h"

#define LANES 8
#define MAX_ROWS 3 /* 12 accumulators + 3 of rows + 1 of weights */
#define EXPAND_COLS 2

typedef __m256 vec;
typedef __m256d vecd;

#define vload(p) _mm256_loadu_ps(p)
#define vstore(p, v) _mm256_storeu_ps(p, v)
#define vload_half(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define vstore_half(p, v) _mm_storeu_si128((__m128i *)(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT))
#define vset(x) _mm256_set1_ps(x)
#define vadd(a, b) _mm256_add_ps(a, b)
#define vsub(a, b) _mm256_sub_ps(a, b)
#define vmul(a, b) _mm256_mul_ps(a, b)
#define vdiv(a, b) _mm256_div_ps(a, b)
#define vmax(a, b) _mm256_max_ps(a, b)
#define vfma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define vsetd(x) _mm256_set1_pd(x)
#define vhas_nan(v) (_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0)

static inline __m256i first(int n)
{
    static const int ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(ones + LANES - n));
}

static inline vec vload_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, first(n));
}

static inline void vstore_n(float *p, vec v, int n)
{
    _mm256_maskstore_ps(p, first(n), v);
}

static inline float vlargest(vec v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

static inline int vfind(vec v, float x)
{
    int m = _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(x), _CMP_EQ_OQ));
    return m ? __builtin_ctz((unsigned)m) : -1;
}

#include "core/tensor/exp_poly.h"

/* 2^n for the whole numbers -126 .. 127. */
static inline vec power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* The same polynomial as in kernels_avx512.c. 2^n is applied in two halves: the first is exact, the second rounds
 * once where the result is denormal and reaches 0 and inf beyond the range. */
static inline vec vexp(vec x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-110.0f), _mm256_min_ps(_mm256_set1_ps(90.0f), x));
    vec n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
    vec p = exp_poly(r);
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}

static inline __m128 vsum4(vec a, vec b, vec c, vec d)
{
    vec ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    vec cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    vec s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee)); /* elements 2 apart */
    s = _mm256_add_ps(_mm256_shuffle_ps(s, s, 0x88), _mm256_shuffle_ps(s, s, 0xdd));         /* a c a c | b d b d */
    return _mm_unpacklo_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

static inline void vadd_f64(vecd s[2], vec v)
{
    s[0] = _mm256_add_pd(s[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    s[1] = _mm256_add_pd(s[1], _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}

static inline double vsum_f64(const vecd s[2])
{
    vecd t = _mm256_add_pd(s[0], s[1]);
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(t), _mm256_extractf128_pd(t, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

#include "core/tensor/kernels_vec.h"

void ad_kernels_init_avx2(ad_kernels *k)
{
    fill(k, "avx2");
}
