/* SPDX-License-Identifier: MIT */
/* The vocabulary: strings to ids and ids to bytes, and the memory they live in. Built by one thread, then read by any. */
#include <stdlib.h>
#include <string.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

enum { BLOCK_BYTES = 64 * 1024 };

struct ad_tk_block {
    ad_tk_block *next;
    size_t used, cap;
    char data[];
};

static uint32_t hash_bytes(ad_str s)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ s.len;
    for (size_t i = 0; i < s.len; i++) h = (h ^ (unsigned char)s.ptr[i]) * 0x100000001B3u;
    return (uint32_t)(h ^ h >> 32);
}

ad_status ad_tk_map_init(ad_tk_map *m, size_t count)
{
    size_t slots = 16;
    while (slots < count * 2) slots *= 2; /* half full at most: short probes */
    m->slots = ad_calloc(slots, sizeof *m->slots);
    if (!m->slots) return AD_ENOMEM;
    memset(m->slots, 0xFF, slots * sizeof *m->slots);
    m->mask = (uint32_t)(slots - 1);
    return AD_OK;
}

void ad_tk_map_deinit(ad_tk_map *m)
{
    free(m->slots);
    *m = (ad_tk_map){0};
}

static uint32_t probe(const ad_tk_map *m, const ad_str *strs, ad_str s)
{
    uint32_t at = hash_bytes(s) & m->mask;
    for (; m->slots[at] >= 0; at = (at + 1) & m->mask) {
        ad_str have = strs[m->slots[at]];
        if (have.len == s.len && memcmp(have.ptr, s.ptr, s.len) == 0) break;
    }
    return at;
}

int32_t ad_tk_map_put(ad_tk_map *m, const ad_str *strs, int32_t id)
{
    uint32_t at = probe(m, strs, strs[id]);
    if (m->slots[at] < 0) m->slots[at] = id;
    return m->slots[at];
}

int32_t ad_tk_map_find(const ad_tk_map *m, const ad_str *strs, ad_str s)
{
    return m->slots && s.len ? m->slots[probe(m, strs, s)] : -1;
}

ad_tokenizer *ad_tk_new(void)
{
    ad_tokenizer *tk = ad_calloc(1, sizeof *tk);
    if (!tk) return NULL;
    tk->unk = tk->bos = tk->eos = -1;
    memset(tk->byte_id, 0xFF, sizeof tk->byte_id);
    return tk;
}

void ad_tokenizer_free(ad_tokenizer **tkp)
{
    ad_tokenizer *tk = *tkp;
    if (!tk) return;
    *tkp = NULL;
    for (ad_tk_block *b = tk->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(tk->tokens);
    free(tk->keys);
    free(tk->pieces);
    free(tk->flags);
    ad_tk_map_deinit(&tk->by_token);
    ad_tk_map_deinit(&tk->by_key);
    free(tk->merges);
    free(tk->score_rank);
    for (int i = 0; i < tk->n_steps; i++) pcre2_code_free(tk->steps[i].re);
    ad_tk_trie_deinit(&tk->raw);
    ad_tk_trie_deinit(&tk->normed);
    ad_tk_trie_deinit(&tk->written);
    free(tk->eogs);
    free(tk);
}

ad_str ad_tk_copy(ad_tokenizer *tk, ad_str s)
{
    ad_tk_block *b = tk->blocks;
    if (!b || b->cap - b->used <= s.len) {
        size_t cap = s.len < BLOCK_BYTES / 4 ? BLOCK_BYTES : s.len + 1;
        b = malloc(sizeof *b + cap);
        if (!b) return (ad_str){0};
        *b = (ad_tk_block){.next = tk->blocks, .cap = cap};
        tk->blocks = b;
    }
    char *dst = b->data + b->used;
    if (s.len) memcpy(dst, s.ptr, s.len);
    dst[s.len] = '\0';
    b->used += s.len + 1;
    return (ad_str){dst, s.len};
}

ad_status ad_tk_set_vocab(ad_tokenizer *tk, size_t n, const char *label, ad_err *err)
{
    if (n == 0) return ad_fail(err, AD_EFORMAT, "%s: the vocabulary is empty", label);
    if (n > AD_TK_MAX_VOCAB) return ad_fail(err, AD_EFORMAT, "%s: token id %zu is above the limit of %d", label, n - 1, AD_TK_MAX_VOCAB - 1);
    tk->tokens = ad_calloc(n, sizeof *tk->tokens);
    tk->keys = ad_calloc(n, sizeof *tk->keys);
    tk->pieces = ad_calloc(n, sizeof *tk->pieces);
    tk->flags = ad_calloc(n, sizeof *tk->flags);
    tk->n_vocab = (int32_t)n;
    if (!tk->tokens || !tk->keys || !tk->pieces || !tk->flags || ad_tk_map_init(&tk->by_token, n) != AD_OK || ad_tk_map_init(&tk->by_key, n) != AD_OK)
        return ad_fail(err, AD_ENOMEM, "%s: out of memory for %zu tokens", label, n);
    for (size_t i = 0; i < n; i++) tk->tokens[i] = tk->keys[i] = tk->pieces[i] = (ad_str){"", 0};
    return AD_OK;
}

bool ad_tk_name(ad_tokenizer *tk, int32_t id)
{
    return ad_tk_map_put(&tk->by_token, tk->tokens, id) == id;
}

/* The byte that a character of the byte-level alphabet stands for, or -1. Printable Latin-1 stands for itself;
 * the other 68 bytes were given U+0100 and up, in order. */
static int byte_of_char(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xAC) || (cp >= 0xAE && cp <= 0xFF)) return (int)cp;
    if (cp < 0x100 || cp > 0x143) return -1;
    if (cp < 0x121) return (int)(cp - 0x100);        /* 0x00 .. 0x20 */
    if (cp < 0x143) return (int)(cp - 0x121 + 0x7F); /* 0x7F .. 0xA0 */
    return 0xAD;
}

