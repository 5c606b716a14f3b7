/* SPDX-License-Identifier: MIT */
#include "server/admin_key.h"

#include <errno.h>
#include <grp.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/tenancy/change.h"

static ad_status become_owner(const char *dir, ad_err *err)
{
    struct stat st;
    if (geteuid() != 0 || stat(dir, &st) != 0 || st.st_uid == 0) return AD_OK;
    if (setgroups(0, NULL) == 0 && setgid(st.st_gid) == 0 && setuid(st.st_uid) == 0) return AD_OK;
    return ad_fail(err, AD_EIO, "%s: cannot become its owner, user %ld: %s", dir, (long)st.st_uid, strerror(errno));
}

static ad_status make_in(ad_store *store, const char *name, FILE *out, ad_err *err)
{
    ad_tenancy *t = NULL;
    char text[AD_KEY_TEXT + 1];
    ad_status st = ad_tenancy_new(&t, store, err);
    if (st == AD_OK) st = ad_tenancy_make_admin_key(t, store, name, text, err);
    if (st == AD_OK && (fprintf(out, "%s\n", text) < 0 || fflush(out) != 0)) st = ad_fail(err, AD_EIO, "the key is made, and cannot be printed: %s; make another one", strerror(errno));
    OPENSSL_cleanse(text, sizeof text);
    ad_tenancy_free(&t);
    return st;
}

ad_status ad_create_admin_key(const char *dir, const char *name, FILE *out, ad_err *err)
{
    ad_store *store = NULL;
    ad_err why;
    ad_status st = become_owner(dir, err);
    if (st != AD_OK) return st;
    st = ad_store_open(&store, dir, &why);
    if (st == AD_EBUSY) return ad_fail(err, st, "%s: a running one makes keys by POST /v1/admin/keys, for who has a key with verb admin; for this, stop it", why.msg);
    if (st != AD_OK) return ad_fail(err, st, "%s", why.msg);
    st = make_in(store, name, out, err);
    ad_store_close(&store);
    return st;
}
