/* SPDX-License-Identifier: MIT */
/* multipart/form-data with an adapter in it, streamed to disk while it is hashed; the loop never writes a file. Loop thread. */
#ifndef AD_API_UPLOAD_H
#define AD_API_UPLOAD_H

#include "adapters/adapter.h"
#include "adapters/store.h"
#include "server/api/api.h"

/* What came. Text fields are UTF-8, NULL when absent, at most 64 KiB each (selftest 1 MiB); which of them must be there is the owner's to say. */
typedef struct {
    char *name /* as the client says it */, *description, *labels /* a JSON object of strings, checked */, *selftest, *signature, *chat_template;
    char sha256[65];           /* expected digest of the weights, lower case; "" when absent */
    bool sha256_checked;       /* else it is the owner's to check: of an archive, or when it came behind the weights */
    bool activate;             /* default true */
    char dir[AD_STORE_PATH];   /* an incoming directory of the store: the owner discards it or hands it on */
    ad_adapter_stream *stream; /* of `weights` that came behind `config`: loaded but for its end; or NULL. The owner frees it */
    size_t weights_bytes;      /* that it needs to know */
    bool is_archive;           /* dir/archive; else adapter_config.json + adapter_model.safetensors, or adapter.gguf; with either tokenizer_config.json */
    size_t bytes;              /* of all files */
    uint64_t last_byte_ns;     /* uv_hrtime when the body was complete */
} ad_upload;
void ad_upload_free(ad_upload **u); /* discards nothing on disk; NULL is fine */

/* Called by the handler of a route that streams its body, first thing. Refusals (400, 408, 413, 415, 422 of a wrong sha256, 503, 507) are answered here, and the
 * directory goes then, also when the client leaves. On success done gets the open exchange and the upload, which it owns; ad_http_on_abort is the owner's again. */
typedef void (*ad_upload_done)(ad_http_exchange *x, ad_upload *u, void *user);
/* name: the whole one of whose version it is going to be, or NULL: the field `name` will say. named, unless NULL, hears whose it is as soon as that is known,
 * and once more, with coming false, when nothing came of it. */
void ad_upload_receive(ad_http_exchange *x, ad_app *app, const char *name, void (*named)(const char *name, bool coming, void *user), ad_upload_done done, void *user);
int ad_uploads_pending(void); /* being received, or being thrown away */
/* The whole name of the i-th that is being received; "" when it is not known yet; NULL behind the last. */
const char *ad_upload_name(int i);

#endif
