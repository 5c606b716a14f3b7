/* SPDX-License-Identifier: MIT */
/* Inside the loader: what its files share while one adapter is being read, checked, packed and hashed. Only adapters/ includes
 * this. One thread per load, and the one that pack.c starts for the digest. */
#ifndef AD_ADAPTERS_LOAD_H
#define AD_ADAPTERS_LOAD_H

#include <stdatomic.h>

#include "adapters/adapter.h"
#include "adapters/peft.h"
#include "core/base/file.h"
#include "core/formats/gguf.h"
#include "core/formats/safetensors.h"
#include "core/tensor/kernels.h"

struct ad_adapter {
    int refs;
    char *name, *dir;
    ad_lowrank_set set;
    ad_lowrank *modules; /* [set.n_modules] */
    ad_matrix *a;        /* by group */
    float *norms;        /* [set.n_modules] of scale * B A */
    ad_parts parts;      /* set.parts points here when there are some */
    ad_module_parts *part_modules; /* [set.n_modules] */
    const float **part_norms;
    ad_mix mix;
    ad_digest digest;
    void *block;
    int n_matched, n_tensors;
    bool gguf;               /* which format its file had */
    char *base_name;         /* which base model the file names, or NULL */
    char **warnings;
    int n_warnings;
};

/* What the configuration asks of one module, and its tensors as they are packed: F32, F16 or BF16, [rank, in] and [out, rank], rows in
 * the order of Hugging Face. Borrowed from the file, or from the loader where the file has them in another form. */
typedef struct {
    ad_peft_plan plan;
    const ad_tensor *a, *b; /* both there once the file was read, when plan.rank > 0 */
} ad_load_pair;

/* What the adapter's identity covers: all that is active. owner is the canonical name of a module; everything is borrowed for the load. */
typedef struct {
    const char *owner, *key;
    const void *value; /* little-endian */
    size_t len;
} ad_load_setting;

typedef struct {
    const char *owner, *part; /* "model.layers.0.self_attn.q_proj", "lora_A" */
    const ad_tensor *tensor;  /* as the file has it */
} ad_load_part;

typedef struct ad_extras ad_extras; /* methods/extras.h */

typedef struct {
    ad_adapter *adapter;
    const ad_model *base;
    const ad_kernels *kernels;
    bool mapped;         /* the files are ours alone, and need no copy */
    bool arriving;       /* tensors' data is not to be read before its time: pairs only */
    const char *label;   /* the file with the weights, in messages; borrowed */
    ad_safetensors *file;
    ad_gguf *gguf;       /* instead of `file` */
    ad_file bytes;       /* of the GGUF file */
    const char *arch;    /* of a GGUF file; "" */
    ad_tensor *plain;    /* [n_modules][A, B] of a GGUF file in the form that is packed */
    void *converted;     /* what some of those point to */
    size_t converted_bytes;
    ad_load_pair *pairs; /* [n_modules] */
    int n_modules;
    ad_extras *extras;   /* what there is beside pairs; NULL: nothing */
    ad_load_setting *settings;
    size_t n_settings, cap_settings;
    ad_load_part *parts;
    size_t n_parts, cap_parts;
    ad_err *err;
} ad_loader;

ad_status ad_load_no_memory(ad_loader *l);
/* Adds a warning; takes the text (also on failure). */
AD_MUSTUSE ad_status ad_load_warn(ad_loader *l, ad_buf *text);
/* AD_EMISMATCH that names the file, the tensor and why it is refused. */
ad_status ad_load_refuse(ad_loader *l, const ad_tensor *t, const char *why);

/* That t is [rows, cols], or [rows] with cols 0, of a type that can be packed. */
AD_MUSTUSE ad_status ad_load_check_shape(ad_loader *l, const ad_tensor *t, int64_t rows, int64_t cols);

/* The block of set.bytes that everything packed goes to, zeroed; counted as alive from here on. False: no memory. */
bool ad_load_new_block(ad_loader *l);

/* Whatever changes what the adapter does goes through one of these, or two adapters that differ could have one digest. */
AD_MUSTUSE ad_status ad_load_set(ad_loader *l, const char *owner, const char *key, const void *value, size_t len);
AD_MUSTUSE ad_status ad_load_take(ad_loader *l, const char *owner, const char *part, const ad_tensor *t);

