/* SPDX-License-Identifier: MIT */
/* Self-tests through a real worker on a tiny model. What an adapter must answer, and how far it moves the base, is computed here by the bare
 * forward step. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <uv.h>

#include "server/app.h"
#include "server/selftest.h"

enum { CONTEXT = 300, MAX_TOKENS = 400 };

static const char prompt[] = "the quick brown fox 123", other_prompt[] = "select name from users";

static ad_model *base;
static ad_adapter *adapter, *other;
static uv_loop_t loop;
static ad_app app;
static ad_err err;

static ad_adapter *load(const char *rest)
{
    ad_adapter *a = NULL;
    ck_assert_msg(ad_adapter_load(&a, "x", rest, base, &err) == AD_OK, "%s", err.msg);
    return a;
}

static void open_app(const char *model, const char *first, const char *second)
{
    ad_worker_options opt = {.max_running = 2, .queue_limit = 3, .step_tokens = 64, .context = CONTEXT, .kv_bytes = 32 << 20, .kv_type = AD_KV_F32, .n_threads = 1, .cpu = ad_cpu_detect()};
    base = golden_model(model);
    adapter = load(golden_path(first));
    other = load(golden_path(second));
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    app = (ad_app){.loop = &loop, .model = base};
    ck_assert_msg(ad_worker_new(&app.worker, &loop, base, &opt, &err) == AD_OK, "%s", err.msg);
}

static void setup(void) { open_app("models/llama-gqa", "adapters/all", "adapters/qv"); }
static void setup_spm(void) { open_app("models/llama-spm-mha", "adapters/spm-all", "adapters/spm-all"); }

static void teardown(void)
{
    if (app.worker) ad_worker_close(app.worker, NULL, NULL);
    app.worker = NULL;
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    ad_adapter_release(&adapter);
    ad_adapter_release(&other);
    ad_model_free(&base);
}

/* ---- the same without worker and engine ---- */

typedef struct {
    tu_rig rig;
    void **pages;
    int cached;
    const ad_mix *mix;
    float *logits; /* [MAX_TOKENS, vocab] */
} forward;

static void forward_open(forward *f, const ad_adapter *a)
{
    *f = (forward){.pages = tu_pages_new(base, MAX_TOKENS), .mix = a ? ad_adapter_mix(a) : NULL};
    f->logits = calloc((size_t)MAX_TOKENS * (size_t)ad_model_get_config(base)->vocab, sizeof *f->logits);
    tu_rig_open(&f->rig, base, ad_cpu_detect(), 1, MAX_TOKENS, MAX_TOKENS);
    if (f->mix) ck_assert_int_eq(ad_scratch_reserve(f->rig.scratch, f->mix, &err), AD_OK);
}

static void forward_close(forward *f)
{
    free(f->logits);
    tu_pages_free(f->pages);
    tu_rig_close(&f->rig);
}

static void feed(forward *f, const int32_t *ids, int n)
{
    static const ad_merged *none[MAX_TOKENS];
    int positions[MAX_TOKENS], out[MAX_TOKENS];
    void *const *pages[MAX_TOKENS];
    const ad_mix *mixes[MAX_TOKENS];
    for (int i = 0; i < n; i++) positions[i] = f->cached + i, out[i] = i, pages[i] = f->pages, mixes[i] = f->mix;
    ad_model_step(base, f->rig.scratch, &(ad_step_batch){.n_rows = n, .tokens = ids, .positions = positions, .pages = pages, .mixes = mixes, .merged = none, .n_out = n, .out_rows = out,
                                                         .logits = f->logits});
    f->cached += n;
}

static ad_ids encode(const char *text)
{
    ad_ids ids = {0};
    ck_assert_int_eq(ad_tokenizer_encode(ad_model_tokenizer(base), text, strlen(text), AD_ENCODE_ADD_SPECIAL | AD_ENCODE_PARSE_SPECIAL, &ids, &err), AD_OK);
    return ids;
}

