/* SPDX-License-Identifier: MIT */
/* The engine thread and the two queues between it and the loop thread. The inbox carries new generations to
 * the engine; events carry tokens back and are delivered by one ad_wakeup, whose wake-ups coalesce. */
#include "server/sched/worker.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/team.h"
#include "core/model/step.h"
#include "server/wakeup.h"

/* A tenant, made by its first generation and kept until the worker ends. */
typedef struct {
    ad_sched_tenant sched; /* the engine thread's */
    int n_pending;         /* loop thread: submitted and not done */
    double served;         /* loop thread: see ad_worker_served */
} tenant;

struct ad_gen {
    ad_sched_job job;            /* first; the engine thread's, but for what it says there */
    ad_gen_spec spec;      /* prompt is not kept */
    tenant *tenant;
    ad_gen *next;          /* in the inbox */
    bool prompt_reported;  /* loop thread */
};

/* One message to the loop: a token, or the end of a generation. */
typedef struct {
    ad_gen *gen;
    bool has_token;
    ad_token_info token;
    ad_finish finish;      /* AD_FINISH_NONE: more will come */
    double cost;           /* what its tenant paid since the last one */
    char error[160];
} event;

typedef struct {
    event *items;
    size_t n, cap;
} event_list;

struct ad_worker {
    ad_wakeup wakeup;
    const ad_model *model;
    ad_engine *engine;
    ad_scheduler *scheduler; /* engine thread */
    ad_worker_options opt;
    ad_worker_stats stats;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards inbox, events, closing */
    pthread_cond_t work;
    ad_gen *inbox, **inbox_tail;
    event_list events;
    bool closing;
    /* Loop thread. */
    int n_pending;         /* submitted and not done */
    bool closing_loop;     /* `closing` without the lock */
    event_list delivering;
    void (*closed)(void *user);
    void *closed_user;
    tenant **tenants;      /* [n_tenants] by their ids; NULL: never seen */
    size_t n_tenants, cap_tenants;
    bool shared;           /* others than tenant 0 were seen */
    /* Engine thread. */
    event_list posted;     /* of this step; spliced under the lock at its end */
    bool stopping;         /* closing, as seen under the lock: everything counts as canceled */
};

/* ---- engine thread ---- */

static void post(ad_worker *w, const event *e)
{
    if (ad_grow(&w->posted.items, &w->posted.cap, w->posted.n + 1, sizeof *e) != AD_OK) {
        abort(); /* a lost event would hang its client for ever; the supervisor restarts us */
    }
    w->posted.items[w->posted.n++] = *e;
}

static void flush_events(ad_worker *w)
{
    if (!w->posted.n) return;
    pthread_mutex_lock(&w->mutex);
    if (ad_grow(&w->events.items, &w->events.cap, w->events.n + w->posted.n, sizeof(event)) != AD_OK) abort();
    memcpy(w->events.items + w->events.n, w->posted.items, w->posted.n * sizeof(event));
    w->events.n += w->posted.n;
    pthread_mutex_unlock(&w->mutex);
    w->posted.n = 0;
    ad_wakeup_send(&w->wakeup);
}

/* Takes new generations; sleeps when there is nothing at all to do. False when the worker closes and is empty. */
static bool take_inbox(ad_worker *w)
{
    pthread_mutex_lock(&w->mutex);
    while (!w->inbox && !ad_scheduler_busy(w->scheduler) && !w->closing) pthread_cond_wait(&w->work, &w->mutex);
    ad_gen *came = w->inbox;
    w->stopping = w->closing;
    w->inbox = NULL;
    w->inbox_tail = &w->inbox;
    pthread_mutex_unlock(&w->mutex);
    for (ad_gen *g = came, *next; g; g = next) {
        next = g->next;
        ad_scheduler_add(w->scheduler, &g->job);
    }
    return ad_scheduler_busy(w->scheduler);
}

static void on_report(void *user, ad_sched_job *job, const ad_token_info *token, ad_finish finish, const char *error, double cost)
{
    event e = {.gen = (ad_gen *)job, .has_token = token != NULL, .finish = finish, .cost = cost};
    if (token) e.token = *token;
    if (error) snprintf(e.error, sizeof e.error, "%.*s", (int)sizeof e.error - 1, error);
    post(user, &e);
}

