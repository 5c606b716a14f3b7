/* SPDX-License-Identifier: MIT */
/* Chat templates: where they are found, and conversations brought into the form that templates were written for. */
#include "core/text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/text/jinja/jinja.h"

struct ad_chat_template {
    ad_jinja *plain, *with_tools; /* with_tools: NULL when the same template does both */
    char *source;
    char *problem; /* plain is NULL then */
};

static const size_t max_config = 64u << 20; /* tokenizer_config.json lists added tokens; the largest in use have 2 MiB */

/* ---- making ---- */

static ad_status no_memory(const char *label, ad_err *err)
{
    return ad_fail(err, AD_ENOMEM, "%s: out of memory", label);
}

/* tools may be empty: no template of its own for conversations with tools. */
static ad_status make(ad_chat_template **out, ad_str source, ad_str tools, const char *label, ad_err *err)
{
    ad_chat_template *t = ad_calloc(1, sizeof *t);
    ad_status st = t && (t->source = strndup(source.ptr, source.len)) ? AD_OK : no_memory(label, err);
    if (st == AD_OK) st = ad_jinja_new(&t->plain, source.ptr, source.len, label, err);
    if (st == AD_OK && tools.len) st = ad_jinja_new(&t->with_tools, tools.ptr, tools.len, label, err);
    if (st == AD_OK) *out = t;
    else ad_chat_template_free(&t);
    return st;
}

/* The same for a model's own template: what is wrong with it is told to those who want to chat. */
static ad_status make_or_note(ad_chat_template **out, ad_str source, ad_str tools, const char *label, ad_err *err)
{
    ad_err why;
    ad_status st = make(out, source, tools, label, &why);
    if (st == AD_OK) return AD_OK;
    ad_chat_template *t = ad_calloc(1, sizeof *t);
    if (t) t->source = strndup(source.ptr, source.len);
    if (t) t->problem = strdup(why.msg);
    if (st != AD_ENOMEM && t && t->source && t->problem) return *out = t, AD_OK;
    ad_chat_template_free(&t);
    return no_memory(label, err);
}

ad_status ad_chat_template_new(ad_chat_template **out, const char *source, size_t len, const char *label, ad_err *err)
{
    return make(out, (ad_str){source, len}, (ad_str){"", 0}, label, err);
}

void ad_chat_template_free(ad_chat_template **tp)
{
    ad_chat_template *t = *tp;
    if (!t) return;
    *tp = NULL;
    ad_jinja_free(&t->plain);
    ad_jinja_free(&t->with_tools);
    free(t->source);
    free(t->problem);
    free(t);
}

/* ---- finding ---- */

ad_status ad_chat_template_from_file(ad_chat_template **out, const char *path, ad_err *err)
{
    ad_file f = {0};
    ad_status st = ad_file_read(&f, path, AD_JINJA_MAX_SOURCE, err);
    if (st != AD_OK) return st;
    st = ad_chat_template_new(out, f.data ? f.data : "", f.len, path, err);
    ad_file_close(&f);
    return st;
}

ad_status ad_chat_template_from_gguf(ad_chat_template **out, const ad_gguf *g, const char *label, ad_err *err)
{
    ad_str source = {"", 0}, tools = {"", 0};
    char name[300];
    *out = NULL;
    if (!ad_gguf_str(g, "tokenizer.chat_template", &source)) return AD_OK;
    ad_gguf_str(g, "tokenizer.chat_template.tool_use", &tools);
    snprintf(name, sizeof name, "%.200s: tokenizer.chat_template", label);
    return make_or_note(out, source, tools, name, err);
}

static ad_str text_of(const json_t *v)
{
    return json_is_string(v) ? (ad_str){json_string_value(v), json_string_length(v)} : (ad_str){"", 0};
}

/* The template of a list of {"name", "template"}. */
static ad_str named_template(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        if (ad_str_eq(text_of(json_object_get(o, "name")), name)) return text_of(json_object_get(o, "template"));
    }
    return (ad_str){"", 0};
}

/* A file of dir that need not be there: *f is zero then. */
static ad_status read_optional(ad_file *f, const char *dir, const char *name, size_t most, ad_err *err)
{
    char path[4096];
    ad_err unread;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) >= sizeof path) return ad_fail(err, AD_EINVAL, "%.100s...: the path is too long", dir);
    ad_status st = ad_file_read(f, path, most, &unread);
    if (st == AD_ENOTFOUND || st == AD_EIO) return AD_OK;
    return st == AD_OK ? AD_OK : ad_fail(err, st, "%s", unread.msg);
}

