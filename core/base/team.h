/* SPDX-License-Identifier: MIT */
/* The worker team: one leader (whoever calls ad_team_run) and n-1 helper threads that meet at a barrier.
 * Helpers sleep on a futex between jobs and spin a bounded while inside one. */
#ifndef AD_BASE_TEAM_H
#define AD_BASE_TEAM_H

#include "core/base/status.h"

typedef struct ad_team ad_team;
/* Called once on every member; `index` is 0..count-1 and the leader is 0. */
typedef void (*ad_team_fn)(void *arg, int index, int count);

/* Starts n_threads - 1 helpers (n_threads >= 1). */
AD_MUSTUSE ad_status ad_team_new(ad_team **out, int n_threads, ad_err *err);
void ad_team_free(ad_team **team); /* joins the helpers; NULL is fine */
int ad_team_size(const ad_team *team);

/* Runs fn on every member and returns when all have finished. One caller at a time. */
void ad_team_run(ad_team *team, ad_team_fn fn, void *arg);
/* Inside fn: waits until every member got here. All members must call it the same number of times. */
void ad_team_barrier(ad_team *team);

/* The part [begin, end) of n items that member `index` of `count` takes, cut at multiples of `grain`. */
void ad_team_slice(int n, int grain, int index, int count, int *begin, int *end);

/* Physical cores this process may use: affinity and cgroup quota respected, never below 1. */
int ad_usable_cores(void);
/* The same with hyperthreads counted: more busy threads than this take time from each other. */
int ad_usable_cpus(void);
/* The calling thread goes on on another CPU, if it may use one; later the kernel may bring it back. */
void ad_leave_cpu(int cpu);
/* ad_usable_cores with ROOT/proc and ROOT/sys read in place of /proc and /sys (for tests). */
int ad_usable_cores_in(const char *root);

#endif
