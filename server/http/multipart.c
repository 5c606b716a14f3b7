/* SPDX-License-Identifier: MIT */
/* The reader of multipart/form-data. A delimiter is CR LF "--" boundary; CR stands nowhere else in it, so a failed match can start again only at
 * the next CR, and what was held back is known without being kept. */
#include "server/http/multipart.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* PREAMBLE and DATA look for a delimiter; AFTER is behind one; DASH has seen one '-' there, PAD blanks, LF is due in LINE_END. */
typedef enum { PREAMBLE, DATA, AFTER, DASH, PAD, LINE_END, HEAD, EPILOGUE } state;

struct ad_multipart {
    ad_multipart_handler on;
    state state;
    char delimiter[4 + AD_MULTIPART_BOUNDARY + 1];
    size_t delimiter_len;
    size_t matched; /* of the delimiter, at the end of what came */
    size_t phantom; /* of these, how many at the front were no data: the line end of the headers, or of nothing at the very start */
    int n_parts;
    size_t head_len; /* also counts the blanks behind a delimiter */
    char head[AD_MULTIPART_HEAD + 1];
};

/* ---- headers ---- */

static bool is_token_char(unsigned char ch)
{
    return (ch >= '0' && ch <= '9') || ((ch | 32) >= 'a' && (ch | 32) <= 'z') || (ch && strchr("!#$%&'*+-.^_`|~", ch));
}

static char *skip_blanks(char *s)
{
    return s + strspn(s, " \t");
}

/* The value at p, cut out in place; the byte behind it, or NULL when it is malformed. *end is where its NUL goes once that byte was looked at. */
static char *cut_value(char *p, char **value, char **end)
{
    *value = p;
    if (*p != '"') {
        while (is_token_char((unsigned char)*p) || (*p && strchr("()/:?@,=[]{}", *p))) p++; /* more than a token: unquoted boundaries and names are met */
        *end = p;
        return p > *value ? p : NULL;
    }
    char *to = ++*value;
    for (p++; *p && *p != '"'; *to++ = *p++)
        if (*p == '\\' && (p[1] == '"' || p[1] == '\\')) p++; /* other backslashes belong to the names of Windows files */
    *end = to;
    return *p ? p + 1 : NULL;
}

typedef enum { PARAM, NO_MORE, MALFORMED } found;

/* The next "name=value" of a header at *s, cut out in place; *s moves behind it and its semicolon. */
static found next_param(char **s, char **name, char **value)
{
    char *p = skip_blanks(*s), *end;
    if (!*p) return NO_MORE;
    *name = p;
    while (is_token_char((unsigned char)*p)) p++;
    if (p == *name || *p != '=') return MALFORMED;
    *p = '\0';
    p = cut_value(p + 1, value, &end);
    if (!p) return MALFORMED;
    p = skip_blanks(p);
    if (*p && *p != ';') return MALFORMED;
    bool more = *p; /* the NUL may fall on the semicolon */
    *end = '\0';
    *s = more ? p + 1 : p;
    return PARAM;
}

/* The parameters behind a header's first word, which is `word`: NULL when that is another one. */
static char *first_param(char *s, const char *word)
{
    size_t n = strlen(word);
    if (strncasecmp(s, word, n)) return NULL;
    s = skip_blanks(s + n);
    if (*s == ';') return s + 1;
    return *s ? NULL : s;
}

static ad_status bad_param(ad_err *err, const char *header)
{
    return ad_fail(err, AD_EINVAL, "multipart: a parameter of %s is malformed", header);
}

static ad_status read_disposition(char *s, char **name, char **filename, ad_err *err)
{
    char *key, *value;
    found f;
    s = first_param(s, "form-data");
    if (!s) return ad_fail(err, AD_EINVAL, "multipart: a part's Content-Disposition is not form-data");
    while ((f = next_param(&s, &key, &value)) == PARAM) {
        char **slot = !strcasecmp(key, "name") ? name : !strcasecmp(key, "filename") ? filename : NULL;
        if (slot && *slot) return ad_fail(err, AD_EINVAL, "multipart: a part has two of %s", key);
        if (slot) *slot = value;
    }
    if (f == MALFORMED) return bad_param(err, "Content-Disposition");
    if (!*name || !**name) return ad_fail(err, AD_EINVAL, "multipart: a part has no name");
    return AD_OK;
}

