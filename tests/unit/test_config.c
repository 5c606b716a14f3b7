/* SPDX-License-Identifier: MIT */
/* Options, environment and file: who wins, what is refused and where the message says it was. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "server/config.h"
#include "server/http/address.h"
#include "tests/unit/suite.h"

static char file_path[] = "/tmp/ad-config-XXXXXX";

static ad_status parse(ad_config *c, const char *const *args, const char *const *env, ad_err *err)
{
    char *argv[32] = {(char *)"adapterd"}, *envp[16] = {0};
    int argc = 1, action;
    for (; args && *args; args++) argv[argc++] = (char *)*args;
    for (int i = 0; env && env[i]; i++) envp[i] = (char *)env[i];
    return ad_config_parse(c, argc, argv, envp, stdout, &action, err);
}

#define ARGS(...) (const char *const[]){__VA_ARGS__, NULL}

static void refuse(const char *const *args, const char *const *env, const char *why)
{
    ad_config c;
    ad_err err;
    ck_assert_int_ne(parse(&c, args, env, &err), AD_OK);
    ck_assert_msg(strstr(err.msg, why), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_ptr_null(c.model);
}

static ad_config good(const char *const *args, const char *const *env)
{
    ad_config c;
    ad_err err;
    ck_assert_msg(parse(&c, args, env, &err) == AD_OK, "%s", err.msg);
    return c;
}

static void write_file(const char *text, size_t len)
{
    strcpy(file_path, "/tmp/ad-config-XXXXXX");
    int fd = mkstemp(file_path);
    ck_assert(fd >= 0 && write(fd, text, len) == (ssize_t)len);
    close(fd);
}

START_TEST(defaults_are_those_of_the_table)
{
    ad_config c = good(ARGS("--model", "m"), NULL);
    ck_assert_str_eq(c.model, "m");
    ck_assert_str_eq(c.host, "127.0.0.1");
    ck_assert_int_eq(c.port, 8000);
    ck_assert_uint_eq(c.max_body_bytes, 8u << 20);
    ck_assert_uint_eq(c.max_adapter_bytes, 1u << 30);
    ck_assert_int_eq(c.queue_limit, 256);
    ck_assert_ptr_null(c.served_name);
    ad_config_deinit(&c);
}
END_TEST

START_TEST(options_win_over_the_environment_and_that_over_the_file)
{
    static const char text[] = "# comment\n; another\n\n  port = 1 \nhost=file\nthreads = 3\r\nmodel = from-file\n";
    write_file(text, sizeof text - 1);
    ad_config c = good(ARGS("--config", file_path, "--port=3"), ARGS("ADAPTERD_PORT=2", "ADAPTERD_HOST=env", "OTHER=1"));
    ck_assert_int_eq(c.port, 3);
    ck_assert_str_eq(c.host, "env");
    ck_assert_int_eq(c.threads, 3);
    ck_assert_str_eq(c.model, "from-file");
    ad_config_deinit(&c);
    char env[100];
    snprintf(env, sizeof env, "ADAPTERD_CONFIG=%s", file_path);
    c = good(NULL, ARGS(env));
    ck_assert_int_eq(c.port, 1);
    ad_config_deinit(&c);
    unlink(file_path);
}
END_TEST

START_TEST(lists_add_up)
{
    static const char text[] = "adapter = a=/a\nadapter-dir = d1\n";
    write_file(text, sizeof text - 1);
    ad_config c = good(ARGS("--model", "m", "--config", file_path, "--adapter", "d=/d=x", "--adapter-dir", "d2"), ARGS("ADAPTERD_ADAPTER=b=/b,c=/c"));
    ck_assert_int_eq(c.n_adapters, 4);
    ck_assert_str_eq(c.adapters[0].name, "a");
    ck_assert_str_eq(c.adapters[2].dir, "/c");
    ck_assert_str_eq(c.adapters[3].dir, "/d=x");
    ck_assert_int_eq(c.adapter_dirs.n, 2);
    ad_config_deinit(&c);
    unlink(file_path);
}
END_TEST

START_TEST(vllm_s_spellings_name_adapters_and_set_no_limits)
{
    ad_config c = good(ARGS("--model", "m", "--enable-lora", "--max-loras=4", "--max-cpu-loras", "8", "--max-lora-rank", "64", "--lora-modules", "a=x", "org/b=y=z",
                            "{\"name\": \"c\", \"path\": \"/p, q\", \"base_model_name\": null}", "--port", "7"),
                       ARGS("ADAPTERD_LORA_MODULES={\"name\": \"d\", \"path\": \"e\", \"base_model_name\": \"m\"}"));
    static const char *const pairs[][2] = {{"d", "e"}, {"a", "x"}, {"org/b", "y=z"}, {"c", "/p, q"}};
    ck_assert_int_eq(c.n_adapters, 4);
    for (int i = 0; i < 4; i++) {
        ck_assert_str_eq(c.adapters[i].name, pairs[i][0]);
        ck_assert_str_eq(c.adapters[i].dir, pairs[i][1]);
    }
    ck_assert_int_eq(c.port, 7);
    ad_config_deinit(&c);
    refuse(ARGS("--model", "m", "--lora-modules", "{\"name\": \"c\"}"), NULL, "is not {\"name\": NAME, \"path\": DIR}");
    refuse(ARGS("--model", "m", "--lora-modules", "{\"name\": \"c\", \"path\": \"p\", \"x\": 1}"), NULL, "is not {\"name\": NAME, \"path\": DIR}");
    refuse(ARGS("--model", "m", "--lora-modules", "a=b", "c"), NULL, "\"c\" is not NAME=DIR");
    refuse(ARGS("--model", "m", "--max-loras", "many"), NULL, "is not a whole number");
    refuse(ARGS("--model", "m", "--default-mm-loras", "x"), NULL, "unknown option");
}
END_TEST

START_TEST(addresses_and_their_options_may_be_items_of_one_list)
{
    ad_http_address list[AD_HTTP_MAX_ADDRESSES];
    ad_err err;
    int n = 0;
    ad_config c = good(ARGS("--model", "m", "--listen", "[::1]:0"), ARGS("ADAPTERD_LISTEN=http://127.0.0.1:80,unix:/s,mode=0600,group=web,unix:/t,https://[::1]:443", "ADAPTERD_TLS_CERT=c.pem"));
    for (int i = 0; i < c.listen.n; i++) ck_assert_int_eq(ad_http_address_read(list, &n, c.listen.items[i], &err), AD_OK);
    ck_assert_int_eq(n, 5);
    ck_assert_str_eq(list[0].host, "127.0.0.1");
    ck_assert_int_eq(list[0].port, 80);
    ck_assert_str_eq(list[1].path, "/s");
    ck_assert_uint_eq(list[1].mode, 0600);
    ck_assert_str_eq(list[1].group, "web");
    ck_assert_uint_eq(list[2].mode, 0660);
    ck_assert_str_eq(list[3].host, "::1");
    ck_assert_int_eq(list[3].port, 443);
    ck_assert(list[3].tls && !list[0].tls && !list[1].tls);
    ck_assert_str_eq(list[4].host, "::1");
    ck_assert(!list[4].tls);
    ad_config_deinit(&c);
    refuse(ARGS("--model", "m", "--listen", "https://127.0.0.1:1"), NULL, "needs a certificate");
    refuse(ARGS("--model", "m", "--listen", "127.0.0.1:1", "--tls-cert", "c"), NULL, "no --listen address begins with https://");
    refuse(ARGS("--model", "m", "--tls-key", "k"), NULL, "tls-key: needs --tls-cert");
}
END_TEST

START_TEST(unknown_keys_are_refused_with_their_place)
{
    refuse(ARGS("--model", "m", "--prot", "1"), NULL, "--prot");
    refuse(ARGS("--model", "m", "stray"), NULL, "stray");
    refuse(ARGS("--model", "m", "-p", "1"), NULL, "-p");
    refuse(ARGS("--model", "m"), ARGS("ADAPTERD_PROT=1"), "ADAPTERD_PROT");
    static const char text[] = "port = 1\n\nprot = 2\n";
    write_file(text, sizeof text - 1);
    refuse(ARGS("--model", "m", "--config", file_path), NULL, "line 3");
    unlink(file_path);
}
END_TEST

START_TEST(bad_values_are_refused_with_what_would_do)
{
    static const char *const bad[][3] = {
        {"--port", "65536", "65535"}, {"--port", "-1", "0"}, {"--port", "x", "whole number"}, {"--port", "1x", "whole number"}, {"--port", "", "whole number"}, {"--port", " 1", "whole number"},
        {"--port", "99999999999999999999", "65535"}, {"--threads", "1.5", "whole number"}, {"--max-running", "0", "1"}, {"--max-body", "x", "bytes"}, {"--max-body", "-1", "bytes"},
        {"--max-body", "1Q", "bytes"}, {"--max-body", "8MB", "bytes"}, {"--max-body", "99999999999999999999", "bytes"}, {"--kv-memory", "99999999999T", "bytes"}, {"--max-body", "10", "1k"},
        {"--weights", "f64", "f32"}, {"--log-level", "loud", "info"}, {"--log-level", "inf", "info"}, {"--cpu-features", "sse9", "sse9"}, {"--adapter", "x", "NAME=DIR"}, {"--adapter", "=x", "NAME=DIR"},
        {"--adapter", "x=", "NAME=DIR"}, {"--host", "", "empty"}, {"--adapter-dir", "", "empty"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(ARGS("--model", "m", bad[i][0], bad[i][1]), NULL, bad[i][2]);
    refuse(ARGS("--model", "m", "--max-adapter-bytes", "100"), NULL, "at least 1k");
    refuse(ARGS("--model", "m", "--output-buffer", "100"), NULL, "1k to 1G");
    refuse(ARGS("--model", "m", "--listen", "localhost"), NULL, "unix:/PATH");
    refuse(ARGS("--model", "m"), ARGS("ADAPTERD_LISTEN=mode=0600,unix:/s"), "does not follow");
    refuse(ARGS("--model"), NULL, "needs a value");
    refuse(ARGS("--port", "1"), NULL, "--model");
    refuse(ARGS("--model", "m", "--config", "/nowhere"), NULL, "/nowhere");
}
END_TEST

START_TEST(sizes_have_units)
{
    static const struct { const char *text; size_t bytes; } sizes[] = {{"4096", 4096}, {"512k", 512 << 10}, {"512K", 512 << 10}, {"8M", 8 << 20}, {"1G", 1u << 30}, {"2T", (size_t)2 << 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ad_config c = good(ARGS("--model", "m", "--max-body", sizes[i].text), NULL);
        ck_assert_uint_eq(c.max_body_bytes, sizes[i].bytes);
        ad_config_deinit(&c);
    }
}
END_TEST

START_TEST(files_that_are_no_text_or_no_pairs_are_refused)
{
    write_file("port = 1\n\0", 10);
    refuse(ARGS("--model", "m", "--config", file_path), NULL, "text");
    unlink(file_path);
    write_file("port 1\n", 7);
    refuse(ARGS("--model", "m", "--config", file_path), NULL, "line 1");
    unlink(file_path);
}
END_TEST

/* What an option that ends the program prints; owned. */
static char *printed(const char *const *args)
{
    char *text = NULL, *argv[32] = {(char *)"adapterd"}, *env[] = {NULL};
    size_t len;
    int argc = 1, action = 0;
    for (; *args; args++) argv[argc++] = (char *)*args;
    FILE *out = open_memstream(&text, &len);
    ad_config c;
    ad_err err;
    ck_assert_msg(ad_config_parse(&c, argc, argv, env, out, &action, &err) == AD_OK, "%s", err.msg);
    ck_assert_int_eq(action, 1);
    ck_assert_ptr_null(c.model);
    fclose(out);
    return text;
}

