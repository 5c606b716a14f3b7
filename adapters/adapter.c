/* SPDX-License-Identifier: MIT */
/* One adapter version: how it comes to be, and what others may ask of it. load.c reads the files, pack.c makes the engine's
 * form of them, digest.c their identity. */
#include "adapters/adapter.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/load.h"
#include "adapters/methods/extras.h"

static atomic_size_t live_bytes;

enum { MAX_NAME = 128, MAX_DIR = 4096 };

/* ---- what all parts of the loader say ---- */

ad_status ad_load_no_memory(ad_loader *l)
{
    return ad_fail(l->err, AD_ENOMEM, "%s: out of memory for the adapter", l->adapter->dir);
}

ad_status ad_load_refuse(ad_loader *l, const ad_tensor *t, const char *why)
{
    return ad_fail(l->err, AD_EMISMATCH, "%s: tensor \"%.160s\" %s", l->label, t->name, why);
}

ad_status ad_load_warn(ad_loader *l, ad_buf *text)
{
    ad_adapter *a = l->adapter;
    char **more = text->failed ? NULL : realloc(a->warnings, (size_t)(a->n_warnings + 1) * sizeof *more);
    if (!more) {
        ad_buf_deinit(text);
        return ad_load_no_memory(l);
    }
    a->warnings = more;
    more[a->n_warnings++] = text->data; /* the buffer's memory is ours now */
    return AD_OK;
}

ad_status ad_load_set(ad_loader *l, const char *owner, const char *key, const void *value, size_t len)
{
    if (ad_grow(&l->settings, &l->cap_settings, l->n_settings + 1, sizeof *l->settings) != AD_OK) return ad_load_no_memory(l);
    l->settings[l->n_settings++] = (ad_load_setting){owner, key, value, len};
    return AD_OK;
}

ad_status ad_load_take(ad_loader *l, const char *owner, const char *part, const ad_tensor *t)
{
    if (ad_grow(&l->parts, &l->cap_parts, l->n_parts + 1, sizeof *l->parts) != AD_OK) return ad_load_no_memory(l);
    l->parts[l->n_parts++] = (ad_load_part){owner, part, t};
    return AD_OK;
}

bool ad_load_new_block(ad_loader *l)
{
    ad_adapter *a = l->adapter;
    a->block = ad_arena_new(a->set.bytes);
    if (a->block) atomic_fetch_add(&live_bytes, a->set.bytes);
    return a->block != NULL;
}

/* ---- loading ---- */

/* Hashing takes longer than packing, so they run side by side; who is done goes on with the norms. */
typedef struct {
    ad_loader *l;
    ad_status status; /* of the helper thread */
    ad_err err;
    atomic_int next;  /* module without a norm; beyond all of them until they are packed */
} work;

static void *run_digest(void *arg)
{
    work *w = arg;
    w->status = ad_load_digest(w->l, &w->l->adapter->digest, &w->err);
    if (w->status == AD_OK && atomic_load(&w->next) < w->l->n_modules) w->status = ad_load_norms(w->l, NULL, w->l->n_modules, &w->next, &w->err);
    return NULL;
}

static ad_status pack_and_digest(ad_loader *l)
{
    work w = {.l = l, .next = l->n_modules};
    pthread_t thread;
    bool aside = pthread_create(&thread, NULL, run_digest, &w) == 0;
    ad_status st = ad_load_pack(l);
    if (st == AD_OK) atomic_store(&w.next, 0);
    if (st == AD_OK) st = ad_load_norms(l, NULL, l->n_modules, &w.next, l->err);
    if (aside) pthread_join(thread, NULL);
    else run_digest(&w);
    if (st == AD_OK && w.status != AD_OK) return ad_fail(l->err, w.status, "%s: %s", l->adapter->dir, w.err.msg);
    return st;
}

/* Trained adapters were seen at 0.01 to 0.13 of their weight's norm, strong synthetic ones at 0.5. A correction as large as the weight leaves
 * little of the base model: alpha is wrong, or the training diverged. */
#define HUGE_NORM 1.0f

