/* SPDX-License-Identifier: MIT */
/* Renders what a script asks for, so that it can compare: a JSON array on stdin, a JSON array of results on stdout.
 * A case is {"template", "messages", ...} for chat templates, with the fields of ad_chat_input, or {"source", "vars"} for the
 * template language alone (all variables untrusted). A result is {"text", "untrusted": [[start, end], ...]} in bytes, or
 * {"error", "status"}. With a GGUF file or a directory with a tokenizer as argument results also have "ids". "repeat": N times the rendering;
 * "seconds" is the CPU time of one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/text/chat.h"
#include "core/text/jinja/jinja.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool is_true(const json_t *c, const char *key)
{
    return json_is_true(json_object_get(c, key));
}

static ad_status render_chat(const json_t *c, const ad_tokenizer *tk, ad_buf *out, ad_text_spans *spans, ad_err *err)
{
    const json_t *source = json_object_get(c, "template");
    ad_chat_template *t = NULL;
    ad_chat_input in = {.messages = json_object_get(c, "messages"), .tools = json_object_get(c, "tools"), .documents = json_object_get(c, "documents"),
                        .kwargs = json_object_get(c, "kwargs"), .add_generation_prompt = is_true(c, "add_generation_prompt"),
                        .continue_final_message = is_true(c, "continue_final_message"), .tokenizer = tk, .now = (time_t)json_integer_value(json_object_get(c, "now"))};
    ad_status st = ad_chat_template_new(&t, json_string_value(source), json_string_length(source), "template", err);
    if (st == AD_OK) st = ad_chat_render(t, &in, out, spans, err);
    ad_chat_template_free(&t);
    return st;
}

static ad_status render_source(const json_t *c, ad_buf *out, ad_text_spans *spans, ad_err *err)
{
    const json_t *source = json_object_get(c, "source"), *vars = json_object_get(c, "vars");
    ad_jinja_limits limits = {.steps = 1 << 20, .memory = 32 << 20, .output = 4 << 20, .now = (time_t)json_integer_value(json_object_get(c, "now"))};
    ad_jinja_var list[64];
    size_t n = 0;
    for (void *it = json_object_iter((json_t *)vars); it && n < 64; it = json_object_iter_next((json_t *)vars, it))
        list[n++] = (ad_jinja_var){.name = json_object_iter_key(it), .value = json_object_iter_value(it), .untrusted = true};
    ad_jinja *t = NULL;
    ad_status st = ad_jinja_new(&t, json_string_value(source), json_string_length(source), "template", err);
    if (st == AD_OK) st = ad_jinja_render(t, list, n, &limits, out, spans, err);
    ad_jinja_free(&t);
    return st;
}

static json_t *ids_of(const ad_tokenizer *tk, const ad_buf *text, const ad_text_spans *spans)
{
    ad_ids ids = {0};
    ad_err err;
    json_t *list = json_array();
    if (ad_tokenizer_encode_spans(tk, text->data ? text->data : "", text->len, AD_ENCODE_PARSE_SPECIAL, spans->spans, spans->count, &ids, &err) == AD_OK)
        for (size_t i = 0; i < ids.count; i++) json_array_append_new(list, json_integer(ids.ids[i]));
    free(ids.ids);
    return list;
}

/* Many renderings of one template: {"seconds"} each. */
static double time_renderings(const json_t *c, const ad_tokenizer *tk, int times)
{
    const json_t *source = json_object_get(c, "template");
    ad_chat_template *t = NULL;
    ad_chat_input in = {.messages = json_object_get(c, "messages"), .tools = json_object_get(c, "tools"), .kwargs = json_object_get(c, "kwargs"),
                        .add_generation_prompt = is_true(c, "add_generation_prompt"), .tokenizer = tk};
    ad_err err;
    ad_buf out = {0};
    ad_text_spans spans = {0};
    if (ad_chat_template_new(&t, json_string_value(source), json_string_length(source), "template", &err) != AD_OK) return -1;
    double start = now();
    for (int i = 0; i < times; i++) {
        ad_buf_clear(&out);
        spans.count = 0;
        if (ad_chat_render(t, &in, &out, &spans, &err) != AD_OK) break;
    }
    start = (now() - start) / times;
    ad_chat_template_free(&t);
    ad_buf_deinit(&out);
    free(spans.spans);
    return start;
}

static json_t *run(const json_t *c, const ad_tokenizer *tk)
{
    ad_buf out = {0};
    ad_text_spans spans = {0};
    ad_err err = {0};
    json_t *result = json_object(), *list = json_array();
    int repeat = (int)json_integer_value(json_object_get(c, "repeat"));
    ad_status st = json_object_get(c, "source") ? render_source(c, &out, &spans, &err) : render_chat(c, tk, &out, &spans, &err);
    for (size_t i = 0; i < spans.count; i++) json_array_append_new(list, json_pack("[II]", (json_int_t)spans.spans[i].start, (json_int_t)spans.spans[i].end));
    if (st == AD_OK) json_object_set_new(result, "text", json_stringn(out.data ? out.data : "", out.len));
    else json_object_set_new(result, "error", json_string(err.msg)), json_object_set_new(result, "status", json_string(ad_status_name(st)));
    json_object_set_new(result, "untrusted", list);
    if (st == AD_OK && tk) json_object_set_new(result, "ids", ids_of(tk, &out, &spans));
    if (st == AD_OK && repeat > 0) json_object_set_new(result, "seconds", json_real(time_renderings(c, tk, repeat)));
    ad_buf_deinit(&out);
    free(spans.spans);
    return result;
}

static ad_status load_tokenizer(ad_tokenizer **tk, const char *path, ad_err *err)
{
    ad_gguf *g = NULL;
    size_t n = strlen(path);
    if (n < 5 || strcmp(path + n - 5, ".gguf") != 0) return ad_tokenizer_from_dir(tk, path, err);
    ad_status st = ad_gguf_open(&g, path, err);
    if (st == AD_OK) st = ad_tokenizer_from_gguf(tk, g, err);
    ad_gguf_close(&g);
    return st;
}

int main(int argc, char **argv)
{
    json_error_t why;
    ad_err err;
    ad_tokenizer *tk = NULL;
    if (argc > 1 && load_tokenizer(&tk, argv[1], &err) != AD_OK) return fprintf(stderr, "%s\n", err.msg), 2;
    json_t *cases = json_loadf(stdin, JSON_ALLOW_NUL, &why), *results = json_array();
    if (!cases) return fprintf(stderr, "line %d: %s\n", why.line, why.text), 2;
    for (size_t i = 0; i < json_array_size(cases); i++) json_array_append_new(results, run(json_array_get(cases, i), tk));
    json_dumpf(results, stdout, JSON_COMPACT);
    json_decref(results);
    json_decref(cases);
    ad_tokenizer_free(&tk);
    return 0;
}
