/* SPDX-License-Identifier: MIT */
/* Sequences, their KV pages, and the step that advances many of them at once. Engine thread. */
#include "core/engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine/sampler.h"
#include "core/model/step.h"

static const char NOT_FINITE[] = "the model produced numbers that are not finite; the adapter or the prompt overflows it";
static const char NOTHING_ALLOWED[] = "no token is left that may be drawn: the grammar, the allowed tokens and min_tokens exclude them all";
static const char GRAMMAR_LIMIT[] = "the grammar grew beyond its limits; make it simpler";

struct ad_seq {
    int32_t *tokens;           /* prompt, then what was generated: [n_prompt + max_tokens] */
    int n_prompt, n_tokens;    /* n_tokens - n_prompt were generated */
    int n_cached;              /* positions already in the KV pages */
    ad_sampling sampling;
    ad_pooling pooling;
    float *vector;             /* [hidden] what was pooled so far; NULL before the first admission, or not pooled */
    ad_seq_weights weights;
    ad_history history;
    ad_token_info *prompt_infos; /* [n_prompt] or NULL */
    bool prompt_known;         /* prompt_infos is complete */
    void **pages;              /* [max_pages] */
    int *page_ids;             /* [max_pages] */
    int n_pages;               /* held */
    bool admitted;
    int n_hit;                 /* prompt tokens found in the cache; -1 before the first admission */
    ad_kv_parent parent;       /* of the next page to become known */
    int n_known;               /* pages that are known or were looked up */
    int32_t grammar_state;     /* after all that was generated */
    bool complete;             /* the grammar allows nothing more */
    const char *failure;       /* why it cannot go on; NULL: it can */
};

typedef struct {
    ad_step_item *item;
    int prompt_pos;            /* >= 0: the logprob of prompt token prompt_pos + 1; -1: draw the next token */
} output;

struct ad_engine {
    const ad_model *model;
    ad_engine_options opt;
    ad_kernels kernels;
    ad_team *team;
    ad_scratch *scratch;
    ad_sampler_scratch *samplers; /* one per team member */
    ad_kv *kv;
    int n_running;
    int32_t *tokens;           /* [step_tokens] and so on: the batch under construction */
    int *positions, *out_rows;
    void *const **pages;
    const ad_mix **mixes;
    const ad_merged **merged;
    output *outputs;
    int n_out;
    int *state_rows;           /* [step_tokens] rows that are pooled, and whose they are */
    ad_seq **state_seqs;
    int n_states;
    float *states;             /* [step_tokens, hidden]; untouched rows cost nothing */
    size_t states_bytes;
    float *logits;             /* [step_tokens, vocab]; untouched rows cost nothing */
    size_t logits_bytes;
    const int32_t *eogs;
    int n_eogs, n_usable;
};

int ad_engine_pages_for(int n_tokens) { return (n_tokens + AD_KV_PAGE - 1) / AD_KV_PAGE; }
int ad_engine_pages_total(const ad_engine *e) { return ad_kv_total(e->kv); }
int ad_engine_pages_free(const ad_engine *e) { return ad_kv_available(e->kv); }
const char *ad_engine_kernels(const ad_engine *e) { return e->kernels.name; }

/* ---- sequences ---- */

ad_status ad_seq_new(ad_seq **out, const int32_t *prompt, int n_prompt, const ad_sampling *sampling, ad_seq_weights weights, ad_err *err)
{
    ad_seq *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "sequence: out of memory");
    bool infos = sampling->prompt_logprobs >= 0;
    s->sampling = *sampling;
    s->weights = weights;
    s->n_hit = -1;
    s->n_prompt = s->n_tokens = n_prompt;
    size_t most = (size_t)n_prompt + (size_t)sampling->max_tokens, pages = (most + AD_KV_PAGE - 1) / AD_KV_PAGE;
    s->tokens = ad_calloc(most, sizeof *s->tokens);
    s->pages = ad_calloc(pages, sizeof *s->pages);
    s->page_ids = ad_calloc(pages, sizeof *s->page_ids);
    if (infos) s->prompt_infos = ad_calloc((size_t)n_prompt, sizeof *s->prompt_infos);
    if (!s->tokens || !s->pages || !s->page_ids || (infos && !s->prompt_infos)) {
        ad_seq_free(&s);
        return ad_fail(err, AD_ENOMEM, "sequence of %d tokens: out of memory", n_prompt);
    }
    memcpy(s->tokens, prompt, (size_t)n_prompt * sizeof *prompt);
    if (s->prompt_infos) s->prompt_infos[0].id = prompt[0];
    *out = s;
    return AD_OK;
}

