/* SPDX-License-Identifier: MIT */
/* Modules and norms that an adapter replaces whole (modules_to_save), and biases it trained beside its pairs (bias). */
#include <stdlib.h>

#include "adapters/methods/extras.h"

static ad_status note_idle(ad_loader *l, const ad_peft *config)
{
    const char *name;
    for (int i = 0; (name = ad_peft_idle_saved(config, i)); i++) {
        ad_buf b = {0};
        ad_buf_printf(&b, "modules_to_save names \"%.80s\", which is no module of the base model", name);
        ad_status st = ad_load_warn(l, &b);
        if (st != AD_OK) return st;
    }
    return AD_OK;
}

ad_status ad_saved_plan(ad_loader *l, ad_peft *config)
{
    ad_extras *x = l->extras;
    x->biases = ad_peft_biases(config);
    for (int i = 0; i < x->n_norms; i++) x->norms[i].saved = ad_peft_saves(config, x->norms[i].name);
    for (int i = 0; i < l->n_modules; i++) {
        const char *name = ad_model_module(l->base, i)->name;
        x->modules[i].saved = ad_peft_saves(config, name);
        if (x->modules[i].saved && l->pairs[i].plan.rank)
            return ad_fail(l->err, AD_EUNSUPPORTED, "%s: modules_to_save and target_modules both name \"%s\"", l->adapter->dir, name);
    }
    return note_idle(l, config);
}

/* An embedding has a row per token. */
static void shape_of(const ad_module *m, int *rows, int *cols)
{
    bool embedding = m->kind == AD_MOD_EMBED;
    *rows = embedding ? m->in : m->out;
    *cols = embedding ? m->out : m->in;
}

ad_status ad_saved_take_weight(ad_loader *l, int module, const ad_tensor *t)
{
    const ad_module *m = ad_model_module(l->base, module);
    int rows, cols;
    shape_of(m, &rows, &cols);
    return ad_extras_take(l, &l->extras->modules[module].weight, t, m->name, "weight", rows, cols);
}

ad_status ad_saved_take_norm(ad_loader *l, int norm, const ad_tensor *t)
{
    ad_extra_norm *x = &l->extras->norms[norm];
    if (!x->saved) return ad_load_refuse(l, t, "is a norm that modules_to_save does not name");
    return ad_extras_take(l, &x->weight, t, x->name, "weight", ad_model_get_config(l->base)->hidden, 0);
}

/* Whether the configuration announces this module's bias. */
static bool wants_bias(const ad_loader *l, int module)
{
    const ad_extras *x = l->extras;
    if (x->modules[module].saved || x->biases == AD_PEFT_BIAS_ALL) return true;
    return x->biases == AD_PEFT_BIAS_ADAPTED && l->pairs[module].plan.rank;
}

ad_status ad_saved_take_bias(ad_loader *l, int module, const ad_tensor *t)
{
    const ad_module *m = ad_model_module(l->base, module);
    if (m->kind == AD_MOD_EMBED) return ad_load_refuse(l, t, "is a bias, which an embedding does not have");
    if (!wants_bias(l, module)) return ad_load_refuse(l, t, "is a bias that neither \"bias\" nor modules_to_save announces");
    ad_status st = ad_extras_take(l, &l->extras->modules[module].bias, t, m->name, "bias", m->out, 0);
    if (st != AD_OK || m->has_bias) return st;
    ad_buf b = {0};
    ad_buf_printf(&b, "the adapter brings a bias for \"%s\", which has none in the base model", m->name);
    return ad_load_warn(l, &b);
}

static ad_status missing(ad_loader *l, const char *name, const char *what, const char *key)
{
    return ad_fail(l->err, AD_EMISMATCH, "%s: the configuration's \"%s\" asks for the %s of \"%s\", but the file does not have it", l->label, key, what, name);
}

ad_status ad_saved_check(ad_loader *l)
{
    const ad_extras *x = l->extras;
    for (int i = 0; i < x->n_norms; i++)
        if (x->norms[i].saved && !x->norms[i].weight) return missing(l, x->norms[i].name, "weight", "modules_to_save");
    for (int i = 0; i < l->n_modules; i++) {
        const ad_module *m = ad_model_module(l->base, i);
        const ad_extra *e = &x->modules[i];
        if (e->saved && !e->weight) return missing(l, m->name, "weight", "modules_to_save");
        if (m->has_bias && !e->bias && wants_bias(l, i)) return missing(l, m->name, "bias", e->saved ? "modules_to_save" : "bias");
    }
    return AD_OK;
}

static ad_status pack_panels(ad_loader *l, const ad_tensor *t, char *panel, const ad_matrix *m, float *room)
{
    for (int row = 0; row < m->rows; row += AD_PANEL, panel += m->panel_bytes) {
        int n = m->rows - row < AD_PANEL ? m->rows - row : AD_PANEL;
        size_t at = (size_t)row * (size_t)m->cols;
        ad_dequant_row(t->dtype, room, (const char *)t->data + at * ad_dtype_block_bytes(t->dtype), (size_t)n * (size_t)m->cols);
        if (!ad_pack_panel(m->type, panel, room, n, m->cols)) return ad_load_refuse(l, t, "holds a value that is not finite, or too large for the base model's type");
    }
    return AD_OK;
}

ad_status ad_saved_pack(ad_loader *l, int module, char **next, ad_matrix *out)
{
    int rows, cols;
    shape_of(ad_model_module(l->base, module), &rows, &cols);
    ad_pack type = ad_model_merged_type(l->base, module);
    float *room = ad_calloc(AD_PANEL * (size_t)cols, sizeof *room);
    *out = ad_matrix_at(type, rows, cols, *next);
    char *panels = ad_extras_place(next, ad_pack_bytes(type, rows, cols));
    ad_status st = room ? pack_panels(l, l->extras->modules[module].weight, panels, out, room) : ad_load_no_memory(l);
    free(room);
    return st;
}
