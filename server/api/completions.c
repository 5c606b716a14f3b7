/* SPDX-License-Identifier: MIT */
/* POST /v1/completions: one request becomes prompts x n generations; their tokens become text, JSON or events.
 * Loop thread; the body of a long request is read on libuv's pool. A completion lives until its reply is complete
 * (or its client is gone) and every generation has ended. */
#include <stdlib.h>
#include <string.h>

#include "server/api/completion_request.h"
#include "server/keeper/keeper.h"
#include "server/sched/prefix.h"

enum { INLINE_BYTES = 16 * 1024 }; /* a body longer than this (some 4 ms of tokenizing) is read on the pool */

typedef struct completion completion;

/* Parallel lists of one choice, as the reply has them. */
typedef struct {
    json_t *tokens, *token_logprobs, *top_logprobs, *text_offset;
} logprob_lists;

typedef struct {
    completion *owner;
    int index, prompt;
    ad_gen *gen;              /* NULL: not submitted, or ended */
    ad_detok *detok;
    ad_buf text;              /* all of it, or what the next event will carry */
    json_t *token_ids;        /* the same for ids, when asked for */
    logprob_lists lists;
    size_t chars;             /* code points before the next token, for text_offset */
    int n_generated, n_cached;
    uint64_t last_token_ns;
    bool started, done;
    const char *finish;       /* finish_reason */
} choice;

struct completion {
    ad_app *app;
    ad_http_exchange *x;      /* NULL: the client is gone */
    ad_version *versions[AD_MAX_MIX]; /* leased */
    ad_wait waits[AD_MAX_MIX]; /* for those that are not in memory yet */
    int n_adapters, n_waiting;
    ad_mix mix;               /* of them; n is 0 for the base */
    char receipt[AD_MAX_MIX * 65]; /* digests of the adapter versions, joined by commas; "" for the base */
    ad_merge *merge;          /* retained; the only adapter's merged weights, or NULL: unmerged */
    ad_prefix_root root;
    ad_completion_request rq;
    choice *choices;          /* prompt-major [n_prompts * n] */
    int n_choices, n_running; /* running: generations the worker still has */
    int n_done;
    bool streaming, failed;
    ad_fault fault;
    char id[160];
    time_t created;
    /* While the body is read on the pool. */
    uv_work_t work;
    char *body;
    size_t body_len;
    bool parsed;
};

/* ---- ends ---- */

static void lists_deinit(logprob_lists *l)
{
    json_decref(l->tokens);
    json_decref(l->token_logprobs);
    json_decref(l->top_logprobs);
    json_decref(l->text_offset);
    *l = (logprob_lists){0};
}

static void completion_free(completion *c)
{
    for (int i = 0; i < c->n_choices; i++) {
        choice *ch = &c->choices[i];
        ad_detok_free(&ch->detok);
        ad_buf_deinit(&ch->text);
        json_decref(ch->token_ids);
        lists_deinit(&ch->lists);
    }
    free(c->choices);
    free(c->body);
    ad_completion_request_deinit(&c->rq);
    for (int i = 0; i < c->n_adapters; i++) ad_keeper_release(c->app->keeper, &c->versions[i]);
    ad_merge_release(&c->merge);
    free(c);
}

static void free_if_idle(completion *c)
{
    if (!c->x && !c->n_running) completion_free(c);
}

static void cancel_all(completion *c)
{
    for (int i = 0; i < c->n_choices; i++)
        if (c->choices[i].gen) ad_worker_cancel(c->choices[i].gen);
}

static void on_client_gone(ad_http_exchange *x, void *user)
{
    completion *c = user;
    (void)x;
    c->x = NULL;
    cancel_all(c);
    for (int i = 0; i < c->n_adapters; i++) ad_keeper_unwait(c->app->keeper, &c->waits[i]);
    if (!c->body) free_if_idle(c); /* else the pool still reads it */
}

/* ---- JSON ---- */

static json_t *lists_json(logprob_lists *l)
{
    if (!l->tokens) return json_null();
    json_t *v = json_pack("{s:o, s:o, s:o, s:o}", "tokens", l->tokens, "token_logprobs", l->token_logprobs, "top_logprobs", l->top_logprobs, "text_offset", l->text_offset);
    *l = (logprob_lists){0};
    return v;
}

