/* SPDX-License-Identifier: MIT */
/* The client library against a server that says what a test wrote down, byte for byte. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients/lib/adapterd.h"
#include "clients/lib/internal.h"
#include "clients/lib/sse.h"
#include "tests/unit/suite.h"

/* ---- the server: one thread, one connection per reply, requests kept whole ---- */

enum { MAX_SCRIPT = 64 };

typedef struct {
    const char *replies[MAX_SCRIPT]; /* bytes sent when a request is complete; then the connection closes. NULL: closes at once */
    bool hold;                       /* sends nothing more and keeps the last connection open */
    int n, served;
    char *requests[MAX_SCRIPT];
    int listener, port, held;
    pthread_t thread;
} script;

static bool complete(const char *text, size_t len)
{
    const char *end = memmem(text, len, "\r\n\r\n", 4), *length;
    if (!end) return false;
    length = memmem(text, (size_t)(end - text), "Content-Length: ", 16);
    return !length || len - (size_t)(end + 4 - text) >= (size_t)atol(length + 16);
}

static void serve(script *s, int fd)
{
    char *text = calloc(1, 1);
    size_t len = 0;
    const char *reply = s->replies[s->served];
    while (reply && !complete(text, len)) {
        text = realloc(text, len + 65537);
        ssize_t n = recv(fd, text + len, 65536, 0);
        if (n <= 0) break;
        len += (size_t)n;
        text[len] = 0;
    }
    s->requests[s->served++] = text;
    if (reply) ck_assert_int_ge(send(fd, reply, strlen(reply), MSG_NOSIGNAL), 0);
    if (s->hold && s->served == s->n) s->held = fd;
    else close(fd);
}

static void *run_script(void *arg)
{
    script *s = arg;
    while (s->served < s->n) serve(s, accept(s->listener, NULL, NULL));
    return NULL;
}

static script *start_script(const char *const *replies)
{
    script *s = calloc(1, sizeof *s);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    for (; replies[s->n]; s->n++) s->replies[s->n] = *replies[s->n] ? replies[s->n] : NULL;
    s->held = -1;
    s->listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(!bind(s->listener, (struct sockaddr *)&a, sizeof a) && !listen(s->listener, 16) && !getsockname(s->listener, (struct sockaddr *)&a, &len));
    s->port = ntohs(a.sin_port);
    return s;
}

static void go(script *s)
{
    ck_assert(!pthread_create(&s->thread, NULL, run_script, s));
}

static void end_script(script *s)
{
    ck_assert(!pthread_join(s->thread, NULL));
    ck_assert_int_eq(s->served, s->n);
    for (int i = 0; i < s->served; i++) free(s->requests[i]);
    if (s->held >= 0) close(s->held);
    close(s->listener);
    free(s);
}

/* In a script "" hangs up before the request was read. */
#define SCRIPT(...) start_script((const char *const[]){__VA_ARGS__, NULL})
#define HEAD(status) "HTTP/1.1 " status "\r\nContent-Type: application/json\r\nConnection: close\r\n"
#define OK_REPLY(json) HEAD("200 OK") "ETag: \"r7\"\r\n\r\n" json
#define STREAM "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"

static ad_client *client_of(const script *s, const ad_client_options *more)
{
    char url[64];
    ad_client *c = NULL;
    ad_client_error e = {0};
    ad_client_options opt = more ? *more : (ad_client_options){0};
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", s->port);
    if (!opt.url) opt.url = url;
    ck_assert_msg(ad_client_open(&c, &opt, &e) == AD_CLIENT_OK, "%s", e.message);
    return c;
}

/* Does the request have the text? */
static void ck_has(const char *request, const char *text)
{
    ck_assert_msg(strstr(request, text) != NULL, "\"%s\" is not in:\n%s", text, request);
}

static const char *string_at(const json_t *v, const char *key)
{
    return json_string_value(json_object_get(v, key));
}

/* ---- requests ---- */

