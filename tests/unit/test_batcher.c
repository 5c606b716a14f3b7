/* SPDX-License-Identifier: MIT */
/* The step plan, driven step by step: who gets rows, and how long anybody can wait. */
#include <check.h>
#include <stdbool.h>
#include <stdlib.h>

#include "server/sched/batcher.h"
#include "tests/unit/suite.h"

static const ad_batch_limits open_limits = {64, 0};

/* Of one tenant. */
static int plan(ad_batch_seq *s, int n, const ad_batch_limits *limits)
{
    ad_batch_tenant t = {.weight = 1};
    return ad_batcher_plan(s, n, &t, 1, limits);
}

START_TEST(every_decoding_sequence_gets_its_row_beside_a_long_prompt)
{
    ad_batch_seq s[] = {{.pending = 1}, {.pending = 1000}, {.pending = 1}, {.pending = 1}};
    ck_assert_int_eq(plan(s, 4, &open_limits), 64);
    ck_assert(s[0].rows == 1 && s[2].rows == 1 && s[3].rows == 1);
    ck_assert_int_eq(s[1].rows, 61);
}
END_TEST

START_TEST(prompts_share_a_step_and_the_oldest_gets_what_is_over)
{
    ad_batch_seq s[] = {{.pending = 1000}, {.pending = 10}, {.pending = 1000}};
    ck_assert_int_eq(plan(s, 3, &open_limits), 64);
    ck_assert_int_eq(s[1].rows, 10); /* a short prompt does not wait for the long one before it */
    ck_assert_int_eq(s[0].rows, 64 - 10 - 21);
    ck_assert_int_eq(s[2].rows, 21);
}
END_TEST

START_TEST(a_plan_never_exceeds_its_limits)
{
    ad_batch_seq s[64];
    srand(1);
    for (int t = 0; t < 2000; t++) {
        int n = 1 + rand() % 64, sum = 0;
        size_t bytes = 0;
        ad_batch_limits limits = {64, rand() % 2 ? 300 : 0};
        for (int i = 0; i < n; i++) {
            int g = rand() % 6;
            s[i] = (ad_batch_seq){.pending = rand() % 3 ? 1 : 1 + rand() % 300, .group = g ? &"abcdef"[g] : NULL, .bytes = (size_t)g * 50, .waited = (unsigned)(rand() % 4)};
        }
        int total = plan(s, n, &limits), groups = 0;
        for (int i = 0; i < n; i++) {
            ck_assert(s[i].rows >= 0 && s[i].rows <= s[i].pending);
            sum += s[i].rows;
            bool first = s[i].rows > 0 && s[i].group;
            for (int k = 0; k < i; k++) first &= !(s[k].rows > 0 && s[k].group == s[i].group);
            if (first) bytes += s[i].bytes, groups++;
        }
        ck_assert_int_eq(sum, total);
        ck_assert(total > 0 && total <= 64);
        ck_assert(!limits.adapter_bytes || bytes <= 300 || groups == 1);
    }
}
END_TEST

START_TEST(base_rows_run_in_every_step)
{
    ad_batch_seq s[] = {{.pending = 1, .group = "a", .bytes = 1000, .waited = 9}, {.pending = 1}, {.pending = 1, .group = "b", .bytes = 1000}};
    ad_batch_limits limits = {64, 10};
    ck_assert_int_eq(plan(s, 3, &limits), 2);
    ck_assert(s[0].rows == 1 && s[1].rows == 1 && s[2].rows == 0);
}
END_TEST

START_TEST(adapters_with_more_sequences_go_first_while_nobody_has_waited)
{
    ad_batch_seq s[] = {{.pending = 1, .group = "a", .bytes = 6}, {.pending = 1, .group = "b", .bytes = 6}, {.pending = 1, .group = "b", .bytes = 6}};
    ad_batch_limits limits = {64, 10};
    ck_assert_int_eq(plan(s, 3, &limits), 2);
    ck_assert(s[0].rows == 0 && s[1].rows == 1 && s[2].rows == 1);
}
END_TEST

/* The stated bound: with G groups no sequence waits more than G - 1 steps, whatever the sizes and however many join. */
START_TEST(with_g_adapters_nobody_waits_longer_than_g_minus_1_steps)
{
    static const char names[32];
    for (int groups = 1; groups <= 32; groups += 3) {
        ad_batch_seq s[64];
        unsigned worst = 0;
        int n = 64;
        srand((unsigned)groups);
        for (int i = 0; i < n; i++) {
            int g = i < groups ? i : rand() % groups;
            s[i] = (ad_batch_seq){.pending = rand() % 4 ? 1 : 500, .group = names + g, .bytes = 10 + (size_t)g};
        }
        ad_batch_limits limits = {64, 25};
        for (int step = 0; step < 1000; step++) {
            plan(s, n, &limits);
            for (int i = 0; i < n; i++) {
                s[i].waited = s[i].taken ? 0 : s[i].waited + 1;
                if (s[i].waited > worst) worst = s[i].waited;
                if (rand() % 10 == 0) s[i].pending = rand() % 4 ? 1 : 500; /* one leaves, another of its adapter comes */
            }
        }
        ck_assert_msg(worst <= (unsigned)groups - 1, "%d groups: %u steps", groups, worst);
    }
}
END_TEST