/* Header lines of one part, in place; each ends in CR LF. */
static ad_status read_head(ad_multipart *m, ad_err *err)
{
    char *name = NULL, *filename = NULL, *type = NULL, *disposition = NULL;
    for (char *line = m->head, *stop; *line; line = stop + 2) {
        stop = strstr(line, "\r\n");
        char *colon = line;
        *stop = '\0';
        while (is_token_char((unsigned char)*colon)) colon++;
        if (colon == line || *colon != ':') return ad_fail(err, AD_EINVAL, "multipart: a part's header is not \"name: value\"");
        *colon = '\0';
        char *value = skip_blanks(colon + 1);
        for (char *end = stop; end > value && (end[-1] == ' ' || end[-1] == '\t'); *--end = '\0') {}
        char **slot = !strcasecmp(line, "Content-Disposition") ? &disposition : !strcasecmp(line, "Content-Type") ? &type : NULL;
        if (slot && *slot) return ad_fail(err, AD_EINVAL, "multipart: a part has two %s headers", line);
        if (slot) *slot = value;
        if (!strcasecmp(line, "Content-Transfer-Encoding") && strcasecmp(value, "binary") && strcasecmp(value, "8bit") && strcasecmp(value, "7bit"))
            return ad_fail(err, AD_EINVAL, "multipart: a part is encoded as \"%.40s\"; send it as it is", value);
    }
    if (!disposition) return ad_fail(err, AD_EINVAL, "multipart: a part has no Content-Disposition");
    ad_status st = read_disposition(disposition, &name, &filename, err);
    return st == AD_OK ? m->on.begin(m->on.user, name, filename, type && *type ? type : "text/plain", err) : st;
}

/* One byte of a part's headers. */
static ad_status add_to_head(ad_multipart *m, char ch, ad_err *err)
{
    size_t n = m->head_len;
    if (n == AD_MULTIPART_HEAD) return ad_fail(err, AD_ELIMIT, "multipart: a part has more than %d bytes of headers", AD_MULTIPART_HEAD);
    if ((unsigned char)ch < 0x20 && ch != '\t' && ch != '\r' && ch != '\n') return ad_fail(err, AD_EINVAL, "multipart: a part's headers hold a control byte");
    if ((ch == '\n') != (n > 0 && m->head[n - 1] == '\r')) return ad_fail(err, AD_EINVAL, "multipart: a part's headers hold a bare line end");
    m->head[n++] = ch;
    m->head_len = n;
    bool first = n == 2 && ch == '\n', last = n >= 4 && ch == '\n' && m->head[n - 3] == '\n';
    if (!first && !last) return AD_OK;
    m->head[n - 2] = '\0';
    m->state = DATA;
    m->matched = m->phantom = 2; /* an empty part may do without a line end of its own */
    if (++m->n_parts > AD_MULTIPART_PARTS) return ad_fail(err, AD_ELIMIT, "multipart: more than %d parts", AD_MULTIPART_PARTS);
    return read_head(m, err);
}

/* ---- between parts ---- */

/* One byte behind a delimiter: "--" is the end of it all; blanks, then CR LF, begin a part. */
static ad_status add_to_delimiter(ad_multipart *m, char ch, ad_err *err)
{
    bool blank = ch == ' ' || ch == '\t';
    if (m->state == DASH && ch == '-') m->state = EPILOGUE;
    else if (m->state == AFTER && ch == '-') m->state = DASH;
    else if ((m->state == AFTER || m->state == PAD) && blank && m->head_len < AD_MULTIPART_HEAD) m->state = PAD, m->head_len++;
    else if ((m->state == AFTER || m->state == PAD) && ch == '\r') m->state = LINE_END;
    else if (m->state == LINE_END && ch == '\n') m->state = HEAD, m->head_len = 0;
    else return ad_fail(err, AD_EINVAL, "multipart: a boundary is not followed by the end of its line");
    return AD_OK;
}

/* ---- data ---- */

static ad_status emit(ad_multipart *m, const char *data, size_t len, ad_err *err)
{
    return m->state == DATA && len ? m->on.data(m->on.user, data, len, err) : AD_OK;
}

static ad_status end_data(ad_multipart *m, ad_err *err)
{
    bool in_part = m->state == DATA;
    m->state = AFTER;
    m->matched = m->phantom = m->head_len = 0;
    return in_part ? m->on.end(m->on.user, err) : AD_OK;
}

