/* SPDX-License-Identifier: MIT */
/* What the answer must look like, in the words of OpenAI, vLLM and others, as one grammar. Pure: any thread. */
#ifndef AD_API_CONSTRAINT_H
#define AD_API_CONSTRAINT_H

#include "server/api/request.h"

/* response_format, structured_outputs, guided_json, guided_regex, guided_choice, guided_grammar, json_schema, grammar, regex: at most one of them. The grammar
 * goes into the request. */
bool ad_read_constraint(const ad_reader *rd);
/* Whether the body has one of these, which may take a second to compile. */
bool ad_has_constraint(const json_t *body);
/* One of another name; 400 when the request has one already. text_or_json: what grammar.h says for the kind. param: the field. */
bool ad_request_constrain(const ad_reader *rd, const char *param, ad_grammar_kind kind, const json_t *text_or_json);
/* {"type": "text" | "json_object" | "json_schema" | "structural_tag", ...} under another name, with the schema in `schema` or in `json_schema`.`schema`. */
bool ad_read_response_format(const ad_reader *rd, const char *param, const json_t *format);

#endif
