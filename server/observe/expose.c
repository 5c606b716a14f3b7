/* SPDX-License-Identifier: MIT */
#include "server/observe/expose.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- which format ---- */

/* The quality of a media range's parameters, 1 by default; what cannot be read is 0. */
static double quality_of(const char *at, const char *end)
{
    for (const char *p = at; p < end; p++) {
        if (*p != ';') continue;
        const char *name = p + 1 + strspn(p + 1, " \t");
        if (strncasecmp(name, "q=", 2)) continue;
        char *stop;
        double q = strtod(name + 2, &stop);
        return stop > name + 2 && q >= 0 && q <= 1 ? q : 0;
    }
    return 1;
}

static bool is_type(const char *range, const char *type)
{
    size_t n = strlen(type);
    return !strncasecmp(range, type, n) && strchr(";, \t", range[n]); /* the end of the string, too */
}

bool ad_expose_wants_open_metrics(const char *accept)
{
    double open = 0, text = 0;
    for (const char *p = accept, *end; p && *p; p = *end ? end + 1 : end) {
        const char *range = p + strspn(p, " \t");
        end = p + strcspn(p, ",");
        double q = quality_of(range, end);
        bool other_version = strstr(range, "version=") && strstr(range, "version=") < end && strncmp(strstr(range, "version="), "version=1.0.0", 13);
        if (is_type(range, "application/openmetrics-text") && !other_version && q > open) open = q;
        if (is_type(range, "text/plain") && q > text) text = q;
    }
    return open > 0 && open >= text;
}

const char *ad_expose_content_type(bool open_metrics)
{
    return open_metrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8" : "text/plain; version=0.0.4; charset=utf-8";
}

/* ---- families and samples ---- */

void ad_expose_family(const ad_expose *e, const char *name, const char *type, const char *help)
{
    int n = (int)strlen(name);
    if (e->open_metrics && !strcmp(type, "counter")) n -= (int)strlen("_total"); /* there only the sample has it */
    ad_buf_printf(e->out, "# TYPE %.*s %s\n# HELP %.*s %s\n", n, name, type, n, name, help);
}

static void put_name(const ad_expose *e, const char *name, const char *suffix, const char *labels)
{
    ad_buf_printf(e->out, *labels ? "%s%s{%s} " : "%s%s%s ", name, suffix, labels);
}

void ad_expose_integer(const ad_expose *e, const char *name, const char *labels, unsigned long long value)
{
    put_name(e, name, "", labels);
    ad_buf_printf(e->out, "%llu\n", value);
}

void ad_expose_real(const ad_expose *e, const char *name, const char *labels, double value)
{
    put_name(e, name, "", labels);
    ad_buf_printf(e->out, "%.15g\n", value);
}

void ad_expose_counter(const ad_expose *e, const char *name, const char *help, unsigned long long value)
{
    ad_expose_family(e, name, "counter", help);
    ad_expose_integer(e, name, "", value);
}

void ad_expose_gauge(const ad_expose *e, const char *name, const char *help, double value)
{
    ad_expose_family(e, name, "gauge", help);
    ad_expose_real(e, name, "", value);
}

/* Python's clients print whole numbers with ".0"; one spelling for ever. */
static void put_bucket(const ad_expose *e, const char *name, const char *labels, const char *form, double bound, unsigned long long count)
{
    ad_buf_printf(e->out, "%s_bucket{%s%sle=\"", name, labels, *labels ? "," : "");
    ad_buf_printf(e->out, form, bound);
    ad_buf_printf(e->out, "\"} %llu\n", count);
}

void ad_expose_histogram(const ad_expose *e, const char *name, const char *labels, const ad_histogram *h)
{
    unsigned long long sum = 0;
    for (int i = 0; i < h->bounds->n; i++) {
        double bound = h->bounds->bounds[i];
        sum += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
        put_bucket(e, name, labels, bound == (double)(long)bound ? "%.1f" : "%g", bound, sum);
    }
    sum += atomic_load_explicit(&h->counts[h->bounds->n], memory_order_relaxed);
    ad_buf_printf(e->out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, *labels ? "," : "", sum);
    put_name(e, name, "_sum", labels);
    ad_buf_printf(e->out, "%.15g\n", (double)atomic_load_explicit(&h->sum_ns, memory_order_relaxed) / 1e9);
    put_name(e, name, "_count", labels);
    ad_buf_printf(e->out, "%llu\n", sum);
}

/* The length of the UTF-8 character at s; 0: it is none. */
static size_t character_at(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t n = u[0] < 0x80 ? 1 : u[0] >= 0xC2 && u[0] < 0xE0 ? 2 : (u[0] & 0xF0) == 0xE0 ? 3 : u[0] >= 0xF0 && u[0] < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xC0) != 0x80) return 0;
    bool surrogate_or_long = (u[0] == 0xE0 && u[1] < 0xA0) || (u[0] == 0xED && u[1] >= 0xA0) || (u[0] == 0xF0 && u[1] < 0x90) || (u[0] == 0xF4 && u[1] >= 0x90);
    return n > 1 && surrogate_or_long ? 0 : n;
}

void ad_expose_escape(ad_buf *b, const char *value)
{
    for (const char *s = value; *s;) {
        size_t n = character_at(s);
        if (*s == '\n') ad_buf_puts(b, "\\n");
        else if (*s == '\\' || *s == '"') ad_buf_printf(b, "\\%c", *s);
        else if (!n || *s == '\r') ad_buf_puts(b, "?"); /* there is no escape for it, and before a line end it would cost the scrape, too */
        else ad_buf_append(b, s, n);
        s += n ? n : 1;
    }
}

void ad_expose_label(ad_buf *b, const char *name, const char *value)
{
    ad_buf_printf(b, "%s%s=\"", b->len ? "," : "", name);
    ad_expose_escape(b, value);
    ad_buf_puts(b, "\"");
}

void ad_expose_end(const ad_expose *e)
{
    if (e->open_metrics) ad_buf_puts(e->out, "# EOF\n");
}
