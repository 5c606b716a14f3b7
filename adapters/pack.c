/* SPDX-License-Identifier: MIT */
/* Packs the pairs of an adapter in the order the engine runs them. */
#include "adapters/load.h"

#include <stdlib.h>
#include <string.h>

/* Where the next matrix goes, and room for 16 rows of floats. */
typedef struct {
    char *next;
    float *rows, *whole; /* [16, widest]; one tensor */
} packer;

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
        if (l->pairs[i].plan.rank) bytes += ad_pack_bytes(type, ad_model_module(l->base, i)->out, even(l->pairs[i].plan.rank));
    return bytes;
}

/* Rows [row, row + n) of the stacked A, in floats; rows that fill up a module's even number are zero. */
static void stacked_rows(const ad_loader *l, int first, int count, int row, int n, float *dst)
{
    size_t cols = (size_t)a_columns(l, first);
    memset(dst, 0, (size_t)n * cols * sizeof *dst);
    for (int i = first; i < first + count; i++) {
        const ad_load_pair *p = &l->pairs[i];
        int at = l->adapter->modules[i].at, begin = at > row ? at : row, end = at + p->plan.rank < row + n ? at + p->plan.rank : row + n;
        size_t row_bytes = p->a ? cols * ad_dtype_block_bytes(p->a->dtype) : 0;
        if (p->a && begin < end) ad_dequant_row(p->a->dtype, dst + (size_t)(begin - row) * cols, (const char *)p->a->data + (size_t)(begin - at) * row_bytes, (size_t)(end - begin) * cols);
    }
}

static ad_status pack_a(ad_loader *l, packer *k, int first, int count, ad_matrix *a)
{
    int cols = a_columns(l, first);
    *a = ad_matrix_at(a->type, a->rows, cols, k->next);
    for (int row = 0; row < a->rows; row += AD_PANEL, k->next += a->panel_bytes) {
        int n = a->rows - row < AD_PANEL ? a->rows - row : AD_PANEL;
        stacked_rows(l, first, count, row, n, k->rows);
        if (ad_pack_panel(a->type, k->next, k->rows, n, cols)) continue;
        return ad_fail(l->err, AD_EMISMATCH, "%s: lora_A of \"%s\" or its neighbours holds a value that is not finite", l->label, ad_model_module(l->base, first)->name);
    }
    return AD_OK;
}

static ad_status pack_b(ad_loader *l, packer *k, int module)
{
    const ad_load_pair *p = &l->pairs[module];
    ad_lowrank *low = &l->adapter->modules[module];
    int out = ad_model_module(l->base, module)->out, rank = p->plan.rank, width = even(rank);
    if (!rank) return AD_OK;
    low->rank = rank;
    low->scale = p->plan.scale;
    low->b = ad_matrix_at(l->adapter->set.type, out, width, k->next);
    ad_dequant_row(p->b->dtype, k->whole, p->b->data, (size_t)out * (size_t)rank);
    for (int row = 0; row < out; row += AD_PANEL, k->next += low->b.panel_bytes) {
        const float *src = k->whole + (size_t)row * (size_t)rank;
        int n = out - row < AD_PANEL ? out - row : AD_PANEL;
        for (int i = 0; width != rank && i < n; i++) { /* an odd rank gets a column of zeros */
            memcpy(k->rows + (size_t)(i * width), src + (size_t)(i * rank), (size_t)rank * sizeof *src);
            k->rows[i * width + rank] = 0;
        }
        if (!ad_pack_panel(low->b.type, k->next, width != rank ? k->rows : src, n, width)) return ad_load_refuse(l, p->b, "holds a value that is not finite");
    }
    return AD_OK;
}

/* Groups in the order the engine runs them: their first module and how many there are. */
static int group_at(const ad_loader *l, int group, int *first)
{
    static const int firsts[] = {AD_MOD_Q, AD_MOD_O, AD_MOD_GATE, AD_MOD_DOWN}, counts[] = {3, 1, 2, 1};
    int layers = ad_model_get_config(l->base)->layers, layer = group / 4;
    *first = layer < layers ? layer * AD_MOD_PER_LAYER + firsts[group % 4] : l->n_modules - 2 + group % 4;
    return layer < layers ? counts[group % 4] : 1;
}

static ad_status pack_all(ad_loader *l, packer *k)
{
    ad_status st = AD_OK;
    for (int g = 0, first; g < ad_model_group_count(l->base) && st == AD_OK; g++) {
        int n = group_at(l, g, &first);
        if (l->adapter->a[g].rows) st = pack_a(l, k, first, n, &l->adapter->a[g]);
        for (int i = first; i < first + n && st == AD_OK; i++) st = pack_b(l, k, i);
    }
    return st;
}

ad_status ad_load_pack(ad_loader *l)
{
    ad_adapter *a = l->adapter;
    int n_groups = ad_model_group_count(l->base);
    size_t widest = 0, largest = 0;
    ad_pack type = ad_model_adapter_type(l->base);
    a->modules = ad_calloc((size_t)l->n_modules, sizeof *a->modules);
    a->a = ad_calloc((size_t)n_groups, sizeof *a->a);
    if (!a->modules || !a->a) return ad_load_no_memory(l);
    a->set.type = type;
    for (int g = 0, first; g < n_groups; g++) {
        int n = group_at(l, g, &first), rows = stack_modules(l, first, n), whole = (rows + AD_PANEL - 1) / AD_PANEL * AD_PANEL;
        a->a[g] = (ad_matrix){.type = type, .rows = rows};
        a->set.bytes += group_bytes(l, type, first, n, rows);
        if (whole > a->set.max_stack) a->set.max_stack = whole;
    }
    for (int i = 0; i < l->n_modules; i++) {
        const ad_load_pair *p = &l->pairs[i];
        size_t in = p->a ? (size_t)a_columns(l, i) : 0, rank = (size_t)even(p->plan.rank), b = p->b ? (size_t)ad_tensor_count(p->b) : 0;
        if (p->plan.rank > a->set.max_rank) a->set.max_rank = p->plan.rank;
        widest = in > widest ? in : widest, widest = rank > widest ? rank : widest;
        largest = b > largest ? b : largest;
    }
    a->block = ad_arena_new(a->set.bytes);
    packer k = {a->block, ad_calloc(AD_PANEL * widest, sizeof(float)), ad_calloc(largest, sizeof(float))};
    ad_status st = a->block && k.rows && k.whole ? pack_all(l, &k) : ad_load_no_memory(l);
    free(k.rows);
    free(k.whole);
    a->set.n_modules = l->n_modules;
    a->set.modules = a->modules;
    a->set.a = a->a;
    return st;
}
