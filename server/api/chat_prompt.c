/* SPDX-License-Identifier: MIT */
#include "server/api/chat_prompt.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/api/constraint.h"

ad_chat *ad_chat_new(void)
{
    ad_chat *c = ad_calloc(1, sizeof *c);
    if (c) *c = (ad_chat){.add_generation_prompt = true};
    return c;
}

void ad_chat_free(void *chat)
{
    ad_chat *c = chat;
    if (!c) return;
    json_decref(c->messages);
    json_decref(c->tools);
    json_decref(c->kwargs);
    free(c);
}

/* ---- messages ---- */

typedef struct {
    const ad_reader *rd;
    char at[48]; /* "messages[3]" */
} place;

static bool wrong(const place *p, const char *field, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s%s", p->at, *field ? "." : "", field);
    return ad_fault_set(p->rd->f, 400, "invalid_value", name, "`%s` %s", name, what);
}

static bool check_part(const place *p, const json_t *part)
{
    const char *type = json_string_value(ad_json_member(part, "type"));
    if (!type) return wrong(p, "content", "holds a part without a `type`");
    if (!strcmp(type, "refusal")) return json_is_string(ad_json_member(part, "refusal")) || wrong(p, "content", "holds a refusal that is not a string");
    if (strcmp(type, "text") != 0)
        return ad_fault_set(p->rd->f, 400, "unsupported_parameter", "messages", "`%s.content` holds a part of type \"%.40s\"; only \"text\" is served", p->at, type);
    return json_is_string(ad_json_member(part, "text")) || wrong(p, "content", "holds a text part whose `text` is not a string");
}

static bool check_content(const place *p, const json_t *v)
{
    if (json_is_string(v)) return true;
    if (!json_is_array(v) || !json_array_size(v)) return wrong(p, "content", "must be a string or a non-empty array of text parts");
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!check_part(p, json_array_get(v, i))) return false;
    return true;
}

static bool check_call(const place *p, const json_t *call)
{
    const json_t *function = ad_json_member(call, "function"), *args = ad_json_member(function, "arguments");
    const char *type = json_string_value(ad_json_member(call, "type"));
    if (!json_is_object(function) || (type && strcmp(type, "function") != 0)) return wrong(p, "tool_calls", "must hold objects of type \"function\" with a `function`");
    if (!json_is_string(ad_json_member(function, "name"))) return wrong(p, "tool_calls", "holds a function without a `name`");
    if (args && !json_is_string(args) && !json_is_object(args)) return wrong(p, "tool_calls", "holds `arguments` that are not a string of JSON");
    if (!json_is_string(args) || !json_string_length(args)) return true;
    json_t *parsed = json_loads(json_string_value(args), JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    bool good = json_is_object(parsed);
    json_decref(parsed);
    return good || wrong(p, "tool_calls", "holds `arguments` that are not a JSON object");
}

static bool check_calls(const place *p, const json_t *calls)
{
    if (!json_is_array(calls)) return wrong(p, "tool_calls", "must be an array");
    if (json_array_size(calls) > AD_MAX_TOOLS) return wrong(p, "tool_calls", "has more than 128 calls");
    for (size_t i = 0; i < json_array_size(calls); i++)
        if (!check_call(p, json_array_get(calls, i))) return false;
    return true;
}

static bool is_role(const char *role)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function"};
    for (size_t i = 0; role && i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(role, roles[i])) return true;
    return false;
}

