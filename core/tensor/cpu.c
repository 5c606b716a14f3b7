/* SPDX-License-Identifier: MIT */
/* What this CPU can do, and what the operator lets it do. Any thread. */
#include <string.h>

#include "core/tensor/kernels.h"

static const struct {
    const char *name;
    unsigned bit;
} features[] = {
    {"avx2", AD_CPU_AVX2},
    {"avx512", AD_CPU_AVX512},
    {"avx512_vnni", AD_CPU_AVX512_VNNI},
    {"avx512_bf16", AD_CPU_AVX512_BF16},
    {"avx_vnni", AD_CPU_AVX_VNNI},
};

#if defined(__x86_64__)

#include <cpuid.h>

#define BIT(word, n) ((word) >> (n) & 1)

/* The register files the kernel saves for us; an instruction set whose registers it does not save is absent. */
static unsigned saved_state(void)
{
    unsigned lo, hi;
    __asm__ __volatile__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

unsigned ad_cpu_detect(void)
{
    const unsigned ymm = 0x06, zmm = 0xe6; /* SSE and AVX; also the mask and both ZMM halves */
    unsigned a, b, c, d, a7 = 0, b7 = 0, c7 = 0, d7 = 0, a71 = 0, unused;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !BIT(c, 27)) return 0;
    bool fma = BIT(c, 12), avx = BIT(c, 28), f16c = BIT(c, 29);
    if (!avx || (saved_state() & ymm) != ymm || !__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7)) return 0;
    if (a7 >= 1) __get_cpuid_count(7, 1, &a71, &unused, &unused, &unused);

    unsigned mask = 0;
    if (BIT(b7, 5) && fma && f16c) mask |= AD_CPU_AVX2;
    if (mask && BIT(a71, 4)) mask |= AD_CPU_AVX_VNNI;
    bool avx512 = BIT(b7, 16) && BIT(b7, 17) && BIT(b7, 30) && BIT(b7, 31); /* F, DQ, BW, VL */
    if (!mask || !avx512 || (saved_state() & zmm) != zmm) return mask;
    mask |= AD_CPU_AVX512;
    if (BIT(c7, 11)) mask |= AD_CPU_AVX512_VNNI;
    if (BIT(a71, 5)) mask |= AD_CPU_AVX512_BF16;
    return mask;
}

#else

unsigned ad_cpu_detect(void)
{
    return 0;
}

#endif

static unsigned find_feature(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (strlen(features[i].name) == len && !memcmp(features[i].name, name, len)) return features[i].bit;
    return 0;
}

bool ad_cpu_parse(const char *list, unsigned *mask)
{
    if (!strcmp(list, "auto")) return *mask = ad_cpu_detect(), true;
    if (!strcmp(list, "none")) return *mask = 0, true;
    unsigned m = 0;
    for (const char *p = list;; p++) {
        size_t len = strcspn(p, ",");
        unsigned bit = find_feature(p, len);
        if (!bit) return false;
        m |= bit;
        p += len;
        if (!*p) break;
    }
    *mask = m;
    return true;
}

const char *ad_cpu_name(unsigned bit)
{
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (features[i].bit == bit) return features[i].name;
    return "unknown";
}
