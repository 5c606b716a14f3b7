/* SPDX-License-Identifier: MIT */
/* One table of keys, read from defaults, a file, the environment and the command line, in that order. Start only. */
#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/tensor/kernels.h"
#include "server/http/address.h"
#include "server/observe/log.h"

typedef enum { STRING, INTEGER, BYTES, FLAG, ADAPTERS, MODULES, LIST, NO_LIMIT, NO_EFFECT } key_kind; /* NO_LIMIT: a number, NO_EFFECT: a flag, that mean nothing here */

typedef struct {
    const char *name, *arg;
    key_kind kind;
    size_t offset;          /* of the field; of the pointer for lists */
    const char *preset;     /* as text; NULL: none */
    long min, max;          /* INTEGER, NO_LIMIT */
    const char *accepts;    /* STRING: the words it may be, joined by '|'; NULL: anything */
    const char *help;
} key;

#define FIELD(f) offsetof(ad_config, f)
static const key keys[] = {
    {"model", "PATH", STRING, FIELD(model), NULL, 0, 0, NULL, "GGUF file or Hugging Face directory of the base model (required)"},
    {"served-name", "NAME", STRING, FIELD(served_name), NULL, 0, 0, NULL, "the base model's id in the API; default: the model's own name"},
    {"chat-template-file", "FILE", STRING, FIELD(chat_template_file), NULL, 0, 0, NULL, "the base's chat template, instead of the model's own"},
    {"adapter", "NAME=DIR", ADAPTERS, FIELD(adapters), NULL, 0, 0, NULL, "a PEFT adapter and the name requests use; repeatable"},
    {"adapter-dir", "DIR", LIST, FIELD(adapter_dirs), NULL, 0, 0, NULL, "every sub-directory is an adapter of that name; repeatable"},
    {"bad-adapter", "POLICY", STRING, FIELD(bad_adapter), "quarantine", 0, 0, "quarantine|refuse", "when an adapter named here has bad files, or does not fit: start without it, or not at all"},
    {"lora-modules", "MODULE...", MODULES, FIELD(adapters), NULL, 0, 0, NULL, "the same as vLLM spells it: NAME=DIR or {\"name\": NAME, \"path\": DIR}, one or several"},
    {"enable-lora", "", NO_EFFECT, 0, NULL, 0, 0, NULL, "vLLM's, without effect: adapters are always served"},
    {"max-loras", "N", NO_LIMIT, 0, NULL, 1, 1 << 20, NULL, "vLLM's, without effect: any number of adapters share a batch"},
    {"max-cpu-loras", "N", NO_LIMIT, 0, NULL, 1, 1 << 20, NULL, "vLLM's, without effect: --adapter-memory counts bytes"},
    {"max-lora-rank", "N", NO_LIMIT, 0, NULL, 1, 1 << 20, NULL, "vLLM's, without effect: every adapter costs its own rank"},
    {"listen", "ADDRESS", LIST, FIELD(listen), NULL, 0, 0, NULL, "127.0.0.1:8000, [::1]:8000, https://127.0.0.1:8443 or unix:/PATH,mode=0660,group=NAME, in place of --host and --port; repeatable"},
    {"tls-cert", "FILE", STRING, FIELD(tls_cert), NULL, 0, 0, NULL, "certificate and chain (PEM) of https:// addresses; without --listen, --host and --port speak https, too"},
    {"tls-key", "FILE", STRING, FIELD(tls_key), NULL, 0, 0, NULL, "its private key; default: in the same file"},
    {"tls-client-ca", "FILE", STRING, FIELD(tls_client_ca), NULL, 0, 0, NULL, "https clients must show a certificate that one of these vouches for"},
    {"insecure", "", FLAG, FIELD(insecure), "false", 0, 0, NULL, "serve other machines although there is no key: whoever reaches the port is the operator"},
    {"host", "ADDRESS", STRING, FIELD(host), "127.0.0.1", 0, 0, NULL, "address to listen on"},
    {"port", "N", INTEGER, FIELD(port), "8000", 0, 65535, NULL, "port to listen on; 0: any free one, printed"},
    {"weights", "TYPE", STRING, FIELD(weights), "auto", 0, 0, "auto|f32|bf16|int8|int4", "resident weights; auto: int4 or int8 for quantised files, else bf16"},
    {"kv-type", "TYPE", STRING, FIELD(kv_type), "f16", 0, 0, "f16|f32", "type of the KV cache"},
    {"merge", "MODE", STRING, FIELD(merge), "off", 0, 0, NULL, "off, auto, or an adapter whose weights are merged into a copy of the base's"},
    {"threads", "N", INTEGER, FIELD(threads), "0", 0, 1024, NULL, "threads that compute; 0: one per usable core"},
    {"context", "TOKENS", INTEGER, FIELD(context), "0", 0, 1 << 24, NULL, "longest prompt and answer together; 0: what the model was trained for"},
    {"max-running", "N", INTEGER, FIELD(max_running), "64", 1, 4096, NULL, "sequences in one batch"},
    {"step-tokens", "N", INTEGER, FIELD(step_tokens), "256", 1, 65536, NULL, "rows of one forward step, prompts and answers together"},
    {"queue-limit", "N", INTEGER, FIELD(queue_limit), "256", 0, 1 << 20, NULL, "sequences that may wait; more are answered 503"},
    {"queue-timeout", "SECONDS", INTEGER, FIELD(queue_timeout_s), "300", 0, 86400, NULL, "a sequence that waits longer is answered 503; 0: never"},
    {"adapter-bytes", "BYTES", BYTES, FIELD(adapter_bytes), "0", 0, 0, NULL, "adapters that one step reads together; others take turns; 0: no limit"},
    {"state-dir", "DIR", STRING, FIELD(state_dir), NULL, 0, 0, NULL, "where uploaded adapters are kept; without it they are gone when the daemon ends"},
    {"adapter-memory", "BYTES", BYTES, FIELD(adapter_memory_bytes), "0", 0, 0, NULL, "packed adapters in memory, the least used go first; 0: a quarter of what is free"},
    {"cold-adapter", "POLICY", STRING, FIELD(cold_adapter), "wait", 0, 0, "wait|refuse", "what a request for an adapter that is not in memory does"},
    {"cold-timeout", "SECONDS", INTEGER, FIELD(cold_timeout_s), "30", 1, 3600, NULL, "how long it waits before it is answered 503"},
    {"max-adapters", "N", INTEGER, FIELD(max_adapters), "100000", 1, 10000000, NULL, "adapters in the registry"},
    {"loaders", "N", INTEGER, FIELD(loaders), "2", 1, 64, NULL, "threads that read, check and pack adapters"},
    {"adapter-root", "DIR", LIST, FIELD(adapter_roots), NULL, 0, 0, NULL, "clients may name adapters in this directory by path; repeatable"},
    {"watch-dir", "DIR", STRING, FIELD(watch_dir), NULL, 0, 0, NULL, "folders that appear in it are served, and go when they are removed"},
    {"source-host", "HOST", LIST, FIELD(source_hosts), NULL, 0, 0, NULL, "adapters may be fetched from it by https: name, *.name or address[:port]; repeatable"},
    {"source-ca", "FILE", STRING, FIELD(source_ca), NULL, 0, 0, NULL, "certificates that vouch for source hosts; default: the system's"},
    {"trusted-key", "KEY", LIST, FIELD(trusted_keys), NULL, 0, 0, NULL, "minisign public key, or its file; repeatable"},
    {"signatures", "POLICY", STRING, FIELD(signatures), "off", 0, 0, "off|warn|require", "whether adapters must be signed by a trusted key"},
    {"max-body", "BYTES", BYTES, FIELD(max_body_bytes), "8M", 0, 0, NULL, "largest request body; 512k, 8M, 1G"},
    {"max-adapter-bytes", "BYTES", BYTES, FIELD(max_adapter_bytes), "1G", 0, 0, NULL, "largest adapter that is taken: all its files, unpacked"},
    {"kv-memory", "BYTES", BYTES, FIELD(kv_memory_bytes), "0", 0, 0, NULL, "memory of the KV cache; 0: a quarter of what is free, at most what is useful"},
    {"max-connections", "N", INTEGER, FIELD(max_connections), "1024", 1, 1 << 20, NULL, "open client connections; 16 more may ask for /health, /livez, /readyz and /metrics"},
    {"max-connections-per-ip", "N", INTEGER, FIELD(max_connections_per_ip), "0", 0, 1 << 20, NULL, "of one IPv4 address or IPv6 /64; 0: half of all, and no limit on loopback"},
    {"header-timeout", "SECONDS", INTEGER, FIELD(header_timeout_s), "10", 1, 3600, NULL, "how long a request's head may take"},
    {"body-timeout", "SECONDS", INTEGER, FIELD(body_timeout_s), "10", 1, 3600, NULL, "in each such time a request's body ends or brings 4 KiB a second"},
    {"idle-timeout", "SECONDS", INTEGER, FIELD(idle_timeout_s), "75", 1, 86400, NULL, "how long a connection waits for the next request"},
    {"write-timeout", "SECONDS", INTEGER, FIELD(write_timeout_s), "30", 1, 3600, NULL, "in each such time a client takes all of a reply that waits for it, or 16 KiB"},
    {"slow-reader", "POLICY", STRING, FIELD(slow_reader), "cut", 0, 0, "cut|pause", "a stream whose client is behind by output-buffer: cut, or kept for it up to 16 times as much"},
    {"output-buffer", "BYTES", BYTES, FIELD(output_buffer_bytes), "1M", 0, 0, NULL, "what a stream's client may leave unread, beside what the system buffers"},
    {"shutdown-delay", "SECONDS", INTEGER, FIELD(shutdown_delay_s), "0", 0, 3600, NULL, "how long SIGTERM leaves everything open, but /readyz at 503"},
    {"drain-timeout", "SECONDS", INTEGER, FIELD(drain_timeout_s), "30", 0, 86400, NULL, "how long running requests may go on then, before they end with an error"},
    {"stuck-after", "SECONDS", INTEGER, FIELD(stuck_after_s), "60", 0, 86400, NULL, "one step of the engine may take so long; then /livez is 503 and systemd's watchdog hears nothing; 0: any time"},
    {"log-level", "LEVEL", STRING, FIELD(log_level), "info", 0, 0, "error|warn|info|debug", "what is logged to stderr"},
    {"log-format", "FORMAT", STRING, FIELD(log_format), "auto", 0, 0, "auto|human|json", "of its lines; auto: for people when stderr is a terminal, else JSON"},
    {"log-prompts", "WORD", STRING, FIELD(log_prompts), "off", 0, 0, "off|on", "whether prompts are logged, at level debug"},
    {"metrics-top", "N", INTEGER, FIELD(metrics_top), "20", 0, 1000, NULL, "adapters, and tenants, that have series of their own in /metrics: those with the most traffic"},
    {"cpu-features", "LIST", STRING, FIELD(cpu_features), "auto", 0, 0, NULL, "auto, none, or a list such as avx2,avx512: kernels to use"},
};
enum { N_KEYS = sizeof keys / sizeof *keys, MAX_ADAPTERS = 65536 };

