/* SPDX-License-Identifier: MIT */
/* The stepping engine: sequences with their own KV pages and adapter, run together as one ragged batch.
 * core's public face. Everything here belongs to one thread (the engine thread), except ad_seq_new and
 * ad_seq_free, which any thread may call for a sequence that is not inside an engine. */
#ifndef AD_ENGINE_ENGINE_H
#define AD_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/engine/kv.h"
#include "core/grammar/grammar.h"
#include "core/model/lowrank.h"
#include "core/model/model.h"

enum { AD_MAX_LOGPROBS = 20 }; /* alternatives per position; the API allows fewer */

typedef struct {
    int32_t id;                 /* >= 0; one beyond the vocabulary is nobody's */
    float bias;                 /* finite */
} ad_logit_bias;

/* May be copied; what it points to is borrowed until the sequence is freed (of a generation: until on_done returned).
 *
 * A token comes about so: the raw logits give the logprobs; biases are added; penalties; then all that is not allowed is ruled out: by
 * the grammar, by allowed_token_ids, and before min_tokens whatever would end the text; then temperature, min_p, top_k, top_p and the
 * draw. A text ends with an end-of-generation token (unless ignore_eos), with one of stop_token_ids, or, without any such token, as
 * soon as the grammar allows nothing more, whatever min_tokens says. With a grammar, tokens that end the text can be drawn exactly
 * where the text may end, all other special tokens never; ignore_eos then rules end-of-generation tokens out. A sequence for which
 * nothing is left to draw, or whose grammar grows beyond its limits, ends with AD_FINISH_IMPOSSIBLE. */
typedef struct {
    float temperature;          /* >= 0; 0 is greedy (lowest id on ties) */
    float top_p;                /* (0, 1]; 1 = off */
    float min_p;                /* [0, 1]; 0 = off */
    int top_k;                  /* 0 = off */
    float repetition_penalty;   /* > 0; 1 = off; over prompt and output */
    float presence_penalty;     /* over output only */
    float frequency_penalty;
    uint64_t seed;              /* with `choice` and the position it determines every draw */
    int choice;                 /* index of the choice within its request */
    int max_tokens;             /* >= 0 */
    int min_tokens;             /* nothing ends the text before this many */
    bool ignore_eos;            /* end-of-generation ids do not end it */
    int logprobs;               /* -1 = none; else number of alternatives per generated token, 0..AD_MAX_LOGPROBS */
    int prompt_logprobs;        /* the same for prompt positions 1..n-1 (each given what precedes it); -1 = none */
    const ad_logit_bias *logit_bias; /* [n_logit_bias] */
    int n_logit_bias;
    const int32_t *stop_token_ids;   /* [n_stop_token_ids] each ends the text as an end-of-generation token does */
    int n_stop_token_ids;
    const int32_t *allowed_token_ids; /* [n_allowed_token_ids] nothing else is drawn, ends neither; 0 = no such list */
    int n_allowed_token_ids;
    ad_grammar *grammar;        /* of the model's tokenizer: what the text must be; NULL = anything */
} ad_sampling;

typedef struct {
    int32_t id;
    float logprob;              /* log-softmax of the raw logits, before penalties and temperature */
    bool ends;                  /* an end-of-generation or stop token that ended the text: it has no text of its own */
    int n_top;                  /* alternatives, best first */
    int32_t top_id[AD_MAX_LOGPROBS];
    float top_logprob[AD_MAX_LOGPROBS];
} ad_token_info;

/* What becomes of the hidden states behind the final norm when a sequence is no text but a vector. */
typedef enum {
    AD_POOL_NONE, /* none of them: the sequence draws tokens */
    AD_POOL_MEAN, /* their mean, summed in the order of positions */
    AD_POOL_LAST, /* the last token's */
    AD_POOL_CLS,  /* the first token's */
} ad_pooling;

typedef enum { AD_FINISH_NONE, AD_FINISH_STOP, AD_FINISH_LENGTH, AD_FINISH_CANCELED, AD_FINISH_ERROR, AD_FINISH_IMPOSSIBLE, AD_FINISH_TIMEOUT, AD_FINISH_LATE } ad_finish;

typedef struct ad_engine ad_engine;
typedef struct ad_seq ad_seq;

