/* SPDX-License-Identifier: MIT */
/* A chat template, a zero byte, a conversation: {"messages", "tools", "kwargs", ...}, or variables for the language alone. Whatever a
 * template says is valid UTF-8, with spans that are ascending, apart and inside of it. */
#include "tests/fuzz/fuzz.h"

#include "core/text/chat.h"
#include "core/text/jinja/jinja.h"
#include "core/text/utf8.h"

static void check(const ad_buf *out, const ad_text_spans *spans)
{
    if (out->len && ad_utf8_check(out->data, out->len) != out->len) abort();
    for (size_t i = 0; i < spans->count; i++)
        if (spans->spans[i].start >= spans->spans[i].end || spans->spans[i].end > out->len || (i && spans->spans[i].start <= spans->spans[i - 1].end)) abort();
}

static void render_chat(const char *source, size_t len, const json_t *o)
{
    ad_chat_template *t = NULL;
    ad_buf out = {0};
    ad_text_spans spans = {0};
    ad_err err;
    ad_chat_input in = {.messages = json_object_get(o, "messages"), .tools = json_object_get(o, "tools"), .documents = json_object_get(o, "documents"), .kwargs = json_object_get(o, "kwargs"),
                        .add_generation_prompt = json_is_true(json_object_get(o, "prompt")), .continue_final_message = json_is_true(json_object_get(o, "continue"))};
    if (ad_chat_template_new(&t, source, len, "fuzz", &err) == AD_OK && ad_chat_render(t, &in, &out, &spans, &err) == AD_OK) check(&out, &spans);
    ad_chat_template_free(&t);
    ad_buf_deinit(&out);
    free(spans.spans);
}

static void render_language(const char *source, size_t len, const json_t *o)
{
    ad_jinja *t = NULL;
    ad_buf out = {0};
    ad_text_spans spans = {0};
    ad_err err;
    ad_jinja_var vars[8];
    ad_jinja_limits limits = {.steps = 100000, .memory = 8 << 20, .output = 1 << 20};
    size_t n = 0;
    for (void *it = json_object_iter((json_t *)o); it && n < 8; it = json_object_iter_next((json_t *)o, it))
        vars[n++] = (ad_jinja_var){.name = json_object_iter_key(it), .value = json_object_iter_value(it), .untrusted = true};
    if (ad_jinja_new(&t, source, len, "fuzz", &err) == AD_OK && ad_jinja_render(t, vars, n, &limits, &out, &spans, &err) == AD_OK) check(&out, &spans);
    ad_jinja_free(&t);
    ad_buf_deinit(&out);
    free(spans.spans);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *source = (const char *)data, *zero = size ? memchr(source, 0, size) : NULL;
    size_t len = zero ? (size_t)(zero - source) : size;
    json_t *o = zero ? json_loadb(zero + 1, size - len - 1, 0, NULL) : json_object();
    if (!o) return 0;
    if (json_object_get(o, "messages")) render_chat(source, len, o);
    else render_language(source, len, o);
    json_decref(o);
    return 0;
}