bool ad_tk_unmap(ad_str s, char *dst, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < s.len;) {
        int len;
        int byte = byte_of_char(ad_utf8_get(s.ptr + i, &len));
        if (byte < 0) return false;
        dst[(*n)++] = (char)byte;
        i += (size_t)len;
    }
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

int ad_tk_byte_of(ad_str t)
{
    if (t.len != 6 || memcmp(t.ptr, "<0x", 3) != 0 || t.ptr[5] != '>') return -1;
    int hi = hex_digit(t.ptr[3]), lo = hex_digit(t.ptr[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

/* Byte-level: the token's bytes are both key and piece. */
static ad_status index_bytes(ad_tokenizer *tk, int32_t id)
{
    char small[256];
    ad_str token = tk->tokens[id];
    char *bytes = token.len <= sizeof small ? small : malloc(token.len);
    if (!bytes) return AD_ENOMEM;
    ad_str raw = token;
    size_t n;
    bool mapped = ad_tk_unmap(token, bytes, &n);
    if (mapped) raw = ad_tk_copy(tk, (ad_str){bytes, n});
    if (bytes != small) free(bytes);
    if (!raw.ptr) return AD_ENOMEM;
    tk->pieces[id] = tk->flags[id] & AD_TK_LITERAL ? token : raw;
    if (mapped && !(tk->flags[id] & AD_TK_NO_KEY)) tk->keys[id] = raw;
    return AD_OK;
}

/* SentencePiece: the token itself is the key; U+2581 decodes to a space. */
static ad_status index_chars(ad_tokenizer *tk, int32_t id)
{
    ad_str token = tk->tokens[id];
    if (!(tk->flags[id] & AD_TK_NO_KEY)) tk->keys[id] = token;
    int byte = tk->flags[id] & AD_TK_BYTE ? ad_tk_byte_of(token) : -1;
    ad_str piece = ad_tk_copy(tk, byte >= 0 ? (ad_str){(char[]){(char)byte}, 1} : token);
    if (!piece.ptr) return AD_ENOMEM;
    char *p = (char *)piece.ptr; /* our own copy */
    size_t n = 0;
    for (size_t i = 0; i < piece.len;) {
        if (piece.len - i >= 3 && memcmp(p + i, "\xE2\x96\x81", 3) == 0) {
            p[n++] = ' ';
            i += 3;
        } else {
            p[n++] = p[i++];
        }
    }
    tk->pieces[id] = (ad_str){p, n};
    return AD_OK;
}

static void index_byte_ids(ad_tokenizer *tk)
{
    for (int b = 0; b < 256; b++) {
        char c = (char)b, name[8] = "<0xHH>";
        name[3] = "0123456789ABCDEF"[b >> 4];
        name[4] = "0123456789ABCDEF"[b & 15];
        if (tk->byte_level) tk->byte_id[b] = ad_tk_map_find(&tk->by_key, tk->keys, (ad_str){&c, 1});
        else if (tk->byte_fallback) tk->byte_id[b] = ad_tk_map_find(&tk->by_key, tk->keys, (ad_str){name, 6});
    }
}

ad_status ad_tk_index_keys(ad_tokenizer *tk)
{
    for (int32_t id = 0; id < tk->n_vocab; id++) {
        if (!tk->tokens[id].len) continue;
        ad_status st = tk->byte_level ? index_bytes(tk, id) : index_chars(tk, id);
        if (st != AD_OK) return st;
        if (!tk->keys[id].len) continue;
        ad_tk_map_put(&tk->by_key, tk->keys, id);
        if (tk->keys[id].len > tk->longest_key) tk->longest_key = tk->keys[id].len;
    }
    index_byte_ids(tk);
    return AD_OK;
}

ad_status ad_tk_add_added(ad_tokenizer *tk, int32_t id, bool normalized, const char *label, ad_err *err)
{
    ad_str s = tk->tokens[id];
    if (s.len > AD_TK_MAX_ADDED) return ad_fail(err, AD_EFORMAT, "%s: added token %d is longer than %d bytes", label, id, AD_TK_MAX_ADDED);
    ad_buf bufs[2] = {{0}};
    ad_status st = AD_OK;
    if (normalized && s.len && tk->flags[id] & AD_TK_SPECIAL) st = ad_tk_trie_add(&tk->written, s, id);
    if (st == AD_OK && normalized) st = ad_tk_normalize(tk, bufs, s, &s, err);
    if (st == AD_OK && s.len) st = ad_tk_trie_add(normalized ? &tk->normed : &tk->raw, s, id);
    if (st == AD_ENOMEM) st = ad_fail(err, AD_ENOMEM, "%s: out of memory for added tokens", label);
    ad_buf_deinit(&bufs[0]);
    ad_buf_deinit(&bufs[1]);
    return st;
}

ad_status ad_tk_collect_eogs(ad_tokenizer *tk)
{
    int n = 0;
    for (int32_t id = 0; id < tk->n_vocab; id++) n += (tk->flags[id] & AD_TK_EOG) != 0;
    tk->eogs = ad_calloc((size_t)n, sizeof *tk->eogs);
    if (!tk->eogs) return AD_ENOMEM;
    for (int32_t id = 0; id < tk->n_vocab; id++)
        if (tk->flags[id] & AD_TK_EOG) tk->eogs[tk->n_eogs++] = id;
    return AD_OK;
}
