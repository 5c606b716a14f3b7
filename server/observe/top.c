/* SPDX-License-Identifier: MIT */
#include "server/observe/top.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

typedef struct {
    char name[AD_TOP_NAME + 1];
    double traffic;    /* as of `at`: requests and tokens, those of the past for less */
    int64_t at, since; /* since: it has had the row */
    ad_top_counts counts;
} row;

struct ad_top {
    int limit, n_rows, n_watched;
    row *rows;         /* [limit]; then as many that are only watched: their counts are not kept */
    row *watched;      /* [limit], in the same allocation */
    ad_top_counts other;
};

ad_status ad_top_new(ad_top **out, int rows, ad_err *err)
{
    ad_top *t = ad_calloc(1, sizeof *t);
    if (t) t->rows = ad_calloc(2 * (size_t)(rows ? rows : 1), sizeof *t->rows);
    if (!t || !t->rows) {
        free(t);
        return ad_fail(err, AD_ENOMEM, "out of memory for metrics");
    }
    t->limit = rows;
    t->watched = t->rows + rows;
    *out = t;
    return AD_OK;
}

void ad_top_free(ad_top **t)
{
    if (*t) free((*t)->rows);
    free(*t);
    *t = NULL;
}

static double traffic_at(const row *r, int64_t now)
{
    return r->traffic * exp2(-(double)(now - r->at) / AD_TOP_HALF_LIFE_S);
}

static row *find(row *rows, int n, const char *name)
{
    for (row *r = rows; r < rows + n; r++)
        if (!strcmp(r->name, name)) return r;
    return NULL;
}

static row *find_quietest(row *rows, int n, int64_t now)
{
    row *least = NULL;
    for (row *r = rows; r < rows + n; r++)
        if (!least || traffic_at(r, now) < traffic_at(least, now)) least = r;
    return least;
}

static void begin_row(row *r, const char *name, double traffic, int64_t now)
{
    *r = (row){.traffic = traffic, .at = now, .since = now};
    memcpy(r->name, name, strlen(name) + 1);
}

static void add_traffic(row *r, double more, int64_t now)
{
    r->traffic = traffic_at(r, now) + more;
    r->at = now;
}

static void add_counts(ad_top_counts *c, const ad_top_counts *more)
{
    c->requests += more->requests;
    c->failures += more->failures;
    c->rejections += more->rejections;
    c->prompt_tokens += more->prompt_tokens;
    c->cached_tokens += more->cached_tokens;
    c->generated_tokens += more->generated_tokens;
}

/* One without a row: whether it deserves that of the quietest. */
static void watch(ad_top *t, const char *name, double more, int64_t now)
{
    row *w = find(t->watched, t->n_watched, name), *quietest = find_quietest(t->rows, t->n_rows, now);
    if (w) {
        add_traffic(w, more, now);
    } else {
        w = t->n_watched < t->limit ? &t->watched[t->n_watched++] : find_quietest(t->watched, t->n_watched, now);
        begin_row(w, name, more, now);
    }
    if (now - quietest->since < AD_TOP_ROW_S || w->traffic <= 2 * traffic_at(quietest, now)) return;
    row old = *quietest;
    begin_row(quietest, name, w->traffic, now);
    begin_row(w, old.name, traffic_at(&old, now), now);
}

void ad_top_add(ad_top *t, const char *name, const ad_top_counts *more, int64_t now_s)
{
    double traffic = (double)(more->requests + more->prompt_tokens + more->generated_tokens);
    bool nameable = t->limit && strlen(name) <= AD_TOP_NAME && strcmp(name, AD_TOP_OTHER);
    row *r = nameable ? find(t->rows, t->n_rows, name) : NULL;
    if (nameable && !r && t->n_rows < t->limit) {
        r = &t->rows[t->n_rows++];
        begin_row(r, name, 0, now_s);
    }
    add_counts(r ? &r->counts : &t->other, more);
    if (r) add_traffic(r, traffic, now_s);
    else if (nameable) watch(t, name, traffic, now_s);
}

int ad_top_rows(const ad_top *t) { return t->n_rows; }
const char *ad_top_name(const ad_top *t, int i) { return i < t->n_rows ? t->rows[i].name : AD_TOP_OTHER; }
const ad_top_counts *ad_top_counts_of(const ad_top *t, int i) { return i < t->n_rows ? &t->rows[i].counts : &t->other; }
