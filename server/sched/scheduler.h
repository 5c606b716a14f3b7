/* SPDX-License-Identifier: MIT */
/* What the engine thread does between two sleeps: who leaves, who is taken in, who gives way, who gets rows, and the step. One thread; it never waits. */
#ifndef AD_SCHED_SCHEDULER_H
#define AD_SCHED_SCHEDULER_H

#include <stdatomic.h>

#include "core/engine/engine.h"
#include "server/observe/histogram.h"
#include "server/sched/batcher.h"
#include "server/sched/fair.h"

/* A tenant here. Zero is a new one; it outlives the scheduler. Only the scheduler touches it. */
typedef struct {
    ad_fair_tenant fair;      /* first: an entry's tenant is this */
    double turns;             /* see batcher.h */
    int index;                /* in the plan */
    unsigned long long decoded_at; /* the latest step that gave it a token, not the last one */
} ad_sched_tenant;

/* One generation; embedded in it. The first five are the caller's, before ad_scheduler_add. */
typedef struct {
    ad_fair_entry fair;       /* first; tenant: the `fair` of an ad_sched_tenant, deadline: uv_hrtime */
    ad_seq *seq;
    uint64_t begin_by_ns;     /* uv_hrtime when it has waited too long without having begun; 0 = never */
    uint64_t submitted_ns;    /* uv_hrtime */
    int least_tokens;         /* that it generates, however it ends */
    atomic_bool canceled;     /* set by any thread: it leaves at the next round */
    unsigned waited;          /* see batcher.h; the scheduler's, as all below */
    int unpaid;               /* prompt tokens that were charged and are not computed yet */
    uint64_t engine_ns;       /* its share of the steps it was in, by rows; read by others once its end is reported */
    double cost;              /* charged and not reported yet: tokens by their cost, not over weight */
} ad_sched_job;

/* What the rows of a step are: prompts, sequences that generate, or both. */
typedef enum { AD_PHASE_PREFILL, AD_PHASE_DECODE, AD_PHASE_MIXED, AD_PHASES } ad_phase;

/* Read by /metrics while the engine computes. */
typedef struct {
    atomic_int running, waiting;
    atomic_ullong steps, prompt_tokens, generated_tokens;
    atomic_ullong kv_pages_used, kv_pages_total;
    atomic_ullong step_ns; /* time spent in steps */
    atomic_ullong preemptions, cached_tokens, timeouts;
    atomic_ullong late;    /* whose deadline could not be met */
    ad_histogram step_times[AD_PHASES];
    ad_histogram queue_times; /* from the submission to the first place in the batch */
} ad_worker_stats;

typedef struct {
    int max_running;      /* sequences in one batch */
    int step_tokens;      /* rows per step, at least max_running */
    size_t adapter_bytes; /* see batcher.h */
    ad_worker_stats *stats; /* borrowed */
    /* A token of the job, or its end, or both: `token` may be NULL, finish AD_FINISH_NONE. After its end the scheduler knows the job no more. cost: of the job
     * since the last report. */
    void (*report)(void *user, ad_sched_job *job, const ad_token_info *token, ad_finish finish, const char *error, double cost);
    void *user;
} ad_scheduler_options;

typedef struct ad_scheduler ad_scheduler;

/* engine is borrowed until the scheduler is freed. */
AD_MUSTUSE ad_status ad_scheduler_new(ad_scheduler **out, ad_engine *engine, const ad_scheduler_options *opt, ad_err *err);
void ad_scheduler_free(ad_scheduler **s); /* every job has ended; NULL is fine */
void ad_scheduler_add(ad_scheduler *s, ad_sched_job *job); /* borrowed until its end is reported */
bool ad_scheduler_busy(const ad_scheduler *s); /* whether a job waits or runs */
/* Who leaves, leaves; who can be taken in, is; and one step. stopping: everything counts as canceled. */
void ad_scheduler_round(ad_scheduler *s, bool stopping);

#endif
