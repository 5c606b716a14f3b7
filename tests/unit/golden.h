/* SPDX-License-Identifier: MIT */
/* Where the golden data is, and a tiny driver of the forward step for tests. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/engine/engine.h"
#include "core/model/step.h"
#include "tests/unit/suite.h"

/* The project's own part of the golden data, or all of the shared data where AD_GOLDEN says; what only the project has comes from its own. */
static inline const char *golden_path(const char *rest)
{
    static char path[4][4096];
    static int turn;
    const char *root = getenv("AD_SOURCE_ROOT"), *all = getenv("AD_GOLDEN");
    char *p = path[turn++ % 4];
    if (all) snprintf(p, sizeof path[0], "%s/%s", all, rest);
    if (!all || access(p, F_OK) != 0) snprintf(p, sizeof path[0], "%s/tests/golden/tiny/%s", root ? root : ".", rest);
    return p;
}

static inline ad_model *golden_model_as(const char *rest, ad_weights weights)
{
    ad_err err;
    ad_model *m = NULL;
    ck_assert_msg(ad_model_load(&m, golden_path(rest), &(ad_model_options){.weights = weights}, &err) == AD_OK, "%s", err.msg);
    return m;
}

/* With f32 weights, as the golden numbers were made. */
static inline ad_model *golden_model(const char *rest)
{
    return golden_model_as(rest, AD_WEIGHTS_F32);
}

/* KV pages, scratch and kernels for steps of up to max_rows rows. */
typedef struct {
    const ad_model *model;
    ad_kernels kernels;
    ad_team *team;
    ad_scratch *scratch;
} tu_rig;

static inline void tu_rig_open(tu_rig *r, const ad_model *m, unsigned cpu, int threads, int max_rows, int context)
{
    ad_err err;
    r->model = m;
    r->team = NULL;
    r->scratch = NULL;
    ad_kernels_init(&r->kernels, cpu);
    ck_assert_msg(ad_team_new(&r->team, threads, &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_scratch_new(&r->scratch, m, &r->kernels, r->team, max_rows, max_rows, context, AD_KV_F32, &err) == AD_OK, "%s", err.msg);
}

static inline void tu_rig_close(tu_rig *r)
{
    ad_scratch_free(&r->scratch);
    ad_team_free(&r->team);
}

/* A sequence's own pages. */
static inline void **tu_pages_new(const ad_model *m, int n_tokens)
{
    int n = ad_engine_pages_for(n_tokens);
    void **pages = calloc((size_t)n + 1, sizeof *pages);
    for (int i = 0; i < n; i++) pages[i] = calloc(1, ad_kv_page_bytes(m, AD_KV_F32));
    return pages;
}

static inline void tu_pages_free(void **pages)
{
    for (void **p = pages; *p; p++) free(*p);
    free(pages);
}

#endif
