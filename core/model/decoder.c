/* SPDX-License-Identifier: MIT */
/* The forward step. Rows of all sequences share each base GEMM; every run of rows with one adapter gets its low-rank
 * correction, y += scale * B (A x), while the columns it belongs to are in the cache.
 *
 * A layer is five phases with a barrier behind each. In a phase every member works on its own columns (or heads), and it
 * prepares them for the next phase on the way: RMS norm, quantising and the shrink by A are cut along the input just like the
 * GEMM's output, so none of them needs a barrier of its own:
 *
 *   qkv       columns   y = W x, + B t
 *   attention heads     RoPE, page write, attention; its part of t for o     (rows of one sequence side by side: pages first)
 *   o         columns   h += W x + B t; x = norm weight * h; sum of h^2; its part of t for gate and up
 *   gate, up  columns   SwiGLU; its part of t for down
 *   down      columns   as o, for the next layer's q, k, v
 *
 * A norm's division by the root of the sum is a factor per row: it is applied to what the GEMM makes of x.
 * An adapter may have parts beside pairs (ad_parts): rows of DoRA scale W x + B t by column before biases are added; vectors and
 * token rows are looked up by row; rows with weights of their own take their own GEMMs, as merged ones do. A step without such
 * rows has `extras` false and pays for none of it.
 *
 * Every value is computed in an order fixed by its own row and the model: neither neighbours nor the number of members enter.
 * Engine thread and its helpers. */
#include "core/model/decoder.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int begin, end; /* rows of this step, or of its outputs */
    const ad_mix *mix;
} run;

typedef struct {
    int begin, end;
    const ad_merged *merged; /* NULL: the model's own weights */
    const ad_parts *own;     /* NULL: the adapter replaces no weight that is multiplied here */
} span;

/* Rows of one sequence at neighbouring positions: one unit of attention per kv head. */
typedef struct {
    int row, rows;
} tile;

/* Rows of activations in the forms that weights read; the others stay untouched and cost no memory. */
typedef struct {
    char *data[AD_ACT_KINDS];
    size_t stride[AD_ACT_KINDS]; /* bytes */
    int cols;
} act;

/* One member's own memory. */
typedef struct {
    const char *at;
    size_t bytes;
} range;

enum { MAX_RANGES = 512 };

typedef struct {
    float *y, *y2, *x;          /* [max_rows, COLUMNS] a block of columns: GEMM results, normed input */
    float *q, *o;               /* [TILE_ROWS, group, head_dim] turned queries, results */
    float *scores;
    const void **pages;         /* keys then values, [2 * pages of the context] */
    float *inverse;             /* [max_rows] of the RMS norm */
    char *t;                    /* [max_rows, t_stride] summed and scaled t, in the adapters' type */
    float *sum;                 /* [t_stride] one row of it in f32 */
    range *ranges;              /* [MAX_RANGES] what this phase reads of adapters */
    int n_ranges, next_range;
    size_t fetch_bytes;
} member;

struct ad_scratch {
    const ad_kernels *k;
    ad_team *team;
    int max_rows, max_out, context, n_members;
    ad_kv_type kv;
    const ad_model *m;
    const ad_step_batch *b;
    char *block;                /* everything below with fixed size, in one arena */
    size_t block_bytes;
    float *h;                   /* [max_rows, hidden] residual stream */
    float *squares;             /* [max_rows, n_blocks] sums of h^2 by block of 32 columns */
    int n_blocks;
    float *qkv;                 /* [max_rows, ld_qkv] */
    size_t ld_qkv, ld_columns;  /* no multiples of 4 KiB: rows would share cache sets */
    float *cosines, *sines;     /* [max_rows, head_dim / 2] */
    act x, att, mlp, out;       /* inputs of q k v gate up; of o; of down; of the head (max_out rows) */
    member *members;            /* [n_members] */
    atomic_int *next_unit;      /* [layers] units of attention taken so far */
    float *partial[2];          /* [parts, max_rows, t_stride] parts of t: one phase fills one while it reads the other */
    size_t partial_bytes, t_bytes;
    char *t_block;
    int t_stride, n_parts;
    unsigned forms;             /* of this step: what weights and adapters read */
    run *runs, *out_runs;
    int n_runs, n_out_runs;
    span *spans, *out_spans;    /* tile the rows, and the outputs */
    int n_spans, n_out_spans;
    tile *tiles;
    int n_tiles;
    bool prompts;               /* two rows of this step belong to one sequence */
    bool extras;                /* some row's adapter has parts beside pairs */
    const ad_mix **extra;       /* [max_rows] valid when extras: the row's mix when it has such parts, else NULL */
};

/* Columns of a block (what a member's rows of it take stays in the second-level cache), rows of an attention tile. */
enum { COLUMNS = 256, TILE_ROWS = 8, MOST_PARTS = 24 };

/* Columns are cut over members at multiples of this, and t is summed over parts of so many inputs, so that a result does not depend on
 * the number of members: whole blocks of 32, and not too many parts. */
static int grain_of(int cols)
{
    int blocks = (cols + AD_BLOCK - 1) / AD_BLOCK;
    return AD_BLOCK * ((blocks + MOST_PARTS - 1) / MOST_PARTS);
}

static int parts_of(int cols)
{
    return (cols + grain_of(cols) - 1) / grain_of(cols);
}

static size_t number_bytes(ad_kv_type type)
{
    return type == AD_KV_F16 ? sizeof(uint16_t) : sizeof(float);
}

size_t ad_kv_page_bytes(const ad_model *m, ad_kv_type type)
{
    const ad_model_config *c = &m->config;
    return (size_t)c->layers * 2 * (size_t)c->kv_heads * AD_KV_PAGE * (size_t)c->head_dim * number_bytes(type);
}

/* ---- memory ---- */

/* Hands out parts of the arena; with block NULL it only counts. */
typedef struct {
    char *block;
    size_t used;
} carver;

static void *carve(carver *c, size_t bytes)
{
    void *at = c->block ? c->block + c->used : NULL;
    c->used += (bytes + 63) & ~(size_t)63;
    return at;
}

static void carve_act(carver *c, act *a, int rows, int cols)
{
    a->cols = cols;
    for (int f = 0; f < AD_ACT_KINDS; f++) {
        a->stride[f] = ad_act_stride((ad_act)f, cols);
        a->data[f] = carve(c, (size_t)rows * a->stride[f]);
    }
}

