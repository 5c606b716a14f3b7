/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "server/api/tool_calls.h"
#include "tests/unit/suite.h"

static json_t *offered(void)
{
    return json_pack("[{s:s, s:{s:s}}, {s:s, s:{s:s}}]", "type", "function", "function", "name", "add", "type", "function", "function", "name", "now");
}

/* The content and the calls of a text fed `step` bytes at a time. */
static void check(ad_tool_style style, int max_calls, const char *text, size_t step, const char *content, const char *calls)
{
    json_t *tools = offered(), *found = json_array();
    ad_tool_parser p;
    ad_buf out = {0};
    ad_tool_parser_init(&p, style, tools, max_calls);
    for (size_t at = 0, len = strlen(text); at < len; at += step) ck_assert(ad_tool_parser_feed(&p, text + at, at + step < len ? step : len - at, &out, found));
    ck_assert(ad_tool_parser_end(&p, &out, found));
    char *json = json_dumps(found, JSON_COMPACT);
    ck_assert_str_eq(out.data ? out.data : "", content);
    ck_assert_str_eq(json, calls);
    free(json);
    ad_buf_deinit(&out);
    ad_tool_parser_deinit(&p);
    json_decref(found);
    json_decref(tools);
}

static void check_steps(ad_tool_style style, int max_calls, const char *text, const char *content, const char *calls)
{
    for (size_t step = 1; step < 40; step++) check(style, max_calls, text, step, content, calls);
}

#define ADD "{\"name\":\"add\",\"arguments\":\"{\\\"a\\\":1}\"}"
#define NOW "{\"name\":\"now\",\"arguments\":\"{}\"}"

START_TEST(hermes_calls_are_taken_out_of_the_text)
{
    check_steps(AD_TOOLS_HERMES, 9, "So: <tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>", "So: ", "[" ADD "]");
    check_steps(AD_TOOLS_HERMES, 9, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>\n<tool_call>{\"name\": \"now\"}</tool_call>", "\n", "[" ADD "," NOW "]");
    check_steps(AD_TOOLS_HERMES, 9, "a < b <tool b", "a < b <tool b", "[]");
}
END_TEST

START_TEST(a_call_whose_closing_tag_is_missing_is_a_call)
{
    check_steps(AD_TOOLS_HERMES, 9, "<tool_call>{\"name\": \"now\", \"arguments\": {}}", "", "[" NOW "]");
}
END_TEST

START_TEST(what_is_no_call_stays_text)
{
    check_steps(AD_TOOLS_HERMES, 9, "<tool_call>{oops}</tool_call>!", "<tool_call>{oops}</tool_call>!", "[]");
    check_steps(AD_TOOLS_HERMES, 9, "<tool_call>{\"name\": \"rm\"}</tool_call>", "<tool_call>{\"name\": \"rm\"}</tool_call>", "[]");
    check_steps(AD_TOOLS_HERMES, 9, "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>", "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>", "[]");
    check_steps(AD_TOOLS_HERMES, 9, "x<tool_call>{\"na", "x<tool_call>{\"na", "[]");
    check_steps(AD_TOOLS_LLAMA, 9, "{\"a\": 1}", "{\"a\": 1}", "[]");
    check_steps(AD_TOOLS_LLAMA, 9, "  {\"name\": \"add\"} and more", "  {\"name\": \"add\"} and more", "[]");
    check_steps(AD_TOOLS_LLAMA, 9, "Hello {\"name\": \"add\"}", "Hello {\"name\": \"add\"}", "[]");
    check_steps(AD_TOOLS_NONE, 9, "<tool_call>{\"name\": \"now\"}</tool_call>", "<tool_call>{\"name\": \"now\"}</tool_call>", "[]");
}
END_TEST

START_TEST(llama_calls_are_the_whole_text)
{
    check_steps(AD_TOOLS_LLAMA, 9, "{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "", "[" ADD "]");
    check_steps(AD_TOOLS_LLAMA, 9, "<|python_tag|>{\"name\": \"add\", \"parameters\": {\"a\": 1}}; {\"name\": \"now\", \"parameters\": {}}", "", "[" ADD "," NOW "]");
}
END_TEST

START_TEST(forced_calls_and_the_bound_on_calls)
{
    check_steps(AD_TOOLS_FORCED, 9, "{\"name\": \"add\", \"arguments\": {\"a\": 1}}", "", "[" ADD "]");
    check_steps(AD_TOOLS_HERMES, 1, "<tool_call>{\"name\": \"now\"}</tool_call><tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>", "", "[" NOW "]");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tool_calls");
    TCase *tc = tcase_create("tool_calls");
    tcase_add_test(tc, hermes_calls_are_taken_out_of_the_text);
    tcase_add_test(tc, a_call_whose_closing_tag_is_missing_is_a_call);
    tcase_add_test(tc, what_is_no_call_stays_text);
    tcase_add_test(tc, llama_calls_are_the_whole_text);
    tcase_add_test(tc, forced_calls_and_the_bound_on_calls);
    suite_add_tcase(suite, tc);
    return tu_run(suite);
}
