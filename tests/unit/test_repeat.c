/* SPDX-License-Identifier: MIT */
/* Lines that come again and again. */
#include "server/observe/repeat.h"
#include "tests/unit/suite.h"

#include <stdlib.h>

static const char a[] = "a", b[] = "b";

START_TEST(the_first_ten_of_a_window_are_said_and_the_rest_is_counted)
{
    ad_repeat r = {0};
    unsigned held = 99;
    for (int i = 0; i < AD_REPEAT_BURST; i++) ck_assert(ad_repeat_allow(&r, a, 100 + i / 5, &held) && held == 0);
    for (int i = 0; i < 1000; i++) ck_assert(!ad_repeat_allow(&r, a, 100 + AD_REPEAT_WINDOW_S - 1, &held));
    ck_assert(ad_repeat_allow(&r, a, 100 + AD_REPEAT_WINDOW_S, &held));
    ck_assert_uint_eq(held, 1000);
    ck_assert(ad_repeat_allow(&r, a, 100 + AD_REPEAT_WINDOW_S, &held));
    ck_assert_uint_eq(held, 0);
}
END_TEST

START_TEST(one_class_does_not_silence_another)
{
    ad_repeat r = {0};
    unsigned held;
    for (int i = 0; i < 100; i++) (void)ad_repeat_allow(&r, a, 5, &held);
    ck_assert(ad_repeat_allow(&r, b, 5, &held));
    ck_assert_uint_eq(held, 0);
    ck_assert(!ad_repeat_allow(&r, a, 5, &held));
}
END_TEST

START_TEST(what_there_is_no_room_for_is_said)
{
    static char classes[2 * AD_REPEAT_CLASSES];
    ad_repeat r = {0};
    unsigned held;
    for (int i = 0; i < 2 * AD_REPEAT_CLASSES; i++) ck_assert(ad_repeat_allow(&r, classes + i, 5, &held));
    for (int i = 0; i < 100; i++) ck_assert(ad_repeat_allow(&r, classes + 2 * AD_REPEAT_CLASSES - 1, 5, &held));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("repeat");
    TCase *tc = tcase_create("windows");
    tcase_add_test(tc, the_first_ten_of_a_window_are_said_and_the_rest_is_counted);
    tcase_add_test(tc, one_class_does_not_silence_another);
    tcase_add_test(tc, what_there_is_no_room_for_is_said);
    suite_add_tcase(s, tc);
    return tu_run(s);
}