static ad_status warn_zero(ad_loader *l, int zeros)
{
    ad_buf b = {0};
    bool all = zeros == l->adapter->n_matched && l->n_parts == 2 * (size_t)zeros;
    if (all) ad_buf_printf(&b, "the adapter changes nothing: B A is 0 in all of its %d modules", zeros);
    else ad_buf_printf(&b, "B A is 0 in %d of %d modules", zeros, l->adapter->n_matched);
    return ad_load_warn(l, &b);
}

ad_status ad_load_check_norms(ad_loader *l)
{
    int zeros = 0, huge = 0, worst = 0;
    float most = 0;
    for (int i = 0; i < l->n_modules; i++) {
        if (!l->pairs[i].plan.rank) continue;
        float norm = l->adapter->norms[i], own = ad_model_module_norm(l->base, i), share = own > 0 ? norm / own : 0;
        zeros += norm == 0;
        huge += share > HUGE_NORM;
        if (share > most) most = share, worst = i;
    }
    ad_status st = zeros ? warn_zero(l, zeros) : AD_OK;
    if (st != AD_OK || !huge) return st;
    ad_buf b = {0};
    ad_buf_printf(&b, "in %d of %d modules the correction is larger than the base model's weight (%s: %.3g times): alpha may be wrong, or the training diverged", huge,
                  l->adapter->n_matched, ad_model_module(l->base, worst)->name, (double)most);
    return ad_load_warn(l, &b);
}

static ad_kernels kernels;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find_kernels(void)
{
    ad_kernels_init(&kernels, ad_cpu_detect());
}

static bool is_good_name(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/-";
    size_t n = strlen(name);
    return n >= 1 && n <= MAX_NAME && strspn(name, allowed) == n && strcmp(name, ".") && strcmp(name, "..");
}

/* A directory says by its files which format it is in. */
static ad_status read_files(ad_loader *l, const char *path)
{
    char config[MAX_DIR + 32], gguf[MAX_DIR + 32];
    struct stat info;
    size_t n = strlen(path);
    bool is_file = stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
    if (is_file && n > 5 && !strcmp(path + n - 5, ".gguf")) return ad_load_gguf(l, path);
    if (is_file) return ad_fail(l->err, AD_EUNSUPPORTED, "%s: neither a directory nor a .gguf file", path);
    snprintf(config, sizeof config, "%s/adapter_config.json", path);
    snprintf(gguf, sizeof gguf, "%s/adapter.gguf", path);
    if (access(gguf, F_OK) != 0) return ad_load_peft(l);
    if (access(config, F_OK) == 0) return ad_fail(l->err, AD_EFORMAT, "%s: holds adapter_config.json and adapter.gguf, which may be two adapters; remove one", path);
    return ad_load_gguf(l, gguf);
}

static void close_files(ad_loader *l)
{
    ad_safetensors_close(&l->file);
    ad_gguf_close(&l->gguf);
    ad_file_close(&l->bytes);
    if (l->converted) ad_arena_free(l->converted, l->converted_bytes);
    free(l->plain);
    free(l->pairs);
    ad_extras_free(&l->extras);
    free(l->settings);
    free(l->parts);
}

ad_status ad_load_begin(ad_loader *l, const char *name, const char *path, const ad_model *base, bool mapped, ad_err *err)
{
    if (!is_good_name(name)) return ad_fail(err, AD_EINVAL, "adapter name \"%.140s\" is not 1 to %d letters, digits and ._:/-", name, MAX_NAME);
    if (strlen(path) > MAX_DIR) return ad_fail(err, AD_EINVAL, "adapter %s: the path of its directory is too long", name);
    ad_adapter *a = ad_calloc(1, sizeof *a);
    if (!a) return ad_fail(err, AD_ENOMEM, "%s: out of memory for the adapter", path);
    *l = (ad_loader){.adapter = a, .base = base, .n_modules = ad_model_module_count(base), .mapped = mapped, .label = path, .arch = "", .kernels = &kernels, .err = err};
    pthread_once(&once, find_kernels);
    a->refs = 1;
    a->mix = (ad_mix){1, {&a->set}, {1}};
    a->name = strdup(name);
    a->dir = strdup(path);
    a->norms = ad_calloc((size_t)l->n_modules, sizeof *a->norms);
    l->pairs = ad_calloc((size_t)l->n_modules, sizeof *l->pairs);
    return a->name && a->dir && a->norms && l->pairs ? AD_OK : ad_fail(err, AD_ENOMEM, "%s: out of memory for the adapter", path);
}