static json_t *ids_json(const ad_ids *ids)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ids->count; i++) json_array_append_new(list, json_integer(ids->ids[i]));
    return list;
}

/* Takes what the choice has gathered since the last time. */
static json_t *choice_json(choice *ch, bool with_prompt)
{
    const ad_completion_request *rq = &ch->owner->rq;
    json_t *v = json_pack("{s:s#, s:i, s:o, s:s?}", "text", ch->text.data ? ch->text.data : "", ch->text.len, "index", ch->index, "logprobs", lists_json(&ch->lists),
                          "finish_reason", ch->finish);
    if (rq->return_token_ids) {
        json_object_set_new(v, "token_ids", ch->token_ids ? ch->token_ids : json_array());
        ch->token_ids = NULL;
        json_object_set_new(v, "prompt_token_ids", with_prompt ? ids_json(&rq->prompts[ch->prompt].ids) : json_null());
    }
    ad_buf_clear(&ch->text);
    return v;
}

static json_t *usage_json(const completion *c)
{
    json_int_t prompt = 0, generated = 0, cached = 0;
    for (int i = 0; i < c->rq.n_prompts; i++) {
        prompt += (json_int_t)c->rq.prompts[i].ids.count;
        cached += c->choices[i * c->rq.n].n_cached; /* of the prompt's first choice: the others share it */
    }
    for (int i = 0; i < c->n_choices; i++) generated += c->choices[i].n_generated;
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens", generated, "total_tokens", prompt + generated,
                     "prompt_tokens_details", "cached_tokens", cached);
}

/* The object of a reply or an event; takes choices. */
static json_t *envelope(const completion *c, json_t *choices)
{
    json_t *v = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", c->id, "object", "text_completion", "created", (json_int_t)c->created, "model", c->rq.model, "choices", choices);
    if (!c->n_adapters) return v;
    json_object_set_new(v, "adapter_version", json_string(c->receipt));
    json_object_set_new(v, "adapter_mode", json_string(c->merge ? "merged" : "unmerged"));
    return v;
}

static void send_event(completion *c, json_t *v)
{
    ad_buf b = {0};
    if (!c->streaming) {
        ad_http_stream_begin(c->x, 200, "text/event-stream; charset=utf-8");
        c->streaming = true;
    }
    ad_buf_puts(&b, "data: ");
    ad_put_json(&b, v);
    ad_buf_puts(&b, "\n\n");
    if (!b.failed) ad_http_stream_write(c->x, b.data, b.len);
    ad_buf_deinit(&b);
}

static void send_choice(choice *ch)
{
    completion *c = ch->owner;
    json_t *v = envelope(c, json_pack("[o]", choice_json(ch, !ch->started)));
    if (c->rq.include_usage) json_object_set_new(v, "usage", json_null());
    ch->started = true;
    send_event(c, v);
}

/* ---- the reply's end ---- */

static void count_tokens(const completion *c)
{
    size_t prompt = 0;
    int generated = 0;
    for (int i = 0; i < c->rq.n_prompts; i++) prompt += c->rq.prompts[i].ids.count;
    for (int i = 0; i < c->n_choices; i++) generated += c->choices[i].n_generated;
    ad_metrics_tokens(c->app->metrics, (int)prompt, generated);
    ad_merger_count(c->app->merger, c->n_adapters == 1 ? &c->versions[0]->digest : NULL, (int)prompt + generated);
}

static void finish_stream(completion *c)
{
    ad_http_exchange *x = c->x;
    c->x = NULL;
    ad_http_on_abort(x, NULL, NULL);
    ad_http_stream_write(x, "data: [DONE]\n\n", 14);
    ad_http_stream_end(x);
}

static void finish_reply(completion *c)
{
    json_t *choices = json_array();
    ad_http_exchange *x = c->x;
    for (int i = 0; i < c->n_choices; i++) json_array_append_new(choices, choice_json(&c->choices[i], true));
    json_t *v = envelope(c, choices);
    json_object_set_new(v, "usage", usage_json(c));
    c->x = NULL;
    ad_http_on_abort(x, NULL, NULL);
    ad_reply_json(x, 200, v);
}

