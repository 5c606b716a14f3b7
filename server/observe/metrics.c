/* SPDX-License-Identifier: MIT */
/* Prometheus text, format 0.0.4. Loop thread only. */
#include "server/observe/metrics.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/app.h"

enum { MAX_SERIES = 512, MAX_BOUNDS = 22 };

typedef struct {
    int n;
    double bounds[MAX_BOUNDS];
    uint64_t counts[MAX_BOUNDS + 1]; /* the last is above all bounds */
    double sum;
} histogram;

typedef struct {
    const char *route; /* static: a route table's label */
    int status;
    uint64_t count;
} request_series;

struct ad_metrics {
    request_series requests[MAX_SERIES];
    int n_requests;
    histogram duration, ttft, inter_token;
    uint64_t prompt_tokens, generated_tokens, rejected, ends[AD_ENDS];
};

/* Bounds in seconds; vLLM's, so that existing dashboards fit. */
static const histogram ttft_bounds = {22, {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}, {0}, 0};
static const histogram token_bounds = {19, {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}, {0}, 0};
static const histogram request_bounds = {16, {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 480, 1920}, {0}, 0};

static void observe(histogram *h, uint64_t ns)
{
    double seconds = (double)ns / 1e9;
    int i = 0;
    while (i < h->n && seconds > h->bounds[i]) i++;
    h->counts[i]++;
    h->sum += seconds;
}

ad_status ad_metrics_new(ad_metrics **out, ad_err *err)
{
    ad_metrics *m = ad_calloc(1, sizeof *m);
    if (!m) return ad_fail(err, AD_ENOMEM, "out of memory for metrics");
    m->duration = request_bounds;
    m->ttft = ttft_bounds;
    m->inter_token = token_bounds;
    *out = m;
    return AD_OK;
}

void ad_metrics_free(ad_metrics **m)
{
    free(*m);
    *m = NULL;
}

void ad_metrics_request(ad_metrics *m, const char *route, int status, uint64_t duration_ns)
{
    observe(&m->duration, duration_ns);
    for (int i = 0; i < m->n_requests; i++) {
        if (m->requests[i].status != status || strcmp(m->requests[i].route, route)) continue;
        m->requests[i].count++;
        return;
    }
    if (m->n_requests == MAX_SERIES) return; /* routes and statuses are few; nobody gets here */
    m->requests[m->n_requests++] = (request_series){route, status, 1};
}

void ad_metrics_ttft(ad_metrics *m, uint64_t ns) { observe(&m->ttft, ns); }
void ad_metrics_inter_token(ad_metrics *m, uint64_t ns) { observe(&m->inter_token, ns); }
void ad_metrics_rejected(ad_metrics *m) { m->rejected++; }
void ad_metrics_ended(ad_metrics *m, ad_metrics_end why) { m->ends[why]++; }

void ad_metrics_tokens(ad_metrics *m, int prompt, int generated)
{
    m->prompt_tokens += (uint64_t)prompt;
    m->generated_tokens += (uint64_t)generated;
}

static void put_family(ad_buf *out, const char *name, const char *type, const char *help)
{
    ad_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_number(ad_buf *out, const char *name, const char *type, const char *help, unsigned long long value)
{
    put_family(out, name, type, help);
    ad_buf_printf(out, "%s %llu\n", name, value);
}

static void put_seconds(ad_buf *out, const char *name, const char *type, const char *help, double value)
{
    put_family(out, name, type, help);
    ad_buf_printf(out, "%s %.9g\n", name, value);
}

/* Python's clients print whole numbers with ".0"; one spelling for ever. */
static void put_bound(ad_buf *out, double v)
{
    ad_buf_printf(out, v == (double)(long)v ? "%.1f" : "%g", v);
}

/* labels: those of every sample, each followed by a comma; or "". */
static void put_histogram(ad_buf *out, const char *name, const char *help, const histogram *h, const char *labels)
{
    uint64_t sum = 0;
    int n = (int)strlen(labels) - 1;
    put_family(out, name, "histogram", help);
    for (int i = 0; i < h->n; i++) {
        sum += h->counts[i];
        ad_buf_printf(out, "%s_bucket{%sle=\"", name, labels);
        put_bound(out, h->bounds[i]);
        ad_buf_printf(out, "\"} %llu\n", (unsigned long long)sum);
    }
    sum += h->counts[h->n];
    const char *open = n < 0 ? "" : "{", *close = n < 0 ? "" : "}";
    ad_buf_printf(out, "%s_bucket{%sle=\"+Inf\"} %llu\n", name, labels, (unsigned long long)sum);
    if (n < 0) n = 0;
    ad_buf_printf(out, "%s_sum%s%.*s%s %.9g\n%s_count%s%.*s%s %llu\n", name, open, n, labels, close, h->sum, name, open, n, labels, close, (unsigned long long)sum);
}

static void put_label(ad_buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '\n') ad_buf_puts(out, "\\n");
        else if (*s == '\\' || *s == '"') ad_buf_printf(out, "\\%c", *s);
        else ad_buf_append(out, s, 1);
    }
}