void ad_load_end(ad_loader *l, ad_status st, ad_adapter **out)
{
    ad_adapter *a = l->adapter;
    if (!a) return;
    a->n_tensors = (int)l->n_parts;
    close_files(l);
    if (st == AD_OK && out) *out = a;
    else ad_adapter_release(&a);
}

static ad_status load(ad_adapter **out, const char *name, const char *path, const ad_model *base, bool mapped, ad_err *err)
{
    ad_loader l = {0};
    ad_status st = ad_load_begin(&l, name, path, base, mapped, err);
    if (st == AD_OK) st = read_files(&l, path);
    if (st == AD_OK) st = pack_and_digest(&l);
    if (st == AD_OK) st = ad_load_check_norms(&l);
    ad_load_end(&l, st, out);
    return st;
}

ad_status ad_adapter_load(ad_adapter **out, const char *name, const char *path, const ad_model *base, ad_err *err)
{
    return load(out, name, path, base, false, err);
}

ad_status ad_adapter_load_mapped(ad_adapter **out, const char *name, const char *path, const ad_model *base, ad_err *err)
{
    return load(out, name, path, base, true, err);
}

/* ---- all that is wrong ---- */

typedef struct {
    int n, most;
    ad_err err;
    void (*reason)(void *user, const char *text);
    void *user;
} reasons;

enum { COUNTED = 100000 };

static bool on_wrong(void *user)
{
    reasons *r = user;
    if (r->n++ < r->most) r->reason(r->user, r->err.msg);
    return r->n < COUNTED;
}

int ad_adapter_reasons(const char *path, const ad_model *base, int most, void (*reason)(void *user, const char *text), void *user)
{
    reasons r = {.most = most, .reason = reason, .user = user};
    ad_loader l = {0};
    char config[MAX_DIR + 32];
    snprintf(config, sizeof config, "%s/adapter_config.json", path);
    bool is_peft = access(config, F_OK) == 0;
    ad_adapter *a = NULL;
    ad_status st = is_peft ? ad_load_begin(&l, "adapter", path, base, true, &r.err) : ad_adapter_load_mapped(&a, "adapter", path, base, &r.err);
    if (st != AD_OK) on_wrong(&r);
    else if (is_peft) ad_load_peft_reasons(&l, on_wrong, &r);
    ad_load_end(&l, AD_EIO, NULL);
    ad_adapter_release(&a);
    return r.n > most ? r.n - most : 0;
}

/* ---- the object ---- */

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
    if (a->block) atomic_fetch_sub(&live_bytes, a->set.bytes);
    ad_arena_free(a->block, a->set.bytes);
    free(a->base_name);
    free(a->norms);
    free(a->modules);
    free(a->part_modules);
    free(a->part_norms);
    free(a->a);
    free(a->dir);
    free(a->name);
    free(a);
}

const char *ad_adapter_name(const ad_adapter *a) { return a->name; }
const ad_lowrank_set *ad_adapter_lowrank(const ad_adapter *a) { return &a->set; }
const ad_mix *ad_adapter_mix(const ad_adapter *a) { return &a->mix; }
const ad_digest *ad_adapter_digest(const ad_adapter *a) { return &a->digest; }
int ad_adapter_rank(const ad_adapter *a) { return a->set.max_rank; }
const char *ad_adapter_format(const ad_adapter *a) { return a->gguf ? "gguf" : "peft"; }
const char *ad_adapter_base_name(const ad_adapter *a) { return a->base_name; }
int ad_adapter_matched_modules(const ad_adapter *a) { return a->n_matched; }
int ad_adapter_matched_tensors(const ad_adapter *a) { return a->n_tensors; }

float ad_adapter_norm(const ad_adapter *a, int module)
{
    assert(module >= 0 && module < a->set.n_modules);
    return a->norms[module];
}

size_t ad_adapter_live_bytes(void) { return atomic_load(&live_bytes); }
size_t ad_adapter_packed_bytes(const ad_adapter *a) { return a->set.bytes; }
int ad_adapter_warning_count(const ad_adapter *a) { return a->n_warnings; }

const char *ad_adapter_warning(const ad_adapter *a, int i)
{
    assert(i >= 0 && i < a->n_warnings);
    return a->warnings[i];
}
