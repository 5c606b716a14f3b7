/* SPDX-License-Identifier: MIT */
/* adapterctl: work on adapters, and on the server itself, from the command line. Options and commands are two tables, which --help prints. */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "clients/adapterctl/ctl.h"

/* ---- options ---- */

typedef enum {
    O_URL, O_KEY, O_CA_FILE, O_TIMEOUT, O_JSON, O_HELP, O_VERSION, O_DUMP_OPTIONS, /* every command has these */
    O_NAME, O_DESCRIPTION, O_LABEL, O_SHA256, O_NO_ACTIVATE, O_SIGNATURE, O_SELFTEST, O_NEW_VERSION, O_ON_SERVER, O_IF_MATCH, O_PREFIX, O_STATE, O_LIMIT, O_AFTER, O_MODULES,
    O_CLEAR, O_DRAIN, O_LAST_ID, O_COUNT, O_NO_RECONNECT, O_BASE,
    O_WEIGHT, O_PRIORITY, O_TENANT, O_VERB, O_ADAPTER, O_EXPIRES, O_GRACE, O_FORCE, O_FROM, O_TO, O_CSV, O_INTERVAL, N_OPTIONS
} option_id;
enum { N_GLOBAL = O_DUMP_OPTIONS + 1 };

static const struct {
    const char *name, *value, *help;
} options[N_OPTIONS] = {
    [O_URL] = {"url", "URL", "of the server; default $ADAPTERCTL_URL, else http://127.0.0.1:8000"},
    [O_KEY] = {"key", "KEY", "API key; default $ADAPTERCTL_KEY, which other users cannot see"},
    [O_CA_FILE] = {"ca-file", "FILE", "certificates to trust with https"},
    [O_TIMEOUT] = {"timeout", "SECONDS", "for a call; for an upload: without a byte moving (120)"},
    [O_JSON] = {"json", NULL, "print the server's JSON as it came, also of errors"},
    [O_HELP] = {"help", NULL, "this text, or that of the command"},
    [O_VERSION] = {"version", NULL, "print the version"},
    [O_DUMP_OPTIONS] = {"dump-options", NULL, "print commands and options as JSON; the manual page and completion are made of it"},
    [O_NAME] = {"name", "NAME", "of the adapter, or of a new key"},
    [O_DESCRIPTION] = {"description", "TEXT", "for people"},
    [O_LABEL] = {"label", "KEY=VALUE", "a label; may be repeated"},
    [O_SHA256] = {"sha256", "HEX", "what the weights file must have"},
    [O_NO_ACTIVATE] = {"no-activate", NULL, "leave the version staged"},
    [O_SIGNATURE] = {"signature", "FILE", "a .minisig file over the digest"},
    [O_SELFTEST] = {"selftest", "FILE", "JSON: prompts that must pass before the version is active"},
    [O_NEW_VERSION] = {"new-version", NULL, "another version of a name that exists"},
    [O_ON_SERVER] = {"on-server", NULL, "PATH is a directory on the server's machine, under one of its roots"},
    [O_IF_MATCH] = {"if-match", "ETAG", "only when the adapter still has this ETag (show prints it)"},
    [O_PREFIX] = {"prefix", "TEXT", "names that begin with it"},
    [O_STATE] = {"state", "STATE", "uploading, verifying, staged, ready, draining, incompatible or failed"},
    [O_LIMIT] = {"limit", "N", "one page of at most N, 1 to 1000; else all, and of the audit log 100"},
    [O_AFTER] = {"after", "NAME|SEQ", "only what is behind it: in list a name, in audit the number of a row"},
    [O_MODULES] = {"modules", NULL, "also rank, scaling and norm of each module"},
    [O_CLEAR] = {"clear", NULL, "drop all labels first"},
    [O_DRAIN] = {"drain", "SECONDS", "wait so long for requests that still use it"},
    [O_LAST_ID] = {"last-id", "ID", "go on behind this event, as far as the server remembers"},
    [O_COUNT] = {"count", "N", "end after N events"},
    [O_NO_RECONNECT] = {"no-reconnect", NULL, "end when the stream breaks, with exit code 6"},
    [O_BASE] = {"base", "MODEL", "the base model: a GGUF file or Hugging Face directory"},
    [O_WEIGHT] = {"weight", "N", "of a tenant's share when all want more than there is; 1"},
    [O_PRIORITY] = {"priority", "NAME", "of a tenant's requests: interactive, or batch, which gives way"},
    [O_TENANT] = {"tenant", "NAME", "of this tenant only"},
    [O_VERB] = {"verb", "VERB", "what a key may do: infer, list, upload, activate, delete, merge, metrics or admin; may be repeated"},
    [O_ADAPTER] = {"adapter", "GLOB", "adapters a key is for, such as support-*; may be repeated"},
    [O_EXPIRES] = {"expires", "TIME", "when a new key ends: 90s, 30m, 12h or 30d from now"},
    [O_GRACE] = {"grace", "SECONDS", "how long the old key still works"},
    [O_FORCE] = {"force", NULL, "also when it is the last key of the operator"},
    [O_FROM] = {"from", "DAY", "the first day, as 2026-11-26 (UTC)"},
    [O_TO] = {"to", "DAY", "the last day"},
    [O_CSV] = {"csv", NULL, "as comma-separated values"},
    [O_INTERVAL] = {"interval", "SECONDS", "between two looks; 2"},
};

