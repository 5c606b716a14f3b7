/* SPDX-License-Identifier: MIT */
/* Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models") with weights, classes and deadlines. */
#include "server/sched/fair.h"

#include <assert.h>

enum { PLACES_PER_FREE = 3 };

static ad_fair_class class_of(const ad_fair_entry *e) { return e->priority > 0 ? AD_BATCH : AD_INTERACTIVE; }
static double load_of(const ad_fair_tenant *t) { return t->n_running / t->weight; }

/* ---- who is active ---- */

static double least_counter(const ad_fair *f)
{
    if (!f->active) return f->idle_counter;
    double least = f->active->counter;
    for (const ad_fair_tenant *t = f->active; t; t = t->next)
        if (t->counter < least) least = t->counter;
    return least;
}

static void wake(ad_fair *f, ad_fair_tenant *t)
{
    double least = least_counter(f);
    if (t->counter < least) t->counter = least;
    t->active = true;
    t->prev = NULL;
    t->next = f->active;
    if (f->active) f->active->prev = t;
    f->active = t;
}

static void sleep_if_idle(ad_fair *f, ad_fair_tenant *t)
{
    if (t->waiting || t->n_running) return;
    if (t->prev) t->prev->next = t->next;
    else f->active = t->next;
    if (t->next) t->next->prev = t->prev;
    t->active = false;
    if (!f->active) f->idle_counter = t->counter;
}

/* ---- who waits ---- */

static bool precedes(const ad_fair_entry *a, const ad_fair_entry *b)
{
    if (a->priority != b->priority) return a->priority < b->priority;
    if (a->begun != b->begun) return a->begun;
    if (!a->begun && a->deadline != b->deadline) return a->deadline && (!b->deadline || a->deadline < b->deadline);
    return a->arrival < b->arrival;
}

/* From the end: most come last. */
static void insert(ad_fair *f, ad_fair_entry *e)
{
    ad_fair_tenant *t = e->tenant;
    ad_fair_entry *before = t->last;
    while (before && precedes(e, before)) before = before->prev;
    e->prev = before;
    e->next = before ? before->next : t->waiting;
    if (e->next) e->next->prev = e;
    else t->last = e;
    if (before) before->next = e;
    else t->waiting = e;
    f->n_waiting++;
}

static bool waits(const ad_fair_entry *e) { return e->prev || e->next || e->tenant->waiting == e; }

static void take_out(ad_fair *f, ad_fair_entry *e)
{
    ad_fair_tenant *t = e->tenant;
    if (e->prev) e->prev->next = e->next;
    else t->waiting = e->next;
    if (e->next) e->next->prev = e->prev;
    else t->last = e->prev;
    e->prev = e->next = NULL;
    f->n_waiting--;
}

void ad_fair_wait(ad_fair *f, ad_fair_entry *e)
{
    assert(e->weight > 0);
    e->tenant->weight = e->weight;
    e->arrival = f->arrivals++;
    if (!e->tenant->active) wake(f, e->tenant);
    insert(f, e);
}

void ad_fair_start(ad_fair *f, ad_fair_entry *e)
{
    take_out(f, e);
    e->begun = true;
    e->tenant->n_running++;
}

void ad_fair_put_back(ad_fair *f, ad_fair_entry *e)
{
    e->tenant->n_running--;
    insert(f, e);
}

void ad_fair_end(ad_fair *f, ad_fair_entry *e)
{
    if (waits(e)) take_out(f, e);
    else e->tenant->n_running--;
    sleep_if_idle(f, e->tenant);
}

void ad_fair_charge(ad_fair_entry *e, double cost) { e->tenant->counter += cost / e->tenant->weight; }

/* ---- choices ---- */

static bool goes_before(const ad_fair_entry *a, const ad_fair_entry *b)
{
    const ad_fair_tenant *t = a->tenant, *u = b->tenant;
    if (class_of(a) != class_of(b)) return class_of(a) < class_of(b);
    if (t->counter != u->counter) return t->counter < u->counter;
    if (load_of(t) != load_of(u)) return load_of(t) < load_of(u);
    return a->arrival < b->arrival;
}

ad_fair_entry *ad_fair_next(const ad_fair *f, bool idle_only)
{
    ad_fair_entry *best = NULL;
    for (const ad_fair_tenant *t = f->active; t; t = t->next) {
        if (!t->waiting || (idle_only && t->n_running)) continue;
        if (!best || goes_before(t->waiting, best)) best = t->waiting;
    }
    return best;
}

bool ad_fair_yields(const ad_fair_entry *e, const ad_fair_entry *waiter)
{
    if (!waiter) return true;
    if (class_of(e) != class_of(waiter)) return class_of(e) > class_of(waiter);
    return waiter->tenant->n_running == 0 && e->tenant->n_running > 1 && e->tenant->counter >= waiter->tenant->counter;
}

static bool rather(const ad_fair_entry *a, const ad_fair_entry *b)
{
    const ad_fair_tenant *t = a->tenant, *u = b->tenant;
    if (class_of(a) != class_of(b)) return class_of(a) > class_of(b);
    if ((t->n_running > 1) != (u->n_running > 1)) return t->n_running > 1;
    return t->counter > u->counter;
}

int ad_fair_victim(ad_fair_entry *const *running, int n, const ad_fair_entry *waiter)
{
    int best = -1;
    for (int i = n - 1; i >= 0; i--) /* of one tenant the youngest is seen first, and stays */
        if (ad_fair_yields(running[i], waiter) && (best < 0 || rather(running[i], running[best]))) best = i;
    return best;
}

int ad_fair_room(int own, int used, int limit, bool shared)
{
    int left = limit > used ? limit - used : 0;
    if (!shared) return left;
    int n = (PLACES_PER_FREE * left - own) / (PLACES_PER_FREE + 1); /* own + n <= 3 (left - n) */
    if (!own && n < 1) n = 1;
    return n < 0 ? 0 : n < left ? n : left;
}