START_TEST(every_call_sends_what_the_contract_says)
{
    static const char *const any = OK_REPLY("{}");
    script *s = SCRIPT(any, any, any, any, any, any, any, any, any, any, any, any, any, any, any);
    ad_client *c = client_of(s, &(ad_client_options){.key = "sec ret"});
    json_t *changes = json_pack("{s:{s:s}, s:b}", "labels", "a", "b", "pinned", 1);
    go(s);
    ck_assert(!ad_client_list(c, &(ad_client_query){0}, NULL, NULL));
    ck_assert(!ad_client_list(c, &(ad_client_query){.limit = 5, .after = "a/b c", .prefix = "p&q", .state = "ready", .label = "k:v"}, NULL, NULL));
    ck_assert(!ad_client_show(c, "team/sql v?1", NULL, NULL, NULL));
    ck_assert(!ad_client_verify(c, "..", NULL, NULL));
    ck_assert(!ad_client_activate(c, "sql", "12", "\"r3\"", NULL, NULL));
    ck_assert(!ad_client_activate(c, "sql", "0123456789ab", NULL, NULL, NULL));
    ck_assert(!ad_client_rollback(c, "sql", NULL, NULL, NULL));
    ck_assert(!ad_client_patch(c, "sql", changes, "\"r3\"", NULL, NULL));
    ck_assert(!ad_client_delete(c, "sql@3", 20, NULL, NULL, NULL));
    ck_assert(!ad_client_delete(c, "sql", -1, NULL, NULL, NULL));
    ck_assert(!ad_client_put_alias(c, "live", (ad_client_target[]){{"sql@1", 90}, {"sql@2", 10}}, 2, NULL, NULL));
    ck_assert(!ad_client_list_aliases(c, NULL, NULL));
    ck_assert(!ad_client_delete_alias(c, "live", NULL, NULL));
    ck_assert(!ad_client_complete(c, &(ad_client_prompt){.model = "sql", .prompt = "Hi", .max_tokens = 3}, NULL, NULL));
    ck_assert(!ad_client_call(c, "GET", "/v1/models", NULL, NULL, NULL, NULL));
    ck_has(s->requests[0], "GET /v1/adapters HTTP/1.1\r\n");
    ck_has(s->requests[0], "\r\nAuthorization: Bearer sec ret\r\n");
    ck_has(s->requests[1], "GET /v1/adapters?limit=5&after=a%2Fb%20c&prefix=p%26q&state=ready&label=k%3Av HTTP");
    ck_has(s->requests[2], "GET /v1/adapters/team%2Fsql%20v%3F1 HTTP");
    ck_has(s->requests[3], "POST /v1/adapters/../verify HTTP");
    ck_has(s->requests[4], "POST /v1/adapters/sql/activate HTTP");
    ck_has(s->requests[4], "\r\nIf-Match: \"r3\"\r\n");
    ck_has(s->requests[4], "\r\n\r\n{\"version\":12}");
    ck_has(s->requests[5], "{\"version\":\"0123456789ab\"}");
    ck_has(s->requests[6], "POST /v1/adapters/sql/rollback HTTP");
    ck_has(s->requests[6], "\r\nContent-Type: application/json\r\n");
    ck_has(s->requests[6], "\r\n\r\n{}");
    ck_has(s->requests[7], "PATCH /v1/adapters/sql HTTP");
    ck_has(s->requests[7], "{\"labels\":{\"a\":\"b\"},\"pinned\":true}");
    ck_has(s->requests[8], "DELETE /v1/adapters/sql@3?drain=20 HTTP");
    ck_has(s->requests[9], "DELETE /v1/adapters/sql HTTP");
    ck_has(s->requests[10], "PUT /v1/aliases/live HTTP");
    ck_has(s->requests[10], "{\"targets\":[{\"model\":\"sql@1\",\"weight\":90},{\"model\":\"sql@2\",\"weight\":10}]}");
    ck_has(s->requests[11], "GET /v1/aliases HTTP");
    ck_has(s->requests[12], "DELETE /v1/aliases/live HTTP");
    ck_has(s->requests[13], "POST /v1/completions HTTP");
    ck_has(s->requests[13], "\"prompt\":\"Hi\"");
    ck_has(s->requests[14], "GET /v1/models HTTP");
    json_decref(changes);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_reply_has_its_json_its_text_and_its_etag)
{
    script *s = SCRIPT("HTTP/1.1 201 Created\r\nETag:  \"r42\" \r\nConnection: close\r\n\r\n{\"name\" : \"sql\"}\n", "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n",
                       OK_REPLY("{\"choices\":[{\"text\":\"four\"}]}"));
    ad_client *c = client_of(s, NULL);
    ad_client_reply r;
    go(s);
    ck_assert(!ad_client_show(c, "sql", NULL, &r, NULL));
    ck_assert_int_eq(r.http_status, 201);
    ck_assert_str_eq(r.etag, "\"r42\"");
    ck_assert_str_eq(r.text, "{\"name\" : \"sql\"}\n");
    ck_assert_str_eq(string_at(r.json, "name"), "sql");
    ad_client_reply_deinit(&r);
    ad_client_reply_deinit(&r);
    ck_assert(!ad_client_show(c, "sql", "\"r42\"", &r, NULL));
    ck_assert(r.http_status == 304 && !r.json && !r.text);
    ck_has(s->requests[1], "If-None-Match: \"r42\"");
    ck_assert(!ad_client_complete(c, &(ad_client_prompt){.model = "m"}, &r, NULL));
    ck_assert_str_eq(ad_client_completion_text(&r), "four");
    ad_client_reply_deinit(&r);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

/* ---- errors ---- */

START_TEST(a_refusal_tells_status_code_message_report_and_when_to_come_back)
{
    script *s = SCRIPT(HEAD("422 Unprocessable Content") "\r\n{\"error\":{\"message\":\"no\",\"code\":\"bad_adapter\"},\"report\":{\"rank\":4}}",
                       HEAD("503 Service Unavailable") "Retry-After: 7\r\n\r\n{\"error\":{\"message\":\"later\",\"code\":503}}", HEAD("502 Bad Gateway") "\r\n<html>",
                       HEAD("400 Bad Request") "\r\n{\"error\":\"text\"}");
    ad_client *c = client_of(s, NULL);
    ad_client_error e = {0};
    ad_client_reply untouched = {.http_status = 1};
    go(s);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, &untouched, &e), AD_CLIENT_REFUSED);
    ck_assert_int_eq(untouched.http_status, 1);
    ck_assert_int_eq(e.http_status, 422);
    ck_assert_str_eq(e.code, "bad_adapter");
    ck_assert_str_eq(e.message, "no");
    ck_assert_int_eq(json_integer_value(json_object_get(e.report, "rank")), 4);
    ck_assert(e.body_len == strlen(e.body) && strstr(e.body, "bad_adapter"));
    ad_client_error_deinit(&e);
    ad_client_error_deinit(&e);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, NULL, &e), AD_CLIENT_REFUSED);
    ck_assert(e.http_status == 503 && e.retry_after_s == 7 && !strcmp(e.code, "") && !strcmp(e.message, "later"));
    ad_client_error_deinit(&e);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, NULL, &e), AD_CLIENT_REFUSED);
    ck_assert(e.http_status == 502 && strstr(e.message, "502") && !strcmp(e.body, "<html>"));
    ad_client_error_deinit(&e);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, NULL, &e), AD_CLIENT_REFUSED);
    ck_assert_str_eq(e.message, "text");
    ad_client_error_deinit(&e);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