#define BIT(o) (1ull << (o))
#define UPLOAD (BIT(O_NAME) | BIT(O_DESCRIPTION) | BIT(O_LABEL) | BIT(O_SHA256) | BIT(O_SIGNATURE) | BIT(O_SELFTEST) | BIT(O_ON_SERVER))

/* ---- commands ---- */

typedef struct {
    const char *name, *args, *help;
    unsigned long long options; /* beside the global ones */
    int min_args, max_args;
    bool local;                 /* needs no server */
    int (*run)(ctl *c);
} command;

static const command commands[] = {
    {"list", "", "the adapters, in order of name", BIT(O_PREFIX) | BIT(O_STATE) | BIT(O_LABEL) | BIT(O_LIMIT) | BIT(O_AFTER), 0, 0, false, ctl_list},
    {"show", "NAME", "one adapter with its versions", BIT(O_MODULES), 1, 1, false, ctl_show},
    {"upload", "NAME PATH", "add an adapter: PATH is a PEFT directory, an archive of one (tar, tar.gz, zip), a GGUF LoRA file, or an https URL the server reads",
     UPLOAD | BIT(O_NO_ACTIVATE) | BIT(O_NEW_VERSION) | BIT(O_IF_MATCH), 1, 2, false, ctl_upload},
    {"dry-run", "[NAME] PATH", "what an upload would find, or why NAME could not take it, without adding it", UPLOAD | BIT(O_NEW_VERSION) | BIT(O_IF_MATCH), 1, 2, false, ctl_dry_run},
    {"activate", "NAME VERSION", "make a version the one that NAME means; a number, or at least 12 digits of its digest", BIT(O_IF_MATCH), 2, 2, false, ctl_activate},
    {"rollback", "NAME", "back to the version that was active before", BIT(O_IF_MATCH), 1, 1, false, ctl_rollback},
    {"alias", "set ALIAS MODEL[=WEIGHT]... | list | show ALIAS | delete ALIAS", "names that share requests among versions by weight", 0, 1, 1000, false, ctl_alias},
    {"pin", "NAME", "keep it in memory", BIT(O_IF_MATCH), 1, 1, false, ctl_pin},
    {"unpin", "NAME", "let it leave memory when others need the room", BIT(O_IF_MATCH), 1, 1, false, ctl_unpin},
    {"label", "NAME [KEY=VALUE | KEY-]...", "set labels, and take those away that end with '-'; the others stay", BIT(O_CLEAR) | BIT(O_DESCRIPTION) | BIT(O_IF_MATCH), 1, 1000, false,
     ctl_label},
    {"delete", "NAME[@NUMBER]", "an adapter with all its versions, or one version", BIT(O_DRAIN) | BIT(O_IF_MATCH), 1, 1, false, ctl_delete},
    {"events", "", "what happens to adapters, one line each, until interrupted; goes on after a break", BIT(O_NAME) | BIT(O_LAST_ID) | BIT(O_COUNT) | BIT(O_NO_RECONNECT), 0, 0, false,
     ctl_events},
    {"verify", "NAME", "let the server read the stored files again; exit code 1 when they changed", 0, 1, 1, false, ctl_verify},
    {"digest", "PATH", "the digest that signatures are made over: asks the server, or computes it here with --base", BIT(O_BASE), 1, 1, false, ctl_digest},
    {"convert", "--base MODEL IN OUT", "a PEFT directory as a GGUF LoRA file, or a GGUF LoRA file as a PEFT directory, by what IN is; needs no server", BIT(O_BASE), 2, 2, true, ctl_convert},
    {"status", "", "how the server does", 0, 0, 0, false, ctl_status},
    {"top", "", "the same and the busiest adapters, renewed until q is pressed; --count N looks and no terminal: lines below each other", BIT(O_INTERVAL) | BIT(O_COUNT), 0, 0, false, ctl_top},
    {"drain", "[on | off]", "take the server out of rotation, and back: /readyz is 503, requests are still served", 0, 0, 1, false, ctl_drain},
    {"tenant", "list | show NAME | create NAME | set NAME | delete NAME", "who has keys and adapters of its own", BIT(O_WEIGHT) | BIT(O_PRIORITY) | BIT(O_DESCRIPTION), 1, 2, false, ctl_tenant},
    {"key", "list | show ID | create TENANT | rotate ID | revoke ID | delete ID", "API keys; create and rotate print the new one, which cannot be seen again",
     BIT(O_TENANT) | BIT(O_NAME) | BIT(O_VERB) | BIT(O_ADAPTER) | BIT(O_EXPIRES) | BIT(O_GRACE) | BIT(O_FORCE), 1, 2, false, ctl_key},
    {"limits", "list | set tenant NAME LIMIT=N... | set key ID LIMIT=N...", "how much a tenant or a key may use; LIMIT= takes a limit away", 0, 1, 100, false, ctl_limits},
    {"usage", "", "requests, tokens and engine time by day, tenant, key and adapter version", BIT(O_FROM) | BIT(O_TO) | BIT(O_CSV), 0, 0, false, ctl_usage_report},
    {"audit", "", "who changed what, the oldest first", BIT(O_AFTER) | BIT(O_LIMIT), 0, 0, false, ctl_audit},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void put_options(unsigned long long which)
{
    for (int i = 0; i < N_OPTIONS; i++) {
        char left[40];
        if (!(which & BIT(i))) continue;
        snprintf(left, sizeof left, "--%s %s", options[i].name, options[i].value ? options[i].value : "");
        printf("  %-24s %s\n", left, options[i].help);
    }
}

static const char *const exit_codes[] = {
    [EXIT_OK] = "done",
    [EXIT_FAILED] = "the server failed or refused, or a local file could not be read",
    [EXIT_USAGE] = "the command line is wrong",
    [EXIT_NOT_FOUND] = "no such adapter, version, alias, tenant or key (404)",
    [EXIT_CONFLICT] = "it exists already, is in use, or changed meanwhile (409, 412)",
    [EXIT_REFUSED] = "the adapter was refused; the report says why (422)",
    [EXIT_UNREACHABLE] = "the server cannot be reached, or broke off (also 502, 504)",
    [EXIT_LIMIT] = "a limit: too large, too many, busy, or its disk is full (413, 429, 503, 507)",
};
enum { N_EXIT_CODES = sizeof exit_codes / sizeof *exit_codes };

static void put_exit_codes(void)
{
    puts("exit codes:");
    for (int i = 0; i < N_EXIT_CODES; i++) printf("  %d  %s\n", i, exit_codes[i]);
}

static json_t *option_list(unsigned long long which)
{
    json_t *list = json_array();
    for (int i = 0; i < N_OPTIONS; i++)
        if (which & BIT(i)) json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", options[i].name, "arg", options[i].value ? options[i].value : "", "help", options[i].help));
    return list;
}

/* {"program", "version", "options": those of every command, "commands": [{"name", "args", "help", "options"}], "exit_codes": [text]} */
static int dump_options(void)
{
    json_t *list = json_array(), *codes = json_array();
    for (int i = 0; i < N_COMMANDS; i++) {
        const command *k = &commands[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "name", k->name, "args", k->args, "help", k->help, "options", option_list(k->options)));
    }
    for (int i = 0; i < N_EXIT_CODES; i++) json_array_append_new(codes, json_string(exit_codes[i]));
    json_t *root = json_pack("{s:s, s:s, s:o, s:o, s:o}", "program", "adapterctl", "version", ad_client_version(), "options", option_list(BIT(N_GLOBAL) - 1),
                             "commands", list, "exit_codes", codes);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
    return EXIT_OK;
}

