/* SPDX-License-Identifier: MIT */
/* HTTP/1.1 on libuv. Loop thread only.
 *
 * A connection is in one phase at a time: with TLS it first shakes hands; it waits for a head, reads a body, feeds a handler with one, is busy with an exchange, or
 * lingers (everything was said; what still comes in is thrown away until the peer closes, so that it gets to read our
 * last words). Heads and the framing of chunks are checked byte by byte before llhttp sees them: proxies disagree on what
 * is lenient, so nothing is. A connection that must end inside a call ends in the next loop turn, so that no caller loses the
 * ground under its feet. */
#include "server/http/conn.h"

#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "server/http/chunks.h"
#include "server/http/head.h"
#include "server/observe/log.h"

enum {
    MAX_AHEAD = 64 * 1024,     /* bytes read ahead while an exchange runs */
    MAX_BEHIND = 64 * 1024,    /* bytes of earlier replies that still wait when the next request is begun */
    KEEP_BYTES = 4096,         /* a larger input buffer is given back when it is empty */
    MIN_BODY_RATE = 4096,      /* bytes a second of a body */
    MIN_TAKEN = 16 * 1024,     /* bytes of a reply that a client takes within the write timeout, if it does not take all */
    LINGER_MS = 2000,          /* without a byte */
    LINGER_TOTAL_MS = 30000,
    LINGER_BYTES = 1 << 30,    /* thrown away while lingering */
    WIRE_BYTES = 128 * 1024,   /* turned into TLS at a time */
};

typedef ad_conn conn;

struct ad_http_exchange {
    ad_conn *conn;
    const ad_http_route *route;
    ad_http_head head;
    ad_buf body;
    ad_http_chunks chunks;    /* how far its framing is checked */
    struct {                  /* of a body that is fed to the handler */
        void (*data)(ad_http_exchange *x, const char *data, size_t len, void *user);
        void (*end)(ad_http_exchange *x, void *user);
        void *user;
        size_t max_bytes, received;
        uint64_t window_ms;   /* left of the rate's window, while paused */
        bool taken, paused, say_continue;
    } feed;
    size_t window_bytes;      /* of the body, received in this window of the minimum rate */
    bool keep_alive, streaming;
    bool chunked;             /* the reply */
    char id[132];
    uint64_t start_ns;
    ad_buf extra;             /* reply headers of the handler */
    int status;
    size_t bytes_out;
    void (*on_abort)(ad_http_exchange *x, void *user);
    void *abort_user;
    void (*on_drained)(ad_http_exchange *x, void *user);
    void *drained_user;
    void *sender;             /* what `admit` found out */
    void (*release_sender)(void *sender);
    max_align_t note[];       /* opt.note_bytes of the application's */
};

static void process(conn *c);
static void refuse(conn *c, int status, const char *message);
static bool begin_exchange(conn *c);
static void check_rate(conn *c);
static void adjust_reading(conn *c);
static void part(conn *c);
static void fail_tls(conn *c, const char *why);

/* ---- ends ---- */

static void exchange_free(ad_http_exchange *x)
{
    x->conn->server->collected -= x->body.len;
    ad_buf_deinit(&x->body);
    ad_buf_deinit(&x->extra);
    ad_http_head_deinit(&x->head);
    if (x->sender) x->release_sender(x->sender);
    free(x);
}

static void exchange_finish(ad_http_exchange *x)
{
    const ad_http_server *s = x->conn->server;
    if (s->opt.on_finish) s->opt.on_finish(s->opt.app, x, x->status, uv_hrtime() - x->start_ns, x->bytes_out);
    x->conn->x = NULL;
    exchange_free(x);
}

static void on_handle_closed(uv_handle_t *h)
{
    conn *c = h->data;
    if (--c->open_handles > 0) return;
    ad_buf_deinit(&c->in);
    ad_tls_filter_free(&c->tls);
    ad_conn_free(c);
}

