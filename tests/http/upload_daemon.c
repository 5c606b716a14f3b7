/* SPDX-License-Identifier: MIT */
/* Not adapterd: a server for the HTTP tests, whose handlers take streamed bodies in all the ways a handler may.
 * upload_daemon [WINDOW_MS]: prints the line adapterd prints, ends at SIGTERM. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"

static uv_loop_t loop;
static uv_signal_t term;
static ad_http_server *http;
static int n_ended, n_aborted;

static int number(const ad_http_exchange *x, const char *name, int preset)
{
    char value[20];
    return ad_http_query_value(x, name, value, sizeof value) ? atoi(value) : preset;
}

/* ---- POST /sink: takes a body; the query says how ---- */

typedef struct {
    ad_http_exchange *x; /* NULL: it is over */
    uv_timer_t timer;
    size_t bytes, since_pause;
    uint32_t sum;        /* of the bytes, each weighted by its place */
    int reply_after, pause_every, pause_ms;
} sink;

static void on_sink_closed(uv_handle_t *h)
{
    free(h->data);
}

static void sink_over(sink *k)
{
    k->x = NULL;
    uv_close((uv_handle_t *)&k->timer, on_sink_closed);
}

static void on_pause_over(uv_timer_t *t)
{
    sink *k = t->data;
    ad_http_pause_body(k->x, false);
}

static void on_sink_data(ad_http_exchange *x, const char *data, size_t len, void *user)
{
    sink *k = user;
    for (size_t i = 0; i < len; i++) k->sum += (uint32_t)(unsigned char)data[i] * (uint32_t)(++k->bytes & 0xffff);
    k->since_pause += len;
    if (k->reply_after >= 0 && k->bytes >= (size_t)k->reply_after) {
        sink_over(k);
        ad_http_reply(x, 422, "text/plain", "enough", 6);
    } else if (k->pause_every && k->since_pause >= (size_t)k->pause_every) {
        k->since_pause = 0;
        ad_http_pause_body(x, true);
        uv_timer_start(&k->timer, on_pause_over, (uint64_t)k->pause_ms, 0);
    }
}

static void on_sink_end(ad_http_exchange *x, void *user)
{
    sink *k = user;
    n_ended++;
    ad_reply_json(x, 200, json_pack("{s:I, s:I}", "bytes", (json_int_t)k->bytes, "sum", (json_int_t)k->sum));
    sink_over(k);
}

static void on_sink_abort(ad_http_exchange *x, void *user)
{
    (void)x;
    n_aborted++;
    sink_over(user);
}

static void handle_sink(ad_http_exchange *x, void *app)
{
    (void)app;
    int now = number(x, "reply", 0);
    if (now) {
        ad_http_reply(x, now, "text/plain", "no", 2);
        return;
    }
    sink *k = calloc(1, sizeof *k);
    if (!k) abort();
    *k = (sink){.x = x, .reply_after = number(x, "reply_after", -1), .pause_every = number(x, "pause_every", 0), .pause_ms = number(x, "pause_ms", 1)};
    uv_timer_init(&loop, &k->timer);
    k->timer.data = k;
    ad_http_take_body(x, (size_t)number(x, "max", 1 << 30), on_sink_data, on_sink_end, k);
    ad_http_on_abort(x, on_sink_abort, k);
    if (number(x, "start_ms", 0)) {
        ad_http_pause_body(x, true);
        uv_timer_start(&k->timer, on_pause_over, (uint64_t)number(x, "start_ms", 0), 0);
    }
}

/* ---- POST /collect: the body in one piece; POST /ignore: takes nothing and replies later ---- */

static void on_collected(ad_http_exchange *x, void *user)
{
    (void)user;
    ad_str body = ad_http_body(x);
    ad_http_reply(x, 200, "text/plain", body.ptr, body.len);
}

static void handle_collect(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_http_take_body(x, 1000, NULL, on_collected, NULL);
}