static int help(void)
{
    puts("usage: adapterctl COMMAND [OPTION...] [ARGUMENT...]\n\nWorks on the adapters of an adapterd server, and on the server itself.\n");
    for (int i = 0; i < N_COMMANDS; i++) printf("  %-9s %s\n", commands[i].name, commands[i].help);
    puts("\nadapterctl COMMAND --help tells about a command's arguments and options.\n\noptions of every command:");
    put_options(BIT(N_GLOBAL) - 1);
    putchar('\n');
    put_exit_codes();
    return EXIT_OK;
}

static int help_of(const command *k)
{
    printf("usage: adapterctl %s %s%s\n\n  %s\n\n", k->name, k->options ? "[OPTION...] " : "", k->args, k->help);
    if (k->options) puts("options:");
    put_options(k->options);
    puts(k->options ? "\noptions of every command:" : "options of every command:");
    put_options(BIT(N_GLOBAL) - 1);
    putchar('\n');
    put_exit_codes();
    return EXIT_OK;
}

/* ---- the command line ---- */

static bool parse_int(const char *text, int min, int max, int *out)
{
    char *rest;
    long n = strtol(text, &rest, 10);
    if (rest == text || *rest || n < min || n > max) return false;
    *out = (int)n;
    return true;
}

/* ETags have quotes; people leave them out. */
static bool set_if_match(ctl *c, const char *text)
{
    free(c->if_match);
    c->if_match = NULL;
    return asprintf(&c->if_match, *text == '"' || !strncmp(text, "W/\"", 3) ? "%s" : "\"%s\"", text) >= 0;
}

