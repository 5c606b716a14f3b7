/* SPDX-License-Identifier: MIT */
/* What any dialect's body comes down to, and the readers of the fields that dialects share. Pure: any thread.
 * A body is read in two steps: who shall answer (model, adapters), then, once that is known, everything else. */
#ifndef AD_API_REQUEST_H
#define AD_API_REQUEST_H

#include "core/text/chat.h"
#include "core/text/tokenizer.h"
#include "server/api/api.h"
#include "server/api/grammar_cache.h"

enum { AD_MAX_CHOICES = 128, AD_MAX_PROMPTS = 2048, AD_MAX_STOPS = 16, AD_OPENAI_STOPS = 4, AD_MAX_BIASES = 1024, AD_MAX_STOP_IDS = 64, AD_MAX_DEADLINE_MS = 24 * 3600 * 1000 };

#define AD_MAX_WEIGHT 1000 /* of an adapter in a request: far more makes numbers overflow */
#define AD_MIN_REPETITION_PENALTY 0.01 /* logits are divided by it: far less would make them infinite */

typedef struct {
    ad_ids ids;
    ad_str text;      /* as the request wrote it, in the JSON document; NULL ptr: it was given otherwise */
} ad_prompt;

typedef struct {
    const char *name; /* in the JSON document */
    float weight;
} ad_weighted_name;

typedef struct {
    json_t *root;     /* owns the strings */
    /* Who answers. */
    const char *model;                     /* NULL: the base model */
    ad_weighted_name adapters[AD_MAX_MIX]; /* beside the base model's name */
    int n_adapters;
    const json_t *lora; /* [{"id", "scale"}], well-formed; NULL: not given. An empty one is the base */
    bool use_defaults;  /* nothing was named: what POST /lora-adapters set answers */
    ad_str cache_salt;
    int priority;     /* the lower the earlier among the tenant's; above 0: batch */
    int deadline_ms;  /* after the request came; 0: none */
    uint64_t hash;    /* of `user`, or of the whole body: which target of an alias answers */
    /* What is asked. */
    ad_prompt *prompts; /* [n_prompts] */
    int n_prompts;
    int n;            /* choices per prompt in the reply */
    int best_of;      /* choices per prompt that are generated, at least n; the reply has the likeliest by token */
    ad_sampling sampling; /* max_tokens: within the context for each prompt, or INT32_MAX: as far as the context goes */
    bool max_tokens_given;
    ad_logit_bias *logit_bias; /* owned; sampling points to them, to the ids and to the grammar */
    ad_ids stop_ids, allowed_ids;
    ad_grammar *grammar;  /* retained, or NULL */
    ad_pooling pooling; /* other than AD_POOL_NONE: prompts become vectors, and nothing is sampled */
    ad_str stops[AD_MAX_STOPS];
    int n_stops;
    bool stream, include_usage, echo, return_token_ids, tokens_as_ids, skip_special;
    bool keep_tokens; /* choices gather their tokens beside their text */
    void *extra;      /* what only the dialect knows; or NULL */
    void (*free_extra)(void *extra); /* not called for NULL */
} ad_request;

/* What bodies are read against. */
typedef struct {
    const ad_tokenizer *tokenizer;
    int vocab, context, hidden; /* ids the base model has; tokens per sequence; numbers of a vector */
    ad_grammar_cache *grammars;
    const char *context_note; /* whose limit the context is, for messages; NULL: the model's own */
    const ad_chat_template *chat; /* of the adapter that answers, or the model's; NULL: there is none, or it is not known yet who answers */
} ad_request_context;

typedef struct {
    ad_request *r;
    const json_t *object; /* whose fields are read: the body, or an object in it */
    const ad_request_context *cx;
    ad_fault *f;
} ad_reader;

/* Parses the body: r->root and r->hash; everything else is zero, but for the neutral sampling. False with *f filled; either way ad_request_deinit releases *r. */
bool ad_request_open(ad_request *r, const char *body, size_t len, ad_fault *f);
void ad_request_deinit(ad_request *r);
/* max_tokens of one prompt: what was asked for, or as far as the context has room. */
int ad_request_max_tokens(const ad_request *r, int prompt, int context);
/* An empty text as r->extra, for dialects whose reply is written where the body is read. NULL with the fault filled: out of memory. */
ad_buf *ad_request_new_text(const ad_reader *rd);

/* ---- fields; each reader leaves its default where the field is absent or null, and says what is wrong in *f ---- */

const json_t *ad_read_field(const ad_reader *rd, const char *name); /* NULL: absent or null */
/* "`param` what", 400 invalid_value; returns false. */
bool ad_read_wrong(const ad_reader *rd, const char *param, const char *what);
bool ad_read_number(const ad_reader *rd, const char *name, double min, double max, bool open_min, float *out);
bool ad_read_integer(const ad_reader *rd, const char *name, json_int_t min, json_int_t max, int *out);
bool ad_read_flag(const ad_reader *rd, const char *name, bool *out);
bool ad_read_string(const ad_reader *rd, const char *name, size_t max, ad_str *out); /* of 1 to max bytes */
bool ad_read_id(const ad_reader *rd, const char *name, const json_t *v, size_t at, ad_ids *ids); /* a token id of the base, appended; v is number `at` of the field */
/* What would change the answer and is not served: refused unless it is null, false, 0 or empty. */
bool ad_read_unserved(const ad_reader *rd, const char *const *names, size_t n);

/* ---- groups of fields ---- */

bool ad_read_target(const ad_reader *rd);     /* who answers and when, as OpenAI's routes have it: `model` must be there, then ad_read_adapters and ad_read_turn */
bool ad_read_model(const ad_reader *rd, bool required);
bool ad_is_weight(const json_t *v);           /* a number within AD_MAX_WEIGHT */
bool ad_read_adapters(const ad_reader *rd);   /* `adapters`, `lora` and `cache_salt` */
bool ad_read_turn(const ad_reader *rd);       /* `priority` and `deadline_ms` */
/* An array of {"id", "scale"}, as llama-server names adapters; param: of the fault. */
bool ad_read_lora(const json_t *v, const char *param, ad_fault *f);
bool ad_read_seed(const ad_reader *rd);       /* drawn when absent */
bool ad_read_logit_bias(const ad_reader *rd); /* {"ID": bias}, biases from -100 to 100 */
bool ad_read_token_ids(const ad_reader *rd);  /* stop_token_ids, allowed_token_ids */
bool ad_read_sampling(const ad_reader *rd);   /* temperature ... frequency_penalty, min_tokens, ignore_eos, seed: by OpenAI's and vLLM's names */
bool ad_read_stops(const ad_reader *rd, const char *name, int max);
bool ad_read_stream(const ad_reader *rd);     /* stream, stream_options */
/* What replies tell about tokens: return_token_ids, return_tokens_as_token_ids, skip_special_tokens. */
bool ad_read_token_options(const ad_reader *rd);

/* ---- prompts; after max_tokens is known ---- */

/* A string, an array of ids, or an array of either. special: the tokenizer adds its own (BOS). */
bool ad_read_prompts(const ad_reader *rd, const char *name, bool special);
/* Makes room for n prompts, which are then added. */
bool ad_request_reserve(const ad_reader *rd, size_t n);
/* One prompt of ids, which are taken also when it is refused. name: the field that holds it. */
bool ad_request_add_prompt(const ad_reader *rd, const char *name, ad_ids ids);
/* One prompt of text: encoded, special tokens in it parsed. */
bool ad_request_add_text(const ad_reader *rd, const char *name, ad_str text, bool special);

#endif
