/* SPDX-License-Identifier: MIT */
/* A ring of finished events and a list of open streams. */
#include "server/keeper/events.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "adapters/store.h"

enum { KEPT = 1024, PING_MS = 15000 };

typedef struct subscriber {
    ad_events *events;
    ad_http_exchange *x;
    int tenant;
    ad_events_name_fn shown;
    ad_events_may_fn may;
    void *user;
    struct subscriber *prev, *next;
} subscriber;

typedef struct {
    uint64_t id;
    int owner;             /* of the name, when it happened */
    char *rest;            /* of the event's JSON, behind the name; NULL: nothing is kept here */
    char name[AD_MAX_NAME + 1];
} event;

struct ad_events {
    uv_timer_t ping;
    uint64_t last_id;
    ad_events_owner_fn owner;
    void *user;
    event kept[KEPT];      /* by id % KEPT */
    subscriber *first;
    int n_subscribers;
};

static void leave(subscriber *s)
{
    ad_events *e = s->events;
    if (s->prev) s->prev->next = s->next;
    else e->first = s->next;
    if (s->next) s->next->prev = s->prev;
    e->n_subscribers--;
    free(s);
}

static void end_stream(subscriber *s)
{
    ad_http_exchange *x = s->x;
    leave(s);
    ad_http_on_abort(x, NULL, NULL);
    ad_http_stream_end(x);
}

static void dismiss(ad_events *e)
{
    for (subscriber *s = e->first, *next; s; s = next) {
        next = s->next;
        if (!s->may(s->x, s->user)) end_stream(s);
    }
}

static void on_ping(uv_timer_t *t)
{
    ad_events *e = t->data;
    dismiss(e);
    for (subscriber *s = e->first; s; s = s->next) ad_http_stream_write(s->x, ": ping\n\n", 8);
}

ad_status ad_events_new(ad_events **out, uv_loop_t *loop, ad_events_owner_fn owner, void *user, ad_err *err)
{
    ad_events *e = calloc(1, sizeof *e);
    if (!e) return ad_fail(err, AD_ENOMEM, "events: out of memory");
    e->owner = owner;
    e->user = user;
    uv_timer_init(loop, &e->ping);
    e->ping.data = e;
    uv_timer_start(&e->ping, on_ping, PING_MS, PING_MS);
    uv_unref((uv_handle_t *)&e->ping);
    e->last_id = (uint64_t)time(NULL) << 20; /* later than any id of an earlier process */
    *out = e;
    return AD_OK;
}

static void on_closed(uv_handle_t *h)
{
    ad_events *e = h->data;
    for (int i = 0; i < KEPT; i++) free(e->kept[i].rest);
    free(e);
}

void ad_events_end_streams(ad_events *e)
{
    while (e->first) end_stream(e->first);
}

void ad_events_close(ad_events **ep)
{
    ad_events *e = *ep;
    if (!e) return;
    *ep = NULL;
    ad_events_end_streams(e);
    uv_close((uv_handle_t *)&e->ping, on_closed);
}

static void tell(const subscriber *s, const event *ev)
{
    const char *name = s->shown(s->x, s->user, ev->name, ev->owner);
    char *text = NULL;
    int len = name ? asprintf(&text, "id: %llu\nevent: state\ndata: {\"name\":\"%s\",%s\n\n", (unsigned long long)ev->id, name, ev->rest) : -1; /* names need no escapes */
    if (len >= 0) ad_http_stream_write(s->x, text, (size_t)len);
    free(text);
}

void ad_events_emit(ad_events *e, const char *name, int version, const char *digest_hex, const char *state, const char *previous)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *v = json_pack("{s:o, s:o, s:s, s:s?, s:f}", "version", version ? json_integer(version) : json_null(),
                          "digest", *digest_hex ? json_string(digest_hex) : json_null(), "state", state, "previous",
                          previous, "time", (double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1e3);
    char *text = json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(13)), *rest = text ? strdup(text + 1) : NULL;
    json_decref(v);
    free(text);
    if (!rest) return; /* out of memory: nobody is told, nothing else is lost */
    event *ev = &e->kept[++e->last_id % KEPT];
    free(ev->rest);
    *ev = (event){.id = e->last_id, .owner = e->owner(e->user, name), .rest = rest};
    snprintf(ev->name, sizeof ev->name, "%s", name);
    dismiss(e);
    for (const subscriber *s = e->first; s; s = s->next) tell(s, ev);
}

static void on_client_gone(ad_http_exchange *x, void *user)
{
    (void)x;
    leave(user);
}

static void replay(const subscriber *s, uint64_t seen)
{
    const ad_events *e = s->events;
    if (seen > e->last_id) return;
    if (e->last_id - seen > KEPT) seen = e->last_id - KEPT;
    for (uint64_t id = seen + 1; id <= e->last_id; id++)
        if (e->kept[id % KEPT].rest) tell(s, &e->kept[id % KEPT]);
}

int ad_events_count(const ad_events *e, int tenant, int *own)
{
    *own = 0;
    for (const subscriber *s = e->first; s; s = s->next) *own += s->tenant == tenant;
    return e->n_subscribers;
}

bool ad_events_subscribe(ad_events *e, ad_http_exchange *x, int tenant, ad_events_name_fn shown, ad_events_may_fn may, void *user)
{
    const char *last = ad_http_header(x, "last-event-id");
    subscriber *s = e->n_subscribers < AD_EVENT_STREAMS ? calloc(1, sizeof *s) : NULL;
    if (!s) return false;
    *s = (subscriber){.events = e, .x = x, .tenant = tenant, .shown = shown, .may = may, .user = user, .next = e->first};
    if (e->first) e->first->prev = s;
    e->first = s;
    e->n_subscribers++;
    ad_http_on_abort(x, on_client_gone, s);
    ad_http_stream_begin(x, 200, "text/event-stream; charset=utf-8");
    ad_http_stream_write(x, ": adapters\n\n", 12);
    if (last && *last && strspn(last, "0123456789") == strlen(last)) replay(s, strtoull(last, NULL, 10));
    return true;
}
