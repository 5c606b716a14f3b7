/* SPDX-License-Identifier: MIT */
/* Inside the loader: what its files share while one adapter is being read, checked, packed and hashed. Only adapters/ includes
 * this. One thread per load, and the one that pack.c starts for the digest. */
#ifndef AD_ADAPTERS_LOAD_H
#define AD_ADAPTERS_LOAD_H

#include "adapters/adapter.h"
#include "adapters/peft.h"
#include "core/formats/safetensors.h"

struct ad_adapter {
    int refs;
    char *name, *dir;
    ad_lowrank_set set;
    ad_lowrank *modules; /* [set.n_modules] */
    ad_matrix *a;        /* by group */
    ad_mix mix;
    ad_digest digest;
    void *block;
    int n_matched;
    char **warnings;
    int n_warnings;
};

/* What the configuration asks of one module and the tensors the file has for it. */
typedef struct {
    ad_peft_plan plan;
    const ad_tensor *a, *b; /* borrowed from the file; both there once the file was read, when plan.rank > 0 */
} ad_load_pair;

typedef struct {
    ad_adapter *adapter;
    const ad_model *base;
    ad_safetensors *file;
    ad_load_pair *pairs; /* [n_modules] */
    int n_modules;
    ad_err *err;
} ad_loader;

ad_status ad_load_no_memory(ad_loader *l);
/* Adds a warning; takes the text (also on failure). */
ad_status ad_load_warn(ad_loader *l, ad_buf *text);
/* AD_EMISMATCH that names the file, the tensor and why it is refused. */
ad_status ad_load_refuse(ad_loader *l, const ad_tensor *t, const char *why);

/* load.c: the PEFT directory l->adapter->dir into l->pairs. */
AD_MUSTUSE ad_status ad_load_peft(ad_loader *l);
/* pack.c: l->pairs into the adapter's set. */
AD_MUSTUSE ad_status ad_load_pack(ad_loader *l);
/* digest.c: the identity of l->pairs. It reads the pairs only, and may run beside the packing. */
AD_MUSTUSE ad_status ad_load_digest(const ad_loader *l, ad_digest *out, ad_err *err);

#endif
