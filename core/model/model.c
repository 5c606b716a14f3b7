/* SPDX-License-Identifier: MIT */
/* Loads a base model: picks its family, finds and checks every tensor, packs the weights for the kernels and lets
 * the file go. Loading runs on one thread and its team; the loaded model is immutable. */
#include "core/model/model.h"

#include <math.h>
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

/* ---- what is wanted ---- */

static const struct { const char *name; ad_weights weights; } weights_names[] = {
    {"auto", AD_WEIGHTS_AUTO}, {"f32", AD_WEIGHTS_F32}, {"bf16", AD_WEIGHTS_BF16}, {"int8", AD_WEIGHTS_INT8}, {"int4", AD_WEIGHTS_INT4},
};

bool ad_weights_parse(const char *name, ad_weights *out)
{
    for (size_t i = 0; i < sizeof weights_names / sizeof *weights_names; i++)
        if (!strcmp(weights_names[i].name, name)) return *out = weights_names[i].weights, true;
    return false;
}

static ad_pack type_for(const ad_model *m, ad_dtype from, int module)
{
    bool linear = module < m->n_modules - 2, floats = from == AD_F32 || from == AD_F16 || from == AD_BF16;
    ad_pack exact;
    bool four = ad_pack_exact(from, &exact) && exact != AD_PACK_INT8;
    switch (m->weights) {
    case AD_WEIGHTS_F32: return AD_PACK_F32;
    case AD_WEIGHTS_BF16: return AD_PACK_BF16;
    case AD_WEIGHTS_INT8: return AD_PACK_INT8;
    case AD_WEIGHTS_INT4: return four ? exact : linear ? AD_PACK_INT4 : AD_PACK_INT8;
    default: return floats ? AD_PACK_BF16 : four ? exact : AD_PACK_INT8;
    }
}

/* A head that is the embedding has the embedding's weight. */
static const ad_want *weight_of(const ad_model *m, int module)
{
    if (m->modules[module].kind == AD_MOD_HEAD && m->config.tied_head) module = m->n_modules - 2;
    return &m->wants[m->module_want[module]];
}

ad_pack ad_model_merged_type(const ad_model *m, int module)
{
    const ad_want *w = weight_of(m, module);
    return w->type == AD_PACK_INT4 || w->type == AD_PACK_INT4W ? AD_PACK_INT8 : w->type;
}

ad_pack ad_model_adapter_type(const ad_model *m) { return m->weights == AD_WEIGHTS_F32 ? AD_PACK_F32 : AD_PACK_BF16; }

/* Adds the tensor `name` of [rows, cols] (cols 0: of `rows` values); *out is NULL for an absent optional one. */
static ad_status add_want(ad_model *m, ad_want **out, const char *name, int rows, int cols, int permuted_heads, bool optional, ad_err *err)
{
    const ad_tensor *t = ad_source_tensor(m->src, name);
    *out = NULL;
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
    *out = &m->wants[m->n_wants++];
    **out = (ad_want){.src = t, .rows = cols ? rows : 1, .cols = cols ? cols : rows, .permuted_heads = permuted_heads, .module = -1};
    return AD_OK;
}

ad_status ad_model_want_matrix(ad_model *m, const char *name, ad_matrix *slot, int rows, int cols, int permuted_heads, int module, ad_err *err)
{
    ad_want *w;
    ad_pack exact;
    ad_status st = add_want(m, &w, name, rows, cols, permuted_heads, false, err);
    if (st != AD_OK) return st;
    m->module_want[module] = (int)m->n_wants - 1;
    w->matrix = slot;
    w->module = module;
    w->type = type_for(m, w->src->dtype, module);
    bool coded = ad_pack_exact(w->src->dtype, &exact);
    w->exact = coded && exact == w->type;
    w->by_codes = coded && (w->exact || w->type == AD_PACK_INT8);
    w->bytes = ad_pack_bytes(w->type, rows, cols);
    return AD_OK;
}

