/* SPDX-License-Identifier: MIT */
/* Everything of the registry that must survive: blobs on disk named by what they hold, and a SQLite database (WAL,
 * synchronous=FULL) that says which names and versions exist. A thing is there once its transaction is committed; the files
 * of a version are durable before the row that names them.
 *
 *   DIR/lock                     held while a daemon runs
 *   DIR/registry.db              SQLite; PRAGMA user_version is the schema's number
 *   DIR/key.secret               what the hashes of keys are made with; server/tenancy's
 *   DIR/blobs/ab/abcd...64/      adapter_config.json + adapter_model.safetensors, or adapter.gguf; never changed
 *   DIR/incoming/RANDOM/         uploads under way; emptied at start
 *
 * Threads: functions marked [db] belong to one thread at a time, the store's; the others may run on any thread. */
#ifndef AD_ADAPTERS_STORE_H
#define AD_ADAPTERS_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/hash.h"
#include "core/base/status.h"

enum { AD_MAX_NAME = 128, AD_TENANT_NAME = 63, AD_KEY_ID = 12, AD_STORE_PATH = 4096 };

typedef struct ad_store ad_store;

/* dir NULL: a private temporary directory without fsync, removed by ad_store_close, and the database in memory.
 * Takes the lock (AD_EBUSY names the directory when another process has it), creates or migrates the schema (AD_EUNSUPPORTED
 * for one of a newer program), empties incoming/ and removes blobs that no row names. */
AD_MUSTUSE ad_status ad_store_open(ad_store **out, const char *dir, ad_err *err);
void ad_store_close(ad_store **s); /* [db] NULL is fine */
bool ad_store_durable(const ad_store *s);
const char *ad_store_dir(const ad_store *s);

/* ---- rows ---- */

/* One name. Strings are owned by whoever owns the row; NULL is allowed where said. */
typedef struct {
    char name[AD_MAX_NAME + 1];
    int64_t revision;     /* of the last change; never used twice in a store's life */
    int64_t created;      /* Unix time */
    int active, previous; /* version numbers; 0: none */
    int next_number;      /* what the next version will be called; numbers are not used twice */
    bool pinned;
    char *description;    /* or NULL */
    char *labels;         /* JSON object of strings, or NULL */
} ad_stored_adapter;

/* One version of a name. */
typedef struct {
    char name[AD_MAX_NAME + 1];
    int number;           /* from 1 */
    ad_digest digest;     /* its blob */
    ad_digest base;       /* fingerprint of the base model it was last checked against */
    bool fits;            /* that base */
    char *reason;         /* why it does not; or NULL */
    bool active;          /* read only: its adapter names it as the active one */
    int64_t created;
    int64_t bytes_disk;
    int64_t bytes_packed; /* what it took in memory when it was admitted */
    int rank, modules;    /* largest rank, modules matched */
    char *source;         /* "upload", or where it came from; or NULL */
    char *report;         /* JSON: what its load found; or NULL. Not read with the others: see ad_store_report */
    char *signature;      /* text of its minisign signature, or NULL */
    char *selftest;       /* JSON, or NULL */
    char *chat_template;  /* text, or NULL */
} ad_stored_version;

typedef struct {
    char name[AD_MAX_NAME + 1];
    int64_t revision;
    char *targets;        /* JSON */
} ad_stored_alias;

/* Whom adapters belong to. */
typedef struct {
    char name[AD_TENANT_NAME + 1];
    int64_t created;
    double weight;
    char *priority;       /* or NULL */
    char *limits;         /* JSON object, or NULL */
    char *description;    /* or NULL */
} ad_stored_tenant;

/* A key of a tenant; times are Unix seconds, 0: never. */
typedef struct {
    char id[AD_KEY_ID + 1];
    char tenant[AD_TENANT_NAME + 1];
    ad_digest mac;        /* of the whole key, with the secret */
    int64_t created, expires, last_used, revoked;
    char *name;           /* or NULL */
    char *verbs;          /* names, separated by commas */
    char *adapters;       /* JSON array of globs */
    char *limits;         /* JSON object, or NULL */
} ad_stored_key;

/* What was used on one day. The first five name the row, the others are what AD_ADD_USAGE adds to it. */
typedef struct {
    int day;              /* since 1970-01-01, UTC */
    char tenant[AD_TENANT_NAME + 1];
    char key[AD_KEY_ID + 1];       /* its id; "": without one */
    char adapter[AD_MAX_NAME + 1]; /* whole name; "": the base model */
    ad_digest version;    /* all zero: the base model */
    int64_t requests, prompt_tokens, cached_tokens, generated_tokens, engine_ns;
} ad_stored_usage;

/* Who changed what. Rows are added, never changed or removed. */
typedef struct {
    int64_t seq;          /* ascending; the store gives it */
    int64_t time_ms;      /* since 1970 */
    char tenant[AD_TENANT_NAME + 1];
    char key[AD_KEY_ID + 1]; /* its id; "": without one */
    int status;           /* HTTP */
    char *peer, *request_id; /* or NULL */
    char *action;
    char *object, *detail; /* or NULL */
} ad_stored_audit;

void ad_stored_adapter_deinit(ad_stored_adapter *a);
void ad_stored_version_deinit(ad_stored_version *v);
void ad_stored_alias_deinit(ad_stored_alias *a);
void ad_stored_tenant_deinit(ad_stored_tenant *t);
void ad_stored_key_deinit(ad_stored_key *k);
void ad_stored_audit_deinit(ad_stored_audit *a);

