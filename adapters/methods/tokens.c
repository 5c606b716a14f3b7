/* SPDX-License-Identifier: MIT */
/* Single tokens of the embedding, or of the head, that were trained by themselves (trainable_token_indices). */
#include <stdlib.h>
#include <string.h>

#include "adapters/methods/extras.h"

static int embed_of(const ad_loader *l) { return l->n_modules - 2; }
static int head_of(const ad_loader *l) { return l->n_modules - 1; }

const ad_extra_tokens *ad_tokens_of(const ad_loader *l, int module)
{
    const ad_extra_tokens *t = module == embed_of(l) ? &l->extras->embed : module == head_of(l) ? &l->extras->head : NULL;
    return t && t->n ? t : NULL;
}

static ad_status wrong(ad_loader *l, ad_status st, const char *name, const char *what)
{
    return ad_fail(l->err, st, "%s: trainable_token_indices of \"%.80s\" %s", l->adapter->dir, name, what);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && !memcmp(name + n - k, end, k);
}

/* PEFT takes any module whose name ends so; tokens have rows in two of them only. */
static ad_status find(ad_loader *l, const char *name, ad_extra_tokens **out)
{
    int found = -1;
    for (int i = 0; i < l->n_modules; i++) {
        if (!ends_with(ad_model_module(l->base, i)->name, name)) continue;
        if (i < embed_of(l) || found >= 0) return wrong(l, AD_EUNSUPPORTED, name, "are not those of the embedding or the head");
        found = i;
    }
    if (found < 0) return wrong(l, AD_EMISMATCH, name, "belong to no module of the base model");
    *out = found == embed_of(l) ? &l->extras->embed : &l->extras->head;
    return (*out)->n ? wrong(l, AD_EFORMAT, name, "are given twice") : AD_OK;
}

