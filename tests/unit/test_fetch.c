/* SPDX-License-Identifier: MIT */
/* Adapters fetched over https from tests/unit/https_server, all on loopback: which a daemon must refuse unless its address stands in the list, so
 * nearly everything here goes through an exception, and the rule is what is tested first. Skipped (exit code 77) without python3 and openssl. */
#include "tests/unit/small_disk.h"
#include "tests/unit/suite.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "adapters/source.h"
#include "core/base/file.h"

enum { MAX_BYTES = 1 << 20 };

static char dir[32], ca[64];
static pid_t server;
static int server_stdin;
static struct { int good, twin, stranger, expired, own, plain, mute, six; } port;

/* ---- the servers ---- */

static int port_of(const char *line, const char *name)
{
    char key[32];
    snprintf(key, sizeof key, "%s=", name);
    const char *p = strstr(line, key);
    if (!p) fprintf(stderr, "https_server said \"%s\", without %s\n", line, name), exit(1);
    return atoi(p + strlen(key));
}

static void start_server(void)
{
    int in[2], out[2];
    char script[1024], line[512] = "";
    const char *root = getenv("AD_SOURCE_ROOT");
    snprintf(script, sizeof script, "%s/tests/unit/https_server", root ? root : ".");
    if (pipe(in) != 0 || pipe(out) != 0 || (server = fork()) < 0) exit(1);
    if (server == 0) {
        dup2(in[0], 0), dup2(out[1], 1);
        close(in[0]), close(in[1]), close(out[0]), close(out[1]);
        execlp("python3", "python3", script, dir, (char *)NULL);
        _exit(127);
    }
    close(in[0]), close(out[1]);
    server_stdin = in[1]; /* it ends with us */
    FILE *f = fdopen(out[0], "r");
    if (!fgets(line, sizeof line, f)) exit(1);
    fclose(f);
    port.good = port_of(line, "good"), port.twin = port_of(line, "twin"), port.stranger = port_of(line, "stranger"), port.expired = port_of(line, "expired");
    port.own = port_of(line, "own"), port.plain = port_of(line, "plain"), port.mute = port_of(line, "mute"), port.six = port_of(line, "six");
    snprintf(ca, sizeof ca, "%s/ca.pem", dir);
}

static void stop_server(void)
{
    char command[64];
    close(server_stdin);
    waitpid(server, NULL, 0);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (system(command) != 0) exit(1);
}

/* ---- one fetch ---- */

static char to[64];
static ad_err err;
static bool is_archive;
static int timeout_s = 60;
static size_t max_bytes = MAX_BYTES;
static volatile bool cancel;

