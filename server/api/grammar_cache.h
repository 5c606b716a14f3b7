/* SPDX-License-Identifier: MIT */
/* Compiled grammars by what they were compiled from, so that requests of one schema share their token masks. Any thread. */
#ifndef AD_API_GRAMMAR_CACHE_H
#define AD_API_GRAMMAR_CACHE_H

#include <jansson.h>

#include "core/grammar/grammar.h"

typedef struct ad_grammar_cache ad_grammar_cache;

typedef struct {
    int max_count;    /* grammars kept */
    size_t max_bytes; /* that they may hold together; those in use elsewhere live on when they leave the cache */
} ad_grammar_cache_limits;

typedef struct {
    unsigned long long hits, misses, failures, evictions;
    size_t count, bytes;
} ad_grammar_cache_stats;

/* tk is borrowed and outlives the cache and every grammar it gave out. */
AD_MUSTUSE ad_status ad_grammar_cache_new(ad_grammar_cache **out, const ad_tokenizer *tk, ad_grammar_cache_limits limits, ad_err *err);
void ad_grammar_cache_free(ad_grammar_cache **c); /* every grammar it gave out has been released; NULL is fine */

/* *out is retained for the caller: release it. text as ad_grammar_new takes it; errors too. Compiles on a miss, which
 * takes milliseconds for large schemas; nobody else waits meanwhile. */
AD_MUSTUSE ad_status ad_grammar_cache_get(ad_grammar_cache *c, ad_grammar **out, ad_grammar_kind kind, ad_str text, ad_err *err);
/* The same for kinds whose text is JSON, from a value: object order counts, blanks do not. */
AD_MUSTUSE ad_status ad_grammar_cache_get_json(ad_grammar_cache *c, ad_grammar **out, ad_grammar_kind kind, const json_t *value, ad_err *err);

ad_grammar_cache_stats ad_grammar_cache_get_stats(ad_grammar_cache *c);

#endif
