/* SPDX-License-Identifier: MIT */
/* minisign signature files, checked by a key that made the seed; the same bytes as a key file. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "adapters/signature.h"

static void read_as_key(const uint8_t *data, size_t size)
{
    char path[64];
    const char *keys[] = {path};
    ad_trust *t = NULL;
    ad_err err;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (ad_trust_new(&t, keys, 1, &err) == AD_OK) ad_trust_free(&t);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const key = "RWT6d4v7z1iKhmWDdO0n3x6PKHvQxUugTMRz5Gs/14OgAP2N12qIG9xq";
    static const ad_digest digest;
    static ad_trust *trust;
    ad_signer who;
    ad_err err;
    if (!trust && ad_trust_new(&trust, &key, 1, &err) != AD_OK) abort();
    char *text = malloc(size + 1); /* its own block, so that ASan sees a byte too far */
    if (!text) abort();
    memcpy(text, data, size);
    text[size] = '\0';
    if (ad_signature_check(trust, text, &digest, &who, &err) == AD_OK) abort(); /* nobody signed 64 zeros with that key */
    free(text);
    read_as_key(data, size);
    return 0;
}
