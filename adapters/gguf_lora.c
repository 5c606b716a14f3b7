/* SPDX-License-Identifier: MIT */
#include "adapters/gguf_lora.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/load.h"

enum { ALIGNMENT = 32 };

/* ---- the format's little-endian pieces ---- */

static void put_u32(ad_buf *b, uint32_t v) { ad_buf_append(b, &v, sizeof v); }
static void put_u64(ad_buf *b, uint64_t v) { ad_buf_append(b, &v, sizeof v); }

static void put_string(ad_buf *b, const char *s)
{
    put_u64(b, strlen(s));
    ad_buf_puts(b, s);
}

static void put_string_key(ad_buf *b, const char *key, const char *value)
{
    put_string(b, key);
    put_u32(b, AD_GGUF_STRING);
    put_string(b, value);
}

static void pad(ad_buf *b)
{
    static const char zeros[ALIGNMENT];
    ad_buf_append(b, zeros, (ALIGNMENT - b->len % ALIGNMENT) % ALIGNMENT);
}

/* ---- one module's pair ---- */

typedef struct {
    const ad_adapter *a;
    const ad_model *base;
    float alpha;
    ad_buf infos, data; /* tensor descriptions; their values */
    int n_tensors;
} writer;

/* dims as GGUF counts them: the contiguous one first. */
static void add_tensor(writer *w, int module, const char *part, uint64_t contiguous, uint64_t rows)
{
    char name[128];
    size_t n = (size_t)ad_model_gguf_name(w->base, module, name, sizeof name);
    snprintf(name + n, sizeof name - n, ".%s", part);
    put_string(&w->infos, name);
    put_u32(&w->infos, 2);
    put_u64(&w->infos, contiguous);
    put_u64(&w->infos, rows);
    put_u32(&w->infos, 0); /* F32 */
    put_u64(&w->infos, w->data.len);
    w->n_tensors++;
}

/* The Hugging Face row that stands at `row` of the file: q and k interleave the halves of each head. */
static int source_row(const ad_model *base, const ad_module *m, int row)
{
    int hd = ad_model_get_config(base)->head_dim, in_head = row % hd;
    if (m->kind != AD_MOD_Q && m->kind != AD_MOD_K) return row;
    return row - in_head + in_head % 2 * (hd / 2) + in_head / 2;
}

/* Rows of A as they are, or for the embedding turned: one row of `rank` for each token. */
static ad_status add_a(writer *w, int module, ad_err *err)
{
    const ad_module *m = ad_model_module(w->base, module);
    const ad_lowrank_set *set = ad_adapter_lowrank(w->a);
    const ad_matrix *a = &set->a[ad_model_group_of(w->base, module)];
    size_t rank = (size_t)set->modules[module].rank, in = (size_t)m->in;
    float *rows = ad_calloc(rank * in, sizeof *rows), *column = ad_calloc(rank, sizeof *column);
    ad_status st = rows && column ? AD_OK : ad_fail(err, AD_ENOMEM, "adapter %s: out of memory", ad_adapter_name(w->a));
    for (size_t r = 0; st == AD_OK && r < rank; r++) ad_matrix_read(a, set->modules[module].at + (int)r, 0, m->in, rows + r * in);
    if (st == AD_OK && m->kind != AD_MOD_EMBED) {
        add_tensor(w, module, "lora_a", in, rank);
        ad_buf_append(&w->data, rows, rank * in * sizeof *rows);
    } else if (st == AD_OK) {
        add_tensor(w, module, "lora_a", rank, in);
        for (size_t v = 0; v < in; v++) {
            for (size_t r = 0; r < rank; r++) column[r] = rows[r * in + v];
            ad_buf_append(&w->data, column, rank * sizeof *column);
        }
    }
    pad(&w->data);
    free(rows), free(column);
    return st;
}

/* A quotient of 1 that rounding hid is 1: values stay what they are. */
static float factor(const ad_lowrank *low, float alpha)
{
    float by = low->scale * (float)low->rank / alpha;
    return fabsf(by - 1) < 4 * FLT_EPSILON ? 1 : by;
}

