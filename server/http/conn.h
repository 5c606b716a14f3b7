/* SPDX-License-Identifier: MIT */
/* What http.c, which speaks with a client, and server.c, which has the listeners and all connections, know of each other. Loop thread only. */
#ifndef AD_HTTP_CONN_H
#define AD_HTTP_CONN_H

#include <llhttp.h>

#include "server/http/http.h"

enum {
    AD_HTTP_READ_BYTES = 64 * 1024,
    AD_HTTP_RESERVED_MS = 2000,   /* that a connection beyond the cap has for its request */
    AD_HTTP_PEER_BUCKETS = 1024,
};

typedef struct ad_conn ad_conn;

typedef enum { PHASE_SHAKE, PHASE_HEAD, PHASE_BODY, PHASE_FEED, PHASE_BUSY, PHASE_LINGER, PHASE_DOOMED } ad_conn_phase;

/* Of a listener or a connection, TCP or Unix. */
typedef union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
} ad_http_socket;

struct ad_conn {
    ad_http_socket sock;
    uv_timer_t timer;
    uv_timer_t write_timer;   /* runs while output waits for the client */
    int open_handles;         /* sock and timers: the memory goes with the last */
    ad_http_server *server;
    ad_tls_filter *tls;       /* NULL: none */
    ad_conn *prev, *next;
    uint64_t peer_key;        /* of the client's address or network; 0: none */
    ad_conn *same_next;          /* in the bucket of peer_key */
    bool reserved;            /* beyond the cap: it gets what is reserved, and nothing else */
    ad_conn_phase phase;
    bool processing, reading, closing;
    llhttp_t parser;
    ad_http_exchange *x;      /* the request that is read or answered */
    bool complete;            /* llhttp saw the end of the message */
    ad_buf in;                /* bytes not consumed yet begin at in_at */
    size_t in_at, scanned;    /* scanned: of these, how many were checked, for the end of the head or as chunks */
    uint64_t first_byte_ns;
    size_t lingered;
    uint64_t linger_end;      /* of the loop's clock, ms */
    size_t written, taken;    /* bytes of output in all, as the socket gets them, and how many of these the client had taken when the write timer last looked */
    char peer[64];
    bool local;               /* of this machine */
};

typedef struct {
    ad_http_socket sock;
    ad_http_server *server;
    char url[300];
    int port;                 /* 0: a Unix socket */
    bool tls;
} ad_http_listener;

struct ad_http_server {
    ad_http_options opt;
    uv_loop_t *loop;
    ad_http_listener listeners[AD_HTTP_MAX_ADDRESSES];
    int n_listeners, n_listening; /* listening: open handles */
    bool leaving, draining, closing; /* each with those before it */
    int n_conns, n_reserved;  /* reserved are among n_conns */
    ad_conn *conns;              /* the newest first */
    ad_conn *peers[AD_HTTP_PEER_BUCKETS]; /* by the hash of their keys */
    size_t collected;         /* bytes of all bodies that are collected or answered */
    ad_http_counts counts;
    ad_tls *tls;              /* NULL: no listener has it */
    ad_buf wire;              /* what TLS has to send: empty between calls */
    uint64_t id_base, id_next;
    void (*drained)(void *user);
    void *drained_user;
    void (*closed)(void *user);
    void *closed_user;
    char scratch[AD_HTTP_READ_BYTES]; /* libuv reads into it; taken over at once */
};

/* http.c. Begins to read what the client says, which may close the connection at once. */
void ad_conn_start(ad_conn *c);
/* Too many to talk with it at all: it hears of it if it can, and the connection is closed. status: "503 Service Unavailable". */
void ad_conn_turn_away(ad_conn *c, const char *status);
/* Ends a connection of which nothing is asked: at once, or when the client has read what it was told. */
void ad_conn_leave(ad_conn *c);
/* The connection is gone; ad_conn_free follows from the loop. More than once is fine. */
void ad_conn_close(ad_conn *c);

/* server.c. Takes the connection, whose handles are closed and whose buffers are released, out of its server, which may end with it. */
void ad_conn_free(ad_conn *c);

#endif