/* What SIGHUP changes in a running process. Of everything else it says that it needs a restart. */
static const char *const live_keys[] = {
    "queue-limit", "queue-timeout", "cold-adapter", "cold-timeout", "max-adapters", "adapter-root", "source-host", "source-ca", "trusted-key", "max-adapter-bytes",
    "max-body", "max-connections", "max-connections-per-ip", "header-timeout", "body-timeout", "idle-timeout", "write-timeout", "slow-reader", "output-buffer",
    "shutdown-delay", "drain-timeout", "stuck-after", "log-level", "log-format", "log-prompts",
};

static bool is_live(const key *k)
{
    for (size_t i = 0; i < sizeof live_keys / sizeof *live_keys; i++)
        if (!strcmp(live_keys[i], k->name)) return true;
    return false;
}

/* What only the command line has. */
static const struct {
    const char *name, *arg, *help;
} actions[] = {
    {"config", "FILE", "read options from FILE"},
    {"check-config", "", "read all options, say what is wrong with them, and exit; the model is not loaded"},
    {"dump-config", "", "print all options as they are now, as a file for --config, and exit"},
    {"create-admin-key", "[NAME]", "make a key that may do everything in --state-dir, print it, and exit; no daemon may run there"},
    {"dump-options", "", "print this list as JSON and exit; manual pages and completion are made of it"},
    {"help", "", "print this and exit"},
    {"version", "", "print the version and exit"},
};
enum { N_ACTIONS = sizeof actions / sizeof *actions };

