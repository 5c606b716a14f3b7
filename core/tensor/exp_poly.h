/* SPDX-License-Identifier: MIT */
/* exp(r) = 1 + r + c2 r^2 + ... + c6 r^6 for |r| <= ln 2 / 2. Weighted least squares, the weights moved until the
 * largest relative error stood still: 3.1e-9 before the coefficients were rounded, a twentieth of a unit in the
 * last place. Included by the ISA files once vec, vset and vfma are defined. Any thread. */
#ifndef AD_TENSOR_EXP_POLY_H
#define AD_TENSOR_EXP_POLY_H

static inline vec exp_poly(vec r)
{
    vec p = vset(0.001381461275741458f);
    p = vfma(p, r, vset(0.008368710055947304f));
    p = vfma(p, r, vset(0.04166838899254799f));
    p = vfma(p, r, vset(0.1666652113199234f));
    p = vfma(p, r, vset(0.4999999403953552f));
    p = vfma(p, r, vset(1.0f));
    return vfma(p, r, vset(1.0f));
}

#endif
