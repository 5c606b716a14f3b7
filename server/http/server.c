/* SPDX-License-Identifier: MIT */
/* The HTTP server: its listeners, who is let in, all connections, and the end. What is said on a connection is http.c's. Loop thread only. */
#include "server/http/conn.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    RESERVED = 16,             /* connections beyond the cap, for what is reserved */
    BACKLOG = 511,
};

typedef ad_conn conn;

/* ---- the end ---- */

static void maybe_finish(ad_http_server *s)
{
    if (s->n_listening || s->n_conns) return;
    if (s->drained) {
        void (*drained)(void *) = s->drained;
        s->drained = NULL;
        drained(s->drained_user); /* may call ad_http_close, which frees s */
        return;
    }
    if (!s->closing) return;
    void (*closed)(void *) = s->closed;
    void *user = s->closed_user;
    ad_tls_free(&s->tls);
    ad_buf_deinit(&s->wire);
    free(s);
    if (closed) closed(user);
}

/* ---- who it is ---- */

static conn **peer_bucket(ad_http_server *s, uint64_t key)
{
    return &s->peers[(key * 0x9E3779B97F4A7C15u) >> 32 & (AD_HTTP_PEER_BUCKETS - 1)];
}

static void forget_peer(conn *c)
{
    conn **link = peer_bucket(c->server, c->peer_key);
    while (*link && *link != c) link = &(*link)->same_next;
    if (*link) *link = c->same_next;
}

/* IPv4 by address, IPv6 by network of 64 bits: whoever has one address there has them all. *loopback: of this machine. */
static uint64_t key_of(const struct sockaddr *addr, bool *loopback)
{
    uint64_t key = 0;
    if (addr->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)addr)->sin6_addr;
        uint32_t v4 = 0;
        memcpy(&v4, a->s6_addr + 12, 4);
        if (IN6_IS_ADDR_V4MAPPED(a)) return *loopback = ntohl(v4) >> 24 == 127, 1ull << 63 | v4;
        memcpy(&key, a->s6_addr, 8);
        *loopback = IN6_IS_ADDR_LOOPBACK(a);
        return key ? key : 1;
    }
    if (addr->sa_family != AF_INET) return 0;
    uint32_t v4 = ((const struct sockaddr_in *)addr)->sin_addr.s_addr;
    return *loopback = ntohl(v4) >> 24 == 127, 1ull << 63 | v4;
}

/* Who it is, and how many connections it may have; 0: as many as there are. */
static int read_peer(conn *c)
{
    const ad_http_options *opt = &c->server->opt;
    struct sockaddr_storage addr;
    int len = sizeof addr;
    char service[16];
    bool loopback = false;
    c->local = c->sock.handle.type != UV_TCP;
    snprintf(c->peer, sizeof c->peer, c->sock.handle.type == UV_TCP ? "?" : "unix");
    if (c->sock.handle.type != UV_TCP || uv_tcp_getpeername(&c->sock.tcp, (struct sockaddr *)&addr, &len) != 0) return 0;
    getnameinfo((struct sockaddr *)&addr, (socklen_t)len, c->peer, sizeof c->peer, service, sizeof service, NI_NUMERICHOST | NI_NUMERICSERV);
    c->peer_key = key_of((struct sockaddr *)&addr, &loopback);
    c->local = loopback;
    conn **bucket = peer_bucket(c->server, c->peer_key);
    c->same_next = *bucket;
    *bucket = c;
    return opt->max_per_peer ? opt->max_per_peer : loopback ? 0 : (opt->max_connections + 1) / 2;
}

static int count_same(conn *c)
{
    int n = 0;
    for (const conn *o = *peer_bucket(c->server, c->peer_key); o; o = o->same_next) n += o->peer_key == c->peer_key && !o->closing;
    return n;
}

/* ---- connections ---- */

static const char full[] = "503 Service Unavailable";

/* The oldest that asks for nothing makes room for `newer`. */
static void shed_reserved(const conn *newer)
{
    conn *oldest = NULL;
    for (conn *c = newer->next; c; c = c->next)
        if (c->reserved && (c->phase == PHASE_SHAKE || c->phase == PHASE_HEAD || c->phase == PHASE_LINGER) && !c->closing) oldest = c;
    if (!oldest) return;
    if (oldest->phase == PHASE_LINGER) {
        ad_conn_close(oldest); /* it has its answer */
        return;
    }
    newer->server->counts.refused_full++;
    ad_conn_turn_away(oldest, full);
}

