/* SPDX-License-Identifier: MIT */
/* Pages are numbered; each is held (holds > 0), free, or known and free, which is a list from the one unused for longest.
 * Known pages hang in a hash table by (parent, tokens), which are compared in full: a collision is only slow. */
#include "core/engine/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ad_kv_parent parent;
    int32_t tokens[AD_KV_PAGE];
    uint64_t serial;  /* 0: the content is not known */
    int holds;
    int chain;        /* next in the bucket; -1 ends it */
    int prev, next;   /* in the list of known pages that nobody holds */
} page;

struct ad_kv {
    char *pool;
    size_t page_bytes, pool_bytes;
    page *pages;
    int n_pages;
    int *buckets, n_buckets; /* a power of two */
    int *unknown, n_unknown; /* free pages without content */
    int oldest, newest, n_idle; /* known, free */
    uint64_t last_serial;
};

ad_status ad_kv_new(ad_kv **out, size_t page_bytes, int n_pages, ad_err *err)
{
    ad_kv *kv = ad_calloc(1, sizeof *kv);
    if (!kv || !ad_mul_size((size_t)n_pages, page_bytes, &kv->pool_bytes)) {
        free(kv);
        return ad_fail(err, AD_ENOMEM, "KV cache: out of memory");
    }
    kv->page_bytes = page_bytes;
    kv->n_pages = n_pages;
    for (kv->n_buckets = 64; kv->n_buckets < n_pages; kv->n_buckets *= 2) {}
    kv->pool = ad_arena_new(kv->pool_bytes);
    kv->pages = ad_calloc((size_t)n_pages, sizeof *kv->pages);
    kv->buckets = ad_calloc((size_t)kv->n_buckets, sizeof *kv->buckets);
    kv->unknown = ad_calloc((size_t)n_pages, sizeof *kv->unknown);
    if (!kv->pool || !kv->pages || !kv->buckets || !kv->unknown) {
        size_t bytes = kv->pool_bytes;
        ad_kv_free(&kv);
        return ad_fail(err, AD_ENOMEM, "KV cache of %zu MiB: out of memory", bytes >> 20);
    }
    memset(kv->buckets, 0xFF, (size_t)kv->n_buckets * sizeof *kv->buckets);
    kv->oldest = kv->newest = -1;
    for (int i = n_pages - 1; i >= 0; i--) kv->unknown[kv->n_unknown++] = i;
    *out = kv;
    return AD_OK;
}

void ad_kv_free(ad_kv **kvp)
{
    ad_kv *kv = *kvp;
    if (!kv) return;
    *kvp = NULL;
    if (kv->pool) ad_arena_free(kv->pool, kv->pool_bytes);
    free(kv->pages);
    free(kv->buckets);
    free(kv->unknown);
    free(kv);
}

int ad_kv_total(const ad_kv *kv) { return kv->n_pages; }
int ad_kv_available(const ad_kv *kv) { return kv->n_unknown + kv->n_idle; }
void *ad_kv_page(const ad_kv *kv, int p) { return kv->pool + (size_t)p * kv->page_bytes; }
ad_kv_parent ad_kv_parent_of(const ad_kv *kv, int p) { return (ad_kv_parent){kv->pages[p].serial, 0}; }

/* ---- known pages ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static int *bucket_of(const ad_kv *kv, ad_kv_parent parent, const int32_t *tokens)
{
    uint64_t h = mix(mix(1, parent.a), parent.b);
    for (int i = 0; i < AD_KV_PAGE; i += 2) h = mix(h, (uint64_t)(uint32_t)tokens[i] << 32 | (uint32_t)tokens[i + 1]);
    return &kv->buckets[h & (uint64_t)(kv->n_buckets - 1)];
}

static int lookup(const ad_kv *kv, ad_kv_parent parent, const int32_t *tokens)
{
    for (int p = *bucket_of(kv, parent, tokens); p >= 0; p = kv->pages[p].chain) {
        const page *k = &kv->pages[p];
        if (k->parent.a == parent.a && k->parent.b == parent.b && !memcmp(k->tokens, tokens, sizeof k->tokens)) return p;
    }
    return -1;
}

static void forget(ad_kv *kv, int p)
{
    page *k = &kv->pages[p];
    int *link = bucket_of(kv, k->parent, k->tokens);
    while (*link != p) link = &kv->pages[*link].chain;
    *link = k->chain;
    k->serial = 0;
}

/* ---- the list of known pages that nobody holds ---- */

static void idle_append(ad_kv *kv, int p)
{
    kv->pages[p].prev = kv->newest;
    kv->pages[p].next = -1;
    if (kv->newest >= 0) kv->pages[kv->newest].next = p;
    else kv->oldest = p;
    kv->newest = p;
    kv->n_idle++;
}

static void idle_remove(ad_kv *kv, int p)
{
    const page *k = &kv->pages[p];
    if (k->prev >= 0) kv->pages[k->prev].next = k->next;
    else kv->oldest = k->next;
    if (k->next >= 0) kv->pages[k->next].prev = k->prev;
    else kv->newest = k->prev;
    kv->n_idle--;
}

/* ---- holds ---- */

int ad_kv_take(ad_kv *kv)
{
    int p;
    if (kv->n_unknown) {
        p = kv->unknown[--kv->n_unknown];
    } else if (kv->oldest >= 0) {
        p = kv->oldest;
        idle_remove(kv, p);
        forget(kv, p);
    } else {
        return -1;
    }
    kv->pages[p].holds = 1;
    return p;
}

void ad_kv_release(ad_kv *kv, int p)
{
    page *k = &kv->pages[p];
    assert(k->holds > 0);
    if (--k->holds > 0) return;
    if (k->serial) idle_append(kv, p);
    else kv->unknown[kv->n_unknown++] = p;
}

int ad_kv_find(ad_kv *kv, ad_kv_parent parent, const int32_t *tokens)
{
    int p = lookup(kv, parent, tokens);
    if (p < 0) return -1;
    if (kv->pages[p].holds++ == 0) idle_remove(kv, p);
    return p;
}

ad_kv_parent ad_kv_publish(ad_kv *kv, int p, ad_kv_parent parent, const int32_t *tokens)
{
    page *k = &kv->pages[p];
    int known = lookup(kv, parent, tokens);
    if (known >= 0) return ad_kv_parent_of(kv, known);
    assert(k->holds > 0 && !k->serial);
    int *bucket = bucket_of(kv, parent, tokens);
    k->parent = parent;
    memcpy(k->tokens, tokens, sizeof k->tokens);
    k->serial = ++kv->last_serial;
    k->chain = *bucket;
    *bucket = p;
    return ad_kv_parent_of(kv, p);
}
