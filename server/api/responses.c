/* SPDX-License-Identifier: MIT */
/* POST /v1/responses, OpenAI's: input items become messages, the answer becomes output items. Nothing is stored: a conversation is sent whole. */
#include <stdlib.h>
#include <string.h>

#include "server/api/chat.h"
#include "server/api/constraint.h"
#include "server/observe/log.h"

/* ---- input items to messages ---- */

/* Parts of text of whatever kind, as chat has them; others keep their type and are refused there. */
static json_t *content_of(const json_t *content)
{
    if (!json_is_array(content)) return json_incref((json_t *)content);
    json_t *parts = json_array();
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        const char *type = json_string_value(ad_json_member(part, "type"));
        bool text = type && (!strcmp(type, "input_text") || !strcmp(type, "output_text") || !strcmp(type, "text"));
        if (text && json_is_string(ad_json_member(part, "text"))) json_array_append_new(parts, json_pack("{s:s, s:O}", "type", "text", "text", ad_json_member(part, "text")));
        else json_array_append(parts, (json_t *)part);
    }
    return parts;
}

static json_t *call_json(const json_t *item)
{
    return json_pack("{s:O*, s:s, s:{s:O*, s:O*}}", "id", ad_json_member(item, "call_id"), "type", "function", "function", "name", ad_json_member(item, "name"),
                     "arguments", ad_json_member(item, "arguments"));
}

/* Calls that follow one another are one message's. */
static bool add_call(json_t *messages, const json_t *item)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1), *calls = json_object_get(last, "tool_calls");
    if (calls) return json_array_append_new(calls, call_json(item)) == 0;
    return json_array_append_new(messages, json_pack("{s:s, s:n, s:[o]}", "role", "assistant", "content", "tool_calls", call_json(item))) == 0;
}

static bool add_item(const ad_reader *rd, json_t *messages, const json_t *item)
{
    const char *type = json_string_value(ad_json_member(item, "type"));
    if (!json_is_object(item)) return ad_read_wrong(rd, "input", "must be a string or an array of items");
    if (!type || !strcmp(type, "message"))
        return json_array_append_new(messages, json_pack("{s:O*, s:o*}", "role", ad_json_member(item, "role"), "content", content_of(ad_json_member(item, "content")))) == 0;
    if (!strcmp(type, "function_call")) return add_call(messages, item) || ad_read_wrong(rd, "input", "holds a function_call without `name`");
    if (!strcmp(type, "function_call_output")) {
        const json_t *output = ad_json_member(item, "output");
        return json_array_append_new(messages, json_pack("{s:s, s:O*, s:o*}", "role", "tool", "tool_call_id", ad_json_member(item, "call_id"), "content", content_of(output))) == 0;
    }
    if (!strcmp(type, "reasoning")) return true; /* what other models thought is not shown to this one */
    return ad_fault_set(rd->f, 400, "unsupported_parameter", "input", "`input` holds an item of type \"%.40s\", which is not supported", type);
}

static bool read_input(const ad_reader *rd, ad_chat *c)
{
    const json_t *input = ad_read_field(rd, "input"), *instructions = ad_read_field(rd, "instructions");
    json_t *messages = json_array();
    bool good = input || ad_read_wrong(rd, "input", "is missing");
    if (instructions && !json_is_string(instructions)) good = ad_read_wrong(rd, "instructions", "must be a string");
    if (good && instructions) json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "system", "content", instructions));
    if (good && json_is_string(input)) json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "user", "content", input));
    else if (good && (!json_is_array(input) || !json_array_size(input))) good = ad_read_wrong(rd, "input", "must be a string or a non-empty array of items");
    for (size_t i = 0; good && i < json_array_size(input); i++) good = add_item(rd, messages, json_array_get(input, i));
    if (good) return ad_chat_take_messages(rd, c, "input", messages);
    json_decref(messages);
    return false;
}

/* ---- tools: flat here, nested in chat ---- */

static json_t *nested_tool(const json_t *tool)
{
    json_t *function = json_pack("{s:O*, s:O*, s:O*, s:O*}", "name", ad_json_member(tool, "name"), "description", ad_json_member(tool, "description"),
                                 "parameters", ad_json_member(tool, "parameters"), "strict",
                                 ad_json_member(tool, "strict"));
    return json_pack("{s:O*, s:o}", "type", ad_json_member(tool, "type"), "function", function);
}