/* The greedy answer of n tokens, as text; owned by the caller. */
static char *answer_of(const ad_adapter *a, const char *text, int n)
{
    int vocab = ad_model_get_config(base)->vocab, rows;
    ad_ids ids = encode(text);
    ad_detok *d = NULL;
    ad_buf b = {0};
    forward f;
    forward_open(&f, a);
    ck_assert_int_eq(ad_detok_new(&d, ad_model_tokenizer(base), NULL, 0, true, (int)ids.count, &err), AD_OK);
    feed(&f, ids.ids, rows = (int)ids.count);
    for (int i = 0; i < n; i++) {
        const float *l = f.logits + (size_t)(rows - 1) * (size_t)vocab;
        int32_t best = 0;
        bool stopped;
        for (int k = 1; k < ad_tokenizer_vocab(ad_model_tokenizer(base)); k++)
            if (l[k] > l[best]) best = k;
        if (ad_tokenizer_is_eog(ad_model_tokenizer(base), best)) break;
        ck_assert_int_eq(ad_detok_push(d, best, &b, &stopped), AD_OK);
        feed(&f, &best, rows = 1);
    }
    ad_detok_free(&d);
    forward_close(&f);
    free(ids.ids);
    return b.data ? b.data : strdup("");
}

static double logprob(const float *l, int vocab, int32_t id)
{
    double sum = 0;
    for (int i = 0; i < vocab; i++) sum += exp((double)l[i] - (double)l[id]);
    return -log(sum);
}

static double divergence_of(const ad_adapter *a, const char *text)
{
    int vocab = ad_model_get_config(base)->vocab;
    ad_ids ids = encode(text);
    forward with, without;
    double sum = 0;
    forward_open(&with, a);
    forward_open(&without, NULL);
    feed(&with, ids.ids, (int)ids.count);
    feed(&without, ids.ids, (int)ids.count);
    for (size_t i = 1; i < ids.count; i++) {
        size_t row = (i - 1) * (size_t)vocab;
        sum += fabs(logprob(with.logits + row, vocab, ids.ids[i]) - logprob(without.logits + row, vocab, ids.ids[i]));
    }
    forward_close(&with);
    forward_close(&without);
    free(ids.ids);
    return sum / (double)(ids.count - 1);
}

/* ---- running one ---- */

static struct {
    int calls;
    ad_status st;
    char message[512];
    json_t *results;
} outcome;

static void on_done(void *user, ad_status st, const ad_err *why, const json_t *results)
{
    ck_assert_ptr_eq(user, &outcome);
    outcome.calls++;
    outcome.st = st;
    snprintf(outcome.message, sizeof outcome.message, "%s", st == AD_OK ? "" : why->msg);
    json_decref(outcome.results);
    outcome.results = json_deep_copy(results);
}

static char *pack(const char *fmt, ...)
{
    va_list ap;
    json_error_t je;
    va_start(ap, fmt);
    json_t *v = json_vpack_ex(&je, 0, fmt, ap);
    va_end(ap);
    ck_assert_msg(v != NULL, "%s", je.text);
    char *text = json_dumps(v, 0);
    json_decref(v);
    return text;
}

static ad_status start(const ad_adapter *a, const char *text)
{
    json_decref(outcome.results);
    memset(&outcome, 0, sizeof outcome);
    ad_status st = ad_selftest_run(&app, a, text, on_done, &outcome, &err);
    ck_assert_int_eq(outcome.calls, 0);
    return st;
}

static int others; /* generations of somebody else that may still run */

/* Takes text. The status that done told. */
static ad_status run(const ad_adapter *a, char *text)
{
    ad_status st = start(a, text);
    ck_assert_msg(st == AD_OK, "%s", err.msg);
    memset(text, 'x', strlen(text)); /* it was borrowed for the call only */
    free(text);
    while (!outcome.calls) uv_run(&loop, UV_RUN_ONCE);
    for (int i = 0; i < 10; i++) uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(outcome.calls, 1);
    ck_assert_int_le(ad_worker_pending(app.worker), others);
    return outcome.st;
}

static const json_t *result(size_t i, const char *key) { return json_object_get(json_array_get(outcome.results, i), key); }
static const char *answer(size_t i) { return json_string_value(result(i, "answer")); }

#define OUTCOME(call, status) do { \
    ad_status got = (call); \
    ck_assert_msg(got == (status), "status %d: %s", (int)got, outcome.message); \
} while (0)

/* ---- texts ---- */