/* [db] Calls back for every adapter, then every version, then every alias, each in order of name (and number), then every tenant and every key in order
 * of age; rows are borrowed for the call. What is NULL is not read. A status that is not AD_OK ends the reading and is returned. */
typedef struct {
    ad_status (*adapter)(void *user, const ad_stored_adapter *a, ad_err *err);
    ad_status (*version)(void *user, const ad_stored_version *v, ad_err *err);
    ad_status (*alias)(void *user, const ad_stored_alias *a, ad_err *err);
    ad_status (*tenant)(void *user, const ad_stored_tenant *t, ad_err *err);
    ad_status (*key)(void *user, const ad_stored_key *k, ad_err *err);
    void *user;
} ad_store_reader;
AD_MUSTUSE ad_status ad_store_read(ad_store *s, const ad_store_reader *reader, ad_err *err);
/* [db] The report of one version into *out, owned by the caller; NULL when it has none, or is not there. */
AD_MUSTUSE ad_status ad_store_report(ad_store *s, const char *name, int number, char **out, ad_err *err);
/* [db] The largest revision ever given out. */
AD_MUSTUSE ad_status ad_store_last_revision(ad_store *s, int64_t *out, ad_err *err);

/* [db] Rows of the usage ledger by day, tenant, key, adapter; each is borrowed for the call, whose status ends the reading when it is not AD_OK. */
typedef struct {
    int from_day, to_day;        /* the second is left out */
    const char *tenant, *key;    /* NULL: all */
    int made_on;                 /* day on which that tenant was made, or 0: before, another may have had its name. Of the day itself there is what keys used that it still has */
} ad_usage_query;
AD_MUSTUSE ad_status ad_store_read_usage(ad_store *s, const ad_usage_query *q, ad_status (*row)(void *user, const ad_stored_usage *u, ad_err *err), void *user, ad_err *err);
/* [db] At most `limit` rows of the audit log whose seq is above `after`, in order; the same. */
AD_MUSTUSE ad_status ad_store_read_audit(ad_store *s, int64_t after, int limit, ad_status (*row)(void *user, const ad_stored_audit *a, ad_err *err), void *user, ad_err *err);

/* ---- changes ---- */

typedef enum {
    AD_PUT_ADAPTER, AD_DROP_ADAPTER, AD_PUT_VERSION, AD_DROP_VERSION, AD_MARK_VERSION, AD_PUT_ALIAS, AD_DROP_ALIAS,
    AD_PUT_TENANT, AD_DROP_TENANT, AD_PUT_KEY, AD_MARK_KEY, AD_DROP_KEY, AD_ADD_USAGE, AD_ADD_AUDIT
} ad_change_kind;

/* PUT inserts or replaces by its key. MARK_VERSION changes base, fits and reason of a version, MARK_KEY last_used of a key, if it is there. DROP_ADAPTER drops its
 * versions too, DROP_TENANT its keys; a DROP needs only the key (name, number, id). A key needs its tenant. */
typedef struct {
    ad_change_kind kind;
    union {
        ad_stored_adapter adapter;
        ad_stored_version version;
        ad_stored_alias alias;
        ad_stored_tenant tenant;
        ad_stored_key key;
        ad_stored_usage usage;
        ad_stored_audit audit;
    };
} ad_store_change;

void ad_store_change_deinit(ad_store_change *c);

/* [db] Several groups of changes in one transaction, so that one fsync serves them all: begin, apply each group (all of it or
 * nothing; the status is that group's), commit. What was applied is durable when commit returns AD_OK, and undone when it does not.
 * A full disk is AD_EFULL. changes[n] are borrowed. */
AD_MUSTUSE ad_status ad_store_begin(ad_store *s, ad_err *err);
AD_MUSTUSE ad_status ad_store_apply(ad_store *s, const ad_store_change *changes, int n, ad_err *err);
AD_MUSTUSE ad_status ad_store_commit(ad_store *s, ad_err *err);

/* ---- blobs ---- */

/* A new empty directory for an upload into path[AD_STORE_PATH]. AD_EFULL, AD_EIO. */
AD_MUSTUSE ad_status ad_store_new_incoming(ad_store *s, char *path, ad_err *err);
/* Removes such a directory and all in it; what cannot be removed is left to the next start. */
void ad_store_discard(ad_store *s, const char *path);

/* fsync of the files in an incoming directory and of the directory; may run beside their parsing. No-op when not durable. */
AD_MUSTUSE ad_status ad_store_sync_incoming(ad_store *s, const char *path, ad_err *err);
/* After ad_store_sync_incoming: moves the directory to its place among the blobs and makes the name durable. When that blob is there already,
 * the new one takes its place, in case the old one was damaged, and that is discarded. Either way the blob is held until ad_store_unhold: no collection takes it while its row is not committed. */
AD_MUSTUSE ad_status ad_store_keep(ad_store *s, const char *path, const ad_digest *digest, ad_err *err);
AD_MUSTUSE ad_status ad_store_hold(ad_store *s, const ad_digest *digest, ad_err *err); /* of a blob that somebody is going to read; AD_ENOMEM */
void ad_store_unhold(ad_store *s, const ad_digest *digest);
/* The blob's directory into path[AD_STORE_PATH]; it need not exist. */
void ad_store_blob_path(const ad_store *s, const ad_digest *digest, char *path);
/* [db] Deletes the blob unless a row names it or it is held. Outside of begin .. commit. */
void ad_store_collect(ad_store *s, const ad_digest *digest);

#endif