static const size_t max_file = 1u << 20;

/* ---- values ---- */

static ad_status bad(ad_err *err, const char *where, const char *value, const char *fmt, ...) AD_PRINTF(4, 5);
static ad_status bad(ad_err *err, const char *where, const char *value, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return ad_fail(err, AD_EINVAL, "%s: \"%.100s\" %s", where, value, what);
}

static ad_status no_memory(ad_err *err)
{
    return ad_fail(err, AD_ENOMEM, "configuration: out of memory");
}

static ad_status set_string(const key *k, char **field, const char *where, const char *value, ad_err *err)
{
    size_t n = strlen(value);
    bool fits = !k->accepts;
    for (const char *p = k->accepts; p && !fits; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) fits = strcspn(p, "|") == n && !memcmp(p, value, n);
    if (!n) return ad_fail(err, AD_EINVAL, "%s: the value is empty", where);
    if (!fits) return bad(err, where, value, "is none of: %s", k->accepts);
    char *copy = strdup(value);
    if (!copy) return no_memory(err);
    free(*field);
    *field = copy;
    return AD_OK;
}

static ad_status read_integer(const key *k, int *out, const char *where, const char *value, ad_err *err)
{
    char *end;
    errno = 0;
    long v = strtol(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end || errno || v < k->min || v > k->max) return bad(err, where, value, "is not a whole number from %ld to %ld", k->min, k->max);
    *out = (int)v;
    return AD_OK;
}