static const struct {
    const char *reply;
    ad_client_status status;
    const char *code;
} hostile[] = {
    {OK_REPLY("{\"name\""), AD_CLIENT_BAD_REPLY, "bad_reply"},
    {OK_REPLY("[1]"), AD_CLIENT_BAD_REPLY, "bad_reply"},
    {OK_REPLY(""), AD_CLIENT_BAD_REPLY, "bad_reply"},
    {OK_REPLY("\xff\xfe\x01"), AD_CLIENT_BAD_REPLY, "bad_reply"},
    {OK_REPLY("{\"a\":\"\\u0000\"}"), AD_CLIENT_BAD_REPLY, "bad_reply"},
    {HEAD("302 Found") "Location: http://127.0.0.1:1/x\r\n\r\n", AD_CLIENT_BAD_REPLY, "bad_reply"},
    {HEAD("301 Moved") "\r\n", AD_CLIENT_BAD_REPLY, "bad_reply"},
    {HEAD("200 OK") "Content-Length: 99\r\n\r\n{}", AD_CLIENT_UNREACHABLE, "connection"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n", AD_CLIENT_UNREACHABLE, "connection"},
    {"SSH-2.0-OpenSSH_9.2\r\n", AD_CLIENT_BAD_REPLY, "bad_reply"},
    {"", AD_CLIENT_UNREACHABLE, "connection"},
    {"HTTP/1.1 200 OK\r\n", AD_CLIENT_BAD_REPLY, "bad_reply"},
};

START_TEST(a_hostile_reply_is_an_error)
{
    script *s = SCRIPT("x");
    ad_client *c = client_of(s, &(ad_client_options){.timeout_ms = 5000});
    ad_client_error e = {0};
    s->replies[0] = *hostile[_i].reply ? hostile[_i].reply : NULL;
    go(s);
    ck_assert_msg(ad_client_show(c, "a", NULL, NULL, &e) == hostile[_i].status, "%d: %d %s", _i, e.status, e.message);
    ck_assert_str_eq(e.code, hostile[_i].code);
    ck_assert_uint_gt(strlen(e.message), 0);
    ad_client_error_deinit(&e);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_reply_over_the_limit_is_cut_off)
{
    char *large = malloc(70000);
    script *s = SCRIPT("x");
    ad_client *c = client_of(s, &(ad_client_options){.max_reply_bytes = 1000});
    ad_client_error e = {0};
    snprintf(large, 70000, "%s%69000s", OK_REPLY(""), "{}");
    s->replies[0] = large;
    go(s);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, NULL, &e), AD_CLIENT_BAD_REPLY);
    ck_assert(strstr(e.message, "1000"));
    ad_client_error_deinit(&e);
    ad_client_close(&c);
    end_script(s);
    free(large);
}
END_TEST

