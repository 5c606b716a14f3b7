/* SPDX-License-Identifier: MIT */
/* Server-sent events as the HTML standard has them: lines end with LF, CR or CRLF, a blank one ends an event, ids stay until another comes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/lib/sse.h"

enum { MAX_RETRY_MS = 60000 };

void ad_client_sse_init(ad_client_sse *s, const char *last_id, bool (*on_event)(void *user, const char *id, const char *type, const char *data), void *user)
{
    *s = (ad_client_sse){.on_event = on_event, .user = user, .line.max = AD_CLIENT_SSE_EVENT_BYTES, .data.max = AD_CLIENT_SSE_EVENT_BYTES};
    snprintf(s->id, sizeof s->id, "%s", last_id ? last_id : "");
    snprintf(s->next_id, sizeof s->next_id, "%s", s->id);
}

static void clear(ad_client_text *t)
{
    t->len = 0;
    if (t->data) t->data[0] = 0;
}

void ad_client_sse_restart(ad_client_sse *s)
{
    clear(&s->line);
    clear(&s->data);
    s->type[0] = 0;
    s->has_data = s->after_cr = s->started = false;
    memcpy(s->next_id, s->id, sizeof s->id);
}

void ad_client_sse_deinit(ad_client_sse *s)
{
    ad_client_text_deinit(&s->line);
    ad_client_text_deinit(&s->data);
}

static bool end_event(ad_client_sse *s)
{
    bool go_on = true;
    memcpy(s->id, s->next_id, sizeof s->id);
    if (s->has_data) go_on = s->on_event(s->user, s->id, s->type[0] ? s->type : "message", s->data.data);
    clear(&s->data);
    s->type[0] = 0;
    s->has_data = false;
    return go_on;
}

static void add_data(ad_client_sse *s, const char *value, size_t len)
{
    if (s->has_data) ad_client_text_add(&s->data, "\n", 1);
    if (!ad_client_text_add(&s->data, value, len)) s->too_large = true;
    s->has_data = true;
}

static void set_retry(ad_client_sse *s, const char *value, size_t len)
{
    if (!len || strspn(value, "0123456789") != len) return;
    s->retry_ms = len > 5 ? MAX_RETRY_MS : atoi(value);
    if (s->retry_ms > MAX_RETRY_MS) s->retry_ms = MAX_RETRY_MS;
}

/* Ids that do not fit, or have a NUL, are as if absent. */
static void set_id(ad_client_sse *s, const char *value, size_t len)
{
    if (len < sizeof s->next_id && !memchr(value, 0, len) && ad_client_header_safe(value)) snprintf(s->next_id, sizeof s->next_id, "%s", value);
}

/* line[len] has a NUL behind it. */
static bool take_line(ad_client_sse *s, const char *line, size_t len)
{
    if (!len) return end_event(s);
    const char *colon = memchr(line, ':', len);
    size_t name = colon ? (size_t)(colon - line) : len;
    const char *value = colon ? colon + 1 : line + len;
    if (*value == ' ') value++;
    size_t n = (size_t)(line + len - value);
    if (name == 4 && !memcmp(line, "data", 4)) add_data(s, value, n);
    else if (name == 5 && !memcmp(line, "event", 5)) snprintf(s->type, sizeof s->type, "%s", value);
    else if (name == 5 && !memcmp(line, "retry", 5)) set_retry(s, value, n);
    else if (name == 2 && !memcmp(line, "id", 2)) set_id(s, value, n);
    return true;
}

static bool end_line(ad_client_sse *s)
{
    const char *line = s->line.data ? s->line.data : "";
    size_t len = s->line.len;
    if (!s->started && len >= 3 && !memcmp(line, "\xEF\xBB\xBF", 3)) {
        line += 3;
        len -= 3;
    }
    s->started = true;
    bool go_on = take_line(s, line, len);
    clear(&s->line);
    return go_on;
}

bool ad_client_sse_feed(ad_client_sse *s, const char *data, size_t len)
{
    const char *end = data + len;
    while (data < end && !s->too_large) {
        if (s->after_cr && *data == '\n') data++;
        s->after_cr = false;
        const char *stop = data;
        while (stop < end && *stop != '\n' && *stop != '\r') stop++;
        if (!ad_client_text_add(&s->line, data, (size_t)(stop - data))) s->too_large = true;
        if (stop == end) break;
        s->after_cr = *stop == '\r';
        data = stop + 1;
        if (!s->too_large && !end_line(s)) return false;
    }
    return !s->too_large;
}
