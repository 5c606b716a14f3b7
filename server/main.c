/* SPDX-License-Identifier: MIT */
/* adapterd: reads the configuration, loads model and adapters, serves until a signal, ends in order. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/team.h"
#include "core/tensor/kernels.h"
#include "server/api/auth.h"
#include "server/api/ended.h"
#include "server/api/upload.h"
#include "server/observe/access.h"
#include "server/observe/log.h"
#include "server/tenancy/usage.h"

extern char **environ;

typedef struct {
    ad_app app;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    uv_timer_t deadline;
} daemon_state;

/* ---- loading ---- */

/* Constant for a build and a base model: answers with the same seed are the same. */
static ad_status find_fingerprint(ad_app *app, ad_err *err)
{
    const ad_digest *base = ad_model_fingerprint(app->model);
    char hex[65];
    ad_digest d;
    ad_hasher *h = NULL;
    ad_status st = ad_hasher_new(&h, err);
    if (st != AD_OK) return st;
    ad_hasher_add(h, AD_VERSION, strlen(AD_VERSION));
    ad_hasher_add(h, base, sizeof *base);
    st = ad_hasher_finish(&h, &d, err);
    if (st == AD_OK) ad_digest_hex(&d, hex);
    if (st == AD_OK) snprintf(app->fingerprint, sizeof app->fingerprint, "fp_%.12s", hex);
    return st;
}

static ad_status load_model(ad_app *app, ad_err *err)
{
    uint64_t start = uv_hrtime();
    const ad_config *c = app->config;
    ad_model_options opt = {.n_threads = c->threads ? c->threads : ad_usable_cores()};
    if (!ad_weights_parse(c->weights, &opt.weights)) return ad_fail(err, AD_EINVAL, "weights: \"%s\" is unknown", c->weights);
    ad_status st = ad_model_load(&app->model, c->model, &opt, err);
    if (st != AD_OK) return st;
    app->served_name = c->served_name ? c->served_name : ad_model_name(app->model);
    char types[80];
    ad_model_describe_weights(app->model, types, sizeof types);
    ad_log(AD_LOG_INFO, "model %s: %s, weights %s, %zu bytes resident, loaded in %.2f s", app->served_name, ad_model_get_config(app->model)->family, types,
           ad_model_resident_bytes(app->model), (double)(uv_hrtime() - start) / 1e9);
    if (ad_model_packing_loss(app->model) > 0)
        ad_log(AD_LOG_INFO, "model %s: packing rounded weights by up to %.2g %% of a module's root mean square", app->served_name, 100 * (double)ad_model_packing_loss(app->model));
    return find_fingerprint(app, err);
}

static ad_status load_template(ad_app *app, ad_err *err)
{
    const char *path = app->config->chat_template_file, *problem = NULL;
    ad_status st = path ? ad_chat_template_from_file(&app->named_template, path, err) : AD_OK;
    if (st != AD_OK) return st;
    const ad_chat_template *t = path ? app->named_template : ad_model_chat_template(app->model);
    if (t) problem = ad_chat_template_problem(t);
    if (!t) ad_log(AD_LOG_INFO, "chat: the model has no chat template (--chat-template-file names one)");
    else if (problem) ad_log(AD_LOG_WARN, "chat: %s", problem);
    return AD_OK;
}

static ad_status start_worker(ad_app *app, ad_err *err)
{
    const ad_config *c = app->config;
    unsigned cpu = 0;
    int threads = c->threads, usable = ad_usable_cpus();
    if (!ad_cpu_parse(c->cpu_features, &cpu)) cpu = 0; /* checked with the configuration */
    if (threads > usable) {
        ad_log(AD_LOG_WARN, "threads: %d is more than the %d CPUs this process may use; using %d", threads, usable, usable);
        threads = usable;
    }
    ad_worker_options opt = {
        .max_running = c->max_running, .queue_limit = c->queue_limit, .step_tokens = c->step_tokens, .context = c->context,
        .kv_bytes = c->kv_memory_bytes, .kv_type = strcmp(c->kv_type, "f32") ? AD_KV_F16 : AD_KV_F32, .adapter_bytes = c->adapter_bytes,
        .queue_timeout_s = c->queue_timeout_s, .n_threads = threads, .cpu = cpu,
    };
    ad_status st = ad_worker_new(&app->worker, app->loop, app->model, &opt, err);
    if (st == AD_OK)
        ad_log(AD_LOG_INFO, "engine: %s kernels, %d threads, context %d, %llu KV pages", ad_worker_kernels(app->worker), ad_worker_threads(app->worker),
               ad_worker_context(app->worker), (unsigned long long)atomic_load(&ad_worker_get_stats(app->worker)->kv_pages_total));
    return st;
}

