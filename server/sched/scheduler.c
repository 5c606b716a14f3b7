/* SPDX-License-Identifier: MIT */
/* The round: drop, admit, plan, reserve, step, report. */
#include "server/sched/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <uv.h>

enum {
    AVERAGE_OF = 8, /* about so many steps say how long the next one takes */
    MOMENT = 32,    /* steps after which a tenant that decoded is not expected any more */
};

struct ad_scheduler {
    ad_engine *engine;
    ad_scheduler_options opt;
    ad_fair fair;
    ad_sched_job **running;         /* [max_running], in the order of admission */
    int n_running;
    ad_fair_entry **entries;  /* [max_running], parallel to running */
    ad_step_item *items;      /* [max_running] */
    ad_batch_seq *plan;       /* [max_running], parallel to running */
    ad_batch_tenant *tenants; /* [max_running] */
    ad_sched_tenant **of_tenants; /* [max_running], parallel to tenants */
    int n_tenants;
    unsigned long long step;  /* the number of the one that is planned */
    ad_sched_tenant *decoders[2]; /* the two that decoded last; NULL: there was none */
    double step_ns;           /* on the average of the last ones */
};

static ad_sched_job *job_of(ad_fair_entry *e) { return (ad_sched_job *)e; }
static ad_sched_tenant *tenant_of(const ad_sched_job *j) { return (ad_sched_tenant *)j->fair.tenant; }

static void charge(ad_sched_job *j, double cost)
{
    ad_fair_charge(&j->fair, cost);
    j->cost += cost;
}

static void report(ad_scheduler *s, ad_sched_job *j, const ad_token_info *token, ad_finish finish, const char *error)
{
    double cost = j->cost;
    j->cost = 0;
    s->opt.report(s->opt.user, j, token, finish, error, cost);
}

/* What it paid for and did not get is given back. */
static void end_job(ad_scheduler *s, ad_sched_job *j, const ad_token_info *token, ad_finish why, const char *error)
{
    charge(j, -AD_FAIR_PROMPT * j->unpaid);
    ad_fair_end(&s->fair, &j->fair);
    report(s, j, token, why, error);
}

static void forget_running(ad_scheduler *s, int i)
{
    s->n_running--;
    for (; i < s->n_running; i++) {
        s->running[i] = s->running[i + 1];
        s->plan[i] = s->plan[i + 1];
    }
}

/* ---- who leaves ---- */

/* The least time until it has what it must have. While nothing runs the last steps say nothing about the next. */
static uint64_t least_ns(const ad_scheduler *s, const ad_sched_job *j)
{
    return s->n_running ? (uint64_t)(s->step_ns * (j->least_tokens > 1 ? j->least_tokens : 1)) : 0;
}

static ad_finish why_it_leaves(const ad_scheduler *s, const ad_sched_job *j, uint64_t now, bool stopping)
{
    if (stopping || atomic_load(&j->canceled)) return AD_FINISH_CANCELED;
    if (j->fair.begun) return AD_FINISH_NONE;
    if (j->fair.deadline && now + least_ns(s, j) > j->fair.deadline) return AD_FINISH_LATE;
    return j->begin_by_ns && now > j->begin_by_ns ? AD_FINISH_TIMEOUT : AD_FINISH_NONE;
}

static void drop_waiting(ad_scheduler *s, ad_fair_tenant *t, bool stopping)
{
    uint64_t now = uv_hrtime();
    for (ad_fair_entry *e = t->waiting, *next; e; e = next) {
        ad_finish why = why_it_leaves(s, job_of(e), now, stopping);
        next = e->next;
        if (why == AD_FINISH_NONE) continue;
        atomic_fetch_add(&s->opt.stats->timeouts, why == AD_FINISH_TIMEOUT);
        atomic_fetch_add(&s->opt.stats->late, why == AD_FINISH_LATE);
        end_job(s, job_of(e), NULL, why, NULL);
    }
}