static ad_status set_bytes(size_t *field, const char *where, const char *value, ad_err *err)
{
    static const char units[] = "kMGT";
    char *end;
    errno = 0;
    unsigned long long v = strtoull(value, &end, 10);
    bool good = isdigit((unsigned char)*value) && !errno;
    const char *unit = *end ? strchr(units, *end == 'K' ? 'k' : *end) : NULL;
    int shift = unit ? 10 * (int)(unit - units + 1) : 0;
    if (unit) end++;
    if (!good || *end || v > (UINT64_MAX >> 8 >> shift)) return bad(err, where, value, "is not a number of bytes such as 4096, 512k, 8M or 1G");
    *field = (size_t)v << shift;
    return AD_OK;
}

static ad_status set_flag(bool *field, const char *where, const char *value, ad_err *err)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(value, words[i])) continue;
        *field = i % 2;
        return AD_OK;
    }
    return bad(err, where, value, "is neither true nor false");
}

static ad_status add_adapter(ad_config *c, const char *where, const char *name, size_t len, const char *dir, ad_err *err)
{
    if (c->n_adapters == MAX_ADAPTERS) return ad_fail(err, AD_ELIMIT, "%s: more than %d adapters", where, MAX_ADAPTERS);
    ad_config_adapter *more = realloc(c->adapters, (size_t)(c->n_adapters + 1) * sizeof *more);
    if (!more) return no_memory(err);
    c->adapters = more;
    ad_config_adapter a = {strndup(name, len), strdup(dir)};
    more[c->n_adapters++] = a;
    return a.name && a.dir ? AD_OK : no_memory(err);
}

static ad_status add_pair(ad_config *c, const char *where, const char *value, ad_err *err)
{
    const char *eq = strchr(value, '=');
    if (!eq || eq == value || !eq[1]) return bad(err, where, value, "is not NAME=DIR");
    return add_adapter(c, where, value, (size_t)(eq - value), eq + 1, err);
}

/* {"name", "path"}; base_model_name, which is vLLM's parent in its list, is the base model's here whatever it says. */
static ad_status add_object(ad_config *c, const char *where, const char *value, ad_err *err)
{
    const char *name, *path;
    json_t *base = NULL, *v = json_loads(value, JSON_REJECT_DUPLICATES, NULL);
    bool good = json_unpack(v, "{s:s, s:s, s?o!}", "name", &name, "path", &path, "base_model_name", &base) == 0 && *name && *path && (!base || json_is_string(base) || json_is_null(base));
    ad_status st = good ? add_adapter(c, where, name, strlen(name), path, err) : bad(err, where, value, "is not {\"name\": NAME, \"path\": DIR}, maybe with \"base_model_name\"");
    json_decref(v);
    return st;
}

static ad_status add_item(ad_config_list *list, const char *where, const char *value, ad_err *err)
{
    if (!*value) return ad_fail(err, AD_EINVAL, "%s: the value is empty", where);
    char **more = realloc(list->items, (size_t)(list->n + 1) * sizeof *more);
    if (!more) return no_memory(err);
    list->items = more;
    more[list->n] = strdup(value);
    return more[list->n] ? list->n++, AD_OK : no_memory(err);
}

static ad_status set_value(ad_config *c, const key *k, const char *where, const char *value, ad_err *err)
{
    void *field = (char *)c + k->offset;
    int unused;
    switch (k->kind) {
    case STRING: return set_string(k, field, where, value, err);
    case INTEGER: return read_integer(k, field, where, value, err);
    case BYTES: return set_bytes(field, where, value, err);
    case FLAG: return set_flag(field, where, value, err);
    case ADAPTERS: return add_pair(c, where, value, err);
    case MODULES: return *value == '{' ? add_object(c, where, value, err) : add_pair(c, where, value, err);
    case NO_LIMIT: return read_integer(k, &unused, where, value, err);
    case NO_EFFECT: return AD_OK;
    default: return add_item(field, where, value, err);
    }
}

