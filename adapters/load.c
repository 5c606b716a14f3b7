/* SPDX-License-Identifier: MIT */
/* Reads a PEFT directory: the configuration says which modules have which rank, every tensor must be one of theirs, and
 * all of them must be there. */
#include "adapters/load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/methods/extras.h"
#include "core/base/file.h"

enum { COMPARE_ROWS = 64 };
static const size_t max_config = 1u << 20, max_weights = (size_t)4 << 30;

/* ---- what the configuration asks for ---- */

static ad_status plan_modules(ad_loader *l, ad_peft *config)
{
    int n = 0;
    for (int i = 0; i < l->n_modules; i++) {
        const ad_module *m = ad_model_module(l->base, i);
        ad_peft_plan *plan = &l->pairs[i].plan;
        ad_status st = ad_peft_plan_module(config, m, plan, l->err);
        if (st != AD_OK) return st;
        if (!plan->rank) continue;
        st = ad_load_set(l, m->name, "rank", &plan->rank, sizeof plan->rank);
        if (st == AD_OK) st = ad_load_set(l, m->name, "scaling", &plan->scale, sizeof plan->scale);
        if (st != AD_OK) return st;
        n++;
    }
    l->adapter->n_matched = n;
    if (!n) return ad_fail(l->err, AD_EMISMATCH, "%s: target_modules selects no module of the base model", l->adapter->dir);
    return AD_OK;
}

static ad_status note_oddities(ad_loader *l, const ad_peft *config)
{
    const char *name;
    for (int i = 0; (name = ad_peft_idle_target(config, i)); i++) {
        ad_buf b = {0};
        ad_buf_printf(&b, "target module \"%.80s\" selects no module of the base model", name);
        ad_status st = ad_load_warn(l, &b);
        if (st != AD_OK) return st;
    }
    if (!ad_peft_fan_in_fan_out(config)) return AD_OK;
    ad_buf b = {0};
    ad_buf_puts(&b, "fan_in_fan_out is ignored: the base model has linear layers only");
    return ad_load_warn(l, &b);
}

ad_status ad_load_peft_config(ad_loader *l)
{
    char path[4200];
    ad_file f = {0};
    ad_peft *config = NULL;
    snprintf(path, sizeof path, "%s/adapter_config.json", l->adapter->dir);
    ad_status st = ad_file_read(&f, path, max_config, l->err);
    if (st != AD_OK) return st;
    st = ad_peft_parse(&config, f.data ? f.data : "", f.len, path, l->err);
    if (st == AD_OK) st = plan_modules(l, config);
    if (st == AD_OK) st = ad_extras_plan(l, config);
    if (st == AD_OK) st = note_oddities(l, config);
    if (st == AD_OK) st = ad_load_name_base(l, ad_peft_base_model(config));
    ad_peft_free(&config);
    ad_file_close(&f);
    return st;
}

/* ---- names of tensors ---- */

typedef enum { PART_A, PART_B, PART_MAGNITUDE, PART_ADDED, PART_TOKENS, PART_COPY, PART_WEIGHT, PART_BIAS, PART_OTHER } part_kind;

static bool cut_prefix(ad_str *s, const char *prefix)
{
    size_t n = strlen(prefix);
    if (s->len < n || memcmp(s->ptr, prefix, n)) return false;
    *s = (ad_str){s->ptr + n, s->len - n};
    return true;
}

static bool cut_suffix(ad_str *s, const char *suffix)
{
    size_t n = strlen(suffix);
    if (s->len < n || memcmp(s->ptr + s->len - n, suffix, n)) return false;
    s->len -= n;
    return true;
}

/* "X.lora_A.weight", also with the adapter's name in it: "X.lora_A.default.weight". */
static bool cut_part(ad_str *s, const char *part, const char *tail)
{
    ad_str t = *s;
    if (!cut_suffix(&t, tail)) return false;
    if (!cut_suffix(&t, part)) {
        const char *dot = memrchr(t.ptr, '.', t.len);
        if (!dot) return false;
        t.len = (size_t)(dot - t.ptr);
        if (!cut_suffix(&t, part)) return false;
    }
    *s = t;
    return true;
}

static part_kind cut_kind(ad_str *s, bool *embedding)
{
    *embedding = false;
    if (cut_part(s, ".lora_A", ".weight")) return PART_A;
    if (cut_part(s, ".lora_B", ".weight")) return PART_B;
    if (cut_part(s, ".lora_B", ".bias")) return PART_ADDED;
    if (cut_part(s, ".lora_magnitude_vector", "") || cut_part(s, ".lora_magnitude_vector", ".weight")) return PART_MAGNITUDE;
    if (cut_part(s, ".token_adapter.trainable_tokens_delta", "")) return PART_TOKENS;
    *embedding = true;
    if (cut_part(s, ".lora_embedding_A", "")) return PART_A;
    if (cut_part(s, ".lora_embedding_B", "")) return PART_B;
    if (cut_suffix(s, ".token_adapter.base_layer.weight") || cut_suffix(s, ".base_layer.weight")) return PART_COPY;
    if (cut_suffix(s, ".weight")) return PART_WEIGHT;
    return cut_suffix(s, ".base_layer.bias") || cut_suffix(s, ".bias") ? PART_BIAS : PART_OTHER;
}

