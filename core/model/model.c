/* SPDX-License-Identifier: MIT */
/* Loads a base model: picks its family, finds and checks every tensor, converts to f32 what cannot be used
 * in place. Loading runs on one thread; the loaded model is immutable. */
#include "core/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/team.h"
#include "core/model/family.h"

static const ad_family *const families[] = {&ad_family_llama};
enum { N_FAMILIES = sizeof families / sizeof *families };

static bool listed(const char *const *names, ad_str s)
{
    for (; *names; names++)
        if (ad_str_eq(s, *names)) return true;
    return false;
}

static ad_status pick_family(ad_model *m, ad_err *err)
{
    const ad_gguf *g = ad_source_gguf(m->src);
    ad_str type = {NULL, 0};
    if (g) {
        if (!ad_gguf_str(g, "general.architecture", &type))
            return ad_fail(err, AD_EFORMAT, "%s: no general.architecture", m->path);
    } else {
        const char *s = json_string_value(json_object_get(ad_source_config(m->src), "model_type"));
        if (!s) return ad_fail(err, AD_EFORMAT, "%s/config.json: no model_type", m->path);
        type = (ad_str){s, strlen(s)};
    }
    for (int i = 0; i < N_FAMILIES; i++) {
        if (!listed(g ? families[i]->gguf_archs : families[i]->hf_types, type)) continue;
        m->family = families[i];
        return AD_OK;
    }
    return ad_fail(err, AD_EUNSUPPORTED, "%s: model family \"%.*s\" is not supported (llama, mistral)", m->path,
                   (int)(type.len > 60 ? 60 : type.len), type.ptr);
}

ad_status ad_model_want(ad_model *m, const char *name, const float **slot, int rows, int cols, int permuted_heads, int module,
                        bool optional, ad_err *err)
{
    const ad_tensor *t = ad_source_tensor(m->src, name);
    *slot = NULL;
    if (!t && optional) return AD_OK;
    if (!t) return ad_fail(err, AD_EFORMAT, "%s: tensor %s is missing", m->path, name);
    if (!ad_dtype_is_weight(t->dtype))
        return ad_fail(err, AD_EUNSUPPORTED, "%s: tensor %s has type %s, which is not a weight format we read", m->path, name, ad_dtype_name(t->dtype));
    int want_dims = cols ? 2 : 1;
    if (t->n_dims != want_dims || t->dims[0] != rows || (cols && t->dims[1] != cols)) {
        char want[40];
        if (cols) snprintf(want, sizeof want, "[%d, %d]", rows, cols);
        else snprintf(want, sizeof want, "[%d]", rows);
        return ad_fail(err, AD_EFORMAT, "%s: tensor %s has shape [%lld, %lld]%s, expected %s", m->path, name,
                       t->n_dims > 0 ? (long long)t->dims[0] : 1, t->n_dims > 1 ? (long long)t->dims[1] : 1,
                       t->n_dims > 2 ? " and more" : "", want);
    }
    int row_len = cols ? cols : rows;
    if (row_len % ad_dtype_block(t->dtype))
        return ad_fail(err, AD_EFORMAT, "%s: tensor %s: rows of %d are not whole %s blocks", m->path, name, row_len, ad_dtype_name(t->dtype));
    if (permuted_heads && !cols && t->dtype != AD_F32 && t->dtype != AD_F16 && t->dtype != AD_BF16)
        return ad_fail(err, AD_EUNSUPPORTED, "%s: tensor %s: a quantised bias", m->path, name);
    ad_status st = ad_grow(&m->wants, &m->cap_wants, m->n_wants + 1, sizeof *m->wants);
    if (st != AD_OK) return ad_fail(err, st, "%s: out of memory", m->path);
    if (module >= 0) m->module_want[module] = (int)m->n_wants;
    m->wants[m->n_wants++] = (ad_want){t, slot, cols ? rows : 1, cols ? cols : rows, permuted_heads, module};
    return AD_OK;
}

