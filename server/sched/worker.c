/* SPDX-License-Identifier: MIT */
/* The engine thread and the two queues between it and the loop thread. The inbox carries new generations to
 * the engine; events carry tokens back and are delivered by one uv_async_t, whose wake-ups coalesce. */
#include "server/sched/worker.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/team.h"
#include "core/model/step.h"
#include "server/sched/batcher.h"

struct ad_gen {
    ad_worker *worker;
    ad_gen_spec spec;      /* prompt is not kept */
    ad_seq *seq;
    uint64_t deadline_ns;  /* by which it must have begun; 0 = never */
    atomic_bool canceled;  /* set by the loop, read by the engine */
    /* Engine thread only. */
    bool begun;            /* was admitted once */
    unsigned waited;       /* steps without a row */
    uint64_t engine_ns;    /* read by the loop once the end is posted */
    ad_gen *next;          /* in the inbox or the waiting list */
    /* Loop thread only. */
    bool prompt_reported;
};

/* One message to the loop: a token, or the end of a generation. */
typedef struct {
    ad_gen *gen;
    bool has_token;
    ad_token_info token;
    ad_finish finish;      /* AD_FINISH_NONE: more will come */
    char error[160];
} event;

typedef struct {
    event *items;
    size_t n, cap;
} event_list;

