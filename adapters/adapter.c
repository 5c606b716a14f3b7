/* SPDX-License-Identifier: MIT */
/* One PEFT directory becomes one packed adapter: the configuration says which modules have which rank, every
 * tensor must be one of theirs, and all of them must be there. Loading may run on any thread. */
#include "adapters/adapter.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/peft.h"
#include "core/base/file.h"
#include "core/formats/safetensors.h"

enum { MAX_NAME = 128, COMPARE_ROWS = 64 };
static const size_t max_config = 1u << 20, max_weights = (size_t)4 << 30;

struct ad_adapter {
    int refs;
    char *name, *dir;
    ad_lowrank_set set;
    ad_lowrank *modules; /* [set.n_modules] */
    ad_matrix *a;        /* by group */
    ad_mix mix;
    ad_digest digest;
    void *block;
    int n_matched;
    char **warnings;
    int n_warnings;
};

/* The tensors of one module, as the file has them. */
typedef struct {
    ad_peft_plan plan;
    const ad_tensor *a, *b;
} pair;

typedef struct {
    ad_adapter *adapter;
    const ad_model *base;
    ad_safetensors *file;
    pair *pairs; /* [n_modules] */
    int n_modules;
    ad_err *err;
} loader;

/* ---- notes ---- */

static ad_status add_warning(ad_adapter *a, ad_buf *text)
{
    char **more = text->failed ? NULL : realloc(a->warnings, (size_t)(a->n_warnings + 1) * sizeof *more);
    if (!more) {
        ad_buf_deinit(text);
        return AD_ENOMEM;
    }
    a->warnings = more;
    more[a->n_warnings++] = text->data; /* the buffer's memory is ours now */
    return AD_OK;
}

static ad_status no_memory(loader *l)
{
    return ad_fail(l->err, AD_ENOMEM, "%s: out of memory for the adapter", l->adapter->dir);
}

/* ---- what the configuration asks for ---- */

static ad_status plan_modules(loader *l, ad_peft *config)
{
    int n = 0;
    for (int i = 0; i < l->n_modules; i++) {
        ad_status st = ad_peft_plan_module(config, ad_model_module(l->base, i), &l->pairs[i].plan, l->err);
        if (st != AD_OK) return st;
        n += l->pairs[i].plan.rank > 0;
    }
    l->adapter->n_matched = n;
    if (!n) return ad_fail(l->err, AD_EMISMATCH, "%s: target_modules selects no module of the base model", l->adapter->dir);
    return AD_OK;
}

static ad_status note_oddities(loader *l, const ad_peft *config)
{
    const char *name;
    for (int i = 0; (name = ad_peft_idle_target(config, i)); i++) {
        ad_buf b = {0};
        ad_buf_printf(&b, "target module \"%.80s\" selects no module of the base model", name);
        if (add_warning(l->adapter, &b) != AD_OK) return no_memory(l);
    }
    if (!ad_peft_fan_in_fan_out(config)) return AD_OK;
    ad_buf b = {0};
    ad_buf_puts(&b, "fan_in_fan_out is ignored: the base model has linear layers only");
    return add_warning(l->adapter, &b) == AD_OK ? AD_OK : no_memory(l);
}

static ad_status read_config(loader *l)
{
    char path[4200];
    ad_file f = {0};
    ad_peft *config = NULL;
    snprintf(path, sizeof path, "%s/adapter_config.json", l->adapter->dir);
    ad_status st = ad_file_read(&f, path, max_config, l->err);
    if (st != AD_OK) return st;
    st = ad_peft_parse(&config, f.data ? f.data : "", f.len, path, l->err);
    if (st == AD_OK) st = plan_modules(l, config);
    if (st == AD_OK) st = note_oddities(l, config);
    ad_peft_free(&config);
    ad_file_close(&f);
    return st;
}

/* ---- names of tensors ---- */