static void *engine_main(void *arg)
{
    ad_worker *w = arg;
    while (take_inbox(w)) {
        ad_scheduler_round(w->scheduler, w->stopping);
        flush_events(w);
    }
    return NULL;
}

/* ---- loop thread ---- */

static void gen_free(ad_gen *g)
{
    ad_seq_free(&g->job.seq);
    free(g);
}

static ad_status new_seq(ad_seq **out, const ad_gen_spec *spec, ad_err *err)
{
    if (spec->pooling) return ad_seq_new_pooled(out, spec->prompt, spec->n_prompt, spec->pooling, spec->weights, err);
    return ad_seq_new(out, spec->prompt, spec->n_prompt, &spec->sampling, spec->weights, err);
}

static void report_prompt(ad_gen *g)
{
    const ad_token_info *infos = ad_seq_prompt_logprobs(g->job.seq);
    if (g->prompt_reported || !infos || !g->spec.on_prompt_logprobs) return;
    g->prompt_reported = true;
    g->spec.on_prompt_logprobs(g, infos, ad_seq_prompt_tokens(g->job.seq));
}

static void deliver(ad_worker *w, const event *e)
{
    ad_gen *g = e->gen;
    g->tenant->served += e->cost;
    if (e->has_token || e->finish == AD_FINISH_LENGTH) report_prompt(g);
    if (e->finish == AD_FINISH_LENGTH && g->spec.pooling) g->spec.on_vector(g, ad_seq_vector(g->job.seq), ad_model_get_config(w->model)->hidden);
    if (e->has_token) g->spec.on_tokens(g, &e->token, 1);
    if (e->finish == AD_FINISH_NONE) return;
    w->n_pending--;
    g->tenant->n_pending--;
    g->spec.on_done(g, e->finish, *e->error ? e->error : NULL);
    gen_free(g);
}

static void worker_free(ad_worker *w)
{
    ad_scheduler_free(&w->scheduler);
    ad_engine_free(&w->engine);
    for (size_t i = 0; i < w->n_tenants; i++) free(w->tenants[i]);
    free(w->tenants);
    free(w->events.items), free(w->delivering.items), free(w->posted.items);
    free(w);
}

static void on_wakeup_closed(uv_handle_t *h)
{
    ad_worker *w = h->data;
    void (*closed)(void *) = w->closed;
    void *user = w->closed_user;
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->work);
    worker_free(w);
    if (closed) closed(user);
}

static void finish_close(ad_worker *w)
{
    if (uv_is_closing((uv_handle_t *)&w->wakeup.poll)) return;
    pthread_join(w->thread, NULL);
    ad_wakeup_close(&w->wakeup, on_wakeup_closed);
}

static void on_wakeup(ad_wakeup *wakeup)
{
    ad_worker *w = wakeup->poll.data;
    pthread_mutex_lock(&w->mutex);
    event_list ready = w->events; /* swap the lists under the lock, deliver outside it */
    w->events = (event_list){w->delivering.items, 0, w->delivering.cap};
    pthread_mutex_unlock(&w->mutex);
    w->delivering = ready;
    for (size_t i = 0; i < ready.n; i++) deliver(w, &ready.items[i]);
    if (w->closing_loop && !w->n_pending) finish_close(w);
}

/* The KV pool gets a quarter of what is free, and no more than all sequences together could use. A context that
 * nobody asked for shrinks to what fits; one that was asked for must fit. */
static ad_status size_kv(ad_worker_options *opt, const ad_model *m, bool context_given, ad_err *err)
{
    size_t page = ad_kv_page_bytes(m, opt->kv_type), share = ad_free_memory() / 4;
    if (opt->kv_bytes) share = opt->kv_bytes;
    size_t one = page * (size_t)ad_engine_pages_for(opt->context), most = one * (size_t)opt->max_running;
    if (share < one && context_given)
        return ad_fail(err, AD_ENOMEM, "the KV cache of one sequence of %d tokens takes %zu bytes, but it may have %zu; lower --context or raise --kv-memory", opt->context, one, share);
    if (share < page) return ad_fail(err, AD_ENOMEM, "the KV cache may have %zu bytes, less than one page of %zu; raise --kv-memory", share, page);
    if (share < one) opt->context = (int)(share / page) * AD_KV_PAGE;
    if (!opt->kv_bytes) opt->kv_bytes = share < most ? share : most;
    return AD_OK;
}

