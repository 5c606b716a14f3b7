/* SPDX-License-Identifier: MIT */
#include "server/tenancy/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    UNITS = 60000,           /* of `spent`, per request or token: the milliseconds of a minute */
    LONG_MS = 60 * UNITS,    /* after which any bucket is full; keeps products within 64 bits */
    DAY_MS = 24 * 60 * UNITS,
    SLOT_WAIT_MS = 1000,     /* nobody knows when a request that runs will end */
};

static const struct { const char *name, *text; } kinds[AD_N_LIMITS] = {
    [AD_LIMIT_REQUESTS] = {"requests_per_minute", "requests per minute"},
    [AD_LIMIT_PROMPT] = {"prompt_tokens_per_minute", "prompt tokens per minute"},
    [AD_LIMIT_GENERATED] = {"generated_tokens_per_minute", "generated tokens per minute"},
    [AD_LIMIT_PROMPT_DAY] = {"prompt_tokens_per_day", "prompt tokens per day"},
    [AD_LIMIT_GENERATED_DAY] = {"generated_tokens_per_day", "generated tokens per day"},
    [AD_LIMIT_CONCURRENT] = {"concurrent_requests", "concurrent requests"},
    [AD_LIMIT_ADAPTERS] = {"adapters", "adapters"},
    [AD_LIMIT_STORED] = {"bytes_stored", "bytes of stored adapters"},
    [AD_LIMIT_RESIDENT] = {"bytes_resident", "bytes of adapters in memory"},
    [AD_LIMIT_MAX_TOKENS] = {"max_tokens", "generated tokens per choice"},
    [AD_LIMIT_CONTEXT] = {"context", "tokens of context"},
};

const char *ad_limit_name(ad_limit limit) { return kinds[limit].name; }
const char *ad_limit_text(ad_limit limit) { return kinds[limit].text; }

/* ---- JSON ---- */

static int find_kind(const char *name)
{
    for (int i = 0; i < AD_N_LIMITS; i++)
        if (!strcmp(kinds[i].name, name)) return i;
    return AD_N_LIMITS;
}

static ad_status read_limit(ad_limits *l, const char *name, const json_t *v, bool of_key, ad_err *err)
{
    int kind = find_kind(name);
    if (kind == AD_N_LIMITS) return ad_fail(err, AD_EINVAL, "`%.60s` is no limit", name);
    if (json_is_null(v)) return AD_OK;
    if (of_key && kind == AD_LIMIT_RESIDENT) return ad_fail(err, AD_EINVAL, "`%s` is a limit of tenants: keys do not keep adapters in memory", name);
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > AD_MAX_LIMIT)
        return ad_fail(err, AD_EINVAL, "`%s` must be a whole number from 1 to %lld, or null for no limit", name, (long long)AD_MAX_LIMIT);
    l->of[kind] = json_integer_value(v);
    return AD_OK;
}

ad_status ad_limits_read(ad_limits *out, const json_t *v, bool of_key, char *param, ad_err *err)
{
    ad_limits l = {0};
    const char *name;
    json_t *one;
    *param = '\0';
    if (!json_is_object(v)) return ad_fail(err, AD_EINVAL, "limits must be an object");
    json_object_foreach((json_t *)v, name, one) {
        ad_status st = read_limit(&l, name, one, of_key, err);
        if (st == AD_OK) continue;
        snprintf(param, 64, "%s", name);
        return st;
    }
    *out = l;
    return AD_OK;
}

json_t *ad_limits_json(const ad_limits *l)
{
    json_t *v = json_object();
    for (int i = 0; i < AD_N_LIMITS; i++)
        if (l->of[i]) json_object_set_new(v, kinds[i].name, json_integer(l->of[i]));
    return v;
}

/* ---- one allowance ---- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t spent_now(const ad_allowance *a, int bucket, ad_clock now)
{
    int64_t passed = smaller(larger(now.ms - a->meter.at_ms, 0), LONG_MS);
    return larger(a->meter.spent[bucket] - passed * a->limits.of[bucket], 0);
}

/* Buckets fill up to now; a new day begins at 0. */
static void advance(ad_allowance *a, ad_clock now)
{
    ad_meter *m = &a->meter;
    for (int i = 0; i < AD_N_BUCKETS; i++) m->spent[i] = a->limits.of[i] ? spent_now(a, i, now) : 0;
    m->at_ms = larger(now.ms, m->at_ms);
    if (m->day == now.unix_ms / DAY_MS) return;
    m->day = now.unix_ms / DAY_MS;
    memset(m->today, 0, sizeof m->today);
}

