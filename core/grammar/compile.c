/* SPDX-License-Identifier: MIT */
/* Expressions to instructions, and what the automaton relies on: no left recursion, loops over bodies that may be empty
 * need no iteration, dead ends are marked, and bytes that nothing tells apart are one class. */
#include <stdlib.h>
#include <string.h>

#include "core/grammar/build.h"

enum { PC_ACCEPT, PC_FAIL, PC_RET, PC_FIRST };

typedef struct {
    ad_gr_builder *b;
    ad_gr_program *p;
    ad_gr_index bytes;    /* BYTE instructions by set and next: equal endings are shared */
    uint32_t *starts;     /* [n_rules] */
    uint8_t *nullable;    /* [n_rules] see `empty` */
    uint32_t *seen, walk; /* [n_code] number of the walk that came by last */
} compiler;

static uint32_t emit(compiler *c, ad_gr_instr in)
{
    ad_gr_program *p = c->p;
    if (c->b->st != AD_OK) return PC_FAIL;
    if (p->n_code == AD_GR_MAX_CODE) return ad_gr_fail(c->b, AD_ELIMIT, "the grammar is too large: it needs more than %d instructions", AD_GR_MAX_CODE), PC_FAIL;
    if (ad_grow(&p->code, &p->code_cap, p->n_code + 1, sizeof in) != AD_OK) return ad_gr_fail(c->b, AD_ENOMEM, "grammar: out of memory"), PC_FAIL;
    p->code[p->n_code] = in;
    return (uint32_t)p->n_code++;
}

static uint32_t emit_byte(compiler *c, uint32_t set, uint32_t next)
{
    uint32_t key[2] = {set, next}, hash = ad_gr_hash(key, sizeof key);
    size_t at = hash;
    for (int64_t pc; (pc = ad_gr_index_next(&c->bytes, hash, &at)) >= 0;)
        if (c->p->code[pc].arg == set && c->p->code[pc].next == next) return (uint32_t)pc;
    uint32_t pc = emit(c, (ad_gr_instr){.op = AD_GR_BYTE, .arg = set, .next = next});
    if (!ad_gr_index_add(&c->bytes, hash, pc)) ad_gr_fail(c->b, AD_ENOMEM, "grammar: out of memory");
    return pc;
}

static uint32_t expr_code(compiler *c, ad_gx x, uint32_t next, int nesting);

static uint32_t alt_code(compiler *c, ad_gx x, uint32_t next, int nesting)
{
    uint32_t rest = PC_FAIL;
    bool last = true;
    for (; c->b->exprs[x].kind == AD_GX_KIND_ALT && c->b->st == AD_OK; x = c->b->exprs[x].a) {
        uint32_t one = expr_code(c, c->b->exprs[x].b, next, nesting);
        rest = last ? one : emit(c, (ad_gr_instr){.op = AD_GR_SPLIT, .next = one, .arg = rest});
        last = false;
    }
    uint32_t first = expr_code(c, x, next, nesting);
    return emit(c, (ad_gr_instr){.op = AD_GR_SPLIT, .next = first, .arg = rest});
}

static uint32_t repeat_code(compiler *c, ad_gr_expr x, uint32_t next, int nesting)
{
    if (x.max == 1) return emit(c, (ad_gr_instr){.op = AD_GR_SPLIT, .next = expr_code(c, x.a, next, nesting), .arg = next});
    if (x.max == AD_GR_INF && x.min <= 1) {
        uint32_t loop = emit(c, (ad_gr_instr){.op = AD_GR_SPLIT, .arg = next}), body = expr_code(c, x.a, loop, nesting);
        c->p->code[loop].next = body;
        return x.min ? body : loop;
    }
    uint32_t loop = emit(c, (ad_gr_instr){.op = AD_GR_LOOP, .next = next, .min = x.min, .max = x.max});
    uint32_t end = emit(c, (ad_gr_instr){.op = AD_GR_END, .arg = loop}), body = expr_code(c, x.a, end, nesting);
    c->p->code[loop].arg = body;
    return loop;
}

