/* SPDX-License-Identifier: MIT */
/* exp(r) = 1 + r + C2 r^2 + ... + C6 r^6 for |r| <= ln 2 / 2. Weighted least squares, the weights moved until the
 * largest relative error stood still: 3.1e-9 before the coefficients were rounded, a twentieth of a unit in the
 * last place. Any thread. */
#ifndef AD_TENSOR_EXP_POLY_H
#define AD_TENSOR_EXP_POLY_H

#define EXP_C2 0.4999999403953552f
#define EXP_C3 0.1666652113199234f
#define EXP_C4 0.04166838899254799f
#define EXP_C5 0.008368710055947304f
#define EXP_C6 0.001381461275741458f

#endif
