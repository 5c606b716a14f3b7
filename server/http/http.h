/* SPDX-License-Identifier: MIT */
/* HTTP/1.1 over libuv and llhttp: listeners, connections, exchanges. Loop thread only.
 * A handler gets an exchange when its request is complete (of routes that stream: its
 * head) and answers it now or later: once with ad_http_reply, or as a stream. Requests pipelined on one connection are handled one after another. */
#ifndef AD_HTTP_HTTP_H
#define AD_HTTP_HTTP_H

#include <uv.h>

#include "server/http/address.h"
#include "server/http/tls.h"

typedef struct ad_http_server ad_http_server;
typedef struct ad_http_exchange ad_http_exchange;

typedef void (*ad_http_handler)(ad_http_exchange *x, void *app);

typedef struct {
    const char *method;  /* "GET"; HEAD is answered by the GET route without a body */
    const char *path;    /* exact, or with one '*' that stands for at least one character, of the first route that matches: "/v1/models" + slash + '*' */
    ad_http_handler handler;
    const char *label;   /* the route's name in metrics: bounded cardinality */
    bool streams;        /* the handler is called when the head is complete, and takes the body with ad_http_take_body */
    const void *tag;     /* the application's own: which form its errors have, say; borrowed, may be NULL */
    int verb;            /* the application's own: what its sender must be allowed to do */
} ad_http_route;

typedef struct {
    const ad_http_address *addresses; /* n_addresses to listen on, at most AD_HTTP_MAX_ADDRESSES; read once */
    int n_addresses;
    ad_tls_files tls;         /* of the addresses with tls; cert NULL: there are none */
    size_t max_body_bytes;    /* of one request; more is 413 */
    size_t max_bodies_bytes;  /* of all requests that are read or answered; more is 503 */
    int max_connections;
    const char *const *reserved; /* the paths of routes that a few connections beyond max_connections may still ask for; ends in NULL. May be NULL */
    int max_per_peer;         /* connections of one IPv4 address or IPv6 /64; 0: half of max_connections, and no limit on loopback. Unix sockets have none */
    int header_timeout_ms;    /* from the first byte of a request to the end of its headers; also from accepting a connection to the end of its TLS handshake */
    int body_timeout_ms;      /* in each of these windows a body ends or brings 4 KiB a second on the average */
    int idle_timeout_ms;      /* keep-alive */
    int write_timeout_ms;     /* in each of these windows a client takes all output that waits for it, or 16 KiB */
    size_t max_output_bytes;  /* a stream whose client is further behind is cut */
    const ad_http_route *routes; /* n_routes, borrowed */
    int n_routes;
    void *app;                /* second argument of every handler */
    /* Called when the head of a request that has a route is complete, before its body is read: 0 lets it go on to its handler; anything else is the status it is refused with,
     * *why (static) the message. Headers may be set, nothing be replied. May be NULL. */
    int (*admit)(void *app, ad_http_exchange *x, const char **why);
    size_t note_bytes;        /* of what the application notes of each exchange */
    /* Appends header lines ("name: value", CR LF) to the head of any reply, errors of the HTTP layer's own among them. May be NULL. */
    void (*put_headers)(void *app, const ad_http_exchange *x, ad_buf *out);
    /* Called once per finished exchange, for metrics and the access log. May be NULL. */
    void (*on_finish)(void *app, const ad_http_exchange *x, int status, uint64_t duration_ns, size_t bytes_out);
    /* Writes the JSON body of an error that the HTTP layer itself answers (400, 404, 405, 408, 413 ...). route: the matched one; where the path exists under other
     * methods only, the first of these; NULL when there is none, or the request could not be read that far. */
    void (*error_body)(void *app, const ad_http_route *route, ad_buf *out, int status, const char *message);
} ad_http_options;

/* What was refused or cut since the start. */
typedef struct {
    uint64_t refused_full;    /* connections and requests, for too many connections */
    uint64_t refused_peer;    /* connections, for too many of one client */
    uint64_t slow_readers;    /* connections cut because their clients did not read */
    uint64_t tls_failures;    /* connections that ended because their clients could not speak TLS with us, or not in time */
} ad_http_counts;

AD_MUSTUSE ad_status ad_http_listen(ad_http_server **out, uv_loop_t *loop, const ad_http_options *opt, ad_err *err);
/* Serves a connected socket (of any kind that streams) as if it had been accepted; takes fd on success. */
AD_MUSTUSE ad_status ad_http_adopt(ad_http_server *s, int fd, ad_err *err);
int ad_http_port(const ad_http_server *s); /* the bound port of the first address; 0: a Unix socket, or none */
const char *ad_http_url(const ad_http_server *s, int i); /* of address i: "http://127.0.0.1:8080", "https://[::1]:8443", "unix:/path"; NULL when there are no more */
/* Reads the files of opt.tls again, for the connections to come; those there are go on with what they have. On an error nothing changes. Without TLS there is nothing to do. */
AD_MUSTUSE ad_status ad_http_reload_tls(ad_http_server *s, bool *renewed, ad_err *err); /* *renewed: there is another certificate now */
uint64_t ad_http_tls_expiry(const ad_http_server *s); /* until when the certificate is valid, in seconds since 1970; 0: no address has TLS */
int ad_http_connections(const ad_http_server *s);
ad_http_counts ad_http_get_counts(const ad_http_server *s);
/* Takes sizes, counts and times from `opt`, for what begins from now on. */
void ad_http_set_limits(ad_http_server *s, const ad_http_options *opt);
/* From now on every reply ends its connection. New ones are accepted still. */
void ad_http_leave(ad_http_server *s);
/* Requests whose bodies are still coming in are answered 503 with the message. */
void ad_http_refuse_bodies(ad_http_server *s, const char *message);
/* Stops accepting; idle connections close, busy ones after their reply. done(user) when the last is gone. */
void ad_http_drain(ad_http_server *s, void (*done)(void *user), void *user);
/* Closes everything now (exchanges in flight see on_abort), then done. The server is freed. */
void ad_http_close(ad_http_server **s, void (*done)(void *user), void *user);

