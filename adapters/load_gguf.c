/* SPDX-License-Identifier: MIT */
/* Reads a GGUF LoRA file by the rules of llama.cpp's reader, and stricter: metadata that is not understood is refused by name. Ranks and
 * modules are those of the tensors; one alpha serves them all. */
#include "adapters/load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = 1024 }; /* as in adapter_config.json */
static const size_t max_file = (size_t)4 << 30;

/* ---- metadata ---- */

static ad_status wrong(ad_loader *l, const char *what)
{
    return ad_fail(l->err, AD_EFORMAT, "%s: %s", l->label, what);
}

static ad_status check_text(ad_loader *l, const char *key, const char *want, ad_status status)
{
    ad_str s = {"", 0};
    if (!ad_gguf_str(l->gguf, key, &s)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is missing or not a string", l->label, key);
    if (ad_str_eq(s, want)) return AD_OK;
    return ad_fail(l->err, status, "%s: %s is \"%.*s\", not \"%s\"", l->label, key, s.len > 60 ? 60 : (int)s.len, s.ptr, want);
}

/* What the adapter means is under "adapter."; the rest describes the file. */
static ad_status check_keys(ad_loader *l)
{
    static const char *const known[] = {"adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix"};
    for (size_t i = 0; i < ad_gguf_key_count(l->gguf); i++) {
        ad_str key = ad_gguf_key_at(l->gguf, i);
        bool good = key.len < 8 || memcmp(key.ptr, "adapter.", 8) != 0;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) good = good || ad_str_eq(key, known[k]);
        if (good) continue;
        if (key.len > 14 && !memcmp(key.ptr, "adapter.alora.", 14))
            return ad_fail(l->err, AD_EUNSUPPORTED, "%s: %.*s: activated LoRA (aLoRA) is not supported", l->label, key.len > 80 ? 80 : (int)key.len, key.ptr);
        return ad_fail(l->err, AD_EUNSUPPORTED, "%s: what %.*s means for the adapter is not known", l->label, key.len > 80 ? 80 : (int)key.len, key.ptr);
    }
    return AD_OK;
}

static ad_status read_alpha(ad_loader *l, float *alpha)
{
    double v = 0;
    if (!ad_gguf_has(l->gguf, "adapter.lora.alpha")) {
        ad_buf b = {0};
        *alpha = 0;
        ad_buf_puts(&b, "the file has no adapter.lora.alpha: its products are not scaled");
        return ad_load_warn(l, &b);
    }
    if (!ad_gguf_float(l->gguf, "adapter.lora.alpha", &v) || !isfinite((float)v)) return wrong(l, "adapter.lora.alpha is not a finite number");
    *alpha = (float)v;
    return AD_OK;
}

static ad_status name_base(ad_loader *l)
{
    ad_str s = {NULL, 0};
    if (!ad_gguf_str(l->gguf, "general.base_model.0.name", &s) && !ad_gguf_str(l->gguf, "general.base_model.0.repo_url", &s)) return AD_OK;
    char name[256];
    snprintf(name, sizeof name, "%.*s", s.len > 255 ? 255 : (int)s.len, s.ptr);
    return *name ? ad_load_name_base(l, name) : AD_OK;
}

static ad_status read_metadata(ad_loader *l, float *alpha)
{
    l->arch = ad_model_gguf_arch(l->base);
    ad_status st = check_text(l, "general.type", "adapter", AD_EUNSUPPORTED);
    if (st == AD_OK) st = check_text(l, "general.architecture", l->arch, AD_EMISMATCH);
    if (st == AD_OK) st = check_text(l, "adapter.type", "lora", AD_EUNSUPPORTED);
    if (st == AD_OK) st = check_keys(l);
    if (st == AD_OK) st = read_alpha(l, alpha);
    return st == AD_OK ? name_base(l) : st;
}

/* ---- tensors ---- */

/* A matrix; writers may leave out leading dimensions of 1. */
static bool as_matrix(ad_tensor *t)
{
    int64_t rows = t->n_dims > 1 ? t->dims[t->n_dims - 2] : 1, cols = t->n_dims > 0 ? t->dims[t->n_dims - 1] : 1;
    for (int i = 0; i < t->n_dims - 2; i++)
        if (t->dims[i] != 1) return false;
    t->n_dims = 2;
    t->dims[0] = rows, t->dims[1] = cols;
    return true;
}

static bool ends_with(ad_str s, const char *end)
{
    size_t n = strlen(end);
    return s.len >= n && !memcmp(s.ptr + s.len - n, end, n);
}

