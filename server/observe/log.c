/* SPDX-License-Identifier: MIT */
/* Log lines. Any thread: each line is built in memory of its own and leaves as a whole. */
#include "server/observe/log.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "server/observe/repeat.h"

static atomic_int threshold = AD_LOG_INFO;
static atomic_bool for_people;
static atomic_ullong said[AD_LOG_LEVELS], held_back;
static const char *const level_names[AD_LOG_LEVELS] = {"error", "warn", "info", "debug"};

void ad_log_set_level(ad_log_level level) { atomic_store(&threshold, (int)level); }
ad_log_level ad_log_get_level(void) { return (ad_log_level)atomic_load(&threshold); }
const char *ad_log_level_name(ad_log_level level) { return level_names[level]; }
uint64_t ad_log_lines(ad_log_level level) { return atomic_load(&said[level]); }
uint64_t ad_log_held(void) { return atomic_load(&held_back); }

int ad_log_parse_level(const char *name, ad_log_level *out)
{
    for (int i = 0; i < AD_LOG_LEVELS; i++) {
        if (strcmp(name, level_names[i])) continue;
        *out = (ad_log_level)i;
        return 1;
    }
    return 0;
}

int ad_log_enabled(ad_log_level level)
{
    return (int)level <= atomic_load(&threshold);
}

void ad_log_set_format(const char *name)
{
    atomic_store(&for_people, !strcmp(name, "human") || (!strcmp(name, "auto") && isatty(STDERR_FILENO)));
}

/* ---- lines ---- */

static void format_time(char *dst, size_t size)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(dst, size, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(dst + n, size - n, ".%03ldZ", now.tv_nsec / 1000000);
}

enum { DUMP = JSON_COMPACT | JSON_ENSURE_ASCII | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9) };

static int append(const char *data, size_t len, void *out)
{
    ad_buf_append(out, data, len);
    return 0;
}

static void put_json(ad_buf *line, const json_t *v)
{
    if (json_dump_callback(v, append, line, DUMP) != 0) line->failed = true;
}

/* A word stays as it is; anything else is quoted and escaped as in JSON. */
static void put_plain(ad_buf *line, const json_t *v)
{
    const char *s = json_string_value(v);
    size_t n = s ? json_string_length(v) : 0, fine = 0;
    while (fine < n && s[fine] > ' ' && s[fine] < 0x7F && s[fine] != '"' && s[fine] != '\\') fine++;
    if (n && fine == n) ad_buf_append(line, s, n);
    else put_json(line, v);
}

/* TIME LEVEL WHAT NAME=VALUE ...; a message is not quoted, but what is no printable ASCII in it is escaped. */
static void put_human(ad_buf *line, const char *when, ad_log_level level, const json_t *what, json_t *fields)
{
    const char *name;
    json_t *v;
    ad_buf text = {0};
    put_json(&text, what);
    ad_buf_printf(line, "%s %-5s ", when, level_names[level]);
    if (text.len > 2) ad_buf_append(line, text.data + 1, text.len - 2);
    ad_buf_deinit(&text);
    json_object_foreach(fields, name, v) {
        ad_buf_printf(line, " %s=", name);
        put_plain(line, v);
    }
}

static void put_object(ad_buf *line, const char *when, ad_log_level level, const json_t *what, json_t *fields)
{
    const char *name;
    json_t *v;
    ad_buf_printf(line, "{\"ts\":\"%s\",\"level\":\"%s\",\"msg\":", when, level_names[level]);
    put_json(line, what);
    json_object_foreach(fields, name, v) {
        ad_buf_printf(line, ",\"%s\":", name);
        put_json(line, v);
    }
    ad_buf_puts(line, "}");
}

/* ---- standard error ---- */

/* Nobody waits long for a pipe whose reader stands still: lines are lost until it goes on, and then it is told how many. */
enum { PATIENCE_MS = 200 };

static struct {
    pthread_mutex_t mutex;
    uint64_t n_lost;
    bool torn;                /* the last of them in the middle */
} out = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static bool has_room(int wait_ms)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&p, 1, wait_ms) != 0; /* what is wrong with it, the write finds out */
}

/* A pipe that has room takes PIPE_BUF bytes without waiting. False: it did not take all of it. */
static bool put(const char *data, size_t len, int wait_ms)
{
    for (size_t at = 0; at < len;) {
        if (!has_room(wait_ms)) {
            out.torn |= at > 0;
            return false;
        }
        ssize_t n = write(STDERR_FILENO, data + at, len - at < PIPE_BUF ? len - at : PIPE_BUF);
        if (n < 0 && errno != EINTR) break; /* nobody is left to tell */
        at += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool tell_of_lost(const char *when)
{
    char text[160];
    const char *fmt = atomic_load(&for_people) ? "%s%s warn  %llu lines of this log were not taken in time\n"
                                               : "%s{\"ts\":\"%s\",\"level\":\"warn\",\"msg\":\"%llu lines of this log were not taken in time\"}\n";
    int n = snprintf(text, sizeof text, fmt, out.torn ? "\n" : "", when, (unsigned long long)out.n_lost);
    if (!put(text, (size_t)n, 0)) return false;
    out.n_lost = 0;
    out.torn = false;
    return true;
}

static bool put_line(const ad_buf *line, const char *when)
{
    pthread_mutex_lock(&out.mutex);
    bool put_all = (!out.n_lost || tell_of_lost(when)) && put(line->data, line->len, PATIENCE_MS);
    if (!put_all) out.n_lost++;
    pthread_mutex_unlock(&out.mutex);
    return put_all;
}

/* what: a JSON string; both are taken. fields may be NULL. */
static void write_line(ad_log_level level, json_t *what, json_t *fields)
{
    char when[40];
    ad_buf line = {0};
    format_time(when, sizeof when);
    if (!what) line.failed = true;
    else if (atomic_load(&for_people)) put_human(&line, when, level, what, fields);
    else put_object(&line, when, level, what, fields);
    ad_buf_puts(&line, "\n");
    if (!line.failed && put_line(&line, when)) atomic_fetch_add(&said[level], 1);
    ad_buf_deinit(&line);
    json_decref(what);
    json_decref(fields);
}

/* ---- what is said ---- */

json_t *ad_json_text(const char *s)
{
    json_t *v = json_string(s);
    if (v) return v;
    char clean[1024];
    size_t n = 0;
    for (; s[n] && n < sizeof clean - 1; n++) clean[n] = (unsigned char)s[n] < 0x80 ? s[n] : '?';
    clean[n] = '\0';
    return json_string(clean);
}

static bool may_say(const char *fmt, unsigned *held)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static ad_repeat repeats;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&mutex);
    bool may = ad_repeat_allow(&repeats, fmt, now.tv_sec, held);
    pthread_mutex_unlock(&mutex);
    if (!may) atomic_fetch_add(&held_back, 1);
    return may;
}

void ad_log(ad_log_level level, const char *fmt, ...)
{
    char text[1024];
    unsigned held = 0;
    va_list ap;
    if (!ad_log_enabled(level) || (level <= AD_LOG_WARN && !may_say(fmt, &held))) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    write_line(level, ad_json_text(text), held ? json_pack("{s:I}", "held_back", (json_int_t)held) : NULL);
}

void ad_log_event(ad_log_level level, const char *what, json_t *fields)
{
    if (fields && ad_log_enabled(level)) write_line(level, json_string(what), fields);
    else json_decref(fields);
}