static size_t floats_apart(int n)
{
    size_t stride = ((size_t)n + 15) & ~(size_t)15;
    return stride % 1024 ? stride : stride + 16;
}

static void carve_all(ad_scratch *s, carver *c)
{
    const ad_model_config *cfg = &s->m->config;
    size_t rows = (size_t)s->max_rows, hd = (size_t)cfg->head_dim, group = (size_t)(cfg->heads / cfg->kv_heads);
    size_t pages = ((size_t)s->context + AD_KV_PAGE - 1) / AD_KV_PAGE;
    int q = cfg->heads * cfg->head_dim, kv = cfg->kv_heads * cfg->head_dim;
    s->n_blocks = (cfg->hidden + AD_BLOCK - 1) / AD_BLOCK;
    s->ld_qkv = floats_apart(q + 2 * kv);
    s->ld_columns = floats_apart(COLUMNS);
    s->h = carve(c, rows * (size_t)cfg->hidden * sizeof(float));
    s->squares = carve(c, rows * (size_t)s->n_blocks * sizeof(float));
    s->qkv = carve(c, rows * s->ld_qkv * sizeof(float));
    s->cosines = carve(c, rows * hd / 2 * sizeof(float));
    s->sines = carve(c, rows * hd / 2 * sizeof(float));
    carve_act(c, &s->x, s->max_rows, cfg->hidden);
    carve_act(c, &s->att, s->max_rows, q);
    carve_act(c, &s->mlp, s->max_rows, cfg->intermediate);
    carve_act(c, &s->out, s->max_out, cfg->hidden);
    for (int i = 0; i < s->n_members; i++) {
        member *me = &s->members[i];
        me->y = carve(c, rows * s->ld_columns * sizeof(float));
        me->y2 = carve(c, rows * s->ld_columns * sizeof(float));
        me->x = carve(c, (COLUMNS > (size_t)cfg->hidden ? COLUMNS : (size_t)cfg->hidden) * sizeof(float));
        me->q = carve(c, TILE_ROWS * group * hd * sizeof(float));
        me->o = carve(c, TILE_ROWS * group * hd * sizeof(float));
        me->scores = carve(c, TILE_ROWS * group * ((size_t)s->context + TILE_ROWS + 16) * sizeof(float));
        me->pages = carve(c, 2 * pages * sizeof *me->pages);
        me->inverse = carve(c, rows * sizeof(float));
        me->ranges = carve(c, MAX_RANGES * sizeof *me->ranges);
    }
}

ad_status ad_scratch_new(ad_scratch **out, const ad_model *m, const ad_kernels *k, ad_team *team, int max_rows, int max_out,
                         int context, ad_kv_type kv_type, ad_err *err)
{
    ad_scratch *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "step buffers: out of memory");
    *s = (ad_scratch){.k = k, .team = team, .m = m, .max_rows = max_rows, .max_out = max_out, .context = context, .kv = kv_type, .n_members = ad_team_size(team)};
    s->n_parts = m->config.kv_heads > MOST_PARTS ? m->config.kv_heads : MOST_PARTS;
    s->members = ad_calloc((size_t)s->n_members, sizeof *s->members);
    s->next_unit = ad_calloc((size_t)m->config.layers, sizeof *s->next_unit);
    s->runs = ad_calloc((size_t)max_rows, sizeof *s->runs);
    s->out_runs = ad_calloc((size_t)max_out, sizeof *s->out_runs);
    s->spans = ad_calloc((size_t)max_rows, sizeof *s->spans);
    s->out_spans = ad_calloc((size_t)max_out, sizeof *s->out_spans);
    s->tiles = ad_calloc((size_t)max_rows, sizeof *s->tiles);
    s->extra = ad_calloc((size_t)max_rows, sizeof *s->extra);
    bool good = s->members && s->next_unit && s->runs && s->out_runs && s->spans && s->out_spans && s->tiles && s->extra;
    carver c = {0};
    if (good) {
        carve_all(s, &c);
        s->block_bytes = c.used;
        s->block = ad_arena_new(s->block_bytes);
    }
    if (!good || !s->block) {
        ad_scratch_free(&s);
        return ad_fail(err, AD_ENOMEM, "step buffers for %d rows: out of memory", max_rows);
    }
    c = (carver){s->block, 0};
    carve_all(s, &c);
    *out = s;
    return AD_OK;
}

static void free_t(ad_scratch *s)
{
    for (int i = 0; i < 2; i++)
        if (s->partial[i]) ad_arena_free(s->partial[i], s->partial_bytes);
    if (s->t_block) ad_arena_free(s->t_block, s->t_bytes);
    s->partial[0] = s->partial[1] = NULL;
    s->t_block = NULL;
    s->t_stride = 0;
}

void ad_scratch_free(ad_scratch **sp)
{
    ad_scratch *s = *sp;
    if (!s) return;
    free_t(s);
    if (s->block) ad_arena_free(s->block, s->block_bytes);
    free(s->members);
    free(s->next_unit);
    free(s->runs);
    free(s->out_runs);
    free(s->spans);
    free(s->out_spans);
    free(s->tiles);
    free(s->extra);
    free(s);
    *sp = NULL;
}

ad_status ad_scratch_reserve(ad_scratch *s, const ad_mix *mix, ad_err *err)
{
    int stride = 0;
    for (int i = 0; mix && i < mix->n; i++) stride += mix->sets[i]->max_stack;
    if (stride <= s->t_stride) return AD_OK;
    size_t rows = (size_t)(s->max_rows > s->max_out ? s->max_rows : s->max_out), row = (size_t)stride * sizeof(float);
    size_t partial_bytes = (size_t)s->n_parts * rows * row, t_bytes = (size_t)s->n_members * (rows + 1) * row;
    float *one = ad_arena_new(partial_bytes), *two = ad_arena_new(partial_bytes);
    char *t = ad_arena_new(t_bytes);
    if (!one || !two || !t) {
        if (one) ad_arena_free(one, partial_bytes);
        if (two) ad_arena_free(two, partial_bytes);
        if (t) ad_arena_free(t, t_bytes);
        return ad_fail(err, AD_ENOMEM, "step buffers for adapters of %d ranks: out of memory", stride);
    }
    free_t(s);
    s->partial[0] = one, s->partial[1] = two, s->t_block = t;
    s->partial_bytes = partial_bytes, s->t_bytes = t_bytes, s->t_stride = stride;
    for (int i = 0; i < s->n_members; i++) {
        s->members[i].t = t + (size_t)i * (rows + 1) * row;
        s->members[i].sum = (float *)(void *)(s->members[i].t + rows * row);
    }
    return AD_OK;
}