START_TEST(dumped_options_are_json_and_those_of_help)
{
    char *help = printed(ARGS("--help")), *text = printed(ARGS("--dump-options"));
    json_t *root = json_loads(text, 0, NULL), *option;
    size_t i, lines = 0;
    ck_assert_ptr_nonnull(root);
    const char *const lists[] = {"options", "actions"};
    for (int l = 0; l < 2; l++)
        json_array_foreach(json_object_get(root, lists[l]), i, option) {
            char line[200];
            snprintf(line, sizeof line, "\n  --%s ", json_string_value(json_object_get(option, "name")));
            ck_assert_msg(strstr(help, line), "%s", line);
            lines++;
        }
    for (const char *p = help; (p = strstr(p, "\n  --")); p++) lines--;
    ck_assert_uint_eq(lines, 0);
    json_decref(root);
    free(help);
    free(text);
}
END_TEST

START_TEST(checking_a_configuration_says_that_it_is_good_or_why_not)
{
    char *text = printed(ARGS("--check-config", "--model", "m", "--port", "1"));
    ck_assert_str_eq(text, "adapterd: the configuration is good\n");
    free(text);
    refuse(ARGS("--check-config", "--model", "m", "--port", "x"), NULL, "option --port");
    refuse(ARGS("--check-config"), NULL, "no model");
    refuse(ARGS("--check-config=yes", "--model", "m"), NULL, "unknown option");
}
END_TEST