void ad_allowance_set(ad_allowance *a, const ad_limits *l, ad_clock now)
{
    advance(a, now);
    a->limits = *l;
    for (int i = 0; i < AD_N_BUCKETS; i++) a->meter.spent[i] = smaller(a->meter.spent[i], l->of[i] * UNITS);
}

/* How long until `wanted` fits, as far as that can be told; 0: now. The allowance is up to date. */
static int64_t wait_for(const ad_allowance *a, ad_limit kind, int64_t wanted, ad_clock now)
{
    int64_t limit = a->limits.of[kind];
    if (kind == AD_LIMIT_CONCURRENT) return a->meter.running < limit ? 0 : SLOT_WAIT_MS;
    if (kind >= AD_LIMIT_PROMPT_DAY) return a->meter.today[kind - AD_LIMIT_PROMPT_DAY] + wanted <= limit ? 0 : DAY_MS - now.unix_ms % DAY_MS;
    int64_t missing = a->meter.spent[kind] + (wanted - limit) * UNITS;
    return missing > 0 ? divide_up(missing, limit) : 0;
}

/* Of all that stands against a request the one it has to wait for longest is told; before those what no waiting helps against. */
static void check(const ad_charge *c, int i, ad_limit kind, int64_t wanted, ad_clock now, ad_excess *worst)
{
    const ad_allowance *a = c->of[i];
    int64_t limit = a ? a->limits.of[kind] : 0;
    if (!limit || !wanted || worst->never) return;
    ad_excess e = {.limit = kind, .of_key = i, .value = limit, .wanted = wanted, .never = wanted > limit};
    if (!e.never) e.wait_ms = wait_for(a, kind, wanted, now);
    if (e.never || e.wait_ms > worst->wait_ms) *worst = e;
}

/* n may be negative: something is given back. A bucket that filled up meanwhile takes no more. */
static void take_from_bucket(ad_allowance *a, int bucket, int64_t n)
{
    if (a->limits.of[bucket]) a->meter.spent[bucket] = larger(a->meter.spent[bucket] + n * UNITS, 0);
}

static void take_from_day(ad_allowance *a, int day, int64_t n)
{
    a->meter.today[day] = larger(a->meter.today[day] + n, 0);
}

static void take_tokens(ad_allowance *a, ad_token_counts of_minute, ad_token_counts of_day)
{
    take_from_bucket(a, AD_LIMIT_PROMPT, of_minute.prompt);
    take_from_bucket(a, AD_LIMIT_GENERATED, of_minute.generated);
    take_from_day(a, 0, of_day.prompt);
    take_from_day(a, 1, of_day.generated);
}

/* ---- a request ---- */

bool ad_charge_begin(ad_charge *c, ad_allowance *tenant, ad_allowance *key, ad_clock now, ad_excess *why)
{
    *c = (ad_charge){.of = {tenant, key}};
    *why = (ad_excess){0};
    for (int i = 0; i < 2; i++) {
        if (c->of[i]) advance(c->of[i], now);
        check(c, i, AD_LIMIT_REQUESTS, 1, now, why);
        check(c, i, AD_LIMIT_CONCURRENT, 1, now, why);
    }
    if (why->value) return false;
    for (int i = 0; i < 2; i++) {
        if (!c->of[i]) continue;
        take_from_bucket(c->of[i], AD_LIMIT_REQUESTS, 1);
        c->of[i]->meter.running++;
    }
    c->begun = true;
    return true;
}

bool ad_charge_reserve(ad_charge *c, ad_token_counts most, ad_clock now, ad_excess *why)
{
    *why = (ad_excess){0};
    for (int i = 0; i < 2; i++) {
        if (c->of[i]) advance(c->of[i], now);
        check(c, i, AD_LIMIT_PROMPT, most.prompt, now, why);
        check(c, i, AD_LIMIT_GENERATED, most.generated, now, why);
        check(c, i, AD_LIMIT_PROMPT_DAY, most.prompt, now, why);
        check(c, i, AD_LIMIT_GENERATED_DAY, most.generated, now, why);
    }
    if (why->value) return false;
    for (int i = 0; i < 2; i++)
        if (c->of[i]) take_tokens(c->of[i], most, most);
    c->reserved = most;
    c->day = now.unix_ms / DAY_MS;
    return true;
}

