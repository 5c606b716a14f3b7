/* SPDX-License-Identifier: MIT */
/* HTTP/1.1 on libuv. Loop thread only.
 *
 * A connection is in one phase at a time: it waits for a head, reads a body, feeds a handler with one, is busy with an exchange, or
 * lingers (everything was said; what still comes in is thrown away until the peer closes, so that it gets to read our
 * last words). The head is checked byte by byte before llhttp sees it: proxies disagree on what is lenient, so
 * nothing is. A connection that must end inside a call ends in the next loop turn, so that no caller loses the
 * ground under its feet. */
#include "server/http/http.h"

#include <llhttp.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum {
    MAX_HEAD = 32 * 1024,      /* request line and headers */
    MAX_LINE = 8 * 1024,       /* the request line */
    MAX_HEADERS = 100,
    MAX_AHEAD = 64 * 1024,     /* bytes read ahead while an exchange runs */
    READ_BYTES = 64 * 1024,
    MIN_BODY_RATE = 4096,      /* bytes a second of a streamed body */
    RATE_WINDOW_MS = 10000,
    LINGER_MS = 2000,          /* without a byte */
    LINGER_TOTAL_MS = 30000,
    LINGER_BYTES = 1 << 30,    /* thrown away while lingering */
    BACKLOG = 511,
};

typedef struct conn conn;

typedef enum { PHASE_HEAD, PHASE_BODY, PHASE_FEED, PHASE_BUSY, PHASE_LINGER, PHASE_DOOMED } phase;

typedef struct {
    const char *name, *value; /* in the exchange's head */
} header;

struct ad_http_exchange {
    conn *conn;
    const ad_http_route *route;
    char *head;               /* the request's head, cut into strings */
    header headers[MAX_HEADERS];
    int n_headers;
    const char *method, *query;
    char *path;
    ad_buf body;
    size_t length;            /* Content-Length; 0 when absent */
    struct {                  /* of a body that is fed to the handler */
        void (*data)(ad_http_exchange *x, const char *data, size_t len, void *user);
        void (*end)(ad_http_exchange *x, void *user);
        void *user;
        size_t max_bytes, received;
        size_t window_bytes;  /* received in this window of the minimum rate */
        uint64_t window_ms;   /* left of it, while paused */
        bool taken, paused, say_continue;
    } feed;
    int minor;                /* HTTP/1.minor */
    bool keep_alive, is_head, chunked, streaming;
    char id[132];
    uint64_t start_ns;
    ad_buf extra;             /* reply headers of the handler */
    int status;
    size_t bytes_out;
    void (*on_abort)(ad_http_exchange *x, void *user);
    void *abort_user;
};

struct conn {
    uv_tcp_t tcp;
    uv_timer_t timer;
    int open_handles;         /* tcp and timer: the memory goes with the last */
    ad_http_server *server;
    conn *prev, *next;
    phase phase;
    bool processing, reading, closing;
    llhttp_t parser;
    ad_http_exchange *x;      /* the request that is read or answered */
    bool complete;            /* llhttp saw the end of the message */
    ad_buf in;                /* bytes not consumed yet begin at in_at */
    size_t in_at, scanned;    /* scanned: of these, how many were checked for the end of the head */
    uint64_t first_byte_ns;
    size_t lingered;
    uint64_t linger_end;      /* of the loop's clock, ms */
    char peer[64];
};

struct ad_http_server {
    ad_http_options opt;
    uv_loop_t *loop;
    uv_tcp_t listener;
    bool listening;           /* the listener handle is open */
    bool draining, closing;
    int port, n_conns;
    conn *conns;
    llhttp_settings_t settings;
    uint64_t id_base, id_next;
    void (*drained)(void *user);
    void *drained_user;
    void (*closed)(void *user);
    void *closed_user;
    char scratch[READ_BYTES]; /* libuv reads into it; taken over at once */
};

static void process(conn *c);
static void refuse(conn *c, int status, const char *message);
static void check_rate(conn *c);
static void adjust_reading(conn *c);

/* ---- ends ---- */

