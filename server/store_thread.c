/* SPDX-License-Identifier: MIT */
/* Everything that gathered while the last commit waited for the disk goes into the next one. */
#include "server/store_thread.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/list.h"
#include "core/base/mem.h"
#include "server/wakeup.h"

enum {
    MAX_WAITING = 1024, /* groups: enough for any burst of uploads; a disk that is this far behind is a reason to say so */
    MAX_READS = 64,     /* which the groups behind them wait for, even when nobody waits for the reads any more */
};

/* A group of changes, a blob to collect, a report or something else to read. */
typedef struct task task;
struct task {
    ad_link link;
    enum { GROUP, COLLECT, REPORT, READ } kind;
    ad_store_change *changes; /* [n], owned */
    int n;
    ad_store_done done;
    void *user;
    ad_digest blob;
    char name[AD_MAX_NAME + 1]; /* of the report */
    int number;
    char *text;               /* what was read */
    ad_report_done report_done;
    void (*read)(void *user, ad_store *s);
    void (*read_done)(void *user);
    ad_err err;               /* code is the answer */
};

struct ad_store_thread {
    ad_store *store;
    ad_wakeup wakeup;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards waiting, finished, stopping, ended */
    pthread_cond_t work;
    ad_list waiting, finished;
    bool stopping, ended;
    _Atomic uint64_t commits;
    /* Loop thread. */
    int n_pending;         /* groups that were not answered */
    int n_reads;           /* ad_store_thread_read's, likewise */
    void (*closed)(void *user);
    void *closed_user;
};

static task *next_of(const task *t) { return (task *)t->link.next; }

static void free_changes(ad_store_change *changes, int n)
{
    for (int i = 0; i < n; i++) ad_store_change_deinit(&changes[i]);
    free(changes);
}

/* ---- the store's thread ---- */

static bool is_group(const task *t) { return t->kind == GROUP; }

static bool any_group(const task *t)
{
    for (; t; t = next_of(t))
        if (is_group(t)) return true;
    return false;
}

/* Nothing of them is there. */
static void fail_groups(task *tasks, const ad_err *why)
{
    for (task *t = tasks; t; t = next_of(t))
        if (is_group(t) && t->err.code == AD_OK) t->err = *why;
}

static void commit_groups(ad_store_thread *s, task *tasks)
{
    ad_err err;
    if (ad_store_begin(s->store, &err) != AD_OK) {
        fail_groups(tasks, &err);
        return;
    }
    for (task *t = tasks; t; t = next_of(t))
        if (is_group(t)) t->err.code = ad_store_apply(s->store, t->changes, t->n, &t->err);
    if (ad_store_commit(s->store, &err) == AD_OK) atomic_fetch_add(&s->commits, 1);
    else fail_groups(tasks, &err);
}

static void read_all(ad_store_thread *s, task *tasks)
{
    for (task *t = tasks; t; t = next_of(t)) {
        if (t->kind == REPORT && ad_store_report(s->store, t->name, t->number, &t->text, NULL) != AD_OK) t->text = NULL;
        if (t->kind == READ) t->read(t->user, s->store);
    }
}

/* False: it is the end. */
static bool take_tasks(ad_store_thread *s, ad_list *tasks)
{
    pthread_mutex_lock(&s->mutex);
    while (!s->waiting.head && !s->stopping) pthread_cond_wait(&s->work, &s->mutex);
    ad_list_move(tasks, &s->waiting);
    pthread_mutex_unlock(&s->mutex);
    return tasks->head != NULL;
}

/* Groups and what was read go back to the loop; blobs are left. */
static void answer_all(ad_store_thread *s, ad_list *tasks, ad_list *blobs)
{
    pthread_mutex_lock(&s->mutex);
    for (task *t; (t = ad_list_pop(tasks));) ad_list_push(t->kind == COLLECT ? blobs : &s->finished, t);
    pthread_mutex_unlock(&s->mutex);
    ad_wakeup_send(&s->wakeup);
}

static void *thread_main(void *arg)
{
    ad_store_thread *s = arg;
    ad_list tasks, blobs;
    ad_list_init(&tasks);
    ad_list_init(&blobs);
    while (take_tasks(s, &tasks)) {
        task *first = (task *)tasks.head;
        if (any_group(first)) commit_groups(s, first);
        read_all(s, first);
        answer_all(s, &tasks, &blobs);
        for (task *t; (t = ad_list_pop(&blobs)); free(t)) ad_store_collect(s->store, &t->blob); /* deleting files takes time, which nobody waits for */
    }
    ad_store_close(&s->store);
    pthread_mutex_lock(&s->mutex);
    s->ended = true;
    pthread_mutex_unlock(&s->mutex);
    ad_wakeup_send(&s->wakeup);
    return NULL;
}

/* ---- the loop ---- */

