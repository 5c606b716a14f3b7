/* SPDX-License-Identifier: MIT */
/* The forward step: rows of all sequences share each base GEMM; then every run of rows with one adapter gets
 * its low-rank correction, y += scale * B (A x). GEMMs are cut by output columns and the rest by rows or by
 * (row, kv head) over the team; each value is computed whole by one member, in an order fixed by its own row.
 * Engine thread and its helpers. */
#include "core/model/decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int begin, end; /* rows of this step, or of its outputs */
    const ad_mix *mix;
} run;

typedef struct {
    int begin, end;
    const ad_merged *merged; /* NULL: the model's own weights */
} span;

struct ad_scratch {
    const ad_kernels *k;
    ad_team *team;
    int max_rows, max_out, context, max_rank;
    ad_kv_type kv;
    const ad_model *m;
    const ad_step_batch *b;
    float *block;             /* everything below with fixed size, in one arena */
    size_t block_bytes;
    float *h;                 /* [max_rows, hidden] residual stream */
    float *x;                 /* [max_rows, hidden] normed input */
    float *qkv;               /* [max_rows, q + 2 kv] */
    float *att;               /* [max_rows, q] */
    float *gate, *up;         /* [max_rows, intermediate] */
    float *y;                 /* [max_rows, hidden] output of o and down */
    float *cosines, *sines;   /* [max_rows, head_dim / 2] */
    float *out_x;             /* [max_out, hidden] */
    float *scores;            /* per member: [group, context rounded up], then one page of one head */
    size_t scores_stride;
    const void **page_ptrs;   /* per member: keys then values, [2 * pages of the context] */
    size_t ptrs_stride;
    float *t, *out_t;         /* [max_rows or max_out, 3 * max_rank] shrunk rows; a mix's parts side by side */
    size_t t_stride;
    run *runs, *out_runs;
    int n_runs, n_out_runs;
    span *spans, *out_spans;  /* tile the rows, and the outputs */
    int n_spans, n_out_spans;
};

enum { COLUMN_GRAIN = 16 };

static size_t number_bytes(ad_kv_type type)
{
    return type == AD_KV_F16 ? sizeof(uint16_t) : sizeof(float);
}

size_t ad_kv_page_bytes(const ad_model *m, ad_kv_type type)
{
    const ad_model_config *c = &m->config;
    return (size_t)c->layers * 2 * (size_t)c->kv_heads * AD_KV_PAGE * (size_t)c->head_dim * number_bytes(type);
}

ad_status ad_scratch_new(ad_scratch **out, const ad_model *m, const ad_kernels *k, ad_team *team, int max_rows, int max_out,
                         int context, ad_kv_type kv_type, ad_err *err)
{
    const ad_model_config *c = &m->config;
    ad_scratch *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "step buffers: out of memory");
    *s = (ad_scratch){.k = k, .team = team, .m = m, .max_rows = max_rows, .max_out = max_out, .context = context, .kv = kv_type};
    size_t rows = (size_t)max_rows, members = (size_t)ad_team_size(team), d = (size_t)c->hidden, hd = (size_t)c->head_dim;
    size_t q = (size_t)c->heads * hd, kv = (size_t)c->kv_heads * hd, f = (size_t)c->intermediate;
    size_t pages = ((size_t)context + AD_KV_PAGE - 1) / AD_KV_PAGE;
    s->scores_stride = (size_t)(c->heads / c->kv_heads) * (((size_t)context + 15) & ~(size_t)15) + AD_KV_PAGE * hd;
    s->ptrs_stride = 2 * pages;
    struct { float **at; size_t n; } parts[] = {
        {&s->h, rows * d}, {&s->x, rows * d}, {&s->y, rows * d}, {&s->qkv, rows * (q + 2 * kv)}, {&s->att, rows * q},
        {&s->gate, rows * f}, {&s->up, rows * f}, {&s->cosines, rows * hd / 2}, {&s->sines, rows * hd / 2},
        {&s->out_x, (size_t)max_out * d}, {&s->scores, members * s->scores_stride},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) s->block_bytes += (parts[i].n * sizeof(float) + 63) & ~(size_t)63;
    s->block = ad_arena_new(s->block_bytes);
    s->page_ptrs = ad_calloc(members * s->ptrs_stride, sizeof *s->page_ptrs);
    s->runs = ad_calloc(rows, sizeof *s->runs);
    s->out_runs = ad_calloc((size_t)max_out, sizeof *s->out_runs);
    s->spans = ad_calloc(rows, sizeof *s->spans);
    s->out_spans = ad_calloc((size_t)max_out, sizeof *s->out_spans);
    if (!s->block || !s->page_ptrs || !s->runs || !s->out_runs || !s->spans || !s->out_spans) {
        ad_scratch_free(&s);
        return ad_fail(err, AD_ENOMEM, "step buffers for %d rows: out of memory", max_rows);
    }
    char *at = (char *)s->block;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = (float *)at;
        at += (parts[i].n * sizeof(float) + 63) & ~(size_t)63;
    }
    *out = s;
    return AD_OK;
}

