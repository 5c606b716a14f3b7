/* SPDX-License-Identifier: MIT */
#include "server/api/generation.h"

#include <stdlib.h>
#include <string.h>

#include "server/api/auth.h"
#include "server/api/constraint.h"
#include "server/api/names.h"
#include "server/observe/access.h"
#include "server/observe/log.h"

enum {
    INLINE_BYTES = 16 * 1024, /* a body longer than this (some 4 ms of tokenizing) is read on the pool */
    VECTORS_AT_ONCE = 32,     /* texts that become vectors come by the thousand: the queue keeps room for others */
};

/* ---- ends ---- */

static void choice_deinit(ad_choice *ch)
{
    const ad_dialect *d = ch->owner->dialect;
    ad_detok_free(&ch->detok);
    ad_buf_deinit(&ch->text);
    free(ch->tokens);
    if (ch->state && d->free_choice) d->free_choice(ch->state);
}

/* What it used so far, whoever reads it. */
static ad_metered metered(const ad_generation *g)
{
    ad_metered m = {0};
    const ad_choice *known = NULL; /* of the prompt that was counted last */
    for (const ad_choice *ch = g->choices; ch < g->choices + g->n_choices; ch++) {
        m.generated += ch->n_generated + ch->n_unread;
        if (!ch->computed || (known && known->prompt == ch->prompt)) continue;
        m.prompt += (int64_t)g->rq.prompts[ch->prompt].ids.count;
        m.cached += ch->n_cached;
        known = ch;
    }
    return m;
}

static void generation_free(ad_generation *g)
{
    ad_metering_end(&g->metering, metered(g));
    ad_metering_deinit(&g->metering);
    for (int i = 0; i < g->n_choices; i++) choice_deinit(&g->choices[i]);
    free(g->choices);
    free(g->body);
    if (g->state && g->dialect->free_state) g->dialect->free_state(g->state);
    ad_request_deinit(&g->rq);
    ad_lease_end(&g->lease);
    if (g->prev) g->prev->next = g->next;
    else g->app->generations = g->next;
    if (g->next) g->next->prev = g->prev;
    free(g);
}

static void free_if_idle(ad_generation *g)
{
    if (!g->x && !g->n_running && !g->in_pool) generation_free(g);
}

static void cancel_all(ad_generation *g)
{
    for (int i = 0; i < g->n_choices; i++)
        if (g->choices[i].gen) ad_worker_cancel(g->choices[i].gen);
}

/* What its log line and the counters of adapters and tenants tell. */
static void note_usage(const ad_generation *g)
{
    ad_access *a = ad_access_of(g->x);
    if (!a || !g->n_choices) return;
    ad_usage u = ad_generation_usage(g);
    uint64_t first = UINT64_MAX;
    for (int i = 0; i < g->n_choices; i++)
        if (g->choices[i].first_token_ns && g->choices[i].first_token_ns < first) first = g->choices[i].first_token_ns;
    a->prompt_tokens = (uint64_t)u.prompt;
    a->cached_tokens = (uint64_t)u.cached;
    a->generated_tokens = (uint64_t)u.generated;
    if (first != UINT64_MAX) a->ttft_ns = first - ad_http_start_ns(g->x);
}

/* Nobody waits for what it has not said yet. */
static void give_up(ad_generation *g)
{
    for (int i = 0; i < g->n_choices; i++)
        if (!g->choices[i].end) ad_metrics_ended(g->app->metrics, AD_ENDED_ABORT);
    cancel_all(g);
    ad_lease_stop_waiting(&g->lease);
}

static void on_client_gone(ad_http_exchange *x, void *user)
{
    ad_generation *g = user;
    (void)x;
    note_usage(g);
    g->x = NULL;
    give_up(g);
    free_if_idle(g);
}

/* The exchange, which is now answered or ended by the caller. */
static ad_http_exchange *take_exchange(ad_generation *g)
{
    ad_http_exchange *x = g->x;
    note_usage(g);
    g->x = NULL;
    ad_http_on_abort(x, NULL, NULL);
    return x;
}