typedef struct {
    int max_running;   /* sequences admitted at once */
    int step_tokens;   /* rows per step, at least max_running */
    int context;       /* tokens per sequence (prompt + generated); at most the model's */
    size_t kv_bytes;   /* of the page pool */
    ad_kv_type kv_type;
    int n_threads;     /* team size, >= 1 */
    unsigned cpu;      /* AD_CPU_* mask */
} ad_engine_options;

/* model is borrowed until the engine is freed. */
AD_MUSTUSE ad_status ad_engine_new(ad_engine **out, const ad_model *model, const ad_engine_options *opt, ad_err *err);
void ad_engine_free(ad_engine **e); /* every sequence has been removed before; NULL is fine */
const char *ad_engine_kernels(const ad_engine *e); /* kernel table name */
int ad_engine_pages_total(const ad_engine *e);
int ad_engine_pages_free(const ad_engine *e); /* held by no sequence; some may be known prefixes */
int ad_engine_pages_for(int n_tokens); /* pages that hold n_tokens */

/* What decides a sequence's KV beside its tokens, and may be shared by sequences that agree in it: see kv.h. */
typedef ad_kv_parent ad_prefix_root;

/* What a sequence runs on; all borrowed until it is freed. */
typedef struct {
    const ad_mix *mix;       /* corrections; NULL: none */
    const ad_merged *merged; /* weights; NULL: the model's */
    ad_prefix_root root;     /* what these are, and its tenant's salt, as 128 bits of a digest */
} ad_seq_weights;

/* prompt[n_prompt] (n_prompt >= 1, ids inside the vocabulary) is copied. */
AD_MUSTUSE ad_status ad_seq_new(ad_seq **out, const int32_t *prompt, int n_prompt, const ad_sampling *sampling, ad_seq_weights weights, ad_err *err);
/* One that draws nothing: it ends with AD_FINISH_LENGTH when its prompt is computed, and then has its vector. */
AD_MUSTUSE ad_status ad_seq_new_pooled(ad_seq **out, const int32_t *prompt, int n_prompt, ad_pooling pooling, ad_seq_weights weights, ad_err *err);
void ad_seq_free(ad_seq **s); /* NULL is fine */
int ad_seq_pending_rows(const ad_seq *s); /* rows it could contribute now: what is not in the KV yet */
int ad_seq_pages(const ad_seq *s); /* KV pages it holds now, some perhaps together with others */
const ad_mix *ad_seq_mix(const ad_seq *s);
int ad_seq_cached_tokens(const ad_seq *s); /* prompt tokens that the first admission found in the cache */

/* Takes the sequence in, with the pages of its longest known prefix. AD_EBUSY when the batch is full or the rest of its
 * tokens would not fit now. */
AD_MUSTUSE ad_status ad_engine_admit(ad_engine *e, ad_seq *s, ad_err *err);
/* Makes room for the next `rows` rows of s; false when pages are missing, and then nothing was taken. */
AD_MUSTUSE bool ad_engine_reserve(ad_engine *e, ad_seq *s, int rows);
/* Gives the pages back. A sequence that has not finished may be admitted again: it computes its tokens anew, with the
 * same results to the last bit, and goes on. */
void ad_engine_remove(ad_engine *e, ad_seq *s);

/* What one sequence contributes to a step, and what came of it. */
typedef struct {
    ad_seq *seq;
    int rows;                /* in: 1..ad_seq_pending_rows, reserved; rows of the whole plan <= step_tokens */
    bool has_token;          /* out: `token` was generated */
    ad_token_info token;     /* out */
    ad_finish finish;        /* out: AD_FINISH_NONE = goes on */
    const char *error;       /* out: with AD_FINISH_ERROR and AD_FINISH_IMPOSSIBLE, why; static */
} ad_step_item;

/* Runs one step. items[n] may be reordered. A row that turns non-finite ends only its own sequence. */
void ad_engine_step(ad_engine *e, ad_step_item *items, int n);

/* Prompt logprobs, complete once the first token was generated or the sequence finished: infos[n_prompt],
 * [0] has only its id. NULL when not asked for. Borrowed from s. */
const ad_token_info *ad_seq_prompt_logprobs(const ad_seq *s);
int ad_seq_prompt_tokens(const ad_seq *s);
/* A pooled sequence's vector [hidden], not normalised, once it has finished; the same to the last bit however its prompt was
 * cut and whoever was in the batch. NULL for others. Borrowed from s. */
const float *ad_seq_vector(const ad_seq *s);

#endif