/* Canceled jobs leave, wherever they are; those whose time is over leave the queue. */
static void drop_leaving(ad_scheduler *s, bool stopping)
{
    for (ad_fair_tenant *t = s->fair.active, *next; t; t = next) {
        next = t->next;
        drop_waiting(s, t, stopping);
    }
    for (int i = s->n_running - 1; i >= 0; i--) {
        ad_sched_job *j = s->running[i];
        if (!stopping && !atomic_load(&j->canceled)) continue;
        forget_running(s, i);
        ad_engine_remove(s->engine, j->seq);
        end_job(s, j, NULL, AD_FINISH_CANCELED, NULL);
    }
}

/* ---- who is taken in, and who gives way ---- */

static void preempt(ad_scheduler *s, int i)
{
    ad_sched_job *j = s->running[i];
    forget_running(s, i);
    ad_engine_remove(s->engine, j->seq);
    ad_fair_put_back(&s->fair, &j->fair);
    atomic_fetch_add(&s->opt.stats->preemptions, 1);
}

static int find_victim(ad_scheduler *s, const ad_sched_job *waiter)
{
    for (int i = 0; i < s->n_running; i++) s->entries[i] = &s->running[i]->fair;
    return ad_fair_victim(s->entries, s->n_running, waiter ? &waiter->fair : NULL);
}

static void begin(ad_scheduler *s, ad_sched_job *j)
{
    int cached = ad_seq_cached_tokens(j->seq);
    bool first = !j->fair.begun;
    ad_fair_start(&s->fair, &j->fair);
    j->waited = 0;
    s->running[s->n_running++] = j;
    if (!first) return;
    j->unpaid = ad_seq_prompt_tokens(j->seq) - cached;
    charge(j, AD_FAIR_PROMPT * j->unpaid + AD_FAIR_CACHED * cached);
    atomic_fetch_add(&s->opt.stats->cached_tokens, (unsigned long long)cached);
    ad_histogram_observe(&s->opt.stats->queue_times, uv_hrtime() - j->submitted_ns);
}

/* False: there is no room for it now. */
static bool take_in(ad_scheduler *s, ad_sched_job *j)
{
    ad_err err;
    if (s->n_running == s->opt.max_running) return false;
    ad_status st = ad_engine_admit(s->engine, j->seq, &err);
    if (st == AD_EBUSY) return false;
    if (st == AD_OK) begin(s, j);
    else end_job(s, j, NULL, AD_FINISH_ERROR, err.msg);
    return true;
}

/* Whether there would be room if all who may give way did. */
static bool can_make_room(const ad_scheduler *s, const ad_sched_job *j)
{
    int pages = ad_engine_pages_free(s->engine), yielding = 0;
    for (int i = 0; i < s->n_running; i++) {
        if (!ad_fair_yields(&s->running[i]->fair, &j->fair)) continue;
        pages += ad_seq_pages(s->running[i]->seq);
        yielding++;
    }
    return yielding && ad_engine_pages_for(ad_seq_pending_rows(j->seq)) <= pages;
}

/* Others give way to it until there is room. False: that brought nothing, or nobody has to. */
static bool make_room(ad_scheduler *s, ad_sched_job *j)
{
    if (!can_make_room(s, j)) return false;
    for (int victim; (victim = find_victim(s, j)) >= 0;) {
        preempt(s, victim);
        if (take_in(s, j)) return true;
    }
    return false;
}

/* Nobody overtakes who is next: he waits for his pages. But who runs nothing at all does not wait for those who run several. */
static void admit_waiting(ad_scheduler *s)
{
    for (ad_fair_entry *e; (e = ad_fair_next(&s->fair, false));) {
        if (take_in(s, job_of(e)) || make_room(s, job_of(e))) continue;
        ad_fair_entry *idle = ad_fair_next(&s->fair, true);
        if (!idle || idle == e || !make_room(s, job_of(idle))) return;
    }
}

