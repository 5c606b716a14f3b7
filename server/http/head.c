/* SPDX-License-Identifier: MIT */
/* A request's head: cut into strings, then each checked. Any thread. */
#include "server/http/head.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

bool ad_http_is_token_char(unsigned char ch)
{
    return (ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'z') || (ch && strchr("!#$%&'*+-.^_`|~", ch));
}

int ad_http_hex(char ch)
{
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch |= 32;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

const char *ad_http_head_find(const ad_http_head *h, const char *name)
{
    for (int i = 0; i < h->n_fields; i++)
        if (!strcasecmp(h->fields[i].name, name)) return h->fields[i].value;
    return NULL;
}

static int count_fields(const ad_http_head *h, const char *name)
{
    int n = 0;
    for (int i = 0; i < h->n_fields; i++) n += !strcasecmp(h->fields[i].name, name);
    return n;
}

/* "name: value", ended by a NUL at `stop`. */
static int read_field(ad_http_head *h, char *line, char *stop, const char **why)
{
    char *colon = line;
    while (ad_http_is_token_char((unsigned char)*colon)) colon++;
    if (colon == line || *colon != ':') return *why = "a header is not \"name: value\"", 400;
    if (h->n_fields == AD_HTTP_MAX_FIELDS) return *why = "there are too many headers", 431;
    *colon = '\0';
    char *value = colon + 1 + strspn(colon + 1, " \t"), *tail = stop;
    while (tail > value && (tail[-1] == ' ' || tail[-1] == '\t')) *--tail = '\0';
    h->fields[h->n_fields++] = (ad_http_field){line, value};
    return 0;
}

/* Cuts the text into lines, and lines into strings. The request line is left at its beginning. */
static int cut(ad_http_head *h, size_t len, const char **why)
{
    char *end = h->text + len - 2; /* without the empty line */
    for (const char *p = h->text; *p; p++) {
        unsigned char ch = (unsigned char)*p;
        if (ch == '\r' && p[1] == '\n') p++;
        else if (ch != '\t' && (ch < 0x20 || ch == 0x7F)) return *why = "the request's head holds a control byte or a bare line end", 400;
    }
    char *line = strstr(h->text, "\r\n");
    *line = '\0';
    for (line += 2; line < end;) {
        char *stop = strstr(line, "\r\n");
        *stop = '\0';
        int status = read_field(h, line, stop, why);
        if (status) return status;
        line = stop + 2;
    }
    return 0;
}

/* In place; false for a bad escape or an escaped NUL. */
static bool percent_decode(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (*s != '%') {
            *to++ = *s;
            continue;
        }
        int hi = ad_http_hex(s[1]), lo = hi < 0 ? -1 : ad_http_hex(s[2]);
        if (lo < 0 || (!hi && !lo)) return false;
        *to++ = (char)(hi * 16 + lo);
        s += 2;
    }
    *to = '\0';
    return true;
}

/* Which methods a parser knows depends on its version; these are ours. */
static bool is_known(const char *method)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(method, known[i])) return true;
    return false;
}

/* An absolute target loses scheme and host. */
static int read_target(ad_http_head *h, char *target, const char **why)
{
    *why = "the request's target is malformed";
    for (const char *p = target; *p; p++)
        if (*p < 0x21 || *p > 0x7E || *p == '#') return 400;
    char *scheme = !strncasecmp(target, "http://", 7) ? target + 7 : !strncasecmp(target, "https://", 8) ? target + 8 : NULL;
    if (scheme) target = strchr(scheme, '/') ? strchr(scheme, '/') : (char *)"/";
    bool whole_server = !strcmp(target, "*") && !strcmp(h->method, "OPTIONS");
    if (*target != '/' && !whole_server) return 400;
    char *query = strchr(target, '?');
    h->query = query ? query + 1 : "";
    h->path = strndup(target, query ? (size_t)(query - target) : strlen(target));
    if (!h->path) return *why = "out of memory", 503;
    return percent_decode(h->path) ? 0 : 400;
}

/* METHOD SP target SP HTTP/1.x */
static int read_request_line(ad_http_head *h, const char **why)
{
    char *line = h->text, *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
    *why = "the request line is not \"METHOD target HTTP/1.1\"";
    if (!version || target == line || version == target + 1) return 400;
    *target++ = *version++ = '\0';
    for (const char *m = line; *m; m++)
        if (!ad_http_is_token_char((unsigned char)*m)) return 400;
    if (strncmp(version, "HTTP/", 5) || version[5] < '0' || version[5] > '9' || version[6] != '.' || version[7] < '0' || version[7] > '9' || version[8]) return 400;
    *why = "only HTTP/1.0 and HTTP/1.1 are spoken here";
    if (version[5] != '1' || version[7] > '1') return 505;
    h->minor = version[7] - '0';
    h->method = line;
    h->is_head = !strcmp(line, "HEAD");
    *why = "the request's method is unknown here";
    return is_known(line) ? read_target(h, target, why) : 501;
}

static bool is_authority(const char *host)
{
    for (; *host; host++)
        if (!ad_http_is_token_char((unsigned char)*host) && !strchr("():,;=[]", *host)) return false;
    return true;
}

static bool all_digits(const char *s)
{
    size_t n = strspn(s, "0123456789");
    return n > 0 && !s[n];
}

/* What both ends must agree on: for whom it is and where the body ends. */
static int check_framing(ad_http_head *h, const char **why)
{
    const char *length = ad_http_head_find(h, "content-length"), *coding = ad_http_head_find(h, "transfer-encoding"), *expect = ad_http_head_find(h, "expect");
    const char *encoding = ad_http_head_find(h, "content-encoding"), *host = ad_http_head_find(h, "host");
    *why = "a request must have exactly one Host header";
    if (count_fields(h, "host") > 1 || (!host && h->minor == 1)) return 400;
    *why = "Host is malformed";
    if (host && !is_authority(host)) return 400;
    *why = "a request must not have more than one Content-Length or Transfer-Encoding";
    if (count_fields(h, "content-length") + count_fields(h, "transfer-encoding") > 1) return 400;
    *why = "Content-Length is not a number";
    if (length && !all_digits(length)) return 400;
    *why = "Transfer-Encoding is not allowed in HTTP/1.0";
    if (coding && h->minor == 0) return 400;
    *why = "the only Transfer-Encoding is chunked";
    if (coding && strcasecmp(coding, "chunked")) return 501;
    *why = "the only Expect is 100-continue";
    if (expect && strcasecmp(expect, "100-continue")) return 417;
    h->chunked = coding != NULL;
    h->expects_continue = expect && h->minor == 1;
    h->has_encoding = encoding && strcasecmp(encoding, "identity");
    if (length) h->length = strlen(length) > 18 ? SIZE_MAX : strtoull(length, NULL, 10);
    return 0;
}

int ad_http_head_read(ad_http_head *h, const char *raw, size_t len, const char **why)
{
    *h = (ad_http_head){.method = "", .query = "", .minor = 1};
    *why = "out of memory";
    h->text = strndup(raw, len);
    if (!h->text) return 503;
    *why = "the request's head holds a NUL byte";
    if (strlen(h->text) != len) return 400;
    int status = cut(h, len, why);
    if (!status && strlen(h->text) > AD_HTTP_MAX_LINE) return *why = "the request line is too long", 414;
    if (!status) status = read_request_line(h, why);
    return status ? status : check_framing(h, why);
}

void ad_http_head_deinit(ad_http_head *h)
{
    free(h->text);
    free(h->path);
}
