/* SPDX-License-Identifier: MIT */
/* What routers and controllers written for vLLM call: adapters by name and path, and small questions. Statuses and texts are vLLM's, which such programs
 * compare; a mistake in an adapter's files is 400 here, not 500. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/error_form.h"
#include "server/api/names.h"
#include "server/keeper/keeper.h"

/* ---- what a request says ---- */

/* The body as a JSON object. NULL: answered. */
static json_t *read_object(ad_http_exchange *x)
{
    const char *type = ad_http_header(x, "content-type");
    size_t n = type ? strcspn(type, "; \t") : 0;
    ad_str body = ad_http_body(x);
    if (n != 16 || strncasecmp(type, "application/json", n)) {
        ad_reply_refusal(x, 400, NULL, NULL, "Unsupported Media Type: Only 'application/json' is allowed");
        return NULL;
    }
    json_t *v = ad_read_json(body.ptr, body.len, 0, NULL);
    if (json_is_object(v)) return v;
    json_decref(v);
    ad_reply_refusal(x, 400, "invalid_json", NULL, "The body is not a JSON object");
    return NULL;
}

/* NULL: it is missing or no string, which is answered. */
static const char *read_string(ad_http_exchange *x, const json_t *body, const char *name)
{
    const char *s = json_string_value(json_object_get(body, name));
    ad_fault f = {0};
    if (s) return s;
    ad_fault_set(&f, 400, NULL, name, "`%s` must be a string", name);
    ad_reply_fault(x, &f);
    return NULL;
}

/* False: it is no flag, which is answered. */
static bool read_flag(ad_http_exchange *x, const json_t *body, const char *name, bool *out)
{
    const json_t *v = json_object_get(body, name);
    ad_fault f = {0};
    *out = json_is_true(v);
    if (!v || json_is_null(v) || json_is_boolean(v)) return true;
    ad_fault_set(&f, 400, NULL, name, "`%s` must be true or false", name);
    ad_reply_fault(x, &f);
    return false;
}

/* ---- what comes of it ---- */

static void reply_success(ad_http_exchange *x, const char *full, const char *what)
{
    char text[AD_MAX_NAME + 64];
    int n = snprintf(text, sizeof text, "Success: LoRA adapter '%s' %s successfully.", ad_scope_shown(ad_caller_of(x), full), what);
    ad_http_reply(x, 200, NULL, text, (size_t)n);
}

static void reply_loaded_already(ad_http_exchange *x, const char *name)
{
    ad_fault f = {0};
    ad_fault_set(&f, 400, ad_invalid_user_input, "lora_name",
                 "The lora adapter '%.128s' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True.", name);
    ad_reply_fault(x, &f);
}

static void reply_unknown(ad_http_exchange *x, const char *name)
{
    ad_fault f = {0};
    ad_fault_set(&f, 404, "adapter_not_found", "lora_name", "The lora adapter '%.128s' cannot be found.", name);
    ad_reply_fault(x, &f);
}

static void reply_refused(ad_http_exchange *x, const ad_outcome *o)
{
    ad_fault f = {0};
    ad_fault_from(&f, &o->err, NULL);
    if (o->http) f.http = o->http;
    ad_reply_fault(x, &f);
}

/* ---- load ---- */

static void on_loaded(void *user, const ad_outcome *o)
{
    ad_later *l = user;
    if (!ad_later_resume(l, o->status)) {
        free(l);
        return;
    }
    if (o->status == AD_OK) reply_success(l->x, l->name, "added");
    else if (o->status == AD_EEXIST && o->code && !strcmp(o->code, "adapter_exists")) reply_loaded_already(l->x, l->name); /* by somebody else meanwhile */
    else reply_refused(l->x, o);
    free(l);
}

static bool is_url(const char *path)
{
    return !strncmp(path, "https://", 8);
}

