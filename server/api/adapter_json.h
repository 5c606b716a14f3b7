/* SPDX-License-Identifier: MIT */
/* Adapters as the API shows them. Loop thread. */
#ifndef AD_API_ADAPTER_JSON_H
#define AD_API_ADAPTER_JSON_H

#include "server/api/names.h"

/* As `c` names it. whole: with its versions. The caller owns it. */
json_t *ad_adapter_json(const ad_app *app, const ad_caller *c, const ad_entry *e, bool whole);
/* The state of ad_entry_shown's version. */
const char *ad_adapter_state(const ad_entry *e);
/* "uploading" or "verifying" when files of that whole name are on their way into the registry, else NULL. */
const char *ad_adapter_pending(const ad_app *app, const char *name);
/* A whole name of which nothing else is there yet. */
json_t *ad_pending_json(const ad_app *app, const ad_caller *c, const char *name, const char *state);
/* Whether v is what labels may be: an object of at most 64 strings, with keys of 128 and values of 1024 bytes. */
bool ad_is_labels(const json_t *v);
/* The body of a 422: the fault, and the report of what was found in the adapter's files (NULL: nothing but st), with all reasons (or NULL). */
json_t *ad_refusal_json(const ad_fault *f, ad_status st, const json_t *found, json_t *reasons);
/* "/v1/adapters/NAME", escaped; name: as its reader says it. */
void ad_adapter_location(const char *name, char *out, size_t size);

#endif
