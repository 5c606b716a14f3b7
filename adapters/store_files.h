/* SPDX-License-Identifier: MIT */
/* Inside of the store: the file operations that decide what a power loss leaves, in one table so that tests can stand between. Each
 * returns 0, or -1 with errno. Any thread. */
#ifndef AD_ADAPTERS_STORE_FILES_H
#define AD_ADAPTERS_STORE_FILES_H

#include "adapters/store.h"

typedef struct {
    int (*make_dir)(const char *path); /* mode 0700 */
    int (*create)(const char *path);   /* an empty file, mode 0600; fine when it is there */
    int (*rename)(const char *from, const char *to);
    int (*exchange)(const char *a, const char *b); /* each gets the other's name, at once; EINVAL where the file system cannot */
    int (*remove_file)(const char *path);
    int (*remove_dir)(const char *path);
    int (*sync_file)(const char *path); /* its bytes are durable */
    int (*sync_dir)(const char *path);  /* the names in it are durable */
} ad_store_files;

extern const ad_store_files ad_store_disk;  /* the real thing */
extern const ad_store_files ad_store_quick; /* the same without syncs */

/* ad_store_open on other files and another VFS of SQLite (NULL: its default). files is borrowed until the store is closed. */
AD_MUSTUSE ad_status ad_store_open_on(ad_store **out, const char *dir, const ad_store_files *files, const char *vfs, ad_err *err);

/* Removes a directory and all in it, or one file; goes on past what cannot be removed and returns -1 then. */
int ad_store_remove_tree(const ad_store_files *files, const char *path);

#endif