/* What cannot be helped now does not count as a request. */
static void refuse(ad_generation *g, const ad_fault *f)
{
    if (!g->n_running && (f->http == 429 || f->http >= 500)) ad_metering_undo(&g->metering);
    else if (!g->n_running) ad_metering_end(&g->metering, metered(g));
    ad_metering_write_headers(&g->metering, g->x);
    ad_reply_fault(take_exchange(g), f);
    free_if_idle(g);
}

/* ---- events ---- */

/* The reply is a stream from now on. */
static void open_stream(ad_generation *g)
{
    if (g->streaming) return;
    g->streaming = true;
    ad_set_processing_time(g->x);
    if (g->dialect->headers) g->dialect->headers(g);
    ad_http_stream_begin(g->x, 200, "text/event-stream; charset=utf-8");
    if (g->dialect->begin) g->dialect->begin(g);
}

static void send_choice(ad_choice *ch)
{
    open_stream(ch->owner);
    if (!ch->owner->failed) ch->owner->dialect->event(ch);
}

void ad_generation_send_text(ad_generation *g, const char *text)
{
    ad_http_stream_write(g->x, text, strlen(text));
}

void ad_generation_send(ad_generation *g, const char *name, json_t *v)
{
    ad_buf b = {0};
    if (name) ad_buf_printf(&b, "event: %s\n", name);
    ad_buf_puts(&b, "data: ");
    ad_put_json(&b, v);
    ad_buf_puts(&b, "\n\n");
    if (b.failed) ad_generation_fail(g, 503, NULL, "out of memory");
    else ad_generation_send_text(g, b.data);
    ad_buf_deinit(&b);
}

void ad_choice_clear(ad_choice *ch)
{
    ad_buf_clear(&ch->text);
    ch->n_tokens = ch->n_echoed = 0;
    ch->started = true;
}

/* ---- what replies have in common ---- */

ad_usage ad_generation_usage(const ad_generation *g)
{
    ad_usage u = {0};
    for (int i = 0; i < g->rq.n_prompts; i++) {
        u.prompt += (json_int_t)g->rq.prompts[i].ids.count;
        u.cached += g->choices[i * g->rq.best_of].n_cached; /* of the prompt's first choice: the others share it */
    }
    for (int i = 0; i < g->n_choices; i++) u.generated += g->choices[i].n_generated;
    return u;
}

json_t *ad_usage_json(const ad_generation *g)
{
    ad_usage u = ad_generation_usage(g);
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", u.prompt, "completion_tokens", u.generated, "total_tokens", u.prompt + u.generated,
                     "prompt_tokens_details", "cached_tokens", u.cached);
}

const char *ad_generation_model(const ad_generation *g)
{
    return g->rq.model ? g->rq.model : g->app->served_name;
}

json_t *ad_generation_envelope(const ad_generation *g, const char *object, json_t *choices)
{
    json_t *v = json_pack("{s:s, s:s, s:I, s:s, s:o, s:s}", "id", g->id, "object", object, "created", (json_int_t)g->created, "model", ad_generation_model(g), "choices", choices,
                          "system_fingerprint", g->app->fingerprint);
    if (v) ad_lease_write_receipt(&g->lease, v);
    return v;
}

const char *ad_finish_reason(ad_end end)
{
    switch (end) {
    case AD_END_EOS:
    case AD_END_STOP_STRING: return "stop";
    case AD_END_LENGTH: return "length";
    default: return NULL;
    }
}

json_t *ad_piece_json(const ad_tokenizer *tk, int32_t id)
{
    ad_str s = ad_tokenizer_piece(tk, id);
    ad_buf b = {0};
    for (size_t i = 0; i < s.len;) {
        size_t ok = 1;
        while (i + ok < s.len && ((unsigned char)s.ptr[i + ok] & 0xC0) == 0x80) ok++;
        json_t *probe = json_stringn(s.ptr + i, ok);
        if (probe) ad_buf_append(&b, s.ptr + i, ok);
        else ad_buf_puts(&b, "\xEF\xBF\xBD");
        json_decref(probe);
        i += ok;
    }
    json_t *v = ad_buf_json(&b);
    ad_buf_deinit(&b);
    return v;
}

