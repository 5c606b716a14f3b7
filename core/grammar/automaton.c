/* SPDX-License-Identifier: MIT */
/* Places, frames and states; the step from one state to the next. */
#include "core/grammar/automaton.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_PLACES = 4096 };

struct ad_gr_block {
    ad_gr_block *next;
    size_t used, cap;
    uint64_t places[];
};

/* ---- frames ---- */

/* The number of a frame, the same for equal ones; 0 when it cannot be had (the bottom is never pushed). */
static uint32_t push_frame(ad_gr_automaton *a, uint32_t pc, uint32_t parent, uint32_t count)
{
    ad_gr_frame f = {pc, parent, count, a->frames[parent].depth + 1};
    if (f.depth > AD_GR_MAX_STACK) return 0; /* as if the grammar said so: a failure here would be the model's doing */
    uint32_t hash = ad_gr_hash(&f, sizeof f);
    size_t at = hash;
    for (int64_t id; (id = ad_gr_index_next(&a->frame_index, hash, &at)) >= 0;)
        if (!memcmp(&a->frames[id], &f, sizeof f)) return (uint32_t)id;
    if (ad_grow(&a->frames, &a->frames_cap, a->n_frames + 1, sizeof f) != AD_OK || !ad_gr_index_add(&a->frame_index, hash, (uint32_t)a->n_frames)) {
        a->failed = true;
        return 0;
    }
    a->frames[a->n_frames] = f;
    return (uint32_t)a->n_frames++;
}

/* ---- what is reached without a byte ---- */

/* True the first time. */
static bool first_visit(ad_gr_automaton *a, ad_gr_visit v)
{
    uint32_t hash = ad_gr_hash(&v, sizeof v);
    size_t at = hash;
    for (int64_t i; (i = ad_gr_index_next(&a->visited_index, hash, &at)) >= 0;)
        if (!memcmp(&a->visited[i], &v, sizeof v)) return false;
    if (a->n_visited == AD_GR_MAX_PLACES || a->work++ >= AD_GR_MAX_WORK || ad_grow(&a->visited, &a->visited_cap, a->n_visited + 1, sizeof v) != AD_OK ||
        !ad_gr_index_add(&a->visited_index, hash, (uint32_t)a->n_visited)) {
        a->failed = true;
        return false;
    }
    a->visited[a->n_visited++] = v;
    return true;
}

static void visit(ad_gr_automaton *a, uint32_t pc, uint32_t frame, uint32_t fresh)
{
    ad_gr_visit v = {pc, frame, fresh};
    if (!a->program.live[pc]) return;
    if (ad_grow(&a->todo, &a->todo_cap, a->n_todo + 1, sizeof v) != AD_OK) a->failed = true;
    else a->todo[a->n_todo++] = v;
}

static void add_place(ad_gr_automaton *a, uint32_t pc, uint32_t frame)
{
    if (ad_grow(&a->found, &a->found_cap, a->n_found + 1, sizeof *a->found) != AD_OK) a->failed = true;
    else a->found[a->n_found++] = (uint64_t)pc << 32 | frame;
}

static void visit_call(ad_gr_automaton *a, const ad_gr_instr *in, ad_gr_visit v)
{
    if (a->program.code[in->next].op == AD_GR_RET) { /* nothing is left to do here: no frame, so right recursion stays flat */
        visit(a, in->arg, v.frame, v.fresh);
        return;
    }
    uint32_t frame = push_frame(a, in->next, v.frame, 0);
    if (frame) visit(a, in->arg, frame, v.fresh + 1);
}

/* One more iteration after `done` of them. */
static void visit_body(ad_gr_automaton *a, uint32_t loop, uint32_t parent, uint32_t done, uint32_t fresh)
{
    const ad_gr_instr *in = &a->program.code[loop];
    if (done >= in->max || !a->program.live[in->arg]) return;
    if (in->max == AD_GR_INF && done > in->min) done = in->min; /* from here on it does not matter how many */
    uint32_t frame = push_frame(a, loop, parent, done);
    if (frame) visit(a, in->arg, frame, fresh + 1);
}

