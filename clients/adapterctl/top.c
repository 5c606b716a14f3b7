/* SPDX-License-Identifier: MIT */
/* How the server does: once (status), or as a view that renews itself (top). */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "clients/adapterctl/ctl.h"

enum { TOP_ADAPTERS = 1000, PLAIN_LINES = 60 };

/* ---- the state, in lines ---- */

static char *duration(long long s, char out[32])
{
    if (s < 120) snprintf(out, 32, "%lld s", s);
    else if (s < 7200) snprintf(out, 32, "%lld min", s / 60);
    else if (s < 172800) snprintf(out, 32, "%lld h", s / 3600);
    else snprintf(out, 32, "%lld days", s / 86400);
    return out;
}

static void put_listeners(FILE *out, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) fprintf(out, "%s%s", i ? " " : "Listens on     ",
                                                               json_string_value(json_array_get(list, i)) ? json_string_value(json_array_get(list, i)) : "?");
    if (json_array_size(list)) putc('\n', out);
}

/* Whose sequences the engine has. */
static void put_tenants(FILE *out, const json_t *list)
{
    enum { MOST = 8 };
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n && i < MOST; i++) {
        const json_t *t = json_array_get(list, i);
        fprintf(out, "%s%s %lld", i ? ", " : "Sequences of   ", ctl_text(t, "name"), ctl_int(t, "sequences"));
    }
    if (n) fputs(n > MOST ? ", ...\n" : "\n", out);
}

static double number(const json_t *v, const char *object, const char *key)
{
    return json_number_value(json_object_get(json_object_get(v, object), key));
}

static void put_reload(FILE *out, const json_t *reload)
{
    char ago[32];
    if (!json_is_object(reload)) return;
    bool good = ctl_true(reload, "successful");
    fprintf(out, "Configuration  %s, last read %s\n", good ? "as in its file" : "the last reload FAILED (see the log)", ctl_ago(json_object_get(reload, "succeeded"), ago));
}

static void put_status(FILE *out, const json_t *v)
{
    char up[32], held[32], budget[32], resident[32], model[32];
    const json_t *adapters = json_object_get(v, "adapters"), *memory = json_object_get(v, "memory"), *engine = json_object_get(v, "engine");
    double used = number(v, "kv_pages", "used"), total = number(v, "kv_pages", "total");
    fprintf(out, "adapterd %s     %s, %s, up %s, process %lld\n", ctl_text(v, "version"), ctl_text(v, "state"), ctl_true(v, "ready") ? "ready" : "NOT ready",
            duration(ctl_int(v, "uptime_seconds"), up),
            ctl_int(v, "pid"));
    fprintf(out, "Model          %s, %s kernels, %lld threads, context %lld%s\n", ctl_text(v, "model"), ctl_text(engine, "kernels"), ctl_int(engine, "threads"), ctl_int(engine, "context"),
            ctl_true(engine, "stuck") ? ", STUCK" : "");
    fprintf(out, "Requests       %.0f running, %.0f waiting, %lld connections\n", number(v, "requests", "running"), number(v, "requests", "waiting"), ctl_int(v, "connections"));
    put_tenants(out, json_object_get(v, "tenants"));
    fprintf(out, "Tokens         %.1f generated and %.1f of prompts a second\n", number(v, "tokens_per_second", "generated"), number(v, "tokens_per_second", "prompt"));
    fprintf(out, "KV cache       %.0f of %.0f pages, %.0f %%\n", used, total, total > 0 ? 100 * used / total : 0);
    fprintf(out, "Adapters       %lld, in memory %lld with %s of %s; %lld loading\n", ctl_int(adapters, "total"), ctl_int(adapters, "resident"),
            ctl_size(json_object_get(adapters, "bytes"), held),
            ctl_size(json_object_get(adapters, "budget_bytes"), budget), ctl_int(adapters, "loading"));
    fprintf(out, "Memory         %s resident; the model's weights: %s, mapped and packed\n", ctl_size(json_object_get(memory, "resident_bytes"), resident),
            ctl_size(json_object_get(memory, "model_bytes"), model));
    put_listeners(out, json_object_get(v, "listeners"));
    put_reload(out, json_object_get(v, "last_reload"));
}

int ctl_status(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (ad_client_call(c->client, "GET", "/v1/admin/status", NULL, NULL, &r, &e) != AD_CLIENT_OK) return ctl_fail(c, &e);
    if (ctl_json_done(c, &r)) return EXIT_OK;
    json_t *v = ctl_cleaned(r.json);
    put_status(stdout, v);
    json_decref(v);
    ad_client_reply_deinit(&r);
    return EXIT_OK;
}

/* ---- the view ---- */

/* An adapter, and how many requests it had when it was looked at before. */
typedef struct {
    const char *name;     /* borrowed */
    const json_t *item;   /* borrowed */
    long long requests, since;
} row;

static int busiest_first(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->since != y->since) return x->since < y->since ? 1 : -1;
    if (x->requests != y->requests) return x->requests < y->requests ? 1 : -1;
    return strcmp(x->name, y->name);
}

