/* SPDX-License-Identifier: MIT */
/* One queue, n threads that take from it, one wake-up that brings what is done to the loop. */
#include "server/jobs.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "core/base/mem.h"
#include "server/wakeup.h"

struct ad_jobs {
    ad_wakeup wakeup;
    pthread_t *threads;
    int n_threads, niceness;
    pthread_mutex_t mutex; /* guards waiting, finished, stopping */
    pthread_cond_t work;
    ad_list waiting, finished;
    bool stopping;
    /* Loop thread. */
    int n_pending;
    bool closing;
    void (*closed)(void *user);
    void *closed_user;
};

/* ---- the threads ---- */

static ad_job *next_job(ad_jobs *j)
{
    pthread_mutex_lock(&j->mutex);
    while (!j->waiting.head && !j->stopping) pthread_cond_wait(&j->work, &j->mutex);
    ad_job *job = ad_list_pop(&j->waiting);
    pthread_mutex_unlock(&j->mutex);
    return job;
}

static void *thread_main(void *arg)
{
    ad_jobs *j = arg;
    (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + j->niceness); /* Linux: of this thread alone; 19 is the most there is */
    for (ad_job *job; (job = next_job(j));) {
        job->work(job);
        pthread_mutex_lock(&j->mutex);
        ad_list_push(&j->finished, job);
        pthread_mutex_unlock(&j->mutex);
        ad_wakeup_send(&j->wakeup);
    }
    return NULL;
}

/* Signals are the loop thread's business. */
static int start_thread(pthread_t *t, ad_jobs *j)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(t, NULL, thread_main, j);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void stop_threads(ad_jobs *j)
{
    pthread_mutex_lock(&j->mutex);
    j->stopping = true;
    pthread_cond_broadcast(&j->work);
    pthread_mutex_unlock(&j->mutex);
    for (int i = 0; i < j->n_threads; i++) pthread_join(j->threads[i], NULL);
}

/* ---- the loop ---- */

static void on_closed(uv_handle_t *handle)
{
    ad_jobs *j = handle->data;
    void (*closed)(void *user) = j->closed;
    void *user = j->closed_user;
    pthread_cond_destroy(&j->work);
    pthread_mutex_destroy(&j->mutex);
    free(j->threads);
    free(j);
    if (closed) closed(user);
}

static void close_if_idle(ad_jobs *j)
{
    if (!j->closing || j->n_pending || uv_is_closing((uv_handle_t *)&j->wakeup.poll)) return;
    stop_threads(j);
    ad_wakeup_close(&j->wakeup, on_closed);
}

static void on_wakeup(ad_wakeup *w)
{
    ad_jobs *j = w->poll.data;
    ad_list ready;
    ad_list_init(&ready);
    pthread_mutex_lock(&j->mutex);
    ad_list_move(&ready, &j->finished);
    pthread_mutex_unlock(&j->mutex);
    for (ad_job *job; (job = ad_list_pop(&ready));) {
        j->n_pending--;
        job->done(job);
    }
    close_if_idle(j);
}

ad_status ad_jobs_new(ad_jobs **out, uv_loop_t *loop, int n_threads, int niceness, ad_err *err)
{
    ad_jobs *j = ad_calloc(1, sizeof *j);
    if (j) j->threads = ad_calloc((size_t)n_threads, sizeof *j->threads);
    ad_status st = j && j->threads ? ad_wakeup_init(&j->wakeup, loop, on_wakeup, err) : ad_fail(err, AD_ENOMEM, "loader threads: out of memory");
    if (st != AD_OK) {
        if (j) free(j->threads);
        free(j);
        return st;
    }
    j->wakeup.poll.data = j;
    j->niceness = niceness;
    ad_list_init(&j->waiting);
    ad_list_init(&j->finished);
    pthread_mutex_init(&j->mutex, NULL);
    pthread_cond_init(&j->work, NULL);
    while (j->n_threads < n_threads && start_thread(&j->threads[j->n_threads], j) == 0) j->n_threads++;
    if (j->n_threads == n_threads) {
        *out = j;
        return AD_OK;
    }
    ad_jobs_close(&j, NULL, NULL);
    return ad_fail(err, AD_EIO, "cannot start a loader thread");
}

void ad_jobs_submit(ad_jobs *j, ad_job *job)
{
    j->n_pending++;
    pthread_mutex_lock(&j->mutex);
    ad_list_push(&j->waiting, job);
    pthread_cond_signal(&j->work);
    pthread_mutex_unlock(&j->mutex);
}

int ad_jobs_pending(const ad_jobs *j) { return j->n_pending; }

void ad_jobs_close(ad_jobs **jp, void (*done)(void *user), void *user)
{
    ad_jobs *j = *jp;
    *jp = NULL;
    j->closing = true;
    j->closed = done;
    j->closed_user = user;
    ad_wakeup_send(&j->wakeup); /* not from here: done must not run before we return */
}