static ad_status from_config(ad_chat_template **out, const char *dir, ad_err *err)
{
    ad_file f = {0};
    json_error_t why;
    char label[300];
    ad_status st = read_optional(&f, dir, "tokenizer_config.json", max_config, err);
    if (st != AD_OK || !f.data) return st;
    json_t *o = json_loadb(f.data, f.len, 0, &why);
    ad_file_close(&f);
    snprintf(label, sizeof label, "%.200s/tokenizer_config.json: chat_template", dir);
    if (!o) return ad_fail(err, AD_EFORMAT, "%.200s/tokenizer_config.json: line %d: %s", dir, why.line, why.text);
    const json_t *v = json_object_get(o, "chat_template");
    ad_str source = json_is_array(v) ? named_template(v, "default") : text_of(v);
    if (source.len) st = make_or_note(out, source, named_template(v, "tool_use"), label, err);
    json_decref(o);
    return st;
}

ad_status ad_chat_template_from_dir(ad_chat_template **out, const char *dir, ad_err *err)
{
    ad_file plain = {0}, tools = {0};
    char label[300];
    *out = NULL;
    ad_status st = read_optional(&plain, dir, "chat_template.jinja", AD_JINJA_MAX_SOURCE, err);
    if (st == AD_OK && !plain.data) return from_config(out, dir, err);
    if (st == AD_OK) st = read_optional(&tools, dir, "additional_chat_templates/tool_use.jinja", AD_JINJA_MAX_SOURCE, err);
    snprintf(label, sizeof label, "%.200s/chat_template.jinja", dir);
    if (st == AD_OK) st = make_or_note(out, (ad_str){plain.data, plain.len}, (ad_str){tools.data ? tools.data : "", tools.len}, label, err);
    ad_file_close(&plain);
    ad_file_close(&tools);
    return st;
}

const char *ad_chat_template_problem(const ad_chat_template *t) { return t->problem; }
const char *ad_chat_template_source(const ad_chat_template *t) { return t->source; }

bool ad_chat_template_mentions(const ad_chat_template *t, const char *name)
{
    return (t->plain && ad_jinja_mentions(t->plain, name)) || (t->with_tools && ad_jinja_mentions(t->with_tools, name));
}

/* ---- the conversation as templates expect it ---- */

/* Written behind the final message's content to find where it ends; the space tells whether the template trims. */
static const char mark[] = "\x02end of the final message\x02 ";

/* The texts of a list of text parts, as one string; NULL when memory ran out or a part is something else (*bad is its index). */
static json_t *join_parts(const json_t *parts, size_t *bad)
{
    ad_buf b = {0};
    *bad = SIZE_MAX;
    for (size_t i = 0; i < json_array_size(parts) && *bad == SIZE_MAX; i++) {
        const json_t *part = json_array_get(parts, i), *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
        if ((type && !ad_str_eq(text_of(type), "text")) || !json_is_string(text)) *bad = i;
        else ad_buf_append(&b, json_string_value(text), json_string_length(text));
    }
    json_t *joined = b.failed || *bad != SIZE_MAX ? NULL : json_stringn(b.data ? b.data : "", b.len);
    ad_buf_deinit(&b);
    return joined;
}

static ad_status join_content(json_t *m, size_t index, ad_err *err)
{
    size_t bad;
    const json_t *content = json_object_get(m, "content");
    if (!json_is_array(content)) return AD_OK;
    json_t *joined = join_parts(content, &bad);
    if (bad != SIZE_MAX) return ad_fail(err, AD_EINVAL, "messages[%zu].content[%zu] is not a text part", index, bad);
    return json_object_set_new(m, "content", joined) == 0 ? AD_OK : no_memory("messages", err);
}

/* {"function": {"arguments": "{...}"}} with the arguments as the object they say; another text stays what it is. */
static json_t *parsed_call(const json_t *call)
{
    const json_t *function = json_object_get(call, "function"), *text = json_object_get(function, "arguments");
    if (!json_is_string(text)) return json_incref((json_t *)call);
    bool empty = json_string_length(text) == 0;
    json_t *arguments = empty ? json_object() : json_loadb(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL, NULL);
    if (!json_is_object(arguments)) {
        json_decref(arguments);
        return json_incref((json_t *)call);
    }
    json_t *copy = json_copy((json_t *)call), *fn = json_copy((json_t *)function);
    if (json_object_set_new(fn, "arguments", arguments) == 0 && json_object_set(copy, "function", fn) == 0) return json_decref(fn), copy;
    json_decref(fn);
    json_decref(copy);
    return NULL;
}