/* Whoever still answers hears of it. */
void ad_conn_close(conn *c)
{
    if (c->closing) return;
    c->closing = true;
    if (c->x) {
        ad_http_exchange *x = c->x;
        if (c->phase == PHASE_BUSY || c->phase == PHASE_FEED || c->phase == PHASE_DOOMED) {
            if (x->on_abort) x->on_abort(x, x->abort_user);
            x->status = 499; /* the client left before the reply was complete, as nginx logs it */
            exchange_finish(x);
        } else {
            c->x = NULL;
            exchange_free(x);
        }
    }
    c->phase = PHASE_DOOMED;
    uv_close(&c->sock.handle, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    uv_close((uv_handle_t *)&c->write_timer, on_handle_closed);
}

static size_t unread(const conn *c)
{
    return uv_stream_get_write_queue_size(&c->sock.stream);
}

static void on_timer(uv_timer_t *t);

static void set_timer(conn *c, int ms)
{
    uv_timer_start(&c->timer, on_timer, (uint64_t)ms, 0);
}

static void on_timer(uv_timer_t *t)
{
    conn *c = t->data;
    if (c->phase == PHASE_BODY || c->phase == PHASE_FEED) check_rate(c);
    else if (c->phase == PHASE_HEAD && !c->first_byte_ns && unread(c)) set_timer(c, c->server->opt.idle_timeout_ms); /* it still reads */
    else if (c->phase == PHASE_HEAD && c->first_byte_ns && begin_exchange(c)) refuse(c, 408, "the request's head did not arrive in time"); /* say so before leaving */
    else if (c->phase == PHASE_HEAD) part(c);
    else if (c->phase == PHASE_SHAKE) fail_tls(c, "the handshake took too long");
    else ad_conn_close(c);
}

/* Ends the connection in the next loop turn. */
static void doom(conn *c)
{
    if (c->phase == PHASE_DOOMED) return;
    c->phase = PHASE_DOOMED;
    set_timer(c, 0);
}

/* ---- writing ---- */

typedef struct {
    uv_write_t req;
    char data[];
} write_req;

static void tell_drained(ad_http_exchange *x)
{
    void (*fn)(ad_http_exchange *, void *) = x->on_drained;
    x->on_drained = NULL;
    if (fn) fn(x, x->drained_user);
}

static void on_written(uv_write_t *req, int status)
{
    conn *c = req->handle->data;
    free(req); /* data and all */
    if (c->closing) return;
    if (status < 0 && c->phase != PHASE_LINGER) {
        doom(c);
        return;
    }
    if (!unread(c)) uv_timer_stop(&c->write_timer);
    if (!unread(c) && c->x) tell_drained(c->x);
    if (c->phase == PHASE_HEAD) process(c); /* a request may have waited for this */
}

/* What has left the system's buffers, too: these take and give in lumps, which would look like a client that stands still. */
static size_t bytes_taken(const conn *c)
{
    uv_os_fd_t fd;
    int in_system = 0;
    if (uv_fileno(&c->sock.handle, &fd) != 0 || ioctl(fd, SIOCOUTQ, &in_system) != 0) in_system = 0;
    return c->written - unread(c) - (size_t)in_system;
}

static void on_write_timer(uv_timer_t *t)
{
    conn *c = t->data;
    size_t taken = bytes_taken(c), since = taken - c->taken;
    c->taken = taken;
    if (since >= MIN_TAKEN) return;
    c->server->counts.slow_readers++;
    ad_conn_close(c);
}

/* From the first byte that waits on. */
static void watch_output(conn *c)
{
    uint64_t ms = (uint64_t)c->server->opt.write_timeout_ms;
    if (uv_is_active((uv_handle_t *)&c->write_timer)) return;
    c->taken = bytes_taken(c);
    uv_timer_start(&c->write_timer, on_write_timer, ms, ms);
}

/* Bytes as the socket gets them. most: output that may wait for the client; a connection with more is cut. */
static void put(conn *c, const char *data, size_t len, size_t most)
{
    uv_stream_t *stream = &c->sock.stream;
    if (c->closing || c->phase == PHASE_DOOMED) return;
    c->written += len;
    if (stream->write_queue_size == 0) {
        uv_buf_t now = uv_buf_init((char *)data, (unsigned)len);
        int n = uv_try_write(stream, &now, 1);
        if (n < 0 && n != UV_EAGAIN) {
            doom(c);
            return;
        }
        if (n > 0) data += n, len -= (size_t)n;
    }
    if (!len) return;
    bool slow = unread(c) + len > most;
    c->server->counts.slow_readers += slow;
    write_req *w = slow ? NULL : malloc(sizeof *w + len);
    if (!w) {
        doom(c);
        return;
    }
    memcpy(w->data, data, len);
    uv_buf_t buf = uv_buf_init(w->data, (unsigned)len);
    watch_output(c);
    if (uv_write(&w->req, stream, &buf, 1, on_written) == 0) return;
    free(w);
    doom(c);
}

/* What TLS has to send. */
static void put_wire(conn *c, size_t most)
{
    ad_buf *wire = &c->server->wire;
    if (wire->failed) doom(c);
    else if (wire->len) put(c, wire->data, wire->len, most);
    if (wire->failed || wire->cap > 2 * WIRE_BYTES) ad_buf_deinit(wire);
    ad_buf_clear(wire);
}

/* What the client is to hear. */
static void conn_write(conn *c, const char *data, size_t len, size_t most)
{
    if (!c->tls) {
        put(c, data, len, most);
        return;
    }
    while (len && !c->closing && c->phase != PHASE_DOOMED) {
        size_t n = len < WIRE_BYTES ? len : WIRE_BYTES;
        if (!ad_tls_send(c->tls, data, n, &c->server->wire)) c->server->wire.failed = true;
        put_wire(c, most);
        data += n, len -= n;
    }
}

/* TLS clients hear that this was all: else it may have been cut by somebody else. */
static void say_end(conn *c)
{
    if (!c->tls || c->closing || c->phase == PHASE_DOOMED) return;
    ad_tls_end(c->tls, &c->server->wire);
    put_wire(c, SIZE_MAX);
}

/* Ends a connection that is in order. */
static void part(conn *c)
{
    say_end(c);
    ad_conn_close(c);
}

/* The client has taken all of it, as far as we can know. */
static void on_shutdown(uv_shutdown_t *req, int status)
{
    conn *c = req->handle->data;
    free(req);
    if (c->closing) return;
    c->linger_end = uv_now(c->server->loop) + LINGER_TOTAL_MS;
    set_timer(c, LINGER_MS);
}

/* Everything was said. While the client still reads it the write timer runs, afterwards ours. */
static void linger(conn *c)
{
    uv_shutdown_t *req = malloc(sizeof *req);
    c->phase = PHASE_LINGER;
    uv_timer_stop(&c->timer);
    adjust_reading(c); /* it may have stopped */
    if (!req || uv_shutdown(req, &c->sock.stream, on_shutdown) != 0) {
        free(req);
        doom(c);
    }
}

/* Nothing is asked. */
void ad_conn_leave(conn *c)
{
    say_end(c);
    if (unread(c)) linger(c);
    else ad_conn_close(c);
}

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } reasons[] = {
        {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {204, "No Content"}, {304, "Not Modified"}, {400, "Bad Request"}, {401, "Unauthorized"},
        {403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"}, {412, "Precondition Failed"},
        {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"}, {417, "Expectation Failed"}, {422, "Unprocessable Content"},
        {424, "Failed Dependency"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"}, {501, "Not Implemented"},
        {502, "Bad Gateway"}, {503, "Service Unavailable"}, {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"}, {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status) return reasons[i].text;
    return "Unknown";
}

/* content_type NULL: the reply has no body. */
static void put_head(ad_http_exchange *x, ad_buf *b, const char *content_type)
{
    char date[64];
    struct tm tm;
    time_t now = time(NULL);
    gmtime_r(&now, &tm);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    if (x->conn->server->leaving || (x->conn->phase == PHASE_FEED && !x->conn->complete)) x->keep_alive = false;
    ad_buf_printf(b, "HTTP/1.1 %d %s\r\nDate: %s\r\nx-request-id: %s\r\n", x->status, reason(x->status), date, x->id);
    if (content_type) ad_buf_printf(b, "Content-Type: %s\r\n", content_type);
    ad_buf_append(b, x->extra.data, x->extra.len);
    const ad_http_options *opt = &x->conn->server->opt;
    if (opt->put_headers) opt->put_headers(opt->app, x, b);
    if (!x->keep_alive) ad_buf_puts(b, "Connection: close\r\n");
    else if (x->head.minor == 0) ad_buf_puts(b, "Connection: keep-alive\r\n");
}

static void send_buf(ad_http_exchange *x, ad_buf *b)
{
    x->bytes_out += b->len;
    if (b->failed) doom(x->conn);
    else conn_write(x->conn, b->data, b->len, x->streaming ? x->conn->server->opt.max_output_bytes : SIZE_MAX);
    ad_buf_deinit(b);
}

/* The reply is complete: on to the next request, or to the end. */
static void end_exchange(ad_http_exchange *x)
{
    conn *c = x->conn;
    bool keep = x->keep_alive;
    exchange_finish(x);
    if (c->closing || c->phase == PHASE_DOOMED) return;
    if (!keep) {
        say_end(c);
        linger(c);
        return;
    }
    c->phase = PHASE_HEAD;
    set_timer(c, c->server->opt.idle_timeout_ms);
    process(c);
}

void ad_http_set_header(ad_http_exchange *x, const char *name, const char *value)
{
    ad_buf_printf(&x->extra, "%s: %s\r\n", name, value);
}

bool ad_http_get_set_header(const ad_http_exchange *x, const char *name, char *value, size_t size)
{
    size_t n = strlen(name);
    for (const char *line = x->extra.data; line && *line; line = strstr(line, "\r\n") + 2) {
        if (strncmp(line, name, n) || line[n] != ':') continue;
        size_t len = strcspn(line + n + 2, "\r");
        if (len >= size) return false;
        memcpy(value, line + n + 2, len);
        value[len] = '\0';
        return true;
    }
    return false;
}

void ad_http_reply(ad_http_exchange *x, int status, const char *content_type, const void *body, size_t len)
{
    ad_buf b = {0};
    bool bodyless = status == 204 || status == 304;
    x->status = status;
    put_head(x, &b, bodyless ? NULL : content_type);
    if (!bodyless) ad_buf_printf(&b, "Content-Length: %zu\r\n", len);
    ad_buf_puts(&b, "\r\n");
    if (!bodyless && !x->head.is_head && len) ad_buf_append(&b, body, len);
    send_buf(x, &b);
    end_exchange(x);
}

void ad_http_stream_begin(ad_http_exchange *x, int status, const char *content_type)
{
    ad_buf b = {0};
    x->status = status;
    x->streaming = true;
    x->chunked = x->head.minor > 0;
    if (!x->chunked) x->keep_alive = false;
    put_head(x, &b, content_type);
    ad_buf_puts(&b, x->chunked ? "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n" : "Cache-Control: no-cache\r\n\r\n");
    send_buf(x, &b);
}

void ad_http_stream_write(ad_http_exchange *x, const void *data, size_t len)
{
    ad_buf b = {0};
    if (!len || x->head.is_head) return;
    if (x->chunked) ad_buf_printf(&b, "%zx\r\n", len);
    ad_buf_append(&b, data, len);
    if (x->chunked) ad_buf_puts(&b, "\r\n");
    send_buf(x, &b);
}

void ad_http_stream_end(ad_http_exchange *x)
{
    if (x->chunked && !x->head.is_head) conn_write(x->conn, "0\r\n\r\n", 5, SIZE_MAX);
    end_exchange(x);
}

void ad_http_stream_abort(ad_http_exchange *x)
{
    conn *c = x->conn;
    exchange_finish(x);
    if (!c->closing && c->phase != PHASE_DOOMED) linger(c);
}

void ad_http_on_abort(ad_http_exchange *x, void (*fn)(ad_http_exchange *, void *), void *user)
{
    x->on_abort = fn;
    x->abort_user = user;
}

bool ad_http_when_drained(ad_http_exchange *x, void (*fn)(ad_http_exchange *, void *), void *user)
{
    if (!unread(x->conn)) return false;
    x->on_drained = fn;
    x->drained_user = user;
    return true;
}

/* ---- the request ---- */

const char *ad_http_method(const ad_http_exchange *x) { return x->head.method; }
const char *ad_http_path(const ad_http_exchange *x) { return x->head.path; }
const char *ad_http_header(const ad_http_exchange *x, const char *name) { return ad_http_head_find(&x->head, name); }
void *ad_http_note(const ad_http_exchange *x) { return x->conn->server->opt.note_bytes ? (void *)x->note : NULL; }

const char *ad_http_header_at(const ad_http_exchange *x, const char *name, int i)
{
    for (const ad_http_field *f = x->head.fields; f < x->head.fields + x->head.n_fields; f++)
        if (!strcasecmp(f->name, name) && !i--) return f->value;
    return NULL;
}

ad_str ad_http_body(const ad_http_exchange *x) { return (ad_str){x->body.data ? x->body.data : "", x->body.len}; }
void *ad_http_sender(const ad_http_exchange *x) { return x->sender; }

void ad_http_set_sender(ad_http_exchange *x, void *sender, void (*release)(void *))
{
    x->sender = sender;
    x->release_sender = release;
}

const ad_http_route *ad_http_matched_route(const ad_http_exchange *x) { return x->route; }
const char *ad_http_request_id(const ad_http_exchange *x) { return x->id; }
const char *ad_http_peer(const ad_http_exchange *x) { return x->conn->peer; }
bool ad_http_is_local(const ad_http_exchange *x) { return x->conn->local; }
uint64_t ad_http_start_ns(const ad_http_exchange *x) { return x->start_ns; }

static void reply_error(ad_http_exchange *x, const ad_http_route *route, int status, const char *message)
{
    const ad_http_server *s = x->conn->server;
    ad_buf b = {0};
    s->opt.error_body(s->opt.app, route, &b, status, message);
    ad_http_reply(x, status, "application/json", b.data, b.len);
    ad_buf_deinit(&b);
}

/* Answers a request the layer itself refuses; the connection ends with it. */
static void refuse(conn *c, int status, const char *message)
{
    c->phase = PHASE_BUSY;
    c->x->keep_alive = false;
    if (status == 503) ad_http_set_header(c->x, "Retry-After", "1");
    reply_error(c->x, c->x->route, status, message);
}

static const char too_large[] = "the request's body is larger than this server accepts";
static const char no_room[] = "there is no memory for the request's body; try again later";

/* from[len] of a query into out[size]. False, with out "": a bad escape, an escaped NUL, or more than fits. */
static bool decode_query(const char *from, size_t len, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int hi = from[i] == '%' && len - i > 2 ? ad_http_hex(from[i + 1]) : -1, lo = hi < 0 ? -1 : ad_http_hex(from[i + 2]);
        if ((from[i] == '%' && (lo < 0 || (!hi && !lo))) || n + 1 >= size) return *out = '\0', false;
        out[n++] = (char)(lo >= 0 ? hi * 16 + lo : from[i] == '+' ? ' ' : from[i]);
        if (lo >= 0) i += 2;
    }
    out[n] = '\0';
    return true;
}

int ad_http_query_value(const ad_http_exchange *x, const char *name, char *out, size_t size) { return ad_http_query_nth(x, name, 0, out, size); }

int ad_http_query_nth(const ad_http_exchange *x, const char *name, int nth, char *out, size_t size)
{
    *out = '\0';
    for (const char *pair = x->head.query, *next; *pair; pair = next) {
        char key[64];
        size_t len = strcspn(pair, "&"), n = strcspn(pair, "=&");
        next = pair + len + (pair[len] == '&');
        if (!decode_query(pair, n, key, sizeof key) || strcmp(key, name) || nth--) continue;
        return n == len || decode_query(pair + n + 1, len - n - 1, out, size) ? 1 : -1;
    }
    return 0;
}

/* The client's, if it is harmless, in place of ours. */
static void adopt_id(ad_http_exchange *x)
{
    static const char harmless[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const char *theirs = ad_http_header(x, "x-request-id");
    size_t n = theirs ? strlen(theirs) : 0;
    if (n >= 1 && n <= 128 && strspn(theirs, harmless) == n) memcpy(x->id, theirs, n + 1);
}

static bool matches(const ad_http_route *r, const char *path)
{
    const char *star = strchr(r->path, '*');
    if (!star) return !strcmp(r->path, path);
    size_t n = strlen(path), head = (size_t)(star - r->path), tail = strlen(star + 1);
    return n > head + tail && !strncmp(r->path, path, head) && !strcmp(star + 1, path + n - tail);
}

/* The first route of the path and method, or NULL. */
static const ad_http_route *find_route(const ad_http_exchange *x)
{
    const ad_http_options *opt = &x->conn->server->opt;
    const char *method = x->head.is_head ? "GET" : x->head.method;
    for (const ad_http_route *r = opt->routes; r < opt->routes + opt->n_routes; r++)
        if (!strcmp(r->method, method) && matches(r, x->head.path)) return r;
    return NULL;
}

static void add_method(char *list, size_t size, const char *method)
{
    size_t n = strlen(list);
    for (const char *p = list; (p = strstr(p, method)); p++) /* a whole word of the list? */
        if ((p == list || p[-1] == ' ') && !strcspn(p + strlen(method), ",")) return;
    snprintf(list + n, size - n, "%s%s", n ? ", " : "", method);
}

const ad_http_route *ad_http_routes_of(const ad_http_server *s, const char *path, char *allowed, size_t size)
{
    const ad_http_options *opt = &s->opt;
    const ad_http_route *first = NULL;
    bool whole_server = !strcmp(path, "*");
    if (allowed) *allowed = '\0';
    for (const ad_http_route *r = opt->routes; r < opt->routes + opt->n_routes; r++) {
        if (!whole_server && !matches(r, path)) continue;
        if (!first) first = r;
        if (!allowed) continue;
        add_method(allowed, size, r->method);
        if (!strcmp(r->method, "GET")) add_method(allowed, size, "HEAD");
    }
    if (first && allowed) add_method(allowed, size, "OPTIONS");
    return first;
}

static bool is_reserved(const ad_http_server *s, const ad_http_route *r)
{
    for (const char *const *path = s->opt.reserved; r && path && *path; path++)
        if (!strcmp(*path, r->path)) return true;
    return false;
}

/* What depends on us and on the route. A route that streams has a limit of its own. */
static int check_request(conn *c, const char **why)
{
    ad_http_exchange *x = c->x;
    *why = "there are too many connections; try again later";
    bool has_body = x->head.length || x->head.chunked;
    if (c->reserved && (has_body || !is_reserved(c->server, x->route))) return c->server->counts.refused_full++, 503;
    *why = too_large;
    if (x->head.length > c->server->opt.max_body_bytes && !(x->route && x->route->streams && x->head.length < SIZE_MAX)) return 413;
    *why = "the request's body must come without a Content-Encoding";
    if (x->head.has_encoding) return ad_http_set_header(x, "Accept-Encoding", "identity"), 415;
    return 0;
}

static int on_headers_complete(llhttp_t *p);
static int on_body(llhttp_t *p, const char *at, size_t len);
static int on_message_complete(llhttp_t *p);
static const llhttp_settings_t settings = {.on_headers_complete = on_headers_complete, .on_body = on_body, .on_message_complete = on_message_complete};

/* llhttp reads the same head; what it refuses is refused, whatever we think. */
static int read_request(conn *c, size_t len, const char **why)
{
    ad_http_exchange *x = c->x;
    const char *raw = c->in.data + c->in_at;
    int status = ad_http_head_read(&x->head, raw, len, why);
    adopt_id(x);
    if (!status) x->route = find_route(x);
    if (!status) status = check_request(c, why);
    if (status) return status;
    llhttp_init(&c->parser, HTTP_REQUEST, &settings);
    c->parser.data = c;
    c->complete = false;
    llhttp_errno_t rc = llhttp_execute(&c->parser, raw, len);
    *why = "the request is malformed";
    if (rc != HPE_OK && rc != HPE_PAUSED) return 400;
    x->keep_alive = llhttp_should_keep_alive(&c->parser) && !c->server->leaving && !c->reserved;
    return x->route && c->server->opt.admit ? c->server->opt.admit(c->server->opt.app, x, why) : 0;
}

static int on_headers_complete(llhttp_t *p)
{
    p->upgrade = 0; /* a wish to speak another protocol is not granted, but no error */
    return 0;
}

/* A body of which there is no room for more counts as one whose memory could not be had. */
static void collect(ad_http_exchange *x, const char *at, size_t len)
{
    ad_http_server *s = x->conn->server;
    size_t before = x->body.len;
    if (s->collected + len > s->opt.max_bodies_bytes) x->body.failed = true;
    ad_buf_append(&x->body, at, len);
    s->collected += x->body.len - before;
}

/* A piece for the handler. */
static int feed_piece(conn *c, const char *at, size_t len)
{
    ad_http_exchange *x = c->x;
    if (!len) return 0; /* what llhttp says when it goes on after a pause and has nothing yet */
    if (len > x->feed.max_bytes - x->feed.received) return HPE_USER;
    x->feed.received += len;
    x->window_bytes += len;
    if (x->feed.data) x->feed.data(x, at, len, x->feed.user);
    else if (x->feed.taken) collect(x, at, len);
    if (c->phase != PHASE_FEED) return HPE_USER; /* answered in the callback, which ended x */
    if (x->body.failed) return HPE_USER;
    return x->feed.paused ? HPE_PAUSED : 0;
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    conn *c = p->data;
    if (c->phase == PHASE_FEED) return feed_piece(c, at, len);
    ad_http_exchange *x = c->x;
    x->window_bytes += len;
    if (x->body.len + len > c->server->opt.max_body_bytes) return HPE_USER;
    collect(x, at, len);
    return x->body.failed ? HPE_USER : 0;
}

static int on_message_complete(llhttp_t *p)
{
    ((conn *)p->data)->complete = true;
    return HPE_PAUSED;
}

/* ---- dispatch ---- */

static void consume(conn *c, size_t n)
{
    c->in_at += n;
    c->scanned = c->scanned > n ? c->scanned - n : 0;
    if (c->in_at < c->in.len) return;
    if (c->in.cap > KEEP_BYTES) ad_buf_deinit(&c->in);
    else ad_buf_clear(&c->in);
    c->in_at = 0;
}

static void dispatch(conn *c)
{
    ad_http_exchange *x = c->x;
    char allowed[128], message[300];
    c->phase = PHASE_BUSY;
    uv_timer_stop(&c->timer);
    if (x->route) {
        x->route->handler(x, c->server->opt.app);
        return;
    }
    const ad_http_route *other = ad_http_routes_of(c->server, x->head.path, allowed, sizeof allowed);
    if (!other) {
        snprintf(message, sizeof message, "there is nothing at %.120s", x->head.path);
        reply_error(x, NULL, 404, message);
        return;
    }
    ad_http_set_header(x, "Allow", allowed);
    if (!strcmp(x->head.method, "OPTIONS")) {
        ad_http_reply(x, 204, NULL, "", 0);
        return;
    }
    snprintf(message, sizeof message, "%.80s takes %s only", x->head.path, allowed);
    reply_error(x, other, 405, message);
}

/* ---- bodies that are fed to a handler ---- */

void ad_http_take_body(ad_http_exchange *x, size_t max_bytes, void (*data)(ad_http_exchange *, const char *, size_t, void *), void (*end)(ad_http_exchange *, void *), void *user)
{
    x->feed.max_bytes = max_bytes;
    x->feed.data = data;
    x->feed.end = end;
    x->feed.user = user;
    x->feed.taken = true;
}

void ad_http_pause_body(ad_http_exchange *x, bool paused)
{
    conn *c = x->conn;
    if (x->feed.paused == paused) return;
    x->feed.paused = paused;
    if (c->phase != PHASE_FEED) return;
    if (paused) {
        if (uv_is_active((uv_handle_t *)&c->timer)) x->feed.window_ms = uv_timer_get_due_in(&c->timer);
        uv_timer_stop(&c->timer);
        adjust_reading(c);
        return;
    }
    uv_timer_start(&c->timer, on_timer, x->feed.window_ms, 0);
    process(c);
}

/* The body does not come to its end: whoever takes it hears of it, then the client. */
static void fail_feed(conn *c, int status, const char *message)
{
    ad_http_exchange *x = c->x;
    if (x->on_abort) x->on_abort(x, x->abort_user);
    ad_buf_clear(&x->extra);
    if (x->streaming) ad_http_stream_abort(x);
    else refuse(c, status, message);
}

static void check_rate(conn *c)
{
    static const char slow[] = "the request's body comes too slowly";
    int window_ms = c->server->opt.body_timeout_ms;
    if (c->x->window_bytes * 1000 >= (size_t)window_ms * MIN_BODY_RATE) {
        c->x->window_bytes = 0;
        set_timer(c, window_ms);
    } else if (c->phase == PHASE_FEED) {
        fail_feed(c, 408, slow);
    } else {
        refuse(c, 408, slow);
    }
}

/* The head is complete, and the handler wants the body as it comes. */
static void begin_feed(conn *c)
{
    ad_http_exchange *x = c->x;
    c->phase = PHASE_FEED;
    uv_timer_stop(&c->timer);
    x->feed.max_bytes = c->server->opt.max_body_bytes; /* of what nobody takes */
    x->feed.window_ms = (uint64_t)c->server->opt.body_timeout_ms;
    x->feed.say_continue = x->head.expects_continue;
    x->route->handler(x, c->server->opt.app);
    if (c->phase != PHASE_FEED) return;
    x->feed.say_continue = x->feed.say_continue && x->feed.taken && !x->streaming;
    if (x->head.length > x->feed.max_bytes) fail_feed(c, 413, too_large);
    else if (!x->feed.paused) uv_timer_start(&c->timer, on_timer, x->feed.window_ms, 0);
}

static void end_feed(conn *c)
{
    ad_http_exchange *x = c->x;
    c->phase = PHASE_BUSY;
    uv_timer_stop(&c->timer);
    if (x->feed.end) x->feed.end(x, x->feed.user);
}

/* The bytes at hand that belong to the body, as far as we can tell: SIZE_MAX when its chunks are malformed, which *why explains. */
static size_t body_bytes(conn *c, const char **why)
{
    ad_http_exchange *x = c->x;
    size_t len = c->in.len - c->in_at;
    if (!x->head.chunked) return len;
    size_t more = ad_http_chunks_check(&x->chunks, c->in.data + c->in_at + c->scanned, len - c->scanned, why);
    if (more == SIZE_MAX) return SIZE_MAX;
    return c->scanned += more;
}

/* Our count of a chunked body's bytes and llhttp's are the same: what was consumed ends the body in both, or in none. */
static bool framing_agrees(const conn *c)
{
    const ad_http_exchange *x = c->x;
    return !x->head.chunked || c->complete == (x->chunks.done && !c->scanned);
}

/* True when there may be more to do with the bytes at hand. */
static bool read_feed(conn *c)
{
    ad_http_exchange *x = c->x;
    const char *data = c->in.data + c->in_at, *why = "the request's body is malformed";
    if (x->feed.paused) return false;
    if (c->complete) return end_feed(c), true;
    size_t len = body_bytes(c, &why);
    if (len == SIZE_MAX) return fail_feed(c, 400, why), false;
    if (x->feed.say_continue && !len) conn_write(c, "HTTP/1.1 100 Continue\r\n\r\n", 25, SIZE_MAX);
    x->feed.say_continue = false;
    if (c->phase != PHASE_FEED) return false; /* it could not be written */
    bool stopped = llhttp_get_errno(&c->parser) == HPE_PAUSED; /* the end may be due without another byte */
    if (!len && !stopped) return false;
    if (stopped) llhttp_resume(&c->parser);
    llhttp_errno_t rc = llhttp_execute(&c->parser, len ? data : "", len);
    if (c->phase != PHASE_FEED) return false;
    if (rc == HPE_OK || rc == HPE_PAUSED) {
        consume(c, rc == HPE_OK || !len ? len : (size_t)(llhttp_get_error_pos(&c->parser) - data));
        if (!framing_agrees(c)) return fail_feed(c, 400, why), false;
        return true;
    }
    bool user = rc == HPE_USER;
    fail_feed(c, !user ? 400 : x->body.failed ? 503 : 413, !user ? why : x->body.failed ? no_room : too_large);
    return false;
}

/* ---- reading ---- */

static bool begin_exchange(conn *c)
{
    ad_http_server *s = c->server;
    c->x = ad_calloc(1, sizeof *c->x + c->server->opt.note_bytes);
    if (!c->x) {
        doom(c);
        return false;
    }
    c->x->conn = c;
    c->x->head = (ad_http_head){.method = "", .query = "", .minor = 1};
    c->x->start_ns = c->first_byte_ns;
    c->first_byte_ns = 0;
    snprintf(c->x->id, sizeof c->x->id, "req-%08llx%08llx", (unsigned long long)(s->id_base & 0xffffffff), (unsigned long long)++s->id_next);
    return true;
}

/* The end of the head among the bytes at hand: its length, or 0. *bare: a line ends without CR. */
static size_t find_head_end(conn *c, bool *bare)
{
    const char *s = c->in.data + c->in_at;
    size_t n = c->in.len - c->in_at;
    for (size_t i = c->scanned; i < n; i++) {
        if (s[i] != '\n') continue;
        *bare = i == 0 || s[i - 1] != '\r';
        if (*bare) return i + 1;
        if (i >= 3 && s[i - 2] == '\n') return i + 1;
    }
    c->scanned = n;
    return 0;
}

/* No end of the head yet: is what there is too much already? The status, or 0. */
static int check_unfinished(const conn *c, const char **why)
{
    size_t n = c->in.len - c->in_at;
    *why = "the request line is too long";
    if (n > AD_HTTP_MAX_LINE + 1 && !memchr(c->in.data + c->in_at, '\n', AD_HTTP_MAX_LINE + 2)) return 414;
    *why = "the request's headers are too large";
    return n > AD_HTTP_MAX_HEAD ? 431 : 0;
}

/* True when there may be more to do with the bytes at hand. */
static bool read_head(conn *c)
{
    if (unread(c) > MAX_BEHIND) return false; /* earlier replies first */
    if (c->in.len - c->in_at >= 2 && !memcmp(c->in.data + c->in_at, "\r\n", 2) && !c->scanned) consume(c, 2); /* one too many after the last body */
    if (c->in_at == c->in.len) return false;
    if (!c->first_byte_ns) {
        c->first_byte_ns = uv_hrtime();
        set_timer(c, c->reserved ? AD_HTTP_RESERVED_MS : c->server->opt.header_timeout_ms);
    }
    bool bare = false;
    const char *why = "a line of the request's head does not end in CR LF";
    size_t len = find_head_end(c, &bare);
    int status = bare ? 400 : 0;
    if (!status && (!len || len > AD_HTTP_MAX_HEAD)) status = check_unfinished(c, &why);
    if (!status && !len) return false;
    if (!begin_exchange(c)) return false;
    if (!status) status = read_request(c, len, &why);
    if (status) {
        refuse(c, status, why);
        return false;
    }
    consume(c, len);
    if (c->x->route && c->x->route->streams) {
        begin_feed(c);
        return true;
    }
    if (c->complete) {
        dispatch(c);
        return true;
    }
    c->phase = PHASE_BODY;
    set_timer(c, c->server->opt.body_timeout_ms);
    if (c->x->head.expects_continue && c->in_at == c->in.len) conn_write(c, "HTTP/1.1 100 Continue\r\n\r\n", 25, SIZE_MAX);
    return true;
}

static bool read_body(conn *c)
{
    const char *data = c->in.data + c->in_at, *why = "the request's body is malformed";
    size_t len = body_bytes(c, &why);
    if (len == SIZE_MAX) return refuse(c, 400, why), false;
    if (!len) return false;
    llhttp_errno_t rc = llhttp_execute(&c->parser, data, len);
    if (rc == HPE_OK || c->complete) {
        consume(c, c->complete ? (size_t)(llhttp_get_error_pos(&c->parser) - data) : len);
        if (!framing_agrees(c)) return refuse(c, 400, why), false;
        if (c->complete) dispatch(c);
        return c->complete;
    }
    bool over = rc == HPE_USER && !c->x->body.failed;
    refuse(c, over ? 413 : rc == HPE_USER ? 503 : 400, over ? too_large : rc == HPE_USER ? no_room : why);
    return false;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    conn *c = h->data;
    *buf = uv_buf_init(c->server->scratch, AD_HTTP_READ_BYTES);
}

/* Reading goes on while an exchange runs, or replies wait to be read, to see the client leave; only so much is read ahead. */
static void adjust_reading(conn *c)
{
    bool ahead = c->phase == PHASE_BUSY || (c->phase == PHASE_HEAD && unread(c) > MAX_BEHIND);
    bool want = c->phase == PHASE_FEED ? !c->x->feed.paused : !ahead || c->in.len - c->in_at < MAX_AHEAD;
    if (c->closing || want == c->reading) return;
    c->reading = want;
    if (want) uv_read_start(&c->sock.stream, on_alloc, on_read);
    else uv_read_stop(&c->sock.stream);
}

static void process(conn *c)
{
    bool more = true;
    if (c->processing || c->closing) return;
    c->processing = true;
    while (more && !c->closing) {
        if (c->phase == PHASE_HEAD) more = read_head(c);
        else if (c->phase == PHASE_BODY) more = read_body(c);
        else if (c->phase == PHASE_FEED) more = read_feed(c);
        else more = false;
    }
    c->processing = false;
    if (c->in_at && !c->closing) { /* keep what is left at the front */
        memmove(c->in.data, c->in.data + c->in_at, c->in.len - c->in_at + 1);
        c->in.len -= c->in_at;
        c->in_at = 0;
    }
    if (c->phase == PHASE_HEAD && c->server->draining && !c->in.len && !c->closing) ad_conn_leave(c);
    adjust_reading(c);
}

/* No TLS with this client, or no more of it. */
static void fail_tls(conn *c, const char *why)
{
    c->server->counts.tls_failures++;
    ad_log(AD_LOG_DEBUG, "tls: %s: %s", c->peer, why);
    if (c->x) ad_conn_close(c); /* who answers hears of it */
    else linger(c);
}

/* A request in the clear: its first byte is no TLS record's. */
static bool speaks_http(conn *c, const char *data)
{
    if (c->phase != PHASE_SHAKE || c->first_byte_ns) return false;
    c->first_byte_ns = uv_hrtime();
    return *data >= 'A' && *data <= 'Z';
}

static void refuse_http(conn *c)
{
    static const char body[] = "this port speaks HTTPS: ask with https://\n";
    char reply[200];
    int n = snprintf(reply, sizeof reply, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", sizeof body - 1, body);
    put(c, reply, (size_t)n, SIZE_MAX);
    if (c->phase != PHASE_DOOMED) fail_tls(c, "a request without TLS");
}

static void read_tls(conn *c, const char *data, size_t len)
{
    if (speaks_http(c, data)) {
        refuse_http(c);
        return;
    }
    ad_tls_state state = ad_tls_receive(c->tls, data, len, &c->in, &c->server->wire);
    put_wire(c, SIZE_MAX);
    if (c->phase == PHASE_DOOMED) return;
    if (c->in.failed) ad_conn_close(c);
    else if (state == AD_TLS_FAILED) fail_tls(c, ad_tls_problem(c->tls));
    if (c->phase == PHASE_LINGER || c->closing || state == AD_TLS_SHAKING) return;
    if (c->phase == PHASE_SHAKE) {
        c->phase = PHASE_HEAD;
        c->first_byte_ns = 0;
        set_timer(c, c->reserved ? AD_HTTP_RESERVED_MS : c->server->opt.idle_timeout_ms);
    }
    process(c);
    if (state == AD_TLS_ENDED && !c->closing) part(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    conn *c = stream->data;
    if (n < 0) {
        ad_conn_close(c);
        return;
    }
    if (c->phase == PHASE_DOOMED) return;
    if (c->phase == PHASE_LINGER) {
        uint64_t now = uv_now(c->server->loop);
        c->lingered += (size_t)n;
        if (c->lingered > LINGER_BYTES || (c->linger_end && now >= c->linger_end)) ad_conn_close(c);
        else if (c->linger_end && !c->server->draining) uv_timer_start(&c->timer, on_timer, c->linger_end - now < LINGER_MS ? c->linger_end - now : LINGER_MS, 0);
        return;
    }
    if (c->tls) {
        read_tls(c, buf->base, (size_t)n);
        return;
    }
    ad_buf_append(&c->in, buf->base, (size_t)n);
    if (c->in.failed) ad_conn_close(c);
    else process(c);
}

/* ---- beginnings ---- */

/* What it asked for already, before others that come with it take its place. */
static void read_now(conn *c)
{
    uv_os_fd_t fd;
    ssize_t n = uv_fileno(&c->sock.handle, &fd) == 0 ? recv(fd, c->server->scratch, AD_HTTP_READ_BYTES, MSG_DONTWAIT) : 0;
    uv_buf_t buf = uv_buf_init(c->server->scratch, n > 0 ? (unsigned)n : 0);
    if (n > 0) on_read(&c->sock.stream, n, &buf);
}

void ad_conn_start(conn *c)
{
    const ad_http_options *opt = &c->server->opt;
    set_timer(c, c->reserved ? AD_HTTP_RESERVED_MS : c->tls ? opt->header_timeout_ms : opt->idle_timeout_ms);
    adjust_reading(c);
    if (c->reserved) read_now(c);
}

/* What it has sent is read, as far as it is here: else it would get a reset in place of our words. */
void ad_conn_turn_away(conn *c, const char *status)
{
    char text[120];
    uv_os_fd_t fd;
    int n = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", status);
    if (uv_fileno(&c->sock.handle, &fd) == 0) (void)!recv(fd, c->server->scratch, AD_HTTP_READ_BYTES, MSG_DONTWAIT);
    if (c->phase != PHASE_SHAKE) conn_write(c, text, (size_t)n, SIZE_MAX);
    part(c);
}

void ad_http_refuse_bodies(ad_http_server *s, const char *message)
{
    for (conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if (c->closing) continue;
        if (c->phase == PHASE_FEED) fail_feed(c, 503, message);
        else if (c->phase == PHASE_BODY) refuse(c, 503, message);
    }
}