/* Where tensor t of a pair belongs: in l->plain, two for each module. */
static ad_status sort_tensor(ad_loader *l, const ad_tensor *t, int *n_norms)
{
    ad_str s = {t->name, strlen(t->name)};
    bool is_a = ends_with(s, ".lora_a");
    if (!is_a && !ends_with(s, ".lora_b")) {
        if (!ends_with(s, "_norm.weight")) return ad_load_refuse(l, t, "is neither lora_a nor lora_b of a weight");
        ++*n_norms;
        return AD_OK;
    }
    s.len -= strlen(".lora_a");
    int module = ad_model_find_gguf(l->base, s);
    if (module < 0) return ad_load_refuse(l, t, "belongs to no weight of the base model that can be adapted");
    if (ad_model_module(l->base, module)->kind == AD_MOD_HEAD && ad_model_get_config(l->base)->tied_head)
        return ad_load_refuse(l, t, "adapts the head, but the base model's head is its embedding");
    if (!ad_dtype_is_weight(t->dtype)) return ad_load_refuse(l, t, "has a type that holds no weights");
    ad_tensor *plain = &l->plain[2 * module + !is_a];
    *plain = *t;
    if (!as_matrix(plain)) return ad_load_refuse(l, t, "has more than two dimensions");
    if (is_a) l->pairs[module].a = plain;
    else l->pairs[module].b = plain;
    return ad_load_take(l, ad_model_module(l->base, module)->name, is_a ? "lora_A" : "lora_B", t);
}

static ad_status read_tensors(ad_loader *l)
{
    ad_status st = AD_OK;
    int n_norms = 0;
    for (size_t i = 0; st == AD_OK && i < ad_gguf_tensor_count(l->gguf); i++) st = sort_tensor(l, ad_gguf_tensor_at(l->gguf, i), &n_norms);
    if (st != AD_OK || !n_norms) return st;
    ad_buf b = {0};
    ad_buf_printf(&b, "%d tensors of norms are ignored, as llama.cpp does: low-rank pairs are all that such a file can say", n_norms);
    return ad_load_warn(l, &b);
}

/* ---- pairs ---- */

static ad_status check_shape(ad_loader *l, const ad_tensor *t, int64_t rows, int64_t cols)
{
    if (t->dims[0] == rows && t->dims[1] == cols) return AD_OK;
    return ad_fail(l->err, AD_EMISMATCH, "%s: tensor \"%.80s\" has shape [%lld, %lld]; its pair and the base model ask for [%lld, %lld]", l->label, t->name,
                   (long long)t->dims[0], (long long)t->dims[1], (long long)rows, (long long)cols);
}

static ad_status plan_pair(ad_loader *l, int module, float alpha)
{
    const ad_module *m = ad_model_module(l->base, module);
    ad_load_pair *p = &l->pairs[module];
    if (!p->a || !p->b) return ad_load_refuse(l, p->a ? p->a : p->b, "stands alone: its other half is missing");
    int64_t rank = p->b->dims[1];
    if (rank < 1 || rank > MAX_RANK) return ad_load_refuse(l, p->b, "has a rank that is not from 1 to 1024");
    ad_status st = check_shape(l, p->b, m->out, rank);
    if (st == AD_OK) st = m->kind == AD_MOD_EMBED ? check_shape(l, p->a, m->in, rank) : check_shape(l, p->a, rank, m->in);
    if (st != AD_OK) return st;
    p->plan = (ad_peft_plan){.rank = (int)rank, .scale = alpha != 0 ? alpha / (float)rank : 1};
    st = ad_load_set(l, m->name, "rank", &p->plan.rank, sizeof p->plan.rank);
    return st == AD_OK ? ad_load_set(l, m->name, "scaling", &p->plan.scale, sizeof p->plan.scale) : st;
}

static ad_status plan_pairs(ad_loader *l, float alpha)
{
    ad_status st = AD_OK;
    int n = 0;
    for (int i = 0; st == AD_OK && i < l->n_modules; i++) {
        if (!l->pairs[i].a && !l->pairs[i].b) continue;
        st = plan_pair(l, i, alpha);
        n++;
    }
    l->adapter->n_matched = n;
    return st == AD_OK && !n ? wrong(l, "no tensor is a lora_a or lora_b") : st;
}

/* ---- the form that is packed ---- */

int ad_load_gguf_row(const ad_model *base, const ad_module *m, int row)
{
    int hd = ad_model_get_config(base)->head_dim, in_head = row % hd;
    if (m->kind != AD_MOD_Q && m->kind != AD_MOD_K) return row;
    return row - in_head + 2 * (in_head % (hd / 2)) + in_head / (hd / 2);
}

