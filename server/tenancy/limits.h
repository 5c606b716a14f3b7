/* SPDX-License-Identifier: MIT */
/* What a tenant or a key may use, and the meter that counts it: token buckets by the minute, counters by the UTC day, requests at a time.
 * Pure: the clock is an argument. Loop thread only.
 *
 * A bucket holds one minute's worth and fills up evenly. A request takes itself when it begins, its prompt's tokens and all that it might generate before
 * it computes, and gives back what it did not use when it ends. What counts for its tenant and for its key is taken from both or from neither. */
#ifndef AD_TENANCY_LIMITS_H
#define AD_TENANCY_LIMITS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/status.h"

/* The first three are buckets, the next two counters of the day; the order is that of `spent` and `today`. */
typedef enum {
    AD_LIMIT_REQUESTS, AD_LIMIT_PROMPT, AD_LIMIT_GENERATED, AD_LIMIT_PROMPT_DAY, AD_LIMIT_GENERATED_DAY, AD_LIMIT_CONCURRENT,
    AD_LIMIT_ADAPTERS, AD_LIMIT_STORED, AD_LIMIT_RESIDENT, AD_LIMIT_MAX_TOKENS, AD_LIMIT_CONTEXT, AD_N_LIMITS,
    AD_N_BUCKETS = AD_LIMIT_PROMPT_DAY, AD_N_DAYS = AD_LIMIT_CONCURRENT - AD_LIMIT_PROMPT_DAY,
} ad_limit;

#define AD_MAX_LIMIT 1000000000000 /* more is as good as none, and sums of it fit 64 bits */

typedef struct {
    int64_t of[AD_N_LIMITS]; /* 0: no limit; else 1 to AD_MAX_LIMIT requests, tokens, adapters or bytes */
} ad_limits;

typedef struct {
    int64_t ms;              /* since whenever; never goes back */
    int64_t unix_ms;
} ad_clock;

typedef struct {
    int64_t spent[AD_N_BUCKETS]; /* what is missing, in 1/60000 of a request or token: each ms brings back `limit` of them. 0 without a limit */
    int64_t at_ms;           /* ad_clock.ms that `spent` is of */
    int64_t day;             /* of `today`, since 1970, in UTC */
    int64_t today[AD_N_DAYS]; /* tokens of requests that ended today, and reserved by those that run */
    int running;             /* requests */
} ad_meter;

typedef struct {
    ad_limits limits;
    ad_meter meter;
} ad_allowance;

typedef struct {
    int64_t prompt, generated;
} ad_token_counts;

/* A request's share of its tenant's and its key's allowances, which outlive it. */
typedef struct {
    ad_allowance *of[2];     /* tenant, key; NULL: none */
    bool begun;              /* between begin and its settlement */
    int64_t day;             /* when `reserved` was taken */
    ad_token_counts reserved;
} ad_charge;

/* What stands against a request. */
typedef struct {
    ad_limit limit;
    bool of_key;             /* else of the tenant */
    bool never;              /* it wants more than the limit itself: waiting is no use */
    int64_t value, wanted;   /* the limit; what the request would take */
    int64_t wait_ms;         /* then it fits if nobody takes anything meanwhile; of AD_LIMIT_CONCURRENT a guess */
} ad_excess;

/* ---- limits as JSON ---- */

const char *ad_limit_name(ad_limit limit); /* of its field: "requests_per_minute" */
const char *ad_limit_text(ad_limit limit); /* for a sentence: "requests per minute" */
/* An object of limits by their names; null or absent is none. AD_EINVAL names what is wrong, and the field in param[64]. of_key: a key has no bytes_resident, which are its tenant's. */
AD_MUSTUSE ad_status ad_limits_read(ad_limits *out, const json_t *v, bool of_key, char *param, ad_err *err);
json_t *ad_limits_json(const ad_limits *l); /* those that are set; the caller owns it */
/* Other limits from now on; what is spent stays, as far as a bucket can hold it. */
void ad_allowance_set(ad_allowance *a, const ad_limits *l, ad_clock now);

/* ---- requests ---- */

/* A request begins: it takes one of requests per minute and of concurrent requests. False: nothing was taken, *why says what of. key may be NULL. */
bool ad_charge_begin(ad_charge *c, ad_allowance *tenant, ad_allowance *key, ad_clock now, ad_excess *why);
/* Takes tokens for all that it will compute, once. False: nothing was taken, the request itself still is. */
bool ad_charge_reserve(ad_charge *c, ad_token_counts most, ad_clock now, ad_excess *why);
/* It has ended and used this: the rest is given back. Used tokens count for the day it ends in. More than once does nothing. */
void ad_charge_settle(ad_charge *c, ad_token_counts used, ad_clock now);
/* It was refused before it did anything: all is given back, itself too. */
void ad_charge_undo(ad_charge *c, ad_clock now);
/* The smaller of both limits of a kind; 0: none. *of_key tells whose it is (may be NULL). */
int64_t ad_charge_limit(const ad_charge *c, ad_limit limit, bool *of_key);
/* Up to how many tokens one of n choices may have if nobody says how many it shall: what max_tokens and a full bucket or day allow; at least 1, at most `most`. */
int64_t ad_charge_default_tokens(const ad_charge *c, int64_t n, int64_t most);

/* ---- what is left ---- */

typedef struct {
    int64_t limit, remaining; /* limit 0: there is none */
    int64_t reset_ms;         /* until the bucket is full again */
} ad_rate;
/* Of the requests, and of the tokens (prompt or generated) of which the least is left, by the tenant's and the key's buckets. */
void ad_charge_rates(const ad_charge *c, ad_clock now, ad_rate *requests, ad_rate *tokens);
ad_rate ad_allowance_rate(const ad_allowance *a, ad_limit bucket, ad_clock now);
int64_t ad_allowance_today(const ad_allowance *a, ad_limit day, ad_clock now);
/* What the ledger has of today, added once at start. */
void ad_allowance_restore(ad_allowance *a, ad_token_counts today, ad_clock now);

/* A time as Go writes it: "0s", "12ms", "1.5s", "6m0s", "1h0m0s". Into out[AD_DURATION_TEXT], which is returned. */
enum { AD_DURATION_TEXT = 40 };
const char *ad_duration_text(int64_t ms, char *out);

#endif