static ad_status parse_calls(json_t *m, ad_err *err)
{
    const json_t *calls = json_object_get(m, "tool_calls");
    if (!json_is_array(calls)) return AD_OK;
    json_t *parsed = json_array();
    ad_status st = parsed ? AD_OK : AD_ENOMEM;
    for (size_t i = 0; st == AD_OK && i < json_array_size(calls); i++)
        if (json_array_append_new(parsed, parsed_call(json_array_get(calls, i))) != 0) st = AD_ENOMEM;
    if (st == AD_OK && json_object_set(m, "tool_calls", parsed) != 0) st = AD_ENOMEM;
    json_decref(parsed);
    return st == AD_OK ? AD_OK : no_memory("messages", err);
}

/* Thoughts have three names; templates read the first or the second, so that both say the same. */
static ad_status share_thoughts(json_t *m, ad_err *err)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *thoughts = NULL;
    for (size_t i = 0; i < 3 && !thoughts; i++) thoughts = json_object_get(m, names[i]);
    if (!thoughts) return AD_OK;
    int failed = json_object_set(m, "reasoning_content", thoughts);
    if (!failed && !json_object_get(m, "thinking")) failed = json_object_set(m, "thinking", thoughts);
    return failed ? no_memory("messages", err) : AD_OK;
}

/* A copy of a message without its null members, which templates know only as absent. */
static json_t *without_nulls(const json_t *m)
{
    json_t *copy = json_object();
    bool failed = !copy;
    for (void *it = json_object_iter((json_t *)m); it && !failed; it = json_object_iter_next((json_t *)m, it)) {
        json_t *v = json_object_iter_value(it);
        if (!json_is_null(v)) failed = json_object_set(copy, json_object_iter_key(it), v) != 0;
    }
    if (!failed) return copy;
    json_decref(copy);
    return NULL;
}

static ad_status normal_message(json_t **out, const json_t *m, size_t index, ad_err *err)
{
    const json_t *role = json_object_get(m, "role");
    if (!json_is_object(m) || !json_is_string(role)) return ad_fail(err, AD_EINVAL, "messages[%zu] has no role", index);
    json_t *copy = without_nulls(m);
    ad_status st = copy ? AD_OK : no_memory("messages", err);
    if (st == AD_OK && ad_str_eq(text_of(role), "developer") && json_object_set_new(copy, "role", json_string("system")) != 0) st = no_memory("messages", err);
    if (st == AD_OK) st = join_content(copy, index, err);
    if (st == AD_OK) st = parse_calls(copy, err);
    if (st == AD_OK) st = share_thoughts(copy, err);
    if (st == AD_OK) *out = copy;
    else json_decref(copy);
    return st;
}

static ad_status mark_final(json_t *messages, ad_err *err)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const json_t *content = json_object_get(last, "content");
    ad_buf b = {0};
    if (!json_is_string(content)) return ad_fail(err, AD_EINVAL, "the final message has no text that could be continued");
    ad_buf_append(&b, json_string_value(content), json_string_length(content));
    ad_buf_puts(&b, mark);
    bool failed = b.failed || json_object_set_new(last, "content", json_stringn(b.data, b.len)) != 0;
    ad_buf_deinit(&b);
    return failed ? no_memory("messages", err) : AD_OK;
}

/* *out is a new reference on success. */
static ad_status normal_messages(json_t **out, const ad_chat_input *in, ad_err *err)
{
    if (json_array_size(in->messages) == 0) return ad_fail(err, AD_EINVAL, "messages is no array with at least one message");
    if (in->add_generation_prompt && in->continue_final_message)
        return ad_fail(err, AD_EINVAL, "add_generation_prompt and continue_final_message exclude each other");
    json_t *list = json_array();
    ad_status st = list ? AD_OK : no_memory("messages", err);
    for (size_t i = 0; st == AD_OK && i < json_array_size(in->messages); i++) {
        json_t *m = NULL;
        st = normal_message(&m, json_array_get(in->messages, i), i, err);
        if (st == AD_OK && json_array_append_new(list, m) != 0) st = no_memory("messages", err);
    }
    if (st == AD_OK && in->continue_final_message) st = mark_final(list, err);
    if (st == AD_OK) *out = list;
    else json_decref(list);
    return st;
}

/* ---- rendering ---- */