static size_t row_bytes(const ad_tensor *t)
{
    return (size_t)t->dims[1] / (size_t)ad_dtype_block(t->dtype) * ad_dtype_block_bytes(t->dtype);
}

/* Blocks become floats, the rows of B of q and k go to where Hugging Face has them, and A of the embedding is turned. */
static bool is_other_form(const ad_loader *l, int module, bool is_a)
{
    ad_module_kind kind = ad_model_module(l->base, module)->kind;
    const ad_tensor *t = &l->plain[2 * module + !is_a];
    return t->dtype > AD_BF16 || (is_a ? kind == AD_MOD_EMBED : kind == AD_MOD_Q || kind == AD_MOD_K);
}

static size_t plain_bytes(const ad_loader *l, int module, bool is_a)
{
    const ad_tensor *t = &l->plain[2 * module + !is_a];
    bool floats = t->dtype > AD_BF16 || (is_a && ad_model_module(l->base, module)->kind == AD_MOD_EMBED);
    return ((size_t)ad_tensor_count(t) * (floats ? sizeof(float) : ad_dtype_block_bytes(t->dtype)) + 63) & ~(size_t)63;
}

static void turn(ad_tensor *t, float *dst, float *row)
{
    int64_t n = t->dims[0], rank = t->dims[1];
    for (int64_t v = 0; v < n; v++) {
        ad_dequant_row(t->dtype, row, (const char *)t->data + (size_t)v * row_bytes(t), (size_t)rank);
        for (int64_t r = 0; r < rank; r++) dst[r * n + v] = row[r];
    }
    t->dims[0] = rank, t->dims[1] = n;
    t->dtype = AD_F32;
}

static void reorder(const ad_loader *l, const ad_module *m, ad_tensor *t, bool is_a, char *dst)
{
    size_t bytes = row_bytes(t), to = t->dtype > AD_BF16 ? (size_t)t->dims[1] * sizeof(float) : bytes;
    for (int row = 0; row < t->dims[0]; row++) {
        const char *src = (const char *)t->data + (size_t)(is_a ? row : ad_load_gguf_row(l->base, m, row)) * bytes;
        if (t->dtype > AD_BF16) ad_dequant_row(t->dtype, (float *)(void *)(dst + (size_t)row * to), src, (size_t)t->dims[1]);
        else memcpy(dst + (size_t)row * to, src, bytes);
    }
    if (t->dtype > AD_BF16) t->dtype = AD_F32;
}

static ad_status convert_all(ad_loader *l)
{
    size_t bytes = 0;
    float row[MAX_RANK];
    for (int i = 0; i < 2 * l->n_modules; i++)
        if (l->plain[i].data && is_other_form(l, i / 2, i % 2 == 0)) bytes += plain_bytes(l, i / 2, i % 2 == 0);
    if (!bytes) return AD_OK;
    char *next = l->converted = ad_arena_new(bytes);
    l->converted_bytes = bytes;
    if (!next) return ad_load_no_memory(l);
    for (int i = 0; i < 2 * l->n_modules; i++) {
        const ad_module *m = ad_model_module(l->base, i / 2);
        ad_tensor *t = &l->plain[i];
        bool is_a = i % 2 == 0;
        if (!t->data || !is_other_form(l, i / 2, is_a)) continue;
        size_t used = plain_bytes(l, i / 2, is_a);
        if (is_a && m->kind == AD_MOD_EMBED) turn(t, (float *)(void *)next, row);
        else reorder(l, m, t, is_a, next);
        t->data = next;
        next += used;
    }
    return AD_OK;
}

ad_status ad_load_gguf(ad_loader *l, const char *path)
{
    float alpha = 0;
    l->label = path;
    l->adapter->gguf = true;
    ad_status st = l->mapped ? ad_file_map(&l->bytes, path, l->err) : ad_file_read(&l->bytes, path, max_file, l->err);
    if (st == AD_OK) st = ad_gguf_parse(&l->gguf, l->bytes.data, l->bytes.len, path, l->err);
    if (st == AD_OK) l->label = ad_gguf_label(l->gguf); /* path goes before the load is over */
    if (st == AD_OK && !(l->plain = ad_calloc(2 * (size_t)l->n_modules, sizeof *l->plain))) st = ad_load_no_memory(l);
    if (st == AD_OK) st = read_metadata(l, &alpha);
    if (st == AD_OK) st = read_tensors(l);
    if (st == AD_OK) st = plan_pairs(l, alpha);
    return st == AD_OK ? convert_all(l) : st;
}