/* Goes on with a delimiter that began in an earlier piece; *used of data[len] belong to it. When it is none, what was held back is data. */
static ad_status match_on(ad_multipart *m, const char *data, size_t len, size_t *used, ad_err *err)
{
    size_t missing = m->delimiter_len - m->matched, n = len < missing ? len : missing;
    *used = 0;
    if (memcmp(data, m->delimiter + m->matched, n) != 0) {
        size_t held = m->matched, skip = m->phantom;
        m->matched = m->phantom = 0;
        return emit(m, m->delimiter + skip, held - skip, err);
    }
    *used = n;
    m->matched += n;
    return n == missing ? end_data(m, err) : AD_OK;
}

/* How many of the last bytes of data[len] may begin a delimiter. */
static size_t tail_match(const ad_multipart *m, const char *data, size_t len)
{
    size_t span = len < m->delimiter_len ? len : m->delimiter_len - 1;
    const char *cr = memrchr(data + len - span, '\r', span);
    if (!cr) return 0;
    size_t n = (size_t)(data + len - cr);
    return memcmp(cr, m->delimiter, n) ? 0 : n;
}

/* Reads up to the next delimiter, or all; *used says how many bytes. */
static ad_status read_data(ad_multipart *m, const char *data, size_t len, size_t *used, ad_err *err)
{
    if (m->matched) return match_on(m, data, len, used, err);
    const char *hit = memmem(data, len, m->delimiter, m->delimiter_len);
    size_t n = hit ? (size_t)(hit - data) : len - tail_match(m, data, len);
    m->matched = hit ? 0 : len - n;
    *used = hit ? n + m->delimiter_len : len;
    ad_status st = emit(m, data, n, err);
    return st == AD_OK && hit ? end_data(m, err) : st;
}

ad_status ad_multipart_feed(ad_multipart *m, const char *data, size_t len, ad_err *err)
{
    ad_status st = AD_OK;
    while (len && st == AD_OK && m->state != EPILOGUE) {
        size_t used = 1;
        if (m->state == PREAMBLE || m->state == DATA) st = read_data(m, data, len, &used, err);
        else if (m->state == HEAD) st = add_to_head(m, *data, err);
        else st = add_to_delimiter(m, *data, err);
        data += used;
        len -= used;
    }
    return st;
}

ad_status ad_multipart_finish(const ad_multipart *m, ad_err *err)
{
    if (m->state == EPILOGUE) return AD_OK;
    return ad_fail(err, AD_EINVAL, m->n_parts ? "multipart: the body ends before its closing boundary" : "multipart: the body does not hold the boundary of its Content-Type");
}

/* ---- the whole ---- */

static bool good_boundary(const char *s)
{
    size_t n = strlen(s);
    return n >= 1 && n <= AD_MULTIPART_BOUNDARY && s[n - 1] != ' ' && strspn(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'()+_,-./:=? ") == n;
}

static ad_status read_boundary(ad_multipart *m, char *type, ad_err *err)
{
    char *key, *value, *boundary = NULL, *s = first_param(type, "multipart/form-data");
    found f;
    if (!s) return ad_fail(err, AD_EUNSUPPORTED, "the Content-Type must be multipart/form-data, not \"%.100s\"", type);
    while ((f = next_param(&s, &key, &value)) == PARAM) {
        if (strcasecmp(key, "boundary")) continue;
        if (boundary) return ad_fail(err, AD_EINVAL, "multipart: the Content-Type has two boundaries");
        boundary = value;
    }
    if (f == MALFORMED) return bad_param(err, "the Content-Type");
    if (!boundary) return ad_fail(err, AD_EINVAL, "multipart: the Content-Type has no boundary");
    if (!good_boundary(boundary)) return ad_fail(err, AD_EINVAL, "multipart: the boundary must have 1 to %d characters of RFC 2046", AD_MULTIPART_BOUNDARY);
    m->delimiter_len = (size_t)snprintf(m->delimiter, sizeof m->delimiter, "\r\n--%s", boundary);
    return AD_OK;
}

ad_status ad_multipart_new(ad_multipart **out, const char *content_type, const ad_multipart_handler *handler, ad_err *err)
{
    ad_multipart *m = calloc(1, sizeof *m);
    char *type = strdup(content_type ? content_type : "");
    ad_status st = m && type ? read_boundary(m, type, err) : ad_fail(err, AD_ENOMEM, "out of memory");
    free(type);
    if (st != AD_OK) {
        free(m);
        return st;
    }
    m->on = *handler;
    m->matched = m->phantom = 2; /* the first boundary may stand at the very start, as if behind a line end */
    *out = m;
    return AD_OK;
}

void ad_multipart_free(ad_multipart **m)
{
    free(*m);
    *m = NULL;
}