static const size_t max_steps = 4u << 20, max_memory = 64u << 20, max_output = 16u << 20;

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cuts what was rendered from `base` on where the final message's content ends. */
static ad_status cut_at_mark(ad_buf *out, size_t base, ad_text_spans *spans, ad_err *err)
{
    size_t n = sizeof mark - 2, end = out->len; /* without the space */
    for (; end >= base + n && memcmp(out->data + end - n, mark, n) != 0; end--) {}
    if (end < base + n) return ad_fail(err, AD_EINVAL, "the template does not write the final message's content as it is, so that it cannot be continued");
    bool trimmed = out->data[end] != ' ';
    for (end -= n; trimmed && end > base && is_space(out->data[end - 1]); end--) {}
    out->data[out->len = end] = '\0';
    while (spans && spans->count && spans->spans[spans->count - 1].start >= end) spans->count--;
    if (spans && spans->count && spans->spans[spans->count - 1].end > end) spans->spans[spans->count - 1].end = end;
    return AD_OK;
}

typedef struct {
    ad_jinja_var *vars;
    size_t n, cap;
    json_t *bos, *eos, *messages; /* owned */
} variables;

static ad_status add_var(variables *v, ad_jinja_var var)
{
    if (ad_grow(&v->vars, &v->cap, v->n + 1, sizeof *v->vars) != AD_OK) return AD_ENOMEM;
    v->vars[v->n++] = var;
    return AD_OK;
}

/* A role that everybody knows is trusted: templates build special tokens from it, as in '<|' + role + '|>'. */
static ad_status gather(variables *v, const ad_chat_input *in)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "function", NULL};
    const json_t *tools = json_array_size(in->tools) ? in->tools : NULL;
    ad_status st = AD_OK;
    if (v->bos) st = add_var(v, (ad_jinja_var){.name = "bos_token", .value = v->bos});
    if (st == AD_OK && v->eos) st = add_var(v, (ad_jinja_var){.name = "eos_token", .value = v->eos});
    for (void *it = json_object_iter((json_t *)in->kwargs); it && st == AD_OK; it = json_object_iter_next((json_t *)in->kwargs, it))
        st = add_var(v, (ad_jinja_var){.name = json_object_iter_key(it), .value = json_object_iter_value(it), .untrusted = true});
    if (st == AD_OK) st = add_var(v, (ad_jinja_var){.name = "messages", .value = v->messages, .untrusted = true, .trusted_key = "role", .trusted_words = roles});
    if (st == AD_OK) st = add_var(v, (ad_jinja_var){.name = "tools", .value = tools, .untrusted = true});
    if (st == AD_OK) st = add_var(v, (ad_jinja_var){.name = "documents", .value = in->documents, .untrusted = true});
    if (st == AD_OK) st = add_var(v, (ad_jinja_var){.name = "add_generation_prompt", .value = in->add_generation_prompt ? json_true() : json_false()});
    return st;
}

static json_t *token_text(const ad_tokenizer *tk, int32_t id)
{
    ad_str s = id >= 0 ? ad_tokenizer_token(tk, id) : (ad_str){"", 0};
    return s.len ? json_stringn(s.ptr, s.len) : NULL;
}

ad_status ad_chat_render(const ad_chat_template *t, const ad_chat_input *in, ad_buf *out, ad_text_spans *untrusted, ad_err *err)
{
    variables v = {0};
    ad_jinja_limits limits = {.steps = max_steps, .memory = max_memory, .output = max_output, .now = in->now};
    size_t had = out->len, had_spans = untrusted ? untrusted->count : 0;
    if (t->problem) return ad_fail(err, AD_EUNSUPPORTED, "the chat template cannot be used: %s", t->problem);
    ad_status st = normal_messages(&v.messages, in, err);
    if (st != AD_OK) return st;
    if (in->tokenizer) v.bos = token_text(in->tokenizer, ad_tokenizer_bos(in->tokenizer));
    if (in->tokenizer) v.eos = token_text(in->tokenizer, ad_tokenizer_eos(in->tokenizer));
    if (gather(&v, in) != AD_OK) st = no_memory("variables", err);
    if (st == AD_OK) st = ad_jinja_render(json_array_size(in->tools) && t->with_tools ? t->with_tools : t->plain, v.vars, v.n, &limits, out, untrusted, err);
    if (st == AD_OK && in->continue_final_message) st = cut_at_mark(out, had, untrusted, err);
    if (st != AD_OK && out->len > had) out->data[out->len = had] = '\0';
    if (st != AD_OK && untrusted) untrusted->count = had_spans;
    json_decref(v.bos);
    json_decref(v.eos);
    json_decref(v.messages);
    free(v.vars);
    return st;
}
