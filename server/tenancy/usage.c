/* SPDX-License-Identifier: MIT */
#include "server/tenancy/usage.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "server/observe/log.h"

enum {
    FLUSH_MS = 500,          /* and the rest of a second for the disk */
    MOST_BATCHES = 4,        /* under way at a time; a disk that is further behind gets larger ones */
    FIRST_SLOTS = 64,
};

ad_clock ad_clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (ad_clock){.ms = (int64_t)(uv_hrtime() / 1000000), .unix_ms = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000};
}

/* ---- rows ---- */

static uint64_t mix(uint64_t h, const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static uint64_t hash_of(const ad_stored_usage *u)
{
    uint64_t h = mix(0xcbf29ce484222325u, &u->day, sizeof u->day);
    h = mix(h, u->tenant, strlen(u->tenant) + 1);
    h = mix(h, u->key, strlen(u->key) + 1);
    h = mix(h, u->adapter, strlen(u->adapter) + 1);
    h = mix(h, &u->version, sizeof u->version);
    return h ^ h >> 32;
}

static bool same_row(const ad_stored_usage *a, const ad_stored_usage *b)
{
    return a->day == b->day && !strcmp(a->tenant, b->tenant) && !strcmp(a->key, b->key) && !strcmp(a->adapter, b->adapter) && !memcmp(&a->version, &b->version, sizeof a->version);
}

/* Where the row is, or would be. */
static uint32_t *slot_of(const ad_tally *t, const ad_stored_usage *u)
{
    size_t i = hash_of(u) & (t->n_slots - 1);
    while (t->slots[i] && !same_row(&t->rows[t->slots[i] - 1], u)) i = (i + 1) & (t->n_slots - 1);
    return &t->slots[i];
}

static ad_status make_room(ad_tally *t)
{
    if (ad_grow(&t->rows, &t->cap, t->n + 1, sizeof *t->rows) != AD_OK) return AD_ENOMEM;
    if (2 * (t->n + 1) <= t->n_slots) return AD_OK;
    size_t n_slots = t->n_slots ? 2 * t->n_slots : FIRST_SLOTS;
    uint32_t *slots = ad_calloc(n_slots, sizeof *slots);
    if (!slots) return AD_ENOMEM;
    free(t->slots);
    t->slots = slots;
    t->n_slots = n_slots;
    for (size_t i = 0; i < t->n; i++) *slot_of(t, &t->rows[i]) = (uint32_t)i + 1;
    return AD_OK;
}

static ad_stored_usage as_other(const ad_stored_usage *u)
{
    ad_stored_usage o = *u;
    o.key[0] = '\0';
    strcpy(o.adapter, AD_USAGE_OTHER);
    memset(&o.version, 0, sizeof o.version);
    return o;
}

ad_status ad_tally_add(ad_tally *t, const ad_stored_usage *u)
{
    ad_stored_usage other;
    if (make_room(t) != AD_OK) return AD_ENOMEM;
    uint32_t *slot = slot_of(t, u);
    if (!*slot && t->n >= AD_TALLY_ROWS) {
        other = as_other(u);
        u = &other;
        slot = slot_of(t, u);
    }
    if (!*slot) {
        t->rows[t->n++] = *u;
        *slot = (uint32_t)t->n;
        return AD_OK;
    }
    ad_stored_usage *row = &t->rows[*slot - 1];
    row->requests += u->requests;
    row->prompt_tokens += u->prompt_tokens;
    row->cached_tokens += u->cached_tokens;
    row->generated_tokens += u->generated_tokens;
    row->engine_ns += u->engine_ns;
    return AD_OK;
}

void ad_tally_deinit(ad_tally *t)
{
    free(t->rows);
    free(t->slots);
    *t = (ad_tally){0};
}

/* ---- after a restart ---- */

typedef struct {
    ad_tenancy *tenancy;
    ad_clock now;
} restoring;

static ad_status on_row(void *user, const ad_stored_usage *u, ad_err *err)
{
    restoring *r = user;
    ad_token_counts used = {u->prompt_tokens, u->generated_tokens};
    ad_tenant *tenant = ad_tenancy_find_tenant(r->tenancy, u->tenant);
    ad_key *key = ad_tenancy_find_key(r->tenancy, u->key);
    (void)err;
    if (tenant) ad_allowance_restore(&tenant->allowance, used, r->now);
    if (key) ad_allowance_restore(&key->allowance, used, r->now);
    return AD_OK;
}

ad_status ad_ledger_restore(ad_tenancy *t, ad_store *store, ad_clock now, ad_err *err)
{
    int today = (int)(now.unix_ms / 86400000);
    restoring r = {t, now};
    return ad_store_read_usage(store, &(ad_usage_query){.from_day = today, .to_day = today + 1}, on_row, &r, err);
}

/* ---- the ledger ---- */

struct ad_ledger {
    ad_store_thread *store;
    uv_timer_t timer;
    ad_tally gathered;
    int n_batches;           /* under way */
    size_t n_rows;           /* of these */
    bool failing, closing, timer_closed;
    uint64_t flushes, failures, lost;
};

/* What was handed to the store, kept until it is there. */
typedef struct {
    ad_ledger *ledger;
    ad_tally rows;
} batch;

static void free_if_over(ad_ledger *l)
{
    if (!l->timer_closed || l->n_batches) return;
    if (l->gathered.n) ad_log(AD_LOG_ERROR, "usage: %zu rows could not be stored, and are lost", l->gathered.n);
    ad_tally_deinit(&l->gathered);
    free(l);
}

static void add(ad_ledger *l, const ad_stored_usage *u)
{
    if (ad_tally_add(&l->gathered, u) == AD_OK) return;
    if (!l->lost++) ad_log(AD_LOG_ERROR, "usage: out of memory; what is used now is not counted");
}

static void note_failure(ad_ledger *l, const ad_err *err)
{
    l->failures++;
    if (!l->failing) ad_log(AD_LOG_WARN, "usage: it cannot be stored, and is kept in memory until it can: %s", err->msg);
    l->failing = true;
}

static void note_success(ad_ledger *l)
{
    l->flushes++;
    if (l->failing) ad_log(AD_LOG_INFO, "usage: it is stored again");
    l->failing = false;
}

static void start_timer(ad_ledger *l);

/* What is not there now goes with the next batch. */
static void on_stored(void *user, ad_status st, const ad_err *err)
{
    batch *b = user;
    ad_ledger *l = b->ledger;
    l->n_batches--;
    l->n_rows -= b->rows.n;
    if (st == AD_OK) note_success(l);
    else note_failure(l, err);
    for (size_t i = 0; i < b->rows.n && st != AD_OK; i++) add(l, &b->rows.rows[i]);
    ad_tally_deinit(&b->rows);
    free(b);
    if (l->closing) free_if_over(l);
    else if (l->gathered.n) start_timer(l);
}

static ad_store_change *changes_of(const ad_tally *t)
{
    ad_store_change *changes = ad_calloc(t->n, sizeof *changes);
    for (size_t i = 0; i < t->n && changes; i++) changes[i] = (ad_store_change){.kind = AD_ADD_USAGE, .usage = t->rows[i]};
    return changes;
}

void ad_ledger_flush(ad_ledger *l)
{
    ad_err err;
    if (!l->gathered.n || (l->n_batches >= MOST_BATCHES && !l->closing)) return;
    batch *b = ad_calloc(1, sizeof *b);
    ad_store_change *changes = b ? changes_of(&l->gathered) : NULL;
    if (!changes) {
        free(b);
        ad_fail(&err, AD_ENOMEM, "out of memory");
        note_failure(l, &err);
        return;
    }
    *b = (batch){l, l->gathered};
    l->gathered = (ad_tally){0};
    l->n_batches++;
    l->n_rows += b->rows.n;
    ad_status st = ad_store_thread_submit(l->store, changes, (int)b->rows.n, on_stored, b, &err);
    if (st != AD_OK) on_stored(b, st, &err);
}

static void on_timer(uv_timer_t *t)
{
    ad_ledger *l = t->data;
    if (!l->n_batches) ad_ledger_flush(l);
    if (l->gathered.n) start_timer(l);
}

static void start_timer(ad_ledger *l)
{
    if (!uv_is_active((uv_handle_t *)&l->timer)) uv_timer_start(&l->timer, on_timer, FLUSH_MS, 0);
}

ad_status ad_ledger_new(ad_ledger **out, uv_loop_t *loop, ad_store_thread *store, ad_err *err)
{
    ad_ledger *l = ad_calloc(1, sizeof *l);
    if (!l) return ad_fail(err, AD_ENOMEM, "usage: out of memory");
    l->store = store;
    uv_timer_init(loop, &l->timer);
    l->timer.data = l;
    *out = l;
    return AD_OK;
}

void ad_ledger_add(ad_ledger *l, const ad_stored_usage *u)
{
    add(l, u);
    start_timer(l);
}

void ad_ledger_get_stats(const ad_ledger *l, ad_ledger_stats *out)
{
    *out = (ad_ledger_stats){l->flushes, l->failures, l->gathered.n + l->n_rows, l->lost};
}

static void on_timer_closed(uv_handle_t *handle)
{
    ad_ledger *l = handle->data;
    l->timer_closed = true;
    free_if_over(l);
}

void ad_ledger_close(ad_ledger **lp)
{
    ad_ledger *l = *lp;
    if (!l) return;
    *lp = NULL;
    l->closing = true;
    ad_ledger_flush(l);
    uv_close((uv_handle_t *)&l->timer, on_timer_closed);
}
