/* SPDX-License-Identifier: MIT */
/* Who calls: tenants, their keys, and what a key may do. Loop thread only.
 * As long as there is no key everybody is the operator. A key's verbs and adapter globs bound what its bearer may do; its tenant bounds
 * which adapters there are for it: its own and those that belong to AD_SHARED_TENANT. Of the rest it sees nothing. */
#ifndef AD_TENANCY_TENANCY_H
#define AD_TENANCY_TENANCY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/status.h"

/* What a route does, as scopes name it. A route that forgets its verb is the operator's. AD_VERB_OPEN needs no key: health. */
typedef enum { AD_VERB_ADMIN, AD_VERB_OPEN, AD_VERB_INFER, AD_VERB_LIST, AD_VERB_UPLOAD, AD_VERB_ACTIVATE, AD_VERB_DELETE, AD_VERB_MERGE, AD_VERB_METRICS, AD_VERBS } ad_verb;

#define AD_SHARED_TENANT "default" /* owns what the command line names and what is uploaded without a key; everybody sees it */

enum { AD_TENANT_NAME = 63, AD_KEY_ID = 12 };

typedef struct {
    char name[AD_TENANT_NAME + 1]; /* [a-z0-9-], begins with a letter */
    int id;               /* of this process; small, never used again; 0: AD_SHARED_TENANT */
    double weight;        /* of its share under load; 1 */
} ad_tenant;

typedef struct ad_key ad_key;

/* Who sent a request. Borrowed pointers live as long as the caller is retained. */
typedef struct {
    ad_tenant *tenant;
    ad_key *key;          /* NULL: there are no keys yet */
    bool is_operator;     /* sees every adapter, by its whole name: no key, or one of AD_SHARED_TENANT with verb admin */
} ad_caller;

#endif
