/* SPDX-License-Identifier: MIT */
/* A short list under a lock; compilation happens outside of it. */
#include "server/api/grammar_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/grammar/index.h"

typedef struct {
    ad_grammar *grammar; /* one reference is the cache's */
    ad_grammar_kind kind;
    char *text;          /* owned */
    size_t len;
    uint32_t hash;
    unsigned long long used; /* when last, in gets */
} entry;

struct ad_grammar_cache {
    ad_grammar_cache_limits limits;
    ad_grammar_vocab *vocab; /* made at the start: it takes some 20 ms, and the first who needs it may be the loop */
    pthread_mutex_t mutex; /* guards all below */
    entry *entries;        /* [max_count + 1] in no order; few enough to look through */
    int n;
    unsigned long long clock;
    ad_grammar_cache_stats stats;
};

ad_status ad_grammar_cache_new(ad_grammar_cache **out, const ad_tokenizer *tk, ad_grammar_cache_limits limits, ad_err *err)
{
    ad_grammar_cache *c = ad_calloc(1, sizeof *c);
    if (!c) return ad_fail(err, AD_ENOMEM, "grammars: out of memory");
    c->limits = limits;
    pthread_mutex_init(&c->mutex, NULL);
    c->entries = ad_calloc((size_t)limits.max_count + 1, sizeof *c->entries);
    ad_status st = c->entries ? ad_grammar_vocab_new(&c->vocab, tk, err) : ad_fail(err, AD_ENOMEM, "grammars: out of memory");
    if (st == AD_OK) *out = c;
    else ad_grammar_cache_free(&c);
    return st;
}

static void drop(ad_grammar_cache *c, int i)
{
    ad_grammar_release(&c->entries[i].grammar);
    free(c->entries[i].text);
    c->entries[i] = c->entries[--c->n];
}

void ad_grammar_cache_free(ad_grammar_cache **cp)
{
    ad_grammar_cache *c = *cp;
    if (!c) return;
    while (c->n) drop(c, c->n - 1);
    ad_grammar_vocab_free(&c->vocab);
    pthread_mutex_destroy(&c->mutex);
    free(c->entries);
    free(c);
    *cp = NULL;
}

static size_t bytes_held(const ad_grammar_cache *c)
{
    size_t bytes = 0;
    for (int i = 0; i < c->n; i++) bytes += ad_grammar_bytes(c->entries[i].grammar) + c->entries[i].len;
    return bytes;
}

/* Retained for the caller; NULL when it is not there, or worn. */
static ad_grammar *find(ad_grammar_cache *c, ad_grammar_kind kind, ad_str text, uint32_t hash)
{
    for (int i = 0; i < c->n; i++) {
        entry *e = &c->entries[i];
        if (e->hash != hash || e->kind != kind || e->len != text.len || (text.len && memcmp(e->text, text.ptr, text.len))) continue;
        if (ad_grammar_worn(e->grammar)) return drop(c, i), NULL; /* who uses it goes on with it */
        e->used = ++c->clock;
        return ad_grammar_retain(e->grammar);
    }
    return NULL;
}

/* The least recently used leave until the rest fits; the newest stays, whatever its size. */
static void shrink(ad_grammar_cache *c)
{
    while (c->n > 1 && (c->n > c->limits.max_count || bytes_held(c) > c->limits.max_bytes)) {
        int oldest = 0;
        for (int i = 1; i < c->n; i++)
            if (c->entries[i].used < c->entries[oldest].used) oldest = i;
        drop(c, oldest);
        c->stats.evictions++;
    }
}

/* Without memory for its text a grammar is not kept, which is no failure. */
static void keep(ad_grammar_cache *c, ad_grammar *g, ad_grammar_kind kind, ad_str text, uint32_t hash)
{
    char *copy = malloc(text.len + 1);
    if (!copy) return;
    if (text.len) memcpy(copy, text.ptr, text.len);
    c->entries[c->n++] = (entry){ad_grammar_retain(g), kind, copy, text.len, hash, ++c->clock};
    shrink(c);
}

ad_status ad_grammar_cache_get(ad_grammar_cache *c, ad_grammar **out, ad_grammar_kind kind, ad_str text, ad_err *err)
{
    if (kind == AD_GRAMMAR_JSON_OBJECT) text = (ad_str){"", 0};
    uint32_t hash = ad_gr_hash(text.ptr, text.len);
    pthread_mutex_lock(&c->mutex);
    ad_grammar *g = find(c, kind, text, hash);
    if (g) c->stats.hits++;
    else c->stats.misses++;
    pthread_mutex_unlock(&c->mutex);
    if (g) return *out = g, AD_OK;
    ad_status st = ad_grammar_new(&g, c->vocab, kind, text, err);
    pthread_mutex_lock(&c->mutex);
    ad_grammar *theirs = st == AD_OK ? find(c, kind, text, hash) : NULL; /* somebody else was faster */
    if (st != AD_OK) c->stats.failures++;
    else if (!theirs) keep(c, g, kind, text, hash);
    pthread_mutex_unlock(&c->mutex);
    if (theirs) ad_grammar_release(&g);
    if (st == AD_OK) *out = theirs ? theirs : g;
    return st;
}

ad_status ad_grammar_cache_get_json(ad_grammar_cache *c, ad_grammar **out, ad_grammar_kind kind, const json_t *value, ad_err *err)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text) return ad_fail(err, AD_EINVAL, "the grammar cannot be written as JSON");
    ad_status st = ad_grammar_cache_get(c, out, kind, (ad_str){text, strlen(text)}, err);
    free(text);
    return st;
}

ad_grammar_cache_stats ad_grammar_cache_get_stats(ad_grammar_cache *c)
{
    pthread_mutex_lock(&c->mutex);
    ad_grammar_cache_stats s = c->stats;
    s.count = (size_t)c->n;
    s.bytes = bytes_held(c);
    pthread_mutex_unlock(&c->mutex);
    return s;
}
