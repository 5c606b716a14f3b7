/* SPDX-License-Identifier: MIT */
/* Packs an adapter, its pairs and what there is beside them, in the order the engine runs them. */
#include "adapters/load.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/methods/extras.h"

/* ---- rows as the kernels read them ---- */

size_t ad_load_stride(ad_pack type, int cols)
{
    return type == AD_PACK_F32 ? (size_t)cols * sizeof(float) : ((size_t)cols + 1) / 2 * 2 * sizeof(uint16_t);
}

const void *ad_load_rows(const ad_loader *l, const ad_tensor *t, void *room, float *row)
{
    ad_pack type = l->adapter->set.type;
    size_t cols = (size_t)t->dims[1], from = cols * ad_dtype_block_bytes(t->dtype), to = ad_load_stride(type, (int)cols);
    if (t->dtype == (type == AD_PACK_F32 ? AD_F32 : AD_BF16) && from == to && (uintptr_t)t->data % 4 == 0) return t->data;
    for (size_t i = 0; i < (size_t)t->dims[0]; i++) {
        const char *src = (const char *)t->data + i * from;
        char *dst = (char *)room + i * to;
        ad_dequant_row(t->dtype, type == AD_PACK_F32 ? (float *)(void *)dst : row, src, cols);
        if (type == AD_PACK_F32) continue;
        l->kernels->to_bf16((uint16_t *)(void *)dst, row, (int)cols);
        if (cols % 2) memset(dst + to - sizeof(uint16_t), 0, sizeof(uint16_t));
    }
    return room;
}

void ad_load_room(const ad_loader *l, size_t *room, size_t *row)
{
    ad_pack type = l->adapter->set.type;
    *room = *row = 0;
    for (int i = 0; i < 2 * l->n_modules; i++) {
        const ad_tensor *t = i % 2 ? l->pairs[i / 2].b : l->pairs[i / 2].a;
        if (!t) continue;
        size_t bytes = (size_t)t->dims[0] * ad_load_stride(type, (int)t->dims[1]);
        *room = bytes > *room ? bytes : *room;
        *row = (size_t)t->dims[1] > *row ? (size_t)t->dims[1] : *row;
    }
}

/* ---- where things go ---- */

static int even(int rank)
{
    return (rank + 1) / 2 * 2;
}

/* The stacked rows of modules [first, first + n), which share their input; notes where each begins. */
static int stack_modules(ad_loader *l, int first, int n)
{
    int rows = 0;
    for (int i = first; i < first + n; i++) {
        if (!l->pairs[i].plan.rank) continue;
        l->adapter->modules[i].at = rows;
        rows += even(l->pairs[i].plan.rank);
    }
    return rows;
}

static int a_columns(const ad_loader *l, int module)
{
    return ad_model_module(l->base, module)->in;
}

static size_t group_bytes(const ad_loader *l, ad_pack type, int first, int n, int rows)
{
    size_t bytes = rows ? ad_pack_bytes(type, rows, a_columns(l, first)) : 0;
    for (int i = first; i < first + n; i++)
        bytes += ad_extras_bytes(l, i) + (l->pairs[i].plan.rank ? ad_pack_bytes(type, ad_model_module(l->base, i)->out, even(l->pairs[i].plan.rank)) : 0);
    return bytes;
}

/* ---- packing: into fresh memory, which is zero where no row goes ---- */

static ad_status refuse_value(ad_loader *l, const ad_tensor *t)
{
    return ad_load_refuse(l, t, "holds a value that is not finite, or too large for bf16");
}

/* One module's rows of the stacked A; the first panel may begin with those of another. */
static ad_status pack_a(ad_loader *l, ad_packer *k, int module, char *panels, size_t panel_bytes)
{
    const ad_load_pair *p = &l->pairs[module];
    ad_pack type = l->adapter->set.type;
    int cols = a_columns(l, module), at = l->adapter->modules[module].at, end = at + p->plan.rank;
    size_t stride = ad_load_stride(type, cols);
    if (!p->plan.rank) return AD_OK;
    const char *rows = ad_load_rows(l, p->a, k->room, k->row);
    for (int n; at < end; at += n, rows += (size_t)n * stride) {
        int lane = at % AD_PANEL;
        n = end - at < AD_PANEL - lane ? end - at : AD_PANEL - lane;
        if (!ad_pack_lanes(type, panels + (size_t)(at / AD_PANEL) * panel_bytes, lane, rows, stride, n, cols)) return refuse_value(l, p->a);
    }
    return AD_OK;
}

