/* SPDX-License-Identifier: MIT */
/* Bytes on a connection, in two pieces; the reply is read and the server closed again. The connection is a socket pair: no network. */
#include "tests/fuzz/fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

#include "server/http/http.h"

static void echo(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_str body = ad_http_body(x);
    ad_http_reply(x, 200, "text/plain", body.ptr, body.len);
}

static void stream(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_http_stream_begin(x, 200, "text/plain");
    ad_http_stream_write(x, "piece", 5);
    ad_http_stream_end(x);
}

/* A body taken piece by piece: after each the reading pauses, and what the piece says may be answered at once. */
static ad_http_exchange *taken;
static bool paused, begun;

static void on_data(ad_http_exchange *x, const char *data, size_t len, void *user)
{
    (void)user;
    if (x != taken || paused || !len) abort();
    if (data[0] == '!' && !begun) {
        taken = NULL;
        ad_http_reply(x, 422, "text/plain", "no", 2);
    } else if (data[0] == '~' && !begun) {
        begun = true;
        ad_http_stream_begin(x, 200, "text/plain");
    } else if (data[0] & 1) {
        paused = true;
        ad_http_pause_body(x, true);
    }
}

static void on_end(ad_http_exchange *x, void *user)
{
    (void)user;
    if (x != taken || paused) abort();
    taken = NULL;
    if (!begun) ad_http_stream_begin(x, 200, "text/plain");
    ad_http_stream_end(x);
}

static void on_abort(ad_http_exchange *x, void *user)
{
    (void)user;
    if (x != taken) abort();
    taken = NULL;
}

static void take(ad_http_exchange *x, void *app)
{
    (void)app;
    char value[10];
    if (ad_http_query_value(x, "a", value, sizeof value)) {
        ad_http_reply(x, 204, NULL, value, strlen(value));
        return;
    }
    taken = x;
    paused = begun = false;
    ad_http_take_body(x, 2000, on_data, on_end, NULL);
    ad_http_on_abort(x, on_abort, NULL);
}

static void error_body(void *app, const ad_http_route *route, ad_buf *out, int status, const char *message)
{
    (void)app;
    ad_buf_printf(out, "%s %d %s", route ? route->label : "-", status, message);
}

static const ad_http_route routes[] = {{"POST", "/echo", echo, "echo", false, NULL, 0}, {"GET", "/stream/*", stream, "stream", false, NULL, 0}, {"POST", "/take", take, "take", true, NULL, 0}};

static void turn(uv_loop_t *loop)
{
    for (int i = 0; i < 8; i++) {
        if (taken && paused) {
            paused = false;
            ad_http_pause_body(taken, false);
        }
        uv_run(loop, UV_RUN_NOWAIT);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uv_loop_t loop;
    ad_err err;
    ad_http_server *s = NULL;
    ad_http_options opt = {.max_body_bytes = 1000, .max_bodies_bytes = 5000, .max_connections = 10, .header_timeout_ms = 1000, .body_timeout_ms = 1000,
                           .idle_timeout_ms = 1000, .write_timeout_ms = 1000, .max_output_bytes = 100000, .routes = routes, .n_routes = 3, .error_body = error_body};
    uv_loop_init(&loop);
    if (ad_http_listen(&s, &loop, &opt, &err) != AD_OK) abort();
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0 || ad_http_adopt(s, ends[1], &err) != AD_OK) abort();
    int fd = ends[0];
    size_t cut = size ? data[0] * size / 256 : 0;
    (void)!send(fd, data, cut, MSG_NOSIGNAL | MSG_DONTWAIT);
    turn(&loop);
    (void)!send(fd, data + cut, size - cut, MSG_NOSIGNAL | MSG_DONTWAIT);
    turn(&loop);
    char reply[4096];
    (void)!recv(fd, reply, sizeof reply, MSG_DONTWAIT);
    close(fd);
    turn(&loop);
    ad_http_close(&s, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop) != 0) abort();
    return 0;
}
