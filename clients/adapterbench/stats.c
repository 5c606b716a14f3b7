/* SPDX-License-Identifier: MIT */
#include "clients/adapterbench/stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void samples_add(samples *s, double v)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 1024;
        s->v = realloc(s->v, s->cap * sizeof *s->v);
        if (!s->v) {
            fprintf(stderr, "out of memory\n");
            exit(1);
        }
    }
    s->v[s->n++] = v;
}

void samples_free(samples *s)
{
    free(s->v);
    *s = (samples){0};
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double samples_percentile(samples *s, double p)
{
    if (!s->n) return 0;
    qsort(s->v, s->n, sizeof *s->v, by_value);
    size_t rank = (size_t)ceil(p * (double)s->n);
    return s->v[rank ? rank - 1 : 0];
}

double jain(const double *x, int n)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i], squares += x[i] * x[i];
    return squares > 0 ? sum * sum / (n * squares) : 1;
}
