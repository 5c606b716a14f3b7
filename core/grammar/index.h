/* SPDX-License-Identifier: MIT */
/* A hash index of ids whose keys live elsewhere: open addressing, linear probes. One owner at a time. */
#ifndef AD_GRAMMAR_INDEX_H
#define AD_GRAMMAR_INDEX_H

#include <stdlib.h>

#include "core/base/mem.h"

typedef struct {
    uint64_t *slots; /* hash << 32 | id + 1; 0 is free */
    size_t n, cap;   /* cap is 0 or a power of two */
} ad_gr_index;

static inline uint32_t ad_gr_hash(const void *data, size_t len)
{
    const unsigned char *p = data;
    uint64_t h = 0x9E3779B97F4A7C15u ^ len;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 0x100000001B3u;
    return (uint32_t)(h ^ h >> 32);
}

static inline size_t ad_gr_index_bytes(const ad_gr_index *x) { return x->cap * sizeof *x->slots; }

/* Visits the ids with this hash: start with *at = hash; -1 ends it. */
static inline int64_t ad_gr_index_next(const ad_gr_index *x, uint32_t hash, size_t *at)
{
    while (x->cap) {
        uint64_t slot = x->slots[*at & (x->cap - 1)];
        if (!slot) break;
        ++*at;
        if (slot >> 32 == hash) return (int64_t)(uint32_t)slot - 1;
    }
    return -1;
}

static inline void ad_gr_index_put(ad_gr_index *x, uint64_t slot)
{
    size_t at = (size_t)(slot >> 32);
    while (x->slots[at & (x->cap - 1)]) at++;
    x->slots[at & (x->cap - 1)] = slot;
}

/* False when out of memory. */
static inline bool ad_gr_index_add(ad_gr_index *x, uint32_t hash, uint32_t id)
{
    if (x->n * 2 >= x->cap) {
        ad_gr_index grown = {.cap = x->cap ? x->cap * 2 : 64, .n = x->n};
        grown.slots = ad_calloc(grown.cap, sizeof *grown.slots);
        if (!grown.slots) return false;
        for (size_t i = 0; i < x->cap; i++)
            if (x->slots[i]) ad_gr_index_put(&grown, x->slots[i]);
        free(x->slots);
        *x = grown;
    }
    ad_gr_index_put(x, (uint64_t)hash << 32 | (id + 1));
    x->n++;
    return true;
}

static inline void ad_gr_index_deinit(ad_gr_index *x)
{
    free(x->slots);
    *x = (ad_gr_index){0};
}

#endif