/* A module, or a norm as n_modules + its index; -1: neither. */
static int find_exact(const ad_loader *l, const char *prefix, ad_str s)
{
    char name[64];
    if (snprintf(name, sizeof name, "%s%.*s", prefix, (int)s.len, s.ptr) >= (int)sizeof name) return -1;
    int module = ad_model_find_module(l->base, name), norm = module < 0 ? ad_extras_find_norm(l, name) : -1;
    return norm < 0 ? module : l->n_modules + norm;
}

/* The same module has other paths in other model classes. */
static int find_module(const ad_loader *l, ad_str s)
{
    static const char *const classes[] = {"", "model.language_model.", "language_model.model.", "language_model."};
    if (s.len >= 64) return -1;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        ad_str rest = s;
        if (!cut_prefix(&rest, classes[i])) continue;
        int module = find_exact(l, "", rest);
        if (module < 0) module = find_exact(l, "model.", rest);
        if (module >= 0) return module;
    }
    return -1;
}

/* ---- tensors ---- */

ad_status ad_load_check_shape(ad_loader *l, const ad_tensor *t, int64_t rows, int64_t cols)
{
    if (t->dtype > AD_BF16) return ad_fail(l->err, AD_EUNSUPPORTED, "%s: tensor \"%.160s\" is %s; F32, F16 and BF16 are supported", l->label, t->name, ad_dtype_name(t->dtype));
    if (t->n_dims == (cols ? 2 : 1) && t->dims[0] == rows && (!cols || t->dims[1] == cols)) return AD_OK;
    char shape[128] = "", wanted[64];
    for (int i = 0, at = 0; i < t->n_dims && at < (int)sizeof shape - 24; i++) at += snprintf(shape + at, sizeof shape - (size_t)at, "%s%lld", i ? ", " : "", (long long)t->dims[i]);
    if (cols) snprintf(wanted, sizeof wanted, "[%lld, %lld]", (long long)rows, (long long)cols);
    else snprintf(wanted, sizeof wanted, "[%lld]", (long long)rows);
    return ad_fail(l->err, AD_EMISMATCH, "%s: tensor \"%.160s\" has shape [%s]; the configuration and the base model ask for %s", l->label, t->name, shape, wanted);
}

/* A copy of the base's weight may come along; it must be this base's. Distances within what either side's
 * number format rounds away are equal. */
static ad_status compare_copy(ad_loader *l, const ad_tensor *t, int module)
{
    const ad_module *m = ad_model_module(l->base, module);
    int rows = m->kind == AD_MOD_EMBED ? m->in : m->out, cols = m->kind == AD_MOD_EMBED ? m->out : m->in;
    ad_status st = ad_load_check_shape(l, t, rows, cols);
    if (st != AD_OK) return st;
    size_t n = (size_t)COMPARE_ROWS * (size_t)cols, row_bytes = (size_t)cols * ad_dtype_block_bytes(t->dtype);
    float *buf = ad_calloc(4 * n, sizeof *buf), *base = buf, *slack = buf + n, *copy = buf + 2 * n, *rounding = buf + 3 * n;
    if (!buf) return ad_load_no_memory(l);
    for (int row = 0, now; st == AD_OK && row < rows; row += now) {
        now = rows - row < COMPARE_ROWS ? rows - row : COMPARE_ROWS;
        const char *src = (const char *)t->data + (size_t)row * row_bytes;
        n = (size_t)now * (size_t)cols;
        ad_model_read_rows(l->base, module, row, now, base, slack);
        ad_dequant_row(t->dtype, copy, src, n);
        ad_dequant_error(t->dtype, rounding, src, n);
        for (size_t i = 0; st == AD_OK && i < n; i++)
            if (!(fabsf(copy[i] - base[i]) <= slack[i] + rounding[i])) st = ad_load_refuse(l, t, "is a copy of a base weight that differs from this base model's: the adapter was trained on another");
    }
    free(buf);
    if (st != AD_OK) return st;
    ad_buf b = {0};
    ad_buf_printf(&b, "tensor \"%.160s\" equals the base model's weight and is ignored", t->name);
    return ad_load_warn(l, &b);
}

/* Tensors that belong to no pair of A and B. */
static ad_status take_extra(ad_loader *l, const ad_tensor *t, part_kind kind, int module)
{
    switch (kind) {
    case PART_MAGNITUDE: return ad_dora_take(l, module, t);
    case PART_ADDED: return ad_dora_take_bias(l, module, t);
    case PART_TOKENS: return ad_tokens_take(l, module, t);
    case PART_BIAS: return ad_saved_take_bias(l, module, t);
    case PART_WEIGHT:
        if (l->extras->modules[module].saved) return ad_saved_take_weight(l, module, t);
        /* fall through */
    default: return compare_copy(l, t, module);
    }
}

