/* SPDX-License-Identifier: MIT */
/* The step plan, driven step by step: who gets rows, and how long anybody can wait. */
#include <check.h>
#include <stdbool.h>
#include <stdlib.h>

#include "server/sched/batcher.h"
#include "tests/unit/suite.h"

static const ad_batch_limits open_limits = {64, 0};

START_TEST(every_decoding_sequence_gets_its_row_beside_a_long_prompt)
{
    ad_batch_seq s[] = {{.pending = 1}, {.pending = 1000}, {.pending = 1}, {.pending = 1}};
    ck_assert_int_eq(ad_batcher_plan(s, 4, &open_limits), 64);
    ck_assert(s[0].rows == 1 && s[2].rows == 1 && s[3].rows == 1);
    ck_assert_int_eq(s[1].rows, 61);
}
END_TEST

START_TEST(prompts_share_a_step_and_the_oldest_gets_what_is_over)
{
    ad_batch_seq s[] = {{.pending = 1000}, {.pending = 10}, {.pending = 1000}};
    ck_assert_int_eq(ad_batcher_plan(s, 3, &open_limits), 64);
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
        int total = ad_batcher_plan(s, n, &limits), groups = 0;
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
    ck_assert_int_eq(ad_batcher_plan(s, 3, &limits), 2);
    ck_assert(s[0].rows == 1 && s[1].rows == 1 && s[2].rows == 0);
}
END_TEST

START_TEST(adapters_with_more_sequences_go_first_while_nobody_has_waited)
{
    ad_batch_seq s[] = {{.pending = 1, .group = "a", .bytes = 6}, {.pending = 1, .group = "b", .bytes = 6}, {.pending = 1, .group = "b", .bytes = 6}};
    ad_batch_limits limits = {64, 10};
    ck_assert_int_eq(ad_batcher_plan(s, 3, &limits), 2);
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
            ad_batcher_plan(s, n, &limits);
            for (int i = 0; i < n; i++) {
                s[i].waited = s[i].rows ? 0 : s[i].waited + 1;
                if (s[i].waited > worst) worst = s[i].waited;
                if (rand() % 10 == 0) s[i].pending = rand() % 4 ? 1 : 500; /* one leaves, another of its adapter comes */
            }
        }
        ck_assert_msg(worst <= (unsigned)groups - 1, "%d groups: %u steps", groups, worst);
    }
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
    return tu_run(suite);
}
