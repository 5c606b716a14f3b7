/* SPDX-License-Identifier: MIT */
/* One error vocabulary: the code is for programs, the message is for people. Any thread. */
#ifndef AD_BASE_STATUS_H
#define AD_BASE_STATUS_H

#define AD_MUSTUSE __attribute__((warn_unused_result))
#define AD_PRINTF(f, a) __attribute__((format(printf, f, a)))

typedef enum {
    AD_OK,
    AD_EINVAL,        /* a value from a caller, option or request is wrong */
    AD_ENOMEM,        /* memory ran out, or would */
    AD_EIO,           /* a file or socket could not be read or written */
    AD_EFORMAT,       /* a file is malformed */
    AD_EUNSUPPORTED,  /* well formed, but not something we serve */
    AD_EMISMATCH,     /* an adapter does not fit the base model */
    AD_ENOTFOUND,     /* no such model, adapter, file */
    AD_EEXIST,        /* the name is taken */
    AD_ELIMIT,        /* over a fixed size or count */
    AD_EBUSY,         /* a queue is full; try again later */
    AD_EFULL,         /* the disk, or a quota of it, is full */
    AD_EUNTRUSTED,    /* a signature is missing, wrong, or of a key nobody trusts */
    AD_EREMOTE,       /* another machine failed, or could not be reached */
    AD_ETIMEOUT,      /* it took too long */
    AD_STATUS_COUNT
} ad_status;

/* Lives on the caller's stack. msg names the thing, says what happened and what to do. */
typedef struct {
    ad_status code;
    char msg[512];
} ad_err;

/* Fills *err (NULL is fine) and returns code, so that failing is one line. Long messages are cut. */
ad_status ad_fail(ad_err *err, ad_status code, const char *fmt, ...) AD_PRINTF(3, 4);

/* "EINVAL"-like short name without the prefix, for logs: "invalid", "no_memory", "io", ... */
const char *ad_status_name(ad_status code);

#endif