/* The request. Everything is borrowed until the reply is complete. */
const char *ad_http_method(const ad_http_exchange *x);
const char *ad_http_path(const ad_http_exchange *x);   /* percent-decoded, without the query */
/* The first value of `name` in the query, decoded ('+' is a blank), into out[size]: 1. With out "": 0, there is none; -1, it is malformed or does not fit. */
int ad_http_query_value(const ad_http_exchange *x, const char *name, char *out, size_t size);
int ad_http_query_nth(const ad_http_exchange *x, const char *name, int nth, char *out, size_t size); /* the same of its nth value, from 0 on */
const char *ad_http_header(const ad_http_exchange *x, const char *name); /* NULL when absent; any case */
const char *ad_http_header_at(const ad_http_exchange *x, const char *name, int i); /* the i-th value of those that have this name; NULL: there are fewer */
ad_str ad_http_body(const ad_http_exchange *x);
/* What `admit` found out about the sender. release(sender) is called when the exchange has ended, after on_finish. Takes sender; once. */
void ad_http_set_sender(ad_http_exchange *x, void *sender, void (*release)(void *sender));
void *ad_http_sender(const ad_http_exchange *x); /* NULL: none was set */
const ad_http_route *ad_http_matched_route(const ad_http_exchange *x); /* NULL when none matched */
/* The routes that have `path`, under any method: the first, or NULL. allowed[size], when not NULL, gets their methods as the header Allow has them, without repetition. */
const ad_http_route *ad_http_routes_of(const ad_http_server *s, const char *path, char *allowed, size_t size);
const char *ad_http_request_id(const ad_http_exchange *x); /* the client's x-request-id if harmless, else ours */
const char *ad_http_peer(const ad_http_exchange *x);
bool ad_http_is_local(const ad_http_exchange *x); /* it came from this machine: a loopback address, or a Unix socket */
void *ad_http_note(const ad_http_exchange *x); /* note_bytes of the application's own, zero at first, which last until on_finish has returned; NULL when there are none */
uint64_t ad_http_start_ns(const ad_http_exchange *x); /* uv_hrtime when the request's first byte came */

/* The body of a request of a route that streams; called by its handler before it returns. data gets each piece (borrowed for the call); NULL collects them for
 * ad_http_body. Then end is called once, also for an empty body, and never before the handler returned. More than max_bytes is answered 413, a body that comes too
 * slowly 408, a malformed one 400: then the abort callback is called instead of end, and the reply is ours. Without the call the body is thrown away. The handler may reply
 * (or begin a stream) before the end: what still comes is thrown away then, and the connection closes. A client that expects "100 Continue" hears
 * it once the body is taken and not paused. */
void ad_http_take_body(ad_http_exchange *x, size_t max_bytes, void (*data)(ad_http_exchange *x, const char *data, size_t len, void *user),
                       void (*end)(ad_http_exchange *x, void *user), void *user);
/* While paused, neither data nor end is called and the socket is not read: the client waits, no timer runs against it, and its leaving goes unseen. Going on, from
 * elsewhere than these callbacks, may call them (and the abort callback) before it returns: do it last. */
void ad_http_pause_body(ad_http_exchange *x, bool paused);

/* The reply. Adds a header to the reply before it starts; name and value are copied. */
void ad_http_set_header(ad_http_exchange *x, const char *name, const char *value);
/* The value set for `name`, exactly as written there, into value[size]; false: none was, or it does not fit. */
bool ad_http_get_set_header(const ad_http_exchange *x, const char *name, char *value, size_t size);
/* The whole reply at once; body is copied. 204 and 304 go without body and content type. Ends the exchange: x is invalid afterwards. */
void ad_http_reply(ad_http_exchange *x, int status, const char *content_type, const void *body, size_t len);
/* A chunked reply (close-delimited on HTTP/1.0). Nothing is held back, and it may live and be silent for as long as it likes; but a client that does not read what is there is cut:
 * max_output_bytes, write_timeout_ms. */
void ad_http_stream_begin(ad_http_exchange *x, int status, const char *content_type);
void ad_http_stream_write(ad_http_exchange *x, const void *data, size_t len);
/* For streams that could go on at once: false, the client has taken all that was written. True: it has not yet; fn is called once when it has, unless it leaves. */
bool ad_http_when_drained(ad_http_exchange *x, void (*fn)(ad_http_exchange *x, void *user), void *user);
void ad_http_stream_end(ad_http_exchange *x); /* x is invalid afterwards */
/* Ends a stream that went wrong: closes the connection without the final chunk. x is invalid afterwards. */
void ad_http_stream_abort(ad_http_exchange *x);
/* Called when the client left (or was cut) before the reply was complete: the handler must drop x, and must not reply. */
void ad_http_on_abort(ad_http_exchange *x, void (*fn)(ad_http_exchange *x, void *user), void *user);

#endif
