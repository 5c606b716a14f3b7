/* SPDX-License-Identifier: MIT */
/* What the keeper's files share. Private to server/keeper; loop thread, unless said otherwise. */
#ifndef AD_KEEPER_PRIVATE_H
#define AD_KEEPER_PRIVATE_H

#include "server/app.h"
#include "server/jobs.h"
#include "server/keeper/intake.h"
#include "server/keeper/keeper.h"
#include "server/store_thread.h"

typedef struct ad_op ad_op;
typedef struct ad_load ad_load;
typedef struct ad_watcher ad_watcher;

struct ad_keeper {
    ad_app *app;
    ad_registry *registry;    /* the app's */
    ad_store_thread *store;
    ad_jobs *loaders;         /* read, check and pack adapters */
    ad_jobs *fetchers;        /* wait for other machines */
    ad_intake *intake;        /* for jobs that begin */
    ad_events *events;
    ad_watcher *watcher;      /* or NULL */
    uv_timer_t timer;         /* runs while somebody waits for a time: deadlines, drains */
    int64_t revision;         /* last one given out */
    bool closing;

    ad_wait *first_wait, *last_wait; /* in order of arrival */
    ad_load *starving, *last_starving; /* loads that the budget, or their tenant's limit, has no room for yet */
    ad_load *under_way;       /* loads that run, in no order */
    char recheck_at[AD_MAX_NAME + 1]; /* name of the adapter being checked against another base; "" : done */
    int recheck_number;       /* of its last version that had a turn */
    bool rechecking;

    ad_op *ops;               /* changes under way and waiting, oldest first */
    struct ad_admission *admissions; /* under way, in no order */
    int n_admitting;
    ad_keeper_stats stats;
    ad_histogram load_times;
    void (*closed)(void *user);
    void *closed_user;
};

/* ---- residency.c ---- */

void ad_keeper_expire_waits(ad_keeper *k, uint64_t now_ns);
void ad_keeper_feed(ad_keeper *k);    /* starts loads that found no room before */
void ad_keeper_recheck(ad_keeper *k); /* goes on checking versions against the base, one at a time */
void ad_keeper_abandon(ad_keeper *k); /* the keeper closes: whoever waits hears it */
bool ad_keeper_waits(const ad_keeper *k);

size_t ad_keeper_loading_bytes(const ad_keeper *k, int owner); /* of the loads of a tenant's adapters that are under way */

/* ---- holdings.c: what tenants may keep ---- */

typedef struct {
    bool new_name;
    int64_t bytes_disk, bytes_packed;
} ad_keeping;
/* Whether the tenant that owns spec->name, and the key that sends it, may keep this beside what there is; AD_ELIMIT says what is against it. */
AD_MUSTUSE ad_status ad_keeper_check_holdings(const ad_keeper *k, const ad_admission_spec *spec, const ad_keeping *more, ad_err *err);
/* Whether the owner of the whole name may ever have so many bytes in memory. False with *err filled, AD_ELIMIT. */
bool ad_keeper_may_load(const ad_keeper *k, const char *name, size_t bytes, ad_err *err);
/* Makes room for so many more among what the owner of the whole name has in memory: its own least used go, nobody else's. False: what it uses now leaves too little. */
bool ad_keeper_make_own_room(const ad_keeper *k, const char *name, size_t bytes);

/* ---- change.c: changes of one name run one after another ---- */

struct ad_op {
    ad_op *next;
    ad_keeper *k;
    char name[AD_MAX_NAME + 1];
    bool running;
    void (*run)(ad_op *op);   /* its turn has come; must lead to ad_op_finish */
    void (*tick)(ad_op *op, uint64_t now_ns); /* called every few ms while it runs, when not NULL */
    void (*release)(ad_op *op); /* frees what it holds, and itself */
    int64_t if_match;
    ad_outcome_fn done;
    void *user;
    ad_outcome outcome;
};

void ad_op_enter(ad_op *op);
/* Tells the outcome, lets the next change of the name begin, frees the op. */
void ad_op_finish(ad_op *op);
void ad_op_fail(ad_op *op, ad_status st, const char *code, const char *fmt, ...) AD_PRINTF(4, 5); /* and finish */
/* The adapter of op's name, or NULL after failing the op: unknown, an alias, or another revision than it may change. */
ad_entry *ad_op_adapter(ad_op *op);
/* Same, for changes that only stored adapters know. */
ad_entry *ad_op_stored_adapter(ad_op *op);
/* Whether e is at the revision that op asks for; e NULL: nothing is there. False: the op has failed. */
bool ad_op_has_revision(ad_op *op, const ad_entry *e);

void ad_keeper_fail_waiting_ops(ad_keeper *k);

bool ad_copy_text(char **to, const char *from); /* NULL of NULL; false: out of memory */
/* Rows as the registry has them now; the revision is a new one. Strings are copied; false: out of memory. */
bool ad_row_of_entry(ad_keeper *k, const ad_entry *e, ad_store_change *out);
int64_t ad_keeper_next_revision(ad_keeper *k);

/* Says it: event and log. */
void ad_keeper_tell(ad_keeper *k, const char *name, const ad_version *v, const char *state, const char *previous);
void ad_keeper_switch(ad_keeper *k, ad_entry *e, ad_version *v, const char *previous); /* v is active from now on; says so, and what it was before */
void ad_keeper_load_pinned(ad_keeper *k, const ad_entry *e);
void ad_keeper_start_timer(ad_keeper *k);
void ad_keeper_prune(ad_keeper *k, ad_entry *e); /* versions beyond the kept ones go */
void ad_keeper_ignore(void *user, ad_status st, const ad_err *err); /* for rows that nobody waits for */
/* v's content was just found good, against this base. */
void ad_keeper_mend(ad_keeper *k, ad_version *v);
/* Whether v (NULL: no) answers as one with this content and chat template would. */
bool ad_keeper_is_same(const ad_version *v, const ad_digest *digest, const ad_chat_template *chat);
void ad_keeper_drop_blob(ad_keeper *k, const ad_digest *d);

/* ---- admit.c ---- */

/* Cuts a path (of a directory, or of one file: then its name stays) out of a message: clients are told of the adapter's files, not of where they lie here. Any thread. */
void ad_keeper_hide_path(ad_err *err, const char *path);

/* ad_intake_check_signature for a directory that stays where it is, and may hold adapter.minisig. AD_OK when the adapter may be served. */
AD_MUSTUSE ad_status ad_keeper_check_signature_file(const ad_intake *in, const char *dir, const ad_digest *digest, ad_signer *signer, ad_err *err);

/* ---- watch.c ---- */

AD_MUSTUSE ad_status ad_watcher_new(ad_watcher **out, ad_keeper *k, const char *dir, ad_err *err);
void ad_watcher_close(ad_watcher **w);

#endif