static const key *find_key(const char *name, size_t len)
{
    for (int i = 0; i < N_KEYS; i++)
        if (strlen(keys[i].name) == len && !memcmp(keys[i].name, name, len)) return &keys[i];
    return NULL;
}

/* ---- file ---- */

static char *trim(char *s)
{
    while (isspace((unsigned char)*s)) s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) end--;
    *end = '\0';
    return s;
}

static ad_status read_line(ad_config *c, const char *where, char *line, ad_err *err)
{
    line = trim(line);
    if (!*line || *line == '#' || *line == ';') return AD_OK;
    char *eq = strchr(line, '=');
    if (!eq) return bad(err, where, line, "is not \"key = value\"");
    *eq = '\0';
    char *name = trim(line), *value = trim(eq + 1);
    const key *k = find_key(name, strlen(name));
    if (!k) return bad(err, where, name, "is an unknown key; --help lists them all");
    char place[400];
    snprintf(place, sizeof place, "%s: %s", where, k->name);
    return set_value(c, k, place, value, err);
}

static ad_status read_file(ad_config *c, const char *path, ad_err *err)
{
    ad_file f = {0};
    ad_status st = ad_file_read(&f, path, max_file, err);
    if (st != AD_OK) return st;
    char *text = strndup(f.data ? f.data : "", f.len);
    bool has_nul = text && strlen(text) != f.len;
    ad_file_close(&f);
    if (!text) return no_memory(err);
    if (has_nul) st = ad_fail(err, AD_EINVAL, "%s: not a text file", path);
    int number = 1;
    for (char *line = text, *next; line && st == AD_OK; line = next, number++) {
        char where[300];
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        snprintf(where, sizeof where, "%.250s, line %d", path, number);
        st = read_line(c, where, line, err);
    }
    free(text);
    return st;
}

/* ---- environment ---- */

/* ADAPTERD_STEP_TOKENS for step-tokens. */
static void env_name(const char *name, char *dst)
{
    dst += sprintf(dst, "ADAPTERD_");
    for (; *name; name++) *dst++ = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    *dst = '\0';
}

static const key *find_env(const char *name, size_t len)
{
    char wanted[64];
    for (int i = 0; i < N_KEYS; i++) {
        env_name(keys[i].name, wanted);
        if (strlen(wanted) == len && !memcmp(wanted, name, len)) return &keys[i];
    }
    return NULL;
}

/* Lists are separated by commas here. */
static ad_status set_from_env(ad_config *c, const key *k, const char *where, const char *value, ad_err *err)
{
    bool is_list = k->kind == ADAPTERS || k->kind == LIST || (k->kind == MODULES && *value != '{'); /* JSON has commas of its own */
    if (!is_list) return set_value(c, k, where, value, err);
    char *copy = strdup(value), *save = NULL;
    if (!copy) return no_memory(err);
    ad_status st = AD_OK;
    for (char *item = strtok_r(copy, ",", &save); item && st == AD_OK; item = strtok_r(NULL, ",", &save)) st = set_value(c, k, where, item, err);
    free(copy);
    return st;
}

static ad_status read_environment(ad_config *c, char **env, ad_err *err)
{
    for (; *env; env++) {
        const char *eq = strchr(*env, '=');
        if (strncmp(*env, "ADAPTERD_", 9) || !eq) continue;
        char where[100];
        snprintf(where, sizeof where, "environment variable %.*s", (int)(eq - *env > 60 ? 60 : eq - *env), *env);
        const key *k = find_env(*env, (size_t)(eq - *env));
        if (!k && !strncmp(*env, "ADAPTERD_CONFIG=", 16)) continue; /* read before */
        if (!k) return ad_fail(err, AD_EINVAL, "%s: there is no such key; --help lists them all", where);
        ad_status st = set_from_env(c, k, where, eq + 1, err);
        if (st != AD_OK) return st;
    }
    return AD_OK;
}

/* ---- command line ---- */

static const char create_admin_key[] = "create-admin-key";

static const char *plain_arg(const char *arg)
{
    return arg[0] == '-' && arg[1] == '-' && arg[2] ? arg + 2 : NULL;
}

static bool is_option(const char *name, size_t len, const char *wanted) { return len == strlen(wanted) && !memcmp(name, wanted, len); }

