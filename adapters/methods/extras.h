/* SPDX-License-Identifier: MIT */
/* Inside the loader: what a PEFT adapter has beside low-rank pairs. saved.c: whole modules, norms and biases; tokens.c: single rows
 * of embedding and head; dora.c: magnitudes. extras.c plans, checks and packs them all. Only adapters/ includes this. */
#ifndef AD_ADAPTERS_METHODS_EXTRAS_H
#define AD_ADAPTERS_METHODS_EXTRAS_H

#include "adapters/load.h"

/* Beside a module's pair. Tensors are borrowed from the file; NULL: it has none. */
typedef struct {
    bool saved;                         /* modules_to_save names it, or a module around it */
    const ad_tensor *weight, *bias;     /* stand for the module's own */
    const ad_tensor *added, *magnitude; /* of its pair: lora_B.bias, lora_magnitude_vector */
} ad_extra;

typedef struct {
    char name[64];
    bool saved;
    const ad_tensor *weight;
} ad_extra_norm;

typedef struct {
    int n;                 /* 0: none */
    int32_t *ids;          /* [n] as the configuration lists them; owned */
    const ad_tensor *rows; /* [n, hidden] */
} ad_extra_tokens;

struct ad_extras {
    ad_extra *modules;    /* [n_modules] */
    ad_extra_norm *norms; /* [2 * layers + 1], in the order of ad_parts */
    int n_norms;
    ad_peft_bias biases;
    ad_extra_tokens embed, head;
    bool tied_tokens;     /* the head takes the embedding's rows too */
};

/* ---- extras.c ---- */

/* After the pairs were planned: makes l->extras. Refuses what PEFT does not define, with the key's name. */
AD_MUSTUSE ad_status ad_extras_plan(ad_loader *l, ad_peft *config);
void ad_extras_free(ad_extras **x); /* NULL is fine */
/* Index of the norm of this name, or -1. */
int ad_extras_find_norm(const ad_loader *l, const char *name);
/* After all tensors were taken: everything the configuration promises must be there. */
AD_MUSTUSE ad_status ad_extras_check(ad_loader *l);
/* Bytes of a module's extras in the adapter's block, with those of the norm and the tokens that belong to it; 0 without l->extras. */
size_t ad_extras_bytes(const ad_loader *l, int module);
/* Once, before the packing: a place for their pointers. */
AD_MUSTUSE ad_status ad_extras_begin(ad_loader *l);
/* Packs them at *next and moves it on; the module's pair is packed. */
AD_MUSTUSE ad_status ad_extras_pack(ad_loader *l, int module, char **next);

/* Notes a tensor of t's name: once, of this shape (cols 0: a vector), and part of the identity. */
AD_MUSTUSE ad_status ad_extras_take(ad_loader *l, const ad_tensor **slot, const ad_tensor *t, const char *owner, const char *part, int rows, int cols);
/* The next `bytes` of the block. */
void *ad_extras_place(char **next, size_t bytes);
/* n values of t, times `by`, as finite f32 at *next. */
AD_MUSTUSE ad_status ad_extras_vector(ad_loader *l, const ad_tensor *t, int n, float by, char **next, const float **out);
static inline size_t ad_extras_vector_bytes(int n)
{
    return ((size_t)n * sizeof(float) + 63) & ~(size_t)63;
}

/* ---- one method each ---- */

AD_MUSTUSE ad_status ad_saved_plan(ad_loader *l, ad_peft *config);
AD_MUSTUSE ad_status ad_saved_take_weight(ad_loader *l, int module, const ad_tensor *t);
AD_MUSTUSE ad_status ad_saved_take_norm(ad_loader *l, int norm, const ad_tensor *t);
AD_MUSTUSE ad_status ad_saved_take_bias(ad_loader *l, int module, const ad_tensor *t);
AD_MUSTUSE ad_status ad_saved_check(ad_loader *l);
AD_MUSTUSE ad_status ad_saved_pack(ad_loader *l, int module, char **next, ad_matrix *out);

AD_MUSTUSE ad_status ad_tokens_plan(ad_loader *l, const ad_peft *config);
AD_MUSTUSE ad_status ad_tokens_take(ad_loader *l, int module, const ad_tensor *t);
AD_MUSTUSE ad_status ad_tokens_check(ad_loader *l);
/* The rows that were trained of this module, by itself; NULL: none. */
const ad_extra_tokens *ad_tokens_of(const ad_loader *l, int module);
size_t ad_tokens_bytes(const ad_loader *l, const ad_extra_tokens *t);
AD_MUSTUSE ad_status ad_tokens_pack(ad_loader *l, const ad_extra_tokens *t, char **next, ad_token_rows *out);

/* A tensor of a pair that its method must announce: magnitude, or bias of lora_B. */
AD_MUSTUSE ad_status ad_dora_take(ad_loader *l, int module, const ad_tensor *t);
AD_MUSTUSE ad_status ad_dora_take_bias(ad_loader *l, int module, const ad_tensor *t);
AD_MUSTUSE ad_status ad_dora_check(ad_loader *l);
/* The module's factors, magnitude / ||W + scale B A||. */
AD_MUSTUSE ad_status ad_dora_pack(ad_loader *l, int module, char **next, const float **out);

#endif
