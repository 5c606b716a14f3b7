/* SPDX-License-Identifier: MIT */
/* Text to token ids and back: byte-level BPE (GPT-2, SmolLM, Llama 3, Qwen 2) and SentencePiece-style BPE
 * with byte fallback (Llama 2), from GGUF metadata or tokenizer.json. Immutable once loaded: any thread. */
#ifndef AD_TEXT_TOKENIZER_H
#define AD_TEXT_TOKENIZER_H

#include "core/base/mem.h"
#include "core/formats/gguf.h"

typedef struct ad_tokenizer ad_tokenizer;

/* Bytes [start, end) of a text. */
typedef struct {
    size_t start, end;
} ad_text_span;

/* A growing list of spans, ascending and apart; zero-initialise, free(spans) when done. */
typedef struct {
    ad_text_span *spans;
    size_t count, cap;
} ad_text_spans;

/* A growing list of token ids; zero-initialise, free(ids) when done. */
typedef struct {
    int32_t *ids;
    size_t count, cap;
} ad_ids;

/* g is borrowed for the call only (the tokenizer copies what it keeps). */
AD_MUSTUSE ad_status ad_tokenizer_from_gguf(ad_tokenizer **out, const ad_gguf *g, ad_err *err);
/* dir holds tokenizer.json and maybe tokenizer_config.json, config.json and generation_config.json (end-of-generation ids). */
AD_MUSTUSE ad_status ad_tokenizer_from_dir(ad_tokenizer **out, const char *dir, ad_err *err);
/* The same from the bytes of a tokenizer.json alone, without end-of-generation ids. label names them in messages. */
AD_MUSTUSE ad_status ad_tokenizer_from_json(ad_tokenizer **out, const char *json, size_t len, const char *label, ad_err *err);
void ad_tokenizer_free(ad_tokenizer **tk); /* NULL is fine */

enum {
    AD_ENCODE_ADD_SPECIAL = 1,   /* add what the tokenizer's own template adds (BOS ...) */
    AD_ENCODE_PARSE_SPECIAL = 2, /* special (control) tokens written in the text become tokens */
};
/* Appends to *out (added non-special tokens are always recognised). text is UTF-8; invalid bytes are
 * AD_EINVAL, as is an embedded token limit overflow. Time is O(len log len) for any text. On failure *out keeps what it had. */
AD_MUSTUSE ad_status ad_tokenizer_encode(const ad_tokenizer *tk, const char *text, size_t len, unsigned flags, ad_ids *out, ad_err *err);
/* The same for a text that is partly somebody else's: a special token that overlaps one of the untrusted spans (ascending
 * and apart) is plain text, whatever the flags say. Words still run across the borders of spans. */
AD_MUSTUSE ad_status ad_tokenizer_encode_spans(const ad_tokenizer *tk, const char *text, size_t len, unsigned flags, const ad_text_span *untrusted, size_t n_untrusted,
                                               ad_ids *out, ad_err *err);

int32_t ad_tokenizer_vocab(const ad_tokenizer *tk);                  /* ids are 0 .. vocab-1 */
bool ad_tokenizer_is_special(const ad_tokenizer *tk, int32_t id);    /* hidden by skip_special */
bool ad_tokenizer_is_eog(const ad_tokenizer *tk, int32_t id);        /* ends a generation */
/* All end-of-generation ids, ascending; *n is their count. Borrowed from tk. */
const int32_t *ad_tokenizer_eogs(const ad_tokenizer *tk, int *n);
int32_t ad_tokenizer_bos(const ad_tokenizer *tk);                    /* -1 when there is none */
int32_t ad_tokenizer_eos(const ad_tokenizer *tk);                    /* the end token that the files name; -1 when there is none */
/* A token as its file writes it, "<|im_end|>"; empty for ids outside the vocabulary. Borrowed from tk. */
ad_str ad_tokenizer_token(const ad_tokenizer *tk, int32_t id);
/* The bytes a token stands for in the middle of a text, maybe half a UTF-8 character. Borrowed from tk.
 * Ids outside the vocabulary give an empty string. */
ad_str ad_tokenizer_piece(const ad_tokenizer *tk, int32_t id);
/* Appends the decoded text of n ids: valid UTF-8, undecodable bytes as U+FFFD, a SentencePiece leading
 * space stripped, as the tokenizer's own decoder does. */
void ad_tokenizer_decode(const ad_tokenizer *tk, const int32_t *ids, size_t n, bool skip_special, ad_buf *out);

/* Streaming decoder of one choice: never emits half a UTF-8 character, never lets any part of a stop
 * string out. One owner at a time. */
typedef struct ad_detok ad_detok;
/* stops[n_stops] are copied; each is non-empty. tk is borrowed and must outlive the decoder.
 * `prompt`[n_prompt] (may be NULL) only tells whether a leading SentencePiece space belongs to the text
 * start: with n_prompt > 0 the generated text continues a text and keeps its space. */
AD_MUSTUSE ad_status ad_detok_new(ad_detok **out, const ad_tokenizer *tk, const ad_str *stops, int n_stops, bool skip_special, int n_prompt, ad_err *err);
/* Appends the text that is now certain to *out; *stopped turns true once a stop string was completed (the
 * text ends before the earliest match; later pushes add nothing). */
AD_MUSTUSE ad_status ad_detok_push(ad_detok *d, int32_t id, ad_buf *out, bool *stopped);
/* Appends what was held back (an incomplete character as U+FFFD). */
AD_MUSTUSE ad_status ad_detok_finish(ad_detok *d, ad_buf *out);
/* The text of the first n tokens is not searched for stop strings. Before the first push. */
void ad_detok_hold_stops(ad_detok *d, int n);
/* Which of the stop strings ended the text; -1: none did. */
int ad_detok_stop(const ad_detok *d);
void ad_detok_free(ad_detok **d); /* NULL is fine */

#endif