/* A tensor the graph does not use would mean another graph: refuse rather than answer wrongly. */
static ad_status check_unused(ad_model *m, ad_err *err)
{
    for (size_t i = 0, n = ad_source_count(m->src); i < n; i++) {
        const ad_tensor *t = ad_source_at(m->src, i);
        bool used = false;
        for (size_t w = 0; w < m->n_wants && !used; w++) used = m->wants[w].src == t;
        if (used || strstr(t->name, "rotary_emb.inv_freq") || !strcmp(t->name, "rope_freqs.weight")) continue;
        if (m->config.tied_head && !strcmp(t->name, "lm_head.weight")) continue;
        return ad_fail(err, AD_EUNSUPPORTED, "%s: tensor %.100s is not part of a %s model", m->path, t->name, m->family->name);
    }
    return AD_OK;
}

static bool usable_in_place(const ad_want *w)
{
    return w->src->dtype == AD_F32 && !w->permuted_heads && (uintptr_t)w->src->data % sizeof(float) == 0;
}

static size_t read_size(const char *path)
{
    char line[64] = "";
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    char *got = fgets(line, sizeof line, f);
    fclose(f);
    return got ? (size_t)strtoull(line, NULL, 10) : 0; /* "max" reads as 0 */
}

static size_t machine_memory(void)
{
    size_t total = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t v2 = read_size("/sys/fs/cgroup/memory.max"), v1 = read_size("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    if (v2 && v2 < total) total = v2;
    if (v1 && v1 < total) total = v1;
    return total;
}

static ad_status make_arena(ad_model *m, const ad_model_options *opt, ad_err *err)
{
    size_t in_place = 0, bytes = 0;
    for (size_t i = 0; i < m->n_wants; i++) {
        size_t n = ((size_t)m->wants[i].rows * (size_t)m->wants[i].cols * sizeof(float) + 63) & ~(size_t)63;
        if (usable_in_place(&m->wants[i])) in_place += n;
        else bytes += n;
    }
    size_t limit = opt->memory_bytes ? opt->memory_bytes : machine_memory();
    if (bytes + in_place > limit)
        return ad_fail(err, AD_ENOMEM, "%s: needs %zu MiB of memory as f32, this machine has %zu MiB", m->path,
                       (bytes + in_place) >> 20, limit >> 20);
    if (!bytes) return AD_OK;
    m->arena = ad_arena_new(bytes);
    if (!m->arena) return ad_fail(err, AD_ENOMEM, "%s: %zu MiB for converted weights are not available", m->path, bytes >> 20);
    m->arena_bytes = bytes;
    return AD_OK;
}

/* The row of the file that holds Hugging Face row `r`: GGUF llama files interleave the two halves of a head. */
static int file_row(const ad_want *w, int r, int n_rows)
{
    if (!w->permuted_heads) return r;
    int hd = n_rows / w->permuted_heads, h = r / hd, in_head = r % hd, half = hd / 2;
    return h * hd + 2 * (in_head % half) + in_head / half;
}

static size_t row_bytes(const ad_want *w)
{
    return (size_t)w->cols / (size_t)ad_dtype_block(w->src->dtype) * ad_dtype_block_bytes(w->src->dtype);
}

static void convert(const ad_want *w, float *dst, int begin, int end)
{
    const char *src = w->src->data;
    for (int r = begin; r < end; r++)
        ad_dequant_row(w->src->dtype, dst + (size_t)r * (size_t)w->cols, src + (size_t)file_row(w, r, w->rows) * row_bytes(w), (size_t)w->cols);
}

/* A bias is one row whose values are permuted instead. */
static void convert_permuted_vector(const ad_want *w, float *dst)
{
    const char *src = w->src->data;
    size_t one = ad_dtype_block_bytes(w->src->dtype);
    for (int i = 0; i < w->cols; i++) ad_dequant_row(w->src->dtype, dst + i, src + (size_t)file_row(w, i, w->cols) * one, 1);
}

static void convert_on_team(void *arg, int index, int count)
{
    ad_model *m = arg;
    char *at = (char *)m->arena;
    for (size_t i = 0; i < m->n_wants; i++) {
        const ad_want *w = &m->wants[i];
        if (usable_in_place(w)) continue;
        int begin, end;
        ad_team_slice(w->rows, 1, index, count, &begin, &end);
        if (w->rows == 1 && w->permuted_heads) {
            if (begin < end) convert_permuted_vector(w, (float *)at);
        } else {
            convert(w, (float *)at, begin, end);
        }
        at += ((size_t)w->rows * (size_t)w->cols * sizeof(float) + 63) & ~(size_t)63;
    }
}

static ad_status convert_weights(ad_model *m, const ad_model_options *opt, ad_err *err)
{
    ad_team *team = NULL;
    ad_status st = ad_team_new(&team, opt->n_threads > 0 ? opt->n_threads : 1, err);
    if (st != AD_OK) return st;
    ad_team_run(team, convert_on_team, m);
    ad_team_free(&team);
    char *at = (char *)m->arena;
    for (size_t i = 0; i < m->n_wants; i++) {
        const ad_want *w = &m->wants[i];
        if (usable_in_place(w)) {
            *w->slot = w->src->data;
            continue;
        }
        *w->slot = (const float *)at;
        at += ((size_t)w->rows * (size_t)w->cols * sizeof(float) + 63) & ~(size_t)63;
    }
    return AD_OK;
}

static const char *const module_suffix[AD_MOD_PER_LAYER] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
};