json_t *ad_piece_bytes_json(const ad_tokenizer *tk, int32_t id)
{
    ad_str s = ad_tokenizer_piece(tk, id);
    json_t *list = json_array();
    for (size_t i = 0; i < s.len; i++) json_array_append_new(list, json_integer((unsigned char)s.ptr[i]));
    return list;
}

json_t *ad_choice_ids_json(const ad_choice *ch)
{
    json_t *list = json_array();
    for (size_t i = ch->n_echoed; i < ch->n_tokens; i++) json_array_append_new(list, json_integer(ch->tokens[i].id));
    return list;
}

json_t *ad_token_name(const ad_generation *g, int32_t id)
{
    return g->rq.tokens_as_ids ? json_sprintf("token_id:%d", (int)id) : ad_piece_json(g->cx.tokenizer, id);
}

/* ---- the reply's end ---- */

static void count_tokens(const ad_generation *g)
{
    ad_usage u = ad_generation_usage(g);
    ad_metrics_tokens(g->app->metrics, (int)u.prompt, (int)u.generated);
    ad_merger_count(g->app->merger, g->lease.n == 1 ? &g->lease.versions[0]->digest : NULL, (int)(u.prompt + u.generated));
}

static double likelihood(const ad_choice *ch)
{
    return ch->n_generated ? ch->logprob / ch->n_generated : 0;
}

/* Numbers the likeliest n of best_of as the reply has them. The choices stay where they are: the worker may still hold some. */
static void choose_best(ad_generation *g)
{
    const ad_request *rq = &g->rq;
    for (int i = 0; i < g->n_choices && rq->best_of > rq->n; i++) {
        const ad_choice *of_prompt = g->choices + g->choices[i].prompt * rq->best_of;
        int rank = 0, self = i % rq->best_of;
        for (int j = 0; j < rq->best_of; j++) {
            double mine = likelihood(&g->choices[i]), other = likelihood(&of_prompt[j]);
            rank += other > mine || (other == mine && j < self);
        }
        g->choices[i].index = rank < rq->n ? g->choices[i].prompt * rq->n + rank : -1;
    }
}

ad_choice *ad_generation_choice(const ad_generation *g, int i)
{
    ad_choice *ch = g->choices + i / g->rq.n * g->rq.best_of;
    while (ch->index != i) ch++;
    return ch;
}

/* The last event of a stream. False: it could not be made. */
static bool send_fault(ad_generation *g)
{
    ad_buf b = {0};
    if (g->dialect->fail) {
        g->dialect->fail(g);
        return true;
    }
    ad_buf_puts(&b, "data: ");
    ad_put_json(&b, ad_fault_json_as(&g->fault, ad_http_matched_route(g->x)));
    ad_buf_puts(&b, "\n\n");
    bool good = !b.failed;
    if (good) ad_generation_send_text(g, b.data);
    ad_buf_deinit(&b);
    return good;
}

/* Something broke: a status if nothing was sent yet, else an error event ends the stream. */
static void finish_failed(ad_generation *g)
{
    cancel_all(g);
    if (!g->streaming) {
        ad_reply_fault(take_exchange(g), &g->fault);
        return;
    }
    ad_scope_shorten(ad_caller_of(g->x), g->fault.message);
    ad_access_fail(g->x, g->fault.code ? g->fault.code : ad_access_reason(NULL, g->fault.http));
    if (send_fault(g)) ad_http_stream_end(take_exchange(g));
    else ad_http_stream_abort(take_exchange(g));
}

static void reply(ad_generation *g)
{
    ad_buf body = {0};
    if (g->dialect->write) g->dialect->write(g, &body);
    else ad_put_json(&body, g->dialect->reply(g));
    if (g->failed) {
        ad_buf_deinit(&body);
        finish_failed(g);
        return;
    }
    if (g->dialect->headers) g->dialect->headers(g);
    ad_reply_json_text(take_exchange(g), 200, &body);
}

