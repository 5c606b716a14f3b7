/* SPDX-License-Identifier: MIT */
/* Sampling: each step against its definition, draws against the distribution. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine/sampler.h"
#include "tests/unit/suite.h"

enum { V = 64 };
static ad_kernels k;
static ad_sampler_scratch scratch;
static const ad_history none;

static ad_sampling plain(void)
{
    return (ad_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .max_tokens = 1, .logprobs = -1, .prompt_logprobs = -1, .seed = 7};
}

static void setup(void)
{
    ad_err err;
    ad_kernels_init(&k, 0);
    ck_assert_int_eq(ad_sampler_scratch_init(&scratch, V, &err), AD_OK);
}

static void teardown(void) { ad_sampler_scratch_deinit(&scratch); }

static void ramp(float *l)
{
    for (int i = 0; i < V; i++) l[i] = (float)i * 0.25f;
}

static int32_t draw_one(const ad_sampling *p, const float *l, int position)
{
    ad_token_info info = {0};
    ck_assert(ad_sample(&k, &scratch, p, &none, l, V, V, NULL, position, &info));
    return info.id;
}

START_TEST(greedy_takes_the_lowest_id_of_equal_logits)
{
    float l[V] = {0};
    ad_sampling p = plain();
    p.temperature = 0;
    l[9] = l[33] = 2;
    ck_assert_int_eq(draw_one(&p, l, 0), 9);
}
END_TEST

START_TEST(a_row_with_a_nan_or_an_infinity_is_an_error)
{
    float l[V] = {0};
    ad_token_info info;
    ad_sampling p = plain();
    l[3] = NAN;
    ck_assert(!ad_sample(&k, &scratch, &p, &none, l, V, V, NULL, 0, &info));
    l[3] = INFINITY;
    ck_assert(!ad_sample(&k, &scratch, &p, &none, l, V, V, NULL, 0, &info));
}
END_TEST

START_TEST(a_draw_depends_on_seed_choice_and_position_only)
{
    float l[V];
    ad_sampling p = plain();
    ramp(l);
    p.temperature = 5;
    int same_seed = 0, other_seed = 0, other_choice = 0;
    for (int i = 0; i < 200; i++) {
        int32_t a = draw_one(&p, l, i), b = draw_one(&p, l, i);
        ck_assert_int_eq(a, b);
        same_seed += a == draw_one(&p, l, i + 1);
        p.seed++, other_seed += a == draw_one(&p, l, i), p.seed--;
        p.choice++, other_choice += a == draw_one(&p, l, i), p.choice--;
    }
    ck_assert_int_lt(same_seed, 60);
    ck_assert_int_lt(other_seed, 60);
    ck_assert_int_lt(other_choice, 60);
}
END_TEST

/* 20,000 draws: four standard deviations of each frequency. */
START_TEST(draws_follow_the_softmax)
{
    float l[V];
    int count[V] = {0}, n = 20000;
    double sum = 0;
    ad_sampling p = plain();
    ramp(l);
    p.temperature = 2;
    for (int i = 0; i < V; i++) sum += exp((double)l[i] / 2);
    for (int i = 0; i < n; i++) count[draw_one(&p, l, i)]++;
    for (int i = 0; i < V; i++) {
        double q = exp((double)l[i] / 2) / sum;
        ck_assert_msg(fabs(count[i] - n * q) <= 4 * sqrt(n * q * (1 - q)) + 1, "id %d: %d draws, expected %g", i, count[i], n * q);
    }
}
END_TEST

START_TEST(top_k_top_p_and_min_p_keep_exactly_their_sets)
{
    float l[V];
    ramp(l);
    for (int i = 0; i < 2000; i++) {
        ad_sampling p = plain();
        p.temperature = 3;
        p.top_k = 3;
        ck_assert_int_ge(draw_one(&p, l, i), V - 3);
        p = plain();
        p.top_p = 0.2f; /* the best token has 0.221 */
        ck_assert_int_eq(draw_one(&p, l, i), V - 1);
        p = plain();
        p.min_p = 0.7f; /* exp(-0.25) = 0.779, exp(-0.5) = 0.607 */
        ck_assert_int_ge(draw_one(&p, l, i), V - 2);
    }
}
END_TEST