static bool check_message(const place *p, const json_t *m)
{
    if (!json_is_object(m)) return wrong(p, "", "must be an object with `role` and `content`");
    const char *role = json_string_value(ad_json_member(m, "role"));
    const json_t *content = ad_json_member(m, "content"), *calls = ad_json_member(m, "tool_calls"), *name = ad_json_member(m, "name"), *id = ad_json_member(m, "tool_call_id");
    if (!is_role(role)) return wrong(p, "role", "must be \"system\", \"developer\", \"user\", \"assistant\" or \"tool\"");
    if (ad_json_member(m, "function_call") || ad_json_member(m, "audio")) return wrong(p, "", "has `function_call` or `audio`, which are not supported; use `tool_calls`");
    if (calls && strcmp(role, "assistant") != 0) return wrong(p, "tool_calls", "belongs to messages of the assistant");
    if (calls && !check_calls(p, calls)) return false;
    if (name && !json_is_string(name)) return wrong(p, "name", "must be a string");
    if (id && !json_is_string(id)) return wrong(p, "tool_call_id", "must be a string");
    if (!content && (json_array_size(calls) || ad_json_member(m, "refusal"))) return true;
    return content ? check_content(p, content) : wrong(p, "content", "is missing");
}

bool ad_chat_take_messages(const ad_reader *rd, ad_chat *c, const char *name, json_t *messages)
{
    c->messages = messages;
    if (!json_is_array(messages) || !json_array_size(messages)) return ad_read_wrong(rd, name, "must be a non-empty array of messages");
    if (json_array_size(messages) > AD_MAX_MESSAGES) return ad_read_wrong(rd, name, "has more than 4096 messages");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        place p = {.rd = rd};
        snprintf(p.at, sizeof p.at, "%.20s[%zu]", name, i);
        if (!check_message(&p, json_array_get(messages, i))) return false;
    }
    return true;
}

bool ad_chat_read_messages(const ad_reader *rd, ad_chat *c)
{
    const json_t *v = ad_read_field(rd, "messages");
    if (!v) return ad_read_wrong(rd, "messages", "is missing");
    return ad_chat_take_messages(rd, c, "messages", json_incref((json_t *)v));
}

/* ---- tools ---- */

static bool is_function_name(const char *s)
{
    size_t n = s ? strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.") : 0;
    return n && n <= 64 && !s[n];
}

static bool check_tool(const ad_reader *rd, const json_t *tool)
{
    const char *type = json_string_value(ad_json_member(tool, "type"));
    const json_t *function = ad_json_member(tool, "function"), *parameters = ad_json_member(function, "parameters"), *text = ad_json_member(function, "description");
    if (!type || strcmp(type, "function") != 0 || !json_is_object(function)) return ad_read_wrong(rd, "tools", "must hold objects of type \"function\" with a `function`");
    if (!is_function_name(json_string_value(ad_json_member(function, "name")))) return ad_read_wrong(rd, "tools", "holds a function whose `name` is not 1 to 64 of A-Z a-z 0-9 _ - .");
    if (parameters && !json_is_object(parameters)) return ad_read_wrong(rd, "tools", "holds a function whose `parameters` are not a JSON schema");
    return !text || json_is_string(text) || ad_read_wrong(rd, "tools", "holds a function whose `description` is not a string");
}

static bool read_list(const ad_reader *rd, ad_chat *c)
{
    const json_t *tools = ad_read_field(rd, "tools");
    if (!tools) return true;
    if (!json_is_array(tools) || json_array_size(tools) > AD_MAX_TOOLS) return ad_read_wrong(rd, "tools", "must be an array of at most 128 tools");
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!check_tool(rd, json_array_get(tools, i))) return false;
    if (json_array_size(tools)) c->tools = json_incref((json_t *)tools);
    return true;
}

static bool is_tool(const ad_chat *c, const char *name)
{
    for (size_t i = 0; i < json_array_size(c->tools); i++)
        if (!strcmp(json_string_value(json_object_get(json_object_get(json_array_get(c->tools, i), "function"), "name")), name)) return true;
    return false;
}

