/* SPDX-License-Identifier: MIT */
/* Request out, head and chunks in through llhttp, server-sent events cut at blank lines. Loop thread. */
#include "clients/adapterbench/client.h"

#include <jansson.h>
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    call *c;
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_connect_t connect;
    uv_write_t write;
    llhttp_t parser;
    llhttp_settings_t settings;
    char *request;
    char *line;               /* what was read of the event stream and not used yet */
    size_t n_line, cap_line;
    int open_handles, gaps_cap;
    bool closing, done;       /* done: the stream's end was seen */
    char in[65536];
} wire;

static void on_closed(uv_handle_t *h)
{
    wire *w = h->data;
    if (--w->open_handles) return;
    call *c = w->c;
    c->end_ns = uv_hrtime();
    free(w->request);
    free(w->line);
    free(w);
    c->on_done(c);
}

static void finish(wire *w, call_end end, const char *why)
{
    if (w->closing) return;
    w->closing = true;
    w->c->end = end;
    snprintf(w->c->error, sizeof w->c->error, "%s", why);
    uv_close((uv_handle_t *)&w->tcp, on_closed);
    uv_close((uv_handle_t *)&w->timer, on_closed);
}

static void note_text(wire *w)
{
    call *c = w->c;
    uint64_t now = uv_hrtime();
    if (!c->counted_until_ns || now <= c->counted_until_ns) c->n_counted++;
    if (!c->n_events++) c->first_ns = now;
    else {
        if (c->n_gaps == w->gaps_cap) {
            int cap = w->gaps_cap ? w->gaps_cap * 2 : 64;
            uint64_t *more = realloc(c->gaps_ns, (size_t)cap * sizeof *more);
            if (!more) return;
            c->gaps_ns = more;
            w->gaps_cap = cap;
        }
        c->gaps_ns[c->n_gaps++] = now - c->last_ns;
    }
    c->last_ns = now;
    if (c->cut_after && c->n_events >= c->cut_after) finish(w, CALL_CUT, "");
}

static void take_event(wire *w, const char *data, size_t len)
{
    call *c = w->c;
    json_t *v = json_loadb(data, len, 0, NULL);
    const json_t *choice = json_array_get(json_object_get(v, "choices"), 0), *usage = json_object_get(v, "usage");
    const json_t *text = json_object_get(choice, "text");
    if (!text) text = json_object_get(json_object_get(choice, "delta"), "content");
    if (json_object_get(v, "error")) finish(w, CALL_HTTP, json_string_value(json_object_get(json_object_get(v, "error"), "message")) ?: "an error event");
    else if (json_string_length(text)) note_text(w);
    if (json_is_object(usage)) {
        c->prompt_tokens = (int)json_integer_value(json_object_get(usage, "prompt_tokens"));
        c->output_tokens = (int)json_integer_value(json_object_get(usage, "completion_tokens"));
    }
    json_decref(v);
}

static void take_line(wire *w, const char *line, size_t len)
{
    if (len && line[len - 1] == '\r') len--;
    if (len < 6 || memcmp(line, "data: ", 6)) return;
    if (len == 12 && !memcmp(line, "data: [DONE]", 12)) w->done = true;
    else take_event(w, line + 6, len - 6);
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    wire *w = p->data;
    if (w->n_line + len > w->cap_line) {
        size_t cap = (w->n_line + len) * 2;
        char *more = realloc(w->line, cap);
        if (!more) return HPE_USER;
        w->line = more;
        w->cap_line = cap;
    }
    memcpy(w->line + w->n_line, at, len);
    w->n_line += len;
    size_t used = 0;
    for (char *end; !w->closing && p->status_code == 200 && (end = memchr(w->line + used, '\n', w->n_line - used)); used = (size_t)(end - w->line) + 1)
        take_line(w, w->line + used, (size_t)(end - w->line) - used);
    memmove(w->line, w->line + used, w->n_line - used);
    w->n_line -= used;
    return 0;
}

static int on_complete(llhttp_t *p)
{
    wire *w = p->data;
    char why[160];
    w->c->status = p->status_code;
    if (p->status_code != 200) {
        snprintf(why, sizeof why, "HTTP %d: %.*s", p->status_code, (int)(w->n_line > 120 ? 120 : w->n_line), w->line ? w->line : "");
        finish(w, CALL_HTTP, why);
    } else {
        finish(w, w->done ? CALL_OK : CALL_NETWORK, w->done ? "" : "the stream ended early");
    }
    return 0;
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    wire *w = h->data;
    (void)suggested;
    *buf = uv_buf_init(w->in, sizeof w->in);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    wire *w = s->data;
    if (n < 0) {
        if (n == UV_EOF) llhttp_finish(&w->parser); /* a reply without length ends here */
        finish(w, CALL_NETWORK, uv_strerror((int)n));
        return;
    }
    llhttp_errno_t rc = llhttp_execute(&w->parser, buf->base, (size_t)n);
    if (rc != HPE_OK && rc != HPE_PAUSED) finish(w, CALL_NETWORK, "the reply is not HTTP");
}

static void on_connected(uv_connect_t *req, int status)
{
    wire *w = req->data;
    if (status < 0) {
        finish(w, CALL_NETWORK, uv_strerror(status));
        return;
    }
    uv_buf_t buf = uv_buf_init(w->request, (unsigned)strlen(w->request));
    uv_tcp_nodelay(&w->tcp, 1);
    uv_write(&w->write, (uv_stream_t *)&w->tcp, &buf, 1, NULL);
    uv_read_start((uv_stream_t *)&w->tcp, on_alloc, on_read);
}

static void on_timeout(uv_timer_t *t)
{
    finish(t->data, CALL_TIMEOUT, "no end in time");
}

static char *make_request(const call *c)
{
    size_t n = strlen(c->body), room = n + strlen(c->host) + strlen(c->path) + (c->bearer ? strlen(c->bearer) : 0) + 300;
    char *r = malloc(room);
    if (r)
        snprintf(r, room, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: close\r\n%s%s%sContent-Length: %zu\r\n\r\n%s", c->path, c->host,
                 c->bearer ? "Authorization: Bearer " : "", c->bearer ? c->bearer : "", c->bearer ? "\r\n" : "", n, c->body);
    return r;
}

void call_start(uv_loop_t *loop, call *c)
{
    wire *w = calloc(1, sizeof *w);
    c->start_ns = uv_hrtime();
    if (!w || !(w->request = make_request(c))) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    w->c = c;
    w->open_handles = 2;
    llhttp_settings_init(&w->settings);
    w->settings.on_body = on_body;
    w->settings.on_message_complete = on_complete;
    llhttp_init(&w->parser, HTTP_RESPONSE, &w->settings);
    w->parser.data = w->tcp.data = w->timer.data = w->connect.data = w;
    uv_tcp_init(loop, &w->tcp);
    uv_timer_init(loop, &w->timer);
    w->tcp.data = w->timer.data = w;
    uv_timer_start(&w->timer, on_timeout, (uint64_t)c->timeout_ms, 0);
    int rc = uv_tcp_connect(&w->connect, &w->tcp, (struct sockaddr *)&c->addr, on_connected);
    if (rc < 0) finish(w, CALL_NETWORK, uv_strerror(rc));
}

void call_free(call *c)
{
    free(c->body);
    free(c->gaps_ns);
    c->body = NULL;
    c->gaps_ns = NULL;
}