static void on_timer_closed(uv_handle_t *h)
{
    free(h);
}

static void on_left(ad_http_exchange *x, void *timer)
{
    (void)x;
    uv_close(timer, on_timer_closed);
}

/* The timer's data is the exchange; the query says when. */
static void later(ad_http_exchange *x, uv_timer_cb fn)
{
    uv_timer_t *t = calloc(1, sizeof *t);
    if (!t) abort();
    uv_timer_init(&loop, t);
    t->data = x;
    ad_http_on_abort(x, on_left, t);
    uv_timer_start(t, fn, (uint64_t)number(x, "ms", 100), 0);
}

static void on_late(uv_timer_t *t)
{
    ad_http_reply(t->data, 202, "text/plain", "late", 4);
    uv_close((uv_handle_t *)t, on_timer_closed);
}

static void handle_ignore(ad_http_exchange *x, void *app)
{
    (void)app;
    later(x, on_late);
}

/* ---- GET /silent: a stream that says nothing for a while ---- */

static void on_silence_over(uv_timer_t *t)
{
    ad_http_stream_write(t->data, "after\n", 6);
    ad_http_stream_end(t->data);
    uv_close((uv_handle_t *)t, on_timer_closed);
}

static void handle_silent(ad_http_exchange *x, void *app)
{
    (void)app;
    later(x, on_silence_over);
    ad_http_stream_begin(x, 200, "text/event-stream");
    ad_http_stream_write(x, "before\n", 7);
}

/* ---- the rest ---- */

static void handle_status(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_http_set_header(x, "ETag", "\"r1\"");
    ad_http_reply(x, atoi(ad_http_path(x) + strlen("/status/")), "text/plain", "text", 4);
}

static void handle_query(ad_http_exchange *x, void *app)
{
    (void)app;
    char value[8];
    bool found = ad_http_query_value(x, "q", value, sizeof value);
    ad_reply_json(x, 200, json_pack("{s:b, s:s}", "found", found, "value", value));
}

static void handle_counts(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_reply_json(x, 200, json_pack("{s:i, s:i}", "ended", n_ended, "aborted", n_aborted));
}

static const ad_http_route routes[] = {
    {"POST", "/sink", handle_sink, "sink", true},
    {"POST", "/collect", handle_collect, "collect", true},
    {"POST", "/ignore", handle_ignore, "ignore", true},
    {"GET", "/silent", handle_silent, "silent", false},
    {"GET", "/status/*", handle_status, "status", false},
    {"PUT", "/status/*", handle_status, "status", false},
    {"PATCH", "/status/*", handle_status, "status", false},
    {"DELETE", "/status/*", handle_status, "status", false},
    {"GET", "/query", handle_query, "query", false},
    {"GET", "/counts", handle_counts, "counts", false},
};

static void on_term(uv_signal_t *s, int n)
{
    (void)n;
    uv_close((uv_handle_t *)s, NULL);
    ad_http_close(&http, NULL, NULL);
}

int main(int argc, char **argv)
{
    ad_err err;
    int window_ms = argc > 1 ? atoi(argv[1]) : 1000;
    ad_http_options opt = {.host = "127.0.0.1", .max_body_bytes = 1000, .max_connections = 100, .header_timeout_ms = 200, .body_timeout_ms = 200, .idle_timeout_ms = 200,
                           .rate_window_ms = window_ms, .max_output_bytes = 1 << 20, .routes = routes, .n_routes = sizeof routes / sizeof *routes, .error_body = ad_error_body};
    signal(SIGPIPE, SIG_IGN);
    uv_loop_init(&loop);
    uv_signal_init(&loop, &term);
    uv_signal_start(&term, on_term, SIGTERM);
    if (ad_http_listen(&http, &loop, &opt, &err) != AD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("adapterd: listening on http://127.0.0.1:%d\n", ad_http_port(http));
    fflush(stdout);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop) != 0;
}
