/* SPDX-License-Identifier: MIT */
/* Whether the server serves: the health routes, GET /v1/admin/status, POST /v1/admin/drain. Loop thread. */
#include <string.h>
#include <unistd.h>

#include "server/api/api.h"
#include "server/notify.h"
#include "server/observe/access.h"
#include "server/observe/log.h"

static void reply_text(ad_http_exchange *x, int status, const char *text)
{
    ad_http_reply(x, status, "text/plain; charset=utf-8", text, strlen(text));
}

static const char stuck_text[] = "the engine is stuck: it has work, and finished no step for longer than --stuck-after\n";

void ad_handle_health(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const char *what = ad_app_is_stuck(app) ? "stuck" : app->leaving ? "draining" : "ok";
    ad_reply_json(x, !strcmp(what, "ok") ? 200 : 503, json_pack("{s:s}", "status", what));
}

void ad_handle_livez(ad_http_exchange *x, void *arg)
{
    if (ad_app_is_stuck(arg)) reply_text(x, 503, stuck_text);
    else reply_text(x, 200, "ok\n");
}

static bool has_room(const ad_app *app) { return ad_worker_room(app->worker, 1, NULL) == AD_OK; }
static bool is_ready(const ad_app *app) { return !app->leaving && !app->out_of_rotation && !ad_app_is_stuck(app) && has_room(app); }

void ad_handle_readyz(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    if (app->leaving || app->out_of_rotation) reply_text(x, 503, "draining\n");
    else if (ad_app_is_stuck(app)) reply_text(x, 503, stuck_text);
    else if (!has_room(app)) reply_text(x, 503, "the queue is full\n");
    else reply_text(x, 200, "ok\n");
}

/* ---- what an operator looks at ---- */

static json_t *adapters_json(const ad_app *app)
{
    ad_registry_stats r;
    ad_keeper_stats k;
    ad_registry_get_stats(app->registry, &r);
    ad_keeper_get_stats(app->keeper, &k);
    return json_pack("{s:I, s:i, s:i, s:i, s:i, s:I, s:I}", "total", (json_int_t)ad_registry_adapters(app->registry), "resident", r.residents, "loading", k.loading,
                     "waiting", k.waiting, "quarantined", k.quarantined,
                     "bytes", (json_int_t)r.resident_bytes, "budget_bytes", (json_int_t)r.budget);
}

static json_t *listeners_json(const ad_app *app)
{
    json_t *list = json_array();
    for (int i = 0; ad_http_url(app->http, i); i++) json_array_append_new(list, ad_json_text(ad_http_url(app->http, i)));
    return list;
}

static json_t *memory_json(const ad_app *app)
{
    size_t resident = 0;
    if (uv_resident_set_memory(&resident) != 0) resident = 0;
    return json_pack("{s:I, s:I}", "resident_bytes", (json_int_t)resident, "model_bytes", (json_int_t)(ad_model_resident_bytes(app->model) + ad_model_mapped_bytes(app->model)));
}

static json_t *engine_json(const ad_app *app)
{
    return json_pack("{s:s, s:i, s:i, s:b, s:I}", "kernels", ad_worker_kernels(app->worker), "threads", ad_worker_threads(app->worker), "context", ad_worker_context(app->worker), "stuck",
                     ad_app_is_stuck(app), "steps", (json_int_t)atomic_load(&ad_worker_get_stats(app->worker)->steps));
}

static const char *state_name(const ad_app *app)
{
    return app->draining ? "draining" : app->leaving ? "leaving" : app->out_of_rotation ? "out of rotation" : "serving";
}

void ad_handle_status(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_worker_stats *s = ad_worker_get_stats(app->worker);
    json_t *v = json_pack("{s:s, s:s, s:o, s:i, s:I, s:I, s:s, s:b, s:b}", "object", "server.status", "version", AD_VERSION, "model", ad_json_text(app->served_name), "pid", (int)getpid(),
                          "started", (json_int_t)app->started, "uptime_seconds", (json_int_t)(time(NULL) - app->started), "state", state_name(app), "ready", is_ready(app), "draining",
                          app->leaving || app->out_of_rotation);
    json_t *rest = json_pack("{s:{s:i, s:i}, s:{s:f, s:f}, s:{s:I, s:I}, s:o, s:o, s:o, s:i, s:o, s:{s:b, s:I}}",
                             "requests", "running", atomic_load(&s->running), "waiting", atomic_load(&s->waiting),
                             "tokens_per_second", "prompt", ad_rounded(ad_vitals_prompt_rate(&app->vitals), 10), "generated", ad_rounded(ad_vitals_generated_rate(&app->vitals), 10),
                             "kv_pages", "used", (json_int_t)atomic_load(&s->kv_pages_used), "total", (json_int_t)atomic_load(&s->kv_pages_total),
                             "adapters", adapters_json(app), "memory", memory_json(app), "engine", engine_json(app), "connections", ad_http_connections(app->http), "listeners", listeners_json(app),
                             "last_reload", "successful", app->reload.good, "succeeded", (json_int_t)app->reload.succeeded);
    if (v && rest) json_object_update(v, rest);
    json_decref(rest);
    ad_reply_json(x, 200, v);
}

void ad_handle_drain(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_str body = ad_http_body(x);
    json_t *root = ad_read_json(body.ptr, body.len, 0, NULL), *drain = json_object_get(root, "drain");
    if (!json_is_object(root)) {
        ad_reply_refusal(x, 400, "invalid_json", NULL, "The body is not a JSON object");
    } else if (!json_is_boolean(drain)) {
        ad_reply_refusal(x, 400, "invalid_value", "drain", "`drain` must be true or false");
    } else {
        if (app->out_of_rotation != json_is_true(drain)) ad_log(AD_LOG_INFO, "drain: /readyz is %s from now on", json_is_true(drain) ? "503" : "as it was");
        app->out_of_rotation = json_is_true(drain);
        ad_access_tell(x, "%s", json_is_true(drain) ? "out of rotation" : "back in rotation");
        ad_notify("STATUS=%s %s", app->out_of_rotation ? "out of rotation;" : "serving", app->served_name);
        ad_reply_json(x, 200, json_pack("{s:s, s:b, s:b}", "state", state_name(app), "draining", app->leaving || app->out_of_rotation, "ready", is_ready(app)));
    }
    json_decref(root);
}