/* The server compares lower-case digits. */
static bool set_sha256(ctl *c, char *v)
{
    c->sha256 = v;
    if (strlen(v) != 64 || strspn(v, "0123456789abcdefABCDEF") != 64) return false;
    for (; *v; v++) *v |= 0x20; /* digits have the bit */
    return true;
}

static bool parse_weight(const char *text, double *out)
{
    char *rest;
    *out = strtod(text, &rest);
    return rest != text && !*rest && *out > 0 && *out <= 1e6;
}

/* 90s, 30m, 12h, 30d. */
static bool parse_duration(const char *text, long long *out)
{
    static const struct { char unit; long long s; } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char *rest;
    long n = strtol(text, &rest, 10);
    *out = 0;
    for (size_t i = 0; rest != text && i < sizeof units / sizeof *units; i++)
        if (*rest == units[i].unit && !rest[1] && n > 0 && n < 1000000) *out = n * units[i].s;
    return *out > 0;
}

static bool add_text(const char **list, int *n, int max, const char *text)
{
    if (*n == max) return false;
    list[(*n)++] = text;
    return true;
}

static bool set_option(ctl *c, int id, char *v)
{
    switch (id) {
    case O_URL: c->url = v; return true;
    case O_KEY: c->key = v; return true;
    case O_CA_FILE: c->ca_file = v; return true;
    case O_TIMEOUT: return parse_int(v, 1, 86400, &c->timeout_s);
    case O_JSON: c->json = true; return true;
    case O_NAME: c->name = v; return true;
    case O_DESCRIPTION: c->description = v; return true;
    case O_LABEL: return add_text(c->labels, &c->n_labels, CTL_MAX_LABELS, v);
    case O_SHA256: return set_sha256(c, v);
    case O_NO_ACTIVATE: c->no_activate = true; return true;
    case O_SIGNATURE: c->signature = v; return true;
    case O_SELFTEST: c->selftest = v; return true;
    case O_NEW_VERSION: c->new_version = true; return true;
    case O_ON_SERVER: c->on_server = true; return true;
    case O_IF_MATCH: return set_if_match(c, v);
    case O_PREFIX: c->prefix = v; return true;
    case O_STATE: c->state = v; return true;
    case O_LIMIT: return parse_int(v, 1, 1000, &c->limit);
    case O_AFTER: c->after = v; return true;
    case O_MODULES: c->modules = true; return true;
    case O_CLEAR: c->clear = true; return true;
    case O_DRAIN: return parse_int(v, 0, 3600, &c->drain_s);
    case O_LAST_ID: c->last_id = v; return true;
    case O_COUNT: return parse_int(v, 1, 1000000000, &c->count);
    case O_NO_RECONNECT: c->no_reconnect = true; return true;
    case O_BASE: c->base = v; return true;
    case O_WEIGHT: return parse_weight(v, &c->weight);
    case O_PRIORITY: c->priority = v; return true;
    case O_TENANT: c->tenant = v; return true;
    case O_VERB: return add_text(c->verbs, &c->n_verbs, CTL_MAX_VERBS, v);
    case O_ADAPTER: return add_text(c->globs, &c->n_globs, CTL_MAX_GLOBS, v);
    case O_EXPIRES: return parse_duration(v, &c->expires_s);
    case O_GRACE: return parse_int(v, 0, 31536000, &c->grace_s);
    case O_FORCE: c->force = true; return true;
    case O_FROM: c->from = v; return true;
    case O_TO: c->to = v; return true;
    case O_CSV: c->csv = true; return true;
    case O_INTERVAL: return parse_int(v, 1, 3600, &c->interval_s);
    default: return true; /* help and version */
    }
}

