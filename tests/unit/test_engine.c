/* SPDX-License-Identifier: MIT */
/* Sequences in the engine: pages, limits, ends; and the promise that neither chunks nor threads nor company change a bit. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <string.h>

static ad_model *base;
static ad_kv_type kv_type = AD_KV_F16;

static void setup(void) { base = golden_model("models/llama-gqa"); }
static void teardown(void) { ad_model_free(&base); }

static ad_engine *new_engine(int step_tokens, int threads, int pages)
{
    ad_err err;
    ad_engine *e = NULL;
    ad_engine_options opt = {.max_running = 8, .step_tokens = step_tokens, .context = 256, .kv_bytes = (size_t)pages * ad_kv_page_bytes(base, kv_type), .kv_type = kv_type,
                             .n_threads = threads, .cpu = ad_cpu_detect()};
    ck_assert_msg(ad_engine_new(&e, base, &opt, &err) == AD_OK, "%s", err.msg);
    return e;
}

static const ad_sampling greedy = {.top_p = 1, .repetition_penalty = 1, .max_tokens = 12, .logprobs = 5, .prompt_logprobs = 3, .ignore_eos = true};

static ad_seq *new_seq(int first, int n, const ad_sampling *s)
{
    int32_t prompt[200];
    ad_err err;
    ad_seq *q = NULL;
    for (int i = 0; i < n; i++) prompt[i] = (first + 31 * i) % 1000;
    ck_assert_msg(ad_seq_new(&q, prompt, n, s, (ad_seq_weights){.root = {7, 1}}, &err) == AD_OK, "%s", err.msg);
    return q;
}

typedef struct {
    ad_token_info tokens[64];
    int n;
    ad_finish finish;
} result;

/* Runs all sequences to their end, `chunk` prompt rows each at most per step. */
static void run(ad_engine *e, ad_seq **seqs, int n, int chunk, result *out)
{
    ad_err err;
    memset(out, 0, (size_t)n * sizeof *out);
    for (int i = 0; i < n; i++) ck_assert_msg(ad_engine_admit(e, seqs[i], &err) == AD_OK, "%s", err.msg);
    for (int left = n; left;) {
        ad_step_item items[8];
        int k = 0;
        for (int i = 0; i < n; i++) {
            if (out[i].finish != AD_FINISH_NONE) continue;
            int rows = ad_seq_pending_rows(seqs[i]);
            items[k++] = (ad_step_item){.seq = seqs[i], .rows = rows < chunk ? rows : chunk};
            ck_assert(ad_engine_reserve(e, seqs[i], items[k - 1].rows));
        }
        ad_engine_step(e, items, k);
        for (int j = 0; j < k; j++) {
            int i = 0;
            while (seqs[i] != items[j].seq) i++;
            if (items[j].has_token) out[i].tokens[out[i].n++] = items[j].token;
            out[i].finish = items[j].finish;
            if (out[i].finish == AD_FINISH_NONE) continue;
            ad_engine_remove(e, seqs[i]);
            left--;
        }
    }
}

START_TEST(chunks_threads_and_company_do_not_change_a_bit)
{
    static const struct { int step, threads, chunk; } ways[] = {{200, 1, 200}, {64, 1, 1}, {64, 2, 7}, {64, 3, 16}, {200, 2, 100}};
    result want = {0};
    ad_token_info prompt[60];
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        ad_engine *e = new_engine(ways[w].step, ways[w].threads, 100);
        int n = w % 2 ? 3 : 1; /* alone and in company */
        ad_seq *seqs[3] = {new_seq(5, 60, &greedy), new_seq(77, 3, &greedy), new_seq(900, 31, &greedy)};
        result got[3];
        int chunk = ways[w].chunk * n > ways[w].step ? ways[w].step / n : ways[w].chunk;
        run(e, seqs, n, chunk, got);
        ck_assert_int_eq(got[0].finish, AD_FINISH_LENGTH);
        ck_assert_int_eq(got[0].n, 12);
        ck_assert_ptr_nonnull(ad_seq_prompt_logprobs(seqs[0]));
        if (w == 0) {
            want = got[0];
            memcpy(prompt, ad_seq_prompt_logprobs(seqs[0]), sizeof prompt);
        }
        ck_assert_msg(!memcmp(want.tokens, got[0].tokens, sizeof want.tokens), "way %zu", w);
        ck_assert_msg(!memcmp(prompt, ad_seq_prompt_logprobs(seqs[0]), sizeof prompt), "prompt, way %zu", w);
        for (int i = 0; i < 3; i++) ad_seq_free(&seqs[i]);
        ad_engine_free(&e);
    }
}
END_TEST

