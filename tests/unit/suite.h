/* SPDX-License-Identifier: MIT */
/* The end of every test program, and assertions that cost nothing when they hold. */
#ifndef TESTS_SUITE_H
#define TESTS_SUITE_H

#include <check.h>

/* check's own writes its line to a file when it holds, too, in case that the program crashes next: a system call for each of millions. A crash still names its test. */
#undef ck_assert_msg
#define ck_assert_msg(expr, ...) ((expr) ? (void)0 : _ck_assert_failed(__FILE__, __LINE__, "Assertion '" #expr "' failed", ##__VA_ARGS__))

/* Runs the suite, prints check's summary, and returns what main returns. */
static inline int tu_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

#endif