START_TEST(help_lists_every_key_and_version_is_short)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    char *argv[] = {(char *)"adapterd", (char *)"--help", NULL}, *env[] = {NULL};
    ad_config c;
    ad_err err;
    int action = 0;
    ck_assert_int_eq(ad_config_parse(&c, 2, argv, env, out, &action, &err), AD_OK);
    ck_assert_int_eq(action, 1);
    fclose(out);
    static const char *const all[] = {"--model", "--served-name", "--adapter ", "--adapter-dir", "--host", "--port", "--weights", "--kv-type", "--threads", "--context", "--max-running",
                                      "--step-tokens", "--queue-limit", "--max-body", "--kv-memory", "--max-connections", "--drain-timeout", "--log-level", "--cpu-features", "--config", "[8000]"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ck_assert_msg(strstr(text, all[i]), "%s", all[i]);
    free(text);
    argv[1] = (char *)"--version";
    out = open_memstream(&text, &len);
    ck_assert(ad_config_parse(&c, 2, argv, env, out, &action, &err) == AD_OK && action == 1);
    fclose(out);
    ck_assert_int_eq(strncmp(text, "adapterd ", 9), 0);
    free(text);
}
END_TEST

enum { MOST_NAMES = 8 };
typedef struct {
    const char *names[MOST_NAMES];
    bool live[MOST_NAMES];
    int n;
} changes;