/* Splits --name=value or --name value; *i moves on. The value of a flag is "true", that of an action without one "". */
static ad_status next_option(int argc, char **argv, int *i, const char **name, size_t *len, const char **value, ad_err *err)
{
    *name = plain_arg(argv[*i]);
    if (!*name) return ad_fail(err, AD_EINVAL, "\"%.100s\" is not an option; --help lists them all", argv[*i]);
    const char *eq = strchr(*name, '=');
    *len = eq ? (size_t)(eq - *name) : strlen(*name);
    bool is_config = is_option(*name, *len, "config"), is_check = !strcmp(*name, "check-config") || !strcmp(*name, "dump-config"), is_create = is_option(*name, *len, create_admin_key);
    const key *k = find_key(*name, *len);
    if (!is_config && !is_check && !is_create && !k) return ad_fail(err, AD_EINVAL, "unknown option --%.*s; --help lists them all", (int)(*len > 60 ? 60 : *len), *name);
    if (is_check || (k && k->kind == NO_EFFECT)) *value = "";
    else if (!eq && k && k->kind == FLAG) *value = "true";
    else if (!eq && is_create && (*i + 1 == argc || argv[*i + 1][0] == '-')) *value = "";
    else *value = eq ? eq + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    return *value ? AD_OK : ad_fail(err, AD_EINVAL, "option --%.*s needs a value", (int)*len, *name);
}

static ad_status set_admin_key(ad_config *c, const char *where, const char *name, ad_err *err)
{
    enum { NAME = 128 };
    c->create_admin_key = true;
    if (strlen(name) > NAME) return ad_fail(err, AD_EINVAL, "%s: the name is longer than %d bytes", where, NAME);
    free(c->admin_key_name);
    c->admin_key_name = *name ? strdup(name) : NULL;
    return !*name || c->admin_key_name ? AD_OK : no_memory(err);
}

static ad_status read_options(ad_config *c, int argc, char **argv, const char **config_path, ad_err *err)
{
    ad_status st = AD_OK;
    for (int i = 1; i < argc && st == AD_OK; i++) {
        const char *name, *value;
        size_t len = 0;
        st = next_option(argc, argv, &i, &name, &len, &value, err);
        if (st != AD_OK) break;
        const key *k = find_key(name, len);
        char where[80];
        snprintf(where, sizeof where, "option --%.*s", (int)len, name);
        if (is_option(name, len, "config")) *config_path = value;
        else if (c && is_option(name, len, create_admin_key)) st = set_admin_key(c, where, value, err);
        else if (k && c) st = set_value(c, k, where, value, err);
        while (st == AD_OK && k && k->kind == MODULES && i + 1 < argc && argv[i + 1][0] != '-') { /* vLLM takes several behind one option */
            i++;
            if (c) st = set_value(c, k, where, argv[i], err);
        }
    }
    return st;
}

/* ---- help ---- */

static void print_help(FILE *out)
{
    fprintf(out, "usage: adapterd --model PATH [--adapter NAME=DIR]... [options]\n\n"
                 "Serves one base model and any number of LoRA adapters over HTTP.\n\n");
    for (int i = 0; i < N_KEYS; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s %s", keys[i].name, keys[i].arg);
        fprintf(out, "  %-28s %s", left, keys[i].help);
        if (keys[i].accepts) fprintf(out, " (%s)", keys[i].accepts);
        if (keys[i].preset) fprintf(out, " [%s]", keys[i].preset);
        fputc('\n', out);
    }
    for (int i = 0; i < N_ACTIONS; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s %s", actions[i].name, actions[i].arg);
        fprintf(out, "  %-28s %s\n", left, actions[i].help);
    }
    fprintf(out, "\nEach option is also a line \"key = value\" of the file (# begins a comment line) and an environment variable:\n"
                 "step-tokens is ADAPTERD_STEP_TOKENS; lists are separated by commas there. Options win over the environment,\n"
                 "the environment over the file. Lists add up.\n");
}

static const char *kind_name(key_kind kind)
{
    switch (kind) {
    case STRING: return "string";
    case INTEGER: return "integer";
    case BYTES: return "bytes";
    case FLAG: return "flag";
    case ADAPTERS:
    case MODULES:
    case LIST: return "list";
    case NO_LIMIT: return "ignored-integer";
    case NO_EFFECT: return "ignored-flag";
    }
    return "";
}