START_TEST(an_adapters_own_answer_passes_and_the_bases_does_not)
{
    char *own = answer_of(adapter, prompt, 8), *bases = answer_of(NULL, prompt, 8);
    ck_assert_uint_gt(strlen(own), 3);
    ck_assert_str_ne(own, bases);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s}]}", "prompts", "prompt", prompt, "expect", own)), AD_OK);
    ck_assert(json_is_true(result(0, "passed")));
    ck_assert_str_eq(json_string_value(result(0, "prompt")), prompt);
    ck_assert_int_eq(strncmp(answer(0), own, strlen(own)), 0);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s}]}", "prompts", "prompt", prompt, "expect", bases)), AD_EMISMATCH);
    ck_assert(json_is_false(result(0, "passed")));
    ck_assert_ptr_nonnull(strstr(outcome.message, "prompt 1: the answer"));
    OUTCOME(run(other, pack("{s:[{s:s, s:s}]}", "prompts", "prompt", prompt, "expect", own)), AD_EMISMATCH);
    free(own), free(bases);
}
END_TEST

START_TEST(an_answer_must_begin_with_what_is_expected_within_its_tokens)
{
    char *eight = answer_of(adapter, prompt, 8), *two = answer_of(adapter, prompt, 2);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s, s:i}]}", "prompts", "prompt", prompt, "expect", two, "max_tokens", 2)), AD_OK);
    ck_assert_str_eq(answer(0), two);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s, s:i}]}", "prompts", "prompt", prompt, "expect", eight, "max_tokens", 8)), AD_OK);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s, s:i}]}", "prompts", "prompt", prompt, "expect", eight, "max_tokens", 2)), AD_EMISMATCH);
    ck_assert_str_eq(answer(0), two);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s+}]}", "prompts", "prompt", prompt, "expect", eight, "!!!")), AD_EMISMATCH);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s+}]}", "prompts", "prompt", prompt, "expect", "!", eight)), AD_EMISMATCH);
    free(eight), free(two);
}
END_TEST

/* A wrong answer is not generated to its end. */
START_TEST(generation_ends_when_the_outcome_is_certain)
{
    char *all = answer_of(adapter, prompt, 200);
    unsigned long long before = atomic_load(&ad_worker_get_stats(app.worker)->generated_tokens);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s+, s:i}]}", "prompts", "prompt", prompt, "expect", "\xE2\x82\xAC", all, "max_tokens", 200)), AD_EMISMATCH);
    ck_assert_uint_lt(atomic_load(&ad_worker_get_stats(app.worker)->generated_tokens) - before, 100);
    free(all);
}
END_TEST

START_TEST(the_space_before_a_word_is_where_completions_have_it)
{
    char text[32], *own = NULL;
    for (int i = 0; i < 100 && (!own || *own != ' '); i++) { /* one whose answer begins with a space */
        free(own);
        snprintf(text, sizeof text, "word %d", i);
        own = answer_of(adapter, text, 6);
    }
    ck_assert_int_eq(*own, ' ');
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s}]}", "prompts", "prompt", text, "expect", own)), AD_OK);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s}]}", "prompts", "prompt", text, "expect", own + 1)), AD_EMISMATCH);
    free(own);
}
END_TEST

/* ---- divergence ---- */

/* 1e-4: log-probabilities are floats of some 1e1. */
START_TEST(divergence_is_the_mean_distance_of_log_probabilities)
{
    double far = divergence_of(adapter, prompt), near = divergence_of(other, prompt);
    ck_assert_double_gt(far, 0.01);
    ck_assert_double_gt(fabs(far - near), 0.01);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:f}]}", "prompts", "prompt", prompt, "max_divergence", far * 1.01)), AD_OK);
    ck_assert_double_eq_tol(json_number_value(result(0, "divergence")), far, 1e-4);
    ck_assert(json_is_true(result(0, "passed")));
    OUTCOME(run(other, pack("{s:[{s:s, s:f}]}", "prompts", "prompt", prompt, "max_divergence", near * 1.01)), AD_OK);
    ck_assert_double_eq_tol(json_number_value(result(0, "divergence")), near, 1e-4);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:f}]}", "prompts", "prompt", prompt, "max_divergence", far * 0.99)), AD_EMISMATCH);
    ck_assert(json_is_false(result(0, "passed")));
    ck_assert_ptr_nonnull(strstr(outcome.message, "prompt 1: the adapter moves the base's answers by"));
    OUTCOME(run(adapter, pack("{s:[{s:s, s:i}]}", "prompts", "prompt", prompt, "max_divergence", 0)), AD_EMISMATCH);
}
END_TEST

