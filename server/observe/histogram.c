/* SPDX-License-Identifier: MIT */
#include "server/observe/histogram.h"

const ad_histogram_bounds ad_vllm_ttft_bounds = {22, {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}};
const ad_histogram_bounds ad_vllm_token_bounds = {19, {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}};
const ad_histogram_bounds ad_vllm_request_bounds = {21, {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}};
const ad_histogram_bounds ad_token_bounds = {20, {.0005, .001, .002, .003, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2.5, 10, 60}};
const ad_histogram_bounds ad_step_bounds = {16, {.0005, .001, .002, .003, .005, .01, .02, .03, .05, .1, .2, .5, 1, 2.5, 10, 60}};
const ad_histogram_bounds ad_queue_bounds = {16, {.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}};
const ad_histogram_bounds ad_load_bounds = {16, {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}};
const ad_histogram_bounds ad_http_bounds = {16, {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 480, 1920}};

void ad_histogram_observe(ad_histogram *h, uint64_t ns)
{
    double seconds = (double)ns / 1e9;
    int i = 0;
    while (i < h->bounds->n && seconds > h->bounds->bounds[i]) i++;
    atomic_fetch_add_explicit(&h->counts[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_ns, ns, memory_order_relaxed);
}
