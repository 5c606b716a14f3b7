/* SPDX-License-Identifier: MIT */
/* Ids to text: whole texts as the tokenizer's own decoder does it, and a stream that gives out only what can no longer
 * change. A tokenizer serves any thread; an ad_detok has one owner at a time. */
#include <stdlib.h>
#include <string.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

/* The start of a character that later bytes may complete. */
typedef struct {
    char bytes[4];
    int n;
} partial;

static void put_replacement(ad_buf *out, int times)
{
    while (times-- > 0) ad_buf_append(out, "\xEF\xBF\xBD", 3);
}

/* A byte-level decoder replaces each maximal part of a character by one U+FFFD, byte fallback each byte. */
static int replacements(const ad_tokenizer *tk, int bytes)
{
    return tk->byte_level ? 1 : bytes;
}

static void drop(partial *p, int n)
{
    p->n -= n;
    memmove(p->bytes, p->bytes + n, (size_t)p->n);
}

static void feed_byte(const ad_tokenizer *tk, partial *p, char byte, ad_buf *out)
{
    p->bytes[p->n++] = byte;
    for (int step; p->n > 0 && (step = ad_utf8_step(p->bytes, (size_t)p->n)) != 0;) {
        if (step > 0) ad_buf_append(out, p->bytes, (size_t)step);
        else put_replacement(out, replacements(tk, -step));
        drop(p, step > 0 ? step : -step);
    }
}

static void feed(const ad_tokenizer *tk, partial *p, ad_str s, ad_buf *out)
{
    if (p->n == 0 && ad_utf8_check(s.ptr, s.len) == s.len) {
        ad_buf_append(out, s.ptr, s.len);
        return;
    }
    for (size_t i = 0; i < s.len; i++) feed_byte(tk, p, s.ptr[i], out);
}

static void flush(const ad_tokenizer *tk, partial *p, ad_buf *out)
{
    if (p->n > 0) put_replacement(out, replacements(tk, p->n));
    p->n = 0;
}

/* Metaspace's decoder drops all the spaces of a text's first token. */
static void append_without_spaces(ad_buf *out, ad_str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] != ' ') ad_buf_append(out, s.ptr + i, 1);
}

/* ---- whole texts ---- */

/* Byte fallback judges a run of byte tokens as one: all of it is text, or none. */
static void put_run(ad_buf *run, ad_buf *out)
{
    if (run->len && ad_utf8_check(run->data, run->len) == run->len) ad_buf_append(out, run->data, run->len);
    else put_replacement(out, (int)run->len);
    ad_buf_clear(run);
}

void ad_tokenizer_decode(const ad_tokenizer *tk, const int32_t *ids, size_t n, bool skip_special, ad_buf *out)
{
    size_t start = out->len;
    partial p = {{0}, 0};
    ad_buf run = {0};
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        if (skip_special && ad_tokenizer_is_special(tk, ids[i])) continue;
        ad_str piece = ad_tokenizer_piece(tk, ids[i]);
        bool is_byte = ids[i] >= 0 && ids[i] < tk->n_vocab && tk->flags[ids[i]] & AD_TK_BYTE;
        if (is_byte) ad_buf_append(&run, piece.ptr, piece.len);
        else if (run.len) put_run(&run, out);
        if (first && tk->strip_first) append_without_spaces(out, piece);
        else if (!is_byte) feed(tk, &p, piece, out);
        first = false;
    }
    if (run.len) put_run(&run, out);
    flush(tk, &p, out);
    if (run.failed) out->failed = true;
    ad_buf_deinit(&run);
    size_t spaces = 0;
    while (spaces < (size_t)tk->strip_start && start + spaces < out->len && out->data[start + spaces] == ' ') spaces++;
    if (!spaces) return;
    memmove(out->data + start, out->data + start + spaces, out->len - start - spaces + 1);
    out->len -= spaces;
}

/* ---- streams ---- */

/* One stop string and how much of it the text ends with right now (Knuth, Morris, Pratt). */
typedef struct {
    char *text;
    size_t len, matched;
    size_t *border; /* [len] longest proper prefix that ends text[0..i] */
} stop;

struct ad_detok {
    const ad_tokenizer *tk;
    stop *stops;
    int n_stops, ended; /* ended: by which of them; -1: none yet */
    bool skip_special, stopped, first;
    int lead;     /* spaces that may still be stripped from the start */
    int unsearched; /* tokens left whose text no stop string looks at; below 0 once they are through */
    partial part;
    ad_buf fresh; /* what the latest token added, valid UTF-8 */
    ad_buf held;  /* not given out yet: the beginning of some stop string, perhaps */
};

static ad_status init_stop(stop *s, ad_str text)
{
    s->text = malloc(text.len);
    s->border = ad_calloc(text.len, sizeof *s->border);
    if (!s->text || !s->border) return AD_ENOMEM;
    memcpy(s->text, text.ptr, text.len);
    s->len = text.len;
    for (size_t i = 1, k = 0; i < s->len; i++) {
        while (k && s->text[i] != s->text[k]) k = s->border[k - 1];
        if (s->text[i] == s->text[k]) k++;
        s->border[i] = k;
    }
    return AD_OK;
}

