/* SPDX-License-Identifier: MIT */
/* Fetches adapters over https for whoever may name a URL, which is not allowed to become a hand inside our network: the host must be on a list, the
 * address must be public (looked at when the socket is made, so a name cannot change its mind in between), redirects are followed here, one checked
 * URL at a time. libcurl does the rest. */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "adapters/signature.h"
#include "adapters/source.h"
#include "adapters/template.h"
#include "core/base/file.h"
#include "core/base/mem.h"

enum { HOST = 256, IGNORED = 64 << 10, CONNECT_MS = 10000, STALL_BYTES_PER_S = 1024, HTTPS_PORT = 443 };

/* ---- addresses ---- */

typedef struct {
    uint8_t prefix[4];
    int bits;
} block4;

static bool in_block(const uint8_t *address, const uint8_t *prefix, int bits)
{
    for (int i = 0; i < bits; i++) {
        uint8_t mask = (uint8_t)(0x80 >> i % 8);
        if ((address[i / 8] ^ prefix[i / 8]) & mask) return false;
    }
    return true;
}

/* IANA's registry of special-purpose IPv4 addresses, and multicast. */
static bool is_public4(const uint8_t a[4])
{
    static const block4 special[] = {
        {{0}, 8},            /* this network */
        {{10}, 8},           /* private */
        {{100, 64}, 10},     /* carrier-grade NAT */
        {{127}, 8},          /* loopback */
        {{169, 254}, 16},    /* link-local; clouds keep their secrets at 169.254.169.254 */
        {{172, 16}, 12},     /* private */
        {{192, 0, 0}, 24},   /* protocol assignments */
        {{192, 0, 2}, 24},   /* documentation */
        {{192, 88, 99}, 24}, /* 6to4 relays */
        {{192, 168}, 16},    /* private */
        {{198, 18}, 15},     /* benchmarks */
        {{198, 51, 100}, 24}, {{203, 0, 113}, 24}, /* documentation */
        {{224}, 4},          /* multicast */
        {{240}, 4},          /* reserved, broadcast */
    };
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (in_block(a, special[i].prefix, special[i].bits)) return false;
    return true;
}

/* Global unicast is 2000::/3; all else (loopback, unique local, link-local, multicast ...) is not public. */
static bool is_public6(const uint8_t a[16])
{
    static const uint8_t mapped[16] = {[10] = 0xFF, [11] = 0xFF}, nat64[16] = {0x00, 0x64, 0xFF, 0x9B}, global[16] = {0x20};
    static const struct { uint8_t prefix[4]; int bits; } special[] = {
        {{0x20, 0x01}, 23},             /* protocol assignments: Teredo, ORCHID, benchmarks */
        {{0x20, 0x01, 0x0D, 0xB8}, 32}, /* documentation */
        {{0x20, 0x02}, 16},             /* 6to4, which names any IPv4 address */
        {{0x3F, 0xFF}, 20},             /* documentation */
    };
    if (in_block(a, mapped, 96) || in_block(a, nat64, 96)) return is_public4(a + 12);
    if (!in_block(a, global, 3)) return false;
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (in_block(a, special[i].prefix, special[i].bits)) return false;
    return true;
}

/* An address in one form: IPv4 is written as IPv6. */
typedef struct {
    uint8_t bytes[16];
    int port;
} endpoint;

static void endpoint4(endpoint *e, const void *address, int port)
{
    *e = (endpoint){.bytes = {[10] = 0xFF, [11] = 0xFF}, .port = port};
    memcpy(e->bytes + 12, address, 4);
}

static bool endpoint_of(endpoint *e, const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        endpoint4(e, &in.sin_addr, ntohs(in.sin_port));
        return true;
    }
    if (sa->sa_family != AF_INET6) return false;
    struct sockaddr_in6 in6;
    memcpy(&in6, sa, sizeof in6);
    *e = (endpoint){.port = ntohs(in6.sin6_port)};
    memcpy(e->bytes, &in6.sin6_addr, 16);
    return true;
}

bool ad_origin_is_public(const struct sockaddr *address)
{
    endpoint e;
    return endpoint_of(&e, address) && is_public6(e.bytes);
}

/* ---- the list of hosts ---- */

