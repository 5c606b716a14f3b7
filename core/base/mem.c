/* SPDX-License-Identifier: MIT */
#include "core/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

bool ad_str_eq(ad_str a, const char *b)
{
    return a.len == strlen(b) && memcmp(a.ptr, b, a.len) == 0;
}

bool ad_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

void *ad_calloc(size_t count, size_t size)
{
    return calloc(count ? count : 1, size ? size : 1);
}

ad_status ad_grow(void *ptr, size_t *cap, size_t want, size_t size)
{
    if (want <= *cap) return AD_OK;
    size_t next = *cap + *cap / 2;
    if (next < want) next = want;
    if (next < 16) next = 16;
    size_t bytes;
    if (!ad_mul_size(next, size, &bytes)) return AD_ENOMEM;
    void *old, *grown;
    memcpy(&old, ptr, sizeof old);
    grown = realloc(old, bytes);
    if (!grown) return AD_ENOMEM;
    memcpy(ptr, &grown, sizeof grown);
    *cap = next;
    return AD_OK;
}

void ad_buf_append(ad_buf *b, const void *data, size_t len)
{
    if (b->failed) return;
    if (len > SIZE_MAX - b->len - 1 || ad_grow(&b->data, &b->cap, b->len + len + 1, 1) != AD_OK) {
        b->failed = true;
        return;
    }
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void ad_buf_puts(ad_buf *b, const char *s)
{
    ad_buf_append(b, s, strlen(s));
}

void ad_buf_printf(ad_buf *b, const char *fmt, ...)
{
    char small[256];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof small) {
        ad_buf_append(b, small, (size_t)n);
    } else if (n >= 0 && !b->failed) {
        if (ad_grow(&b->data, &b->cap, b->len + (size_t)n + 1, 1) != AD_OK) {
            b->failed = true;
        } else {
            vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
            b->len += (size_t)n;
        }
    }
    va_end(again);
}

void ad_buf_clear(ad_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = '\0';
}

void ad_buf_deinit(ad_buf *b)
{
    free(b->data);
    *b = (ad_buf){0};
}

void *ad_arena_new(size_t bytes)
{
    if (!bytes) bytes = 1;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (bytes >= 2u << 20) madvise(p, bytes, MADV_HUGEPAGE); /* a hint: failure costs speed only */
    return p;
}

void ad_arena_free(void *p, size_t bytes)
{
    if (p) munmap(p, bytes ? bytes : 1);
}