void ad_scratch_free(ad_scratch **sp)
{
    ad_scratch *s = *sp;
    if (!s) return;
    if (s->block) ad_arena_free(s->block, s->block_bytes);
    free(s->page_ptrs);
    free(s->runs);
    free(s->out_runs);
    free(s->spans);
    free(s->out_spans);
    free(s->t);
    free(s->out_t);
    free(s);
    *sp = NULL;
}

static int rank_of(const ad_mix *mix)
{
    int rank = 0;
    for (int i = 0; i < mix->n; i++) rank += mix->sets[i]->max_rank;
    return rank;
}

ad_status ad_scratch_reserve(ad_scratch *s, const ad_mix *mix, ad_err *err)
{
    int rank = mix ? rank_of(mix) : 0;
    if (rank <= s->max_rank) return AD_OK;
    size_t stride = 3 * (size_t)rank; /* q, k and v are shrunk side by side */
    float *t = ad_calloc((size_t)s->max_rows, stride * sizeof *t), *out_t = ad_calloc((size_t)s->max_out, stride * sizeof *out_t);
    if (!t || !out_t) {
        free(t), free(out_t);
        return ad_fail(err, AD_ENOMEM, "step buffers for adapters of rank %d: out of memory", rank);
    }
    free(s->t), free(s->out_t);
    s->t = t, s->out_t = out_t, s->t_stride = stride, s->max_rank = rank;
    return AD_OK;
}

bool ad_mix_equal(const ad_mix *a, const ad_mix *b)
{
    if (a == b) return true;
    if (!a || !b || a->n != b->n) return false;
    for (int i = 0; i < a->n; i++)
        if (a->sets[i] != b->sets[i] || a->weights[i] != b->weights[i]) return false;
    return true;
}

/* ---- low-rank corrections ---- */

/* The stacked rank of modules first .. first + n - 1, and where their contiguous A begins. */
static int stacked_rank(const ad_lowrank *mods, int n, const float **a)
{
    int rank = 0;
    for (int i = 0; i < n; i++) {
        if (mods[i].rank && !rank) *a = mods[i].a;
        rank += mods[i].rank;
    }
    return rank;
}

/* t = scale * (x A^T) of modules [module, module + n), which share the input x, for part `part` of a run's mix, whose
 * columns of t begin at `at`. They are cut over the team. */