typedef enum { PART_A, PART_B, PART_COPY, PART_OTHER } part_kind;

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
    *embedding = true;
    if (cut_part(s, ".lora_embedding_A", "")) return PART_A;
    if (cut_part(s, ".lora_embedding_B", "")) return PART_B;
    if (cut_suffix(s, ".base_layer.weight") || cut_suffix(s, ".weight")) return PART_COPY;
    return PART_OTHER;
}

static int find_exact(const ad_model *m, const char *prefix, ad_str s)
{
    char name[64];
    int n = snprintf(name, sizeof name, "%s%.*s", prefix, (int)s.len, s.ptr);
    return n < (int)sizeof name ? ad_model_find_module(m, name) : -1;
}

/* The same module has other paths in other model classes. */
static int find_module(const ad_model *m, ad_str s)
{
    static const char *const classes[] = {"", "model.language_model.", "language_model.model.", "language_model."};
    if (s.len >= 64) return -1;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        ad_str rest = s;
        if (!cut_prefix(&rest, classes[i])) continue;
        int module = find_exact(m, "", rest);
        if (module < 0) module = find_exact(m, "model.", rest);
        if (module >= 0) return module;
    }
    return -1;
}

static const char *explain(const char *name)
{
    if (strstr(name, "lora_magnitude_vector")) return "is part of a DoRA adapter, which is not supported";
    if (strstr(name, "trainable_tokens")) return "is a trained token embedding, which is not supported";
    size_t n = strlen(name);
    if (n > 5 && !strcmp(name + n - 5, ".bias")) return "is an adapter bias, which is not supported";
    return "is nothing that is known of a LoRA adapter";
}

/* ---- tensors ---- */

static ad_status refuse(loader *l, const ad_tensor *t, const char *why)
{
    return ad_fail(l->err, AD_EMISMATCH, "%s: tensor \"%.160s\" %s", ad_safetensors_label(l->file), t->name, why);
}

static ad_status check_shape(loader *l, const ad_tensor *t, int64_t rows, int64_t cols)
{
    if (t->dtype > AD_BF16) return ad_fail(l->err, AD_EUNSUPPORTED, "%s: tensor \"%.160s\" is %s; F32, F16 and BF16 are supported", ad_safetensors_label(l->file), t->name, ad_dtype_name(t->dtype));
    if (t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols) return AD_OK;
    char shape[128] = "";
    for (int i = 0, at = 0; i < t->n_dims && at < (int)sizeof shape - 24; i++) at += snprintf(shape + at, sizeof shape - (size_t)at, "%s%lld", i ? ", " : "", (long long)t->dims[i]);
    return ad_fail(l->err, AD_EMISMATCH, "%s: tensor \"%.160s\" has shape [%s]; the configuration and the base model ask for [%lld, %lld]",
                   ad_safetensors_label(l->file), t->name, shape, (long long)rows, (long long)cols);
}

/* A copy of the base's weight may come along; it must be this base's. Distances within what either side's
 * number format rounds away are equal. */
static ad_status compare_copy(loader *l, const ad_tensor *t, int module)
{
    const ad_module *m = ad_model_module(l->base, module);
    int rows = m->kind == AD_MOD_EMBED ? m->in : m->out, cols = m->kind == AD_MOD_EMBED ? m->out : m->in;
    ad_status st = check_shape(l, t, rows, cols);
    if (st != AD_OK) return st;
    size_t n = (size_t)COMPARE_ROWS * (size_t)cols, row_bytes = (size_t)cols * ad_dtype_block_bytes(t->dtype);
    float *buf = ad_calloc(4 * n, sizeof *buf), *base = buf, *slack = buf + n, *copy = buf + 2 * n, *rounding = buf + 3 * n;
    if (!buf) return no_memory(l);
    for (int row = 0, now; st == AD_OK && row < rows; row += now) {
        now = rows - row < COMPARE_ROWS ? rows - row : COMPARE_ROWS;
        const char *src = (const char *)t->data + (size_t)row * row_bytes;
        n = (size_t)now * (size_t)cols;
        ad_model_read_rows(l->base, module, row, now, base, slack);
        ad_dequant_row(t->dtype, copy, src, n);
        ad_dequant_error(t->dtype, rounding, src, n);
        for (size_t i = 0; st == AD_OK && i < n; i++)
            if (!(fabsf(copy[i] - base[i]) <= slack[i] + rounding[i])) st = refuse(l, t, "is a copy of a base weight that differs from this base model's: the adapter was trained on another");
    }
    free(buf);
    if (st != AD_OK) return st;
    ad_buf b = {0};
    ad_buf_printf(&b, "tensor \"%.160s\" equals the base model's weight and is ignored", t->name);
    return add_warning(l->adapter, &b) == AD_OK ? AD_OK : no_memory(l);
}

