/* SPDX-License-Identifier: MIT */
/* What the routes of tenants and keys share. Loop thread. */
#ifndef AD_API_ACCOUNTS_H
#define AD_API_ACCOUNTS_H

#include "server/api/api.h"
#include "server/tenancy/change.h"

/* The body as a JSON object with no other fields than known[] (which ends in NULL); an empty body is {}. NULL: answered. */
json_t *ad_read_fields(ad_http_exchange *x, const char *const *known);
/* A string of at most `most` bytes, or null, into *out when it is there; *set says whether it is. */
bool ad_read_text_field(const json_t *body, const char *name, size_t most, bool *set, const char **out, ad_fault *f);
bool ad_read_limits_field(const json_t *body, bool of_key, bool *set, ad_limits *out, ad_fault *f);

/* One page of a list: those behind `after`, at most `limit`. */
typedef struct {
    char after[AD_MAX_NAME + 1];
    size_t limit;
} ad_page;
bool ad_read_page(ad_http_exchange *x, ad_page *page); /* false: answered */
void ad_reply_lost_page(ad_http_exchange *x); /* 400: nothing in the list has the id `after`, or no longer */
void ad_reply_page(ad_http_exchange *x, json_t *data, bool has_more); /* takes data */

json_t *ad_tenant_json(const ad_tenant *t); /* the caller owns it */
json_t *ad_key_json(const ad_key *k);
void ad_reply_unknown(ad_http_exchange *x, const char *what, const char *code, const char *param, const char *id); /* 404; what: "tenant" ... */
void ad_reply_account_refusal(ad_http_exchange *x, const ad_account_outcome *o);

#endif