static ad_status make_worker(ad_worker *w, ad_err *err)
{
    ad_engine_options eo = {
        .max_running = w->opt.max_running, .step_tokens = w->opt.step_tokens, .context = w->opt.context,
        .kv_bytes = w->opt.kv_bytes, .kv_type = w->opt.kv_type, .n_threads = w->opt.n_threads, .cpu = w->opt.cpu,
    };
    ad_scheduler_options so = {
        .max_running = w->opt.max_running, .step_tokens = w->opt.step_tokens, .adapter_bytes = w->opt.adapter_bytes, .stats = &w->stats, .report = on_report, .user = w,
    };
    ad_status st = ad_engine_new(&w->engine, w->model, &eo, err);
    return st == AD_OK ? ad_scheduler_new(&w->scheduler, w->engine, &so, err) : st;
}

ad_status ad_worker_new(ad_worker **out, uv_loop_t *loop, const ad_model *model, const ad_worker_options *opt, ad_err *err)
{
    ad_worker *w = ad_calloc(1, sizeof *w);
    if (!w) return ad_fail(err, AD_ENOMEM, "engine: out of memory");
    int trained = ad_model_get_config(model)->max_positions;
    bool context_given = opt->context > 0;
    w->model = model;
    w->opt = *opt;
    if (!context_given || w->opt.context > trained) w->opt.context = trained;
    if (w->opt.step_tokens < w->opt.max_running) w->opt.step_tokens = w->opt.max_running;
    if (w->opt.n_threads <= 0) w->opt.n_threads = ad_usable_cores();
    w->inbox_tail = &w->inbox;
    ad_status st = size_kv(&w->opt, model, context_given, err);
    if (st == AD_OK) st = make_worker(w, err);
    if (st != AD_OK) goto fail;
    atomic_store(&w->stats.kv_pages_total, (unsigned long long)ad_engine_pages_total(w->engine));
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->work, NULL);
    st = ad_wakeup_init(&w->wakeup, loop, on_wakeup, err);
    if (st != AD_OK) goto fail;
    w->wakeup.poll.data = w;
    if (pthread_create(&w->thread, NULL, engine_main, w) != 0) {
        w->closed = NULL;
        ad_wakeup_close(&w->wakeup, on_wakeup_closed);
        return ad_fail(err, AD_EIO, "engine: cannot start a thread");
    }
    *out = w;
    return AD_OK;
fail:
    worker_free(w);
    return st;
}

ad_status ad_worker_room(const ad_worker *w, int n, ad_err *err)
{
    if (n <= w->opt.max_running + w->opt.queue_limit - w->n_pending) return AD_OK;
    return ad_fail(err, AD_EBUSY, "the queue is full (%d running or waiting); try again later", w->n_pending);
}

static const tenant *find_tenant(const ad_worker *w, int id)
{
    return id >= 0 && (size_t)id < w->n_tenants ? w->tenants[id] : NULL;
}

ad_status ad_worker_room_for(const ad_worker *w, int id, int n, ad_err *err)
{
    const tenant *t = find_tenant(w, id);
    int own = t ? t->n_pending : 0;
    ad_status st = ad_worker_room(w, n, err);
    if (st != AD_OK || n <= ad_fair_room(own, w->n_pending, w->opt.max_running + w->opt.queue_limit, w->shared || id)) return st;
    return ad_fail(err, AD_EBUSY, "the queue keeps what is left for other tenants (%d of yours are running or waiting); try again later", own);
}

static ad_status tenant_of(tenant **out, ad_worker *w, int id, ad_err *err)
{
    assert(id >= 0);
    size_t n = (size_t)id + 1;
    if (ad_grow(&w->tenants, &w->cap_tenants, n, sizeof(tenant *)) != AD_OK) return ad_fail(err, AD_ENOMEM, "tenant: out of memory");
    while (w->n_tenants < n) w->tenants[w->n_tenants++] = NULL;
    if (!w->tenants[id] && !(w->tenants[id] = ad_calloc(1, sizeof(tenant)))) return ad_fail(err, AD_ENOMEM, "tenant: out of memory");
    w->shared |= id != 0;
    *out = w->tenants[id];
    return AD_OK;
}

