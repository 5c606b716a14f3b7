/* SPDX-License-Identifier: MIT */
/* Where a base model's bytes come from: one GGUF file, or a Hugging Face directory with its config.json and
 * one or several safetensors shards. Immutable once open: any thread. */
#ifndef AD_MODEL_SOURCE_H
#define AD_MODEL_SOURCE_H

#include <jansson.h>

#include "core/formats/gguf.h"
#include "core/formats/safetensors.h"

typedef struct ad_source ad_source;

AD_MUSTUSE ad_status ad_source_open(ad_source **out, const char *path, ad_err *err);
void ad_source_close(ad_source **s); /* NULL is fine */

const ad_gguf *ad_source_gguf(const ad_source *s);   /* NULL for a directory */
const json_t *ad_source_config(const ad_source *s);  /* config.json; NULL for a GGUF file */
const ad_tensor *ad_source_tensor(const ad_source *s, const char *name); /* NULL when absent */
size_t ad_source_count(const ad_source *s);
const ad_tensor *ad_source_at(const ad_source *s, size_t i);
void ad_source_release_pages(const ad_source *s); /* see ad_file_release_pages */
size_t ad_source_bytes(const ad_source *s); /* of all tensors: what is mapped */

#endif
