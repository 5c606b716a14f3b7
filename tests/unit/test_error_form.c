/* SPDX-License-Identifier: MIT */
/* The same fault as each family of routes tells it: what their clients read, byte for byte. */
#include <stdlib.h>
#include <string.h>

#include "server/api/error_form.h"
#include "tests/unit/suite.h"

static ad_fault fault(int http, const char *code, const char *param)
{
    ad_fault f = {0};
    ad_fault_set(&f, http, code, param, "no \"%s\"", "x");
    return f;
}

static void expect(const ad_error_form *form, ad_fault f, int status, const char *body)
{
    json_t *v = ad_error_json(form, &f);
    char *text = json_dumps(v, JSON_COMPACT);
    ck_assert_str_eq(text, body);
    ck_assert_int_eq(ad_error_status(form, &f), status);
    free(text);
    json_decref(v);
}

START_TEST(openai_nests_and_has_codes_of_words)
{
    expect(&ad_openai_errors, fault(404, "model_not_found", "model"), 404, "{\"error\":{\"message\":\"no \\\"x\\\"\",\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}");
    expect(&ad_openai_errors, fault(503, NULL, NULL), 503, "{\"error\":{\"message\":\"no \\\"x\\\"\",\"type\":\"service_unavailable\",\"param\":null,\"code\":null}}");
}
END_TEST

START_TEST(vllm_is_flat_and_nested_at_once)
{
#define BOTH(type, code) "{\"message\":\"no \\\"x\\\"\",\"type\":\"" type "\",\"param\":null,\"code\":" code ",\"object\":\"error\",\"error\":{\"message\":\"no \\\"x\\\"\",\"type\":\"" type "\",\"param\":null,\"code\":" code "}}"
    expect(&ad_vllm_errors, fault(400, "invalid_value", NULL), 400, BOTH("Bad Request", "400"));
    expect(&ad_vllm_errors, fault(400, ad_invalid_user_input, NULL), 400, BOTH("InvalidUserInput", "400"));
    expect(&ad_vllm_errors, fault(404, "adapter_not_found", NULL), 404, BOTH("NotFoundError", "404"));
    expect(&ad_vllm_errors, fault(422, NULL, NULL), 400, BOTH("Bad Request", "400"));
    expect(&ad_vllm_errors, fault(503, NULL, NULL), 503, BOTH("Service Unavailable", "503"));
    expect(&ad_vllm_errors, fault(500, NULL, NULL), 500, BOTH("InternalServerError", "500"));
    expect(&ad_vllm_errors, fault(401, ad_invalid_api_key, NULL), 401, "{\"error\":\"Unauthorized\"}");
    expect(&ad_vllm_errors, fault(403, ad_insufficient_permissions, NULL), 403, BOTH("Forbidden", "403"));
}
END_TEST

START_TEST(llama_server_has_its_types_and_the_status_as_code)
{
    static const struct { int http; const char *code, *type; } rows[] = {
        {400, "invalid_value", "invalid_request_error"}, {400, "context_length_exceeded", "exceed_context_size_error"}, {401, NULL, "authentication_error"}, {403, NULL, "permission_error"},
        {404, NULL, "not_found_error"}, {500, NULL, "server_error"}, {501, NULL, "not_supported_error"}, {503, NULL, "unavailable_error"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"error\":{\"code\":%d,\"message\":\"no \\\"x\\\"\",\"type\":\"%s\"}}", rows[i].http, rows[i].type);
        expect(&ad_llama_server_errors, fault(rows[i].http, rows[i].code, "p"), rows[i].http, body);
    }
}
END_TEST

START_TEST(tgi_tells_mistakes_from_load_and_from_broken_generations)
{
    static const struct { int http; const char *code; int status; const char *type; } rows[] = {
        {400, "invalid_value", 422, "validation"}, {404, "model_not_found", 404, "not_found"}, {503, "queue_full", 429, "overloaded"}, {422, "adapter_unusable", 424, "generation"},
        {500, NULL, 424, "generation"}, {503, NULL, 503, "unavailable"}, {415, NULL, 415, "validation"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"error\":\"no \\\"x\\\"\",\"error_type\":\"%s\"}", rows[i].type);
        expect(&ad_tgi_errors, fault(rows[i].http, rows[i].code, NULL), rows[i].status, body);
    }
}
END_TEST

START_TEST(a_route_without_a_form_is_openai_s_and_memory_s_end_has_a_body_everywhere)
{
    ad_http_route tagged = {.tag = &ad_tgi_errors}, plain = {0};
    ck_assert_ptr_eq(ad_error_form_of(NULL), &ad_openai_errors);
    ck_assert_ptr_eq(ad_error_form_of(&plain), &ad_openai_errors);
    ck_assert_ptr_eq(ad_error_form_of(&tagged), &ad_tgi_errors);
    static const ad_error_form *const forms[] = {&ad_openai_errors, &ad_vllm_errors, &ad_llama_server_errors, &ad_tgi_errors};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        json_t *v = json_loads(forms[i]->out_of_memory, 0, NULL);
        ck_assert(json_object_get(v, "error"));
        json_decref(v);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("error_form");
    TCase *t = tcase_create("error_form");
    tcase_add_test(t, openai_nests_and_has_codes_of_words);
    tcase_add_test(t, vllm_is_flat_and_nested_at_once);
    tcase_add_test(t, llama_server_has_its_types_and_the_status_as_code);
    tcase_add_test(t, tgi_tells_mistakes_from_load_and_from_broken_generations);
    tcase_add_test(t, a_route_without_a_form_is_openai_s_and_memory_s_end_has_a_body_everywhere);
    suite_add_tcase(s, t);
    return tu_run(s);
}