/* Once more, when the engine may know the prefixes. */
START_TEST(a_repeated_self_test_has_the_same_outcome)
{
    char *own = answer_of(adapter, prompt, 8);
    double far = divergence_of(adapter, prompt);
    for (int i = 0; i < 4; i++) {
        OUTCOME(run(adapter, pack("{s:[{s:s, s:f}, {s:s, s:s}]}", "prompts", "prompt", prompt, "max_divergence", 1e9, "prompt", prompt, "expect", own)), AD_OK);
        ck_assert_double_eq_tol(json_number_value(result(0, "divergence")), far, 1e-4);
    }
    free(own);
}
END_TEST

/* Nor may what the engine keeps of one adapter's prompt answer for another. */
START_TEST(a_long_prompt_is_each_adapters_own)
{
    char text[150];
    for (size_t i = 0; i < sizeof text - 1; i++) text[i] = (char)('a' + i * 7 % 26);
    text[sizeof text - 1] = '\0';
    ad_ids ids = encode(text);
    ck_assert_uint_gt(ids.count, 3 * AD_KV_PAGE);
    free(ids.ids);
    ad_adapter *turns[] = {adapter, other, adapter, other};
    for (int i = 0; i < 4; i++) {
        char *own = answer_of(turns[i], text, 12);
        OUTCOME(run(turns[i], pack("{s:[{s:s, s:s}, {s:s, s:f}]}", "prompts", "prompt", text, "expect", own, "prompt", text, "max_divergence", 1e9)), AD_OK);
        ck_assert_double_eq_tol(json_number_value(result(1, "divergence")), divergence_of(turns[i], text), 1e-4);
        free(own);
    }
    ck_assert_int_gt((int)atomic_load(&ad_worker_get_stats(app.worker)->cached_tokens), 0);
}
END_TEST

/* ---- several prompts ---- */

START_TEST(answers_do_not_run_into_each_other)
{
    char *one = answer_of(adapter, prompt, 4), *two = answer_of(adapter, other_prompt, 4);
    ck_assert_str_ne(one, two);
    OUTCOME(run(adapter, pack("{s:[{s:s,s:s}, {s:s,s:s}, {s:s,s:s}]}", "prompts", "prompt", prompt, "expect", one, "prompt", other_prompt, "expect", two, "prompt", prompt, "expect", one)), AD_OK);
    ck_assert_str_eq(answer(0), answer(2));
    free(one), free(two);
}
END_TEST

START_TEST(every_prompt_is_run_and_the_first_that_failed_is_named)
{
    char *own = answer_of(adapter, other_prompt, 4);
    OUTCOME(run(adapter, pack("{s:[{s:s,s:s}, {s:s,s:f}, {s:s,s:f}, {s:s,s:s}]}", "prompts", "prompt", other_prompt, "expect", own, "prompt", prompt, "max_divergence", 1e-9,
                              "prompt", prompt, "max_divergence", 1e9, "prompt", other_prompt, "expect", "\xE2\x82\xAC nothing says this")), AD_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(outcome.message, "prompt 2: the adapter moves"));
    ck_assert_uint_eq(json_array_size(outcome.results), 4);
    static const bool passed[] = {true, false, true, false};
    for (size_t i = 0; i < 4; i++) ck_assert_int_eq(json_is_true(result(i, "passed")), passed[i]);
    ck_assert_str_eq(json_string_value(result(0, "prompt")), other_prompt);
    ck_assert(answer(0) && !answer(1) && !answer(2) && answer(3) && result(1, "divergence") && !result(0, "divergence"));
    free(own);
}
END_TEST