START_TEST(endless_headers_are_cut_off)
{
    size_t n = 400000;
    char *head = malloc(n + 100), *at = head + sprintf(head, "HTTP/1.1 200 OK\r\n");
    script *s = SCRIPT("x");
    ad_client *c = client_of(s, NULL);
    ad_client_error e = {0};
    while (at < head + n) at = stpcpy(at, "X-Filler: abcdefghijklmnopqrstuvwxyz\r\n");
    s->replies[0] = head;
    s->hold = true;
    go(s);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, NULL, &e), AD_CLIENT_BAD_REPLY);
    ad_client_error_deinit(&e);
    ad_client_close(&c);
    end_script(s);
    free(head);
}
END_TEST

START_TEST(a_server_that_says_nothing_times_out)
{
    script *s = SCRIPT("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{");
    ad_client *c = client_of(s, &(ad_client_options){.timeout_ms = 300});
    ad_client_error e = {0};
    s->hold = true;
    go(s);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, NULL, &e), AD_CLIENT_UNREACHABLE);
    ck_assert_str_eq(e.code, "timeout");
    ck_assert_int_eq(e.http_status, 0);
    ad_client_error_deinit(&e);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_port_without_a_server_is_unreachable)
{
    script *s = SCRIPT("x");
    ad_client *c = client_of(s, NULL);
    ad_client_error e = {0};
    close(s->listener);
    ck_assert_int_eq(ad_client_show(c, "a", NULL, NULL, &e), AD_CLIENT_UNREACHABLE);
    ck_assert_str_eq(e.code, "connection");
    ad_client_error_deinit(&e);
    ad_client_close(&c);
    free(s);
}
END_TEST

