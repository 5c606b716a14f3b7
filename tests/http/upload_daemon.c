/* SPDX-License-Identifier: MIT */
/* Not adapterd: a server for the HTTP tests, whose handlers take streamed bodies in all the ways a handler may, and uploads.
 * upload_daemon [WINDOW_MS of idle connections, bodies and readers [MAX_BYTES [STATE_DIR ["" for none] [CERTIFICATE with its key]]]]: prints the line adapterd prints, ends at SIGTERM. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "server/api/upload.h"

static uv_loop_t loop;
static uv_signal_t term;
static uv_timer_t end;
static ad_config config;
static ad_app app = {.loop = &loop, .config = &config};
static int n_ended, n_aborted;

static int number(const ad_http_exchange *x, const char *name, int preset)
{
    char value[20];
    return ad_http_query_value(x, name, value, sizeof value) > 0 ? atoi(value) : preset;
}

/* ---- POST /sink: takes a body; the query says how ---- */

typedef struct {
    ad_http_exchange *x; /* NULL: it is over */
    uv_timer_t timer;
    size_t bytes, since_pause;
    uint32_t sum;        /* of the bytes, each weighted by its place */
    int reply_after, pause_every, pause_ms;
} sink;

static void on_sink_closed(uv_handle_t *h)
{
    free(h->data);
}

static void sink_over(sink *k)
{
    k->x = NULL;
    uv_close((uv_handle_t *)&k->timer, on_sink_closed);
}

static void on_pause_over(uv_timer_t *t)
{
    sink *k = t->data;
    ad_http_pause_body(k->x, false);
}

static void on_sink_data(ad_http_exchange *x, const char *data, size_t len, void *user)
{
    sink *k = user;
    for (size_t i = 0; i < len; i++) k->sum += (uint32_t)(unsigned char)data[i] * (uint32_t)(++k->bytes & 0xffff);
    k->since_pause += len;
    if (k->reply_after >= 0 && k->bytes >= (size_t)k->reply_after) {
        sink_over(k);
        ad_http_reply(x, 422, "text/plain", "enough", 6);
    } else if (k->pause_every && k->since_pause >= (size_t)k->pause_every) {
        k->since_pause = 0;
        ad_http_pause_body(x, true);
        uv_timer_start(&k->timer, on_pause_over, (uint64_t)k->pause_ms, 0);
    }
}

static void on_sink_end(ad_http_exchange *x, void *user)
{
    sink *k = user;
    n_ended++;
    ad_reply_json(x, 200, json_pack("{s:I, s:I}", "bytes", (json_int_t)k->bytes, "sum", (json_int_t)k->sum));
    sink_over(k);
}

static void on_sink_abort(ad_http_exchange *x, void *user)
{
    (void)x;
    n_aborted++;
    sink_over(user);
}

static void handle_sink(ad_http_exchange *x, void *arg)
{
    (void)arg;
    int now = number(x, "reply", 0);
    if (now) {
        ad_http_reply(x, now, "text/plain", "no", 2);
        return;
    }
    sink *k = calloc(1, sizeof *k);
    if (!k) abort();
    *k = (sink){.x = x, .reply_after = number(x, "reply_after", -1), .pause_every = number(x, "pause_every", 0), .pause_ms = number(x, "pause_ms", 1)};
    uv_timer_init(&loop, &k->timer);
    k->timer.data = k;
    ad_http_take_body(x, (size_t)number(x, "max", 1 << 30), on_sink_data, on_sink_end, k);
    ad_http_on_abort(x, on_sink_abort, k);
    if (number(x, "start_ms", 0)) {
        ad_http_pause_body(x, true);
        uv_timer_start(&k->timer, on_pause_over, (uint64_t)number(x, "start_ms", 0), 0);
    }
}

/* ---- POST /collect: the body in one piece; POST /ignore: takes nothing and replies later ---- */

static void on_collected(ad_http_exchange *x, void *user)
{
    (void)user;
    ad_str body = ad_http_body(x);
    ad_http_reply(x, 200, "text/plain", body.ptr, body.len);
}

static void handle_collect(ad_http_exchange *x, void *arg)
{
    (void)arg;
    ad_http_take_body(x, 1000, NULL, on_collected, NULL);
}

static void on_timer_closed(uv_handle_t *h)
{
    free(h);
}

static void on_left(ad_http_exchange *x, void *timer)
{
    (void)x;
    uv_close(timer, on_timer_closed);
}

/* The timer's data is the exchange; the query says when. */
static void later(ad_http_exchange *x, uv_timer_cb fn)
{
    uv_timer_t *t = calloc(1, sizeof *t);
    if (!t) abort();
    uv_timer_init(&loop, t);
    t->data = x;
    ad_http_on_abort(x, on_left, t);
    uv_timer_start(t, fn, (uint64_t)number(x, "ms", 100), 0);
}

