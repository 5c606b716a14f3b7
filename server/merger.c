/* SPDX-License-Identifier: MIT */
/* auto looks at windows of two seconds. One adapter with nearly all tokens for three windows is merged; when others have
 * had half of a window it is restored. The gap between the two and the three windows keep it from going back and
 * forth: at most one switch in six seconds. */
#include "server/merger.h"

#include <stdlib.h>
#include <string.h>

#include "server/app.h"
#include "server/observe/log.h"

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
    ad_adapter *target;
    ad_merge *built;
    ad_status status;
    ad_err err;
    ad_merger_done done;
    void *user;
    bool closing;
    /* This window. Pointers are only compared. */
    struct {
        const ad_adapter *adapter;
        long long tokens;
    } seen[MAX_SEEN];
    int n_seen;
    long long tokens;
    const ad_adapter *leader; /* had merge_share in the last `streak` windows */
    int streak;
};

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
    m->status = ad_merge_build(&m->built, m->target, m->app->model, &m->err);
}

static void free_if_closed(ad_merger *m)
{
    if (m->closing && !m->target && !uv_is_active((uv_handle_t *)&m->timer) && !m->timer.data) free(m);
}

static void on_built(uv_work_t *work, int status)
{
    ad_merger *m = work->data;
    (void)status;
    if (m->status == AD_OK) {
        ad_merge_bind(m->built, m->target);
        if (m->closing) ad_merge_release(&m->built);
        else publish(m, m->built);
        m->built = NULL;
    }
    ad_adapter_release(&m->target);
    if (m->done) m->done(m->user, m->status, &m->err);
    m->done = NULL;
    free_if_closed(m);
}

ad_status ad_merger_merge(ad_merger *m, ad_adapter *a, ad_merger_done done, void *user, ad_err *err)
{
    size_t bytes = ad_merged_bytes(m->app->model, ad_adapter_lowrank(a)), room = (size_t)uv_get_free_memory();
    if (m->target) return ad_fail(err, AD_EBUSY, "adapter \"%s\" is being merged; try again when that is done", ad_adapter_name(m->target));
    if (bytes > room / 10 * 9) return ad_fail(err, AD_ENOMEM, "merging \"%s\" takes %zu bytes beside the base model's weights, but %zu are free", ad_adapter_name(a), bytes, room);
    m->target = ad_adapter_retain(a);
    m->done = done;
    m->user = user;
    m->work.data = m;
    if (uv_queue_work(m->app->loop, &m->work, on_pool, on_built) == 0) return AD_OK;
    ad_adapter_release(&m->target);
    m->done = NULL;
    return ad_fail(err, AD_EIO, "cannot start merging \"%s\"", ad_adapter_name(a));
}

void ad_merger_restore(ad_merger *m)
{
    publish(m, NULL);
}

ad_merge *ad_merger_find(const ad_merger *m, const ad_adapter *a)
{
    return m->current && ad_merge_adapter(m->current) == a ? m->current : NULL;
}

ad_merge *ad_merger_current(const ad_merger *m) { return m->current; }
uint64_t ad_merger_switches(const ad_merger *m) { return m->switches; }

/* ---- auto ---- */

void ad_merger_count(ad_merger *m, const ad_adapter *a, int tokens)
{
    m->tokens += tokens;
    if (!m->automatic || !a) return;
    int i = 0;
    while (i < m->n_seen && m->seen[i].adapter != a) i++;
    if (i == MAX_SEEN) return; /* with so many at work nobody has nearly all */
    if (i == m->n_seen) m->n_seen++, m->seen[i].adapter = a, m->seen[i].tokens = 0;
    m->seen[i].tokens += tokens;
}

static long long tokens_of(const ad_merger *m, const ad_adapter *a)
{
    for (int i = 0; i < m->n_seen; i++)
        if (m->seen[i].adapter == a) return m->seen[i].tokens;
    return 0;
}

static const ad_adapter *leader_of_window(const ad_merger *m)
{
    for (int i = 0; i < m->n_seen; i++)
        if ((double)m->seen[i].tokens >= merge_share * (double)m->tokens) return m->seen[i].adapter;
    return NULL;
}

static ad_adapter *still_registered(const ad_app *app, const ad_adapter *a)
{
    for (int i = 0; i < ad_registry_count(app->registry); i++)
        if (ad_registry_at(app->registry, i) == a) return ad_registry_at(app->registry, i);
    return NULL;
}

static void decide(ad_merger *m)
{
    const ad_adapter *leader = leader_of_window(m), *merged = m->current ? ad_merge_adapter(m->current) : NULL;
    ad_err err;
    m->streak = leader && leader == m->leader ? m->streak + 1 : leader != NULL;
    m->leader = leader;
    if (merged && (double)(m->tokens - tokens_of(m, merged)) >= restore_share * (double)m->tokens) {
        ad_merger_restore(m);
        return;
    }
    ad_adapter *a = m->streak >= WINDOWS && leader != merged ? still_registered(m->app, leader) : NULL;
    if (a && ad_merger_merge(m, a, NULL, NULL, &err) != AD_OK) {
        ad_log(AD_LOG_WARN, "%s", err.msg);
        m->streak = 0;
    }
}

static void on_window(uv_timer_t *t)
{
    ad_merger *m = t->data;
    /* A version that was replaced or removed is not merged any longer. */
    if (m->current && !still_registered(m->app, ad_merge_adapter(m->current))) ad_merger_restore(m);
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
    ad_adapter *a = ad_registry_find(app->registry, mode);
    if (!a) return ad_fail(err, AD_ENOTFOUND, "merge: there is no adapter named \"%.140s\"", mode);
    return ad_merger_merge(m, a, NULL, NULL, err);
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
