/* SPDX-License-Identifier: MIT */
#include "server/api/tool_calls.h"

#include <stdlib.h>
#include <string.h>

static const char opening[] = "<tool_call>", closing[] = "</tool_call>", python_tag[] = "<|python_tag|>";

void ad_tool_parser_init(ad_tool_parser *p, ad_tool_style style, const json_t *tools, int max_calls)
{
    *p = (ad_tool_parser){.style = style, .tools = tools, .max_calls = max_calls, .whole = style == AD_TOOLS_FORCED};
}

void ad_tool_parser_deinit(ad_tool_parser *p)
{
    ad_buf_deinit(&p->held);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_offered(const ad_tool_parser *p, const char *name)
{
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)p->tools, i, tool) {
        const char *offered = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
        if (offered && !strcmp(offered, name)) return true;
    }
    return false;
}

/* {"name", "arguments" or "parameters"} -> {"name", "arguments": "JSON"}; NULL when it is no call. */
static json_t *call_of(const ad_tool_parser *p, const json_t *v)
{
    const json_t *args = json_object_get(v, "arguments");
    const char *name = json_string_value(json_object_get(v, "name"));
    if (!args) args = json_object_get(v, "parameters");
    if (!name || !is_offered(p, name) || (args && !json_is_object(args))) return NULL;
    char *text = args ? json_dumps(args, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17)) : NULL;
    json_t *call = args && !text ? NULL : json_pack("{s:s, s:s}", "name", name, "arguments", text ? text : "{}");
    free(text);
    return call;
}

static void add_call(ad_tool_parser *p, json_t *call, json_t *calls)
{
    if (p->n_calls++ < p->max_calls) json_array_append_new(calls, call);
    else json_decref(call);
}

/* The calls in text[len], with blanks or semicolons around them; NULL unless all of it is calls. */
static json_t *calls_in(const ad_tool_parser *p, const char *text, size_t len)
{
    json_t *found = json_array();
    size_t at = 0;
    while (found && at < len) {
        if (is_blank(text[at]) || text[at] == ';') {
            at++;
            continue;
        }
        json_error_t where;
        json_t *v = json_loadb(text + at, len - at, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &where), *call = call_of(p, v);
        json_decref(v);
        if (!call || json_array_append_new(found, call) != 0) {
            json_decref(found);
            return NULL;
        }
        at += (size_t)where.position;
    }
    if (json_array_size(found)) return found;
    json_decref(found);
    return NULL;
}

/* Calls in text[len] are added; false: they are none. */
static bool take_calls(ad_tool_parser *p, const char *text, size_t len, json_t *calls)
{
    json_t *found = calls_in(p, text, len), *call;
    size_t i;
    if (!found) return false;
    json_array_foreach(found, i, call) add_call(p, json_incref(call), calls);
    json_decref(found);
    return true;
}

static void drop(ad_tool_parser *p, size_t n)
{
    p->held.len -= n;
    memmove(p->held.data, p->held.data + n, p->held.len);
    p->searched = 0;
}

/* How many bytes at the end of held may be the beginning of a tag. */
static size_t tag_begun(const ad_buf *held, const char *tag, size_t len)
{
    size_t n = held->len < len - 1 ? held->len : len - 1;
    while (n && memcmp(held->data + held->len - n, tag, n)) n--;
    return n;
}

static void give(ad_tool_parser *p, size_t n, ad_buf *content)
{
    if (n) ad_buf_append(content, p->held.data, n);
    drop(p, n);
}

/* The call between two tags, or the text it is instead. */
static void close_call(ad_tool_parser *p, size_t len, ad_buf *content, json_t *calls)
{
    if (take_calls(p, p->held.data, len, calls)) return;
    ad_buf_puts(content, opening);
    ad_buf_append(content, p->held.data, len);
    ad_buf_puts(content, closing);
}

static void feed_hermes(ad_tool_parser *p, ad_buf *content, json_t *calls)
{
    while (p->held.len) {
        const char *tag = p->in_call ? closing : opening;
        size_t n = strlen(tag);
        char *at = p->held.len - p->searched >= n ? memmem(p->held.data + p->searched, p->held.len - p->searched, tag, n) : NULL;
        size_t before = at ? (size_t)(at - p->held.data) : 0;
        if (!at) {
            size_t keep = tag_begun(&p->held, tag, n);
            if (p->in_call) p->searched = p->held.len - keep;
            else give(p, p->held.len - keep, content);
            return;
        }
        if (p->in_call) close_call(p, before, content, calls);
        else give(p, before, content), before = 0;
        drop(p, before + n);
        p->in_call = !p->in_call;
    }
}

/* A text that begins like a call is held to its end; any other goes on as it comes. */
static void feed_llama(ad_tool_parser *p, ad_buf *content)
{
    size_t at = 0;
    while (at < p->held.len && is_blank(p->held.data[at])) at++;
    if (!p->begun && at == p->held.len) return;
    if (!p->begun && p->held.data[at] == '<' && p->held.len - at < sizeof python_tag - 1 && !memcmp(p->held.data + at, python_tag, p->held.len - at)) return;
    if (!p->begun) p->whole = p->held.data[at] == '{' || (p->held.len - at >= sizeof python_tag - 1 && !memcmp(p->held.data + at, python_tag, sizeof python_tag - 1));
    p->begun = true;
    if (!p->whole) give(p, p->held.len, content);
}

bool ad_tool_parser_feed(ad_tool_parser *p, const char *text, size_t len, ad_buf *content, json_t *calls)
{
    if (p->style == AD_TOOLS_NONE) {
        ad_buf_append(content, text, len);
        return !content->failed;
    }
    ad_buf_append(&p->held, text, len);
    if (p->held.failed) return false;
    if (p->style == AD_TOOLS_HERMES) feed_hermes(p, content, calls);
    else if (p->style == AD_TOOLS_LLAMA && !p->whole) feed_llama(p, content);
    return !content->failed;
}

bool ad_tool_parser_end(ad_tool_parser *p, ad_buf *content, json_t *calls)
{
    size_t skip = p->held.len >= sizeof python_tag - 1 && !memcmp(p->held.data, python_tag, sizeof python_tag - 1) ? sizeof python_tag - 1 : 0;
    bool may_call = p->in_call || p->whole; /* also without its closing tag */
    if (p->held.len && !(may_call && take_calls(p, p->held.data + skip, p->held.len - skip, calls))) {
        if (p->in_call) ad_buf_puts(content, opening);
        ad_buf_append(content, p->held.data, p->held.len);
    }
    ad_buf_clear(&p->held);
    p->in_call = false;
    return !content->failed;
}
