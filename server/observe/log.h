/* SPDX-License-Identifier: MIT */
/* One JSON object per line on stderr, RFC 3339 UTC with milliseconds. Never prompt text, never keys. Any thread. */
#ifndef AD_OBSERVE_LOG_H
#define AD_OBSERVE_LOG_H

#include "core/base/status.h"

typedef enum { AD_LOG_ERROR, AD_LOG_WARN, AD_LOG_INFO, AD_LOG_DEBUG } ad_log_level;

void ad_log_set_level(ad_log_level level);
/* false when name is none of error, warn, info, debug. */
int ad_log_parse_level(const char *name, ad_log_level *out);
int ad_log_enabled(ad_log_level level);
/* The message is escaped; control bytes cannot forge lines. */
void ad_log(ad_log_level level, const char *fmt, ...) AD_PRINTF(2, 3);
/* The access log line of one request (level info). adapter_version is NULL for what no adapter answered. */
void ad_log_request(const char *request_id, const char *peer, const char *method, const char *route, int status,
                    double duration_ms, unsigned long long bytes, const char *adapter_version);

struct json_t;
/* A JSON string of any bytes: where they are not UTF-8, what is not ASCII becomes '?'. Owned by the caller; NULL when out of memory. */
struct json_t *ad_json_text(const char *s);

#endif
