/* SPDX-License-Identifier: MIT */
/* Texts fit for a terminal, sizes and times for people, tables. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clients/adapterctl/ctl.h"

enum { MAX_COLUMNS = 16 };

static void *need(void *p)
{
    if (p) return p;
    fputs("adapterctl: out of memory\n", stderr);
    exit(EXIT_FAILED);
}

/* ---- cleaning ---- */

/* The code point at s and its length; -1 and 1 when it is no UTF-8. */
static int code_point(const char *s, int *len)
{
    const unsigned char *u = (const unsigned char *)s;
    int n = u[0] < 0x80 ? 1 : u[0] >= 0xC2 && u[0] < 0xE0 ? 2 : u[0] >= 0xE0 && u[0] < 0xF0 ? 3 : u[0] >= 0xF0 && u[0] < 0xF5 ? 4 : 0;
    int cp = n == 1 ? u[0] : n ? u[0] & (0x7F >> n) : -1;
    for (int i = 1; i < n; i++) {
        if ((u[i] & 0xC0) != 0x80) { /* also the NUL */
            n = 0;
            break;
        }
        cp = cp << 6 | (u[i] & 0x3F);
    }
    static const int least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (!n || cp < least[n] || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) cp = -1;
    *len = cp < 0 ? 1 : n;
    return cp;
}

/* C0, DEL, C1, and what reorders or hides text: bidirectional marks, line separators, invisible characters, tags. */
static bool is_harmful(int cp)
{
    return cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || cp == 0xAD || cp == 0x61C || (cp >= 0x200B && cp <= 0x200F) || (cp >= 0x2028 && cp <= 0x202E) ||
           (cp >= 0x2060 && cp <= 0x206F) || cp == 0xFEFF || (cp >= 0xFFF9 && cp <= 0xFFFB) || (cp >= 0xE0000 && cp <= 0xE007F);
}

char *ctl_clean(const char *s)
{
    char *out = need(malloc(strlen(s) * 5 + 1)), *at = out; /* the longest: four bytes to ten, one to four, two to six, one to two */
    for (int len; *s; s += len) {
        int cp = code_point(s, &len);
        if (cp == '\n') at = stpcpy(at, "\\n");
        else if (cp == '\t') at = stpcpy(at, "\\t");
        else if (cp < 0 || (cp < 0x80 && is_harmful(cp))) at += sprintf(at, "\\x%02x", (unsigned char)*s);
        else if (is_harmful(cp)) at += sprintf(at, "\\u%04x", (unsigned)cp);
        else {
            memcpy(at, s, (size_t)len);
            at += len;
        }
    }
    *at = 0;
    return out;
}

/* The text is JSON: what is harmful is white space or stands inside of a string, where the escape means the same. */
static void put_escaped(const char *s, const char *end)
{
    for (int len; s < end; s += len) {
        int cp = code_point(s, &len);
        if (cp == '\n' || cp == '\t' || !is_harmful(cp)) fwrite(s, 1, (size_t)len, stdout);
        else if (cp == '\r') putchar(' ');
        else if (cp > 0xFFFF) printf("\\u%04x\\u%04x", 0xD7C0u + ((unsigned)cp >> 10), 0xDC00u + ((unsigned)cp & 0x3FF));
        else printf("\\u%04x", cp < 0 ? 0xFFFDu : (unsigned)cp);
    }
}

void ctl_put_json(const char *text)
{
    const char *end = text + strlen(text);
    while (end > text && (end[-1] == '\n' || end[-1] == '\r')) end--;
    if (isatty(STDOUT_FILENO)) put_escaped(text, end);
    else fwrite(text, 1, (size_t)(end - text), stdout);
    putchar('\n');
}

static json_t *cleaned_object(const json_t *v)
{
    json_t *out = need(json_object()), *item;
    const char *key;
    json_object_foreach((json_t *)v, key, item) {
        char *name = ctl_clean(key);
        json_object_set_new(out, name, ctl_cleaned(item));
        free(name);
    }
    return out;
}

json_t *ctl_cleaned(const json_t *v)
{
    if (json_is_object(v)) return cleaned_object(v);
    if (json_is_array(v)) {
        json_t *out = need(json_array());
        for (size_t i = 0; i < json_array_size(v); i++) json_array_append_new(out, ctl_cleaned(json_array_get(v, i)));
        return out;
    }
    if (!json_is_string(v)) return json_incref((json_t *)v);
    char *text = ctl_clean(json_string_value(v));
    json_t *out = need(json_string(text));
    free(text);
    return out;
}

