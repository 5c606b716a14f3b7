/* SPDX-License-Identifier: MIT */
/* chunk = size [;name[=value]]... CRLF data CRLF; the last has size 0 and trailers for data. Blanks are nowhere allowed but in values. */
#include "server/http/chunks.h"

#include <string.h>

#include "server/http/head.h"

enum { SIZE_DIGITS = 15, LINE_FREE = 16, MAX_EXCESS = 16 * 1024 };

typedef enum {
    SIZE_BEGIN, SIZE, EXT_BEGIN, EXT_NAME, EXT_VALUE_BEGIN, EXT_VALUE, EXT_QUOTED, EXT_ESCAPE, EXT_UNQUOTED, SIZE_END,
    DATA, DATA_CR, DATA_LF, TRAILER_BEGIN, TRAILER_NAME, TRAILER_VALUE, TRAILER_END, LAST_LF,
} state;

static bool is_text(unsigned char ch)
{
    return ch == '\t' || (ch >= 0x20 && ch != 0x7F);
}

/* After the size, a name or a value. */
static bool end_of_part(ad_http_chunks *c, char ch)
{
    c->state = ch == ';' ? EXT_BEGIN : SIZE_END;
    return ch == ';' || ch == '\r';
}

static bool size_digit(ad_http_chunks *c, char ch)
{
    int digit = ad_http_hex(ch);
    if (digit < 0) return c->state == SIZE && end_of_part(c, ch);
    c->state = SIZE;
    c->left = c->left * 16 + (uint64_t)digit;
    return ++c->line_bytes <= SIZE_DIGITS;
}

static bool extension(ad_http_chunks *c, char ch)
{
    bool token = ad_http_is_token_char((unsigned char)ch);
    if (++c->line_bytes > LINE_FREE) c->excess++;
    switch (c->state) {
    case EXT_BEGIN: c->state = EXT_NAME; return token;
    case EXT_NAME:
        if (token) return true;
        if (ch != '=') return end_of_part(c, ch);
        c->state = EXT_VALUE_BEGIN;
        return true;
    case EXT_VALUE_BEGIN: c->state = ch == '"' ? EXT_QUOTED : EXT_VALUE; return token || ch == '"';
    case EXT_VALUE: return token || end_of_part(c, ch);
    case EXT_QUOTED: c->state = ch == '"' ? EXT_UNQUOTED : ch == '\\' ? EXT_ESCAPE : EXT_QUOTED; return is_text((unsigned char)ch);
    case EXT_ESCAPE: c->state = EXT_QUOTED; return is_text((unsigned char)ch);
    default: return end_of_part(c, ch); /* EXT_UNQUOTED */
    }
}

static bool begin_data(ad_http_chunks *c, char ch)
{
    c->state = c->left ? DATA : TRAILER_BEGIN;
    c->line_bytes = 0;
    return ch == '\n';
}

/* What decides about framing has no place behind the body. */
static bool may_be_trailer(const ad_http_chunks *c)
{
    static const char *const forbidden[] = {"content-length", "transfer-encoding", "host", "content-encoding", "connection", "upgrade"};
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        if (!strcmp(c->name, forbidden[i])) return false;
    return true;
}

static bool trailer(ad_http_chunks *c, char ch)
{
    if (++c->trailer_bytes > AD_HTTP_MAX_HEAD) return false;
    switch (c->state) {
    case TRAILER_BEGIN:
        if (ch == '\r') return c->state = LAST_LF, true;
        if (++c->n_trailers > AD_HTTP_MAX_FIELDS) return false;
        memset(c->name, 0, sizeof c->name);
        c->line_bytes = 0;
        c->state = TRAILER_NAME;
        if (ch == ':') return false;
        /* fall through */
    case TRAILER_NAME:
        if (ch == ':') return c->state = TRAILER_VALUE, may_be_trailer(c);
        if (c->line_bytes < sizeof c->name - 1) c->name[c->line_bytes++] = (char)(ch >= 'A' && ch <= 'Z' ? ch | 32 : ch);
        return ad_http_is_token_char((unsigned char)ch);
    case TRAILER_VALUE:
        if (ch == '\r') return c->state = TRAILER_END, true;
        return is_text((unsigned char)ch);
    default: c->state = TRAILER_BEGIN; return ch == '\n'; /* TRAILER_END */
    }
}

static bool step(ad_http_chunks *c, char ch)
{
    switch (c->state) {
    case SIZE_BEGIN:
    case SIZE: return size_digit(c, ch);
    case SIZE_END: return begin_data(c, ch);
    case DATA_CR: c->state = DATA_LF; return ch == '\r';
    case DATA_LF: c->state = SIZE_BEGIN; return ch == '\n';
    case LAST_LF: c->done = true; return ch == '\n';
    default: return c->state < SIZE_END ? extension(c, ch) : trailer(c, ch);
    }
}

size_t ad_http_chunks_check(ad_http_chunks *c, char *data, size_t len, const char **why)
{
    size_t i = 0;
    while (i < len && !c->done) {
        if (c->state == DATA) {
            size_t n = len - i < c->left ? len - i : (size_t)c->left;
            c->left -= n;
            i += n;
            if (!c->left) c->state = DATA_CR;
            continue;
        }
        bool in_extension = c->state >= EXT_BEGIN && c->state < SIZE_END;
        if (!step(c, data[i])) return *why = "the framing of the request's chunked body is malformed", SIZE_MAX;
        if (c->excess > MAX_EXCESS) return *why = "the chunks of the request's body are mostly extensions", SIZE_MAX;
        if (in_extension && c->state != SIZE_END) data[i] = 'x';
        i++;
    }
    return i;
}