static void shrink_part(const ad_scratch *s, const run *r, int part, size_t at, int module, int n, const float *x, size_t ldx, float *t, int in, int index, int count)
{
    const ad_lowrank *mods = r->mix->sets[part]->modules + module;
    float weight = r->mix->weights[part];
    const float *a = NULL;
    int total = stacked_rank(mods, n, &a), begin, end;
    ad_team_slice(total, 4, index, count, &begin, &end);
    if (begin == end) return;
    s->k->gemm_nt(t + (size_t)r->begin * s->t_stride + at + (size_t)begin, s->t_stride, x + (size_t)r->begin * ldx, ldx,
                  a + (size_t)begin * (size_t)in, r->end - r->begin, end - begin, in);
    for (int row = r->begin; row < r->end; row++) {
        float *tr = t + (size_t)row * s->t_stride + at;
        for (int i = 0, first = 0; i < n; first += mods[i++].rank)
            for (int j = begin > first ? begin : first; j < end && j < first + mods[i].rank; j++) tr[j] *= mods[i].scale * weight;
    }
}

static void shrink(const ad_scratch *s, const run *runs, int n_runs, int module, int n, const float *x, size_t ldx, float *t, int in, int index, int count)
{
    for (const run *r = runs; r < runs + n_runs; r++) {
        size_t at = 0;
        for (int p = 0; p < r->mix->n; at += 3 * (size_t)r->mix->sets[p++]->max_rank) shrink_part(s, r, p, at, module, n, x, ldx, t, in, index, count);
    }
}

/* y[rows, begin..end) += t B^T for module `which` of the n stacked ones; y and t begin at row 0. */
static void expand_run(const ad_scratch *s, const run *r, int row_begin, int row_end, int module, int which, const float *t, float *y, size_t ldy, int out, int begin, int end)
{
    size_t at = 0;
    if (begin >= end || row_begin >= row_end) return;
    for (int p = 0; p < r->mix->n; at += 3 * (size_t)r->mix->sets[p++]->max_rank) {
        const ad_lowrank *mods = r->mix->sets[p]->modules + module;
        size_t column = at;
        for (int i = 0; i < which; i++) column += (size_t)mods[i].rank;
        if (!mods[which].rank) continue;
        s->k->expand_add(y + (size_t)row_begin * ldy + begin, ldy, t + (size_t)row_begin * s->t_stride + column, s->t_stride, mods[which].bt + begin, (size_t)out,
                         row_end - row_begin, end - begin, mods[which].rank);
    }
}

static void expand(const ad_scratch *s, const run *runs, int n_runs, int module, int which, const float *t, float *y, size_t ldy, int out, int begin, int end)
{
    for (const run *r = runs; r < runs + n_runs; r++) expand_run(s, r, r->begin, r->end, module, which, t, y, ldy, out, begin, end);
}

/* The same for rows [begin, end) only, all columns: where the next phase is cut by rows. */
static void expand_rows(const ad_scratch *s, int module, const float *t, float *y, int out, int begin, int end)
{
    for (const run *r = s->runs; r < s->runs + s->n_runs; r++)
        expand_run(s, r, r->begin > begin ? r->begin : begin, r->end < end ? r->end : end, module, 0, t, y, (size_t)out, out, 0, out);
}

/* ---- phases; each is entered by every member ---- */

static const float *weight_of(const span *p, int module, const float *w)
{
    const float *merged = p->merged ? ad_merged_weight(p->merged, module) : NULL;
    return merged ? merged : w;
}

/* y = x W^T of one module, this member's columns; rows of each span with their own weights. */
static void gemm_spans(const ad_scratch *s, const span *spans, int n_spans, float *y, size_t ldy, const float *x, size_t ldx, int module, const float *w, int out, int in, int index, int count)
{
    int begin, end;
    ad_team_slice(out, COLUMN_GRAIN, index, count, &begin, &end);
    for (const span *p = spans; begin < end && p < spans + n_spans; p++)
        s->k->gemm_nt(y + (size_t)p->begin * ldy + begin, ldy, x + (size_t)p->begin * ldx, ldx, weight_of(p, module, w) + (size_t)begin * (size_t)in,
                      p->end - p->begin, end - begin, in);
}

