/* SPDX-License-Identifier: MIT */
/* What the handlers of the API share: faults, JSON replies. Loop thread, unless said otherwise. */
#ifndef AD_API_API_H
#define AD_API_API_H

#include <jansson.h>

#include "server/app.h"

/* Why a request is refused: HTTP status, OpenAI's code and the field's name. Zero http: nothing is wrong. */
typedef struct {
    int http;
    const char *code; /* static, or NULL */
    char param[64];   /* "" : no field */
    char message[600];
} ad_fault;

/* Fills *f and returns false, so that refusing is one line. Any thread. */
bool ad_fault_set(ad_fault *f, int http, const char *code, const char *param, const char *fmt, ...) AD_PRINTF(5, 6);
/* The same from an error inside, by the table of ad_http_status_of. */
bool ad_fault_from(ad_fault *f, const ad_err *err, const char *param);
bool ad_fault_no_memory(ad_fault *f); /* 503 */

/* Ends the exchange, in the form of its route: see error_form.h; whole names in the message become the sender's. 503 gets Retry-After. */
void ad_reply_fault(ad_http_exchange *x, const ad_fault *f);
void ad_reply_json(ad_http_exchange *x, int status, json_t *body); /* takes body */
void ad_set_processing_time(ad_http_exchange *x);                  /* OpenAI's header; JSON replies have it, streams set it when they begin */
void ad_reply_json_text(ad_http_exchange *x, int status, ad_buf *body); /* JSON that is written already, or failed; takes what is in body */
/* The body of a fault in OpenAI's form, or in that of a route (NULL: OpenAI's); the caller owns it. */
json_t *ad_fault_json(const ad_fault *f);
json_t *ad_fault_json_as(const ad_fault *f, const ad_http_route *route);
/* ad_http_options.error_body: the same form for what the HTTP layer refuses. */
void ad_error_body(void *app, const ad_http_route *route, ad_buf *out, int status, const char *message);

/* Whether the body is JSON by its content type, or by its lack of one; else answers 415. */
bool ad_require_json(ad_http_exchange *x);
/* Whether the query sets the flag; false: it is neither true nor false, which is answered. */
bool ad_query_flag(ad_http_exchange *x, const char *name, bool *out);
/* A whole number of the query, min >= 0. Absent: *out stays. False: *f says what is wrong. */
bool ad_query_integer(const ad_http_exchange *x, const char *name, int64_t min, int64_t max, int64_t *out, ad_fault *f);
/* Refuses in one line: 503 gets Retry-After. Returns false. */
bool ad_reply_refusal(ad_http_exchange *x, int http, const char *code, const char *param, const char *message);

/* A reply that comes later. The client may leave meanwhile; what it asked for goes on. */
typedef struct {
    ad_http_exchange *x; /* NULL: the client left */
    ad_app *app;
    ad_stored_audit *audit; /* with x NULL: what is to be written when it ends; or NULL */
    int created;         /* status of success */
    bool dry_run;
    char name[AD_MAX_NAME + 1]; /* of the adapter or alias, as far as it fits */
} ad_later;
ad_later *ad_later_new(ad_http_exchange *x, ad_app *app, const char *name); /* NULL: out of memory, which is answered */
/* It ended so. The exchange, to be answered now, or NULL: the client left; free the rest with free(). */
ad_http_exchange *ad_later_resume(ad_later *l, ad_status st);

enum { AD_JSON_DEPTH = 64 };
/* The JSON of a request's body, duplicates refused; what nests deeper than AD_JSON_DEPTH levels is refused before it is read. NULL: *why (may be NULL) says why. Any thread. */
json_t *ad_read_json(const char *text, size_t len, size_t flags, json_error_t *why);
/* Compact JSON of `v`, which is taken, appended to *out. */
void ad_put_json(ad_buf *out, json_t *v);
void ad_json_reopen(ad_buf *text); /* the object at its end, which is not {}, goes on: its closing brace becomes a comma */
json_t *ad_buf_json(const ad_buf *text); /* a string; NULL: appending to it has failed, or it is no UTF-8 */
const json_t *ad_json_member(const json_t *object, const char *name); /* NULL: absent or null, or `object` is none */
/* What people read of numbers: of a float the fewest digits that give it back (0.7, not 0.699999988); of a measured one, at least 0, a whole number of 1 / per_one. */
double ad_plain_float(float value);
double ad_rounded(double value, int per_one);

