/* SPDX-License-Identifier: MIT */
#include "server/observe/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { SAMPLED = 1, RANDOM = 2 };
static const char lower_hex[] = "0123456789abcdef";

/* n lower hex digits at `at`, with `end` behind them. */
static bool is_field(const char *at, size_t n, char end)
{
    return strspn(at, lower_hex) == n && at[n] == end;
}

static bool is_zero(const char *at, size_t n)
{
    return strspn(at, "0") >= n;
}

bool ad_traceparent_read(ad_trace *t, const char *text)
{
    enum { TRACE_AT = 3, PARENT_AT = TRACE_AT + AD_TRACE_ID + 1, FLAGS_AT = PARENT_AT + AD_SPAN_ID + 1 };
    bool good = is_field(text, 2, '-') && memcmp(text, "ff", 2) && is_field(text + TRACE_AT, AD_TRACE_ID, '-') && is_field(text + PARENT_AT, AD_SPAN_ID, '-');
    if (!good || is_zero(text + TRACE_AT, AD_TRACE_ID) || is_zero(text + PARENT_AT, AD_SPAN_ID)) return false;
    bool is_later = memcmp(text, "00", 2) != 0;
    if (!is_field(text + FLAGS_AT, 2, '\0') && !(is_later && is_field(text + FLAGS_AT, 2, '-'))) return false;
    memcpy(t->trace_id, text + TRACE_AT, AD_TRACE_ID);
    memcpy(t->parent_id, text + PARENT_AT, AD_SPAN_ID);
    t->trace_id[AD_TRACE_ID] = t->parent_id[AD_SPAN_ID] = '\0';
    t->flags = (unsigned)strtoul(text + FLAGS_AT, NULL, 16) & (SAMPLED | RANDOM);
    return true;
}

/* n random lower hex digits, not all zero. */
static void draw_id(char *out, size_t n)
{
    unsigned char bytes[AD_TRACE_ID / 2];
    do {
        while (getrandom(bytes, n / 2, 0) != (ssize_t)(n / 2)) continue; /* so few bytes are never cut short once the system has begun */
        for (size_t i = 0; i < n / 2; i++) out[2 * i] = lower_hex[bytes[i] >> 4], out[2 * i + 1] = lower_hex[bytes[i] & 15];
    } while (is_zero(out, n));
    out[n] = '\0';
}

bool ad_trace_begin(ad_trace *t, const char *traceparent)
{
    bool goes_on = traceparent && ad_traceparent_read(t, traceparent);
    if (!goes_on) {
        draw_id(t->trace_id, AD_TRACE_ID);
        *t->parent_id = '\0';
        t->flags = RANDOM;
    }
    draw_id(t->span_id, AD_SPAN_ID);
    return goes_on;
}

void ad_traceparent_write(const ad_trace *t, char out[AD_TRACEPARENT + 1])
{
    snprintf(out, AD_TRACEPARENT + 1, "00-%.32s-%.16s-%02x", t->trace_id, t->span_id, t->flags & 0xFFu);
}