/* rd->object with tools and tool_choice as chat has them. */
static json_t *chat_form(const ad_reader *rd)
{
    const json_t *tools = ad_read_field(rd, "tools"), *choice = ad_read_field(rd, "tool_choice");
    json_t *list = json_is_array(tools) ? json_array() : NULL;
    for (size_t i = 0; i < json_array_size(tools); i++) json_array_append_new(list, nested_tool(json_array_get(tools, i)));
    json_t *nested = ad_json_member(choice, "name") ? json_pack("{s:O*, s:{s:O}}", "type", ad_json_member(choice, "type"), "function",
                                                                "name", ad_json_member(choice, "name")) : json_incref((json_t *)choice);
    return json_pack("{s:o*, s:o*, s:O*}", "tools", list ? list : json_incref((json_t *)tools), "tool_choice", nested, "parallel_tool_calls", ad_read_field(rd, "parallel_tool_calls"));
}

typedef struct {
    ad_chat chat; /* first: an extra is an ad_chat to those who read it, and to ad_chat_free */
    json_t *form; /* owns what chat.tools came from */
} response_extra;

static void extra_free(void *p)
{
    response_extra *e = p;
    json_decref(e->form);
    ad_chat_free(&e->chat);
}

static bool read_tools(const ad_reader *rd, response_extra *e)
{
    e->form = chat_form(rd);
    if (!e->form) return ad_fault_no_memory(rd->f);
    ad_reader nested = *rd;
    nested.object = e->form;
    return ad_chat_read_tools(&nested, &e->chat);
}

/* ---- the body ---- */

static bool read_unserved(const ad_reader *rd)
{
    static const char *const names[] = {"previous_response_id", "conversation", "background", "prompt", "max_tool_calls", "top_logprobs"};
    const json_t *truncation = ad_read_field(rd, "truncation"), *include = ad_read_field(rd, "include");
    if (truncation && (!json_is_string(truncation) || strcmp(json_string_value(truncation), "disabled") != 0))
        return ad_fault_set(rd->f, 400, "unsupported_parameter", "truncation", "`truncation` other than \"disabled\" is not supported");
    if (json_array_size(include)) return ad_fault_set(rd->f, 400, "unsupported_parameter", "include", "`include` is not supported");
    return ad_read_unserved(rd, names, sizeof names / sizeof *names);
}

static bool read_body(const ad_reader *rd)
{
    ad_request *r = rd->r;
    response_extra *e = ad_calloc(1, sizeof *e);
    if (!e) return ad_fault_no_memory(rd->f);
    e->chat.add_generation_prompt = true;
    r->extra = e;
    r->free_extra = extra_free;
    r->max_tokens_given = ad_read_field(rd, "max_output_tokens") != NULL;
    bool good = read_input(rd, &e->chat) && read_tools(rd, e) && ad_read_integer(rd, "max_output_tokens", 1, INT32_MAX, &r->sampling.max_tokens) && ad_read_sampling(rd) &&
                ad_read_flag(rd, "stream", &r->stream) && read_unserved(rd);
    return good && ad_read_response_format(rd, "text.format", ad_json_member(ad_read_field(rd, "text"), "format")) && ad_chat_constrain(rd, &e->chat) &&
           ad_chat_add_prompt(rd, &e->chat, "input");
}

/* ---- the reply ---- */

/* The generation's state: what the stream has told. */
typedef struct {
    int sequence;        /* of the next event */
    bool open;           /* the message item is */
    ad_buf text;         /* of it so far */
    json_t *output;      /* items that are complete */
    int n_calls;
} told;

static void told_free(void *p)
{
    told *t = p;
    ad_buf_deinit(&t->text);
    json_decref(t->output);
    free(t);
}

static const char *request_id(const ad_generation *g)
{
    return g->id + strlen(g->dialect->id_prefix);
}

static json_t *text_part(const ad_buf *text)
{
    return json_pack("{s:s, s:o, s:[], s:[]}", "type", "output_text", "text", ad_buf_json(text), "annotations", "logprobs");
}

static json_t *message_item(const ad_generation *g, const char *status, json_t *content)
{
    char id[200];
    snprintf(id, sizeof id, "msg_%s", request_id(g));
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "id", id, "type", "message", "status", status, "role", "assistant", "content", content);
}

static json_t *call_item(const ad_choice *ch, int i, const json_t *call, const char *status, const char *arguments)
{
    char id[220], call_id[200];
    snprintf(id, sizeof id, "fc_%s_%d", request_id(ch->owner), i);
    ad_chat_call_id(ch, i, call_id, sizeof call_id);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "id", id, "type", "function_call", "status", status, "call_id", call_id, "name",
                     json_string_value(json_object_get(call, "name")), "arguments", arguments);
}

static json_t *or_null(const json_t *v)
{
    return v ? json_incref((json_t *)v) : json_null();
}