/* No waiting for more to send; and what is not on its way yet waits here, where it is counted, not in megabytes of the system's. */
static void tune(conn *c)
{
    uv_os_fd_t fd;
    int unsent = 128 * 1024;
    uv_tcp_nodelay(&c->sock.tcp, 1);
    if (uv_fileno(&c->sock.handle, &fd) == 0) (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

/* A connection that is open. */
static void welcome(conn *c)
{
    ad_http_server *s = c->server;
    int most = read_peer(c);
    if (most && count_same(c) > most) {
        s->counts.refused_peer++;
        ad_conn_turn_away(c, "429 Too Many Requests");
        return;
    }
    c->reserved = s->n_conns - s->n_reserved > s->opt.max_connections;
    s->n_reserved += c->reserved;
    if (c->reserved && s->n_reserved > RESERVED) shed_reserved(c);
    if ((c->reserved && s->n_reserved > 2 * RESERVED) || s->draining) { /* those that are being closed are among them */
        s->counts.refused_full++;
        ad_conn_turn_away(c, full);
        return;
    }
    if (c->sock.handle.type == UV_TCP) tune(c);
    ad_conn_start(c);
}

/* Counted, with handles that are to be closed; NULL: out of memory. */
static conn *conn_new(ad_http_server *s, bool tcp, bool tls)
{
    conn *c = ad_calloc(1, sizeof *c);
    if (c && tls) c->tls = ad_tls_filter_new(s->tls);
    if (!c || (tls && !c->tls)) {
        free(c);
        return NULL;
    }
    c->server = s;
    c->phase = tls ? PHASE_SHAKE : PHASE_HEAD;
    c->open_handles = 3;
    if (tcp) uv_tcp_init(s->loop, &c->sock.tcp);
    else uv_pipe_init(s->loop, &c->sock.pipe, 0);
    uv_timer_init(s->loop, &c->timer);
    uv_timer_init(s->loop, &c->write_timer);
    c->sock.handle.data = c->timer.data = c->write_timer.data = c;
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    s->n_conns++;
    return c;
}

void ad_conn_free(conn *c)
{
    ad_http_server *s = c->server;
    forget_peer(c);
    if (c->prev) c->prev->next = c->next;
    else s->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    s->n_conns--;
    s->n_reserved -= c->reserved;
    free(c);
    maybe_finish(s);
}

static void on_connection(uv_stream_t *stream, int status)
{
    ad_http_listener *l = stream->data;
    conn *c = status < 0 ? NULL : conn_new(l->server, l->port > 0, l->tls);
    if (!c) return; /* it stays in the backlog */
    if (uv_accept(stream, &c->sock.stream) == 0) welcome(c);
    else ad_conn_close(c);
}

ad_status ad_http_adopt(ad_http_server *s, int fd, ad_err *err)
{
    conn *c = conn_new(s, false, false);
    if (!c) return ad_fail(err, AD_ENOMEM, "out of memory");
    int rc = uv_pipe_open(&c->sock.pipe, fd);
    if (rc == 0) welcome(c);
    else ad_conn_close(c);
    return rc == 0 ? AD_OK : ad_fail(err, AD_EIO, "socket %d: %s", fd, uv_strerror(rc));
}

/* ---- listeners ---- */

static void on_listener_closed(uv_handle_t *h)
{
    ad_http_listener *l = h->data;
    l->server->n_listening--;
    maybe_finish(l->server);
}

/* only: it is the only address. [::] takes IPv4 connections then, too. */
static ad_status bind_tcp(ad_http_listener *l, const ad_http_address *a, bool only, ad_err *err)
{
    char port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    uv_tcp_init(l->server->loop, &l->sock.tcp);
    l->server->n_listening++;
    snprintf(port, sizeof port, "%d", a->port);
    int rc = getaddrinfo(a->host, port, &hints, &list);
    if (rc) return ad_fail(err, AD_EINVAL, "host \"%.100s\": %s", a->host, gai_strerror(rc));
    rc = uv_tcp_bind(&l->sock.tcp, list->ai_addr, list->ai_family == AF_INET6 && !only ? UV_TCP_IPV6ONLY : 0);
    freeaddrinfo(list);
    if (!rc) rc = uv_listen(&l->sock.stream, BACKLOG, on_connection);
    struct sockaddr_storage addr;
    int len = sizeof addr;
    if (!rc) rc = uv_tcp_getsockname(&l->sock.tcp, (struct sockaddr *)&addr, &len);
    if (rc) return ad_fail(err, AD_EIO, "cannot listen on %.100s port %d: %s", a->host, a->port, uv_strerror(rc));
    l->port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port : ((struct sockaddr_in *)&addr)->sin_port);
    bool v6 = strchr(a->host, ':') != NULL;
    snprintf(l->url, sizeof l->url, "http%s://%s%s%s:%d", a->tls ? "s" : "", v6 ? "[" : "", a->host, v6 ? "]" : "", l->port);
    return AD_OK;
}

/* Its mode and group are set before anybody can connect. libuv removes the file when the handle is closed. */
static ad_status bind_unix(ad_http_listener *l, const ad_http_address *a, ad_err *err)
{
    ad_status st = ad_http_unlink_stale(a, err);
    uv_pipe_init(l->server->loop, &l->sock.pipe, 0);
    l->server->n_listening++;
    if (st != AD_OK) return st;
    int rc = uv_pipe_bind(&l->sock.pipe, a->path);
    if (!rc) st = ad_http_set_owner(a, err);
    if (st != AD_OK) return st;
    if (!rc) rc = uv_listen(&l->sock.stream, BACKLOG, on_connection);
    if (rc) return ad_fail(err, AD_EIO, "cannot listen on %s: %s", a->path, uv_strerror(rc));
    snprintf(l->url, sizeof l->url, "unix:%s", a->path);
    return AD_OK;
}

static ad_status add_listener(ad_http_server *s, const ad_http_address *a, bool only, ad_err *err)
{
    ad_http_listener *l = &s->listeners[s->n_listeners++];
    l->server = s;
    l->tls = a->tls;
    ad_status st = a->host[0] ? bind_tcp(l, a, only, err) : bind_unix(l, a, err);
    l->sock.handle.data = l;
    return st;
}

ad_status ad_http_listen(ad_http_server **out, uv_loop_t *loop, const ad_http_options *opt, ad_err *err)
{
    ad_http_server *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "out of memory for the HTTP server");
    s->opt = *opt;
    s->loop = loop;
    if (getrandom(&s->id_base, sizeof s->id_base, 0) != sizeof s->id_base) s->id_base = uv_hrtime();
    bool tls = false;
    for (int i = 0; i < opt->n_addresses; i++) tls |= opt->addresses[i].tls;
    ad_status st = tls ? ad_tls_new(&s->tls, &opt->tls, err) : AD_OK;
    for (int i = 0; i < opt->n_addresses && st == AD_OK; i++) st = add_listener(s, &opt->addresses[i], opt->n_addresses == 1, err);
    s->opt.addresses = NULL;
    if (st == AD_OK) *out = s;
    else ad_http_close(&s, NULL, NULL);
    return st;
}

