/* SPDX-License-Identifier: MIT */
/* Merging a panel of 16 rows at a time: the file's values, plus B A in f32, times DoRA's factors, packed like the weight they replace. */
#include "core/model/merged.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "core/model/family.h"
#include "core/tensor/kernels.h"

struct ad_merged {
    ad_mix mix;         /* of the set */
    ad_matrix *weights; /* [n_modules]; data NULL: not adapted */
    char *arena;
    size_t bytes;
};

/* Rows and columns of the module's weight as it lies in memory: an embedding has a row per token. */
static void shape_of(const ad_module *mod, int *rows, int *cols)
{
    bool embedding = mod->kind == AD_MOD_EMBED;
    *rows = embedding ? mod->in : mod->out;
    *cols = embedding ? mod->out : mod->in;
}

static size_t bytes_of(const ad_model *m, const ad_lowrank_set *set, int module)
{
    int rows, cols;
    if (!set->modules[module].rank) return 0;
    shape_of(&m->modules[module], &rows, &cols);
    return ad_pack_bytes(ad_model_merged_type(m, module), rows, cols);
}

size_t ad_merged_bytes(const ad_model *m, const ad_lowrank_set *set)
{
    size_t bytes = 0;
    for (int i = 0; i < m->n_modules; i++) bytes += bytes_of(m, set, i);
    return bytes;
}

/* Everything one module's merge reads and fills; [..] in floats. */
typedef struct {
    ad_kernels k;
    float *rows;    /* [16, cols] W, then W' */
    float *left;    /* [16, rank] scale * B, of an embedding scale * A^T */
    float *column;  /* [rank, 16] */
    char *right;    /* the other factor as panels over cols */
} workspace;

/* The factor whose rows are W's columns: value r of column c is A[r, c], of an embedding B[c, r]. */
static void pack_right(workspace *w, const ad_lowrank *low, const ad_matrix *a, bool embedding, int cols)
{
    size_t rank = (size_t)low->rank, panel = ad_pack_panel_bytes(AD_PACK_F32, low->rank);
    for (int c = 0; c < cols; c += AD_PANEL) {
        int n = cols - c < AD_PANEL ? cols - c : AD_PANEL;
        for (int r = 0; r < low->rank; r++)
            for (int i = 0; i < n; i++) ad_matrix_read(embedding ? &low->b : a, embedding ? c + i : low->at + r, embedding ? r : c + i, embedding ? r + 1 : c + i + 1,
                                                       &w->column[(size_t)i * rank + (size_t)r]);
        (void)!ad_pack_panel(AD_PACK_F32, w->right + (size_t)(c / AD_PANEL) * panel, w->column, n, low->rank); /* adapters are finite */
    }
}

static void read_left(workspace *w, const ad_lowrank *low, const ad_matrix *a, bool embedding, int row, int n)
{
    for (int i = 0; i < n; i++) {
        float *dst = w->left + (size_t)i * (size_t)low->rank;
        if (!embedding) ad_matrix_read(&low->b, row + i, 0, low->rank, dst);
        for (int r = 0; r < low->rank; r++) {
            if (embedding) ad_matrix_read(a, low->at + r, row + i, row + i + 1, &dst[r]);
            dst[r] *= low->scale;
        }
    }
}

/* Rows [row, row + n) of W + scale * B A into w->rows; pack_right was called for the module. */
static void add_rows(workspace *w, const ad_model *m, const ad_lowrank_set *set, int module, int row, int n, int cols)
{
    const ad_lowrank *low = &set->modules[module];
    ad_model_read_rows(m, module, row, n, w->rows, NULL);
    read_left(w, low, &set->a[ad_model_group_of(m, module)], m->modules[module].kind == AD_MOD_EMBED, row, n);
    w->k.gemm[AD_PACK_F32](w->rows, (size_t)cols, w->left, (size_t)low->rank * sizeof(float), w->right, ad_pack_panel_bytes(AD_PACK_F32, low->rank), n, cols, low->rank, true);
}

/* Outputs are rows, of an embedding columns. */
static void scale_rows(float *rows, const float *factor, bool embedding, int row, int n, int cols)
{
    for (int i = 0; i < n; i++)
        for (int c = 0; c < cols; c++) rows[(size_t)i * (size_t)cols + (size_t)c] *= factor[embedding ? c : row + i];
}

static bool merge_module(char *dst, const ad_model *m, const ad_lowrank_set *set, int module, workspace *w)
{
    bool embedding = m->modules[module].kind == AD_MOD_EMBED;
    const float *factor = set->parts ? set->parts->modules[module].factor : NULL;
    ad_pack type = ad_model_merged_type(m, module);
    int rows, cols;
    shape_of(&m->modules[module], &rows, &cols);
    size_t panel = ad_pack_panel_bytes(type, cols);
    pack_right(w, &set->modules[module], &set->a[ad_model_group_of(m, module)], embedding, cols);
    for (int row = 0; row < rows; row += AD_PANEL, dst += panel) {
        int n = rows - row < AD_PANEL ? rows - row : AD_PANEL;
        add_rows(w, m, set, module, row, n, cols);
        if (factor) scale_rows(w->rows, factor, embedding, row, n, cols);
        if (!ad_pack_panel(type, dst, w->rows, n, cols)) return false;
    }
    return true;
}