static ad_status sort_tensor(loader *l, const ad_tensor *t)
{
    ad_str s = {t->name, strlen(t->name)};
    bool embedding;
    cut_prefix(&s, "base_model.model.");
    part_kind kind = cut_kind(&s, &embedding);
    if (kind == PART_OTHER) return refuse(l, t, explain(t->name));
    int module = find_module(l->base, s);
    if (module < 0) return refuse(l, t, "belongs to no module of the base model that can be adapted");
    if (kind == PART_COPY) return compare_copy(l, t, module);
    const ad_module *m = ad_model_module(l->base, module);
    if (embedding != (m->kind == AD_MOD_EMBED)) return refuse(l, t, "does not have the form of its module (linear or embedding)");
    pair *p = &l->pairs[module];
    if (!p->plan.rank) return refuse(l, t, "belongs to a module that the configuration does not target");
    const ad_tensor **slot = kind == PART_A ? &p->a : &p->b;
    if (*slot) return refuse(l, t, "is there twice, under two names");
    *slot = t;
    return kind == PART_A ? check_shape(l, t, p->plan.rank, m->in) : check_shape(l, t, m->out, p->plan.rank);
}

static ad_status check_complete(loader *l)
{
    for (int i = 0; i < l->n_modules; i++) {
        const pair *p = &l->pairs[i];
        if (!p->plan.rank || (p->a && p->b)) continue;
        return ad_fail(l->err, AD_EMISMATCH, "%s: the configuration targets \"%s\", but the file has no %s for it", ad_safetensors_label(l->file),
                       ad_model_module(l->base, i)->name, p->a ? "lora_B" : p->b ? "lora_A" : "pair");
    }
    return AD_OK;
}

static ad_status open_weights(loader *l)
{
    char path[4200];
    struct stat st;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", l->adapter->dir);
    bool missing = stat(path, &st) != 0;
    ad_status rc = missing ? AD_EIO : ad_safetensors_read(&l->file, path, max_weights, l->err);
    if (!missing) return rc;
    char pickle[4200];
    snprintf(pickle, sizeof pickle, "%s/adapter_model.bin", l->adapter->dir);
    if (stat(pickle, &st) == 0)
        return ad_fail(l->err, AD_EUNSUPPORTED, "%s is a pickle file, which could run code when read; save the adapter as adapter_model.safetensors", pickle);
    return ad_fail(l->err, AD_EIO, "%s: no such file", path);
}

static ad_status read_weights(loader *l)
{
    ad_status st = open_weights(l);
    size_t n = st == AD_OK ? ad_safetensors_count(l->file) : 0;
    for (size_t i = 0; st == AD_OK && i < n; i++) st = sort_tensor(l, ad_safetensors_at(l->file, i));
    return st == AD_OK ? check_complete(l) : st;
}

/* ---- packing ---- */

/* Where the next matrix goes, and room for 16 rows of floats. */
typedef struct {
    char *next;
    float *rows, *whole; /* [16, widest]; one tensor */
} packer;

static int even(int rank)
{
    return (rank + 1) / 2 * 2;
}

