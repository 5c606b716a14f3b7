/* SPDX-License-Identifier: MIT */
/* Where an adapter's bytes may come from when a client or operator names a place instead of sending them: directories under
 * allowed roots, a watched directory, https. Functions may run on any thread unless said otherwise. */
#ifndef AD_ADAPTERS_SOURCE_H
#define AD_ADAPTERS_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

/* ---- directories under allowed roots ---- */

/* Copies the adapter's files (see ad_archive_unpack for their names) out of `path` (a directory, or one .gguf file) into the existing directory `to`.
 * path is absolute; it must lie under one of roots[n] after every symbolic link was resolved, and so must each file in it. The files are opened
 * once and checked on the open descriptor, so that nobody swaps them in between. AD_EINVAL (message: allowed roots), AD_ENOTFOUND,
 * AD_ELIMIT over max_bytes together, AD_EFULL, AD_EIO. */
AD_MUSTUSE ad_status ad_origin_copy(const char *path, const char *const *roots, int n, const char *to, size_t max_bytes, ad_err *err);

/* ---- https ---- */

typedef struct {
    const char *const *hosts;  /* "models.example.com", "*.example.com", "10.0.0.5:8443": who may be asked. A literal private address is
                                  allowed only when it stands here itself */
    int n_hosts;
    const char *ca_file;       /* NULL: the system's */
    size_t max_bytes;          /* of one adapter */
    int timeout_s;             /* of one adapter */
} ad_https_options;

/* Fetches into the existing directory `to`: a URL ending in "/" is a folder with adapter_config.json, adapter_model.safetensors (and adapter.minisig
 * where there is one); one ending in .gguf a GGUF LoRA; anything else an archive, left as `to`/archive (*is_archive is set). https only; redirects only to allowed
 * hosts, at most 5; addresses that are private, loopback, link-local or otherwise not public are refused after name resolution, for redirects too.
 * AD_EINVAL for what is not allowed, AD_ENOTFOUND for 404, AD_ELIMIT, AD_EIO with curl's reason. *cancel is looked at while it runs. */
AD_MUSTUSE ad_status ad_origin_fetch(const char *url, const ad_https_options *opt, const char *to, bool *is_archive, const volatile bool *cancel, ad_err *err);

/* ---- a watched directory ---- */

/* Compares a directory with what was seen before: every sub-directory is an adapter of that name. A folder counts as arrived (or changed) when it
 * holds an adapter's files and their names, sizes and times are the same in two scans at least settle_ms apart; as gone when it is no longer there.
 * One owner at a time. */
typedef struct ad_watch ad_watch;
typedef enum { AD_WATCH_ARRIVED, AD_WATCH_CHANGED, AD_WATCH_GONE } ad_watch_event;
AD_MUSTUSE ad_status ad_watch_new(ad_watch **out, const char *dir, int settle_ms, ad_err *err);
void ad_watch_free(ad_watch **w);
/* now_ms is any clock that does not go back. Calls back for each event, in order of name; path is the folder's. AD_EIO when the directory itself cannot be read:
 * then nothing is gone. */
AD_MUSTUSE ad_status ad_watch_scan(ad_watch *w, uint64_t now_ms, void (*event)(void *user, ad_watch_event what, const char *name, const char *path), void *user, ad_err *err);

#endif
