/* SPDX-License-Identifier: MIT */
#include "server/tenancy/table.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

static size_t home_of(const ad_table *t, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32) & (t->size - 1);
}

/* Where the name is, or would be. */
static ad_table_slot *slot_of(const ad_table *t, const char *name)
{
    size_t i = home_of(t, name);
    while (t->slots[i].name && strcmp(t->slots[i].name, name)) i = (i + 1) & (t->size - 1);
    return &t->slots[i];
}

void *ad_table_find(const ad_table *t, const char *name) { return t->size ? slot_of(t, name)->thing : NULL; }

static ad_status grow(ad_table *t)
{
    ad_table more = {.size = t->size ? t->size * 2 : 16};
    more.slots = ad_calloc(more.size, sizeof *more.slots);
    if (!more.slots) return AD_ENOMEM;
    for (size_t i = 0; i < t->size; i++)
        if (t->slots[i].name) *slot_of(&more, t->slots[i].name) = t->slots[i];
    more.n = t->n;
    free(t->slots);
    *t = more;
    return AD_OK;
}

ad_status ad_table_make_room(ad_table *t) { return 2 * (t->n + 1) > t->size ? grow(t) : AD_OK; }

void ad_table_add(ad_table *t, const char *name, void *thing)
{
    *slot_of(t, name) = (ad_table_slot){name, thing};
    t->n++;
}

/* What follows without a gap moves to where it is found again. */
void ad_table_remove(ad_table *t, const char *name)
{
    ad_table_slot *gap = t->size ? slot_of(t, name) : NULL;
    if (!gap || !gap->name) return;
    *gap = (ad_table_slot){0};
    t->n--;
    for (size_t i = (size_t)(gap - t->slots + 1) & (t->size - 1); t->slots[i].name; i = (i + 1) & (t->size - 1)) {
        ad_table_slot moved = t->slots[i];
        t->slots[i] = (ad_table_slot){0};
        *slot_of(t, moved.name) = moved;
    }
}

void ad_table_deinit(ad_table *t)
{
    free(t->slots);
    *t = (ad_table){0};
}
