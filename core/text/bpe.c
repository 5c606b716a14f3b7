/* SPDX-License-Identifier: MIT */
/* The merge loop of both kinds of BPE. Symbols form a linked list; candidates wait in a heap ordered by rank, then place;
 * a candidate that its symbols have outgrown is dropped when it comes up. O(n log n) for a word of n symbols. */
#include <stdlib.h>
#include <string.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

/* ---- merges by rank ---- */

static ad_tk_merge *merge_slot(const ad_tokenizer *tk, uint64_t pair)
{
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(h ^ h >> 32) & tk->merges_mask;
    while (tk->merges[at].id >= 0 && tk->merges[at].pair != pair) at = (at + 1) & tk->merges_mask;
    return &tk->merges[at];
}

ad_status ad_tk_merges_init(ad_tokenizer *tk, size_t count)
{
    size_t slots = 16;
    while (slots < count * 2) slots *= 2;
    tk->merges = ad_calloc(slots, sizeof *tk->merges);
    if (!tk->merges) return AD_ENOMEM;
    for (size_t i = 0; i < slots; i++) tk->merges[i].id = -1;
    tk->merges_mask = slots - 1;
    return AD_OK;
}

static int32_t model_id(const ad_tokenizer *tk, ad_str key)
{
    return ad_tk_map_find(&tk->by_key, tk->keys, key);
}

static ad_status put_ids(ad_tokenizer *tk, ad_str left, ad_str right, ad_str both, uint32_t rank)
{
    int32_t l = model_id(tk, left), r = model_id(tk, right), id = model_id(tk, both);
    if (l < 0 || r < 0 || id < 0) return AD_EFORMAT;
    uint64_t pair = (uint64_t)l << 32 | (uint32_t)r;
    *merge_slot(tk, pair) = (ad_tk_merge){pair, rank, id};
    return AD_OK;
}

ad_status ad_tk_merges_put(ad_tokenizer *tk, ad_str left, ad_str right, uint32_t rank)
{
    char small[512];
    size_t l = left.len, r = right.len;
    char *both = l + r <= sizeof small ? small : malloc(l + r);
    if (!both) return AD_ENOMEM;
    ad_status st = AD_OK;
    if (tk->byte_level) {
        if (!ad_tk_unmap(left, both, &l) || !ad_tk_unmap(right, both + l, &r)) st = AD_EFORMAT;
    } else {
        memcpy(both, left.ptr, l);
        memcpy(both + l, right.ptr, r);
    }
    if (st == AD_OK) st = put_ids(tk, (ad_str){both, l}, (ad_str){both + l, r}, (ad_str){both, l + r}, rank);
    if (both != small) free(both);
    return st;
}

/* ---- candidates ---- */

static void sift_down(ad_tk_cand *h, size_t n, size_t at)
{
    ad_tk_cand c = h[at];
    for (size_t kid; (kid = 2 * at + 1) < n; at = kid) {
        if (kid + 1 < n && h[kid + 1].order < h[kid].order) kid++;
        if (c.order <= h[kid].order) break;
        h[at] = h[kid];
    }
    h[at] = c;
}

static void sift_up(ad_tk_cand *h, size_t at)
{
    ad_tk_cand c = h[at];
    for (size_t up; at > 0 && c.order < h[up = (at - 1) / 2].order; at = up) h[at] = h[up];
    h[at] = c;
}

static ad_tk_cand pop(ad_tk_work *w)
{
    ad_tk_cand top = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    if (w->n_heap) sift_down(w->heap, w->n_heap, 0);
    return top;
}

/* Whether symbols l and its right neighbour r merge: by the rank of the pair, or by the score of what they make. */
static bool find_merge(const ad_tk_work *w, const char *word, int32_t l, int32_t r, ad_tk_cand *c)
{
    const ad_tokenizer *tk = w->tk;
    const ad_tk_symbol *a = &w->syms[l], *b = &w->syms[r];
    uint32_t rank;
    c->len = a->len + b->len;
    if (tk->score_rank) {
        if (c->len > tk->longest_key) return false;
        c->id = model_id(tk, (ad_str){word + a->pos, c->len});
        if (c->id < 0 || tk->flags[c->id] & AD_TK_NOT_TEXT) return false;
        rank = tk->score_rank[c->id];
    } else {
        const ad_tk_merge *m = merge_slot(tk, (uint64_t)a->id << 32 | (uint32_t)b->id);
        if (m->id < 0) return false;
        c->id = m->id;
        rank = m->rank;
    }
    c->order = (uint64_t)rank << 32 | (uint32_t)l;
    return true;
}

/* The heap has room: a word of n symbols never has more than 2 n candidates (n - 1 at first; a merge takes one, adds two). */
static void add_cand(ad_tk_work *w, const char *word, int32_t l, int32_t r)
{
    ad_tk_cand c;
    if (l < 0 || r < 0 || !find_merge(w, word, l, r, &c)) return;
    w->heap[w->n_heap] = c;
    sift_up(w->heap, w->n_heap++);
}

