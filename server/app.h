/* SPDX-License-Identifier: MIT */
/* What every handler can reach. One per process; loop thread only. */
#ifndef AD_SERVER_APP_H
#define AD_SERVER_APP_H

#include <time.h>
#include <uv.h>

#include "adapters/registry.h"
#include "adapters/store.h"
#include "core/model/model.h"
#include "server/api/grammar_cache.h"
#include "server/config.h"
#include "server/http/http.h"
#include "server/jobs.h"
#include "server/keeper/keeper.h"
#include "server/merger.h"
#include "server/observe/metrics.h"
#include "server/observe/vitals.h"
#include "server/sched/worker.h"
#include "server/tenancy/tenancy.h"

/* Of the configuration, by SIGHUP or at the start. */
typedef struct {
    bool good;
    time_t succeeded;        /* the last that did */
} ad_reload_result;

typedef struct ad_app {
    uv_loop_t *loop;
    const ad_config *config;
    ad_model *model;
    ad_registry *registry;
    ad_store *store;         /* for blobs and incoming directories; its rows belong to the store thread */
    ad_jobs *loaders;        /* threads that read, check and pack adapters, and write uploads; the keeper's */
    ad_worker *worker;
    ad_http_server *http;
    ad_metrics *metrics;
    ad_keeper *keeper;
    ad_tenancy *tenancy;
    struct ad_ledger *ledger; /* of usage */
    ad_merger *merger;
    ad_grammar_cache *grammars;
    ad_chat_template *named_template; /* of --chat-template-file; NULL: the model's own counts */
    const char *served_name; /* the base model's id in the API */
    char fingerprint[20];    /* system_fingerprint of replies: of this build and the base model */
    time_t started;
    struct ad_generation *generations; /* all there are, in no order */
    ad_vitals vitals;
    ad_reload_result reload;
    bool out_of_rotation;    /* by POST /v1/admin/drain: /readyz is 503, and nothing else changes */
    bool leaving;            /* SIGTERM came: so are /health and /ping */
    bool draining;           /* and new work is refused */
} ad_app;

/* The engine has work, and has finished no step of it for longer than it may. */
static inline bool ad_app_is_stuck(const ad_app *app)
{
    return app->config->stuck_after_s && app->vitals.still_s >= app->config->stuck_after_s;
}

/* The one table of status -> HTTP status, error type and code. */
int ad_http_status_of(ad_status code);

/* The routes of the API and of health and metrics; *n is their count. Static. */
const ad_http_route *ad_api_routes(int *n);

#endif