static void visit_end(ad_gr_automaton *a, const ad_gr_instr *in, ad_gr_visit v)
{
    ad_gr_frame f = a->frames[v.frame];
    const ad_gr_instr *loop = &a->program.code[in->arg];
    if (v.fresh) return; /* an iteration without a byte */
    if (f.count + 1 >= loop->min) visit(a, loop->next, f.parent, 0);
    visit_body(a, in->arg, f.parent, f.count + 1, 0);
}

static void follow(ad_gr_automaton *a, ad_gr_visit v)
{
    const ad_gr_instr *in = &a->program.code[v.pc];
    switch ((ad_gr_op)in->op) {
    case AD_GR_ACCEPT:
    case AD_GR_BYTE: add_place(a, v.pc, v.frame); break;
    case AD_GR_SPLIT:
        visit(a, in->next, v.frame, v.fresh);
        visit(a, in->arg, v.frame, v.fresh);
        break;
    case AD_GR_CALL: visit_call(a, in, v); break;
    case AD_GR_RET: visit(a, a->frames[v.frame].pc, a->frames[v.frame].parent, v.fresh ? v.fresh - 1 : 0); break;
    case AD_GR_LOOP:
        if (!in->min) visit(a, in->next, v.frame, v.fresh);
        visit_body(a, v.pc, v.frame, 0, v.fresh);
        break;
    case AD_GR_END: visit_end(a, in, v); break;
    case AD_GR_FAIL: break;
    }
}

static void begin_step(ad_gr_automaton *a)
{
    a->failed = false;
    a->n_todo = a->n_found = a->n_visited = 0;
    if (a->visited_index.cap > 1024) ad_gr_index_deinit(&a->visited_index); /* one large step must not slow all others down */
    else if (a->visited_index.n) memset(a->visited_index.slots, 0, ad_gr_index_bytes(&a->visited_index));
    a->visited_index.n = 0;
}

static void close_step(ad_gr_automaton *a)
{
    while (a->n_todo && !a->failed) {
        ad_gr_visit v = a->todo[--a->n_todo];
        if (first_visit(a, v)) follow(a, v);
    }
}

/* ---- states ---- */

