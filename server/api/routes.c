/* SPDX-License-Identifier: MIT */
/* The route table, models, health and metrics. Loop thread. */
#include <string.h>

#include "server/api/api.h"

static json_t *model_json(const ad_app *app, const char *id, const char *parent)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s?, s:i}", "id", id, "object", "model", "created", (json_int_t)app->started, "owned_by", "adapterd",
                     "root", id, "parent", parent, "max_model_len", ad_worker_context(app->worker));
}

/* What a request can name: an alias, or an adapter with a version that may answer. */
static bool is_model(const ad_entry *e)
{
    return e && (e->n_targets || (e->active && ad_version_get_state(e->active) != AD_VERSION_INCOMPATIBLE && e->active->trusted && !e->draining));
}

static void list_models(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    json_t *list = json_array();
    json_array_append_new(list, model_json(app, app->served_name, NULL));
    for (size_t i = 0; i < ad_registry_count(app->registry); i++)
        if (is_model(ad_registry_at(app->registry, i))) json_array_append_new(list, model_json(app, ad_registry_at(app->registry, i)->name, app->served_name));
    ad_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

static void get_model(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const char *id = ad_http_path(x) + strlen("/v1/models/");
    ad_fault f = {0};
    if (!strcmp(id, app->served_name)) {
        ad_reply_json(x, 200, model_json(app, id, NULL));
        return;
    }
    if (is_model(ad_registry_find(app->registry, id))) {
        ad_reply_json(x, 200, model_json(app, id, app->served_name));
        return;
    }
    ad_fault_set(&f, 404, "model_not_found", "model", "The model `%.150s` does not exist.", id);
    ad_reply_fault(x, &f);
}

static void reply_text(ad_http_exchange *x, int status, const char *text)
{
    ad_http_reply(x, status, "text/plain; charset=utf-8", text, strlen(text));
}

static void health(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    ad_reply_json(x, app->draining ? 503 : 200, json_pack("{s:s}", "status", app->draining ? "draining" : "ok"));
}

static void livez(ad_http_exchange *x, void *arg)
{
    (void)arg;
    reply_text(x, 200, "ok\n");
}

static void readyz(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    if (app->draining) reply_text(x, 503, "draining\n");
    else if (ad_worker_room(app->worker, 1, NULL) != AD_OK) reply_text(x, 503, "the queue is full\n");
    else reply_text(x, 200, "ok\n");
}

static void metrics(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    ad_buf b = {0};
    ad_metrics_write(app->metrics, app, &b);
    if (b.failed) reply_text(x, 503, "out of memory\n");
    else ad_http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    ad_buf_deinit(&b);
}

static const ad_http_route routes[] = {
    {"POST", "/v1/completions", ad_handle_completions, "/v1/completions", false, NULL},
    {"POST", "/v1/admin/merge", ad_handle_merge, "/v1/admin/merge", false, NULL},
    {"GET", "/v1/adapters", ad_handle_adapters, "/v1/adapters", false, NULL},
    {"POST", "/v1/adapters", ad_handle_post_adapter, "/v1/adapters", true, NULL},
    {"GET", "/v1/adapters/events", ad_handle_events, "/v1/adapters/events", false, NULL},
    {"GET", "/v1/adapters/*", ad_handle_adapter, "/v1/adapters/{name}", false, NULL},
    {"POST", "/v1/adapters/*", ad_handle_adapter_action, "/v1/adapters/{name}/{action}", true, NULL},
    {"PATCH", "/v1/adapters/*", ad_handle_patch_adapter, "/v1/adapters/{name}", false, NULL},
    {"DELETE", "/v1/adapters/*", ad_handle_delete_adapter, "/v1/adapters/{name}", false, NULL},
    {"GET", "/v1/aliases", ad_handle_aliases, "/v1/aliases", false, NULL},
    {"GET", "/v1/aliases/*", ad_handle_alias, "/v1/aliases/{name}", false, NULL},
    {"PUT", "/v1/aliases/*", ad_handle_put_alias, "/v1/aliases/{name}", false, NULL},
    {"DELETE", "/v1/aliases/*", ad_handle_delete_alias, "/v1/aliases/{name}", false, NULL},
    {"GET", "/v1/models", list_models, "/v1/models", false, NULL},
    {"GET", "/v1/models/*", get_model, "/v1/models/{id}", false, NULL},
    {"GET", "/health", health, "/health", false, NULL},
    {"GET", "/livez", livez, "/livez", false, NULL},
    {"GET", "/readyz", readyz, "/readyz", false, NULL},
    {"GET", "/metrics", metrics, "/metrics", false, NULL},
};

const ad_http_route *ad_api_routes(int *n)
{
    *n = sizeof routes / sizeof *routes;
    return routes;
}