static json_t *usage_json(const ad_generation *g)
{
    ad_usage u = ad_generation_usage(g);
    return json_pack("{s:I, s:{s:I}, s:I, s:{s:i}, s:I}", "input_tokens", u.prompt, "input_tokens_details", "cached_tokens", u.cached, "output_tokens", u.generated,
                     "output_tokens_details", "reasoning_tokens", 0, "total_tokens", u.prompt + u.generated);
}

/* status: "in_progress", or how it ended; output is taken. */
static json_t *response_json(const ad_generation *g, const char *status, json_t *output)
{
    const json_t *root = g->rq.root, *choice = ad_json_member(root, "tool_choice"), *tools = ad_json_member(root, "tools"), *format = ad_json_member(root, "text"), *metadata = ad_json_member(root, "metadata");
    const json_t *limit = ad_json_member(root, "max_output_tokens");
    bool ended = strcmp(status, "in_progress") != 0, cut = !strcmp(status, "incomplete");
    json_t *v = json_pack("{s:s, s:s, s:I, s:s, s:n, s:o, s:o, s:o, s:s, s:o, s:o, s:n, s:f, s:o}", "id", g->id, "object", "response", "created_at", (json_int_t)g->created, "status",
                          status, "error", "incomplete_details", cut ? json_pack("{s:s}", "reason", "max_output_tokens") : json_null(), "instructions",
                          or_null(ad_json_member(root, "instructions")), "max_output_tokens", or_null(limit), "model", ad_generation_model(g), "output", output, "parallel_tool_calls",
                          json_boolean(((const ad_chat *)g->rq.extra)->max_calls != 1), "previous_response_id", "temperature", ad_plain_float(g->rq.sampling.temperature), "text",
                          format ? json_incref((json_t *)format) : json_pack("{s:{s:s}}", "format", "type", "text"));
    json_t *rest = json_pack("{s:o, s:o, s:f, s:s, s:o, s:b, s:o, s:{s:n, s:n}, s:o}", "tool_choice", choice ? json_incref((json_t *)choice) : json_string("auto"), "tools",
                             tools ? json_incref((json_t *)tools) : json_array(), "top_p", ad_plain_float(g->rq.sampling.top_p), "truncation", "disabled", "usage",
                             ended ? usage_json(g) : json_null(), "store", 0, "user", or_null(ad_json_member(root, "user")), "reasoning", "effort", "summary", "metadata",
                             metadata ? json_incref((json_t *)metadata) : json_object());
    if (v && rest) json_object_update(v, rest);
    json_decref(rest);
    if (v) ad_lease_write_receipt(&g->lease, v);
    return v;
}

static const char *status_of(const ad_choice *ch)
{
    return ch->end == AD_END_LENGTH ? "incomplete" : "completed";
}

static json_t *reply(ad_generation *g)
{
    ad_choice *ch = &g->choices[0];
    const ad_chat_state *s = ad_chat_take(ch);
    json_t *output = s ? json_array() : NULL, *call;
    size_t i;
    if (!s) return NULL;
    bool blank = s->content.len == (s->content.len ? strspn(s->content.data, " \t\r\n") : 0);
    if (!blank || !json_array_size(s->calls)) json_array_append_new(output, message_item(g, status_of(ch), json_pack("[o]", text_part(&s->content))));
    json_array_foreach(s->calls, i, call) json_array_append_new(output, call_item(ch, (int)i, call, "completed", json_string_value(json_object_get(call, "arguments"))));
    return response_json(g, status_of(ch), output);
}

/* ---- the stream ---- */

static void tell(ad_generation *g, const char *type, json_t *v)
{
    told *t = g->state;
    if (v) json_object_set_new(v, "type", json_string(type));
    if (v) json_object_set_new(v, "sequence_number", json_integer(t->sequence++));
    if (v) ad_lease_write_receipt(&g->lease, v);
    ad_generation_send(g, type, v);
}

static void begin(ad_generation *g)
{
    told *t = g->state = ad_calloc(1, sizeof *t);
    if (t) t->output = json_array();
    if (!t || !t->output) {
        ad_generation_fail(g, 503, NULL, "out of memory");
        return;
    }
    tell(g, "response.created", json_pack("{s:o}", "response", response_json(g, "in_progress", json_array())));
    tell(g, "response.in_progress", json_pack("{s:o}", "response", response_json(g, "in_progress", json_array())));
}

static int next_output(const told *t)
{
    return (int)json_array_size(t->output);
}

