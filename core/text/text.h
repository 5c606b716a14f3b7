/* SPDX-License-Identifier: MIT */
/* What the files of core/text share: the tokenizer's insides, its builders and the steps of one encode call.
 * A tokenizer is built by one thread and then only read; an ad_tk_work belongs to one encode call. */
#ifndef AD_TEXT_TEXT_H
#define AD_TEXT_TEXT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/text/tokenizer.h"

enum {
    AD_TK_MAX_VOCAB = 1 << 20,  /* four times the largest vocabulary in use; bounds what a stray id may cost */
    AD_TK_MAX_ADDED = 512,      /* bytes of an added token: the search costs this much per byte at worst */
    AD_TK_MAX_STEPS = 16,       /* normalizers, pre-tokenizers or template ids of one tokenizer */
    AD_TK_MAX_TEXT = 1 << 26,   /* bytes of one text; offsets are 32-bit and work memory is 60 bytes per byte */
};

/* ---- strings to ids (vocab.c) ---- */

/* Open addressing over somebody else's strings; slots hold ids, -1 is free. */
typedef struct {
    int32_t *slots;
    uint32_t mask;
} ad_tk_map;

AD_MUSTUSE ad_status ad_tk_map_init(ad_tk_map *m, size_t count);
void ad_tk_map_deinit(ad_tk_map *m);
/* Returns id, or the id that already has this string (nothing is inserted then). */
int32_t ad_tk_map_put(ad_tk_map *m, const ad_str *strs, int32_t id);
int32_t ad_tk_map_find(const ad_tk_map *m, const ad_str *strs, ad_str s); /* -1 when absent */

/* Memory that lives as long as the tokenizer. */
typedef struct ad_tk_block ad_tk_block;

/* ---- added tokens (trie.c) ---- */

typedef struct {
    uint64_t *edges; /* open addressing: (node << 8 | byte) << 32 | child; 0 is free (the root is nobody's child) */
    size_t n_edges, cap; /* cap is a power of two */
    int32_t *token;  /* [nodes] id that ends here, -1 for none */
    size_t n_nodes, nodes_cap;
    bool first[256]; /* some token starts with this byte */
} ad_tk_trie;

AD_MUSTUSE ad_status ad_tk_trie_add(ad_tk_trie *t, ad_str s, int32_t id); /* the first id of a string stays */
/* The longest token that starts at s; -1 for none, else *len is its bytes. */
int32_t ad_tk_trie_longest(const ad_tk_trie *t, const char *s, size_t n, size_t *len);
void ad_tk_trie_deinit(ad_tk_trie *t);

/* ---- normalizers and pre-tokenizers (normalize.c, pretok.c) ---- */

typedef enum { AD_TK_NFC, AD_TK_NFD, AD_TK_NFKC, AD_TK_NFKD, AD_TK_PREPEND, AD_TK_REPLACE } ad_tk_norm_kind;

typedef struct {
    ad_tk_norm_kind kind;
    ad_str from, to; /* REPLACE: both; PREPEND: to. In the tokenizer's memory. */
} ad_tk_norm;

typedef enum {
    AD_TK_SPLIT_REGEX,
    AD_TK_SPLIT_STRING,
    AD_TK_SPLIT_DIGITS,
    AD_TK_ADD_SPACE,  /* a space in front of every piece that has none */
    AD_TK_METASPACE,  /* ' ' becomes U+2581, and one may be put in front */
} ad_tk_step_kind;

typedef enum { AD_TK_ISOLATED, AD_TK_REMOVED, AD_TK_MERGED_PREVIOUS, AD_TK_MERGED_NEXT, AD_TK_CONTIGUOUS } ad_tk_behavior;
typedef enum { AD_TK_NEVER, AD_TK_FIRST, AD_TK_ALWAYS } ad_tk_prepend;

typedef struct {
    ad_tk_step_kind kind;
    ad_tk_behavior behavior; /* SPLIT_* */
    bool invert;             /* SPLIT_*: the gaps are the matches */
    ad_tk_prepend prepend;   /* METASPACE */
    ad_str literal;          /* SPLIT_STRING; METASPACE: the replacement */
    pcre2_code *re;          /* SPLIT_REGEX; owned */
} ad_tk_step;

/* ---- the tokenizer ---- */

enum { /* flags of an id */
    AD_TK_SPECIAL = 1,
    AD_TK_EOG = 2,
    AD_TK_SINGLE_WORD = 4,
    AD_TK_LSTRIP = 8,
    AD_TK_RSTRIP = 16,
    AD_TK_BYTE = 32,     /* a byte-fallback token: its piece is one byte */
    AD_TK_NOT_TEXT = 64, /* the model never makes it out of plain text */
    AD_TK_LITERAL = 128, /* its piece is its content, whatever the byte alphabet says */
    AD_TK_NO_KEY = 256,  /* added beside the model's vocabulary */
};

typedef struct {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank;
    int32_t id; /* of the merged token; -1: free slot */
} ad_tk_merge;

struct ad_tokenizer {
    ad_tk_block *blocks;
    int32_t n_vocab;
    ad_str *tokens; /* [n_vocab] as the file writes them; empty for an id nobody has */
    ad_str *keys;   /* [n_vocab] what the model matches: raw bytes when byte-level, else the token; empty: unmatched */
    ad_str *pieces; /* [n_vocab] what the id decodes to */
    uint16_t *flags; /* [n_vocab] */
    ad_tk_map by_token, by_key;