static void gemm_slice(const ad_scratch *s, float *y, size_t ldy, const float *x, size_t ldx, int module, const float *w, int out, int in, int index, int count)
{
    gemm_spans(s, s->spans, s->n_spans, y, ldy, x, ldx, module, w, out, in, index, count);
}

/* h += sum of scale * B a for the token's columns a of the embedding's A. */
static void correct_embedding(const ad_scratch *s, const ad_mix *mix, int module, int32_t token, float *h, int d, float *t)
{
    for (int p = 0; p < mix->n; p++) {
        const ad_lowrank *lr = mix->sets[p]->modules + module;
        for (int i = 0; i < lr->rank; i++) t[i] = lr->scale * mix->weights[p] * lr->a[(size_t)token * (size_t)lr->rank + (size_t)i];
        if (lr->rank) s->k->expand_add(h, (size_t)d, t, s->t_stride, lr->bt, (size_t)d, 1, d, lr->rank);
    }
}

static void embed_rows(const ad_model *m, ad_scratch *s, int begin, int end)
{
    const ad_step_batch *b = s->b;
    size_t d = (size_t)m->config.hidden;
    int half = m->config.head_dim / 2, module = m->n_modules - 2;
    for (int r = begin; r < end; r++) {
        float *h = s->h + (size_t)r * d;
        const float *merged = b->merged[r] ? ad_merged_weight(b->merged[r], module) : NULL;
        memcpy(h, (merged ? merged : m->embed) + (size_t)b->tokens[r] * d, d * sizeof *h);
        if (b->mixes[r]) correct_embedding(s, b->mixes[r], module, b->tokens[r], h, (int)d, s->t + (size_t)r * s->t_stride);
        for (int i = 0; i < half; i++) {
            float angle = (float)b->positions[r] * m->inv_freq[i]; /* f32, as the models were trained */
            s->cosines[(size_t)r * (size_t)half + (size_t)i] = cosf(angle) * m->rope_magnitude;
            s->sines[(size_t)r * (size_t)half + (size_t)i] = sinf(angle) * m->rope_magnitude;
        }
    }
}

static void norm_rows(const ad_model *m, ad_scratch *s, const float *w, int begin, int end)
{
    size_t d = (size_t)m->config.hidden;
    for (int r = begin; r < end; r++) s->k->rmsnorm(s->x + (size_t)r * d, s->h + (size_t)r * d, w, (int)d, m->config.norm_eps);
}

static void *page_slot(const ad_model *m, ad_kv_type kv, void *page, int layer, int value, int head, int slot)
{
    const ad_model_config *c = &m->config;
    size_t block = ((size_t)layer * 2 + (size_t)value) * (size_t)c->kv_heads + (size_t)head;
    return (char *)page + (block * AD_KV_PAGE + (size_t)slot) * (size_t)c->head_dim * number_bytes(kv);
}

static void store_kv(const ad_scratch *s, void *dst, const float *src, int hd)
{
    if (s->kv == AD_KV_F16) s->k->to_half(dst, src, hd);
    else memcpy(dst, src, (size_t)hd * sizeof *src);
}

