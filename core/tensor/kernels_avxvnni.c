/* SPDX-License-Identifier: MIT */
/* AVX-VNNI: the dot product of bytes for CPUs that have it without AVX-512. Any thread. */
#include <immintrin.h>

#include "core/tensor/kernels.h"

#define qstart(p) qall(p)
#define qdot8(s, w, p) _mm256_dpbusd_avx_epi32(s, w, qall(p))
#define qdot4(s, w, p) qdot8(s, w, p)

#include "core/tensor/kernels_quant256.h"

void ad_kernels_init_avxvnni(ad_kernels *k)
{
    fill_quant(k);
    k->name = "avx2+vnni";
}
