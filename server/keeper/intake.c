/* SPDX-License-Identifier: MIT */
#include "server/keeper/intake.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

static bool copy_list(char ***items, int *n, const ad_config_list *from)
{
    *items = ad_calloc((size_t)from->n + 1, sizeof **items); /* one too many, so that an empty one is not NULL */
    for (int i = 0; *items && i < from->n; i++, (*n)++)
        if (!((*items)[i] = strdup(from->items[i]))) return false;
    return *items;
}

static void free_list(char **items, int n)
{
    for (int i = 0; i < n; i++) free(items[i]);
    free(items);
}

static ad_status fill(ad_intake *in, const ad_config *c, ad_err *err)
{
    if (!ad_signature_policy_parse(c->signatures, &in->policy)) return ad_fail(err, AD_EINVAL, "signatures: \"%s\" is unknown", c->signatures);
    if (in->policy == AD_SIGNATURES_REQUIRE && !c->trusted_keys.n) return ad_fail(err, AD_EINVAL, "signatures: \"require\" needs a --trusted-key");
    in->max_bytes = c->max_adapter_bytes;
    in->ca_file = c->source_ca ? strdup(c->source_ca) : NULL;
    bool copied = copy_list(&in->roots, &in->n_roots, &c->adapter_roots) && copy_list(&in->hosts, &in->n_hosts, &c->source_hosts) && (in->ca_file || !c->source_ca);
    if (!copied) return ad_fail(err, AD_ENOMEM, "registry: out of memory");
    return ad_trust_new(&in->trust, (const char *const *)c->trusted_keys.items, c->trusted_keys.n, err);
}

ad_status ad_intake_new(ad_intake **out, const ad_config *c, ad_err *err)
{
    ad_intake *in = ad_calloc(1, sizeof *in);
    if (!in) return ad_fail(err, AD_ENOMEM, "registry: out of memory");
    in->refs = 1;
    ad_status st = fill(in, c, err);
    if (st == AD_OK) *out = in;
    else ad_intake_release(&in);
    return st;
}

ad_intake *ad_intake_retain(ad_intake *in)
{
    in->refs++;
    return in;
}

void ad_intake_release(ad_intake **inp)
{
    ad_intake *in = *inp;
    *inp = NULL;
    if (!in || --in->refs) return;
    free_list(in->roots, in->n_roots);
    free_list(in->hosts, in->n_hosts);
    free(in->ca_file);
    ad_trust_free(&in->trust);
    free(in);
}

ad_status ad_intake_check_signature(const ad_intake *in, const char *text, const ad_digest *digest, ad_signer *signer, bool *trusted, ad_err *err)
{
    *trusted = true;
    memset(signer, 0, sizeof *signer);
    if (in->policy == AD_SIGNATURES_OFF) return AD_OK;
    ad_status st = text ? ad_signature_check(in->trust, text, digest, signer, err) : ad_fail(err, AD_EUNTRUSTED, "the adapter has no signature of a trusted key");
    *trusted = st == AD_OK || in->policy == AD_SIGNATURES_WARN;
    return st;
}

bool ad_intake_still_trusts(const ad_intake *in, const ad_version *v)
{
    return v->trusted && (in->policy != AD_SIGNATURES_REQUIRE || ad_trust_has(in->trust, v->signer.key_id));
}