static bool read_choice(const ad_reader *rd, ad_chat *c)
{
    const json_t *v = ad_read_field(rd, "tool_choice");
    const char *word = json_string_value(v), *name = json_string_value(json_object_get(json_object_get(v, "function"), "name"));
    if (!v || (word && !strcmp(word, "auto"))) return true;
    if (word && !strcmp(word, "none")) {
        json_decref(c->tools);
        c->tools = NULL;
        return true;
    }
    if (word && !strcmp(word, "required")) name = "";
    if (!name) return ad_read_wrong(rd, "tool_choice", "must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ...}}");
    if (!c->tools) return ad_read_wrong(rd, "tool_choice", "needs `tools`");
    if (*name && !is_tool(c, name)) return ad_read_wrong(rd, "tool_choice", "names a function that is not in `tools`");
    c->forced = name;
    return true;
}

/* How a template shows calls tells how its model writes them. */
static ad_tool_style style_of(const ad_chat_template *t)
{
    const char *source = t ? ad_chat_template_source(t) : "";
    bool ipython = strstr(source, "<|python_tag|>") || strstr(source, "Environment: ipython");
    return ipython && !strstr(source, "<tool_call>") ? AD_TOOLS_LLAMA : AD_TOOLS_HERMES;
}

bool ad_chat_read_tools(const ad_reader *rd, ad_chat *c)
{
    bool parallel = true;
    if (!read_list(rd, c) || !read_choice(rd, c) || !ad_read_flag(rd, "parallel_tool_calls", &parallel)) return false;
    c->max_calls = parallel ? AD_MAX_TOOLS : 1;
    c->style = !c->tools ? AD_TOOLS_NONE : c->forced ? AD_TOOLS_FORCED : style_of(rd->cx->chat);
    return true;
}

bool ad_chat_read_template_options(const ad_reader *rd, ad_chat *c)
{
    const json_t *kwargs = ad_read_field(rd, "chat_template_kwargs");
    if (kwargs && !json_is_object(kwargs)) return ad_read_wrong(rd, "chat_template_kwargs", "must be an object");
    if (!ad_read_flag(rd, "add_generation_prompt", &c->add_generation_prompt) || !ad_read_flag(rd, "continue_final_message", &c->continue_final_message)) return false;
    if (c->continue_final_message && ad_read_field(rd, "add_generation_prompt") && c->add_generation_prompt)
        return ad_read_wrong(rd, "continue_final_message", "does not go with `add_generation_prompt`");
    if (c->continue_final_message) c->add_generation_prompt = false;
    c->kwargs = kwargs ? json_copy((json_t *)kwargs) : json_object();
    const json_t *effort = ad_read_field(rd, "reasoning_effort"); /* a variable to the templates that know it */
    if (effort && !json_is_string(effort)) return ad_read_wrong(rd, "reasoning_effort", "must be a string");
    if (effort && !json_object_get(c->kwargs, "reasoning_effort")) json_object_set(c->kwargs, "reasoning_effort", (json_t *)effort);
    return true;
}

/* ---- calls that must come ---- */

/* References of a schema that becomes `where` in another. */
static void move_references(json_t *v, const char *where)
{
    const char *key, *ref = json_string_value(json_object_get(v, "$ref"));
    json_t *each;
    size_t i;
    if (ref && *ref == '#') json_object_set_new(v, "$ref", json_sprintf("%s%s", where, ref + 1));
    json_object_foreach(v, key, each) move_references(each, where);
    json_array_foreach(v, i, each) move_references(each, where);
}

/* {"name": one of those offered, "arguments": by its parameters} */
static json_t *schema_of_calls(const ad_chat *c)
{
    json_t *kinds = json_array(), *parameters = json_object(), *tool;
    size_t i;
    json_array_foreach(c->tools, i, tool) {
        const json_t *function = json_object_get(tool, "function"), *schema = ad_json_member(function, "parameters");
        const char *name = json_string_value(json_object_get(function, "name"));
        char at[32], where[48];
        if (*c->forced && strcmp(c->forced, name) != 0) continue;
        snprintf(at, sizeof at, "tool%zu", i);
        snprintf(where, sizeof where, "#/$defs/%s", at);
        json_t *own = schema ? json_deep_copy(schema) : json_pack("{s:s}", "type", "object");
        move_references(own, where);
        json_object_set_new(parameters, at, own);
        json_array_append_new(kinds, json_pack("{s:s, s:{s:{s:s}, s:{s:s}}, s:[s, s], s:b}", "type", "object", "properties", "name", "const", name, "arguments", "$ref", where,
                                               "required", "name", "arguments", "additionalProperties", 0));
    }
    return json_pack("{s:o, s:o}", "anyOf", kinds, "$defs", parameters);
}