    bool byte_level;    /* symbols are bytes, else characters */
    bool byte_fallback; /* an unknown character becomes its bytes' tokens */
    bool fuse_unk, ignore_merges;
    int32_t unk;          /* -1: unknown symbols are dropped */
    int32_t byte_id[256]; /* byte-level alphabet or <0xHH>; -1 when absent */
    ad_tk_merge *merges;  /* by rank: open addressing, merges_mask + 1 slots */
    size_t merges_mask;
    uint32_t *score_rank; /* [n_vocab] by score (SentencePiece): 0 merges first; NULL when merging by rank */
    size_t longest_key;

    ad_tk_norm norms[AD_TK_MAX_STEPS];
    int n_norms;
    ad_tk_step steps[AD_TK_MAX_STEPS];
    int n_steps;
    ad_tk_trie raw, normed; /* added tokens looked for before and after normalizing */
    ad_tk_trie written;     /* the special ones of normed as they are written: what is looked for in a text with untrusted spans */

    int32_t prefix[AD_TK_MAX_STEPS], suffix[AD_TK_MAX_STEPS]; /* the template around a text */
    int n_prefix, n_suffix;
    int strip_start;      /* decoder: leading spaces removed from a whole text */
    bool strip_first;     /* decoder: the first token loses its spaces (Metaspace) */
    int32_t bos, eos; /* -1: none */
    int32_t *eogs;
    int n_eogs;
};

/* ---- building (vocab.c) ---- */

ad_tokenizer *ad_tk_new(void);
/* A NUL-terminated copy in the tokenizer's memory; ptr is NULL when memory ran out. */
ad_str ad_tk_copy(ad_tokenizer *tk, ad_str s);
/* Ids 0 .. n-1, all empty yet. */
AD_MUSTUSE ad_status ad_tk_set_vocab(ad_tokenizer *tk, size_t n, const char *label, ad_err *err);
/* Enters tokens[id], which is set, into by_token; false when another id has the same string. */
bool ad_tk_name(ad_tokenizer *tk, int32_t id);
/* Fills keys, pieces, by_key, longest_key and byte_id from tokens and flags. */
AD_MUSTUSE ad_status ad_tk_index_keys(ad_tokenizer *tk);
/* Puts an added token into its trie (its content normalized first, or not); empty ones are never found. */
AD_MUSTUSE ad_status ad_tk_add_added(ad_tokenizer *tk, int32_t id, bool normalized, const char *label, ad_err *err);
/* Lists the ids flagged EOG. */
AD_MUSTUSE ad_status ad_tk_collect_eogs(ad_tokenizer *tk);
/* A byte-level token's bytes into dst[s.len]; false when a character is outside the byte alphabet. */
bool ad_tk_unmap(ad_str s, char *dst, size_t *n);
/* The byte of "<0xHH>", or -1. */
int ad_tk_byte_of(ad_str token);

/* Merges by rank (bpe.c). Later calls of the same pair win. */
AD_MUSTUSE ad_status ad_tk_merges_init(ad_tokenizer *tk, size_t count);
/* AD_EFORMAT without a message when a part or the result is no token of the model. */
AD_MUSTUSE ad_status ad_tk_merges_put(ad_tokenizer *tk, ad_str left, ad_str right, uint32_t rank);

/* Compiles a Split pattern (pretok.c); what names it in messages. The pattern is in Oniguruma's syntax as the
 * tokenizers library reads it; what PCRE2 would read differently is refused. */
AD_MUSTUSE ad_status ad_tk_add_regex(ad_tokenizer *tk, ad_str pattern, ad_tk_behavior behavior, bool invert, const char *what, ad_err *err);
AD_MUSTUSE ad_status ad_tk_add_step(ad_tokenizer *tk, ad_tk_step step, const char *label, ad_err *err);
extern const char ad_tk_gpt2_regex[];

/* ---- one encode call ---- */

typedef struct {
    uint32_t start, end;
} ad_tk_span;

typedef struct {
    int32_t prev, next;
    uint32_t pos, len; /* bytes of the word; len 0: merged into its left neighbour */
    int32_t id;        /* -1: no token yet (SentencePiece) */
} ad_tk_symbol;

typedef struct {
    uint64_t order; /* rank << 32 | left symbol */
    uint32_t len;   /* of both together: another length means that one of them has merged meanwhile */
    int32_t id;
} ad_tk_cand;

typedef struct {
    const ad_tokenizer *tk;
    ad_ids *out;
    ad_err *err;
    unsigned flags;      /* AD_ENCODE_* */
    const ad_text_span *untrusted; /* [n_untrusted] spans of the caller's text; NULL: all of it is trusted */
    size_t n_untrusted, span;      /* span: the first one that ends after what was searched already */
    const char *start;             /* of the caller's text */
    ad_buf norm[2];      /* normalized text */
    ad_buf text[2];      /* text rewritten by a pre-tokenizer */
    ad_tk_span *pieces[2], *marks;
    size_t n_pieces[2], pieces_cap[2], n_marks, marks_cap;
    uint8_t *mark_is_match;
    size_t mark_is_match_cap;
    ad_tk_symbol *syms;
    size_t syms_cap;
    ad_tk_cand *heap;
    size_t n_heap, heap_cap;
    pcre2_match_data *match;
    pcre2_match_context *limits;
} ad_tk_work;

void ad_tk_work_deinit(ad_tk_work *w);
AD_MUSTUSE ad_status ad_tk_push_id(ad_tk_work *w, int32_t id);
/* Normalizes text; *out points into the text itself or into w until the next call. */
AD_MUSTUSE ad_status ad_tk_normalize(const ad_tokenizer *tk, ad_buf bufs[2], ad_str text, ad_str *out, ad_err *err);
/* Cuts text into words and encodes each. at_start: text begins where the caller's text does. */
AD_MUSTUSE ad_status ad_tk_encode_words(ad_tk_work *w, ad_str text, bool at_start);
AD_MUSTUSE ad_status ad_tk_encode_word(ad_tk_work *w, ad_str word);

#endif