START_TEST(logprobs_are_sorted_and_hold_the_greedy_token_first)
{
    ad_engine *e = new_engine(64, 1, 100);
    ad_seq *s = new_seq(5, 20, &greedy);
    result r;
    run(e, &s, 1, 64, &r);
    for (int i = 0; i < r.n; i++) {
        ck_assert_int_eq(r.tokens[i].n_top, 5);
        ck_assert(r.tokens[i].top_id[0] == r.tokens[i].id && r.tokens[i].top_logprob[0] == r.tokens[i].logprob && r.tokens[i].logprob <= 0);
        for (int k = 1; k < 5; k++) ck_assert_float_ge(r.tokens[i].top_logprob[k - 1], r.tokens[i].top_logprob[k]);
    }
    ad_seq_free(&s);
    ad_engine_free(&e);
}
END_TEST

START_TEST(pages_are_taken_as_rows_come_and_given_back)
{
    ad_err err;
    ad_engine *e = new_engine(64, 1, 10);
    ck_assert_int_eq(ad_engine_pages_total(e), 10);
    ck_assert_int_eq(ad_engine_pages_for(1), 1);
    ck_assert_int_eq(ad_engine_pages_for(17), 2);
    ad_seq *a = new_seq(1, 60, &greedy), *b = new_seq(2, 120, &greedy);
    ck_assert_int_eq(ad_engine_admit(e, a, &err), AD_OK);
    ck_assert_int_eq(ad_engine_pages_free(e), 10);
    ck_assert(ad_engine_reserve(e, a, 40));
    ck_assert_int_eq(ad_engine_pages_free(e), 7);
    ck_assert_int_eq(ad_engine_admit(e, b, &err), AD_EBUSY); /* 8 pages and one to spare */
    ck_assert(!ad_engine_reserve(e, a, 200) && ad_engine_pages_free(e) == 7);
    ad_engine_remove(e, a);
    ck_assert_int_eq(ad_engine_pages_free(e), 10);
    ad_engine_remove(e, a); /* twice is nothing */
    ck_assert_int_eq(ad_engine_admit(e, b, &err), AD_OK);
    ad_engine_remove(e, b);
    ad_seq_free(&a), ad_seq_free(&b);
    ad_engine_free(&e);
}
END_TEST

START_TEST(a_known_prefix_is_not_computed_again_and_changes_nothing)
{
    ad_sampling s = greedy;
    s.prompt_logprobs = -1;
    ad_engine *e = new_engine(200, 2, 100);
    result first, second, other;
    ad_seq *a = new_seq(5, 100, &s), *b = new_seq(5, 100, &s);
    run(e, &a, 1, 200, &first);
    ck_assert_int_eq(ad_seq_cached_tokens(a), 0);
    run(e, &b, 1, 7, &second);
    ck_assert_int_eq(ad_seq_cached_tokens(b), 96);
    ck_assert(!memcmp(first.tokens, second.tokens, sizeof first.tokens));
    /* Another root knows nothing of it; asking for prompt logprobs computes every position. */
    ad_err err;
    ad_seq *c = NULL, *d = new_seq(5, 100, &greedy);
    int32_t prompt[100];
    for (int i = 0; i < 100; i++) prompt[i] = (5 + 31 * i) % 1000;
    ck_assert_int_eq(ad_seq_new(&c, prompt, 100, &s, (ad_seq_weights){.root = {8, 1}}, &err), AD_OK);
    run(e, &c, 1, 200, &other);
    ck_assert_int_eq(ad_seq_cached_tokens(c), 0);
    ck_assert(!memcmp(first.tokens, other.tokens, sizeof first.tokens));
    run(e, &d, 1, 200, &other);
    ck_assert_int_eq(ad_seq_cached_tokens(d), 0);
    ck_assert_int_eq(ad_engine_pages_free(e), 100);
    ad_seq_free(&a), ad_seq_free(&b), ad_seq_free(&c), ad_seq_free(&d);
    ad_engine_free(&e);
}
END_TEST