static void maybe_finish(ad_http_server *s)
{
    if (s->listening || s->n_conns) return;
    if (s->drained) {
        void (*drained)(void *) = s->drained;
        s->drained = NULL;
        drained(s->drained_user); /* may call ad_http_close, which frees s */
        return;
    }
    if (!s->closing) return;
    void (*closed)(void *) = s->closed;
    void *user = s->closed_user;
    free(s);
    if (closed) closed(user);
}

static void exchange_free(ad_http_exchange *x)
{
    ad_buf_deinit(&x->body);
    ad_buf_deinit(&x->extra);
    free(x->path);
    free(x->head);
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
    ad_http_server *s = c->server;
    if (c->prev) c->prev->next = c->next;
    else s->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    s->n_conns--;
    ad_buf_deinit(&c->in);
    free(c);
    maybe_finish(s);
}

/* The connection is gone. Whoever still answers hears of it. */
static void conn_close(conn *c)
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
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void on_timer(uv_timer_t *t)
{
    conn *c = t->data;
    if (c->phase == PHASE_BODY) refuse(c, 408, "the request's body did not arrive in time"); /* say so before leaving */
    else if (c->phase == PHASE_FEED) check_rate(c);
    else conn_close(c);
}

static void set_timer(conn *c, int ms)
{
    uv_timer_start(&c->timer, on_timer, (uint64_t)ms, 0);
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

static void on_written(uv_write_t *req, int status)
{
    conn *c = req->handle->data;
    free(req); /* data and all */
    if (status < 0 && !c->closing && c->phase != PHASE_LINGER) doom(c);
}

static void conn_write(conn *c, const char *data, size_t len)
{
    uv_stream_t *stream = (uv_stream_t *)&c->tcp;
    if (c->closing || c->phase == PHASE_DOOMED) return;
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
    write_req *w = malloc(sizeof *w + len);
    if (!w || stream->write_queue_size + len > c->server->opt.max_output_bytes) {
        free(w);
        doom(c);
        return;
    }
    memcpy(w->data, data, len);
    uv_buf_t buf = uv_buf_init(w->data, (unsigned)len);
    if (uv_write(&w->req, stream, &buf, 1, on_written) == 0) return;
    free(w);
    doom(c);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)status;
    free(req);
}

