/* SPDX-License-Identifier: MIT */
/* Where an adapter's bytes may come from when a client or operator names a place instead of sending them: directories under
 * allowed roots, a watched directory, https. Functions may run on any thread unless said otherwise. */
#ifndef AD_ADAPTERS_SOURCE_H
#define AD_ADAPTERS_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

struct sockaddr;

/* ---- directories under allowed roots (source.c) ---- */

/* Copies the adapter out of `path` (a directory, or one .gguf file) into the existing directory `to`, under the names of ad_store's blobs:
 * adapter_config.json + adapter_model.safetensors, or else adapter.gguf; and adapter.minisig, chat_template.jinja and tokenizer_config.json where the directory
 * has them. Nothing else is copied.
 * path is absolute and without ".."; it must lie under one of roots[n] after every symbolic link was resolved, and so must each file in it. What is
 * opened is pinned first and then checked, so that nobody swaps it in between; only regular files are opened for reading. AD_EINVAL (outside of the roots,
 * whether it exists or not; several .gguf files), AD_ENOTFOUND, AD_EUNSUPPORTED (pickles only), AD_ELIMIT over max_bytes together, AD_EFULL, AD_EIO. */
AD_MUSTUSE ad_status ad_origin_copy(const char *path, const char *const *roots, int n, const char *to, size_t max_bytes, ad_err *err);

/* ---- https (fetch.c) ---- */

typedef struct {
    const char *const *hosts;  /* "models.example.com", "*.example.com", "10.0.0.5:8443", "[2001:db8::1]:8443": who may be asked, at port 443 unless
                                  it says another. "*." stands for one or more labels. A private address is allowed only when it stands here itself */
    int n_hosts;
    const char *ca_file;       /* the only authorities that are believed; NULL: the system's */
    size_t max_bytes;          /* of one adapter */
    int timeout_s;             /* of one adapter; besides, a server that sends nearly nothing for AD_FETCH_STALL_S is given up */
} ad_https_options;

enum { AD_FETCH_STALL_S = 15, AD_FETCH_REDIRECTS = 5 };

/* Fetches into the existing directory `to`: a URL whose path ends in "/" is a folder with adapter_config.json, adapter_model.safetensors (and where there are,
 * adapter.minisig and chat_template.jinja, or else tokenizer_config.json); one ending in .gguf a GGUF LoRA, left as `to`/adapter.gguf; anything else an archive, left as `to`/archive (*is_archive is set).
 * https only; redirects only to allowed hosts, at most AD_FETCH_REDIRECTS; addresses that are not public (ad_origin_is_public) are refused after name
 * resolution, for redirects too. Nothing of the environment counts: no proxies, .netrc, cookies. The process ignores SIGPIPE.
 * AD_EINVAL for what is not allowed, AD_ENOTFOUND for 404, AD_EREMOTE when the server fails, AD_ETIMEOUT, AD_EBUSY when canceled, AD_ELIMIT, AD_EFULL, AD_EIO.
 * *cancel (NULL is fine) is looked at while it runs; another thread sets it with __atomic_store_n.
 * Messages name host and path, not the URL's query. */
AD_MUSTUSE ad_status ad_origin_fetch(const char *url, const ad_https_options *opt, const char *to, bool *is_archive, const volatile bool *cancel, ad_err *err);

/* Whether the address is one of the public Internet: neither loopback, private, shared, link-local, multicast, reserved nor for documentation, nor
 * such an IPv4 address inside an IPv6 one. Only IPv4 and IPv6 are public. */
bool ad_origin_is_public(const struct sockaddr *address);

/* ---- a watched directory (watch.c) ---- */

/* Compares a directory with what was seen before: every sub-directory is an adapter of that name, except those that begin with ".". A folder counts as
 * arrived (or changed) when it holds an adapter's files and their names, sizes, times and inodes are the same in two scans at least settle_ms apart; as
 * gone when it was missing in two scans at least settle_ms apart, so that one that is replaced by renaming only changes. One owner at a time. */
typedef struct ad_watch ad_watch;
typedef enum { AD_WATCH_ARRIVED, AD_WATCH_CHANGED, AD_WATCH_GONE } ad_watch_event;
AD_MUSTUSE ad_status ad_watch_new(ad_watch **out, const char *dir, int settle_ms, ad_err *err);
void ad_watch_free(ad_watch **w); /* NULL is fine */
/* now_ms is any clock that does not go back. Calls back for each event, in order of name; path is the folder's, borrowed. AD_EIO when the directory cannot be
 * read, AD_ELIMIT when it holds more than AD_WATCH_FOLDERS, AD_ENOMEM: then nothing is told and nothing is gone. */
enum { AD_WATCH_FOLDERS = 100000 };
typedef void (*ad_watch_fn)(void *user, ad_watch_event what, const char *name, const char *path);
AD_MUSTUSE ad_status ad_watch_scan(ad_watch *w, uint64_t now_ms, ad_watch_fn event, void *user, ad_err *err);

/* The adapter's files of one folder as scans compare them: the same bytes as long as nobody touched them, all zero when there is no such folder. */
enum { AD_WATCH_FILES = 6 }; /* config, weights, signature, GGUF, chat template, configuration of the tokenizer */
typedef struct {
    struct {
        uint64_t device, inode; /* all zero: not there */
        int64_t bytes, seconds, nanoseconds;
    } files[AD_WATCH_FILES];
} ad_watch_state;
void ad_watch_read_state(const char *path, ad_watch_state *out);

/* ---- what of an adapter a directory holds; shared by the above ---- */

typedef struct {
    bool config, weights, signature, pickle;
    bool template, tokenizer; /* chat_template.jinja, tokenizer_config.json */
    int n_gguf;     /* adapter.gguf, or else how many *.gguf there are */
    char gguf[256]; /* the name of one of them */
} ad_origin_files;

/* Reads the directory's names; fd stays the caller's. path is for messages. */
AD_MUSTUSE ad_status ad_origin_list(ad_origin_files *out, int fd, const char *path, ad_err *err);
/* AD_OK when that is a PEFT pair, or without any of its two files one GGUF file; otherwise what is missing. */
/* The bytes of the adapter's files at `path` (a directory, or a file); 0 when there are none. */
int64_t ad_origin_bytes(const char *path);
AD_MUSTUSE ad_status ad_origin_complete(const ad_origin_files *f, const char *path, ad_err *err);

#endif