static void note_change(void *user, const char *name, bool live)
{
    changes *c = user;
    ck_assert_int_lt(c->n, MOST_NAMES);
    c->names[c->n] = name;
    c->live[c->n++] = live;
}

START_TEST(a_new_configuration_gives_what_can_change_at_run_time_and_names_the_rest)
{
    changes seen = {0};
    ad_config c = good(ARGS("--model", "m", "--adapter", "a=b", "--source-host", "x", "--slow-reader", "cut"), NULL);
    ad_config next = good(ARGS("--model", "n", "--adapter", "a=c", "--source-host", "x", "--slow-reader", "pause", "--drain-timeout", "7", "--max-body", "2k"), NULL);
    ad_config_adopt(&c, &next, note_change, &seen);
    ck_assert_int_eq(seen.n, 5);
    static const char *const names[] = {"model", "adapter", "max-body", "slow-reader", "drain-timeout"};
    for (int i = 0; i < seen.n; i++) {
        ck_assert_str_eq(seen.names[i], names[i]);
        ck_assert_int_eq(seen.live[i], i >= 2);
    }
    ad_config_deinit(&next);
    ck_assert_str_eq(c.model, "m");
    ck_assert_str_eq(c.adapters[0].dir, "b");
    ck_assert_str_eq(c.slow_reader, "pause");
    ck_assert_int_eq(c.drain_timeout_s, 7);
    ck_assert_uint_eq(c.max_body_bytes, 2048);
    ad_config_deinit(&c);
}
END_TEST

START_TEST(a_configuration_changes_nothing_by_being_read_again)
{
    changes seen = {0};
    ad_config c = good(ARGS("--model", "m", "--adapter", "a=b", "--listen", "unix:/s"), NULL), next = good(ARGS("--model", "m", "--adapter", "a=b", "--listen", "unix:/s"), NULL);
    ad_config_adopt(&c, &next, note_change, &seen);
    ck_assert_int_eq(seen.n, 0);
    ad_config_deinit(&next);
    ad_config_deinit(&c);
}
END_TEST

START_TEST(a_flag_alone_is_true_and_elsewhere_has_a_value)
{
    ad_config c = good(ARGS("--insecure", "--model", "m"), NULL);
    ck_assert(c.insecure);
    ck_assert_str_eq(c.model, "m");
    ad_config_deinit(&c);
    c = good(ARGS("--model", "m", "--insecure=no"), (const char *const[]){"ADAPTERD_INSECURE=yes", NULL});
    ck_assert(!c.insecure);
    ad_config_deinit(&c);
    c = good(ARGS("--model", "m"), (const char *const[]){"ADAPTERD_INSECURE=1", NULL});
    ck_assert(c.insecure);
    ad_config_deinit(&c);
    refuse(ARGS("--model", "m", "--insecure=maybe"), NULL, "option --insecure: \"maybe\" is neither true nor false");
}
END_TEST

