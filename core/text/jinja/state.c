/* SPDX-License-Identifier: MIT */
/* The state of one parse or rendering: its heap, its limits, its way out. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/private.h"

enum { BLOCK_BYTES = 32 * 1024 };

struct jj_block {
    jj_block *next;
    size_t used, cap;
    char data[] __attribute__((aligned(16)));
};

void jj_fail(jj *j, ad_status code, const char *fmt, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    j->status = ad_fail(j->err, code, "%.80s, line %d: %s", j->label, j->line, what);
    longjmp(j->escape, 1);
}

void jj_raise(jj *j, const jj_str *message)
{
    size_t n = message->len, most = sizeof j->err->msg - 1;
    for (n = n < most ? n : most; n < message->len && n > 0 && ((unsigned char)message->p[n] & 0xC0) == 0x80; n--) {}
    j->status = ad_fail(j->err, AD_EINVAL, "%.*s", (int)n, message->p);
    longjmp(j->escape, 1);
}

static jj_block *add_block(jj *j, size_t bytes)
{
    size_t cap = bytes > BLOCK_BYTES / 4 ? bytes : BLOCK_BYTES;
    if (cap > j->heap.limit || j->heap.bytes > j->heap.limit - cap) jj_fail(j, AD_ELIMIT, "the template takes more than %zu bytes of memory", j->heap.limit);
    jj_block *b = calloc(1, sizeof *b + cap);
    if (!b) jj_fail(j, AD_ENOMEM, "out of memory");
    b->cap = cap;
    j->heap.bytes += cap;
    jj_block *top = j->heap.blocks;
    if (top && cap == bytes && top->used < top->cap) { /* a block of its own must not end the use of the open one */
        b->next = top->next;
        top->next = b;
    } else {
        b->next = top;
        j->heap.blocks = b;
    }
    return b;
}

void *jj_alloc(jj *j, size_t count, size_t size)
{
    size_t bytes;
    if (!ad_mul_size(count, size, &bytes) || bytes > SIZE_MAX / 2) jj_fail(j, AD_ELIMIT, "a value is too large");
    bytes = (bytes + 15) & ~(size_t)15;
    jj_step(j, bytes / 256);
    jj_block *b = j->heap.blocks;
    if (!b || b->cap - b->used < bytes) b = add_block(j, bytes);
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

void *jj_grow(jj *j, void *old, size_t n, size_t *cap, size_t want, size_t size)
{
    if (want <= *cap) return old;
    size_t next = *cap * 2 > want ? *cap * 2 : want;
    if (next < 4) next = 4;
    void *p = jj_alloc(j, next, size);
    if (n) memcpy(p, old, n * size);
    *cap = next;
    return p;
}

void jj_heap_drop(jj_heap *h)
{
    for (jj_block *b = h->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *h = (jj_heap){0};
}

void jj_step(jj *j, size_t n)
{
    j->steps += n;
    if (j->limits.steps && j->steps > j->limits.steps) jj_fail(j, AD_ELIMIT, "the template takes more than %zu steps", j->limits.steps);
}

void jj_enter(jj *j)
{
    if (++j->depth > JJ_MAX_DEPTH) jj_fail(j, AD_ELIMIT, "the template nests calls and values more than %d deep", JJ_MAX_DEPTH);
}

/* ---- names ---- */

static size_t slot_of(const jj_names *names, const char *s, size_t len)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ len;
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)s[i]) * 0x100000001B3u;
    size_t at = (size_t)(h ^ h >> 32) & (names->cap - 1);
    for (; names->slots[at]; at = (at + 1) & (names->cap - 1))
        if (!strncmp(names->slots[at], s, len) && !names->slots[at][len]) break;
    return at;
}

const char *jj_known_name(const jj_names *names, const char *s, size_t len)
{
    return names->cap ? names->slots[slot_of(names, s, len)] : NULL;
}

const char *jj_intern(jj *j, jj_names *names, const char *s, size_t len)
{
    if (names->n * 2 >= names->cap) {
        jj_names next = {.cap = names->cap ? names->cap * 2 : 64, .n = names->n};
        next.slots = jj_alloc(j, next.cap, sizeof *next.slots);
        for (size_t i = 0; i < names->cap; i++)
            if (names->slots[i]) next.slots[slot_of(&next, names->slots[i], strlen(names->slots[i]))] = names->slots[i];
        *names = next;
    }
    size_t at = slot_of(names, s, len);
    if (names->slots[at]) return names->slots[at];
    char *copy = jj_alloc(j, len + 1, 1);
    memcpy(copy, s, len);
    names->n++;
    return names->slots[at] = copy;
}
