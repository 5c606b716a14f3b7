/* SPDX-License-Identifier: MIT */
/* adapterd: reads the configuration, loads model and adapters, serves until a signal, ends in order. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/team.h"
#include "core/tensor/kernels.h"
#include "server/admin_key.h"
#include "server/api/auth.h"
#include "server/api/ended.h"
#include "server/api/upload.h"
#include "server/keeper/intake.h"
#include "server/life.h"
#include "server/notify.h"
#include "server/observe/access.h"
#include "server/observe/log.h"
#include "server/tenancy/audit.h"
#include "server/tenancy/usage.h"

extern char **environ;

typedef struct {
    ad_app app;
    ad_config config;
    int argc;
    char **argv;              /* read again by SIGHUP */
    uv_loop_t loop;
    uv_timer_t retry;
    uv_work_t first_work;
    ad_life *life;
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

/* Without a key everybody is the operator: then only this machine may come in, unless the configuration says otherwise. Also called before the model is loaded, which takes a while;
 * then keys can only be in a state directory. */
static ad_status check_door(const ad_app *app, ad_err *err)
{
    const ad_config *c = app->config;
    ad_http_address addresses[AD_HTTP_MAX_ADDRESSES];
    int n = 0, i = 0;
    if (app->tenancy ? ad_tenancy_has_keys(app->tenancy) : c->state_dir != NULL) return AD_OK;
    ad_status st = read_addresses(c, addresses, &n, err);
    while (i < n && ad_http_address_is_local(&addresses[i])) i++;
    if (st != AD_OK || i == n) return st;
    if (!c->insecure)
        return ad_fail(err, AD_EINVAL,
                       "there is no key, and at %s other machines could do everything: make one first (adapterd --state-dir DIR --create-admin-key), "
                       "or listen on 127.0.0.1 or a Unix socket, or say --insecure", addresses[i].host);
    if (app->tenancy) ad_log(AD_LOG_WARN, "insecure: there is no key, and whoever reaches %s is the operator", addresses[i].host);
    return AD_OK;
}

/* As many files as we may have; what is beside connections: models, adapters, uploads, the store. */
static int raise_file_limit(int connections)
{
    enum { OTHER_FILES = 200, LEAST_SHARE = 4 };
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return connections;
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_max == RLIM_INFINITY || r.rlim_max >= (rlim_t)connections + OTHER_FILES) return connections;
    int all = (int)r.rlim_max, most = all - OTHER_FILES > all / LEAST_SHARE ? all - OTHER_FILES : all / LEAST_SHARE;
    ad_log(AD_LOG_WARN, "max-connections: %d is more than the limit of %llu open files allows; using %d", connections, (unsigned long long)r.rlim_max, most);
    return most;
}

static void set_limits(ad_http_options *opt, const ad_config *c)
{
    enum { PAUSED_BUFFERS = 16, LARGE_BODIES = 32, LEAST_BODIES = 64 << 20 };
    size_t bodies = c->max_body_bytes * LARGE_BODIES;
    opt->max_body_bytes = c->max_body_bytes;
    opt->max_bodies_bytes = bodies > LEAST_BODIES ? bodies : LEAST_BODIES;
    opt->max_connections = raise_file_limit(c->max_connections);
    opt->max_per_peer = c->max_connections_per_ip;
    opt->header_timeout_ms = c->header_timeout_s * 1000;
    opt->body_timeout_ms = c->body_timeout_s * 1000;
    opt->idle_timeout_ms = c->idle_timeout_s * 1000;
    opt->write_timeout_ms = c->write_timeout_s * 1000;
    opt->max_output_bytes = c->output_buffer_bytes * (strcmp(c->slow_reader, "pause") ? 1 : PAUSED_BUFFERS);
}

static ad_status listen_http(ad_app *app, ad_err *err)
{
    static const char *const reserved[] = {"/health", "/livez", "/readyz", "/metrics", NULL};
    ad_http_address addresses[AD_HTTP_MAX_ADDRESSES];
    const ad_config *c = app->config;
    ad_http_options opt = {
        .addresses = addresses, .tls = {.cert = c->tls_cert, .key = c->tls_key, .client_ca = c->tls_client_ca}, .reserved = reserved, .app = app, .admit = ad_auth_admit,
        .note_bytes = sizeof(ad_access), .put_headers = ad_access_put_headers, .on_finish = ad_exchange_ended, .error_body = ad_error_body,
    };
    opt.routes = ad_api_routes(&opt.n_routes);
    set_limits(&opt, c);
    ad_status st = read_addresses(c, addresses, &opt.n_addresses, err);
    if (st == AD_OK) st = ad_http_listen(&app->http, app->loop, &opt, err);
    if (st != AD_OK) return st;
    for (int i = 0; ad_http_url(app->http, i); i++) printf("adapterd: listening on %s\n", ad_http_url(app->http, i));
    fflush(stdout);
    return AD_OK;
}

