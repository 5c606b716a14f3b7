/* SPDX-License-Identifier: MIT */
/* Loads an adapter while it arrives. The weights' file is mapped for the longest it may become, and only what has been written to it is looked at: once the header
 * is there, everything is planned and checked; then each tensor is hashed when its turn has come, and each group of modules packed when it is whole. Files
 * as PEFT writes them hold tensors in the order of the digest, so that little is left to do at the end. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "adapters/load.h"

enum { LENGTH = 8 }; /* bytes in front of the header that say how long it is */

/* What is packed together, and when it can be. */
typedef struct {
    int group;
    size_t end;              /* bytes of the file that must be there */
} arrival;

struct ad_adapter_stream {
    ad_loader l;
    ad_packer packer;
    char *dir;               /* borrowed by the loader */
    const char *map;         /* of the file, mapped bytes; NULL: not opened yet */
    size_t mapped, total;    /* total: what the header says; 0: it has not come */
    ad_hasher *hasher;
    size_t n_hashed;         /* parts */
    arrival *arrivals;       /* [n_groups] in the order of their ends */
    int n_groups, n_packed;
    int *modules;            /* [n_modules] packed by the last advance */
};

/* ---- begin ---- */

ad_status ad_adapter_stream_new(ad_adapter_stream **out, const char *dir, const ad_model *base, size_t max_bytes, ad_err *err)
{
    ad_adapter_stream *s = ad_calloc(1, sizeof *s);
    if (!s || !(s->dir = strdup(dir))) {
        free(s);
        return ad_fail(err, AD_ENOMEM, "%s: out of memory for the adapter", dir);
    }
    s->mapped = max_bytes;
    ad_status st = ad_load_begin(&s->l, "adapter", s->dir, base, true, err);
    s->l.arriving = true;
    if (st == AD_OK) st = ad_load_peft_config(&s->l);
    if (st == AD_OK) *out = s;
    else ad_adapter_stream_free(&s);
    return st;
}

void ad_adapter_stream_free(ad_adapter_stream **sp)
{
    ad_adapter_stream *s = *sp;
    ad_digest unused;
    if (!s) return;
    *sp = NULL;
    ad_load_end(&s->l, AD_EIO, NULL);
    ad_load_pack_end(&s->packer);
    if (s->hasher && ad_hasher_finish(&s->hasher, &unused, NULL) != AD_OK) {} /* only to free it */
    if (s->map) munmap((void *)(uintptr_t)s->map, s->mapped);
    free(s->arrivals);
    free(s->modules);
    free(s->dir);
    free(s);
}

static ad_status map_weights(ad_adapter_stream *s)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", s->dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, s->mapped, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    int error = errno;
    if (fd >= 0) close(fd);
    if (p == MAP_FAILED) return ad_fail(s->l.err, AD_EIO, "%s: %s", path, strerror(error));
    s->map = p;
    return AD_OK;
}

/* ---- the header ---- */

static size_t end_of(const ad_adapter_stream *s, const ad_tensor *t)
{
    return (size_t)((const char *)t->data - s->map) + t->bytes;
}

static int by_end(const void *a, const void *b)
{
    const arrival *x = a, *y = b;
    return x->end != y->end ? (x->end > y->end ? 1 : -1) : x->group - y->group;
}

static ad_status plan_arrivals(ad_adapter_stream *s)
{
    ad_loader *l = &s->l;
    s->n_groups = ad_model_group_count(l->base);
    s->arrivals = ad_calloc((size_t)s->n_groups, sizeof *s->arrivals);
    s->modules = ad_calloc((size_t)l->n_modules, sizeof *s->modules);
    if (!s->arrivals || !s->modules) return ad_load_no_memory(l);
    for (int g = 0, first; g < s->n_groups; g++) {
        int n = ad_load_group(l, g, &first);
        s->arrivals[g].group = g;
        for (int i = first; i < first + n; i++) {
            if (!l->pairs[i].plan.rank) continue;
            size_t a = end_of(s, l->pairs[i].a), b = end_of(s, l->pairs[i].b), end = a > b ? a : b;
            if (end > s->arrivals[g].end) s->arrivals[g].end = end;
        }
    }
    qsort(s->arrivals, (size_t)s->n_groups, sizeof *s->arrivals, by_end);
    return AD_OK;
}