struct ad_worker {
    uv_loop_t *loop;
    uv_async_t wakeup;
    const ad_model *model;
    ad_engine *engine;
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
    /* Engine thread. */
    ad_gen *waiting, **waiting_tail;
    ad_gen **running;      /* [max_running], oldest first */
    int n_running;
    ad_step_item *items;   /* [max_running] */
    ad_batch_seq *plan;    /* [max_running], parallel to running */
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

static void post_end(ad_worker *w, ad_gen *g, ad_finish why, const char *error)
{
    event e = {.gen = g, .finish = why};
    if (error) snprintf(e.error, sizeof e.error, "%.*s", (int)sizeof e.error - 1, error);
    post(w, &e);
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
    uv_async_send(&w->wakeup);
}

/* Takes new generations; sleeps when there is nothing at all to do. False when the worker closes and is empty. */
static bool take_inbox(ad_worker *w)
{
    pthread_mutex_lock(&w->mutex);
    while (!w->inbox && !w->waiting && !w->n_running && !w->closing) pthread_cond_wait(&w->work, &w->mutex);
    bool go_on = w->inbox || w->waiting || w->n_running;
    w->stopping = w->closing;
    if (w->inbox) {
        *w->waiting_tail = w->inbox;
        w->waiting_tail = w->inbox_tail;
        w->inbox = NULL;
        w->inbox_tail = &w->inbox;
    }
    pthread_mutex_unlock(&w->mutex);
    return go_on;
}

static bool leaves(const ad_worker *w, const ad_gen *g) { return w->stopping || atomic_load(&g->canceled); }

static ad_finish why_it_leaves(const ad_worker *w, const ad_gen *g, uint64_t now)
{
    if (leaves(w, g)) return AD_FINISH_CANCELED;
    return g->deadline_ns && !g->begun && now > g->deadline_ns ? AD_FINISH_TIMEOUT : AD_FINISH_NONE;
}

/* Canceled generations leave, wherever they wait; those whose time is over leave the queue. */
static void drop_leaving(ad_worker *w)
{
    uint64_t now = uv_hrtime();
    ad_gen **link = &w->waiting;
    while (*link) {
        ad_gen *g = *link;
        ad_finish why = why_it_leaves(w, g, now);
        if (why == AD_FINISH_NONE) {
            link = &g->next;
            continue;
        }
        *link = g->next;
        atomic_fetch_add(&w->stats.timeouts, why == AD_FINISH_TIMEOUT);
        post_end(w, g, why, NULL);
    }
    w->waiting_tail = link;
    int kept = 0;
    for (int i = 0; i < w->n_running; i++) {
        ad_gen *g = w->running[i];
        if (!leaves(w, g)) {
            w->running[kept++] = g;
            continue;
        }
        ad_engine_remove(w->engine, g->seq);
        post_end(w, g, AD_FINISH_CANCELED, NULL);
    }
    w->n_running = kept;
}

/* In order of arrival: the head of the queue waits for its pages, and nobody overtakes it. */
static void admit_waiting(ad_worker *w)
{
    while (w->waiting && w->n_running < w->opt.max_running) {
        ad_gen *g = w->waiting;
        ad_err err;
        ad_status st = ad_engine_admit(w->engine, g->seq, &err);
        if (st == AD_EBUSY) return;
        w->waiting = g->next;
        if (!w->waiting) w->waiting_tail = &w->waiting;
        if (st != AD_OK) {
            post_end(w, g, AD_FINISH_ERROR, err.msg);
            continue;
        }
        if (!g->begun) atomic_fetch_add(&w->stats.cached_tokens, (unsigned long long)ad_seq_cached_tokens(g->seq));
        g->begun = true;
        g->waited = 0;
        w->running[w->n_running++] = g;
    }
}

/* The youngest goes back to the head of the queue: all who wait came after it. */
static void preempt_youngest(ad_worker *w)
{
    ad_gen *g = w->running[--w->n_running];
    ad_engine_remove(w->engine, g->seq);
    g->next = w->waiting;
    if (!w->waiting) w->waiting_tail = &g->next;
    w->waiting = g;
    atomic_fetch_add(&w->stats.preemptions, 1);
}

static int count_list(const ad_gen *g)
{
    int n = 0;
    for (; g; g = g->next) n++;
    return n;
}

static void publish_stats(ad_worker *w)
{
    atomic_store(&w->stats.running, w->n_running);
    atomic_store(&w->stats.waiting, count_list(w->waiting));
    atomic_store(&w->stats.kv_pages_used, (unsigned long long)(ad_engine_pages_total(w->engine) - ad_engine_pages_free(w->engine)));
}

static ad_gen *gen_of(ad_worker *w, const ad_seq *s)
{
    for (int i = 0; i < w->n_running; i++)
        if (w->running[i]->seq == s) return w->running[i];
    assert(!"a step item without its generation");
    return NULL;
}

static void report_item(ad_worker *w, const ad_step_item *it)
{
    if (!it->has_token && it->finish == AD_FINISH_NONE) return;
    event e = {.gen = gen_of(w, it->seq), .has_token = it->has_token, .token = it->token, .finish = it->finish};
    if (it->error) snprintf(e.error, sizeof e.error, "%s", it->error);
    atomic_fetch_add(&w->stats.generated_tokens, it->has_token);
    post(w, &e);
    if (it->finish == AD_FINISH_NONE) return;
    ad_engine_remove(w->engine, it->seq);
    int kept = 0;
    for (int i = 0; i < w->n_running; i++)
        if (w->running[i] != e.gen) w->running[kept++] = w->running[i];
    w->n_running = kept;
}

/* A step's time, shared out by rows; before anybody leaves. */
static void share_time(ad_worker *w, uint64_t step_ns)
{
    uint64_t rows = 0;
    for (int i = 0; i < w->n_running; i++) rows += (uint64_t)w->plan[i].rows;
    for (int i = 0; i < w->n_running; i++) w->running[i]->engine_ns += step_ns * (uint64_t)w->plan[i].rows / rows;
}

static int plan_step(ad_worker *w)
{
    for (int i = 0; i < w->n_running; i++) {
        const ad_gen *g = w->running[i];
        const ad_mix *mix = ad_seq_mix(g->seq);
        w->plan[i] = (ad_batch_seq){.pending = ad_seq_pending_rows(g->seq), .waited = g->waited};
        if (!mix) continue;
        w->plan[i].group = mix->n == 1 ? (const void *)mix->sets[0] : mix; /* mixes of several are seldom alike */
        for (int k = 0; k < mix->n; k++) w->plan[i].bytes += mix->sets[k]->bytes;
    }
    return ad_batcher_plan(w->plan, w->n_running, &(ad_batch_limits){w->opt.step_tokens, w->opt.adapter_bytes});
}

/* Pages for all rows of the plan, oldest first. Whoever is youngest gives way; the oldest alone always fits. */
static void reserve_pages(ad_worker *w)
{
    for (int i = 0; i < w->n_running; i++)
        while (i < w->n_running && !ad_engine_reserve(w->engine, w->running[i]->seq, w->plan[i].rows)) preempt_youngest(w);
}

static void run_step(ad_worker *w)
{
    int n = 0, prompt_rows = 0;
    plan_step(w);
    reserve_pages(w);
    for (int i = 0; i < w->n_running; i++) {
        ad_gen *g = w->running[i];
        g->waited = w->plan[i].rows ? 0 : g->waited + 1;
        if (!w->plan[i].rows) continue;
        if (w->plan[i].pending > 1) prompt_rows += w->plan[i].rows;
        w->items[n++] = (ad_step_item){.seq = g->seq, .rows = w->plan[i].rows};
    }
    if (!n) return;
    uint64_t start = uv_hrtime();
    ad_engine_step(w->engine, w->items, n);
    uint64_t step_ns = uv_hrtime() - start;
    share_time(w, step_ns);
    atomic_fetch_add(&w->stats.step_ns, step_ns);
    atomic_fetch_add(&w->stats.steps, 1);
    atomic_fetch_add(&w->stats.prompt_tokens, (unsigned long long)prompt_rows);
    for (int i = 0; i < n; i++) report_item(w, &w->items[i]);
}

static void *engine_main(void *arg)
{
    ad_worker *w = arg;
    while (take_inbox(w)) {
        drop_leaving(w);
        admit_waiting(w);
        publish_stats(w);
        if (w->n_running) run_step(w);
        publish_stats(w);
        flush_events(w);
    }
    return NULL;
}

/* ---- loop thread ---- */

static void gen_free(ad_gen *g)
{
    ad_seq_free(&g->seq);
    free(g);
}

static ad_status new_seq(ad_seq **out, const ad_gen_spec *spec, ad_err *err)
{
    if (spec->pooling) return ad_seq_new_pooled(out, spec->prompt, spec->n_prompt, spec->pooling, spec->weights, err);
    return ad_seq_new(out, spec->prompt, spec->n_prompt, &spec->sampling, spec->weights, err);
}

static void report_prompt(ad_gen *g)
{
    const ad_token_info *infos = ad_seq_prompt_logprobs(g->seq);
    if (g->prompt_reported || !infos || !g->spec.on_prompt_logprobs) return;
    g->prompt_reported = true;
    g->spec.on_prompt_logprobs(g, infos, ad_seq_prompt_tokens(g->seq));
}

static void deliver(ad_worker *w, const event *e)
{
    ad_gen *g = e->gen;
    if (e->has_token || e->finish == AD_FINISH_LENGTH) report_prompt(g);
    if (e->finish == AD_FINISH_LENGTH && g->spec.pooling) g->spec.on_vector(g, ad_seq_vector(g->seq), ad_model_get_config(w->model)->hidden);
    if (e->has_token) g->spec.on_tokens(g, &e->token, 1);
    if (e->finish == AD_FINISH_NONE) return;
    w->n_pending--;
    g->spec.on_done(g, e->finish, *e->error ? e->error : NULL);
    gen_free(g);
}

static void on_async_closed(uv_handle_t *h)
{
    ad_worker *w = h->data;
    void (*closed)(void *) = w->closed;
    void *user = w->closed_user;
    ad_engine_free(&w->engine);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->work);
    free(w->events.items), free(w->delivering.items), free(w->posted.items);
    free(w->running), free(w->items), free(w->plan);
    free(w);
    if (closed) closed(user);
}

