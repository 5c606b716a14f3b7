/* SPDX-License-Identifier: MIT */
/* A disk that is soon full, for one test (which check runs in a process of its own). */
#ifndef TESTS_SMALL_DISK_H
#define TESTS_SMALL_DISK_H

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static inline bool tu_write_once(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) close(fd);
    return good;
}

/* A tmpfs of so many KiB over the directory, seen by this process only; false where that is not allowed. */
static inline bool tu_mount_small(const char *dir, int kib)
{
    char users[64], groups[64], size[32];
    snprintf(users, sizeof users, "0 %u 1", (unsigned)getuid());
    snprintf(groups, sizeof groups, "0 %u 1", (unsigned)getgid());
    snprintf(size, sizeof size, "size=%dk", kib);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    tu_write_once("/proc/self/setgroups", "deny");
    if (!tu_write_once("/proc/self/uid_map", users) || !tu_write_once("/proc/self/gid_map", groups)) return false;
    return mount("none", dir, "tmpfs", 0, size) == 0;
}

#endif
