/* SPDX-License-Identifier: MIT */
/* What the handlers of the API share: faults in OpenAI's form, JSON replies. Loop thread, unless said otherwise. */
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

/* Ends the exchange. 503 gets Retry-After. */
void ad_reply_fault(ad_http_exchange *x, const ad_fault *f);
void ad_reply_json(ad_http_exchange *x, int status, json_t *body); /* takes body */
/* {"error":{...}}; the caller owns it. */
json_t *ad_fault_json(const ad_fault *f);
/* ad_http_options.error_body: the same form for what the HTTP layer refuses. */
void ad_error_body(void *app, ad_buf *out, int status, const char *message);

/* Compact JSON of `v`, which is taken, appended to *out. */
void ad_put_json(ad_buf *out, json_t *v);

void ad_handle_completions(ad_http_exchange *x, void *app);
void ad_handle_adapters(ad_http_exchange *x, void *app);
void ad_handle_adapter(ad_http_exchange *x, void *app); /* /v1/adapters/NAME */
void ad_handle_merge(ad_http_exchange *x, void *app);

#endif