static void finish_close(ad_worker *w)
{
    if (uv_is_closing((uv_handle_t *)&w->wakeup)) return;
    pthread_join(w->thread, NULL);
    uv_close((uv_handle_t *)&w->wakeup, on_async_closed);
}

static void on_wakeup(uv_async_t *handle)
{
    ad_worker *w = handle->data;
    pthread_mutex_lock(&w->mutex);
    event_list ready = w->events; /* swap the lists under the lock, deliver outside it */
    w->events = (event_list){w->delivering.items, 0, w->delivering.cap};
    pthread_mutex_unlock(&w->mutex);
    w->delivering = ready;
    for (size_t i = 0; i < ready.n; i++) deliver(w, &ready.items[i]);
    if (w->closing_loop && !w->n_pending) finish_close(w);
}

/* libuv 1.44 has only the machine's free memory and the cgroup's limit. */
static size_t available_memory(void)
{
    uint64_t free_now = uv_get_free_memory(), limit = uv_get_constrained_memory();
    return (size_t)(limit && limit < free_now ? limit : free_now);
}

/* The KV pool gets a quarter of what is free, and no more than all sequences together could use. A context that
 * nobody asked for shrinks to what fits; one that was asked for must fit. */
static ad_status size_kv(ad_worker_options *opt, const ad_model *m, bool context_given, ad_err *err)
{
    size_t page = ad_kv_page_bytes(m, opt->kv_type), share = available_memory() / 4;
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
    size_t n = (size_t)w->opt.max_running;
    w->running = ad_calloc(n, sizeof *w->running);
    w->items = ad_calloc(n, sizeof *w->items);
    w->plan = ad_calloc(n, sizeof *w->plan);
    if (!w->running || !w->items || !w->plan) return ad_fail(err, AD_ENOMEM, "engine: out of memory");
    ad_engine_options eo = {
        .max_running = w->opt.max_running, .step_tokens = w->opt.step_tokens, .context = w->opt.context,
        .kv_bytes = w->opt.kv_bytes, .kv_type = w->opt.kv_type, .n_threads = w->opt.n_threads, .cpu = w->opt.cpu,
    };
    return ad_engine_new(&w->engine, w->model, &eo, err);
}