static ad_status pack_b(ad_loader *l, ad_packer *k, int module)
{
    const ad_load_pair *p = &l->pairs[module];
    ad_lowrank *low = &l->adapter->modules[module];
    ad_pack type = l->adapter->set.type;
    int out = ad_model_module(l->base, module)->out, rank = p->plan.rank;
    size_t stride = ad_load_stride(type, rank);
    if (!rank) return AD_OK;
    low->rank = rank;
    low->scale = p->plan.scale;
    low->b = ad_matrix_at(type, out, even(rank), k->next);
    const char *rows = ad_load_rows(l, p->b, k->room, k->row);
    for (int n; out > 0; out -= n, rows += (size_t)n * stride, k->next += low->b.panel_bytes) {
        n = out < AD_PANEL ? out : AD_PANEL;
        if (!ad_pack_lanes(type, k->next, 0, rows, stride, n, rank)) return refuse_value(l, p->b);
    }
    return AD_OK;
}

ad_status ad_load_pack_group(ad_loader *l, ad_packer *k, int group)
{
    ad_status st = AD_OK;
    ad_matrix *a = &l->adapter->a[group];
    int first, n = ad_load_group(l, group, &first);
    char *panels = k->next = (char *)l->adapter->block + k->at[group];
    if (a->rows) {
        *a = ad_matrix_at(a->type, a->rows, a_columns(l, first), panels);
        k->next += ad_pack_bytes(a->type, a->rows, a->cols);
    }
    for (int i = first; i < first + n && st == AD_OK; i++) st = pack_a(l, k, i, panels, a->panel_bytes);
    for (int i = first; i < first + n && st == AD_OK; i++) {
        st = pack_b(l, k, i);
        if (st == AD_OK) st = ad_extras_pack(l, i, &k->next);
    }
    assert(st != AD_OK || k->next == (char *)l->adapter->block + k->at[group + 1]);
    return st;
}

int ad_load_group(const ad_loader *l, int group, int *first)
{
    static const int firsts[] = {AD_MOD_Q, AD_MOD_O, AD_MOD_GATE, AD_MOD_DOWN}, counts[] = {3, 1, 2, 1};
    int layers = ad_model_get_config(l->base)->layers, layer = group / 4;
    *first = layer < layers ? layer * AD_MOD_PER_LAYER + firsts[group % 4] : l->n_modules - 2 + group % 4;
    return layer < layers ? counts[group % 4] : 1;
}

/* Sizes of everything; where each group goes, and where each module's rows begin in its stack. */
static ad_status measure(ad_loader *l, ad_packer *k)
{
    ad_adapter *a = l->adapter;
    int n_groups = ad_model_group_count(l->base);
    a->modules = ad_calloc((size_t)l->n_modules, sizeof *a->modules);
    a->a = ad_calloc((size_t)n_groups, sizeof *a->a);
    k->at = ad_calloc((size_t)n_groups + 1, sizeof *k->at);
    if (!a->modules || !a->a || !k->at) return ad_load_no_memory(l);
    a->set = (ad_lowrank_set){.n_modules = l->n_modules, .type = ad_model_adapter_type(l->base), .modules = a->modules, .a = a->a};
    ad_status st = ad_extras_begin(l);
    for (int g = 0, first; g < n_groups; g++) {
        int n = ad_load_group(l, g, &first), rows = stack_modules(l, first, n), whole = (rows + AD_PANEL - 1) / AD_PANEL * AD_PANEL;
        a->a[g] = (ad_matrix){.type = a->set.type, .rows = rows};
        a->set.bytes += group_bytes(l, a->set.type, first, n, rows);
        k->at[g + 1] = a->set.bytes;
        if (whole > a->set.max_stack) a->set.max_stack = whole;
    }
    for (int i = 0; i < l->n_modules; i++)
        if (l->pairs[i].plan.rank > a->set.max_rank) a->set.max_rank = l->pairs[i].plan.rank;
    return st;
}

ad_status ad_load_pack_begin(ad_loader *l, ad_packer *k)
{
    size_t room, row;
    ad_status st = measure(l, k);
    if (st != AD_OK) return st;
    ad_load_room(l, &room, &row);
    k->room = malloc(room + 1);
    k->row = ad_calloc(row, sizeof(float));
    return k->room && k->row && ad_load_new_block(l) ? AD_OK : ad_load_no_memory(l);
}

void ad_load_pack_end(ad_packer *k)
{
    free(k->at);
    free(k->room);
    free(k->row);
}

ad_status ad_load_pack(ad_loader *l)
{
    ad_packer k = {0};
    ad_status st = ad_load_pack_begin(l, &k);
    for (int g = 0; g < ad_model_group_count(l->base) && st == AD_OK; g++) st = ad_load_pack_group(l, &k, g);
    ad_load_pack_end(&k);
    return st;
}
