/* SPDX-License-Identifier: MIT */
/* How large the corrections are: the Frobenius norm of scale * B A of each module, without forming the product. With G = A A^T,
 * |B A|^2 = sum over the rows b of B of b G b^T. Any number of threads may work on one load's modules. */
#include "adapters/load.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

enum { CHUNK = 64 }; /* rows of B at a time: with their products they stay in the first- or second-level cache */

typedef struct {
    void *room;               /* rows of one tensor as the kernels read them */
    float *row;               /* [widest] */
    float *gram;              /* [rank, rank up to a panel more] */
    float *panels;            /* G packed as F32 */
    float *b, *product;       /* [CHUNK, rank] */
} scratch;

static bool scratch_init(scratch *s, const ad_loader *l)
{
    size_t room, row, rank = (size_t)(l->adapter->set.max_rank > 0 ? l->adapter->set.max_rank : 1);
    ad_load_room(l, &room, &row);
    *s = (scratch){malloc(room + 1), malloc(row * sizeof(float) + 1), malloc(rank * (rank + AD_PANEL) * sizeof(float)), malloc(ad_pack_bytes(AD_PACK_F32, (int)rank, (int)rank)),
                   malloc(CHUNK * rank * sizeof(float)), malloc(CHUNK * rank * sizeof(float))};
    return s->room && s->row && s->gram && s->panels && s->b && s->product;
}

static void scratch_deinit(scratch *s)
{
    free(s->room), free(s->row), free(s->gram), free(s->panels), free(s->b), free(s->product);
}

/* G into s->panels: the module's rows times the panels that hold them, of which others' columns are left out. */
static void multiply_a(const ad_loader *l, scratch *s, int module)
{
    const ad_load_pair *p = &l->pairs[module];
    const ad_matrix *a = &l->adapter->a[ad_model_group_of(l->base, module)];
    int rank = p->plan.rank, at = l->adapter->modules[module].at, lead = at % AD_PANEL, width = lead + rank;
    const char *panels = (const char *)a->data + (size_t)(at / AD_PANEL) * a->panel_bytes;
    l->kernels->gemm[a->type](s->gram, (size_t)width, ad_load_rows(l, p->a, s->room, s->row), ad_load_stride(a->type, a->cols), panels, a->panel_bytes, rank, width, a->cols, false);
    size_t panel_floats = ad_pack_panel_bytes(AD_PACK_F32, rank) / sizeof(float);
    for (int c = 0; c < (rank + AD_PANEL - 1) / AD_PANEL * AD_PANEL; c++)
        for (int r = 0; r < rank; r++) s->panels[(size_t)(c / AD_PANEL) * panel_floats + (size_t)(r * AD_PANEL + c % AD_PANEL)] = c < rank ? s->gram[r * width + lead + c] : 0;
}

static double dot(const float *x, const float *y, size_t n)
{
    float lanes[16] = {0};
    double sum = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t k = 0; k < 16; k++) lanes[k] += x[i + k] * y[i + k];
    for (; i < n; i++) sum += (double)x[i] * (double)y[i];
    for (size_t k = 0; k < 16; k++) sum += (double)lanes[k];
    return sum;
}

static float norm_of(const ad_loader *l, scratch *s, int module)
{
    const ad_load_pair *p = &l->pairs[module];
    int rank = p->plan.rank, out = (int)p->b->dims[0];
    size_t row_bytes = (size_t)rank * ad_dtype_block_bytes(p->b->dtype);
    double sum = 0;
    multiply_a(l, s, module);
    for (int row = 0, n; row < out; row += n) {
        n = out - row < CHUNK ? out - row : CHUNK;
        size_t count = (size_t)n * (size_t)rank;
        ad_dequant_row(p->b->dtype, s->b, (const char *)p->b->data + (size_t)row * row_bytes, count);
        l->kernels->gemm[AD_PACK_F32](s->product, (size_t)rank, s->b, (size_t)rank * sizeof(float), s->panels, ad_pack_panel_bytes(AD_PACK_F32, rank), n, rank, rank, false);
        sum += dot(s->b, s->product, count);
    }
    double norm = fabs((double)p->plan.scale) * sqrt(sum > 0 ? sum : 0);
    return norm <= (double)FLT_MAX && !isnan(sum) ? (float)norm : FLT_MAX; /* factors that overflow together */
}

ad_status ad_load_norms(ad_loader *l, const int *modules, int n, atomic_int *next, ad_err *err)
{
    scratch s;
    bool good = scratch_init(&s, l);
    for (int i; good && (i = atomic_fetch_add(next, 1)) < n;) {
        int module = modules ? modules[i] : i;
        if (l->pairs[module].plan.rank) l->adapter->norms[module] = norm_of(l, &s, module);
    }
    scratch_deinit(&s);
    return good ? AD_OK : ad_fail(err, AD_ENOMEM, "%s: out of memory for the adapter", l->adapter->dir);
}
