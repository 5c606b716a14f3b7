/* SPDX-License-Identifier: MIT */
/* The framing of a chunked body, checked byte by byte before llhttp takes it apart: versions of llhttp differ in what they let pass. Any thread. */
#ifndef AD_HTTP_CHUNKS_H
#define AD_HTTP_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialise; nothing to release. */
typedef struct {
    int state;
    uint64_t left;      /* of the chunk's data */
    size_t line_bytes;  /* of the size line, or trailer, so far */
    size_t excess;      /* what size lines had beyond 16 bytes each: extensions */
    size_t trailer_bytes;
    int n_trailers;
    char name[20];      /* of the trailer, lower case, as far as it fits */
    bool done;          /* the body is complete */
} ad_http_chunks;

/* How many bytes of data[len] belong to the body and are well-formed: len, unless the body ends before. SIZE_MAX: it is malformed, *why (static) says how.
 * Extensions, which nobody reads, are overwritten: each becomes one plain name, as versions of llhttp know different parts of their grammar. */
size_t ad_http_chunks_check(ad_http_chunks *c, char *data, size_t len, const char **why);

#endif
