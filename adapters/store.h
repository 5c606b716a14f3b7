/* SPDX-License-Identifier: MIT */
/* Everything of the registry that must survive: blobs on disk named by what they hold, and a SQLite database (WAL,
 * synchronous=FULL) that says which names and versions exist. A thing is there once its transaction is committed; the files
 * of a version are durable before the row that names them.
 *
 *   DIR/lock                     held while a daemon runs
 *   DIR/registry.db              SQLite; PRAGMA user_version is the schema's number
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

enum { AD_MAX_NAME = 128, AD_STORE_PATH = 4096 };

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

void ad_stored_adapter_deinit(ad_stored_adapter *a);
void ad_stored_version_deinit(ad_stored_version *v);
void ad_stored_alias_deinit(ad_stored_alias *a);

/* [db] Calls back for every adapter, then every version, then every alias, each in order of name (and number); rows are borrowed for
 * the call. A status that is not AD_OK ends the reading and is returned. */
typedef struct {
    ad_status (*adapter)(void *user, const ad_stored_adapter *a, ad_err *err);
    ad_status (*version)(void *user, const ad_stored_version *v, ad_err *err);
    ad_status (*alias)(void *user, const ad_stored_alias *a, ad_err *err);
    void *user;
} ad_store_reader;
AD_MUSTUSE ad_status ad_store_read(ad_store *s, const ad_store_reader *reader, ad_err *err);
/* [db] The report of one version into *out, owned by the caller; NULL when it has none, or is not there. */
AD_MUSTUSE ad_status ad_store_report(ad_store *s, const char *name, int number, char **out, ad_err *err);
/* [db] The largest revision ever given out. */
AD_MUSTUSE ad_status ad_store_last_revision(ad_store *s, int64_t *out, ad_err *err);

/* ---- changes ---- */

typedef enum { AD_PUT_ADAPTER, AD_DROP_ADAPTER, AD_PUT_VERSION, AD_DROP_VERSION, AD_MARK_VERSION, AD_PUT_ALIAS, AD_DROP_ALIAS } ad_change_kind;

/* PUT inserts or replaces by its key. MARK_VERSION changes base, fits and reason of a version, if it is there. DROP_ADAPTER drops its versions too;
 * a DROP needs only the key (name, number). */
typedef struct {
    ad_change_kind kind;
    union {
        ad_stored_adapter adapter;
        ad_stored_version version;
        ad_stored_alias alias;
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
