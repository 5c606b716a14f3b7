/* SPDX-License-Identifier: MIT */
/* Sequences, their KV pages, and the step that advances many of them at once. Engine thread. */
#include "core/engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "core/engine/sampler.h"
#include "core/model/step.h"

struct ad_seq {
    int32_t *tokens;           /* prompt, then what was generated: [n_prompt + max_tokens] */
    int n_prompt, n_tokens;    /* n_tokens - n_prompt were generated */
    int n_cached;              /* positions already in the KV pages */
    ad_sampling sampling;
    const ad_lowrank_set *lowrank;
    ad_history history;
    ad_token_info *prompt_infos; /* [n_prompt] or NULL */
    float **pages;             /* [n_pages] while admitted */
    int n_pages;
    bool failed;               /* a prompt row was not finite */
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
    float *pool;
    size_t pool_bytes;
    float **free_pages;
    int n_free, n_pages, n_running;
    int32_t *tokens;           /* [step_tokens] and so on: the batch under construction */
    int *positions, *out_rows;
    float *const **pages;
    const ad_lowrank_set **lowrank;
    output *outputs;
    int n_out;
    float *logits;             /* [step_tokens, vocab]; untouched rows cost nothing */
    size_t logits_bytes;
    const int32_t *eogs;
    int n_eogs, n_usable;
};

size_t ad_engine_page_bytes(const ad_model *model) { return ad_kv_page_floats(model) * sizeof(float); }
int ad_engine_pages_for(int n_tokens) { return (n_tokens + AD_KV_PAGE - 1) / AD_KV_PAGE; }
int ad_engine_pages_total(const ad_engine *e) { return e->n_pages; }
int ad_engine_pages_free(const ad_engine *e) { return e->n_free; }
const char *ad_engine_kernels(const ad_engine *e) { return e->kernels.name; }

/* ---- sequences ---- */

ad_status ad_seq_new(ad_seq **out, const int32_t *prompt, int n_prompt, const ad_sampling *sampling, const ad_lowrank_set *lowrank, ad_err *err)
{
    ad_seq *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "sequence: out of memory");
    s->sampling = *sampling;
    s->lowrank = lowrank;
    s->n_prompt = s->n_tokens = n_prompt;
    s->tokens = ad_calloc((size_t)n_prompt + (size_t)sampling->max_tokens, sizeof *s->tokens);
    if (sampling->prompt_logprobs >= 0) s->prompt_infos = ad_calloc((size_t)n_prompt, sizeof *s->prompt_infos);
    if (!s->tokens || (sampling->prompt_logprobs >= 0 && !s->prompt_infos)) {
        ad_seq_free(&s);
        return ad_fail(err, AD_ENOMEM, "sequence of %d tokens: out of memory", n_prompt);
    }
    memcpy(s->tokens, prompt, (size_t)n_prompt * sizeof *prompt);
    if (s->prompt_infos) s->prompt_infos[0].id = prompt[0];
    *out = s;
    return AD_OK;
}

void ad_seq_free(ad_seq **sp)
{
    ad_seq *s = *sp;
    if (!s) return;
    ad_history_deinit(&s->history);
    free(s->prompt_infos);
    free(s->tokens);
    free(s->pages);
    free(s);
    *sp = NULL;
}

int ad_seq_max_tokens(const ad_seq *s) { return s->n_prompt + s->sampling.max_tokens; }
int ad_seq_pending_rows(const ad_seq *s) { return s->n_tokens - s->n_cached; }
const ad_token_info *ad_seq_prompt_logprobs(const ad_seq *s) { return s->prompt_infos; }
int ad_seq_prompt_tokens(const ad_seq *s) { return s->n_prompt; }

