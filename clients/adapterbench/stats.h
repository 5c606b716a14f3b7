/* SPDX-License-Identifier: MIT */
/* Numbers of a run: latencies and their percentiles. */
#ifndef BENCH_STATS_H
#define BENCH_STATS_H

#include <stddef.h>

typedef struct {
    double *v; /* seconds */
    size_t n, cap;
} samples;

void samples_add(samples *s, double v);
void samples_free(samples *s);
/* The smallest value with at least p (0..1) of all at or below it; 0 without samples. Sorts. */
double samples_percentile(samples *s, double p);
/* Jain's index of fairness, (sum x)^2 / (n sum x^2): 1 = all alike, 1/n = one has everything. */
double jain(const double *x, int n);

#endif