/* {"program", "version", "options": [{"name", "arg", "kind", "help", "default", "accepts", "live", "min", "max"}], "actions": [{"name", "arg", "help"}]}; null or absent: none. */
static void dump_options(FILE *out)
{
    json_t *options = json_array(), *others = json_array();
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        json_t *v = json_pack("{s:s, s:s, s:s, s:s, s:s?, s:s?, s:b}", "name", k->name, "arg", k->arg, "kind", kind_name(k->kind), "help", k->help, "default", k->preset,
                              "accepts", k->accepts, "live", is_live(k));
        if (k->kind == INTEGER || k->kind == NO_LIMIT) json_object_update_new(v, json_pack("{s:I, s:I}", "min", (json_int_t)k->min, "max", (json_int_t)k->max));
        json_array_append_new(options, v);
    }
    for (int i = 0; i < N_ACTIONS; i++) json_array_append_new(others, json_pack("{s:s, s:s, s:s}", "name", actions[i].name, "arg", actions[i].arg, "help", actions[i].help));
    json_t *root = json_pack("{s:s, s:s, s:o, s:o}", "program", "adapterd", "version", AD_VERSION, "options", options, "actions", others);
    json_dumpf(root, out, JSON_INDENT(1));
    fputc('\n', out);
    json_decref(root);
}

static bool has_option(int argc, char **argv, const char *option)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], option)) return true;
    return false;
}

static bool print_and_exit(int argc, char **argv, FILE *out)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--dump-options")) return dump_options(out), true;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return print_help(out), true;
        if (!strcmp(argv[i], "--version")) return fprintf(out, "adapterd %s\n", AD_VERSION), true;
    }
    return false;
}

/* ---- values as text ---- */

/* Lines "key = value": none for a key that is not set, or of which another name is the rule. */
static void write_key(const ad_config *c, const key *k, ad_buf *out)
{
    const void *field = (const char *)c + k->offset;
    const ad_config_list *list = field;
    const char *text = k->kind == STRING ? *(char *const *)field : NULL;
    if (text) ad_buf_printf(out, "%s = %s\n", k->name, text);
    if (k->kind == INTEGER) ad_buf_printf(out, "%s = %d\n", k->name, *(const int *)field);
    if (k->kind == BYTES) ad_buf_printf(out, "%s = %zu\n", k->name, *(const size_t *)field);
    if (k->kind == FLAG) ad_buf_printf(out, "%s = %s\n", k->name, *(const bool *)field ? "true" : "false");
    for (int i = 0; k->kind == LIST && i < list->n; i++) ad_buf_printf(out, "%s = %s\n", k->name, list->items[i]);
    for (int i = 0; k->kind == ADAPTERS && i < c->n_adapters; i++) ad_buf_printf(out, "%s = %s=%s\n", k->name, c->adapters[i].name, c->adapters[i].dir);
}

static void dump_config(const ad_config *c, FILE *out)
{
    ad_buf b = {0};
    for (int i = 0; i < N_KEYS; i++) write_key(c, &keys[i], &b);
    if (b.len) fwrite(b.data, 1, b.len, out);
    ad_buf_deinit(&b);
}

/* ---- changes at run time ---- */

static bool differs(const ad_config *a, const ad_config *b, const key *k)
{
    ad_buf x = {0}, y = {0};
    write_key(a, k, &x);
    write_key(b, k, &y);
    bool same = x.len == y.len && (!x.len || !memcmp(x.data, y.data, x.len)) && !x.failed && !y.failed;
    ad_buf_deinit(&x);
    ad_buf_deinit(&y);
    return !same;
}

static size_t field_size(const key *k)
{
    switch (k->kind) {
    case STRING: return sizeof(char *);
    case INTEGER: return sizeof(int);
    case BYTES: return sizeof(size_t);
    case FLAG: return sizeof(bool);
    default: return sizeof(ad_config_list);
    }
}

static void swap_field(ad_config *a, ad_config *b, const key *k)
{
    char *x = (char *)a + k->offset, *y = (char *)b + k->offset, kept[sizeof(ad_config_list)];
    size_t n = field_size(k);
    memcpy(kept, x, n);
    memcpy(x, y, n);
    memcpy(y, kept, n);
}

void ad_config_adopt(ad_config *c, ad_config *next, void (*tell)(void *user, const char *name, bool live), void *user)
{
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        if (!differs(c, next, k)) continue;
        if (is_live(k)) swap_field(c, next, k);
        tell(user, k->name, is_live(k));
    }
}

/* ---- the whole ---- */

static ad_status set_presets(ad_config *c, ad_err *err)
{
    ad_status st = AD_OK;
    for (int i = 0; i < N_KEYS && st == AD_OK; i++)
        if (keys[i].preset) st = set_value(c, &keys[i], keys[i].name, keys[i].preset, err);
    return st;
}

