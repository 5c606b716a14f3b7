/* SPDX-License-Identifier: MIT */
/* What is counted, and under which names it is shown. Loop thread only. */
#include "server/observe/metrics.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/app.h"
#include "server/observe/expose.h"
#include "server/observe/log.h"
#include "server/observe/top.h"
#include "server/tenancy/usage.h"

enum { MAX_SERIES = 512, MAX_REASONS = 128 };

typedef struct {
    const char *route; /* static: a route table's label */
    int status;
    uint64_t count;
} request_series;

typedef struct {
    const char *reason; /* static */
    uint64_t count;
} error_series;

struct ad_metrics {
    request_series requests[MAX_SERIES];
    error_series errors[MAX_REASONS]; /* the last is for those there is no room for */
    int n_requests, n_errors;
    ad_top *adapters, *tenants;
    ad_histogram duration, ttft, inter_token;
    ad_histogram vllm_inter_token, vllm_duration; /* the same by vLLM's bounds; its durations are those of requests that generate */
    uint64_t prompt_tokens, generated_tokens, rejected, ends[AD_ENDS];
};

/* ---- counting ---- */

ad_status ad_metrics_new(ad_metrics **out, int top, ad_err *err)
{
    ad_metrics *m = ad_calloc(1, sizeof *m);
    if (!m) return ad_fail(err, AD_ENOMEM, "out of memory for metrics");
    m->duration.bounds = &ad_http_bounds;
    m->ttft.bounds = &ad_vllm_ttft_bounds;
    m->inter_token.bounds = &ad_token_bounds;
    m->vllm_inter_token.bounds = &ad_vllm_token_bounds;
    m->vllm_duration.bounds = &ad_vllm_request_bounds;
    ad_status st = ad_top_new(&m->adapters, top, err);
    if (st == AD_OK) st = ad_top_new(&m->tenants, top, err);
    if (st == AD_OK) *out = m;
    else ad_metrics_free(&m);
    return st;
}

void ad_metrics_free(ad_metrics **m)
{
    if (!*m) return;
    ad_top_free(&(*m)->adapters);
    ad_top_free(&(*m)->tenants);
    free(*m);
    *m = NULL;
}

static void count_request(ad_metrics *m, const char *route, int status)
{
    for (int i = 0; i < m->n_requests; i++) {
        if (m->requests[i].status != status || strcmp(m->requests[i].route, route)) continue;
        m->requests[i].count++;
        return;
    }
    if (m->n_requests == MAX_SERIES) return; /* routes and statuses are few; nobody gets here */
    m->requests[m->n_requests++] = (request_series){route, status, 1};
}

static void count_error(ad_metrics *m, const char *reason)
{
    int i = 0;
    while (i < m->n_errors && strcmp(m->errors[i].reason, reason)) i++;
    if (i == MAX_REASONS - 1) m->errors[i].reason = "other"; /* reasons are few, too */
    else if (i == m->n_errors) m->errors[m->n_errors++].reason = reason;
    m->errors[i].count++;
}

void ad_metrics_request(ad_metrics *m, const ad_metrics_exchange *x)
{
    int64_t now_s = (int64_t)(uv_hrtime() / 1000000000u);
    ad_top_counts counts = {.requests = 1, .failures = x->status >= 500 || (x->reason && x->status < 400), .rejections = x->status == 429, .prompt_tokens = x->prompt_tokens,
                            .cached_tokens = x->cached_tokens, .generated_tokens = x->generated_tokens};
    ad_histogram_observe(&m->duration, x->duration_ns);
    count_request(m, x->route, x->status);
    if (x->reason) count_error(m, x->reason);
    if (x->infers && x->tenant) ad_top_add(m->tenants, x->tenant, &counts, now_s);
    if (!x->generates) return;
    ad_histogram_observe(&m->vllm_duration, x->duration_ns);
    ad_top_add(m->adapters, *x->adapter ? x->adapter : x->base, &counts, now_s);
}

void ad_metrics_ttft(ad_metrics *m, uint64_t ns) { ad_histogram_observe(&m->ttft, ns); }
void ad_metrics_rejected(ad_metrics *m) { m->rejected++; }
void ad_metrics_ended(ad_metrics *m, ad_metrics_end why) { m->ends[why]++; }