ad_status ad_seq_new_pooled(ad_seq **out, const int32_t *prompt, int n_prompt, ad_pooling pooling, ad_seq_weights weights, ad_err *err)
{
    ad_status st = ad_seq_new(out, prompt, n_prompt, &(ad_sampling){.repetition_penalty = 1, .logprobs = -1, .prompt_logprobs = -1}, weights, err);
    if (st == AD_OK) (*out)->pooling = pooling;
    return st;
}

void ad_seq_free(ad_seq **sp)
{
    ad_seq *s = *sp;
    if (!s) return;
    ad_history_deinit(&s->history);
    free(s->prompt_infos);
    free(s->vector);
    free(s->tokens);
    free(s->pages);
    free(s->page_ids);
    free(s);
    *sp = NULL;
}

int ad_seq_pending_rows(const ad_seq *s) { return s->n_tokens - s->n_cached; }
int ad_seq_pages(const ad_seq *s) { return s->n_pages; }
const ad_mix *ad_seq_mix(const ad_seq *s) { return s->weights.mix; }
int ad_seq_cached_tokens(const ad_seq *s) { return s->n_hit > 0 ? s->n_hit : 0; }
const ad_token_info *ad_seq_prompt_logprobs(const ad_seq *s) { return s->prompt_infos; }
int ad_seq_prompt_tokens(const ad_seq *s) { return s->n_prompt; }
const float *ad_seq_vector(const ad_seq *s) { return s->vector; }