static void finish_if_done(ad_generation *g)
{
    if (!g->x) return;
    if (!g->failed && g->n_done < g->n_choices) return;
    if (!g->failed) {
        count_tokens(g);
        ad_metering_end(&g->metering, metered(g)); /* before the client can ask for more */
        choose_best(g);
        if (g->rq.stream && g->dialect->end) g->dialect->end(g);
    }
    if (g->failed) {
        finish_failed(g);
    } else if (g->rq.stream) {
        ad_http_stream_end(take_exchange(g));
    } else {
        reply(g);
    }
}

void ad_generation_fail(ad_generation *g, int http, const char *code, const char *message)
{
    if (g->failed) return;
    g->failed = true;
    ad_fault_set(&g->fault, http, code, NULL, "%s", message);
}

/* While its body is read on the pool, the generation's own fault is written there. */
static void end_with(ad_generation *g, const ad_fault *f)
{
    give_up(g);
    if (g->streaming) {
        g->failed = true;
        g->fault = *f;
        finish_failed(g);
        free_if_idle(g);
    } else {
        refuse(g, f);
    }
}

void ad_generations_end(ad_app *app, const char *message)
{
    ad_fault f = {0};
    ad_fault_set(&f, 503, NULL, NULL, "%s", message);
    for (ad_generation *g = app->generations, *next; g; g = next) {
        next = g->next;
        if (g->x) end_with(g, &f);
    }
}

/* ---- tokens to text ---- */

static void keep_token(ad_choice *ch, const ad_token_info *t)
{
    if (!ch->owner->rq.keep_tokens) return;
    if (ad_grow(&ch->tokens, &ch->cap_tokens, ch->n_tokens + 1, sizeof *ch->tokens) == AD_OK) ch->tokens[ch->n_tokens++] = *t;
    else ad_generation_fail(ch->owner, 503, NULL, "out of memory");
}

static void on_prompt_logprobs(ad_gen *gen, const ad_token_info *infos, int n)
{
    ad_choice *ch = ad_gen_user(gen);
    if (!ch->owner->x) return;
    for (int i = 0; i < n; i++) keep_token(ch, &infos[i]);
    ch->n_echoed = ch->n_tokens;
}

static void observe(ad_choice *ch)
{
    uint64_t now = uv_hrtime();
    const ad_generation *g = ch->owner;
    if (ch->n_generated == 1) ad_metrics_ttft(g->app->metrics, now - ad_http_start_ns(g->x));
    else ad_metrics_inter_token(g->app->metrics, now - ch->last_token_ns);
    if (!ch->first_token_ns) ch->first_token_ns = now;
    ch->last_token_ns = now;
}

static void end_choice(ad_choice *ch, ad_end end)
{
    ad_generation *g = ch->owner;
    if (ad_detok_finish(ch->detok, &ch->text) != AD_OK || ch->text.failed) ad_generation_fail(g, 503, NULL, "out of memory");
    ch->end = end;
    ad_metrics_ended(g->app->metrics, end == AD_END_LENGTH ? AD_ENDED_LENGTH : AD_ENDED_STOP);
    g->n_done++;
    if (g->rq.stream && !g->failed) send_choice(ch);
}

static void take_token(ad_choice *ch, const ad_token_info *t)
{
    ad_generation *g = ch->owner;
    bool stopped = false;
    if (!ch->n_generated++) ch->n_cached = ad_gen_cached_tokens(ch->gen);
    ch->computed = true;
    ch->logprob += (double)t->logprob;
    observe(ch);
    keep_token(ch, t);
    if (!t->ends && (ad_detok_push(ch->detok, t->id, &ch->text, &stopped) != AD_OK || ch->text.failed)) ad_generation_fail(g, 503, NULL, "out of memory");
    if (stopped) {
        ch->stop = ad_detok_stop(ch->detok);
        ad_worker_cancel(ch->gen); /* its end is ours: later tokens are not taken */
        end_choice(ch, AD_END_STOP_STRING);
    } else if (g->rq.stream && !g->failed && !t->ends && (ch->text.len || ch->n_tokens)) {
        send_choice(ch);
    }
}