/* Everything was said. */
static void linger(conn *c)
{
    uv_shutdown_t *req = malloc(sizeof *req);
    c->phase = PHASE_LINGER;
    c->linger_end = uv_now(c->server->loop) + LINGER_TOTAL_MS;
    set_timer(c, LINGER_MS);
    adjust_reading(c); /* it may have stopped */
    if (!req || uv_shutdown(req, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        free(req);
        doom(c);
    }
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
        {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"}, {501, "Not Implemented"},
        {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"}, {507, "Insufficient Storage"},
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
    if (x->conn->server->draining || (x->conn->phase == PHASE_FEED && !x->conn->complete)) x->keep_alive = false;
    ad_buf_printf(b, "HTTP/1.1 %d %s\r\nDate: %s\r\nx-request-id: %s\r\n", x->status, reason(x->status), date, x->id);
    if (content_type) ad_buf_printf(b, "Content-Type: %s\r\n", content_type);
    ad_buf_append(b, x->extra.data, x->extra.len);
    if (!x->keep_alive) ad_buf_puts(b, "Connection: close\r\n");
    else if (x->minor == 0) ad_buf_puts(b, "Connection: keep-alive\r\n");
}

static void send_buf(ad_http_exchange *x, ad_buf *b)
{
    x->bytes_out += b->len;
    if (b->failed) doom(x->conn);
    else conn_write(x->conn, b->data, b->len);
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
    if (!bodyless && !x->is_head && len) ad_buf_append(&b, body, len);
    send_buf(x, &b);
    end_exchange(x);
}

void ad_http_stream_begin(ad_http_exchange *x, int status, const char *content_type)
{
    ad_buf b = {0};
    x->status = status;
    x->streaming = true;
    x->chunked = x->minor > 0;
    if (!x->chunked) x->keep_alive = false;
    put_head(x, &b, content_type);
    ad_buf_puts(&b, x->chunked ? "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n" : "Cache-Control: no-cache\r\n\r\n");
    send_buf(x, &b);
}

void ad_http_stream_write(ad_http_exchange *x, const void *data, size_t len)
{
    ad_buf b = {0};
    if (!len || x->is_head) return;
    if (x->chunked) ad_buf_printf(&b, "%zx\r\n", len);
    ad_buf_append(&b, data, len);
    if (x->chunked) ad_buf_puts(&b, "\r\n");
    send_buf(x, &b);
}

void ad_http_stream_end(ad_http_exchange *x)
{
    if (x->chunked && !x->is_head) conn_write(x->conn, "0\r\n\r\n", 5);
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

/* ---- the request ---- */

const char *ad_http_method(const ad_http_exchange *x) { return x->method; }
const char *ad_http_path(const ad_http_exchange *x) { return x->path; }
const char *ad_http_query(const ad_http_exchange *x) { return x->query; }
ad_str ad_http_body(const ad_http_exchange *x) { return (ad_str){x->body.data ? x->body.data : "", x->body.len}; }
const ad_http_route *ad_http_matched_route(const ad_http_exchange *x) { return x->route; }
const ad_http_server *ad_http_server_of(const ad_http_exchange *x) { return x->conn->server; }
const char *ad_http_request_id(const ad_http_exchange *x) { return x->id; }
const char *ad_http_peer(const ad_http_exchange *x) { return x->conn->peer; }
uint64_t ad_http_start_ns(const ad_http_exchange *x) { return x->start_ns; }

const char *ad_http_header(const ad_http_exchange *x, const char *name)
{
    for (int i = 0; i < x->n_headers; i++)
        if (!strcasecmp(x->headers[i].name, name)) return x->headers[i].value;
    return NULL;
}

static int count_header(const ad_http_exchange *x, const char *name)
{
    int n = 0;
    for (int i = 0; i < x->n_headers; i++) n += !strcasecmp(x->headers[i].name, name);
    return n;
}

/* Answers a request the layer itself refuses; the connection ends with it. */
static void refuse(conn *c, int status, const char *message)
{
    ad_buf b = {0};
    c->phase = PHASE_BUSY;
    c->x->keep_alive = false;
    c->server->opt.error_body(c->server->opt.app, c->x->route, &b, status, message);
    ad_http_reply(c->x, status, "application/json", b.data, b.len);
    ad_buf_deinit(&b);
}

static const char too_large[] = "the request's body is larger than this server accepts";

static bool is_token_char(unsigned char ch)
{
    return (ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'z') || (ch && strchr("!#$%&'*+-.^_`|~", ch));
}

static bool all_digits(const char *s)
{
    size_t n = strspn(s, "0123456789");
    return n > 0 && !s[n];
}

/* Cuts head[len], which ends in CRLF CRLF, into lines, and lines into strings. NULL, or why it is refused. */
static const char *cut_head(ad_http_exchange *x, char *head, size_t len)
{
    char *line = head, *end = head + len - 2; /* without the empty line */
    for (size_t i = 0; i < len; i++) {
        unsigned char ch = (unsigned char)head[i];
        if (ch == '\r' && head[i + 1] == '\n') i++;
        else if (ch != '\t' && (ch < 0x20 || ch == 0x7F)) return "the request's head holds a control byte or a bare line end";
    }
    for (int n = 0; line < end; n++) {
        char *stop = strstr(line, "\r\n");
        *stop = '\0';
        if (n == 0) {
            line = stop + 2;
            continue; /* the request line: llhttp's */
        }
        char *colon = line;
        while (is_token_char((unsigned char)*colon)) colon++;
        if (colon == line || *colon != ':') return "a header is not \"name: value\"";
        if (x->n_headers == MAX_HEADERS) return "there are too many headers";
        *colon = '\0';
        char *value = colon + 1 + strspn(colon + 1, " \t"), *tail = stop;
        while (tail > value && (tail[-1] == ' ' || tail[-1] == '\t')) *--tail = '\0';
        x->headers[x->n_headers++] = (header){line, value};
        line = stop + 2;
    }
    return NULL;
}

static int hex(char ch)
{
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch |= 32;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* In place; false for a bad escape or an escaped NUL. */
static bool percent_decode(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (*s != '%') {
            *to++ = *s;
            continue;
        }
        int hi = hex(s[1]), lo = hi < 0 ? -1 : hex(s[2]);
        if (lo < 0 || (!hi && !lo)) return false;
        *to++ = (char)(hi * 16 + lo);
        s += 2;
    }
    *to = '\0';
    return true;
}

/* from[len] of a query into out[size]. False, with out "": a bad escape, an escaped NUL, or more than fits. */
static bool decode_query(const char *from, size_t len, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int hi = from[i] == '%' && len - i > 2 ? hex(from[i + 1]) : -1, lo = hi < 0 ? -1 : hex(from[i + 2]);
        if ((from[i] == '%' && (lo < 0 || (!hi && !lo))) || n + 1 >= size) return *out = '\0', false;
        out[n++] = (char)(lo >= 0 ? hi * 16 + lo : from[i] == '+' ? ' ' : from[i]);
        if (lo >= 0) i += 2;
    }
    out[n] = '\0';
    return true;
}

int ad_http_query_value(const ad_http_exchange *x, const char *name, char *out, size_t size)
{
    *out = '\0';
    for (const char *pair = x->query, *next; *pair; pair = next) {
        char key[64];
        size_t len = strcspn(pair, "&"), n = strcspn(pair, "=&");
        next = pair + len + (pair[len] == '&');
        if (!decode_query(pair, n, key, sizeof key) || strcmp(key, name)) continue;
        return n == len || decode_query(pair + n + 1, len - n - 1, out, size) ? 1 : -1;
    }
    return 0;
}

/* METHOD SP target SP HTTP/1.x; absolute targets lose scheme and host. */
static int read_request_line(ad_http_exchange *x, char *line, const char **why)
{
    char *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
    *why = "the request line is not \"METHOD target HTTP/1.1\"";
    if (!version || target == line || version == target + 1) return 400;
    *target++ = *version++ = '\0';
    for (const char *m = line; *m; m++)
        if (!is_token_char((unsigned char)*m)) return 400;
    if (strncmp(version, "HTTP/", 5) || version[5] < '0' || version[5] > '9' || version[6] != '.' || version[7] < '0' || version[7] > '9' || version[8]) return 400;
    *why = "only HTTP/1.0 and HTTP/1.1 are spoken here";
    if (version[5] != '1' || version[7] > '1') return 505;
    x->minor = version[7] - '0';
    x->method = line;
    x->is_head = !strcmp(line, "HEAD");
    *why = "the request's target is malformed";
    char *scheme = !strncasecmp(target, "http://", 7) ? target + 7 : NULL;
    if (scheme) target = strchr(scheme, '/') ? strchr(scheme, '/') : (char *)"/";
    if (*target != '/' && strcmp(target, "*")) return 400;
    char *query = strchr(target, '?');
    x->query = query ? query + 1 : "";
    x->path = strndup(target, query ? (size_t)(query - target) : strlen(target));
    if (!x->path) return *why = "out of memory", 503;
    return percent_decode(x->path) ? 0 : 400;
}

/* What both ends must agree on: where the body ends. A route that streams has a limit of its own. */
static int check_framing(ad_http_exchange *x, const ad_http_server *s, const char **why)
{
    const char *length = ad_http_header(x, "content-length"), *coding = ad_http_header(x, "transfer-encoding"), *expect = ad_http_header(x, "expect");
    const char *encoding = ad_http_header(x, "content-encoding");
    int hosts = count_header(x, "host");
    *why = "a request must have exactly one Host header";
    if (hosts > 1 || (hosts == 0 && x->minor == 1)) return 400;
    *why = "a request must not have more than one Content-Length or Transfer-Encoding";
    if (count_header(x, "content-length") + count_header(x, "transfer-encoding") > 1) return 400;
    *why = "Content-Length is not a number";
    if (length && !all_digits(length)) return 400;
    *why = "Transfer-Encoding is not allowed in HTTP/1.0";
    if (coding && x->minor == 0) return 400;
    *why = "the only Transfer-Encoding is chunked";
    if (coding && strcasecmp(coding, "chunked")) return 501;
    *why = too_large;
    if (length && strlen(length) > 18) return 413;
    x->length = length ? strtoull(length, NULL, 10) : 0;
    if (x->length > s->opt.max_body_bytes && !(x->route && x->route->streams)) return 413;
    *why = "the request's body must come without a Content-Encoding";
    if (encoding && strcasecmp(encoding, "identity")) return ad_http_set_header(x, "Accept-Encoding", "identity"), 415;
    *why = "the only Expect is 100-continue";
    if (expect && strcasecmp(expect, "100-continue")) return 417;
    return 0;
}

static void choose_id(ad_http_exchange *x, ad_http_server *s)
{
    static const char harmless[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const char *theirs = ad_http_header(x, "x-request-id");
    size_t n = theirs ? strlen(theirs) : 0;
    if (n >= 1 && n <= 128 && strspn(theirs, harmless) == n) memcpy(x->id, theirs, n + 1);
    else snprintf(x->id, sizeof x->id, "req-%08llx%08llx", (unsigned long long)(s->id_base & 0xffffffff), (unsigned long long)++s->id_next);
}

static bool matches(const ad_http_route *r, const char *path)
{
    size_t n = strlen(r->path);
    if (n && r->path[n - 1] == '*') return !strncmp(r->path, path, n - 1) && path[n - 1];
    return !strcmp(r->path, path);
}

/* The first route of the path and method, or NULL. */
static const ad_http_route *find_route(const ad_http_exchange *x)
{
    const ad_http_options *opt = &x->conn->server->opt;
    const char *method = x->is_head ? "GET" : x->method;
    for (const ad_http_route *r = opt->routes; r < opt->routes + opt->n_routes; r++)
        if (!strcmp(r->method, method) && matches(r, x->path)) return r;
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
    if (allowed) *allowed = '\0';
    for (const ad_http_route *r = opt->routes; r < opt->routes + opt->n_routes; r++) {
        if (!matches(r, path)) continue;
        if (!first) first = r;
        if (!allowed) continue;
        add_method(allowed, size, r->method);
        if (!strcmp(r->method, "GET")) add_method(allowed, size, "HEAD");
    }
    if (first && allowed) add_method(allowed, size, "OPTIONS");
    return first;
}

/* llhttp reads the same head; what it refuses is refused, whatever we think. */
static int parse_head(conn *c, size_t len, const char **why)
{
    ad_http_exchange *x = c->x;
    ad_http_server *s = c->server;
    const char *raw = c->in.data + c->in_at;
    *why = "out of memory";
    x->head = strndup(raw, len);
    if (!x->head) return 503;
    *why = "the request's head holds a NUL byte";
    if (strlen(x->head) != len) return 400;
    if ((size_t)(strstr(raw, "\r\n") - raw) > MAX_LINE) return *why = "the request line is too long", 414;
    *why = cut_head(x, x->head, len);
    if (*why) return 400;
    int status = read_request_line(x, x->head, why);
    choose_id(x, s);
    if (!status) x->route = find_route(x);
    if (!status) status = check_framing(x, s, why);
    if (status) return status;
    llhttp_init(&c->parser, HTTP_REQUEST, &s->settings);
    c->parser.data = c;
    c->complete = false;
    llhttp_errno_t rc = llhttp_execute(&c->parser, raw, len);
    *why = "the request is malformed";
    if (rc != HPE_OK && rc != HPE_PAUSED) return 400;
    x->keep_alive = llhttp_should_keep_alive(&c->parser) && !s->draining;
    return 0;
}

static int on_headers_complete(llhttp_t *p)
{
    p->upgrade = 0; /* a wish to speak another protocol is not granted, but no error */
    return 0;
}

/* A piece for the handler. */
static int feed_piece(conn *c, const char *at, size_t len)
{
    ad_http_exchange *x = c->x;
    if (!len) return 0; /* what llhttp says when it goes on after a pause and has nothing yet */
    if (len > x->feed.max_bytes - x->feed.received) return HPE_USER;
    x->feed.received += len;
    x->feed.window_bytes += len;
    if (x->feed.data) x->feed.data(x, at, len, x->feed.user);
    else if (x->feed.taken) ad_buf_append(&x->body, at, len);
    if (c->phase != PHASE_FEED) return HPE_USER; /* answered in the callback, which ended x */
    if (x->body.failed) return HPE_USER;
    return x->feed.paused ? HPE_PAUSED : 0;
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    conn *c = p->data;
    if (c->phase == PHASE_FEED) return feed_piece(c, at, len);
    ad_buf *body = &c->x->body;
    if (body->len + len > c->server->opt.max_body_bytes) return HPE_USER;
    ad_buf_append(body, at, len);
    return body->failed ? HPE_USER : 0;
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
    c->scanned = 0;
    if (c->in_at < c->in.len) return;
    ad_buf_clear(&c->in);
    c->in_at = 0;
}

static void reply_error(ad_http_exchange *x, const ad_http_route *route, int status, const char *message)
{
    const ad_http_server *s = x->conn->server;
    ad_buf b = {0};
    s->opt.error_body(s->opt.app, route, &b, status, message);
    ad_http_reply(x, status, "application/json", b.data, b.len);
    ad_buf_deinit(&b);
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
    const ad_http_route *other = ad_http_routes_of(c->server, x->path, allowed, sizeof allowed);
    if (!other) {
        snprintf(message, sizeof message, "there is nothing at %.120s", x->path);
        reply_error(x, NULL, 404, message);
        return;
    }
    ad_http_set_header(x, "Allow", allowed);
    if (!strcmp(x->method, "OPTIONS")) {
        ad_http_reply(x, 204, NULL, "", 0);
        return;
    }
    snprintf(message, sizeof message, "%.80s takes %s only", x->path, allowed);
    reply_error(x, other, 405, message);
}

/* ---- bodies that are fed to a handler ---- */

static uint64_t rate_window_ms(const conn *c)
{
    return c->server->opt.rate_window_ms ? (uint64_t)c->server->opt.rate_window_ms : RATE_WINDOW_MS;
}

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
    uint64_t wanted = rate_window_ms(c) * MIN_BODY_RATE / 1000;
    if (c->x->feed.window_bytes < wanted) {
        fail_feed(c, 408, "the request's body comes too slowly");
        return;
    }
    c->x->feed.window_bytes = 0;
    uv_timer_start(&c->timer, on_timer, rate_window_ms(c), 0);
}

/* The head is complete, and the handler wants the body as it comes. */
static void begin_feed(conn *c)
{
    ad_http_exchange *x = c->x;
    c->phase = PHASE_FEED;
    uv_timer_stop(&c->timer);
    x->feed.max_bytes = c->server->opt.max_body_bytes; /* of what nobody takes */
    x->feed.window_ms = rate_window_ms(c);
    x->feed.say_continue = ad_http_header(x, "expect") && x->minor == 1;
    x->route->handler(x, c->server->opt.app);
    if (c->phase != PHASE_FEED) return;
    x->feed.say_continue = x->feed.say_continue && x->feed.taken && !x->streaming;
    if (x->length > x->feed.max_bytes) fail_feed(c, 413, too_large);
    else if (!x->feed.paused) uv_timer_start(&c->timer, on_timer, x->feed.window_ms, 0);
}

static void end_feed(conn *c)
{
    ad_http_exchange *x = c->x;
    c->phase = PHASE_BUSY;
    uv_timer_stop(&c->timer);
    if (x->feed.end) x->feed.end(x, x->feed.user);
}

/* True when there may be more to do with the bytes at hand. */
static bool read_feed(conn *c)
{
    ad_http_exchange *x = c->x;
    const char *data = c->in.data + c->in_at;
    size_t len = c->in.len - c->in_at;
    if (x->feed.paused) return false;
    if (c->complete) return end_feed(c), true;
    if (x->feed.say_continue && !len) conn_write(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    x->feed.say_continue = false;
    if (c->phase != PHASE_FEED) return false; /* it could not be written */
    bool stopped = llhttp_get_errno(&c->parser) == HPE_PAUSED; /* the end may be due without another byte */
    if (!len && !stopped) return false;
    if (stopped) llhttp_resume(&c->parser);
    llhttp_errno_t rc = llhttp_execute(&c->parser, len ? data : "", len);
    if (c->phase != PHASE_FEED) return false;
    if (rc == HPE_OK || rc == HPE_PAUSED) {
        consume(c, rc == HPE_OK || !len ? len : (size_t)(llhttp_get_error_pos(&c->parser) - data));
        return true;
    }
    bool user = rc == HPE_USER;
    fail_feed(c, !user ? 400 : x->body.failed ? 503 : 413, !user ? "the request's body is malformed" : x->body.failed ? "out of memory" : too_large);
    return false;
}

/* ---- reading ---- */

static bool begin_exchange(conn *c)
{
    c->x = ad_calloc(1, sizeof *c->x);
    if (!c->x) {
        doom(c);
        return false;
    }
    c->x->conn = c;
    c->x->method = c->x->query = "";
    c->x->minor = 1;
    c->x->start_ns = c->first_byte_ns;
    snprintf(c->x->id, sizeof c->x->id, "none");
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

/* True when there may be more to do with the bytes at hand. */
static bool read_head(conn *c)
{
    if (c->in.len - c->in_at >= 2 && !memcmp(c->in.data + c->in_at, "\r\n", 2) && !c->scanned) consume(c, 2); /* one too many after the last body */
    if (c->in_at == c->in.len) return false;
    if (!c->first_byte_ns) {
        c->first_byte_ns = uv_hrtime();
        set_timer(c, c->server->opt.header_timeout_ms);
    }
    bool bare = false;
    size_t len = find_head_end(c, &bare);
    if (!len && c->in.len - c->in_at < MAX_HEAD) return false;
    if (!begin_exchange(c)) return false;
    c->first_byte_ns = 0;
    const char *why = "the request's headers are too large";
    int status = 431;
    if (bare) status = 400, why = "a line of the request's head does not end in CR LF";
    else if (len && len <= MAX_HEAD) status = parse_head(c, len, &why);
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
    if (ad_http_header(c->x, "expect") && c->in_at == c->in.len && c->x->minor == 1) conn_write(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    return true;
}

static bool read_body(conn *c)
{
    const char *data = c->in.data + c->in_at;
    size_t len = c->in.len - c->in_at;
    if (!len) return false;
    llhttp_errno_t rc = llhttp_execute(&c->parser, data, len);
    if (c->complete) {
        consume(c, (size_t)(llhttp_get_error_pos(&c->parser) - data));
        dispatch(c);
        return true;
    }
    if (rc == HPE_OK) {
        consume(c, len);
        return false;
    }
    bool over = rc == HPE_USER && !c->x->body.failed;
    refuse(c, over ? 413 : rc == HPE_USER ? 503 : 400, over ? too_large : rc == HPE_USER ? "out of memory" : "the request's body is malformed");
    return false;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    conn *c = h->data;
    *buf = uv_buf_init(c->server->scratch, READ_BYTES);
}

/* Reading goes on while an exchange runs, to see the client leave; only so much is read ahead. */
static void adjust_reading(conn *c)
{
    bool want = c->phase == PHASE_FEED ? !c->x->feed.paused : c->phase != PHASE_BUSY || c->in.len - c->in_at < MAX_AHEAD;
    if (c->closing || want == c->reading) return;
    c->reading = want;
    if (want) uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    else uv_read_stop((uv_stream_t *)&c->tcp);
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
    if (c->phase == PHASE_HEAD && c->server->draining && !c->in.len) conn_close(c);
    adjust_reading(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    conn *c = stream->data;
    if (n < 0) {
        conn_close(c);
        return;
    }
    if (c->phase == PHASE_DOOMED) return;
    if (c->phase == PHASE_LINGER) {
        uint64_t now = uv_now(c->server->loop);
        c->lingered += (size_t)n;
        if (c->lingered > LINGER_BYTES || now >= c->linger_end) conn_close(c);
        else if (!c->server->draining) uv_timer_start(&c->timer, on_timer, c->linger_end - now < LINGER_MS ? c->linger_end - now : LINGER_MS, 0);
        return;
    }
    ad_buf_append(&c->in, buf->base, (size_t)n);
    if (c->in.failed) conn_close(c);
    else process(c);
}

/* ---- connections ---- */

static void read_peer(conn *c)
{
    struct sockaddr_storage addr;
    int len = sizeof addr;
    char service[16];
    snprintf(c->peer, sizeof c->peer, "?");
    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&addr, &len) == 0)
        getnameinfo((struct sockaddr *)&addr, (socklen_t)len, c->peer, sizeof c->peer, service, sizeof service, NI_NUMERICHOST | NI_NUMERICSERV);
}

static void turn_away(conn *c)
{
    static const char text[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    uv_buf_t buf = uv_buf_init((char *)text, sizeof text - 1);
    uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
    conn_close(c);
}

static void on_connection(uv_stream_t *listener, int status)
{
    ad_http_server *s = listener->data;
    if (status < 0) return;
    conn *c = ad_calloc(1, sizeof *c);
    if (!c) return; /* it stays in the backlog */
    c->server = s;
    c->open_handles = 2;
    uv_tcp_init(s->loop, &c->tcp);
    uv_timer_init(s->loop, &c->timer);
    c->tcp.data = c->timer.data = c;
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    s->n_conns++;
    if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0) {
        conn_close(c);
        return;
    }
    if (s->n_conns > s->opt.max_connections || s->draining) {
        turn_away(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    read_peer(c);
    set_timer(c, s->opt.idle_timeout_ms);
    adjust_reading(c);
}

static void on_listener_closed(uv_handle_t *h)
{
    ad_http_server *s = h->data;
    s->listening = false;
    maybe_finish(s);
}

static ad_status bind_to(ad_http_server *s, ad_err *err)
{
    char port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    snprintf(port, sizeof port, "%d", s->opt.port);
    int rc = getaddrinfo(s->opt.host, port, &hints, &list);
    if (rc) return ad_fail(err, AD_EINVAL, "host \"%.100s\": %s", s->opt.host, gai_strerror(rc));
    rc = uv_tcp_bind(&s->listener, list->ai_addr, 0);
    freeaddrinfo(list);
    if (!rc) rc = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection);
    struct sockaddr_storage addr;
    int len = sizeof addr;
    if (!rc) rc = uv_tcp_getsockname(&s->listener, (struct sockaddr *)&addr, &len);
    if (rc) return ad_fail(err, AD_EIO, "cannot listen on %.100s port %d: %s", s->opt.host, s->opt.port, uv_strerror(rc));
    s->port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port : ((struct sockaddr_in *)&addr)->sin_port);
    return AD_OK;
}

ad_status ad_http_listen(ad_http_server **out, uv_loop_t *loop, const ad_http_options *opt, ad_err *err)
{
    ad_http_server *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "out of memory for the HTTP server");
    s->opt = *opt;
    s->loop = loop;
    llhttp_settings_init(&s->settings);
    s->settings.on_headers_complete = on_headers_complete;
    s->settings.on_body = on_body;
    s->settings.on_message_complete = on_message_complete;
    if (getrandom(&s->id_base, sizeof s->id_base, 0) != sizeof s->id_base) s->id_base = uv_hrtime();
    uv_tcp_init(loop, &s->listener);
    s->listener.data = s;
    s->listening = true;
    ad_status st = bind_to(s, err);
    if (st == AD_OK) {
        *out = s;
        return AD_OK;
    }
    s->closing = true;
    uv_close((uv_handle_t *)&s->listener, on_listener_closed); /* frees s */
    return st;
}

int ad_http_port(const ad_http_server *s) { return s->port; }
int ad_http_connections(const ad_http_server *s) { return s->n_conns; }

static void stop_listening(ad_http_server *s)
{
    if (s->listening && !uv_is_closing((uv_handle_t *)&s->listener)) uv_close((uv_handle_t *)&s->listener, on_listener_closed);
}

void ad_http_drain(ad_http_server *s, void (*done)(void *user), void *user)
{
    s->draining = true;
    s->drained = done;
    s->drained_user = user;
    stop_listening(s);
    for (conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if (c->phase == PHASE_HEAD && c->in.len == c->in_at) conn_close(c);
    }
}

void ad_http_close(ad_http_server **sp, void (*done)(void *user), void *user)
{
    ad_http_server *s = *sp;
    *sp = NULL;
    s->draining = s->closing = true;
    s->drained = NULL;
    s->closed = done;
    s->closed_user = user;
    stop_listening(s);
    for (conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_close(c);
    }
    maybe_finish(s);
}
