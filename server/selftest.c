/* SPDX-License-Identifier: MIT */
/* Self-tests: a prompt is one generation with the adapter (`expect`), or one with it and one without, of no tokens at all but with the prompt's
 * log-probabilities (`max_divergence`). Each ends by starting the next. Loop thread. */
#include "server/selftest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/app.h"
#include "server/sched/prefix.h"

typedef struct {
    ad_app *app;
    const ad_adapter *adapter;
    ad_mix mix;               /* of it alone */
    ad_prefix_root roots[2];  /* [with the adapter] */
    json_t *doc;
    const json_t *prompts;    /* in doc */
    json_t *results;
    ad_selftest_done done;
    void *user;
    ad_status st;             /* of the first prompt that did not pass */
    ad_err err;
    /* The prompt under way. */
    size_t at;
    ad_ids ids;
    bool with_adapter;        /* the generation that runs */
    bool decided, passed;
    ad_str expect;            /* in doc; NULL ptr: divergence */
    ad_detok *detok;
    ad_buf answer;
    float *logprobs;          /* [ids.count] with the adapter; [0] unused */
    bool has_logprobs;        /* the generation reported them */
    double divergence;
} run;

/* ---- reading ---- */

static ad_status wrong(ad_err *err, size_t i, const char *what)
{
    return ad_fail(err, AD_EINVAL, "self-test: prompt %zu: %s", i + 1, what);
}

static bool is_known_key(const char *key)
{
    static const char *const known[] = {"prompt", "expect", "max_tokens", "max_divergence"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(key, known[i])) return true;
    return false;
}

static ad_status check_keys(const json_t *p, size_t i, ad_err *err)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)p, key, v)
        if (!is_known_key(key)) return ad_fail(err, AD_EINVAL, "self-test: prompt %zu: \"%.80s\" is not one of prompt, expect, max_tokens, max_divergence", i + 1, key);
    return AD_OK;
}

static ad_status check_prompt(const json_t *p, size_t i, ad_err *err)
{
    const json_t *text = json_object_get(p, "prompt"), *expect = json_object_get(p, "expect"), *tokens = json_object_get(p, "max_tokens"), *most = json_object_get(p, "max_divergence");
    if (!json_is_object(p)) return wrong(err, i, "is not an object");
    ad_status st = check_keys(p, i, err);
    if (st != AD_OK) return st;
    if (!json_string_length(text)) return wrong(err, i, "\"prompt\" is missing, empty or not a string");
    if (json_string_length(text) > AD_SELFTEST_PROMPT) return ad_fail(err, AD_EINVAL, "self-test: prompt %zu: longer than %d bytes", i + 1, AD_SELFTEST_PROMPT);
    if (!expect == !most) return wrong(err, i, "needs either \"expect\" or \"max_divergence\"");
    if (expect && !json_string_length(expect)) return wrong(err, i, "\"expect\" is empty or not a string");
    if (most && (!json_is_number(most) || !(json_number_value(most) >= 0))) return wrong(err, i, "\"max_divergence\" is not a number from 0 on");
    if (tokens && most) return wrong(err, i, "\"max_tokens\" goes with \"expect\"");
    if (tokens && (!json_is_integer(tokens) || json_integer_value(tokens) < 1 || json_integer_value(tokens) > AD_SELFTEST_TOKENS))
        return ad_fail(err, AD_EINVAL, "self-test: prompt %zu: \"max_tokens\" is not a whole number from 1 to %d", i + 1, AD_SELFTEST_TOKENS);
    return AD_OK;
}

/* *out is the document, to be released. */
static ad_status parse(json_t **out, const char *text, ad_err *err)
{
    json_error_t je;
    size_t len = strnlen(text, AD_SELFTEST_BYTES + 1);
    if (len > AD_SELFTEST_BYTES) return ad_fail(err, AD_EINVAL, "self-test: longer than %d bytes", AD_SELFTEST_BYTES);
    json_t *doc = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!doc) return ad_fail(err, AD_EINVAL, "self-test: not JSON: line %d: %s", je.line, je.text);
    const json_t *prompts = json_object_get(doc, "prompts");
    size_t n = json_array_size(prompts);
    ad_status st = AD_OK;
    if (!json_is_array(prompts) || json_object_size(doc) != 1) st = ad_fail(err, AD_EINVAL, "self-test: not an object of one list \"prompts\"");
    else if (n < 1 || n > AD_SELFTEST_PROMPTS) st = ad_fail(err, AD_EINVAL, "self-test: %zu prompts; there may be 1 to %d", n, AD_SELFTEST_PROMPTS);
    for (size_t i = 0; i < n && st == AD_OK; i++) st = check_prompt(json_array_get(prompts, i), i, err);
    if (st == AD_OK) *out = doc;
    else json_decref(doc);
    return st;
}

ad_status ad_selftest_check(const char *text, ad_err *err)
{
    json_t *doc = NULL;
    ad_status st = parse(&doc, text, err);
    json_decref(doc);
    return st;
}

