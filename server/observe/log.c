/* SPDX-License-Identifier: MIT */
/* Log lines. Any thread: each line is built on the caller's stack and leaves in one write. */
#include "server/observe/log.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int threshold = AD_LOG_INFO;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void ad_log_set_level(ad_log_level level)
{
    atomic_store(&threshold, (int)level);
}

int ad_log_parse_level(const char *name, ad_log_level *out)
{
    for (int i = 0; i < 4; i++) {
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

static void format_time(char *dst, size_t size)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(dst, size, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(dst + n, size - n, ".%03ldZ", now.tv_nsec / 1000000);
}

/* Takes the object. jansson escapes quotes and control bytes; what is not UTF-8 was made harmless before. */
static void write_line(json_t *line)
{
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(line);
    if (!text) return;
    size_t n = strlen(text);
    text[n] = '\n'; /* in place of the terminator: one write, one line */
    ssize_t rc = write(STDERR_FILENO, text, n + 1);
    (void)rc; /* nobody is left to tell */
    free(text);
}

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

void ad_log(ad_log_level level, const char *fmt, ...)
{
    char text[1024], when[40];
    va_list ap;
    if (!ad_log_enabled(level)) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    format_time(when, sizeof when);
    write_line(json_pack("{s:s, s:s, s:o}", "time", when, "level", level_names[level], "msg", ad_json_text(text)));
}

void ad_log_request(const char *request_id, const char *peer, const char *method, const char *route, int status,
                    double duration_ms, unsigned long long bytes, const char *adapter_version)
{
    char when[40];
    if (!ad_log_enabled(AD_LOG_INFO)) return;
    format_time(when, sizeof when);
    write_line(json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:s, s:i, s:f, s:I, s:s*}", "time", when, "level", "info", "msg", "request",
                         "request_id", ad_json_text(request_id), "peer", ad_json_text(peer), "method", ad_json_text(method), "route", route,
                         "status", status, "duration_ms", duration_ms, "bytes", (json_int_t)bytes, "adapter_version", adapter_version));
}
