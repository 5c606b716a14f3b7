/* SPDX-License-Identifier: MIT */
/* The step plan. */
#include <check.h>
#include <stdlib.h>

#include "server/sched/batcher.h"

START_TEST(every_decoding_sequence_gets_its_row_beside_a_long_prompt)
{
    int pending[] = {1, 1000, 1, 1}, rows[4];
    ck_assert_int_eq(ad_batcher_plan(pending, 4, 64, rows), 64);
    ck_assert_int_eq(rows[0] + rows[2] + rows[3], 3);
    ck_assert_int_eq(rows[1], 61);
}
END_TEST

START_TEST(prompts_are_filled_oldest_first)
{
    int pending[] = {40, 40, 40}, rows[3];
    ck_assert_int_eq(ad_batcher_plan(pending, 3, 64, rows), 64);
    ck_assert_int_eq(rows[0], 40);
    ck_assert_int_eq(rows[1], 24);
    ck_assert_int_eq(rows[2], 0);
}
END_TEST

START_TEST(a_plan_never_exceeds_the_rows_of_a_step)
{
    int pending[64], rows[64];
    srand(1);
    for (int t = 0; t < 1000; t++) {
        int n = 1 + rand() % 64, sum = 0;
        for (int i = 0; i < n; i++) pending[i] = rand() % 3 ? 1 : 1 + rand() % 300;
        int total = ad_batcher_plan(pending, n, 64, rows);
        for (int i = 0; i < n; i++) {
            ck_assert_int_le(rows[i], pending[i]);
            sum += rows[i];
        }
        ck_assert_int_eq(sum, total);
        ck_assert_int_le(total, 64);
        ck_assert_int_gt(total, 0);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batcher");
    TCase *t = tcase_create("plan");
    tcase_add_test(t, every_decoding_sequence_gets_its_row_beside_a_long_prompt);
    tcase_add_test(t, prompts_are_filled_oldest_first);
    tcase_add_test(t, a_plan_never_exceeds_the_rows_of_a_step);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
