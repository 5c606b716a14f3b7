/* SPDX-License-Identifier: MIT */
/* Configuration: one table of keys; each is a long option (--step-tokens), an environment variable
 * (ADAPTERD_STEP_TOKENS) and a line of the file given by --config (step-tokens = 512).
 * Precedence: option > environment > file > default. An unknown key is an error. */
#ifndef AD_SERVER_CONFIG_H
#define AD_SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "core/base/status.h"

typedef struct {
    char *name, *dir;
} ad_config_adapter;

/* A key that may be given several times. */
typedef struct {
    char **items;
    int n;
} ad_config_list;

typedef struct {
    char *model;                /* GGUF file or Hugging Face directory; required */
    char *served_name;          /* the base's id in the API; default: the model's name */
    char *chat_template_file;   /* or NULL: the template in the model's own files */
    ad_config_adapter *adapters; /* --adapter NAME=DIR, repeatable */
    int n_adapters;
    ad_config_list adapter_dirs; /* --adapter-dir DIR, repeatable */
    ad_config_list listen;      /* --listen ADDRESS, repeatable: in place of host and port; checked */
    char *tls_cert, *tls_key, *tls_client_ca; /* files of addresses with https://; NULL: none, in the certificate's file, clients need none */
    bool insecure;              /* other machines may come in although there is no key */
    char *host;                 /* 127.0.0.1; https when there is a certificate */
    int port;                   /* 8000; 0 = any, printed */
    char *weights;              /* "f32" */
    char *kv_type;              /* "f16", "f32" */
    char *merge;                /* "off", "auto" or an adapter's name */
    int threads;                /* 0 = usable physical cores */
    int context;                /* tokens per sequence; 0 = the model's, at most what memory allows */
    int max_running;            /* 64 */
    int step_tokens;            /* 256 */
    int queue_limit;            /* 256 */
    int queue_timeout_s;        /* 300; 0 = never */
    size_t adapter_bytes;       /* of the adapters in one step; 0 = no limit */
    char *state_dir;            /* of the registry; NULL: in memory */
    size_t adapter_memory_bytes; /* packed adapters in memory; 0: a quarter of what is free at start */
    char *bad_adapter;          /* "quarantine", "refuse": what one of the command line whose files are bad does at the start */
    char *cold_adapter;         /* "wait", "refuse": a request for an adapter that is not in memory */
    int cold_timeout_s;         /* how long it waits */
    int max_adapters;           /* names in the registry */
    int loaders;                /* threads that read and pack adapters */
    ad_config_list adapter_roots; /* --adapter-root DIR, repeatable: where paths that clients name must lie */
    char *watch_dir;            /* or NULL */
    ad_config_list source_hosts; /* --source-host HOST, repeatable */
    char *source_ca;            /* or NULL: the system's */
    ad_config_list trusted_keys; /* --trusted-key KEY, repeatable */
    char *signatures;           /* "off", "warn", "require" */
    size_t max_body_bytes;      /* 8 MiB; accepts 512k, 8M, 1G */
    size_t max_adapter_bytes;   /* 1 GiB; of one adapter's files */
    size_t kv_memory_bytes;     /* 0 = a share of memory */
    int max_connections;        /* 1024 */
    int max_connections_per_ip; /* 0: half of them, on loopback all */
    int header_timeout_s, body_timeout_s, idle_timeout_s, write_timeout_s;
    char *slow_reader;          /* "cut", "pause" */
    size_t output_buffer_bytes; /* 1 MiB; of one stream */
    int shutdown_delay_s;       /* how long SIGTERM changes nothing but what /readyz says; 0 */
    int drain_timeout_s;        /* how long running requests may go on then; 30 */
    int stuck_after_s;          /* 60; 0: never */
    char *log_level;            /* error, warn, info, debug */
    char *log_format;           /* auto, human, json */
    char *log_prompts;          /* off, on: at level debug */
    int metrics_top;            /* adapters, and tenants, with series of their own */
    char *cpu_features;         /* "auto", or a comma list of avx2, avx512, ...; "none" = plain C */
    bool create_admin_key;      /* --create-admin-key: that, in state_dir, instead of serving */
    char *admin_key_name;       /* or NULL */
} ad_config;

/* argv as main gets it. AD_EINVAL names the key, where it came from and what it accepts.
 * Of --create-admin-key only state_dir need be given.
 * *action: 0 run, 1 what --help, --version, --dump-options or --check-config say was printed to `out`: exit 0, c is empty. Owned: ad_config_deinit. */
AD_MUSTUSE ad_status ad_config_parse(ad_config *c, int argc, char **argv, char **environ_, FILE *out, int *action, ad_err *err);
void ad_config_deinit(ad_config *c);
/* Takes from `next` what may change at run time, and gives it what was there. Calls tell for each key that differs; live false: that one needs a restart, and stays as it was. */
void ad_config_adopt(ad_config *c, ad_config *next, void (*tell)(void *user, const char *name, bool live), void *user);

#endif
