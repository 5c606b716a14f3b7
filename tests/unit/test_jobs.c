/* SPDX-License-Identifier: MIT */
/* Loader threads. */
#include "tests/unit/suite.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/jobs.h"
#include "server/wakeup.h"

typedef struct {
    ad_job job;
    int number, niceness;
} numbered;

static uv_loop_t loop;
static ad_jobs *jobs;
static pthread_t loop_thread;
static int n_done, order[256];
static atomic_int at_once, most_at_once, sequence;
static bool closed;

static void start(int n_threads, int niceness)
{
    ad_err err;
    loop_thread = pthread_self();
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ad_jobs_new(&jobs, &loop, n_threads, niceness, &err), AD_OK);
}

static void on_closed(void *user)
{
    ck_assert_ptr_eq(user, &loop);
    closed = true;
}

static void finish(void)
{
    ad_jobs_close(&jobs, on_closed, &loop);
    ck_assert_ptr_null(jobs);
    ck_assert(!closed);
    ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    ck_assert(closed);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

static void work(ad_job *job)
{
    numbered *n = (numbered *)job;
    int here = atomic_fetch_add(&at_once, 1) + 1, most = atomic_load(&most_at_once);
    while (here > most && !atomic_compare_exchange_weak(&most_at_once, &most, here)) continue;
    n->niceness = getpriority(PRIO_PROCESS, (id_t)gettid());
    order[atomic_fetch_add(&sequence, 1)] = n->number;
    usleep(2000);
    ck_assert(!pthread_equal(pthread_self(), loop_thread));
    atomic_fetch_sub(&at_once, 1);
}

static void done(ad_job *job)
{
    ck_assert(pthread_equal(pthread_self(), loop_thread));
    n_done++;
    free(job);
}

static void submit(int number)
{
    numbered *n = calloc(1, sizeof *n);
    n->job = (ad_job){.work = work, .done = done};
    n->number = number;
    ad_jobs_submit(jobs, &n->job);
}

START_TEST(one_thread_works_in_order_and_close_waits_for_all)
{
    start(1, 0);
    for (int i = 0; i < 50; i++) submit(i);
    ck_assert_int_eq(ad_jobs_pending(jobs), 50);
    finish();
    ck_assert_int_eq(n_done, 50);
    for (int i = 0; i < 50; i++) ck_assert_int_eq(order[i], i);
}
END_TEST

START_TEST(as_many_work_at_once_as_there_are_threads)
{
    start(3, 0);
    for (int i = 0; i < 60; i++) submit(i);
    finish();
    ck_assert_int_eq(n_done, 60);
    ck_assert_int_eq(atomic_load(&most_at_once), 3);
}
END_TEST

static int nice_seen;

static void done_nice(ad_job *job)
{
    nice_seen = ((numbered *)job)->niceness;
    done(job);
}

START_TEST(threads_are_nicer_than_the_rest_of_the_program)
{
    ck_assert_int_eq(setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + 3), 0); /* which may have been started with `nice` itself */
    int mine = getpriority(PRIO_PROCESS, 0), most = 19;
    start(1, 5);
    submit(0);
    numbered *n = calloc(1, sizeof *n);
    n->job = (ad_job){.work = work, .done = done_nice};
    ad_jobs_submit(jobs, &n->job);
    finish();
    ck_assert_int_eq(nice_seen, mine + 5 < most ? mine + 5 : most);
    ck_assert_int_eq(getpriority(PRIO_PROCESS, 0), mine);
}
END_TEST

static void done_again(ad_job *job)
{
    numbered *n = (numbered *)job;
    ck_assert_int_eq(ad_jobs_pending(jobs), 0);
    n_done++;
    if (--n->number > 0) ad_jobs_submit(jobs, job);
    else free(job);
}

START_TEST(done_may_submit_the_job_again)
{
    start(2, 0);
    numbered *n = calloc(1, sizeof *n);
    n->job = (ad_job){.work = work, .done = done_again};
    n->number = 20;
    ad_jobs_submit(jobs, &n->job);
    while (n_done < 20) uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_eq(ad_jobs_pending(jobs), 0);
    finish();
}
END_TEST

/* ---- waking the loop ---- */

enum { SENDERS = 3, SENDS = 2000 };

static ad_wakeup bell;
static atomic_int sent;
static int n_woken, seen;

static void woken(ad_wakeup *w)
{
    ck_assert_ptr_eq(w, &bell);
    ck_assert(pthread_equal(pthread_self(), loop_thread));
    n_woken++;
    seen = atomic_load(&sent);
}

static void *send_many(void *arg)
{
    for (int i = 0; i < SENDS; i++) {
        atomic_fetch_add(&sent, 1);
        ad_wakeup_send(arg);
    }
    return NULL;
}

START_TEST(the_loop_looks_again_after_the_last_send)
{
    pthread_t senders[SENDERS];
    ad_err err;
    loop_thread = pthread_self();
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ad_wakeup_init(&bell, &loop, woken, &err), AD_OK);
    for (int i = 0; i < SENDERS; i++) ck_assert_int_eq(pthread_create(&senders[i], NULL, send_many, &bell), 0);
    while (seen < SENDERS * SENDS) uv_run(&loop, UV_RUN_ONCE); /* for ever, if it missed the last */
    for (int i = 0; i < SENDERS; i++) pthread_join(senders[i], NULL);
    ck_assert_int_le(n_woken, SENDERS * SENDS);
    ad_wakeup_close(&bell, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

static ad_wakeup pair[2], late;
static bool late_woken;

static void on_late(ad_wakeup *w)
{
    late_woken = true;
    ad_wakeup_close(w, NULL);
}

/* Closes the other, whose wake-up is at hand, too, and makes one that gets its descriptor's number. */
static void close_other(ad_wakeup *w)
{
    ad_wakeup *other = w == &pair[0] ? &pair[1] : &pair[0];
    int fd = other->fd;
    ad_err err;
    n_woken++;
    ad_wakeup_close(other, NULL);
    ck_assert_int_eq(ad_wakeup_init(&late, &loop, on_late, &err), AD_OK);
    ck_assert_int_eq(late.fd, fd);
    ad_wakeup_close(w, NULL);
}

START_TEST(what_was_sent_to_a_closed_wakeup_wakes_nobody)
{
    ad_err err;
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ad_wakeup_init(&bell, &loop, woken, &err), AD_OK);
    ad_wakeup_send(&bell);
    ad_wakeup_close(&bell, NULL); /* the loop has never run */
    for (int i = 0; i < 2; i++) ck_assert_int_eq(ad_wakeup_init(&pair[i], &loop, close_other, &err), AD_OK);
    for (int i = 0; i < 2; i++) ad_wakeup_send(&pair[i]);
    while (!n_woken) uv_run(&loop, UV_RUN_ONCE);
    for (int i = 0; i < 3; i++) uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(n_woken, 1);
    ck_assert(!late_woken);
    ad_wakeup_send(&late);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert(late_woken);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("jobs");
    TCase *tc = tcase_create("jobs");
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, one_thread_works_in_order_and_close_waits_for_all);
    tcase_add_test(tc, as_many_work_at_once_as_there_are_threads);
    tcase_add_test(tc, threads_are_nicer_than_the_rest_of_the_program);
    tcase_add_test(tc, done_may_submit_the_job_again);
    tcase_add_test(tc, the_loop_looks_again_after_the_last_send);
    tcase_add_test(tc, what_was_sent_to_a_closed_wakeup_wakes_nobody);
    suite_add_tcase(suite, tc);
    return tu_run(suite);
}