/* ---- tenants ---- */

START_TEST(tenants_share_a_step_by_weight_and_their_prompts_what_they_get)
{
    ad_batch_tenant t[] = {{.weight = 1}, {.weight = 2}};
    ad_batch_seq s[] = {{.pending = 1000}, {.pending = 1000}, {.pending = 1000, .tenant = 1}};
    ck_assert_int_eq(ad_batcher_plan(s, 3, t, 2, &open_limits), 64);
    ck_assert(s[0].rows == 11 && s[1].rows == 11); /* a row of each tenant, a third of 62, and what rounding left */
    ck_assert_int_eq(s[2].rows, 42);
}
END_TEST

START_TEST(what_a_tenant_does_not_want_goes_to_the_others)
{
    ad_batch_tenant t[] = {{.weight = 1}, {.weight = 1}, {.weight = 1}};
    ad_batch_seq s[] = {{.pending = 1000}, {.pending = 5, .tenant = 1}, {.pending = 1000, .tenant = 2}};
    ck_assert_int_eq(ad_batcher_plan(s, 3, t, 3, &open_limits), 64);
    ck_assert_int_eq(s[1].rows, 5);
    ck_assert(s[0].rows == 30 && s[2].rows == 29);
}
END_TEST

START_TEST(sixty_prompts_of_one_tenant_leave_half_of_the_step_to_the_one_of_another)
{
    ad_batch_tenant t[] = {{.weight = 1}, {.weight = 1}};
    ad_batch_seq s[61];
    for (int i = 0; i < 60; i++) s[i] = (ad_batch_seq){.pending = 500};
    s[60] = (ad_batch_seq){.pending = 500, .tenant = 1};
    ck_assert_int_eq(ad_batcher_plan(s, 61, t, 2, &open_limits), 64);
    ck_assert_int_eq(s[60].rows, 32);
    for (int i = 0; i < 60; i++) ck_assert(s[i].taken && s[i].rows == (i < 32));
}
END_TEST

START_TEST(while_others_decode_a_tenants_prompts_make_no_step_much_longer)
{
    ad_batch_tenant t[] = {{.weight = 1}, {.weight = 1}};
    ad_batch_seq s[40] = {{.pending = 500}, {.pending = 1, .tenant = 1}};
    ck_assert_int_eq(ad_batcher_plan(s, 2, t, 2, &open_limits), 17);
    ck_assert_int_eq(s[0].rows, 16); /* a quarter of a step */
    for (int i = 2; i < 40; i++) s[i] = (ad_batch_seq){.pending = 1};
    ck_assert_int_eq(ad_batcher_plan(s, 40, t, 2, &open_limits), 38 + 4 + 1);
    ck_assert_int_eq(s[0].rows, 4); /* an eighth of what it decodes */
    s[1].pending = 9; /* it does not decode: nobody waits for a token */
    ck_assert_int_eq(ad_batcher_plan(s, 40, t, 2, &open_limits), 64);
    t[0].beside = true; /* but will */
    ck_assert_int_eq(ad_batcher_plan(s, 40, t, 2, &open_limits), 38 + 4 + 9);
    ad_batch_limits narrow = {3, 0};
    s[1].pending = 1;
    ck_assert_int_eq(ad_batcher_plan(s, 3, t, 2, &narrow), 3); /* a row at least */
}
END_TEST

START_TEST(a_plan_of_many_tenants_never_exceeds_its_limits)
{
    ad_batch_seq s[64];
    ad_batch_tenant t[8];
    srand(2);
    for (int round = 0; round < 5000; round++) {
        int n = 1 + rand() % 64, n_tenants = 1 + rand() % 8, sum = 0, wanted = 0, decoding = 0;
        ad_batch_limits limits = {64, rand() % 2 ? 300 : 0};
        for (int k = 0; k < n_tenants; k++) t[k] = (ad_batch_tenant){.weight = (1 + rand() % 100) / 10.0, .turns = rand() % 3};
        for (int i = 0; i < n; i++) {
            int g = rand() % 6;
            s[i] = (ad_batch_seq){.pending = rand() % 3 ? 1 : 1 + rand() % 300, .tenant = rand() % n_tenants, .group = g ? &"abcdef"[g] : NULL, .bytes = (size_t)g * 50, .waited = (unsigned)(rand() % 4)};
        }
        int total = ad_batcher_plan(s, n, t, n_tenants, &limits);
        bool served[8] = {0}, asked[8] = {0};
        for (int i = 0; i < n; i++) {
            ck_assert(s[i].rows >= 0 && s[i].rows <= s[i].pending && (s[i].taken || !s[i].rows));
            ck_assert(!s[i].taken || s[i].pending > 1 || s[i].rows == 1);
            sum += s[i].rows;
            wanted += s[i].taken ? s[i].pending : 0;
            decoding += s[i].taken && s[i].pending == 1;
            asked[s[i].tenant] |= s[i].taken;
            served[s[i].tenant] |= s[i].rows > 0;
        }
        ck_assert_int_eq(sum, total);
        ck_assert(total > 0 && total <= 64);
        ck_assert((decoding && n_tenants > 1) || total == (wanted < 64 ? wanted : 64)); /* no row is left while somebody wants it */
        for (int k = 0; k < n_tenants; k++) ck_assert(served[k] == asked[k]);
    }
}
END_TEST

