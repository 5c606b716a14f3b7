/* SPDX-License-Identifier: MIT */
/* A client and its exchanges: requests out and replies in through libcurl, every way to fail told as one error. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "clients/lib/internal.h"

enum { DEFAULT_CONNECT_MS = 10000, DEFAULT_TIMEOUT_MS = 120000, MAX_HEADER_BYTES = 256 << 10, SEND_BUFFER = 512 << 10 };
static const size_t default_max_reply = (size_t)64 << 20;

const char *ad_client_version(void)
{
    return AD_VERSION;
}

int64_t ad_client_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- errors and replies ---- */

ad_client_status ad_client_fail(ad_client_error *err, ad_client_status st, const char *code, const char *fmt, ...)
{
    if (!err) return st;
    *err = (ad_client_error){.status = st};
    snprintf(err->code, sizeof err->code, "%s", code);
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return st;
}

void ad_client_error_deinit(ad_client_error *e)
{
    if (!e) return;
    json_decref(e->report);
    free(e->body);
    *e = (ad_client_error){0};
}

void ad_client_reply_deinit(ad_client_reply *r)
{
    if (!r) return;
    json_decref(r->json);
    free(r->text);
    *r = (ad_client_reply){0};
}

/* ---- open and close ---- */

static CURLcode global_status;

static void init_curl(void)
{
    global_status = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static bool is_local(const char *host)
{
    return !strcasecmp(host, "localhost") || !strncmp(host, "127.", 4) || !strcmp(host, "[::1]");
}

static bool has_part(CURLU *u, CURLUPart part)
{
    char *value = NULL;
    bool has = !curl_url_get(u, part, &value, 0) && value && *value;
    curl_free(value);
    return has;
}

/* The URL in its canonical form, without a slash at the end. */
static ad_client_status read_base(ad_client *c, CURLU *u, const char *url, ad_client_error *err)
{
    char *scheme = NULL, *host = NULL, *whole = NULL;
    CURLUcode rc = curl_url_set(u, CURLUPART_URL, url, 0);
    if (!rc) rc = curl_url_get(u, CURLUPART_SCHEME, &scheme, 0);
    if (!rc) rc = curl_url_get(u, CURLUPART_HOST, &host, 0);
    if (!rc) rc = curl_url_get(u, CURLUPART_URL, &whole, 0);
    ad_client_status st = AD_CLIENT_OK;
    if (rc) st = ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "the URL \"%.200s\" is malformed: %s", url, curl_url_strerror(rc));
    else if (strcmp(scheme, "http") && strcmp(scheme, "https")) st = ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "the URL \"%.200s\" is neither http nor https", url);
    else if (has_part(u, CURLUPART_USER) || has_part(u, CURLUPART_QUERY) || has_part(u, CURLUPART_FRAGMENT))
        st = ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "the URL may have no user, query or fragment; a key is given apart");
    else if (!(c->base = strdup(whole))) st = ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    if (st == AD_CLIENT_OK) {
        for (size_t n = strlen(c->base); n && c->base[n - 1] == '/';) c->base[--n] = 0;
        c->local = is_local(host);
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(whole);
    return st;
}

static ad_client_status set_url(ad_client *c, const char *url, ad_client_error *err)
{
    ad_client_text with_scheme = {0};
    if (!strstr(url, "://")) ad_client_text_literal(&with_scheme, "http://");
    ad_client_text_literal(&with_scheme, url);
    CURLU *u = curl_url();
    ad_client_status st;
    if (!u || with_scheme.failed) st = ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    else st = read_base(c, u, with_scheme.data, err);
    curl_url_cleanup(u);
    ad_client_text_deinit(&with_scheme);
    return st;
}

bool ad_client_header_safe(const char *value)
{
    for (; value && *value; value++)
        if ((unsigned char)*value < 0x20 || *value == 0x7f) return false;
    return true;
}

static ad_client_status set_key(ad_client *c, const char *key, ad_client_error *err)
{
    ad_client_text line = {0};
    if (!key || !*key) return AD_CLIENT_OK;
    if (!ad_client_header_safe(key)) return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "the key has control characters");
    ad_client_text_literal(&line, "Authorization: Bearer ");
    ad_client_text_literal(&line, key);
    c->authorization = line.data;
    return line.failed ? ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory") : AD_CLIENT_OK;
}