static void setup(void)
{
    strcpy(to, "/tmp/ad-fetched-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(to));
}

static void empty(void)
{
    DIR *d = opendir(to);
    for (struct dirent *e; (e = readdir(d));) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

static void teardown(void)
{
    empty();
    rmdir(to);
}

static ad_https_options options_of(const char *const *hosts, int n)
{
    return (ad_https_options){.hosts = hosts, .n_hosts = n, .ca_file = ca, .max_bytes = max_bytes, .timeout_s = timeout_s};
}

static ad_status fetch_from(const char *const *hosts, int n, const char *url)
{
    ad_https_options o = options_of(hosts, n);
    empty();
    err.msg[0] = '\0';
    is_archive = false;
    return ad_origin_fetch(url, &o, to, &is_archive, &cancel, &err);
}

/* "HOST:port" in a buffer good for eight calls. */
static const char *at(const char *host, int p)
{
    static char text[8][300];
    static int turn;
    char *s = text[turn++ % 8];
    snprintf(s, sizeof text[0], "%s:%d", host, p);
    return s;
}

static const char *url_of(const char *host, int p, const char *path)
{
    static char text[4][1024];
    static int turn;
    char *s = text[turn++ % 4];
    snprintf(s, sizeof text[0], "https://%s:%d%s", host, p, path);
    return s;
}

/* A path of the good server, which is on the list by its address. */
static ad_status fetch(const char *path)
{
    const char *hosts[] = {at("127.0.0.1", port.good)};
    return fetch_from(hosts, 1, url_of("127.0.0.1", port.good, path));
}

static bool has(const char *name, const char *text)
{
    char path[128];
    ad_file f;
    ad_err e;
    snprintf(path, sizeof path, "%s/%s", to, name);
    if (ad_file_read(&f, path, MAX_BYTES, &e) != AD_OK) return false;
    bool same = f.len == strlen(text) && !memcmp(f.data, text, f.len);
    ad_file_close(&f);
    return same;
}

static long size_of(const char *name)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", to, name);
    return stat(path, &st) == 0 ? (long)st.st_size : -1;
}

#define EXPECT(call, status, words) do { \
    ad_status got = (call); \
    ck_assert_msg(got == (status), "%s: status %d: %s", #call, (int)got, err.msg); \
    ck_assert_msg(strstr(err.msg, words), "%s: \"%s\"", #call, err.msg); \
} while (0)
#define WORKS(call) EXPECT(call, AD_OK, "")

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- what is fetched ---- */

START_TEST(a_folder_is_fetched_with_its_signature)
{
    WORKS(fetch("/folder/"));
    ck_assert(has("adapter_config.json", "{config}") && has("adapter_model.safetensors", "weights") && has("adapter.minisig", "signature") && !is_archive);
    WORKS(fetch("/folder/?version=3"));
    ck_assert(has("adapter_model.safetensors", "weights"));
}
END_TEST

/* Object stores say 403 of what is not there. */
START_TEST(a_folder_needs_no_signature)
{
    WORKS(fetch("/bare/"));
    ck_assert(has("adapter_model.safetensors", "weights"));
    ck_assert_int_eq(size_of("adapter.minisig"), -1);
    WORKS(fetch("/denied/"));
    ck_assert_int_eq(size_of("adapter.minisig"), -1);
    ck_assert_int_eq(size_of("tokenizer_config.json"), -1);
}
END_TEST

START_TEST(a_folders_chat_template_comes_along)
{
    WORKS(fetch("/templated/"));
    ck_assert(has("chat_template.jinja", "{{ x }}"));
    ck_assert_int_eq(size_of("tokenizer_config.json"), -1);
    WORKS(fetch("/tokenized/"));
    ck_assert(has("tokenizer_config.json", "{}"));
    ck_assert_int_eq(size_of("chat_template.jinja"), -1);
    EXPECT(fetch("/overlong/"), AD_ELIMIT, "chat_template.jinja: over the limit of 65536 bytes");
}
END_TEST

START_TEST(the_urls_end_says_what_it_is)
{
    WORKS(fetch("/lora.gguf"));
    ck_assert(has("adapter.gguf", "gguf") && !is_archive);
    WORKS(fetch("/lora.gguf?token=/"));
    ck_assert(has("adapter.gguf", "gguf"));
    WORKS(fetch("/a.tar.gz"));
    ck_assert(has("archive", "archive") && is_archive); /* the bytes as they came, whatever they are said to be packed with */
    WORKS(fetch("/a.tar.gz#part"));
}
END_TEST

START_TEST(what_a_server_does_not_have_is_not_found)
{
    EXPECT(fetch("/missing/"), AD_ENOTFOUND, "127.0.0.1/missing/adapter_config.json: the server answered 404");
    EXPECT(fetch("/missing.gguf"), AD_ENOTFOUND, "404");
    EXPECT(fetch("/status/410"), AD_ENOTFOUND, "410");
    EXPECT(fetch("/"), AD_ENOTFOUND, "404");
    EXPECT(fetch(""), AD_ENOTFOUND, "404");
    ck_assert(!is_archive);
}
END_TEST

START_TEST(any_answer_but_200_is_an_error)
{
    EXPECT(fetch("/status/403"), AD_EREMOTE, "the server answered 403");
    EXPECT(fetch("/status/500"), AD_EREMOTE, "500");
    EXPECT(fetch("/status/206"), AD_EREMOTE, "206");
    EXPECT(fetch("/status/304"), AD_EREMOTE, "304");
    EXPECT(fetch("/nowhere"), AD_EREMOTE, "redirect to nowhere");
    ck_assert_int_le(size_of("archive"), 0); /* nothing of an error's page was kept */
}
END_TEST

/* ---- who may be asked ---- */

START_TEST(only_hosts_on_the_list_are_asked)
{
    const char *hosts[] = {"models.example.com", "*.example.org", at("127.0.0.1", port.twin), "[::1]:9", "bad host", ""};
    static const char *const urls[] = {
        "https://example.com/a", "https://models.example.com.evil.net/a", "https://evilmodels.example.com/a", "https://models.example.com:8443/a", "https://example.org/a",
        "https://.example.org/a", "https://evilexample.org/a", "https://a.example.org:1/a", "https://8.8.8.8/a", "https://[2606:4700::1111]/a", "https://über.example.org/a",
        "https://a%20.example.org/a", "https://bad%20host/a"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++)
        ck_assert_msg(fetch_from(hosts, 6, urls[i]) == AD_EINVAL, "%s: %s", urls[i], err.msg);
    EXPECT(fetch_from(hosts, 6, url_of("127.0.0.1", port.good, "/a")), AD_EINVAL, "not among the allowed source hosts");
    EXPECT(fetch_from(NULL, 0, url_of("127.0.0.1", port.good, "/a")), AD_EINVAL, "not among the allowed source hosts");
    WORKS(fetch_from(hosts, 6, url_of("127.0.0.1", port.twin, "/a.tar.gz")));
}
END_TEST

/* curl leads every name under .localhost to loopback. */
START_TEST(a_name_that_leads_to_a_private_address_is_refused)
{
    const char *names[] = {at("localhost", port.good), at("*.localhost", port.good)};
    EXPECT(fetch_from(names, 2, url_of("localhost", port.good, "/a.tar.gz")), AD_EINVAL, "1 is not a public one");
    EXPECT(fetch_from(names, 2, url_of("models.localhost", port.good, "/a.tar.gz")), AD_EINVAL, "is not a public one");
    EXPECT(fetch_from(names, 2, url_of("127.0.0.1", port.good, "/a.tar.gz")), AD_EINVAL, "not among the allowed source hosts");
    const char *other[] = {at("localhost", port.good), at("127.0.0.1", port.twin)}; /* the address, but not at that port */
    EXPECT(fetch_from(other, 2, url_of("localhost", port.good, "/a.tar.gz")), AD_EINVAL, "is not a public one");
}
END_TEST

START_TEST(a_private_address_is_asked_when_it_is_listed_itself)
{
    const char *both[] = {at("*.localhost", port.good), at("localhost", port.good), at("127.0.0.1", port.good)};
    WORKS(fetch_from(both, 3, url_of("127.0.0.1", port.good, "/a.tar.gz")));
    WORKS(fetch_from(both, 3, url_of("localhost", port.good, "/a.tar.gz")));
    WORKS(fetch_from(both, 3, url_of("Models.Localhost", port.good, "/a.tar.gz")));
    WORKS(fetch_from(both, 3, url_of("127.1", port.good, "/a.tar.gz")));  /* the same address, however it is written */
    if (!port.six) return;
    const char *six[] = {at("[0:0::1]", port.six)};
    WORKS(fetch_from(six, 1, url_of("[::1]", port.six, "/a.tar.gz")));
    EXPECT(fetch_from(six, 1, url_of("[::1%25lo]", port.six, "/a.tar.gz")), AD_EINVAL, "");
}
END_TEST

START_TEST(no_spelling_of_loopback_slips_through)
{
    static const char *const spellings[] = {"127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0", "0.0.0.0",
                                            "[::1]", "[::]", "127.0.0.1.", "%31%32%37.0.0.1", "\xE2\x91\xA0\xE2\x91\xA1\xE2\x91\xA6.0.0.1", "localhost"};
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        const char *hosts[] = {"models.example.com", at("*.0.0.1", port.good), at("localhost", port.good)};
        ck_assert_msg(fetch_from(hosts, 3, url_of(spellings[i], port.good, "/a.tar.gz")) == AD_EINVAL, "%s: %s", spellings[i], err.msg);
    }
}
END_TEST

START_TEST(only_https_is_fetched_and_nobody_logs_in)
{
    const char *hosts[] = {at("127.0.0.1", port.plain), "127.0.0.1:80", at("127.0.0.1", port.good)};
    static const char *const bad[] = {"", "a", "/etc/passwd", "//127.0.0.1/a", "127.0.0.1/a", "http://127.0.0.1/a", "HTTP://127.0.0.1/a", "file:///etc/passwd", "file://127.0.0.1/etc/passwd", "ftp://127.0.0.1/a",
                                      "gopher://127.0.0.1/a", "data:text/plain,x", "https://", "https:///a", "https://127.0.0.1:99999/a", "https://127.0.0.1:0/a", "https://127.0.0.1:-1/a",
                                      "https://[::1/a", "https://127.0.0.1/a\r\nHost: evil", "https://exa mple/a"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(fetch_from(hosts, 3, bad[i]) == AD_EINVAL, "%s: %s", bad[i], err.msg);
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/a.tar.gz", port.plain);
    EXPECT(fetch_from(hosts, 3, url), AD_EINVAL, "only https is fetched, not http");
    EXPECT(fetch_from(hosts, 3, url_of("me:pw@127.0.0.1", port.good, "/a.tar.gz")), AD_EINVAL, "a user's name or password");
    EXPECT(fetch_from(hosts, 3, url_of("me@127.0.0.1", port.good, "/a.tar.gz")), AD_EINVAL, "a user's name or password");
    EXPECT(fetch_from(hosts, 3, url_of(":pw@127.0.0.1", port.good, "/a.tar.gz")), AD_EINVAL, "a user's name or password");
    EXPECT(fetch_from(hosts, 3, url_of("127.0.0.1", port.plain, "/a.tar.gz")), AD_EREMOTE, ""); /* no TLS there */
}
END_TEST

/* ---- redirects ---- */

static ad_status fetch_redirect(int status, const char *url)
{
    char path[512];
    const char *hosts[] = {at("127.0.0.1", port.good), at("127.0.0.1", port.twin), at("localhost", port.stranger)};
    snprintf(path, sizeof path, "/r/%d?%s", status, url);
    return fetch_from(hosts, 3, url_of("127.0.0.1", port.good, path));
}

START_TEST(redirects_are_followed_to_hosts_on_the_list)
{
    static const int codes[] = {301, 302, 303, 307, 308};
    for (size_t i = 0; i < 5; i++) {
        WORKS(fetch_redirect(codes[i], url_of("127.0.0.1", port.twin, "/a.tar.gz")));
        ck_assert(has("archive", "archive"));
    }
    WORKS(fetch_redirect(302, "/a.tar.gz"));
    WORKS(fetch_redirect(302, "../a.tar.gz"));
    WORKS(fetch("/moved/"));
    ck_assert(has("adapter_config.json", "{config}") && has("adapter_model.safetensors", "weights") && has("adapter.minisig", "signature"));
    WORKS(fetch("/loop/5"));
    ck_assert(has("archive", "the end"));
    EXPECT(fetch("/loop/6"), AD_EINVAL, "more than 5 redirects");
}
END_TEST

START_TEST(redirects_lead_nowhere_that_is_not_allowed)
{
    char plain[64];
    snprintf(plain, sizeof plain, "http://127.0.0.1:%d/a.tar.gz", port.plain);
    EXPECT(fetch_redirect(302, plain), AD_EINVAL, "only https is fetched, not http");
    EXPECT(fetch_redirect(302, "file:///etc/passwd"), AD_EINVAL, "only https is fetched, not file");
    EXPECT(fetch_redirect(302, "gopher://127.0.0.1:1/"), AD_EINVAL, "only https is fetched, not gopher");
    EXPECT(fetch_redirect(302, url_of("127.0.0.2", port.twin, "/a.tar.gz")), AD_EINVAL, "127.0.0.2, port");
    EXPECT(fetch_redirect(302, "https://169.254.169.254/latest/meta-data/"), AD_EINVAL, "169.254.169.254 is not among");
    EXPECT(fetch_redirect(302, "https://10.0.0.1/a"), AD_EINVAL, "10.0.0.1 is not among");
    EXPECT(fetch_redirect(302, "https://evil.example.com/a"), AD_EINVAL, "evil.example.com is not among");
    EXPECT(fetch_redirect(302, url_of("127.0.0.1", port.mute, "/a.tar.gz")), AD_EINVAL, "not among");
    EXPECT(fetch_redirect(302, url_of("localhost", port.stranger, "/a.tar.gz")), AD_EINVAL, "1 is not a public one"); /* the name is on the list, its address is not */
    EXPECT(fetch_redirect(302, url_of("a:b@127.0.0.1", port.twin, "/a.tar.gz")), AD_EINVAL, "");
    ck_assert_int_le(size_of("archive"), 0);
}
END_TEST

/* ---- limits ---- */

START_TEST(a_byte_too_many_is_too_many)
{
    max_bytes = 50000;
    WORKS(fetch("/big?50000"));
    ck_assert_int_eq(size_of("archive"), 50000);
    EXPECT(fetch("/big?50001"), AD_ELIMIT, "over the limit of 50000 bytes");
    ck_assert_int_eq(size_of("archive"), 0); /* the length said it: not a byte was taken */
    WORKS(fetch("/chunked?50000"));
    ck_assert_int_eq(size_of("archive"), 50000);
    EXPECT(fetch("/chunked?50001"), AD_ELIMIT, "over the limit of 50000 bytes");
    EXPECT(fetch("/chunked?5000000"), AD_ELIMIT, "");
    ck_assert_int_le(size_of("archive"), 50000);
    max_bytes = 24; /* the folder's three files: 8 + 7 + 9 */
    WORKS(fetch("/folder/"));
    max_bytes = 23;
    EXPECT(fetch("/folder/"), AD_ELIMIT, "");
    max_bytes = 14;
    EXPECT(fetch("/folder/"), AD_ELIMIT, "");
    max_bytes = 0;
    EXPECT(fetch("/folder/"), AD_ELIMIT, "");
}
END_TEST

START_TEST(what_is_cut_short_is_not_taken)
{
    EXPECT(fetch("/short"), AD_EREMOTE, "");
    EXPECT(fetch("/short-chunk"), AD_EREMOTE, "");
    EXPECT(fetch("/cut"), AD_EREMOTE, "does not say how long it is");
    EXPECT(fetch("/goodbye"), AD_EREMOTE, "does not say how long it is");
    EXPECT(fetch("/lie"), AD_EREMOTE, "does not say how long it is");
}
END_TEST

START_TEST(the_time_is_limited)
{
    double start = now();
    timeout_s = 2;
    EXPECT(fetch("/slow"), AD_ETIMEOUT, "timed out");
    ck_assert_double_ge(now() - start, 1.9);
    const char *hosts[] = {at("127.0.0.1", port.mute)};
    EXPECT(fetch_from(hosts, 1, url_of("127.0.0.1", port.mute, "/")), AD_ETIMEOUT, "timed out");
    ck_assert_double_lt(now() - start, 15);
    timeout_s = 0;
    EXPECT(fetch("/a.tar.gz"), AD_ETIMEOUT, "not fetched within 0 s");
}
END_TEST

START_TEST(a_server_that_sends_nearly_nothing_is_given_up)
{
    double start = now();
    timeout_s = 300;
    EXPECT(fetch("/slow"), AD_ETIMEOUT, "too slow");
    ck_assert_double_ge(now() - start, AD_FETCH_STALL_S - 1);
    ck_assert_double_lt(now() - start, 3 * AD_FETCH_STALL_S);
}
END_TEST

START_TEST(endless_headers_end)
{
    timeout_s = 10;
    ck_assert_int_eq(fetch("/headers"), AD_EREMOTE);
    ck_assert_int_le(size_of("archive"), 0);
}
END_TEST

static void *cancel_soon(void *unused)
{
    (void)unused;
    nanosleep(&(struct timespec){0, 300000000}, NULL);
    __atomic_store_n(&cancel, true, __ATOMIC_RELAXED);
    return NULL;
}

START_TEST(a_fetch_can_be_canceled)
{
    pthread_t thread;
    double start = now();
    ck_assert_int_eq(pthread_create(&thread, NULL, cancel_soon, NULL), 0);
    EXPECT(fetch("/slow"), AD_EBUSY, "canceled");
    ck_assert_double_lt(now() - start, 10);
    pthread_join(thread, NULL);
    EXPECT(fetch("/a.tar.gz"), AD_EBUSY, "canceled");
    ad_https_options o = options_of((const char *[]){at("127.0.0.1", port.good)}, 1);
    empty();
    ck_assert_int_eq(ad_origin_fetch(url_of("127.0.0.1", port.good, "/a.tar.gz"), &o, to, &is_archive, NULL, &err), AD_OK);
}
END_TEST

/* ---- trust ---- */

START_TEST(certificates_must_be_of_the_authority_the_host_and_today)
{
    const char *hosts[] = {at("127.0.0.1", port.stranger), at("127.0.0.1", port.expired), at("127.0.0.1", port.own)};
    EXPECT(fetch_from(hosts, 3, url_of("127.0.0.1", port.stranger, "/a.tar.gz")), AD_EREMOTE, "127.0.0.1/a.tar.gz: SSL: no alternative certificate subject name matches");
    EXPECT(fetch_from(hosts, 3, url_of("127.0.0.1", port.expired, "/a.tar.gz")), AD_EREMOTE, "certificate has expired");
    EXPECT(fetch_from(hosts, 3, url_of("127.0.0.1", port.own, "/a.tar.gz")), AD_EREMOTE, "self-signed certificate");
    ck_assert_int_le(size_of("archive"), 0);
}
END_TEST

START_TEST(without_a_file_the_systems_authorities_count)
{
    const char *hosts[] = {at("127.0.0.1", port.good)};
    ad_https_options o = options_of(hosts, 1);
    o.ca_file = NULL;
    EXPECT(ad_origin_fetch(url_of("127.0.0.1", port.good, "/a.tar.gz"), &o, to, &is_archive, NULL, &err), AD_EREMOTE, "certificate");
    o.ca_file = "/no/such/file";
    empty();
    EXPECT(ad_origin_fetch(url_of("127.0.0.1", port.good, "/a.tar.gz"), &o, to, &is_archive, NULL, &err), AD_EIO, "/no/such/file");
}
END_TEST

static bool contains(const char *name, const char *words)
{
    char path[128];
    ad_file f;
    ad_err e;
    snprintf(path, sizeof path, "%s/%s", to, name);
    ck_assert_int_eq(ad_file_read(&f, path, MAX_BYTES, &e), AD_OK);
    bool found = f.data && strcasestr(f.data, words);
    ad_file_close(&f);
    return found;
}

START_TEST(nothing_of_the_environment_counts)
{
    char netrc[64];
    static const char *const proxies[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};
    for (size_t i = 0; i < 5; i++) setenv(proxies[i], at("http://127.0.0.1", port.mute), 1);
    unsetenv("no_proxy");
    setenv("HOME", dir, 1);
    snprintf(netrc, sizeof netrc, "%s/.netrc", dir);
    FILE *f = fopen(netrc, "w");
    ck_assert(f && fputs("machine 127.0.0.1 login me password secret\n", f) >= 0);
    fclose(f);
    timeout_s = 10;
    WORKS(fetch("/cookie"));
    unlink(netrc);
    ck_assert(contains("archive", "GET /echo HTTP/1.1") && contains("archive", "User-Agent: adapterd/"));
    ck_assert(!contains("archive", "Cookie") && !contains("archive", "Authorization") && !contains("archive", "Accept-Encoding") && !contains("archive", "Referer"));
}
END_TEST

START_TEST(messages_keep_the_querys_secrets)
{
    EXPECT(fetch("/status/500?token=s3cr3t"), AD_EREMOTE, "/status/500:");
    ck_assert_ptr_null(strstr(err.msg, "s3cr3t"));
    EXPECT(fetch_redirect(302, "https://evil.example.com/a?token=s3cr3t"), AD_EINVAL, "evil");
    ck_assert_ptr_null(strstr(err.msg, "s3cr3t"));
    EXPECT(fetch_from(NULL, 0, "https://me:s3cr3t@evil.example.com/"), AD_EINVAL, "evil");
    ck_assert_ptr_null(strstr(err.msg, "s3cr3t"));
}
END_TEST

/* ---- the machine ---- */

START_TEST(a_full_disk_is_told_from_other_troubles)
{
    if (!tu_mount_small(to, 64)) return; /* this kernel does not let us */
    EXPECT(fetch("/big?500000"), AD_EFULL, "archive: cannot be written");
    WORKS(fetch("/big?500"));
    empty();
    umount(to);
}
END_TEST

START_TEST(what_stands_in_the_way_is_not_overwritten)
{
    char path[128];
    const char *hosts[] = {at("127.0.0.1", port.good)};
    ad_https_options o = options_of(hosts, 1);
    snprintf(path, sizeof path, "%s/archive", to);
    ck_assert_int_eq(symlink("elsewhere", path), 0);
    EXPECT(ad_origin_fetch(url_of("127.0.0.1", port.good, "/a.tar.gz"), &o, to, &is_archive, NULL, &err), AD_EIO, "cannot be written");
    ck_assert_int_eq(size_of("elsewhere"), -1);
    unlink(path);
    FILE *f = fopen(path, "w");
    ck_assert(f && fputs("somebody's", f) >= 0 && fclose(f) == 0);
    EXPECT(ad_origin_fetch(url_of("127.0.0.1", port.good, "/a.tar.gz"), &o, to, &is_archive, NULL, &err), AD_EIO, "cannot be written");
    ck_assert(has("archive", "somebody's"));
    EXPECT(ad_origin_fetch(url_of("127.0.0.1", port.good, "/a.tar.gz"), &o, "/no/such/dir", &is_archive, NULL, &err), AD_EIO, "/no/such/dir");
}
END_TEST

START_TEST(no_descriptor_is_left_open)
{
    struct rlimit was, few;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = (struct rlimit){40, was.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    for (int i = 0; i < 40; i++) {
        WORKS(fetch("/folder/"));
        EXPECT(fetch("/missing"), AD_ENOTFOUND, "");
        EXPECT(fetch_redirect(302, "https://10.0.0.1/a"), AD_EINVAL, "");
    }
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &was), 0);
}
END_TEST

typedef struct {
    pthread_t thread;
    char to[64];
    ad_status st;
    ad_err err;
} loader;

static void *fetch_beside(void *arg)
{
    loader *l = arg;
    bool archive;
    char host[32], url[64];
    const char *hosts[] = {host};
    snprintf(host, sizeof host, "127.0.0.1:%d", port.good);
    snprintf(url, sizeof url, "https://%s/big?300000", host);
    ad_https_options o = options_of(hosts, 1);
    l->st = ad_origin_fetch(url, &o, l->to, &archive, NULL, &l->err);
    return NULL;
}

START_TEST(threads_fetch_beside_each_other)
{
    loader l[8];
    for (int i = 0; i < 8; i++) {
        strcpy(l[i].to, "/tmp/ad-fetched-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(l[i].to));
        ck_assert_int_eq(pthread_create(&l[i].thread, NULL, fetch_beside, &l[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(l[i].thread, NULL);
        strcpy(to, l[i].to);
        ck_assert_msg(l[i].st == AD_OK, "%s", l[i].err.msg);
        ck_assert_int_eq(size_of("archive"), 300000);
        empty();
        rmdir(to);
    }
    setup();
}
END_TEST

int main(void)
{
    if (system("command -v python3 >/dev/null && command -v openssl >/dev/null") != 0) {
        puts("python3 or openssl is not installed: skipped");
        return 77;
    }
    signal(SIGPIPE, SIG_IGN); /* as the daemon does */
    strcpy(dir, "/tmp/ad-https-XXXXXX");
    if (!mkdtemp(dir)) return 1;
    start_server();
    Suite *s = suite_create("fetch");
    TCase *t = tcase_create("fetch");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_folder_is_fetched_with_its_signature);
    tcase_add_test(t, a_folder_needs_no_signature);
    tcase_add_test(t, a_folders_chat_template_comes_along);
    tcase_add_test(t, the_urls_end_says_what_it_is);
    tcase_add_test(t, what_a_server_does_not_have_is_not_found);
    tcase_add_test(t, any_answer_but_200_is_an_error);
    tcase_add_test(t, only_hosts_on_the_list_are_asked);
    tcase_add_test(t, a_name_that_leads_to_a_private_address_is_refused);
    tcase_add_test(t, a_private_address_is_asked_when_it_is_listed_itself);
    tcase_add_test(t, no_spelling_of_loopback_slips_through);
    tcase_add_test(t, only_https_is_fetched_and_nobody_logs_in);
    tcase_add_test(t, redirects_are_followed_to_hosts_on_the_list);
    tcase_add_test(t, redirects_lead_nowhere_that_is_not_allowed);
    tcase_add_test(t, a_byte_too_many_is_too_many);
    tcase_add_test(t, what_is_cut_short_is_not_taken);
    tcase_add_test(t, the_time_is_limited);
    tcase_add_test(t, a_server_that_sends_nearly_nothing_is_given_up);
    tcase_add_test(t, endless_headers_end);
    tcase_add_test(t, a_fetch_can_be_canceled);
    tcase_add_test(t, certificates_must_be_of_the_authority_the_host_and_today);
    tcase_add_test(t, without_a_file_the_systems_authorities_count);
    tcase_add_test(t, nothing_of_the_environment_counts);
    tcase_add_test(t, messages_keep_the_querys_secrets);
    tcase_add_test(t, a_full_disk_is_told_from_other_troubles);
    tcase_add_test(t, what_stands_in_the_way_is_not_overwritten);
    tcase_add_test(t, no_descriptor_is_left_open);
    tcase_add_test(t, threads_fetch_beside_each_other);
    suite_add_tcase(s, t);
    int rc = tu_run(s);
    stop_server();
    return rc;
}
