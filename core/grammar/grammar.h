/* SPDX-License-Identifier: MIT */
/* Which tokens may come next: a grammar compiled from a JSON schema, a regular expression, a GBNF text, a list of choices or
 * parts of these, and the automaton over bytes that it becomes while it is used.
 *
 * A grammar describes whole texts. Its states are small numbers; a sequence keeps the one it is in and nothing else. States,
 * transitions and token masks are made when they are first needed and kept for all who share the grammar, so a grammar
 * locks itself: any thread may use it, and references are counted atomically. All sizes are bounded; who asks for more
 * than the bounds gets AD_ELIMIT at the start or AD_GRAMMAR_LIMIT in between. */
#ifndef AD_GRAMMAR_GRAMMAR_H
#define AD_GRAMMAR_GRAMMAR_H

#include "core/text/tokenizer.h"

/* ---- the tokens of a tokenizer, by their bytes ---- */

/* Every token that is text, as a trie: special, end-of-generation and empty tokens are left out. Immutable: any thread. */
typedef struct ad_grammar_vocab ad_grammar_vocab;

/* tk is borrowed for as long as the vocabulary lives. */
AD_MUSTUSE ad_status ad_grammar_vocab_new(ad_grammar_vocab **out, const ad_tokenizer *tk, ad_err *err);
void ad_grammar_vocab_free(ad_grammar_vocab **v); /* NULL is fine */

/* ---- grammars ---- */

typedef enum {
    AD_GRAMMAR_JSON_OBJECT, /* any JSON object; the text is ignored */
    AD_GRAMMAR_JSON_SCHEMA, /* a JSON schema, as JSON text; see schema.c for what is understood */
    AD_GRAMMAR_REGEX,       /* the whole text matches; see regex.c for the syntax */
    AD_GRAMMAR_GBNF,        /* llama.cpp's grammars; the rule "root" describes the text */
    AD_GRAMMAR_CHOICES,     /* a JSON array of strings, one of which is the text */
    AD_GRAMMAR_STRUCTURE,   /* JSON text: literals, schemas and tags, also inside free text; see structure.c */
    AD_GRAMMAR_KINDS
} ad_grammar_kind;

typedef struct ad_grammar ad_grammar;

/* text is borrowed for the call, vocab for as long as the grammar lives. AD_EINVAL: the text is malformed; AD_EUNSUPPORTED: a
 * keyword or construct that would restrict the text is not served, and is named; AD_ELIMIT: too large. */
AD_MUSTUSE ad_status ad_grammar_new(ad_grammar **out, const ad_grammar_vocab *vocab, ad_grammar_kind kind, ad_str text, ad_err *err);
ad_grammar *ad_grammar_retain(ad_grammar *g); /* returns g */
void ad_grammar_release(ad_grammar **g);      /* takes *g; NULL is fine; leaves *g NULL */

/* Bytes it holds now; grows while it is used. A worn one has used up half of what it may hold: those who begin should
 * compile it anew. */
size_t ad_grammar_bytes(const ad_grammar *g);
bool ad_grammar_worn(const ad_grammar *g);

/* ---- walking ---- */

enum {
    AD_GRAMMAR_START = 0,   /* the state before any text */
    AD_GRAMMAR_DEAD = -1,   /* no text of the grammar begins like this */
    AD_GRAMMAR_LIMIT = -2,  /* the grammar would need more states or memory than it may have */
};

typedef enum {
    AD_GRAMMAR_OPEN = 0,    /* more text must follow */
    AD_GRAMMAR_MAY_END = 1, /* the text so far is whole; more may follow */
    AD_GRAMMAR_DONE = 2,    /* the text so far is whole and nothing may follow */
} ad_grammar_end;

/* The state after the bytes of a token or a text; DEAD or LIMIT when there is none. state >= 0. */
int32_t ad_grammar_next(ad_grammar *g, int32_t state, int32_t id);
int32_t ad_grammar_next_text(ad_grammar *g, int32_t state, ad_str text);

ad_grammar_end ad_grammar_ends(ad_grammar *g, int32_t state);

/* 64-bit words of a mask over a vocabulary. Bit id % 64 of word id / 64 belongs to a token. */
static inline size_t ad_grammar_mask_words(int32_t vocab) { return ((size_t)vocab + 63) / 64; }
/* Writes the tokens that may follow `state` to mask[ad_grammar_mask_words(vocabulary of the tokenizer)]; special and
 * end-of-generation tokens are never among them. False when the grammar's limits are reached. */
AD_MUSTUSE bool ad_grammar_mask(ad_grammar *g, int32_t state, uint64_t *mask);

#endif