bool ad_chat_constrain(const ad_reader *rd, const ad_chat *c)
{
    if (c->tools && rd->r->grammar) return ad_read_wrong(rd, "tools", "do not go with a constraint on the answer, unless `tool_choice` is \"none\"");
    if (!c->forced) return true;
    json_t *schema = schema_of_calls(c);
    bool good = schema ? ad_request_constrain(rd, "tools", AD_GRAMMAR_JSON_SCHEMA, schema) : ad_fault_no_memory(rd->f);
    json_decref(schema);
    return good;
}

/* ---- templates that know no tools: tools, calls and results are written into the messages, in Hermes' form ---- */

static void put_dump(ad_buf *b, const json_t *v)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    if (text) ad_buf_puts(b, text);
    else b->failed = true;
    free(text);
}

static void put_content(ad_buf *b, const json_t *content)
{
    if (json_is_string(content)) ad_buf_append(b, json_string_value(content), json_string_length(content));
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *text = json_object_get(json_array_get(content, i), "text");
        ad_buf_append(b, json_is_string(text) ? json_string_value(text) : "", json_string_length(text));
    }
}

static void put_tools(ad_buf *b, const json_t *tools)
{
    ad_buf_puts(b, "You may call functions to help the user. Each line is one function's JSON description:\n<tools>\n");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        put_dump(b, json_array_get(tools, i));
        ad_buf_puts(b, "\n");
    }
    ad_buf_puts(b, "</tools>\nTo call a function, write its name and its arguments as JSON between these tags:\n<tool_call>\n{\"name\": \"FUNCTION\", \"arguments\": {}}\n</tool_call>");
}

static void put_calls(ad_buf *b, const json_t *calls)
{
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = json_object_get(json_array_get(calls, i), "function"), *args = json_object_get(function, "arguments");
        ad_buf_puts(b, b->len ? "\n<tool_call>\n{\"name\": " : "<tool_call>\n{\"name\": ");
        put_dump(b, json_object_get(function, "name"));
        ad_buf_puts(b, ", \"arguments\": ");
        if (json_string_length(args)) ad_buf_append(b, json_string_value(args), json_string_length(args));
        else if (json_is_object(args)) put_dump(b, args);
        else ad_buf_puts(b, "{}");
        ad_buf_puts(b, "}\n</tool_call>");
    }
}

/* Takes what *b holds as the content. */
static json_t *plain_message(const char *role, ad_buf *b)
{
    json_t *m = json_pack("{s:s, s:o}", "role", role, "content", ad_buf_json(b));
    ad_buf_deinit(b);
    return m;
}

static json_t *plain_form(const json_t *m)
{
    const char *role = json_string_value(json_object_get(m, "role"));
    bool result = !strcmp(role, "tool") || !strcmp(role, "function");
    ad_buf b = {0};
    if (!result && !ad_json_member(m, "tool_calls")) return json_incref((json_t *)m);
    if (result) ad_buf_puts(&b, "<tool_response>\n");
    put_content(&b, json_object_get(m, "content"));
    put_calls(&b, json_object_get(m, "tool_calls"));
    if (result) ad_buf_puts(&b, "\n</tool_response>");
    return plain_message(result ? "user" : role, &b);
}

