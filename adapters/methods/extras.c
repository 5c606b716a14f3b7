/* SPDX-License-Identifier: MIT */
/* What an adapter has beside pairs: planned from the configuration, checked against the file, packed into the adapter's block. */
#include "adapters/methods/extras.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the configuration asks for ---- */

static void name_norms(ad_extras *x)
{
    int layers = x->n_norms / 2;
    for (int i = 0; i < 2 * layers; i++)
        snprintf(x->norms[i].name, sizeof x->norms[i].name, "model.layers.%d.%s", i / 2, i % 2 ? "post_attention_layernorm" : "input_layernorm");
    snprintf(x->norms[2 * layers].name, sizeof x->norms[2 * layers].name, "model.norm");
}

static ad_status note_methods(ad_loader *l)
{
    static const uint8_t set = 1;
    ad_status st = AD_OK;
    for (int i = 0; i < l->n_modules && st == AD_OK; i++) {
        const ad_peft_plan *plan = &l->pairs[i].plan;
        if (plan->dora) st = ad_load_set(l, ad_model_module(l->base, i)->name, "use_dora", &set, sizeof set);
    }
    return st;
}

ad_status ad_extras_plan(ad_loader *l, ad_peft *config)
{
    ad_extras *x = l->extras = ad_calloc(1, sizeof *x);
    if (!x) return ad_load_no_memory(l);
    x->n_norms = 2 * ad_model_get_config(l->base)->layers + 1;
    x->modules = ad_calloc((size_t)l->n_modules, sizeof *x->modules);
    x->norms = ad_calloc((size_t)x->n_norms, sizeof *x->norms);
    if (!x->modules || !x->norms) return ad_load_no_memory(l);
    name_norms(x);
    ad_status st = ad_saved_plan(l, config);
    if (st == AD_OK) st = ad_tokens_plan(l, config);
    return st == AD_OK ? note_methods(l) : st;
}

void ad_extras_free(ad_extras **xp)
{
    ad_extras *x = *xp;
    if (!x) return;
    *xp = NULL;
    free(x->embed.ids);
    free(x->head.ids);
    free(x->modules);
    free(x->norms);
    free(x);
}

int ad_extras_find_norm(const ad_loader *l, const char *name)
{
    for (int i = 0; i < l->extras->n_norms; i++)
        if (!strcmp(l->extras->norms[i].name, name)) return i;
    return -1;
}

/* ---- tensors ---- */

ad_status ad_extras_take(ad_loader *l, const ad_tensor **slot, const ad_tensor *t, const char *owner, const char *part, int rows, int cols)
{
    if (*slot) return ad_load_refuse(l, t, "is there twice, under two names");
    *slot = t;
    ad_status st = ad_load_check_shape(l, t, rows, cols);
    return st == AD_OK ? ad_load_take(l, owner, part, t) : st;
}

ad_status ad_extras_check(ad_loader *l)
{
    ad_status st = ad_saved_check(l);
    if (st == AD_OK) st = ad_tokens_check(l);
    return st == AD_OK ? ad_dora_check(l) : st;
}

/* ---- packing ---- */

/* The norm in front of a module, or -1: it is packed with the first that reads it. */
static int norm_of(const ad_loader *l, int module)
{
    const ad_module *m = ad_model_module(l->base, module);
    if (m->kind == AD_MOD_Q) return 2 * m->layer;
    if (m->kind == AD_MOD_GATE) return 2 * m->layer + 1;
    return m->kind == AD_MOD_HEAD ? l->extras->n_norms - 1 : -1;
}

static const ad_tensor *norm_before(const ad_loader *l, int module)
{
    int norm = norm_of(l, module);
    return norm < 0 ? NULL : l->extras->norms[norm].weight;
}

size_t ad_extras_bytes(const ad_loader *l, int module)
{
    if (!l->extras) return 0;
    const ad_module *m = ad_model_module(l->base, module);
    const ad_extra *x = &l->extras->modules[module];
    const ad_extra_tokens *tokens = ad_tokens_of(l, module);
    bool embedding = m->kind == AD_MOD_EMBED;
    size_t vectors = (size_t)(x->bias != NULL) + (size_t)(x->added != NULL) + (size_t)(x->magnitude != NULL), bytes = vectors * ad_extras_vector_bytes(m->out);
    if (norm_before(l, module)) bytes += ad_extras_vector_bytes(ad_model_get_config(l->base)->hidden);
    if (x->weight) bytes += ad_pack_bytes(ad_model_merged_type(l->base, module), embedding ? m->in : m->out, embedding ? m->out : m->in);
    return tokens ? bytes + ad_tokens_bytes(l, tokens) : bytes;
}

