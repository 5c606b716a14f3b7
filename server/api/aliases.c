/* SPDX-License-Identifier: MIT */
/* /v1/aliases: names that spread requests over adapters by weight. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/etag.h"
#include "server/api/names.h"
#include "server/keeper/keeper.h"
#include "server/observe/access.h"

static const char prefix[] = "/v1/aliases/";
enum { MAX_WEIGHT = 1000000 };

static json_t *alias_json(const ad_app *app, const ad_caller *c, const ad_entry *e)
{
    json_t *list = json_array();
    for (int i = 0; i < e->n_targets; i++) json_array_append_new(list, json_pack("{s:s, s:i}", "model", ad_scope_shown(c, e->targets[i].model), "weight", e->targets[i].weight));
    char etag[AD_ETAG];
    ad_etag(e, etag);
    return json_pack("{s:s, s:s, s:s, s:o, s:I, s:s}", "object", "alias", "name", ad_scope_shown(c, e->name), "owner", ad_owner_name(app, e->name), "targets", list,
                     "revision", (json_int_t)e->revision,
                     "etag", etag);
}

void ad_handle_aliases(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    ad_scope_cursor c = ad_scope_begin(&scope, "");
    json_t *list = json_array();
    for (const ad_entry *e; (e = ad_scope_next(&c));)
        if (e->n_targets) json_array_append_new(list, alias_json(app, scope.caller, e));
    ad_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void ad_handle_alias(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    char buf[AD_SCOPE_NAME];
    const char *name = ad_scope_name(&scope, ad_http_path(x) + strlen(prefix), buf);
    const ad_entry *e = ad_registry_find(app->registry, name);
    ad_fault f = {0};
    if (e && e->n_targets) {
        ad_set_etag(x, e);
        if (ad_is_unmodified(x, e)) ad_http_reply(x, 304, "application/json", NULL, 0);
        else ad_reply_json(x, 200, alias_json(app, scope.caller, e));
        return;
    }
    ad_fault_set(&f, 404, "alias_not_found", "name", "The alias `%.150s` does not exist.", name);
    ad_reply_fault(x, &f);
}

/* ---- changes ---- */

static void reply(const ad_later *l, const ad_outcome *o)
{
    ad_fault f = {0};
    if (o->status != AD_OK) {
        ad_fault_from(&f, &o->err, NULL);
        if (o->code) f.code = o->code;
        if (o->http) f.http = o->http;
        ad_reply_fault(l->x, &f);
    } else if (o->entry) {
        ad_set_etag(l->x, o->entry);
        ad_reply_json(l->x, 200, alias_json(l->app, ad_caller_of(l->x), o->entry));
    } else {
        ad_reply_json(l->x, 200, json_pack("{s:s, s:s, s:b}", "object", "alias.deleted", "name", ad_scope_shown(ad_caller_of(l->x), l->name), "deleted", 1));
    }
}

static void on_outcome(void *user, const ad_outcome *o)
{
    ad_later *l = user;
    if (ad_later_resume(l, o->status)) reply(l, o);
    free(l);
}

/* The path's name, and which revision what has it must have: the whole one, in out[AD_SCOPE_NAME] or the path; NULL: answered. added: it may be new. */
static const char *read_name(ad_http_exchange *x, const ad_app *app, bool added, char *out, int64_t *if_match)
{
    const ad_scope scope = ad_scope_of(x, app);
    const char *said = ad_http_path(x) + strlen(prefix), *name = (added ? ad_scope_own_name : ad_scope_name)(&scope, said, out);
    size_t room = ad_scope_room(scope.caller);
    ad_fault f = {0};
    bool good = strlen(said) <= room ? added ? ad_may_add(&scope, app, said, "name", &f) : ad_may_change(&scope, name, &f)
                                     : ad_fault_set(&f, 400, "invalid_value", "name", "the name is longer than %zu bytes", room);
    if (good) return ad_read_if_match(x, ad_registry_find(app->registry, name), if_match) ? name : NULL;
    ad_reply_fault(x, &f);
    return NULL;
}