void ad_metrics_inter_token(ad_metrics *m, uint64_t ns)
{
    ad_histogram_observe(&m->inter_token, ns);
    ad_histogram_observe(&m->vllm_inter_token, ns);
}

void ad_metrics_tokens(ad_metrics *m, int prompt, int generated)
{
    m->prompt_tokens += (uint64_t)prompt;
    m->generated_tokens += (uint64_t)generated;
}

/* ---- HTTP, and who asked ---- */

static void put_histogram(const ad_expose *e, const char *name, const char *help, const char *labels, const ad_histogram *h)
{
    ad_expose_family(e, name, "histogram", help);
    ad_expose_histogram(e, name, labels, h);
}

static void put_http(const ad_expose *e, const ad_metrics *m, const ad_app *app)
{
    ad_http_counts h = ad_http_get_counts(app->http);
    char labels[200];
    ad_expose_family(e, "adapterd_http_requests_total", "counter", "Finished HTTP requests by route and status.");
    for (int i = 0; i < m->n_requests; i++) {
        snprintf(labels, sizeof labels, "route=\"%s\",status=\"%d\"", m->requests[i].route, m->requests[i].status);
        ad_expose_integer(e, "adapterd_http_requests_total", labels, m->requests[i].count);
    }
    ad_expose_family(e, "adapterd_errors_total", "counter", "Requests that failed, by reason; client_left: before their replies were complete.");
    for (int i = 0; i < MAX_REASONS && m->errors[i].reason; i++) {
        snprintf(labels, sizeof labels, "reason=\"%s\"", m->errors[i].reason);
        ad_expose_integer(e, "adapterd_errors_total", labels, m->errors[i].count);
    }
    put_histogram(e, "adapterd_http_request_duration_seconds", "Time from a request's first byte to the end of its reply.", "", &m->duration);
    ad_expose_gauge(e, "adapterd_connections", "Open client connections.", ad_http_connections(app->http));
    ad_expose_counter(e, "adapterd_connections_refused_total", "Connections and requests refused because there were too many connections.", h.refused_full);
    ad_expose_counter(e, "adapterd_connections_refused_per_ip_total", "Connections refused because one client had too many.", h.refused_peer);
    ad_expose_counter(e, "adapterd_slow_readers_total", "Connections cut because their clients did not read.", h.slow_readers);
    ad_expose_counter(e, "adapterd_tls_failures_total", "Connections whose clients could not speak TLS with us, or not in time.", h.tls_failures);
    ad_expose_family(e, "adapterd_tls_certificate_expiry_timestamp_seconds", "gauge", "Until when the certificate is valid, in seconds since 1970; 0: there is none.");
    ad_expose_integer(e, "adapterd_tls_certificate_expiry_timestamp_seconds", "", ad_http_tls_expiry(app->http));
}

/* One family for each field, one series for each name. */
static void put_top(const ad_expose *e, const char *label, const ad_top *t)
{
    static const struct {
        const char *suffix, *help;
        size_t at;
    } fields[] = {
        {"requests", "Requests for an answer, those that failed too.", offsetof(ad_top_counts, requests)},
        {"failures", "Requests that ended with an error of the server.", offsetof(ad_top_counts, failures)},
        {"rejections", "Requests refused because a limit was reached.", offsetof(ad_top_counts, rejections)},
        {"prompt_tokens", "Prompt tokens of ended requests.", offsetof(ad_top_counts, prompt_tokens)},
        {"cached_prompt_tokens", "Of these, tokens found in the prefix cache.", offsetof(ad_top_counts, cached_tokens)},
        {"generated_tokens", "Generated tokens of ended requests.", offsetof(ad_top_counts, generated_tokens)},
    };
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) {
        char name[80];
        snprintf(name, sizeof name, "adapterd_%s_%s_total", label, fields[f].suffix);
        ad_expose_family(e, name, "counter", fields[f].help);
        for (int i = 0; i <= ad_top_rows(t); i++) {
            ad_buf labels = {0};
            ad_expose_label(&labels, label, ad_top_name(t, i));
            if (labels.failed) e->out->failed = true;
            else ad_expose_integer(e, name, labels.data, *(const uint64_t *)((const char *)ad_top_counts_of(t, i) + fields[f].at));
            ad_buf_deinit(&labels);
        }
    }
}

