/* SPDX-License-Identifier: MIT */
/* One line per event on stderr, as a JSON object or for people; RFC 3339 UTC with milliseconds. Never keys, and prompts only where they were asked for. Any thread. */
#ifndef AD_OBSERVE_LOG_H
#define AD_OBSERVE_LOG_H

#include <stdint.h>

#include "core/base/status.h"

typedef enum { AD_LOG_ERROR, AD_LOG_WARN, AD_LOG_INFO, AD_LOG_DEBUG, AD_LOG_LEVELS } ad_log_level;

void ad_log_set_level(ad_log_level level);
ad_log_level ad_log_get_level(void);
/* false when name is none of error, warn, info, debug. */
int ad_log_parse_level(const char *name, ad_log_level *out);
const char *ad_log_level_name(ad_log_level level);
int ad_log_enabled(ad_log_level level);
/* "json"; "human"; "auto": human when stderr is a terminal, else json. */
void ad_log_set_format(const char *name);

/* The message is escaped; control bytes cannot forge lines. Of warnings and errors with the same fmt ten are said in ten seconds; the next line after that tells how many were not. */
void ad_log(ad_log_level level, const char *fmt, ...) AD_PRINTF(2, 3);

struct json_t;
/* An event with fields: a flat object, which is taken; NULL: out of memory, nothing is said. */
void ad_log_event(ad_log_level level, const char *what, struct json_t *fields);

/* Lines said, by level; lines held back as repeated. */
uint64_t ad_log_lines(ad_log_level level);
uint64_t ad_log_held(void);

/* A JSON string of any bytes: where they are not UTF-8, what is not ASCII becomes '?'. Owned by the caller; NULL when out of memory. */
struct json_t *ad_json_text(const char *s);

#endif
