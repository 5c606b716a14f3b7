/* SPDX-License-Identifier: MIT */
/* The only file that knows cblas. */
#include "core/tensor/gemm.h"

#include <cblas.h>
#include <pthread.h>

/* Our own threads split the work; BLAS threads beside them would fight for the same cores. */
static void use_one_thread(void)
{
    openblas_set_num_threads(1);
}

void ad_gemm_blas_nt(float *y, size_t ldy, const float *x, size_t ldx, const float *w, int m, int n, int k)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, use_one_thread);
    if (m <= 0 || n <= 0) return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, x, (blasint)ldx, w, k > 0 ? k : 1, 0.0f, y,
                (blasint)ldy);
}

const char *ad_gemm_blas_name(void)
{
    return openblas_get_config();
}
