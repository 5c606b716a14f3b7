/* SPDX-License-Identifier: MIT */
/* Chat templates beside an adapter's files. */
#include "tests/unit/store_util.h"
#include "tests/unit/suite.h"

#include "adapters/template.h"

static char dir[AD_STORE_PATH];

static void setup(void) { tu_make_dir(dir); }
static void teardown(void) { tu_remove_dir(dir); }

/* text NULL: there is none. */
static void reads(const char *text)
{
    ad_chat_template *got = NULL;
    ad_err err = {0};
    ck_assert_msg(ad_template_read(dir, &got, &err) == AD_OK, "%s", err.msg);
    if (text) ck_assert_msg(got && !strcmp(ad_chat_template_source(got), text), "\"%s\" is expected", text);
    else ck_assert_ptr_null(got);
    ad_chat_template_free(&got);
}

static void refused(ad_status status, const char *why)
{
    ad_chat_template *got = NULL;
    ad_err err = {0};
    ck_assert_int_eq(ad_template_read(dir, &got, &err), status);
    ck_assert_msg(strstr(err.msg, why), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_ptr_null(got);
}

START_TEST(the_template_is_in_its_own_file_or_in_the_tokenizers_configuration)
{
    reads(NULL);
    tu_write_file(dir, "tokenizer_config.json", "{\"eos_token\":\"</s>\",\"chat_template\":\"{{ a }}\"}");
    reads("{{ a }}");
    tu_write_file(dir, "chat_template.jinja", "{{ b }}\n");
    reads("{{ b }}\n");
    ad_template_remove_files(dir);
    reads(NULL);
}
END_TEST

START_TEST(of_a_list_the_one_named_default_counts)
{
    tu_write_file(dir, "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"t\"},{\"name\":\"default\",\"template\":\"d\"}]}");
    reads("d");
    tu_write_file(dir, "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"t\"},7]}");
    reads(NULL);
}
END_TEST

START_TEST(a_configuration_without_a_template_has_none)
{
    tu_write_file(dir, "tokenizer_config.json", "{\"eos_token\":\"</s>\"}");
    reads(NULL);
    tu_write_file(dir, "tokenizer_config.json", "{\"chat_template\":null}");
    reads(NULL);
}
END_TEST

START_TEST(what_is_no_template_is_refused_with_the_file_and_the_reason)
{
    static char big[AD_TEMPLATE_BYTES + 2];
    memset(big, 'x', AD_TEMPLATE_BYTES + 1);
    tu_write_file(dir, "chat_template.jinja", big);
    refused(AD_ELIMIT, "chat_template.jinja");
    big[AD_TEMPLATE_BYTES] = '\0';
    tu_write_file(dir, "chat_template.jinja", big);
    reads(big);
    tu_write_file(dir, "chat_template.jinja", "{% for m in messages %}");
    refused(AD_EFORMAT, "chat_template.jinja");
    tu_write_file(dir, "chat_template.jinja", "caf\xE9");
    refused(AD_EFORMAT, "UTF-8");
    ad_template_remove_files(dir);
    for (int i = 0; i < 5; i++) {
        static const char *const bad[][2] = {{"{", "tokenizer_config.json"}, {"[]", "not a JSON object"}, {"{\"chat_template\":7}", "neither"}, {"{\"chat_template\":{}}", "neither"},
                                             {"{\"chat_template\":[{\"name\":\"default\"}]}", NULL}};
        tu_write_file(dir, "tokenizer_config.json", bad[i][0]);
        if (bad[i][1]) refused(AD_EFORMAT, bad[i][1]);
        else reads(NULL);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("template");
    TCase *t = tcase_create("template");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, the_template_is_in_its_own_file_or_in_the_tokenizers_configuration);
    tcase_add_test(t, of_a_list_the_one_named_default_counts);
    tcase_add_test(t, a_configuration_without_a_template_has_none);
    tcase_add_test(t, what_is_no_template_is_refused_with_the_file_and_the_reason);
    suite_add_tcase(s, t);
    return tu_run(s);
}
