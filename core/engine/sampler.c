/* SPDX-License-Identifier: MIT */
/* Sampling. Everything is decided by the logits, the parameters, the history and a counter-based generator,
 * so a token never depends on its neighbours in the batch. Ties go to the lower id. */
#include "core/engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t SEEN = 1u << 31;

ad_status ad_sampler_scratch_init(ad_sampler_scratch *s, int vocab, ad_err *err)
{
    s->work = ad_calloc((size_t)vocab, sizeof *s->work);
    s->order = ad_calloc((size_t)vocab, sizeof *s->order);
    s->weight = ad_calloc((size_t)vocab, sizeof *s->weight);
    s->mask = ad_calloc(((size_t)vocab + 63) / 64, sizeof *s->mask);
    s->other_mask = ad_calloc(((size_t)vocab + 63) / 64, sizeof *s->other_mask);
    if (s->work && s->order && s->weight && s->mask && s->other_mask) return AD_OK;
    ad_sampler_scratch_deinit(s);
    return ad_fail(err, AD_ENOMEM, "sampler: out of memory");
}

void ad_sampler_scratch_deinit(ad_sampler_scratch *s)
{
    free(s->work), free(s->order), free(s->weight), free(s->mask), free(s->other_mask);
    *s = (ad_sampler_scratch){0};
}

static void mark(ad_history *h, int32_t id)
{
    if (!h->seen[id]) h->ids[h->n++] = id;
    h->seen[id] |= SEEN;
}

ad_status ad_history_init(ad_history *h, int vocab, const int32_t *prompt, int n_prompt, ad_err *err)
{
    h->seen = ad_calloc((size_t)vocab, sizeof *h->seen);
    h->ids = ad_calloc((size_t)vocab, sizeof *h->ids);
    if (!h->seen || !h->ids) {
        ad_history_deinit(h);
        return ad_fail(err, AD_ENOMEM, "penalty counts: out of memory");
    }
    for (int i = 0; i < n_prompt; i++) mark(h, prompt[i]);
    return AD_OK;
}

void ad_history_add(ad_history *h, int32_t id)
{
    if (!h->seen) return;
    mark(h, id);
    h->seen[id]++;
}

void ad_history_deinit(ad_history *h)
{
    free(h->seen), free(h->ids);
    *h = (ad_history){0};
}

/* splitmix64's finaliser: every input bit reaches every output bit. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double ad_sampler_uniform(uint64_t seed, int choice, int position)
{
    uint64_t counter = (uint64_t)(uint32_t)choice << 32 | (uint32_t)position;
    return (double)(mix(mix(seed) ^ counter) >> 11) * 0x1p-53;
}

/* The n largest of x, best first, lower id first on ties. n is small: a sorted insertion list. */
static int largest(const float *x, int count, int n, int32_t *ids)
{
    int have = 0;
    for (int i = 0; i < count; i++) {
        if (have == n && !(x[i] > x[ids[n - 1]])) continue;
        int at = have < n ? have++ : n - 1;
        for (; at > 0 && x[i] > x[ids[at - 1]]; at--) ids[at] = ids[at - 1];
        ids[at] = i;
    }
    return have;
}

bool ad_logprobs(const ad_kernels *k, const float *logits, int vocab, int32_t id, int n_top, ad_token_info *out)
{
    float max;
    if (k->argmax(logits, vocab, &max) < 0 || !isfinite(max)) return false;
    double lse = (double)max + log(k->sum_exp(logits, vocab, max));
    out->id = id;
    out->logprob = (float)(logits[id] - lse);
    out->n_top = n_top > 0 ? largest(logits, vocab, n_top, out->top_id) : 0;
    for (int i = 0; i < out->n_top; i++) out->top_logprob[i] = (float)(logits[out->top_id[i]] - lse);
    return true;
}

static void penalise(const ad_sampling *p, const ad_history *h, float *l)
{
    for (int i = 0; i < h->n; i++) {
        int32_t id = h->ids[i];
        uint32_t count = h->seen[id] & ~SEEN;
        l[id] = l[id] > 0 ? l[id] / p->repetition_penalty : l[id] * p->repetition_penalty;
        l[id] -= (float)count * p->frequency_penalty;
        if (count) l[id] -= p->presence_penalty;
    }
}