static void on_tokens(ad_gen *gen, const ad_token_info *tokens, int n)
{
    ad_choice *ch = ad_gen_user(gen);
    ad_generation *g = ch->owner;
    int i = 0;
    for (; i < n && g->x && !g->failed && !ch->end; i++) take_token(ch, &tokens[i]);
    if (!ch->end) ch->n_unread += n - i;
    if (g->failed) finish_if_done(g);
}

static void on_vector(ad_gen *gen, const float *v, int n)
{
    ad_choice *ch = ad_gen_user(gen);
    if (!ch->owner->x || ch->owner->failed) return;
    ch->n_cached = ad_gen_cached_tokens(gen);
    ch->owner->dialect->vector(ch, v, n);
}

static bool start_more(ad_generation *g, ad_fault *f);

static void on_done(ad_gen *gen, ad_finish why, const char *error)
{
    ad_choice *ch = ad_gen_user(gen);
    ad_generation *g = ch->owner;
    if (!ch->computed) ch->n_cached = ad_gen_cached_tokens(gen);
    ch->computed |= ad_gen_engine_ns(gen) > 0;
    ad_metering_add_engine_time(&g->metering, ad_gen_engine_ns(gen));
    ch->gen = NULL;
    g->n_running--;
    if (g->x && !ch->end) {
        if (why == AD_FINISH_STOP || why == AD_FINISH_LENGTH) end_choice(ch, why == AD_FINISH_STOP ? AD_END_EOS : AD_END_LENGTH);
        else if (why == AD_FINISH_IMPOSSIBLE) ad_generation_fail(g, 400, "invalid_value", error);
        else if (why == AD_FINISH_LATE) ad_generation_fail(g, 504, "deadline_exceeded", "the request's `deadline_ms` could not be met any more, and nothing of it was generated");
        else if (why == AD_FINISH_TIMEOUT) ad_generation_fail(g, 503, NULL, "the request waited too long in the queue; try again later");
        else ad_generation_fail(g, why == AD_FINISH_CANCELED ? 503 : 500, NULL, error ? error : "the server is shutting down");
    }
    if (g->x && !g->failed) g->failed = !start_more(g, &g->fault);
    finish_if_done(g);
    free_if_idle(g);
}

/* ---- the start ---- */

/* What echo shows: the prompt as it was written, or as its ids decode. */
static bool put_prompt(ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    const ad_prompt *p = &g->rq.prompts[ch->prompt];
    if (!g->rq.echo) return true;
    if (p->text.ptr) ad_buf_append(&ch->text, p->text.ptr, p->text.len);
    else ad_tokenizer_decode(g->cx.tokenizer, p->ids.ids, p->ids.count, g->rq.skip_special, &ch->text);
    return !ch->text.failed;
}

/* Whose turn it takes, and when it comes. A tenant's class binds its requests, which may only be less urgent. */
static void set_turn(const ad_generation *g, ad_gen_spec *spec)
{
    const ad_tenant *t = ad_caller_of(g->x)->tenant;
    bool batch = t->priority && !strcmp(t->priority, "batch");
    spec->tenant = t->id;
    spec->tenant_weight = t->weight;
    spec->priority = batch && g->rq.priority < 1 ? 1 : g->rq.priority;
    if (g->rq.deadline_ms) spec->deadline = ad_http_start_ns(g->x) + (uint64_t)g->rq.deadline_ms * 1000000u;
}

static ad_status room(const ad_generation *g, int n, ad_err *err)
{
    return ad_worker_room_for(g->app->worker, ad_caller_of(g->x)->tenant->id, n, err);
}

