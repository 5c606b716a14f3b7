/* SPDX-License-Identifier: MIT */
/* The part of the Jinja template language that chat templates use, as Jinja2 3.1 reads it with trim_blocks, lstrip_blocks
 * and loop controls. Templates are programs of strangers: nothing outside the variables can be reached, and steps, memory,
 * output and nesting are bounded. A template is immutable once made: any thread may render. */
#ifndef AD_TEXT_JINJA_JINJA_H
#define AD_TEXT_JINJA_JINJA_H

#include <jansson.h>
#include <time.h>

#include "core/text/tokenizer.h"

enum { AD_JINJA_MAX_SOURCE = 1 << 20 }; /* bytes of a template; the largest in use have 30 KiB */

typedef struct ad_jinja ad_jinja;

/* source[len] is copied; label names it in messages, which say the line. AD_EFORMAT for what is no template, AD_EUNSUPPORTED
 * for a tag that chat templates have no use for. */
AD_MUSTUSE ad_status ad_jinja_new(ad_jinja **out, const char *source, size_t len, const char *label, ad_err *err);
void ad_jinja_free(ad_jinja **t); /* NULL is fine */
/* Whether the template names this variable, attribute, keyword or key. */
bool ad_jinja_mentions(const ad_jinja *t, const char *name);

typedef struct {
    const char *name;
    const json_t *value; /* borrowed; NULL: none */
    bool untrusted;      /* its strings are somebody else's text ... */
    const char *trusted_key; /* ... except the members of this name, in objects at any depth, that are one of these words; NULL: none */
    const char *const *trusted_words; /* ends with NULL */
} ad_jinja_var;

/* What a rendering may cost beside the variables themselves, which it may copy a few times in addition. */
typedef struct {
    size_t steps;  /* of the interpreter, each a few dozen nanoseconds */
    size_t memory; /* bytes of all values made */
    size_t output; /* bytes */
    time_t now;    /* for strftime_now */
} ad_jinja_limits;

/* Appends what the template says to *out, and to *untrusted (NULL is fine) the spans of *out that came out of untrusted
 * variables. Of variables with the same name the last counts. AD_EINVAL with the template's own sentence when it calls
 * raise_exception, with the line for every other error; AD_ELIMIT for a limit. On failure both keep what they had. */
AD_MUSTUSE ad_status ad_jinja_render(const ad_jinja *t, const ad_jinja_var *vars, size_t n, const ad_jinja_limits *limits, ad_buf *out, ad_text_spans *untrusted, ad_err *err);

#endif
