/* SPDX-License-Identifier: MIT */
/* DoRA: each output of W + scale B A is brought to a trained length, the magnitude. The quotient of the two is a factor per output,
 * known once the adapter is packed. Also the pair's own bias (lora_bias). */
#include <math.h>
#include <stdlib.h>

#include "adapters/methods/extras.h"
#include "core/model/merged.h"

static ad_status take(ad_loader *l, int module, const ad_tensor **slot, const ad_tensor *t, const char *part, bool announced, const char *why)
{
    const ad_module *m = ad_model_module(l->base, module);
    if (!announced) return ad_load_refuse(l, t, why);
    if (!l->pairs[module].plan.rank) return ad_load_refuse(l, t, "belongs to a module that the configuration does not target");
    return ad_extras_take(l, slot, t, m->name, part, m->out, 0);
}

/* All pairs of a file are alike in this; a module without one is refused either way. */
static bool any(const ad_loader *l, bool dora)
{
    for (int i = 0; i < l->n_modules; i++)
        if (dora ? l->pairs[i].plan.dora : l->pairs[i].plan.biased) return true;
    return false;
}

ad_status ad_dora_take(ad_loader *l, int module, const ad_tensor *t)
{
    return take(l, module, &l->extras->modules[module].magnitude, t, "lora_magnitude_vector", any(l, true), "is part of a DoRA adapter, but use_dora is not set");
}

ad_status ad_dora_take_bias(ad_loader *l, int module, const ad_tensor *t)
{
    return take(l, module, &l->extras->modules[module].added, t, "lora_B.bias", any(l, false), "is a bias of lora_B, but lora_bias is not set");
}

ad_status ad_dora_check(ad_loader *l)
{
    for (int i = 0; i < l->n_modules; i++) {
        const ad_peft_plan *plan = &l->pairs[i].plan;
        const ad_extra *x = &l->extras->modules[i];
        const char *what = plan->dora && !x->magnitude ? "lora_magnitude_vector" : plan->biased && !x->added ? "bias of lora_B" : NULL;
        if (what) return ad_fail(l->err, AD_EMISMATCH, "%s: the configuration's \"%s\" asks for it, but the file has no %s for \"%s\"", l->label,
                                 plan->dora ? "use_dora" : "lora_bias", what, ad_model_module(l->base, i)->name);
    }
    return AD_OK;
}

ad_status ad_dora_pack(ad_loader *l, int module, char **next, const float **out)
{
    const ad_module *m = ad_model_module(l->base, module);
    const ad_tensor *t = l->extras->modules[module].magnitude;
    char *at = *next;
    ad_status st = ad_extras_vector(l, t, m->out, 1, next, out);
    float *factor = (float *)(void *)at, *length = st == AD_OK ? ad_calloc((size_t)m->out, sizeof *length) : NULL;
    if (st == AD_OK && !length) st = ad_load_no_memory(l);
    if (st == AD_OK) st = ad_merged_norms(l->base, &l->adapter->set, module, length, l->err);
    for (int i = 0; i < m->out && st == AD_OK; i++) {
        factor[i] /= length[i];
        if (!isfinite(factor[i])) st = ad_load_refuse(l, t, "asks for a length of an output that has none: W + B A is zero there");
    }
    free(length);
    return st;
}
