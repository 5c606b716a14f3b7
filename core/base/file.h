/* SPDX-License-Identifier: MIT */
/* Whole files: mapped read-only (base models, which the operator owns) or read into owned memory
 * (adapters and small files: a mapping of a file somebody may truncate ends in SIGBUS). Any thread. */
#ifndef AD_BASE_FILE_H
#define AD_BASE_FILE_H

#include <stddef.h>

#include "core/base/mem.h"

typedef struct {
    const void *data; /* NULL when the file is empty */
    size_t len;
    int mapped; /* how ad_file_close gives it back */
} ad_file;

/* *out is written only on success; close it with ad_file_close. AD_ENOTFOUND or AD_EIO name the path and the reason;
 * a directory or other non-regular file is AD_EIO too. */
AD_MUSTUSE ad_status ad_file_map(ad_file *out, const char *path, ad_err *err);
/* AD_ELIMIT when the file is larger than max_bytes. data is followed by a NUL that len does not count. */
AD_MUSTUSE ad_status ad_file_read(ad_file *out, const char *path, size_t max_bytes, ad_err *err);
/* A mapped file's pages leave this process's memory; they come back from the page cache when read again. */
void ad_file_release_pages(const ad_file *f);
/* Writes all of data[len]; false with errno. */
bool ad_write_all(int fd, const void *data, size_t len);
/* What errno of writing a file means: AD_EFULL, AD_ENOMEM or AD_EIO. */
ad_status ad_errno_status(int error);
void ad_file_close(ad_file *f); /* zeroes *f; a zero *f is fine */

#endif
