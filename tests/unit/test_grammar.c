/* SPDX-License-Identifier: MIT */
/* Grammars: masks, ends, limits, sharing, and the cache of them. What they accept is compared with Python's re and jsonschema in
 * tests/http/test_grammar.py. */
#include <pthread.h>
#include <string.h>

#include "server/api/grammar_cache.h"
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

enum { WORDS = 64 };
static ad_tokenizer *tk;
static ad_grammar_vocab *vocab;
static int n_vocab;
static const char *const tokenizers[] = {"smollm", "spm"};

static void open_tokenizer(const char *name)
{
    ad_err err;
    char path[64];
    snprintf(path, sizeof path, "tokenizers/%s", name);
    ck_assert_msg(ad_tokenizer_from_dir(&tk, golden_path(path), &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_grammar_vocab_new(&vocab, tk, &err) == AD_OK, "%s", err.msg);
    n_vocab = ad_tokenizer_vocab(tk);
    ck_assert_uint_le(ad_grammar_mask_words(n_vocab), WORDS);
}

static void close_tokenizer(void)
{
    ad_grammar_vocab_free(&vocab);
    ad_tokenizer_free(&tk);
}

static void setup(void) { open_tokenizer("smollm"); }

static ad_grammar *compiled(ad_grammar_kind kind, const char *text)
{
    ad_err err;
    ad_grammar *g = NULL;
    ck_assert_msg(ad_grammar_new(&g, vocab, kind, (ad_str){text, strlen(text)}, &err) == AD_OK, "%s", err.msg);
    return g;
}

static int32_t after(ad_grammar *g, const char *text) { return ad_grammar_next_text(g, AD_GRAMMAR_START, (ad_str){text, strlen(text)}); }
static bool has(const uint64_t *mask, int id) { return mask[id / 64] >> id % 64 & 1; }

START_TEST(a_mask_holds_exactly_the_text_tokens_whose_bytes_may_follow)
{
    static const char *const texts[] = {"", "{", "{\"a", "{\"a\": ", "{\"a\": 1", "{\"\xC3", "{\"a\": [tru", "{}"};
    for (int t = 0; t < 2; t++) {
        close_tokenizer();
        open_tokenizer(tokenizers[t]);
        ad_grammar *g = compiled(AD_GRAMMAR_JSON_OBJECT, "");
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            uint64_t mask[WORDS];
            int32_t state = after(g, texts[i]);
            ck_assert_int_ge(state, 0);
            ck_assert(ad_grammar_mask(g, state, mask));
            for (int id = 0; id < n_vocab; id++) {
                bool text = ad_tokenizer_piece(tk, id).len && !ad_tokenizer_is_special(tk, id) && !ad_tokenizer_is_eog(tk, id);
                ck_assert_msg(has(mask, id) == (text && ad_grammar_next(g, state, id) >= 0), "%s: token %d after %s", tokenizers[t], id, texts[i]);
            }
        }
        ad_grammar_release(&g);
    }
}
END_TEST

START_TEST(a_text_may_end_where_it_is_whole_and_is_done_where_nothing_follows)
{
    ad_grammar *g = compiled(AD_GRAMMAR_REGEX, "ab?|c*"), *object = compiled(AD_GRAMMAR_JSON_OBJECT, "");
    ck_assert_int_eq(ad_grammar_ends(g, AD_GRAMMAR_START), AD_GRAMMAR_MAY_END);
    ck_assert_int_eq(ad_grammar_ends(g, after(g, "a")), AD_GRAMMAR_MAY_END);
    ck_assert_int_eq(ad_grammar_ends(g, after(g, "ab")), AD_GRAMMAR_DONE);
    ck_assert_int_eq(ad_grammar_ends(g, after(g, "ccc")), AD_GRAMMAR_MAY_END);
    ck_assert_int_eq(after(g, "ac"), AD_GRAMMAR_DEAD);
    ck_assert_int_eq(ad_grammar_ends(object, after(object, "{\"a\": {}")), AD_GRAMMAR_OPEN);
    ck_assert_int_eq(ad_grammar_ends(object, after(object, "{\"a\": {}}")), AD_GRAMMAR_DONE);
    ad_grammar_release(&g), ad_grammar_release(&object);
}
END_TEST

