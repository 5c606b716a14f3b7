/* SPDX-License-Identifier: MIT */
/* Things by name: an open hash table. Names belong to the things. */
#ifndef AD_TENANCY_TABLE_H
#define AD_TENANCY_TABLE_H

#include <stddef.h>

#include "core/base/status.h"

typedef struct {
    const char *name; /* NULL: the slot is empty */
    void *thing;
} ad_table_slot;

/* Zero-initialise. */
typedef struct {
    ad_table_slot *slots; /* [size], a power of two; at most half are taken */
    size_t size, n;
} ad_table;

void *ad_table_find(const ad_table *t, const char *name); /* NULL: there is none */
AD_MUSTUSE ad_status ad_table_make_room(ad_table *t); /* for one more; AD_ENOMEM */
void ad_table_add(ad_table *t, const char *name, void *thing); /* there must be room, and the name be new */
void ad_table_remove(ad_table *t, const char *name);
void ad_table_deinit(ad_table *t);

#endif