/* ---- values ---- */

const char *ctl_text(const json_t *v, const char *key)
{
    const char *s = json_string_value(json_object_get(v, key));
    return s ? s : "";
}

bool ctl_true(const json_t *v, const char *key)
{
    return json_is_true(json_object_get(v, key));
}

long long ctl_int(const json_t *v, const char *key)
{
    return json_integer_value(json_object_get(v, key));
}

char *ctl_count(const json_t *v, const char *key, char *out)
{
    const json_t *n = json_object_get(v, key);
    if (json_is_integer(n)) snprintf(out, 32, "%lld", (long long)json_integer_value(n));
    else strcpy(out, "-");
    return out;
}

char *ctl_size(const json_t *bytes, char *out)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double n = (double)json_integer_value(bytes);
    int unit = 0;
    if (!json_is_integer(bytes) || n < 0) return strcpy(out, "-");
    for (; n >= 1023.95; unit++) n /= 1024;
    snprintf(out, 32, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
    return out;
}

char *ctl_ago(const json_t *unix_time, char *out)
{
    double ago = (double)time(NULL) - json_number_value(unix_time);
    if (!json_is_number(unix_time) || json_number_value(unix_time) <= 0) return strcpy(out, "-");
    if (ago < 1) strcpy(out, "now");
    else if (ago < 100) snprintf(out, 32, "%.0f s ago", ago);
    else if (ago < 6000) snprintf(out, 32, "%.0f min ago", ago / 60);
    else if (ago < 172800) snprintf(out, 32, "%.0f h ago", ago / 3600);
    else snprintf(out, 32, "%.0f d ago", ago / 86400);
    return out;
}

char *ctl_clock(const json_t *unix_time, char *out)
{
    double seconds = json_number_value(unix_time);
    time_t at = seconds > 0 && seconds < 1e11 ? (time_t)seconds : 0;
    struct tm tm;
    if (!at || !localtime_r(&at, &tm) || !strftime(out, 32, "%H:%M:%S", &tm)) strcpy(out, "-");
    return out;
}

/* ---- tables ---- */

struct ctl_table {
    const char *const *headings;
    int columns;
    size_t rows, cap;
    char **cells; /* [rows, columns], owned */
};

ctl_table *ctl_table_new(const char *const *headings)
{
    ctl_table *t = need(calloc(1, sizeof *t));
    t->headings = headings;
    while (t->columns < MAX_COLUMNS && headings[t->columns]) t->columns++;
    return t;
}

void ctl_table_add(ctl_table *t, const char *const *cells)
{
    if (t->rows == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        t->cells = need(reallocarray(t->cells, t->cap * (size_t)t->columns, sizeof *t->cells));
    }
    for (int i = 0; i < t->columns; i++) t->cells[t->rows * (size_t)t->columns + (size_t)i] = need(strdup(cells[i]));
    t->rows++;
}

/* In characters; wide and combining ones are counted as one. */
static int width(const char *s)
{
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void print_row(const ctl_table *t, char *const *cells, const int *room, FILE *out)
{
    int last = t->columns - 1;
    while (last && !*cells[last]) last--; /* no blanks at the end of a line */
    for (int i = 0; i <= last; i++) {
        int pad = room[i] - width(cells[i]);
        bool right = t->headings[i][0] == '>';
        fprintf(out, "%*s%s%*s%s", right ? pad : 0, "", cells[i], right || i == last ? 0 : pad, "", i == last ? "\n" : "  ");
    }
}

void ctl_table_print(ctl_table **table, FILE *out)
{
    ctl_table *t = *table;
    size_t n = (size_t)t->columns;
    char *names[MAX_COLUMNS] = {0};
    int room[MAX_COLUMNS] = {0};
    for (size_t i = 0; i < n; i++) {
        names[i] = (char *)t->headings[i] + (t->headings[i][0] == '>');
        room[i] = width(names[i]);
        for (size_t r = 0; r < t->rows; r++)
            if (width(t->cells[r * n + i]) > room[i]) room[i] = width(t->cells[r * n + i]);
    }
    print_row(t, names, room, out);
    for (size_t r = 0; r < t->rows; r++) print_row(t, t->cells + r * n, room, out);
    for (size_t at = 0; at < t->rows * n; at++) free(t->cells[at]);
    free(t->cells);
    free(t);
    *table = NULL;
}