static ad_status add_b(writer *w, int module, ad_err *err)
{
    const ad_module *m = ad_model_module(w->base, module);
    const ad_lowrank *low = &ad_adapter_lowrank(w->a)->modules[module];
    float *row = ad_calloc((size_t)low->rank, sizeof *row), by = factor(low, w->alpha);
    if (!row) return ad_fail(err, AD_ENOMEM, "adapter %s: out of memory", ad_adapter_name(w->a));
    add_tensor(w, module, "lora_b", (uint64_t)low->rank, (uint64_t)m->out);
    for (int r = 0; r < m->out; r++) {
        ad_matrix_read(&low->b, source_row(w->base, m, r), 0, low->rank, row);
        for (int i = 0; i < low->rank; i++) row[i] *= by;
        ad_buf_append(&w->data, row, (size_t)low->rank * sizeof *row);
    }
    pad(&w->data);
    free(row);
    return AD_OK;
}

static ad_status add_pair(writer *w, int module, ad_err *err)
{
    if (ad_model_module(w->base, module)->kind == AD_MOD_HEAD && ad_model_get_config(w->base)->tied_head)
        return ad_fail(err, AD_EUNSUPPORTED, "adapter %s adapts lm_head of a model whose head is its embedding, which a GGUF LoRA file cannot say", ad_adapter_name(w->a));
    ad_status st = add_a(w, module, err);
    return st == AD_OK ? add_b(w, module, err) : st;
}

/* ---- the file ---- */

/* The first module's; 0 would mean that nothing is scaled. */
static float alpha_of(const ad_lowrank_set *set)
{
    for (int i = 0; i < set->n_modules; i++)
        if (set->modules[i].rank && set->modules[i].scale != 0) return (float)ad_write_alpha(set->modules[i].scale, set->modules[i].rank);
    return 1;
}

static void put_head(writer *w, ad_buf *head)
{
    const char *trained_for = ad_adapter_base_name(w->a) ? ad_adapter_base_name(w->a) : ad_model_name(w->base);
    ad_buf_append(head, "GGUF", 4);
    put_u32(head, 3);
    put_u64(head, (uint64_t)w->n_tensors);
    put_u64(head, 7);
    put_string_key(head, "general.architecture", ad_model_gguf_arch(w->base));
    put_string_key(head, "general.type", "adapter");
    put_string_key(head, "general.name", ad_adapter_name(w->a));
    put_string(head, "general.base_model.count");
    put_u32(head, AD_GGUF_U32);
    put_u32(head, 1);
    put_string_key(head, "general.base_model.0.name", trained_for);
    put_string_key(head, "adapter.type", "lora");
    put_string(head, "adapter.lora.alpha");
    put_u32(head, AD_GGUF_F32);
    ad_buf_append(head, &w->alpha, sizeof w->alpha);
    ad_buf_append(head, w->infos.data, w->infos.len);
    pad(head);
}

ad_status ad_gguf_lora_write(const ad_adapter *a, const ad_model *base, const char *path, ad_err *err)
{
    const ad_lowrank_set *set = ad_adapter_lowrank(a);
    writer w = {.a = a, .base = base, .alpha = alpha_of(set)};
    ad_buf head = {0};
    if (set->parts) return ad_fail(err, AD_EUNSUPPORTED, "adapter %s has more than low-rank pairs, which a GGUF LoRA file cannot say", ad_adapter_name(a));
    ad_status st = AD_OK;
    for (int i = 0; i < set->n_modules && st == AD_OK; i++)
        if (set->modules[i].rank) st = add_pair(&w, i, err);
    if (st == AD_OK) put_head(&w, &head);
    if (st == AD_OK && (head.failed || w.infos.failed || w.data.failed)) st = ad_fail(err, AD_ENOMEM, "adapter %s: out of memory", ad_adapter_name(a));
    if (st == AD_OK) st = ad_write_parts(path, (ad_str[]){{head.data, head.len}, {w.data.data, w.data.len}}, 2, err);
    ad_buf_deinit(&head), ad_buf_deinit(&w.infos), ad_buf_deinit(&w.data);
    return st;
}