static bool start_choice(ad_generation *g, ad_choice *ch, ad_fault *f)
{
    const ad_prompt *p = &g->rq.prompts[ch->prompt];
    ad_err err;
    ad_gen_spec spec = {
        .prompt = p->ids.ids, .n_prompt = (int)p->ids.count, .sampling = g->rq.sampling, .weights = ad_lease_weights(&g->lease),
        .pooling = g->rq.pooling, .on_prompt_logprobs = on_prompt_logprobs, .on_tokens = on_tokens, .on_vector = on_vector, .on_done = on_done, .user = ch,
    };
    set_turn(g, &spec);
    spec.sampling.choice = ch->index % g->rq.best_of;
    spec.sampling.max_tokens = ad_request_max_tokens(&g->rq, ch->prompt, g->cx.context);
    if (spec.sampling.logprobs < 0 && g->rq.best_of > g->rq.n) spec.sampling.logprobs = 0;
    if (ad_detok_new(&ch->detok, g->cx.tokenizer, g->rq.stops, g->rq.n_stops, g->rq.skip_special, (int)p->ids.count, &err) != AD_OK) return ad_fault_from(f, &err, NULL);
    ad_detok_hold_stops(ch->detok, g->rq.sampling.min_tokens);
    if (!put_prompt(ch)) return ad_fault_no_memory(f);
    ad_status st = ad_worker_submit(g->app->worker, &ch->gen, &spec, &err);
    if (st == AD_ETIMEOUT) return ad_fault_set(f, 504, "deadline_exceeded", "deadline_ms", "%s", err.msg);
    if (st != AD_OK) return ad_fault_from(f, &err, NULL);
    g->n_running++;
    return true;
}

/* Whether the next choice waits until one of its own has ended. */
static bool holds_back(const ad_generation *g)
{
    return g->rq.pooling && g->n_running && (g->n_running >= VECTORS_AT_ONCE || room(g, 1, NULL) != AD_OK);
}

static bool start_more(ad_generation *g, ad_fault *f)
{
    while (g->n_started < g->n_choices && !holds_back(g))
        if (!start_choice(g, &g->choices[g->n_started++], f)) return cancel_all(g), false;
    return true;
}

static bool start_choices(ad_generation *g, ad_fault *f)
{
    ad_err err;
    int n = g->rq.n_prompts * g->rq.best_of;
    if (g->app->draining) return ad_fault_set(f, 503, NULL, NULL, "the server is shutting down");
    if (room(g, g->rq.pooling ? 1 : n, &err) != AD_OK) {
        ad_metrics_rejected(g->app->metrics);
        return ad_fault_from(f, &err, NULL);
    }
    g->choices = ad_calloc((size_t)n, sizeof *g->choices);
    if (!g->choices) return ad_fault_no_memory(f);
    g->n_choices = n;
    for (int i = 0; i < n; i++) g->choices[i] = (ad_choice){.owner = g, .index = i, .prompt = i / g->rq.best_of};
    if (!ad_metering_reserve(&g->metering, &g->rq, g->cx.context, g->x, f) || !start_more(g, f)) return false;
    ad_metering_write_headers(&g->metering, g->x);
    return true;
}

static void on_loaded(ad_lease *l, const ad_fault *fault)
{
    ad_generation *g = l->user;
    ad_fault f = {0};
    if (fault) refuse(g, fault);
    else if (!start_choices(g, &f)) refuse(g, &f);
}

/* ---- reading the body ---- */

static void on_pool(uv_work_t *work)
{
    ad_generation *g = work->data;
    ad_reader rd = {.r = &g->rq, .object = g->rq.root, .cx = &g->cx, .f = &g->fault};
    if (!g->rq.root) {
        g->good = ad_request_open(&g->rq, g->body, g->body_len, &g->fault);
        rd.object = g->rq.root;
        g->good = g->good && g->dialect->read_target(&rd);
    } else {
        g->good = g->dialect->read(&rd);
    }
}

static void on_pool_done(uv_work_t *work, int status)
{
    ad_generation *g = work->data;
    (void)status;
    g->in_pool = false;
    if (!g->x) free_if_idle(g);
    else if (!g->good) refuse(g, &g->fault);
    else g->then(g);
}

/* Whether reading the rest may take long, however short the body is. */
static bool runs_programs(const ad_generation *g)
{
    return g->rq.root && (g->dialect->templated || ad_has_constraint(g->rq.root));
}

/* The next step of reading, then `then`; on the pool when it may take long. */
static void read_step(ad_generation *g, void (*then)(ad_generation *g))
{
    g->then = then;
    g->work.data = g;
    g->in_pool = (g->body_len > INLINE_BYTES || runs_programs(g)) && uv_queue_work(g->app->loop, &g->work, on_pool, on_pool_done) == 0;
    if (g->in_pool) return;
    on_pool(&g->work);
    on_pool_done(&g->work, 0);
}