/* ---- the end ---- */

static void run_free(run *r)
{
    json_decref(r->doc);
    json_decref(r->results);
    free(r->ids.ids);
    ad_detok_free(&r->detok);
    ad_buf_deinit(&r->answer);
    free(r->logprobs);
    free(r);
}

static void finish(run *r)
{
    r->done(r->user, r->st, &r->err, r->results);
    run_free(r);
}

/* Ends the run: it could not go on. A prompt that did not pass before counts more. */
static void give_up(run *r, ad_status st, const char *why)
{
    if (r->st == AD_OK) r->st = ad_fail(&r->err, st, "self-test: prompt %zu: %s", r->at + 1, why);
    finish(r);
}

/* ---- the outcome of a prompt ---- */

static const json_t *prompt_of(const run *r) { return json_array_get(r->prompts, r->at); }

static double most_divergence(const run *r) { return json_number_value(json_object_get(prompt_of(r), "max_divergence")); }

static void note_failure(run *r)
{
    if (r->passed || r->st != AD_OK) return;
    if (r->expect.ptr)
        r->st = ad_fail(&r->err, AD_EMISMATCH, "self-test: prompt %zu: the answer \"%.120s\" does not begin with \"%.120s\"", r->at + 1, r->answer.data ? r->answer.data : "", r->expect.ptr);
    else
        r->st = ad_fail(&r->err, AD_EMISMATCH, "self-test: prompt %zu: the adapter moves the base's answers by %.6g nats a token, more than %.6g", r->at + 1,
                        r->divergence, most_divergence(r));
}

static bool add_result(run *r)
{
    json_t *v = json_pack("{s:O, s:b}", "prompt", json_object_get(prompt_of(r), "prompt"), "passed", (int)r->passed);
    int bad = r->expect.ptr ? json_object_set_new(v, "answer", json_stringn(r->answer.data ? r->answer.data : "", r->answer.len))
                            : json_object_set_new(v, "divergence", isfinite(r->divergence) ? json_real(r->divergence) : json_null());
    return json_array_append_new(r->results, v) == 0 && !bad;
}

static ad_status start_prompt(run *r, ad_err *err);

static void conclude(run *r)
{
    ad_err err;
    note_failure(r);
    if (!add_result(r)) {
        give_up(r, AD_ENOMEM, "out of memory");
    } else if (++r->at == json_array_size(r->prompts)) {
        finish(r);
    } else {
        ad_status st = start_prompt(r, &err);
        if (st != AD_OK) give_up(r, st, err.msg);
    }
}

/* ---- answers ---- */

static void compare_answer(run *r, bool ended)
{
    size_t n = r->answer.len < r->expect.len ? r->answer.len : r->expect.len;
    bool same = !n || !memcmp(r->answer.data, r->expect.ptr, n);
    r->passed = same && n == r->expect.len;
    r->decided = ended || r->passed || !same;
}

static void on_tokens(ad_gen *g, const ad_token_info *tokens, int n)
{
    run *r = ad_gen_user(g);
    for (int i = 0; i < n && r->expect.ptr && !r->decided; i++) {
        bool stopped;
        if (!tokens[i].ends && ad_detok_push(r->detok, tokens[i].id, &r->answer, &stopped) != AD_OK) r->answer.failed = true;
        compare_answer(r, r->answer.failed);
        if (r->decided) ad_worker_cancel(g);
    }
}

static void end_answer(run *r)
{
    if (!r->decided) {
        if (ad_detok_finish(r->detok, &r->answer) != AD_OK) r->answer.failed = true;
        compare_answer(r, true);
    }
    if (r->answer.failed) give_up(r, AD_ENOMEM, "out of memory");
    else conclude(r);
}

/* ---- divergence ---- */

static void on_prompt_logprobs(ad_gen *g, const ad_token_info *infos, int n)
{
    run *r = ad_gen_user(g);
    double sum = 0;
    r->has_logprobs = true;
    for (int i = 1; i < n; i++) {
        if (r->with_adapter) r->logprobs[i] = infos[i].logprob;
        else sum += fabs((double)r->logprobs[i] - (double)infos[i].logprob);
    }
    if (!r->with_adapter) r->divergence = sum / (n - 1);
}

static ad_status submit(run *r, bool with_adapter, ad_err *err);

static void end_logprobs(run *r)
{
    ad_err err;
    if (!r->has_logprobs) {
        give_up(r, AD_EIO, "the engine gave no log-probabilities");
    } else if (r->with_adapter) {
        ad_status st = submit(r, false, &err);
        if (st != AD_OK) give_up(r, st, err.msg);
    } else {
        r->passed = r->divergence <= most_divergence(r);
        conclude(r);
    }
}

/* ---- generations ---- */

