/* SPDX-License-Identifier: MIT */
/* A disk that can lose its power. It does all file operations of the store, and of SQLite through a VFS, on a real directory, and remembers
 * beside it what is durable: the bytes of a file as of its last sync, the names in a directory as of the directory's last sync. It is
 * a pessimist: a sync of a file says nothing about its name (SQLite's first sync of a log keeps the name of that log and no other). */
#ifndef TESTS_DISK_DOUBLE_H
#define TESTS_DISK_DOUBLE_H

#include "adapters/store_files.h"

typedef struct dd_disk dd_disk;

typedef enum { DD_MAKE_DIR, DD_CREATE, DD_RENAME, DD_EXCHANGE, DD_REMOVE, DD_WRITE, DD_TRUNCATE, DD_SYNC_FILE, DD_SYNC_DIR } dd_kind;

typedef struct {
    dd_kind kind;
    const char *path; /* below the disk's directory; "" is that itself */
} dd_op;

/* Called before every operation. 0: go on; an errno: fail with it; DD_LIE: say that it was done, and do nothing. */
enum { DD_LIE = -1 };
typedef int (*dd_before)(void *user, const dd_op *op);

/* What a power loss leaves of what was not synced: nothing; the names; the bytes; all (as after kill -9); or a mixture, sector by
 * sector and name by name, that the seed chooses. */
typedef enum { DD_NOTHING, DD_NAMES, DD_BYTES, DD_ALL, DD_MIXTURE } dd_luck;

/* dir is empty, and remains the caller's. */
dd_disk *dd_new(const char *dir);
void dd_free(dd_disk **d);
/* The disk that dd_files and the VFS work on from now on, and what it calls. */
void dd_use(dd_disk *d, dd_before before, void *user);
extern const ad_store_files dd_files;
const char *dd_vfs(void);

/* Writes into the empty directory `dir` what a power loss now would leave. */
void dd_lose_power(const dd_disk *d, dd_luck luck, unsigned seed, const char *dir);
/* A second disk in the empty directory `dir`, with what is to be read on this one, and with as little of it durable. */
dd_disk *dd_kill(const dd_disk *d, const char *dir);

#endif