/* ---- another configuration ---- */

static void on_key_changed(void *user, const char *name, bool live)
{
    daemon_state *d = user;
    ad_log_level level;
    if (!live) ad_log(AD_LOG_WARN, "reload: %s has changed, which needs a restart", name);
    else ad_log(AD_LOG_INFO, "reload: %s is another from now on", name);
    if (live) ad_audit_tell(ad_keeper_store(d->app.keeper), AD_BY_SIGNAL, "config.reload", name, 200, NULL);
    if (!strcmp(name, "log-level") && ad_log_parse_level(d->config.log_level, &level)) ad_log_set_level(level);
    if (!strcmp(name, "log-format")) ad_log_set_format(d->config.log_format);
}

/* What only a restart changes stays: what comes must go with it. */
static ad_status check_with_rest(const ad_config *now, const ad_config *next, ad_err *err)
{
    if (strcmp(now->signatures, "require") || next->trusted_keys.n) return AD_OK;
    return ad_fail(err, AD_EINVAL, "trusted-key: none is left, but signatures stays \"require\" until a restart");
}

/* Whatever can be wrong is found before anything changes. */
static ad_status take_config(daemon_state *d, ad_err *err)
{
    ad_config next;
    ad_http_options limits = {0};
    ad_intake *intake = NULL;
    int action;
    bool renewed = false;
    ad_status st = ad_config_parse(&next, d->argc, d->argv, environ, stdout, &action, err);
    if (st != AD_OK) return st;
    st = check_with_rest(&d->config, &next, err);
    if (st == AD_OK) st = ad_intake_new(&intake, &next, err);
    if (st == AD_OK) st = ad_http_reload_tls(d->app.http, &renewed, err);
    if (st == AD_OK) ad_config_adopt(&d->config, &next, on_key_changed, d);
    ad_config_deinit(&next);
    if (st != AD_OK) {
        ad_intake_release(&intake);
        return st;
    }
    if (renewed) ad_audit_tell(ad_keeper_store(d->app.keeper), AD_BY_SIGNAL, "config.reload", "tls-cert", 200, "another certificate");
    ad_keeper_set_intake(d->app.keeper, intake);
    set_limits(&limits, &d->config);
    ad_http_set_limits(d->app.http, &limits);
    ad_worker_set_queue(d->app.worker, d->config.queue_limit, d->config.queue_timeout_s);
    return AD_OK;
}

static void reload(void *user)
{
    daemon_state *d = user;
    ad_reload_result *result = &d->app.reload;
    ad_err err;
    ad_notify_reloading();
    result->good = take_config(d, &err) == AD_OK;
    if (result->good) {
        result->succeeded = time(NULL);
        ad_log(AD_LOG_INFO, "reload: done");
    } else {
        ad_log(AD_LOG_ERROR, "reload: nothing has changed: %s", err.msg);
        ad_audit_tell(ad_keeper_store(d->app.keeper), AD_BY_SIGNAL, "config.reload", NULL, ad_http_status_of(err.code), err.msg);
    }
    ad_life_ready(d->life);
}

/* ---- the end, once HTTP is closed: the engine, then the registry; the loop runs out ---- */

static void on_worker_closed(void *user);

static void on_keeper_closed(void *user)
{
    ((daemon_state *)user)->app.keeper = NULL;
}

static void on_uploads_wait(uv_timer_t *t)
{
    on_worker_closed(t->data);
}

static void on_worker_closed(void *user)
{
    daemon_state *d = user;
    if (ad_uploads_pending()) { /* files of clients that left are still being removed */
        uv_timer_start(&d->retry, on_uploads_wait, 10, 0);
        return;
    }
    ad_merger_close(&d->app.merger);
    ad_ledger_close(&d->app.ledger);
    if (d->app.keeper && ad_keeper_store(d->app.keeper)) ad_audit_flush(ad_keeper_store(d->app.keeper));
    ad_tenancy_stop(d->app.tenancy);
    ad_keeper *closing = d->app.keeper; /* the app's until it is gone: changes that end now go to its store */
    ad_keeper_close(&closing, on_keeper_closed, d);
}