/* Whoever's bit is not set can no longer be drawn. Returns how many are left. */
static int apply_mask(float *l, const uint64_t *mask, int n)
{
    int left = 0;
    for (int from = 0; from < n; from += 64, mask++) {
        int to = n - from < 64 ? n : from + 64;
        uint64_t bits = to - from < 64 ? *mask & (((uint64_t)1 << (to - from)) - 1) : *mask;
        left += __builtin_popcountll(bits);
        if (bits == UINT64_MAX) continue;
        for (int i = from; i < to; i++, bits >>= 1)
            if (!(bits & 1)) l[i] = -INFINITY;
    }
    return left;
}

typedef struct {
    float logit;
    int32_t id;
} candidate;

/* Largest first, lower id first. */
static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static float kth_largest(float *v, int n, int k)
{
    int lo = 0, hi = n - 1, want = k - 1;
    while (lo < hi) { /* quickselect, descending, middle pivot */
        float pivot = v[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i <= j) {
                float t = v[i];
                v[i++] = v[j];
                v[j--] = t;
            }
        }
        if (want <= j) hi = j;
        else if (want >= i) lo = i;
        else break;
    }
    return v[want];
}

/* Keeps the smallest set of most likely candidates whose mass reaches top_p; order[] becomes descending. */
static int cut_top_p(ad_sampler_scratch *s, int n, float top_p)
{
    candidate *c = malloc((size_t)n * sizeof *c);
    if (!c) return 0;
    double total = 0, mass = 0;
    for (int i = 0; i < n; i++) {
        c[i] = (candidate){s->weight[i], s->order[i]};
        total += s->weight[i];
    }
    qsort(c, (size_t)n, sizeof *c, by_logit);
    int kept = 0;
    while (kept < n && (kept == 0 || mass < top_p * total)) mass += c[kept++].logit;
    for (int i = 0; i < kept; i++) {
        s->order[i] = c[i].id;
        s->weight[i] = c[i].logit;
    }
    free(c);
    return kept;
}

/* Mass below exp(-CUT) of the best token is dropped before the sort of top_p; it is under vocab * 1e-11. */
static const float CUT = 25.0f;

/* Draws from l[n_usable] with temperature > 0. -1 when nothing is left. */
static int32_t draw(ad_sampler_scratch *s, const ad_sampling *p, float *l, int n_usable, float max, int position)
{
    float floor_logit = -INFINITY;
    if (p->min_p > 0) floor_logit = max + p->temperature * logf(p->min_p);
    if (p->top_p < 1 && max - p->temperature * CUT > floor_logit) floor_logit = max - p->temperature * CUT;
    int n = 0;
    for (int i = 0; i < n_usable; i++)
        if (l[i] >= floor_logit && l[i] > -INFINITY) s->order[n++] = i;
    if (p->top_k > 0 && p->top_k < n) {
        for (int i = 0; i < n; i++) s->weight[i] = l[s->order[i]];
        float least = kth_largest(s->weight, n, p->top_k);
        int kept = 0;
        for (int i = 0; i < n; i++)
            if (l[s->order[i]] >= least) s->order[kept++] = s->order[i];
        n = kept;
    }
    double total = 0;
    for (int i = 0; i < n; i++) s->weight[i] = expf((l[s->order[i]] - max) / p->temperature);
    if (p->top_p < 1) n = cut_top_p(s, n, p->top_p);
    for (int i = 0; i < n; i++) total += s->weight[i];
    double left = ad_sampler_uniform(p->seed, p->choice, position) * total;
    for (int i = 0; i < n; i++)
        if ((left -= s->weight[i]) < 0) return s->order[i];
    return n ? s->order[n - 1] : -1;
}

bool ad_sample(const ad_kernels *k, ad_sampler_scratch *s, const ad_sampling *p, const ad_history *h, const float *logits, int vocab,
               int n_usable, const uint64_t *mask, int position, ad_token_info *out)
{
    float max;
    if (k->argmax(logits, vocab, &max) < 0 || !isfinite(max)) return false;
    memcpy(s->work, logits, (size_t)n_usable * sizeof *logits);
    for (int i = 0; i < p->n_logit_bias; i++)
        if (p->logit_bias[i].id < n_usable) s->work[p->logit_bias[i].id] += p->logit_bias[i].bias;
    if (h->seen) penalise(p, h, s->work);
    int n_allowed = mask ? apply_mask(s->work, mask, n_usable) : n_usable;
    int32_t id = k->argmax(s->work, n_usable, &max);
    if (id < 0 || !isfinite(max)) return false;
    if (n_allowed > 1 && p->temperature >= 1e-5f) id = draw(s, p, s->work, n_usable, max, position); /* below, greedy: exp would overflow */
    if (id < 0) return false;
    if (p->logprobs >= 0) return ad_logprobs(k, logits, vocab, id, p->logprobs, out);
    out->id = id;
    return true;
}
