/* SPDX-License-Identifier: MIT */
/* A deterministic automaton over bytes, made while it is walked, of a pushdown program. A state is a set of places in the
 * program, each with its stack; stacks are lists that share their tails, so equal states are found by comparing numbers. One
 * owner at a time: the grammar's lock. */
#ifndef AD_GRAMMAR_AUTOMATON_H
#define AD_GRAMMAR_AUTOMATON_H

#include "core/grammar/build.h"

enum {
    AD_GR_MAX_STACK = 1024,      /* frames: what nests deeper is not part of the language */
    AD_GR_MAX_PLACES = 16384,    /* places looked at in one step */
    AD_GR_MAX_WORK = 2000000,    /* and in all steps of one mask: tenths of a second */
};

/* A frame of a stack: where RET or END goes on. */
typedef struct {
    uint32_t pc;     /* CALL: the instruction behind it; LOOP: itself */
    uint32_t parent; /* the frame below; 0 is the bottom */
    uint32_t count;  /* LOOP: iterations before this one */
    uint32_t depth;
} ad_gr_frame;

typedef struct {
    uint64_t *places;  /* in the places pool: pc << 32 | frame, ascending; place 0 is the end of the text */
    uint32_t n_places;
    uint64_t *mask;    /* of the vocabulary; NULL until asked for */
} ad_gr_state;

typedef struct ad_gr_block ad_gr_block;

typedef struct {
    uint32_t pc, frame;
    uint32_t fresh;    /* topmost frames that were pushed since the last byte */
} ad_gr_visit;

typedef struct {
    ad_gr_program program;
    ad_gr_frame *frames;
    size_t n_frames, frames_cap;
    ad_gr_index frame_index;
    ad_gr_state *states;
    size_t n_states, states_cap;
    ad_gr_index state_index;
    int32_t *next;     /* [n_states, n_classes]: a state, DEAD, or UNKNOWN */
    size_t next_cap;
    ad_gr_block *blocks; /* memory of the places */
    size_t block_bytes;
    /* One step under construction. */
    ad_gr_visit *todo;
    size_t n_todo, todo_cap;
    uint64_t *found;
    size_t n_found, found_cap;
    ad_gr_visit *visited;
    size_t n_visited, visited_cap;
    ad_gr_index visited_index;
    size_t max_bytes;
    size_t work;       /* places looked at since the caller set it to 0 */
    bool failed;       /* in this step: a bound or memory */
} ad_gr_automaton;

#define AD_GR_UNKNOWN (-3) /* a transition nobody asked for yet */

/* Takes *program on success. False when out of memory. */
AD_MUSTUSE bool ad_gr_automaton_init(ad_gr_automaton *a, ad_gr_program *program, size_t max_bytes);
void ad_gr_automaton_deinit(ad_gr_automaton *a);
size_t ad_gr_automaton_bytes(const ad_gr_automaton *a); /* without masks */

/* Computes the transition of `state` by a byte's class: a state, DEAD or LIMIT (which is not kept). */
int32_t ad_gr_step(ad_gr_automaton *a, int32_t state, uint8_t class);

static inline int32_t ad_gr_next(ad_gr_automaton *a, int32_t state, uint8_t byte)
{
    uint8_t class = a->program.class_of[byte];
    int32_t to = a->next[(size_t)state * (size_t)a->program.n_classes + class];
    return to != AD_GR_UNKNOWN ? to : ad_gr_step(a, state, class);
}

#endif
