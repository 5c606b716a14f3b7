/* SPDX-License-Identifier: MIT */
/* The worker team. The leader's thread calls everything; helpers run only what is in this file and the job.
 * Both meeting points (a job begins, a barrier opens) are the same thing: a counter that moves on, watched by
 * spinning for a while and then by sleeping on it. */
#include "core/base/team.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/mem.h"

/* About 40 us of pauses: longer than the tail of a GEMM slice, far shorter than a scheduler quantum, so that a
 * member whose CPU was taken away costs the others one futex call and not their time slice. */
#define SPIN_LIMIT 2000

/* Padded by hand, not aligned: whoever shares a line with a gate would slow every spinning member down. */
typedef struct {
    char before[64];
    atomic_uint count;    /* moves on by one each time the gate opens */
    atomic_uint sleepers; /* members that are in, or about to enter, futex_wait */
    char after[64];
} gate;

/* The CPU on which a member was last seen, on a line of its own. */
typedef struct {
    atomic_int cpu;
    char after[60];
} place;

typedef struct {
    ad_team *team;
    int index;
    pthread_t thread;
} helper;

struct ad_team {
    int size;
    int spins; /* 0 when there are fewer CPUs than members: then spinning only delays the others */
    helper *helpers; /* [size - 1] */
    ad_team_fn fn; /* the current job, published by `job`; NULL tells the helpers to leave */
    void *arg;
    place *places; /* [size]; NULL: they are not kept apart, as there is not just a CPU for each */
    gate job, open; /* `open` lets go of the members that wait at a barrier */
    atomic_int arrived;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Index of this thread in its team; every leader's is 0. */
static _Thread_local int member;

static int note_place(const ad_team *team)
{
    atomic_int *at = &team->places[member].cpu;
    int cpu = sched_getcpu();
    if (atomic_load_explicit(at, memory_order_relaxed) != cpu) atomic_store_explicit(at, cpu, memory_order_relaxed);
    return cpu;
}

/* After a sleep. Unless a CPU is idle then, the kernel may wake a member where the one runs that opened the gate, and both take turns there, barrier after
 * barrier, until its balancer comes by milliseconds later: beside loaders, which are of low priority, a step took twice as long. */
static void keep_apart(const ad_team *team)
{
    int cpu = note_place(team);
    bool shared = false;
    for (int i = 0; i < team->size; i++) shared |= i != member && atomic_load_explicit(&team->places[i].cpu, memory_order_relaxed) == cpu;
    if (!shared) return;
    ad_leave_cpu(cpu);
    note_place(team);
}

/* True: it had to sleep. */
static bool gate_wait(gate *g, unsigned seen, int spins)
{
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(&g->count, memory_order_acquire) != seen) return false;
        relax();
    }
    /* Announce, then look again, then sleep; the opener moves the count, then looks for sleepers. In the one
     * total order of these four at least one side sees the other, so no wake-up is lost. */
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->count) == seen)
        syscall(SYS_futex, (unsigned *)&g->count, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
    return true;
}

static void gate_open(gate *g)
{
    atomic_fetch_add(&g->count, 1);
    if (atomic_load(&g->sleepers)) syscall(SYS_futex, (unsigned *)&g->count, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void ad_team_barrier(ad_team *team)
{
    if (team->size == 1) return;
    unsigned seen = atomic_load(&team->open.count); /* cannot move before we have arrived */
    if (team->places) note_place(team);
    if (atomic_fetch_add(&team->arrived, 1) + 1 < team->size) {
        if (gate_wait(&team->open, seen, team->spins) && team->places) keep_apart(team);
        return;
    }
    atomic_store(&team->arrived, 0);
    gate_open(&team->open);
}

static void *help(void *arg)
{
    const helper *h = arg;
    ad_team *team = h->team;
    member = h->index;
    for (unsigned seen = 0;; seen++) {
        if (gate_wait(&team->job, seen, team->spins) && team->places) keep_apart(team);
        if (!team->fn) return NULL;
        team->fn(team->arg, h->index, team->size);
        ad_team_barrier(team);
    }
}

void ad_team_run(ad_team *team, ad_team_fn fn, void *arg)
{
    if (team->size > 1) {
        team->fn = fn;
        team->arg = arg;
        if (team->places) note_place(team);
        gate_open(&team->job);
    }
    fn(arg, 0, team->size);
    ad_team_barrier(team);
}

static void dismiss(ad_team *team, int n_started)
{
    team->fn = NULL;
    gate_open(&team->job);
    for (int i = 0; i < n_started; i++) pthread_join(team->helpers[i].thread, NULL);
    free(team->helpers);
    free(team->places);
    free(team);
}

/* Helpers inherit a mask that leaves every signal to the program's own threads. */
static int start_helpers(ad_team *team, int *n_started)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    for (int i = 0; i < team->size - 1 && rc == 0; i++) {
        team->helpers[i] = (helper){.team = team, .index = i + 1};
        rc = pthread_create(&team->helpers[i].thread, NULL, help, &team->helpers[i]);
        if (rc) break;
        pthread_setname_np(team->helpers[i].thread, "ad-helper");
        *n_started = i + 1;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

ad_status ad_team_new(ad_team **out, int n_threads, ad_err *err)
{
    if (n_threads < 1) return ad_fail(err, AD_EINVAL, "a team needs at least 1 thread, not %d", n_threads);
    ad_team *team = ad_calloc(1, sizeof *team);
    if (team) team->helpers = ad_calloc((size_t)n_threads - 1, sizeof *team->helpers);
    if (!team || !team->helpers) {
        free(team);
        return ad_fail(err, AD_ENOMEM, "out of memory for %d threads", n_threads);
    }
    team->size = n_threads;
    team->spins = n_threads <= ad_usable_cpus() ? SPIN_LIMIT : 0;
    if (n_threads > 1 && n_threads == ad_usable_cpus()) team->places = ad_calloc((size_t)n_threads, sizeof *team->places);
    int n_started = 0;
    int rc = start_helpers(team, &n_started);
    if (rc) {
        dismiss(team, n_started);
        return ad_fail(err, rc == EAGAIN ? AD_ELIMIT : AD_EIO, "cannot start thread %d of %d: %s", n_started + 2,
                       n_threads, strerror(rc));
    }
    *out = team;
    return AD_OK;
}

void ad_team_free(ad_team **team)
{
    if (!team || !*team) return;
    dismiss(*team, (*team)->size - 1);
    *team = NULL;
}

int ad_team_size(const ad_team *team)
{
    return team->size;
}

void ad_team_slice(int n, int grain, int index, int count, int *begin, int *end)
{
    long grains = ((long)n + grain - 1) / grain;
    long b = grains * index / count * grain, e = grains * (index + 1) / count * grain;
    *begin = (int)(b < n ? b : n);
    *end = (int)(e < n ? e : n);
}
