/* SPDX-License-Identifier: MIT */
/* GET /v1/adapters and /v1/adapters/NAME: what is served, and what its load found. Loop thread. */
#include <string.h>

#include "server/api/api.h"
#include "server/observe/log.h"

/* rank and scaling of every adapted module, by name. */
static json_t *modules_json(const ad_app *app, const ad_adapter *a)
{
    const ad_lowrank_set *set = ad_adapter_lowrank(a);
    json_t *v = json_object();
    for (int i = 0; i < set->n_modules; i++) {
        const ad_lowrank *low = &set->modules[i];
        if (low->rank) json_object_set_new(v, ad_model_module(app->model, i)->name, json_pack("{s:i, s:f}", "rank", low->rank, "scaling", (double)low->scale));
    }
    return v;
}

static json_t *warnings_json(const ad_adapter *a)
{
    json_t *v = json_array();
    for (int i = 0; i < ad_adapter_warning_count(a); i++) json_array_append_new(v, ad_json_text(ad_adapter_warning(a, i)));
    return v;
}

static json_t *adapter_json(const ad_app *app, const ad_adapter *a, bool whole)
{
    char digest[65];
    ad_digest_hex(ad_adapter_digest(a), digest);
    const ad_merge *merge = ad_merger_current(app->merger);
    json_t *v = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:b, s:o}", "object", "adapter", "name", ad_adapter_name(a), "digest", digest, "state", "ready", "rank", ad_adapter_rank(a),
                          "modules_matched", ad_adapter_matched_modules(a), "bytes_packed", (json_int_t)ad_adapter_packed_bytes(a), "merged", merge && ad_merge_adapter(merge) == a,
                          "warnings", warnings_json(a));
    if (whole) json_object_set_new(v, "modules", modules_json(app, a));
    return v;
}

void ad_handle_adapters(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    json_t *list = json_array();
    for (int i = 0; i < ad_registry_count(app->registry); i++) json_array_append_new(list, adapter_json(app, ad_registry_at(app->registry, i), false));
    ad_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void ad_handle_adapter(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const char *name = ad_http_path(x) + strlen("/v1/adapters/");
    const ad_adapter *a = ad_registry_find(app->registry, name);
    ad_fault f = {0};
    if (a) {
        ad_reply_json(x, 200, adapter_json(app, a, true));
        return;
    }
    ad_fault_set(&f, 404, "adapter_not_found", "name", "The adapter `%.150s` does not exist.", name);
    ad_reply_fault(x, &f);
}