/* Corrections, biases, RoPE and the cache write of rows [begin, end). */
static void finish_qkv(const ad_model *m, ad_scratch *s, int layer, int begin, int end)
{
    const ad_model_config *c = &m->config;
    int hd = c->head_dim, half = hd / 2, q = c->heads * hd, kv = c->kv_heads * hd;
    size_t ld = (size_t)(q + 2 * kv);
    const ad_linear *mod = m->layers[layer].mod;
    for (int r = begin; r < end; r++) {
        float *row = s->qkv + (size_t)r * ld;
        const float *cosines = s->cosines + (size_t)r * (size_t)half, *sines = s->sines + (size_t)r * (size_t)half;
        if (mod[AD_MOD_Q].bias) s->k->add(row, mod[AD_MOD_Q].bias, q);
        if (mod[AD_MOD_K].bias) s->k->add(row + q, mod[AD_MOD_K].bias, kv);
        if (mod[AD_MOD_V].bias) s->k->add(row + q + kv, mod[AD_MOD_V].bias, kv);
        for (int h = 0; h < c->heads + c->kv_heads; h++) s->k->rope(row + (size_t)h * (size_t)hd, cosines, sines, half);
        int pos = s->b->positions[r];
        void *page = s->b->pages[r][pos / AD_KV_PAGE];
        for (int h = 0; h < c->kv_heads; h++) {
            store_kv(s, page_slot(m, s->kv, page, layer, 0, h, pos % AD_KV_PAGE), row + q + (size_t)h * (size_t)hd, hd);
            store_kv(s, page_slot(m, s->kv, page, layer, 1, h, pos % AD_KV_PAGE), row + q + kv + (size_t)h * (size_t)hd, hd);
        }
    }
}

static void expand_qkv(const ad_model *m, ad_scratch *s, int layer, int index, int count)
{
    const ad_model_config *c = &m->config;
    int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, at[] = {0, q, q + kv}, out[] = {q, kv, kv};
    for (int i = 0; i < 3; i++) {
        int begin, end;
        ad_team_slice(out[i], COLUMN_GRAIN, index, count, &begin, &end);
        expand(s, s->runs, s->n_runs, layer * AD_MOD_PER_LAYER, i, s->t, s->qkv + at[i], (size_t)(q + 2 * kv), out[i], begin, end);
    }
}

/* One (row, kv head) at a time: its pages, then the query heads that share them. */
static void attend_slice(const ad_model *m, ad_scratch *s, int layer, int index, int count)
{
    const ad_model_config *c = &m->config;
    int hd = c->head_dim, group = c->heads / c->kv_heads, begin, end;
    size_t ld = (size_t)(c->heads + 2 * c->kv_heads) * (size_t)hd, q = (size_t)c->heads * (size_t)hd;
    float scale = 1.0f / sqrtf((float)hd);
    const void **keys = s->page_ptrs + (size_t)index * s->ptrs_stride, **vals = keys + s->ptrs_stride / 2;
    float *scores = s->scores + (size_t)index * s->scores_stride;
    ad_team_slice(s->b->n_rows * c->kv_heads, 1, index, count, &begin, &end);
    for (int u = begin; u < end; u++) {
        int r = u / c->kv_heads, h = u % c->kv_heads, n_ctx = s->b->positions[r] + 1;
        for (int p = 0; p * AD_KV_PAGE < n_ctx; p++) {
            keys[p] = page_slot(m, s->kv, s->b->pages[r][p], layer, 0, h, 0);
            vals[p] = page_slot(m, s->kv, s->b->pages[r][p], layer, 1, h, 0);
        }
        size_t at = (size_t)h * (size_t)group * (size_t)hd;
        s->k->attend(s->att + (size_t)r * q + at, s->qkv + (size_t)r * ld + at, keys, vals, s->kv == AD_KV_F16, AD_KV_PAGE, n_ctx, group, hd, scale, scores);
    }
}

/* h += y + bias + correction, for the rows of this member. */
static void add_residual(const ad_model *m, ad_scratch *s, int layer, int kind, int begin, int end)
{
    size_t d = (size_t)m->config.hidden;
    const float *bias = m->layers[layer].mod[kind].bias;
    expand_rows(s, layer * AD_MOD_PER_LAYER + kind, s->t, s->y, (int)d, begin, end);
    for (int r = begin; r < end; r++) {
        float *y = s->y + (size_t)r * d;
        if (bias) s->k->add(y, bias, (int)d);
        s->k->add(s->h + (size_t)r * d, y, (int)d);
    }
}

