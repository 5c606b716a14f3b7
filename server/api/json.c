/* SPDX-License-Identifier: MIT */
/* Reading the JSON that strangers send, and small parts of ours. Any thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"

/* Where text[len] first nests deeper than AD_JSON_DEPTH; len: nowhere. What is no JSON may be counted wrongly: it is refused anyway. */
static size_t find_too_deep(const char *text, size_t len)
{
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        char ch = text[i];
        if (quoted && ch == '\\') i++;
        else if (ch == '"') quoted = !quoted;
        else if (quoted) continue;
        else if (ch == '[' || ch == '{') depth++;
        else if (ch == ']' || ch == '}') depth--;
        if (depth > AD_JSON_DEPTH) return i;
    }
    return len;
}

json_t *ad_read_json(const char *text, size_t len, size_t flags, json_error_t *why)
{
    size_t at = find_too_deep(text, len);
    if (at == len) return json_loadb(text, len, JSON_REJECT_DUPLICATES | flags, why);
    if (!why) return NULL;
    *why = (json_error_t){.line = 1, .position = (int)at};
    for (const char *p = text, *end; (end = memchr(p, '\n', (size_t)(text + at - p))); p = end + 1) why->line++;
    for (const char *p = text + at; p >= text && *p != '\n'; p--) why->column++;
    snprintf(why->text, sizeof why->text, "it nests deeper than %d levels", AD_JSON_DEPTH);
    return NULL;
}

json_t *ad_buf_json(const ad_buf *text)
{
    return text->failed ? NULL : json_stringn(text->data ? text->data : "", text->len);
}

const json_t *ad_json_member(const json_t *object, const char *name)
{
    const json_t *v = json_object_get(object, name);
    return json_is_null(v) ? NULL : v;
}

double ad_plain_float(float value)
{
    char text[32];
    double plain = value;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        plain = strtod(text, NULL);
        if ((float)plain == value) break;
    }
    return plain;
}

double ad_rounded(double value, int per_one) { return (double)(int64_t)(value * per_one + 0.5) / per_one; }
