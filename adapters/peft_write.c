/* SPDX-License-Identifier: MIT */
#include "adapters/peft_write.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/load.h"

enum { MAX_PATH = 4096 };

typedef struct {
    const ad_adapter *a;
    const ad_model *base;
    const ad_lowrank_set *set;
    int *order; /* adapted modules by name: the order of the file */
    int n;
    ad_buf head, data;
} writer;

/* ---- adapter_model.safetensors ---- */

static ad_status no_memory(const writer *w, ad_err *err)
{
    return ad_fail(err, AD_ENOMEM, "adapter %s: out of memory", ad_adapter_name(w->a));
}

static ad_status add_tensor(writer *w, int module, const char *part, const ad_matrix *m, int first, int rows, int cols, ad_err *err)
{
    size_t begin = w->data.len;
    float *row = ad_calloc((size_t)cols, sizeof *row);
    if (!row) return no_memory(w, err);
    for (int r = 0; r < rows; r++) {
        ad_matrix_read(m, first + r, 0, cols, row);
        ad_buf_append(&w->data, row, (size_t)cols * sizeof *row);
    }
    free(row);
    ad_buf_printf(&w->head, ",\"base_model.model.%s.%s\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}", ad_model_module(w->base, module)->name, part, rows,
                  cols, begin, w->data.len);
    return AD_OK;
}

static ad_status add_pair(writer *w, int module, ad_err *err)
{
    const ad_module *m = ad_model_module(w->base, module);
    const ad_lowrank *low = &w->set->modules[module];
    bool embed = m->kind == AD_MOD_EMBED;
    ad_status st = add_tensor(w, module, embed ? "lora_embedding_A" : "lora_A.weight", &w->set->a[ad_model_group_of(w->base, module)], low->at, low->rank, m->in, err);
    return st == AD_OK ? add_tensor(w, module, embed ? "lora_embedding_B" : "lora_B.weight", &low->b, 0, m->out, low->rank, err) : st;
}

static ad_status write_weights(writer *w, const char *dir, ad_err *err)
{
    char path[MAX_PATH + 64];
    ad_status st = AD_OK;
    uint64_t len;
    ad_buf_puts(&w->head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; st == AD_OK && i < w->n; i++) st = add_pair(w, w->order[i], err);
    ad_buf_puts(&w->head, "}");
    while (!w->head.failed && w->head.len % 8) ad_buf_puts(&w->head, " ");
    len = w->head.len;
    if (st == AD_OK && (w->head.failed || w->data.failed)) return no_memory(w, err);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    return st == AD_OK ? ad_write_parts(path, (ad_str[]){{(const char *)&len, sizeof len}, {w->head.data, w->head.len}, {w->data.data, w->data.len}}, 3, err) : st;
}

/* ---- adapter_config.json ---- */

/* The rank or alpha that most of the adapted modules have. */
static double most_frequent(const writer *w, double (*of)(const ad_lowrank *))
{
    double best = 0;
    int most = 0;
    for (int i = 0; i < w->n; i++) {
        double v = of(&w->set->modules[w->order[i]]);
        int count = 0;
        for (int k = i; k < w->n; k++) count += of(&w->set->modules[w->order[k]]) == v;
        if (count > most) most = count, best = v;
    }
    return best;
}

static double rank_of(const ad_lowrank *low) { return low->rank; }
static double alpha_of(const ad_lowrank *low) { return ad_write_alpha(low->scale, low->rank); }

static void set_number(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, v == rint(v) && fabs(v) < 1e9 ? json_integer((json_int_t)v) : json_real(v));
}

static json_t *patterns(const writer *w, double usual, double (*of)(const ad_lowrank *))
{
    json_t *o = json_object();
    for (int i = 0; i < w->n; i++) {
        double v = of(&w->set->modules[w->order[i]]);
        if (v != usual) set_number(o, ad_model_module(w->base, w->order[i])->name, v);
    }
    return o;
}

