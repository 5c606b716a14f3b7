/* SPDX-License-Identifier: MIT */
/* The pool of KV pages: who holds which, and which full pages are known by their content so that another sequence
 * with the same beginning may hold them too. Engine thread; nothing here touches the numbers in a page. */
#ifndef AD_ENGINE_KV_H
#define AD_ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/mem.h"
#include "core/model/step.h"

typedef struct ad_kv ad_kv;

/* What a page follows: a known page, or nothing under some root. Roots are 128 bits of a digest of everything but the
 * tokens that decides a KV (adapters with weights, mode, salt); pages have serial numbers that are never used twice. */
typedef struct {
    uint64_t a, b;
} ad_kv_parent;

/* n_pages of page_bytes each. AD_ENOMEM. */
AD_MUSTUSE ad_status ad_kv_new(ad_kv **out, size_t page_bytes, int n_pages, ad_err *err);
void ad_kv_free(ad_kv **kv); /* NULL is fine */

int ad_kv_total(const ad_kv *kv);
int ad_kv_available(const ad_kv *kv); /* held by nobody; known ones among them are forgotten when taken */
void *ad_kv_page(const ad_kv *kv, int page);

/* A page of one's own, with one hold: an unknown free one, else the known one unused for longest. -1: all are held. */
int ad_kv_take(ad_kv *kv);
void ad_kv_release(ad_kv *kv, int page); /* gives one hold back */

/* The known page with these AD_KV_PAGE tokens after `parent`, with one more hold; -1 when there is none. */
int ad_kv_find(ad_kv *kv, ad_kv_parent parent, const int32_t *tokens);
/* Makes a full page known, unless its content is known already; returns what its successor's parent is. */
ad_kv_parent ad_kv_publish(ad_kv *kv, int page, ad_kv_parent parent, const int32_t *tokens);
/* The parent that successors of a known page have. */
ad_kv_parent ad_kv_parent_of(const ad_kv *kv, int page);

#endif