ad_status ad_model_want_vector(ad_model *m, const char *name, const float **slot, int n, int permuted_heads, bool optional, ad_err *err)
{
    ad_want *w;
    *slot = NULL;
    ad_status st = add_want(m, &w, name, n, 0, permuted_heads, optional, err);
    if (st != AD_OK || !w) return st;
    w->vector = slot;
    w->bytes = ((size_t)n * sizeof(float) + 63) & ~(size_t)63;
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
    size_t bytes = 0;
    for (size_t i = 0; i < m->n_wants; i++) {
        m->wants[i].at = bytes;
        bytes += m->wants[i].bytes;
    }
    size_t limit = opt->memory_bytes ? opt->memory_bytes : machine_memory();
    if (bytes > limit)
        return ad_fail(err, AD_ENOMEM, "%s: needs %zu MiB of memory as %s, this machine has %zu MiB", m->path, bytes >> 20, weights_names[m->weights].name, limit >> 20);
    m->arena = ad_arena_new(bytes);
    if (!m->arena) return ad_fail(err, AD_ENOMEM, "%s: %zu MiB for packed weights are not available", m->path, bytes >> 20);
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

static const void *file_row_at(const ad_want *w, int row)
{
    return (const char *)w->src->data + (size_t)file_row(w, row, w->rows) * row_bytes(w);
}

/* A permuted bias is one row whose values are permuted instead. */
static void convert_vector(const ad_want *w, float *dst)
{
    const char *src = w->src->data;
    size_t one = ad_dtype_block_bytes(w->src->dtype);
    if (!w->permuted_heads) ad_dequant_row(w->src->dtype, dst, src, (size_t)w->cols);
    for (int i = 0; w->permuted_heads && i < w->cols; i++) ad_dequant_row(w->src->dtype, dst + i, src + (size_t)file_row(w, i, w->cols) * one, 1);
}

/* What one member of the team finds while packing. */
typedef struct {
    float *rows, *back;     /* [AD_PANEL, widest row] */
    double *lost, *total;   /* [n_wants] sums of squares: of changes, of values; of one row of each panel */
    const ad_want *bad;     /* holds a value its type does not */
} packer;

typedef struct {
    ad_model *m;
    packer *packers;
} packing;

static double sum_squares(const float *x, int n)
{
    float lanes[16] = {0};
    double sum = 0;
    for (int i = 0; i < n; i++) lanes[i % 16] += x[i] * x[i];
    for (int k = 0; k < 16; k++) sum += (double)lanes[k];
    return sum;
}

/* How large a row is, and what packing changed in it. */
static void measure_row(packer *p, const ad_want *w, size_t i, const void *panel, int lane, const float *was)
{
    p->total[i] += sum_squares(was, w->cols);
    if (w->exact || w->type == AD_PACK_F32) return;
    ad_matrix one = ad_matrix_at(w->type, AD_PANEL, w->cols, panel);
    ad_matrix_read(&one, lane, 0, w->cols, p->back);
    for (int c = 0; c < w->cols; c++) {
        double d = (double)(p->back[c] - was[c]);
        p->lost[i] += d * d;
    }
}

static void pack_panel(packer *p, const ad_want *w, size_t i, int panel, char *dst)
{
    const void *rows[AD_PANEL];
    int first = panel * AD_PANEL, n = w->rows - first < AD_PANEL ? w->rows - first : AD_PANEL, sample = panel * 7 % n; /* all places of a head by turns */
    for (int r = 0; r < n; r++) rows[r] = file_row_at(w, first + r);
    if (w->by_codes && ad_pack_panel_codes(w->type, dst, w->src->dtype, rows, n, w->cols)) {
        ad_dequant_row(w->src->dtype, p->rows, rows[sample], (size_t)w->cols);
        measure_row(p, w, i, dst, sample, p->rows);
        return;
    }
    for (int r = 0; r < n; r++) ad_dequant_row(w->src->dtype, p->rows + (size_t)r * (size_t)w->cols, rows[r], (size_t)w->cols);
    if (!ad_pack_panel(w->type, dst, p->rows, n, w->cols)) p->bad = w;
    else measure_row(p, w, i, dst, sample, p->rows + (size_t)sample * (size_t)w->cols);
}

static void pack_on_team(void *arg, int index, int count)
{
    packing *job = arg;
    ad_model *m = job->m;
    packer *p = &job->packers[index];
    for (size_t i = 0; i < m->n_wants; i++) {
        const ad_want *w = &m->wants[i];
        char *dst = m->arena + w->at;
        int begin, end;
        if (w->vector) {
            if (index == 0) convert_vector(w, (float *)(void *)dst);
            continue;
        }
        ad_team_slice((w->rows + AD_PANEL - 1) / AD_PANEL, 1, index, count, &begin, &end);
        for (int panel = begin; panel < end; panel++) pack_panel(p, w, i, panel, dst + (size_t)panel * ad_pack_panel_bytes(w->type, w->cols));
    }
}

static ad_status finish_packing(ad_model *m, const packing *job, int count, ad_err *err)
{
    for (int t = 0; t < count; t++)
        if (job->packers[t].bad)
            return ad_fail(err, AD_EFORMAT, "%s: tensor %s holds a value that is not finite or too large for %s", m->path, job->packers[t].bad->src->name,
                           ad_pack_name(job->packers[t].bad->type));
    for (size_t i = 0; i < m->n_wants; i++) {
        ad_want *w = &m->wants[i];
        if (w->vector) {
            *w->vector = (const float *)(const void *)(m->arena + w->at);
            continue;
        }
        double lost = 0, total = 0;
        *w->matrix = ad_matrix_at(w->type, w->rows, w->cols, m->arena + w->at);
        m->forms |= 1u << ad_act_of(w->type);
        for (int t = 0; t < count; t++) lost += job->packers[t].lost[i], total += job->packers[t].total[i];
        float loss = total > 0 ? (float)sqrt(lost / total) : 0;
        m->loss = loss > m->loss ? loss : m->loss;
        w->norm = (float)sqrt(total * w->rows / ((w->rows + AD_PANEL - 1) / AD_PANEL)); /* if the other rows are like those */
    }
    ad_source_release_pages(m->src);
    return AD_OK;
}

static ad_status pack_weights(ad_model *m, const ad_model_options *opt, ad_err *err)
{
    int count = opt->n_threads > 0 ? opt->n_threads : 1, widest = 0;
    ad_team *team = NULL;
    for (size_t i = 0; i < m->n_wants; i++) widest = m->wants[i].cols > widest ? m->wants[i].cols : widest;
    packing job = {m, ad_calloc((size_t)count, sizeof(packer))};
    ad_status st = job.packers ? AD_OK : AD_ENOMEM;
    for (int t = 0; t < count && st == AD_OK; t++) {
        packer *p = &job.packers[t];
        p->rows = ad_calloc((AD_PANEL + 1) * (size_t)widest, sizeof *p->rows);
        p->lost = ad_calloc(2 * m->n_wants, sizeof *p->lost);
        if (!p->rows || !p->lost) st = AD_ENOMEM;
        else p->back = p->rows + AD_PANEL * (size_t)widest, p->total = p->lost + m->n_wants;
    }
    if (st != AD_OK) ad_fail(err, st, "%s: out of memory", m->path);
    if (st == AD_OK) st = ad_team_new(&team, count, err);
    if (st == AD_OK) {
        ad_team_run(team, pack_on_team, &job);
        st = finish_packing(m, &job, count, err);
    }
    ad_team_free(&team);
    for (int t = 0; job.packers && t < count; t++) free(job.packers[t].rows), free(job.packers[t].lost);
    free(job.packers);
    return st;
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

static ad_status load_chat_template(ad_model *m, ad_err *err)
{
    const ad_gguf *g = ad_source_gguf(m->src);
    return g ? ad_chat_template_from_gguf(&m->chat, g, m->path, err) : ad_chat_template_from_dir(&m->chat, m->path, err);
}

static ad_status load(ad_model *m, const char *path, const ad_model_options *opt, ad_err *err)
{
    m->weights = opt->weights;
    m->path = strdup(path);
    if (!m->path) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    ad_status st = ad_source_open(&m->src, path, err);
    if (st == AD_OK) st = pick_family(m, err);
    if (st == AD_OK) st = m->family->configure(m, err);
    if (st == AD_OK) st = make_modules(m, err);
    if (st == AD_OK) st = m->family->bind(m, err);
    if (st == AD_OK) st = check_unused(m, err);
    if (st == AD_OK) st = load_tokenizer(m, err);
    if (st == AD_OK) st = load_chat_template(m, err);
    if (st == AD_OK) st = make_arena(m, opt, err);
    if (st == AD_OK) st = pack_weights(m, opt, err);
    if (st == AD_OK) st = set_name(m, err);
    if (st == AD_OK) st = ad_model_make_fingerprint(m, err);
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
    ad_chat_template_free(&m->chat);
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
const ad_chat_template *ad_model_chat_template(const ad_model *m) { return m->chat; }
size_t ad_model_resident_bytes(const ad_model *m) { return m->arena_bytes; }
size_t ad_model_mapped_bytes(const ad_model *m) { return ad_source_bytes(m->src); }
float ad_model_packing_loss(const ad_model *m) { return m->loss; }

float ad_model_module_norm(const ad_model *m, int module) { return weight_of(m, module)->norm; }
int ad_model_group_count(const ad_model *m) { return 4 * m->config.layers + 2; }
int ad_model_module_count(const ad_model *m) { return m->n_modules; }
const ad_module *ad_model_module(const ad_model *m, int index) { return &m->modules[index]; }

int ad_model_gguf_name(const ad_model *m, int module, char *out, size_t size)
{
    const ad_module *mod = &m->modules[module];
    const char *name = m->family->gguf_names[mod->kind];
    return mod->layer < 0 ? snprintf(out, size, "%s.weight", name) : snprintf(out, size, "blk.%d.%s.weight", mod->layer, name);
}

int ad_model_find_gguf(const ad_model *m, ad_str name)
{
    char own[64];
    int layer = 0, first = m->n_modules - 2, n = 2;
    if (name.len >= sizeof own) return -1;
    memcpy(own, name.ptr, name.len);
    own[name.len] = '\0';
    if (sscanf(own, "blk.%9d.", &layer) == 1) {
        if (layer < 0 || layer >= m->config.layers) return -1;
        first = layer * AD_MOD_PER_LAYER, n = AD_MOD_PER_LAYER;
    }
    for (int i = first; i < first + n; i++) {
        ad_model_gguf_name(m, i, own, sizeof own);
        if (ad_str_eq(name, own)) return i;
    }
    return -1;
}

const char *ad_model_gguf_arch(const ad_model *m) { return m->family->gguf_archs[0]; }

int ad_model_group_of(const ad_model *m, int module)
{
    static const int groups[AD_MOD_PER_LAYER] = {0, 0, 0, 1, 2, 2, 3};
    int layer = module / AD_MOD_PER_LAYER;
    if (layer >= m->config.layers) return 4 * m->config.layers + module - AD_MOD_PER_LAYER * m->config.layers;
    return 4 * layer + groups[module % AD_MOD_PER_LAYER];
}

void ad_model_describe_weights(const ad_model *m, char *text, size_t size)
{
    int counts[AD_PACK_KINDS] = {0};
    size_t at = 0;
    for (size_t i = 0; i < m->n_wants; i++)
        if (m->wants[i].matrix) counts[m->wants[i].type]++;
    counts[AD_PACK_INT4] += counts[AD_PACK_INT4W];
    if (size) *text = '\0';
    for (int t = 0; t < AD_PACK_INT4W; t++) {
        if (!counts[t] || at >= size) continue;
        int n = snprintf(text + at, size - at, "%s%d %s", at ? ", " : "", counts[t], ad_pack_name((ad_pack)t));
        at += n > 0 ? (size_t)n : 0;
    }
}

int ad_model_find_module(const ad_model *m, const char *name)
{
    static const char layers[] = "model.layers.";
    const char *p = name + sizeof layers - 1;
    int layer = 0;
    if (!strcmp(name, "lm_head")) return m->n_modules - 1;
    if (!strcmp(name, "model.embed_tokens")) return m->n_modules - 2;
    if (strncmp(name, layers, sizeof layers - 1)) return -1;
    for (; *p >= '0' && *p <= '9' && layer < m->config.layers; p++) layer = 10 * layer + (*p - '0');
    for (int k = 0; layer < m->config.layers && k < AD_MOD_PER_LAYER; k++) {
        int i = layer * AD_MOD_PER_LAYER + k;
        if (!strcmp(m->modules[i].name, name)) return i; /* the whole name: "layers.03" is not "layers.3" */
    }
    return -1;
}

void ad_model_read_rows(const ad_model *m, int module, int row, int n, float *dst, float *bound)
{
    const ad_want *w = weight_of(m, module);
    for (int i = 0; i < n; i++) {
        const void *src = file_row_at(w, row + i);
        size_t at = (size_t)i * (size_t)w->cols;
        ad_dequant_row(w->src->dtype, dst + at, src, (size_t)w->cols);
        if (bound) ad_dequant_error(w->src->dtype, bound + at, src, (size_t)w->cols);
    }
}
