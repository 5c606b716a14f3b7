/* SPDX-License-Identifier: MIT */
/* Uploaded archives: tar, tar.gz and zip of a PEFT directory or a GGUF LoRA file, through libarchive. Any thread. */
#ifndef AD_ADAPTERS_ARCHIVE_H
#define AD_ADAPTERS_ARCHIVE_H

#include <stddef.h>

#include "core/base/status.h"

/* Unpacks what an adapter consists of (adapter_config.json, adapter_model.safetensors, adapter.gguf or one *.gguf, adapter.minisig) from
 * `archive` into the existing directory `dir`, each under its own plain name whatever folder it stood in, and removes the archive's
 * file. Other regular files (README.md, tokenizer files, training state) are skipped. Refused, with nothing but files of ours left in dir:
 * an entry that is no regular file or directory, an absolute name or one with "..", the same file twice, adapters in two folders, pickles as the only weights,
 * encryption, more than max_bytes unpacked (AD_ELIMIT) or more than 200 times the archive's size, more than 1000 entries.
 * AD_EFORMAT, AD_EUNSUPPORTED, AD_ELIMIT, AD_EFULL, AD_EIO; messages name the entry. */
AD_MUSTUSE ad_status ad_archive_unpack(const char *archive, const char *dir, size_t max_bytes, ad_err *err);

#endif