/* The code of x that goes on at `next`. Sequences and alternatives lean to the left, so only real nesting recurses. */
static uint32_t expr_code(compiler *c, ad_gx x, uint32_t next, int nesting)
{
    if (nesting > 8 * AD_GR_MAX_NESTING) ad_gr_fail(c->b, AD_ELIMIT, "the grammar is nested too deeply");
    if (c->b->st != AD_OK) return PC_FAIL;
    for (; c->b->exprs[x].kind == AD_GX_KIND_SEQ; x = c->b->exprs[x].a) next = expr_code(c, c->b->exprs[x].b, next, nesting + 1);
    ad_gr_expr e = c->b->exprs[x];
    switch (e.kind) {
    case AD_GX_KIND_EMPTY: return next;
    case AD_GX_KIND_SET: return emit_byte(c, e.a, next);
    case AD_GX_KIND_ALT: return alt_code(c, x, next, nesting + 1);
    case AD_GX_KIND_REPEAT: return repeat_code(c, e, next, nesting + 1);
    case AD_GX_KIND_REF: return emit(c, (ad_gr_instr){.op = AD_GR_CALL, .arg = e.a, .next = next});
    case AD_GX_KIND_NONE:
    case AD_GX_KIND_SEQ: break;
    }
    return PC_FAIL;
}

/* ---- left recursion, empty bodies ---- */

enum { UNKNOWN, VISITING, NEVER_EMPTY, MAY_BE_EMPTY }; /* of a rule */

typedef struct {
    uint32_t *pcs;
    size_t n, cap;
} pc_stack;

static void push(compiler *c, pc_stack *s, uint32_t pc)
{
    if (ad_grow(&s->pcs, &s->cap, s->n + 1, sizeof pc) != AD_OK) ad_gr_fail(c->b, AD_ENOMEM, "grammar: out of memory");
    else s->pcs[s->n++] = pc;
}

static bool may_be_empty(compiler *c, uint32_t rule, int depth);

/* Whether `goal` is reached from pc without a byte. */
static bool reaches(compiler *c, uint32_t pc, uint32_t goal, int depth)
{
    pc_stack s = {0};
    bool found = false;
    uint32_t walk = ++c->walk;
    push(c, &s, pc);
    while (s.n && c->b->st == AD_OK) {
        pc = s.pcs[--s.n];
        if (pc == goal) found = true;
        if (c->seen[pc] == walk) continue;
        c->seen[pc] = walk;
        ad_gr_instr in = c->p->code[pc];
        if (in.op == AD_GR_SPLIT || (in.op == AD_GR_CALL && may_be_empty(c, in.arg, depth)) || (in.op == AD_GR_LOOP && !in.min)) push(c, &s, in.next);
        if (in.op == AD_GR_SPLIT || in.op == AD_GR_LOOP) push(c, &s, in.arg);
        if (in.op == AD_GR_END) push(c, &s, c->p->code[in.arg].next);
    }
    free(s.pcs);
    return found;
}

/* Answers for one rule; a rule that is asked for while it is being answered is left-recursive. */
static bool may_be_empty(compiler *c, uint32_t rule, int depth)
{
    if (c->b->st != AD_OK) return false;
    if (c->nullable[rule] == VISITING || depth > 4000) {
        const char *name = c->b->rules[rule].name;
        ad_gr_fail(c->b, AD_EINVAL, "%s%s%s begins with itself (left recursion)", name ? "rule \"" : "a rule of the grammar", name ? name : "", name ? "\"" : "");
        return false;
    }
    if (c->nullable[rule] == UNKNOWN) {
        c->nullable[rule] = VISITING;
        c->nullable[rule] = reaches(c, c->starts[rule], PC_RET, depth + 1) ? MAY_BE_EMPTY : NEVER_EMPTY;
    }
    return c->nullable[rule] == MAY_BE_EMPTY;
}

