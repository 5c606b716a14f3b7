/* SPDX-License-Identifier: MIT */
/* Texts that grow, with percent-encoding for URLs. */
#include <stdlib.h>
#include <string.h>

#include "clients/lib/internal.h"

static bool grow(ad_client_text *t, size_t need)
{
    size_t cap = t->cap ? t->cap : 256;
    while (cap < need) {
        if (cap > SIZE_MAX / 2) return false;
        cap *= 2;
    }
    char *more = realloc(t->data, cap);
    if (!more) return false;
    t->data = more;
    t->cap = cap;
    return true;
}

bool ad_client_text_add(ad_client_text *t, const void *data, size_t len)
{
    size_t max = t->max ? t->max : SIZE_MAX / 2;
    if (t->failed || len > max || t->len > max - len || (t->len + len + 1 > t->cap && !grow(t, t->len + len + 1))) {
        t->failed = true;
        return false;
    }
    if (len) memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = 0;
    return true;
}

void ad_client_text_literal(ad_client_text *t, const char *s)
{
    ad_client_text_add(t, s, strlen(s));
}

static void add_encoded(ad_client_text *t, const char *s, const char *plain)
{
    static const char hex[] = "0123456789ABCDEF";
    for (; *s; s++) {
        unsigned char ch = (unsigned char)*s;
        bool keep = (ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z') || (ch >= 'a' && ch <= 'z') || strchr(plain, ch);
        char code[3] = {'%', hex[ch >> 4], hex[ch & 15]};
        if (keep) ad_client_text_add(t, s, 1);
        else ad_client_text_add(t, code, 3);
    }
}

void ad_client_text_segment(ad_client_text *t, const char *s)
{
    add_encoded(t, s, "-._~@:");
}

void ad_client_text_query(ad_client_text *t, bool *first, const char *key, const char *value)
{
    if (!value) return;
    ad_client_text_literal(t, *first ? "?" : "&");
    ad_client_text_literal(t, key);
    ad_client_text_literal(t, "=");
    add_encoded(t, value, "-._~");
    *first = false;
}

void ad_client_text_deinit(ad_client_text *t)
{
    free(t->data);
    *t = (ad_client_text){.max = t->max};
}
