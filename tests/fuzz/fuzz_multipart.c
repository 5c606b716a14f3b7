/* SPDX-License-Identifier: MIT */
/* A Content-Type up to the first line feed, then a body: read whole and in pieces, it must come to the same. */
#include "tests/fuzz/fuzz.h"

#include "server/http/multipart.h"

static ad_status on_begin(void *user, const char *name, const char *filename, const char *type, ad_err *err)
{
    (void)err;
    if (!*name) abort();
    ad_buf_printf(user, "[%s|%s|%s]", name, filename ? filename : "-", type);
    return AD_OK;
}

static ad_status on_data(void *user, const char *data, size_t len, ad_err *err)
{
    (void)err;
    if (!len) abort();
    ad_buf_append(user, data, len);
    return AD_OK;
}

static ad_status on_end(void *user, ad_err *err)
{
    (void)err;
    ad_buf_puts(user, ";");
    return AD_OK;
}

static ad_status read_in(const char *type, const uint8_t *body, size_t size, size_t piece, ad_buf *out)
{
    ad_err err;
    ad_multipart *m = NULL;
    ad_multipart_handler handler = {on_begin, on_data, on_end, out};
    ad_status st = ad_multipart_new(&m, type, &handler, &err);
    for (size_t i = 0; i < size && st == AD_OK; i += piece) st = ad_multipart_feed(m, (const char *)body + i, size - i < piece ? size - i : piece, &err);
    if (st == AD_OK) st = ad_multipart_finish(m, &err);
    ad_multipart_free(&m);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ad_buf whole = {0}, cut = {0};
    const uint8_t *line = size > 1 ? memchr(data + 1, '\n', size - 1) : NULL;
    if (!line) return 0;
    char *type = strndup((const char *)data + 1, (size_t)(line - data - 1));
    const uint8_t *body = line + 1;
    size_t n = size - (size_t)(body - data);
    ad_status a = read_in(type, body, n, n + 1, &whole), b = read_in(type, body, n, 1 + data[0] % 16, &cut);
    if (a != b || (a == AD_OK && (whole.len != cut.len || (whole.len && memcmp(whole.data, cut.data, whole.len))))) abort();
    ad_buf_deinit(&whole);
    ad_buf_deinit(&cut);
    free(type);
    return 0;
}
