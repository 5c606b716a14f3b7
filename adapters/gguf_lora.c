/* SPDX-License-Identifier: MIT */
#include "adapters/gguf_lora.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/formats/gguf.h"

enum { ALIGNMENT = 32, MAX_PATH = 4096 };

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

static ad_status add_pair(writer *w, int module, ad_err *err)
{
    const ad_module *m = ad_model_module(w->base, module);
    const ad_lowrank_set *set = ad_adapter_lowrank(w->a);
    const ad_lowrank *low = &set->modules[module];
    int widest = m->in > low->rank ? m->in : low->rank;
    if (m->kind >= AD_MOD_EMBED) return ad_fail(err, AD_EUNSUPPORTED, "adapter %s adapts %s, which a GGUF LoRA file cannot say", ad_adapter_name(w->a), m->name);
    float *row = ad_calloc((size_t)widest, sizeof *row), by = low->scale * (float)low->rank / w->alpha;
    if (!row) return ad_fail(err, AD_ENOMEM, "adapter %s: out of memory", ad_adapter_name(w->a));
    add_tensor(w, module, "lora_a", (uint64_t)m->in, (uint64_t)low->rank);
    for (int r = 0; r < low->rank; r++) {
        ad_matrix_read(&set->a[ad_model_group_of(w->base, module)], low->at + r, 0, m->in, row);
        ad_buf_append(&w->data, row, (size_t)m->in * sizeof *row);
    }
    pad(&w->data);
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

/* ---- the file ---- */

static ad_status save(const ad_buf *head, const ad_buf *data, const char *path, ad_err *err)
{
    char part[MAX_PATH + 8];
    if (strlen(path) > MAX_PATH) return ad_fail(err, AD_EINVAL, "%.100s...: the path is too long", path);
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "wb");
    if (!f) return ad_fail(err, AD_EIO, "%s: %s", part, strerror(errno));
    bool good = fwrite(head->data, 1, head->len, f) == head->len && fwrite(data->data, 1, data->len, f) == data->len;
    good = fclose(f) == 0 && good;
    if (good && rename(part, path) == 0) return AD_OK;
    ad_status st = ad_fail(err, AD_EIO, "%s: %s", path, strerror(errno));
    unlink(part);
    return st;
}

static float alpha_of(const ad_lowrank_set *set)
{
    for (int i = 0; i < set->n_modules; i++)
        if (set->modules[i].rank && set->modules[i].scale != 0) return set->modules[i].scale * (float)set->modules[i].rank;
    return 1;
}

ad_status ad_gguf_lora_write(const ad_adapter *a, const ad_model *base, const char *path, ad_err *err)
{
    const ad_lowrank_set *set = ad_adapter_lowrank(a);
    writer w = {.a = a, .base = base, .alpha = alpha_of(set)};
    ad_buf head = {0};
    ad_status st = AD_OK;
    for (int i = 0; i < set->n_modules && st == AD_OK; i++)
        if (set->modules[i].rank) st = add_pair(&w, i, err);
    ad_buf_append(&head, "GGUF", 4);
    put_u32(&head, 3);
    put_u64(&head, (uint64_t)w.n_tensors);
    put_u64(&head, 5);
    put_string_key(&head, "general.architecture", "llama");
    put_string_key(&head, "general.type", "adapter");
    put_string_key(&head, "general.name", ad_adapter_name(a));
    put_string_key(&head, "adapter.type", "lora");
    put_string(&head, "adapter.lora.alpha");
    put_u32(&head, AD_GGUF_F32);
    ad_buf_append(&head, &w.alpha, sizeof w.alpha);
    ad_buf_append(&head, w.infos.data, w.infos.len);
    pad(&head);
    if (st == AD_OK && (head.failed || w.infos.failed || w.data.failed)) st = ad_fail(err, AD_ENOMEM, "adapter %s: out of memory", ad_adapter_name(a));
    if (st == AD_OK) st = save(&head, &w.data, path, err);
    ad_buf_deinit(&head), ad_buf_deinit(&w.infos), ad_buf_deinit(&w.data);
    return st;
}