START_TEST(as_many_prompts_as_are_allowed_run_one_after_the_other)
{
    char *own = answer_of(adapter, prompt, 3), *one = pack("{s:s, s:s}", "prompt", prompt, "expect", own);
    ad_buf b = {0};
    for (int i = 0; i < AD_SELFTEST_PROMPTS; i++) ad_buf_printf(&b, "%s%s", i ? "," : "{\"prompts\":[", one); /* more than the queue has room for */
    ad_buf_puts(&b, "]}");
    OUTCOME(run(adapter, b.data), AD_OK);
    ck_assert_uint_eq(json_array_size(outcome.results), AD_SELFTEST_PROMPTS);
    free(own), free(one);
}
END_TEST

/* ---- when it cannot run ---- */

static int busy_ended;
static void busy_tokens(ad_gen *g, const ad_token_info *tokens, int n) { (void)g, (void)tokens, (void)n; }
static void busy_done(ad_gen *g, ad_finish why, const char *error) { (void)g, (void)why, (void)error, busy_ended++; }

static ad_gen *occupy(int max_tokens)
{
    static const int32_t ids[] = {1, 2, 3};
    ad_gen *g = NULL;
    ad_gen_spec spec = {.prompt = ids, .n_prompt = 3, .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = max_tokens, .ignore_eos = true, .logprobs = -1, .prompt_logprobs = -1},
                        .on_tokens = busy_tokens, .on_done = busy_done};
    ck_assert_msg(ad_worker_submit(app.worker, &g, &spec, &err) == AD_OK, "%s", err.msg);
    return g;
}

START_TEST(a_full_queue_is_told_at_once)
{
    ad_gen *g[5];
    char *text = pack("{s:[{s:s, s:f}]}", "prompts", "prompt", prompt, "max_divergence", 1.0);
    busy_ended = 0;
    for (int i = 0; i < 5; i++) g[i] = occupy(200); /* max_running + queue_limit */
    ck_assert_int_eq(start(adapter, text), AD_EBUSY);
    for (int i = 0; i < 5; i++) ad_worker_cancel(g[i]);
    while (busy_ended < 5) uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_eq(outcome.calls, 0);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:f}]}", "prompts", "prompt", prompt, "max_divergence", 1e9)), AD_OK);
    free(text);
}
END_TEST

START_TEST(requests_run_beside_it)
{
    busy_ended = 0;
    others = 1;
    occupy(150);
    char *own = answer_of(adapter, prompt, 8);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:s}, {s:s, s:f}]}", "prompts", "prompt", prompt, "expect", own, "prompt", prompt, "max_divergence", divergence_of(adapter, prompt) * 1.01)), AD_OK);
    while (busy_ended < 1) uv_run(&loop, UV_RUN_ONCE);
    free(own);
}
END_TEST

START_TEST(a_server_that_shuts_down_ends_it)
{
    char *own = answer_of(adapter, prompt, 250), *text = pack("{s:[{s:s, s:s}]}", "prompts", "prompt", prompt, "expect", own);
    ck_assert_int_eq(start(adapter, text), AD_OK);
    ad_worker_close(app.worker, NULL, NULL);
    app.worker = NULL; /* as main does */
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(outcome.calls, 1);
    ck_assert_msg(outcome.st == AD_EBUSY && strstr(outcome.message, "shutting down"), "%s", outcome.message);
    ck_assert_uint_eq(json_array_size(outcome.results), 0);
    ck_assert_int_eq(start(adapter, text), AD_EBUSY);
    free(own), free(text);
}
END_TEST

START_TEST(a_prompt_that_does_not_fit_is_refused_by_number)
{
    char longest[4 * CONTEXT];
    for (size_t i = 0; i < sizeof longest - 1; i++) longest[i] = (char)('a' + i * 7 % 26);
    longest[sizeof longest - 1] = '\0';
    char *first = pack("{s:[{s:s, s:f}]}", "prompts", "prompt", longest, "max_divergence", 1.0);
    ck_assert_int_eq(start(adapter, first), AD_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "self-test: prompt 1: "));
    OUTCOME(run(adapter, pack("{s:[{s:s, s:f}, {s:s, s:s}]}", "prompts", "prompt", prompt, "max_divergence", 1e9, "prompt", longest, "expect", "x")), AD_EINVAL);
    ck_assert_ptr_nonnull(strstr(outcome.message, "self-test: prompt 2: "));
    ck_assert_uint_eq(json_array_size(outcome.results), 1);
    OUTCOME(run(adapter, pack("{s:[{s:s, s:f}, {s:s, s:f}]}", "prompts", "prompt", prompt, "max_divergence", 1e-9, "prompt", longest, "max_divergence", 1.0)), AD_EMISMATCH); /* which counts more */
    char *single = pack("{s:[{s:s, s:f}]}", "prompts", "prompt", "a", "max_divergence", 1.0);
    ck_assert_int_eq(start(adapter, single), AD_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "needs two"));
    free(first), free(single);
}
END_TEST