void ad_handle_completions(ad_http_exchange *x, void *app);
void ad_handle_chat_completions(ad_http_exchange *x, void *app);
void ad_handle_responses(ad_http_exchange *x, void *app);
void ad_handle_embeddings(ad_http_exchange *x, void *app);
void ad_handle_llama_embedding(ad_http_exchange *x, void *app);
void ad_handle_tokenize(ad_http_exchange *x, void *app);
void ad_handle_detokenize(ad_http_exchange *x, void *app);
void ad_handle_adapters(ad_http_exchange *x, void *app);
void ad_handle_adapter(ad_http_exchange *x, void *app);        /* /v1/adapters/NAME */
void ad_handle_post_adapter(ad_http_exchange *x, void *app);
void ad_handle_adapter_action(ad_http_exchange *x, void *app); /* POST /v1/adapters/NAME/ACTION */
void ad_handle_patch_adapter(ad_http_exchange *x, void *app);
void ad_handle_delete_adapter(ad_http_exchange *x, void *app);
void ad_handle_events(ad_http_exchange *x, void *app);
void ad_handle_aliases(ad_http_exchange *x, void *app);
void ad_handle_alias(ad_http_exchange *x, void *app);          /* /v1/aliases/NAME */
void ad_handle_put_alias(ad_http_exchange *x, void *app);
void ad_handle_delete_alias(ad_http_exchange *x, void *app);
void ad_handle_models(ad_http_exchange *x, void *app);
void ad_handle_model(ad_http_exchange *x, void *app);          /* /v1/models/ID */
void ad_handle_delete_model(ad_http_exchange *x, void *app);
void ad_handle_merge(ad_http_exchange *x, void *app);
void ad_handle_status(ad_http_exchange *x, void *app);
void ad_handle_drain(ad_http_exchange *x, void *app);
void ad_handle_health(ad_http_exchange *x, void *app);
void ad_handle_livez(ad_http_exchange *x, void *app);
void ad_handle_readyz(ad_http_exchange *x, void *app);
void ad_handle_tenants(ad_http_exchange *x, void *app);
void ad_handle_tenant(ad_http_exchange *x, void *app);         /* /v1/admin/tenants/NAME */
void ad_handle_post_tenant(ad_http_exchange *x, void *app);
void ad_handle_patch_tenant(ad_http_exchange *x, void *app);
void ad_handle_delete_tenant(ad_http_exchange *x, void *app);
void ad_handle_keys(ad_http_exchange *x, void *app);
void ad_handle_key(ad_http_exchange *x, void *app);            /* /v1/admin/keys/ID */
void ad_handle_post_key(ad_http_exchange *x, void *app);
void ad_handle_patch_key(ad_http_exchange *x, void *app);
void ad_handle_delete_key(ad_http_exchange *x, void *app);
void ad_handle_key_action(ad_http_exchange *x, void *app);     /* POST /v1/admin/keys/ID/rotate */
void ad_handle_audit(ad_http_exchange *x, void *app);
void ad_handle_log(ad_http_exchange *x, void *app);
void ad_handle_put_log(ad_http_exchange *x, void *app);
void ad_handle_limits(ad_http_exchange *x, void *app);         /* GET /v1/admin/limits */
void ad_handle_limits_of(ad_http_exchange *x, void *app);      /* GET /v1/admin/limits/tenants/NAME, .../keys/ID */
void ad_handle_put_limits(ad_http_exchange *x, void *app);
void ad_handle_usage(ad_http_exchange *x, void *app);          /* GET /v1/organization/usage/completions */
void ad_handle_usage_rows(ad_http_exchange *x, void *app);     /* GET /v1/admin/usage */
void ad_handle_openapi(ad_http_exchange *x, void *app);
extern const char ad_openapi_json[]; /* the OpenAPI document of all routes, NUL-terminated */
/* Whether a request can name it: an alias, or an adapter with a version that may answer. NULL is fine. */
bool ad_is_model(const ad_entry *e);

/* vLLM's */
void ad_handle_load_lora(ad_http_exchange *x, void *app);
void ad_handle_unload_lora(ad_http_exchange *x, void *app);
void ad_handle_version(ad_http_exchange *x, void *app);
void ad_handle_ping(ad_http_exchange *x, void *app);
void ad_handle_load(ad_http_exchange *x, void *app);

/* llama-server's */
void ad_handle_llama_completion(ad_http_exchange *x, void *app);
void ad_handle_lora_adapters(ad_http_exchange *x, void *app);
void ad_handle_set_lora_adapters(ad_http_exchange *x, void *app);
void ad_handle_props(ad_http_exchange *x, void *app);
void ad_handle_slots(ad_http_exchange *x, void *app);
void ad_handle_apply_template(ad_http_exchange *x, void *app);

/* LoRAX's and TGI's */
void ad_handle_generate(ad_http_exchange *x, void *app);
void ad_handle_generate_stream(ad_http_exchange *x, void *app);
void ad_handle_generate_compat(ad_http_exchange *x, void *app);
void ad_handle_info(ad_http_exchange *x, void *app);

#endif