START_TEST(a_sequence_that_is_thrown_out_begins_again_with_the_same_result)
{
    ad_err err;
    ad_sampling s = greedy;
    s.temperature = 1, s.seed = 9, s.repetition_penalty = 1.3f, s.prompt_logprobs = -1;
    result want, got = {0};
    ad_engine *e = new_engine(200, 1, 20), *f = new_engine(200, 1, 20);
    ad_seq *a = new_seq(5, 50, &s), *b = new_seq(5, 50, &s);
    run(e, &a, 1, 200, &want);
    for (int i = 0; got.finish == AD_FINISH_NONE; i++) { /* thrown out after every second step, without its pages */
        if (i % 2 == 0) {
            ad_engine_remove(f, b);
            ad_seq *thief = new_seq(i * 100 + 300, 180, &s);
            result r;
            run(f, &thief, 1, 200, &r);
            ad_seq_free(&thief);
            ck_assert_int_eq(ad_engine_admit(f, b, &err), AD_OK);
        }
        ad_step_item it = {.seq = b, .rows = ad_seq_pending_rows(b)};
        ck_assert(ad_engine_reserve(f, b, it.rows));
        ad_engine_step(f, &it, 1);
        if (it.has_token) got.tokens[got.n++] = it.token;
        got.finish = it.finish;
    }
    ad_engine_remove(f, b);
    ck_assert_int_eq(got.n, want.n);
    ck_assert(!memcmp(want.tokens, got.tokens, sizeof want.tokens));
    ad_seq_free(&a), ad_seq_free(&b);
    ad_engine_free(&e), ad_engine_free(&f);
}
END_TEST

START_TEST(nothing_is_generated_for_max_tokens_0)
{
    ad_engine *e = new_engine(64, 1, 100);
    ad_sampling s = greedy;
    s.max_tokens = 0;
    ad_seq *q = new_seq(5, 20, &s);
    result r;
    run(e, &q, 1, 7, &r);
    ck_assert(r.n == 0 && r.finish == AD_FINISH_LENGTH);
    ck_assert_int_eq(ad_seq_prompt_logprobs(q)[19].n_top, 3);
    ad_seq_free(&q);
    ad_engine_free(&e);
}
END_TEST

/* A model whose next token is the end, if such a prompt is found among a few. */
START_TEST(end_tokens_end_a_text_unless_ignored_or_too_early)
{
    ad_sampling s = greedy;
    s.max_tokens = 60, s.temperature = 2, s.top_p = 1, s.ignore_eos = false, s.seed = 3;
    int ended = 0;
    for (int first = 0; first < 40 && !ended; first++) {
        ad_engine *e = new_engine(64, 1, 100);
        ad_seq *q = new_seq(first, 5, &s);
        result r;
        s.seed++;
        run(e, &q, 1, 64, &r);
        if (r.finish == AD_FINISH_STOP) {
            ended++;
            ck_assert(r.tokens[r.n - 1].ends && ad_tokenizer_is_eog(ad_model_tokenizer(base), r.tokens[r.n - 1].id));
            ad_sampling later = s, never = s;
            later.seed = never.seed = s.seed - 1;
            later.min_tokens = r.n + 1;
            never.ignore_eos = true;
            ad_seq *x = new_seq(first, 5, &later), *y = new_seq(first, 5, &never);
            result rx, ry;
            run(e, &x, 1, 64, &rx);
            run(e, &y, 1, 64, &ry);
            ck_assert_int_gt(rx.n, r.n);
            ck_assert(ry.n == 60 && ry.finish == AD_FINISH_LENGTH && ry.tokens[r.n - 1].id == r.tokens[r.n - 1].id && !ry.tokens[r.n - 1].ends);
            ad_seq_free(&x), ad_seq_free(&y);
        }
        ad_seq_free(&q);
        ad_engine_free(&e);
    }
    ck_assert_int_eq(ended, 1);
}
END_TEST