static ad_status make_modules(ad_model *m, ad_err *err)
{
    const ad_model_config *c = &m->config;
    int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, d = c->hidden, f = c->intermediate;
    const int in[AD_MOD_PER_LAYER] = {d, d, d, q, d, d, f}, out[AD_MOD_PER_LAYER] = {q, kv, kv, d, f, f, d};
    m->n_modules = c->layers * AD_MOD_PER_LAYER + 2;
    m->modules = ad_calloc((size_t)m->n_modules, sizeof *m->modules);
    m->module_want = ad_calloc((size_t)m->n_modules, sizeof *m->module_want);
    m->layers = ad_calloc((size_t)c->layers, sizeof *m->layers);
    m->inv_freq = ad_calloc((size_t)c->head_dim, sizeof *m->inv_freq);
    if (!m->modules || !m->module_want || !m->layers || !m->inv_freq) return ad_fail(err, AD_ENOMEM, "%s: out of memory", m->path);
    for (int l = 0; l < c->layers; l++) {
        for (int k = 0; k < AD_MOD_PER_LAYER; k++) {
            ad_module *mod = &m->modules[l * AD_MOD_PER_LAYER + k];
            *mod = (ad_module){.kind = (ad_module_kind)k, .layer = l, .in = in[k], .out = out[k]};
            snprintf(mod->name, sizeof mod->name, "model.layers.%d.%s", l, module_suffix[k]);
        }
    }
    m->modules[m->n_modules - 2] = (ad_module){"model.embed_tokens", AD_MOD_EMBED, -1, c->vocab, d, false};
    m->modules[m->n_modules - 1] = (ad_module){"lm_head", AD_MOD_HEAD, -1, d, c->vocab, false};
    return AD_OK;
}

static void note_biases(ad_model *m)
{
    for (int i = 0; i < m->config.layers * AD_MOD_PER_LAYER; i++)
        m->modules[i].has_bias = m->layers[i / AD_MOD_PER_LAYER].mod[i % AD_MOD_PER_LAYER].bias != NULL;
}

static ad_status set_name(ad_model *m, ad_err *err)
{
    ad_str name = {NULL, 0};
    const ad_gguf *g = ad_source_gguf(m->src);
    if (!g || !ad_gguf_str(g, "general.name", &name) || name.len == 0 || name.len > 200) {
        size_t end = strlen(m->path);
        while (end > 1 && m->path[end - 1] == '/') end--;
        size_t start = end;
        while (start > 0 && m->path[start - 1] != '/') start--;
        name = (ad_str){m->path + start, end - start};
    }
    m->name = strndup(name.ptr, name.len);
    return m->name ? AD_OK : ad_fail(err, AD_ENOMEM, "%s: out of memory", m->path);
}

static ad_status load_tokenizer(ad_model *m, ad_err *err)
{
    const ad_gguf *g = ad_source_gguf(m->src);
    ad_status st = g ? ad_tokenizer_from_gguf(&m->tokenizer, g, err) : ad_tokenizer_from_dir(&m->tokenizer, m->path, err);
    if (st == AD_OK && ad_tokenizer_vocab(m->tokenizer) > m->config.vocab)
        st = ad_fail(err, AD_EFORMAT, "%s: the tokenizer has %d tokens, the embedding only %d rows", m->path,
                     (int)ad_tokenizer_vocab(m->tokenizer), m->config.vocab);
    return st;
}

