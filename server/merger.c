/* SPDX-License-Identifier: MIT */
/* auto looks at windows of two seconds. One adapter with nearly all tokens for three windows is merged; when others have
 * had half of a window it is restored. The gap between the two and the three windows keep it from going back and
 * forth: at most one switch in six seconds. */
#include "server/merger.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/app.h"
#include "server/keeper/keeper.h"
#include "server/observe/log.h"
#include "server/tenancy/audit.h"

enum { WINDOW_MS = 2000, WINDOWS = 3, LEAST_TOKENS = 32, MAX_SEEN = 64 };
static const double merge_share = 0.95, restore_share = 0.5;

struct ad_merger {
    ad_app *app;
    bool automatic;
    ad_merge *current;
    uint64_t switches;
    uv_timer_t timer;
    /* The build under way; target NULL: none. */
    uv_work_t work;
    ad_version *target;       /* leased */
    ad_wait wait;
    ad_merge *built;
    ad_status status;
    ad_err err;
    ad_merger_done done;
    void *user;
    bool closing;
    /* This window. */
    struct {
        ad_digest adapter;
        long long tokens;
    } seen[MAX_SEEN];
    int n_seen;
    long long tokens;
    ad_digest leader;         /* had merge_share in the last `streak` windows */
    int streak;
};

static bool same(const ad_digest *a, const ad_digest *b)
{
    return !memcmp(a, b, sizeof *a);
}

/* ---- building and publishing ---- */

static void publish(ad_merger *m, ad_merge *next)
{
    if (!next && !m->current) return;
    m->switches++;
    ad_log(AD_LOG_INFO, next ? "adapter %s is merged" : "adapter %s is no longer merged", ad_adapter_name(ad_merge_adapter(next ? next : m->current)));
    ad_merge_release(&m->current); /* requests that began on it hold their own */
    m->current = next;
}

static void on_pool(uv_work_t *work)
{
    ad_merger *m = work->data;
    m->status = ad_merge_build(&m->built, m->target->adapter, m->app->model, &m->err);
}

static void free_if_closed(ad_merger *m)
{
    if (m->closing && !m->target && !uv_is_active((uv_handle_t *)&m->timer) && !m->timer.data) free(m);
}

static void finish(ad_merger *m)
{
    ad_keeper_release(m->app->keeper, &m->target);
    if (m->status != AD_OK && !m->done && !m->closing) ad_log(AD_LOG_WARN, "%s", m->err.msg);
    if (m->done) m->done(m->user, m->status, &m->err);
    m->done = NULL;
    free_if_closed(m);
}

static void audit(ad_merger *m, const char *by, const ad_adapter *a, const char *detail) { ad_audit_tell(ad_keeper_store(m->app->keeper), by, "merge.set", ad_adapter_name(a), 200, detail); }

static void take_built(ad_merger *m)
{
    ad_merge_bind(m->built, m->target->adapter);
    if (m->closing) {
        ad_merge_release(&m->built);
        return;
    }
    publish(m, m->built);
    m->built = NULL;
    if (!m->done) audit(m, m->automatic ? AD_BY_DAEMON : AD_BY_COMMAND_LINE, m->target->adapter, m->automatic ? "it had nearly all tokens" : NULL);
}

static void on_built(uv_work_t *work, int status)
{
    ad_merger *m = work->data;
    (void)status;
    if (m->status == AD_OK) take_built(m);
    finish(m);
}

/* The adapter is in memory. */
static ad_status build(ad_merger *m)
{
    const ad_adapter *a = m->target->adapter;
    size_t bytes = ad_merged_bytes(m->app->model, ad_adapter_lowrank(a)), room = ad_free_memory();
    if (bytes > room / 10 * 9) return ad_fail(&m->err, AD_ENOMEM, "merging \"%s\" takes %zu bytes beside the base model's weights, but %zu are free", ad_adapter_name(a), bytes, room);
    m->work.data = m;
    if (uv_queue_work(m->app->loop, &m->work, on_pool, on_built) == 0) return AD_OK;
    return ad_fail(&m->err, AD_EIO, "cannot start merging \"%s\"", ad_adapter_name(a));
}

static void on_resident(ad_wait *w, ad_status st, const ad_err *err)
{
    ad_merger *m = w->user;
    if (st != AD_OK) m->err = *err;
    m->status = st == AD_OK ? build(m) : st;
    if (m->status != AD_OK) finish(m);
}

ad_status ad_merger_merge(ad_merger *m, ad_version *v, ad_merger_done done, void *user, ad_err *err)
{
    bool waiting;
    if (v->quarantined) return ad_fail(err, AD_EMISMATCH, "The adapter `%s` cannot be used: %s", v->entry->name, v->reason ? v->reason : "its files are bad");
    if (m->target) return ad_fail(err, AD_EBUSY, "adapter \"%s\" is being merged; try again when that is done", m->target->entry ? m->target->entry->name : "that was removed");
    m->wait = (ad_wait){.ready = on_resident, .user = m};
    ad_status st = ad_keeper_need(m->app->keeper, v, &m->wait, true, &waiting, err);
    if (st != AD_OK) return st;
    m->target = ad_version_lease(v);
    m->done = done;
    m->user = user;
    st = waiting ? AD_OK : build(m);
    if (st == AD_OK) return AD_OK;
    m->done = NULL;
    if (err) *err = m->err;
    ad_keeper_release(m->app->keeper, &m->target);
    return st;
}

