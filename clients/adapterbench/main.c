/* SPDX-License-Identifier: MIT */
/* A load generator for OpenAI-compatible servers and llama-server: streams over adapters, latencies, fairness.
 * One thread, one loop. It stops by itself: after so many requests or seconds. */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/adapterbench/client.h"
#include "clients/adapterbench/stats.h"

enum { MAX_MODELS = 4096, MAX_TENANTS = 64 };

/* Streams with a key of their own, in a closed loop beside those of others. */
typedef struct {
    const char *name, *key, *model; /* key: NULL for none; model: NULL for any of --models */
    int streams;
    samples ttft, itl;
    int done, counted;          /* requests; events with text within the run's time */
} tenant;

typedef enum { CLOSED, POISSON, GAMMA } arrival_kind;
typedef enum { IDENTICAL, UNIFORM, ZIPF, DISTINCT } popularity_kind;

typedef struct {
    const char *url, *json, *bearer, *api;
    char *models[MAX_MODELS];   /* names in requests; of llama-server: adapter numbers, or "-" for the base */
    int n_models;
    tenant tenants[MAX_TENANTS];
    int n_tenants;              /* 0: as streams, bearer and arrivals say */
    int streams, requests, duration_s, timeout_s;
    int prompt_min, prompt_max, output_min, output_max;
    arrival_kind arrivals;
    double rate, cv;
    popularity_kind popularity;
    double exponent, cut;       /* cut: the share of requests that hang up half-way */
    unsigned long long seed;
} options;

typedef struct {
    options o;
    uv_loop_t loop;
    uv_timer_t next_arrival, progress;
    struct sockaddr_storage addr;
    char host[300];
    unsigned long long rng;
    double *share;              /* [n_models] cumulated popularity */
    uint64_t start_ns, end_ns;
    int started, running, done, cut, errors;
    long long prompt_tokens, output_tokens;
    samples ttft, itl, e2e;
    double *model_tokens;       /* [n_models] */
    char first_error[200];
} bench;

/* ---- chance: splitmix64, the same run for the same seed ---- */