ad_client_status ad_client_open(ad_client **out, const ad_client_options *opt, ad_client_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    if (!opt->url) return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "no URL was given");
    ad_client *c = calloc(1, sizeof *c);
    if (!c || global_status || !(c->curl = curl_easy_init()) || (opt->ca_file && !(c->ca_file = strdup(opt->ca_file)))) {
        ad_client_close(&c);
        return ad_client_fail(err, AD_CLIENT_LOCAL, "local", "libcurl could not start, or memory ran out");
    }
    c->connect_timeout_ms = opt->connect_timeout_ms > 0 ? opt->connect_timeout_ms : DEFAULT_CONNECT_MS;
    c->timeout_ms = opt->timeout_ms > 0 ? opt->timeout_ms : DEFAULT_TIMEOUT_MS;
    c->max_reply = opt->max_reply_bytes ? opt->max_reply_bytes : default_max_reply;
    ad_client_status st = set_url(c, opt->url, err);
    if (st == AD_CLIENT_OK) st = set_key(c, opt->key, err);
    if (st == AD_CLIENT_OK) *out = c;
    else ad_client_close(&c);
    return st;
}

void ad_client_close(ad_client **c)
{
    if (!*c) return;
    curl_easy_cleanup((*c)->curl);
    free((*c)->base);
    free((*c)->authorization);
    free((*c)->ca_file);
    free(*c);
    *c = NULL;
}

void ad_client_cancel(ad_client *c)
{
    atomic_store(&c->canceled, true);
}

/* ---- one exchange: what libcurl calls ---- */

static size_t on_body(char *data, size_t size, size_t n, void *user)
{
    ad_client_exchange *x = user;
    long status = 0;
    (void)size; /* always 1 */
    curl_easy_getinfo(x->client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (x->on_data && status == 200 && x->is_events) {
        if (x->on_data(x->user, data, n)) return n;
        x->stop = AD_CLIENT_STOP_DATA;
        return 0;
    }
    if (ad_client_text_add(&x->body, data, n)) return n;
    x->stop = AD_CLIENT_STOP_LARGE;
    return 0;
}

/* The value when the line is that header, trimmed, into out[size]; what does not fit is left out whole. */
static void take_header(const char *line, size_t len, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);
    if (len <= n || line[n] != ':' || strncasecmp(line, name, n)) return;
    const char *value = line + n + 1;
    const char *end = line + len;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    while (end > value && strchr(" \t\r\n", end[-1])) end--;
    if ((size_t)(end - value) >= size) return;
    memcpy(out, value, (size_t)(end - value));
    out[end - value] = 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    ad_client_exchange *x = user;
    char type[64] = "";
    (void)size;
    x->header_bytes += n;
    if (x->header_bytes > MAX_HEADER_BYTES) {
        x->stop = AD_CLIENT_STOP_LARGE;
        return 0;
    }
    if (n >= 5 && !memcmp(line, "HTTP/", 5)) { /* another head behind a 100 */
        x->etag[0] = 0;
        x->is_events = false;
    }
    take_header(line, n, "etag", x->etag, sizeof x->etag);
    take_header(line, n, "content-type", type, sizeof type);
    if (!strncasecmp(type, "text/event-stream", 17)) x->is_events = true;
    return n;
}

static int on_look(void *user, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
    ad_client_exchange *x = user;
    (void)down_total;
    uint64_t moved = (uint64_t)down + (uint64_t)up + x->header_bytes;
    int64_t now = ad_client_now_ms();
    if (moved != x->moved || !x->moved_at_ms) {
        x->moved = moved;
        x->moved_at_ms = now;
    }
    if (atomic_load(&x->client->canceled)) x->stop = AD_CLIENT_STOP_CANCELED;
    else if (x->streams && now - x->moved_at_ms > x->timeout_ms) x->stop = AD_CLIENT_STOP_IDLE;
    else if (x->progress && up_total > 0 && (uint64_t)up != x->sent) {
        x->sent = (uint64_t)up;
        if (!x->progress(x->user, (uint64_t)up, (uint64_t)up_total)) x->stop = AD_CLIENT_STOP_CANCELED;
    }
    return x->stop != AD_CLIENT_STOP_NONE;
}

/* ---- one exchange: set up ---- */

static bool add_header(struct curl_slist **list, const char *name, const char *value)
{
    ad_client_text line = {0};
    if (!value) return true;
    ad_client_text_literal(&line, name);
    ad_client_text_literal(&line, value);
    struct curl_slist *more = line.failed ? NULL : curl_slist_append(*list, line.data);
    ad_client_text_deinit(&line);
    if (more) *list = more;
    return more != NULL;
}

static bool make_headers(const ad_client *c, const ad_client_exchange *x, struct curl_slist **list)
{
    bool ok = add_header(list, "", c->authorization) && add_header(list, "Accept: ", x->on_data ? "text/event-stream" : "application/json") &&
              add_header(list, "If-Match: ", x->if_match) && add_header(list, "If-None-Match: ", x->if_none_match) &&
              add_header(list, "Last-Event-ID: ", x->last_event_id);
    if (ok && x->json) ok = add_header(list, "Content-Type: ", "application/json");
    return ok;
}