/* Splits "host", "host:port", "[v6]:port" or a bare v6; the port is HTTPS_PORT where none is written. False: none of these. */
static bool split_host(const char *s, char host[HOST], int *port)
{
    const char *colon = strrchr(s, ':'), *end = s + strlen(s), *close = *s == '[' ? strchr(s, ']') : NULL;
    bool bare6 = !close && colon && strchr(s, ':') != colon;
    *port = HTTPS_PORT;
    if (close) s++;
    if (colon && !bare6 && (!close || colon == close + 1)) {
        char *rest;
        long n = strtol(colon + 1, &rest, 10);
        if (rest == colon + 1 || *rest || n < 1 || n > 65535) return false;
        *port = (int)n;
        end = colon;
    }
    if (close) {
        if (end != close && end != close + 1) return false;
        end = close;
    }
    if (end == s || end - s >= HOST) return false;
    snprintf(host, HOST, "%.*s", (int)(end - s), s);
    return true;
}

static bool parse_address(const char *host, int port, endpoint *out)
{
    uint8_t bytes[16];
    if (inet_pton(AF_INET, host, bytes) == 1) return endpoint4(out, bytes, port), true;
    if (inet_pton(AF_INET6, host, bytes) != 1) return false;
    *out = (endpoint){.port = port};
    memcpy(out->bytes, bytes, 16);
    return true;
}

static bool same_endpoint(const endpoint *a, const endpoint *b)
{
    return a->port == b->port && !memcmp(a->bytes, b->bytes, 16);
}

static bool is_listed_address(const ad_https_options *o, const endpoint *e)
{
    for (int i = 0; i < o->n_hosts; i++) {
        char host[HOST];
        int port;
        endpoint listed;
        if (split_host(o->hosts[i], host, &port) && parse_address(host, port, &listed) && same_endpoint(&listed, e)) return true;
    }
    return false;
}

static bool matches_name(const char *pattern, const char *host)
{
    size_t n = strlen(host), m = strlen(pattern);
    if (strncmp(pattern, "*.", 2)) return !strcasecmp(pattern, host);
    return n > m - 1 && !strcasecmp(host + n - (m - 1), pattern + 1); /* something stands before ".example.com" */
}

static bool is_listed_name(const ad_https_options *o, const char *name, int at)
{
    for (int i = 0; i < o->n_hosts; i++) {
        char host[HOST];
        int port;
        if (split_host(o->hosts[i], host, &port) && port == at && matches_name(host, name)) return true;
    }
    return false;
}

/* Names as they stand in DNS: nothing that somebody might map to other characters. */
static bool is_plain_name(const char *s)
{
    return *s && *s != '.' && !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")];
}

/* ---- one fetch ---- */