static int parse(ctl *c, int argc, char **argv, unsigned long long *given)
{
    struct option longs[N_OPTIONS + 1] = {0};
    for (int i = 0; i < N_OPTIONS; i++) longs[i] = (struct option){options[i].name, options[i].value ? required_argument : no_argument, NULL, 256 + i};
    for (int o; (o = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        if (o == '?') return EXIT_USAGE; /* getopt has told why */
        int id = o == 'h' ? O_HELP : o - 256;
        *given |= BIT(id);
        if (!set_option(c, id, optarg)) return ctl_usage("--%s: \"%s\" does not fit: %s", options[id].name, optarg, options[id].help);
    }
    c->args = argv + optind;
    c->n_args = argc - optind;
    return EXIT_OK;
}

static const command *find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static int check(const command *k, const ctl *c, unsigned long long given)
{
    unsigned long long wrong = given & ~(k->options | (BIT(N_GLOBAL) - 1));
    for (int i = 0; i < N_OPTIONS; i++)
        if (wrong & BIT(i)) return ctl_usage("%s has no option --%s", k->name, options[i].name);
    if (c->n_args < k->min_args || c->n_args > k->max_args) return ctl_usage("usage: adapterctl %s%s%s", k->name, *k->args ? " " : "", k->args);
    return EXIT_OK;
}

static int run(const command *k, ctl *c)
{
    ad_client_error e = {0};
    const char *url = getenv("ADAPTERCTL_URL"), *key = getenv("ADAPTERCTL_KEY");
    const ad_client_options opt = {.url = c->url ? c->url : url && *url ? url : "http://127.0.0.1:8000", .key = c->key ? c->key : key, .ca_file = c->ca_file,
                                   .timeout_ms = c->timeout_s * 1000};
    if (!k->local && ad_client_open(&c->client, &opt, &e) != AD_CLIENT_OK) return ctl_fail(c, &e);
    int code = k->run(c);
    ad_client_close(&c->client);
    return code;
}

/* Output that did not arrive is a failure; a reader that left is none worth a message. */
static int end_output(int code)
{
    if (!fflush(stdout) && !ferror(stdout)) return code;
    return code ? code : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    static char name[] = "adapterctl";
    ctl c = {.drain_s = -1, .grace_s = -1};
    unsigned long long given = 0;
    if (argc) argv[0] = name; /* in getopt's messages */
    signal(SIGPIPE, SIG_IGN); /* writing fails instead, and we end in order */
    int code = parse(&c, argc, argv, &given);
    const command *k = c.n_args > 0 ? find(c.args[0]) : NULL;
    if (code == EXIT_OK && k) c.args++, c.n_args--;
    if (code != EXIT_OK) ;
    else if (given & BIT(O_VERSION)) printf("adapterctl %s\n", ad_client_version());
    else if (given & BIT(O_DUMP_OPTIONS)) code = dump_options();
    else if (given & BIT(O_HELP)) code = k ? help_of(k) : help();
    else if (!k) code = c.n_args ? ctl_usage("there is no command \"%s\"; see adapterctl --help", c.args[0]) : ctl_usage("no command was given; see adapterctl --help");
    else if ((code = check(k, &c, given)) == EXIT_OK) code = run(k, &c);
    free(c.if_match);
    return end_output(code);
}
