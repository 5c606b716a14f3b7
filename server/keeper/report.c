/* SPDX-License-Identifier: MIT */
/* What the loader found, as JSON. Any thread. */
#include "server/keeper/keeper.h"
#include "server/observe/log.h"

static json_t *modules_json(const ad_model *base, const ad_adapter *a)
{
    const ad_lowrank_set *set = ad_adapter_lowrank(a);
    json_t *v = json_object();
    for (int i = 0; i < set->n_modules; i++) {
        const ad_lowrank *low = &set->modules[i];
        if (low->rank) json_object_set_new(v, ad_model_module(base, i)->name, json_pack("{s:i, s:f, s:f}", "rank", low->rank, "scaling", (double)low->scale, "norm", ad_adapter_norm(a, i)));
    }
    return v;
}

json_t *ad_report_json(const ad_model *base, const ad_adapter *a)
{
    json_t *warnings = json_array();
    for (int i = 0; i < ad_adapter_warning_count(a); i++) json_array_append_new(warnings, ad_json_text(ad_adapter_warning(a, i)));
    json_t *v = json_pack("{s:s, s:i, s:i, s:i, s:[], s:o, s:o, s:I}", "format", ad_adapter_format(a), "rank", ad_adapter_rank(a), "modules_matched", ad_adapter_matched_modules(a), "tensors_matched",
                          ad_adapter_matched_tensors(a), "unmatched", "modules", modules_json(base, a), "warnings", warnings, "bytes_packed", (json_int_t)ad_adapter_packed_bytes(a));
    json_object_set_new(v, "base_model", ad_adapter_base_name(a) ? ad_json_text(ad_adapter_base_name(a)) : json_null());
    return v;
}
