/* SPDX-License-Identifier: MIT */
/* Which base model this is, whatever its file is called. */
#include <stdlib.h>
#include <string.h>

#include "core/model/family.h"

enum { SAMPLE = 4096 };

static void add_u64(ad_hasher *h, uint64_t v) { ad_hasher_add(h, &v, sizeof v); }
static void add_f64(ad_hasher *h, double v) { ad_hasher_add(h, &v, sizeof v); }

static void add_text(ad_hasher *h, const char *s)
{
    add_u64(h, strlen(s));
    ad_hasher_add(h, s, strlen(s));
}

static void add_config(ad_hasher *h, const ad_model *m)
{
    const ad_model_config *c = &m->config;
    const ad_rope *r = &m->rope;
    const int sizes[] = {c->vocab, c->hidden, c->layers, c->heads, c->kv_heads, c->head_dim, c->intermediate, c->max_positions, c->tied_head};
    const double numbers[] = {(double)c->norm_eps, r->theta, r->factor, r->original_positions, r->low_freq, r->high_freq, r->beta_fast, r->beta_slow, r->magnitude};
    add_text(h, "adapterd base 1");
    add_text(h, c->family);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) add_u64(h, (uint64_t)sizes[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) add_f64(h, numbers[i]);
    add_u64(h, (uint64_t)r->kind);
    add_u64(h, r->truncate);
}

static void add_tensor(ad_hasher *h, const ad_tensor *t)
{
    const char *data = t->data;
    add_text(h, t->name);
    add_text(h, ad_dtype_name(t->dtype));
    add_u64(h, (uint64_t)t->n_dims);
    for (int i = 0; i < t->n_dims; i++) add_u64(h, (uint64_t)t->dims[i]);
    if (t->bytes <= 3 * SAMPLE) {
        ad_hasher_add(h, data, t->bytes);
        return;
    }
    ad_hasher_add(h, data, SAMPLE);
    ad_hasher_add(h, data + (t->bytes - SAMPLE) / 2, SAMPLE);
    ad_hasher_add(h, data + t->bytes - SAMPLE, SAMPLE);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const ad_tensor *const *)a)->name, (*(const ad_tensor *const *)b)->name);
}

ad_status ad_model_make_fingerprint(ad_model *m, ad_err *err)
{
    size_t n = ad_source_count(m->src);
    const ad_tensor **tensors = ad_calloc(n, sizeof *tensors);
    ad_hasher *h = NULL;
    if (!tensors) return ad_fail(err, AD_ENOMEM, "%s: out of memory", m->path);
    for (size_t i = 0; i < n; i++) tensors[i] = ad_source_at(m->src, i);
    if (n) qsort(tensors, n, sizeof *tensors, by_name);
    ad_status st = ad_hasher_new(&h, err);
    if (st == AD_OK) {
        add_config(h, m);
        add_u64(h, n);
        for (size_t i = 0; i < n; i++) add_tensor(h, tensors[i]);
        st = ad_hasher_finish(&h, &m->fingerprint, err);
    }
    free(tensors);
    return st;
}

const ad_digest *ad_model_fingerprint(const ad_model *m) { return &m->fingerprint; }