START_TEST(a_seed_and_a_choice_decide_every_draw)
{
    ad_sampling s = greedy;
    s.temperature = 1, s.seed = 42;
    result a, b, c, d;
    ad_engine *e = new_engine(64, 1, 100);
    ad_seq *q = new_seq(5, 9, &s);
    run(e, &q, 1, 64, &a), ad_seq_free(&q);
    q = new_seq(5, 9, &s), run(e, &q, 1, 2, &b), ad_seq_free(&q);
    s.choice = 1, q = new_seq(5, 9, &s), run(e, &q, 1, 64, &c), ad_seq_free(&q);
    s.choice = 0, s.seed = 43, q = new_seq(5, 9, &s), run(e, &q, 1, 64, &d), ad_seq_free(&q);
    ck_assert(!memcmp(&a, &b, sizeof a) && memcmp(&a, &c, sizeof a) && memcmp(&a, &d, sizeof a));
    ad_engine_free(&e);
}
END_TEST

/* ---- grammars, biases, stop ids ---- */

static ad_grammar_vocab *vocab;

static void setup_grammars(void)
{
    ad_err err;
    setup();
    ck_assert_msg(ad_grammar_vocab_new(&vocab, ad_model_tokenizer(base), &err) == AD_OK, "%s", err.msg);
}

static void teardown_grammars(void)
{
    ad_grammar_vocab_free(&vocab);
    teardown();
}

static ad_grammar *new_grammar(ad_grammar_kind kind, const char *text)
{
    ad_err err;
    ad_grammar *g = NULL;
    ck_assert_msg(ad_grammar_new(&g, vocab, kind, (ad_str){text, strlen(text)}, &err) == AD_OK, "%s", err.msg);
    return g;
}

static const char SCHEMA[] = "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\",\"minimum\":0},\"s\":{\"type\":\"string\",\"maxLength\":9},\"b\":{\"type\":\"boolean\"}},\"required\":[\"n\",\"s\"]}";

/* Random draws of 40 tokens that may end before. */
static ad_sampling drawn(ad_grammar *g, uint64_t seed)
{
    ad_sampling s = greedy;
    s.temperature = 1, s.seed = seed, s.max_tokens = 40, s.prompt_logprobs = -1, s.ignore_eos = false, s.grammar = g;
    return s;
}

/* The state after what was drawn; every token but the last must have been text. */
static int32_t state_of(ad_grammar *g, const result *r)
{
    int32_t state = AD_GRAMMAR_START;
    for (int i = 0; i < r->n && !r->tokens[i].ends; i++) {
        ck_assert(!ad_tokenizer_is_special(ad_model_tokenizer(base), r->tokens[i].id));
        state = ad_grammar_next(g, state, r->tokens[i].id);
        ck_assert_int_ge(state, 0);
    }
    return state;
}

START_TEST(rows_keep_their_bits_beside_rows_with_grammars)
{
    ad_grammar *grammars[2] = {new_grammar(AD_GRAMMAR_JSON_SCHEMA, SCHEMA), new_grammar(AD_GRAMMAR_REGEX, "[a-z ]{30,}")};
    result alone[8], together[8];
    ad_seq *seqs[8];
    for (int i = 0; i < 8; i++) {
        ad_sampling s = drawn(i % 2 ? grammars[i / 2 % 2] : NULL, (uint64_t)i);
        ad_engine *e = new_engine(64, 1, 100);
        ad_seq *q = new_seq(17 * i, 5 + 4 * i, &s);
        run(e, &q, 1, 64, &alone[i]);
        ad_seq_free(&q);
        ad_engine_free(&e);
        seqs[i] = new_seq(17 * i, 5 + 4 * i, &s);
    }
    ad_engine *e = new_engine(200, 2, 100);
    run(e, seqs, 8, 9, together);
    for (int i = 0; i < 8; i++) {
        ck_assert_msg(!memcmp(&alone[i], &together[i], sizeof alone[i]), "sequence %d", i);
        ad_seq_free(&seqs[i]);
    }
    ad_engine_free(&e);
    ad_grammar_release(&grammars[0]), ad_grammar_release(&grammars[1]);
}
END_TEST

