/* SPDX-License-Identifier: MIT */
/* As much of check's interface as the kernel tests use, for a cross build that has no library but libc: one process, the first failure
 * ends it. */
#ifndef TESTS_ARM64_CHECK_H
#define TESTS_ARM64_CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    void (*run)(void);
} stand_in_test;

typedef struct {
    stand_in_test tests[100];
    int n;
} TCase;

typedef TCase *Suite, *SRunner;

enum { CK_NORMAL };
static TCase stand_in_case;
static Suite stand_in_suite;
static SRunner stand_in_runner;

#define START_TEST(f) static void f##_fn(void); static const stand_in_test f = {#f, f##_fn}; static void f##_fn(void)
#define END_TEST
#define suite_create(name) (&stand_in_suite)
#define tcase_create(name) (&stand_in_case)
#define tcase_set_timeout(t, s) ((void)0)
#define tcase_add_test(t, f) ((t)->tests[(t)->n++] = f)
#define suite_add_tcase(s, t) (*(s) = (t))
#define srunner_create(s) (stand_in_runner = *(s), &stand_in_runner)
#define srunner_ntests_failed(r) 0
#define srunner_free(r) ((void)0)

static inline void srunner_run_all(SRunner *r, int mode)
{
    (void)mode;
    for (int i = 0; i < (*r)->n; i++) {
        (*r)->tests[i].run();
        printf("ok %s\n", (*r)->tests[i].name);
    }
    printf("%d passed, 0 failed, 0 skipped\n", (*r)->n);
}

#define ck_assert_msg(cond, ...) \
    do { \
        if (cond) break; \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
        fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr); \
        exit(1); \
    } while (0)
#define ck_assert(cond) ck_assert_msg(cond, "%s", #cond)
#define ck_assert_int_eq(a, b) ck_assert((a) == (b))
#define ck_assert_int_ge(a, b) ck_assert((a) >= (b))
#define ck_assert_uint_eq(a, b) ck_assert((a) == (b))
#define ck_assert_uint_lt(a, b) ck_assert((a) < (b))
#define ck_assert_str_eq(a, b) ck_assert(!strcmp(a, b))
#define ck_assert_float_eq(a, b) ck_assert((a) == (b))
#define ck_assert_double_eq(a, b) ck_assert((a) == (b))
#define ck_assert_float_eq_tol(a, b, t) ck_assert(fabsf((a) - (b)) <= (t))
#define ck_assert_double_eq_tol(a, b, t) ck_assert(fabs((a) - (b)) <= (t))

#endif