static void merge_all(ad_tk_work *w, const char *word, size_t n)
{
    ad_tk_symbol *s = w->syms;
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        if (find_merge(w, word, (int32_t)i, (int32_t)i + 1, &w->heap[w->n_heap])) w->n_heap++;
    for (size_t i = w->n_heap / 2; i-- > 0;) sift_down(w->heap, w->n_heap, i);
    while (w->n_heap) {
        ad_tk_cand c = pop(w);
        int32_t l = (int32_t)(uint32_t)c.order, r = s[l].next;
        if (!s[l].len || r < 0 || s[l].len + s[r].len != c.len) continue;
        s[l].id = c.id;
        s[l].len = c.len;
        s[l].next = s[r].next;
        s[r].len = 0;
        if (s[l].next >= 0) s[s[l].next].prev = l;
        add_cand(w, word, s[l].prev, l);
        add_cand(w, word, l, s[l].next);
    }
}

/* ---- symbols ---- */

static void add_symbol(ad_tk_work *w, size_t *n, int32_t id, size_t pos, size_t len)
{
    w->syms[*n] = (ad_tk_symbol){(int32_t)*n - 1, (int32_t)*n + 1, (uint32_t)pos, (uint32_t)len, id};
    (*n)++;
}

static bool has_bytes(const ad_tokenizer *tk, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (tk->byte_id[(unsigned char)s[i]] < 0) return false;
    return true;
}

/* Merging by rank: a character is its token, else its bytes' tokens, else unknown, else nothing. A pending unknown
 * waits for its successors (fuse_unk) and, as in the reference, does not wait for bytes. */
static size_t symbols_by_id(ad_tk_work *w, ad_str word)
{
    const ad_tokenizer *tk = w->tk;
    size_t n = 0, unk_at = 0, unk_len = 0;
    for (size_t i = 0, len; i < word.len; i += len) {
        int char_len = 1;
        if (!tk->byte_level) ad_utf8_get(word.ptr + i, &char_len);
        len = (size_t)char_len;
        int32_t id = tk->byte_level ? tk->byte_id[(unsigned char)word.ptr[i]] : model_id(tk, (ad_str){word.ptr + i, len});
        if (id >= 0) {
            if (unk_len) add_symbol(w, &n, tk->unk, unk_at, unk_len);
            unk_len = 0;
            add_symbol(w, &n, id, i, len);
        } else if (tk->byte_fallback && !tk->byte_level && has_bytes(tk, word.ptr + i, len)) {
            for (size_t b = 0; b < len; b++) add_symbol(w, &n, tk->byte_id[(unsigned char)word.ptr[i + b]], i + b, 1);
        } else if (tk->unk >= 0) {
            if (unk_len && !tk->fuse_unk) {
                add_symbol(w, &n, tk->unk, unk_at, unk_len);
                unk_len = 0;
            }
            if (!unk_len) unk_at = i;
            unk_len += len;
        }
    }
    if (unk_len) add_symbol(w, &n, tk->unk, unk_at, unk_len);
    return n;
}

/* Merging by score: every character is a symbol, known or not, because what it merges into may be known. */
static size_t symbols_by_text(ad_tk_work *w, ad_str word)
{
    size_t n = 0;
    for (size_t i = 0; i < word.len;) {
        int len;
        ad_utf8_get(word.ptr + i, &len);
        int32_t id = model_id(w->tk, (ad_str){word.ptr + i, (size_t)len});
        if (id >= 0 && w->tk->flags[id] & AD_TK_NOT_TEXT) id = -1;
        add_symbol(w, &n, id, i, (size_t)len);
        i += (size_t)len;
    }
    return n;
}

static ad_status emit_unknown(ad_tk_work *w, const char *s, size_t n)
{
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < n; i++) {
        int32_t id = w->tk->byte_id[(unsigned char)s[i]];
        if (id < 0) id = w->tk->unk;
        if (id >= 0) st = ad_tk_push_id(w, id);
    }
    return st;
}

ad_status ad_tk_encode_word(ad_tk_work *w, ad_str word)
{
    const ad_tokenizer *tk = w->tk;
    if (!word.len) return AD_OK;
    if (tk->ignore_merges) {
        int32_t id = model_id(tk, word);
        if (id >= 0 && !(tk->flags[id] & AD_TK_NOT_TEXT)) return ad_tk_push_id(w, id);
    }
    if (ad_grow(&w->syms, &w->syms_cap, word.len, sizeof *w->syms) != AD_OK || ad_grow(&w->heap, &w->heap_cap, word.len * 2, sizeof *w->heap) != AD_OK)
        return ad_fail(w->err, AD_ENOMEM, "out of memory for a word of %zu bytes", word.len);
    size_t n = tk->score_rank ? symbols_by_text(w, word) : symbols_by_id(w, word);
    if (!n) return AD_OK;
    w->syms[n - 1].next = -1;
    merge_all(w, word.ptr, n);
    ad_status st = AD_OK;
    for (int32_t i = 0; st == AD_OK && i >= 0; i = w->syms[i].next)
        st = w->syms[i].id >= 0 ? ad_tk_push_id(w, w->syms[i].id) : emit_unknown(w, word.ptr + w->syms[i].pos, w->syms[i].len);
    return st;
}