START_TEST(a_text_follows_its_grammar_and_ends_by_itself_when_that_is_done)
{
    ad_grammar *g = new_grammar(AD_GRAMMAR_JSON_SCHEMA, SCHEMA), *list = new_grammar(AD_GRAMMAR_REGEX, "(?:[ab]{3},?)+");
    ad_engine *e = new_engine(64, 2, 100);
    int done = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        ad_sampling s = drawn(seed % 2 ? list : g, seed);
        s.min_tokens = seed % 2 ? 0 : 39; /* a grammar that is done ends the text whatever is asked for */
        ad_seq *q = new_seq((int)seed, 9, &s);
        result r;
        run(e, &q, 1, 64, &r);
        ad_grammar_end end = ad_grammar_ends(s.grammar, state_of(s.grammar, &r));
        if (r.finish == AD_FINISH_STOP) ck_assert_int_eq(end, r.tokens[r.n - 1].ends ? AD_GRAMMAR_MAY_END : AD_GRAMMAR_DONE);
        else ck_assert_int_eq(r.finish, AD_FINISH_LENGTH);
        done += end == AD_GRAMMAR_DONE;
        ad_seq_free(&q);
    }
    ck_assert_int_gt(done, 0);
    ad_engine_free(&e);
    ad_grammar_release(&g), ad_grammar_release(&list);
}
END_TEST

START_TEST(an_end_is_drawn_only_where_the_grammar_min_tokens_and_ignore_eos_allow_it)
{
    ad_grammar *g = new_grammar(AD_GRAMMAR_REGEX, "(?:a{8})*");
    ad_engine *e = new_engine(64, 1, 100);
    int n;
    int32_t eog = ad_tokenizer_eogs(ad_model_tokenizer(base), &n)[0];
    ad_logit_bias bias = {eog, 100};
    ad_sampling s = drawn(g, 1);
    s.logit_bias = &bias, s.n_logit_bias = 1; /* as soon as it may */
    for (int way = 0; way < 3; way++) {
        s.min_tokens = way == 1 ? 2 : 0;
        s.ignore_eos = way == 2;
        ad_seq *q = new_seq(3, 9, &s);
        result r;
        run(e, &q, 1, 64, &r);
        if (way == 0) ck_assert(r.n == 1 && r.tokens[0].id == eog && r.tokens[0].ends && r.finish == AD_FINISH_STOP);
        if (way == 1) ck_assert(r.n > 2 && r.tokens[r.n - 1].ends);
        if (way == 2) ck_assert(r.n == 40 && r.finish == AD_FINISH_LENGTH);
        state_of(g, &r);
        ad_seq_free(&q);
    }
    ad_engine_free(&e);
    ad_grammar_release(&g);
}
END_TEST

START_TEST(a_constrained_sequence_that_is_thrown_out_goes_on_in_its_grammar)
{
    ad_err err;
    ad_grammar *g = new_grammar(AD_GRAMMAR_JSON_SCHEMA, SCHEMA);
    ad_sampling s = drawn(g, 5);
    result want, got = {0};
    ad_engine *e = new_engine(200, 1, 20), *f = new_engine(200, 1, 20);
    ad_seq *a = new_seq(5, 50, &s), *b = new_seq(5, 50, &s);
    run(e, &a, 1, 200, &want);
    while (got.finish == AD_FINISH_NONE) {
        ck_assert_int_eq(ad_engine_admit(f, b, &err), AD_OK);
        ad_step_item it = {.seq = b, .rows = ad_seq_pending_rows(b)};
        ck_assert(ad_engine_reserve(f, b, it.rows));
        ad_engine_step(f, &it, 1);
        if (it.has_token) got.tokens[got.n++] = it.token;
        got.finish = it.finish;
        ad_engine_remove(f, b);
    }
    ck_assert(!memcmp(&want, &got, sizeof want));
    ad_seq_free(&a), ad_seq_free(&b);
    ad_engine_free(&e), ad_engine_free(&f);
    ad_grammar_release(&g);
}
END_TEST