/* ---- serving ---- */

static ad_status read_addresses(const ad_config *c, ad_http_address *list, int *n, ad_err *err)
{
    for (int i = 0; i < c->listen.n; i++) {
        ad_status st = ad_http_address_read(list, n, c->listen.items[i], err);
        if (st != AD_OK) return st;
    }
    if (*n) return AD_OK;
    *n = 1;
    *list = (ad_http_address){.port = c->port, .tls = c->tls_cert != NULL};
    snprintf(list->host, sizeof list->host, "%s", c->host);
    return AD_OK;
}

/* As many files as we may have; what is beside connections: models, adapters, uploads, the store. */
static int raise_file_limit(int connections)
{
    enum { OTHER_FILES = 200 };
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return connections;
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_max == RLIM_INFINITY || r.rlim_max >= (rlim_t)connections + OTHER_FILES) return connections;
    int most = r.rlim_max > 2 * OTHER_FILES ? (int)r.rlim_max - OTHER_FILES : OTHER_FILES;
    ad_log(AD_LOG_WARN, "max-connections: %d is more than the limit of %llu open files allows; using %d", connections, (unsigned long long)r.rlim_max, most);
    return most;
}

static ad_status listen_http(ad_app *app, ad_err *err)
{
    static const char *const reserved[] = {"/health", "/livez", "/readyz", "/metrics", NULL};
    enum { PAUSED_BUFFERS = 16, LARGE_BODIES = 32, LEAST_BODIES = 64 << 20 };
    size_t bodies = app->config->max_body_bytes * LARGE_BODIES;
    const ad_config *c = app->config;
    ad_http_address addresses[AD_HTTP_MAX_ADDRESSES];
    ad_http_options opt = {
        .addresses = addresses, .tls = {.cert = c->tls_cert, .key = c->tls_key, .client_ca = c->tls_client_ca}, .max_body_bytes = c->max_body_bytes, .max_bodies_bytes = bodies > LEAST_BODIES ? bodies : LEAST_BODIES, .max_connections = raise_file_limit(c->max_connections), .reserved = reserved,
        .max_per_peer = c->max_connections_per_ip, .header_timeout_ms = c->header_timeout_s * 1000, .body_timeout_ms = c->body_timeout_s * 1000,
        .idle_timeout_ms = c->idle_timeout_s * 1000, .write_timeout_ms = c->write_timeout_s * 1000,
        .max_output_bytes = c->output_buffer_bytes * (strcmp(c->slow_reader, "pause") ? 1 : PAUSED_BUFFERS),
        .app = app, .admit = ad_auth_admit, .note_bytes = sizeof(ad_access), .put_headers = ad_access_put_headers, .on_finish = ad_exchange_ended, .error_body = ad_error_body,
    };
    opt.routes = ad_api_routes(&opt.n_routes);
    ad_status st = read_addresses(c, addresses, &opt.n_addresses, err);
    if (st == AD_OK) st = ad_http_listen(&app->http, app->loop, &opt, err);
    if (st != AD_OK) return st;
    for (int i = 0; ad_http_url(app->http, i); i++) printf("adapterd: listening on %s\n", ad_http_url(app->http, i));
    fflush(stdout);
    return AD_OK;
}

/* ---- the end: drain or cut, close HTTP, then the engine, then the registry; the loop runs out ---- */

static void on_worker_closed(void *user);

static void on_uploads_wait(uv_timer_t *t)
{
    on_worker_closed(t->data);
}

static void on_worker_closed(void *user)
{
    daemon_state *d = user;
    if (ad_uploads_pending()) { /* files of clients that left are still being removed */
        uv_timer_start(&d->deadline, on_uploads_wait, 10, 0);
        return;
    }
    ad_merger_close(&d->app.merger);
    ad_ledger_close(&d->app.ledger);
    ad_tenancy_stop(d->app.tenancy);
    ad_keeper_close(&d->app.keeper, NULL, NULL);
}

static void close_engine(daemon_state *d)
{
    ad_worker *worker = d->app.worker;
    if (d->app.keeper) ad_keeper_stop(d->app.keeper);
    d->app.worker = NULL;
    if (worker) ad_worker_close(worker, on_worker_closed, d);
    else on_worker_closed(d);
}

static void on_http_closed(void *user)
{
    daemon_state *d = user;
    uv_timer_stop(&d->deadline);
    close_engine(d);
}

static void close_http(daemon_state *d)
{
    if (d->app.http) ad_http_close(&d->app.http, on_http_closed, d);
}

