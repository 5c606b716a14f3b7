/* SPDX-License-Identifier: MIT */
/* Which base model an adapter's file names, compared with the one at hand. Names are hints: forks, paths and quantised copies
 * have others, so a difference is worth a warning and no more. */
#include "adapters/load.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static bool is_quantisation(const char *s)
{
    static const char *const names[] = {"f32", "fp32", "f16", "fp16", "bf16", "int8", "int4", "8bit", "4bit", "bnb", "awq", "gptq", "mxfp4", "gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(s, names[i])) return true;
    if ((*s == 'i' || *s == 't') && s[1] == 'q') s++; /* iq4_xs, tq1_0 */
    return *s == 'q' && isdigit((unsigned char)s[1]) && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(s);
}

/* "org/SmolLM2-135M-Instruct.Q4_1.gguf" -> "smollm2 135m instruct". The result is owned; NULL when memory is out. */
static char *plain_name(const char *name)
{
    size_t end = strlen(name), begin;
    while (end > 0 && name[end - 1] == '/') end--;
    for (begin = end; begin > 0 && name[begin - 1] != '/';) begin--;
    char *s = strndup(name + begin, end - begin);
    if (!s) return NULL;
    for (char *p = s; *p; p++) *p = (char)tolower((unsigned char)*p);
    for (char *p; (p = strpbrk(s, "-. ")) != NULL;) {
        for (char *next; (next = strpbrk(p + 1, "-. ")) != NULL;) p = next; /* the last word */
        if (!is_quantisation(p + 1)) break;
        *p = '\0';
    }
    for (char *p = s; *p; p++)
        if (strchr("-_.", *p)) *p = ' ';
    return s;
}

ad_status ad_load_name_base(ad_loader *l, const char *name)
{
    if (!name) return AD_OK;
    char *hint = plain_name(name), *own = plain_name(ad_model_name(l->base)), *file = plain_name(ad_model_path(l->base));
    bool same = hint && own && file && (!strcmp(hint, own) || !strcmp(hint, file));
    l->adapter->base_name = strdup(name);
    bool good = hint && own && file && l->adapter->base_name;
    free(hint), free(own), free(file);
    if (!good) return ad_load_no_memory(l);
    if (same) return AD_OK;
    ad_buf b = {0};
    ad_buf_printf(&b, "the adapter was trained for \"%.160s\"; this base model is \"%.160s\"", name, ad_model_name(l->base));
    return ad_load_warn(l, &b);
}