/* Something broke: a status if nothing was sent yet, else an error event and a cut stream. */
static void finish_failed(completion *c)
{
    ad_http_exchange *x = c->x;
    cancel_all(c);
    if (c->streaming) send_event(c, ad_fault_json(&c->fault));
    c->x = NULL;
    ad_http_on_abort(x, NULL, NULL);
    if (c->streaming) ad_http_stream_abort(x);
    else ad_reply_fault(x, &c->fault);
}

static void finish_if_done(completion *c)
{
    if (!c->x) return;
    if (c->failed) {
        finish_failed(c);
        return;
    }
    if (c->n_done < c->n_choices) return;
    count_tokens(c);
    if (!c->rq.stream) {
        finish_reply(c);
        return;
    }
    if (c->rq.include_usage) {
        json_t *v = envelope(c, json_array());
        json_object_set_new(v, "usage", usage_json(c));
        send_event(c, v);
    }
    finish_stream(c);
}

static void fail(completion *c, int http, const char *message)
{
    if (c->failed) return;
    c->failed = true;
    ad_fault_set(&c->fault, http, NULL, NULL, "%s", message);
}

/* ---- tokens to text ---- */

static size_t count_chars(ad_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xC0) != 0x80;
    return n;
}

/* The token's own text; part of a character becomes U+FFFD. */
static json_t *token_name(const completion *c, int32_t id)
{
    ad_buf b = {0};
    if (c->rq.tokens_as_ids) {
        ad_buf_printf(&b, "token_id:%d", (int)id);
    } else {
        ad_str s = ad_tokenizer_piece(ad_model_tokenizer(c->app->model), id);
        for (size_t i = 0; i < s.len;) {
            size_t ok = 1;
            while (i + ok < s.len && ((unsigned char)s.ptr[i + ok] & 0xC0) == 0x80) ok++;
            json_t *probe = json_stringn(s.ptr + i, ok);
            if (probe) ad_buf_append(&b, s.ptr + i, ok);
            else ad_buf_puts(&b, "\xEF\xBF\xBD");
            json_decref(probe);
            i += ok;
        }
    }
    json_t *v = json_stringn(b.data ? b.data : "", b.len);
    ad_buf_deinit(&b);
    return v;
}

static json_t *top_json(const completion *c, const ad_token_info *t)
{
    json_t *top = json_object();
    for (int i = -1; i < t->n_top; i++) {
        json_t *name = token_name(c, i < 0 ? t->id : t->top_id[i]);
        const char *key = json_string_value(name);
        if (key && !json_object_get(top, key)) json_object_set_new(top, key, json_real((double)(i < 0 ? t->logprob : t->top_logprob[i])));
        json_decref(name);
    }
    return top;
}

/* first: the first token of a prompt, which nothing precedes. */
static void add_logprob(choice *ch, const ad_token_info *t, bool first)
{
    completion *c = ch->owner;
    logprob_lists *l = &ch->lists;
    const ad_tokenizer *tk = ad_model_tokenizer(c->app->model);
    if (!l->tokens) *l = (logprob_lists){json_array(), json_array(), json_array(), json_array()};
    json_array_append_new(l->tokens, token_name(c, t->id));
    json_array_append_new(l->token_logprobs, first ? json_null() : json_real((double)t->logprob));
    json_array_append_new(l->top_logprobs, first ? json_null() : top_json(c, t));
    json_array_append_new(l->text_offset, json_integer((json_int_t)ch->chars));
    bool hidden = t->ends || (c->rq.skip_special && ad_tokenizer_is_special(tk, t->id));
    if (!hidden) ch->chars += count_chars(ad_tokenizer_piece(tk, t->id));
}

static void on_prompt_logprobs(ad_gen *g, const ad_token_info *infos, int n)
{
    choice *ch = ad_gen_user(g);
    if (!ch->owner->x) return;
    for (int i = 0; i < n; i++) add_logprob(ch, &infos[i], i == 0);
}

