/* SPDX-License-Identifier: MIT */
#include "adapters/store_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_dir(const char *path) { return mkdir(path, 0700); }

static int create(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -1 : close(fd);
}

static int exchange(const char *a, const char *b)
{
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
}

static int sync_path(const char *path, int flags)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | flags);
    if (fd < 0) return -1;
    int rc = fsync(fd), error = errno;
    close(fd);
    errno = error;
    return rc;
}

static int sync_file(const char *path) { return sync_path(path, O_NONBLOCK); }
static int sync_dir(const char *path) { return sync_path(path, O_DIRECTORY); }
static int sync_nothing(const char *path) { return 0; }

const ad_store_files ad_store_disk = {make_dir, create, rename, exchange, unlink, rmdir, sync_file, sync_dir};
const ad_store_files ad_store_quick = {make_dir, create, rename, exchange, unlink, rmdir, sync_nothing, sync_nothing};

int ad_store_remove_tree(const ad_store_files *files, const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0) return errno == ENOENT ? 0 : -1;
    if (!S_ISDIR(st.st_mode)) return files->remove_file(path);
    DIR *d = opendir(path);
    if (!d) return -1;
    int rc = 0;
    char sub[AD_STORE_PATH];
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if ((size_t)snprintf(sub, sizeof sub, "%s/%s", path, e->d_name) >= sizeof sub || ad_store_remove_tree(files, sub) != 0) rc = -1;
    }
    closedir(d);
    return rc == 0 ? files->remove_dir(path) : -1;
}