/* A target's whole name, owned: one that requests of the alias's owner could name. NULL with *f filled. */
static char *target_name(const ad_scope *s, const char *alias, const char *said, ad_fault *f)
{
    char buf[AD_SCOPE_NAME];
    const char *full = ad_scope_name(s, said, buf);
    const ad_tenant *of_alias = ad_scope_owner(&s->rules, alias), *owner = ad_scope_owner(&s->rules, full);
    if (owner && owner != of_alias) {
        ad_fault_set(f, 422, "invalid_target", "targets",
                     "`%.150s` belongs to tenant `%s`, the alias does not: it may spread over its own tenant's adapters and shared ones", full, owner->name);
        return NULL;
    }
    char *copy = strdup(full);
    if (!copy) ad_fault_no_memory(f);
    return copy;
}

/* {"targets": [{"model", "weight"}, ...]} of an alias, with whole names; NULL with *f filled. */
static ad_target *read_targets(const ad_scope *s, const char *alias, const json_t *body, int *n, ad_fault *f)
{
    const json_t *list = json_object_get(body, "targets");
    *n = (int)json_array_size(list);
    if (list && json_object_size(body) > 1) {
        ad_fault_set(f, 400, "unknown_field", NULL, "the body has an unknown field; only `targets` is known");
        return NULL;
    }
    ad_target *targets = *n >= 1 && *n <= AD_MAX_TARGETS ? ad_calloc((size_t)*n, sizeof *targets) : NULL;
    if (!targets) {
        ad_fault_set(f, 400, "invalid_value", "targets", "`targets` must be an array of 1 to %d objects with a \"model\" and a \"weight\"", AD_MAX_TARGETS);
        return NULL;
    }
    for (int i = 0; i < *n; i++) {
        const json_t *t = json_array_get(list, (size_t)i), *model = json_object_get(t, "model"), *weight = json_object_get(t, "weight");
        json_int_t w = weight ? json_integer_value(weight) : 1;
        bool good = json_is_string(model) && json_object_size(t) == 1u + (weight != NULL) && json_string_length(model) <= AD_MAX_NAME + 66 && (!weight || json_is_integer(weight)) && w >= 1 && w <= MAX_WEIGHT;
        if (good) targets[i] = (ad_target){target_name(s, alias, json_string_value(model), f), (int)w};
        if (targets[i].model) continue;
        ad_targets_free(targets, i);
        if (!good) ad_fault_set(f, 400, "invalid_value", "targets", "each target needs a \"model\" and a \"weight\" from 1 to %d, and nothing else", MAX_WEIGHT);
        return NULL;
    }
    return targets;
}

static void tell_targets(const ad_http_exchange *x, const ad_target *targets, int n)
{
    char text[AD_ACCESS_TEXT];
    size_t len = 0;
    for (int i = 0; i < n && len < sizeof text; i++) len += (size_t)snprintf(text + len, sizeof text - len, "%s%s %d", i ? ", " : "", targets[i].model, targets[i].weight);
    ad_access_tell(x, "%s", text);
}

void ad_handle_put_alias(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_str body = ad_http_body(x);
    ad_fault f = {0};
    int64_t if_match;
    char buf[AD_SCOPE_NAME];
    const char *name = read_name(x, app, true, buf, &if_match);
    if (!name) return;
    const ad_scope scope = ad_scope_of(x, app);
    json_t *root = ad_read_json(body.ptr, body.len, 0, NULL);
    int n = 0;
    ad_target *targets = read_targets(&scope, name, root, &n, &f);
    json_decref(root);
    ad_later *l = targets ? ad_later_new(x, app, name) : NULL;
    if (l) tell_targets(x, targets, n);
    if (l) ad_keeper_set_alias(app->keeper, name, targets, n, if_match, on_outcome, l);
    else if (targets) ad_targets_free(targets, n);
    else ad_reply_fault(x, &f);
}

void ad_handle_delete_alias(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    int64_t if_match;
    char buf[AD_SCOPE_NAME];
    const char *name = read_name(x, app, false, buf, &if_match);
    ad_later *l = name ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_remove_alias(app->keeper, name, if_match, on_outcome, l);
}
