/* SPDX-License-Identifier: MIT */
/* Sets of characters, and how a character of a set looks in UTF-8. */
#include <stdlib.h>

#include "core/grammar/build.h"

enum { LAST_CHAR = 0x10FFFF, FIRST_SURROGATE = 0xD800, LAST_SURROGATE = 0xDFFF };

void ad_gr_chars_add(ad_gr_chars *c, uint32_t lo, uint32_t hi)
{
    if (lo > hi) return;
    if (ad_grow(&c->ranges, &c->cap, c->n + 1, sizeof *c->ranges) != AD_OK) c->failed = true;
    else c->ranges[c->n++] = (ad_gr_range){lo, hi};
}

static int by_low(const void *a, const void *b)
{
    const ad_gr_range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

void ad_gr_chars_sort(ad_gr_chars *c)
{
    size_t kept = 0;
    if (!c->n) return;
    qsort(c->ranges, c->n, sizeof *c->ranges, by_low);
    for (size_t i = 1; i < c->n; i++) {
        ad_gr_range *last = &c->ranges[kept], r = c->ranges[i];
        if (r.lo > last->hi + 1) c->ranges[++kept] = r;
        else if (r.hi > last->hi) last->hi = r.hi;
    }
    c->n = kept + 1;
}

void ad_gr_chars_negate(ad_gr_chars *c)
{
    ad_gr_chars out = {.failed = c->failed};
    uint32_t from = 0;
    ad_gr_chars_sort(c);
    for (size_t i = 0; i < c->n; i++) {
        if (c->ranges[i].lo > from) ad_gr_chars_add(&out, from, c->ranges[i].lo - 1);
        from = c->ranges[i].hi + 1;
    }
    if (from <= LAST_CHAR) ad_gr_chars_add(&out, from, LAST_CHAR);
    ad_gr_chars_deinit(c);
    *c = out;
}

void ad_gr_chars_meet(ad_gr_chars *c, const ad_gr_chars *other)
{
    ad_gr_chars out = {.failed = c->failed || other->failed};
    for (size_t i = 0, k = 0; i < c->n && k < other->n;) {
        ad_gr_range x = c->ranges[i], y = other->ranges[k];
        ad_gr_chars_add(&out, x.lo > y.lo ? x.lo : y.lo, x.hi < y.hi ? x.hi : y.hi);
        if (x.hi < y.hi) i++;
        else k++;
    }
    ad_gr_chars_deinit(c);
    *c = out;
}

void ad_gr_chars_without(ad_gr_chars *c, uint32_t lo, uint32_t hi)
{
    ad_gr_chars rest = {0};
    ad_gr_chars_add(&rest, lo, hi);
    ad_gr_chars_negate(&rest);
    ad_gr_chars_sort(c);
    ad_gr_chars_meet(c, &rest);
    ad_gr_chars_deinit(&rest);
}

void ad_gr_chars_join(ad_gr_chars *c, const ad_gr_chars *more)
{
    for (size_t i = 0; i < more->n; i++) ad_gr_chars_add(c, more->ranges[i].lo, more->ranges[i].hi);
    if (more->failed) c->failed = true;
}

void ad_gr_chars_deinit(ad_gr_chars *c)
{
    free(c->ranges);
    *c = (ad_gr_chars){0};
}
