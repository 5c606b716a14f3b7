/* SPDX-License-Identifier: MIT */
/* /v1/aliases: names that spread requests over adapters by weight. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"
#include "server/keeper/keeper.h"

static const char prefix[] = "/v1/aliases/";
enum { MAX_WEIGHT = 1000000 };

static json_t *alias_json(const ad_entry *e)
{
    json_t *list = json_array();
    for (int i = 0; i < e->n_targets; i++) json_array_append_new(list, json_pack("{s:s, s:i}", "model", e->targets[i].model, "weight", e->targets[i].weight));
    return json_pack("{s:s, s:s, s:o, s:I}", "object", "alias", "name", e->name, "targets", list, "revision", (json_int_t)e->revision);
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
        ad_reply_json(x, 200, alias_json(e));
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
        ad_reply_fault(l->x, &f);
    } else if (o->entry) {
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

/* The path's name; NULL: answered. */
static const char *read_name(ad_http_exchange *x)
{
    const char *name = ad_http_path(x) + strlen(prefix);
    if (strlen(name) <= AD_MAX_NAME) return name;
    ad_reply_refusal(x, 400, "invalid_value", "name", "the name is longer than 128 bytes");
    return NULL;
}

/* [{"model", "weight"}, ...]; NULL with *f filled. */
static ad_target *read_targets(const json_t *list, int *n, ad_fault *f)
{
    *n = (int)json_array_size(list);
    ad_target *targets = *n >= 1 && *n <= AD_MAX_TARGETS ? ad_calloc((size_t)*n, sizeof *targets) : NULL;
    if (!targets) {
        ad_fault_set(f, 400, "invalid_value", "targets", "`targets` must be an array of 1 to %d objects with a \"model\" and a \"weight\"", AD_MAX_TARGETS);
        return NULL;
    }
    for (int i = 0; i < *n; i++) {
        const json_t *t = json_array_get(list, (size_t)i), *model = json_object_get(t, "model"), *weight = json_object_get(t, "weight");
        json_int_t w = weight ? json_integer_value(weight) : 1;
        bool good = json_is_string(model) && json_string_length(model) <= AD_MAX_NAME + 66 && (!weight || json_is_integer(weight)) && w >= 1 && w <= MAX_WEIGHT;
        targets[i] = (ad_target){good ? strdup(json_string_value(model)) : NULL, (int)w};
        if (targets[i].model) continue;
        ad_targets_free(targets, i);
        ad_fault_set(f, 400, "invalid_value", "targets", "each target needs a \"model\" and a \"weight\" from 1 to %d", MAX_WEIGHT);
        return NULL;
    }
    return targets;
}

void ad_handle_put_alias(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_str body = ad_http_body(x);
    ad_fault f = {0};
    const char *name = read_name(x);
    if (!name) return;
    json_t *root = ad_read_json(body.ptr, body.len, 0, NULL);
    int n = 0;
    ad_target *targets = read_targets(json_object_get(root, "targets"), &n, &f);
    json_decref(root);
    ad_later *l = targets ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_set_alias(app->keeper, name, targets, n, on_outcome, l);
    else if (targets) ad_targets_free(targets, n);
    else ad_reply_fault(x, &f);
}

void ad_handle_delete_alias(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    const char *name = read_name(x);
    ad_later *l = name ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_remove_alias(app->keeper, name, on_outcome, l);
}
