/* SPDX-License-Identifier: MIT */
/* AVX-512 BF16: two products of bf16 a lane, summed in f32. Denormals count as zero here, unlike in plain C. Any thread. */
#include <immintrin.h>
#include <string.h>

#include "core/tensor/kernels.h"
#include "core/tensor/unroll.h"

INLINE __m512 start(const float *y, bool add, int n)
{
    if (!add || n <= 0) return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps(n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)-1, y);
}

/* rows x panels outputs: each accumulator takes one pair of inputs a step, in order. ahead > 0: asks for what lies so many bytes
 * on, the next panels. */
INLINE void tile(int rows, int panels, size_t ahead, float *y, size_t ldy, const char *x, size_t ldx, const char *w, size_t panel_bytes, int steps, bool add, int width)
{
    __m512 acc[12][4];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int c = 0; c < panels; c++) acc[i][c] = start(y + (size_t)i * ldy + c * AD_PANEL, add, width - c * AD_PANEL);
    for (int p = 0; p < steps; p++) {
        UNROLL for (int c = 0; c < panels; c++)
        {
            const char *at = w + (size_t)c * panel_bytes + (size_t)p * 64;
            __m512bh b = (__m512bh)_mm512_loadu_si512(at);
            if (ahead) __builtin_prefetch(at + ahead);
            UNROLL for (int i = 0; i < rows; i++)
            {
                __m512bh a = (__m512bh)_mm512_set1_epi32(*(const int *)(const void *)(x + (size_t)i * ldx + (size_t)p * 4));
                acc[i][c] = _mm512_dpbf16_ps(acc[i][c], a, b);
            }
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int c = 0; c < panels; c++)
        {
            int n = width - c * AD_PANEL;
            if (n > 0) _mm512_mask_storeu_ps(y + (size_t)i * ldy + c * AD_PANEL, n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)-1, acc[i][c]);
        }
}

/* Full tiles, but the last few shared evenly; one panel has room for more rows. */
static inline int tile_rows(int left, int panels)
{
    if (panels == 1 && left >= 8) return left >= 12 ? 12 : 8;
    if (left <= 6) return left;
    return left >= 12 ? 6 : (left + 1) / 2;
}

INLINE void tile_of(int rows, int panels, size_t ahead, float *y, size_t ldy, const char *x, size_t ldx, const char *w, size_t panel_bytes, int steps, bool add, int width)
{
    switch (rows) {
    case 1: tile(1, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    case 2: tile(2, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    case 3: tile(3, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    case 4: tile(4, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    case 5: tile(5, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    case 6: tile(6, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    case 8: if (panels == 1) tile(8, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    case 12: if (panels == 1) tile(12, panels, ahead, y, ldy, x, ldx, w, panel_bytes, steps, add, width); break;
    }
}

INLINE void strip(int panels, float *y, size_t ldy, const char *x, size_t ldx, const char *w, size_t panel_bytes, int m, int k, bool add, int width)
{
    for (int i = 0, rows; i < m; i += rows, y += (size_t)rows * ldy, x += (size_t)rows * ldx) {
        rows = tile_rows(m - i, panels);
        if (i == 0 && width > panels * AD_PANEL) tile_of(rows, panels, (size_t)panels * panel_bytes, y, ldy, x, ldx, w, panel_bytes, (k + 1) / 2, add, width);
        else tile_of(rows, panels, 0, y, ldy, x, ldx, w, panel_bytes, (k + 1) / 2, add, width);
    }
}

/* A few rows wait for memory, which is fastest as one stream; more rows keep the multipliers busy with four panels at once.
 * A Zen 4 core, 1 row: 33 GB/s by one panel, 27 by four. What is small, such as the factors of an adapter, was fetched before:
 * there it is the chain of one accumulator that takes time, so several go side by side. */
static void gemm_bf16(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    bool small = n <= 8 * AD_PANEL || k <= 8 * AD_PANEL;
    for (int j = 0, panels; j < n; j += panels * AD_PANEL) {
        const char *at = (const char *)w + (size_t)(j / AD_PANEL) * panel_bytes;
        int left = (n - j + AD_PANEL - 1) / AD_PANEL;
        panels = m <= 12 && !small ? 1 : left < 4 ? left : 4;
        switch (panels) {
        case 1: strip(1, y + j, ldy, x, ldx, at, panel_bytes, m, k, add, n - j); break;
        case 2: strip(2, y + j, ldy, x, ldx, at, panel_bytes, m, k, add, n - j); break;
        case 3: strip(3, y + j, ldy, x, ldx, at, panel_bytes, m, k, add, n - j); break;
        default: strip(4, y + j, ldy, x, ldx, at, panel_bytes, m, k, add, n - j);
        }
    }
}

void ad_kernels_init_avx512bf16(ad_kernels *k)
{
    k->gemm[AD_PACK_BF16] = gemm_bf16;
    k->name = k->gemm[AD_PACK_INT8] && !strcmp(k->name, "avx512+vnni") ? "avx512+vnni+bf16" : "avx512+bf16";
}