START_TEST(blanks_have_an_end)
{
    ad_grammar *g = compiled(AD_GRAMMAR_JSON_OBJECT, "");
    ck_assert_int_ge(after(g, "{\"a\": [1, 2]"), 0);
    static const char *const bad[] = {"{ ", "{\"a\" ", "{\"a\":  ", "{\"a\":\n", "{\"a\": [ ", "{\"a\": 1 ", " {", "{\"a\": 1,  "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(after(g, bad[i]) == AD_GRAMMAR_DEAD, "%s", bad[i]);
    ad_grammar_release(&g);
}
END_TEST

START_TEST(a_mask_is_made_once_and_states_are_found_again)
{
    ad_grammar *g = compiled(AD_GRAMMAR_JSON_OBJECT, "");
    uint64_t one[WORDS], two[WORDS];
    ck_assert(ad_grammar_mask(g, after(g, "{\"key"), one));
    size_t bytes = ad_grammar_bytes(g);
    ck_assert_int_eq(after(g, "{\"key"), after(g, "{\"another key"));
    ck_assert(ad_grammar_mask(g, after(g, "{\"another key"), two));
    ck_assert(!memcmp(one, two, ad_grammar_mask_words(n_vocab) * sizeof *one));
    ck_assert_uint_eq(ad_grammar_bytes(g), bytes);
    ad_grammar_release(&g);
}
END_TEST

START_TEST(counts_cost_nothing_until_they_are_reached)
{
    char text[64];
    ad_grammar *g = compiled(AD_GRAMMAR_REGEX, "(?:(?:a{1,100000}b){2,1000000}c){3,}");
    ck_assert_uint_lt(ad_grammar_bytes(g), 100000);
    ck_assert_int_eq(after(g, "aabc"), AD_GRAMMAR_DEAD);
    ck_assert_int_eq(ad_grammar_ends(g, after(g, "abaabcababcabaaab")), AD_GRAMMAR_OPEN);
    ck_assert_int_eq(ad_grammar_ends(g, after(g, "abaabcababcabaaabc")), AD_GRAMMAR_MAY_END);
    ad_grammar_release(&g);
    for (int n = 0; n < 40; n++) { /* exactly 3 to 37 */
        g = compiled(AD_GRAMMAR_REGEX, "x{3,37}");
        memset(text, 'x', sizeof text);
        text[n] = '\0';
        int32_t state = after(g, text);
        ck_assert_int_eq(state >= 0 && ad_grammar_ends(g, state) != AD_GRAMMAR_OPEN, n >= 3 && n <= 37);
        ad_grammar_release(&g);
    }
}
END_TEST

START_TEST(right_recursion_and_lists_need_no_deeper_stack)
{
    ad_grammar *g = compiled(AD_GRAMMAR_GBNF, "root ::= \"x\" root | \"y\"");
    ck_assert_int_eq(after(g, "x"), after(g, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"));
    ad_grammar_release(&g);
}
END_TEST

START_TEST(deep_nesting_ends_at_a_fixed_depth)
{
    ad_grammar *g = compiled(AD_GRAMMAR_GBNF, "root ::= \"(\" root \")\" | \"x\"");
    int32_t state = AD_GRAMMAR_START;
    int depth = 0;
    for (; depth < 100000; depth++) {
        int32_t next = ad_grammar_next_text(g, state, (ad_str){"(", 1});
        if (next < 0) break;
        state = next;
    }
    ck_assert_int_gt(depth, 500);
    ck_assert_int_lt(depth, 5000);
    ck_assert_int_ge(ad_grammar_next_text(g, state, (ad_str){"x", 1}), 0); /* and can still be finished */
    ad_grammar_release(&g);
}
END_TEST

START_TEST(a_grammar_that_explodes_ends_at_its_limit_and_is_worn)
{
    ad_grammar *g = compiled(AD_GRAMMAR_REGEX, "(?:a|b)*a(?:a|b){600}c");
    uint32_t x = 1;
    int32_t state = AD_GRAMMAR_START;
    for (int i = 0; i < 1000000 && state >= 0; i++) {
        x = x * 1664525u + 1013904223u;
        state = ad_grammar_next_text(g, state, (ad_str){x >> 31 ? "a" : "b", 1});
    }
    ck_assert_int_eq(state, AD_GRAMMAR_LIMIT);
    ck_assert(ad_grammar_worn(g));
    ck_assert_uint_lt(ad_grammar_bytes(g), 100u << 20);
    ck_assert_int_eq(after(g, "c"), AD_GRAMMAR_DEAD); /* what it has goes on to work */
    ad_grammar_release(&g);
}
END_TEST

typedef struct {
    ad_grammar *g;
    uint64_t sum;
} worker;

static void *make_masks(void *arg)
{
    worker *w = arg;
    char text[40] = "{\"";
    for (int i = 0; i < 30; i++) {
        uint64_t mask[WORDS];
        memset(text + 2, 'a', (size_t)i);
        text[i + 2] = '\0';
        ck_assert(ad_grammar_mask(w->g, after(w->g, text), mask));
        for (size_t k = 0; k < ad_grammar_mask_words(n_vocab); k++) w->sum = w->sum * 31 + mask[k];
    }
    ad_grammar_release(&w->g);
    return NULL;
}

START_TEST(threads_that_share_a_grammar_see_the_same)
{
    ad_grammar *g = compiled(AD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\",\"maxLength\":50}}");
    pthread_t threads[4];
    worker workers[4];
    for (int i = 0; i < 4; i++) {
        workers[i] = (worker){ad_grammar_retain(g), 0};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, make_masks, &workers[i]), 0);
    }
    ad_grammar_release(&g);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 1; i < 4; i++) ck_assert_uint_eq(workers[i].sum, workers[0].sum);
}
END_TEST

