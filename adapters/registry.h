/* SPDX-License-Identifier: MIT */
/* Names -> adapter versions, and which versions are in memory. A pure data structure: no files, no threads, no clock. Loop thread only.
 *
 * A name is an adapter with numbered versions, one of them active, or an alias that spreads requests over adapters by weight. A request leases the
 * version it is answered by; whatever is published, replaced or removed meanwhile, a leased version stays whole until its last lease ends.
 * Packed adapters are kept within a budget of bytes: the version unused for longest goes first, leased and pinned ones never. */
#ifndef AD_ADAPTERS_REGISTRY_H
#define AD_ADAPTERS_REGISTRY_H

#include <stdint.h>

#include "adapters/adapter.h"
#include "adapters/signature.h"
#include "adapters/store.h"
#include "core/text/chat.h"

typedef struct ad_registry ad_registry;
typedef struct ad_entry ad_entry;
typedef struct ad_version ad_version;

typedef enum { AD_ORIGIN_STORE, AD_ORIGIN_COMMAND_LINE, AD_ORIGIN_WATCH } ad_origin;
typedef enum { AD_VERSION_VERIFYING, AD_VERSION_STAGED, AD_VERSION_READY, AD_VERSION_DRAINING, AD_VERSION_GONE, AD_VERSION_INCOMPATIBLE, AD_VERSION_FAILED } ad_version_state;

enum { AD_KEPT_VERSIONS = 5, AD_MAX_TARGETS = 16 };

/* What follows is read by anybody on the loop thread and written through the functions below, but for the fields marked [owner]: those
 * belong to whoever runs the registry. */
struct ad_version {
    ad_registry *registry;
    ad_entry *entry;          /* NULL: retired */
    int number;
    ad_digest digest, base;   /* base: fingerprint it was last checked against */
    bool checked, fits;       /* against the base that is loaded [owner] */
    bool trusted;             /* its signature satisfies the policy [owner] */
    bool pending;             /* its rows are being written: requests do not see it yet [owner] */
    bool drop_when_idle;      /* superseded: its memory goes with its last lease */
    int64_t created, last_used; /* Unix time; 0: not yet */
    uint64_t requests;        /* since start */
    int64_t bytes_disk;
    size_t bytes_packed;      /* of the last load; 0: not known yet */
    int rank, modules;        /* largest rank, modules matched; 0: not known yet [owner] */
    char *source, *selftest;  /* or NULL; owned */
    struct ad_shared_template *chat; /* its own chat template; NULL: the base model's counts */
    const char *chat_template; /* the text of that; or NULL */
    char *dir;                /* where it is loaded from when not from the store; or NULL; owned */
    bool quarantined;         /* its files were bad when the server started: nobody knows their digest, and it answers nothing [owner] */
    bool failed;              /* its files could not be read, or are damaged, when they were last needed; they may be well again [owner] */
    char *reason;             /* why it does not fit, or failed; or NULL [owner] */
    ad_signer signer;         /* key_id "" : unsigned [owner] */
    ad_adapter *adapter;      /* packed; NULL: cold */
    int leases;
    void *load;               /* the load under way, or NULL [owner] */
    ad_version *fresher, *staler; /* residents by use */
};

typedef struct {
    char *model;              /* NAME or NAME@VERSION; owned */
    int weight;
} ad_target;

struct ad_entry {
    char *name;
    int id;                   /* of an adapter: counts up in the order of registration, never used again; -1 for an alias */
    ad_origin origin;
    int64_t revision, created;
    bool pinned, draining;
    char *description, *labels; /* labels: JSON object of strings; or NULL */
    ad_version **versions;    /* [n_versions], by number */
    size_t n_versions, cap_versions;
    ad_version *active;       /* or NULL */
    int previous;             /* number of the version that was active before; 0: none */
    int next_number;
    ad_target *targets;       /* [n_targets]; an alias has them, an adapter has none */
    int n_targets;
    ad_entry *chain;          /* same hash */
};

/* budget: bytes of packed adapters; 0: no limit. gone(user, v) is called when a retired version's last lease has ended, before it is freed. */
AD_MUSTUSE ad_status ad_registry_new(ad_registry **out, size_t budget, void (*gone)(void *user, ad_version *v), void *user, ad_err *err);
/* Everything goes; leases must have ended. gone is not called. NULL is fine. */
void ad_registry_free(ad_registry **reg);

/* 1..128 of [A-Za-z0-9._:/-]; '/' separates parts, none of which is empty, "." or ".."; AD_EINVAL says so. */
AD_MUSTUSE ad_status ad_registry_check_name(const char *name, ad_err *err);

/* ---- names ---- */

