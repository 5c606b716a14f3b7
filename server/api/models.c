/* SPDX-License-Identifier: MIT */
/* /v1/models: the names that `model` takes, as OpenAI and vLLM list them. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/names.h"
#include "server/keeper/keeper.h"

static const char prefix[] = "/v1/models/";

/* vLLM's: the same for every model, since who may do what is not said here. */
static json_t *permission(const ad_app *app)
{
    return json_pack("[{s:s, s:s, s:I, s:b, s:b, s:b, s:b, s:b, s:b, s:s, s:n, s:b}]", "id", "modelperm-adapterd", "object", "model_permission", "created", (json_int_t)app->started,
                     "allow_create_engine", 0, "allow_sampling", 1, "allow_logprobs", 1, "allow_search_indices", 0, "allow_view", 1, "allow_fine_tuning", 0, "organization", "*",
                     "group", "is_blocking", 0);
}

/* e: NULL for the base; v: the version it stands for, NULL of an alias, which stands for several. `root` is the name again: where its files are is nobody's
 * business. */
static json_t *model_json(const ad_app *app, const char *id, const ad_entry *e, const ad_version *v, json_t *perm)
{
    time_t created = e && e->created ? (time_t)e->created : app->started;
    char digest[65];
    ad_digest_hex(v ? &v->digest : ad_model_fingerprint(app->model), digest);
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s?, s:i, s:s?, s:O}", "id", id, "object", "model", "created", (json_int_t)created, "owned_by", "adapterd", "root", id,
                     "parent", e ? app->served_name : NULL, "max_model_len", ad_worker_context(app->worker), "adapter_version", v || !e ? digest : NULL, "permission", perm);
}

bool ad_is_model(const ad_entry *e)
{
    return e && (e->n_targets || (e->active && ad_version_get_state(e->active) != AD_VERSION_INCOMPATIBLE && !e->active->quarantined && e->active->trusted && !e->draining));
}

void ad_handle_models(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    ad_scope_cursor c = ad_scope_begin(&scope, "");
    json_t *list = json_array(), *perm = permission(app);
    if (ad_scope_allows(&scope, app->served_name)) json_array_append_new(list, model_json(app, app->served_name, NULL, NULL, perm));
    for (const ad_entry *e; (e = ad_scope_next(&c));)
        if (ad_is_model(e)) json_array_append_new(list, model_json(app, ad_scope_shown(scope.caller, e->name), e, e->active, perm));
    json_decref(perm);
    ad_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

/* What a whole name is of: an adapter, an alias (then *v is NULL) or one version of an adapter; NULL: nothing that answers. */
static const ad_entry *find(const ad_app *app, const char *full, const ad_version **v)
{
    const ad_entry *e = ad_registry_find(app->registry, full);
    ad_version *named;
    if (!e && ad_registry_resolve(app->registry, full, 0, &named, NULL) == AD_OK) return *v = named, named->entry;
    if (!ad_is_model(e)) return NULL;
    *v = e->active;
    return e;
}

static void refuse_unknown(ad_http_exchange *x, const char *full)
{
    ad_fault f = {0};
    ad_fault_set(&f, 404, "model_not_found", "model", "The model `%.150s` does not exist.", full);
    ad_reply_fault(x, &f);
}

void ad_handle_model(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    char buf[AD_SCOPE_NAME];
    const char *id = ad_http_path(x) + strlen(prefix), *full = ad_scope_name(&scope, id, buf);
    bool is_base = !strcmp(id, app->served_name) && ad_scope_allows(&scope, id);
    const ad_version *v = NULL;
    const ad_entry *e = is_base ? NULL : find(app, full, &v);
    if (!is_base && !e) {
        refuse_unknown(x, full);
        return;
    }
    json_t *perm = permission(app);
    ad_reply_json(x, 200, model_json(app, id, e, v, perm));
    json_decref(perm);
}

/* ---- DELETE ---- */

static void on_removed(void *user, const ad_outcome *o)
{
    ad_later *l = user;
    if (ad_later_resume(l, o->status) && o->status == AD_OK) {
        ad_reply_json(l->x, 200, json_pack("{s:s, s:s, s:b}", "id", ad_scope_shown(ad_caller_of(l->x), l->name), "object", "model", "deleted", 1));
    } else if (l->x) {
        ad_fault f = {0};
        ad_fault_from(&f, &o->err, "model");
        if (o->code) f.code = o->code;
        ad_reply_fault(l->x, &f);
    }
    free(l);
}

void ad_handle_delete_model(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    char buf[AD_SCOPE_NAME];
    const char *id = ad_http_path(x) + strlen(prefix), *full = ad_scope_name(&scope, id, buf);
    const ad_entry *e = ad_registry_find(app->registry, full);
    ad_fault f = {0};
    if (!strcmp(id, app->served_name) && ad_scope_allows(&scope, id)) {
        ad_reply_refusal(x, 403, "base_model", "model", "The base model cannot be deleted: it serves every adapter.");
    } else if (e && e->n_targets) {
        ad_reply_refusal(x, 400, "alias", "model", "This name is an alias: DELETE /v1/aliases/NAME removes it.");
    } else if (strchr(id, '@')) {
        ad_reply_refusal(x, 400, "invalid_value", "model", "One version of an adapter is removed with DELETE /v1/adapters/NAME@VERSION.");
    } else if (!e) {
        refuse_unknown(x, full);
    } else if (!ad_may_change(&scope, full, &f)) {
        ad_reply_fault(x, &f);
    } else {
        ad_later *l = ad_later_new(x, app, full);
        if (l) ad_keeper_remove(app->keeper, full, NULL, 0, AD_ANY_REVISION, on_removed, l);
    }
}
