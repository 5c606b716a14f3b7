/* SPDX-License-Identifier: MIT */
/* A client of adapterd: every call of its REST interface over libcurl and jansson. It knows HTTP and nothing of the daemon's inside.
 *
 *     ad_client *c = NULL;
 *     ad_client_reply r;
 *     ad_client_error e = {0};
 *     ad_client_status st = ad_client_open(&c, &(ad_client_options){.url = "http://127.0.0.1:8000"}, &e);
 *     if (st == AD_CLIENT_OK) st = ad_client_show(c, "sql", NULL, &r, &e);
 *     if (st == AD_CLIENT_OK) puts(json_string_value(json_object_get(r.json, "digest")));
 *     else fprintf(stderr, "%s\n", e.message);
 *
 * Ownership: arguments are borrowed for the call. A reply is written on success only and is yours then: ad_client_reply_deinit. An error is
 * written on failure only, over whatever it held: ad_client_error_deinit frees what is in it. Both may be NULL where they do not interest.
 * Threads: a client belongs to one thread at a time; calls block. Only ad_client_cancel may come from any thread, or from a signal handler.
 * Different clients are independent. No signals are used; a program that speaks https should ignore SIGPIPE, as with any use of libcurl.
 * Text in replies and errors is what the server said, byte for byte: a program that shows it on a terminal cleans it first. */
#ifndef ADAPTERD_CLIENT_H
#define ADAPTERD_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AD_CLIENT_MUSTUSE __attribute__((warn_unused_result))

typedef struct ad_client ad_client;

typedef enum {
    AD_CLIENT_OK,
    AD_CLIENT_REFUSED,     /* the server answered with an error: http_status and code tell which */
    AD_CLIENT_UNREACHABLE, /* no connection, or it broke before the reply was whole, or the time was over */
    AD_CLIENT_BAD_REPLY,   /* what came is no reply of adapterd: not JSON, too large, a redirect (none is followed) */
    AD_CLIENT_INVALID,     /* an argument is wrong; nothing was sent */
    AD_CLIENT_LOCAL,       /* a local file could not be read, or memory ran out */
    AD_CLIENT_CANCELED     /* by ad_client_cancel, or by a progress callback */
} ad_client_status;

typedef struct {
    ad_client_status status;
    int http_status;       /* 0: no reply came */
    char code[64];         /* the server's, as "adapter_exists"; ours are "timeout", "connection", "bad_reply", "invalid", "local", "canceled"; may be "" */
    char message[640];     /* one sentence or two for a person */
    int retry_after_s;     /* when to try again; 0: the server did not say */
    json_t *report;        /* what the server found in a refused adapter (422); owned, NULL when there is none */
    char *body;            /* the server's reply as it came, body_len bytes and a NUL; owned, NULL when none came */
    size_t body_len;
} ad_client_error;
void ad_client_error_deinit(ad_client_error *e); /* NULL is fine; twice too */

typedef struct {
    int http_status;       /* 200, 201; 304 of ad_client_show: json and text are NULL then */
    json_t *json;          /* always an object; owned */
    char *text;            /* the same as it came, text_len bytes and a NUL; owned */
    size_t text_len;
    char etag[80];         /* with its quotes, for if_match; "" when the reply has none */
} ad_client_reply;
void ad_client_reply_deinit(ad_client_reply *r); /* NULL is fine; twice too */

typedef struct {
    const char *url;         /* "http://host:port" or https, with or without a path in front of /v1; without a scheme it is http */
    const char *key;         /* sent as "Authorization: Bearer KEY"; NULL: none */
    const char *ca_file;     /* of https: certificates to trust; NULL: the system's */
    int connect_timeout_ms;  /* 0: 10 s */
    int timeout_ms;          /* of a whole call; of uploads and event streams: how long no byte may move. 0: 120 s */
    size_t max_reply_bytes;  /* 0: 64 MiB */
} ad_client_options;

AD_CLIENT_MUSTUSE ad_client_status ad_client_open(ad_client **out, const ad_client_options *opt, ad_client_error *err);
void ad_client_close(ad_client **c); /* NULL is fine; leaves *c NULL */
/* Ends the call under way, or the next one, with AD_CLIENT_CANCELED, within about a second. */
void ad_client_cancel(ad_client *c);

/* ---- reading ---- */

/* One page of GET /v1/adapters; zero and NULL fields do not narrow it. "has_more" and "last_id" of the reply lead to the next. */
typedef struct {
    int limit;             /* 1..1000; 0: the server's default, 100 */
    const char *after;     /* names behind this one, in order of name */
    const char *prefix;
    const char *state;     /* "ready", "staged", ... */
    const char *label;     /* "KEY:VALUE" */
} ad_client_query;
AD_CLIENT_MUSTUSE ad_client_status ad_client_list(ad_client *c, const ad_client_query *q, ad_client_reply *out, ad_client_error *err);

/* All pages behind q->after as one reply of the same form, its text and JSON made here when the server needed more than one. limit is the size of a page. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_list_all(ad_client *c, const ad_client_query *q, ad_client_reply *out, ad_client_error *err);

/* if_none_match: an etag, or NULL; when the adapter still has it, the reply is a 304. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_show(ad_client *c, const char *name, const char *if_none_match, ad_client_reply *out, ad_client_error *err);
/* The server reads the stored files again; "ok" of the reply tells whether they are what they were. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_verify(ad_client *c, const char *name, ad_client_reply *out, ad_client_error *err);

/* ---- uploads ---- */

/* Bytes of the request's body, called as they leave; false cancels the upload. */
typedef bool (*ad_client_progress)(void *user, uint64_t sent, uint64_t total);