static bool penalises(const ad_sampling *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

/* ---- engine ---- */

static ad_status make_buffers(ad_engine *e, ad_err *err)
{
    const ad_model_config *c = ad_model_get_config(e->model);
    size_t rows = (size_t)e->opt.step_tokens, page = ad_engine_page_bytes(e->model);
    e->n_pages = (int)(e->opt.kv_bytes / page);
    e->pool_bytes = (size_t)e->n_pages * page;
    e->logits_bytes = rows * (size_t)c->vocab * sizeof *e->logits;
    if (!e->n_pages) return ad_fail(err, AD_EINVAL, "KV memory of %zu bytes does not hold one page of %zu", e->opt.kv_bytes, page);
    e->pool = ad_arena_new(e->pool_bytes);
    e->logits = ad_arena_new(e->logits_bytes);
    e->free_pages = ad_calloc((size_t)e->n_pages, sizeof *e->free_pages);
    e->tokens = ad_calloc(rows, sizeof *e->tokens);
    e->positions = ad_calloc(rows, sizeof *e->positions);
    e->out_rows = ad_calloc(rows, sizeof *e->out_rows);
    e->pages = ad_calloc(rows, sizeof *e->pages);
    e->lowrank = ad_calloc(rows, sizeof *e->lowrank);
    e->outputs = ad_calloc(rows, sizeof *e->outputs);
    e->samplers = ad_calloc((size_t)ad_team_size(e->team), sizeof *e->samplers);
    if (!e->pool || !e->logits || !e->free_pages || !e->tokens || !e->positions || !e->out_rows || !e->pages || !e->lowrank || !e->outputs || !e->samplers)
        return ad_fail(err, AD_ENOMEM, "engine: %zu MiB of KV cache and %zu step rows: out of memory", e->pool_bytes >> 20, rows);
    for (int i = 0; i < e->n_pages; i++) e->free_pages[e->n_free++] = e->pool + (size_t)i * (page / sizeof(float));
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
    if (st == AD_OK) st = ad_scratch_new(&e->scratch, model, &e->kernels, e->team, opt->step_tokens, opt->step_tokens, opt->context, err);
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
    if (e->pool) ad_arena_free(e->pool, e->pool_bytes);
    if (e->logits) ad_arena_free(e->logits, e->logits_bytes);
    free(e->free_pages), free(e->tokens), free(e->positions), free(e->out_rows);
    free(e->pages), free(e->lowrank), free(e->outputs);
    free(e);
    *ep = NULL;
}

ad_status ad_engine_admit(ad_engine *e, ad_seq *s, ad_err *err)
{
    int want = ad_engine_pages_for(ad_seq_max_tokens(s));
    if (e->n_running == e->opt.max_running || want > e->n_free) return ad_fail(err, AD_EBUSY, "no room in the batch or the KV cache now");
    ad_status st = s->lowrank ? ad_scratch_reserve_rank(e->scratch, s->lowrank->max_rank, err) : AD_OK;
    if (st == AD_OK && penalises(&s->sampling)) st = ad_history_init(&s->history, ad_model_get_config(e->model)->vocab, s->tokens, s->n_prompt, err);
    if (st != AD_OK) return st;
    s->pages = ad_calloc((size_t)want, sizeof *s->pages);
    if (!s->pages) return ad_fail(err, AD_ENOMEM, "page table: out of memory");
    s->n_pages = want;
    for (int i = 0; i < want; i++) s->pages[i] = e->free_pages[--e->n_free];
    e->n_running++;
    return AD_OK;
}

void ad_engine_remove(ad_engine *e, ad_seq *s)
{
    if (!s->n_pages) return;
    for (int i = s->n_pages - 1; i >= 0; i--) e->free_pages[e->n_free++] = s->pages[i];
    s->n_pages = 0;
    e->n_running--;
}

/* Items of one adapter side by side, so that its correction runs once; the base first. */
static int by_adapter(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const ad_step_item *)a)->seq->lowrank, y = (uintptr_t)((const ad_step_item *)b)->seq->lowrank;
    return (x > y) - (x < y);
}

static int add_rows(ad_engine *e, ad_step_item *it, int row)
{
    ad_seq *s = it->seq;
    for (int i = 0; i < it->rows; i++, row++) {
        int pos = s->n_cached + i;
        e->tokens[row] = s->tokens[pos];
        e->positions[row] = pos;
        e->pages[row] = s->pages;
        e->lowrank[row] = s->lowrank;
        bool next_prompt = s->prompt_infos && pos + 1 < s->n_prompt, last = pos + 1 == s->n_tokens;
        if (!next_prompt && !(last && s->sampling.max_tokens > 0)) continue;
        e->out_rows[e->n_out] = row;
        e->outputs[e->n_out++] = (output){it, next_prompt ? pos : -1};
    }
    s->n_cached += it->rows;
    return row;
}

static void pick_token(ad_engine *e, ad_sampler_scratch *scratch, ad_step_item *it, const float *logits)
{
    ad_seq *s = it->seq;
    const ad_sampling *p = &s->sampling;
    int n = s->n_tokens - s->n_prompt;
    bool ban = n < p->min_tokens;
    if (!ad_sample(&e->kernels, scratch, p, &s->history, logits, ad_model_get_config(e->model)->vocab, e->n_usable, e->eogs, ban ? e->n_eogs : 0, n, &it->token)) {
        __atomic_store_n(&s->failed, true, __ATOMIC_RELAXED);
        return;
    }
    it->has_token = true;
    it->token.ends = !p->ignore_eos && ad_tokenizer_is_eog(ad_model_tokenizer(e->model), it->token.id);
    s->tokens[s->n_tokens++] = it->token.id;
    ad_history_add(&s->history, it->token.id);
}

/* Outputs of one sequence stay with one member only by luck; prompt positions write distinct infos, and a
 * sequence draws at most one token per step. `failed` is the one field two members may set, to the same value. */
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
            __atomic_store_n(&s->failed, true, __ATOMIC_RELAXED);
    }
}

static ad_finish finish_of(const ad_step_item *it)
{
    const ad_seq *s = it->seq;
    if (s->failed) return AD_FINISH_ERROR;
    if (it->has_token && it->token.ends) return AD_FINISH_STOP;
    bool prompt_done = s->n_cached >= s->n_prompt;
    return prompt_done && s->n_tokens - s->n_prompt >= s->sampling.max_tokens ? AD_FINISH_LENGTH : AD_FINISH_NONE;
}

void ad_engine_step(ad_engine *e, ad_step_item *items, int n)
{
    int rows = 0;
    e->n_out = 0;
    qsort(items, (size_t)n, sizeof *items, by_adapter);
    for (int i = 0; i < n; i++) {
        items[i].has_token = false;
        memset(&items[i].token, 0, sizeof items[i].token);
        rows = add_rows(e, &items[i], rows);
    }
    ad_model_step(e->model, e->scratch, &(ad_step_batch){
        .n_rows = rows, .tokens = e->tokens, .positions = e->positions, .pages = e->pages, .lowrank = e->lowrank,
        .n_out = e->n_out, .out_rows = e->out_rows, .logits = e->logits});
    if (e->n_out) ad_team_run(e->team, read_outputs, e);
    for (int i = 0; i < n; i++) items[i].finish = finish_of(&items[i]);
}