/* An iteration that takes no byte is never made, so a body that may be empty may as well be left out. */
static void relax_loops(compiler *c)
{
    for (uint32_t pc = 0; pc < c->p->n_code && c->b->st == AD_OK; pc++) {
        ad_gr_instr *in = &c->p->code[pc];
        if (in->op == AD_GR_END && c->p->code[in->arg].min && reaches(c, c->p->code[in->arg].arg, pc, 0)) c->p->code[in->arg].min = 0;
    }
}

/* ---- dead ends ---- */

typedef struct {
    uint32_t *first, *users; /* users[first[pc] .. first[pc + 1]) depend on pc */
} users_of;

/* The instructions that pc depends on; returns how many. */
static int needs(const ad_gr_program *p, uint32_t pc, uint32_t out[2])
{
    const ad_gr_instr *in = &p->code[pc];
    switch ((ad_gr_op)in->op) {
    case AD_GR_BYTE: return out[0] = in->next, 1;
    case AD_GR_SPLIT:
    case AD_GR_CALL:
    case AD_GR_LOOP: return out[0] = in->next, out[1] = in->arg, 2;
    case AD_GR_END: return out[0] = p->code[in->arg].next, 1;
    default: return 0;
    }
}

static bool lives(const ad_gr_program *p, uint32_t pc)
{
    const ad_gr_instr *in = &p->code[pc];
    const uint8_t *live = p->live;
    switch ((ad_gr_op)in->op) {
    case AD_GR_ACCEPT:
    case AD_GR_RET: return true;
    case AD_GR_BYTE: return live[in->next];
    case AD_GR_SPLIT: return live[in->next] || live[in->arg];
    case AD_GR_CALL: return live[in->next] && live[in->arg];
    case AD_GR_LOOP: return live[in->next] && (!in->min || live[in->arg]);
    case AD_GR_END: return live[p->code[in->arg].next];
    case AD_GR_FAIL: break;
    }
    return false;
}

static bool list_users(const ad_gr_program *p, users_of *u)
{
    size_t n = p->n_code;
    uint32_t on[2];
    u->first = ad_calloc(n + 2, sizeof *u->first);
    u->users = ad_calloc(2 * n, sizeof *u->users);
    if (!u->first || !u->users) return false;
    for (uint32_t pc = 0; pc < n; pc++)
        for (int k = needs(p, pc, on); k-- > 0;) u->first[on[k] + 2]++;
    for (size_t i = 2; i < n + 2; i++) u->first[i] += u->first[i - 1];
    for (uint32_t pc = 0; pc < n; pc++)
        for (int k = needs(p, pc, on); k-- > 0;) u->users[u->first[on[k] + 1]++] = pc;
    return true;
}

/* The least fixed point: what lives makes others live. */
static void mark_live(compiler *c)
{
    ad_gr_program *p = c->p;
    users_of u = {0};
    pc_stack s = {0};
    p->live = ad_calloc(p->n_code, sizeof *p->live);
    if (!p->live || !list_users(p, &u)) ad_gr_fail(c->b, AD_ENOMEM, "grammar: out of memory");
    if (c->b->st == AD_OK)
        for (uint32_t pc = 0; pc < p->n_code; pc++) push(c, &s, pc);
    while (s.n && c->b->st == AD_OK) {
        uint32_t pc = s.pcs[--s.n];
        if (p->live[pc] || !lives(p, pc)) continue;
        p->live[pc] = 1;
        for (uint32_t i = u.first[pc]; i < u.first[pc + 1]; i++) push(c, &s, u.users[i]);
    }
    free(s.pcs), free(u.first), free(u.users);
}

/* ---- bytes ---- */

