/* SPDX-License-Identifier: MIT */
/* The head of a request, read strictly: what proxies disagree on is refused, whatever the parser behind us would make of it. Any thread. */
#ifndef AD_HTTP_HEAD_H
#define AD_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>

enum {
    AD_HTTP_MAX_HEAD = 32 * 1024, /* bytes of request line and headers; also of trailers */
    AD_HTTP_MAX_LINE = 8 * 1024,  /* of the request line */
    AD_HTTP_MAX_FIELDS = 100,     /* headers; also trailers */
};

typedef struct {
    const char *name, *value;
} ad_http_field;

typedef struct {
    char *text;                   /* owned: the head, cut into the strings the others point to */
    ad_http_field fields[AD_HTTP_MAX_FIELDS];
    int n_fields;
    const char *method, *query;   /* never NULL; query is raw */
    char *path;                   /* owned; percent-decoded; NULL when it could not be read that far */
    int minor;                    /* HTTP/1.minor */
    bool is_head;                 /* the method is HEAD */
    bool chunked, expects_continue;
    bool has_encoding;            /* of its body, other than identity */
    size_t length;                /* Content-Length; 0 when absent; SIZE_MAX: more than anybody takes */
} ad_http_head;

/* Reads raw[len], which ends in CRLF CRLF. 0, or the status of the refusal with *why (static); then what was read before the fault is there. */
int ad_http_head_read(ad_http_head *h, const char *raw, size_t len, const char **why);
void ad_http_head_deinit(ad_http_head *h);
/* The first value of `name`, in any case; NULL when absent. */
const char *ad_http_head_find(const ad_http_head *h, const char *name);

bool ad_http_is_token_char(unsigned char ch);
int ad_http_hex(char ch); /* the digit's value, or -1 */

#endif