static ad_status check_listen(const ad_config *c, ad_err *err)
{
    ad_http_address addresses[AD_HTTP_MAX_ADDRESSES];
    ad_err why;
    int n = 0;
    bool tls = false;
    for (int i = 0; i < c->listen.n; i++)
        if (ad_http_address_read(addresses, &n, c->listen.items[i], &why) != AD_OK) return ad_fail(err, why.code, "listen: %s", why.msg);
    for (int i = 0; i < n; i++) tls |= addresses[i].tls;
    if (tls && !c->tls_cert) return ad_fail(err, AD_EINVAL, "listen: an https:// address needs a certificate: --tls-cert FILE");
    if (n && !tls && c->tls_cert) return ad_fail(err, AD_EINVAL, "tls-cert: no --listen address begins with https://");
    if (!c->tls_cert && (c->tls_key || c->tls_client_ca)) return ad_fail(err, AD_EINVAL, "tls-%s: needs --tls-cert", c->tls_key ? "key" : "client-ca");
    return AD_OK;
}

static ad_status check(const ad_config *c, ad_err *err)
{
    unsigned mask, here = ad_cpu_detect();
    if (c->create_admin_key) return c->state_dir ? AD_OK : ad_fail(err, AD_EINVAL, "create-admin-key: needs --state-dir DIR, where the key will be known");
    if (!c->model) return ad_fail(err, AD_EINVAL, "no model: give --model PATH (a GGUF file or a Hugging Face directory)");
    if (!ad_cpu_parse(c->cpu_features, &mask)) return ad_fail(err, AD_EINVAL, "cpu-features: \"%.100s\" is not auto, none or a list of avx2, avx512, avx512_vnni, avx512_bf16, avx_vnni", c->cpu_features);
    if (mask & ~here) return ad_fail(err, AD_EINVAL, "cpu-features: this CPU does not have all of \"%.100s\"", c->cpu_features);
    if (c->max_body_bytes < 1024) return ad_fail(err, AD_EINVAL, "max-body: must be at least 1k");
    if (c->output_buffer_bytes < 1024 || c->output_buffer_bytes > 1u << 30) return ad_fail(err, AD_EINVAL, "output-buffer: must be from 1k to 1G");
    if (c->max_adapter_bytes < 1024) return ad_fail(err, AD_EINVAL, "max-adapter-bytes: must be at least 1k");
    return check_listen(c, err);
}

static const char *env_value(char **env, const char *prefix)
{
    for (; *env; env++)
        if (!strncmp(*env, prefix, strlen(prefix))) return *env + strlen(prefix);
    return NULL;
}

ad_status ad_config_parse(ad_config *c, int argc, char **argv, char **environ_, FILE *out, int *action, ad_err *err)
{
    memset(c, 0, sizeof *c);
    *action = print_and_exit(argc, argv, out);
    if (*action) return AD_OK;
    const char *path = env_value(environ_, "ADAPTERD_CONFIG=");
    ad_status st = set_presets(c, err);
    if (st == AD_OK) st = read_options(NULL, argc, argv, &path, err); /* only where the file is */
    if (st == AD_OK && path) st = read_file(c, path, err);
    if (st == AD_OK) st = read_environment(c, environ_, err);
    if (st == AD_OK) st = read_options(c, argc, argv, &path, err);
    if (st == AD_OK) st = check(c, err);
    bool check_only = has_option(argc, argv, "--check-config"), dump_only = has_option(argc, argv, "--dump-config");
    if (st == AD_OK && check_only) fputs("adapterd: the configuration is good\n", out);
    else if (st == AD_OK && dump_only) dump_config(c, out);
    *action = st == AD_OK && (check_only || dump_only);
    if (st != AD_OK || *action) ad_config_deinit(c);
    return st;
}

void ad_config_deinit(ad_config *c)
{
    for (int k = 0; k < N_KEYS; k++) {
        void *field = (char *)c + keys[k].offset;
        if (keys[k].kind == STRING) free(*(char **)field);
        ad_config_list *list = keys[k].kind == LIST ? field : NULL;
        for (int i = 0; list && i < list->n; i++) free(list->items[i]);
        if (list) free(list->items);
    }
    for (int i = 0; i < c->n_adapters; i++) free(c->adapters[i].name), free(c->adapters[i].dir);
    free(c->adapters);
    free(c->admin_key_name);
    memset(c, 0, sizeof *c);
}
