/* SPDX-License-Identifier: MIT */
#include "server/api/lease.h"

#include <string.h>

#include "server/api/names.h"
#include "server/observe/access.h"
#include "server/sched/prefix.h"

/* name: whole. */
static bool add(ad_lease *l, const ad_request *r, const char *name, float weight, const char *param, ad_fault *f)
{
    ad_version *v = NULL;
    ad_err err;
    if (ad_registry_resolve(l->app->registry, name, r->hash, &v, &err) != AD_OK) {
        ad_fault_from(f, &err, param);
        f->code = err.code == AD_ENOTFOUND ? "model_not_found" : "adapter_unusable";
        return false;
    }
    v->requests++;
    ad_registry_touch(v, time(NULL));
    l->versions[l->n++] = ad_version_lease(v);
    l->mix.weights[l->mix.n++] = weight;
    return true;
}

static bool add_name(ad_lease *l, const ad_scope *scope, const ad_request *r, const char *said, float weight, const char *param, ad_fault *f)
{
    char full[AD_SCOPE_NAME];
    return add(l, r, ad_scope_name(scope, said, full), weight, param, f);
}

/* By ids, which are 400 when unknown: they are no names of models. */
static bool add_id(ad_lease *l, const ad_scope *scope, const ad_request *r, int id, float scale, ad_fault *f)
{
    const ad_entry *e = ad_registry_by_id(l->app->registry, id);
    if (!e || !ad_scope_sees(scope, e->name)) return ad_fault_set(f, 400, "invalid_value", "lora", "There is no adapter with id %d: GET /lora-adapters lists them", id);
    if (scale == 0) return true;
    for (int i = 0; i < l->n; i++)
        if (l->versions[i]->entry == e) return ad_fault_set(f, 400, "invalid_value", "lora", "The adapter with id %d is named twice", id);
    if (l->n == AD_MAX_MIX) return ad_fault_set(f, 400, "invalid_value", "lora", "More than %d adapters together", AD_MAX_MIX);
    return add(l, r, e->name, scale, "lora", f);
}

static bool add_ids(ad_lease *l, const ad_scope *scope, const ad_request *r, ad_fault *f)
{
    for (size_t i = 0; i < json_array_size(r->lora); i++) {
        const json_t *v = json_array_get(r->lora, i);
        if (!add_id(l, scope, r, (int)json_integer_value(json_object_get(v, "id")), (float)json_number_value(json_object_get(v, "scale")), f)) return false;
    }
    return true;
}

static bool add_defaults(ad_lease *l, const ad_scope *scope, const ad_request *r, ad_fault *f)
{
    const ad_tenant *t = scope->caller->tenant;
    for (int i = 0; i < t->n_defaults; i++) {
        const ad_default_adapter *d = &t->defaults[i];
        if (ad_registry_by_id(l->app->registry, d->id) && !add_id(l, scope, r, d->id, d->scale, f)) return false;
    }
    return true;
}

/* Whoever names no adapter in `model` asks the base, which a key may not be for. */
static bool may_use_base(const ad_lease *l, const ad_scope *scope, ad_fault *f)
{
    const char *name = l->app->served_name;
    return ad_scope_allows(scope, name) || ad_fault_set(f, 404, "model_not_found", "model", "The model `%.150s` does not exist.", name);
}

static bool find_root(ad_lease *l, const ad_tenant *tenant, ad_str salt, ad_fault *f)
{
    ad_prefix_identity id = {.n = l->mix.n, .merged = l->merge != NULL, .tenant = {(const char *)&tenant->id, sizeof tenant->id}, .salt = salt};
    ad_err err;
    for (int i = 0; i < l->mix.n; i++) {
        id.adapters[i] = &l->versions[i]->digest;
        id.weights[i] = l->mix.weights[i];
    }
    return ad_prefix_root_of(&l->root, &id, &err) == AD_OK || ad_fault_from(f, &err, NULL);
}

static void find_receipt(ad_lease *l)
{
    char *at = l->receipt;
    if (!l->n) ad_digest_hex(ad_model_fingerprint(l->app->model), at);
    for (int i = 0; i < l->n; i++) {
        if (i) *at++ = ',';
        ad_digest_hex(&l->versions[i]->digest, at);
        at += 64;
    }
}

