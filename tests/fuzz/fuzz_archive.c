/* SPDX-License-Identifier: MIT */
/* An uploaded archive; what came out of it must be files of ours, and no more than was allowed. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/archive.h"

enum { MAX_BYTES = 1 << 20 };

static char dir[] = "/dev/shm/ad-fuzz-archive-XXXXXX";

static void remove_dir(void)
{
    rmdir(dir);
}

/* Also empties the directory. */
static void check_dir(int fd, bool ok)
{
    size_t bytes = 0;
    int n = 0;
    DIR *d = fdopendir(dup(fd));
    if (!d) abort();
    rewinddir(d);
    for (struct dirent *e; (e = readdir(d));) {
        struct stat sb;
        if (*e->d_name == '.') continue;
        if (fstatat(fd, e->d_name, &sb, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(sb.st_mode)) abort();
        if (!strcmp(e->d_name, "archive")) {
            if (ok) abort();
        } else {
            if (strcmp(e->d_name, "adapter_config.json") && strcmp(e->d_name, "adapter_model.safetensors") && strcmp(e->d_name, "adapter.gguf") && strcmp(e->d_name, "adapter.minisig") &&
                    strcmp(e->d_name, "chat_template.jinja") && strcmp(e->d_name, "tokenizer_config.json")) abort();
            bytes += (size_t)sb.st_size;
            n++;
        }
        unlinkat(fd, e->d_name, 0);
    }
    closedir(d);
    if (bytes > MAX_BYTES || (ok && !n)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    char path[100];
    ad_err err;
    if (fd < 0) {
        if (!mkdtemp(dir) || (fd = open(dir, O_RDONLY | O_DIRECTORY)) < 0) abort();
        atexit(remove_dir);
    }
    int file = openat(fd, "archive", O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size) abort();
    close(file);
    snprintf(path, sizeof path, "%s/archive", dir);
    check_dir(fd, ad_archive_unpack(path, dir, MAX_BYTES, &err) == AD_OK);
    return 0;
}