/* Corrections, biases and SwiGLU of this member's columns. */
static void finish_gate_up(const ad_model *m, ad_scratch *s, int layer, int index, int count)
{
    int f = m->config.intermediate, begin, end, module = layer * AD_MOD_PER_LAYER + AD_MOD_GATE;
    ad_team_slice(f, COLUMN_GRAIN, index, count, &begin, &end);
    if (begin == end) return;
    const ad_linear *mod = m->layers[layer].mod;
    expand(s, s->runs, s->n_runs, module, 0, s->t, s->gate, (size_t)f, f, begin, end);
    expand(s, s->runs, s->n_runs, module, 1, s->t, s->up, (size_t)f, f, begin, end);
    for (int r = 0; r < s->b->n_rows; r++) {
        float *gate = s->gate + (size_t)r * (size_t)f + begin, *up = s->up + (size_t)r * (size_t)f + begin;
        if (mod[AD_MOD_GATE].bias) s->k->add(gate, mod[AD_MOD_GATE].bias + begin, end - begin);
        if (mod[AD_MOD_UP].bias) s->k->add(up, mod[AD_MOD_UP].bias + begin, end - begin);
        s->k->swiglu(gate, up, end - begin);
    }
}

static void layer_step(const ad_model *m, ad_scratch *s, int layer, int index, int count)
{
    const ad_model_config *c = &m->config;
    const ad_linear *mod = m->layers[layer].mod;
    int n = s->b->n_rows, d = c->hidden, q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, f = c->intermediate;
    int first = layer * AD_MOD_PER_LAYER, begin, end;
    size_t ld = (size_t)(q + 2 * kv);
    ad_team_slice(n, 1, index, count, &begin, &end);

    gemm_slice(s, s->qkv, ld, s->x, (size_t)d, first + AD_MOD_Q, mod[AD_MOD_Q].w, q, d, index, count);
    gemm_slice(s, s->qkv + q, ld, s->x, (size_t)d, first + AD_MOD_K, mod[AD_MOD_K].w, kv, d, index, count);
    gemm_slice(s, s->qkv + q + kv, ld, s->x, (size_t)d, first + AD_MOD_V, mod[AD_MOD_V].w, kv, d, index, count);
    shrink(s, s->runs, s->n_runs, first + AD_MOD_Q, 3, s->x, (size_t)d, s->t, d, index, count);
    ad_team_barrier(s->team);
    if (s->n_runs) {
        expand_qkv(m, s, layer, index, count);
        ad_team_barrier(s->team);
    }
    finish_qkv(m, s, layer, begin, end);
    ad_team_barrier(s->team);
    attend_slice(m, s, layer, index, count);
    ad_team_barrier(s->team);
    gemm_slice(s, s->y, (size_t)d, s->att, (size_t)q, first + AD_MOD_O, mod[AD_MOD_O].w, d, q, index, count);
    shrink(s, s->runs, s->n_runs, first + AD_MOD_O, 1, s->att, (size_t)q, s->t, q, index, count);
    ad_team_barrier(s->team);
    add_residual(m, s, layer, AD_MOD_O, begin, end);
    norm_rows(m, s, m->layers[layer].mlp_norm, begin, end);
    ad_team_barrier(s->team);
    gemm_slice(s, s->gate, (size_t)f, s->x, (size_t)d, first + AD_MOD_GATE, mod[AD_MOD_GATE].w, f, d, index, count);
    gemm_slice(s, s->up, (size_t)f, s->x, (size_t)d, first + AD_MOD_UP, mod[AD_MOD_UP].w, f, d, index, count);
    shrink(s, s->runs, s->n_runs, first + AD_MOD_GATE, 2, s->x, (size_t)d, s->t, d, index, count);
    if (s->n_runs) ad_team_barrier(s->team); /* without corrections each member reads only its own columns */
    finish_gate_up(m, s, layer, index, count);
    ad_team_barrier(s->team);
    gemm_slice(s, s->y, (size_t)d, s->gate, (size_t)f, first + AD_MOD_DOWN, mod[AD_MOD_DOWN].w, d, f, index, count);
    shrink(s, s->runs, s->n_runs, first + AD_MOD_DOWN, 1, s->gate, (size_t)f, s->t, f, index, count);
    ad_team_barrier(s->team);
    add_residual(m, s, layer, AD_MOD_DOWN, begin, end);
}