/* name and path are strings that are not empty. Files of this machine, and of those it may reach, are the operator's to name: so is the adapter. */
static void load(ad_http_exchange *x, ad_app *app, const char *name, const char *path, bool inplace)
{
    const ad_entry *e = ad_registry_find(app->registry, name);
    ad_fault f = {0};
    ad_admission_spec spec = {.new_version = e && !e->n_targets, .activate = true, .if_match = AD_ANY_REVISION};
    if (!ad_caller_of(x)->is_operator) {
        ad_reply_refusal(x, 403, ad_insufficient_permissions, "lora_path", "`lora_path` is the operator's to use: send the adapter's files to /v1/adapters");
        return;
    }
    if (strlen(name) > AD_MAX_NAME) {
        ad_reply_refusal(x, 400, "invalid_value", "lora_name", "`lora_name` is longer than 128 bytes");
        return;
    }
    if (!ad_is_free_path(name, "lora_name", &f)) {
        ad_reply_fault(x, &f);
        return;
    }
    if (!inplace && ad_is_model(e)) {
        reply_loaded_already(x, name);
        return;
    }
    if (!is_url(path) && path[0] != '/') {
        ad_reply_refusal(x, 400, "invalid_value", "lora_path", "`lora_path` must be an absolute path under an --adapter-root of this server, or a https:// address of a --source-host");
        return;
    }
    ad_later *l = ad_later_new(x, app, name);
    if (!l) return;
    const ad_scope scope = ad_scope_of(x, app);
    memcpy(spec.name, name, strlen(name) + 1);
    spec.owner = ad_owner_id(&scope, name);
    if (scope.caller->key) spec.limits = scope.caller->key->allowance.limits;
    *(is_url(path) ? &spec.url : &spec.path) = strdup(path);
    ad_keeper_admit(app->keeper, &spec, on_loaded, l);
}

static void read_load(ad_http_exchange *x, ad_app *app, const json_t *body)
{
    const char *name = read_string(x, body, "lora_name");
    const char *path = name ? read_string(x, body, "lora_path") : NULL;
    bool inplace, is_3d;
    if (!path || !read_flag(x, body, "load_inplace", &inplace) || !read_flag(x, body, "is_3d_lora_weight", &is_3d)) return;
    if (!*name || !*path) ad_reply_refusal(x, 400, ad_invalid_user_input, NULL, "Both 'lora_name' and 'lora_path' must be provided.");
    else if (is_3d) ad_reply_refusal(x, 400, "unsupported_parameter", "is_3d_lora_weight", "`is_3d_lora_weight`: adapters of mixture-of-experts models are not served");
    else load(x, app, name, path, inplace);
}

void ad_handle_load_lora(ad_http_exchange *x, void *app)
{
    json_t *body = read_object(x);
    if (body) read_load(x, app, body);
    json_decref(body);
}

/* ---- unload ---- */

static void on_unloaded(void *user, const ad_outcome *o)
{
    ad_later *l = user;
    if (!ad_later_resume(l, o->status)) {
        free(l);
        return;
    }
    if (o->status == AD_OK) reply_success(l->x, l->name, "removed");
    else if (o->status == AD_ENOTFOUND) reply_unknown(l->x, l->name);
    else reply_refused(l->x, o);
    free(l);
}

static void unload(ad_http_exchange *x, ad_app *app, const char *said)
{
    const ad_scope scope = ad_scope_of(x, app);
    char buf[AD_SCOPE_NAME];
    const char *name = ad_scope_name(&scope, said, buf);
    const ad_entry *e = ad_registry_find(app->registry, name);
    ad_fault f = {0};
    if (!e || e->n_targets) { /* nor is an alias one */
        reply_unknown(x, name);
        return;
    }
    if (!ad_may_change(&scope, name, &f)) {
        ad_reply_fault(x, &f);
        return;
    }
    ad_later *l = ad_later_new(x, app, name);
    if (l) ad_keeper_remove(app->keeper, name, NULL, 0, AD_ANY_REVISION, on_unloaded, l);
}

void ad_handle_unload_lora(ad_http_exchange *x, void *app)
{
    json_t *body = read_object(x);
    const char *name = body ? read_string(x, body, "lora_name") : NULL;
    if (name && *name) unload(x, app, name);
    else if (name) ad_reply_refusal(x, 400, ad_invalid_user_input, "lora_name", "'lora_name' needs to be provided to unload a LoRA adapter.");
    json_decref(body);
}

/* ---- small questions ---- */

void ad_handle_version(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_reply_json(x, 200, json_pack("{s:s}", "version", AD_VERSION));
}

void ad_handle_ping(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    ad_http_reply(x, app->leaving ? 503 : 200, NULL, NULL, 0);
}

void ad_handle_load(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    ad_reply_json(x, 200, json_pack("{s:i}", "server_load", ad_worker_pending(app->worker)));
}
