/* SPDX-License-Identifier: MIT */
/* In place of OpenBLAS, and of the measurements, in the cross build. */
#include "core/tensor/gemm.h"
#include "tests/kernels/measure.h"

void ad_gemm_blas_nt(float *y, size_t ldy, const float *x, size_t ldx, const float *w, int m, int n, int k)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int p = 0; p < k; p++) sum += (double)x[(size_t)i * ldx + (size_t)p] * (double)w[(size_t)j * (size_t)k + (size_t)p];
            y[(size_t)i * ldy + (size_t)j] = (float)sum;
        }
}

int bench_kernels(void) { return 2; }
int bench_bandwidth(const char *path) { return path == NULL; }
