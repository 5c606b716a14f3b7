/* SPDX-License-Identifier: MIT */
/* OpenSSL over a BIO of our own, which lends it the bytes that came and appends what it says to the caller's buffer: memory BIOs would keep
 * their buffers with every connection. */
#include "server/http/tls.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "core/base/file.h"
#include "server/observe/log.h"

enum {
    RECORD_BYTES = 16 * 1024,   /* of a record's plaintext, at most */
    MAX_CONTROL = 64 * 1024,    /* bytes of answers to key updates and the like in a connection's life: a client may ask for them without reading any */
    MAX_FILE = 1 << 20,
};

struct ad_tls {
    SSL_CTX *ctx;               /* connections hold references of their own */
    BIO_METHOD *method;
    ad_tls_files files;
};

struct ad_tls_filter {
    SSL *ssl;
    const char *in;             /* in_len bytes of the call that runs */
    size_t in_len;
    ad_buf *wire;               /* of the call that runs */
    size_t control;             /* bytes sent without being asked to, since the handshake */
    bool failed, ended;
    const char *problem;        /* when it failed; static */
};

/* ---- the BIO ---- */

static int lend(BIO *b, char *to, int size)
{
    ad_tls_filter *f = BIO_get_data(b);
    size_t n = f->in_len < (size_t)size ? f->in_len : (size_t)size;
    BIO_clear_retry_flags(b);
    if (!n) return BIO_set_retry_read(b), -1;
    memcpy(to, f->in, n);
    f->in += n;
    f->in_len -= n;
    return (int)n;
}

static int take(BIO *b, const char *from, int len)
{
    ad_tls_filter *f = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    ad_buf_append(f->wire, from, (size_t)len);
    return f->wire->failed ? -1 : len;
}

static long control(BIO *b, int what, long number, void *pointer)
{
    return what == BIO_CTRL_FLUSH;
}

static BIO_METHOD *method_new(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "adapterd connection");
    if (m && BIO_meth_set_read(m, lend) && BIO_meth_set_write(m, take) && BIO_meth_set_ctrl(m, control)) return m;
    BIO_meth_free(m);
    return NULL;
}

/* ---- certificates and keys ---- */

/* What OpenSSL says is wrong with `path`. */
static ad_status explain(const char *path, const char *what, ad_err *err)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    ad_status st = ad_fail(err, AD_EFORMAT, "%s: %s%s%s", path, what, reason ? ": " : "", reason ? reason : "");
    ERR_clear_error();
    return st;
}

/* Opens `path` as *bio over *file: both are the caller's to close, with close_pem. */
static ad_status open_pem(ad_file *file, BIO **bio, const char *path, ad_err *err)
{
    ad_status st = ad_file_read(file, path, MAX_FILE, err);
    if (st != AD_OK) return st;
    ERR_clear_error();
    *bio = BIO_new_mem_buf(file->data, (int)file->len);
    if (*bio) return AD_OK;
    ad_file_close(file);
    return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
}

static void close_pem(ad_file *file, BIO *bio)
{
    BIO_free(bio);
    OPENSSL_cleanse((void *)file->data, file->len); /* a key may be in it */
    ad_file_close(file);
}

/* All of a file, at least one: *out is owned, sk_X509_pop_free. */
static ad_status read_certificates(STACK_OF(X509) **out, const char *path, ad_err *err)
{
    ad_file file;
    BIO *bio;
    ad_status st = open_pem(&file, &bio, path, err);
    if (st != AD_OK) return st;
    STACK_OF(X509) *list = sk_X509_new_null();
    X509 *cert = NULL;
    while (list && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)) && sk_X509_push(list, cert)) cert = NULL;
    bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (!list || cert) st = ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    else if (!at_end) st = explain(path, "a certificate in it is malformed", err);
    else if (!sk_X509_num(list)) st = ad_fail(err, AD_EFORMAT, "%s: there is no certificate in it (PEM)", path);
    ERR_clear_error();
    close_pem(&file, bio);
    X509_free(cert);
    if (st == AD_OK) *out = list;
    else sk_X509_pop_free(list, X509_free);
    return st;
}

static int no_passphrase(char *to, int size, int writing, void *asked)
{
    return *(bool *)asked = true, -1;
}

