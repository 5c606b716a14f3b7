/* SPDX-License-Identifier: MIT */
/* A histogram of times. Any thread observes, any thread reads: each number is right, though not all of the same instant. */
#ifndef AD_OBSERVE_HISTOGRAM_H
#define AD_OBSERVE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

enum { AD_HISTOGRAM_BOUNDS = 22 };

typedef struct {
    int n;
    double bounds[AD_HISTOGRAM_BOUNDS]; /* [n] seconds, ascending */
} ad_histogram_bounds;

/* Zero-initialise but for `bounds`. */
typedef struct {
    const ad_histogram_bounds *bounds; /* borrowed; static */
    atomic_ullong counts[AD_HISTOGRAM_BOUNDS + 1]; /* one for each bound, the last for what is above all of them */
    atomic_ullong sum_ns;
} ad_histogram;

void ad_histogram_observe(ad_histogram *h, uint64_t ns);

/* vLLM's, so that dashboards made for it fit. */
extern const ad_histogram_bounds ad_vllm_ttft_bounds, ad_vllm_token_bounds, ad_vllm_request_bounds;
/* Ours. A small model on a CPU has a token each millisecond: between tokens, and of steps, the first bound is 0.5 ms. */
extern const ad_histogram_bounds ad_token_bounds, ad_step_bounds, ad_queue_bounds, ad_load_bounds, ad_http_bounds;

#endif
