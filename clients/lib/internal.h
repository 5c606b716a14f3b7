/* SPDX-License-Identifier: MIT */
/* Inside of the client library: one HTTP exchange, texts that grow, errors. The thread that has the client. */
#ifndef ADAPTERD_CLIENT_INTERNAL_H
#define ADAPTERD_CLIENT_INTERNAL_H

#include <curl/curl.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "clients/lib/adapterd.h"

/* ---- texts ---- */

typedef struct {
    char *data;       /* len bytes and a NUL; NULL when nothing was added */
    size_t len, cap;
    size_t max;       /* of len; 0: no limit */
    bool failed;      /* memory ran out, or over max: what was added then is missing */
} ad_client_text;

bool ad_client_text_add(ad_client_text *t, const void *data, size_t len); /* false: failed */
void ad_client_text_literal(ad_client_text *t, const char *s);
void ad_client_text_segment(ad_client_text *t, const char *s);            /* percent-encoded for a path */
/* "?key=value" or "&key=value", encoded; nothing for a NULL value. *first is cleared. */
void ad_client_text_query(ad_client_text *t, bool *first, const char *key, const char *value);
void ad_client_text_deinit(ad_client_text *t);

/* ---- errors ---- */

/* Fills *err (NULL is fine) and returns st. */
ad_client_status ad_client_fail(ad_client_error *err, ad_client_status st, const char *code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* ---- the client ---- */

struct ad_client {
    CURL *curl;
    char *base;          /* "http://host:port/prefix", no slash at the end */
    char *authorization; /* a header's line, or NULL */
    char *ca_file;
    int connect_timeout_ms, timeout_ms;
    size_t max_reply;
    bool local;          /* this machine by name: no proxy */
    atomic_bool canceled;
};

/* ---- one exchange ---- */

typedef enum { AD_CLIENT_STOP_NONE, AD_CLIENT_STOP_CANCELED, AD_CLIENT_STOP_IDLE, AD_CLIENT_STOP_LARGE, AD_CLIENT_STOP_FILE, AD_CLIENT_STOP_DATA } ad_client_stop;

typedef struct {
    /* In. */
    const char *method, *path; /* path: behind base, encoded, with the query */
    const char *json;          /* the body, or NULL */
    curl_mime *form;           /* the body, or NULL; a POST then */
    const char *if_match, *if_none_match, *last_event_id; /* or NULL */
    bool streams;              /* timeout_ms bounds silence only */
    int timeout_ms;
    ad_client_progress progress; /* or NULL */
    bool (*on_data)(void *user, const char *data, size_t len); /* takes the body of a 200 with events; false stops with STOP_DATA */
    void *user;                /* of both */
    /* Out. */
    ad_client_text body;
    char etag[80];
    bool is_events;            /* the reply's type is text/event-stream */
    long http_status;          /* 0: no reply */
    int retry_after_s;
    ad_client_stop stop;       /* why we ended it */
    char reason[160];          /* of STOP_FILE */
    /* Inside. */
    ad_client *client;
    size_t header_bytes;
    uint64_t moved, sent;      /* bytes seen by the last look */
    int64_t moved_at_ms;
} ad_client_exchange;

/* Runs it. AD_CLIENT_OK: a reply with a status below 300, or 304, came whole (x->body is the caller's to deinit, as after a failure). */
AD_CLIENT_MUSTUSE ad_client_status ad_client_run(ad_client *c, ad_client_exchange *x, ad_client_error *err);
/* Runs it and makes a reply of it; body and path are freed. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_finish(ad_client *c, ad_client_exchange *x, ad_client_text *path, ad_client_reply *out, ad_client_error *err);
bool ad_client_header_safe(const char *value); /* NULL is; no control characters */
int64_t ad_client_now_ms(void);                /* monotonic */

#endif
