/* SPDX-License-Identifier: MIT */
/* Where adapters may come from, how large they may be and whose signature counts: what the configuration said when a job began. A reload makes another one; jobs on
 * threads keep theirs. Immutable; the loop thread counts references. */
#ifndef AD_KEEPER_INTAKE_H
#define AD_KEEPER_INTAKE_H

#include "adapters/registry.h"
#include "server/config.h"

typedef struct ad_intake {
    char **roots, **hosts;    /* [n_roots], [n_hosts] */
    int n_roots, n_hosts;
    char *ca_file;            /* or NULL: the system's */
    size_t max_bytes;         /* of one adapter's files */
    ad_signature_policy policy;
    ad_trust *trust;
    int refs;
} ad_intake;

/* Reads the trusted keys, which may be files. Nothing of c is borrowed. */
AD_MUSTUSE ad_status ad_intake_new(ad_intake **out, const ad_config *c, ad_err *err);
ad_intake *ad_intake_retain(ad_intake *in);
void ad_intake_release(ad_intake **in); /* NULL inside is fine; leaves *in NULL */

/* Signature text (or NULL) by the policy: AD_OK with *signer filled and *trusted set, AD_EUNTRUSTED only when the policy requires one. Any thread. */
AD_MUSTUSE ad_status ad_intake_check_signature(const ad_intake *in, const char *text, const ad_digest *digest, ad_signer *signer, bool *trusted, ad_err *err);
/* Whether a version that was trusted still is: its signer's key is. */
bool ad_intake_still_trusts(const ad_intake *in, const ad_version *v);

#endif