ad_status ad_mix_check(const ad_mix *mix, ad_err *err)
{
    for (int i = 0; i < mix->n; i++)
        if (mix->sets[i]->alone && (mix->n > 1 || mix->weights[i] != 1))
            return ad_fail(err, AD_EINVAL, "an adapter with DoRA, saved modules, biases or token embeddings of its own can only be used by itself, with weight 1");
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

/* ---- activations ---- */

static char *act_row(const act *a, ad_act form, int row)
{
    return a->data[form] + (size_t)row * a->stride[form];
}

/* Columns [begin, end) of a row into every form this step reads. begin: a multiple of 32 for the INT8 form. */
static void put_act(const ad_scratch *s, const act *a, unsigned forms, int row, const float *x, int begin, int end)
{
    if (forms & 1u << AD_ACT_F32) memcpy((float *)(void *)act_row(a, AD_ACT_F32, row) + begin, x, (size_t)(end - begin) * sizeof *x);
    if (forms & 1u << AD_ACT_BF16) s->k->to_bf16((uint16_t *)(void *)act_row(a, AD_ACT_BF16, row) + begin, x, end - begin);
    if (forms & 1u << AD_ACT_INT8) s->k->quantise(act_row(a, AD_ACT_INT8, row), x, begin, end, a->cols);
}

static size_t form_bytes(ad_pack type)
{
    return type == AD_PACK_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* ---- low-rank corrections ---- */

/* A x over the inputs [begin, end), part by part of `grain` inputs, for all rows of the runs. */
static void shrink(const ad_scratch *s, const run *runs, int n_runs, int group, const act *x, float *partial, int grain, int begin, int end)
{
    for (const run *r = runs; r < runs + n_runs; r++) {
        size_t at = 0;
        for (int p = 0; p < r->mix->n; at += (size_t)r->mix->sets[p++]->max_stack) {
            const ad_lowrank_set *set = r->mix->sets[p];
            const ad_matrix *a = &set->a[group];
            ad_act form = ad_act_of(set->type);
            size_t number = form_bytes(set->type);
            for (int c = begin; c < end && a->rows; c += grain) {
                size_t row = (size_t)(c / grain) * (size_t)s->max_rows + (size_t)r->begin;
                s->k->gemm[set->type](partial + row * (size_t)s->t_stride + at, (size_t)s->t_stride, act_row(x, form, r->begin) + (size_t)c * number, x->stride[form],
                                      (const char *)a->data + (size_t)c * number * AD_PANEL, a->panel_bytes, r->end - r->begin, a->rows, (c + grain < end ? c + grain : end) - c, false);
            }
        }
    }
}

/* ---- adapters arrive while the base GEMM computes ---- */

static void plan_fetch(member *me, const ad_matrix *m, size_t begin, size_t bytes)
{
    if (me->n_ranges == MAX_RANGES) return; /* the rest comes when it is read */
    me->ranges[me->n_ranges++] = (range){(const char *)m->data + begin, bytes};
    me->fetch_bytes += bytes;
}

/* What a phase will read of the adapters: columns [begin, end) of B of the modules [module, module + n), and the inputs
 * [in, in_end) of the stacked A of `group` (-1: none). Adds to the plan. */
static void plan_phase(const ad_scratch *s, member *me, int module, int n, int begin, int end, int group, int in, int in_end)
{
    for (const run *r = s->runs; r < s->runs + s->n_runs; r++)
        for (int p = 0; p < r->mix->n; p++) {
            const ad_lowrank_set *set = r->mix->sets[p];
            size_t column = form_bytes(set->type) * AD_PANEL;
            for (const ad_lowrank *low = set->modules + module; low < set->modules + module + n; low++)
                if (low->rank) plan_fetch(me, &low->b, (size_t)(begin / AD_PANEL) * low->b.panel_bytes, (size_t)((end - begin + AD_PANEL - 1) / AD_PANEL) * low->b.panel_bytes);
            const ad_matrix *a = group < 0 ? NULL : &set->a[group];
            for (int panel = 0; a && panel * AD_PANEL < a->rows; panel++) plan_fetch(me, a, (size_t)panel * a->panel_bytes + (size_t)in * column, (size_t)(in_end - in) * column);
        }
}

static void start_plan(member *me)
{
    me->n_ranges = me->next_range = 0;
    me->fetch_bytes = 0;
}

/* Asks for the next `bytes` of the plan. */
static void fetch(member *me, size_t bytes)
{
    for (; bytes && me->next_range < me->n_ranges; me->next_range += !me->ranges[me->next_range].bytes) {
        range *r = &me->ranges[me->next_range];
        size_t n = r->bytes < bytes ? r->bytes : bytes;
        for (size_t i = 0; i < n; i += 64) __builtin_prefetch(r->at + i, 0, 2); /* into the second-level cache */
        r->at += n, r->bytes -= n, bytes -= n;
    }
}

/* t = scale * weight * sum of the parts, in order, for the modules [module, module + n) of one group. */
static void gather(const ad_scratch *s, const member *me, const run *runs, int n_runs, int module, int n, const float *partial, int parts)
{
    size_t ld = (size_t)s->t_stride, part = (size_t)s->max_rows * ld;
    for (const run *r = runs; r < runs + n_runs; r++) {
        size_t at = 0;
        for (int p = 0; p < r->mix->n; at += (size_t)r->mix->sets[p++]->max_stack) {
            const ad_lowrank_set *set = r->mix->sets[p];
            for (const ad_lowrank *low = set->modules + module; low < set->modules + module + n; low++) {
                if (!low->rank) continue;
                int width = low->b.cols;
                float by = low->scale * r->mix->weights[p];
                for (int row = r->begin; row < r->end; row++) {
                    const float *from = partial + (size_t)row * ld + at + (size_t)low->at;
                    float *sum = me->sum;
                    char *to = me->t + (size_t)row * ld * sizeof(float) + (at + (size_t)low->at) * form_bytes(set->type);
                    for (int j = 0; j < width; j++) sum[j] = from[j];
                    for (int i = 1; i < parts; i++) s->k->scale_add(sum, sum, 1, from + (size_t)i * part, width);
                    s->k->scale_add(sum, sum, by, NULL, width);
                    if (set->type == AD_PACK_F32) memcpy(to, sum, (size_t)width * sizeof *sum);
                    else s->k->to_bf16((uint16_t *)(void *)to, sum, width);
                }
            }
        }
    }
}

/* y[rows, begin..end) += t B^T; y and t begin at row 0, y at column `begin`. */
static void expand(const ad_scratch *s, const member *me, const run *runs, int n_runs, int module, float *y, size_t ldy, int begin, int end)
{
    size_t ld = (size_t)s->t_stride * sizeof(float);
    for (const run *r = runs; r < runs + n_runs; r++) {
        size_t at = 0;
        for (int p = 0; p < r->mix->n; at += (size_t)r->mix->sets[p++]->max_stack) {
            const ad_lowrank_set *set = r->mix->sets[p];
            const ad_lowrank *low = &set->modules[module];
            if (!low->rank) continue;
            s->k->gemm[set->type](y + (size_t)r->begin * ldy, ldy, me->t + (size_t)r->begin * ld + (at + (size_t)low->at) * form_bytes(set->type), ld,
                                  (const char *)low->b.data + (size_t)(begin / AD_PANEL) * low->b.panel_bytes, low->b.panel_bytes, r->end - r->begin, end - begin, low->b.cols, true);
        }
    }
}

/* ---- parts of adapters beside pairs ---- */

/* The parts a row's adapter puts in place of the base's; NULL: none. Only the adapter of a mix of one replaces anything. */
static const ad_parts *row_parts(const ad_scratch *s, int row)
{
    return s->extras && s->extra[row] ? s->extra[row]->sets[0]->parts : NULL;
}

static const float *bias_of(const ad_scratch *s, int row, int module)
{
    const ad_parts *parts = row_parts(s, row);
    const ad_model *m = s->m;
    if (parts && parts->modules[module].bias) return parts->modules[module].bias;
    return module < m->config.layers * AD_MOD_PER_LAYER ? m->layers[module / AD_MOD_PER_LAYER].mod[module % AD_MOD_PER_LAYER].bias : NULL;
}

/* dst = by * src + the row's biases of columns [at, at + n) of a module. False: there are none, and dst is untouched. */
static bool add_biases(const ad_scratch *s, float *dst, const float *src, float by, int row, int module, int at, int n)
{
    const float *bias = bias_of(s, row, module);
    const ad_mix *mix = s->extras ? s->extra[row] : NULL;
    bool any = bias != NULL;
    if (bias) s->k->scale_add(dst, src, by, bias + at, n);
    for (int p = 0; mix && p < mix->n; p++) {
        const float *added = mix->sets[p]->parts ? mix->sets[p]->parts->modules[module].added : NULL;
        if (!added) continue;
        if (!any) s->k->scale_add(dst, src, by, NULL, n);
        for (int i = 0; i < n; i++) dst[i] += mix->weights[p] * added[at + i];
        any = true;
    }
    return any;
}

/* Norms are counted as in ad_parts. */
static const float *norm_of(const ad_scratch *s, int row, int norm)
{
    const ad_parts *parts = row_parts(s, row);
    if (parts && parts->norms[norm]) return parts->norms[norm];
    if (norm == 2 * s->m->config.layers) return s->m->final_norm;
    return norm % 2 ? s->m->layers[norm / 2].mlp_norm : s->m->layers[norm / 2].attn_norm;
}

/* y *= DoRA's factor in columns [begin, end) of the runs that have one; y begins at row 0 and column `begin`. */
static void scale_outputs(const ad_scratch *s, const run *runs, int n_runs, int module, float *y, size_t ldy, int begin, int end)
{
    for (const run *r = runs; s->extras && r < runs + n_runs; r++) {
        const ad_parts *parts = r->mix->sets[0]->parts;
        const float *factor = parts ? parts->modules[module].factor : NULL;
        for (int row = r->begin; factor && row < r->end; row++)
            for (int c = begin; c < end; c++) y[(size_t)row * ldy + (size_t)(c - begin)] *= factor[c];
    }
}

/* Where the first id that is not below `id` stands. */
static int find_token(const ad_token_rows *t, int id)
{
    int low = 0, high = t->n;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (t->ids[mid] < id) low = mid + 1;
        else high = mid;
    }
    return low;
}

/* Logits of tokens whose row of the head the adapter replaces, among columns [begin, end) of output i; y[0] is column `begin`. */
static void replace_logits(const ad_scratch *s, const ad_token_rows *t, int i, float *y, int begin, int end)
{
    ad_act form = ad_act_of(t->rows.type);
    float panel[AD_PANEL];
    for (int at = find_token(t, begin), last = find_token(t, end); at < last; at = (at / AD_PANEL + 1) * AD_PANEL) {
        int first = at / AD_PANEL * AD_PANEL, n = t->n - first < AD_PANEL ? t->n - first : AD_PANEL;
        s->k->gemm[t->rows.type](panel, AD_PANEL, act_row(&s->out, form, i), s->out.stride[form], (const char *)t->rows.data + (size_t)(first / AD_PANEL) * t->rows.panel_bytes,
                                 t->rows.panel_bytes, 1, n, t->rows.cols, false);
        for (int j = at; j < first + n && j < last; j++) y[t->ids[j] - begin] = panel[j - first];
    }
}

/* ---- phases; each is entered by every member ---- */

static const ad_matrix *weight_of(const span *p, int module, const ad_matrix *w)
{
    const ad_matrix *merged = p->merged ? ad_merged_weight(p->merged, module) : NULL;
    if (merged) return merged;
    return p->own && p->own->modules[module].weight.data ? &p->own->modules[module].weight : w;
}

/* y = x W^T for columns [begin, end) (begin a multiple of 16); y begins at column `begin`; rows of each span with their own weights. */
static void multiply(const ad_scratch *s, const span *spans, int n_spans, float *y, size_t ldy, const act *x, int module, const ad_matrix *w, int begin, int end)
{
    for (const span *p = spans; p < spans + n_spans; p++) {
        const ad_matrix *own = weight_of(p, module, w);
        ad_act form = ad_act_of(own->type);
        s->k->gemm[own->type](y + (size_t)p->begin * ldy, ldy, act_row(x, form, p->begin), x->stride[form], (const char *)own->data + (size_t)(begin / AD_PANEL) * own->panel_bytes,
                              own->panel_bytes, p->end - p->begin, end - begin, own->cols, false);
    }
}

/* The same with corrections; with every panel the member asks for its share of what this phase reads of adapters (`total`: the columns
 * that all its calls multiply). 8 rows of 8 adapters on 2 Zen 4 cores: 4 % less time a step, 16 of 16: 5 %. */
static void linear(const ad_scratch *s, member *me, float *y, size_t ldy, const act *x, int module, const ad_matrix *w, int begin, int end, int total)
{
    int step = me->n_ranges && s->b->n_rows > 2 ? AD_PANEL : end - begin; /* a row or two wait for memory anyway */
    size_t share = me->n_ranges ? (me->fetch_bytes * (size_t)step / (size_t)total + 63) & ~(size_t)63 : 0;
    for (int c = begin; c < end; c += step) {
        fetch(me, share);
        multiply(s, s->spans, s->n_spans, y + (c - begin), ldy, x, module, w, c, c + step < end ? c + step : end);
    }
    expand(s, me, s->runs, s->n_runs, module, y, ldy, begin, end);
    scale_outputs(s, s->runs, s->n_runs, module, y, ldy, begin, end);
}

/* 1 / sqrt(mean of h^2 + eps) from the sums by block: four chains, then their sum. */
static float inverse_rms(const ad_scratch *s, int row)
{
    const float *q = s->squares + (size_t)row * (size_t)s->n_blocks;
    float sum[4] = {0};
    for (int i = 0; i < s->n_blocks; i++) sum[i & 3] += q[i];
    return 1.0f / sqrtf((sum[0] + sum[1] + (sum[2] + sum[3])) / (float)s->m->config.hidden + s->m->config.norm_eps);
}

/* Columns [begin, end) of the embedding of a row's token: trained by itself, or a row of the row's own matrix. */
static void read_embedding(const ad_model *m, const ad_scratch *s, int row, int begin, int end, float *h)
{
    int32_t token = s->b->tokens[row];
    const ad_parts *parts = row_parts(s, row);
    int at = parts ? find_token(&parts->embed, token) : 0;
    bool own = parts && at < parts->embed.n && parts->embed.ids[at] == token;
    span one = {row, row + 1, s->b->merged[row], parts};
    ad_matrix_read(own ? &parts->embed.rows : weight_of(&one, m->n_modules - 2, &m->embed), own ? at : token, begin, end, h);
}

static void embed_row(const ad_model *m, const ad_scratch *s, const member *me, int row, int begin, int end)
{
    const ad_step_batch *b = s->b;
    int module = m->n_modules - 2;
    float *h = s->h + (size_t)row * (size_t)m->config.hidden + begin;
    int32_t token = b->tokens[row];
    read_embedding(m, s, row, begin, end, h);
    for (int p = 0; b->mixes[row] && p < b->mixes[row]->n; p++) {
        const ad_lowrank_set *set = b->mixes[row]->sets[p];
        const ad_lowrank *low = &set->modules[module];
        if (!low->rank) continue;
        memset(me->sum, 0, (size_t)low->b.cols * sizeof *me->sum);
        for (int i = 0; i < low->rank; i++) {
            ad_matrix_read(&set->a[ad_model_group_of(m, module)], i, token, token + 1, &me->sum[i]);
            me->sum[i] *= low->scale * b->mixes[row]->weights[p];
        }
        char *t = me->t;
        if (set->type == AD_PACK_F32) memcpy(t, me->sum, (size_t)low->b.cols * sizeof *me->sum);
        else s->k->to_bf16((uint16_t *)(void *)t, me->sum, low->b.cols);
        s->k->gemm[set->type](h, 0, t, 0, (const char *)low->b.data + (size_t)(begin / AD_PANEL) * low->b.panel_bytes, low->b.panel_bytes, 1, end - begin, low->b.cols, true);
    }
    run one = {0, 1, b->mixes[row]};
    if (one.mix) scale_outputs(s, &one, 1, module, h, 0, begin, end);
}

/* Columns [begin, end) of h are complete: norm them for the next phase. Before that y (row stride ld_columns) and the biases of
 * `module` are added, unless y is NULL. */
static void norm_columns(const ad_scratch *s, const member *me, const float *y, int module, int norm, int begin, int end)
{
    size_t d = (size_t)s->m->config.hidden;
    for (int r = 0; r < s->b->n_rows; r++) {
        float *h = s->h + (size_t)r * d + begin;
        if (y) add_biases(s, h, h, 1, r, module, begin, end - begin);
        s->k->add_norm(me->x, h, y ? y + (size_t)r * s->ld_columns : NULL, norm_of(s, r, norm) + begin, s->squares + (size_t)r * (size_t)s->n_blocks + begin / AD_BLOCK, end - begin);
        put_act(s, &s->x, s->forms, r, me->x, begin, end);
    }
}

/* h += W x + B t + bias for this member's columns; then what the next phase reads of them: h by its norm, and t for the group of
 * modules that read it, -1 for none. */
static void residual(const ad_model *m, ad_scratch *s, int layer, int kind, const act *x, const float *in, int parts, float *out, int norm, int next_group, int index, int count)
{
    member *me = &s->members[index];
    const ad_linear *lin = &m->layers[layer].mod[kind];
    int module = layer * AD_MOD_PER_LAYER + kind, begin, end;
    ad_team_slice(m->config.hidden, grain_of(m->config.hidden), index, count, &begin, &end);
    start_plan(me);
    plan_phase(s, me, module, 1, begin, end, next_group, begin, end);
    gather(s, me, s->runs, s->n_runs, module, 1, in, parts);
    for (int c = begin; c < end; c += COLUMNS) {
        int stop = c + COLUMNS < end ? c + COLUMNS : end;
        linear(s, me, me->y, s->ld_columns, x, module, &lin->w, c, stop, end - begin);
        norm_columns(s, me, me->y, module, norm, c, stop);
    }
    if (next_group >= 0) shrink(s, s->runs, s->n_runs, next_group, &s->x, out, grain_of(m->config.hidden), begin, end);
}

static void embed(const ad_model *m, ad_scratch *s, int index, int count)
{
    const ad_step_batch *b = s->b;
    const member *me = &s->members[index];
    int half = m->config.head_dim / 2, begin, end;
    ad_team_slice(b->n_rows, 1, index, count, &begin, &end);
    for (int r = begin; r < end; r++)
        for (int i = 0; i < half; i++) {
            float angle = (float)b->positions[r] * m->inv_freq[i]; /* f32, as the models were trained */
            s->cosines[(size_t)r * (size_t)half + (size_t)i] = cosf(angle) * m->rope_magnitude;
            s->sines[(size_t)r * (size_t)half + (size_t)i] = sinf(angle) * m->rope_magnitude;
        }
    ad_team_slice(m->config.hidden, grain_of(m->config.hidden), index, count, &begin, &end);
    for (int r = 0; r < b->n_rows; r++) embed_row(m, s, me, r, begin, end);
    for (int c = begin; c < end; c += COLUMNS) norm_columns(s, me, NULL, 0, 0, c, c + COLUMNS < end ? c + COLUMNS : end);
    shrink(s, s->runs, s->n_runs, 0, &s->x, s->partial[0], grain_of(m->config.hidden), begin, end);
}

static void qkv(const ad_model *m, ad_scratch *s, int layer, int index, int count)
{
    const ad_model_config *c = &m->config;
    member *me = &s->members[index];
    int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, at[] = {0, q, q + kv}, out[] = {q, kv, kv}, module = layer * AD_MOD_PER_LAYER;
    int begin[3], end[3], total = 0;
    start_plan(me);
    for (int i = 0; i < 3; i++) {
        ad_team_slice(out[i], AD_PANEL, index, count, &begin[i], &end[i]);
        plan_phase(s, me, module + i, 1, begin[i], end[i], -1, 0, 0);
        total += end[i] - begin[i];
    }
    gather(s, me, s->runs, s->n_runs, module, 3, s->partial[0], parts_of(c->hidden));
    for (int i = 0; i < 3; i++) linear(s, me, s->qkv + at[i] + begin[i], s->ld_qkv, &s->x, module + i, &m->layers[layer].mod[i].w, begin[i], end[i], total);
}

/* ---- attention ---- */

static char *page_block(const ad_model *m, const ad_scratch *s, void *page, int layer, int value, int head)
{
    const ad_model_config *c = &m->config;
    size_t block = ((size_t)layer * 2 + (size_t)value) * (size_t)c->kv_heads + (size_t)head;
    return (char *)page + block * AD_KV_PAGE * (size_t)c->head_dim * number_bytes(s->kv);
}

/* One head of a projection, from column `at` on: scaled by the norm, its biases added, turned by RoPE when `turn`. */
static void finish_head(const ad_model *m, const ad_scratch *s, float *dst, const float *src, int module, int at, float inverse, int row, bool turn)
{
    int hd = m->config.head_dim, half = hd / 2;
    bool biased = add_biases(s, dst, src, inverse, row, module, at, hd);
    if (!turn && !biased) s->k->scale_add(dst, src, inverse, NULL, hd);
    if (turn) s->k->rope(dst, biased ? dst : src, biased ? 1 : inverse, s->cosines + (size_t)row * (size_t)half, s->sines + (size_t)row * (size_t)half, half);
}

/* The row's key and value of one kv head into its page; keys lie transposed there. */
static void store_kv(const ad_model *m, const ad_scratch *s, const member *me, int layer, int row, int head)
{
    const ad_model_config *c = &m->config;
    int hd = c->head_dim, q = c->heads * hd, kv = c->kv_heads * hd, pos = s->b->positions[row], slot = pos % AD_KV_PAGE, module = layer * AD_MOD_PER_LAYER;
    void *page = s->b->pages[row][pos / AD_KV_PAGE];
    const float *k = s->qkv + (size_t)row * s->ld_qkv + q + head * hd, *v = k + kv, inverse = inverse_rms(s, row);
    char *keys = page_block(m, s, page, layer, 0, head), *values = page_block(m, s, page, layer, 1, head) + (size_t)slot * (size_t)hd * number_bytes(s->kv);
    uint16_t *halves = (uint16_t *)(void *)me->o;
    finish_head(m, s, me->q, k, module + AD_MOD_K, head * hd, inverse, row, true);
    if (s->kv == AD_KV_F16) s->k->to_half(halves, me->q, hd);
    for (int d = 0; d < hd; d++) {
        if (s->kv == AD_KV_F16) ((uint16_t *)(void *)keys)[d * AD_KV_PAGE + slot] = halves[d];
        else ((float *)(void *)keys)[d * AD_KV_PAGE + slot] = me->q[d];
    }
    finish_head(m, s, me->q, v, module + AD_MOD_V, head * hd, inverse, row, false);
    if (s->kv == AD_KV_F16) s->k->to_half((uint16_t *)(void *)values, me->q, hd);
    else memcpy(values, me->q, (size_t)hd * sizeof *me->q);
}

/* Whether the columns of one kv head's queries are whole blocks, so that each can be quantised by itself. */
static bool heads_are_blocks(const ad_model *m)
{
    return m->config.heads / m->config.kv_heads * m->config.head_dim % AD_BLOCK == 0;
}

/* One tile for one kv head: its queries turned, its pages found, the result in place, and its part of t for o. */
static void attend(const ad_model *m, ad_scratch *s, const member *me, int layer, const tile *t, int head)
{
    const ad_model_config *c = &m->config;
    int hd = c->head_dim, group = c->heads / c->kv_heads, width = group * hd, first = head * width, n_ctx = s->b->positions[t->row] + 1;
    const void **keys = me->pages, **vals = keys + (s->context + AD_KV_PAGE - 1) / AD_KV_PAGE;
    unsigned forms = heads_are_blocks(m) ? s->forms : (s->forms & ~(1u << AD_ACT_INT8)) | 1u << AD_ACT_F32;
    for (int r = t->row; r < t->row + t->rows && !s->prompts; r++) store_kv(m, s, me, layer, r, head);
    for (int i = 0; i < t->rows; i++) {
        float inverse = inverse_rms(s, t->row + i);
        for (int g = 0; g < group; g++) {
            int at = first + g * hd;
            finish_head(m, s, me->q + i * width + g * hd, s->qkv + (size_t)(t->row + i) * s->ld_qkv + at, layer * AD_MOD_PER_LAYER + AD_MOD_Q, at, inverse, t->row + i, true);
        }
    }
    for (int p = 0; p * AD_KV_PAGE < n_ctx + t->rows - 1; p++) {
        keys[p] = page_block(m, s, s->b->pages[t->row][p], layer, 0, head);
        vals[p] = page_block(m, s, s->b->pages[t->row][p], layer, 1, head);
    }
    s->k->attend(me->o, me->q, (size_t)width, keys, vals, s->kv == AD_KV_F16, t->rows, n_ctx, group, hd, 1.0f / sqrtf((float)hd), me->scores);
    for (int i = 0; i < t->rows; i++) put_act(s, &s->att, forms, t->row + i, me->o + i * width, first, first + width);
    run own = {t->row, t->row + t->rows, s->b->mixes[t->row]};
    if (own.mix) shrink(s, &own, 1, 4 * layer + 1, &s->att, s->partial[1], width, first, first + width);
}

static void attention(const ad_model *m, ad_scratch *s, int layer, int index, int count)
{
    const member *me = &s->members[index];
    int kv_heads = m->config.kv_heads, units = s->n_tiles * kv_heads, begin, end;
    ad_team_slice(s->b->n_rows, 1, index, count, &begin, &end);
    if (s->prompts) {
        for (int r = begin; r < end; r++)
            for (int h = 0; h < kv_heads; h++) store_kv(m, s, me, layer, r, h);
        ad_team_barrier(s->team);
    }
    for (int u; (u = atomic_fetch_add_explicit(&s->next_unit[layer], 1, memory_order_relaxed)) < units;) attend(m, s, me, layer, &s->tiles[u / kv_heads], u % kv_heads);
    if (heads_are_blocks(m) || !(s->forms & 1u << AD_ACT_INT8)) return;
    ad_team_barrier(s->team);
    for (int r = begin; r < end; r++) s->k->quantise(act_row(&s->att, AD_ACT_INT8, r), (const float *)(const void *)act_row(&s->att, AD_ACT_F32, r), 0, s->att.cols, s->att.cols);
}

static void gate_up(const ad_model *m, ad_scratch *s, int layer, int index, int count)
{
    member *me = &s->members[index];
    const ad_linear *gate = &m->layers[layer].mod[AD_MOD_GATE], *up = &m->layers[layer].mod[AD_MOD_UP];
    int module = layer * AD_MOD_PER_LAYER + AD_MOD_GATE, begin, end;
    ad_team_slice(m->config.intermediate, grain_of(m->config.intermediate), index, count, &begin, &end);
    start_plan(me);
    plan_phase(s, me, module, 2, begin, end, 4 * layer + 3, begin, end);
    gather(s, me, s->runs, s->n_runs, module, 2, s->partial[0], parts_of(m->config.hidden));
    for (int r = 0; r < s->b->n_rows; r++) me->inverse[r] = inverse_rms(s, r);
    for (int c = begin; c < end; c += COLUMNS) {
        int stop = c + COLUMNS < end ? c + COLUMNS : end, n = stop - c;
        linear(s, me, me->y, s->ld_columns, &s->x, module, &gate->w, c, stop, 2 * (end - begin));
        linear(s, me, me->y2, s->ld_columns, &s->x, module + 1, &up->w, c, stop, 2 * (end - begin));
        for (int r = 0; r < s->b->n_rows; r++) {
            float *g = me->y + (size_t)r * s->ld_columns, *u = me->y2 + (size_t)r * s->ld_columns, by = me->inverse[r];
            bool g_biased = add_biases(s, g, g, by, r, module, c, n), u_biased = add_biases(s, u, u, by, r, module + 1, c, n);
            if (g_biased != u_biased) s->k->scale_add(g_biased ? u : g, g_biased ? u : g, by, NULL, n);
            if (g_biased || u_biased) by = 1;
            s->k->swiglu(g, g, u, by, n);
            put_act(s, &s->mlp, s->forms, r, g, c, stop);
        }
    }
    shrink(s, s->runs, s->n_runs, 4 * layer + 3, &s->mlp, s->partial[1], grain_of(m->config.intermediate), begin, end);
}

/* ---- behind the layers ---- */

/* x[hidden] = the row's hidden state behind the final norm. */
static void final_norm(const ad_model *m, const ad_scratch *s, int row, float *x)
{
    int d = m->config.hidden;
    s->k->add_norm(x, s->h + (size_t)row * (size_t)d, NULL, norm_of(s, row, 2 * m->config.layers), s->squares + (size_t)row * (size_t)s->n_blocks, d);
    s->k->scale_add(x, x, inverse_rms(s, row), NULL, d);
}

static void norm_states(const ad_model *m, const ad_scratch *s, int index, int count)
{
    int begin, end;
    ad_team_slice(s->b->n_states, 1, index, count, &begin, &end);
    for (int i = begin; i < end; i++) final_norm(m, s, s->b->state_rows[i], s->b->states + (size_t)i * (size_t)m->config.hidden);
}

/* Final norm of this member's outputs, and their t for an adapted head. */
static void norm_outputs(const ad_model *m, ad_scratch *s, int index, int count)
{
    const member *me = &s->members[index];
    int d = m->config.hidden, begin, end;
    ad_team_slice(s->b->n_out, 1, index, count, &begin, &end);
    for (int i = begin; i < end; i++) {
        final_norm(m, s, s->b->out_rows[i], me->x);
        put_act(s, &s->out, s->forms, i, me->x, 0, d);
    }
    for (const run *r = s->out_runs; r < s->out_runs + s->n_out_runs; r++) {
        run own = {r->begin > begin ? r->begin : begin, r->end < end ? r->end : end, r->mix};
        if (own.begin < own.end) shrink(s, &own, 1, ad_model_group_of(m, m->n_modules - 1), &s->out, s->partial[0], d, 0, d);
    }
}

/* What parts make of columns [begin, end) of the logits: replaced tokens before the corrections, factors and biases behind them. */
static void finish_logits(const ad_scratch *s, int module, int begin, int end, bool before)
{
    size_t v = (size_t)s->m->config.vocab;
    if (!before) scale_outputs(s, s->out_runs, s->n_out_runs, module, s->b->logits + begin, v, begin, end);
    for (int i = 0; s->extras && i < s->b->n_out; i++) {
        float *y = s->b->logits + (size_t)i * v + begin;
        int row = s->b->out_rows[i];
        const ad_parts *parts = row_parts(s, row);
        if (before && parts && parts->head.n) replace_logits(s, &parts->head, i, y, begin, end);
        if (!before) add_biases(s, y, y, 1, row, module, begin, end - begin);
    }
}

static void head(const ad_model *m, ad_scratch *s, int index, int count)
{
    const member *me = &s->members[index];
    int v = m->config.vocab, module = m->n_modules - 1, begin, end;
    norm_outputs(m, s, index, count);
    ad_team_barrier(s->team);
    ad_team_slice(v, AD_PANEL, index, count, &begin, &end);
    gather(s, me, s->out_runs, s->n_out_runs, module, 1, s->partial[0], 1);
    if (begin == end) return;
    multiply(s, s->out_spans, s->n_out_spans, s->b->logits + begin, (size_t)v, &s->out, module, &m->head.w, begin, end);
    finish_logits(s, module, begin, end, true);
    expand(s, me, s->out_runs, s->n_out_runs, module, s->b->logits + begin, (size_t)v, begin, end);
    finish_logits(s, module, begin, end, false);
}

void ad_decoder_step(const ad_model *m, ad_scratch *s, int index, int count)
{
    int layers = m->config.layers;
    embed(m, s, index, count);
    ad_team_barrier(s->team);
    for (int l = 0; l < layers; l++) {
        bool last = l + 1 == layers;
        qkv(m, s, l, index, count);
        ad_team_barrier(s->team);
        attention(m, s, l, index, count);
        ad_team_barrier(s->team);
        residual(m, s, l, AD_MOD_O, &s->att, s->partial[1], m->config.kv_heads, s->partial[0], 2 * l + 1, 4 * l + 2, index, count);
        ad_team_barrier(s->team);
        gate_up(m, s, l, index, count);
        ad_team_barrier(s->team);
        residual(m, s, l, AD_MOD_DOWN, &s->mlp, s->partial[1], parts_of(m->config.intermediate), s->partial[0], 2 * (l + 1), last ? -1 : 4 * (l + 1), index, count);
        ad_team_barrier(s->team);
    }
    norm_states(m, s, index, count);
    if (s->b->n_out) head(m, s, index, count);
}

/* ---- what a step consists of ---- */

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

/* Notes the rows whose adapter, merged or not, has more than pairs. */
static void find_extras(ad_scratch *s, const ad_step_batch *b)
{
    s->extras = false;
    for (int i = 0; i < b->n_rows; i++) {
        const ad_mix *mix = b->mixes[i] ? b->mixes[i] : b->merged[i] ? ad_merged_mix(b->merged[i]) : NULL;
        bool has = false;
        for (int p = 0; mix && p < mix->n; p++) {
            assert(!mix->sets[p]->alone || (mix->n == 1 && mix->weights[0] == 1));
            has |= mix->sets[p]->parts != NULL;
        }
        s->extra[i] = has ? mix : NULL;
        s->extras |= has;
    }
}

/* The row's parts when they replace a weight of the layers, or of the head. */
static const ad_parts *own_weights(const ad_scratch *s, int row, bool head)
{
    const ad_parts *parts = row_parts(s, row);
    bool has = parts && (head ? parts->modules[s->m->n_modules - 1].weight.data != NULL : parts->linears);
    return has ? parts : NULL;
}

/* Neighbours with the same weights; rows NULL: all rows, in the layers; else outputs, in the head. */
static int find_spans(span *spans, const ad_scratch *s, const ad_step_batch *b, const int *rows, int n)
{
    int n_spans = 0;
    for (int i = 0; i < n; i++) {
        int row = rows ? rows[i] : i;
        const ad_merged *merged = b->merged[row];
        const ad_parts *own = own_weights(s, row, rows != NULL);
        span *last = n_spans ? &spans[n_spans - 1] : NULL;
        if (last && last->merged == merged && last->own == own) last->end++;
        else spans[n_spans++] = (span){i, i + 1, merged, own};
    }
    return n_spans;
}

/* A sequence's rows stand side by side and share one page table. */
static void find_tiles(ad_scratch *s, const ad_step_batch *b)
{
    s->n_tiles = 0;
    s->prompts = false;
    for (int i = 0; i < b->n_rows; i++) {
        tile *last = s->n_tiles ? &s->tiles[s->n_tiles - 1] : NULL;
        bool same = last && b->pages[i] == b->pages[i - 1] && b->positions[i] == b->positions[i - 1] + 1;
        s->prompts |= same;
        if (same && last->rows < TILE_ROWS) last->rows++;
        else s->tiles[s->n_tiles++] = (tile){i, 1};
    }
}

void ad_model_step(const ad_model *m, ad_scratch *s, const ad_step_batch *batch)
{
    s->b = batch;
    s->n_runs = find_runs(s->runs, batch, NULL, batch->n_rows);
    s->n_out_runs = find_runs(s->out_runs, batch, batch->out_rows, batch->n_out);
    find_extras(s, batch);
    s->n_spans = find_spans(s->spans, s, batch, NULL, batch->n_rows);
    s->n_out_spans = find_spans(s->out_spans, s, batch, batch->out_rows, batch->n_out);
    find_tiles(s, batch);
    s->forms = m->forms | (s->n_runs || s->extras ? 1u << ad_act_of(ad_model_adapter_type(m)) : 0);
    for (int l = 0; l < m->config.layers; l++) atomic_store_explicit(&s->next_unit[l], 0, memory_order_relaxed);
    ad_team_run(s->team, step_on_team, s);
}