void *ad_extras_place(char **next, size_t bytes)
{
    char *at = *next;
    *next += bytes;
    return at;
}

ad_status ad_extras_vector(ad_loader *l, const ad_tensor *t, int n, float by, char **next, const float **out)
{
    float *v = ad_extras_place(next, ad_extras_vector_bytes(n));
    ad_dequant_row(t->dtype, v, t->data, (size_t)n);
    for (int i = 0; i < n; i++) {
        v[i] *= by;
        if (!isfinite(v[i])) return ad_load_refuse(l, t, "holds a value that is not finite");
    }
    *out = v;
    return AD_OK;
}

/* What cannot be shared with other adapters, or scaled by a weight. */
static bool must_be_alone(const ad_loader *l)
{
    const ad_extras *x = l->extras;
    bool alone = x->embed.n || x->head.n;
    for (int i = 0; i < x->n_norms; i++) alone |= x->norms[i].weight != NULL;
    for (int i = 0; i < l->n_modules; i++) alone |= x->modules[i].weight || x->modules[i].bias || x->modules[i].magnitude;
    return alone;
}

static bool has_any(const ad_loader *l)
{
    for (int i = 0; i < l->n_modules; i++)
        if (l->extras->modules[i].added) return true;
    return must_be_alone(l);
}

ad_status ad_extras_begin(ad_loader *l)
{
    ad_adapter *a = l->adapter;
    if (!l->extras || !has_any(l)) return AD_OK;
    a->part_modules = ad_calloc((size_t)l->n_modules, sizeof *a->part_modules);
    a->part_norms = ad_calloc((size_t)l->extras->n_norms, sizeof *a->part_norms);
    if (!a->part_modules || !a->part_norms) return ad_load_no_memory(l);
    a->parts = (ad_parts){.modules = a->part_modules, .norms = a->part_norms};
    a->set.parts = &a->parts;
    a->set.alone = must_be_alone(l);
    return AD_OK;
}

static ad_status pack_vectors(ad_loader *l, int module, char **next)
{
    const ad_extra *x = &l->extras->modules[module];
    ad_module_parts *p = &l->adapter->part_modules[module];
    int norm = norm_of(l, module), out = ad_model_module(l->base, module)->out;
    ad_status st = AD_OK;
    if (norm_before(l, module)) st = ad_extras_vector(l, norm_before(l, module), ad_model_get_config(l->base)->hidden, 1, next, &l->adapter->part_norms[norm]);
    if (st == AD_OK && x->magnitude) st = ad_dora_pack(l, module, next, &p->factor);
    if (st == AD_OK && x->bias) st = ad_extras_vector(l, x->bias, out, 1, next, &p->bias);
    if (st == AD_OK && x->added) st = ad_extras_vector(l, x->added, out, l->pairs[module].plan.scale, next, &p->added);
    return st;
}

static ad_status pack_tokens(ad_loader *l, int module, char **next)
{
    const ad_extra_tokens *t = ad_tokens_of(l, module);
    ad_parts *parts = &l->adapter->parts;
    bool embedding = ad_model_module(l->base, module)->kind == AD_MOD_EMBED;
    ad_status st = t ? ad_tokens_pack(l, t, next, embedding ? &parts->embed : &parts->head) : AD_OK;
    if (embedding && l->extras->tied_tokens) parts->head = parts->embed;
    return st;
}

ad_status ad_extras_pack(ad_loader *l, int module, char **next)
{
    if (!l->adapter->set.parts) return AD_OK;
    ad_status st = AD_OK;
    if (l->extras->modules[module].weight) {
        st = ad_saved_pack(l, module, next, &l->adapter->part_modules[module].weight);
        l->adapter->parts.linears |= module < l->n_modules - 2;
    }
    if (st == AD_OK) st = pack_vectors(l, module, next);
    return st == AD_OK ? pack_tokens(l, module, next) : st;
}
