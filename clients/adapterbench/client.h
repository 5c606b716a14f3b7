/* SPDX-License-Identifier: MIT */
/* One streamed completion over a connection of its own, on libuv and llhttp. Loop thread. */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <uv.h>

typedef struct call call;

typedef enum { CALL_OK, CALL_CUT, CALL_HTTP, CALL_NETWORK, CALL_TIMEOUT } call_end; /* CUT: we hung up, as told */

struct call {
    /* In. */
    struct sockaddr_storage addr;
    const char *host;         /* for the Host header */
    const char *path;         /* "/v1/completions" */
    char *body;               /* JSON; freed by the call */
    const char *bearer;       /* API key, or NULL */
    uint64_t counted_until_ns; /* events with text count for n_counted until then; 0: all do */
    int cut_after;            /* hang up after so many events with text; 0 = never */
    int timeout_ms;
    void (*on_done)(call *c); /* last; the call may be freed in it */
    void *user;
    /* Out. */
    call_end end;
    int status;               /* HTTP */
    uint64_t start_ns, first_ns, last_ns, end_ns; /* first: the first event with text; 0 = none came */
    int n_events;             /* with text */
    int n_counted;
    int prompt_tokens, output_tokens; /* of the usage event; else 0 */
    uint64_t *gaps_ns;        /* [n_gaps] between events with text; freed by call_free */
    int n_gaps;
    char error[200];
};

/* Starts c, which the caller zeroed and filled. */
void call_start(uv_loop_t *loop, call *c);
void call_free(call *c); /* what c owns, not c itself */

#endif
