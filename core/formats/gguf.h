/* SPDX-License-Identifier: MIT */
/* GGUF v2/v3, little-endian: a bounds-checked reader over borrowed or mapped bytes. Hostile input gives
 * AD_EFORMAT / AD_EUNSUPPORTED naming the file, the thing and the reason. Immutable once open: any thread.
 * Rules and limits: the GGUF specification and ggml's reference reader. */
#ifndef AD_FORMATS_GGUF_H
#define AD_FORMATS_GGUF_H

#include "core/base/mem.h"
#include "core/tensor/dtype.h"

typedef struct ad_gguf ad_gguf;

typedef enum {
    AD_GGUF_U8, AD_GGUF_I8, AD_GGUF_U16, AD_GGUF_I16, AD_GGUF_U32, AD_GGUF_I32, AD_GGUF_F32, AD_GGUF_BOOL,
    AD_GGUF_STRING, AD_GGUF_ARRAY, AD_GGUF_U64, AD_GGUF_I64, AD_GGUF_F64
} ad_gguf_type;

/* Maps the file for as long as *out lives. Split files (split.count > 1) are AD_EUNSUPPORTED. */
AD_MUSTUSE ad_status ad_gguf_open(ad_gguf **out, const char *path, ad_err *err);
/* The same over bytes the caller keeps alive and unchanged; label names them in messages. */
AD_MUSTUSE ad_status ad_gguf_parse(ad_gguf **out, const void *data, size_t len, const char *label, ad_err *err);
void ad_gguf_release_pages(const ad_gguf *g); /* see ad_file_release_pages */
void ad_gguf_close(ad_gguf **g); /* NULL is fine */

const char *ad_gguf_label(const ad_gguf *g); /* path or label */
size_t ad_gguf_tensor_count(const ad_gguf *g);
const ad_tensor *ad_gguf_tensor_at(const ad_gguf *g, size_t i);             /* file order */
const ad_tensor *ad_gguf_tensor(const ad_gguf *g, const char *name);        /* NULL when absent; O(log n) */

/* Keys of the metadata in ascending order; borrowed. */
size_t ad_gguf_key_count(const ad_gguf *g);
ad_str ad_gguf_key_at(const ad_gguf *g, size_t i);

/* Metadata. Each returns false and leaves *out alone when the key is absent or of another kind.
 * Integers of any width read as i64 (a u64 above INT64_MAX is "another kind"), floats from f32 or f64. */
bool ad_gguf_has(const ad_gguf *g, const char *key);
bool ad_gguf_int(const ad_gguf *g, const char *key, int64_t *out);
bool ad_gguf_float(const ad_gguf *g, const char *key, double *out); /* also accepts integers */
bool ad_gguf_bool(const ad_gguf *g, const char *key, bool *out);
bool ad_gguf_str(const ad_gguf *g, const char *key, ad_str *out); /* borrowed until close */

/* Arrays: element count and type, then elements. Strings of an array come in one pass into out[count]. */
bool ad_gguf_array(const ad_gguf *g, const char *key, ad_gguf_type *type, size_t *count);
bool ad_gguf_array_strings(const ad_gguf *g, const char *key, ad_str *out, size_t count);
bool ad_gguf_array_ints(const ad_gguf *g, const char *key, int64_t *out, size_t count);
bool ad_gguf_array_floats(const ad_gguf *g, const char *key, float *out, size_t count);

#endif
