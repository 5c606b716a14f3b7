/* SPDX-License-Identifier: MIT */
/* The trie of added tokens: thousands of literal strings, the longest at a place wins. Built by one thread, then
 * read by any. */
#include <stdlib.h>
#include <string.h>

#include "core/text/text.h"

static uint32_t hash_edge(uint32_t key)
{
    uint64_t h = key * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32);
}

/* The slot of an edge: taken by it, or free. */
static uint64_t *edge_slot(const ad_tk_trie *t, uint32_t key)
{
    size_t mask = t->cap - 1, at = hash_edge(key) & mask;
    while (t->edges[at] && t->edges[at] >> 32 != key) at = (at + 1) & mask;
    return &t->edges[at];
}

static uint32_t child_of(const ad_tk_trie *t, uint32_t node, char byte)
{
    return (uint32_t)*edge_slot(t, node << 8 | (unsigned char)byte);
}

static ad_status grow_edges(ad_tk_trie *t)
{
    ad_tk_trie next = {.cap = t->cap ? t->cap * 2 : 256};
    next.edges = ad_calloc(next.cap, sizeof *next.edges);
    if (!next.edges) return AD_ENOMEM;
    for (size_t i = 0; i < t->cap; i++)
        if (t->edges[i]) *edge_slot(&next, (uint32_t)(t->edges[i] >> 32)) = t->edges[i];
    free(t->edges);
    t->edges = next.edges;
    t->cap = next.cap;
    return AD_OK;
}

static ad_status new_node(ad_tk_trie *t)
{
    if (t->n_nodes >> 24) return AD_ENOMEM; /* an edge's key has 24 bits for its node */
    if (ad_grow(&t->token, &t->nodes_cap, t->n_nodes + 1, sizeof *t->token) != AD_OK) return AD_ENOMEM;
    t->token[t->n_nodes++] = -1;
    return AD_OK;
}

static ad_status add_child(ad_tk_trie *t, uint32_t node, char byte, uint32_t *child)
{
    if (t->n_edges * 2 >= t->cap && grow_edges(t) != AD_OK) return AD_ENOMEM;
    if (new_node(t) != AD_OK) return AD_ENOMEM;
    uint32_t key = node << 8 | (unsigned char)byte;
    *child = (uint32_t)(t->n_nodes - 1);
    *edge_slot(t, key) = (uint64_t)key << 32 | *child;
    t->n_edges++;
    return AD_OK;
}

ad_status ad_tk_trie_add(ad_tk_trie *t, ad_str s, int32_t id)
{
    if (!t->cap && (grow_edges(t) != AD_OK || new_node(t) != AD_OK)) return AD_ENOMEM;
    uint32_t node = 0;
    for (size_t i = 0; i < s.len; i++) {
        uint32_t child = child_of(t, node, s.ptr[i]);
        if (!child && add_child(t, node, s.ptr[i], &child) != AD_OK) return AD_ENOMEM;
        node = child;
    }
    t->first[(unsigned char)s.ptr[0]] = true;
    if (t->token[node] < 0) t->token[node] = id;
    return AD_OK;
}

int32_t ad_tk_trie_longest(const ad_tk_trie *t, const char *s, size_t n, size_t *len)
{
    int32_t found = -1;
    if (!n || !t->first[(unsigned char)s[0]]) return -1;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = child_of(t, node, s[i]);
        if (!node) break;
        if (t->token[node] < 0) continue;
        found = t->token[node];
        *len = i + 1;
    }
    return found;
}

void ad_tk_trie_deinit(ad_tk_trie *t)
{
    free(t->edges);
    free(t->token);
    *t = (ad_tk_trie){0};
}
