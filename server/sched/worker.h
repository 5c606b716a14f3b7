/* SPDX-License-Identifier: MIT */
/* The engine thread and its two queues. The loop thread submits generations and hears of their tokens in
 * callbacks on the loop thread; in between the engine owns them. One generation = one choice of one prompt. */
#ifndef AD_SCHED_WORKER_H
#define AD_SCHED_WORKER_H

#include <uv.h>

#include "server/sched/scheduler.h"

typedef struct ad_worker ad_worker;
typedef struct ad_gen ad_gen;

typedef struct {
    const int32_t *prompt;          /* [n_prompt], n_prompt >= 1; copied */
    int n_prompt;
    ad_sampling sampling;
    ad_pooling pooling;             /* other than AD_POOL_NONE: no tokens but a vector; sampling is not read */
    ad_seq_weights weights;         /* what it points to is borrowed until on_done */
    int tenant;                     /* >= 0, small */
    double tenant_weight;           /* of its share under load, from now on; 0 is 1 */
    int priority;                   /* the lower the earlier within the tenant; above 0: class batch, which waits for everybody's interactive ones */
    uint64_t deadline;              /* uv_hrtime by which it has to begin; 0 = none. Later, or when it could not be answered by then any more: AD_FINISH_LATE */
    /* All callbacks run on the loop thread. `tokens`, `infos` and `vector` are borrowed for the call. An end-of-generation
     * token that ends the text is reported too, with `ends` set: it counts, but has no text. */
    void (*on_prompt_logprobs)(ad_gen *g, const ad_token_info *infos, int n); /* n = n_prompt; [0] has only its id. May be NULL */
    void (*on_tokens)(ad_gen *g, const ad_token_info *tokens, int n);
    void (*on_vector)(ad_gen *g, const float *vector, int n); /* before an on_done with AD_FINISH_LENGTH; n = hidden size; not normalised. Only with pooling */
    void (*on_done)(ad_gen *g, ad_finish reason, const char *error); /* last callback; error only with AD_FINISH_ERROR and AD_FINISH_IMPOSSIBLE; g is freed after it returns */
    void *user;
} ad_gen_spec;

typedef struct {
    int max_running;      /* sequences in one batch */
    int queue_limit;      /* generations waiting; more is AD_EBUSY */
    int step_tokens;      /* rows per step: decode rows first, the rest is prefill */
    int context;          /* tokens per sequence (prompt + generated) */
    size_t kv_bytes;      /* of the KV pool; 0 = enough for max_running sequences up to a share of memory */
    ad_kv_type kv_type;
    size_t adapter_bytes; /* of the adapters in one step together: see batcher.h; 0 = no limit */
    int queue_timeout_s;  /* a generation that waits longer without having begun ends with AD_FINISH_TIMEOUT; 0 = never */
    int n_threads;        /* worker team size; 0 = usable cores */
    unsigned cpu;         /* AD_CPU_* mask */
} ad_worker_options;

/* Starts the engine thread. model and loop are borrowed and outlive the worker. */
AD_MUSTUSE ad_status ad_worker_new(ad_worker **out, uv_loop_t *loop, const ad_model *model, const ad_worker_options *opt, ad_err *err);
/* Loop thread. AD_EBUSY when the queue is full, or the tenant's part of it (see ad_fair_room); AD_ETIMEOUT when the deadline is over; AD_EINVAL when prompt +
 * max_tokens exceed the context or the pool.
 * *out is borrowed: valid until on_done returned. No callback runs before this returned. */
AD_MUSTUSE ad_status ad_worker_submit(ad_worker *w, ad_gen **out, const ad_gen_spec *spec, ad_err *err);
/* AD_EBUSY when n more generations would not fit in the queue; for requests of several choices. */
AD_MUSTUSE ad_status ad_worker_room(const ad_worker *w, int n, ad_err *err);
AD_MUSTUSE ad_status ad_worker_room_for(const ad_worker *w, int tenant, int n, ad_err *err); /* the same in a tenant's part of it */
/* The generation leaves at the next step; on_done(AD_FINISH_CANCELED) follows (or another reason, if it was ending). */
void ad_worker_cancel(ad_gen *g);
void *ad_gen_user(const ad_gen *g);
int ad_worker_pending(const ad_worker *w); /* submitted and not done */
void ad_worker_set_queue(ad_worker *w, int limit, int timeout_s); /* the options' queue_limit and queue_timeout_s, for what comes from now on */
int ad_worker_context(const ad_worker *w);
int ad_gen_cached_tokens(const ad_gen *g); /* prompt tokens found in the prefix cache; from the first token on */
uint64_t ad_gen_engine_ns(const ad_gen *g); /* its share of the steps it was in, by rows; in on_done. 0: it never had a row */

const ad_worker_stats *ad_worker_get_stats(const ad_worker *w);
const char *ad_worker_kernels(const ad_worker *w); /* kernel table name */
int ad_worker_threads(const ad_worker *w);
double ad_worker_served(const ad_worker *w, int tenant); /* loop thread: what the tenant's tokens cost so far: see fair.h; not over its weight */

/* Loop thread: cancels everything, lets callbacks finish, joins the thread, then calls done(user). */
void ad_worker_close(ad_worker *w, void (*done)(void *user), void *user);

#endif