typedef struct {
    const ad_https_options *opt;
    const volatile bool *cancel;
    CURL *curl;
    int to;                     /* the directory */
    size_t left;                /* bytes that may still come */
    uint64_t deadline_ms;
    char where[400];            /* host and path of the URL asked last, for messages */
    char reason[CURL_ERROR_SIZE];
    /* Of the file under way. */
    const char *name;
    int fd;
    size_t most, limit;         /* bytes it may have, bytes that may still come */
    size_t ignored;             /* bytes of answers that are not it */
    bool begun, too_large, no_length;
    int write_error;            /* errno */
    char refused[INET6_ADDRSTRLEN]; /* an address that was not connected to */
} fetch;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- callbacks ---- */

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *a)
{
    fetch *f = user;
    endpoint e;
    if (purpose != CURLSOCKTYPE_IPCXN || !endpoint_of(&e, &a->addr)) return CURL_SOCKET_BAD;
    if (!is_public6(e.bytes) && !is_listed_address(f->opt, &e)) {
        bool is4 = a->family == AF_INET;
        inet_ntop(is4 ? AF_INET : AF_INET6, is4 ? e.bytes + 12 : e.bytes, f->refused, sizeof f->refused);
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* Before the first byte. The end of a body without a length is the connection's, and a connection may be cut by anybody: those are refused. */
static bool begin_body(fetch *f)
{
    curl_off_t length = -1;
    struct curl_header *chunked;
    curl_easy_getinfo(f->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    f->begun = true;
    f->too_large = length > 0 && (uint64_t)length > f->limit;
    f->no_length = length < 0 && curl_easy_header(f->curl, "Transfer-Encoding", 0, CURLH_HEADER, -1, &chunked) != CURLHE_OK;
    return !f->too_large && !f->no_length;
}

static size_t on_body(char *data, size_t size, size_t n, void *user)
{
    fetch *f = user;
    long status = 0;
    size_t total = size * n;
    curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) return (f->ignored += total) <= IGNORED ? total : 0; /* what a redirect or an error says is of no interest */
    if (!f->begun && !begin_body(f)) return 0;
    if (total > f->limit) return f->too_large = true, 0;
    if (!ad_write_all(f->fd, data, total)) return f->write_error = errno, 0;
    f->limit -= total;
    f->left -= total;
    return total;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const fetch *f = user;
    (void)a, (void)b, (void)c, (void)d;
    return f->cancel && __atomic_load_n(f->cancel, __ATOMIC_RELAXED);
}

/* ---- set-up ---- */

static void global_init(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

/* A list of options, each of which must be known to the library. */
static bool set_options(fetch *f)
{
    CURL *c = f->curl;
    bool ok = true;
#define SET(option, value) (ok = curl_easy_setopt(c, option, value) == CURLE_OK && ok)
    SET(CURLOPT_PROTOCOLS_STR, "https");
    SET(CURLOPT_REDIR_PROTOCOLS_STR, "https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_PROXY, ""); /* not even the environment's */
    SET(CURLOPT_NOPROXY, "*");
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (f->opt->ca_file) {
        SET(CURLOPT_CAINFO, f->opt->ca_file);
        SET(CURLOPT_CAPATH, NULL); /* the system's directory does not count beside it */
    }
    SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(CURLOPT_OPENSOCKETDATA, f);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, f);
    SET(CURLOPT_NOPROGRESS, 0L);
    SET(CURLOPT_XFERINFOFUNCTION, on_progress);
    SET(CURLOPT_XFERINFODATA, f);
    SET(CURLOPT_ERRORBUFFER, f->reason);
    SET(CURLOPT_NOSIGNAL, 1L); /* we are one thread of many */
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    SET(CURLOPT_LOW_SPEED_LIMIT, (long)STALL_BYTES_PER_S);
    SET(CURLOPT_LOW_SPEED_TIME, (long)AD_FETCH_STALL_S);
    SET(CURLOPT_BUFFERSIZE, 256L << 10);
    SET(CURLOPT_USERAGENT, "adapterd/" AD_VERSION);
#undef SET
    return ok;
}

static ad_status fetch_init(fetch *f, const char *to, ad_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
    f->curl = curl_easy_init();
    if (!f->curl) return ad_fail(err, AD_ENOMEM, "https: out of memory");
    if (!set_options(f)) return ad_fail(err, AD_EUNSUPPORTED, "https: libcurl %s cannot do what is needed", curl_version_info(CURLVERSION_NOW)->version);
    f->to = open(to, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return f->to < 0 ? ad_fail(err, AD_EIO, "%.300s: %s", to, strerror(errno)) : AD_OK;
}

static void fetch_deinit(fetch *f)
{
    curl_easy_cleanup(f->curl);
    if (f->to >= 0) close(f->to);
}

/* ---- which URLs are allowed ---- */

/* A part of the URL, or ""; free it. NULL: out of memory. */
static char *part(CURLU *u, CURLUPart what, unsigned flags)
{
    char *curls = NULL;
    CURLUcode rc = curl_url_get(u, what, &curls, flags);
    char *mine = rc == CURLUE_OUT_OF_MEMORY ? NULL : strdup(rc == CURLUE_OK && curls ? curls : "");
    curl_free(curls);
    return mine;
}

/* host without the brackets of IPv6 and without a root's dot. */
static void trim_host(char *host)
{
    size_t n = strlen(host);
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
        memmove(host, host + 1, n - 2);
        host[n - 2] = '\0';
    } else if (n > 1 && host[n - 1] == '.') {
        host[n - 1] = '\0';
    }
}

static ad_status check_host(fetch *f, const char *host, int port, ad_err *err)
{
    endpoint e;
    bool listed = parse_address(host, port, &e) ? is_listed_address(f->opt, &e) : is_plain_name(host) && is_listed_name(f->opt, host, port);
    if (listed) return AD_OK;
    if (port == HTTPS_PORT) return ad_fail(err, AD_EINVAL, "%.200s is not among the allowed source hosts", host);
    return ad_fail(err, AD_EINVAL, "%.200s, port %d, is not among the allowed source hosts", host, port);
}

/* Scheme, host and port; remembers the URL for messages. */
static ad_status check_url(fetch *f, CURLU *u, ad_err *err)
{
    char *scheme = part(u, CURLUPART_SCHEME, 0), *user = part(u, CURLUPART_USER, 0), *host = part(u, CURLUPART_HOST, 0), *zone = part(u, CURLUPART_ZONEID, 0);
    char *port = part(u, CURLUPART_PORT, CURLU_DEFAULT_PORT), *path = part(u, CURLUPART_PATH, 0), *password = part(u, CURLUPART_PASSWORD, 0);
    ad_status st = AD_OK;
    if (!scheme || !user || !host || !zone || !port || !path || !password) {
        st = ad_fail(err, AD_ENOMEM, "https: out of memory");
    } else {
        trim_host(host);
        snprintf(f->where, sizeof f->where, "%.120s%.250s", host, path);
        if (strcmp(scheme, "https")) st = ad_fail(err, AD_EINVAL, "%s: only https is fetched, not %.20s", f->where, scheme);
        else if (*user || *password) st = ad_fail(err, AD_EINVAL, "%s: a URL may not hold a user's name or password", f->where);
        else if (*zone) st = ad_fail(err, AD_EINVAL, "%s: an address may not name an interface", f->where);
        else st = check_host(f, host, atoi(port), err);
    }
    free(scheme), free(user), free(host), free(zone), free(port), free(path), free(password);
    return st;
}

/* ---- one file ---- */

static ad_status status_of(CURLcode rc)
{
    switch (rc) {
    case CURLE_OPERATION_TIMEDOUT: return AD_ETIMEOUT;
    case CURLE_OUT_OF_MEMORY: return AD_ENOMEM;
    case CURLE_SSL_CACERT_BADFILE: return AD_EIO; /* ours */
    default: return AD_EREMOTE;
    }
}

static ad_status explain(const fetch *f, CURLcode rc, ad_err *err)
{
    if (f->too_large) return ad_fail(err, AD_ELIMIT, "%s: over the limit of %zu bytes", f->where, f->most);
    if (f->no_length) return ad_fail(err, AD_EREMOTE, "%s: the server does not say how long it is, so nobody would know that it is whole", f->where);
    if (f->write_error) return ad_fail(err, ad_errno_status(f->write_error), "%s: cannot be written: %s", f->name, strerror(f->write_error));
    if (rc == CURLE_ABORTED_BY_CALLBACK) return ad_fail(err, AD_EBUSY, "%s: canceled", f->where);
    if (*f->refused && rc == CURLE_COULDNT_CONNECT) return ad_fail(err, AD_EINVAL, "%s: its address %s is not a public one, nor among the allowed source hosts", f->where, f->refused);
    return ad_fail(err, status_of(rc), "%s: %.200s", f->where, *f->reason ? f->reason : curl_easy_strerror(rc));
}

/* One request. *status is HTTP's; the body of a 200 is in the file. */
static ad_status request(fetch *f, CURLU *u, long *status, ad_err *err)
{
    uint64_t now = now_ms();
    if (now >= f->deadline_ms) return ad_fail(err, AD_ETIMEOUT, "%s: not fetched within %d s", f->where, f->opt->timeout_s);
    *f->reason = *f->refused = '\0';
    f->ignored = 0;
    if (curl_easy_setopt(f->curl, CURLOPT_CURLU, u) != CURLE_OK || curl_easy_setopt(f->curl, CURLOPT_TIMEOUT_MS, (long)(f->deadline_ms - now)) != CURLE_OK)
        return ad_fail(err, AD_ENOMEM, "https: out of memory");
    CURLcode rc = curl_easy_perform(f->curl);
    *status = 0;
    curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, status);
    bool long_page = rc == CURLE_WRITE_ERROR && f->ignored > IGNORED; /* cut by ourselves: the status is what counts */
    return rc == CURLE_OK || long_page ? AD_OK : explain(f, rc, err);
}

static bool is_redirect(long status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Where a redirect leads, into u. */
static ad_status follow(fetch *f, CURLU *u, ad_err *err)
{
    char *next = NULL;
    curl_easy_getinfo(f->curl, CURLINFO_REDIRECT_URL, &next);
    if (!next) return ad_fail(err, AD_EREMOTE, "%s: a redirect to nowhere", f->where);
    CURLUcode rc = curl_url_set(u, CURLUPART_URL, next, 0);
    return rc == CURLUE_OK ? AD_OK : ad_fail(err, AD_EINVAL, "%s: redirects to something that is no https URL: %s", f->where, curl_url_strerror(rc));
}

static ad_status request_file(fetch *f, CURLU *u, bool *absent, ad_err *err)
{
    long status = 0;
    for (int hop = 0;; hop++) {
        ad_status st = check_url(f, u, err);
        if (st == AD_OK) st = request(f, u, &status, err);
        if (st != AD_OK) return st;
        if (!is_redirect(status)) break;
        if (hop == AD_FETCH_REDIRECTS) return ad_fail(err, AD_EINVAL, "%s: more than %d redirects", f->where, AD_FETCH_REDIRECTS);
        st = follow(f, u, err);
        if (st != AD_OK) return st;
    }
    *absent = status == 404 || status == 410 || status == 403; /* S3 says 403 of what is not there */
    if (status == 200) return AD_OK;
    return ad_fail(err, status == 404 || status == 410 ? AD_ENOTFOUND : AD_EREMOTE, "%s: the server answered %ld", f->where, status);
}

/* u, which is changed, into the file `name` of at most max_bytes; absent (NULL: it must be there) is set, and nothing is left, when there is none. */
static ad_status get(fetch *f, CURLU *u, const char *name, size_t max_bytes, bool *absent, ad_err *err)
{
    bool missing = false;
    f->name = name;
    f->begun = false;
    f->limit = max_bytes < f->left ? max_bytes : f->left;
    f->most = max_bytes < f->opt->max_bytes ? max_bytes : f->opt->max_bytes;
    f->fd = openat(f->to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    f->write_error = f->fd < 0 ? errno : 0;
    if (f->fd < 0) return explain(f, CURLE_WRITE_ERROR, err);
    ad_status st = request_file(f, u, &missing, err);
    if (close(f->fd) != 0 && st == AD_OK) {
        f->write_error = errno;
        st = explain(f, CURLE_WRITE_ERROR, err);
    }
    if (!missing || !absent) return st;
    unlinkat(f->to, name, 0);
    *absent = true;
    return AD_OK;
}

/* ---- an adapter ---- */

static ad_status get_from_folder(fetch *f, CURLU *folder, const char *path, const char *name, size_t max_bytes, bool *absent, ad_err *err)
{
    ad_buf b = {0};
    CURLU *u = curl_url_dup(folder);
    ad_buf_puts(&b, path);
    ad_buf_puts(&b, name);
    ad_status st = AD_OK;
    if (!u || b.failed || curl_url_set(u, CURLUPART_PATH, b.data, 0) != CURLUE_OK) st = ad_fail(err, AD_ENOMEM, "https: out of memory");
    else st = get(f, u, name, max_bytes, absent, err);
    curl_url_cleanup(u);
    ad_buf_deinit(&b);
    return st;
}

static ad_status get_adapter(fetch *f, CURLU *u, const char *path, bool *is_archive, ad_err *err)
{
    size_t n = strlen(path);
    *is_archive = false;
    if (n >= 5 && !strcasecmp(path + n - 5, ".gguf")) return get(f, u, "adapter.gguf", SIZE_MAX, NULL, err);
    if (n && path[n - 1] != '/') return *is_archive = true, get(f, u, "archive", SIZE_MAX, NULL, err);
    bool no_signature = false, no_template = false;
    ad_status st = get_from_folder(f, u, path, "adapter_config.json", SIZE_MAX, NULL, err);
    if (st == AD_OK) st = get_from_folder(f, u, path, "adapter_model.safetensors", SIZE_MAX, NULL, err);
    if (st == AD_OK) st = get_from_folder(f, u, path, "adapter.minisig", AD_SIGNATURE_TEXT, &no_signature, err);
    if (st == AD_OK) st = get_from_folder(f, u, path, AD_TEMPLATE_FILE, AD_TEMPLATE_BYTES, &no_template, err);
    if (st != AD_OK || !no_template) return st;
    return get_from_folder(f, u, path, AD_TOKENIZER_CONFIG, AD_TOKENIZER_CONFIG_BYTES, &no_template, err);
}

static ad_status run(fetch *f, const char *url, const char *to, bool *is_archive, ad_err *err)
{
    CURLU *u = curl_url();
    char *path = NULL;
    ad_status st = AD_OK;
    CURLUcode rc = u ? curl_url_set(u, CURLUPART_URL, url, 0) : CURLUE_OUT_OF_MEMORY;
    if (rc != CURLUE_OK) st = ad_fail(err, rc == CURLUE_OUT_OF_MEMORY ? AD_ENOMEM : AD_EINVAL, "the source is no https URL: %s", curl_url_strerror(rc));
    if (st == AD_OK) st = check_url(f, u, err); /* before anything else is said about it */
    if (st == AD_OK && !(path = part(u, CURLUPART_PATH, 0))) st = ad_fail(err, AD_ENOMEM, "https: out of memory");
    if (st == AD_OK) st = fetch_init(f, to, err);
    if (st == AD_OK) st = get_adapter(f, u, path, is_archive, err);
    free(path);
    curl_url_cleanup(u);
    return st;
}

ad_status ad_origin_fetch(const char *url, const ad_https_options *opt, const char *to, bool *is_archive, const volatile bool *cancel, ad_err *err)
{
    fetch f = {.opt = opt, .cancel = cancel, .to = -1, .left = opt->max_bytes, .deadline_ms = now_ms() + (uint64_t)opt->timeout_s * 1000};
    bool archive = false;
    ad_status st = run(&f, url, to, &archive, err);
    fetch_deinit(&f);
    if (st == AD_OK) *is_archive = archive;
    return st;
}