static void on_closed(uv_handle_t *handle)
{
    ad_store_thread *s = handle->data;
    void (*closed)(void *user) = s->closed;
    void *user = s->closed_user;
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->mutex);
    free(s);
    if (closed) closed(user);
}

static void answer(ad_store_thread *s, task *t)
{
    if (t->kind == REPORT) {
        t->report_done(t->user, t->text);
    } else if (t->kind == READ) {
        s->n_reads--;
        t->read_done(t->user);
    } else {
        s->n_pending--;
        t->done(t->user, t->err.code, &t->err);
        free_changes(t->changes, t->n);
    }
    free(t->text);
    free(t);
}

static void on_wakeup(ad_wakeup *w)
{
    ad_store_thread *s = w->poll.data;
    ad_list ready;
    ad_list_init(&ready);
    pthread_mutex_lock(&s->mutex);
    ad_list_move(&ready, &s->finished);
    bool ended = s->ended;
    pthread_mutex_unlock(&s->mutex);
    for (task *t; (t = ad_list_pop(&ready));) answer(s, t);
    if (!ended || uv_is_closing((uv_handle_t *)&w->poll)) return;
    pthread_join(s->thread, NULL);
    ad_wakeup_close(w, on_closed);
}

/* Signals are the loop thread's business. */
static int start_thread(ad_store_thread *s)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&s->thread, NULL, thread_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

ad_status ad_store_thread_new(ad_store_thread **out, uv_loop_t *loop, ad_store *store, ad_err *err)
{
    ad_store_thread *s = ad_calloc(1, sizeof *s);
    ad_status st = s ? ad_wakeup_init(&s->wakeup, loop, on_wakeup, err) : ad_fail(err, AD_ENOMEM, "store thread: out of memory");
    if (st != AD_OK) {
        free(s);
        return st;
    }
    s->wakeup.poll.data = s;
    s->store = store;
    ad_list_init(&s->waiting);
    ad_list_init(&s->finished);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->work, NULL);
    if (start_thread(s) == 0) {
        *out = s;
        return AD_OK;
    }
    ad_wakeup_close(&s->wakeup, on_closed);
    return ad_fail(err, AD_EIO, "cannot start the store's thread");
}

static void hand_over(ad_store_thread *s, task *t)
{
    pthread_mutex_lock(&s->mutex);
    ad_list_push(&s->waiting, t);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->mutex);
}

ad_status ad_store_thread_submit(ad_store_thread *s, ad_store_change *changes, int n, ad_store_done done, void *user, ad_err *err)
{
    task *t = s->n_pending < MAX_WAITING ? ad_calloc(1, sizeof *t) : NULL;
    if (!t) {
        free_changes(changes, n);
        if (s->n_pending < MAX_WAITING) return ad_fail(err, AD_ENOMEM, "store: out of memory");
        return ad_fail(err, AD_EBUSY, "%d changes wait for the disk; try again later", s->n_pending);
    }
    *t = (task){.kind = GROUP, .changes = changes, .n = n, .done = done, .user = user};
    s->n_pending++;
    hand_over(s, t);
    return AD_OK;
}

void ad_store_thread_collect(ad_store_thread *s, const ad_digest *digest)
{
    task *t = ad_calloc(1, sizeof *t);
    if (!t) return; /* the next start collects it */
    t->kind = COLLECT;
    t->blob = *digest;
    hand_over(s, t);
}

void ad_store_thread_report(ad_store_thread *s, const char *name, int number, ad_report_done done, void *user)
{
    task *t = ad_calloc(1, sizeof *t);
    if (!t) {
        done(user, NULL);
        return;
    }
    *t = (task){.kind = REPORT, .number = number, .report_done = done, .user = user};
    snprintf(t->name, sizeof t->name, "%s", name);
    hand_over(s, t);
}

ad_status ad_store_thread_read(ad_store_thread *s, void (*read)(void *user, ad_store *s), void (*done)(void *user), void *user, ad_err *err)
{
    if (s->n_reads >= MAX_READS) return ad_fail(err, AD_EBUSY, "%d others read what is stored; try again later", s->n_reads);
    task *t = ad_calloc(1, sizeof *t);
    if (!t) return ad_fail(err, AD_ENOMEM, "store: out of memory");
    *t = (task){.kind = READ, .read = read, .read_done = done, .user = user};
    s->n_reads++;
    hand_over(s, t);
    return AD_OK;
}

bool ad_store_thread_has_room(const ad_store_thread *s) { return s->n_pending < MAX_WAITING; }
uint64_t ad_store_thread_commits(const ad_store_thread *s) { return atomic_load(&s->commits); }

void ad_store_thread_close(ad_store_thread **tp, void (*done)(void *user), void *user)
{
    ad_store_thread *s = *tp;
    *tp = NULL;
    s->closed = done;
    s->closed_user = user;
    pthread_mutex_lock(&s->mutex);
    s->stopping = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->mutex);
}
