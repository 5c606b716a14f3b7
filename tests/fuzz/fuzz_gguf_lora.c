/* SPDX-License-Identifier: MIT */
/* A directory with adapter.gguf. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_write("adapter.gguf", data, size);
    fuzz_load();
    return 0;
}
