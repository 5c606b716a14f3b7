/* SPDX-License-Identifier: MIT */
/* What the life of the process decides by: the service manager's variables, and whether the engine moves. */
#include <check.h>
#include <stddef.h>
#include <string.h>

#include "server/notify.h"
#include "server/observe/vitals.h"
#include "tests/unit/suite.h"

START_TEST(a_manager_s_socket_is_a_path_or_an_abstract_name)
{
    struct sockaddr_un a;
    char longest[sizeof a.sun_path], too_long[sizeof a.sun_path + 1];
    ck_assert_uint_eq(ad_notify_address("/run/n", &a), offsetof(struct sockaddr_un, sun_path) + 7);
    ck_assert_str_eq(a.sun_path, "/run/n");
    ck_assert_uint_eq(ad_notify_address("@n/1", &a), offsetof(struct sockaddr_un, sun_path) + 4);
    ck_assert_int_eq(memcmp(a.sun_path, "\0n/1", 4), 0);
    memset(longest, 'x', sizeof longest);
    memset(too_long, 'x', sizeof too_long);
    longest[0] = too_long[0] = '/';
    longest[sizeof longest - 1] = too_long[sizeof too_long - 1] = '\0';
    ck_assert_uint_eq(ad_notify_address(longest, &a), sizeof a);
    static const char *const bad[] = {"", "/", "@", "run/n", "vsock:2:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_uint_eq(ad_notify_address(bad[i], &a), 0);
    ck_assert_uint_eq(ad_notify_address(too_long, &a), 0);
}
END_TEST

START_TEST(the_watchdog_is_ours_only_when_it_names_us_or_nobody)
{
    ck_assert_uint_eq(ad_notify_parse_watchdog("30000000", NULL, 7), 30000000);
    ck_assert_uint_eq(ad_notify_parse_watchdog("30000000", "7", 7), 30000000);
    ck_assert_uint_eq(ad_notify_parse_watchdog("30000000", "8", 7), 0);
    ck_assert_uint_eq(ad_notify_parse_watchdog("30000000", "", 7), 0);
    ck_assert_uint_eq(ad_notify_parse_watchdog(NULL, "7", 7), 0);
    static const char *const bad[] = {"", "0", "-1", " 1", "1s", "99999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_uint_eq(ad_notify_parse_watchdog(bad[i], NULL, 7), 0);
}
END_TEST

static ad_vitals_look look(int second, bool has_work, int steps, int tokens)
{
    return (ad_vitals_look){.now_ns = 1000000000u * (uint64_t)second, .has_work = has_work, .steps = (unsigned long long)steps, .generated_tokens = (unsigned long long)tokens, .prompt_tokens = 10ull * (unsigned)tokens};
}

START_TEST(an_engine_stands_still_only_while_it_has_work_and_finishes_no_step)
{
    static const struct { bool has_work; int steps, still_s; } seconds[] = {
        {false, 0, 0}, {false, 0, 0}, {true, 0, 1}, {true, 0, 2}, {true, 1, 0}, {true, 1, 1}, {false, 1, 0}, {true, 1, 1}, {true, 1, 2}, {true, 2, 0}, {true, 9, 0}};
    ad_vitals v = {0};
    for (int i = 0; i < (int)(sizeof seconds / sizeof *seconds); i++) {
        ad_vitals_look l = look(i, seconds[i].has_work, seconds[i].steps, 0);
        ad_vitals_add(&v, &l);
        ck_assert_int_eq(v.still_s, seconds[i].still_s);
    }
}
END_TEST

START_TEST(an_engine_that_has_work_at_the_first_look_is_not_blamed)
{
    ad_vitals v = {0};
    ad_vitals_look l = look(1000, true, 0, 0);
    ad_vitals_add(&v, &l);
    ck_assert_int_eq(v.still_s, 0);
    ck_assert_double_eq(ad_vitals_generated_rate(&v), 0);
}
END_TEST

START_TEST(rates_are_of_the_last_seconds)
{
    ad_vitals v = {0};
    ck_assert_double_eq(ad_vitals_prompt_rate(&v), 0);
    for (int i = 0; i < 20; i++) {
        ad_vitals_look l = look(i, true, i, i < 10 ? 1000 * i : 9000 + 6 * (i - 9)); /* 1000 a second, then 6 */
        ad_vitals_add(&v, &l);
        if (i == 3) ck_assert_double_eq_tol(ad_vitals_generated_rate(&v), 1000, 1e-9);
    }
    ck_assert_double_eq_tol(ad_vitals_generated_rate(&v), 6, 1e-9);
    ck_assert_double_eq_tol(ad_vitals_prompt_rate(&v), 60, 1e-9);
    ck_assert_int_eq(v.n, AD_RATE_SECONDS + 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("life");
    TCase *t = tcase_create("life");
    tcase_add_test(t, a_manager_s_socket_is_a_path_or_an_abstract_name);
    tcase_add_test(t, the_watchdog_is_ours_only_when_it_names_us_or_nobody);
    tcase_add_test(t, an_engine_stands_still_only_while_it_has_work_and_finishes_no_step);
    tcase_add_test(t, an_engine_that_has_work_at_the_first_look_is_not_blamed);
    tcase_add_test(t, rates_are_of_the_last_seconds);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