/* Each set splits the classes it cuts through. */
static void find_classes(compiler *c)
{
    ad_gr_program *p = c->p;
    p->n_classes = 1;
    for (size_t i = 0; i < c->b->n_sets && p->n_classes < 256; i++) {
        int moved[256];
        memset(moved, 0xFF, sizeof moved);
        bool outside[256] = {false};
        for (int byte = 0; byte < 256; byte++)
            if (!ad_gr_has(&c->b->sets[i], (uint8_t)byte)) outside[p->class_of[byte]] = true;
        for (int byte = 0; byte < 256; byte++) {
            int old = p->class_of[byte];
            if (!outside[old] || !ad_gr_has(&c->b->sets[i], (uint8_t)byte)) continue;
            if (moved[old] < 0) moved[old] = p->n_classes++;
            p->class_of[byte] = (uint8_t)moved[old];
        }
    }
    for (int byte = 255; byte >= 0; byte--) p->byte_of[p->class_of[byte]] = (uint8_t)byte;
}

static void sets_of_classes(compiler *c)
{
    ad_gr_program *p = c->p;
    p->n_sets = c->b->n_sets;
    p->sets = ad_calloc(p->n_sets, sizeof *p->sets);
    if (!p->sets) ad_gr_fail(c->b, AD_ENOMEM, "grammar: out of memory");
    for (size_t i = 0; p->sets && i < p->n_sets; i++)
        for (int k = 0; k < p->n_classes; k++)
            if (ad_gr_has(&c->b->sets[i], p->byte_of[k])) p->sets[i].bits[k >> 6] |= (uint64_t)1 << (k & 63);
}

/* ---- the whole ---- */

static void compile_rules(compiler *c, ad_gx root)
{
    for (uint32_t pc = 0; pc < PC_FIRST; pc++) emit(c, (ad_gr_instr){.op = pc == PC_ACCEPT ? AD_GR_ACCEPT : pc == PC_RET ? AD_GR_RET : AD_GR_FAIL});
    c->starts = ad_calloc(c->b->n_rules, sizeof *c->starts);
    c->nullable = ad_calloc(c->b->n_rules, sizeof *c->nullable);
    if (!c->starts || !c->nullable) ad_gr_fail(c->b, AD_ENOMEM, "grammar: out of memory");
    c->p->start = expr_code(c, root, PC_ACCEPT, 0);
    for (size_t r = 0; r < c->b->n_rules && c->b->st == AD_OK; r++) c->starts[r] = expr_code(c, c->b->rules[r].body, PC_RET, 0);
    c->seen = ad_calloc(c->p->n_code, sizeof *c->seen);
    if (!c->seen) ad_gr_fail(c->b, AD_ENOMEM, "grammar: out of memory");
}

/* CALL instructions name their rule until here, where left recursion no longer asks. */
static void link_calls(compiler *c)
{
    for (size_t pc = 0; pc < c->p->n_code; pc++)
        if (c->p->code[pc].op == AD_GR_CALL) c->p->code[pc].arg = c->starts[c->p->code[pc].arg];
}

ad_status ad_gr_compile(ad_gr_builder *b, ad_gx root, ad_gr_program *out)
{
    ad_gr_program p = {0};
    compiler c = {.b = b, .p = &p};
    if (b->st == AD_OK) compile_rules(&c, root);
    for (uint32_t r = 0; r < b->n_rules && b->st == AD_OK; r++) may_be_empty(&c, r, 0);
    if (b->st == AD_OK) relax_loops(&c);
    if (b->st == AD_OK) link_calls(&c);
    if (b->st == AD_OK) mark_live(&c);
    if (b->st == AD_OK && !p.live[p.start]) ad_gr_fail(b, AD_EINVAL, "no text can satisfy it");
    if (b->st == AD_OK) find_classes(&c);
    if (b->st == AD_OK) sets_of_classes(&c);
    ad_gr_index_deinit(&c.bytes);
    free(c.starts), free(c.nullable), free(c.seen);
    if (b->st == AD_OK) *out = p;
    else ad_gr_program_deinit(&p);
    return b->st;
}

void ad_gr_program_deinit(ad_gr_program *p)
{
    free(p->code), free(p->live), free(p->sets);
    *p = (ad_gr_program){0};
}