/* ---- the step ---- */

/* Whether another than t decoded a moment ago. */
static bool is_beside(const ad_scheduler *s, const ad_sched_tenant *t)
{
    const ad_sched_tenant *other = s->decoders[s->decoders[0] == t];
    return other && s->step - other->decoded_at <= MOMENT;
}

static void note_decoder(ad_scheduler *s, ad_sched_tenant *t)
{
    t->decoded_at = s->step;
    if (s->decoders[0] == t) return;
    s->decoders[1] = s->decoders[0];
    s->decoders[0] = t;
}

static int index_of(ad_scheduler *s, ad_sched_tenant *t)
{
    if (t->index < s->n_tenants && s->of_tenants[t->index] == t) return t->index;
    t->index = s->n_tenants++;
    s->of_tenants[t->index] = t;
    s->tenants[t->index] = (ad_batch_tenant){.weight = t->fair.weight, .turns = t->turns, .beside = is_beside(s, t)};
    return t->index;
}

static void plan_step(ad_scheduler *s)
{
    s->n_tenants = 0;
    s->step++;
    for (int i = 0; i < s->n_running; i++) {
        const ad_sched_job *j = s->running[i];
        const ad_mix *mix = ad_seq_mix(j->seq);
        s->plan[i] = (ad_batch_seq){.pending = ad_seq_pending_rows(j->seq), .tenant = index_of(s, tenant_of(j)), .waited = j->waited};
        if (!mix) continue;
        s->plan[i].group = mix->n == 1 ? (const void *)mix->sets[0] : mix; /* mixes of several are seldom alike */
        for (int k = 0; k < mix->n; k++) s->plan[i].bytes += mix->sets[k]->bytes;
    }
    ad_batcher_plan(s->plan, s->n_running, s->tenants, s->n_tenants, &(ad_batch_limits){s->opt.step_tokens, s->opt.adapter_bytes});
    for (int t = 0; t < s->n_tenants; t++) s->of_tenants[t]->turns = s->tenants[t].turns;
}

/* Pages for all rows of the plan, oldest first; alone the oldest always fits. */
static void reserve_pages(ad_scheduler *s)
{
    for (int i = 0; i < s->n_running;) {
        if (ad_engine_reserve(s->engine, s->running[i]->seq, s->plan[i].rows)) {
            i++;
            continue;
        }
        int victim = find_victim(s, NULL);
        preempt(s, victim);
        if (victim < i) i--;
    }
}

static void report_item(ad_scheduler *s, const ad_step_item *it)
{
    if (!it->has_token && it->finish == AD_FINISH_NONE) return;
    int i = 0;
    while (s->running[i]->seq != it->seq) i++;
    ad_sched_job *j = s->running[i];
    atomic_fetch_add(&s->opt.stats->generated_tokens, it->has_token);
    if (it->has_token) charge(j, AD_FAIR_GENERATED);
    const ad_token_info *token = it->has_token ? &it->token : NULL;
    if (it->finish == AD_FINISH_NONE) {
        note_decoder(s, tenant_of(j));
        report(s, j, token, AD_FINISH_NONE, NULL);
        return;
    }
    forget_running(s, i);
    ad_engine_remove(s->engine, it->seq);
    end_job(s, j, token, it->finish, it->error);
}

/* Its time is shared out by rows; before anybody leaves. */
static void time_step(ad_scheduler *s, uint64_t ns, int prompt_rows)
{
    uint64_t rows = 0;
    for (int i = 0; i < s->n_running; i++) rows += (uint64_t)s->plan[i].rows;
    for (int i = 0; i < s->n_running; i++) s->running[i]->engine_ns += ns * (uint64_t)s->plan[i].rows / rows;
    s->step_ns += s->step_ns > 0 ? ((double)ns - s->step_ns) / AVERAGE_OF : (double)ns;
    atomic_fetch_add(&s->opt.stats->step_ns, ns);
    ad_histogram_observe(&s->opt.stats->step_times[!prompt_rows ? AD_PHASE_DECODE : (uint64_t)prompt_rows == rows ? AD_PHASE_PREFILL : AD_PHASE_MIXED], ns);
    atomic_fetch_add(&s->opt.stats->steps, 1);
}

