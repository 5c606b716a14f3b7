/* SPDX-License-Identifier: MIT */
/* The linked BLAS, as an oracle for our kernels and for merging. One thread at a time: OpenBLAS serialises
 * callers. It keeps no promise on the bits of a row: they change with m and n. */
#ifndef AD_TENSOR_GEMM_H
#define AD_TENSOR_GEMM_H

#include <stddef.h>

/* y[m, n] (row stride ldy) = x[m, k] (row stride ldx) * w[n, k]^T (row-major, stride k). Runs on the calling
 * thread only. */
void ad_gemm_blas_nt(float *y, size_t ldy, const float *x, size_t ldx, const float *w, int m, int n, int k);

/* What was linked, as it describes itself; static. */
const char *ad_gemm_blas_name(void);

#endif