static ad_status read_header(ad_adapter_stream *s, size_t have)
{
    ad_loader *l = &s->l;
    size_t total = 0;
    ad_status st = ad_safetensors_parse_head(&l->file, s->map, have, s->dir, &total, l->err);
    if (st == AD_OK && total > s->mapped) st = ad_fail(l->err, AD_ELIMIT, "%s: its header says %zu bytes; %zu are allowed", s->dir, total, s->mapped);
    if (st == AD_OK) st = ad_load_peft_tensors(l);
    if (st == AD_OK) st = ad_load_pack_begin(l, &s->packer);
    if (st == AD_OK) st = ad_load_digest_begin(l, &s->hasher, l->err);
    if (st == AD_OK) st = plan_arrivals(s);
    if (st == AD_OK) s->total = total;
    return st;
}

/* ---- tensors ---- */

static void hash_parts(ad_adapter_stream *s, size_t have)
{
    const ad_loader *l = &s->l;
    while (s->n_hashed < l->n_parts && end_of(s, l->parts[s->n_hashed].tensor) <= have) ad_load_digest_part(s->hasher, &l->parts[s->n_hashed++]);
}

static ad_status pack_groups(ad_adapter_stream *s, size_t have)
{
    ad_status st = AD_OK;
    atomic_int next = 0;
    int n = 0;
    for (; st == AD_OK && s->n_packed < s->n_groups && s->arrivals[s->n_packed].end <= have; s->n_packed++) {
        int group = s->arrivals[s->n_packed].group, first, count = ad_load_group(&s->l, group, &first);
        st = ad_load_pack_group(&s->l, &s->packer, group);
        for (int i = first; i < first + count; i++) s->modules[n++] = i;
    }
    return st == AD_OK && n ? ad_load_norms(&s->l, s->modules, n, &next, s->l.err) : st;
}

ad_status ad_adapter_stream_advance(ad_adapter_stream *s, size_t have, ad_err *err)
{
    ad_status st = AD_OK;
    s->l.err = err;
    if (!s->total) {
        if (have < LENGTH) return AD_OK;
        if (!s->map) st = map_weights(s);
        if (st != AD_OK || have < ad_safetensors_head(s->map)) return st;
        st = read_header(s, have);
        if (st != AD_OK) return st;
    }
    hash_parts(s, have);
    return pack_groups(s, have);
}

ad_status ad_adapter_stream_finish(ad_adapter_stream **sp, size_t have, const char *name, ad_adapter **out, ad_err *err)
{
    ad_adapter_stream *s = *sp;
    ad_loader *l = &s->l;
    ad_status st = ad_adapter_stream_advance(s, have, err);
    if (st == AD_OK && (!s->total || have != s->total)) st = ad_fail(err, AD_EFORMAT, "%s: the file has %zu bytes; its header says %zu", s->dir, have, s->total);
    if (st == AD_OK) st = ad_hasher_finish(&s->hasher, &l->adapter->digest, err);
    if (st == AD_OK) st = ad_load_check_norms(l);
    char *copy = st == AD_OK ? strdup(name) : NULL;
    if (st == AD_OK && !copy) st = ad_load_no_memory(l);
    if (st == AD_OK) {
        assert(s->n_hashed == l->n_parts && s->n_packed == s->n_groups);
        free(l->adapter->name);
        l->adapter->name = copy;
        ad_load_end(l, AD_OK, out);
        l->adapter = NULL;
    }
    ad_adapter_stream_free(sp);
    return st;
}