static ad_status load(ad_model *m, const char *path, const ad_model_options *opt, ad_err *err)
{
    m->path = strdup(path);
    if (!m->path) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    ad_status st = ad_source_open(&m->src, path, err);
    if (st == AD_OK) st = pick_family(m, err);
    if (st == AD_OK) st = m->family->configure(m, err);
    if (st == AD_OK) st = make_modules(m, err);
    if (st == AD_OK) st = m->family->bind(m, err);
    if (st == AD_OK) st = check_unused(m, err);
    if (st == AD_OK) st = load_tokenizer(m, err);
    if (st == AD_OK) st = make_arena(m, opt, err);
    if (st == AD_OK) st = convert_weights(m, opt, err);
    if (st == AD_OK) st = set_name(m, err);
    if (st != AD_OK) return st;
    if (m->config.tied_head) m->head.w = m->embed;
    note_biases(m);
    ad_rope_frequencies(&m->rope, m->config.head_dim, m->inv_freq, &m->rope_magnitude);
    return AD_OK;
}

ad_status ad_model_load(ad_model **out, const char *path, const ad_model_options *opt, ad_err *err)
{
    static const ad_model_options defaults = {0};
    ad_model *m = ad_calloc(1, sizeof *m);
    if (!m) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    ad_status st = load(m, path, opt ? opt : &defaults, err);
    if (st == AD_OK) *out = m;
    else ad_model_free(&m);
    return st;
}

void ad_model_free(ad_model **mp)
{
    ad_model *m = *mp;
    if (!m) return;
    ad_tokenizer_free(&m->tokenizer);
    if (m->arena) ad_arena_free(m->arena, m->arena_bytes);
    ad_source_close(&m->src);
    free(m->layers);
    free(m->inv_freq);
    free(m->modules);
    free(m->module_want);
    free(m->wants);
    free(m->name);
    free(m->path);
    free(m);
    *mp = NULL;
}

const ad_model_config *ad_model_get_config(const ad_model *m) { return &m->config; }
const char *ad_model_path(const ad_model *m) { return m->path; }
const char *ad_model_name(const ad_model *m) { return m->name; }
const ad_tokenizer *ad_model_tokenizer(const ad_model *m) { return m->tokenizer; }
size_t ad_model_resident_bytes(const ad_model *m) { return m->arena_bytes; }
size_t ad_model_mapped_bytes(const ad_model *m) { return ad_source_bytes(m->src); }
int ad_model_module_count(const ad_model *m) { return m->n_modules; }
const ad_module *ad_model_module(const ad_model *m, int index) { return &m->modules[index]; }

int ad_model_find_module(const ad_model *m, const char *name)
{
    int layer, used = 0;
    if (!strcmp(name, "lm_head")) return m->n_modules - 1;
    if (!strcmp(name, "model.embed_tokens")) return m->n_modules - 2;
    if (sscanf(name, "model.layers.%9d.%n", &layer, &used) != 1 || !used || layer < 0 || layer >= m->config.layers) return -1;
    for (int k = 0; k < AD_MOD_PER_LAYER; k++) {
        int i = layer * AD_MOD_PER_LAYER + k;
        if (!strcmp(m->modules[i].name, name)) return i; /* the whole name: "layers.03" is not "layers.3" */
    }
    return -1;
}

void ad_model_read_rows(const ad_model *m, int module, int row, int n, float *dst, float *bound)
{
    if (m->modules[module].kind == AD_MOD_HEAD && m->config.tied_head) module = m->n_modules - 2;
    const ad_want *w = &m->wants[m->module_want[module]];
    for (int i = 0; i < n; i++) {
        const char *src = (const char *)w->src->data + (size_t)file_row(w, row + i, w->rows) * row_bytes(w);
        size_t at = (size_t)i * (size_t)w->cols;
        ad_dequant_row(w->src->dtype, dst + at, src, (size_t)w->cols);
        if (bound) ad_dequant_error(w->src->dtype, bound + at, src, (size_t)w->cols);
    }
}