static ad_status read_key(EVP_PKEY **out, const char *path, ad_err *err)
{
    ad_file file;
    BIO *bio;
    static const char title[] = "PRIVATE KEY-----";
    bool asked = false;
    ad_status st = open_pem(&file, &bio, path, err);
    if (st != AD_OK) return st;
    bool there = file.len && memmem(file.data, file.len, title, sizeof title - 1);
    *out = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
    close_pem(&file, bio);
    if (*out) return AD_OK;
    if (asked) st = ad_fail(err, AD_EUNSUPPORTED, "%s: the key has a passphrase; it must be stored without one", path);
    else if (!there) st = ad_fail(err, AD_EFORMAT, "%s: there is no private key in it (PEM)", path);
    else st = explain(path, "the private key is malformed", err);
    ERR_clear_error();
    return st;
}

static struct tm end_of(const X509 *cert)
{
    struct tm end = {0};
    ASN1_TIME_to_tm(X509_get0_notAfter(cert), &end);
    return end;
}

/* It is the operator's to decide whether dates matter. */
static void log_dates(const X509 *cert, const char *path)
{
    struct tm end = end_of(cert);
    char day[20];
    strftime(day, sizeof day, "%Y-%m-%d", &end);
    if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0) ad_log(AD_LOG_WARN, "tls: %s: the certificate has expired on %s", path, day);
    else if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0) ad_log(AD_LOG_WARN, "tls: %s: the certificate is not valid yet", path);
    else ad_log(AD_LOG_INFO, "tls: %s: the certificate is valid until %s", path, day);
}

static ad_status use_certificate(SSL_CTX *ctx, const ad_tls_files *files, ad_err *err)
{
    const char *key_path = files->key ? files->key : files->cert;
    STACK_OF(X509) *chain = NULL;
    EVP_PKEY *key = NULL;
    ad_status st = read_certificates(&chain, files->cert, err);
    if (st == AD_OK) st = read_key(&key, key_path, err);
    X509 *cert = st == AD_OK ? sk_X509_value(chain, 0) : NULL;
    if (cert && X509_check_private_key(cert, key) != 1) st = ad_fail(err, AD_EMISMATCH, "%s: the key is not that of the certificate in %s", key_path, files->cert);
    if (st == AD_OK && SSL_CTX_use_certificate(ctx, cert) != 1) st = explain(files->cert, "the certificate cannot be used", err);
    if (st == AD_OK && SSL_CTX_use_PrivateKey(ctx, key) != 1) st = explain(key_path, "the key cannot be used", err);
    for (int i = 1; st == AD_OK && i < sk_X509_num(chain); i++)
        if (SSL_CTX_add1_chain_cert(ctx, sk_X509_value(chain, i)) != 1) st = explain(files->cert, "a certificate of the chain cannot be used", err);
    if (st == AD_OK) log_dates(cert, files->cert);
    EVP_PKEY_free(key);
    sk_X509_pop_free(chain, X509_free);
    ERR_clear_error();
    return st;
}

static ad_status demand_certificates(SSL_CTX *ctx, const char *path, ad_err *err)
{
    static const unsigned char scope[] = "adapterd"; /* of sessions that are resumed */
    STACK_OF(X509) *list = NULL;
    ad_status st = read_certificates(&list, path, err);
    for (int i = 0; st == AD_OK && i < sk_X509_num(list); i++)
        if (X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), sk_X509_value(list, i)) != 1 || SSL_CTX_add_client_CA(ctx, sk_X509_value(list, i)) != 1) st = explain(path, "a certificate cannot be used", err);
    sk_X509_pop_free(list, X509_free);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_id_context(ctx, scope, sizeof scope - 1);
    return st;
}

/* ---- what is spoken ---- */

/* Whoever says what it can speak must be able to speak HTTP/1.1. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *arg)
{
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *found;
    if (SSL_select_next_proto(&found, out_len, ours, sizeof ours - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = found;
    return SSL_TLSEXT_ERR_OK;
}

static ad_status context_new(SSL_CTX **out, const ad_tls_files *files, ad_err *err)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx) return ad_fail(err, AD_ENOMEM, "out of memory for TLS");
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* idle connections hold none */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* sessions are resumed by the tickets that clients hold */
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    bool able = SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 && SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1; /* of TLS 1.2: forward secrecy, authenticated */
    ad_status st = able ? use_certificate(ctx, files, err) : ad_fail(err, AD_EUNSUPPORTED, "this OpenSSL has no TLS 1.2");
    if (st == AD_OK && files->client_ca) st = demand_certificates(ctx, files->client_ca, err);
    if (st == AD_OK) *out = ctx;
    else SSL_CTX_free(ctx);
    return st;
}