/* Only where it was asked for: what people write is nobody's business. */
static void log_prompts(const ad_generation *g)
{
    enum { MOST_BYTES = 64 * 1024 };
    if (strcmp(g->app->config->log_prompts, "on") || !ad_log_enabled(AD_LOG_DEBUG)) return;
    for (int i = 0; i < g->rq.n_prompts; i++) {
        const ad_prompt *p = &g->rq.prompts[i];
        ad_buf text = {0};
        if (p->text.ptr) ad_buf_append(&text, p->text.ptr, p->text.len);
        else ad_tokenizer_decode(g->cx.tokenizer, p->ids.ids, p->ids.count, false, &text);
        if (text.len > MOST_BYTES) text.data[MOST_BYTES] = '\0';
        ad_log_event(AD_LOG_DEBUG, "prompt", json_pack("{s:s, s:i, s:i, s:o}", "request_id", ad_http_request_id(g->x), "index", i, "tokens", (int)p->ids.count,
                                                       "prompt", ad_json_text(text.data ? text.data : "")));
        ad_buf_deinit(&text);
    }
}

static void load(ad_generation *g)
{
    ad_fault f = {0};
    ad_lease_write_header(&g->lease, g->x);
    if (!g->rq.n_prompts) {
        ad_metering_end(&g->metering, (ad_metered){0});
        ad_metering_write_headers(&g->metering, g->x);
        reply(g);
        free_if_idle(g);
        return;
    }
    ad_access *a = ad_access_of(g->x);
    if (a) a->generates = true;
    log_prompts(g);
    if (!ad_lease_load(&g->lease, on_loaded, g, &f)) refuse(g, &f);
    else if (!g->lease.n_waiting) on_loaded(&g->lease, NULL);
}

/* One adapter's own comes first; several together speak as the base. */
static const ad_chat_template *find_template(const ad_generation *g)
{
    const ad_chat_template *own = g->lease.n == 1 ? ad_version_chat_template(g->lease.versions[0]) : NULL;
    if (own) return own;
    return g->app->named_template ? g->app->named_template : ad_model_chat_template(g->app->model);
}

static void find(ad_generation *g)
{
    ad_fault f = {0};
    ad_scope scope = ad_scope_of(g->x, g->app);
    free(g->body);
    g->body = NULL;
    if (!ad_lease_begin(&g->lease, g->app, &scope, &g->rq, &f)) {
        refuse(g, &f);
        return;
    }
    ad_metering_set_adapters(&g->metering, &g->lease);
    g->cx.chat = find_template(g);
    read_step(g, load);
}

void ad_generation_start(ad_http_exchange *x, ad_app *app, const ad_dialect *d)
{
    ad_str body = ad_http_body(x);
    if (!ad_require_json(x)) return;
    ad_generation *g = ad_calloc(1, sizeof *g);
    char *copy = malloc(body.len + 1);
    if (!g || !copy) {
        free(g);
        free(copy);
        ad_reply_refusal(x, 503, NULL, NULL, "out of memory");
        return;
    }
    memcpy(copy, body.ptr, body.len);
    *g = (ad_generation){.app = app, .dialect = d, .x = x, .created = time(NULL), .body = copy, .body_len = body.len};
    const ad_model_config *config = ad_model_get_config(app->model);
    g->cx = (ad_request_context){.tokenizer = ad_model_tokenizer(app->model), .vocab = config->vocab, .context = ad_worker_context(app->worker), .hidden = config->hidden,
                                 .grammars = app->grammars};
    snprintf(g->id, sizeof g->id, "%s%s", d->id_prefix, ad_http_request_id(x));
    g->next = app->generations;
    if (g->next) g->next->prev = g;
    app->generations = g;
    ad_http_on_abort(x, on_client_gone, g);
    if (!ad_metering_begin(&g->metering, app, x, &g->fault)) {
        refuse(g, &g->fault);
        return;
    }
    ad_metering_bound_context(&g->metering, &g->cx);
    read_step(g, find);
}