/* before: requests by name, as of the last look; takes up the present ones. */
static void put_adapters(FILE *out, const json_t *list, json_t *before, size_t lines)
{
    static const char *const headings[] = {"ADAPTER", "STATE", ">REQUESTS", ">SINCE", ">PACKED", "LAST USED", NULL};
    const json_t *data = json_object_get(list, "data");
    size_t n = json_array_size(data);
    row *rows = calloc(n ? n : 1, sizeof *rows);
    if (!rows) return;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(data, i), *old;
        row *r = &rows[i];
        *r = (row){.name = ctl_text(item, "name"), .item = item, .requests = ctl_int(item, "requests")};
        old = json_object_get(before, r->name);
        r->since = old ? r->requests - (long long)json_integer_value(old) : 0;
        json_object_set_new(before, r->name, json_integer(r->requests));
    }
    qsort(rows, n, sizeof *rows, busiest_first);
    ctl_table *t = ctl_table_new(headings);
    for (size_t i = 0; i < n && i < lines; i++) {
        char requests[32], since[32], packed[32], used[32];
        snprintf(since, sizeof since, "+%lld", rows[i].since);
        ctl_table_add(t, (const char *const[]){rows[i].name, ctl_text(rows[i].item, "state"), ctl_count(rows[i].item, "requests", requests), since,
                                               ctl_size(json_object_get(rows[i].item, "bytes_packed"), packed), ctl_ago(json_object_get(rows[i].item, "last_used"), used)});
    }
    ctl_table_print(&t, out);
    free(rows);
}

static size_t screen_lines(void)
{
    struct winsize size;
    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row ? size.ws_row : PLAIN_LINES;
}

static ad_client_status get(ctl *c, const char *path, json_t **out, ad_client_error *e)
{
    ad_client_reply r;
    ad_client_status st = ad_client_call(c->client, "GET", path, NULL, NULL, &r, e);
    if (st != AD_CLIENT_OK) return st;
    *out = ctl_cleaned(r.json);
    ad_client_reply_deinit(&r);
    return AD_CLIENT_OK;
}

/* One look, as text: written at once, so that nothing flickers. */
static ad_client_status look(ctl *c, json_t *before, char **text, ad_client_error *e)
{
    enum { HEADER_LINES = 13 };
    json_t *status = NULL, *adapters = NULL;
    size_t len, lines = screen_lines();
    char path[60];
    snprintf(path, sizeof path, "/v1/adapters?limit=%d", TOP_ADAPTERS);
    ad_client_status st = get(c, "/v1/admin/status", &status, e);
    if (st == AD_CLIENT_OK) st = get(c, path, &adapters, e);
    FILE *out = st == AD_CLIENT_OK ? open_memstream(text, &len) : NULL;
    if (out) {
        put_status(out, status);
        putc('\n', out);
        put_adapters(out, adapters, before, lines > HEADER_LINES + 1 ? lines - HEADER_LINES : 1);
        fclose(out);
    }
    json_decref(status);
    json_decref(adapters);
    return st;
}

static volatile sig_atomic_t ended;

static void on_signal(int number)
{
    (void)number;
    ended = 1;
}

/* Signals that end the view come in pauses only: none is lost between two of them. */
static void hold_signals(sigset_t *before)
{
    struct sigaction sa = {.sa_handler = on_signal};
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGINT), sigaddset(&ending, SIGTERM), sigaddset(&ending, SIGHUP);
    sigprocmask(SIG_BLOCK, &ending, before);
    sigaction(SIGINT, &sa, NULL), sigaction(SIGTERM, &sa, NULL), sigaction(SIGHUP, &sa, NULL);
}

/* True: somebody pressed q, or wants to end it otherwise. */
static bool pause_for(int seconds, bool keys, const sigset_t *signals)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char key = 0;
    if (ppoll(&p, keys ? 1 : 0, &(struct timespec){.tv_sec = seconds}, signals) > 0 && read(STDIN_FILENO, &key, 1) < 1) return true; /* the terminal is gone */
    return ended || key == 'q' || key == 'Q';
}

/* The other screen of the terminal, without echo and cursor. */
static bool enter_screen(struct termios *before)
{
    if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, before) != 0) return false;
    struct termios raw = *before;
    raw.c_lflag &= (tcflag_t)~(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs("\033[?1049h\033[?25l", stdout);
    return true;
}

static void leave_screen(const struct termios *before)
{
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, before);
}

/* Each line clears what it leaves of the old one. */
static void draw(const char *text)
{
    size_t left = screen_lines() - 1;
    fputs("\033[H", stdout);
    for (const char *line = text; *line && left; left--) {
        size_t n = strcspn(line, "\n");
        fwrite(line, 1, n, stdout);
        fputs("\033[K\n", stdout);
        line += n + (line[n] == '\n');
    }
    fputs("\033[J", stdout);
}

/* Without a terminal: looks one below the other. */
int ctl_top(ctl *c)
{
    struct termios before_tty;
    ad_client_error e = {0};
    json_t *before = json_object();
    sigset_t signals;
    hold_signals(&signals);
    bool screen = enter_screen(&before_tty);
    int code = EXIT_OK, left = c->count ? c->count : screen ? -1 : 1;
    for (;;) {
        char *text = NULL;
        if (look(c, before, &text, &e) != AD_CLIENT_OK) break;
        if (screen) draw(text ? text : "");
        else if (text) puts(text);
        free(text);
        if (fflush(stdout) || ferror(stdout) || --left == 0 || pause_for(c->interval_s ? c->interval_s : 2, screen, &signals)) break;
    }
    if (screen) leave_screen(&before_tty);
    if (e.status != AD_CLIENT_OK) code = ctl_fail(c, &e);
    json_decref(before);
    return code;
}
