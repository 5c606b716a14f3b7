/* SPDX-License-Identifier: MIT */
/* Configuration files. */
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    char *argv[] = {"adapterd", "--model", "m", "--config", path, NULL}, *env[] = {NULL};
    ad_config c;
    ad_err err;
    int action, fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (ad_config_parse(&c, 5, argv, env, stdout, &action, &err) == AD_OK) ad_config_deinit(&c);
    close(fd);
    return 0;
}
