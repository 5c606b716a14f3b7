/* SPDX-License-Identifier: MIT */
/* Keeps the registry: reads it from the store at start, brings adapters into memory when requests need them, and carries out changes (uploads,
 * activations, removals, aliases) in the order durable first, visible second. Loop thread only; files are read and adapters packed on its loaders, rows
 * are written by the store's thread. Changes of one name run one after another. */
#ifndef AD_KEEPER_KEEPER_H
#define AD_KEEPER_KEEPER_H

#include <jansson.h>

#include "adapters/registry.h"
#include "server/keeper/events.h"
#include "server/observe/histogram.h"
#include "server/tenancy/tenancy.h"

struct ad_app;
struct ad_intake;
typedef struct ad_keeper ad_keeper;

/* Opens the store, fills app->registry (also from the command line) and app->tenancy from it, starts the threads. AD_EEXIST when a name of the command line is stored. */
AD_MUSTUSE ad_status ad_keeper_new(ad_keeper **out, struct ad_app *app, ad_err *err);
/* The server leaves: whoever waits hears it, nothing new begins. Before the engine is closed. */
void ad_keeper_stop(ad_keeper *k);
/* After the engine, when every lease has ended: lets running jobs end, closes the store, joins the threads, then calls done on the loop. NULL is fine, then done is not
 * called. */
void ad_keeper_close(ad_keeper **k, void (*done)(void *user), void *user);
ad_events *ad_keeper_events(const ad_keeper *k);
/* Another configuration of where adapters come from; takes next. Versions whose signers are trusted no more stop serving; such as were not trusted stay so until the next start. */
void ad_keeper_set_intake(ad_keeper *k, struct ad_intake *next);
struct ad_store_thread *ad_keeper_store(const ad_keeper *k); /* for other rows than the registry's; until ad_keeper_close */

/* ---- what requests need ---- */

/* Waiting for a version to come into memory. Embedded in whoever waits; it holds a lease of its own on the version meanwhile. */
typedef struct ad_wait ad_wait;
struct ad_wait {
    void (*ready)(ad_wait *w, ad_status st, const ad_err *err); /* once; AD_OK: version->adapter is there and stays while leased */
    void *user;               /* the waiter's */
    ad_version *version;
    uint64_t deadline_ns;
    ad_wait *prev, *next;
    bool queued;
};

/* Sees to it that v, which the caller has leased, is in memory. *waiting false: it is. True: w was queued, ready follows later, unless the caller takes it back.
 * AD_EBUSY: by policy nobody waits (the load has begun); AD_ENOMEM: the budget cannot hold it. patient: waits whatever the policy. */
AD_MUSTUSE ad_status ad_keeper_need(ad_keeper *k, ad_version *v, ad_wait *w, bool patient, bool *waiting, ad_err *err);
void ad_keeper_unwait(ad_keeper *k, ad_wait *w); /* fine when it is not queued */
/* Ends a lease taken with ad_version_lease; leaves *v NULL. */
void ad_keeper_release(ad_keeper *k, ad_version **v);

/* The tenant may have more or less in memory than before: what is beyond its limit goes as far as nobody uses it, what waited for room is loaded. */
void ad_keeper_limits_changed(ad_keeper *k, const ad_tenant *t);

/* ---- changes ---- */

/* What came of a change. Borrowed for the call. */
typedef struct {
    ad_status status;
    ad_err err;               /* when status is not AD_OK */
    const char *code;         /* OpenAI-style, or NULL: by status */
    int http;                 /* 0: by status */
    ad_entry *entry;          /* NULL: it is gone, or never was */
    ad_version *version;      /* that was admitted or activated; or NULL */
    bool existed;             /* the same content is there already, and active unless it was only to be staged; nothing changed */
    bool drained;
    json_t *report;           /* of an admission; or NULL */
    const char *members;      /* JSON: "modules" and "report" as what describes the adapter has them, of one that was admitted or was there already; or NULL */
    json_t *reasons;          /* all that is wrong with the adapter that was refused, err's among them; or NULL */
} ad_outcome;
typedef void (*ad_outcome_fn)(void *user, const ad_outcome *o);