ad_status ad_http_reload_tls(ad_http_server *s, bool *renewed, ad_err *err)
{
    *renewed = false;
    return s->tls ? ad_tls_reload(s->tls, renewed, err) : AD_OK;
}

uint64_t ad_http_tls_expiry(const ad_http_server *s)
{
    return s->tls ? ad_tls_expiry(s->tls) : 0;
}

int ad_http_port(const ad_http_server *s) { return s->n_listeners ? s->listeners[0].port : 0; }
int ad_http_connections(const ad_http_server *s) { return s->n_conns; }
ad_http_counts ad_http_get_counts(const ad_http_server *s) { return s->counts; }

const char *ad_http_url(const ad_http_server *s, int i)
{
    return i < s->n_listeners ? s->listeners[i].url : NULL;
}

static void stop_listening(ad_http_server *s)
{
    for (ad_http_listener *l = s->listeners; l < s->listeners + s->n_listeners; l++)
        if (!uv_is_closing(&l->sock.handle)) uv_close(&l->sock.handle, on_listener_closed);
}

void ad_http_set_limits(ad_http_server *s, const ad_http_options *opt)
{
    s->opt.max_body_bytes = opt->max_body_bytes;
    s->opt.max_bodies_bytes = opt->max_bodies_bytes;
    s->opt.max_connections = opt->max_connections;
    s->opt.max_per_peer = opt->max_per_peer;
    s->opt.header_timeout_ms = opt->header_timeout_ms;
    s->opt.body_timeout_ms = opt->body_timeout_ms;
    s->opt.idle_timeout_ms = opt->idle_timeout_ms;
    s->opt.write_timeout_ms = opt->write_timeout_ms;
    s->opt.max_output_bytes = opt->max_output_bytes;
}

void ad_http_leave(ad_http_server *s)
{
    s->leaving = true;
}

void ad_http_drain(ad_http_server *s, void (*done)(void *user), void *user)
{
    s->leaving = s->draining = true;
    s->drained = done;
    s->drained_user = user;
    stop_listening(s);
    for (conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if ((c->phase == PHASE_SHAKE || (c->phase == PHASE_HEAD && c->in.len == c->in_at)) && !c->closing) ad_conn_leave(c);
    }
}

void ad_http_close(ad_http_server **sp, void (*done)(void *user), void *user)
{
    ad_http_server *s = *sp;
    *sp = NULL;
    s->leaving = s->draining = s->closing = true;
    s->drained = NULL;
    s->closed = done;
    s->closed_user = user;
    stop_listening(s);
    for (conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        ad_conn_close(c);
    }
    maybe_finish(s);
}
