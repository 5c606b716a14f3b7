/* SPDX-License-Identifier: MIT */
/* UTF-8, as the Unicode standard defines it (no surrogates, no overlong forms, nothing above U+10FFFF). Pure. */
#ifndef AD_TEXT_UTF8_H
#define AD_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the bytes at the front of s[n], n > 0, are: > 0: a whole character of so many bytes; 0: the beginning of one that
 * needs more bytes; < 0: minus the length of a part that can never become one (the maximal subpart). */
static inline int ad_utf8_step(const char *str, size_t n)
{
    const unsigned char *s = (const unsigned char *)str;
    unsigned char lo = 0x80, hi = 0xBF;
    int need;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4) return -1;
    need = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (s[0] == 0xE0) lo = 0xA0;
    else if (s[0] == 0xED) hi = 0x9F;
    else if (s[0] == 0xF0) lo = 0x90;
    else if (s[0] == 0xF4) hi = 0x8F;
    for (int i = 1; i < need; i++) {
        if ((size_t)i == n) return 0;
        if (s[i] < lo || s[i] > hi) return -i;
        lo = 0x80;
        hi = 0xBF;
    }
    return need;
}

/* The offset of the first byte that is not part of valid UTF-8; n when all is well. */
static inline size_t ad_utf8_check(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        int step = ad_utf8_step(s + i, n - i);
        if (step <= 0) return i;
        i += (size_t)step;
    }
    return n;
}

/* The code point at s, which is valid UTF-8; *len is its bytes. */
static inline uint32_t ad_utf8_get(const char *str, int *len)
{
    const unsigned char *s = (const unsigned char *)str;
    if (s[0] < 0x80) return *len = 1, s[0];
    if (s[0] < 0xE0) return *len = 2, (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F);
    if (s[0] < 0xF0) return *len = 3, (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
    return *len = 4, (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 | (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
}

/* Writes cp to dst[4]; returns the bytes. */
static inline int ad_utf8_put(uint32_t cp, char *dst)
{
    if (cp < 0x80) return dst[0] = (char)cp, 1;
    if (cp < 0x800) {
        dst[0] = (char)(0xC0 | cp >> 6);
        dst[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        dst[0] = (char)(0xE0 | cp >> 12);
        dst[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        dst[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    dst[0] = (char)(0xF0 | cp >> 18);
    dst[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    dst[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    dst[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

#endif
