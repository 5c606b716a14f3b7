/* SPDX-License-Identifier: MIT */
#include "server/life.h"

#include <signal.h>
#include <stdlib.h>

#include "server/api/generation.h"
#include "server/notify.h"
#include "server/observe/log.h"
#include "server/tenancy/audit.h"

enum {
    LOOK_MS = 1000,
    PARTING_MS = 3000,  /* for clients to read the error that ends their requests */
    CLOSING_S = 30,     /* for loads under way and the store, once nobody is connected */
};

typedef enum { SERVING, LEAVING, DRAINING, PARTING, GONE } phase;

struct ad_life {
    ad_app *app;
    phase phase;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t next;          /* ends the phase */
    uv_timer_t look, watchdog;
    int open_handles;
    bool told_stuck;
    void (*reload)(void *user);
    void (*ended)(void *user);
    void *user;
};

/* ---- the end ---- */

static void on_http_closed(void *user)
{
    ad_life *l = user;
    l->phase = GONE;
    uv_timer_stop(&l->next);
    l->ended(l->user);
}

static void close_http(void *user)
{
    ad_life *l = user;
    if (l->app->http) ad_http_close(&l->app->http, on_http_closed, l);
}

static void on_parting_over(uv_timer_t *t)
{
    close_http(t->data);
}

static void drain(ad_life *l)
{
    l->phase = DRAINING;
    l->app->draining = true;
    ad_events_end_streams(ad_keeper_events(l->app->keeper));
    ad_http_drain(l->app->http, close_http, l);
}

static void end_requests(ad_life *l)
{
    static const char why[] = "the server is shutting down";
    if (l->phase == LEAVING) drain(l);
    l->phase = PARTING;
    ad_generations_end(l->app, why);
    ad_http_refuse_bodies(l->app->http, why);
    ad_merger_stop(l->app->merger);
    ad_keeper_stop(l->app->keeper);
    uv_timer_start(&l->next, on_parting_over, PARTING_MS, 0);
}

static void on_drain_timeout(uv_timer_t *t)
{
    ad_log(AD_LOG_WARN, "running requests did not finish in time; ending them with an error");
    end_requests(t->data);
}

static void on_delay_over(uv_timer_t *t)
{
    ad_life *l = t->data;
    drain(l);
    uv_timer_start(&l->next, on_drain_timeout, (uint64_t)l->app->config->drain_timeout_s * 1000, 0);
}

static void leave(ad_life *l, int number)
{
    const ad_config *c = l->app->config;
    int running = ad_worker_pending(l->app->worker), most_s = c->shutdown_delay_s + c->drain_timeout_s;
    l->phase = LEAVING;
    l->app->leaving = true;
    ad_log(AD_LOG_INFO, "signal %d: finishing %d running requests, at most %d s", number, running, most_s);
    ad_notify("STOPPING=1\nSTATUS=finishing %d running requests, at most %d s\nEXTEND_TIMEOUT_USEC=%llu", running, most_s, 1000000ull * (unsigned)(most_s + PARTING_MS / 1000 + CLOSING_S));
    ad_http_leave(l->app->http);
    if (c->shutdown_delay_s) uv_timer_start(&l->next, on_delay_over, (uint64_t)c->shutdown_delay_s * 1000, 0);
    else on_delay_over(&l->next);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    ad_life *l = handle->data;
    if (l->phase == SERVING) {
        leave(l, number);
    } else if (l->phase < PARTING) {
        ad_log(AD_LOG_WARN, "signal %d again: stopping now", number);
        end_requests(l);
    } else {
        close_http(l);
    }
}

static void on_hangup(uv_signal_t *handle, int number)
{
    ad_life *l = handle->data;
    (void)number;
    if (l->phase == SERVING) l->reload(l->user);
}

/* ---- the engine, and who watches it ---- */

static void on_look(uv_timer_t *t)
{
    ad_life *l = t->data;
    ad_app *app = l->app;
    if (!app->worker) return; /* closed */
    ad_audit_flush(ad_keeper_store(app->keeper));
    const ad_worker_stats *s = ad_worker_get_stats(app->worker);
    ad_vitals_add(&app->vitals, &(ad_vitals_look){.now_ns = uv_hrtime(), .has_work = ad_worker_pending(app->worker) > 0, .steps = atomic_load(&s->steps),
                                                  .prompt_tokens = atomic_load(&s->prompt_tokens), .generated_tokens = atomic_load(&s->generated_tokens)});
    bool stuck = ad_app_is_stuck(app);
    if (stuck == l->told_stuck) return;
    l->told_stuck = stuck;
    if (stuck) ad_log(AD_LOG_ERROR, "the engine has work and has finished no step for %d s (--stuck-after): /livez is 503, the watchdog hears nothing", app->vitals.still_s);
    else ad_log(AD_LOG_WARN, "the engine goes on");
}

/* What the manager's watchdog waits for. Not from another thread: this tells that the loop turns, too. */
static void on_watchdog(uv_timer_t *t)
{
    const ad_life *l = t->data;
    if (!ad_app_is_stuck(l->app)) ad_notify("WATCHDOG=1");
}

/* ---- begin and end ---- */

static void init_timer(ad_life *l, uv_timer_t *t)
{
    uv_timer_init(l->app->loop, t);
    t->data = l;
    l->open_handles++;
}

/* Does not keep the loop alive. */
static void watch(ad_life *l, uv_signal_t *s, uv_signal_cb fn, int number)
{
    uv_signal_init(l->app->loop, s);
    s->data = l;
    l->open_handles++;
    uv_signal_start(s, fn, number);
    uv_unref((uv_handle_t *)s);
}

static void repeat(uv_timer_t *t, uv_timer_cb fn, uint64_t ms)
{
    uv_timer_start(t, fn, ms, ms);
    uv_unref((uv_handle_t *)t);
}

ad_status ad_life_new(ad_life **out, ad_app *app, void (*reload)(void *), void (*ended)(void *), void *user, ad_err *err)
{
    ad_life *l = ad_calloc(1, sizeof *l);
    uint64_t watchdog_us = ad_notify_watchdog_us();
    if (!l) return ad_fail(err, AD_ENOMEM, "out of memory");
    *l = (ad_life){.app = app, .reload = reload, .ended = ended, .user = user};
    init_timer(l, &l->next);
    init_timer(l, &l->look);
    init_timer(l, &l->watchdog);
    repeat(&l->look, on_look, LOOK_MS);
    if (watchdog_us) repeat(&l->watchdog, on_watchdog, watchdog_us / 2000 ? watchdog_us / 2000 : 1);
    watch(l, &l->term, on_stop_signal, SIGTERM);
    watch(l, &l->interrupt, on_stop_signal, SIGINT);
    watch(l, &l->hangup, on_hangup, SIGHUP);
    *out = l;
    return AD_OK;
}

void ad_life_ready(ad_life *l)
{
    ad_notify("READY=1\nSTATUS=serving %s", l->app->served_name);
}

static void on_closed(uv_handle_t *h)
{
    ad_life *l = h->data;
    if (--l->open_handles == 0) free(l);
}

void ad_life_close(ad_life **lp)
{
    ad_life *l = *lp;
    if (!l) return;
    *lp = NULL;
    uv_handle_t *handles[] = {(uv_handle_t *)&l->term, (uv_handle_t *)&l->interrupt, (uv_handle_t *)&l->hangup, (uv_handle_t *)&l->next, (uv_handle_t *)&l->look,
                              (uv_handle_t *)&l->watchdog};
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) uv_close(handles[i], on_closed);
}
