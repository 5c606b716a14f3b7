/* SPDX-License-Identifier: MIT */
/* Adapters come into memory when somebody needs them: one load per version whoever asks, as many at a time as there are loaders, within the
 * budget. */
#include <stdlib.h>
#include <string.h>

#include "server/keeper/private.h"
#include "server/observe/log.h"

struct ad_load {
    ad_job job;
    ad_keeper *k;
    ad_version *version;   /* leased */
    ad_load *next;         /* starving, or under way */
    int owner;             /* id of the tenant it is loaded for */
    size_t reserved;
    bool held;             /* the blob is kept from collection */
    bool recheck;          /* nobody needs it: only whether it fits */
    char name[AD_MAX_NAME + 1];
    char path[AD_STORE_PATH];
    uint64_t start_ns;
    ad_adapter *adapter;
    ad_status status;
    ad_err err;
};

/* ---- reading ---- */

/* Reads and packs what the digest names, and checks that it is that. Files of the state directory, which are nobody else's, are mapped. */
static ad_status read_version(const ad_model *base, const char *name, const char *path, bool mapped, const ad_digest *expected, ad_adapter **out, ad_err *err)
{
    ad_adapter *a = NULL;
    char want[65], have[65];
    ad_status st = (mapped ? ad_adapter_load_mapped : ad_adapter_load)(&a, name, path, base, err);
    if (st != AD_OK) return st;
    if (memcmp(ad_adapter_digest(a), expected, sizeof *expected)) {
        ad_digest_hex(expected, want);
        ad_digest_hex(ad_adapter_digest(a), have);
        ad_adapter_release(&a);
        return ad_fail(err, AD_EIO, "the files are damaged or were changed: their digest is %s, not %s", have, want);
    }
    *out = a;
    return AD_OK;
}

/* The row of a leased version may go before the version does: another's removal must not take the blob they share from under the load. */
static ad_status hold_files(ad_load *l, ad_err *err)
{
    ad_status st = l->version->dir ? AD_OK : ad_store_hold(l->k->app->store, &l->version->digest, err);
    l->held = st == AD_OK && !l->version->dir;
    return st;
}

/* Also ends the lease, which may be the last one and collect the blob. */
static void load_free(ad_load *l)
{
    if (l->held) ad_store_unhold(l->k->app->store, &l->version->digest);
    ad_adapter_release(&l->adapter);
    ad_keeper_release(l->k, &l->version);
    free(l);
}

static void work(ad_job *job)
{
    ad_load *l = (ad_load *)job;
    l->status = read_version(l->k->app->model, l->name, l->path, !l->version->dir, &l->version->digest, &l->adapter, &l->err);
    if (l->status != AD_OK) ad_keeper_hide_path(&l->err, l->path);
}

/* ---- waiting ---- */

static void unlink_wait(ad_keeper *k, ad_wait *w)
{
    if (w->prev) w->prev->next = w->next;
    else k->first_wait = w->next;
    if (w->next) w->next->prev = w->prev;
    else k->last_wait = w->prev;
    w->queued = false;
    k->stats.waiting--;
}

static void end_wait(ad_keeper *k, ad_wait *w, ad_status st, const ad_err *err)
{
    ad_version *v = w->version;
    unlink_wait(k, w);
    w->ready(w, st, err);
    ad_keeper_release(k, &v);
}

/* Everybody who waits for v hears. A callback may queue new waits, for v too: those stand behind `last`. */
static void wake(ad_keeper *k, const ad_version *v, ad_status st, const ad_err *err)
{
    for (int left = k->stats.waiting; left > 0;) {
        ad_wait *w = k->first_wait;
        while (w && w->version != v) w = w->next;
        if (!w) return;
        left--;
        end_wait(k, w, st, err);
    }
}

void ad_keeper_unwait(ad_keeper *k, ad_wait *w)
{
    ad_version *v = w->version;
    if (!w->queued) return;
    unlink_wait(k, w);
    ad_keeper_release(k, &v);
}

/* Any may be the first: --cold-timeout changes while they wait. */
static ad_wait *find_expired(const ad_keeper *k, uint64_t now_ns)
{
    ad_wait *w = k->first_wait;
    while (w && w->deadline_ns > now_ns) w = w->next;
    return w;
}

void ad_keeper_expire_waits(ad_keeper *k, uint64_t now_ns)
{
    ad_err err;
    for (ad_wait *w; (w = find_expired(k, now_ns));) { /* from the beginning each time: who hears it may take others back */
        const char *name = w->version->entry ? w->version->entry->name : "that was removed";
        end_wait(k, w, ad_fail(&err, AD_EBUSY, "The adapter `%s` did not come into memory in time; try again later.", name), &err);
    }
}

bool ad_keeper_waits(const ad_keeper *k)
{
    return k->first_wait != NULL;
}

/* ---- loads ---- */

static bool is_misfit(ad_status st)
{
    return st == AD_EMISMATCH || st == AD_EUNSUPPORTED || st == AD_EFORMAT;
}