START_TEST(texts_over_the_limit_are_refused)
{
    ad_err err;
    ad_grammar *g = NULL;
    size_t n = (1 << 20) + 1;
    char *text = malloc(n);
    memset(text, 'a', n);
    ck_assert_int_eq(ad_grammar_new(&g, vocab, AD_GRAMMAR_REGEX, (ad_str){text, n}, &err), AD_ELIMIT);
    ck_assert_int_eq(ad_grammar_new(&g, vocab, AD_GRAMMAR_REGEX, (ad_str){text, n - 1}, &err), AD_ELIMIT); /* instructions */
    memset(text, '(', n);
    ck_assert_int_eq(ad_grammar_new(&g, vocab, AD_GRAMMAR_REGEX, (ad_str){text, n - 1}, &err), AD_ELIMIT);
    ck_assert_int_eq(ad_grammar_new(&g, vocab, AD_GRAMMAR_REGEX, (ad_str){text, 1}, &err), AD_EINVAL);
    ck_assert_ptr_null(g);
    free(text);
}
END_TEST

/* ---- the cache ---- */

static ad_grammar_cache *new_cache(int count, size_t bytes)
{
    ad_err err;
    ad_grammar_cache *c = NULL;
    ck_assert_msg(ad_grammar_cache_new(&c, tk, (ad_grammar_cache_limits){count, bytes}, &err) == AD_OK, "%s", err.msg);
    return c;
}

static ad_grammar *got(ad_grammar_cache *c, ad_grammar_kind kind, const char *text)
{
    ad_err err;
    ad_grammar *g = NULL;
    ck_assert_msg(ad_grammar_cache_get(c, &g, kind, (ad_str){text, strlen(text)}, &err) == AD_OK, "%s", err.msg);
    return g;
}

START_TEST(the_same_text_of_the_same_kind_is_compiled_once)
{
    ad_grammar_cache *c = new_cache(8, 1 << 26);
    ad_grammar *a = got(c, AD_GRAMMAR_REGEX, "[\"a\"]"), *b = got(c, AD_GRAMMAR_REGEX, "[\"a\"]"), *d = got(c, AD_GRAMMAR_CHOICES, "[\"a\"]"), *e = NULL;
    ad_err err;
    json_t *list = json_pack("[s]", "a");
    ck_assert_int_eq(ad_grammar_cache_get_json(c, &e, AD_GRAMMAR_CHOICES, list, &err), AD_OK);
    ck_assert(a == b && a != d && d == e);
    ad_grammar_cache_stats s = ad_grammar_cache_get_stats(c);
    ck_assert(s.hits == 2 && s.misses == 2 && s.count == 2 && s.failures == 0 && s.evictions == 0 && s.bytes > 0);
    json_decref(list);
    ad_grammar_release(&a), ad_grammar_release(&b), ad_grammar_release(&d), ad_grammar_release(&e);
    ad_grammar_cache_free(&c);
}
END_TEST