ad_status ad_worker_new(ad_worker **out, uv_loop_t *loop, const ad_model *model, const ad_worker_options *opt, ad_err *err)
{
    ad_worker *w = ad_calloc(1, sizeof *w);
    if (!w) return ad_fail(err, AD_ENOMEM, "engine: out of memory");
    int trained = ad_model_get_config(model)->max_positions;
    bool context_given = opt->context > 0;
    w->loop = loop;
    w->model = model;
    w->opt = *opt;
    if (!context_given || w->opt.context > trained) w->opt.context = trained;
    if (w->opt.step_tokens < w->opt.max_running) w->opt.step_tokens = w->opt.max_running;
    if (w->opt.n_threads <= 0) w->opt.n_threads = ad_usable_cores();
    w->inbox_tail = &w->inbox;
    w->waiting_tail = &w->waiting;
    ad_status st = size_kv(&w->opt, model, context_given, err);
    if (st == AD_OK) st = make_worker(w, err);
    if (st != AD_OK) goto fail;
    atomic_store(&w->stats.kv_pages_total, (unsigned long long)ad_engine_pages_total(w->engine));
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->work, NULL);
    if (uv_async_init(loop, &w->wakeup, on_wakeup) != 0) {
        st = ad_fail(err, AD_EIO, "engine: cannot make a wake-up handle");
        goto fail;
    }
    w->wakeup.data = w;
    if (pthread_create(&w->thread, NULL, engine_main, w) != 0) {
        w->closed = NULL;
        uv_close((uv_handle_t *)&w->wakeup, on_async_closed);
        return ad_fail(err, AD_EIO, "engine: cannot start a thread");
    }
    *out = w;
    return AD_OK;
fail:
    ad_engine_free(&w->engine);
    free(w->running), free(w->items), free(w->plan);
    free(w);
    return st;
}

ad_status ad_worker_room(const ad_worker *w, int n, ad_err *err)
{
    if (w->n_pending + n <= w->opt.max_running + w->opt.queue_limit) return AD_OK;
    return ad_fail(err, AD_EBUSY, "the queue is full (%d running or waiting); try again later", w->n_pending);
}

ad_status ad_worker_submit(ad_worker *w, ad_gen **out, const ad_gen_spec *spec, ad_err *err)
{
    int max_tokens = spec->pooling ? 0 : spec->sampling.max_tokens;
    ad_status st = ad_worker_room(w, 1, err);
    if (st != AD_OK) return st;
    if (spec->n_prompt < 1) return ad_fail(err, AD_EINVAL, "prompt: no tokens");
    if (spec->n_prompt > w->opt.context || max_tokens > w->opt.context - spec->n_prompt)
        return ad_fail(err, AD_EINVAL, "prompt of %d tokens and max_tokens %d exceed the context of %d", spec->n_prompt, max_tokens, w->opt.context);
    if (ad_engine_pages_for(spec->n_prompt + max_tokens) > ad_engine_pages_total(w->engine))
        return ad_fail(err, AD_EINVAL, "prompt of %d tokens and max_tokens %d exceed the KV memory", spec->n_prompt, max_tokens);
    ad_gen *g = ad_calloc(1, sizeof *g);
    if (!g) return ad_fail(err, AD_ENOMEM, "generation: out of memory");
    g->worker = w;
    g->spec = *spec;
    g->spec.prompt = NULL;
    if (w->opt.queue_timeout_s > 0) g->deadline_ns = uv_hrtime() + (uint64_t)w->opt.queue_timeout_s * 1000000000u;
    st = new_seq(&g->seq, spec, err);
    if (st != AD_OK) {
        free(g);
        return st;
    }
    w->n_pending++;
    pthread_mutex_lock(&w->mutex);
    *w->inbox_tail = g;
    w->inbox_tail = &g->next;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->mutex);
    *out = g;
    return AD_OK;
}

void ad_worker_cancel(ad_gen *g) { atomic_store(&g->canceled, true); }
void *ad_gen_user(const ad_gen *g) { return g->spec.user; }
int ad_worker_pending(const ad_worker *w) { return w->n_pending; }
int ad_gen_cached_tokens(const ad_gen *g) { return ad_seq_cached_tokens(g->seq); }
uint64_t ad_gen_engine_ns(const ad_gen *g) { return g->engine_ns; }
int ad_worker_context(const ad_worker *w) { return w->opt.context; }
const ad_worker_stats *ad_worker_get_stats(const ad_worker *w) { return &w->stats; }
const char *ad_worker_kernels(const ad_worker *w) { return ad_engine_kernels(w->engine); }
int ad_worker_threads(const ad_worker *w) { return w->opt.n_threads; }

void ad_worker_close(ad_worker *w, void (*done)(void *user), void *user)
{
    w->closing_loop = true;
    w->closed = done;
    w->closed_user = user;
    pthread_mutex_lock(&w->mutex);
    w->closing = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->mutex);
    uv_async_send(&w->wakeup); /* on_wakeup joins once nothing is pending */
}