static ad_status sort_tensor(ad_loader *l, const ad_tensor *t)
{
    ad_str s = {t->name, strlen(t->name)};
    bool embedding;
    cut_prefix(&s, "base_model.model.");
    part_kind kind = cut_kind(&s, &embedding);
    if (kind == PART_OTHER) return ad_load_refuse(l, t, "is nothing that is known of a LoRA adapter");
    if (l->arriving && kind > PART_B) return ad_fail(l->err, AD_EUNSUPPORTED, "%s: tensor \"%.160s\" is of no pair", l->label, t->name);
    int module = find_module(l, s);
    if (module >= l->n_modules && kind == PART_WEIGHT) return ad_saved_take_norm(l, module - l->n_modules, t);
    if (module < 0 || module >= l->n_modules) return ad_load_refuse(l, t, "belongs to no module of the base model that can be adapted");
    if (kind > PART_B) return take_extra(l, t, kind, module);
    const ad_module *m = ad_model_module(l->base, module);
    if (embedding != (m->kind == AD_MOD_EMBED)) return ad_load_refuse(l, t, "does not have the form of its module (linear or embedding)");
    ad_load_pair *p = &l->pairs[module];
    if (!p->plan.rank) return ad_load_refuse(l, t, "belongs to a module that the configuration does not target");
    const ad_tensor **slot = kind == PART_A ? &p->a : &p->b;
    if (*slot) return ad_load_refuse(l, t, "is there twice, under two names");
    *slot = t;
    ad_status st = kind == PART_A ? ad_load_check_shape(l, t, p->plan.rank, m->in) : ad_load_check_shape(l, t, m->out, p->plan.rank);
    return st == AD_OK ? ad_load_take(l, m->name, kind == PART_A ? "lora_A" : "lora_B", t) : st;
}

static ad_status check_pair(ad_loader *l, int module)
{
    const ad_load_pair *p = &l->pairs[module];
    if (!p->plan.rank || (p->a && p->b)) return AD_OK;
    return ad_fail(l->err, AD_EMISMATCH, "%s: the configuration targets \"%s\", but the file has no %s for it", l->label, ad_model_module(l->base, module)->name,
                   p->a ? "lora_B" : p->b ? "lora_A" : "pair");
}

static ad_status check_complete(ad_loader *l)
{
    ad_status st = AD_OK;
    for (int i = 0; i < l->n_modules && st == AD_OK; i++) st = check_pair(l, i);
    return st == AD_OK ? ad_extras_check(l) : st;
}

static ad_status open_weights(ad_loader *l)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", l->adapter->dir);
    if (stat(path, &st) == 0) {
        ad_status rc = l->mapped ? ad_safetensors_open(&l->file, path, l->err) : ad_safetensors_read(&l->file, path, max_weights, l->err);
        if (rc == AD_OK) l->label = ad_safetensors_label(l->file);
        return rc;
    }
    char pickle[4200];
    snprintf(pickle, sizeof pickle, "%s/adapter_model.bin", l->adapter->dir);
    if (stat(pickle, &st) == 0)
        return ad_fail(l->err, AD_EUNSUPPORTED, "%s is a pickle file, which could run code when read; save the adapter as adapter_model.safetensors", pickle);
    return ad_fail(l->err, AD_EIO, "%s: no such file", path);
}

ad_status ad_load_peft_tensors(ad_loader *l)
{
    ad_status st = AD_OK;
    size_t n = ad_safetensors_count(l->file);
    for (size_t i = 0; st == AD_OK && i < n; i++) st = sort_tensor(l, ad_safetensors_at(l->file, i));
    return st == AD_OK ? check_complete(l) : st;
}

ad_status ad_load_peft(ad_loader *l)
{
    ad_status st = ad_load_peft_config(l);
    if (st == AD_OK) st = open_weights(l);
    return st == AD_OK ? ad_load_peft_tensors(l) : st;
}

void ad_load_peft_reasons(ad_loader *l, bool (*wrong)(void *user), void *user)
{
    ad_status st = ad_load_peft_config(l);
    if (st == AD_OK) st = open_weights(l);
    if (st != AD_OK) {
        wrong(user);
        return;
    }
    bool whole = true;
    for (size_t i = 0; i < ad_safetensors_count(l->file); i++)
        if (sort_tensor(l, ad_safetensors_at(l->file, i)) != AD_OK && !wrong(user)) return;
    for (int i = 0; i < l->n_modules; i++) {
        if (check_pair(l, i) == AD_OK) continue;
        whole = false;
        if (!wrong(user)) return;
    }
    if (whole && ad_extras_check(l) != AD_OK) wrong(user);
}
