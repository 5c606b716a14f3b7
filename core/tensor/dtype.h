/* SPDX-License-Identifier: MIT */
/* Number formats of weights in files, and exact conversion of their rows to f32. Any thread. */
#ifndef AD_TENSOR_DTYPE_H
#define AD_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    AD_F32,
    AD_F16,
    AD_BF16,
    AD_Q8_0,
    AD_Q4_0,
    AD_Q4_1,
    AD_Q5_0,
    AD_Q5_1,
    AD_Q4_K,
    AD_Q5_K,
    AD_Q6_K,
    AD_F64, /* from here on: read only as buffers to be skipped */
    AD_I64,
    AD_I32,
    AD_I16,
    AD_I8,
    AD_U8,
    AD_BOOL,
    AD_DTYPE_COUNT
} ad_dtype;

const char *ad_dtype_name(ad_dtype t);
int ad_dtype_block(ad_dtype t);          /* values per block: 1, 32 or 256 */
size_t ad_dtype_block_bytes(ad_dtype t); /* bytes per block */
bool ad_dtype_is_weight(ad_dtype t);     /* convertible to f32 by ad_dequant_row */

/* dst[n] = src converted to f32, bit for bit as gguf-py does. n is a multiple of the block; src may be
 * unaligned. Formulas: GGUF's block layouts (Q4_0 .. Q6_K). */
void ad_dequant_row(ad_dtype t, float *dst, const void *src, size_t n);

/* bound[n] = the largest distance of a value that quantises to this one: half a quantisation step of its
 * block, or half a unit in the last place for F16 and BF16, 0 for F32. */
void ad_dequant_error(ad_dtype t, float *bound, const void *src, size_t n);

/* One block (32 values, 256 for Q4_K) of Q4_0, Q4_1, Q4_K, Q5_0 or Q8_0 taken apart: value i = d[i / 32] * q[i] + m[i / 32], exactly
 * what ad_dequant_row gives. */
void ad_dtype_codes(ad_dtype t, int8_t *q, float *d, float *m, const void *block);

float ad_f16_to_f32(uint16_t h);
float ad_bf16_to_f32(uint16_t h);
uint16_t ad_f32_to_bf16(float f); /* nearest even; NaN stays NaN */
uint16_t ad_f32_to_f16(float f);

/* One tensor of a file. Everything is borrowed from the open file. */
typedef struct {
    const char *name; /* NUL-terminated */
    ad_dtype dtype;
    int n_dims;       /* 0..8; 0 is a scalar */
    int64_t dims[8];  /* outermost first (torch order): a Linear weight is [out, in]; rows are contiguous */
    const void *data; /* little-endian, maybe unaligned */
    size_t bytes;
} ad_tensor;

int64_t ad_tensor_count(const ad_tensor *t); /* product of dims; checked by the readers to fit */

#endif