static double uniform(bench *b)
{
    unsigned long long z = (b->rng += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static double normal(bench *b)
{
    return sqrt(-2 * log(1 - uniform(b))) * cos(2 * M_PI * uniform(b));
}

/* Marsaglia and Tsang's method; shape > 0, scale 1. */
static double gamma_draw(bench *b, double shape)
{
    if (shape < 1) return gamma_draw(b, shape + 1) * pow(1 - uniform(b), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(b), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(1 - uniform(b)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

static int between(bench *b, int min, int max)
{
    return min + (int)(uniform(b) * (max - min + 1));
}

static double next_gap_s(bench *b)
{
    if (b->o.arrivals == POISSON) return -log(1 - uniform(b)) / b->o.rate;
    double shape = 1 / (b->o.cv * b->o.cv);
    return gamma_draw(b, shape) / shape / b->o.rate;
}

/* ---- requests ---- */

static void set_shares(bench *b)
{
    double sum = 0;
    for (int i = 0; i < b->o.n_models; i++) {
        double weight = b->o.popularity == IDENTICAL ? i == 0 : b->o.popularity == ZIPF ? pow(i + 1, -b->o.exponent) : 1;
        b->share[i] = sum += weight;
    }
    for (int i = 0; i < b->o.n_models; i++) b->share[i] /= sum;
}

static int pick_model(bench *b)
{
    if (b->o.popularity == DISTINCT) return b->started % b->o.n_models;
    double u = uniform(b);
    int i = 0;
    while (i < b->o.n_models - 1 && u >= b->share[i]) i++;
    return i;
}

/* Common words that most vocabularies have as one token each. */
static char *make_prompt(bench *b, int words)
{
    static const char *const list[] = {" the", " of", " and", " to", " in", " is", " that", " for", " it", " was", " on", " are", " as", " with", " his", " they", " at", " be",
                                       " this", " from", " have", " or", " by", " one", " had", " not", " but", " what", " all", " were", " when", " we", " there", " can"};
    char *p = calloc((size_t)words + 1, 6), *end = p;
    if (!p) exit(1);
    for (int i = 0; i < words; i++) end = stpcpy(end, list[between(b, 0, (int)(sizeof list / sizeof *list) - 1)]);
    return p;
}

static char *make_body(bench *b, const char *model, int output)
{
    char *prompt = make_prompt(b, between(b, b->o.prompt_min, b->o.prompt_max));
    bool llama = !strcmp(b->o.api, "llama-server");
    json_t *v = json_pack("{s:s, s:s, s:i, s:i, s:b, s:{s:b}, s:b}", "model", llama ? "any" : model, "prompt", prompt, "max_tokens", output, "temperature", 0,
                          "stream", 1, "stream_options", "include_usage", 1, "ignore_eos", 1);
    if (llama && strcmp(model, "-")) json_object_set_new(v, "lora", json_pack("[{s:i, s:f}]", "id", atoi(model), "scale", 1.0));
    if (llama && !strcmp(model, "-")) json_object_set_new(v, "lora", json_array());
    char *text = json_dumps(v, JSON_COMPACT);
    json_decref(v);
    free(prompt);
    return text;
}

static bool more_to_start(const bench *b)
{
    if (b->o.requests && b->started >= b->o.requests) return false;
    return !b->o.duration_s || uv_hrtime() - b->start_ns < (uint64_t)b->o.duration_s * 1000000000u;
}

typedef struct {
    call c;
    bench *b;
    tenant *t;                  /* or NULL */
    int model;                  /* index; -1: the tenant's own */
} job;

static void start_one(bench *b, tenant *t);

static void maybe_end(bench *b)
{
    if (b->running || more_to_start(b)) return;
    b->end_ns = uv_hrtime();
    uv_timer_stop(&b->progress);
    uv_timer_stop(&b->next_arrival);
}

static void count_tenant(tenant *t, const call *c)
{
    t->done += c->end == CALL_OK;
    t->counted += c->n_counted;
    if (c->first_ns) samples_add(&t->ttft, (double)(c->first_ns - c->start_ns) / 1e9);
    for (int i = 0; i < c->n_gaps; i++) samples_add(&t->itl, (double)c->gaps_ns[i] / 1e9);
}

static void count(bench *b, const job *j)
{
    const call *c = &j->c;
    int tokens = c->output_tokens ? c->output_tokens : c->n_events;
    b->prompt_tokens += c->prompt_tokens;
    b->output_tokens += tokens;
    if (j->model >= 0) b->model_tokens[j->model] += tokens;
    if (j->t) count_tenant(j->t, c);
    if (c->first_ns) samples_add(&b->ttft, (double)(c->first_ns - c->start_ns) / 1e9);
    for (int i = 0; i < c->n_gaps; i++) samples_add(&b->itl, (double)c->gaps_ns[i] / 1e9);
    if (c->end == CALL_OK) samples_add(&b->e2e, (double)(c->end_ns - c->start_ns) / 1e9);
}

static void on_done(call *c)
{
    job *j = c->user;
    bench *b = j->b;
    b->running--;
    if (c->end == CALL_OK) b->done++;
    else if (c->end == CALL_CUT) b->cut++;
    else if (!b->errors++) snprintf(b->first_error, sizeof b->first_error, "%s", c->error);
    tenant *t = j->t;
    count(b, j);
    call_free(c);
    free(j);
    if (b->o.arrivals == CLOSED && more_to_start(b)) start_one(b, t);
    maybe_end(b);
}

static void start_one(bench *b, tenant *t)
{
    job *j = calloc(1, sizeof *j);
    if (!j) exit(1);
    int output = between(b, b->o.output_min, b->o.output_max);
    j->b = b;
    j->t = t;
    j->model = t && t->model ? -1 : pick_model(b);
    j->c = (call){.addr = b->addr, .host = b->host, .path = "/v1/completions", .body = make_body(b, j->model < 0 ? t->model : b->o.models[j->model], output),
                  .bearer = t ? t->key : b->o.bearer,
                  .timeout_ms = b->o.timeout_s * 1000, .on_done = on_done, .user = j};
    if (uniform(b) < b->o.cut) j->c.cut_after = 1 + output / 2;
    if (b->o.duration_s) j->c.counted_until_ns = b->start_ns + (uint64_t)b->o.duration_s * 1000000000u;
    b->started++;
    b->running++;
    call_start(&b->loop, &j->c);
}

static void on_arrival(uv_timer_t *t)
{
    bench *b = t->data;
    if (!more_to_start(b)) {
        maybe_end(b);
        return;
    }
    start_one(b, NULL);
    uv_timer_start(t, on_arrival, (uint64_t)(next_gap_s(b) * 1000), 0);
}

static void on_progress(uv_timer_t *t)
{
    bench *b = t->data;
    double s = (double)(uv_hrtime() - b->start_ns) / 1e9;
    fprintf(stderr, "\r%6.0f s  %d running, %d done, %d errors, %lld tokens (%.1f/s)   ", s, b->running, b->done, b->errors, b->output_tokens, (double)b->output_tokens / s);
    maybe_end(b);
}

/* ---- results ---- */

static void put_latency(json_t *root, const char *name, samples *s)
{
    static const double ps[] = {0.5, 0.9, 0.99, 1};
    static const char *const names[] = {"p50", "p90", "p99", "max"};
    json_t *v = json_object();
    printf("  %-6s", name);
    for (int i = 0; i < 4; i++) {
        double x = samples_percentile(s, ps[i]);
        printf("  %s %8.1f ms", names[i], x * 1000);
        json_object_set_new(v, names[i], json_real(x));
    }
    printf("\n");
    json_object_set_new(root, name, v);
}

/* A stream that has a row in every step has a token in each: the median gap of all is a step. */
static void report_tenants(bench *b, json_t *root, double seconds)
{
    double step = samples_percentile(&b->itl, 0.5), sum = 0;
    json_t *list = json_object();
    if (b->o.duration_s && seconds > b->o.duration_s) seconds = b->o.duration_s;
    for (int i = 0; i < b->o.n_tenants; i++) sum += b->o.tenants[i].counted;
    for (int i = 0; i < b->o.n_tenants; i++) {
        tenant *t = &b->o.tenants[i];
        double share = sum > 0 ? t->counted / sum : 0, first = samples_percentile(&t->ttft, 0.5);
        json_t *v = json_pack("{s:i, s:i, s:f, s:f, s:f}", "streams", t->streams, "done", t->done, "output_tokens_per_second", t->counted / seconds, "share", share,
                              "ttft_steps", step > 0 ? first / step : 0);
        printf("%s: %d streams, %d done, %.1f output tokens/s, %.1f %% of all; first token after %.1f steps of %.1f ms\n", t->name, t->streams, t->done, t->counted / seconds, 100 * share,
               step > 0 ? first / step : 0, step * 1000);
        put_latency(v, "ttft", &t->ttft);
        put_latency(v, "itl", &t->itl);
        json_object_set_new(list, t->name, v);
    }
    if (b->o.n_tenants) json_object_set_new(root, "tenants", list);
    else json_decref(list);
}

static void report(bench *b)
{
    double s = (double)(b->end_ns - b->start_ns) / 1e9, fairness = jain(b->model_tokens, b->o.n_models);
    json_t *root = json_pack("{s:s, s:i, s:i, s:f, s:i, s:i, s:i, s:I, s:I, s:f, s:f}", "url", b->o.url, "streams", b->o.streams, "models", b->o.n_models, "seconds", s,
                             "done", b->done, "cut", b->cut,
                             "errors", b->errors, "prompt_tokens", (json_int_t)b->prompt_tokens, "output_tokens", (json_int_t)b->output_tokens, "output_tokens_per_second",
                             (double)b->output_tokens / s, "fairness", fairness);
    fprintf(stderr, "\n");
    printf("%d streams over %d models: %d done, %d hung up, %d errors in %.1f s\n", b->o.streams, b->o.n_models, b->done, b->cut, b->errors, s);
    if (b->errors) printf("  first error: %s\n", b->first_error);
    printf("  %.1f output tokens/s (%lld), %.1f prompt tokens/s (%lld), fairness over models %.3f\n", (double)b->output_tokens / s, b->output_tokens, (double)b->prompt_tokens / s,
           b->prompt_tokens, fairness);
    put_latency(root, "ttft", &b->ttft);
    put_latency(root, "itl", &b->itl);
    put_latency(root, "e2e", &b->e2e);
    json_t *per = json_object();
    for (int i = 0; i < b->o.n_models; i++) json_object_set_new(per, b->o.models[i], json_real(b->model_tokens[i] / s));
    json_object_set_new(root, "tokens_per_second_by_model", per);
    report_tenants(b, root, s);
    if (b->o.json && json_dump_file(root, b->o.json, JSON_INDENT(1)) != 0) fprintf(stderr, "%s: cannot write\n", b->o.json);
    json_decref(root);
}

/* ---- options ---- */

static const struct {
    const char *name, *value, *preset, *help;
    char key; /* what getopt_long returns */
} table[] = {
    {"url", "URL", "http://127.0.0.1:8000", "http://HOST:PORT", 'u'},
    {"models", "LIST", NULL, "names for the request's \"model\", or with --api llama-server adapter numbers (- is the base); separated by commas, required unless each --tenant names its own", 'm'},
    {"api", "KIND", "openai", "openai, or llama-server (adapters by its \"lora\" field)", 'a'},
    {"streams", "N", "8", "requests at once, in a closed loop", 's'},
    {"requests", "N", "64", "stop after N requests", 'n'},
    {"duration", "SECONDS", NULL, "stop after so long; with it --requests defaults to no limit", 'd'},
    {"arrivals", "KIND", "closed", "closed, poisson:RATE or gamma:RATE:CV, RATE in requests per second", 'r'},
    {"popularity", "KIND", "distinct", "identical (the first), uniform, zipf:EXPONENT, or distinct (in turn)", 'p'},
    {"prompt-tokens", "N[-M]", "64", "words of the prompt, about a token each", 'i'},
    {"output-tokens", "N[-M]", "64", "tokens to generate", 'o'},
    {"hang-up", "SHARE", "0", "part of the requests that close the connection half-way, 0..1", 'c'},
    {"key", "KEY", NULL, "API key", 'k'},
    {"tenant", "SPEC", NULL, "NAME=[KEY]:STREAMS[:MODEL], streams with a key (and a model) of their own, in a closed loop; several times. What each tenant got is told apart", 'T'},
    {"timeout", "SECONDS", "300", "for one request", 't'},
    {"seed", "N", "1", "the same seed makes the same requests", 'x'},
    {"json", "FILE", NULL, "write the results as JSON", 'j'},
    {"help", NULL, NULL, "print this and exit", 'h'},
    {"version", NULL, NULL, "print the version and exit", 'v'},
    {"dump-options", NULL, NULL, "print this list as JSON and exit; the manual page and completion are made of it", 'D'},
};
enum { N_TABLE = sizeof table / sizeof *table };

static void usage(void)
{
    printf("usage: adapterbench --models NAME[,NAME...] [options]\n\n"
           "Streams completions from an OpenAI-compatible server and prints throughput, latencies and fairness.\n\n");
    for (int i = 0; i < N_TABLE; i++) {
        char left[40];
        snprintf(left, sizeof left, "--%s %s", table[i].name, table[i].value ? table[i].value : "");
        printf("  %-22s %s", left, table[i].help);
        if (table[i].preset) printf(" [%s]", table[i].preset);
        putchar('\n');
    }
}

static void dump_options(void)
{
    json_t *list = json_array();
    for (int i = 0; i < N_TABLE; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s?}", "name", table[i].name, "arg", table[i].value ? table[i].value : "", "help", table[i].help,
                                              "default", table[i].preset));
    json_t *root = json_pack("{s:s, s:s, s:o}", "program", "adapterbench", "version", AD_VERSION, "options", list);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static void bad(const char *what, const char *value)
{
    fprintf(stderr, "adapterbench: %s: \"%s\" is not understood; --help lists the options\n", what, value);
    exit(2);
}

static int read_int(const char *what, const char *s, int min)
{
    char *end;
    long v = strtol(s, &end, 10);
    if (end == s || *end || v < min || v > 1000000000) bad(what, s);
    return (int)v;
}

static void read_range(const char *what, const char *s, int *min, int *max)
{
    char tail;
    int n = sscanf(s, "%d-%d%c", min, max, &tail);
    if (n == 1) *max = *min;
    if (n < 1 || n > 2 || *min < 1 || *max < *min || *max > 1000000) bad(what, s);
}

static void read_models(options *o, char *list)
{
    for (char *save = NULL, *m = strtok_r(list, ",", &save); m; m = strtok_r(NULL, ",", &save)) {
        if (o->n_models == MAX_MODELS) bad("--models", "too many names");
        o->models[o->n_models++] = m;
    }
}

static void read_tenant(options *o, char *s)
{
    char *key = strchr(s, '='), *streams = key ? strchr(key, ':') : NULL, *model = streams ? strchr(streams + 1, ':') : NULL;
    tenant *t = &o->tenants[o->n_tenants];
    if (!streams || key == s || o->n_tenants == MAX_TENANTS) bad("--tenant", s);
    if (model) *model++ = 0;
    *key++ = *streams++ = 0;
    *t = (tenant){.name = s, .key = *key ? key : NULL, .model = model, .streams = read_int("--tenant", streams, 1)};
    if (model && !*model) bad("--tenant", s);
    o->n_tenants++;
}

static void read_arrivals(options *o, const char *s)
{
    char tail;
    if (!strcmp(s, "closed")) o->arrivals = CLOSED;
    else if (sscanf(s, "poisson:%lf%c", &o->rate, &tail) == 1 && o->rate > 0) o->arrivals = POISSON;
    else if (sscanf(s, "gamma:%lf:%lf%c", &o->rate, &o->cv, &tail) == 2 && o->rate > 0 && o->cv > 0) o->arrivals = GAMMA;
    else bad("--arrivals", s);
}

static void read_popularity(options *o, const char *s)
{
    char tail;
    if (!strcmp(s, "identical")) o->popularity = IDENTICAL;
    else if (!strcmp(s, "uniform")) o->popularity = UNIFORM;
    else if (!strcmp(s, "distinct")) o->popularity = DISTINCT;
    else if (sscanf(s, "zipf:%lf%c", &o->exponent, &tail) == 1) o->popularity = ZIPF;
    else bad("--popularity", s);
}

static void read_options(options *o, int argc, char **argv)
{
    struct option longs[N_TABLE + 1] = {0};
    for (int i = 0; i < N_TABLE; i++) longs[i] = (struct option){table[i].name, table[i].value ? required_argument : no_argument, NULL, table[i].key};
    *o = (options){.url = "http://127.0.0.1:8000", .api = "openai", .streams = 8, .requests = -1, .timeout_s = 300, .prompt_min = 64, .prompt_max = 64, .output_min = 64,
                   .output_max = 64, .popularity = DISTINCT, .exponent = 1, .cv = 1, .seed = 1};
    for (int k; (k = getopt_long(argc, argv, "h", longs, NULL)) != -1;) switch (k) {
        case 'u': o->url = optarg; break;
        case 'm': read_models(o, optarg); break;
        case 'a': o->api = optarg; if (strcmp(optarg, "openai") && strcmp(optarg, "llama-server")) bad("--api", optarg); break;
        case 's': o->streams = read_int("--streams", optarg, 1); break;
        case 'n': o->requests = read_int("--requests", optarg, 1); break;
        case 'd': o->duration_s = read_int("--duration", optarg, 1); break;
        case 'r': read_arrivals(o, optarg); break;
        case 'p': read_popularity(o, optarg); break;
        case 'i': read_range("--prompt-tokens", optarg, &o->prompt_min, &o->prompt_max); break;
        case 'o': read_range("--output-tokens", optarg, &o->output_min, &o->output_max); break;
        case 'c': o->cut = atof(optarg); break;
        case 'k': o->bearer = optarg; break;
        case 'T': read_tenant(o, optarg); break;
        case 't': o->timeout_s = read_int("--timeout", optarg, 1); break;
        case 'x': o->seed = strtoull(optarg, NULL, 10); break;
        case 'j': o->json = optarg; break;
        case 'h': usage(); exit(0);
        case 'v': printf("adapterbench %s\n", AD_VERSION); exit(0);
        case 'D': dump_options(); exit(0);
        default: exit(2);
        }
    if (optind < argc) bad("argument", argv[optind]);
    bool named = o->n_tenants > 0;
    for (int i = 0; i < o->n_tenants; i++) named &= o->tenants[i].model != NULL;
    if (!o->n_models && !named) bad("--models", "");
    if (o->n_tenants) o->streams = 0;
    for (int i = 0; i < o->n_tenants; i++) o->streams += o->tenants[i].streams;
    if (o->n_tenants && o->arrivals != CLOSED) bad("--tenant", "with --arrivals other than closed");
    if (o->requests < 0) o->requests = o->duration_s ? 0 : 64;
}

static void resolve(bench *b)
{
    char host[256], port[16] = "80";
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (sscanf(b->o.url, "http://%255[^:/]:%15[0-9]", host, port) < 1) bad("--url", b->o.url);
    if (getaddrinfo(host, port, &hints, &list)) bad("--url", b->o.url);
    memcpy(&b->addr, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    snprintf(b->host, sizeof b->host, "%s:%s", host, port);
}

int main(int argc, char **argv)
{
    static bench b;
    read_options(&b.o, argc, argv);
    resolve(&b);
    b.rng = b.o.seed;
    b.share = calloc((size_t)b.o.n_models + 1, sizeof *b.share);
    b.model_tokens = calloc((size_t)b.o.n_models + 1, sizeof *b.model_tokens);
    if (!b.share || !b.model_tokens) return 1;
    set_shares(&b);
    uv_loop_init(&b.loop);
    uv_timer_init(&b.loop, &b.next_arrival);
    uv_timer_init(&b.loop, &b.progress);
    b.next_arrival.data = b.progress.data = &b;
    b.start_ns = uv_hrtime();
    uv_timer_start(&b.progress, on_progress, 1000, 1000);
    if (b.o.n_tenants)
        for (int i = 0; i < b.o.n_tenants; i++)
            for (int k = 0; k < b.o.tenants[i].streams && more_to_start(&b); k++) start_one(&b, &b.o.tenants[i]);
    else if (b.o.arrivals == CLOSED)
        for (int i = 0; i < b.o.streams && more_to_start(&b); i++) start_one(&b, NULL);
    else
        on_arrival(&b.next_arrival);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    report(&b);
    uv_close((uv_handle_t *)&b.next_arrival, NULL);
    uv_close((uv_handle_t *)&b.progress, NULL);
    uv_run(&b.loop, UV_RUN_DEFAULT);
    uv_loop_close(&b.loop);
    samples_free(&b.ttft), samples_free(&b.itl), samples_free(&b.e2e);
    for (int i = 0; i < b.o.n_tenants; i++) samples_free(&b.o.tenants[i].ttft), samples_free(&b.o.tenants[i].itl);
    free(b.share), free(b.model_tokens);
    return b.errors != 0;
}