static void on_done(ad_gen *g, ad_finish why, const char *error)
{
    run *r = ad_gen_user(g);
    if ((why == AD_FINISH_ERROR || why == AD_FINISH_IMPOSSIBLE) && !r->decided) give_up(r, r->with_adapter ? AD_EMISMATCH : AD_EIO, error ? error : "the engine failed");
    else if (why == AD_FINISH_TIMEOUT) give_up(r, AD_EBUSY, "it waited too long in the queue; try again later");
    else if (why == AD_FINISH_CANCELED && !r->decided) give_up(r, AD_EBUSY, "the server is shutting down");
    else if (r->expect.ptr) end_answer(r);
    else end_logprobs(r);
}

static int max_tokens(const run *r)
{
    const json_t *given = json_object_get(prompt_of(r), "max_tokens");
    int room = ad_worker_context(r->app->worker) - (int)r->ids.count;
    if (!r->expect.ptr) return 0;
    if (given) return (int)json_integer_value(given);
    return room < 1 ? 1 : room < AD_SELFTEST_TOKENS ? room : AD_SELFTEST_TOKENS; /* without room for one the worker says so */
}

static ad_status submit(run *r, bool with_adapter, ad_err *err)
{
    if (!r->app->worker) return ad_fail(err, AD_EBUSY, "the server is shutting down");
    r->with_adapter = with_adapter;
    r->has_logprobs = false;
    ad_gen_spec spec = {
        .prompt = r->ids.ids, .n_prompt = (int)r->ids.count,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = max_tokens(r), .logprobs = -1, .prompt_logprobs = r->expect.ptr ? -1 : 0},
        .weights = {.mix = with_adapter ? &r->mix : NULL, .root = r->roots[with_adapter]},
        .on_prompt_logprobs = on_prompt_logprobs, .on_tokens = on_tokens, .on_done = on_done, .user = r,
    };
    ad_gen *g;
    return ad_worker_submit(r->app->worker, &g, &spec, err);
}

static ad_status prepare_answer(run *r, ad_err *err)
{
    const json_t *expect = json_object_get(prompt_of(r), "expect");
    r->expect = (ad_str){json_string_value(expect), json_string_length(expect)};
    return r->expect.ptr ? ad_detok_new(&r->detok, ad_model_tokenizer(r->app->model), NULL, 0, true, (int)r->ids.count, err) : AD_OK;
}

static ad_status prepare_logprobs(run *r, ad_err *err)
{
    if (r->expect.ptr) return AD_OK;
    if (r->ids.count < 2) return ad_fail(err, AD_EINVAL, "one token only, which nothing precedes; \"max_divergence\" needs two");
    r->logprobs = ad_calloc(r->ids.count, sizeof *r->logprobs);
    return r->logprobs ? AD_OK : ad_fail(err, AD_ENOMEM, "out of memory");
}

static ad_status start_prompt(run *r, ad_err *err)
{
    const json_t *text = json_object_get(prompt_of(r), "prompt");
    ad_detok_free(&r->detok);
    ad_buf_clear(&r->answer);
    free(r->logprobs);
    r->logprobs = NULL;
    r->ids.count = 0;
    r->decided = r->passed = false;
    ad_status st = ad_tokenizer_encode(ad_model_tokenizer(r->app->model), json_string_value(text), json_string_length(text), AD_ENCODE_PARSE_SPECIAL | AD_ENCODE_ADD_SPECIAL, &r->ids, err);
    if (st == AD_OK) st = prepare_answer(r, err);
    if (st == AD_OK) st = prepare_logprobs(r, err);
    return st == AD_OK ? submit(r, true, err) : st;
}

/* ---- the start ---- */

/* No request can share these prefixes: their salt is no UTF-8, and salts of requests are. */
static ad_status find_roots(run *r, ad_err *err)
{
    ad_prefix_identity id = {.salt = {"\xFFself-test", 10}};
    ad_status st = ad_prefix_root_of(&r->roots[false], &id, err);
    id.adapters[0] = ad_adapter_digest(r->adapter);
    id.weights[0] = 1;
    id.n = 1;
    return st == AD_OK ? ad_prefix_root_of(&r->roots[true], &id, err) : st;
}

ad_status ad_selftest_run(ad_app *app, const ad_adapter *a, const char *text, ad_selftest_done done, void *user, ad_err *err)
{
    run *r = ad_calloc(1, sizeof *r);
    if (!r) return ad_fail(err, AD_ENOMEM, "self-test: out of memory");
    *r = (run){.app = app, .adapter = a, .mix = *ad_adapter_mix(a), .results = json_array(), .done = done, .user = user};
    ad_err why;
    ad_status st = parse(&r->doc, text, &why);
    r->prompts = json_object_get(r->doc, "prompts");
    if (st != AD_OK) st = ad_fail(err, st, "%s", why.msg);
    else if ((st = find_roots(r, &why)) != AD_OK || (st = start_prompt(r, &why)) != AD_OK) st = ad_fail(err, st, "self-test: prompt 1: %.400s", why.msg);
    if (st != AD_OK) run_free(r);
    return st;
}