START_TEST(stop_ids_end_a_text_and_biases_and_allowed_ids_choose_tokens)
{
    ad_sampling s = greedy;
    result plain, r;
    ad_engine *e = new_engine(64, 1, 100);
    ad_seq *q = new_seq(5, 20, &s);
    run(e, &q, 1, 64, &plain), ad_seq_free(&q);
    int32_t third = plain.tokens[2].id, allowed[] = {77, 5, 900000};
    int first_at = 0;
    while (plain.tokens[first_at].id != third) first_at++;
    s.stop_token_ids = &third, s.n_stop_token_ids = 1; /* ignore_eos does not concern it */
    q = new_seq(5, 20, &s), run(e, &q, 1, 64, &r), ad_seq_free(&q);
    ck_assert(r.n == first_at + 1 && r.finish == AD_FINISH_STOP && r.tokens[r.n - 1].ends && r.tokens[r.n - 1].id == third);
    s.min_tokens = 6;
    q = new_seq(5, 20, &s), run(e, &q, 1, 64, &r), ad_seq_free(&q);
    for (int i = 0; i < r.n && i < 6; i++) ck_assert_int_ne(r.tokens[i].id, third);
    s = greedy;
    ad_logit_bias biases[] = {{42, 100}, {900000, 100}};
    s.logit_bias = biases, s.n_logit_bias = 2;
    q = new_seq(5, 20, &s), run(e, &q, 1, 64, &r), ad_seq_free(&q);
    for (int i = 0; i < r.n; i++) ck_assert_int_eq(r.tokens[i].id, 42);
    ck_assert(!memcmp(r.tokens[0].top_logprob, plain.tokens[0].top_logprob, sizeof plain.tokens[0].top_logprob)); /* raw */
    s.n_logit_bias = 0, s.allowed_token_ids = allowed, s.n_allowed_token_ids = 3, s.temperature = 5;
    q = new_seq(5, 20, &s), run(e, &q, 1, 64, &r), ad_seq_free(&q);
    for (int i = 0; i < r.n; i++) ck_assert(r.tokens[i].id == 77 || r.tokens[i].id == 5);
    ad_engine_free(&e);
}
END_TEST

START_TEST(constraints_that_leave_nothing_end_only_their_own_sequence)
{
    int32_t none[] = {900000};
    ad_sampling bad = greedy, good = greedy;
    bad.allowed_token_ids = none, bad.n_allowed_token_ids = 1;
    good.prompt_logprobs = bad.prompt_logprobs = -1;
    ad_engine *e = new_engine(64, 2, 100);
    ad_seq *seqs[2] = {new_seq(5, 20, &bad), new_seq(6, 20, &good)};
    result r[2];
    run(e, seqs, 2, 30, r);
    ck_assert(r[0].n == 0 && r[0].finish == AD_FINISH_IMPOSSIBLE);
    ck_assert(r[1].n == 12 && r[1].finish == AD_FINISH_LENGTH);
    ad_seq_free(&seqs[0]), ad_seq_free(&seqs[1]);
    ad_engine_free(&e);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engine");
    TCase *t = tcase_create("engine");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, chunks_threads_and_company_do_not_change_a_bit);
    tcase_add_test(t, logprobs_are_sorted_and_hold_the_greedy_token_first);
    tcase_add_test(t, pages_are_taken_as_rows_come_and_given_back);
    tcase_add_test(t, a_known_prefix_is_not_computed_again_and_changes_nothing);
    tcase_add_test(t, a_sequence_that_is_thrown_out_begins_again_with_the_same_result);
    tcase_add_test(t, nothing_is_generated_for_max_tokens_0);
    tcase_add_test(t, end_tokens_end_a_text_unless_ignored_or_too_early);
    tcase_add_test(t, a_seed_and_a_choice_decide_every_draw);
    suite_add_tcase(suite, t);
    t = tcase_create("constraints");
    tcase_add_checked_fixture(t, setup_grammars, teardown_grammars);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, rows_keep_their_bits_beside_rows_with_grammars);
    tcase_add_test(t, a_text_follows_its_grammar_and_ends_by_itself_when_that_is_done);
    tcase_add_test(t, an_end_is_drawn_only_where_the_grammar_min_tokens_and_ignore_eos_allow_it);
    tcase_add_test(t, a_constrained_sequence_that_is_thrown_out_goes_on_in_its_grammar);
    tcase_add_test(t, stop_ids_end_a_text_and_biases_and_allowed_ids_choose_tokens);
    tcase_add_test(t, constraints_that_leave_nothing_end_only_their_own_sequence);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