static void observe(choice *ch)
{
    uint64_t now = uv_hrtime();
    completion *c = ch->owner;
    if (ch->n_generated == 1) ad_metrics_ttft(c->app->metrics, now - ad_http_start_ns(c->x));
    else ad_metrics_inter_token(c->app->metrics, now - ch->last_token_ns);
    ch->last_token_ns = now;
}

static void end_choice(choice *ch, const char *finish)
{
    completion *c = ch->owner;
    if (ad_detok_finish(ch->detok, &ch->text) != AD_OK || ch->text.failed) fail(c, 503, "out of memory");
    ch->done = true;
    ch->finish = finish;
    c->n_done++;
    if (c->rq.stream && !c->failed) send_choice(ch);
}

static void take_token(choice *ch, const ad_token_info *t)
{
    completion *c = ch->owner;
    bool stopped = false;
    ch->n_generated++;
    observe(ch);
    if (c->rq.return_token_ids) {
        if (!ch->token_ids) ch->token_ids = json_array();
        json_array_append_new(ch->token_ids, json_integer(t->id));
    }
    if (c->rq.sampling.logprobs >= 0) add_logprob(ch, t, false);
    if (!t->ends && (ad_detok_push(ch->detok, t->id, &ch->text, &stopped) != AD_OK || ch->text.failed)) fail(c, 503, "out of memory");
    if (stopped) {
        ad_worker_cancel(ch->gen); /* its end is ours: later tokens are not taken */
        end_choice(ch, "stop");
    } else if (c->rq.stream && !c->failed && !t->ends && (ch->text.len || ch->token_ids || ch->lists.tokens)) {
        send_choice(ch);
    }
}

static void on_tokens(ad_gen *g, const ad_token_info *tokens, int n)
{
    choice *ch = ad_gen_user(g);
    completion *c = ch->owner;
    for (int i = 0; i < n && c->x && !c->failed && !ch->done; i++) take_token(ch, &tokens[i]);
    if (c->failed) finish_if_done(c);
}

static void on_done(ad_gen *g, ad_finish why, const char *error)
{
    choice *ch = ad_gen_user(g);
    completion *c = ch->owner;
    ch->gen = NULL;
    ch->n_cached = ad_gen_cached_tokens(g);
    c->n_running--;
    if (c->x && !ch->done) {
        if (why == AD_FINISH_STOP || why == AD_FINISH_LENGTH) end_choice(ch, why == AD_FINISH_STOP ? "stop" : "length");
        else if (why == AD_FINISH_TIMEOUT) fail(c, 503, "the request waited too long in the queue; try again later");
        else fail(c, why == AD_FINISH_CANCELED ? 503 : 500, error ? error : "the server is shutting down");
    }
    finish_if_done(c);
    free_if_idle(c);
}

/* ---- the start ---- */

static void refuse(completion *c, const ad_fault *f)
{
    ad_http_exchange *x = c->x;
    c->x = NULL;
    ad_http_on_abort(x, NULL, NULL);
    ad_reply_fault(x, f);
    free_if_idle(c);
}

static bool add_adapter(completion *c, const char *name, float weight, const char *param, ad_fault *f)
{
    ad_version *v = NULL;
    ad_err err;
    if (ad_registry_resolve(c->app->registry, name, c->rq.hash, &v, &err) != AD_OK) {
        ad_fault_from(f, &err, param);
        f->code = err.code == AD_ENOTFOUND ? "model_not_found" : "adapter_unusable";
        return false;
    }
    v->requests++;
    ad_registry_touch(v, time(NULL));
    c->versions[c->n_adapters++] = ad_version_lease(v);
    c->mix.weights[c->mix.n++] = weight;
    return true;
}

static bool find_root(completion *c, ad_fault *f)
{
    ad_prefix_identity id = {.n = c->mix.n, .merged = c->merge != NULL, .salt = c->rq.cache_salt};
    ad_err err;
    for (int i = 0; i < c->mix.n; i++) {
        id.adapters[i] = &c->versions[i]->digest;
        id.weights[i] = c->mix.weights[i];
    }
    return ad_prefix_root_of(&c->root, &id, &err) == AD_OK || ad_fault_from(f, &err, NULL);
}

