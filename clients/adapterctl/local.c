/* SPDX-License-Identifier: MIT */
/* convert and digest without a server: the one file of the clients that reads adapters itself. */
#include <stdio.h>
#include <string.h>

#include "adapters/gguf_lora.h"
#include "adapters/peft_write.h"
#include "clients/adapterctl/ctl.h"

/* f32, so that the adapter keeps its values. */
static ad_status load(const char *base, const char *path, ad_model **m, ad_adapter **a, ad_err *err)
{
    ad_status st = ad_model_load(m, base, &(ad_model_options){.weights = AD_WEIGHTS_F32}, err);
    if (st == AD_OK) st = ad_adapter_load(a, "local", path, *m, err);
    return st;
}

static int end(ad_model *m, ad_adapter *a, ad_status st, const ad_err *err)
{
    ad_adapter_release(&a);
    ad_model_free(&m);
    return st == AD_OK ? EXIT_OK : ctl_complain("%s", err->msg);
}

/* The other form than the one the adapter came in. */
static ad_status write_other(const ad_adapter *a, const ad_model *m, const char *out, ad_err *err)
{
    const char *dot = strrchr(out, '.');
    bool to_gguf = !strcmp(ad_adapter_format(a), "peft"), named_gguf = dot && !strcmp(dot, ".gguf");
    if (to_gguf && !named_gguf) return ad_fail(err, AD_EINVAL, "%.300s: a PEFT directory becomes a file whose name ends in .gguf", out);
    if (!to_gguf && named_gguf) return ad_fail(err, AD_EINVAL, "%.300s: a GGUF file becomes a directory, whose name does not end in .gguf", out);
    return to_gguf ? ad_gguf_lora_write(a, m, out, err) : ad_peft_write(a, m, out, err);
}

int ctl_convert(ctl *c)
{
    const char *in = c->args[0], *out = c->args[1];
    ad_err err;
    ad_model *m = NULL;
    ad_adapter *a = NULL;
    if (!c->base) return ctl_usage("convert needs the base model the adapter was made for: --base MODEL");
    ad_status st = load(c->base, in, &m, &a, &err);
    for (int i = 0; st == AD_OK && i < ad_adapter_warning_count(a); i++) ctl_complain("warning: %s", ad_adapter_warning(a, i));
    if (st == AD_OK) st = write_other(a, m, out, &err);
    if (st == AD_OK && c->json) printf("{\"format\":\"%s\",\"rank\":%d,\"modules\":%d}\n", strcmp(ad_adapter_format(a), "peft") ? "peft" : "gguf", ad_adapter_rank(a),
                                       ad_adapter_matched_modules(a));
    else if (st == AD_OK) printf("%s: rank %d, %d modules\n", out, ad_adapter_rank(a), ad_adapter_matched_modules(a));
    return end(m, a, st, &err);
}

int ctl_digest_local(ctl *c)
{
    char hex[65];
    ad_err err;
    ad_model *m = NULL;
    ad_adapter *a = NULL;
    ad_status st = load(c->base, c->args[0], &m, &a, &err);
    if (st == AD_OK) ad_digest_hex(ad_adapter_digest(a), hex);
    if (st == AD_OK) printf(c->json ? "{\"digest\":\"%s\"}\n" : "%s\n", hex);
    return end(m, a, st, &err);
}