static void head_step(const ad_model *m, ad_scratch *s, int index, int count)
{
    int d = m->config.hidden, v = m->config.vocab, n = s->b->n_out, begin, end;
    ad_team_slice(n, 1, index, count, &begin, &end);
    for (int i = begin; i < end; i++)
        s->k->rmsnorm(s->out_x + (size_t)i * (size_t)d, s->h + (size_t)s->b->out_rows[i] * (size_t)d, m->final_norm, d, m->config.norm_eps);
    ad_team_barrier(s->team);
    gemm_spans(s, s->out_spans, s->n_out_spans, s->b->logits, (size_t)v, s->out_x, (size_t)d, m->n_modules - 1, m->head.w, v, d, index, count);
    shrink(s, s->out_runs, s->n_out_runs, m->n_modules - 1, 1, s->out_x, (size_t)d, s->out_t, d, index, count);
    if (!s->n_out_runs) return;
    ad_team_barrier(s->team);
    ad_team_slice(v, COLUMN_GRAIN, index, count, &begin, &end);
    expand(s, s->out_runs, s->n_out_runs, m->n_modules - 1, 0, s->out_t, s->b->logits, (size_t)v, v, begin, end);
}

void ad_decoder_step(const ad_model *m, ad_scratch *s, int index, int count)
{
    int begin, end;
    ad_team_slice(s->b->n_rows, 1, index, count, &begin, &end);
    embed_rows(m, s, begin, end);
    for (int l = 0; l < m->config.layers; l++) {
        norm_rows(m, s, m->layers[l].attn_norm, begin, end);
        ad_team_barrier(s->team);
        layer_step(m, s, l, index, count);
    }
    ad_team_barrier(s->team);
    if (s->b->n_out) head_step(m, s, index, count);
}

static void step_on_team(void *arg, int index, int count)
{
    ad_scratch *s = arg;
    s->m->family->step(s->m, s, index, count);
}

/* Neighbours with the same corrections, as half-open ranges; rows of the base are in none. */
static int find_runs(run *runs, const ad_step_batch *b, const int *rows, int n)
{
    int n_runs = 0;
    for (int i = 0; i < n; i++) {
        const ad_mix *mix = b->mixes[rows ? rows[i] : i];
        if (!mix) continue;
        if (n_runs && runs[n_runs - 1].end == i && ad_mix_equal(runs[n_runs - 1].mix, mix)) runs[n_runs - 1].end++;
        else runs[n_runs++] = (run){i, i + 1, mix};
    }
    return n_runs;
}

/* Neighbours with the same weights. */
static int find_spans(span *spans, const ad_step_batch *b, const int *rows, int n)
{
    int n_spans = 0;
    for (int i = 0; i < n; i++) {
        const ad_merged *merged = b->merged[rows ? rows[i] : i];
        if (n_spans && spans[n_spans - 1].merged == merged) spans[n_spans - 1].end++;
        else spans[n_spans++] = (span){i, i + 1, merged};
    }
    return n_spans;
}

void ad_model_step(const ad_model *m, ad_scratch *s, const ad_step_batch *batch)
{
    (void)m;
    s->b = batch;
    s->n_runs = find_runs(s->runs, batch, NULL, batch->n_rows);
    s->n_out_runs = find_runs(s->out_runs, batch, batch->out_rows, batch->n_out);
    s->n_spans = find_spans(s->spans, batch, NULL, batch->n_rows);
    s->n_out_spans = find_spans(s->out_spans, batch, batch->out_rows, batch->n_out);
    ad_team_run(s->team, step_on_team, s);
}