static int by_id(const void *a, const void *b)
{
    const int32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static ad_status check_ids(ad_loader *l, const char *name, const ad_extra_tokens *t)
{
    int vocab = ad_model_get_config(l->base)->vocab;
    int32_t *sorted = ad_calloc((size_t)t->n, sizeof *sorted);
    if (!sorted) return ad_load_no_memory(l);
    memcpy(sorted, t->ids, (size_t)t->n * sizeof *sorted);
    qsort(sorted, (size_t)t->n, sizeof *sorted, by_id);
    bool twice = false, beyond = sorted[t->n - 1] >= vocab;
    for (int i = 1; i < t->n; i++) twice |= sorted[i] == sorted[i - 1];
    free(sorted);
    if (twice) return wrong(l, AD_EFORMAT, name, "hold a token twice");
    return beyond ? wrong(l, AD_EMISMATCH, name, "go beyond the base model's vocabulary") : AD_OK;
}

static ad_status add(ad_loader *l, const ad_peft_tokens *from)
{
    ad_extra_tokens *t = NULL;
    ad_status st = find(l, from->module, &t);
    if (st != AD_OK) return st;
    t->ids = ad_calloc((size_t)from->n, sizeof *t->ids);
    if (!t->ids) return ad_load_no_memory(l);
    memcpy(t->ids, from->ids, (size_t)from->n * sizeof *t->ids);
    t->n = from->n;
    return check_ids(l, from->module, t);
}

/* A head that is the embedding gets its tokens too, unless tokens of its own are listed. */
static void tie(ad_loader *l)
{
    ad_extras *x = l->extras;
    if (!ad_model_get_config(l->base)->tied_head || !x->embed.n) return;
    bool same = x->head.n == x->embed.n && !memcmp(x->head.ids, x->embed.ids, (size_t)x->embed.n * sizeof *x->embed.ids);
    x->tied_tokens = !x->head.n || same;
    if (same) x->head.n = 0; /* PEFT saves them once */
}

static ad_status check_conflicts(ad_loader *l)
{
    const ad_extras *x = l->extras;
    for (int i = embed_of(l); i < l->n_modules; i++) {
        const char *name = ad_model_module(l->base, i)->name;
        bool tied = i == head_of(l) && x->tied_tokens;
        const ad_peft_plan *plan = &l->pairs[i].plan;
        if (!ad_tokens_of(l, i) && !tied) continue;
        if (x->modules[i].saved) return wrong(l, AD_EUNSUPPORTED, name, "are trained, and modules_to_save replaces all of it");
        if (plan->rank && (!tied || plan->dora)) return wrong(l, AD_EUNSUPPORTED, name, "are trained, and target_modules names it too");
    }
    return AD_OK;
}

ad_status ad_tokens_plan(ad_loader *l, const ad_peft *config)
{
    const ad_peft_tokens *t;
    for (int i = 0; (t = ad_peft_trained_tokens(config, i)); i++) {
        ad_status st = add(l, t);
        if (st != AD_OK) return st;
    }
    tie(l);
    ad_status st = check_conflicts(l);
    for (int i = embed_of(l); i < l->n_modules && st == AD_OK; i++) {
        const ad_extra_tokens *own = ad_tokens_of(l, i);
        if (own) st = ad_load_set(l, ad_model_module(l->base, i)->name, "trainable_token_indices", own->ids, (size_t)own->n * sizeof *own->ids);
    }
    return st;
}

ad_status ad_tokens_take(ad_loader *l, int module, const ad_tensor *t)
{
    const ad_extra_tokens *own = ad_tokens_of(l, module);
    if (!own) return ad_load_refuse(l, t, "is a trained token embedding that trainable_token_indices does not announce");
    ad_extra_tokens *x = module == embed_of(l) ? &l->extras->embed : &l->extras->head;
    return ad_extras_take(l, &x->rows, t, ad_model_module(l->base, module)->name, "trainable_tokens_delta", own->n, ad_model_get_config(l->base)->hidden);
}

ad_status ad_tokens_check(ad_loader *l)
{
    for (int i = embed_of(l); i < l->n_modules; i++) {
        const ad_extra_tokens *t = ad_tokens_of(l, i);
        if (t && !t->rows) return wrong(l, AD_EMISMATCH, ad_model_module(l->base, i)->name, "have no rows in the file");
    }
    return AD_OK;
}

size_t ad_tokens_bytes(const ad_loader *l, const ad_extra_tokens *t)
{
    return ad_extras_vector_bytes(t->n) + ad_pack_bytes(l->adapter->set.type, t->n, ad_model_get_config(l->base)->hidden);
}

typedef struct {
    int32_t id;
    int row;
} numbered;

static int by_numbered_id(const void *a, const void *b)
{
    return by_id(&((const numbered *)a)->id, &((const numbered *)b)->id);
}

static ad_status pack_panels(ad_loader *l, const ad_extra_tokens *t, const numbered *order, char *panel, size_t panel_bytes, float *room)
{
    int cols = ad_model_get_config(l->base)->hidden;
    size_t bytes = (size_t)cols * ad_dtype_block_bytes(t->rows->dtype);
    for (int at = 0; at < t->n; at += AD_PANEL, panel += panel_bytes) {
        int n = t->n - at < AD_PANEL ? t->n - at : AD_PANEL;
        for (int i = 0; i < n; i++) ad_dequant_row(t->rows->dtype, room + (size_t)i * (size_t)cols, (const char *)t->rows->data + (size_t)order[at + i].row * bytes, (size_t)cols);
        if (!ad_pack_panel(l->adapter->set.type, panel, room, n, cols)) return ad_load_refuse(l, t->rows, "holds a value that is not finite");
    }
    return AD_OK;
}

/* Panels of the rows by ascending id. */
static ad_status sort_and_pack(ad_loader *l, const ad_extra_tokens *t, numbered *order, float *room, char **next, ad_token_rows *out)
{
    for (int i = 0; i < t->n; i++) order[i] = (numbered){t->ids[i], i};
    qsort(order, (size_t)t->n, sizeof *order, by_numbered_id);
    int32_t *ids = ad_extras_place(next, ad_extras_vector_bytes(t->n));
    for (int i = 0; i < t->n; i++) ids[i] = order[i].id;
    *out = (ad_token_rows){t->n, ids, ad_matrix_at(l->adapter->set.type, t->n, ad_model_get_config(l->base)->hidden, *next)};
    char *panels = ad_extras_place(next, ad_pack_bytes(out->rows.type, out->rows.rows, out->rows.cols));
    return pack_panels(l, t, order, panels, out->rows.panel_bytes, room);
}

ad_status ad_tokens_pack(ad_loader *l, const ad_extra_tokens *t, char **next, ad_token_rows *out)
{
    numbered *order = ad_calloc((size_t)t->n, sizeof *order);
    float *room = ad_calloc(AD_PANEL * (size_t)ad_model_get_config(l->base)->hidden, sizeof *room);
    ad_status st = order && room ? sort_and_pack(l, t, order, room, next, out) : ad_load_no_memory(l);
    free(order);
    free(room);
    return st;
}