enum { AD_ANY_REVISION = -1 };

/* An adapter that wants in. Strings and files are taken. */
typedef struct {
    char name[AD_MAX_NAME + 1];
    bool new_version;         /* of a name that exists; else the name must be new */
    bool activate, dry_run;   /* dry_run: all but the change; name may be "" then: for none */
    int64_t if_match;         /* revision, or AD_ANY_REVISION */
    ad_limits limits;         /* of the key that sends it, beside those of the tenant; zero: none */
    int owner;                /* id of the tenant whose name it is: when that is gone meanwhile, so is the right to the name */
    char *dir;                /* incoming directory with the files; NULL: fetch them from `path` or `url` first */
    bool is_archive;          /* dir/archive */
    ad_adapter_stream *stream; /* what was loaded of weights_bytes while they came; or NULL. Taken */
    size_t weights_bytes;
    char *path, *url;
    char sha256[65];          /* of the weights; checked here unless "" */
    char *description, *labels, *selftest, *signature;
    char *chat_template;      /* goes before one among the files; "" : none, whatever is there; or NULL */
} ad_admission_spec;
void ad_admission_spec_deinit(ad_admission_spec *s);
/* Removes an incoming directory of the store, on a loader; what the end of the server keeps from being removed is left to the next start. */
void ad_keeper_discard(ad_keeper *k, const char *dir);

/* Each calls done once; what is refused at once, before it returns. */
void ad_keeper_admit(ad_keeper *k, ad_admission_spec *spec, ad_outcome_fn done, void *user); /* takes what spec points to */
void ad_keeper_activate(ad_keeper *k, const char *name, const char *selector, int64_t if_match, ad_outcome_fn done, void *user); /* selector NULL: the version that was active before */
/* Which fields a patch sets; the strings are taken. */
typedef struct {
    bool set_labels, set_pinned, set_description, pinned;
    char *labels, *description;
} ad_patch;
void ad_keeper_patch(ad_keeper *k, const char *name, ad_patch *patch, int64_t if_match, ad_outcome_fn done, void *user);
/* selector NULL: the whole name, after its leases ended, or drain_ms passed; else one version that is not active. */
void ad_keeper_remove(ad_keeper *k, const char *name, const char *selector, int drain_ms, int64_t if_match, ad_outcome_fn done, void *user);
void ad_keeper_set_alias(ad_keeper *k, const char *name, ad_target *targets, int n, int64_t if_match, ad_outcome_fn done, void *user); /* takes targets */
void ad_keeper_remove_alias(ad_keeper *k, const char *name, int64_t if_match, ad_outcome_fn done, void *user);
/* Reads the active version's files again: AD_OK when they are what the digest says; report: {"digest", "expected"}. */
void ad_keeper_verify(ad_keeper *k, const char *name, ad_outcome_fn done, void *user);

/* ---- what can be seen ---- */

int ad_keeper_owner_of(void *app, const char *name); /* id of the tenant whose whole name it is now; -1: one that is leaving */
/* The name of the i-th adapter whose files are being checked; NULL behind the last. */
const char *ad_keeper_verifying(const ad_keeper *k, int i);

/* What is known of an adapter's load, as a JSON object; the caller owns it. */
json_t *ad_report_json(const ad_model *base, const ad_adapter *a);
/* The report that was stored with a version; of one of a directory, what its files say now. done gets NULL when there is none. */
void ad_keeper_find_report(ad_keeper *k, ad_version *v, void (*done)(void *user, json_t *report), void *user);

typedef struct {
    uint64_t loads, load_failures, admissions, refusals, removals;
    int loading, waiting;
    int quarantined;          /* adapters whose files were bad at the start */
} ad_keeper_stats;
void ad_keeper_get_stats(const ad_keeper *k, ad_keeper_stats *out);
const ad_histogram *ad_keeper_load_times(const ad_keeper *k); /* waiting for a loader included */

#endif