/* "q_proj" where every layer's is adapted, whole names elsewhere. */
static json_t *targets(const writer *w)
{
    json_t *list = json_array();
    int layers = ad_model_get_config(w->base)->layers;
    int counts[AD_MOD_KINDS] = {0}, named[AD_MOD_KINDS] = {0};
    for (int i = 0; i < w->n; i++) counts[ad_model_module(w->base, w->order[i])->kind]++;
    for (int i = 0; i < w->n; i++) {
        const ad_module *m = ad_model_module(w->base, w->order[i]);
        bool all = m->layer < 0 || counts[m->kind] == layers;
        if (all && named[m->kind]++) continue;
        json_array_append_new(list, json_string(all && strrchr(m->name, '.') ? strrchr(m->name, '.') + 1 : m->name));
    }
    return list;
}

static json_t *config_json(const writer *w)
{
    double rank = most_frequent(w, rank_of), alpha = most_frequent(w, alpha_of);
    json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:f, s:n, s:o, s:o, s:o}", "peft_type", "LORA", "task_type", "CAUSAL_LM", "bias", "none",
                          "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1,
                          "use_dora", 0, "use_rslora", 0, "lora_dropout", 0.0, "modules_to_save", "rank_pattern", patterns(w, rank, rank_of), "alpha_pattern",
                          patterns(w, alpha, alpha_of), "target_modules", targets(w));
    if (!o) return NULL;
    const char *trained_for = ad_adapter_base_name(w->a) ? ad_adapter_base_name(w->a) : ad_model_name(w->base);
    json_t *name = json_string(trained_for);
    json_object_set_new(o, "base_model_name_or_path", name ? name : json_null()); /* a GGUF file may say it in bytes that are no UTF-8 */
    set_number(o, "r", rank);
    set_number(o, "lora_alpha", alpha);
    return o;
}

static ad_status write_config(const writer *w, const char *dir, ad_err *err)
{
    char path[MAX_PATH + 64];
    json_t *o = config_json(w);
    char *text = o ? json_dumps(o, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    json_decref(o);
    if (!text) return no_memory(w, err);
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    ad_status st = ad_write_parts(path, (ad_str[]){{text, strlen(text)}, {"\n", 1}}, 2, err);
    free(text);
    return st;
}

/* ---- the directory ---- */

static ad_status order_modules(writer *w, ad_err *err)
{
    w->order = ad_calloc((size_t)w->set->n_modules, sizeof *w->order);
    if (!w->order) return no_memory(w, err);
    for (int i = 0; i < w->set->n_modules; i++) {
        if (!w->set->modules[i].rank) continue;
        int at = w->n++;
        for (; at > 0 && strcmp(ad_model_module(w->base, w->order[at - 1])->name, ad_model_module(w->base, i)->name) > 0; at--) w->order[at] = w->order[at - 1];
        w->order[at] = i;
    }
    return AD_OK;
}

ad_status ad_peft_write(const ad_adapter *a, const ad_model *base, const char *dir, ad_err *err)
{
    writer w = {.a = a, .base = base, .set = ad_adapter_lowrank(a)};
    if (w.set->parts) return ad_fail(err, AD_EUNSUPPORTED, "adapter %s has more than low-rank pairs; only pairs are converted", ad_adapter_name(a));
    if (strlen(dir) > MAX_PATH) return ad_fail(err, AD_EINVAL, "%.100s...: the path is too long", dir);
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) return ad_fail(err, errno == ENOSPC ? AD_EFULL : AD_EIO, "%s: %s", dir, strerror(errno));
    ad_status st = order_modules(&w, err);
    if (st == AD_OK) st = write_weights(&w, dir, err);
    if (st == AD_OK) st = write_config(&w, dir, err);
    ad_buf_deinit(&w.head), ad_buf_deinit(&w.data);
    free(w.order);
    return st;
}