/* Steps that a sequence of each tenant was left out, at most. One adapter fits into a step. */
static void run_turns(const int *groups, const double *weights, int n_tenants, unsigned *worst, int *turns)
{
    static const char names[64];
    ad_batch_seq s[64];
    ad_batch_tenant t[4];
    int n = 0;
    for (int k = 0; k < n_tenants; k++) {
        t[k] = (ad_batch_tenant){.weight = weights[k]};
        worst[k] = 0, turns[k] = 0;
        for (int g = 0; g < groups[k]; g++, n++) s[n] = (ad_batch_seq){.pending = 1, .tenant = k, .group = names + n, .bytes = 20};
    }
    ad_batch_limits limits = {64, 25};
    for (int step = 0; step < 1200; step++) {
        ck_assert_int_eq(ad_batcher_plan(s, n, t, n_tenants, &limits), 1);
        for (int i = 0; i < n; i++) {
            int k = s[i].tenant;
            turns[k] += s[i].taken;
            s[i].waited = s[i].taken ? 0 : s[i].waited + 1;
            if (s[i].waited > worst[k]) worst[k] = s[i].waited;
        }
    }
}

START_TEST(a_tenant_with_one_adapter_gets_its_turn_beside_one_with_thirty)
{
    unsigned worst[4];
    int turns[4];
    run_turns((int[]){30, 1}, (double[]){1, 1}, 2, worst, turns);
    ck_assert_int_eq(turns[1], 600);
    ck_assert_uint_eq(worst[1], 1);
    ck_assert_uint_le(worst[0], 2 * 30 - 1);
    run_turns((int[]){7, 3, 1}, (double[]){1, 1, 1}, 3, worst, turns);
    ck_assert(turns[0] == 400 && turns[1] == 400 && turns[2] == 400);
    ck_assert(worst[0] <= 3 * 7 - 1 && worst[1] <= 3 * 3 - 1 && worst[2] <= 3 - 1);
    run_turns((int[]){5, 5}, (double[]){2, 1}, 2, worst, turns);
    ck_assert(turns[0] == 800 && turns[1] == 400);
}
END_TEST

START_TEST(a_tenant_that_comes_late_claims_no_turns_of_the_past)
{
    ad_batch_tenant t[] = {{.weight = 1}, {.weight = 1}, {.weight = 1}};
    ad_batch_seq s[] = {{.pending = 1, .group = "a", .bytes = 20}, {.pending = 1, .tenant = 1, .group = "b", .bytes = 20}, {.pending = 1, .tenant = 2, .group = "c", .bytes = 20}};
    ad_batch_limits limits = {64, 25};
    int late = 0;
    for (int step = 0; step < 1000; step++) {
        int n = step < 500 ? 2 : 3;
        ad_batcher_plan(s, n, t, n, &limits);
        for (int i = 0; i < n; i++) s[i].waited = s[i].taken ? 0 : s[i].waited + 1;
        if (step >= 500 && step < 530) late += s[2].taken;
    }
    ck_assert_int_eq(late, 10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batcher");
    TCase *t = tcase_create("plan");
    tcase_add_test(t, every_decoding_sequence_gets_its_row_beside_a_long_prompt);
    tcase_add_test(t, prompts_share_a_step_and_the_oldest_gets_what_is_over);
    tcase_add_test(t, a_plan_never_exceeds_its_limits);
    tcase_add_test(t, base_rows_run_in_every_step);
    tcase_add_test(t, adapters_with_more_sequences_go_first_while_nobody_has_waited);
    tcase_add_test(t, with_g_adapters_nobody_waits_longer_than_g_minus_1_steps);
    suite_add_tcase(suite, t);
    t = tcase_create("tenants");
    tcase_add_test(t, tenants_share_a_step_by_weight_and_their_prompts_what_they_get);
    tcase_add_test(t, what_a_tenant_does_not_want_goes_to_the_others);
    tcase_add_test(t, sixty_prompts_of_one_tenant_leave_half_of_the_step_to_the_one_of_another);
    tcase_add_test(t, while_others_decode_a_tenants_prompts_make_no_step_much_longer);
    tcase_add_test(t, a_plan_of_many_tenants_never_exceeds_its_limits);
    tcase_add_test(t, a_tenant_with_one_adapter_gets_its_turn_beside_one_with_thirty);
    tcase_add_test(t, a_tenant_that_comes_late_claims_no_turns_of_the_past);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
