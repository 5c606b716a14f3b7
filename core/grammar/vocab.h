/* SPDX-License-Identifier: MIT */
/* The inside of ad_grammar_vocab, for the automaton. Immutable once made. */
#ifndef AD_GRAMMAR_VOCAB_H
#define AD_GRAMMAR_VOCAB_H

#include "core/grammar/grammar.h"

typedef struct {
    uint32_t skip;  /* the next node outside its subtree */
    uint32_t first; /* its tokens are ids[first .. first of the next node): usually one or none */
    uint16_t depth; /* bytes before it */
    uint8_t byte;
} ad_grammar_node;

struct ad_grammar_vocab {
    const ad_tokenizer *tk; /* borrowed */
    int32_t n_vocab;
    ad_grammar_node *nodes; /* [n_nodes + 1], preorder */
    size_t n_nodes;
    int32_t *ids;           /* by their bytes */
    size_t longest;         /* bytes of the longest piece */
};

#endif