static bool penalises(const ad_sampling *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

/* ---- engine ---- */

static ad_status make_buffers(ad_engine *e, ad_err *err)
{
    const ad_model_config *c = ad_model_get_config(e->model);
    size_t rows = (size_t)e->opt.step_tokens, page = ad_kv_page_bytes(e->model, e->opt.kv_type);
    size_t n_pages = e->opt.kv_bytes / page;
    if (!n_pages || n_pages > INT32_MAX) return ad_fail(err, AD_EINVAL, "KV memory of %zu bytes holds %zu pages of %zu; it must be 1 to %d", e->opt.kv_bytes, n_pages, page, INT32_MAX);
    ad_status kv = ad_kv_new(&e->kv, page, (int)n_pages, err);
    if (kv != AD_OK) return kv;
    e->logits_bytes = rows * (size_t)c->vocab * sizeof *e->logits;
    e->logits = ad_arena_new(e->logits_bytes);
    e->tokens = ad_calloc(rows, sizeof *e->tokens);
    e->positions = ad_calloc(rows, sizeof *e->positions);
    e->out_rows = ad_calloc(rows, sizeof *e->out_rows);
    e->pages = ad_calloc(rows, sizeof *e->pages);
    e->mixes = ad_calloc(rows, sizeof *e->mixes);
    e->merged = ad_calloc(rows, sizeof *e->merged);
    e->outputs = ad_calloc(rows, sizeof *e->outputs);
    e->state_rows = ad_calloc(rows, sizeof *e->state_rows);
    e->state_seqs = ad_calloc(rows, sizeof *e->state_seqs);
    e->states_bytes = rows * (size_t)c->hidden * sizeof *e->states;
    e->states = ad_arena_new(e->states_bytes);
    e->samplers = ad_calloc((size_t)ad_team_size(e->team), sizeof *e->samplers);
    if (!e->logits || !e->tokens || !e->positions || !e->out_rows || !e->pages || !e->mixes || !e->merged || !e->outputs || !e->state_rows || !e->state_seqs ||
        !e->states || !e->samplers)
        return ad_fail(err, AD_ENOMEM, "engine: %zu step rows: out of memory", rows);
    ad_status st = AD_OK;
    for (int i = 0; st == AD_OK && i < ad_team_size(e->team); i++) st = ad_sampler_scratch_init(&e->samplers[i], c->vocab, err);
    return st;
}

ad_status ad_engine_new(ad_engine **out, const ad_model *model, const ad_engine_options *opt, ad_err *err)
{
    ad_engine *e = ad_calloc(1, sizeof *e);
    if (!e) return ad_fail(err, AD_ENOMEM, "engine: out of memory");
    e->model = model;
    e->opt = *opt;
    ad_kernels_init(&e->kernels, opt->cpu);
    e->eogs = ad_tokenizer_eogs(ad_model_tokenizer(model), &e->n_eogs);
    e->n_usable = ad_tokenizer_vocab(ad_model_tokenizer(model));
    ad_status st = ad_team_new(&e->team, opt->n_threads, err);
    if (st == AD_OK) st = make_buffers(e, err);
    if (st == AD_OK) st = ad_scratch_new(&e->scratch, model, &e->kernels, e->team, opt->step_tokens, opt->step_tokens, opt->context, opt->kv_type, err);
    if (st == AD_OK) *out = e;
    else ad_engine_free(&e);
    return st;
}

void ad_engine_free(ad_engine **ep)
{
    ad_engine *e = *ep;
    if (!e) return;
    for (int i = 0; e->samplers && i < ad_team_size(e->team); i++) ad_sampler_scratch_deinit(&e->samplers[i]);
    free(e->samplers);
    ad_scratch_free(&e->scratch);
    ad_team_free(&e->team);
    ad_kv_free(&e->kv);
    if (e->logits) ad_arena_free(e->logits, e->logits_bytes);
    if (e->states) ad_arena_free(e->states, e->states_bytes);
    free(e->state_rows), free(e->state_seqs);
    free(e->tokens), free(e->positions), free(e->out_rows);
    free(e->pages), free(e->mixes), free(e->merged), free(e->outputs);
    free(e);
    *ep = NULL;
}

static void hold_page(ad_engine *e, ad_seq *s, int page)
{
    s->page_ids[s->n_pages] = page;
    s->pages[s->n_pages++] = ad_kv_page(e->kv, page);
}

static void drop_pages(ad_engine *e, ad_seq *s)
{
    while (s->n_pages) ad_kv_release(e->kv, s->page_ids[--s->n_pages]); /* the last first: a prefix outlives what follows it */
}

/* Holds the known pages of its beginning. At least one token is left to compute, for what lies behind it. */
static void find_prefix(ad_engine *e, ad_seq *s)
{
    s->n_cached = s->n_known = 0;
    s->parent = s->weights.root;
    if (s->prompt_infos && !s->prompt_known) return; /* every prompt position must be computed */
    if (s->pooling == AD_POOL_MEAN || s->pooling == AD_POOL_CLS) return; /* and here its state is needed */
    while (s->n_cached + AD_KV_PAGE < s->n_tokens) {
        int page = ad_kv_find(e->kv, s->parent, s->tokens + s->n_cached);
        if (page < 0) return;
        hold_page(e, s, page);
        s->parent = ad_kv_parent_of(e->kv, page);
        s->n_cached += AD_KV_PAGE;
        s->n_known++;
    }
}

/* Pooling begins, or begins again. */
static ad_status start_vector(const ad_engine *e, ad_seq *s, ad_err *err)
{
    size_t n = (size_t)ad_model_get_config(e->model)->hidden;
    if (!s->vector && !(s->vector = ad_calloc(n, sizeof *s->vector))) return ad_fail(err, AD_ENOMEM, "embedding: out of memory");
    memset(s->vector, 0, n * sizeof *s->vector);
    return AD_OK;
}

ad_status ad_engine_admit(ad_engine *e, ad_seq *s, ad_err *err)
{
    if (e->n_running == e->opt.max_running) return ad_fail(err, AD_EBUSY, "no room in the batch now");
    ad_status st = ad_scratch_reserve(e->scratch, s->weights.mix, err);
    if (st == AD_OK && penalises(&s->sampling) && !s->history.seen) st = ad_history_init(&s->history, ad_model_get_config(e->model)->vocab, s->tokens, s->n_prompt, err);
    if (st == AD_OK && s->pooling) st = start_vector(e, s, err);
    if (st != AD_OK) return st;
    find_prefix(e, s);
    /* A page to spare for each that runs: who is taken in at the last page is thrown out in the next step. */
    if (ad_engine_pages_for(s->n_tokens) - s->n_pages + e->n_running > ad_kv_available(e->kv)) {
        drop_pages(e, s);
        s->n_cached = 0;
        return ad_fail(err, AD_EBUSY, "no room in the KV cache now");
    }
    if (s->n_hit < 0) s->n_hit = s->n_cached;
    s->admitted = true;
    e->n_running++;
    return AD_OK;
}

bool ad_engine_reserve(ad_engine *e, ad_seq *s, int rows)
{
    int want = ad_engine_pages_for(s->n_cached + rows);
    if (want - s->n_pages > ad_kv_available(e->kv)) return false;
    while (s->n_pages < want) hold_page(e, s, ad_kv_take(e->kv));
    return true;
}

void ad_engine_remove(ad_engine *e, ad_seq *s)
{
    if (!s->admitted) return;
    drop_pages(e, s);
    s->n_cached = 0;
    s->admitted = false;
    e->n_running--;
}

/* Pages that the last step filled become known. */
static void publish_pages(ad_engine *e, ad_seq *s)
{
    if (s->failure) return;
    for (; (s->n_known + 1) * AD_KV_PAGE <= s->n_cached; s->n_known++)
        s->parent = ad_kv_publish(e->kv, s->page_ids[s->n_known], s->parent, s->tokens + s->n_known * AD_KV_PAGE);
}

static int by_pointer(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return (x > y) - (x < y);
}

/* Items with the same weights side by side, and among them those with the same corrections; the base first. */
static int by_weights(const void *a, const void *b)
{
    const ad_seq_weights *v = &((const ad_step_item *)a)->seq->weights, *w = &((const ad_step_item *)b)->seq->weights;
    if (v->merged != w->merged) return by_pointer(v->merged, w->merged);
    const ad_mix *x = v->mix, *y = w->mix;
    if (!x || !y) return (x != NULL) - (y != NULL);
    for (int i = 0; i < x->n && i < y->n; i++) {
        int order = by_pointer(x->sets[i], y->sets[i]);
        if (order) return order;
        if (x->weights[i] != y->weights[i]) return x->weights[i] < y->weights[i] ? -1 : 1;
    }
    return x->n - y->n;
}

static bool pools(const ad_seq *s, int pos)
{
    return s->pooling == AD_POOL_MEAN || (s->pooling == AD_POOL_LAST && pos + 1 == s->n_prompt) || (s->pooling == AD_POOL_CLS && pos == 0);
}

static int add_rows(ad_engine *e, ad_step_item *it, int row)
{
    ad_seq *s = it->seq;
    for (int i = 0; i < it->rows; i++, row++) {
        int pos = s->n_cached + i;
        e->tokens[row] = s->tokens[pos];
        e->positions[row] = pos;
        e->pages[row] = s->pages;
        e->mixes[row] = s->weights.mix;
        e->merged[row] = s->weights.merged;
        if (pools(s, pos)) {
            e->state_rows[e->n_states] = row;
            e->state_seqs[e->n_states++] = s;
        }
        bool next_prompt = s->prompt_infos && !s->prompt_known && pos + 1 < s->n_prompt, last = pos + 1 == s->n_tokens;
        if (!next_prompt && !(last && s->sampling.max_tokens > 0)) continue;
        e->out_rows[e->n_out] = row;
        e->outputs[e->n_out++] = (output){it, next_prompt ? pos : -1};
    }
    s->n_cached += it->rows;
    return row;
}

static void fail(ad_seq *s, const char *why) { __atomic_store_n(&s->failure, why, __ATOMIC_RELAXED); }

static void set_bit(uint64_t *mask, int32_t id, bool on)
{
    uint64_t bit = (uint64_t)1 << id % 64;
    if (on) mask[id / 64] |= bit;
    else mask[id / 64] &= ~bit;
}

static bool any_bit(const uint64_t *mask, size_t words)
{
    for (size_t i = 0; i < words; i++)
        if (mask[i]) return true;
    return false;
}

/* What ends the text can be drawn, or not: stop ids, and end-of-generation ids unless they stay as they are. */
static void set_ends(const ad_engine *e, const ad_sampling *p, uint64_t *mask, bool eogs, bool on)
{
    for (int i = 0; eogs && i < e->n_eogs; i++) set_bit(mask, e->eogs[i], on);
    for (int i = 0; i < p->n_stop_token_ids; i++)
        if (p->stop_token_ids[i] < e->n_usable) set_bit(mask, p->stop_token_ids[i], on);
}

static void keep_allowed(const ad_engine *e, const ad_sampling *p, uint64_t *mask, uint64_t *listed, size_t words)
{
    memset(listed, 0, words * sizeof *listed);
    for (int i = 0; i < p->n_allowed_token_ids; i++)
        if (p->allowed_token_ids[i] < e->n_usable) set_bit(listed, p->allowed_token_ids[i], true);
    for (size_t i = 0; i < words; i++) mask[i] &= listed[i];
}

static bool mask_by_grammar(const ad_engine *e, const ad_seq *s, uint64_t *mask, bool early)
{
    const ad_sampling *p = &s->sampling;
    ad_grammar_end end = ad_grammar_ends(p->grammar, s->grammar_state);
    if (!ad_grammar_mask(p->grammar, s->grammar_state, mask)) return false;
    set_ends(e, p, mask, false, end == AD_GRAMMAR_MAY_END && !early);
    if (end == AD_GRAMMAR_DONE || (end == AD_GRAMMAR_MAY_END && !early && !p->ignore_eos)) set_ends(e, p, mask, true, true);
    return true;
}

/* The tokens that may be drawn now, in the scratch; NULL: all of them. On failure s->failure is set. */
static const uint64_t *mask_of(const ad_engine *e, ad_sampler_scratch *scratch, ad_seq *s)
{
    const ad_sampling *p = &s->sampling;
    size_t words = ad_grammar_mask_words(e->n_usable);
    bool early = s->n_tokens - s->n_prompt < p->min_tokens;
    if (!p->grammar && !p->n_allowed_token_ids && !early) return NULL;
    if (!p->grammar) {
        memset(scratch->mask, 0xFF, words * sizeof *scratch->mask);
        if (early) set_ends(e, p, scratch->mask, true, false);
    } else if (!mask_by_grammar(e, s, scratch->mask, early)) {
        fail(s, GRAMMAR_LIMIT);
        return NULL;
    }
    if (p->n_allowed_token_ids) keep_allowed(e, p, scratch->mask, scratch->other_mask, words);
    if (!any_bit(scratch->mask, words)) fail(s, NOTHING_ALLOWED);
    return scratch->mask;
}

static bool ends_text(const ad_engine *e, const ad_sampling *p, int32_t id)
{
    for (int i = 0; i < p->n_stop_token_ids; i++)
        if (p->stop_token_ids[i] == id) return true;
    return (!p->ignore_eos || p->grammar) && ad_tokenizer_is_eog(ad_model_tokenizer(e->model), id);
}

static void follow_grammar(ad_seq *s, int32_t id)
{
    s->grammar_state = ad_grammar_next(s->sampling.grammar, s->grammar_state, id);
    if (s->grammar_state < 0) fail(s, GRAMMAR_LIMIT);
    else s->complete = ad_grammar_ends(s->sampling.grammar, s->grammar_state) == AD_GRAMMAR_DONE;
}

static void pick_token(ad_engine *e, ad_sampler_scratch *scratch, ad_step_item *it, const float *logits)
{
    ad_seq *s = it->seq;
    const ad_sampling *p = &s->sampling;
    const uint64_t *mask = mask_of(e, scratch, s);
    if (__atomic_load_n(&s->failure, __ATOMIC_RELAXED)) return;
    if (!ad_sample(&e->kernels, scratch, p, &s->history, logits, ad_model_get_config(e->model)->vocab, e->n_usable, mask, s->n_tokens - s->n_prompt, &it->token)) {
        fail(s, NOT_FINITE);
        return;
    }
    it->has_token = true;
    it->token.ends = ends_text(e, p, it->token.id);
    s->tokens[s->n_tokens++] = it->token.id;
    ad_history_add(&s->history, it->token.id);
    if (p->grammar && !it->token.ends) follow_grammar(s, it->token.id);
}

/* Outputs of one sequence stay with one member only by luck; prompt positions write distinct infos, and a
 * sequence draws at most one token per step. `failure` is the one field two members may set. */
static void read_outputs(void *arg, int index, int count)
{
    ad_engine *e = arg;
    int vocab = ad_model_get_config(e->model)->vocab, begin, end;
    ad_team_slice(e->n_out, 1, index, count, &begin, &end);
    for (int i = begin; i < end; i++) {
        const float *logits = e->logits + (size_t)i * (size_t)vocab;
        ad_seq *s = e->outputs[i].item->seq;
        int pos = e->outputs[i].prompt_pos;
        if (pos < 0) pick_token(e, &e->samplers[index], e->outputs[i].item, logits);
        else if (!ad_logprobs(&e->kernels, logits, vocab, s->tokens[pos + 1], s->sampling.prompt_logprobs, &s->prompt_infos[pos + 1]))
            fail(s, NOT_FINITE);
    }
}

static bool is_finite(const float *x, int n)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

/* States in the order of positions, one after another: how the prompt was cut does not show in the sum. */
static void pool_states(ad_engine *e)
{
    int d = ad_model_get_config(e->model)->hidden;
    for (int i = 0; i < e->n_states; i++) {
        float *sum = e->state_seqs[i]->vector;
        e->kernels.scale_add(sum, e->states + (size_t)i * (size_t)d, 1, sum, d);
    }
}

static void finish_vector(const ad_engine *e, ad_seq *s)
{
    int d = ad_model_get_config(e->model)->hidden;
    if (s->pooling == AD_POOL_MEAN) e->kernels.scale_add(s->vector, s->vector, 1.0f / (float)s->n_prompt, NULL, d);
    if (!is_finite(s->vector, d)) s->failure = NOT_FINITE;
}

static ad_finish finish_of(const ad_step_item *it)
{
    const ad_seq *s = it->seq;
    if (s->failure) return s->failure == NOT_FINITE ? AD_FINISH_ERROR : AD_FINISH_IMPOSSIBLE;
    if (it->has_token && (it->token.ends || s->complete)) return AD_FINISH_STOP;
    bool prompt_done = s->n_cached >= s->n_prompt;
    return prompt_done && s->n_tokens - s->n_prompt >= s->sampling.max_tokens ? AD_FINISH_LENGTH : AD_FINISH_NONE;
}

void ad_engine_step(ad_engine *e, ad_step_item *items, int n)
{
    int rows = 0;
    e->n_out = e->n_states = 0;
    qsort(items, (size_t)n, sizeof *items, by_weights);
    for (int i = 0; i < n; i++) {
        items[i].has_token = false;
        memset(&items[i].token, 0, sizeof items[i].token);
        rows = add_rows(e, &items[i], rows);
    }
    ad_model_step(e->model, e->scratch, &(ad_step_batch){
        .n_rows = rows, .tokens = e->tokens, .positions = e->positions, .pages = e->pages, .mixes = e->mixes, .merged = e->merged,
        .n_out = e->n_out, .out_rows = e->out_rows, .logits = e->logits,
        .n_states = e->n_states, .state_rows = e->state_rows, .states = e->states});
    if (e->n_out) ad_team_run(e->team, read_outputs, e);
    pool_states(e);
    for (int i = 0; i < n; i++) {
        ad_seq *s = items[i].seq;
        if (s->n_cached >= s->n_prompt) s->prompt_known = true;
        if (s->pooling && s->prompt_known) finish_vector(e, s);
        publish_pages(e, s);
        items[i].finish = finish_of(&items[i]);
        items[i].error = s->failure;
    }
}