START_TEST(the_least_recently_used_grammar_leaves_but_lives_on_with_its_users)
{
    ad_grammar_cache *c = new_cache(2, 1 << 26);
    ad_grammar *a = got(c, AD_GRAMMAR_REGEX, "a"), *b = got(c, AD_GRAMMAR_REGEX, "b"), *a2 = got(c, AD_GRAMMAR_REGEX, "a"), *d = got(c, AD_GRAMMAR_REGEX, "d"), *a3 = got(c, AD_GRAMMAR_REGEX, "a");
    ck_assert(a == a2 && a == a3);
    ad_grammar *b2 = got(c, AD_GRAMMAR_REGEX, "b");
    ck_assert_ptr_ne(b, b2);
    ck_assert_int_eq(ad_grammar_ends(b, after(b, "b")), AD_GRAMMAR_DONE);
    ck_assert_uint_eq(ad_grammar_cache_get_stats(c).count, 2);
    ck_assert_uint_eq(ad_grammar_cache_get_stats(c).evictions, 2);
    ad_grammar_release(&a), ad_grammar_release(&a2), ad_grammar_release(&a3), ad_grammar_release(&b), ad_grammar_release(&b2), ad_grammar_release(&d);
    ad_grammar_cache_free(&c);
    c = new_cache(100, 150000); /* each takes some 40 kB */
    for (int i = 0; i < 20; i++) {
        char text[8];
        snprintf(text, sizeof text, "x%d", i);
        a = got(c, AD_GRAMMAR_REGEX, text);
        ad_grammar_release(&a);
    }
    ck_assert_uint_le(ad_grammar_cache_get_stats(c).bytes, 150000);
    ck_assert_uint_gt(ad_grammar_cache_get_stats(c).count, 1);
    ad_grammar_cache_free(&c);
}
END_TEST

START_TEST(a_wrong_text_is_an_error_and_is_not_kept)
{
    ad_err err;
    ad_grammar *g = NULL;
    ad_grammar_cache *c = new_cache(2, 1 << 26);
    ck_assert_int_eq(ad_grammar_cache_get(c, &g, AD_GRAMMAR_REGEX, (ad_str){"(", 1}, &err), AD_EINVAL);
    ck_assert_ptr_null(g);
    ck_assert(ad_grammar_cache_get_stats(c).failures == 1 && ad_grammar_cache_get_stats(c).count == 0);
    ad_grammar_cache_free(&c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("grammar");
    TCase *t = tcase_create("grammar");
    tcase_add_checked_fixture(t, setup, close_tokenizer);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_mask_holds_exactly_the_text_tokens_whose_bytes_may_follow);
    tcase_add_test(t, a_text_may_end_where_it_is_whole_and_is_done_where_nothing_follows);
    tcase_add_test(t, blanks_have_an_end);
    tcase_add_test(t, a_mask_is_made_once_and_states_are_found_again);
    tcase_add_test(t, counts_cost_nothing_until_they_are_reached);
    tcase_add_test(t, right_recursion_and_lists_need_no_deeper_stack);
    tcase_add_test(t, deep_nesting_ends_at_a_fixed_depth);
    tcase_add_test(t, a_grammar_that_explodes_ends_at_its_limit_and_is_worn);
    tcase_add_test(t, threads_that_share_a_grammar_see_the_same);
    tcase_add_test(t, texts_over_the_limit_are_refused);
    tcase_add_test(t, the_same_text_of_the_same_kind_is_compiled_once);
    tcase_add_test(t, the_least_recently_used_grammar_leaves_but_lives_on_with_its_users);
    tcase_add_test(t, a_wrong_text_is_an_error_and_is_not_kept);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
