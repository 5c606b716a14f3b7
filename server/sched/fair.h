/* SPDX-License-Identifier: MIT */
/* Whose turn it is: tenants pay for tokens, and who paid least for its weight comes next. Pure: no clock, no thread, no memory of its own.
 *
 * Each tenant has a counter of weighted tokens divided by its weight. Generations of class interactive go before those of class batch, whosever they are;
 * within a class the tenant with the least counter, among equals the one that runs the fewest for its weight, then the one that has waited longest. A tenant
 * that wakes is lifted to the least counter of those that are active, so nobody claims an idle past. Within a tenant: by priority, those that had begun, by
 * deadline, by age. */
#ifndef AD_SCHED_FAIR_H
#define AD_SCHED_FAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a token costs: one that is generated is a row of a step that gives nothing but this; one that was found in the cache is still attended to. */
#define AD_FAIR_PROMPT 1.0
#define AD_FAIR_CACHED 0.1
#define AD_FAIR_GENERATED 2.0

typedef enum { AD_INTERACTIVE, AD_BATCH } ad_fair_class;

typedef struct ad_fair_entry ad_fair_entry;
typedef struct ad_fair_tenant ad_fair_tenant;

/* Zero is a new one. It must stay where it is as long as it has entries, and keeps its counter until it is seen again. */
struct ad_fair_tenant {
    double weight;            /* of its share; > 0, as its latest entry has it */
    double counter;           /* tokens by their cost, over weight */
    int n_running;            /* entries that were started */
    ad_fair_entry *waiting;   /* the first is next; fair.c's, as all below */
    ad_fair_entry *last;
    ad_fair_tenant *prev, *next; /* among the active ones: those with entries */
    bool active;
};

/* One generation; embedded in it. */
struct ad_fair_entry {
    ad_fair_tenant *tenant;
    double weight;            /* > 0; of the tenant, from now on */
    int priority;             /* the lower the earlier within the tenant; above 0 its class is batch */
    uint64_t deadline;        /* by which it has to begin; 0 = none. In any unit */
    ad_fair_entry *prev, *next; /* fair.c's, as all below: in the waiting list */
    uint64_t arrival;
    bool begun;               /* was started once */
};

/* Zero is an empty one. */
typedef struct {
    ad_fair_tenant *active;
    double idle_counter;      /* the last one's, when there is none */
    uint64_t arrivals;
    int n_waiting;
} ad_fair;

void ad_fair_wait(ad_fair *f, ad_fair_entry *e);     /* a new entry, which is borrowed until ad_fair_end */
void ad_fair_start(ad_fair *f, ad_fair_entry *e);    /* it waited, and runs */
void ad_fair_put_back(ad_fair *f, ad_fair_entry *e); /* it ran, and waits again, before those of its priority that have not begun */
void ad_fair_end(ad_fair *f, ad_fair_entry *e);      /* wherever it is */
void ad_fair_charge(ad_fair_entry *e, double cost);  /* for its tenant's account; below 0: given back */

/* Who is next; NULL: nobody waits. idle_only: of the tenants that run nothing. */
ad_fair_entry *ad_fair_next(const ad_fair *f, bool idle_only);

/* Who of running[n], oldest first, gives way; -1: nobody.
 * For a waiter: one of a lower class; or, when the waiter's tenant runs nothing, one of its class whose tenant runs at least two and is not behind the
 * waiter's. So a slot moves only from who has several to who has none, and not again before one of the two changed.
 * Without (NULL; memory has run out in the middle of a step) always somebody, but the only one of its tenant last.
 * Of those who may: batch before interactive, the tenant that is furthest ahead, its youngest. */
int ad_fair_victim(ad_fair_entry *const *running, int n, const ad_fair_entry *waiter);
/* Whether e is one of those who may give way to the waiter. */
bool ad_fair_yields(const ad_fair_entry *e, const ad_fair_entry *waiter);

/* How many more a tenant may queue that has `own` of the `used` places of `limit`. It has all of them as long as nobody shares them; else at most three
 * times as many as stay free, so that however many flood the queue there is room for one more. */
int ad_fair_room(int own, int used, int limit, bool shared);

#endif