/* Room for adapted modules of up to `widest` columns. */
static bool workspace_init(workspace *w, const ad_lowrank_set *set, int widest)
{
    size_t rank = (size_t)set->max_rank;
    ad_kernels_init(&w->k, ad_cpu_detect());
    w->rows = ad_calloc((size_t)AD_PANEL * (size_t)widest, sizeof(float));
    w->left = ad_calloc(AD_PANEL * rank, sizeof(float));
    w->column = ad_calloc(AD_PANEL * rank, sizeof(float));
    w->right = ad_calloc(ad_pack_bytes(AD_PACK_F32, widest, set->max_rank), 1);
    return w->rows && w->left && w->column && w->right;
}

static void workspace_deinit(workspace *w)
{
    free(w->rows), free(w->left), free(w->column), free(w->right);
}

static int widest_of(const ad_model *m, const ad_lowrank_set *set)
{
    int rows, cols, widest = 0;
    for (int i = 0; i < m->n_modules; i++) {
        shape_of(&m->modules[i], &rows, &cols);
        if (set->modules[i].rank && cols > widest) widest = cols;
    }
    return widest;
}

ad_status ad_merged_new(ad_merged **out, const ad_model *m, const ad_lowrank_set *set, ad_err *err)
{
    workspace work = {0};
    ad_status st = AD_OK;
    if (set->parts && set->parts->head.n && set->modules[m->n_modules - 1].rank)
        return ad_fail(err, AD_EUNSUPPORTED, "an adapter that corrects the head and trains tokens of it cannot be merged");
    ad_merged *w = ad_calloc(1, sizeof *w);
    if (w) {
        w->mix = (ad_mix){1, {set}, {1}};
        w->bytes = ad_merged_bytes(m, set);
        w->weights = ad_calloc((size_t)m->n_modules, sizeof *w->weights);
        w->arena = ad_arena_new(w->bytes);
    }
    if (!w || !w->weights || !w->arena || !workspace_init(&work, set, widest_of(m, set))) st = ad_fail(err, AD_ENOMEM, "merged weights: out of memory");
    char *at = st == AD_OK ? w->arena : NULL;
    for (int i = 0, rows, cols; i < m->n_modules && st == AD_OK; i++) {
        if (!set->modules[i].rank) continue;
        shape_of(&m->modules[i], &rows, &cols);
        if (!merge_module(at, m, set, i, &work)) st = ad_fail(err, AD_EMISMATCH, "merged weights of %s hold a value that is not finite or too large", m->modules[i].name);
        w->weights[i] = ad_matrix_at(ad_model_merged_type(m, i), rows, cols, at);
        at += bytes_of(m, set, i);
    }
    workspace_deinit(&work);
    if (st == AD_OK) *out = w;
    else ad_merged_free(&w);
    return st;
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

const ad_matrix *ad_merged_weight(const ad_merged *w, int module)
{
    return w->weights[module].data ? &w->weights[module] : NULL;
}

const ad_mix *ad_merged_mix(const ad_merged *w)
{
    return w->mix.sets[0]->parts ? &w->mix : NULL;
}

/* ---- lengths ---- */

/* Eight chains, so that they do not wait for each other. */
static double row_squares(const float *x, int n)
{
    double part[8] = {0}, sum = 0;
    for (int c = 0; c < n; c += 8)
        for (int k = 0; k < 8 && c + k < n; k++) part[k] += (double)x[c + k] * (double)x[c + k];
    for (int k = 0; k < 8; k++) sum += part[k];
    return sum;
}

static void sum_squares(double *sums, const float *rows, bool embedding, int row, int n, int cols)
{
    for (int i = 0; i < n; i++) {
        const float *x = rows + (size_t)i * (size_t)cols;
        if (!embedding) sums[row + i] = row_squares(x, cols);
        for (int c = 0; embedding && c < cols; c++) sums[c] += (double)x[c] * (double)x[c];
    }
}

ad_status ad_merged_norms(const ad_model *m, const ad_lowrank_set *set, int module, float *out, ad_err *err)
{
    const ad_module *mod = &m->modules[module];
    bool embedding = mod->kind == AD_MOD_EMBED;
    int rows, cols;
    shape_of(mod, &rows, &cols);
    workspace w = {0};
    double *sums = ad_calloc((size_t)mod->out, sizeof *sums);
    bool good = sums && workspace_init(&w, set, cols);
    if (good) pack_right(&w, &set->modules[module], &set->a[ad_model_group_of(m, module)], embedding, cols);
    for (int row = 0; good && row < rows; row += AD_PANEL) {
        int n = rows - row < AD_PANEL ? rows - row : AD_PANEL;
        add_rows(&w, m, set, module, row, n, cols);
        sum_squares(sums, w.rows, embedding, row, n, cols);
    }
    for (int i = 0; good && i < mod->out; i++) out[i] = (float)sqrt(sums[i]);
    workspace_deinit(&w);
    free(sums);
    return good ? AD_OK : ad_fail(err, AD_ENOMEM, "lengths of %s: out of memory", mod->name);
}