ad_status ad_tls_new(ad_tls **out, const ad_tls_files *files, ad_err *err)
{
    ad_tls *t = ad_calloc(1, sizeof *t);
    if (t) t->method = method_new();
    ad_status st = t && t->method ? context_new(&t->ctx, files, err) : ad_fail(err, AD_ENOMEM, "out of memory for TLS");
    if (t) t->files = *files;
    if (st == AD_OK) *out = t;
    else ad_tls_free(&t);
    return st;
}

ad_status ad_tls_reload(ad_tls *t, bool *renewed, ad_err *err)
{
    SSL_CTX *next;
    ad_status st = context_new(&next, &t->files, err);
    if (st != AD_OK) return st;
    *renewed = X509_cmp(SSL_CTX_get0_certificate(t->ctx), SSL_CTX_get0_certificate(next)) != 0;
    SSL_CTX_free(t->ctx);
    t->ctx = next;
    return AD_OK;
}

uint64_t ad_tls_expiry(const ad_tls *t)
{
    struct tm end = end_of(SSL_CTX_get0_certificate(t->ctx));
    return (uint64_t)timegm(&end);
}

void ad_tls_free(ad_tls **tp)
{
    ad_tls *t = *tp;
    *tp = NULL;
    if (!t) return;
    SSL_CTX_free(t->ctx);
    BIO_meth_free(t->method);
    free(t);
}

/* ---- filters ---- */

ad_tls_filter *ad_tls_filter_new(ad_tls *t)
{
    ad_tls_filter *f = ad_calloc(1, sizeof *f);
    BIO *bio = f ? BIO_new(t->method) : NULL;
    if (bio) f->ssl = SSL_new(t->ctx);
    if (!bio || !f->ssl) {
        BIO_free(bio);
        free(f);
        return NULL;
    }
    BIO_set_data(bio, f);
    BIO_set_init(bio, 1);
    SSL_set_bio(f->ssl, bio, bio);
    SSL_set_accept_state(f->ssl);
    return f;
}

void ad_tls_filter_free(ad_tls_filter **fp)
{
    ad_tls_filter *f = *fp;
    *fp = NULL;
    if (!f) return;
    SSL_free(f->ssl); /* the BIO goes with it */
    free(f);
}

/* Reads records until no whole one is left. */
static ad_tls_state decrypt(ad_tls_filter *f, ad_buf *plain)
{
    char piece[RECORD_BYTES];
    size_t n = 0;
    int rc;
    while ((rc = SSL_read_ex(f->ssl, piece, sizeof piece, &n)) == 1) ad_buf_append(plain, piece, n);
    int why = SSL_get_error(f->ssl, rc);
    if (why == SSL_ERROR_ZERO_RETURN) return AD_TLS_ENDED;
    if (why != SSL_ERROR_WANT_READ) return AD_TLS_FAILED;
    return SSL_is_init_finished(f->ssl) ? AD_TLS_OPEN : AD_TLS_SHAKING;
}

ad_tls_state ad_tls_receive(ad_tls_filter *f, const char *data, size_t len, ad_buf *plain, ad_buf *wire)
{
    size_t before = wire->len;
    bool was_open = SSL_is_init_finished(f->ssl);
    if (f->failed) return AD_TLS_FAILED;
    f->in = data;
    f->in_len = len;
    f->wire = wire;
    ERR_clear_error();
    ad_tls_state state = decrypt(f, plain);
    if (was_open) f->control += wire->len - before;
    if (f->control > MAX_CONTROL) state = AD_TLS_FAILED;
    f->failed = state == AD_TLS_FAILED;
    if (f->failed) f->problem = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return state;
}

const char *ad_tls_problem(const ad_tls_filter *f)
{
    return f->problem ? f->problem : "it asks for too much beside its data";
}

bool ad_tls_send(ad_tls_filter *f, const char *data, size_t len, ad_buf *wire)
{
    size_t n;
    if (f->failed || f->ended || !SSL_is_init_finished(f->ssl)) return false;
    f->wire = wire;
    ERR_clear_error();
    f->failed = SSL_write_ex(f->ssl, data, len, &n) != 1;
    ERR_clear_error();
    return !f->failed;
}

void ad_tls_end(ad_tls_filter *f, ad_buf *wire)
{
    if (f->failed || f->ended || !SSL_is_init_finished(f->ssl)) return;
    f->ended = true;
    f->wire = wire;
    ERR_clear_error();
    SSL_shutdown(f->ssl);
    ERR_clear_error();
}