/* Whether its files can be had. That is no property of the version: it is tried again whenever somebody asks. */
static void note_failure(ad_load *l)
{
    ad_version *v = l->version;
    bool failed = l->status != AD_OK && l->status != AD_ENOMEM && l->status != AD_EBUSY && (v->checked ? v->fits : !is_misfit(l->status));
    if (failed == v->failed && !failed) return;
    bool news = failed != v->failed;
    const char *before = ad_version_state_name(ad_version_get_state(v));
    v->failed = failed;
    if (failed || v->fits) {
        free(v->reason);
        v->reason = failed ? strdup(l->err.msg) : NULL;
    }
    if (v->entry && news) ad_keeper_tell(l->k, v->entry->name, v, ad_version_state_name(ad_version_get_state(v)), before);
}

/* What the load found is remembered when it is news: whether the version fits this base. */
static void note_check(ad_load *l)
{
    ad_keeper *k = l->k;
    ad_version *v = l->version;
    if (v->checked || (l->status != AD_OK && !is_misfit(l->status))) return;
    v->checked = true;
    v->fits = l->status == AD_OK;
    v->base = *ad_model_fingerprint(k->app->model);
    free(v->reason);
    v->reason = v->fits ? NULL : strdup(l->err.msg);
    if (!v->entry) return;
    if (!v->fits) ad_log(AD_LOG_WARN, "adapter %s version %d does not fit this base model: %s", v->entry->name, v->number, l->err.msg);
    ad_keeper_tell(k, v->entry->name, v, ad_version_state_name(ad_version_get_state(v)), "verifying");
    ad_store_change *c = v->entry->origin == AD_ORIGIN_STORE ? calloc(1, sizeof *c) : NULL;
    if (!c) return;
    c->kind = AD_MARK_VERSION;
    snprintf(c->version.name, sizeof c->version.name, "%s", v->entry->name);
    c->version.number = v->number;
    c->version.base = v->base;
    c->version.fits = v->fits;
    c->version.reason = v->reason ? strdup(v->reason) : NULL;
    ad_err err;
    if (ad_store_thread_submit(k->store, c, 1, ad_keeper_ignore, NULL, &err) != AD_OK) ad_log(AD_LOG_WARN, "%s", err.msg); /* it is checked again at the next start */
}

static void keep_adapter(ad_load *l)
{
    ad_version *v = l->version;
    if (v->entry) ad_keeper_make_own_room(l->k, v->entry->name, ad_adapter_packed_bytes(l->adapter));
    ad_registry_make_room(l->k->registry, ad_adapter_packed_bytes(l->adapter));
    if (!v->adapter) {
        ad_registry_set_adapter(v, l->adapter);
        l->adapter = NULL;
    }
}

static void finish(ad_load *l)
{
    ad_keeper *k = l->k;
    ad_version *v = l->version;
    bool wanted = false;
    v->load = NULL;
    note_check(l);
    note_failure(l);
    if (l->status == AD_ENOTFOUND || (is_misfit(l->status) && v->fits)) l->status = l->err.code = AD_EIO; /* it was whole when it came: that is our trouble, not the client's */
    for (const ad_wait *w = k->first_wait; w && !wanted; w = w->next) wanted = w->version == v;
    if (l->status == AD_OK && (!l->recheck || wanted)) keep_adapter(l);
    if (l->status != AD_OK) ad_log(AD_LOG_WARN, "adapter %s: %s", v->entry ? v->entry->name : "(removed)", l->err.msg);
    wake(k, v, l->status, &l->err);
    if (l->recheck) k->rechecking = false;
    load_free(l);
    ad_keeper_feed(k);
    ad_keeper_recheck(k);
}

static void loaded(ad_job *job)
{
    ad_load *l = (ad_load *)job;
    ad_keeper *k = l->k;
    ad_load **link = &k->under_way;
    while (*link != l) link = &(*link)->next;
    *link = l->next;
    ad_registry_unreserve(k->registry, l->reserved);
    k->stats.loading--;
    k->stats.loads++;
    k->stats.load_failures += l->status != AD_OK;
    ad_histogram_observe(&k->load_times, uv_hrtime() - l->start_ns);
    finish(l);
}

static bool begin(ad_load *l)
{
    ad_keeper *k = l->k;
    if (!ad_registry_make_room(k->registry, l->reserved)) return false;
    ad_registry_reserve(k->registry, l->reserved);
    l->next = k->under_way;
    k->under_way = l;
    l->start_ns = uv_hrtime();
    l->job.work = work;
    l->job.done = loaded;
    k->stats.loading++;
    ad_jobs_submit(k->loaders, &l->job);
    return true;
}

size_t ad_keeper_loading_bytes(const ad_keeper *k, int owner)
{
    size_t bytes = 0;
    for (const ad_load *l = k->under_way; l; l = l->next)
        if (l->owner == owner) bytes += l->reserved;
    return bytes;
}

static bool has_own_room(const ad_load *l)
{
    return l->recheck || !l->version->entry || ad_keeper_make_own_room(l->k, l->version->entry->name, l->reserved);
}