static void put_requests(const ad_metrics *m, ad_buf *out)
{
    put_family(out, "adapterd_http_requests_total", "counter", "Finished HTTP requests by route and status.");
    for (int i = 0; i < m->n_requests; i++)
        ad_buf_printf(out, "adapterd_http_requests_total{route=\"%s\",status=\"%d\"} %llu\n", m->requests[i].route, m->requests[i].status,
                      (unsigned long long)m->requests[i].count);
}

static double resident_bytes(void)
{
    unsigned long long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    int n = fscanf(f, "%llu %llu", &size, &resident);
    fclose(f);
    return n == 2 ? (double)resident * (double)sysconf(_SC_PAGESIZE) : 0;
}

static void put_registry(const ad_app *app, ad_buf *out)
{
    ad_registry_stats r;
    ad_keeper_stats k;
    ad_registry_get_stats(app->registry, &r);
    ad_keeper_get_stats(app->keeper, &k);
    put_number(out, "adapterd_adapters", "gauge", "Adapters in the registry.", ad_registry_adapters(app->registry));
    put_number(out, "adapterd_adapters_resident", "gauge", "Adapter versions in memory.", (unsigned long long)r.residents);
    put_number(out, "adapterd_adapter_memory_budget_bytes", "gauge", "What packed adapters may take.", r.budget);
    put_number(out, "adapterd_adapter_memory_bytes", "gauge", "What packed adapters in the registry take.", r.resident_bytes);
    put_number(out, "adapterd_adapter_live_bytes", "gauge", "What all packed adapters of the process take, those of merges and loads under way too.", ad_adapter_live_bytes());
    put_number(out, "adapterd_adapter_versions_retired", "gauge", "Replaced or removed versions that running requests still hold.", (unsigned long long)r.retired);
    put_number(out, "adapterd_adapter_evictions_total", "counter", "Adapters that left memory for others.", r.evictions);
    put_number(out, "adapterd_adapter_loads_total", "counter", "Adapters brought into memory.", k.loads);
    put_number(out, "adapterd_adapter_load_failures_total", "counter", "Loads that failed.", k.load_failures);
    put_seconds(out, "adapterd_adapter_load_seconds_total", "counter", "Time that loads took, waiting for a loader included.", k.load_seconds);
    put_number(out, "adapterd_adapter_loads_running", "gauge", "Loads under way.", (unsigned long long)k.loading);
    put_number(out, "adapterd_adapter_waits", "gauge", "Requests that wait for an adapter to come into memory.", (unsigned long long)k.waiting);
    put_number(out, "adapterd_adapter_admissions_total", "counter", "Versions taken into the registry.", k.admissions);
    put_number(out, "adapterd_adapter_refusals_total", "counter", "Adapters that were refused.", k.refusals);
    put_number(out, "adapterd_adapter_removals_total", "counter", "Adapters that were removed.", k.removals);
}

