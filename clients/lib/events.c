/* SPDX-License-Identifier: MIT */
/* GET /v1/adapters/events: a stream that goes on behind the last event seen when its connection breaks. */
#include <string.h>
#include <time.h>

#include "clients/lib/internal.h"
#include "clients/lib/sse.h"

enum { FIRST_DELAY_MS = 1000, MAX_DELAY_MS = 30000, SLICE_MS = 50, SILENCE_MS = 50000 /* three pings */, HEALTHY_MS = 20000 };

typedef struct {
    const ad_client_watch *w;
    ad_client_sse sse;
    bool ended;        /* on_event said so */
    bool connected;    /* the server has begun a stream */
    bool healthy;      /* this connection had an event, or lasted */
} watch;

static bool on_event(void *user, const char *id, const char *type, const char *data)
{
    watch *v = user;
    json_t *json = json_loads(data, 0, NULL);
    ad_client_event e = {id, type, data, json_is_object(json) ? json : NULL};
    v->healthy = true;
    v->ended = !v->w->on_event(v->w->user, &e);
    json_decref(json);
    return !v->ended;
}

static bool on_data(void *user, const char *data, size_t len)
{
    watch *v = user;
    return ad_client_sse_feed(&v->sse, data, len);
}

static ad_client_status stream(ad_client *c, watch *v, ad_client_error *err)
{
    ad_client_exchange x = {.method = "GET", .path = "/v1/adapters/events", .streams = true, .on_data = on_data, .user = v,
                            .timeout_ms = c->timeout_ms < SILENCE_MS ? c->timeout_ms : SILENCE_MS, .last_event_id = v->sse.id[0] ? v->sse.id : NULL};
    int64_t begin = ad_client_now_ms();
    ad_client_sse_restart(&v->sse);
    v->healthy = false;
    ad_client_status st = ad_client_run(c, &x, err);
    ad_client_text_deinit(&x.body);
    v->connected |= x.is_events;
    v->healthy |= x.is_events && ad_client_now_ms() - begin > HEALTHY_MS;
    if (v->ended) {
        if (st != AD_CLIENT_OK) ad_client_error_deinit(err);
        return AD_CLIENT_OK;
    }
    if (v->sse.too_large) {
        if (st != AD_CLIENT_OK) ad_client_error_deinit(err);
        return ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "%s: an event is larger than %d bytes", c->base, AD_CLIENT_SSE_EVENT_BYTES);
    }
    if (st != AD_CLIENT_OK) return st;
    if (!x.is_events) return ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "%s: the reply is no stream of events", c->base);
    return ad_client_fail(err, AD_CLIENT_UNREACHABLE, "connection", "%s: the stream of events ended", c->base);
}

static bool may_retry(const ad_client_error *e)
{
    if (e->status == AD_CLIENT_UNREACHABLE) return true;
    return e->status == AD_CLIENT_REFUSED && (e->http_status >= 500 || e->http_status == 408 || e->http_status == 429);
}

/* False: canceled. */
static bool pause_ms(ad_client *c, int ms)
{
    int64_t until = ad_client_now_ms() + ms;
    while (ad_client_now_ms() < until) {
        if (atomic_load(&c->canceled)) return false;
        nanosleep(&(struct timespec){.tv_nsec = SLICE_MS * 1000000L}, NULL);
    }
    return true;
}

static int delay_of(const watch *v, int tries, const ad_client_error *why)
{
    int64_t ms = v->sse.retry_ms ? v->sse.retry_ms : FIRST_DELAY_MS;
    if (v->w->delay_ms > 0) ms = v->w->delay_ms;
    for (int i = 0; i < tries && ms < MAX_DELAY_MS; i++) ms *= 2;
    if (why->retry_after_s * 1000LL > ms) ms = why->retry_after_s * 1000LL;
    return ms < MAX_DELAY_MS ? (int)ms : MAX_DELAY_MS;
}

/* Streams until an end that is not to be tried again. */
static ad_client_status watch_all(ad_client *c, watch *v, ad_client_error *err)
{
    const ad_client_watch *w = v->w;
    for (int tries = 0;; tries++) {
        ad_client_status st = stream(c, v, err);
        if (v->healthy) tries = 0;
        if (st == AD_CLIENT_OK || !v->connected || !may_retry(err) || (w->reconnects >= 0 && tries >= w->reconnects)) return st;
        int ms = delay_of(v, tries, err);
        if (w->on_break) w->on_break(w->user, err, ms);
        ad_client_error_deinit(err);
        if (!pause_ms(c, ms)) return ad_client_fail(err, AD_CLIENT_CANCELED, "canceled", "canceled");
    }
}

ad_client_status ad_client_events(ad_client *c, const ad_client_watch *w, ad_client_error *err)
{
    watch v = {.w = w};
    ad_client_error own = {0};
    if (!ad_client_header_safe(w->last_event_id) || (w->last_event_id && strlen(w->last_event_id) >= AD_CLIENT_SSE_ID))
        return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "the event id is too long or has control characters");
    ad_client_sse_init(&v.sse, w->last_event_id, on_event, &v);
    ad_client_status st = watch_all(c, &v, &own);
    ad_client_sse_deinit(&v.sse);
    if (st == AD_CLIENT_CANCELED) atomic_store(&c->canceled, false);
    if (st != AD_CLIENT_OK && err) *err = own; /* moved */
    else ad_client_error_deinit(&own);
    return st;
}