/* The stacked rows of modules [first, first + n), which share their input; notes where each begins. */
static int stack_modules(loader *l, int first, int n)
{
    int rows = 0;
    for (int i = first; i < first + n; i++) {
        if (!l->pairs[i].plan.rank) continue;
        l->adapter->modules[i].at = rows;
        rows += even(l->pairs[i].plan.rank);
    }
    return rows;
}

static int a_columns(const loader *l, int module)
{
    return ad_model_module(l->base, module)->in;
}

static size_t group_bytes(const loader *l, ad_pack type, int first, int n, int rows)
{
    size_t bytes = rows ? ad_pack_bytes(type, rows, a_columns(l, first)) : 0;
    for (int i = first; i < first + n; i++)
        if (l->pairs[i].plan.rank) bytes += ad_pack_bytes(type, ad_model_module(l->base, i)->out, even(l->pairs[i].plan.rank));
    return bytes;
}

/* Rows [row, row + n) of the stacked A, in floats; rows that fill up a module's even number are zero. */
static void stacked_rows(const loader *l, int first, int count, int row, int n, float *dst)
{
    size_t cols = (size_t)a_columns(l, first);
    memset(dst, 0, (size_t)n * cols * sizeof *dst);
    for (int i = first; i < first + count; i++) {
        const pair *p = &l->pairs[i];
        int at = l->adapter->modules[i].at, begin = at > row ? at : row, end = at + p->plan.rank < row + n ? at + p->plan.rank : row + n;
        size_t row_bytes = p->a ? cols * ad_dtype_block_bytes(p->a->dtype) : 0;
        if (p->a && begin < end) ad_dequant_row(p->a->dtype, dst + (size_t)(begin - row) * cols, (const char *)p->a->data + (size_t)(begin - at) * row_bytes, (size_t)(end - begin) * cols);
    }
}

static ad_status pack_a(loader *l, packer *k, int first, int count, ad_matrix *a)
{
    int cols = a_columns(l, first);
    *a = ad_matrix_at(a->type, a->rows, cols, k->next);
    for (int row = 0; row < a->rows; row += AD_PANEL, k->next += a->panel_bytes) {
        int n = a->rows - row < AD_PANEL ? a->rows - row : AD_PANEL;
        stacked_rows(l, first, count, row, n, k->rows);
        if (ad_pack_panel(a->type, k->next, k->rows, n, cols)) continue;
        return ad_fail(l->err, AD_EMISMATCH, "%s: lora_A of \"%s\" or its neighbours holds a value that is not finite", ad_safetensors_label(l->file), ad_model_module(l->base, first)->name);
    }
    return AD_OK;
}

static ad_status pack_b(loader *l, packer *k, int module)
{
    const pair *p = &l->pairs[module];
    ad_lowrank *low = &l->adapter->modules[module];
    int out = ad_model_module(l->base, module)->out, rank = p->plan.rank, width = even(rank);
    if (!rank) return AD_OK;
    low->rank = rank;
    low->scale = p->plan.scale;
    low->b = ad_matrix_at(l->adapter->set.type, out, width, k->next);
    ad_dequant_row(p->b->dtype, k->whole, p->b->data, (size_t)out * (size_t)rank);
    for (int row = 0; row < out; row += AD_PANEL, k->next += low->b.panel_bytes) {
        const float *src = k->whole + (size_t)row * (size_t)rank;
        int n = out - row < AD_PANEL ? out - row : AD_PANEL;
        for (int i = 0; width != rank && i < n; i++) { /* an odd rank gets a column of zeros */
            memcpy(k->rows + (size_t)(i * width), src + (size_t)(i * rank), (size_t)rank * sizeof *src);
            k->rows[i * width + rank] = 0;
        }
        if (!ad_pack_panel(low->b.type, k->next, width != rank ? k->rows : src, n, width)) return refuse(l, p->b, "holds a value that is not finite");
    }
    return AD_OK;
}

