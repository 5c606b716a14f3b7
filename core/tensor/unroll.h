/* SPDX-License-Identifier: MIT */
/* How the kernels' tiles are written: loops over registers that must be unrolled whole, functions that must be inlined. */
#ifndef AD_TENSOR_UNROLL_H
#define AD_TENSOR_UNROLL_H

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif
#define INLINE static inline __attribute__((always_inline))

#endif
