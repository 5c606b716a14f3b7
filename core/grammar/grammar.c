/* SPDX-License-Identifier: MIT */
/* Grammars as others see them: made of a text, shared, locked, and asked for masks. */
#include "core/grammar/grammar.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/grammar/automaton.h"
#include "core/grammar/vocab.h"

enum {
    MAX_STATE_BYTES = 64 << 20, /* states, frames and transitions of one grammar */
    MAX_MASK_BYTES = 16 << 20,  /* its masks; more, and all are dropped and made anew as needed */
};

struct ad_grammar {
    const ad_grammar_vocab *vocab;
    atomic_int refs;
    pthread_mutex_t mutex;  /* guards all below */
    ad_gr_automaton automaton;
    int32_t *path;          /* [longest piece + 1] states along the branch that a mask is being made for */
    size_t mask_bytes;
    atomic_size_t bytes, state_bytes; /* as the last one who held the lock left them: who asks must not wait for a mask */
};

static void unlock(ad_grammar *g)
{
    size_t states = ad_gr_automaton_bytes(&g->automaton);
    atomic_store_explicit(&g->state_bytes, states, memory_order_relaxed);
    atomic_store_explicit(&g->bytes, states + g->mask_bytes, memory_order_relaxed);
    pthread_mutex_unlock(&g->mutex);
}

/* ---- life ---- */

static ad_gx expr_of(ad_gr_builder *b, ad_grammar_kind kind, ad_str text)
{
    if (!text.len) text.ptr = "";
    if (text.len > AD_GR_MAX_TEXT) return ad_gr_fail(b, AD_ELIMIT, "the grammar's text has %zu bytes; at most %d are allowed", text.len, AD_GR_MAX_TEXT);
    switch (kind) {
    case AD_GRAMMAR_JSON_OBJECT: return ad_gr_json_object(b);
    case AD_GRAMMAR_JSON_SCHEMA: return ad_gr_schema_text(b, text);
    case AD_GRAMMAR_REGEX: return ad_gr_regex(b, text);
    case AD_GRAMMAR_GBNF: return ad_gr_gbnf(b, text);
    case AD_GRAMMAR_CHOICES: return ad_gr_choices_text(b, text);
    case AD_GRAMMAR_STRUCTURE: return ad_gr_structure_text(b, text);
    case AD_GRAMMAR_KINDS: break;
    }
    return ad_gr_fail(b, AD_EINVAL, "there is no grammar of kind %d", (int)kind);
}

static ad_status compile_text(ad_gr_program *out, ad_grammar_kind kind, ad_str text, ad_err *err)
{
    ad_gr_builder b;
    ad_status st = ad_gr_builder_init(&b, err);
    if (st == AD_OK) {
        ad_gx root = expr_of(&b, kind, text);
        st = ad_gr_compile(&b, root, out);
    }
    ad_gr_builder_deinit(&b);
    return st;
}

ad_status ad_grammar_new(ad_grammar **out, const ad_grammar_vocab *vocab, ad_grammar_kind kind, ad_str text, ad_err *err)
{
    ad_gr_program program = {0};
    ad_status st = compile_text(&program, kind, text, err);
    if (st != AD_OK) return st;
    ad_grammar *g = ad_calloc(1, sizeof *g);
    int32_t *path = ad_calloc(vocab->longest + 1, sizeof *path);
    if (!g || !path || !ad_gr_automaton_init(&g->automaton, &program, MAX_STATE_BYTES)) {
        ad_gr_program_deinit(&program);
        free(g), free(path);
        return ad_fail(err, AD_ELIMIT, "the grammar is too ambiguous, or memory ran out");
    }
    g->vocab = vocab;
    g->path = path;
    atomic_init(&g->refs, 1);
    pthread_mutex_init(&g->mutex, NULL);
    pthread_mutex_lock(&g->mutex);
    unlock(g); /* its first size */
    *out = g;
    return AD_OK;
}

