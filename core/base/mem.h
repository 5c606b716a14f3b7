/* SPDX-License-Identifier: MIT */
/* Checked allocation, growing buffers and byte slices. Any thread; no object here locks. */
#ifndef AD_BASE_MEM_H
#define AD_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

/* A borrowed run of bytes, not NUL-terminated. */
typedef struct {
    const char *ptr;
    size_t len;
} ad_str;

bool ad_str_eq(ad_str a, const char *b);

/* a * b into *out; false when it does not fit in size_t. */
AD_MUSTUSE bool ad_mul_size(size_t a, size_t b, size_t *out);

/* count * size zeroed bytes, or NULL (also when the product overflows). Free with free(). */
void *ad_calloc(size_t count, size_t size);

/* Makes *ptr hold at least `want` elements of `size` bytes, growing by half. *cap is in elements. */
AD_MUSTUSE ad_status ad_grow(void *ptr, size_t *cap, size_t want, size_t size);

/* A growing byte buffer; data is always NUL-terminated once anything was appended.
 * A failed append sets `failed`, leaves the content as it was, and makes later appends no-ops, so that
 * a writer may check once at the end. Zero-initialise; release with ad_buf_deinit. */
typedef struct {
    char *data;
    size_t len, cap;
    bool failed;
} ad_buf;

void ad_buf_append(ad_buf *b, const void *data, size_t len);
void ad_buf_puts(ad_buf *b, const char *s);
void ad_buf_printf(ad_buf *b, const char *fmt, ...) AD_PRINTF(2, 3);
void ad_buf_clear(ad_buf *b); /* len = 0, failed = false, keeps the memory */
void ad_buf_deinit(ad_buf *b);

/* `bytes` zeroed bytes, 64-byte aligned, from mmap with huge pages advised when large. NULL on failure.
 * Untouched pages cost no memory. Release with ad_arena_free and the same size. */
void *ad_arena_new(size_t bytes);
void ad_arena_free(void *p, size_t bytes);

/* Bytes this process may still take without others being pushed out: the machine's available memory, and what its cgroups leave
 * (systemd's MemoryMax=, a container's limit). */
size_t ad_free_memory(void);
/* The same with ROOT/proc and ROOT/sys read in place of /proc and /sys (for tests). */
size_t ad_free_memory_in(const char *root);

#endif
