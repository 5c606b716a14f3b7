/* SPDX-License-Identifier: MIT */
/* W3C trace context: one request's place in a trace that others began, or the beginning of one. Pure; any thread. */
#ifndef AD_OBSERVE_TRACE_H
#define AD_OBSERVE_TRACE_H

#include <stdbool.h>

enum { AD_TRACE_ID = 32, AD_SPAN_ID = 16, AD_TRACEPARENT = 55 };

/* Ids are lower hex and never all zero. */
typedef struct {
    char trace_id[AD_TRACE_ID + 1];
    char parent_id[AD_SPAN_ID + 1]; /* the caller's span; "" : the trace begins here */
    char span_id[AD_SPAN_ID + 1];   /* ours */
    unsigned flags;                 /* 1: sampled, 2: the trace id is random; what others may mean some day is not passed on */
} ad_trace;

/* Reads the header: trace_id, parent_id and flags. False, with *t as it was, when it breaks a rule. A later version is read as far as version 00 goes. */
bool ad_traceparent_read(ad_trace *t, const char *text);
/* Goes on with the trace of `traceparent` (NULL: there was none) if that is valid, else begins one; the span is new either way. False: it begins here. */
bool ad_trace_begin(ad_trace *t, const char *traceparent);
/* The header for whom we answer or call. */
void ad_traceparent_write(const ad_trace *t, char out[AD_TRACEPARENT + 1]);

#endif