/* In order, but for those whose tenants use all that they may: these are passed over, one tenant's others with them. */
void ad_keeper_feed(ad_keeper *k)
{
    ad_load *before = NULL, *next;
    int full = -1; /* id of the tenant that was passed over last */
    for (ad_load *l = k->starving; l && !k->closing; l = next) {
        next = l->next;
        if (l->owner == full || !has_own_room(l)) {
            full = l->owner;
            before = l;
            continue;
        }
        if (!begin(l)) return;
        if (before) before->next = next;
        else k->starving = next;
        if (!next) k->last_starving = before;
    }
}

static ad_status start_load(ad_keeper *k, ad_version *v, bool recheck, ad_err *err)
{
    size_t bytes = v->bytes_packed ? v->bytes_packed : (size_t)v->bytes_disk;
    if (!ad_registry_could_fit(k->registry, bytes))
        return ad_fail(err, AD_ENOMEM, "The adapter `%s` takes %zu bytes of memory, which --adapter-memory does not allow.", v->entry ? v->entry->name : "?", bytes);
    if (!recheck && v->entry && !ad_keeper_may_load(k, v->entry->name, bytes, err)) return AD_ELIMIT;
    ad_load *l = ad_calloc(1, sizeof *l);
    if (!l) return ad_fail(err, AD_ENOMEM, "out of memory for loading an adapter");
    l->k = k;
    l->owner = v->entry ? ad_keeper_owner_of(k->app, v->entry->name) : -2;
    l->version = v;
    ad_status st = hold_files(l, err);
    if (st != AD_OK) {
        free(l);
        return st;
    }
    ad_version_lease(v);
    l->reserved = bytes;
    l->recheck = recheck;
    snprintf(l->name, sizeof l->name, "%s", v->entry ? v->entry->name : "removed");
    if (v->dir) snprintf(l->path, sizeof l->path, "%s", v->dir);
    else ad_store_blob_path(k->app->store, &v->digest, l->path);
    v->load = l;
    if (k->last_starving) k->last_starving->next = l;
    else k->starving = l;
    k->last_starving = l;
    ad_keeper_feed(k);
    return AD_OK;
}

ad_status ad_keeper_need(ad_keeper *k, ad_version *v, ad_wait *w, bool patient, bool *waiting, ad_err *err)
{
    *waiting = false;
    if (v->adapter) return AD_OK;
    ad_status st = k->closing ? ad_fail(err, AD_EBUSY, "the server is shutting down") : v->load ? AD_OK : start_load(k, v, false, err);
    if (st != AD_OK) return st;
    if (!patient && !strcmp(k->app->config->cold_adapter, "refuse")) return ad_fail(err, AD_EBUSY, "The adapter `%s` is being loaded; try again in a moment.", v->entry ? v->entry->name : "?");
    *waiting = true;
    w->version = ad_version_lease(v);
    w->deadline_ns = uv_hrtime() + (uint64_t)k->app->config->cold_timeout_s * 1000000000u;
    w->next = NULL;
    w->prev = k->last_wait;
    if (k->last_wait) k->last_wait->next = w;
    else k->first_wait = w;
    k->last_wait = w;
    w->queued = true;
    k->stats.waiting++;
    ad_keeper_start_timer(k);
    return AD_OK;
}

void ad_keeper_release(ad_keeper *k, ad_version **vp)
{
    ad_version *v = *vp;
    ad_entry *e = v ? v->entry : NULL;
    bool last = v && v->leases == 1;
    ad_version_release(vp);
    if (!last || !k || k->closing) return;
    if (e && e->n_versions > AD_KEPT_VERSIONS) ad_keeper_prune(k, e);
    ad_keeper_feed(k);
}

void ad_keeper_abandon(ad_keeper *k)
{
    ad_err err;
    ad_fail(&err, AD_EBUSY, "the server is shutting down");
    while (k->first_wait) end_wait(k, k->first_wait, AD_EBUSY, &err);
    for (ad_load *l = k->starving, *next; l; l = next) {
        next = l->next;
        l->version->load = NULL;
        load_free(l);
    }
    k->starving = k->last_starving = NULL;
}

/* ---- another base model ---- */

void ad_keeper_recheck(ad_keeper *k)
{
    ad_err err;
    if (k->rechecking || k->closing || !*k->recheck_at) return;
    for (size_t i = ad_registry_position(k->registry, k->recheck_at); i < ad_registry_count(k->registry); i++) {
        const ad_entry *e = ad_registry_at(k->registry, i);
        for (size_t j = 0; j < e->n_versions; j++) {
            ad_version *v = e->versions[j];
            bool had_turn = !strcmp(e->name, k->recheck_at) && v->number <= k->recheck_number; /* it may be unchecked all the same: its files cannot be read */
            if (v->checked || v->load || had_turn) continue;
            snprintf(k->recheck_at, sizeof k->recheck_at, "%s", e->name);
            k->recheck_number = v->number;
            if (start_load(k, v, true, &err) == AD_OK) {
                k->rechecking = true;
                return;
            }
        }
    }
    *k->recheck_at = '\0';
}
