/* SPDX-License-Identifier: MIT */
/* Threads for work that reads files or computes: loads, unpacking, hashing. Jobs run in order of submission, at most n at a time, at a
 * lower priority than the engine, and end on the loop. Embedded in whatever they are about. Loop thread, unless said otherwise. */
#ifndef AD_SERVER_JOBS_H
#define AD_SERVER_JOBS_H

#include <uv.h>

#include "core/base/list.h"
#include "core/base/status.h"

typedef struct ad_jobs ad_jobs;
typedef struct ad_job ad_job;

struct ad_job {
    ad_link link;              /* the queue's */
    void (*work)(ad_job *job); /* on one of the threads */
    void (*done)(ad_job *job); /* then on the loop; may free the job */
};

/* niceness: how much nicer than the calling thread they are. */
AD_MUSTUSE ad_status ad_jobs_new(ad_jobs **out, uv_loop_t *loop, int n_threads, int niceness, ad_err *err);
void ad_jobs_submit(ad_jobs *j, ad_job *job);
int ad_jobs_pending(const ad_jobs *j); /* submitted, and done not called yet */
/* Runs what was submitted (nothing more may be) to its end, joins the threads, then calls done(user) on the loop. */
void ad_jobs_close(ad_jobs **j, void (*done)(void *user), void *user);

#endif