/* Groups in the order the engine runs them: their first module and how many there are. */
static int group_at(const loader *l, int group, int *first)
{
    static const int firsts[] = {AD_MOD_Q, AD_MOD_O, AD_MOD_GATE, AD_MOD_DOWN}, counts[] = {3, 1, 2, 1};
    int layers = ad_model_get_config(l->base)->layers, layer = group / 4;
    *first = layer < layers ? layer * AD_MOD_PER_LAYER + firsts[group % 4] : l->n_modules - 2 + group % 4;
    return layer < layers ? counts[group % 4] : 1;
}

static ad_status pack_all(loader *l, packer *k)
{
    ad_status st = AD_OK;
    for (int g = 0, first; g < ad_model_group_count(l->base) && st == AD_OK; g++) {
        int n = group_at(l, g, &first);
        if (l->adapter->a[g].rows) st = pack_a(l, k, first, n, &l->adapter->a[g]);
        for (int i = first; i < first + n && st == AD_OK; i++) st = pack_b(l, k, i);
    }
    return st;
}

static ad_status pack(loader *l)
{
    ad_adapter *a = l->adapter;
    int n_groups = ad_model_group_count(l->base);
    size_t widest = 0, largest = 0;
    ad_pack type = ad_model_adapter_type(l->base);
    a->modules = ad_calloc((size_t)l->n_modules, sizeof *a->modules);
    a->a = ad_calloc((size_t)n_groups, sizeof *a->a);
    if (!a->modules || !a->a) return no_memory(l);
    a->set.type = type;
    for (int g = 0, first; g < n_groups; g++) {
        int n = group_at(l, g, &first), rows = stack_modules(l, first, n), whole = (rows + AD_PANEL - 1) / AD_PANEL * AD_PANEL;
        a->a[g] = (ad_matrix){.type = type, .rows = rows};
        a->set.bytes += group_bytes(l, type, first, n, rows);
        if (whole > a->set.max_stack) a->set.max_stack = whole;
    }
    for (int i = 0; i < l->n_modules; i++) {
        const pair *p = &l->pairs[i];
        size_t in = p->a ? (size_t)a_columns(l, i) : 0, rank = (size_t)even(p->plan.rank), b = p->b ? (size_t)ad_tensor_count(p->b) : 0;
        if (p->plan.rank > a->set.max_rank) a->set.max_rank = p->plan.rank;
        widest = in > widest ? in : widest, widest = rank > widest ? rank : widest;
        largest = b > largest ? b : largest;
    }
    a->block = ad_arena_new(a->set.bytes);
    packer k = {a->block, ad_calloc(AD_PANEL * widest, sizeof(float)), ad_calloc(largest, sizeof(float))};
    ad_status st = a->block && k.rows && k.whole ? pack_all(l, &k) : no_memory(l);
    free(k.rows);
    free(k.whole);
    a->set.n_modules = l->n_modules;
    a->set.modules = a->modules;
    a->set.a = a->a;
    return st;
}

/* ---- identity ---- */

typedef struct {
    const loader *l;
    ad_status status;
    ad_err err;
} digest_job;

static void add_tensor(ad_hasher *h, const ad_tensor *t)
{
    int32_t type = (int32_t)t->dtype;
    ad_hasher_add(h, &type, sizeof type);
    ad_hasher_add(h, t->data, t->bytes);
}

static void *digest_all(void *arg)
{
    digest_job *job = arg;
    const loader *l = job->l;
    ad_hasher *h = NULL;
    job->status = ad_hasher_new(&h, &job->err);
    if (job->status != AD_OK) return NULL;
    for (int i = 0; i < l->n_modules; i++) {
        const pair *p = &l->pairs[i];
        struct {
            int32_t module, rank;
            float scale;
        } head = {i, p->plan.rank, p->plan.scale};
        if (!head.rank) continue;
        ad_hasher_add(h, &head, sizeof head);
        add_tensor(h, p->a);
        add_tensor(h, p->b);
    }
    job->status = ad_hasher_finish(&h, &l->adapter->digest, &job->err);
    return NULL;
}