static int least_tokens(const ad_gen_spec *spec)
{
    const ad_sampling *s = &spec->sampling;
    if (spec->pooling) return 0;
    return s->ignore_eos && !s->n_stop_token_ids && !s->grammar ? s->max_tokens : s->min_tokens;
}

static ad_status new_gen(ad_gen **out, ad_worker *w, const ad_gen_spec *spec, ad_err *err)
{
    ad_gen *g = ad_calloc(1, sizeof *g);
    if (!g) return ad_fail(err, AD_ENOMEM, "generation: out of memory");
    ad_status st = tenant_of(&g->tenant, w, spec->tenant, err);
    if (st == AD_OK) st = new_seq(&g->job.seq, spec, err);
    if (st != AD_OK) {
        free(g);
        return st;
    }
    g->spec = *spec;
    g->spec.prompt = NULL;
    g->job.fair = (ad_fair_entry){.tenant = &g->tenant->sched.fair, .weight = spec->tenant_weight > 0 ? spec->tenant_weight : 1, .priority = spec->priority, .deadline = spec->deadline};
    g->job.least_tokens = least_tokens(spec);
    g->job.submitted_ns = uv_hrtime();
    if (w->opt.queue_timeout_s > 0) g->job.begin_by_ns = g->job.submitted_ns + (uint64_t)w->opt.queue_timeout_s * 1000000000u;
    *out = g;
    return AD_OK;
}

ad_status ad_worker_submit(ad_worker *w, ad_gen **out, const ad_gen_spec *spec, ad_err *err)
{
    int max_tokens = spec->pooling ? 0 : spec->sampling.max_tokens;
    ad_gen *g = NULL;
    ad_status st = ad_worker_room_for(w, spec->tenant, 1, err);
    if (st != AD_OK) return st;
    if (spec->n_prompt < 1) return ad_fail(err, AD_EINVAL, "prompt: no tokens");
    if (spec->n_prompt > w->opt.context || max_tokens > w->opt.context - spec->n_prompt)
        return ad_fail(err, AD_EINVAL, "prompt of %d tokens and max_tokens %d exceed the context of %d", spec->n_prompt, max_tokens, w->opt.context);
    if (ad_engine_pages_for(spec->n_prompt + max_tokens) > ad_engine_pages_total(w->engine))
        return ad_fail(err, AD_EINVAL, "prompt of %d tokens and max_tokens %d exceed the KV memory", spec->n_prompt, max_tokens);
    if (spec->deadline && uv_hrtime() > spec->deadline) return ad_fail(err, AD_ETIMEOUT, "the request's `deadline_ms` was over before it could begin");
    st = new_gen(&g, w, spec, err);
    if (st != AD_OK) return st;
    w->n_pending++;
    g->tenant->n_pending++;
    pthread_mutex_lock(&w->mutex);
    *w->inbox_tail = g;
    w->inbox_tail = &g->next;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->mutex);
    *out = g;
    return AD_OK;
}

void ad_worker_cancel(ad_gen *g) { atomic_store(&g->job.canceled, true); }
void *ad_gen_user(const ad_gen *g) { return g->spec.user; }
int ad_worker_pending(const ad_worker *w) { return w->n_pending; }

void ad_worker_set_queue(ad_worker *w, int limit, int timeout_s)
{
    w->opt.queue_limit = limit;
    w->opt.queue_timeout_s = timeout_s;
}

int ad_gen_cached_tokens(const ad_gen *g) { return ad_seq_cached_tokens(g->job.seq); }
uint64_t ad_gen_engine_ns(const ad_gen *g) { return g->job.engine_ns; }
int ad_worker_context(const ad_worker *w) { return w->opt.context; }
const ad_worker_stats *ad_worker_get_stats(const ad_worker *w) { return &w->stats; }
const char *ad_worker_kernels(const ad_worker *w) { return ad_engine_kernels(w->engine); }
int ad_worker_threads(const ad_worker *w) { return w->opt.n_threads; }

double ad_worker_served(const ad_worker *w, int id)
{
    const tenant *t = find_tenant(w, id);
    return t ? t->served : 0;
}

void ad_worker_close(ad_worker *w, void (*done)(void *user), void *user)
{
    w->closing_loop = true;
    w->closed = done;
    w->closed_user = user;
    pthread_mutex_lock(&w->mutex);
    w->closing = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->mutex);
    ad_wakeup_send(&w->wakeup); /* on_wakeup joins once nothing is pending */
}