/* Which versions answer: in the body, the header x-adapter-version and the log. */
static void write_receipt(completion *c)
{
    char *at = c->receipt;
    for (int i = 0; i < c->n_adapters; i++) {
        if (i) *at++ = ',';
        ad_digest_hex(&c->versions[i]->digest, at);
        at += 64;
    }
    if (c->n_adapters) ad_http_set_header(c->x, "x-adapter-version", c->receipt);
}

static bool find_model(completion *c, ad_fault *f)
{
    bool is_base = !strcmp(c->rq.model, c->app->served_name), good = true;
    if (!is_base && c->rq.n_adapters)
        return ad_fault_set(f, 400, "invalid_value", "adapters", "`adapters` goes with the base model's name in `model`, which is \"%.150s\"", c->app->served_name);
    if (!is_base) good = add_adapter(c, c->rq.model, 1, "model", f);
    for (int i = 0; good && i < c->rq.n_adapters; i++) good = add_adapter(c, c->rq.adapters[i].name, c->rq.adapters[i].weight, "adapters", f);
    ad_merge *merge = good && c->mix.n == 1 && c->mix.weights[0] == 1 ? ad_merger_find(c->app->merger, &c->versions[0]->digest) : NULL;
    if (merge) c->merge = ad_merge_retain(merge);
    if (good) write_receipt(c);
    return good && find_root(c, f);
}

/* What echo shows: the prompt as it was written, or as its ids decode. */
static bool put_prompt(choice *ch)
{
    completion *c = ch->owner;
    const ad_prompt *p = &c->rq.prompts[ch->prompt];
    if (!c->rq.echo) return true;
    if (p->text.ptr) ad_buf_append(&ch->text, p->text.ptr, p->text.len);
    else ad_tokenizer_decode(ad_model_tokenizer(c->app->model), p->ids.ids, p->ids.count, c->rq.skip_special, &ch->text);
    return !ch->text.failed;
}

static bool start_choice(completion *c, choice *ch, ad_fault *f)
{
    const ad_prompt *p = &c->rq.prompts[ch->prompt];
    ad_err err;
    ad_gen_spec spec = {
        .prompt = p->ids.ids, .n_prompt = (int)p->ids.count, .sampling = c->rq.sampling, .weights = {.mix = c->mix.n && !c->merge ? &c->mix : NULL, .merged = c->merge ? ad_merge_weights(c->merge) : NULL, .root = c->root},
        .on_prompt_logprobs = on_prompt_logprobs, .on_tokens = on_tokens, .on_done = on_done, .user = ch,
    };
    spec.sampling.choice = ch->index % c->rq.n;
    spec.sampling.max_tokens = ad_completion_max_tokens(&c->rq, ch->prompt, ad_worker_context(c->app->worker));
    if (ad_detok_new(&ch->detok, ad_model_tokenizer(c->app->model), c->rq.stops, c->rq.n_stops, c->rq.skip_special, (int)p->ids.count, &err) != AD_OK)
        return ad_fault_from(f, &err, NULL);
    ad_detok_hold_stops(ch->detok, c->rq.sampling.min_tokens);
    if (!put_prompt(ch)) return ad_fault_set(f, 503, NULL, NULL, "out of memory");
    if (ad_worker_submit(c->app->worker, &ch->gen, &spec, &err) != AD_OK) return ad_fault_from(f, &err, NULL);
    c->n_running++;
    return true;
}

static bool start_choices(completion *c, ad_fault *f)
{
    ad_err err;
    int n = c->rq.n_prompts * c->rq.n;
    if (c->app->draining) return ad_fault_set(f, 503, NULL, NULL, "the server is shutting down");
    if (ad_worker_room(c->app->worker, n, &err) != AD_OK) {
        ad_metrics_rejected(c->app->metrics);
        return ad_fault_from(f, &err, NULL);
    }
    c->choices = ad_calloc((size_t)n, sizeof *c->choices);
    if (!c->choices) return ad_fault_set(f, 503, NULL, NULL, "out of memory");
    c->n_choices = n;
    for (int i = 0; i < c->n_choices; i++) c->choices[i] = (choice){.owner = c, .index = i, .prompt = i / c->rq.n};
    for (int i = 0; i < c->n_choices; i++)
        if (!start_choice(c, &c->choices[i], f)) return cancel_all(c), false;
    return true;
}

