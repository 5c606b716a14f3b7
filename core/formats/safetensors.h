/* SPDX-License-Identifier: MIT */
/* safetensors: a reader that accepts nothing the specification forbids (duplicate names, holes, overlap,
 * trailing bytes, overflow). Hostile input gives AD_EFORMAT naming the file, the tensor and the reason.
 * Immutable once open: any thread. */
#ifndef AD_FORMATS_SAFETENSORS_H
#define AD_FORMATS_SAFETENSORS_H

#include "core/base/mem.h"
#include "core/tensor/dtype.h"

typedef struct ad_safetensors ad_safetensors;

/* Maps the file for as long as *out lives: for files the operator owns. */
AD_MUSTUSE ad_status ad_safetensors_open(ad_safetensors **out, const char *path, ad_err *err);
/* Reads the file into owned memory: for files that may change under us. AD_ELIMIT over max_bytes. */
AD_MUSTUSE ad_status ad_safetensors_read(ad_safetensors **out, const char *path, size_t max_bytes, ad_err *err);
/* Over bytes the caller keeps alive and unchanged; label names them in messages. */
AD_MUSTUSE ad_status ad_safetensors_parse(ad_safetensors **out, const void *data, size_t len, const char *label, ad_err *err);
/* The same of a file that still grows: data[have] with have >= ad_safetensors_head(data) is there, and what follows will be, up to *total, behind the same
 * pointer; no tensor's data is read. */
AD_MUSTUSE ad_status ad_safetensors_parse_head(ad_safetensors **out, const void *data, size_t have, const char *label, size_t *total, ad_err *err);
/* The bytes of length and header together, of a file whose first 8 bytes are there; SIZE_MAX: more than any header has. */
size_t ad_safetensors_head(const void *data);
void ad_safetensors_release_pages(const ad_safetensors *s); /* see ad_file_release_pages */
void ad_safetensors_close(ad_safetensors **s); /* NULL is fine */

const char *ad_safetensors_label(const ad_safetensors *s);
size_t ad_safetensors_count(const ad_safetensors *s);
const ad_tensor *ad_safetensors_at(const ad_safetensors *s, size_t i);         /* in file (offset) order */
const ad_tensor *ad_safetensors_find(const ad_safetensors *s, const char *name); /* NULL when absent; O(log n) */

#endif