START_TEST(bad_arguments_are_refused_before_anything_is_sent)
{
    script *s = SCRIPT("x");
    ad_client *c = NULL;
    ad_client_error e = {0};
    static const char *const urls[] = {"ftp://host", "http://", "http://user:pw@host", "http://host/?q=1", "http://host/#f", "http://ho st", ""};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++)
        ck_assert_msg(ad_client_open(&c, &(ad_client_options){.url = urls[i]}, &e) == AD_CLIENT_INVALID, "%s", urls[i]);
    ck_assert_int_eq(ad_client_open(&c, &(ad_client_options){0}, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_open(&c, &(ad_client_options){.url = "h", .key = "a\r\nX: y"}, &e), AD_CLIENT_INVALID);
    ck_assert_ptr_null(c);
    c = client_of(s, NULL);
    ck_assert_int_eq(ad_client_show(c, "", NULL, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_show(c, "a", "\"x\"\r\nY: z", NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_activate(c, "a", "", NULL, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_activate(c, "a", "\xff", NULL, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_put_alias(c, "a", NULL, 0, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_put_alias(c, "a", &(ad_client_target){"m", 0}, 1, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_put_alias(c, "a", &(ad_client_target){"\xff", 1}, 1, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_call(c, "GET", "v1", NULL, NULL, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_call(c, "GET x", "/v1", NULL, NULL, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a"}, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.path = "/tmp"}, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_upload_version(c, &(ad_client_source){.path = "/tmp", .dry_run = true}, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_events(c, &(ad_client_watch){.last_event_id = "1\n2"}, &e), AD_CLIENT_INVALID);
    ad_client_close(&c);
    ad_client_close(&c);
    close(s->listener);
    free(s);
}
END_TEST

/* ---- lists ---- */

START_TEST(all_pages_become_one_list)
{
    script *s = SCRIPT(OK_REPLY("{\"object\":\"list\",\"data\":[{\"name\":\"a\"},{\"name\":\"b\"}],\"has_more\":true,\"first_id\":\"a\",\"last_id\":\"b\"}"),
                       OK_REPLY("{\"object\":\"list\",\"data\":[{\"name\":\"c\"}],\"has_more\":false,\"first_id\":\"c\",\"last_id\":\"c\"}"));
    ad_client *c = client_of(s, NULL);
    ad_client_reply r;
    go(s);
    ck_assert(!ad_client_list_all(c, &(ad_client_query){.limit = 2}, &r, NULL));
    ck_assert_uint_eq(json_array_size(json_object_get(r.json, "data")), 3);
    ck_assert_str_eq(string_at(r.json, "first_id"), "a");
    ck_assert_str_eq(string_at(r.json, "last_id"), "c");
    ck_assert(json_is_false(json_object_get(r.json, "has_more")));
    ck_assert_uint_eq(r.text_len, strlen(r.text));
    ck_has(s->requests[1], "?limit=2&after=b ");
    ad_client_reply_deinit(&r);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_list_without_end_is_an_error)
{
    script *s = SCRIPT(OK_REPLY("{\"data\":[{\"name\":\"b\"}],\"has_more\":true,\"last_id\":\"b\"}"), OK_REPLY("{\"data\":[{\"name\":\"b\"}],\"has_more\":true,\"last_id\":\"b\"}"),
                       OK_REPLY("{\"data\":[],\"has_more\":true,\"last_id\":\"z\"}"), OK_REPLY("{\"has_more\":true,\"last_id\":\"z\"}"));
    ad_client *c = client_of(s, NULL);
    ad_client_error e = {0};
    go(s);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(ad_client_list_all(c, &(ad_client_query){0}, NULL, &e), AD_CLIENT_BAD_REPLY);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

/* ---- uploads ---- */

static char dir[] = "/tmp/ad-client-XXXXXX";

static const char *file_in(const char *name, const char *text, size_t len)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert(fd >= 0 && write(fd, text, len) == (ssize_t)len);
    close(fd);
    return path;
}

static void make_dir(void)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

typedef struct {
    uint64_t sent, total, stop_at;
    int calls;
} seen;

static bool note_progress(void *user, uint64_t sent, uint64_t total)
{
    seen *p = user;
    ck_assert(sent >= p->sent && sent <= total && (!p->total || p->total == total));
    p->sent = sent;
    p->total = total;
    p->calls++;
    return !p->stop_at || sent < p->stop_at;
}

START_TEST(an_upload_of_a_directory_sends_fields_and_both_files)
{
    script *s = SCRIPT(OK_REPLY("{}"), OK_REPLY("{}"), OK_REPLY("{}"));
    ad_client *c = client_of(s, NULL);
    json_t *labels = json_pack("{s:s}", "team", "search");
    seen p = {0};
    make_dir();
    file_in("adapter_config.json", "{\"r\": 8}", 8);
    file_in("adapter_model.safetensors", "weights!", 8);
    go(s);
    ck_assert(!ad_client_upload(c, &(ad_client_source){.name = "sql", .path = dir, .description = "d\r\ne", .labels = labels, .sha256 = "ab", .signature = "sig", .selftest = "{}",
                                                       .keep_staged = true, .progress = note_progress, .user = &p}, NULL, NULL));
    ck_has(s->requests[0], "POST /v1/adapters HTTP");
    ck_has(s->requests[0], "Content-Type: multipart/form-data; boundary=");
    ck_has(s->requests[0], "name=\"name\"\r\n\r\nsql\r\n");
    ck_has(s->requests[0], "name=\"description\"\r\n\r\nd\r\ne\r\n");
    ck_has(s->requests[0], "name=\"labels\"\r\n\r\n{\"team\":\"search\"}\r\n");
    ck_has(s->requests[0], "name=\"sha256\"\r\n\r\nab\r\n");
    ck_has(s->requests[0], "name=\"activate\"\r\n\r\nfalse\r\n");
    ck_has(s->requests[0], "name=\"signature\"\r\n\r\nsig\r\n");
    ck_has(s->requests[0], "name=\"selftest\"\r\n\r\n{}\r\n");
    ck_has(s->requests[0], "name=\"config\"; filename=\"adapter_config.json\"\r\nContent-Type: application/octet-stream\r\n\r\n{\"r\": 8}\r\n");
    ck_has(s->requests[0], "name=\"weights\"; filename=\"adapter_model.safetensors\"\r\nContent-Type: application/octet-stream\r\n\r\nweights!\r\n");
    ck_assert(p.calls && p.sent == p.total && p.total > 16);
    ck_assert(!ad_client_upload(c, &(ad_client_source){.path = dir, .dry_run = true}, NULL, NULL));
    ck_has(s->requests[1], "POST /v1/adapters?dry_run=true HTTP");
    ck_assert_ptr_null(strstr(s->requests[1], "activate"));
    ck_assert_ptr_null(strstr(s->requests[1], "name=\"name\""));
    ck_assert(!ad_client_upload_version(c, &(ad_client_source){.name = "a/b", .path = dir, .if_match = "\"r1\""}, NULL, NULL));
    ck_has(s->requests[2], "POST /v1/adapters/a%2Fb/versions HTTP");
    ck_has(s->requests[2], "If-Match: \"r1\"");
    ck_assert_ptr_null(strstr(s->requests[2], "name=\"name\""));
    json_decref(labels);
    remove_dir();
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_file_is_a_gguf_or_an_archive_by_what_it_holds)
{
    script *s = SCRIPT(OK_REPLY("{}"), OK_REPLY("{}"), OK_REPLY("{}"));
    ad_client *c = client_of(s, NULL);
    make_dir();
    go(s);
    ck_assert(!ad_client_upload(c, &(ad_client_source){.name = "a", .path = file_in("x.zip", "GGUF...", 7)}, NULL, NULL));
    ck_assert(!ad_client_upload(c, &(ad_client_source){.name = "a", .path = file_in("x.gguf", "PK", 2)}, NULL, NULL));
    ck_assert(!ad_client_upload(c, &(ad_client_source){.name = "a", .path = file_in("empty", "", 0)}, NULL, NULL));
    ck_has(s->requests[0], "name=\"gguf\"; filename=\"adapter.gguf\"");
    ck_has(s->requests[1], "name=\"archive\"; filename=\"archive\"");
    ck_has(s->requests[2], "name=\"archive\"");
    remove_dir();
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_place_the_server_reads_is_sent_as_json)
{
    script *s = SCRIPT(OK_REPLY("{}"), OK_REPLY("{}"));
    ad_client *c = client_of(s, NULL);
    json_t *labels = json_pack("{s:s}", "k", "v");
    ad_client_error e = {0};
    go(s);
    ck_assert(!ad_client_upload(c, &(ad_client_source){.name = "a", .server_dir = "/srv/a", .labels = labels, .keep_staged = true, .selftest = "{\"prompts\":[]}"}, NULL, NULL));
    ck_has(s->requests[0], "{\"name\":\"a\",\"path\":\"/srv/a\",\"labels\":{\"k\":\"v\"},\"activate\":false,\"selftest\":{\"prompts\":[]}}");
    ck_assert(!ad_client_upload_version(c, &(ad_client_source){.name = "a", .source_url = "https://h/x"}, NULL, NULL));
    ck_has(s->requests[1], "\r\n\r\n{\"url\":\"https://h/x\"}");
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a", .server_dir = "/x", .selftest = "{"}, NULL, &e), AD_CLIENT_INVALID);
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a", .server_dir = "/x", .source_url = "y"}, NULL, &e), AD_CLIENT_INVALID);
    json_decref(labels);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(what_cannot_be_read_is_a_local_error)
{
    script *s = SCRIPT("x");
    ad_client *c = client_of(s, NULL);
    ad_client_error e = {0};
    char fifo[64];
    make_dir();
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a", .path = "/nowhere"}, NULL, &e), AD_CLIENT_LOCAL);
    ck_assert(strstr(e.message, "/nowhere: No such file"));
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a", .path = dir}, NULL, &e), AD_CLIENT_LOCAL);
    ck_assert(strstr(e.message, "adapter_config.json: No such file"));
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a", .path = fifo}, NULL, &e), AD_CLIENT_LOCAL);
    ck_assert(strstr(e.message, "not a regular file"));
    remove_dir();
    ad_client_close(&c);
    close(s->listener);
    free(s);
}
END_TEST

/* Eight megabytes do not fit into the buffers between us and a server that does not read. */
static const char *large_file(void)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/large", dir);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    ck_assert(fd >= 0 && !ftruncate(fd, 8 << 20));
    close(fd);
    return path;
}

START_TEST(progress_may_cancel_an_upload)
{
    script *s = SCRIPT(OK_REPLY("{}"));
    ad_client *c = client_of(s, NULL);
    ad_client_error e = {0};
    seen p = {.stop_at = 1 << 20};
    make_dir();
    const char *path = large_file();
    go(s);
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a", .path = path, .progress = note_progress, .user = &p}, NULL, &e), AD_CLIENT_CANCELED);
    ck_assert(p.sent < p.total);
    remove_dir();
    ad_client_close(&c);
    end_script(s);
}
END_TEST

static bool shorten(void *user, uint64_t sent, uint64_t total)
{
    return sent < 1 << 20 || !truncate(user, 2 << 20) || total == 0;
}

START_TEST(a_file_that_becomes_shorter_is_a_local_error)
{
    script *s = SCRIPT(OK_REPLY("{}"));
    ad_client *c = client_of(s, NULL);
    ad_client_error e = {0};
    make_dir();
    char path[128];
    snprintf(path, sizeof path, "%s", large_file());
    go(s);
    ck_assert_int_eq(ad_client_upload(c, &(ad_client_source){.name = "a", .path = path, .progress = shorten, .user = path}, NULL, &e), AD_CLIENT_LOCAL);
    ck_assert(strstr(e.message, "shorter"));
    remove_dir();
    ad_client_close(&c);
    end_script(s);
}
END_TEST

/* ---- events ---- */

typedef struct {
    char log[4096];
    int events, stop_after, breaks;
} heard;

static bool on_event(void *user, const ad_client_event *e)
{
    heard *h = user;
    const char *name = string_at(e->json, "name");
    size_t n = strlen(h->log);
    snprintf(h->log + n, sizeof h->log - n, "%s|%s|%s;", e->id, e->type, name ? name : e->data);
    return ++h->events != h->stop_after;
}

static void on_break(void *user, const ad_client_error *why, int delay_ms)
{
    heard *h = user;
    ck_assert(why->status != AD_CLIENT_OK && delay_ms > 0);
    h->breaks++;
}

START_TEST(a_broken_stream_goes_on_behind_the_last_event)
{
    script *s = SCRIPT(STREAM ": ping\n\nid: 4\nevent: state\ndata: {\"name\":\"a\"}\n\n", HEAD("503 x") "\r\n{}", "", STREAM "id: 5\nevent: state\ndata: {\"name\":\"b\"}\n\ndata: cut",
                       STREAM "id: 6\ndata: one\ndata: two\n\n");
    ad_client *c = client_of(s, NULL);
    heard h = {.stop_after = 3};
    ad_client_error e = {0};
    go(s);
    ad_client_status st = ad_client_events(c, &(ad_client_watch){.reconnects = 4, .delay_ms = 5, .on_event = on_event, .on_break = on_break, .user = &h, .last_event_id = "3"}, &e);
    ck_assert_msg(st == AD_CLIENT_OK, "%s", e.message);
    ck_assert_str_eq(h.log, "4|state|a;5|state|b;6|message|one\ntwo;");
    ck_assert_int_eq(h.breaks, 4);
    ck_has(s->requests[0], "GET /v1/adapters/events HTTP");
    ck_has(s->requests[0], "Accept: text/event-stream");
    ck_has(s->requests[0], "Last-Event-ID: 3");
    ck_has(s->requests[1], "Last-Event-ID: 4");
    ck_has(s->requests[4], "Last-Event-ID: 5");
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_watch_ends_when_its_tries_are_used_up)
{
    script *s = SCRIPT(STREAM "data: x\n\n", HEAD("500 x") "\r\n{}", HEAD("500 x") "\r\n{}");
    ad_client *c = client_of(s, NULL);
    heard h = {0};
    ad_client_error e = {0};
    go(s);
    ck_assert_int_eq(ad_client_events(c, &(ad_client_watch){.reconnects = 2, .delay_ms = 1, .on_event = on_event, .user = &h}, &e), AD_CLIENT_REFUSED);
    ck_assert_int_eq(e.http_status, 500);
    ck_assert_int_eq(h.events, 1);
    ad_client_error_deinit(&e);
    ad_client_close(&c);
    end_script(s);
}
END_TEST

START_TEST(a_watch_that_is_refused_or_gets_something_else_ends_at_once)
{
    script *s = SCRIPT(HEAD("404 x") "\r\n{}", HEAD("503 x") "\r\n{}", OK_REPLY("{}"), STREAM "data: x\n\n", HEAD("401 x") "\r\n{}");
    ad_client *c = client_of(s, NULL);
    heard h = {0};
    const ad_client_watch w = {.reconnects = -1, .delay_ms = 1, .on_event = on_event, .user = &h};
    ad_client_error e = {0};
    go(s);
    static const ad_client_status want[] = {AD_CLIENT_REFUSED, AD_CLIENT_REFUSED, AD_CLIENT_BAD_REPLY, AD_CLIENT_REFUSED};
    static const int status[] = {404, 503, 0, 401};
    for (int i = 0; i < 4; i++) {
        ck_assert_msg(ad_client_events(c, &w, &e) == want[i], "%d: %s", i, e.message);
        ck_assert_int_eq(e.http_status, status[i]);
        ad_client_error_deinit(&e);
    }
    ad_client_close(&c);
    end_script(s);
}
END_TEST

static void *cancel_soon(void *arg)
{
    usleep(200000);
    ad_client_cancel(arg);
    return NULL;
}

START_TEST(another_thread_may_cancel_a_watch)
{
    script *s = SCRIPT(STREAM ": hello\n");
    ad_client *c = client_of(s, NULL);
    heard h = {0};
    ad_client_error e = {0};
    pthread_t t;
    s->hold = true;
    go(s);
    ck_assert(!pthread_create(&t, NULL, cancel_soon, c));
    ck_assert_int_eq(ad_client_events(c, &(ad_client_watch){.reconnects = -1, .on_event = on_event, .user = &h}, &e), AD_CLIENT_CANCELED);
    ck_assert(!pthread_join(t, NULL));
    ad_client_close(&c);
    end_script(s);
}
END_TEST

static bool log_sse(void *user, const char *id, const char *type, const char *data)
{
    char *log = user;
    size_t n = strlen(log);
    snprintf(log + n, 1024 - n, "[%s|%s|%s]", id, type, data);
    return true;
}

START_TEST(events_are_the_same_however_the_stream_is_cut)
{
    static const char text[] = "\xEF\xBB\xBFid: 1\r\nevent: state\r\ndata:a\r\n\r\n: comment\n\nid\ndata: b\rdata\r\revent: gone\n\nid: 2\n\nretry: 250\nretry: x\nother: y\ndata:  c\n\ndata: lost";
    static const char want[] = "[1|state|a][|message|b\n][2|message| c]";
    for (size_t step = 1; step < sizeof text; step++) {
        char log[1024] = "";
        ad_client_sse p;
        ad_client_sse_init(&p, "0", log_sse, log);
        for (size_t at = 0; at < sizeof text - 1; at += step) ck_assert(ad_client_sse_feed(&p, text + at, at + step < sizeof text - 1 ? step : sizeof text - 1 - at));
        ck_assert_str_eq(log, want);
        ck_assert_int_eq(p.retry_ms, 250);
        ck_assert_str_eq(p.id, "2");
        ad_client_sse_deinit(&p);
    }
}
END_TEST

START_TEST(an_event_without_end_is_refused)
{
    char log[1024] = "", block[4096];
    ad_client_sse p;
    size_t fed = 0;
    memset(block, 'x', sizeof block);
    ad_client_sse_init(&p, NULL, log_sse, log);
    ck_assert(ad_client_sse_feed(&p, "data: ", 6));
    while (fed < 4u << 20 && ad_client_sse_feed(&p, block, sizeof block)) fed += sizeof block;
    ck_assert(p.too_large && fed <= AD_CLIENT_SSE_EVENT_BYTES);
    ad_client_sse_deinit(&p);
    ad_client_sse_init(&p, NULL, log_sse, log);
    for (fed = 0; fed < 4u << 20 && ad_client_sse_feed(&p, "data: 0123456789\n", 17); fed += 17) continue;
    ck_assert(p.too_large);
    ad_client_sse_deinit(&p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client");
    TCase *t = tcase_create("client");
    tcase_add_test(t, every_call_sends_what_the_contract_says);
    tcase_add_test(t, a_reply_has_its_json_its_text_and_its_etag);
    tcase_add_test(t, a_refusal_tells_status_code_message_report_and_when_to_come_back);
    tcase_add_loop_test(t, a_hostile_reply_is_an_error, 0, sizeof hostile / sizeof *hostile);
    tcase_add_test(t, a_reply_over_the_limit_is_cut_off);
    tcase_add_test(t, endless_headers_are_cut_off);
    tcase_add_test(t, a_server_that_says_nothing_times_out);
    tcase_add_test(t, a_port_without_a_server_is_unreachable);
    tcase_add_test(t, bad_arguments_are_refused_before_anything_is_sent);
    tcase_add_test(t, all_pages_become_one_list);
    tcase_add_test(t, a_list_without_end_is_an_error);
    tcase_add_test(t, an_upload_of_a_directory_sends_fields_and_both_files);
    tcase_add_test(t, a_file_is_a_gguf_or_an_archive_by_what_it_holds);
    tcase_add_test(t, a_place_the_server_reads_is_sent_as_json);
    tcase_add_test(t, what_cannot_be_read_is_a_local_error);
    tcase_add_test(t, progress_may_cancel_an_upload);
    tcase_add_test(t, a_file_that_becomes_shorter_is_a_local_error);
    tcase_add_test(t, a_broken_stream_goes_on_behind_the_last_event);
    tcase_add_test(t, a_watch_ends_when_its_tries_are_used_up);
    tcase_add_test(t, a_watch_that_is_refused_or_gets_something_else_ends_at_once);
    tcase_add_test(t, another_thread_may_cancel_a_watch);
    tcase_add_test(t, events_are_the_same_however_the_stream_is_cut);
    tcase_add_test(t, an_event_without_end_is_refused);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