ad_entry *ad_registry_find(const ad_registry *reg, const char *name); /* adapter or alias; borrowed; NULL when absent; O(1) */
size_t ad_registry_count(const ad_registry *reg);                      /* names, aliases too */
ad_entry *ad_registry_at(const ad_registry *reg, size_t i);            /* in order of name; borrowed */
/* The adapter with that id, O(log n); NULL when absent. */
ad_entry *ad_registry_by_id(const ad_registry *reg, int id);
ad_entry *ad_registry_at_id(const ad_registry *reg, size_t i);         /* the i-th of ad_registry_adapters in order of id */
/* Gives ids anew, from 0 on, by age and name: once, when what was stored has been read. */
void ad_registry_number_by_age(ad_registry *reg);
size_t ad_registry_position(const ad_registry *reg, const char *name); /* of the first name that is not before `name` */
size_t ad_registry_adapters(const ad_registry *reg);                   /* names that are no aliases */

/* A new name without versions. AD_EEXIST, AD_EINVAL (see check_name), AD_ENOMEM. */
AD_MUSTUSE ad_status ad_registry_add(ad_registry *reg, const char *name, ad_origin origin, ad_entry **out, ad_err *err);
/* The name goes, its versions retire. */
void ad_registry_remove(ad_registry *reg, ad_entry *e);
void ad_targets_free(ad_target *targets, int n); /* NULL is fine with n 0 */
/* A new alias, or other targets for one: takes targets[n] on success. AD_EEXIST when the name is an adapter's. */
AD_MUSTUSE ad_status ad_registry_set_alias(ad_registry *reg, const char *name, ad_target *targets, int n, ad_entry **out, ad_err *err);

/* ---- versions ---- */

/* A staged version with the next number, or with `number` when that is not 0 (numbers ascend). */
AD_MUSTUSE ad_status ad_registry_add_version(ad_registry *reg, ad_entry *e, int number, const ad_digest *digest, ad_version **out, ad_err *err);
ad_version *ad_entry_version(const ad_entry *e, int number); /* NULL when absent */
/* The active one, or the newest when none is active; NULL: it has none. What is said of the adapter as a whole is said of it. */
ad_version *ad_entry_shown(const ad_entry *e);
/* By "3" or at least 12 hex digits of the digest (the newest that has them). */
ad_version *ad_entry_select(const ad_entry *e, const char *selector);
/* One pointer store: new requests get v (NULL: none). What was active becomes `previous`, and gives its memory back with its last lease. */
void ad_registry_activate(ad_entry *e, ad_version *v);
/* Takes v off its name; it is freed now, or with its last lease. */
void ad_registry_retire(ad_version *v);
/* True when AD_KEPT_VERSIONS newer ones exist and v is neither active, previous, leased nor named by an alias. */
bool ad_registry_is_surplus(const ad_version *v);
ad_version_state ad_version_get_state(const ad_version *v);
const char *ad_version_state_name(ad_version_state state);

/* ---- chat templates of versions ---- */

/* Takes *t (NULL inside: none). Most adapters of a base bring the same one: equal texts are kept once. AD_ENOMEM: v has none. */
AD_MUSTUSE ad_status ad_registry_set_template(ad_version *v, ad_chat_template **t, ad_err *err);
/* The same from text: compiled unless an equal one is there. AD_EFORMAT when it is no template. */
AD_MUSTUSE ad_status ad_registry_set_template_text(ad_version *v, const char *text, ad_err *err);
const ad_chat_template *ad_version_chat_template(const ad_version *v); /* borrowed while v is leased; NULL: it has none of its own */

/* ---- leases ---- */

/* The version that answers a request for `model`: NAME, NAME@NUMBER, NAME@DIGEST, or an alias, whose target the hash draws. Not leased yet.
 * AD_ENOTFOUND; AD_EMISMATCH and AD_EUNTRUSTED for versions that must not serve. */
AD_MUSTUSE ad_status ad_registry_resolve(const ad_registry *reg, const char *model, uint64_t hash, ad_version **out, ad_err *err);
ad_version *ad_version_lease(ad_version *v);
void ad_version_release(ad_version **v); /* NULL inside is fine; leaves *v NULL */
int ad_entry_leases(const ad_entry *e);

/* ---- memory ---- */

/* Takes `a`: v is resident from now on. */
void ad_registry_set_adapter(ad_version *v, ad_adapter *a);
void ad_registry_drop_adapter(ad_version *v); /* it is cold again; not while leased */
void ad_registry_touch(ad_version *v, int64_t now); /* used: last in line to go */
/* Makes room for `bytes` more, dropping what is unused for longest. False: what is leased or pinned leaves too little. */
bool ad_registry_make_room(ad_registry *reg, size_t bytes);
/* The same without dropping anything: whether it would succeed if every lease ended. */
bool ad_registry_could_fit(const ad_registry *reg, size_t bytes);
/* The same among those that `among` picks, until they take at most `most` bytes together. */
bool ad_registry_shrink(ad_registry *reg, bool (*among)(void *user, const ad_version *v), void *user, size_t most);
/* Bytes promised to loads under way. */
void ad_registry_reserve(ad_registry *reg, size_t bytes);
void ad_registry_unreserve(ad_registry *reg, size_t bytes);

typedef struct {
    size_t budget, resident_bytes, reserved_bytes;
    int residents;            /* versions in memory */
    uint64_t evictions;
    int retired;              /* versions off their name that leases still hold */
} ad_registry_stats;
void ad_registry_get_stats(const ad_registry *reg, ad_registry_stats *out);

#endif
