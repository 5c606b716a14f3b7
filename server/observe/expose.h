/* SPDX-License-Identifier: MIT */
/* Prometheus' text format 0.0.4 and OpenMetrics 1.0, which differ in their families' lines and their last one. Pure; any thread. */
#ifndef AD_OBSERVE_EXPOSE_H
#define AD_OBSERVE_EXPOSE_H

#include "core/base/mem.h"
#include "server/observe/histogram.h"

typedef struct {
    ad_buf *out;          /* borrowed; failed when memory ran out */
    bool open_metrics;
} ad_expose;

/* What a scraper is answered with: OpenMetrics only when Accept (NULL: none was sent) names it with a quality at least as high as that of plain text. */
bool ad_expose_wants_open_metrics(const char *accept);
const char *ad_expose_content_type(bool open_metrics);

/* The lines before a family's samples. type: "counter", whose names end in _total, "gauge" or "histogram". help: without quotes, backslashes and line ends. */
void ad_expose_family(const ad_expose *e, const char *name, const char *type, const char *help);
/* One sample. labels: what stands between the braces, or "". */
void ad_expose_integer(const ad_expose *e, const char *name, const char *labels, unsigned long long value);
void ad_expose_real(const ad_expose *e, const char *name, const char *labels, double value);
/* A family of one sample. */
void ad_expose_counter(const ad_expose *e, const char *name, const char *help, unsigned long long value);
void ad_expose_gauge(const ad_expose *e, const char *name, const char *help, double value);
/* The samples of one histogram. */
void ad_expose_histogram(const ad_expose *e, const char *name, const char *labels, const ad_histogram *h);
/* name="value", escaped; with a comma before it unless b is empty. A value that is no UTF-8 would cost the whole scrape: its foreign bytes become '?'. */
void ad_expose_label(ad_buf *b, const char *name, const char *value);
void ad_expose_escape(ad_buf *b, const char *value); /* a value, or part of one */
void ad_expose_end(const ad_expose *e);

#endif