/* Of the same tenants: what fairness goes by. */
static void put_served(const ad_expose *e, const ad_top *t, const ad_app *app)
{
    static const char name[] = "adapterd_tenant_served_tokens_total";
    ad_expose_family(e, name, "counter", "Prompt tokens, a tenth of the cached ones and twice the generated ones, of unfinished requests too.");
    for (int i = 0; i < ad_top_rows(t); i++) {
        const ad_tenant *tenant = ad_tenancy_find_tenant(app->tenancy, ad_top_name(t, i));
        ad_buf labels = {0};
        ad_expose_label(&labels, "tenant", ad_top_name(t, i));
        if (labels.failed) e->out->failed = true;
        else if (tenant) ad_expose_real(e, name, labels.data, ad_worker_served(app->worker, tenant->id));
        ad_buf_deinit(&labels);
    }
}

static void put_logs(const ad_expose *e)
{
    char labels[40];
    ad_expose_family(e, "adapterd_log_lines_total", "counter", "Lines of the log by level.");
    for (int i = 0; i < AD_LOG_LEVELS; i++) {
        snprintf(labels, sizeof labels, "level=\"%s\"", ad_log_level_name((ad_log_level)i));
        ad_expose_integer(e, "adapterd_log_lines_total", labels, ad_log_lines((ad_log_level)i));
    }
    ad_expose_counter(e, "adapterd_log_lines_held_back_total", "Warnings and errors that were not said because they came again and again.", ad_log_held());
}

/* ---- the process ---- */

/* Linux 6.2 and later tells without a list. */
static double open_files(void)
{
    struct stat st;
    int n = -1; /* the list's own */
    if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0) return (double)st.st_size;
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    for (const struct dirent *f; (f = readdir(d));) n += f->d_name[0] != '.';
    closedir(d);
    return n;
}

