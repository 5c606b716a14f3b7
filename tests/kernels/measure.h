/* SPDX-License-Identifier: MIT */
/* The measuring half of check_kernels. */
#ifndef TESTS_MEASURE_H
#define TESTS_MEASURE_H

#include "core/tensor/kernels.h"

int bench_kernels(void);                /* prints a table; 0 */
int bench_bandwidth(const char *model); /* decode against memory; 0 when decode reaches half */

#endif