static void on_late(uv_timer_t *t)
{
    ad_http_reply(t->data, 202, "text/plain", "late", 4);
    uv_close((uv_handle_t *)t, on_timer_closed);
}

static void handle_ignore(ad_http_exchange *x, void *arg)
{
    (void)arg;
    later(x, on_late);
}

/* ---- GET /silent: a stream that says nothing for a while ---- */

static void on_silence_over(uv_timer_t *t)
{
    ad_http_stream_write(t->data, "after\n", 6);
    ad_http_stream_end(t->data);
    uv_close((uv_handle_t *)t, on_timer_closed);
}

static void on_tear(uv_timer_t *t)
{
    ad_http_stream_abort(t->data);
    uv_close((uv_handle_t *)t, on_timer_closed);
}

/* GET /torn: a stream that goes wrong */
static void handle_torn(ad_http_exchange *x, void *arg)
{
    (void)arg;
    later(x, on_tear);
    ad_http_stream_begin(x, 200, "text/event-stream");
    ad_http_stream_write(x, "before\n", 7);
}

static void handle_silent(ad_http_exchange *x, void *arg)
{
    (void)arg;
    later(x, on_silence_over);
    ad_http_stream_begin(x, 200, "text/event-stream");
    ad_http_stream_write(x, "before\n", 7);
}

/* ---- GET /flood and /big: so many bytes, as a stream or as one reply ---- */

static void handle_flood(ad_http_exchange *x, void *arg)
{
    (void)arg;
    static char piece[10000];
    ad_http_stream_begin(x, 200, "text/plain");
    for (int left = number(x, "bytes", 0); left > 0; left -= (int)sizeof piece) ad_http_stream_write(x, piece, sizeof piece);
    ad_http_stream_end(x);
}

static void handle_big(ad_http_exchange *x, void *arg)
{
    (void)arg;
    size_t n = (size_t)number(x, "bytes", 0);
    char *body = calloc(1, n + 1);
    if (!body) abort();
    ad_http_reply(x, 200, "text/plain", body, n);
    free(body);
}

/* ---- POST /upload: what came, and what lies in the directory, which is thrown away ---- */

static json_t *list_files(const char *dir)
{
    json_t *files = json_object();
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat sb;
        if (*e->d_name != '.' && fstatat(dirfd(d), e->d_name, &sb, AT_SYMLINK_NOFOLLOW) == 0) json_object_set_new(files, e->d_name, json_integer(sb.st_size));
    }
    if (d) closedir(d);
    return files;
}

/* SHA-256 of the weights as they lie there; of nothing when they are in an archive. */
static void hash_weights(const char *dir, char hex[65])
{
    static const char *const names[] = {"adapter_model.safetensors", "adapter.gguf"};
    char path[AD_STORE_PATH + 40];
    ad_file f = {0};
    ad_hasher *h = NULL;
    ad_digest d;
    if (ad_hasher_new(&h, NULL) != AD_OK) abort();
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (access(path, F_OK) != 0) continue;
        if (ad_file_read(&f, path, SIZE_MAX, NULL) != AD_OK) abort();
        ad_hasher_add(h, f.data, f.len);
        ad_file_close(&f);
    }
    if (ad_hasher_finish(&h, &d, NULL) != AD_OK) abort();
    ad_digest_hex(&d, hex);
}

static void on_left_upload(ad_http_exchange *x, void *user)
{
    abort(); /* the owner replied at once */
}

static void on_upload(ad_http_exchange *x, ad_upload *u, void *user)
{
    char hex[65];
    double tail_ms = (double)(uv_hrtime() - u->last_byte_ns) / 1e6;
    if (user != &config) abort();
    ad_http_on_abort(x, on_left_upload, NULL);
    hash_weights(u->dir, hex);
    json_t *reply = json_pack("{s:s?, s:s?, s:s?, s:s?, s:s?, s:s, s:b, s:b, s:b, s:s, s:I, s:o, s:f}", "name", u->name, "description", u->description, "labels", u->labels, "selftest", u->selftest,
                              "signature", u->signature, "sha256", u->sha256, "sha256_checked", u->sha256_checked, "activate", u->activate, "is_archive", u->is_archive, "weights", hex, "bytes", (json_int_t)u->bytes,
                              "files", list_files(u->dir), "tail_ms", tail_ms);
    ad_store_discard(app.store, u->dir);
    ad_upload_free(&u);
    ad_reply_json(x, 200, reply);
}

static void handle_upload(ad_http_exchange *x, void *a)
{
    ad_upload_receive(x, a, NULL, NULL, on_upload, &config);
}

/* ---- the rest ---- */