/* lora_alpha 1e38: the adapter overflows. */
START_TEST(an_adapter_that_breaks_the_model_does_not_pass)
{
    char dir[] = "/tmp/ad-selftest-XXXXXX", command[2048];
    const char *from = golden_path("adapters/all");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(command, sizeof command, "cp '%s'/* %s && sed -i 's/\"lora_alpha\": [0-9]*/\"lora_alpha\": 1e38/; s/\"alpha_pattern\": {[^}]*}/\"alpha_pattern\": {}/' %s/adapter_config.json", from, dir, dir);
    ck_assert_int_eq(system(command), 0);
    ad_adapter *broken = load(dir);
    OUTCOME(run(broken, pack("{s:[{s:s, s:f}]}", "prompts", "prompt", prompt, "max_divergence", 1e9)), AD_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(outcome.message, "not finite"));
    OUTCOME(run(broken, pack("{s:[{s:s, s:s}]}", "prompts", "prompt", prompt, "expect", "x")), AD_EMISMATCH);
    ad_adapter_release(&broken);
    snprintf(command, sizeof command, "rm -r %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* ---- what is one at all ---- */

START_TEST(what_is_no_self_test_is_refused_with_the_reason)
{
    static const struct { const char *text, *words; } bad[] = {
        {"", "not JSON"}, {"{", "not JSON: line 1"}, {"[]", "\"prompts\""}, {"{}", "\"prompts\""}, {"{\"prompts\": 1}", "\"prompts\""}, {"{\"prompts\": {}}", "\"prompts\""},
        {"{\"prompts\": []}", "1 to 32"}, {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\"}], \"x\": 1}", "\"prompts\""},
        {"{\"prompts\": [1]}", "prompt 1: is not an object"}, {"{\"prompts\": [{\"expect\": \"a\"}]}", "\"prompt\" is missing"},
        {"{\"prompts\": [{\"prompt\": \"\", \"expect\": \"a\"}]}", "\"prompt\" is missing, empty"}, {"{\"prompts\": [{\"prompt\": 5, \"expect\": \"a\"}]}", "not a string"},
        {"{\"prompts\": [{\"prompt\": \"a\"}]}", "either \"expect\" or"}, {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\", \"max_divergence\": 1}]}", "either \"expect\" or"},
        {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\"}, {\"prompt\": \"a\", \"expect\": \"\"}]}", "prompt 2: \"expect\" is empty"},
        {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": null}]}", "\"expect\" is empty or not a string"},
        {"{\"prompts\": [{\"prompt\": \"a\", \"max_divergence\": -0.1}]}", "\"max_divergence\""}, {"{\"prompts\": [{\"prompt\": \"a\", \"max_divergence\": \"1\"}]}", "\"max_divergence\""},
        {"{\"prompts\": [{\"prompt\": \"a\", \"max_divergence\": 1e999}]}", "not JSON"}, {"{\"prompts\": [{\"prompt\": \"a\", \"max_divergence\": NaN}]}", "not JSON"},
        {"{\"prompts\": [{\"prompt\": \"a\", \"max_divergence\": 1, \"max_tokens\": 5}]}", "goes with"},
        {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\", \"max_tokens\": 0}]}", "1 to 256"}, {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\", \"max_tokens\": 257}]}", "1 to 256"},
        {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\", \"max_tokens\": 1.5}]}", "1 to 256"}, {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\", \"seed\": 1}]}", "\"seed\" is not one of"},
        {"{\"prompts\": [{\"prompt\": \"a\", \"prompt\": \"a\", \"expect\": \"b\"}]}", "not JSON"}, {"{\"prompts\": [{\"prompt\": \"a\\u0000\", \"expect\": \"b\"}]}", "not JSON"},
        {"{\"prompts\": [{\"prompt\": \"a\xFF\", \"expect\": \"b\"}]}", "not JSON"}, {"{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\"}]} x", "not JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ad_status st = ad_selftest_check(bad[i].text, &err);
        ck_assert_msg(st == AD_EINVAL && strstr(err.msg, bad[i].words) && !strncmp(err.msg, "self-test: ", 11), "%s: status %d: %s", bad[i].text, (int)st, err.msg);
    }
    ck_assert_int_eq(ad_selftest_check("{\"prompts\": [{\"prompt\": \"a\", \"expect\": \"b\", \"max_tokens\": 256}, {\"prompt\": \"a\", \"max_divergence\": 0}]}", &err), AD_OK);
}
END_TEST

START_TEST(self_tests_have_limits)
{
    static char text[AD_SELFTEST_BYTES + 2];
    ad_buf b = {0};
    for (int n = AD_SELFTEST_PROMPTS; n <= AD_SELFTEST_PROMPTS + 1; n++) {
        ad_buf_clear(&b);
        for (int i = 0; i < n; i++) ad_buf_printf(&b, "%s{\"prompt\":\"a\",\"expect\":\"b\"}", i ? "," : "{\"prompts\":[");
        ad_buf_puts(&b, "]}");
        ck_assert_int_eq(ad_selftest_check(b.data, &err), n > AD_SELFTEST_PROMPTS ? AD_EINVAL : AD_OK);
    }
    for (int n = AD_SELFTEST_PROMPT; n <= AD_SELFTEST_PROMPT + 1; n++) {
        snprintf(text, sizeof text, "{\"prompts\":[{\"prompt\":\"%0*d\",\"expect\":\"b\"}]}", n, 0);
        ck_assert_int_eq(ad_selftest_check(text, &err), n > AD_SELFTEST_PROMPT ? AD_EINVAL : AD_OK);
    }
    for (int n = AD_SELFTEST_BYTES; n <= AD_SELFTEST_BYTES + 1; n++) {
        snprintf(text, sizeof text, "%-*s", n, "{\"prompts\":[{\"prompt\":\"a\",\"expect\":\"b\"}]}");
        ck_assert_int_eq(ad_selftest_check(text, &err), n > AD_SELFTEST_BYTES ? AD_EINVAL : AD_OK);
    }
    ad_buf_deinit(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("selftest");
    TCase *t = tcase_create("selftest");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, an_adapters_own_answer_passes_and_the_bases_does_not);
    tcase_add_test(t, an_answer_must_begin_with_what_is_expected_within_its_tokens);
    tcase_add_test(t, generation_ends_when_the_outcome_is_certain);
    tcase_add_test(t, divergence_is_the_mean_distance_of_log_probabilities);
    tcase_add_test(t, a_repeated_self_test_has_the_same_outcome);
    tcase_add_test(t, a_long_prompt_is_each_adapters_own);
    tcase_add_test(t, answers_do_not_run_into_each_other);
    tcase_add_test(t, every_prompt_is_run_and_the_first_that_failed_is_named);
    tcase_add_test(t, as_many_prompts_as_are_allowed_run_one_after_the_other);
    tcase_add_test(t, a_full_queue_is_told_at_once);
    tcase_add_test(t, requests_run_beside_it);
    tcase_add_test(t, a_server_that_shuts_down_ends_it);
    tcase_add_test(t, a_prompt_that_does_not_fit_is_refused_by_number);
    tcase_add_test(t, an_adapter_that_breaks_the_model_does_not_pass);
    suite_add_tcase(s, t);
    t = tcase_create("sentencepiece");
    tcase_add_checked_fixture(t, setup_spm, teardown);
    tcase_add_test(t, the_space_before_a_word_is_where_completions_have_it);
    suite_add_tcase(s, t);
    t = tcase_create("reading");
    tcase_add_test(t, what_is_no_self_test_is_refused_with_the_reason);
    tcase_add_test(t, self_tests_have_limits);
    suite_add_tcase(s, t);
    return tu_run(s);
}