void ad_charge_settle(ad_charge *c, ad_token_counts used, ad_clock now)
{
    ad_token_counts held = c->day == now.unix_ms / DAY_MS ? c->reserved : (ad_token_counts){0}; /* yesterday's counters are gone */
    if (!c->begun) return;
    for (int i = 0; i < 2; i++) {
        ad_allowance *a = c->of[i];
        if (!a) continue;
        advance(a, now);
        take_tokens(a, (ad_token_counts){used.prompt - c->reserved.prompt, used.generated - c->reserved.generated},
                    (ad_token_counts){used.prompt - held.prompt, used.generated - held.generated});
        a->meter.running--;
    }
    c->begun = false;
}

void ad_charge_undo(ad_charge *c, ad_clock now)
{
    bool begun = c->begun;
    ad_charge_settle(c, (ad_token_counts){0}, now);
    for (int i = 0; begun && i < 2; i++)
        if (c->of[i]) take_from_bucket(c->of[i], AD_LIMIT_REQUESTS, -1);
}

int64_t ad_charge_limit(const ad_charge *c, ad_limit limit, bool *of_key)
{
    int64_t least = 0;
    for (int i = 0; i < 2; i++) {
        int64_t one = c->of[i] ? c->of[i]->limits.of[limit] : 0;
        if (!one || (least && least <= one)) continue;
        least = one;
        if (of_key) *of_key = i;
    }
    return least;
}

int64_t ad_charge_default_tokens(const ad_charge *c, int64_t n, int64_t most)
{
    int64_t each = ad_charge_limit(c, AD_LIMIT_MAX_TOKENS, NULL), minute = ad_charge_limit(c, AD_LIMIT_GENERATED, NULL), day = ad_charge_limit(c, AD_LIMIT_GENERATED_DAY, NULL);
    if (each) most = smaller(most, each);
    if (minute) most = smaller(most, larger(minute / n, 1));
    if (day) most = smaller(most, larger(day / n, 1));
    return most;
}

/* ---- what is left ---- */

ad_rate ad_allowance_rate(const ad_allowance *a, ad_limit bucket, ad_clock now)
{
    ad_rate r = {.limit = a->limits.of[bucket]};
    if (!r.limit) return r;
    int64_t spent = spent_now(a, (int)bucket, now);
    r.remaining = larger(r.limit * UNITS - spent, 0) / UNITS;
    r.reset_ms = divide_up(spent, r.limit);
    return r;
}

static void keep_less(ad_rate *least, ad_rate one)
{
    if (one.limit && (!least->limit || one.remaining < least->remaining)) *least = one;
}

void ad_charge_rates(const ad_charge *c, ad_clock now, ad_rate *requests, ad_rate *tokens)
{
    *requests = *tokens = (ad_rate){0};
    for (int i = 0; i < 2; i++) {
        if (!c->of[i]) continue;
        keep_less(requests, ad_allowance_rate(c->of[i], AD_LIMIT_REQUESTS, now));
        keep_less(tokens, ad_allowance_rate(c->of[i], AD_LIMIT_PROMPT, now));
        keep_less(tokens, ad_allowance_rate(c->of[i], AD_LIMIT_GENERATED, now));
    }
}

int64_t ad_allowance_today(const ad_allowance *a, ad_limit day, ad_clock now)
{
    return a->meter.day == now.unix_ms / DAY_MS ? a->meter.today[day - AD_LIMIT_PROMPT_DAY] : 0;
}

void ad_allowance_restore(ad_allowance *a, ad_token_counts today, ad_clock now)
{
    advance(a, now);
    take_tokens(a, (ad_token_counts){0}, today);
}

const char *ad_duration_text(int64_t ms, char *out)
{
    int64_t h = ms / 3600000, m = ms / 60000 % 60, s = ms / 1000 % 60, rest = ms % 1000;
    int n = 0, digits = 3;
    for (; rest && rest % 10 == 0; rest /= 10) digits--;
    if (ms > 0 && ms < 1000) {
        snprintf(out, AD_DURATION_TEXT, "%" PRId64 "ms", ms);
        return out;
    }
    if (h) n = snprintf(out, AD_DURATION_TEXT, "%" PRId64 "h", h);
    if (h || m) n += snprintf(out + n, (size_t)(AD_DURATION_TEXT - n), "%" PRId64 "m", m);
    n += snprintf(out + n, (size_t)(AD_DURATION_TEXT - n), "%" PRId64, s);
    if (rest) n += snprintf(out + n, (size_t)(AD_DURATION_TEXT - n), ".%0*" PRId64, digits, rest);
    snprintf(out + n, (size_t)(AD_DURATION_TEXT - n), "s");
    return out;
}
