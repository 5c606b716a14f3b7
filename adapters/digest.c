/* SPDX-License-Identifier: MIT */
/* The identity of an adapter: the bytes that adapter.h describes, through SHA-256. */
#include "adapters/load.h"

#include <stdlib.h>
#include <string.h>

static void add_u32(ad_hasher *h, size_t v)
{
    uint32_t n = (uint32_t)v;
    ad_hasher_add(h, &n, sizeof n);
}

static void add_u64(ad_hasher *h, uint64_t v)
{
    ad_hasher_add(h, &v, sizeof v);
}

static void add_bytes(ad_hasher *h, const void *data, size_t len)
{
    add_u32(h, len);
    ad_hasher_add(h, data, len);
}

static void add_text(ad_hasher *h, const char *s)
{
    add_bytes(h, s, strlen(s));
}

void ad_load_digest_part(ad_hasher *h, const ad_load_part *p)
{
    const ad_tensor *t = p->tensor;
    add_text(h, p->owner);
    add_text(h, p->part);
    add_text(h, ad_dtype_name(t->dtype));
    add_u32(h, (size_t)t->n_dims);
    for (int i = 0; i < t->n_dims; i++) add_u64(h, (uint64_t)t->dims[i]);
    add_u64(h, t->bytes);
    ad_hasher_add(h, t->data, t->bytes);
}

static int by_owner_and_key(const void *a, const void *b)
{
    const ad_load_setting *x = a, *y = b;
    int c = strcmp(x->owner, y->owner);
    return c ? c : strcmp(x->key, y->key);
}

static int by_owner_and_part(const void *a, const void *b)
{
    const ad_load_part *x = a, *y = b;
    int c = strcmp(x->owner, y->owner);
    return c ? c : strcmp(x->part, y->part);
}

ad_status ad_load_digest_begin(ad_loader *l, ad_hasher **out, ad_err *err)
{
    ad_hasher *h = NULL;
    ad_status st = ad_hasher_new(&h, err);
    if (st != AD_OK) return st;
    if (l->n_settings) qsort(l->settings, l->n_settings, sizeof *l->settings, by_owner_and_key);
    if (l->n_parts) qsort(l->parts, l->n_parts, sizeof *l->parts, by_owner_and_part);
    add_text(h, "adapterd adapter 1");
    add_text(h, l->adapter->gguf ? "gguf" : "peft");
    add_text(h, l->arch);
    add_u32(h, l->n_settings);
    for (const ad_load_setting *s = l->settings; s < l->settings + l->n_settings; s++) {
        add_text(h, s->owner);
        add_text(h, s->key);
        add_bytes(h, s->value, s->len);
    }
    add_u32(h, l->n_parts);
    *out = h;
    return AD_OK;
}

ad_status ad_load_digest(ad_loader *l, ad_digest *out, ad_err *err)
{
    ad_hasher *h = NULL;
    ad_status st = ad_load_digest_begin(l, &h, err);
    if (st != AD_OK) return st;
    for (const ad_load_part *p = l->parts; p < l->parts + l->n_parts; p++) ad_load_digest_part(h, p);
    return ad_hasher_finish(&h, out, err);
}
