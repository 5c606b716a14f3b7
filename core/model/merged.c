/* SPDX-License-Identifier: MIT */
/* Merging by the plain order of the formula: each row of W gets its rank corrections one after another. */
#include "core/model/merged.h"

#include <stdlib.h>
#include <string.h>

#include "core/model/family.h"

struct ad_merged {
    const float **weights; /* [n_modules] */
    float *arena;
    size_t bytes;
};

/* Rows and columns of the module's weight as it lies in memory: an embedding has a row per token. */
static void shape_of(const ad_module *mod, size_t *rows, size_t *cols)
{
    bool embedding = mod->kind == AD_MOD_EMBED;
    *rows = (size_t)(embedding ? mod->in : mod->out);
    *cols = (size_t)(embedding ? mod->out : mod->in);
}

static size_t padded(size_t floats)
{
    return (floats + 15) / 16 * 16; /* each weight begins at a cache line */
}

size_t ad_merged_bytes(const ad_model *m, const ad_lowrank_set *set)
{
    size_t floats = 0, rows, cols;
    for (int i = 0; i < m->n_modules; i++) {
        shape_of(&m->modules[i], &rows, &cols);
        if (set->modules[i].rank) floats += padded(rows * cols);
    }
    return floats * sizeof(float);
}

static const float *pristine(const ad_model *m, int module)
{
    const ad_module *mod = &m->modules[module];
    if (mod->kind == AD_MOD_EMBED) return m->embed;
    return mod->kind == AD_MOD_HEAD ? m->head.w : m->layers[mod->layer].mod[mod->kind].w;
}

/* The kernel's expand is y += t * bt: with the rows of one factor as t and the other factor as bt it adds B A, a block of
 * rows at a time. A linear module gives scale * B[row, :] and A, an embedding scale * A[:, token] and B transposed. */
static void merge_module(float *dst, const ad_model *m, const ad_kernels *k, int module, const ad_lowrank *low, float *t)
{
    enum { BLOCK = 64 };
    const ad_module *mod = &m->modules[module];
    bool embedding = mod->kind == AD_MOD_EMBED;
    size_t rows, cols, rank = (size_t)low->rank;
    shape_of(mod, &rows, &cols);
    memcpy(dst, pristine(m, module), rows * cols * sizeof *dst);
    for (size_t row = 0, n; row < rows; row += n) {
        n = rows - row < BLOCK ? rows - row : BLOCK;
        for (size_t i = 0; i < n; i++)
            for (size_t r = 0; r < rank; r++) t[i * rank + r] = low->scale * (embedding ? low->a[(row + i) * rank + r] : low->bt[r * rows + row + i]);
        k->expand_add(dst + row * cols, cols, t, rank, embedding ? low->bt : low->a, cols, (int)n, (int)cols, low->rank);
    }
}

ad_status ad_merged_new(ad_merged **out, const ad_model *m, const ad_lowrank_set *set, ad_err *err)
{
    ad_kernels k;
    ad_merged *w = ad_calloc(1, sizeof *w);
    float *t = ad_calloc(64 * (size_t)set->max_rank, sizeof *t);
    if (w) {
        w->bytes = ad_merged_bytes(m, set);
        w->weights = ad_calloc((size_t)m->n_modules, sizeof *w->weights);
        w->arena = ad_arena_new(w->bytes);
    }
    if (!w || !t || !w->weights || !w->arena) {
        free(t);
        ad_merged_free(&w);
        return ad_fail(err, AD_ENOMEM, "merged weights: out of memory");
    }
    ad_kernels_init(&k, ad_cpu_detect());
    size_t at = 0, rows, cols;
    for (int i = 0; i < m->n_modules; i++) {
        if (!set->modules[i].rank) continue;
        shape_of(&m->modules[i], &rows, &cols);
        merge_module(w->arena + at, m, &k, i, &set->modules[i], t);
        w->weights[i] = w->arena + at;
        at += padded(rows * cols);
    }
    free(t);
    *out = w;
    return AD_OK;
}

void ad_merged_free(ad_merged **wp)
{
    ad_merged *w = *wp;
    if (!w) return;
    *wp = NULL;
    if (w->arena) ad_arena_free(w->arena, w->bytes);
    free(w->weights);
    free(w);
}

const float *ad_merged_weight(const ad_merged *w, int module)
{
    return w->weights[module];
}