static void on_drained(void *user)
{
    close_http(user);
}

static void on_deadline(uv_timer_t *t)
{
    daemon_state *d = t->data;
    ad_log(AD_LOG_WARN, "running requests did not finish in time; cutting them off");
    close_http(d);
}

static void on_signal(uv_signal_t *handle, int number)
{
    daemon_state *d = handle->data;
    ad_app *app = &d->app;
    if (app->draining) {
        ad_log(AD_LOG_WARN, "signal %d again: stopping now", number);
        close_http(d);
        return;
    }
    app->draining = true;
    ad_log(AD_LOG_INFO, "signal %d: finishing %d running requests, at most %d s", number, ad_worker_pending(app->worker), app->config->shutdown_timeout_s);
    ad_events_end_streams(ad_keeper_events(app->keeper));
    uv_timer_start(&d->deadline, on_deadline, (uint64_t)app->config->shutdown_timeout_s * 1000, 0);
    ad_http_drain(app->http, on_drained, d);
}

/* Signals alone do not keep the loop alive; they are watched until it ends. */
static void watch_signals(daemon_state *d)
{
    uv_signal_init(&d->loop, &d->term);
    uv_signal_init(&d->loop, &d->interrupt);
    uv_timer_init(&d->loop, &d->deadline);
    d->term.data = d->interrupt.data = d->deadline.data = d;
    uv_signal_start(&d->term, on_signal, SIGTERM);
    uv_signal_start(&d->interrupt, on_signal, SIGINT);
    uv_unref((uv_handle_t *)&d->term);
    uv_unref((uv_handle_t *)&d->interrupt);
}

static void unwatch_signals(daemon_state *d)
{
    if (d->term.loop) uv_close((uv_handle_t *)&d->term, NULL);
    if (d->interrupt.loop) uv_close((uv_handle_t *)&d->interrupt, NULL);
    if (d->deadline.loop) uv_close((uv_handle_t *)&d->deadline, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    signal(SIGTERM, SIG_IGN); /* we are leaving; one more must not change the exit code */
    signal(SIGINT, SIG_IGN);
}

static ad_status start(daemon_state *d, ad_err *err)
{
    ad_app *app = &d->app;
    ad_status st = ad_metrics_new(&app->metrics, app->config->metrics_top, err);
    if (st == AD_OK) st = load_model(app, err);
    if (st == AD_OK) st = load_template(app, err);
    if (st == AD_OK) st = ad_grammar_cache_new(&app->grammars, ad_model_tokenizer(app->model), (ad_grammar_cache_limits){.max_count = 256, .max_bytes = 256u << 20}, err);
    if (st == AD_OK) st = ad_keeper_new(&app->keeper, app, err);
    if (st == AD_OK) st = ad_ledger_new(&app->ledger, app->loop, ad_keeper_store(app->keeper), err);
    if (st == AD_OK) st = start_worker(app, err);
    return st == AD_OK ? ad_merger_new(&app->merger, app, app->config->merge, err) : st;
}

static int run(const ad_config *config)
{
    daemon_state d = {.app = {.config = config}};
    ad_err err;
    d.app.loop = &d.loop;
    d.app.started = time(NULL);
    uv_loop_init(&d.loop);
    ad_status st = start(&d, &err);
    if (st == AD_OK) {
        watch_signals(&d); /* before anybody is told that we listen */
        st = listen_http(&d.app, &err);
    }
    if (st != AD_OK) close_engine(&d);
    uv_run(&d.loop, UV_RUN_DEFAULT);
    unwatch_signals(&d);
    uv_loop_close(&d.loop);
    ad_tenancy_free(&d.app.tenancy);
    ad_registry_free(&d.app.registry);
    ad_grammar_cache_free(&d.app.grammars);
    ad_chat_template_free(&d.app.named_template);
    ad_model_free(&d.app.model);
    ad_metrics_free(&d.app.metrics);
    if (st == AD_OK) return 0;
    fprintf(stderr, "adapterd: %s\n", err.msg);
    return 1;
}

int main(int argc, char **argv)
{
    ad_config config;
    ad_err err;
    int action = 0;
    ad_log_level level = AD_LOG_INFO;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file over the limit is an error of its write */
    if (ad_config_parse(&config, argc, argv, environ, stdout, &action, &err) != AD_OK) {
        fprintf(stderr, "adapterd: %s\n", err.msg);
        return 2;
    }
    if (action) return 0;
    if (ad_log_parse_level(config.log_level, &level)) ad_log_set_level(level);
    ad_log_set_format(config.log_format);
    int rc = run(&config);
    ad_config_deinit(&config);
    return rc;
}