START_TEST(penalties_change_seen_tokens_once_each)
{
    float l[V] = {0};
    ad_err err;
    ad_history h = {0};
    ad_token_info info;
    int32_t prompt[] = {5, 5, 6};
    ad_sampling p = plain();
    p.temperature = 0;
    ck_assert_int_eq(ad_history_init(&h, V, prompt, 3, &err), AD_OK);
    l[5] = 4, l[7] = 2.5f;
    p.repetition_penalty = 2; /* 4 / 2 = 2 < 2.5; twice in the prompt counts once */
    ck_assert(ad_sample(&k, &scratch, &p, &h, l, V, V, NULL, 0, &info));
    ck_assert_int_eq(info.id, 7);
    p.repetition_penalty = 1, p.presence_penalty = 2; /* prompt tokens are not output */
    ck_assert(ad_sample(&k, &scratch, &p, &h, l, V, V, NULL, 0, &info));
    ck_assert_int_eq(info.id, 5);
    ad_history_add(&h, 5);
    ck_assert(ad_sample(&k, &scratch, &p, &h, l, V, V, NULL, 0, &info));
    ck_assert_int_eq(info.id, 7);
    p.presence_penalty = 0, p.frequency_penalty = 1; /* 4 - 1 = 3 still wins, 4 - 2 = 2 does not */
    ck_assert(ad_sample(&k, &scratch, &p, &h, l, V, V, NULL, 0, &info));
    ck_assert_int_eq(info.id, 5);
    ad_history_add(&h, 5);
    ck_assert(ad_sample(&k, &scratch, &p, &h, l, V, V, NULL, 0, &info));
    ck_assert_int_eq(info.id, 7);
    ad_history_deinit(&h);
}
END_TEST

START_TEST(logprobs_are_those_of_the_raw_logits)
{
    float l[V];
    double sum = 0;
    ad_token_info info;
    ad_sampling p = plain();
    uint64_t all_but_the_last = ((uint64_t)1 << (V - 1)) - 1;
    ramp(l);
    p.temperature = 0, p.logprobs = 5;
    for (int i = 0; i < V; i++) sum += exp((double)l[i]);
    ck_assert(ad_sample(&k, &scratch, &p, &none, l, V, V, &all_but_the_last, 0, &info));
    ck_assert_int_eq(info.id, V - 2);
    ck_assert(fabs((double)info.logprob - ((double)l[V - 2] - log(sum))) < 1e-5);
    ck_assert_int_eq(info.n_top, 5);
    ck_assert_int_eq(info.top_id[0], V - 1);
    ck_assert_int_eq(info.top_id[4], V - 5);
}
END_TEST

START_TEST(padding_rows_of_the_head_are_never_drawn)
{
    float l[V];
    ad_token_info info;
    ad_sampling p = plain();
    ramp(l);
    p.temperature = 50;
    for (int i = 0; i < 500; i++) {
        ck_assert(ad_sample(&k, &scratch, &p, &none, l, V, 10, NULL, i, &info));
        ck_assert_int_lt(info.id, 10);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler");
    TCase *t = tcase_create("sampler");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, greedy_takes_the_lowest_id_of_equal_logits);
    tcase_add_test(t, a_row_with_a_nan_or_an_infinity_is_an_error);
    tcase_add_test(t, a_draw_depends_on_seed_choice_and_position_only);
    tcase_add_test(t, draws_follow_the_softmax);
    tcase_add_test(t, top_k_top_p_and_min_p_keep_exactly_their_sets);
    tcase_add_test(t, penalties_change_seen_tokens_once_each);
    tcase_add_test(t, logprobs_are_those_of_the_raw_logits);
    tcase_add_test(t, padding_rows_of_the_head_are_never_drawn);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
