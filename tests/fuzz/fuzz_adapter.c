/* SPDX-License-Identifier: MIT */
/* A whole PEFT directory: 16 bits of length, adapter_config.json, and the rest is adapter_model.safetensors. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint16_t config;
    if (size < sizeof config) return 0;
    memcpy(&config, data, sizeof config);
    data += sizeof config, size -= sizeof config;
    size_t n = config < size ? config : size;
    fuzz_write("adapter_config.json", data, n);
    fuzz_write("adapter_model.safetensors", data + n, size - n);
    fuzz_load();
    return 0;
}