static void run_step(ad_scheduler *s)
{
    int n = 0, prompt_rows = 0;
    plan_step(s);
    reserve_pages(s);
    for (int i = 0; i < s->n_running; i++) {
        ad_sched_job *j = s->running[i];
        const ad_batch_seq *p = &s->plan[i];
        j->waited = p->taken ? 0 : j->waited + 1;
        if (!p->rows) continue;
        if (p->pending > 1) prompt_rows += p->rows;
        j->unpaid -= p->rows < j->unpaid ? p->rows : j->unpaid;
        s->items[n++] = (ad_step_item){.seq = j->seq, .rows = p->rows};
    }
    if (!n) return;
    uint64_t start = uv_hrtime();
    ad_engine_step(s->engine, s->items, n);
    time_step(s, uv_hrtime() - start, prompt_rows);
    atomic_fetch_add(&s->opt.stats->prompt_tokens, (unsigned long long)prompt_rows);
    for (int i = 0; i < n; i++) report_item(s, &s->items[i]);
}

static void publish_stats(ad_scheduler *s)
{
    ad_worker_stats *st = s->opt.stats;
    atomic_store(&st->running, s->n_running);
    atomic_store(&st->waiting, s->fair.n_waiting);
    atomic_store(&st->kv_pages_used, (unsigned long long)(ad_engine_pages_total(s->engine) - ad_engine_pages_free(s->engine)));
}

void ad_scheduler_round(ad_scheduler *s, bool stopping)
{
    drop_leaving(s, stopping);
    admit_waiting(s);
    publish_stats(s);
    if (s->n_running) run_step(s);
    if (!ad_scheduler_busy(s)) s->decoders[0] = s->decoders[1] = NULL; /* steps do not tell how long nothing runs */
    publish_stats(s);
}

/* ---- its life ---- */

ad_status ad_scheduler_new(ad_scheduler **out, ad_engine *engine, const ad_scheduler_options *opt, ad_err *err)
{
    size_t n = (size_t)opt->max_running;
    ad_scheduler *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "scheduler: out of memory");
    s->engine = engine;
    s->opt = *opt;
    for (int i = 0; i < AD_PHASES; i++) opt->stats->step_times[i].bounds = &ad_step_bounds;
    opt->stats->queue_times.bounds = &ad_queue_bounds;
    s->running = ad_calloc(n, sizeof *s->running);
    s->entries = ad_calloc(n, sizeof *s->entries);
    s->items = ad_calloc(n, sizeof *s->items);
    s->plan = ad_calloc(n, sizeof *s->plan);
    s->tenants = ad_calloc(n, sizeof *s->tenants);
    s->of_tenants = ad_calloc(n, sizeof *s->of_tenants);
    if (!s->running || !s->entries || !s->items || !s->plan || !s->tenants || !s->of_tenants) {
        ad_scheduler_free(&s);
        return ad_fail(err, AD_ENOMEM, "scheduler: out of memory");
    }
    *out = s;
    return AD_OK;
}

void ad_scheduler_free(ad_scheduler **sp)
{
    ad_scheduler *s = *sp;
    if (!s) return;
    assert(!ad_scheduler_busy(s));
    free(s->running), free(s->entries), free(s->items);
    free(s->plan), free(s->tenants), free(s->of_tenants);
    free(s);
    *sp = NULL;
}

void ad_scheduler_add(ad_scheduler *s, ad_sched_job *job) { ad_fair_wait(&s->fair, &job->fair); }
bool ad_scheduler_busy(const ad_scheduler *s) { return s->n_running || s->fair.n_waiting; }
