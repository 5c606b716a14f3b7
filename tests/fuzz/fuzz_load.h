/* SPDX-License-Identifier: MIT */
/* Files in memory that are loaded as an adapter of one of the tiny models, and looked at when that works. */
#ifndef TESTS_FUZZ_LOAD_H
#define TESTS_FUZZ_LOAD_H

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "adapters/adapter.h"
#include "tests/fuzz/fuzz.h"

static char fuzz_dir[64];

static inline void fuzz_remove(void)
{
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "adapter.gguf"};
    char path[128];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", fuzz_dir, names[i]);
        unlink(path);
    }
    rmdir(fuzz_dir);
}

/* In a directory that is made once, and goes at the end unless something crashes. */
static inline const char *fuzz_file(const char *name)
{
    static char path[128];
    if (!*fuzz_dir) {
        snprintf(fuzz_dir, sizeof fuzz_dir, "/dev/shm/ad-fuzz-%ld-XXXXXX", (long)getpid());
        if (!mkdtemp(fuzz_dir) || atexit(fuzz_remove)) abort();
    }
    snprintf(path, sizeof path, "%s/%s", fuzz_dir, name);
    return path;
}

static inline void fuzz_write(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(fuzz_file(name), "wb");
    if (!f || (len && fwrite(data, 1, len, f) != len) || fclose(f)) abort();
}

static inline void fuzz_load(void)
{
    static ad_model *base;
    ad_adapter *a = NULL;
    ad_err err;
    if (!base && ad_model_load(&base, fuzz_path("models/llama-gqa"), NULL, &err) != AD_OK) abort();
    if (ad_adapter_load(&a, "fuzz", fuzz_dir, base, &err) != AD_OK) return;
    for (int i = 0; i < ad_model_module_count(base); i++)
        if (!isfinite(ad_adapter_norm(a, i))) abort();
    for (int i = 0; i < ad_adapter_warning_count(a); i++)
        if (!*ad_adapter_warning(a, i)) abort();
    ad_adapter_release(&a);
    if (ad_adapter_live_bytes()) abort();
}

#endif
