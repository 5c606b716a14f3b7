/* SPDX-License-Identifier: MIT */
#include "server/api/constraint.h"

#include <string.h>

bool ad_request_constrain(const ad_reader *rd, const char *param, ad_grammar_kind kind, const json_t *v)
{
    ad_request *r = rd->r;
    ad_err err;
    if (r->grammar) return ad_read_wrong(rd, param, "does not go with another constraint on the answer");
    bool text = kind == AD_GRAMMAR_REGEX || kind == AD_GRAMMAR_GBNF || kind == AD_GRAMMAR_JSON_OBJECT; /* else JSON */
    if (text && kind != AD_GRAMMAR_JSON_OBJECT && !json_string_length(v)) return ad_read_wrong(rd, param, "must be a non-empty string");
    ad_status st = text ? ad_grammar_cache_get(rd->cx->grammars, &r->grammar, kind, (ad_str){v ? json_string_value(v) : "", json_string_length(v)}, &err)
                        : ad_grammar_cache_get_json(rd->cx->grammars, &r->grammar, kind, v, &err);
    r->sampling.grammar = r->grammar;
    if (st == AD_OK) return true;
    if (st == AD_ENOMEM) return ad_fault_from(rd->f, &err, param);
    return ad_fault_set(rd->f, 400, st == AD_EUNSUPPORTED ? "unsupported_parameter" : "invalid_value", param, "`%s`: %s", param, err.msg);
}

/* A JSON value, or the text of one. */
static bool constrain_to_json(const ad_reader *rd, const char *param, ad_grammar_kind kind, const json_t *v)
{
    if (!json_is_string(v)) return ad_request_constrain(rd, param, kind, v);
    json_error_t why;
    json_t *value = ad_read_json(json_string_value(v), json_string_length(v), JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    bool good = value ? ad_request_constrain(rd, param, kind, value)
                      : ad_fault_set(rd->f, 400, "invalid_value", param, "`%s` is a string, but not one of JSON: %s", param, why.text);
    json_decref(value);
    return good;
}

bool ad_read_response_format(const ad_reader *rd, const char *param, const json_t *format)
{
    const char *type = json_string_value(json_object_get(format, "type"));
    const json_t *nested = json_object_get(format, "json_schema"), *schema = json_object_get(nested ? nested : format, "schema");
    if (!format) return true;
    if (!type) return ad_read_wrong(rd, param, "must be an object with a `type`");
    if (!strcmp(type, "text")) return true;
    if (!strcmp(type, "json_schema") && !schema) return ad_read_wrong(rd, param, "of type \"json_schema\" needs a schema");
    if (!strcmp(type, "json_schema") || (!strcmp(type, "json_object") && schema)) return ad_request_constrain(rd, param, AD_GRAMMAR_JSON_SCHEMA, schema);
    if (!strcmp(type, "json_object")) return ad_request_constrain(rd, param, AD_GRAMMAR_JSON_OBJECT, NULL);
    if (!strcmp(type, "structural_tag")) return ad_request_constrain(rd, param, AD_GRAMMAR_STRUCTURE, format);
    return ad_read_wrong(rd, param, "has a `type` other than \"text\", \"json_object\", \"json_schema\" and \"structural_tag\"");
}

/* By a member's name of vLLM's structured_outputs. */
static bool constrain_as(const ad_reader *rd, const char *param, const char *what, const json_t *v)
{
    if (!v || json_is_null(v)) return true;
    if (!strcmp(what, "json")) return constrain_to_json(rd, param, AD_GRAMMAR_JSON_SCHEMA, v);
    if (!strcmp(what, "regex")) return ad_request_constrain(rd, param, AD_GRAMMAR_REGEX, v);
    if (!strcmp(what, "choice")) return ad_request_constrain(rd, param, AD_GRAMMAR_CHOICES, v);
    if (!strcmp(what, "grammar")) return ad_request_constrain(rd, param, AD_GRAMMAR_GBNF, v);
    if (!strcmp(what, "json_object")) return !json_is_true(v) || ad_request_constrain(rd, param, AD_GRAMMAR_JSON_OBJECT, NULL);
    if (!strcmp(what, "structural_tag")) return constrain_to_json(rd, param, AD_GRAMMAR_STRUCTURE, v);
    return true;
}

static const struct { const char *name, *what; } fields[] = {
    {"guided_json", "json"}, {"guided_regex", "regex"}, {"guided_choice", "choice"}, {"guided_grammar", "grammar"}, /* vLLM's older names */
    {"json_schema", "json"}, {"grammar", "grammar"}, /* llama-server's */
    {"regex", "regex"},                              /* SGLang's */
};

bool ad_has_constraint(const json_t *body)
{
    bool has = json_object_get(body, "response_format") || json_object_get(body, "structured_outputs");
    for (size_t i = 0; i < sizeof fields / sizeof *fields && !has; i++) has = json_object_get(body, fields[i].name) != NULL;
    return has;
}

bool ad_read_constraint(const ad_reader *rd)
{
    json_t *structured = (json_t *)ad_read_field(rd, "structured_outputs"), *v;
    const char *key;
    if (!ad_read_response_format(rd, "response_format", ad_read_field(rd, "response_format"))) return false;
    if (structured && !json_is_object(structured)) return ad_read_wrong(rd, "structured_outputs", "must be an object");
    json_object_foreach(structured, key, v)
        if (!constrain_as(rd, "structured_outputs", key, v)) return false;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!constrain_as(rd, fields[i].name, fields[i].what, ad_read_field(rd, fields[i].name))) return false;
    return true;
}
