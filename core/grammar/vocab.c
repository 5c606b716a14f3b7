/* SPDX-License-Identifier: MIT */
/* The trie of a vocabulary, flat: nodes in preorder, each with the index behind its subtree. A walk that skips what a
 * grammar forbids is one pass over arrays. */
#include <stdlib.h>
#include <string.h>

#include "core/grammar/vocab.h"

typedef struct {
    ad_str piece;
    int32_t id;
} entry;

static int by_piece(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    size_t n = x->piece.len < y->piece.len ? x->piece.len : y->piece.len;
    int order = memcmp(x->piece.ptr, y->piece.ptr, n);
    if (order) return order;
    if (x->piece.len != y->piece.len) return x->piece.len < y->piece.len ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool is_text(const ad_tokenizer *tk, int32_t id)
{
    return ad_tokenizer_piece(tk, id).len && !ad_tokenizer_is_special(tk, id) && !ad_tokenizer_is_eog(tk, id);
}

static size_t common_prefix(ad_str a, ad_str b)
{
    size_t n = 0;
    while (n < a.len && n < b.len && a.ptr[n] == b.ptr[n]) n++;
    return n;
}

/* Closes the nodes deeper than `depth`: their subtrees end here. */
static void close_nodes(ad_grammar_vocab *v, uint32_t *open, size_t *depth, size_t to)
{
    while (*depth > to) v->nodes[open[--*depth]].skip = (uint32_t)v->n_nodes;
}

/* entries[n] are sorted. open[] is as deep as the longest piece. */
static void fill(ad_grammar_vocab *v, const entry *entries, size_t n, uint32_t *open)
{
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        ad_str s = entries[i].piece;
        close_nodes(v, open, &depth, i ? common_prefix(entries[i - 1].piece, s) : 0);
        for (; depth < s.len; depth++) {
            open[depth] = (uint32_t)v->n_nodes;
            v->nodes[v->n_nodes++] = (ad_grammar_node){.first = (uint32_t)i, .depth = (uint16_t)depth, .byte = (uint8_t)s.ptr[depth]};
        }
        v->ids[i] = entries[i].id;
    }
    close_nodes(v, open, &depth, 0);
    v->nodes[v->n_nodes].first = (uint32_t)n; /* behind the last */
}

static ad_status build(ad_grammar_vocab *v, entry *entries, ad_err *err)
{
    size_t n = 0, bytes = 0;
    for (int32_t id = 0; id < v->n_vocab; id++) {
        if (!is_text(v->tk, id)) continue;
        entries[n++] = (entry){ad_tokenizer_piece(v->tk, id), id};
        size_t len = entries[n - 1].piece.len;
        if (len > UINT16_MAX) return ad_fail(err, AD_ELIMIT, "token %d has %zu bytes, more than grammars can handle", id, len);
        if (len > v->longest) v->longest = len;
        bytes += len;
    }
    if (bytes >= UINT32_MAX) return ad_fail(err, AD_ELIMIT, "the vocabulary is too large for grammars");
    if (n) qsort(entries, n, sizeof *entries, by_piece);
    size_t shared = 0;
    for (size_t i = 1; i < n; i++) shared += common_prefix(entries[i - 1].piece, entries[i].piece);
    v->nodes = ad_calloc(bytes - shared + 1, sizeof *v->nodes);
    v->ids = ad_calloc(n, sizeof *v->ids);
    uint32_t *open = ad_calloc(v->longest, sizeof *open);
    if (v->nodes && v->ids && open) fill(v, entries, n, open);
    free(open);
    return v->nodes && v->ids && open ? AD_OK : ad_fail(err, AD_ENOMEM, "grammar: out of memory for the vocabulary");
}

ad_status ad_grammar_vocab_new(ad_grammar_vocab **out, const ad_tokenizer *tk, ad_err *err)
{
    ad_grammar_vocab *v = ad_calloc(1, sizeof *v);
    entry *entries = ad_calloc((size_t)ad_tokenizer_vocab(tk), sizeof *entries);
    ad_status st = AD_OK;
    if (!v || !entries) st = ad_fail(err, AD_ENOMEM, "grammar: out of memory for the vocabulary");
    if (st == AD_OK) {
        v->tk = tk;
        v->n_vocab = ad_tokenizer_vocab(tk);
        st = build(v, entries, err);
    }
    free(entries);
    if (st == AD_OK) *out = v;
    else ad_grammar_vocab_free(&v);
    return st;
}

void ad_grammar_vocab_free(ad_grammar_vocab **vp)
{
    ad_grammar_vocab *v = *vp;
    if (!v) return;
    free(v->nodes), free(v->ids);
    free(v);
    *vp = NULL;
}