typedef struct {
    const char *name;        /* of the adapter; a dry run needs none */
    /* One of three. path: a PEFT directory (adapter_config.json and adapter_model.safetensors; chat_template.jinja, or else tokenizer_config.json, go along),
     * a GGUF file, or an archive of a PEFT directory (tar, tar.gz, zip); streamed from the disk, never held in memory. */
    const char *path;
    const char *server_dir;  /* an absolute directory of the server's machine, under one of its allowed roots */
    const char *source_url;  /* https, of a host the server allows */
    const char *description; /* the rest is optional */
    const json_t *labels;    /* an object of strings; borrowed */
    const char *sha256;      /* what the weights must have, 64 hex digits */
    const char *signature;   /* the text of a .minisig file */
    const char *selftest;    /* JSON text */
    bool keep_staged;        /* do not activate it */
    bool dry_run;            /* everything but to admit it: the reply is an adapter.report. ad_client_upload needs no name then */
    const char *if_match;    /* of ad_client_upload_version */
    ad_client_progress progress;
    void *user;
} ad_client_source;

/* A new name. 201; 200 when the name exists with this digest; an error with the code adapter_exists when it exists with another. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_upload(ad_client *c, const ad_client_source *s, ad_client_reply *out, ad_client_error *err);
/* Another version of a name that exists. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_upload_version(ad_client *c, const ad_client_source *s, ad_client_reply *out, ad_client_error *err);

/* ---- changes; if_match: an etag the adapter must still have (else http_status 412), or NULL ---- */

/* version: a number in decimal digits, or at least 12 hex digits of a digest. Up to 11 decimal digits are a number. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_activate(ad_client *c, const char *name, const char *version, const char *if_match, ad_client_reply *out,
                                                      ad_client_error *err);
AD_CLIENT_MUSTUSE ad_client_status ad_client_rollback(ad_client *c, const char *name, const char *if_match, ad_client_reply *out, ad_client_error *err);
/* changes: {"labels": {..} or null, "pinned": bool, "description": ".."}, any of them; labels replaces all of them. Borrowed. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_patch(ad_client *c, const char *name, const json_t *changes, const char *if_match, ad_client_reply *out,
                                                   ad_client_error *err);
/* name: an adapter, or NAME@NUMBER for one version. Waits up to drain_s seconds for requests that use it; below 0: the server's default. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_delete(ad_client *c, const char *name, int drain_s, const char *if_match, ad_client_reply *out, ad_client_error *err);

/* ---- aliases ---- */

typedef struct {
    const char *model;     /* NAME, NAME@NUMBER or NAME@DIGEST */
    int weight;            /* requests are shared by weight; above 0 */
} ad_client_target;
AD_CLIENT_MUSTUSE ad_client_status ad_client_put_alias(ad_client *c, const char *alias, const ad_client_target *targets, size_t n, ad_client_reply *out,
                                                       ad_client_error *err);
AD_CLIENT_MUSTUSE ad_client_status ad_client_list_aliases(ad_client *c, ad_client_reply *out, ad_client_error *err);
AD_CLIENT_MUSTUSE ad_client_status ad_client_show_alias(ad_client *c, const char *alias, ad_client_reply *out, ad_client_error *err);
AD_CLIENT_MUSTUSE ad_client_status ad_client_delete_alias(ad_client *c, const char *alias, ad_client_reply *out, ad_client_error *err);

/* ---- events ---- */

typedef struct {
    const char *id;        /* for last_event_id; "" before the first */
    const char *type;      /* "state", or another of a newer server */
    const char *data;      /* as it came */
    const json_t *json;    /* data parsed: an object, or NULL when it is none */
} ad_client_event;         /* borrowed for the call */

typedef struct {
    const char *last_event_id; /* events after it, as far as the server still knows them; NULL: from now on */
    int reconnects;            /* tries in a row after the stream broke; 0: none, below 0: without end */
    int delay_ms;              /* before the first of them, doubled each time up to 30 s; 0: 1 s, or what the server asks for */
    bool (*on_event)(void *user, const ad_client_event *e);                      /* false ends the watch */
    void (*on_break)(void *user, const ad_client_error *why, int delay_ms);      /* the stream broke, a new try comes after delay_ms; may be NULL */
    void *user;
} ad_client_watch;

/* Blocks and calls back for each event; after a break it connects again behind the last event it saw. AD_CLIENT_OK when on_event ended it. Else the last error: of the
 * first connection at once, later when the tries are used up or the server refuses (4xx but 408 and 429). */
AD_CLIENT_MUSTUSE ad_client_status ad_client_events(ad_client *c, const ad_client_watch *w, ad_client_error *err);

/* ---- models ---- */

typedef struct {
    const char *model;     /* base, NAME, NAME@VERSION or alias */
    const char *prompt;
    int max_tokens;        /* 0: the server's default */
    double temperature;    /* 0: the likeliest tokens */
} ad_client_prompt;
/* POST /v1/completions, not streamed. "adapter_version" of the reply is the digest of what answered. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_complete(ad_client *c, const ad_client_prompt *p, ad_client_reply *out, ad_client_error *err);
/* The text of the first choice, borrowed from the reply; "" when there is none. */
const char *ad_client_completion_text(const ad_client_reply *r);

/* ---- anything else ---- */

/* path: behind the URL, percent-encoded: "/v1/models". body: JSON, or NULL for none; borrowed. */
AD_CLIENT_MUSTUSE ad_client_status ad_client_call(ad_client *c, const char *method, const char *path, const json_t *body, const char *if_match,
                                                  ad_client_reply *out, ad_client_error *err);
const char *ad_client_version(void); /* of this library */

#ifdef __cplusplus
}
#endif

#endif
