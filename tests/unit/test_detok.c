/* SPDX-License-Identifier: MIT */
/* Streams of text: they add up to the whole, are valid UTF-8 at every moment, and no stop string shows. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <string.h>

#include "core/text/utf8.h"

static ad_tokenizer *tk;
static unsigned rng_state;

static unsigned rng(unsigned below)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (rng_state >> 8) % below;
}

static void load(const char *kind)
{
    ad_err err;
    char rest[64];
    snprintf(rest, sizeof rest, "tokenizers/%s", kind);
    ck_assert_msg(ad_tokenizer_from_dir(&tk, golden_path(rest), &err) == AD_OK, "%s", err.msg);
}

static ad_detok *new_detok(const char *const *stops, int n, int n_prompt)
{
    ad_str list[8] = {{0}};
    ad_err err;
    ad_detok *d = NULL;
    for (int i = 0; i < n; i++) list[i] = (ad_str){stops[i], strlen(stops[i])};
    ck_assert_msg(ad_detok_new(&d, tk, list, n, true, n_prompt, &err) == AD_OK, "%s", err.msg);
    return d;
}

static ad_ids encode(const char *text)
{
    ad_ids ids = {0};
    ad_err err;
    ck_assert_int_eq(ad_tokenizer_encode(tk, text, strlen(text), 0, &ids, &err), AD_OK);
    return ids;
}

/* The stream of ids; asserts that each moment's output is valid UTF-8. */
static char *stream(ad_detok *d, const int32_t *ids, size_t n, bool *stopped)
{
    ad_buf out = {0};
    *stopped = false;
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_eq(ad_detok_push(d, ids[i], &out, stopped), AD_OK);
        ck_assert_uint_eq(ad_utf8_check(out.data ? out.data : "", out.len), out.len);
    }
    ck_assert_int_eq(ad_detok_finish(d, &out), AD_OK);
    ck_assert_uint_eq(ad_utf8_check(out.data ? out.data : "", out.len), out.len);
    ad_detok_free(&d);
    return out.data ? out.data : calloc(1, 1);
}

START_TEST(a_stream_adds_up_to_the_whole_text)
{
    static const char *const kinds[] = {"smollm", "qwen2"};
    for (int k = 0; k < 2; k++) {
        load(kinds[k]);
        for (int round = 0; round < 300; round++) {
            int32_t ids[40];
            size_t n = 1 + rng(40);
            bool stopped;
            for (size_t i = 0; i < n; i++) ids[i] = (int32_t)rng((unsigned)ad_tokenizer_vocab(tk));
            char *text = stream(new_detok(NULL, 0, 1), ids, n, &stopped);
            ad_buf whole = {0};
            ad_tokenizer_decode(tk, ids, n, true, &whole);
            ck_assert_str_eq(text, whole.data ? whole.data : "");
            ad_buf_deinit(&whole);
            free(text);
        }
        ad_tokenizer_free(&tk);
    }
}
END_TEST