/* NULL: out of memory. */
static json_t *plain_messages(const ad_chat *c)
{
    const json_t *first = json_array_get(c->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    bool has_system = !strcmp(role, "system") || !strcmp(role, "developer"), good = true;
    json_t *list = json_array();
    if (c->tools) {
        ad_buf b = {0};
        if (has_system) {
            put_content(&b, json_object_get(first, "content"));
            ad_buf_puts(&b, "\n\n");
        }
        put_tools(&b, c->tools);
        good = json_array_append_new(list, plain_message("system", &b)) == 0;
    }
    for (size_t i = c->tools && has_system ? 1 : 0; good && i < json_array_size(c->messages); i++)
        good = json_array_append_new(list, plain_form(json_array_get(c->messages, i))) == 0;
    if (good) return list;
    json_decref(list);
    return NULL;
}

/* ---- the prompt ---- */

static bool needs_plain_form(const ad_chat_template *t, const ad_chat *c)
{
    if (ad_chat_template_mentions(t, "tools")) return false;
    for (size_t i = 0; i < json_array_size(c->messages); i++) {
        const json_t *m = json_array_get(c->messages, i);
        const char *role = json_string_value(json_object_get(m, "role"));
        if (ad_json_member(m, "tool_calls") || !strcmp(role, "tool") || !strcmp(role, "function")) return true;
    }
    return c->tools != NULL;
}

bool ad_chat_render_prompt(const ad_reader *rd, const ad_chat *c, const char *name, ad_buf *out, ad_text_spans *untrusted)
{
    const ad_chat_template *t = rd->cx->chat;
    ad_err err;
    if (!t)
        return ad_fault_set(rd->f, 400, "no_chat_template", name, "This model has no chat template; use /v1/completions, or start the server with --chat-template-file");
    bool plain = needs_plain_form(t, c);
    json_t *messages = plain ? plain_messages(c) : json_incref(c->messages);
    if (!messages) return ad_fault_no_memory(rd->f);
    ad_chat_input in = {
        .messages = messages, .tools = plain ? NULL : c->tools, .kwargs = c->kwargs, .add_generation_prompt = c->add_generation_prompt,
        .continue_final_message = c->continue_final_message, .tokenizer = rd->cx->tokenizer, .now = time(NULL),
    };
    ad_status st = ad_chat_render(t, &in, out, untrusted, &err);
    json_decref(messages);
    if (st == AD_OK) return true;
    if (st == AD_ENOMEM) return ad_fault_from(rd->f, &err, name);
    return ad_fault_set(rd->f, 400, "chat_template_error", name, "The chat template refuses this request: %s", err.msg);
}

bool ad_chat_encode_prompt(const ad_reader *rd, const ad_chat *c, const char *name, bool special, ad_ids *ids)
{
    ad_buf text = {0};
    ad_text_spans untrusted = {0};
    ad_err err;
    unsigned flags = AD_ENCODE_PARSE_SPECIAL | (special ? AD_ENCODE_ADD_SPECIAL : 0);
    bool good = ad_chat_render_prompt(rd, c, name, &text, &untrusted);
    if (c->forced && style_of(rd->cx->chat) == AD_TOOLS_HERMES) ad_buf_puts(&text, "<tool_call>\n"); /* where the model would begin one */
    if (text.failed) good = ad_fault_no_memory(rd->f);
    if (good && ad_tokenizer_encode_spans(rd->cx->tokenizer, text.data ? text.data : "", text.len, flags, untrusted.spans, untrusted.count, ids, &err) != AD_OK)
        good = ad_fault_from(rd->f, &err, name);
    free(untrusted.spans);
    ad_buf_deinit(&text);
    return good;
}

bool ad_chat_add_prompt(const ad_reader *rd, const ad_chat *c, const char *name)
{
    ad_ids ids = {0};
    if (ad_chat_encode_prompt(rd, c, name, false, &ids) && ad_request_reserve(rd, 1)) return ad_request_add_prompt(rd, name, ids); /* which has them now */
    free(ids.ids);
    return false;
}
