/* SPDX-License-Identifier: MIT */
/* The store's thread: takes changes from the loop, commits what has gathered with one fsync, answers the loop by message.
 * All functions are called on the loop thread. */
#ifndef AD_SERVER_STORE_THREAD_H
#define AD_SERVER_STORE_THREAD_H

#include <uv.h>

#include "adapters/store.h"

typedef struct ad_store_thread ad_store_thread;

/* Takes the store on success; it is closed on the thread at the end. */
AD_MUSTUSE ad_status ad_store_thread_new(ad_store_thread **out, uv_loop_t *loop, ad_store *store, ad_err *err);

/* Takes changes[n] (from malloc, each with its strings) whatever the status: they are one group, all of it or nothing. done runs on the loop, after the commit
 * or with the reason. AD_EBUSY when more than 1024 groups wait: then done is not called. */
typedef void (*ad_store_done)(void *user, ad_status st, const ad_err *err);
AD_MUSTUSE ad_status ad_store_thread_submit(ad_store_thread *t, ad_store_change *changes, int n, ad_store_done done, void *user, ad_err *err);
/* Reads a version's report, behind everything submitted so far; text is borrowed for the call, NULL when there is none. Without memory done is called at once. */
typedef void (*ad_report_done)(void *user, const char *text);
void ad_store_thread_report(ad_store_thread *t, const char *name, int number, ad_report_done done, void *user);
/* Runs read(user, store) on the store's thread, behind everything submitted so far, then done(user) on the loop. AD_EBUSY (too many reads wait), AD_ENOMEM: neither is called. */
AD_MUSTUSE ad_status ad_store_thread_read(ad_store_thread *t, void (*read)(void *user, ad_store *s), void (*done)(void *user), void *user, ad_err *err);
/* Deletes a blob that no row names any longer, behind everything submitted so far. */
void ad_store_thread_collect(ad_store_thread *t, const ad_digest *digest);

/* Transactions so far: fewer than groups where groups came together. */
bool ad_store_thread_has_room(const ad_store_thread *t); /* else ad_store_thread_submit refuses with AD_EBUSY */
uint64_t ad_store_thread_commits(const ad_store_thread *t);

/* Finishes what was submitted (nothing more may be), closes the store, joins the thread, then calls done(user) on the loop. */
void ad_store_thread_close(ad_store_thread **t, void (*done)(void *user), void *user);

#endif