START_TEST(half_a_character_waits_for_its_other_half)
{
    load("smollm");
    ad_ids ids = encode("\xF0\x9F\x99\x82\xE2\x82\xAC");
    ck_assert_uint_gt(ids.count, 2); /* bytes apart */
    bool stopped;
    char *text = stream(new_detok(NULL, 0, 1), ids.ids, ids.count, &stopped);
    ck_assert_str_eq(text, "\xF0\x9F\x99\x82\xE2\x82\xAC");
    free(text);
    text = stream(new_detok(NULL, 0, 1), ids.ids, ids.count - 1, &stopped);
    ck_assert_ptr_nonnull(strstr(text, "\xEF\xBF\xBD")); /* the end makes it a replacement */
    free(text);
    free(ids.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

/* Whatever the cut into tokens, the text ends before the earliest stop string and none of it was out before. */
START_TEST(stop_strings_never_show_and_the_earliest_match_ends_the_text)
{
    static const struct { const char *text, *stops[3]; int n; const char *want; } cases[] = {
        {"hello world", {"wor"}, 1, "hello "}, {"aaaaab", {"aab"}, 1, "aaa"}, {"abababac", {"abac"}, 1, "abab"}, {"hello", {"hello!"}, 1, "hello"},
        {"one two three", {"three", "two"}, 2, "one "}, {"xabcy", {"abcd", "bc"}, 2, "xa"}, {"xabc", {"abc", "bc", "c"}, 3, "x"}, {"stop", {"stop"}, 1, ""},
        {"caf\xC3\xA9 \xE2\x82\xAC 5", {"\xE2\x82\xAC"}, 1, "caf\xC3\xA9 "}, {"caf\xC3\xA9", {"\xC3\xA8"}, 1, "caf\xC3\xA9"}, {"a\n\nb\n\n\nc", {"\n\n\n"}, 1, "a\n\nb"},
        {"aXbXXbXXXb", {"XXX"}, 1, "aXbXXb"}, {"ab", {"abc", "bcd"}, 2, "ab"}};
    load("smollm");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ad_ids ids = encode(cases[i].text), bytes = {0};
        ad_err err;
        bool stopped;
        char *text = stream(new_detok(cases[i].stops, cases[i].n, 1), ids.ids, ids.count, &stopped);
        ck_assert_str_eq(text, cases[i].want);
        ck_assert_int_eq(stopped, strlen(cases[i].want) < strlen(cases[i].text));
        free(text);
        for (const char *p = cases[i].text; *p; p++) /* one token a character, where that is possible */
            if ((unsigned char)*p < 0x80) ck_assert_int_eq(ad_tokenizer_encode(tk, p, 1, 0, &bytes, &err), AD_OK);
        if (bytes.count == strlen(cases[i].text)) {
            text = stream(new_detok(cases[i].stops, cases[i].n, 1), bytes.ids, bytes.count, &stopped);
            ck_assert_str_eq(text, cases[i].want);
            free(text);
        }
        free(ids.ids), free(bytes.ids);
    }
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(text_that_cannot_begin_a_stop_string_is_given_out_at_once)
{
    static const char *const stops[] = {"xyz"};
    load("smollm");
    ad_detok *d = new_detok(stops, 1, 1);
    ad_buf out = {0};
    bool stopped;
    ad_ids a = encode("a"), x = encode("x"), b = encode("b");
    ck_assert_int_eq(ad_detok_push(d, a.ids[0], &out, &stopped), AD_OK);
    ck_assert_str_eq(out.data, "a");
    ck_assert_int_eq(ad_detok_push(d, x.ids[0], &out, &stopped), AD_OK);
    ck_assert_str_eq(out.data, "a");
    ck_assert_int_eq(ad_detok_push(d, b.ids[0], &out, &stopped), AD_OK);
    ck_assert_str_eq(out.data, "axb");
    ad_detok_free(&d);
    ad_buf_deinit(&out);
    free(a.ids), free(x.ids), free(b.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(the_stop_string_that_ended_the_text_is_told)
{
    static const char *const stops[] = {"zzz", "two", "ne two", "three"};
    ad_buf out = {0};
    bool stopped = false;
    load("smollm");
    ad_ids ids = encode("one two three");
    ad_detok *d = new_detok(stops, 4, 1);
    ck_assert_int_eq(ad_detok_stop(d), -1);
    for (size_t i = 0; i < ids.count && !stopped; i++) ck_assert_int_eq(ad_detok_push(d, ids.ids[i], &out, &stopped), AD_OK);
    ck_assert(stopped);
    ck_assert_int_eq(ad_detok_stop(d), 2); /* of two that end here the one that began first */
    ad_detok_free(&d);
    ad_buf_deinit(&out);
    free(ids.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(held_stops_look_only_at_text_behind_the_first_tokens)
{
    static const char *const stops[] = {"ab"};
    load("smollm");
    ad_ids a = encode("a"), b = encode("b");
    int32_t ids[6] = {a.ids[0], b.ids[0], a.ids[0], b.ids[0], a.ids[0], b.ids[0]};
    static const char *const want[] = {"", "ab", "ab", "abab", "abab", "ababab"};
    for (int hold = 0; hold < 6; hold++) {
        bool stopped;
        ad_detok *d = new_detok(stops, 1, 1);
        ad_detok_hold_stops(d, hold);
        char *text = stream(d, ids, 6, &stopped);
        ck_assert_str_eq(text, want[hold]);
        free(text);
    }
    free(a.ids), free(b.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(a_sentencepiece_space_is_dropped_only_at_the_start_of_a_text)
{
    load("spm");
    ad_ids ids = encode("the cat");
    bool stopped;
    char *text = stream(new_detok(NULL, 0, 0), ids.ids, ids.count, &stopped);
    ck_assert_str_eq(text, "the cat");
    free(text);
    text = stream(new_detok(NULL, 0, 5), ids.ids, ids.count, &stopped);
    ck_assert_str_eq(text, " the cat");
    free(text);
    free(ids.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(an_empty_stop_string_is_refused)
{
    ad_err err;
    ad_detok *d = NULL;
    load("smollm");
    ck_assert_int_eq(ad_detok_new(&d, tk, &(ad_str){"", 0}, 1, true, 1, &err), AD_EINVAL);
    ck_assert_ptr_null(d);
    ad_tokenizer_free(&tk);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("detok");
    TCase *t = tcase_create("detok");
    tcase_add_test(t, a_stream_adds_up_to_the_whole_text);
    tcase_add_test(t, half_a_character_waits_for_its_other_half);
    tcase_add_test(t, stop_strings_never_show_and_the_earliest_match_ends_the_text);
    tcase_add_test(t, text_that_cannot_begin_a_stop_string_is_given_out_at_once);
    tcase_add_test(t, the_stop_string_that_ended_the_text_is_told);
    tcase_add_test(t, held_stops_look_only_at_text_behind_the_first_tokens);
    tcase_add_test(t, a_sentencepiece_space_is_dropped_only_at_the_start_of_a_text);
    tcase_add_test(t, an_empty_stop_string_is_refused);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