static void handle_status(ad_http_exchange *x, void *arg)
{
    (void)arg;
    ad_http_set_header(x, "ETag", "\"r1\"");
    ad_http_reply(x, atoi(ad_http_path(x) + strlen("/status/")), "text/plain", "text", 4);
}

static void handle_query(ad_http_exchange *x, void *arg)
{
    (void)arg;
    char value[8];
    bool found = ad_http_query_value(x, "q", value, sizeof value) > 0;
    ad_reply_json(x, 200, json_pack("{s:b, s:s}", "found", found, "value", value));
}

static void handle_counts(ad_http_exchange *x, void *arg)
{
    (void)arg;
    size_t rss = 0;
    uv_resident_set_memory(&rss);
    ad_reply_json(x, 200, json_pack("{s:i, s:i, s:i, s:I, s:I}", "ended", n_ended, "aborted", n_aborted, "pending", ad_uploads_pending(), "slow_readers",
                                    (json_int_t)ad_http_get_counts(app.http).slow_readers, "rss", (json_int_t)rss));
}

static const ad_http_route routes[] = {
    {"POST", "/sink", handle_sink, "sink", true, NULL, 0},
    {"POST", "/upload", handle_upload, "upload", true, NULL, 0},
    {"POST", "/collect", handle_collect, "collect", true, NULL, 0},
    {"POST", "/ignore", handle_ignore, "ignore", true, NULL, 0},
    {"GET", "/flood", handle_flood, "flood", false, NULL, 0},
    {"GET", "/big", handle_big, "big", false, NULL, 0},
    {"GET", "/silent", handle_silent, "silent", false, NULL, 0},
    {"GET", "/torn", handle_torn, "torn", false, NULL, 0},
    {"GET", "/status/*", handle_status, "status", false, NULL, 0},
    {"PUT", "/status/*", handle_status, "status", false, NULL, 0},
    {"PATCH", "/status/*", handle_status, "status", false, NULL, 0},
    {"DELETE", "/status/*", handle_status, "status", false, NULL, 0},
    {"GET", "/query", handle_query, "query", false, NULL, 0},
    {"GET", "/counts", handle_counts, "counts", false, NULL, 0},
};

/* Files of clients that left are still being removed. */
static void close_loaders(uv_timer_t *t)
{
    if (ad_uploads_pending()) {
        uv_timer_start(t, close_loaders, 10, 0);
        return;
    }
    uv_close((uv_handle_t *)t, NULL);
    ad_jobs_close(&app.loaders, NULL, NULL);
}

static void on_http_closed(void *user)
{
    (void)user;
    close_loaders(&end);
}

static void on_term(uv_signal_t *s, int n)
{
    (void)n;
    uv_close((uv_handle_t *)s, NULL);
    ad_http_close(&app.http, on_http_closed, NULL);
}

static void forget(void *sender) { (void)sender; }

/* Everybody is the operator. */
static int admit(void *arg, ad_http_exchange *x, const char **why)
{
    static ad_tenant shared = {.name = AD_SHARED_TENANT};
    static ad_caller anybody = {.tenant = &shared, .is_operator = true};
    (void)arg, (void)why;
    ad_http_set_sender(x, &anybody, forget);
    return 0;
}

int main(int argc, char **argv)
{
    ad_err err;
    config.max_adapter_bytes = argc > 2 ? strtoull(argv[2], NULL, 10) : 1u << 30;
    int window_ms = argc > 1 ? atoi(argv[1]) : 60000;
    const char *state_dir = argc > 3 && *argv[3] ? argv[3] : NULL;
    ad_http_address address = {.host = "127.0.0.1", .tls = argc > 4};
    ad_http_options opt = {.addresses = &address, .n_addresses = 1, .tls = {.cert = argc > 4 ? argv[4] : NULL}, .max_body_bytes = 1000, .max_bodies_bytes = 32000, .max_connections = 100, .header_timeout_ms = 60000, .idle_timeout_ms = window_ms,
                           .body_timeout_ms = window_ms, .write_timeout_ms = window_ms, .max_output_bytes = 1 << 20, .routes = routes, .n_routes = sizeof routes / sizeof *routes,
                           .app = &app, .admit = admit, .error_body = ad_error_body};
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    uv_loop_init(&loop);
    uv_signal_init(&loop, &term);
    uv_signal_start(&term, on_term, SIGTERM);
    uv_timer_init(&loop, &end);
    if (ad_store_open(&app.store, state_dir, &err) != AD_OK || ad_jobs_new(&app.loaders, &loop, 4, 0, &err) != AD_OK || ad_http_listen(&app.http, &loop, &opt, &err) != AD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("adapterd: listening on %s\n", ad_http_url(app.http, 0));
    fflush(stdout);
    uv_run(&loop, UV_RUN_DEFAULT);
    ad_store_close(&app.store);
    return ad_uploads_pending() || uv_loop_close(&loop) != 0;
}