START_TEST(an_admin_key_needs_a_state_directory_and_no_model)
{
    ad_config c = good(ARGS("--create-admin-key", "--state-dir", "d"), NULL);
    ck_assert(c.create_admin_key);
    ck_assert_ptr_null(c.admin_key_name);
    ad_config_deinit(&c);
    c = good(ARGS("--state-dir", "d", "--create-admin-key", "boss"), NULL);
    ck_assert_str_eq(c.admin_key_name, "boss");
    ad_config_deinit(&c);
    c = good(ARGS("--create-admin-key=boss"), (const char *const[]){"ADAPTERD_STATE_DIR=d", NULL});
    ck_assert_str_eq(c.admin_key_name, "boss");
    ad_config_deinit(&c);
    c = good(ARGS("--model", "m", "--state-dir", "d"), NULL);
    ck_assert(!c.create_admin_key);
    ad_config_deinit(&c);
    refuse(ARGS("--create-admin-key", "--model", "m"), NULL, "needs --state-dir");
    refuse(ARGS("--model", "m"), (const char *const[]){"ADAPTERD_CREATE_ADMIN_KEY=boss", NULL}, "no such key");
}
END_TEST

START_TEST(only_loopback_and_unix_sockets_are_local)
{
    static const char *const local[] = {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "https://127.0.0.1:1", "unix:/x"}, *const open[] = {"0.0.0.0:1", "[::]:1", "10.0.0.1:1",
        "[::ffff:10.0.0.1]:1", "[fe80::1]:1", "128.0.0.1:1", "localhost.example:1", "example:1"};
    ad_http_address a[AD_HTTP_MAX_ADDRESSES];
    ad_err err;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        int n = 0;
        ck_assert_int_eq(ad_http_address_read(a, &n, local[i], &err), AD_OK);
        ck_assert_msg(ad_http_address_is_local(a), "%s", local[i]);
    }
    for (size_t i = 0; i < sizeof open / sizeof *open; i++) {
        int n = 0;
        ck_assert_int_eq(ad_http_address_read(a, &n, open[i], &err), AD_OK);
        ck_assert_msg(!ad_http_address_is_local(a), "%s", open[i]);
    }
}
END_TEST

START_TEST(a_dumped_configuration_reads_as_itself)
{
    char *dump = printed(ARGS("--dump-config", "--model", "m", "--adapter", "a=b", "--adapter", "c=d=e", "--listen", "unix:/s,mode=0600", "--max-body", "3k", "--lora-modules", "f=g"));
    ck_assert_ptr_nonnull(strstr(dump, "adapter = c=d=e\nadapter = f=g\n"));
    ck_assert_ptr_nonnull(strstr(dump, "max-body = 3072\n"));
    write_file(dump, strlen(dump));
    char *again = printed(ARGS("--dump-config", "--config", file_path));
    ck_assert_str_eq(dump, again);
    free(dump);
    free(again);
    unlink(file_path);
    refuse(ARGS("--dump-config", "--model", "m", "--port", "x"), NULL, "option --port");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *t = tcase_create("config");
    tcase_add_test(t, defaults_are_those_of_the_table);
    tcase_add_test(t, options_win_over_the_environment_and_that_over_the_file);
    tcase_add_test(t, lists_add_up);
    tcase_add_test(t, addresses_and_their_options_may_be_items_of_one_list);
    tcase_add_test(t, vllm_s_spellings_name_adapters_and_set_no_limits);
    tcase_add_test(t, unknown_keys_are_refused_with_their_place);
    tcase_add_test(t, bad_values_are_refused_with_what_would_do);
    tcase_add_test(t, sizes_have_units);
    tcase_add_test(t, files_that_are_no_text_or_no_pairs_are_refused);
    tcase_add_test(t, help_lists_every_key_and_version_is_short);
    tcase_add_test(t, dumped_options_are_json_and_those_of_help);
    tcase_add_test(t, checking_a_configuration_says_that_it_is_good_or_why_not);
    tcase_add_test(t, a_new_configuration_gives_what_can_change_at_run_time_and_names_the_rest);
    tcase_add_test(t, a_configuration_changes_nothing_by_being_read_again);
    tcase_add_test(t, a_flag_alone_is_true_and_elsewhere_has_a_value);
    tcase_add_test(t, an_admin_key_needs_a_state_directory_and_no_model);
    tcase_add_test(t, only_loopback_and_unix_sockets_are_local);
    tcase_add_test(t, a_dumped_configuration_reads_as_itself);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