static void put_process(const ad_expose *e, const ad_app *app)
{
    unsigned long long size = 0, resident = 0, page = (unsigned long long)sysconf(_SC_PAGESIZE);
    struct rusage used = {0};
    struct rlimit files = {0};
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu", &size, &resident) != 2) size = resident = 0;
    if (f) fclose(f);
    getrusage(RUSAGE_SELF, &used);
    getrlimit(RLIMIT_NOFILE, &files);
    ad_expose_family(e, "process_cpu_seconds_total", "counter", "CPU time of all threads, user and system.");
    ad_expose_real(e, "process_cpu_seconds_total", "", (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    ad_expose_gauge(e, "process_resident_memory_bytes", "Resident memory.", (double)(resident * page));
    ad_expose_gauge(e, "process_virtual_memory_bytes", "Virtual memory.", (double)(size * page));
    ad_expose_gauge(e, "process_open_fds", "Open files.", open_files());
    ad_expose_gauge(e, "process_max_fds", "Files that may be open.", files.rlim_cur == RLIM_INFINITY ? -1 : (double)files.rlim_cur);
    ad_expose_gauge(e, "process_start_time_seconds", "Unix time of the start.", (double)app->started);
}

static void put_life(const ad_expose *e, const ad_app *app)
{
    ad_expose_gauge(e, "adapterd_config_last_reload_successful", "1: the configuration that was last asked for holds; 0: it was bad, and the one before it holds.", app->reload.good);
    ad_expose_gauge(e, "adapterd_config_last_reload_success_timestamp_seconds", "When a configuration was last taken: at the start, or by SIGHUP.", (double)app->reload.succeeded);
    ad_expose_gauge(e, "adapterd_draining", "1: /readyz is 503 because an operator or a signal said so.", app->leaving || app->out_of_rotation);
    ad_expose_gauge(e, "adapterd_engine_stuck", "1: the engine has work and has finished no step of it for longer than it may.", ad_app_is_stuck(app));
}

static void put_build(const ad_expose *e, const ad_app *app)
{
    ad_buf labels = {0};
    ad_expose_label(&labels, "version", AD_VERSION);
    ad_expose_label(&labels, "kernels", ad_worker_kernels(app->worker));
    ad_expose_label(&labels, "model", app->served_name);
    ad_expose_family(e, "adapterd_build_info", "gauge", "Always 1; what is running.");
    if (labels.failed) e->out->failed = true;
    else ad_expose_integer(e, "adapterd_build_info", labels.data, 1);
    ad_buf_deinit(&labels);
}

/* ---- adapters ---- */

static void put_registry(const ad_expose *e, const ad_app *app)
{
    ad_registry_stats r;
    ad_keeper_stats k;
    ad_registry_get_stats(app->registry, &r);
    ad_keeper_get_stats(app->keeper, &k);
    ad_expose_gauge(e, "adapterd_adapters", "Adapters in the registry.", (double)ad_registry_adapters(app->registry));
    ad_expose_gauge(e, "adapterd_adapters_quarantined", "Adapters of the command line whose files were bad at the start: listed, not served.", k.quarantined);
    ad_expose_gauge(e, "adapterd_adapters_resident", "Adapter versions in memory.", r.residents);
    ad_expose_gauge(e, "adapterd_adapter_memory_budget_bytes", "What packed adapters may take.", (double)r.budget);
    ad_expose_gauge(e, "adapterd_adapter_memory_bytes", "What packed adapters in the registry take.", (double)r.resident_bytes);
    ad_expose_gauge(e, "adapterd_adapter_live_bytes", "What all packed adapters of the process take, those of merges and loads under way too.", (double)ad_adapter_live_bytes());
    ad_expose_gauge(e, "adapterd_adapter_versions_retired", "Replaced or removed versions that running requests still hold.", r.retired);
    ad_expose_counter(e, "adapterd_adapter_evictions_total", "Adapters that left memory for others.", r.evictions);
    ad_expose_counter(e, "adapterd_adapter_loads_total", "Adapters brought into memory.", k.loads);
    ad_expose_counter(e, "adapterd_adapter_load_failures_total", "Loads that failed.", k.load_failures);
    put_histogram(e, "adapterd_adapter_load_duration_seconds", "Time that loads took, waiting for a loader included.", "", ad_keeper_load_times(app->keeper));
    ad_expose_gauge(e, "adapterd_adapter_loads_running", "Loads under way.", k.loading);
    ad_expose_gauge(e, "adapterd_adapter_waits", "Requests that wait for an adapter to come into memory.", k.waiting);
    ad_expose_counter(e, "adapterd_adapter_admissions_total", "Versions taken into the registry.", k.admissions);
    ad_expose_counter(e, "adapterd_adapter_refusals_total", "Adapters that were refused.", k.refusals);
    ad_expose_counter(e, "adapterd_adapter_removals_total", "Adapters that were removed.", k.removals);
}

static void put_ledger(const ad_expose *e, const ad_app *app)
{
    ad_ledger_stats s;
    ad_ledger_get_stats(app->ledger, &s);
    ad_expose_gauge(e, "adapterd_usage_rows_waiting", "Rows of the usage ledger that are not stored yet.", (double)s.waiting);
    ad_expose_counter(e, "adapterd_usage_flushes_total", "Times that usage was stored.", s.flushes);
    ad_expose_counter(e, "adapterd_usage_flush_failures_total", "Times that it could not be stored; it is kept, and tried again.", s.failures);
    ad_expose_counter(e, "adapterd_usage_lost_total", "Additions to the ledger that there was no memory for.", s.lost);
}

static void put_merge(const ad_expose *e, const ad_merger *merger)
{
    const ad_merge *now = ad_merger_current(merger);
    ad_buf labels = {0};
    ad_expose_gauge(e, "adapterd_merged_adapters", "Adapters with merged weights: 0 or 1.", now != NULL);
    ad_expose_gauge(e, "adapterd_merges_running", "Merges under way: 0 or 1.", ad_merger_is_building(merger));
    ad_expose_counter(e, "adapterd_merge_switches_total", "Times that merged weights were published or given up.", ad_merger_switches(merger));
    if (!now) return;
    ad_expose_label(&labels, "adapter", ad_adapter_name(ad_merge_adapter(now)));
    ad_expose_family(e, "adapterd_merged_adapter_info", "gauge", "Always 1; whose weights are merged.");
    if (labels.failed) e->out->failed = true;
    else ad_expose_integer(e, "adapterd_merged_adapter_info", labels.data, 1);
    ad_buf_deinit(&labels);
}

static void put_grammars(const ad_expose *e, const ad_app *app)
{
    ad_grammar_cache_stats g = ad_grammar_cache_get_stats(app->grammars);
    ad_expose_gauge(e, "adapterd_grammars", "Compiled grammars in the cache.", (double)g.count);
    ad_expose_gauge(e, "adapterd_grammar_bytes", "What they take.", (double)g.bytes);
    ad_expose_counter(e, "adapterd_grammar_cache_hits_total", "Requests whose grammar was there.", g.hits);
    ad_expose_counter(e, "adapterd_grammar_cache_misses_total", "Requests whose grammar had to be compiled.", g.misses);
}

/* ---- the engine ---- */

static void put_requests(const ad_expose *e, const ad_metrics *m)
{
    ad_expose_counter(e, "adapterd_requests_rejected_total", "Requests refused because the queue was full.", m->rejected);
    ad_expose_counter(e, "adapterd_prompt_tokens_total", "Prompt tokens of finished requests.", m->prompt_tokens);
    ad_expose_counter(e, "adapterd_generated_tokens_total", "Generated tokens of finished requests.", m->generated_tokens);
    put_histogram(e, "adapterd_time_to_first_token_seconds", "Time from a request's first byte to its first token.", "", &m->ttft);
    put_histogram(e, "adapterd_inter_token_latency_seconds", "Time between two tokens of one sequence.", "", &m->inter_token);
}

static void put_steps(const ad_expose *e, const ad_worker_stats *s)
{
    static const char *const phases[AD_PHASES] = {"phase=\"prefill\"", "phase=\"decode\"", "phase=\"mixed\""};
    ad_expose_counter(e, "adapterd_engine_steps_total", "Batched forward steps.", atomic_load(&s->steps));
    ad_expose_family(e, "adapterd_engine_step_seconds_total", "counter", "Time spent in forward steps.");
    ad_expose_real(e, "adapterd_engine_step_seconds_total", "", (double)atomic_load(&s->step_ns) / 1e9);
    ad_expose_family(e, "adapterd_step_duration_seconds", "histogram", "Time of one forward step: of prompts, of sequences that generate, or of both.");
    for (int i = 0; i < AD_PHASES; i++) ad_expose_histogram(e, "adapterd_step_duration_seconds", phases[i], &s->step_times[i]);
    put_histogram(e, "adapterd_queue_duration_seconds", "Time that sequences waited for their first place in the batch.", "", &s->queue_times);
}

static void put_engine(const ad_expose *e, const ad_worker_stats *s)
{
    unsigned long long computed = atomic_load(&s->prompt_tokens), cached = atomic_load(&s->cached_tokens);
    ad_expose_gauge(e, "adapterd_requests_running", "Sequences in the batch.", atomic_load(&s->running));
    ad_expose_gauge(e, "adapterd_requests_waiting", "Sequences waiting for a place in the batch.", atomic_load(&s->waiting));
    put_steps(e, s);
    ad_expose_counter(e, "adapterd_engine_prompt_tokens_total", "Prompt tokens computed.", computed);
    ad_expose_counter(e, "adapterd_engine_generated_tokens_total", "Tokens generated, those of unfinished and canceled requests too.", atomic_load(&s->generated_tokens));
    ad_expose_counter(e, "adapterd_prefix_cache_queries_total", "Prompt tokens looked for in the prefix cache.", computed + cached);
    ad_expose_counter(e, "adapterd_cached_prompt_tokens_total", "Prompt tokens found in the prefix cache.", cached);
    ad_expose_counter(e, "adapterd_preemptions_total", "Sequences that gave their KV pages to older ones and began again.", atomic_load(&s->preemptions));
    ad_expose_counter(e, "adapterd_queue_timeouts_total", "Sequences that waited too long.", atomic_load(&s->timeouts));
    ad_expose_counter(e, "adapterd_deadlines_missed_total", "Sequences whose deadline could not be met.", atomic_load(&s->late));
    ad_expose_gauge(e, "adapterd_kv_pages", "Pages of the KV cache.", (double)atomic_load(&s->kv_pages_total));
    ad_expose_gauge(e, "adapterd_kv_pages_used", "Pages of the KV cache that sequences hold.", (double)atomic_load(&s->kv_pages_used));
}

/* What llama-server counts, under its names, for dashboards made for it. Its times of prompts and answers apart are not known here: a step has both. */
static void put_llamacpp(const ad_expose *e, const ad_worker_stats *s)
{
    ad_expose_counter(e, "llamacpp:prompt_tokens_total", "Prompt tokens computed.", atomic_load(&s->prompt_tokens));
    ad_expose_counter(e, "llamacpp:tokens_predicted_total", "Tokens generated.", atomic_load(&s->generated_tokens));
    ad_expose_counter(e, "llamacpp:n_decode_total", "Batched forward steps.", atomic_load(&s->steps));
    ad_expose_gauge(e, "llamacpp:requests_processing", "Sequences in the batch.", atomic_load(&s->running));
    ad_expose_gauge(e, "llamacpp:requests_deferred", "Sequences waiting for a place in the batch.", atomic_load(&s->waiting));
}

/* ---- what gateways read: vLLM's names ---- */

/* Adapters in memory, or those that requests wait for, joined by commas. */
static void put_names(const ad_registry *reg, bool resident, ad_buf *out)
{
    enum { MOST_BYTES = 64 * 1024 }; /* a scrape comes twenty times a second */
    size_t start = out->len;
    for (size_t i = 0; i < ad_registry_count(reg) && out->len - start < MOST_BYTES; i++) {
        const ad_entry *entry = ad_registry_at(reg, i);
        const ad_version *v = entry->active;
        if (!v || (resident ? !v->adapter : v->adapter || !v->leases)) continue;
        if (out->len > start) ad_buf_puts(out, ",");
        ad_expose_escape(out, entry->name);
    }
}

/* How many adapters as large as the largest now in memory would fit. */
static unsigned long long slots_of(const ad_registry *reg, const ad_registry_stats *r)
{
    size_t largest = 1;
    if (!r->budget) return ad_registry_adapters(reg) ? ad_registry_adapters(reg) : 1;
    for (size_t i = 0; i < ad_registry_count(reg); i++) {
        const ad_version *v = ad_registry_at(reg, i)->active;
        if (v && v->adapter && v->bytes_packed > largest) largest = v->bytes_packed;
    }
    return largest == 1 || r->budget < largest ? 1 : r->budget / largest;
}

/* One series: the newest counts, and there is no other. */
static void put_lora_info(const ad_expose *e, const ad_app *app)
{
    ad_registry_stats r;
    ad_registry_get_stats(app->registry, &r);
    ad_expose_family(e, "vllm:lora_requests_info", "gauge", "Adapters in memory, and those that requests wait for; the value is the Unix time.");
    ad_buf_printf(e->out, "vllm:lora_requests_info{max_lora=\"%llu\",running_lora_adapters=\"", slots_of(app->registry, &r));
    put_names(app->registry, true, e->out);
    ad_buf_puts(e->out, "\",waiting_lora_adapters=\"");
    put_names(app->registry, false, e->out);
    ad_buf_printf(e->out, "\"} %lld\n", (long long)time(NULL));
}

static void put_labelled(const ad_expose *e, const char *name, const char *type, const char *help, const char *labels, unsigned long long value)
{
    ad_expose_family(e, name, type, help);
    ad_expose_integer(e, name, labels, value);
}

static void put_finished(const ad_expose *e, const ad_metrics *m, const char *labels)
{
    static const char *const reasons[] = {"stop", "length", "abort"};
    ad_expose_family(e, "vllm:request_success_total", "counter", "Choices by why they ended.");
    for (int i = 0; i < AD_ENDS; i++) ad_buf_printf(e->out, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", labels, reasons[i], (unsigned long long)m->ends[i]);
}

static void put_vllm(const ad_expose *e, const ad_metrics *m, const ad_app *app, const char *labels)
{
    const ad_worker_stats *s = ad_worker_get_stats(app->worker);
    unsigned long long used = atomic_load(&s->kv_pages_used), total = atomic_load(&s->kv_pages_total), cached = atomic_load(&s->cached_tokens);
    put_labelled(e, "vllm:num_requests_running", "gauge", "Sequences in the batch.", labels, (unsigned long long)atomic_load(&s->running));
    put_labelled(e, "vllm:num_requests_waiting", "gauge", "Sequences waiting for a place in the batch.", labels, (unsigned long long)atomic_load(&s->waiting));
    ad_expose_family(e, "vllm:kv_cache_usage_perc", "gauge", "Part of the KV cache that sequences hold, 0 to 1.");
    ad_expose_real(e, "vllm:kv_cache_usage_perc", labels, total ? (double)used / (double)total : 0);
    ad_expose_family(e, "vllm:cache_config_info", "gauge", "Always 1; the KV cache's pages.");
    ad_buf_printf(e->out, "vllm:cache_config_info{%s,block_size=\"%d\",num_gpu_blocks=\"%llu\"} 1\n", labels, AD_KV_PAGE, total);
    put_lora_info(e, app);
    put_labelled(e, "vllm:prompt_tokens_total", "counter", "Prompt tokens computed.", labels, atomic_load(&s->prompt_tokens));
    put_labelled(e, "vllm:prompt_tokens_cached_total", "counter", "Prompt tokens found in the prefix cache.", labels, cached);
    put_labelled(e, "vllm:generation_tokens_total", "counter", "Tokens generated.", labels, atomic_load(&s->generated_tokens));
    put_labelled(e, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked for in the prefix cache.", labels, atomic_load(&s->prompt_tokens) + cached);
    put_labelled(e, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens found there.", labels, cached);
    put_labelled(e, "vllm:num_preemptions_total", "counter", "Sequences that gave their KV pages to older ones.", labels, atomic_load(&s->preemptions));
    put_finished(e, m, labels);
    put_histogram(e, "vllm:time_to_first_token_seconds", "Time from a request's first byte to its first token.", labels, &m->ttft);
    put_histogram(e, "vllm:inter_token_latency_seconds", "Time between two tokens of one sequence.", labels, &m->vllm_inter_token);
    put_histogram(e, "vllm:e2e_request_latency_seconds", "Time from a request's first byte to the end of its reply.", labels, &m->vllm_duration);
}

/* ---- all of it ---- */

void ad_metrics_write(const ad_metrics *m, const struct ad_app *app, bool open_metrics, ad_buf *out)
{
    const ad_expose e = {out, open_metrics};
    const ad_worker_stats *s = ad_worker_get_stats(app->worker);
    ad_buf labels = {0};
    ad_expose_label(&labels, "engine", "0");
    ad_expose_label(&labels, "model_name", app->served_name);
    put_build(&e, app);
    put_life(&e, app);
    put_process(&e, app);
    ad_expose_gauge(&e, "adapterd_model_bytes", "Bytes of the base model's weights, mapped and converted.",
                    (double)(ad_model_resident_bytes(app->model) + ad_model_mapped_bytes(app->model)));
    put_registry(&e, app);
    put_ledger(&e, app);
    put_merge(&e, app->merger);
    put_http(&e, m, app);
    put_requests(&e, m);
    put_top(&e, "adapter", m->adapters);
    put_top(&e, "tenant", m->tenants);
    put_served(&e, m->tenants, app);
    put_grammars(&e, app);
    put_engine(&e, s);
    put_logs(&e);
    put_vllm(&e, m, app, labels.failed ? "engine=\"0\"" : labels.data);
    put_llamacpp(&e, s);
    ad_expose_end(&e);
    ad_buf_deinit(&labels);
}