/* Whether the stop string is complete with this byte. */
static bool advance(stop *s, char byte)
{
    if (s->matched == s->len) s->matched = s->border[s->len - 1]; /* never while a match ends the text */
    while (s->matched && s->text[s->matched] != byte) s->matched = s->border[s->matched - 1];
    if (s->text[s->matched] == byte) s->matched++;
    return s->matched == s->len;
}

ad_status ad_detok_new(ad_detok **out, const ad_tokenizer *tk, const ad_str *stops, int n_stops, bool skip_special, int n_prompt, ad_err *err)
{
    for (int i = 0; i < n_stops; i++)
        if (!stops[i].len) return ad_fail(err, AD_EINVAL, "stop string %d is empty", i);
    ad_detok *d = ad_calloc(1, sizeof *d);
    if (!d) return ad_fail(err, AD_ENOMEM, "out of memory for a decoder");
    d->tk = tk;
    d->skip_special = skip_special;
    d->ended = -1;
    d->first = n_prompt == 0;
    d->lead = n_prompt == 0 ? tk->strip_start : 0;
    d->stops = ad_calloc((size_t)n_stops, sizeof *d->stops);
    ad_status st = d->stops ? AD_OK : AD_ENOMEM;
    for (; st == AD_OK && d->n_stops < n_stops; d->n_stops++) st = init_stop(&d->stops[d->n_stops], stops[d->n_stops]);
    if (st == AD_OK) {
        *out = d;
        return AD_OK;
    }
    ad_detok_free(&d);
    return ad_fail(err, st, "out of memory for stop strings");
}

void ad_detok_hold_stops(ad_detok *d, int n)
{
    d->unsearched = n;
}

int ad_detok_stop(const ad_detok *d)
{
    return d->ended;
}

void ad_detok_free(ad_detok **dp)
{
    ad_detok *d = *dp;
    if (!d) return;
    *dp = NULL;
    for (int i = 0; i < d->n_stops; i++) {
        free(d->stops[i].text);
        free(d->stops[i].border);
    }
    free(d->stops);
    ad_buf_deinit(&d->fresh);
    ad_buf_deinit(&d->held);
    free(d);
}

/* Takes one byte of text; true when it completes a stop string, which is then cut off together with what is left of
 * the text behind it. Of several that end here the one that begins first counts. */
static bool take_byte(ad_detok *d, char byte)
{
    size_t cut = 0;
    ad_buf_append(&d->held, &byte, 1);
    for (int i = 0; i < d->n_stops && d->unsearched < 0; i++)
        if (advance(&d->stops[i], byte) && d->stops[i].len > cut) cut = d->stops[i].len, d->ended = i;
    if (!cut || d->held.failed) return false;
    d->held.len -= cut;
    return true;
}

static size_t longest_beginning(const ad_detok *d)
{
    size_t n = 0;
    for (int i = 0; i < d->n_stops; i++)
        if (d->stops[i].matched > n) n = d->stops[i].matched;
    return n;
}

/* Moves d->fresh through the stop strings and gives out what none of them can claim any more. */
static ad_status release(ad_detok *d, bool all, ad_buf *out)
{
    size_t at = 0;
    if (d->fresh.failed) return AD_ENOMEM;
    for (; d->lead > 0 && at < d->fresh.len && d->fresh.data[at] == ' '; at++) d->lead--;
    if (at < d->fresh.len) d->lead = 0;
    for (; at < d->fresh.len && !d->stopped; at++) d->stopped = take_byte(d, d->fresh.data[at]);
    ad_buf_clear(&d->fresh);
    if (d->held.failed) return AD_ENOMEM;
    size_t keep = all || d->stopped ? 0 : longest_beginning(d), give = d->held.len - keep;
    if (!give) return AD_OK;
    ad_buf_append(out, d->held.data, give);
    memmove(d->held.data, d->held.data + give, keep);
    d->held.len = keep;
    return out->failed ? AD_ENOMEM : AD_OK;
}

ad_status ad_detok_push(ad_detok *d, int32_t id, ad_buf *out, bool *stopped)
{
    *stopped = d->stopped;
    if (d->stopped) return AD_OK;
    d->unsearched--;
    if (d->skip_special && ad_tokenizer_is_special(d->tk, id)) return AD_OK;
    ad_str piece = ad_tokenizer_piece(d->tk, id);
    if (d->first && d->tk->strip_first) append_without_spaces(&d->fresh, piece);
    else feed(d->tk, &d->part, piece, &d->fresh);
    d->first = false;
    ad_status st = release(d, false, out);
    *stopped = d->stopped;
    return st;
}

ad_status ad_detok_finish(ad_detok *d, ad_buf *out)
{
    if (d->stopped) return AD_OK;
    flush(d->tk, &d->part, &d->fresh);
    return release(d, true, out);
}
