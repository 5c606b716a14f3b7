/* SPDX-License-Identifier: MIT */
/* adapterctl's parts: the options, one function per command, what is printed. One thread. */
#ifndef ADAPTERCTL_CTL_H
#define ADAPTERCTL_CTL_H

#include <stdio.h>

#include "clients/lib/adapterd.h"

/* Documented in --help. */
typedef enum {
    EXIT_OK,
    EXIT_FAILED,      /* the server refused or failed; a file of ours could not be read */
    EXIT_USAGE,
    EXIT_NOT_FOUND,
    EXIT_CONFLICT,    /* 409, 412 */
    EXIT_REFUSED,     /* 422: the adapter */
    EXIT_UNREACHABLE, /* no connection, no reply in time, 502, 504 */
    EXIT_LIMIT        /* 413, 429, 503, 507 */
} ctl_exit;

enum { CTL_MAX_LABELS = 64, CTL_MAX_VERBS = 16, CTL_MAX_GLOBS = 64 };

typedef struct {
    /* What the command line said; texts are borrowed from argv and the environment. */
    const char *url, *key, *ca_file;
    const char *base, *name, *description, *sha256, *signature, *selftest, *prefix, *state, *after, *last_id;
    char *if_match;           /* quoted; owned */
    const char *tenant, *priority, *from, *to;
    const char *labels[CTL_MAX_LABELS], *verbs[CTL_MAX_VERBS], *globs[CTL_MAX_GLOBS];
    int n_labels, n_verbs, n_globs;
    double weight;            /* 0: not given */
    long long expires_s;      /* from now on; 0: never */
    int grace_s, interval_s;  /* grace_s: -1 unless given */
    int limit, count, timeout_s, drain_s; /* drain_s: -1 unless given */
    bool json, no_activate, new_version, on_server, modules, clear, no_reconnect, force, csv;
    char **args;              /* behind the command's name */
    int n_args;
    ad_client *client;        /* open while a command runs that needs it */
} ctl;

/* Commands. Each prints and returns an exit code. */
int ctl_list(ctl *c);
int ctl_show(ctl *c);
int ctl_upload(ctl *c);
int ctl_dry_run(ctl *c);
int ctl_activate(ctl *c);
int ctl_rollback(ctl *c);
int ctl_alias(ctl *c);
int ctl_pin(ctl *c);
int ctl_unpin(ctl *c);
int ctl_label(ctl *c);
int ctl_delete(ctl *c);
int ctl_events(ctl *c);
int ctl_verify(ctl *c);
int ctl_digest(ctl *c);
/* operate.c: the operator's */
int ctl_tenant(ctl *c);
int ctl_key(ctl *c);
int ctl_limits(ctl *c);
int ctl_usage_report(ctl *c);
int ctl_audit(ctl *c);
int ctl_drain(ctl *c);
/* top.c */
int ctl_status(ctl *c);
int ctl_top(ctl *c);
/* local.c, the one file that knows the daemon's inside. */
int ctl_convert(ctl *c);
int ctl_digest_local(ctl *c);

/* ---- shared by commands ---- */

int ctl_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));    /* "adapterctl: ..." on stderr; EXIT_USAGE */
int ctl_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* the same; EXIT_FAILED. What it prints is cleaned */
/* Prints the error, and with --json the server's reply to stdout; frees what is in it; the exit code. */
int ctl_fail(const ctl *c, ad_client_error *e);
/* With --json: prints the reply as it came, frees it, and is true. */
bool ctl_json_done(const ctl *c, ad_client_reply *r);
/* The adapter of a reply in one line, behind what was done to it; warnings to stderr. Frees the reply. */
int ctl_put_adapter(const ctl *c, const char *done, ad_client_reply *r);
/* {"K": "V"} of K=V texts; NULL after a complaint. Owned. */
json_t *ctl_labels(const char *const *pairs, int n);
void ctl_put_report(FILE *out, const json_t *report); /* what a load found; not cleaned yet */

/* ---- print.c ---- */

/* A copy of v whose keys and texts are fit for a terminal: control characters, bytes that are no UTF-8 and characters that turn the direction of writing
 * stand as \x1b or \u202e. Owned. */
json_t *ctl_cleaned(const json_t *v);
char *ctl_clean(const char *s); /* the same for one text; owned */
void ctl_put_json(const char *text); /* and a line feed; to a terminal with \u escapes for what is not fit for it, else byte for byte */

const char *ctl_text(const json_t *v, const char *key); /* "" when it is no text */
bool ctl_true(const json_t *v, const char *key);
long long ctl_int(const json_t *v, const char *key);    /* 0 when it is no integer */
/* Into out[32], which they return. */
char *ctl_size(const json_t *bytes, char *out);         /* "9.8 MiB"; "-" when it is no size */
char *ctl_ago(const json_t *unix_time, char *out);      /* "3 min ago"; "-" when it is no time */
char *ctl_clock(const json_t *unix_time, char *out);    /* "14:03:59" here; "-" */
char *ctl_count(const json_t *v, const char *key, char *out);

/* Columns as wide as their widest text; a heading that begins with '>' has its column to the right. */
typedef struct ctl_table ctl_table;
ctl_table *ctl_table_new(const char *const *headings); /* NULL behind the last */
void ctl_table_add(ctl_table *t, const char *const *cells);
void ctl_table_print(ctl_table **t, FILE *out);        /* and frees it */

/* ---- progress.c ---- */

/* A bar on stderr where that is a terminal; else silent. */
typedef struct {
    bool shown, at_end;
    double start_s, drawn_s;
} ctl_progress;
ctl_progress ctl_progress_new(void);
bool ctl_progress_step(void *progress, uint64_t sent, uint64_t total); /* an ad_client_progress */
void ctl_progress_end(ctl_progress *p);                                /* clears the line */

#endif