static void close_engine(daemon_state *d)
{
    ad_worker *worker = d->app.worker;
    if (d->app.keeper) ad_keeper_stop(d->app.keeper);
    d->app.worker = NULL;
    if (worker) ad_worker_close(worker, on_worker_closed, d);
    else on_worker_closed(d);
}

static void on_life_ended(void *user)
{
    close_engine(user);
}

static ad_status start(daemon_state *d, ad_err *err)
{
    ad_app *app = &d->app;
    ad_status st = check_door(app, err);
    if (st == AD_OK) st = ad_metrics_new(&app->metrics, app->config->metrics_top, err);
    if (st == AD_OK) st = load_model(app, err);
    if (st == AD_OK) st = load_template(app, err);
    if (st == AD_OK) st = ad_grammar_cache_new(&app->grammars, ad_model_tokenizer(app->model), (ad_grammar_cache_limits){.max_count = 256, .max_bytes = 256u << 20}, err);
    if (st == AD_OK) st = ad_keeper_new(&app->keeper, app, err);
    if (st == AD_OK) st = check_door(app, err);
    if (st == AD_OK) st = ad_ledger_new(&app->ledger, app->loop, ad_keeper_store(app->keeper), err);
    if (st == AD_OK) st = start_worker(app, err);
    return st == AD_OK ? ad_merger_new(&app->merger, app, app->config->merge, err) : st;
}

static void do_nothing(uv_work_t *w) { (void)w; }
static void have_done_nothing(uv_work_t *w, int status) { (void)w, (void)status; }

static int run(daemon_state *d)
{
    ad_err err;
    ad_app *app = &d->app;
    app->config = &d->config;
    app->loop = &d->loop;
    app->started = app->reload.succeeded = time(NULL);
    app->reload.good = true;
    uv_loop_init(&d->loop);
    uv_timer_init(&d->loop, &d->retry);
    d->retry.data = d;
    uv_queue_work(&d->loop, &d->first_work, do_nothing, have_done_nothing); /* libuv makes its threads with the first, and aborts when it cannot: not in the middle of serving */
    ad_notify_begin_start();
    ad_status st = start(d, &err);
    if (st == AD_OK) st = ad_life_new(&d->life, app, reload, on_life_ended, d, &err); /* before anybody is told that we listen */
    if (st == AD_OK) st = listen_http(app, &err);
    ad_notify_end_start();
    if (st == AD_OK) ad_life_ready(d->life);
    else close_engine(d);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    ad_life_close(&d->life);
    uv_close((uv_handle_t *)&d->retry, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    signal(SIGTERM, SIG_IGN); /* we are leaving; one more must not change the exit code */
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    uv_loop_close(&d->loop);
    ad_audit_end();
    ad_tenancy_free(&app->tenancy);
    ad_registry_free(&app->registry);
    ad_grammar_cache_free(&app->grammars);
    ad_chat_template_free(&app->named_template);
    ad_model_free(&app->model);
    ad_metrics_free(&app->metrics);
    if (st == AD_OK) return 0;
    fprintf(stderr, "adapterd: %s\n", err.msg);
    return 1;
}

static int create_admin_key(const ad_config *c)
{
    ad_err err;
    if (ad_create_admin_key(c->state_dir, c->admin_key_name, stdout, &err) == AD_OK) return 0;
    fprintf(stderr, "adapterd: %s\n", err.msg);
    return 1;
}

/* Whoever starts us may have closed them: what we open next must not take the log for its bytes. */
static void open_standard_files(void)
{
    int fd;
    while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= STDERR_FILENO) {}
    if (fd >= 0) close(fd);
}

int main(int argc, char **argv)
{
    daemon_state d = {.argc = argc, .argv = argv};
    ad_err err;
    int action = 0;
    ad_log_level level = AD_LOG_INFO;
    open_standard_files();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file over the limit is an error of its write */
    signal(SIGHUP, SIG_IGN);  /* there is nothing yet that could be read again */
    if (ad_config_parse(&d.config, argc, argv, environ, stdout, &action, &err) != AD_OK) {
        fprintf(stderr, "adapterd: %s\n", err.msg);
        return 2;
    }
    if (action) return 0;
    if (ad_log_parse_level(d.config.log_level, &level)) ad_log_set_level(level);
    ad_log_set_format(d.config.log_format);
    int rc = d.config.create_admin_key ? create_admin_key(&d.config) : run(&d);
    ad_config_deinit(&d.config);
    return rc;
}