static bool set_body(CURL *h, const ad_client_exchange *x)
{
    if (x->form) return !curl_easy_setopt(h, CURLOPT_MIMEPOST, x->form);
    if (!x->json) return !strcmp(x->method, "GET") || !curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, x->method);
    return !curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(x->json)) && !curl_easy_setopt(h, CURLOPT_POSTFIELDS, x->json) &&
           !curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, x->method);
}

static bool set_up(ad_client *c, ad_client_exchange *x, const char *url, struct curl_slist *headers, char *why)
{
    CURL *h = c->curl;
    curl_easy_reset(h); /* keeps the connection */
    bool ok = !curl_easy_setopt(h, CURLOPT_URL, url) && !curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers) && set_body(h, x) &&
              !curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https") && !curl_easy_setopt(h, CURLOPT_USERAGENT, "adapterd-client/" AD_VERSION);
    if (c->ca_file) ok = ok && !curl_easy_setopt(h, CURLOPT_CAINFO, c->ca_file);
    if (c->local) ok = ok && !curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(h, CURLOPT_UPLOAD_BUFFERSIZE, (long)SEND_BUFFER);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)c->connect_timeout_ms);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, x->streams ? 0L : (long)x->timeout_ms);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_look);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, x);
    return ok;
}

/* ---- one exchange: what came of it ---- */

/* {"error": {"message", "code"}}, or {"error": "text"} of a proxy. */
static void read_fault(const json_t *v, ad_client_error *err)
{
    const json_t *fault = json_object_get(v, "error"), *code = json_object_get(fault, "code");
    const char *message = json_string_value(json_is_string(fault) ? fault : json_object_get(fault, "message"));
    if (message) snprintf(err->message, sizeof err->message, "%s", message);
    if (json_is_string(code)) snprintf(err->code, sizeof err->code, "%s", json_string_value(code));
    err->report = json_incref(json_object_get(v, "report"));
}

static ad_client_status refused(ad_client_exchange *x, ad_client_error *err)
{
    ad_client_fail(err, AD_CLIENT_REFUSED, "", "the server answered %ld without an explanation", x->http_status);
    if (!err) return AD_CLIENT_REFUSED;
    json_t *v = x->body.len ? json_loadb(x->body.data, x->body.len, 0, NULL) : NULL;
    err->http_status = (int)x->http_status;
    err->retry_after_s = x->retry_after_s;
    if (json_is_object(v)) read_fault(v, err);
    json_decref(v);
    err->body = x->body.data; /* moved */
    err->body_len = x->body.len;
    x->body = (ad_client_text){0};
    return AD_CLIENT_REFUSED;
}

static ad_client_status redirected(ad_client *c, ad_client_exchange *x, ad_client_error *err)
{
    char *to = NULL;
    curl_easy_getinfo(c->curl, CURLINFO_REDIRECT_URL, &to);
    ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "%s answered %ld and points to \"%.200s\", which is not followed", c->base, x->http_status, to ? to : "nowhere");
    if (err) err->http_status = (int)x->http_status;
    return AD_CLIENT_BAD_REPLY;
}

static ad_client_status stopped(ad_client *c, ad_client_exchange *x, ad_client_error *err)
{
    switch (x->stop) {
    case AD_CLIENT_STOP_CANCELED: return ad_client_fail(err, AD_CLIENT_CANCELED, "canceled", "canceled");
    case AD_CLIENT_STOP_IDLE: return ad_client_fail(err, AD_CLIENT_UNREACHABLE, "timeout", "%s: nothing moved for %d s", c->base, x->timeout_ms / 1000);
    case AD_CLIENT_STOP_LARGE: return ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "%s: the reply is larger than %zu bytes, or its head than %d", c->base,
                                                     x->body.max, MAX_HEADER_BYTES);
    case AD_CLIENT_STOP_FILE: return ad_client_fail(err, AD_CLIENT_LOCAL, "local", "%s", x->reason);
    default: return ad_client_fail(err, AD_CLIENT_CANCELED, "canceled", "the callback ended it");
    }
}

static ad_client_status broken(ad_client *c, CURLcode rc, const char *why, ad_client_error *err)
{
    if (!*why) why = curl_easy_strerror(rc);
    switch (rc) {
    case CURLE_OUT_OF_MEMORY: return ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    case CURLE_OPERATION_TIMEDOUT: return ad_client_fail(err, AD_CLIENT_UNREACHABLE, "timeout", "%s: %s", c->base, why);
#if LIBCURL_VERSION_NUM >= 0x080600
    case CURLE_TOO_LARGE: return ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "%s: %s", c->base, why); /* libcurl's own limits of a head */
#endif
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9 */
    case CURLE_BAD_CONTENT_ENCODING: return ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "%s: the reply is not HTTP: %s", c->base, why);
    default: return ad_client_fail(err, AD_CLIENT_UNREACHABLE, "connection", "%s: %s", c->base, why);
    }
}