/* Every adapter is in memory. */
static void start(completion *c)
{
    ad_fault f = {0};
    ad_err err;
    for (int i = 0; i < c->n_adapters && !c->merge; i++) c->mix.sets[i] = ad_adapter_lowrank(c->versions[i]->adapter);
    bool good = c->merge || ad_mix_check(&c->mix, &err) == AD_OK || ad_fault_from(&f, &err, "adapters");
    if (!good || !start_choices(c, &f)) refuse(c, &f);
}

static void on_resident(ad_wait *w, ad_status st, const ad_err *err)
{
    completion *c = w->user;
    ad_fault f = {0};
    c->n_waiting--;
    if (st != AD_OK) {
        for (int i = 0; i < c->n_adapters; i++) ad_keeper_unwait(c->app->keeper, &c->waits[i]);
        ad_fault_from(&f, err, "model");
        if (st == AD_EBUSY) f.code = "adapter_loading";
        refuse(c, &f);
    } else if (!c->n_waiting) {
        start(c);
    }
}

/* Adapters that are not in memory are fetched while others are served; merged weights need none. */
static bool need_adapters(completion *c, ad_fault *f)
{
    for (int i = 0; i < c->n_adapters && !c->merge; i++) {
        bool waiting;
        ad_err err;
        c->waits[i].ready = on_resident;
        c->waits[i].user = c;
        if (ad_keeper_need(c->app->keeper, c->versions[i], &c->waits[i], false, &waiting, &err) != AD_OK) {
            ad_fault_from(f, &err, "model");
            if (err.code == AD_EBUSY) f->code = "adapter_loading";
            for (int j = 0; j < i; j++) ad_keeper_unwait(c->app->keeper, &c->waits[j]);
            return false;
        }
        c->n_waiting += waiting;
    }
    return true;
}

static void begin(completion *c)
{
    ad_fault f = {0};
    if (!find_model(c, &f) || !need_adapters(c, &f)) refuse(c, &f);
    else if (!c->n_waiting) start(c);
}

/* ---- reading the body ---- */

static void parse(completion *c, const char *body, size_t len)
{
    const ad_model *m = c->app->model;
    c->parsed = ad_completion_parse(&c->rq, body, len, ad_model_tokenizer(m), ad_model_get_config(m)->vocab, ad_worker_context(c->app->worker), &c->fault);
}

static void on_pool(uv_work_t *work)
{
    completion *c = work->data;
    parse(c, c->body, c->body_len);
}

static void on_pool_done(uv_work_t *work, int status)
{
    completion *c = work->data;
    (void)status;
    free(c->body);
    c->body = NULL;
    if (!c->x) free_if_idle(c);
    else if (!c->parsed) refuse(c, &c->fault);
    else begin(c);
}

static bool is_json(ad_http_exchange *x)
{
    const char *type = ad_http_header(x, "content-type");
    size_t n = type ? strcspn(type, "; \t") : 0;
    return !type || (n == 16 && !strncasecmp(type, "application/json", n));
}

void ad_handle_completions(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_str body = ad_http_body(x);
    ad_fault f = {0};
    completion *c = is_json(x) ? ad_calloc(1, sizeof *c) : NULL;
    if (!c) {
        if (is_json(x)) ad_fault_set(&f, 503, NULL, NULL, "out of memory");
        else ad_fault_set(&f, 415, NULL, NULL, "The body must be JSON: send the header Content-Type: application/json");
        ad_reply_fault(x, &f);
        return;
    }
    c->app = app;
    c->x = x;
    c->created = time(NULL);
    snprintf(c->id, sizeof c->id, "cmpl-%s", ad_http_request_id(x));
    ad_http_on_abort(x, on_client_gone, c);
    if (body.len > INLINE_BYTES && (c->body = malloc(body.len))) {
        memcpy(c->body, body.ptr, body.len);
        c->body_len = body.len;
        c->work.data = c;
        if (uv_queue_work(app->loop, &c->work, on_pool, on_pool_done) == 0) return;
        free(c->body);
        c->body = NULL;
    }
    parse(c, body.ptr, body.len);
    if (c->parsed) begin(c);
    else refuse(c, &c->fault);
}
