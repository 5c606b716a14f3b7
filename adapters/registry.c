/* SPDX-License-Identifier: MIT */
/* Names -> adapter versions: an array in order of publication and an index of hashes. Loop thread only. */
#include "adapters/registry.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/mem.h"

struct ad_registry {
    const ad_model *base;
    ad_adapter **list;
    size_t n, cap;
    int32_t *slots; /* open addressing, at most half full: place in list, or -1 */
    size_t n_slots; /* a power of two */
};

static size_t hash_name(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

/* The slot of the name: its own, or the free one where it would go. */
static size_t find_slot(const ad_registry *reg, const char *name)
{
    size_t at = hash_name(name) & (reg->n_slots - 1);
    while (reg->slots[at] >= 0 && strcmp(ad_adapter_name(reg->list[reg->slots[at]]), name)) at = (at + 1) & (reg->n_slots - 1);
    return at;
}

static void reindex(ad_registry *reg)
{
    memset(reg->slots, 0xFF, reg->n_slots * sizeof *reg->slots);
    for (size_t i = 0; i < reg->n; i++) reg->slots[find_slot(reg, ad_adapter_name(reg->list[i]))] = (int32_t)i;
}

static ad_status make_room(ad_registry *reg)
{
    if (ad_grow(&reg->list, &reg->cap, reg->n + 1, sizeof(ad_adapter *)) != AD_OK) return AD_ENOMEM;
    if (2 * (reg->n + 1) <= reg->n_slots) return AD_OK;
    int32_t *slots = ad_calloc(reg->n_slots * 2, sizeof *slots);
    if (!slots) return AD_ENOMEM;
    free(reg->slots);
    reg->slots = slots;
    reg->n_slots *= 2;
    reindex(reg);
    return AD_OK;
}

ad_status ad_registry_new(ad_registry **out, const ad_model *base, ad_err *err)
{
    ad_registry *reg = ad_calloc(1, sizeof *reg);
    if (reg) {
        reg->base = base;
        reg->n_slots = 64;
        reg->slots = ad_calloc(reg->n_slots, sizeof *reg->slots);
    }
    if (!reg || !reg->slots) {
        free(reg);
        return ad_fail(err, AD_ENOMEM, "out of memory for the adapter registry");
    }
    reindex(reg);
    *out = reg;
    return AD_OK;
}

void ad_registry_free(ad_registry **rp)
{
    ad_registry *reg = *rp;
    if (!reg) return;
    *rp = NULL;
    for (size_t i = 0; i < reg->n; i++) ad_adapter_release(&reg->list[i]);
    free(reg->list);
    free(reg->slots);
    free(reg);
}

ad_status ad_registry_publish(ad_registry *reg, ad_adapter *a, bool replace, ad_err *err)
{
    size_t slot = find_slot(reg, ad_adapter_name(a));
    if (reg->slots[slot] >= 0) {
        ad_adapter **old = &reg->list[reg->slots[slot]];
        if (!replace) return ad_fail(err, AD_EEXIST, "an adapter named \"%s\" is there already", ad_adapter_name(a));
        ad_adapter_release(old);
        *old = a;
        return AD_OK;
    }
    if (make_room(reg) != AD_OK) return ad_fail(err, AD_ENOMEM, "out of memory for adapter \"%s\"", ad_adapter_name(a));
    reg->slots[find_slot(reg, ad_adapter_name(a))] = (int32_t)reg->n;
    reg->list[reg->n++] = a;
    return AD_OK;
}

ad_status ad_registry_remove(ad_registry *reg, const char *name, ad_err *err)
{
    int32_t at = reg->slots[find_slot(reg, name)];
    if (at < 0) return ad_fail(err, AD_ENOTFOUND, "there is no adapter named \"%.140s\"", name);
    ad_adapter_release(&reg->list[at]);
    reg->n--;
    memmove(reg->list + at, reg->list + at + 1, (reg->n - (size_t)at) * sizeof(ad_adapter *));
    reindex(reg);
    return AD_OK;
}

ad_adapter *ad_registry_find(const ad_registry *reg, const char *name)
{
    int32_t at = reg->slots[find_slot(reg, name)];
    return at >= 0 ? reg->list[at] : NULL;
}

int ad_registry_count(const ad_registry *reg)
{
    return (int)reg->n;
}

ad_adapter *ad_registry_at(const ad_registry *reg, int i)
{
    return reg->list[i];
}

/* ---- a directory of adapters ---- */

static ad_status load_one(ad_registry *reg, const char *dir, const char *name, ad_err *err)
{
    char path[4097], config[4200];
    struct stat st;
    ad_adapter *a = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path) return ad_fail(err, AD_EINVAL, "%s/%s: the path is too long", dir, name);
    snprintf(config, sizeof config, "%s/adapter_config.json", path);
    if (stat(config, &st) != 0) return AD_OK; /* something else */
    ad_status rc = ad_adapter_load(&a, name, path, reg->base, err);
    if (rc == AD_OK) rc = ad_registry_publish(reg, a, false, err);
    if (rc != AD_OK) ad_adapter_release(&a);
    return rc;
}

ad_status ad_registry_load_dir(ad_registry *reg, const char *dir, ad_err *err)
{
    struct dirent **entries = NULL;
    int n = scandir(dir, &entries, NULL, alphasort);
    if (n < 0) return ad_fail(err, AD_EIO, "%s: cannot read the directory of adapters: %m", dir);
    ad_status st = AD_OK;
    for (int i = 0; i < n; i++) {
        if (st == AD_OK && entries[i]->d_name[0] != '.') st = load_one(reg, dir, entries[i]->d_name, err);
        free(entries[i]);
    }
    free(entries);
    return st;
}
