/* SPDX-License-Identifier: MIT */
/* Uploaded archives: tar, tar.gz and zip of a PEFT directory or a GGUF LoRA file, through libarchive. Any thread. */
#ifndef AD_ADAPTERS_ARCHIVE_H
#define AD_ADAPTERS_ARCHIVE_H

#include <stddef.h>

#include "core/base/status.h"

enum { AD_ARCHIVE_ENTRIES = 1000, AD_ARCHIVE_RATIO = 200 };

/* Unpacks what an adapter consists of (adapter_config.json and adapter_model.safetensors, or one *.gguf, which becomes adapter.gguf; with either
 * adapter.minisig, chat_template.jinja and tokenizer_config.json) from `archive` into the existing directory `dir`, each under its own plain name whatever folder it stood in, and removes the archive's
 * file. Other regular files (README.md, training state, tokenizers of other folders) are skipped, but count. Refused, with nothing but files of ours left in dir:
 *   AD_EFORMAT       no such archive, or damaged; an entry that is no regular file or directory, an absolute name or one with "..", a file of ours twice, in two
 *                    folders, missing, or of both kinds
 *   AD_EUNSUPPORTED  pickles as the only weights; encryption; a zip packed otherwise than by deflate
 *   AD_ELIMIT        more than max_bytes unpacked, or more than AD_ARCHIVE_RATIO times the archive's size; more than AD_ARCHIVE_ENTRIES entries
 *   AD_EFULL, AD_EIO, AD_ENOMEM
 * Messages name the entry. */
AD_MUSTUSE ad_status ad_archive_unpack(const char *archive, const char *dir, size_t max_bytes, ad_err *err);

#endif
