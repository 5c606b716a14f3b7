/* SPDX-License-Identifier: MIT */
/* adapterctl: work on adapters from the command line. */
#include <stdio.h>
#include <string.h>

#include "adapters/gguf_lora.h"

static int usage(FILE *out)
{
    fputs("usage: adapterctl convert --base MODEL DIR OUT.gguf\n"
          "\n"
          "  convert   writes the PEFT adapter in DIR as a GGUF LoRA file for MODEL (a GGUF file or Hugging Face directory)\n",
          out);
    return out == stdout ? 0 : 2;
}

static int convert(const char *base, const char *dir, const char *out)
{
    ad_err err;
    ad_model *m = NULL;
    ad_adapter *a = NULL;
    /* f32, so that the adapter keeps its values */
    ad_status st = ad_model_load(&m, base, &(ad_model_options){.weights = AD_WEIGHTS_F32}, &err);
    if (st == AD_OK) st = ad_adapter_load(&a, "converted", dir, m, &err);
    if (st == AD_OK) st = ad_gguf_lora_write(a, m, out, &err);
    if (st == AD_OK) printf("%s: rank %d, %d modules\n", out, ad_adapter_rank(a), ad_adapter_matched_modules(a));
    else fprintf(stderr, "adapterctl: %s\n", err.msg);
    ad_adapter_release(&a);
    ad_model_free(&m);
    return st == AD_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) return usage(stdout);
    if (argc == 6 && !strcmp(argv[1], "convert") && !strcmp(argv[2], "--base")) return convert(argv[3], argv[4], argv[5]);
    return usage(stderr);
}