static uint64_t *keep_places(ad_gr_automaton *a, size_t n)
{
    ad_gr_block *b = a->blocks;
    if (!b || b->cap - b->used < n) {
        size_t cap = n > BLOCK_PLACES ? n : BLOCK_PLACES;
        b = malloc(sizeof *b + cap * sizeof *b->places);
        if (!b) return NULL;
        *b = (ad_gr_block){.next = a->blocks, .cap = cap};
        a->blocks = b;
        a->block_bytes += cap * sizeof *b->places;
    }
    uint64_t *out = b->places + b->used;
    memcpy(out, a->found, n * sizeof *out);
    b->used += n;
    return out;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The places found, sorted, each once: places with different `fresh` are the same place. */
static void sort_found(ad_gr_automaton *a)
{
    size_t kept = 0;
    if (a->n_found) qsort(a->found, a->n_found, sizeof *a->found, by_value);
    for (size_t i = 0; i < a->n_found; i++)
        if (!i || a->found[i] != a->found[i - 1]) a->found[kept++] = a->found[i];
    a->n_found = kept;
}

static int32_t add_state(ad_gr_automaton *a, uint32_t hash)
{
    size_t row = (size_t)a->program.n_classes;
    if (a->n_states >= INT32_MAX || ad_gr_automaton_bytes(a) > a->max_bytes) return AD_GRAMMAR_LIMIT;
    if (ad_grow(&a->states, &a->states_cap, a->n_states + 1, sizeof *a->states) != AD_OK) return AD_GRAMMAR_LIMIT;
    if (ad_grow(&a->next, &a->next_cap, (a->n_states + 1) * row, sizeof *a->next) != AD_OK) return AD_GRAMMAR_LIMIT;
    uint64_t *places = keep_places(a, a->n_found);
    if (!places || !ad_gr_index_add(&a->state_index, hash, (uint32_t)a->n_states)) return AD_GRAMMAR_LIMIT;
    a->states[a->n_states] = (ad_gr_state){.places = places, .n_places = (uint32_t)a->n_found};
    for (size_t i = 0; i < row; i++) a->next[a->n_states * row + i] = AD_GR_UNKNOWN;
    return (int32_t)a->n_states++;
}

static int32_t found_state(ad_gr_automaton *a)
{
    if (a->failed) return AD_GRAMMAR_LIMIT;
    sort_found(a);
    if (!a->n_found) return AD_GRAMMAR_DEAD;
    uint32_t hash = ad_gr_hash(a->found, a->n_found * sizeof *a->found);
    size_t at = hash;
    for (int64_t id; (id = ad_gr_index_next(&a->state_index, hash, &at)) >= 0;)
        if (a->states[id].n_places == a->n_found && !memcmp(a->states[id].places, a->found, a->n_found * sizeof *a->found)) return (int32_t)id;
    return add_state(a, hash);
}

int32_t ad_gr_step(ad_gr_automaton *a, int32_t state, uint8_t class)
{
    const ad_gr_state *s = &a->states[state];
    begin_step(a);
    for (uint32_t i = 0; i < s->n_places; i++) {
        uint32_t pc = (uint32_t)(s->places[i] >> 32), frame = (uint32_t)s->places[i];
        const ad_gr_instr *in = &a->program.code[pc];
        if (in->op == AD_GR_BYTE && ad_gr_has(&a->program.sets[in->arg], class)) visit(a, in->next, frame, 0);
    }
    close_step(a);
    int32_t to = found_state(a);
    if (to != AD_GRAMMAR_LIMIT) a->next[(size_t)state * (size_t)a->program.n_classes + class] = to;
    return to;
}

/* ---- the whole ---- */

bool ad_gr_automaton_init(ad_gr_automaton *a, ad_gr_program *program, size_t max_bytes)
{
    *a = (ad_gr_automaton){.program = *program, .max_bytes = max_bytes};
    bool good = ad_grow(&a->frames, &a->frames_cap, 1, sizeof *a->frames) == AD_OK;
    if (good) {
        a->frames[a->n_frames++] = (ad_gr_frame){0};
        begin_step(a);
        visit(a, a->program.start, 0, 0);
        close_step(a);
        good = found_state(a) == AD_GRAMMAR_START;
    }
    if (!good) a->program = (ad_gr_program){0}; /* stays the caller's */
    if (good) *program = (ad_gr_program){0};
    else ad_gr_automaton_deinit(a);
    return good;
}

void ad_gr_automaton_deinit(ad_gr_automaton *a)
{
    for (ad_gr_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    for (size_t i = 0; i < a->n_states; i++) free(a->states[i].mask);
    ad_gr_index_deinit(&a->frame_index);
    ad_gr_index_deinit(&a->state_index);
    ad_gr_index_deinit(&a->visited_index);
    ad_gr_program_deinit(&a->program);
    free(a->frames), free(a->states), free(a->next), free(a->todo), free(a->found), free(a->visited);
    *a = (ad_gr_automaton){0};
}

size_t ad_gr_automaton_bytes(const ad_gr_automaton *a)
{
    return a->frames_cap * sizeof *a->frames + a->states_cap * sizeof *a->states + a->next_cap * sizeof *a->next + a->block_bytes + ad_gr_index_bytes(&a->frame_index) +
           ad_gr_index_bytes(&a->state_index) + a->program.code_cap * sizeof *a->program.code;
}