bool ad_lease_begin(ad_lease *l, ad_app *app, const ad_scope *scope, const ad_request *r, ad_fault *f)
{
    bool is_base = !r->model || !strcmp(r->model, app->served_name), good = true;
    l->app = app;
    if (!is_base && (r->n_adapters || r->lora)) {
        const char *field = r->lora ? "lora" : "adapters";
        return ad_fault_set(f, 400, "invalid_value", field, "`%s` goes with the base model's name in `model`, which is \"%.150s\"", field, app->served_name);
    }
    if (!is_base) good = add_name(l, scope, r, r->model, 1, "model", f);
    else good = may_use_base(l, scope, f);
    for (int i = 0; good && i < r->n_adapters; i++) good = add_name(l, scope, r, r->adapters[i].name, r->adapters[i].weight, "adapters", f);
    if (good && r->lora) good = add_ids(l, scope, r, f);
    else if (good && is_base && r->use_defaults) good = add_defaults(l, scope, r, f);
    if (!good) return false;
    ad_merge *merge = l->mix.n == 1 && l->mix.weights[0] == 1 ? ad_merger_find(app->merger, &l->versions[0]->digest) : NULL;
    if (merge) l->merge = ad_merge_retain(merge);
    find_receipt(l);
    return find_root(l, scope->caller->tenant, r->cache_salt, f);
}

/* Every adapter is in memory. */
static bool take_sets(ad_lease *l, ad_fault *f)
{
    ad_err err;
    for (int i = 0; i < l->n && !l->merge; i++) l->mix.sets[i] = ad_adapter_lowrank(l->versions[i]->adapter);
    return l->merge || ad_mix_check(&l->mix, &err) == AD_OK || ad_fault_from(f, &err, "adapters");
}

static bool wait_fault(ad_fault *f, const ad_err *err)
{
    ad_fault_from(f, err, "model");
    if (err->code == AD_EBUSY) f->code = "adapter_loading";
    return false;
}

static void on_resident(ad_wait *w, ad_status st, const ad_err *err)
{
    ad_lease *l = w->user;
    ad_fault f = {0};
    l->n_waiting--;
    if (st != AD_OK) {
        ad_lease_stop_waiting(l);
        wait_fault(&f, err);
        l->ready(l, &f);
    } else if (!l->n_waiting) {
        l->ready(l, take_sets(l, &f) ? NULL : &f);
    }
}

bool ad_lease_load(ad_lease *l, void (*ready)(ad_lease *l, const ad_fault *f), void *user, ad_fault *f)
{
    l->ready = ready;
    l->user = user;
    for (int i = 0; i < l->n && !l->merge; i++) { /* merged weights need none */
        bool waiting;
        ad_err err;
        l->waits[i].ready = on_resident;
        l->waits[i].user = l;
        if (ad_keeper_need(l->app->keeper, l->versions[i], &l->waits[i], false, &waiting, &err) != AD_OK) {
            ad_lease_stop_waiting(l);
            wait_fault(f, &err);
            if (err.code == AD_ELIMIT) f->http = 403, f->code = "quota_exceeded"; /* of its tenant: nothing will change that */
            return false;
        }
        l->n_waiting += waiting;
    }
    return l->n_waiting || take_sets(l, f);
}

void ad_lease_stop_waiting(ad_lease *l)
{
    for (int i = 0; i < l->n; i++) ad_keeper_unwait(l->app->keeper, &l->waits[i]);
    l->n_waiting = 0;
}

void ad_lease_end(ad_lease *l)
{
    for (int i = 0; i < l->n; i++) ad_keeper_release(l->app->keeper, &l->versions[i]);
    l->n = 0;
    ad_merge_release(&l->merge);
}

ad_seq_weights ad_lease_weights(const ad_lease *l)
{
    return (ad_seq_weights){.mix = l->mix.n && !l->merge ? &l->mix : NULL, .merged = l->merge ? ad_merge_weights(l->merge) : NULL, .root = l->root};
}

/* For log and metrics: as many whole names as there is room for, and the first in any case. */
static void note_names(const ad_lease *l, const ad_http_exchange *x)
{
    ad_access *a = ad_access_of(x);
    size_t len = 0;
    for (int i = 0; a && i < l->n; i++) {
        const char *name = l->versions[i]->entry ? l->versions[i]->entry->name : "";
        if (len + strlen(name) + 2 > sizeof a->adapters) return;
        len += (size_t)sprintf(a->adapters + len, i ? ",%s" : "%s", name);
    }
}

void ad_lease_write_header(const ad_lease *l, ad_http_exchange *x)
{
    note_names(l, x);
    ad_http_set_header(x, "x-adapter-version", l->receipt);
}

static const char *mode_of(const ad_lease *l) { return l->merge ? "merged" : "unmerged"; }

void ad_lease_write_receipt(const ad_lease *l, json_t *body)
{
    json_object_set_new(body, "adapter_version", json_string(l->receipt));
    if (l->n) json_object_set_new(body, "adapter_mode", json_string(mode_of(l)));
}

void ad_lease_put_receipt(const ad_lease *l, ad_buf *object)
{
    ad_json_reopen(object);
    ad_buf_printf(object, "\"adapter_version\":\"%s\"", l->receipt);
    if (l->n) ad_buf_printf(object, ",\"adapter_mode\":\"%s\"", mode_of(l));
    ad_buf_puts(object, "}");
}
