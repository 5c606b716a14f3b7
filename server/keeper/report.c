/* SPDX-License-Identifier: MIT */
/* What the loader found, as JSON. Any thread. */
#include "server/keeper/keeper.h"
#include "server/observe/log.h"

/* What a module has beside its pair; false: nothing. */
static bool add_parts(json_t *v, const ad_model *base, const ad_parts *parts, int module)
{
    ad_module_kind kind = ad_model_module(base, module)->kind;
    const ad_module_parts *p = &parts->modules[module];
    int tokens = kind == AD_MOD_EMBED ? parts->embed.n : kind == AD_MOD_HEAD ? parts->head.n : 0;
    if (p->factor) json_object_set_new(v, "dora", json_true());
    if (p->added) json_object_set_new(v, "lora_bias", json_true());
    if (p->bias) json_object_set_new(v, "bias", json_true());
    if (p->weight.data) json_object_set_new(v, "saved", json_true());
    if (tokens) json_object_set_new(v, "trained_tokens", json_integer(tokens));
    return p->factor || p->added || p->bias || p->weight.data || tokens;
}

static json_t *modules_json(const ad_model *base, const ad_adapter *a)
{
    const ad_lowrank_set *set = ad_adapter_lowrank(a);
    json_t *v = json_object();
    for (int i = 0; i < set->n_modules; i++) {
        const ad_lowrank *low = &set->modules[i];
        json_t *m = json_pack("{s:i, s:f, s:f}", "rank", low->rank, "scaling", (double)low->scale, "norm", ad_adapter_norm(a, i));
        bool more = set->parts && add_parts(m, base, set->parts, i);
        if (low->rank || more) json_object_set(v, ad_model_module(base, i)->name, m);
        json_decref(m);
    }
    return v;
}

/* Norms that the adapter replaces. */
static json_t *norms_json(const ad_model *base, const ad_parts *parts)
{
    json_t *v = json_array();
    int layers = ad_model_get_config(base)->layers;
    for (int i = 0; parts && i < 2 * layers; i++)
        if (parts->norms[i]) json_array_append_new(v, json_sprintf("model.layers.%d.%s", i / 2, i % 2 ? "post_attention_layernorm" : "input_layernorm"));
    if (parts && parts->norms[2 * layers]) json_array_append_new(v, json_string("model.norm"));
    return v;
}

json_t *ad_report_json(const ad_model *base, const ad_adapter *a)
{
    json_t *warnings = json_array();
    for (int i = 0; i < ad_adapter_warning_count(a); i++) json_array_append_new(warnings, ad_json_text(ad_adapter_warning(a, i)));
    json_t *v = json_pack("{s:s, s:i, s:i, s:i, s:[], s:o, s:o, s:I}", "format", ad_adapter_format(a), "rank", ad_adapter_rank(a),
                          "modules_matched", ad_adapter_matched_modules(a), "tensors_matched",
                          ad_adapter_matched_tensors(a), "unmatched", "modules", modules_json(base, a), "warnings", warnings, "bytes_packed", (json_int_t)ad_adapter_packed_bytes(a));
    json_object_set_new(v, "norms", norms_json(base, ad_adapter_lowrank(a)->parts));
    json_object_set_new(v, "base_model", ad_adapter_base_name(a) ? ad_json_text(ad_adapter_base_name(a)) : json_null());
    return v;
}