void ad_merger_restore(ad_merger *m)
{
    publish(m, NULL);
}

ad_merge *ad_merger_find(const ad_merger *m, const ad_digest *digest)
{
    return m->current && same(ad_adapter_digest(ad_merge_adapter(m->current)), digest) ? m->current : NULL;
}

ad_merge *ad_merger_current(const ad_merger *m) { return m->current; }
bool ad_merger_is_building(const ad_merger *m) { return m->target != NULL; }
uint64_t ad_merger_switches(const ad_merger *m) { return m->switches; }

/* ---- auto ---- */

void ad_merger_count(ad_merger *m, const ad_digest *digest, int tokens)
{
    m->tokens += tokens;
    if (!m->automatic || !digest) return;
    int i = 0;
    while (i < m->n_seen && !same(&m->seen[i].adapter, digest)) i++;
    if (i == MAX_SEEN) return; /* with so many at work nobody has nearly all */
    if (i == m->n_seen) m->n_seen++, m->seen[i].adapter = *digest, m->seen[i].tokens = 0;
    m->seen[i].tokens += tokens;
}

static long long tokens_of(const ad_merger *m, const ad_digest *digest)
{
    for (int i = 0; i < m->n_seen; i++)
        if (same(&m->seen[i].adapter, digest)) return m->seen[i].tokens;
    return 0;
}

static const ad_digest *leader_of_window(const ad_merger *m)
{
    for (int i = 0; i < m->n_seen; i++)
        if ((double)m->seen[i].tokens >= merge_share * (double)m->tokens) return &m->seen[i].adapter;
    return NULL;
}

/* The active version with this content, or NULL. */
static ad_version *still_active(const ad_app *app, const ad_digest *digest)
{
    for (size_t i = 0; i < ad_registry_count(app->registry); i++) {
        const ad_entry *e = ad_registry_at(app->registry, i);
        if (e->active && same(&e->active->digest, digest)) return e->active;
    }
    return NULL;
}

static void restore_by_itself(ad_merger *m, const char *why)
{
    audit(m, AD_BY_DAEMON, ad_merge_adapter(m->current), why);
    ad_merger_restore(m);
}

static void decide(ad_merger *m)
{
    const ad_digest *leader = leader_of_window(m), *merged = m->current ? ad_adapter_digest(ad_merge_adapter(m->current)) : NULL;
    ad_err err;
    m->streak = leader && same(leader, &m->leader) ? m->streak + 1 : leader != NULL;
    m->leader = leader ? *leader : (ad_digest){{0}};
    if (merged && (double)(m->tokens - tokens_of(m, merged)) >= restore_share * (double)m->tokens) {
        restore_by_itself(m, "restored: others had half of the tokens");
        return;
    }
    bool wants = leader && m->streak >= WINDOWS && !(merged && same(leader, merged));
    ad_version *v = wants ? still_active(m->app, leader) : NULL;
    if (v && ad_merger_merge(m, v, NULL, NULL, &err) != AD_OK) {
        ad_log(AD_LOG_WARN, "%s", err.msg);
        m->streak = 0;
    }
}

static void on_window(uv_timer_t *t)
{
    ad_merger *m = t->data;
    if (m->closing) return;
    /* A version that was replaced or removed is not merged any longer. */
    if (m->current && !still_active(m->app, ad_adapter_digest(ad_merge_adapter(m->current)))) restore_by_itself(m, "restored: it is active no longer");
    if (m->automatic && m->tokens >= LEAST_TOKENS) decide(m);
    m->tokens = 0;
    m->n_seen = 0;
}

/* ---- begin and end ---- */

ad_status ad_merger_new(ad_merger **out, struct ad_app *app, const char *mode, ad_err *err)
{
    ad_merger *m = ad_calloc(1, sizeof *m);
    if (!m) return ad_fail(err, AD_ENOMEM, "merged mode: out of memory");
    m->app = app;
    m->automatic = !strcmp(mode, "auto");
    uv_timer_init(app->loop, &m->timer);
    m->timer.data = m;
    uv_timer_start(&m->timer, on_window, WINDOW_MS, WINDOW_MS);
    uv_unref((uv_handle_t *)&m->timer);
    *out = m;
    if (m->automatic || !strcmp(mode, "off")) return AD_OK;
    const ad_entry *e = ad_registry_find(app->registry, mode);
    if (!e || !e->active) return ad_fail(err, AD_ENOTFOUND, "merge: there is no adapter named \"%.140s\"", mode);
    if (!e->active->quarantined) return ad_merger_merge(m, e->active, NULL, NULL, err);
    ad_log(AD_LOG_WARN, "merge: nothing is merged, since the adapter %s is not served", mode);
    return AD_OK;
}

void ad_merger_stop(ad_merger *m)
{
    ad_err err;
    ad_merger_done done = m->done;
    m->closing = true;
    m->done = NULL; /* the build goes on, and is dropped */
    if (done) done(m->user, ad_fail(&err, AD_EBUSY, "the server is shutting down"), &err);
}

static void on_timer_closed(uv_handle_t *h)
{
    ad_merger *m = h->data;
    h->data = NULL;
    free_if_closed(m);
}

void ad_merger_close(ad_merger **mp)
{
    ad_merger *m = *mp;
    if (!m) return;
    *mp = NULL;
    m->closing = true;
    ad_merge_release(&m->current);
    uv_close((uv_handle_t *)&m->timer, on_timer_closed);
}
