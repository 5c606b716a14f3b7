/* SPDX-License-Identifier: MIT */
/* Names -> adapter versions. Loop thread only. Requests in flight keep the version they came in with: they
 * hold a reference, so publishing or removing never waits. */
#ifndef AD_ADAPTERS_REGISTRY_H
#define AD_ADAPTERS_REGISTRY_H

#include "adapters/adapter.h"

typedef struct ad_registry ad_registry;

/* base is borrowed and outlives the registry. */
AD_MUSTUSE ad_status ad_registry_new(ad_registry **out, const ad_model *base, ad_err *err);
void ad_registry_free(ad_registry **reg); /* drops its references; NULL is fine */

/* Takes `a` on success. AD_EEXIST when the name is taken (unless replace). */
AD_MUSTUSE ad_status ad_registry_publish(ad_registry *reg, ad_adapter *a, bool replace, ad_err *err);
AD_MUSTUSE ad_status ad_registry_remove(ad_registry *reg, const char *name, ad_err *err);
ad_adapter *ad_registry_find(const ad_registry *reg, const char *name); /* borrowed; NULL when absent; O(1) */
int ad_registry_count(const ad_registry *reg);
ad_adapter *ad_registry_at(const ad_registry *reg, int i); /* borrowed; in order of first publication */

/* Loads DIR's sub-directories that hold an adapter_config.json, each under its own name, in name order.
 * The first one that fails fails the call, naming it. */
AD_MUSTUSE ad_status ad_registry_load_dir(ad_registry *reg, const char *dir, ad_err *err);

#endif
