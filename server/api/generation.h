/* SPDX-License-Identifier: MIT */
/* One request becomes prompts x best_of choices; their tokens become text; a dialect turns that into its JSON and its events. Loop thread, but for what reads
 * the body of a long request: that runs on libuv's pool. A generation lives until its reply is complete (or its client is gone) and every choice has ended. */
#ifndef AD_API_GENERATION_H
#define AD_API_GENERATION_H

#include "server/api/lease.h"
#include "server/api/metering.h"
#include "server/api/request.h"

typedef struct ad_generation ad_generation;
typedef struct ad_choice ad_choice;

/* Why a choice ended. */
typedef enum { AD_END_NONE, AD_END_EOS, AD_END_STOP_STRING, AD_END_LENGTH } ad_end;

struct ad_choice {
    ad_generation *owner;
    int index, prompt;        /* in the reply, -1: not among the best; which prompt it answers */
    ad_buf text;              /* since the last event, or all of it when the request does not stream */
    ad_token_info *tokens;    /* [n_tokens] the same; kept when the request has keep_tokens */
    size_t n_tokens, cap_tokens;
    size_t n_echoed;          /* the first of them are the prompt's; the very first has no log-probability */
    int n_generated, n_cached;
    int n_unread;             /* tokens that came after the client had left */
    bool computed;            /* the engine did something for it */
    ad_end end;
    int stop;                 /* with AD_END_STOP_STRING: which of the request's */
    bool started;             /* an event of it was sent */
    uint64_t first_token_ns, last_token_ns; /* uv_hrtime; 0: there was none */
    void *state;              /* the dialect's own */
    /* generation.c's: */
    ad_gen *gen;              /* NULL: not submitted, or ended */
    ad_detok *detok;
    double logprob;           /* sum over its tokens */
};

/* How one route speaks. read_* are pure and run on any thread; the rest runs on the loop. */
typedef struct {
    const char *id_prefix;                          /* "cmpl-" */
    bool (*read_target)(const ad_reader *rd);       /* model, adapters */
    bool (*read)(const ad_reader *rd);              /* everything else; when it adds no prompt the reply follows at once */
    void (*headers)(ad_generation *g);              /* before the reply or the stream begins: more of them; or NULL */
    json_t *(*reply)(ad_generation *g);             /* not streamed: the body */
    void (*write)(ad_generation *g, ad_buf *out);   /* instead of reply: the body's text; or NULL */
    void (*vector)(ad_choice *ch, const float *v, int n); /* requests with `pooling`: what the prompt became, not normalised; v is borrowed */
    void (*begin)(ad_generation *g);                /* streamed: before the first event; or NULL */
    void (*event)(ad_choice *ch);                   /* streamed: there is text, or tokens, or it has ended; takes what there is */
    void (*end)(ad_generation *g);                  /* streamed: the last events, after every choice has ended; or NULL */
    void (*fail)(ad_generation *g);                 /* streamed: the last event when it ends with g->fault; NULL: that as an event without a name */
    void (*free_choice)(void *state);               /* a choice's state; or NULL */
    void (*free_state)(void *state);                /* the generation's; or NULL */
    bool templated;                                 /* read runs chat templates, which are programs of strangers: not on the loop */
} ad_dialect;

struct ad_generation {
    ad_app *app;
    const ad_dialect *dialect;
    ad_http_exchange *x;      /* NULL: the client is gone, or has its reply */
    ad_request rq;
    ad_lease lease;
    ad_request_context cx;
    ad_choice *choices;       /* prompt-major [n_choices] */
    int n_choices;
    char id[160];             /* prefix and request id */
    time_t created;
    void *state;              /* the dialect's own */
    /* generation.c's: */
    ad_metering metering;
    ad_generation *prev, *next; /* of the app's */
    int n_started, n_running, n_done; /* choices that went to the worker; that it still has; that ended */
    bool streaming, failed;
    ad_fault fault;
    uv_work_t work;
    char *body;               /* [body_len] copied for the pool */
    size_t body_len;
    bool in_pool, good;       /* good: the last reading went well */
    void (*then)(ad_generation *g);
};

extern const ad_dialect ad_completions, ad_chat_completions, ad_responses, ad_embeddings, ad_llama_embedding, ad_tokenize, ad_detokenize, ad_llama_completion, ad_generate,
    ad_generate_stream, ad_generate_compat, ad_apply_template;

/* Begins the exchange's request. */
void ad_generation_start(ad_http_exchange *x, ad_app *app, const ad_dialect *d);

/* All that run or wait end with a 503, or with an event that says the same; their streams are whole. */
void ad_generations_end(ad_app *app, const char *message);

/* For begin, event and end: writes one event, whose JSON is taken; name: of the event, or NULL. */
void ad_generation_send(ad_generation *g, const char *name, json_t *v);
void ad_generation_send_text(ad_generation *g, const char *text); /* as it is: "data: [DONE]\n\n" */
/* It ends with this error as soon as the caller has returned, unless another came before. */
void ad_generation_fail(ad_generation *g, int http, const char *code, const char *message);
/* The reply's i-th choice, i < n_prompts * n; once every choice has ended. */
ad_choice *ad_generation_choice(const ad_generation *g, int i);
/* What a choice gathered was sent. */
void ad_choice_clear(ad_choice *ch);

/* ---- what replies have in common ---- */

typedef struct {
    json_int_t prompt, generated, cached;
} ad_usage;
ad_usage ad_generation_usage(const ad_generation *g);
json_t *ad_usage_json(const ad_generation *g); /* prompt_tokens, completion_tokens ... as OpenAI has them */
/* id, object, created, model, choices (taken), system_fingerprint, and the receipt. */
json_t *ad_generation_envelope(const ad_generation *g, const char *object, json_t *choices);
const char *ad_generation_model(const ad_generation *g); /* the name that was asked for */
/* "stop", "length", or NULL while it goes on. */
const char *ad_finish_reason(ad_end end);
/* The token's own text; part of a character becomes U+FFFD. Any thread. */
json_t *ad_piece_json(const ad_tokenizer *tk, int32_t id);
json_t *ad_piece_bytes_json(const ad_tokenizer *tk, int32_t id); /* its bytes, as an array of numbers */
/* The token's text, or "token_id:N" when the request wants that. */
json_t *ad_token_name(const ad_generation *g, int32_t id);
/* The ids of the generated tokens that the choice has gathered. */
json_t *ad_choice_ids_json(const ad_choice *ch);

#endif
