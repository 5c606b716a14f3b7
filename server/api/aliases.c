/* SPDX-License-Identifier: MIT */
/* /v1/aliases: names that spread requests over adapters by weight. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/etag.h"
#include "server/keeper/keeper.h"

static const char prefix[] = "/v1/aliases/";
enum { MAX_WEIGHT = 1000000 };

static json_t *alias_json(const ad_entry *e)
{
    json_t *list = json_array();
    for (int i = 0; i < e->n_targets; i++) json_array_append_new(list, json_pack("{s:s, s:i}", "model", e->targets[i].model, "weight", e->targets[i].weight));
    char etag[AD_ETAG];
    ad_etag(e, etag);
    return json_pack("{s:s, s:s, s:o, s:I, s:s}", "object", "alias", "name", e->name, "targets", list, "revision", (json_int_t)e->revision, "etag", etag);
}

void ad_handle_aliases(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    json_t *list = json_array();
    for (size_t i = 0; i < ad_registry_count(app->registry); i++)
        if (ad_registry_at(app->registry, i)->n_targets) json_array_append_new(list, alias_json(ad_registry_at(app->registry, i)));
    ad_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void ad_handle_alias(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const char *name = ad_http_path(x) + strlen(prefix);
    const ad_entry *e = ad_registry_find(app->registry, name);
    ad_fault f = {0};
    if (e && e->n_targets) {
        ad_set_etag(x, e);
        if (ad_is_unmodified(x, e)) ad_http_reply(x, 304, "application/json", NULL, 0);
        else ad_reply_json(x, 200, alias_json(e));
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
        ad_reply_json(l->x, 200, alias_json(o->entry));
    } else {
        ad_reply_json(l->x, 200, json_pack("{s:s, s:s, s:b}", "object", "alias.deleted", "name", l->name, "deleted", 1));
    }
}

static void on_outcome(void *user, const ad_outcome *o)
{
    ad_later *l = user;
    if (ad_later_resume(l)) reply(l, o);
    free(l);
}

/* The path's name, and which revision it must have; NULL: answered. */
static const char *read_name(ad_http_exchange *x, const ad_app *app, int64_t *if_match)
{
    const char *name = ad_http_path(x) + strlen(prefix);
    if (strlen(name) <= AD_MAX_NAME) return ad_read_if_match(x, ad_registry_find(app->registry, name), if_match) ? name : NULL;
    ad_reply_refusal(x, 400, "invalid_value", "name", "the name is longer than 128 bytes");
    return NULL;
}

/* {"targets": [{"model", "weight"}, ...]}; NULL with *f filled. */
static ad_target *read_targets(const json_t *body, int *n, ad_fault *f)
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
        targets[i] = (ad_target){good ? strdup(json_string_value(model)) : NULL, (int)w};
        if (targets[i].model) continue;
        ad_targets_free(targets, i);
        ad_fault_set(f, 400, "invalid_value", "targets", "each target needs a \"model\" and a \"weight\" from 1 to %d, and nothing else", MAX_WEIGHT);
        return NULL;
    }
    return targets;
}

void ad_handle_put_alias(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_str body = ad_http_body(x);
    ad_fault f = {0};
    int64_t if_match;
    const char *name = read_name(x, app, &if_match);
    if (!name) return;
    json_t *root = ad_read_json(body.ptr, body.len, 0, NULL);
    int n = 0;
    ad_target *targets = read_targets(root, &n, &f);
    json_decref(root);
    ad_later *l = targets ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_set_alias(app->keeper, name, targets, n, if_match, on_outcome, l);
    else if (targets) ad_targets_free(targets, n);
    else ad_reply_fault(x, &f);
}

void ad_handle_delete_alias(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    int64_t if_match;
    const char *name = read_name(x, app, &if_match);
    ad_later *l = name ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_remove_alias(app->keeper, name, if_match, on_outcome, l);
}