/* A server that refuses an upload half-way may close at once: what it said then counts more than the broken connection. */
static bool said_why(const ad_client_exchange *x)
{
    if (x->http_status < 400 || !x->body.len) return false;
    json_t *v = json_loadb(x->body.data, x->body.len, 0, NULL);
    bool said = json_object_get(v, "error") != NULL;
    json_decref(v);
    return said;
}

static ad_client_status judge(ad_client *c, ad_client_exchange *x, CURLcode rc, const char *why, ad_client_error *err)
{
    curl_off_t retry_after = 0;
    if (x->stop != AD_CLIENT_STOP_NONE) return stopped(c, x, err);
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &x->http_status);
    curl_easy_getinfo(c->curl, CURLINFO_RETRY_AFTER, &retry_after);
    x->retry_after_s = retry_after < 0 ? 0 : retry_after > 86400 ? 86400 : (int)retry_after;
    if (rc && !said_why(x)) return broken(c, rc, why, err);
    if (x->http_status >= 400) return refused(x, err);
    if (x->http_status >= 300 && x->http_status != 304) return redirected(c, x, err);
    return AD_CLIENT_OK;
}

static ad_client_status check_headers(const ad_client_exchange *x, ad_client_error *err)
{
    if (ad_client_header_safe(x->if_match) && ad_client_header_safe(x->if_none_match) && ad_client_header_safe(x->last_event_id)) return AD_CLIENT_OK;
    return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "an etag or event id has control characters");
}

ad_client_status ad_client_run(ad_client *c, ad_client_exchange *x, ad_client_error *err)
{
    struct curl_slist *headers = NULL;
    ad_client_text url = {0};
    char why[CURL_ERROR_SIZE] = "";
    x->client = c;
    x->body.max = c->max_reply;
    if (!x->timeout_ms) x->timeout_ms = c->timeout_ms;
    ad_client_text_literal(&url, c->base);
    ad_client_text_literal(&url, x->path);
    ad_client_status st = check_headers(x, err);
    if (st == AD_CLIENT_OK && (url.failed || !make_headers(c, x, &headers) || !set_up(c, x, url.data, headers, why)))
        st = ad_client_fail(err, AD_CLIENT_LOCAL, "local", "libcurl refused the request, or memory ran out");
    if (st == AD_CLIENT_OK && atomic_load(&c->canceled)) st = ad_client_fail(err, AD_CLIENT_CANCELED, "canceled", "canceled");
    if (st == AD_CLIENT_OK) {
        CURLcode rc = curl_easy_perform(c->curl);
        st = judge(c, x, rc, why, err);
    }
    if (st == AD_CLIENT_CANCELED) atomic_store(&c->canceled, false);
    curl_easy_reset(c->curl); /* it must not keep pointers to our stack */
    curl_slist_free_all(headers);
    ad_client_text_deinit(&url);
    return st;
}

static ad_client_status make_reply(ad_client *c, ad_client_exchange *x, ad_client_reply *out, ad_client_error *err)
{
    ad_client_reply r = {.http_status = (int)x->http_status};
    memcpy(r.etag, x->etag, sizeof r.etag);
    if (x->http_status != 304) {
        json_error_t at;
        r.json = json_loadb(x->body.data ? x->body.data : "", x->body.len, 0, &at);
        if (!json_is_object(r.json)) {
            bool parsed = r.json != NULL;
            json_decref(r.json);
            ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "%s: the reply is not a JSON object: %s", c->base, parsed ? "it is another value" : at.text);
            if (err) err->http_status = r.http_status;
            return AD_CLIENT_BAD_REPLY;
        }
        r.text = x->body.data; /* moved */
        r.text_len = x->body.len;
        x->body = (ad_client_text){0};
    }
    if (out) *out = r;
    else ad_client_reply_deinit(&r);
    return AD_CLIENT_OK;
}

ad_client_status ad_client_finish(ad_client *c, ad_client_exchange *x, ad_client_text *path, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st;
    if (path->failed) st = ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    else {
        x->path = path->data;
        st = ad_client_run(c, x, err);
    }
    if (st == AD_CLIENT_OK) st = make_reply(c, x, out, err);
    ad_client_text_deinit(&x->body);
    ad_client_text_deinit(path);
    return st;
}