ad_grammar *ad_grammar_retain(ad_grammar *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

void ad_grammar_release(ad_grammar **gp)
{
    ad_grammar *g = *gp;
    *gp = NULL;
    if (!g || atomic_fetch_sub(&g->refs, 1) > 1) return;
    ad_gr_automaton_deinit(&g->automaton);
    pthread_mutex_destroy(&g->mutex);
    free(g->path);
    free(g);
}

size_t ad_grammar_bytes(const ad_grammar *g) { return atomic_load_explicit(&g->bytes, memory_order_relaxed); }
bool ad_grammar_worn(const ad_grammar *g) { return atomic_load_explicit(&g->state_bytes, memory_order_relaxed) > MAX_STATE_BYTES / 2; }

/* ---- walking ---- */

int32_t ad_grammar_next_text(ad_grammar *g, int32_t state, ad_str text)
{
    pthread_mutex_lock(&g->mutex);
    for (size_t i = 0; i < text.len && state >= 0; i++) {
        g->automaton.work = 0;
        state = ad_gr_next(&g->automaton, state, (uint8_t)text.ptr[i]);
    }
    unlock(g);
    return state;
}

int32_t ad_grammar_next(ad_grammar *g, int32_t state, int32_t id)
{
    return ad_grammar_next_text(g, state, ad_tokenizer_piece(g->vocab->tk, id));
}

ad_grammar_end ad_grammar_ends(ad_grammar *g, int32_t state)
{
    pthread_mutex_lock(&g->mutex);
    const ad_gr_state *s = &g->automaton.states[state];
    bool whole = s->places[0] == 0, more = s->n_places > whole;
    pthread_mutex_unlock(&g->mutex);
    return !whole ? AD_GRAMMAR_OPEN : more ? AD_GRAMMAR_MAY_END : AD_GRAMMAR_DONE;
}

static void drop_masks(ad_grammar *g)
{
    for (size_t i = 0; i < g->automaton.n_states; i++) {
        free(g->automaton.states[i].mask);
        g->automaton.states[i].mask = NULL;
    }
    g->mask_bytes = 0;
}

/* One pass over the vocabulary's trie: the branch at each node is in the state of its bytes. False at a limit. */
static bool walk_vocab(ad_grammar *g, int32_t state, uint64_t *mask)
{
    const ad_grammar_vocab *v = g->vocab;
    int32_t *path = g->path;
    path[0] = state;
    g->automaton.work = 0;
    for (size_t i = 0; i < v->n_nodes;) {
        const ad_grammar_node *node = &v->nodes[i];
        int32_t to = ad_gr_next(&g->automaton, path[node->depth], node->byte);
        if (to == AD_GRAMMAR_LIMIT) return false;
        if (to < 0) {
            i = node->skip;
            continue;
        }
        path[node->depth + 1] = to;
        for (uint32_t k = node->first; k < v->nodes[i + 1].first; k++) mask[v->ids[k] / 64] |= (uint64_t)1 << v->ids[k] % 64;
        i++;
    }
    return true;
}

static const uint64_t *mask_of(ad_grammar *g, int32_t state)
{
    size_t words = ad_grammar_mask_words(g->vocab->n_vocab), bytes = words * sizeof(uint64_t);
    if (g->automaton.states[state].mask) return g->automaton.states[state].mask;
    uint64_t *mask = ad_calloc(words, sizeof *mask);
    if (!mask || !walk_vocab(g, state, mask)) {
        free(mask);
        return NULL;
    }
    if (g->mask_bytes + bytes > MAX_MASK_BYTES) drop_masks(g);
    g->mask_bytes += bytes;
    g->automaton.states[state].mask = mask; /* only now: the walk may have moved the states */
    return mask;
}

bool ad_grammar_mask(ad_grammar *g, int32_t state, uint64_t *out)
{
    pthread_mutex_lock(&g->mutex);
    const uint64_t *mask = mask_of(g, state);
    if (mask) memcpy(out, mask, ad_grammar_mask_words(g->vocab->n_vocab) * sizeof *mask);
    unlock(g);
    return mask != NULL;
}