/* Hashing takes as long as packing (5.4 ms for 9.8 MB), so they run side by side. */
static ad_status pack_and_digest(loader *l)
{
    digest_job job = {.l = l};
    pthread_t thread;
    bool aside = pthread_create(&thread, NULL, digest_all, &job) == 0;
    ad_status st = pack(l);
    if (aside) pthread_join(thread, NULL);
    else digest_all(&job);
    if (st == AD_OK && job.status != AD_OK) return ad_fail(l->err, job.status, "%s: %s", l->adapter->dir, job.err.msg);
    return st;
}

/* ---- the whole ---- */

static bool is_good_name(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/-";
    size_t n = strlen(name);
    return n >= 1 && n <= MAX_NAME && strspn(name, allowed) == n && strcmp(name, ".") && strcmp(name, "..");
}

static ad_status load(loader *l)
{
    ad_status st = read_config(l);
    if (st == AD_OK) st = read_weights(l);
    return st == AD_OK ? pack_and_digest(l) : st;
}

ad_status ad_adapter_load(ad_adapter **out, const char *name, const char *dir, const ad_model *base, ad_err *err)
{
    if (!is_good_name(name)) return ad_fail(err, AD_EINVAL, "adapter name \"%.140s\" is not 1 to %d letters, digits and ._:/-", name, MAX_NAME);
    if (strlen(dir) > 4096) return ad_fail(err, AD_EINVAL, "adapter %s: the path of its directory is too long", name);
    ad_adapter *a = ad_calloc(1, sizeof *a);
    if (!a) return ad_fail(err, AD_ENOMEM, "%s: out of memory for the adapter", dir);
    loader l = {.adapter = a, .base = base, .n_modules = ad_model_module_count(base), .err = err};
    a->refs = 1;
    a->mix = (ad_mix){1, {&a->set}, {1}};
    a->name = strdup(name);
    a->dir = strdup(dir);
    l.pairs = ad_calloc((size_t)l.n_modules, sizeof *l.pairs);
    ad_status st = a->name && a->dir && l.pairs ? load(&l) : ad_fail(err, AD_ENOMEM, "%s: out of memory for the adapter", dir);
    free(l.pairs);
    ad_safetensors_close(&l.file);
    if (st == AD_OK) *out = a;
    else ad_adapter_release(&a);
    return st;
}

ad_adapter *ad_adapter_retain(ad_adapter *a)
{
    a->refs++;
    return a;
}

void ad_adapter_release(ad_adapter **ap)
{
    ad_adapter *a = *ap;
    *ap = NULL;
    if (!a || --a->refs > 0) return;
    for (int i = 0; i < a->n_warnings; i++) free(a->warnings[i]);
    free(a->warnings);
    ad_arena_free(a->block, a->set.bytes);
    free(a->modules);
    free(a->a);
    free(a->dir);
    free(a->name);
    free(a);
}

const char *ad_adapter_name(const ad_adapter *a) { return a->name; }
const char *ad_adapter_dir(const ad_adapter *a) { return a->dir; }
const ad_lowrank_set *ad_adapter_lowrank(const ad_adapter *a) { return &a->set; }
const ad_mix *ad_adapter_mix(const ad_adapter *a) { return &a->mix; }
const ad_digest *ad_adapter_digest(const ad_adapter *a) { return &a->digest; }
int ad_adapter_rank(const ad_adapter *a) { return a->set.max_rank; }
int ad_adapter_matched_modules(const ad_adapter *a) { return a->n_matched; }
size_t ad_adapter_packed_bytes(const ad_adapter *a) { return a->set.bytes; }
int ad_adapter_warning_count(const ad_adapter *a) { return a->n_warnings; }

const char *ad_adapter_warning(const ad_adapter *a, int i)
{
    assert(i >= 0 && i < a->n_warnings);
    return a->warnings[i];
}