/* base_name.c: notes the name (NULL: none) and warns when it is another model's. */
AD_MUSTUSE ad_status ad_load_name_base(ad_loader *l, const char *name);

/* adapter.c: what every load begins and ends with. begin: *l is zero; the strings are borrowed until the end, what went wrong in the beginning is cleaned up there, too.
 * finish: after the norms; end: *out (NULL: nobody wants it) gets the adapter when st is AD_OK. */
AD_MUSTUSE ad_status ad_load_begin(ad_loader *l, const char *name, const char *path, const ad_model *base, bool mapped, ad_err *err);
AD_MUSTUSE ad_status ad_load_check_norms(ad_loader *l);
void ad_load_end(ad_loader *l, ad_status st, ad_adapter **out);

/* load.c: the PEFT directory l->adapter->dir into l->pairs. */
AD_MUSTUSE ad_status ad_load_peft(ad_loader *l);
/* The same in two steps: the configuration, then the tensors of l->file, which stays the caller's until the load ends. */
AD_MUSTUSE ad_status ad_load_peft_config(ad_loader *l);
AD_MUSTUSE ad_status ad_load_peft_tensors(ad_loader *l);
/* Goes on past what is wrong: calls back with l->err filled, for each; what that returns false to is not sought any longer. */
void ad_load_peft_reasons(ad_loader *l, bool (*wrong)(void *user), void *user);
/* load_gguf.c: a GGUF LoRA file. path is borrowed for the call. */
AD_MUSTUSE ad_status ad_load_gguf(ad_loader *l, const char *path);
/* Which row of the file's B is row `row` of Hugging Face: q and k interleave the halves of each head in GGUF files of Llama models. */
int ad_load_gguf_row(const ad_model *base, const ad_module *m, int row);

/* write.c: what the writers of both formats share. */

/* alpha such that alpha / rank is `scale` as a float; a short decimal where there is one. */
double ad_write_alpha(float scale, int rank);
/* The file `path` of parts[n], complete or not at all. AD_EIO, AD_EFULL. */
AD_MUSTUSE ad_status ad_write_parts(const char *path, const ad_str *parts, int n, ad_err *err);

/* pack.c: l->pairs into the adapter's set. */
AD_MUSTUSE ad_status ad_load_pack(ad_loader *l);
/* The same group by group (what the engine stacks), in any order, each once: begin, every group, end (also after a failure; *k is zero at first). */
typedef struct {
    size_t *at;          /* [groups + 1] bytes of the block in front of a group */
    char *next;          /* where the next matrix goes */
    void *room;          /* for rows in another form than the file's */
    float *row;
} ad_packer;
AD_MUSTUSE ad_status ad_load_pack_begin(ad_loader *l, ad_packer *k);
AD_MUSTUSE ad_status ad_load_pack_group(ad_loader *l, ad_packer *k, int group);
void ad_load_pack_end(ad_packer *k);
/* Groups in the order the engine runs them: the first module of one, and how many it has. */
int ad_load_group(const ad_loader *l, int group, int *first);
/* A tensor's rows in the form of activations of the packed type, ad_load_stride(type, cols) apart: in the file where they are that already, else in
 * `room`; row[cols]. ad_load_room: how many bytes and floats are enough for every tensor. */
const void *ad_load_rows(const ad_loader *l, const ad_tensor *t, void *room, float *row);
size_t ad_load_stride(ad_pack type, int cols);
void ad_load_room(const ad_loader *l, size_t *room, size_t *row);
/* norm.c: of modules that are packed: modules[*next .. n) (NULL: all of them), one by one; several threads may share *next. */
AD_MUSTUSE ad_status ad_load_norms(ad_loader *l, const int *modules, int n, atomic_int *next, ad_err *err);
/* digest.c: the identity of what was set and taken, which it sorts. It may run beside the packing. */
AD_MUSTUSE ad_status ad_load_digest(ad_loader *l, ad_digest *out, ad_err *err);
/* The same in steps: all that comes before the tensors; then l->parts, in order, into that hasher. */
AD_MUSTUSE ad_status ad_load_digest_begin(ad_loader *l, ad_hasher **out, ad_err *err);
void ad_load_digest_part(ad_hasher *h, const ad_load_part *p);

#endif
