/* SPDX-License-Identifier: MIT */
/* A queue of things that begin with an ad_link; the caller owns them and does the locking. */
#ifndef AD_BASE_LIST_H
#define AD_BASE_LIST_H

#include <stddef.h>

typedef struct ad_link ad_link;
struct ad_link {
    ad_link *next;
};

typedef struct {
    ad_link *head, **tail;
} ad_list;

static inline void ad_list_init(ad_list *l)
{
    l->head = NULL;
    l->tail = &l->head;
}

static inline void ad_list_push(ad_list *l, void *thing)
{
    ad_link *link = thing;
    link->next = NULL;
    *l->tail = link;
    l->tail = &link->next;
}

/* NULL: it is empty. */
static inline void *ad_list_pop(ad_list *l)
{
    ad_link *link = l->head;
    if (!link) return NULL;
    l->head = link->next;
    if (!l->head) l->tail = &l->head;
    return link;
}

/* Moves all of `from` to the end of `to`. */
static inline void ad_list_move(ad_list *to, ad_list *from)
{
    if (!from->head) return;
    *to->tail = from->head;
    to->tail = from->tail;
    ad_list_init(from);
}

#endif