static void put_process(const ad_app *app, ad_buf *out)
{
    put_family(out, "adapterd_build_info", "gauge", "Always 1; what is running.");
    ad_buf_puts(out, "adapterd_build_info{version=\"" AD_VERSION "\",kernels=\"");
    put_label(out, ad_worker_kernels(app->worker));
    ad_buf_puts(out, "\",model=\"");
    put_label(out, app->served_name);
    ad_buf_puts(out, "\"} 1\n");
    put_number(out, "adapterd_start_time_seconds", "gauge", "Unix time of the start.", (unsigned long long)app->started);
    put_seconds(out, "process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes());
    put_number(out, "adapterd_model_bytes", "gauge", "Bytes of the base model's weights, mapped and converted.",
               ad_model_resident_bytes(app->model) + ad_model_mapped_bytes(app->model));
    put_registry(app, out);
    put_number(out, "adapterd_merged_adapters", "gauge", "Adapters with merged weights: 0 or 1.", ad_merger_current(app->merger) != NULL);
    put_number(out, "adapterd_merge_switches_total", "counter", "Times that merged weights were published or given up.", ad_merger_switches(app->merger));
    ad_http_counts h = ad_http_get_counts(app->http);
    put_number(out, "adapterd_connections", "gauge", "Open client connections.", (unsigned long long)ad_http_connections(app->http));
    put_number(out, "adapterd_connections_refused_total", "counter", "Connections and requests refused because there were too many connections.", h.refused_full);
    put_number(out, "adapterd_connections_refused_per_ip_total", "counter", "Connections refused because one client had too many.", h.refused_peer);
    put_number(out, "adapterd_slow_readers_total", "counter", "Connections cut because their clients did not read.", h.slow_readers);
    put_number(out, "adapterd_tls_failures_total", "counter", "Connections whose clients could not speak TLS with us, or not in time.", h.tls_failures);
}

static void put_grammars(const ad_app *app, ad_buf *out)
{
    ad_grammar_cache_stats g = ad_grammar_cache_get_stats(app->grammars);
    put_number(out, "adapterd_grammars", "gauge", "Compiled grammars in the cache.", g.count);
    put_number(out, "adapterd_grammar_bytes", "gauge", "What they take.", g.bytes);
    put_number(out, "adapterd_grammar_cache_hits_total", "counter", "Requests whose grammar was there.", g.hits);
    put_number(out, "adapterd_grammar_cache_misses_total", "counter", "Requests whose grammar had to be compiled.", g.misses);
}

static void put_engine(const ad_worker_stats *s, ad_buf *out)
{
    put_number(out, "adapterd_requests_running", "gauge", "Sequences in the batch.", (unsigned long long)atomic_load(&s->running));
    put_number(out, "adapterd_requests_waiting", "gauge", "Sequences waiting for a place in the batch.", (unsigned long long)atomic_load(&s->waiting));
    put_number(out, "adapterd_engine_steps_total", "counter", "Batched forward steps.", atomic_load(&s->steps));
    put_seconds(out, "adapterd_engine_step_seconds_total", "counter", "Time spent in forward steps.", (double)atomic_load(&s->step_ns) / 1e9);
    put_number(out, "adapterd_engine_prompt_tokens_total", "counter", "Prompt tokens computed.", atomic_load(&s->prompt_tokens));
    put_number(out, "adapterd_engine_generated_tokens_total", "counter", "Tokens generated, those of unfinished and canceled requests too.", atomic_load(&s->generated_tokens));
    put_number(out, "adapterd_cached_prompt_tokens_total", "counter", "Prompt tokens found in the prefix cache.", atomic_load(&s->cached_tokens));
    put_number(out, "adapterd_preemptions_total", "counter", "Sequences that gave their KV pages to older ones and began again.", atomic_load(&s->preemptions));
    put_number(out, "adapterd_queue_timeouts_total", "counter", "Sequences that waited too long.", atomic_load(&s->timeouts));
    put_number(out, "adapterd_kv_pages", "gauge", "Pages of the KV cache.", atomic_load(&s->kv_pages_total));
    put_number(out, "adapterd_kv_pages_used", "gauge", "Pages of the KV cache that sequences hold.", atomic_load(&s->kv_pages_used));
}

/* What llama-server counts, under its names, for dashboards made for it. Its times of prompts and answers apart are not known here: a step has both. */
static void put_llamacpp(const ad_worker_stats *s, ad_buf *out)
{
    put_number(out, "llamacpp:prompt_tokens_total", "counter", "Prompt tokens computed.", atomic_load(&s->prompt_tokens));
    put_number(out, "llamacpp:tokens_predicted_total", "counter", "Tokens generated.", atomic_load(&s->generated_tokens));
    put_number(out, "llamacpp:n_decode_total", "counter", "Batched forward steps.", atomic_load(&s->steps));
    put_number(out, "llamacpp:requests_processing", "gauge", "Sequences in the batch.", (unsigned long long)atomic_load(&s->running));
    put_number(out, "llamacpp:requests_deferred", "gauge", "Sequences waiting for a place in the batch.", (unsigned long long)atomic_load(&s->waiting));
}

/* ---- what gateways read: vLLM's names ---- */

static void put_labelled(ad_buf *out, const char *name, const char *type, const char *help, const char *labels, double value)
{
    put_family(out, name, type, help);
    ad_buf_printf(out, "%s{", name);
    ad_buf_append(out, labels, strlen(labels) - 1); /* not "%.*s": a sanitizer's compiler thinks that it may be NULL */
    ad_buf_printf(out, "} %.9g\n", value);
}

/* Adapters in memory, or those that requests wait for, joined by commas. */
static void put_names(const ad_registry *reg, bool resident, ad_buf *out)
{
    enum { MOST_BYTES = 64 * 1024 }; /* a scrape comes twenty times a second */
    size_t start = out->len;
    for (size_t i = 0; i < ad_registry_count(reg) && out->len - start < MOST_BYTES; i++) {
        const ad_entry *e = ad_registry_at(reg, i);
        const ad_version *v = e->active;
        if (!v || (resident ? !v->adapter : v->adapter || !v->leases)) continue;
        if (out->len > start) ad_buf_puts(out, ",");
        put_label(out, e->name);
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
static void put_lora_info(const ad_app *app, ad_buf *out)
{
    ad_registry_stats r;
    ad_registry_get_stats(app->registry, &r);
    put_family(out, "vllm:lora_requests_info", "gauge", "Adapters in memory, and those that requests wait for; the value is the Unix time.");
    ad_buf_printf(out, "vllm:lora_requests_info{max_lora=\"%llu\",running_lora_adapters=\"", slots_of(app->registry, &r));
    put_names(app->registry, true, out);
    ad_buf_puts(out, "\",waiting_lora_adapters=\"");
    put_names(app->registry, false, out);
    ad_buf_printf(out, "\"} %lld\n", (long long)time(NULL));
}

static void put_finished(const ad_metrics *m, const char *labels, ad_buf *out)
{
    static const char *const reasons[] = {"stop", "length", "abort"};
    put_family(out, "vllm:request_success_total", "counter", "Choices by why they ended.");
    for (int i = 0; i < AD_ENDS; i++) ad_buf_printf(out, "vllm:request_success_total{%sfinished_reason=\"%s\"} %llu\n", labels, reasons[i], (unsigned long long)m->ends[i]);
}

static void put_vllm(const ad_metrics *m, const ad_app *app, ad_buf *out)
{
    const ad_worker_stats *s = ad_worker_get_stats(app->worker);
    unsigned long long used = atomic_load(&s->kv_pages_used), total = atomic_load(&s->kv_pages_total), cached = atomic_load(&s->cached_tokens);
    ad_buf b = {0};
    ad_buf_puts(&b, "engine=\"0\",model_name=\"");
    put_label(&b, app->served_name);
    ad_buf_puts(&b, "\",");
    const char *labels = b.failed ? "engine=\"0\"," : b.data;
    put_labelled(out, "vllm:num_requests_running", "gauge", "Sequences in the batch.", labels, atomic_load(&s->running));
    put_labelled(out, "vllm:num_requests_waiting", "gauge", "Sequences waiting for a place in the batch.", labels, atomic_load(&s->waiting));
    put_labelled(out, "vllm:kv_cache_usage_perc", "gauge", "Part of the KV cache that sequences hold, 0 to 1.", labels, total ? (double)used / (double)total : 0);
    put_family(out, "vllm:cache_config_info", "gauge", "Always 1; the KV cache's pages.");
    ad_buf_printf(out, "vllm:cache_config_info{%sblock_size=\"%d\",num_gpu_blocks=\"%llu\"} 1\n", labels, AD_KV_PAGE, total);
    put_lora_info(app, out);
    put_labelled(out, "vllm:prompt_tokens_total", "counter", "Prompt tokens computed.", labels, (double)atomic_load(&s->prompt_tokens));
    put_labelled(out, "vllm:generation_tokens_total", "counter", "Tokens generated.", labels, (double)atomic_load(&s->generated_tokens));
    put_labelled(out, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked for in the prefix cache.", labels, (double)(atomic_load(&s->prompt_tokens) + cached));
    put_labelled(out, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens found there.", labels, (double)cached);
    put_labelled(out, "vllm:num_preemptions_total", "counter", "Sequences that gave their KV pages to older ones.", labels, (double)atomic_load(&s->preemptions));
    put_finished(m, labels, out);
    put_histogram(out, "vllm:time_to_first_token_seconds", "Time from a request's first byte to its first token.", &m->ttft, labels);
    put_histogram(out, "vllm:inter_token_latency_seconds", "Time between two tokens of one sequence.", &m->inter_token, labels);
    ad_buf_deinit(&b);
}

void ad_metrics_write(const ad_metrics *m, const struct ad_app *app, ad_buf *out)
{
    put_process(app, out);
    put_requests(m, out);
    put_histogram(out, "adapterd_http_request_duration_seconds", "Time from a request's first byte to the end of its reply.", &m->duration, "");
    put_number(out, "adapterd_requests_rejected_total", "counter", "Requests refused because the queue was full.", m->rejected);
    put_number(out, "adapterd_prompt_tokens_total", "counter", "Prompt tokens of finished requests.", m->prompt_tokens);
    put_number(out, "adapterd_generated_tokens_total", "counter", "Generated tokens of finished requests.", m->generated_tokens);
    put_histogram(out, "adapterd_time_to_first_token_seconds", "Time from a request's first byte to its first token.", &m->ttft, "");
    put_histogram(out, "adapterd_inter_token_latency_seconds", "Time between two tokens of one sequence.", &m->inter_token, "");
    put_grammars(app, out);
    put_engine(ad_worker_get_stats(app->worker), out);
    put_vllm(m, app, out);
    put_llamacpp(ad_worker_get_stats(app->worker), out);
}