/* Where a part of the message stands. */
static json_t *part_event(const ad_generation *g, const told *t)
{
    char id[200];
    snprintf(id, sizeof id, "msg_%s", request_id(g));
    return json_pack("{s:s, s:i, s:i}", "item_id", id, "output_index", next_output(t), "content_index", 0);
}

static void open_message(ad_generation *g, told *t)
{
    t->open = true;
    tell(g, "response.output_item.added", json_pack("{s:i, s:o}", "output_index", next_output(t), "item", message_item(g, "in_progress", json_array())));
    json_t *v = part_event(g, t);
    json_object_set_new(v, "part", text_part(&(ad_buf){0}));
    tell(g, "response.content_part.added", v);
}

static void tell_text(ad_generation *g, told *t, const ad_buf *text)
{
    if (!text->len) return;
    if (!t->open) open_message(g, t);
    ad_buf_append(&t->text, text->data, text->len);
    json_t *v = part_event(g, t);
    json_object_set_new(v, "delta", ad_buf_json(text));
    json_object_set_new(v, "logprobs", json_array());
    tell(g, "response.output_text.delta", v);
}

static void close_message(ad_generation *g, told *t, const char *status)
{
    if (!t->open) return;
    json_t *v = part_event(g, t), *item = message_item(g, status, json_pack("[o]", text_part(&t->text)));
    json_object_set_new(v, "text", ad_buf_json(&t->text));
    json_object_set_new(v, "logprobs", json_array());
    tell(g, "response.output_text.done", v);
    v = part_event(g, t);
    json_object_set_new(v, "part", text_part(&t->text));
    tell(g, "response.content_part.done", v);
    tell(g, "response.output_item.done", json_pack("{s:i, s:O}", "output_index", next_output(t), "item", item));
    json_array_append_new(t->output, item);
    t->open = false;
    ad_buf_clear(&t->text);
}

static void tell_call(ad_choice *ch, told *t, const json_t *call)
{
    ad_generation *g = ch->owner;
    const char *arguments = json_string_value(json_object_get(call, "arguments"));
    int at = next_output(t), i = t->n_calls++;
    json_t *item = call_item(ch, i, call, "completed", arguments), *id = json_object_get(item, "id");
    tell(g, "response.output_item.added", json_pack("{s:i, s:o}", "output_index", at, "item", call_item(ch, i, call, "in_progress", "")));
    tell(g, "response.function_call_arguments.delta", json_pack("{s:O, s:i, s:s}", "item_id", id, "output_index", at, "delta", arguments));
    tell(g, "response.function_call_arguments.done", json_pack("{s:O, s:i, s:O, s:s}", "item_id", id, "output_index", at, "name", json_object_get(call, "name"), "arguments", arguments));
    tell(g, "response.output_item.done", json_pack("{s:i, s:O}", "output_index", at, "item", item));
    json_array_append_new(t->output, item);
}

static void event(ad_choice *ch)
{
    ad_generation *g = ch->owner;
    told *t = g->state;
    ad_chat_state *s = ad_chat_take(ch);
    json_t *call;
    size_t i;
    if (!s) return;
    tell_text(g, t, &s->content);
    ad_buf_clear(&s->content);
    json_array_foreach(s->calls, i, call) {
        close_message(g, t, "completed");
        tell_call(ch, t, call);
    }
    json_array_clear(s->calls);
    ad_choice_clear(ch);
    if (!ch->end) return;
    if (!next_output(t) && !t->open) open_message(g, t);
    close_message(g, t, status_of(ch));
}

static void end(ad_generation *g)
{
    const char *status = status_of(&g->choices[0]);
    told *t = g->state;
    char name[32];
    snprintf(name, sizeof name, "response.%s", status);
    tell(g, name, json_pack("{s:o}", "response", response_json(g, status, json_incref(t->output))));
}

static void fail(ad_generation *g)
{
    told *t = g->state;
    if (!t) return; /* not even the beginning could be told */
    json_t *v = response_json(g, "failed", json_incref(t->output));
    json_object_set_new(v, "error", json_pack("{s:s, s:o}", "code", g->fault.code ? g->fault.code : "server_error", "message", ad_json_text(g->fault.message)));
    tell(g, "response.failed", json_pack("{s:o}", "response", v));
}

const ad_dialect ad_responses = {
    .id_prefix = "resp_", .read_target = ad_read_target, .read = read_body, .reply = reply, .begin = begin, .event = event, .end = end, .fail = fail, .free_choice = ad_chat_state_free, .free_state = told_free,
    .templated = true,
};

void ad_handle_responses(ad_http_exchange *x, void *app)
{
    ad_generation_start(x, app, &ad_responses);
}
