/* SPDX-License-Identifier: MIT */
/* The calls of the REST interface that take and give JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/lib/internal.h"

enum { MAX_PAGES = 10000, DRAIN_MARGIN_MS = 30000 };

static ad_client_status need(const char *what, const char *value, ad_client_error *err)
{
    if (value && *value) return AD_CLIENT_OK;
    return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "no %s was given", what);
}

/* "/v1/adapters/NAME" and what comes behind. */
static ad_client_text path_of(const char *collection, const char *name, const char *verb)
{
    ad_client_text path = {0};
    ad_client_text_literal(&path, collection);
    ad_client_text_segment(&path, name);
    ad_client_text_literal(&path, verb);
    return path;
}

/* Takes body, which may be NULL for a request without one. */
static ad_client_status send_json(ad_client *c, ad_client_exchange *x, ad_client_text *path, json_t *body, ad_client_reply *out, ad_client_error *err)
{
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    if (!text) {
        ad_client_text_deinit(path);
        return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "a text of the request is not UTF-8, or memory ran out");
    }
    x->json = text;
    ad_client_status st = ad_client_finish(c, x, path, out, err);
    free(text);
    return st;
}

static ad_client_status get(ad_client *c, ad_client_text *path, ad_client_reply *out, ad_client_error *err)
{
    return ad_client_finish(c, &(ad_client_exchange){.method = "GET"}, path, out, err);
}

/* POST of an adapter's verb, with body, which is taken. */
static ad_client_status post_verb(ad_client *c, const char *name, const char *verb, json_t *body, const char *if_match, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("name", name, err);
    if (st != AD_CLIENT_OK) {
        json_decref(body);
        return st;
    }
    ad_client_text path = path_of("/v1/adapters/", name, verb);
    return send_json(c, &(ad_client_exchange){.method = "POST", .if_match = if_match}, &path, body, out, err);
}

/* ---- reading ---- */

ad_client_status ad_client_list(ad_client *c, const ad_client_query *q, ad_client_reply *out, ad_client_error *err)
{
    ad_client_text path = {0};
    bool first = true;
    char limit[16];
    snprintf(limit, sizeof limit, "%d", q->limit);
    ad_client_text_literal(&path, "/v1/adapters");
    ad_client_text_query(&path, &first, "limit", q->limit ? limit : NULL);
    ad_client_text_query(&path, &first, "after", q->after);
    ad_client_text_query(&path, &first, "prefix", q->prefix);
    ad_client_text_query(&path, &first, "state", q->state);
    ad_client_text_query(&path, &first, "label", q->label);
    return get(c, &path, out, err);
}

/* Adds the page's items to all; *more tells whether another page follows. */
static ad_client_status add_page(json_t *all, const json_t *page, bool *more, ad_client_error *err)
{
    json_t *data = json_object_get(page, "data"), *last = json_object_get(page, "last_id");
    const json_t *before = json_object_get(all, "last_id");
    *more = json_is_true(json_object_get(page, "has_more"));
    if (!json_is_array(data)) return ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "a list of the server has no data");
    if (*more && (!json_is_string(last) || !json_array_size(data) || strcmp(json_string_value(last), json_string_value(before)) <= 0))
        return ad_client_fail(err, AD_CLIENT_BAD_REPLY, "bad_reply", "the server's list does not come to an end");
    bool failed = json_array_extend(json_object_get(all, "data"), data) || json_object_set(all, "last_id", last ? last : json_null());
    return failed ? ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory") : AD_CLIENT_OK;
}

/* The pages behind the first, which *out holds, are added to it. */
static ad_client_status add_pages(ad_client *c, const ad_client_query *q, ad_client_reply *out, ad_client_error *err)
{
    json_t *all = json_pack("{s:s, s:[], s:b, s:O?, s:s}", "object", "list", "data", "has_more", 0, "first_id", json_object_get(out->json, "first_id"), "last_id", "");
    ad_client_query next = *q;
    bool more = true;
    ad_client_status st = all ? add_page(all, out->json, &more, err) : ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    for (int i = 1; more && i < MAX_PAGES && st == AD_CLIENT_OK; i++) {
        ad_client_reply page;
        next.after = json_string_value(json_object_get(all, "last_id"));
        st = ad_client_list(c, &next, &page, err);
        if (st != AD_CLIENT_OK) break;
        st = add_page(all, page.json, &more, err);
        ad_client_reply_deinit(&page);
    }
    char *text = st == AD_CLIENT_OK ? json_dumps(all, JSON_COMPACT) : NULL;
    if (st == AD_CLIENT_OK && !text) st = ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    int status = out->http_status;
    ad_client_reply_deinit(out);
    if (st == AD_CLIENT_OK) *out = (ad_client_reply){.http_status = status, .json = all, .text = text, .text_len = strlen(text)};
    else json_decref(all);
    return st;
}

ad_client_status ad_client_list_all(ad_client *c, const ad_client_query *q, ad_client_reply *out, ad_client_error *err)
{
    ad_client_reply first;
    ad_client_status st = ad_client_list(c, q, &first, err);
    if (st == AD_CLIENT_OK && json_is_true(json_object_get(first.json, "has_more"))) st = add_pages(c, q, &first, err);
    if (st == AD_CLIENT_OK && out) *out = first;
    else if (st == AD_CLIENT_OK) ad_client_reply_deinit(&first);
    return st;
}

ad_client_status ad_client_show(ad_client *c, const char *name, const char *if_none_match, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("name", name, err);
    if (st != AD_CLIENT_OK) return st;
    ad_client_text path = path_of("/v1/adapters/", name, "");
    return ad_client_finish(c, &(ad_client_exchange){.method = "GET", .if_none_match = if_none_match}, &path, out, err);
}

ad_client_status ad_client_verify(ad_client *c, const char *name, ad_client_reply *out, ad_client_error *err)
{
    return post_verb(c, name, "/verify", json_object(), NULL, out, err);
}

/* ---- changes ---- */

static json_t *version_json(const char *version)
{
    size_t n = strlen(version), digits = strspn(version, "0123456789");
    return n == digits && n < 12 ? json_integer(strtoll(version, NULL, 10)) : json_string(version);
}

ad_client_status ad_client_activate(ad_client *c, const char *name, const char *version, const char *if_match, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("version", version, err);
    if (st != AD_CLIENT_OK) return st;
    return post_verb(c, name, "/activate", json_pack("{s:o}", "version", version_json(version)), if_match, out, err);
}

ad_client_status ad_client_rollback(ad_client *c, const char *name, const char *if_match, ad_client_reply *out, ad_client_error *err)
{
    return post_verb(c, name, "/rollback", json_object(), if_match, out, err);
}

ad_client_status ad_client_patch(ad_client *c, const char *name, const json_t *changes, const char *if_match, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("name", name, err);
    if (st != AD_CLIENT_OK) return st;
    ad_client_text path = path_of("/v1/adapters/", name, "");
    return send_json(c, &(ad_client_exchange){.method = "PATCH", .if_match = if_match}, &path, json_copy((json_t *)changes), out, err);
}

ad_client_status ad_client_delete(ad_client *c, const char *name, int drain_s, const char *if_match, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("name", name, err);
    if (st != AD_CLIENT_OK) return st;
    ad_client_exchange x = {.method = "DELETE", .if_match = if_match, .timeout_ms = c->timeout_ms};
    ad_client_text path = path_of("/v1/adapters/", name, "");
    bool first = true;
    char drain[16];
    if (drain_s > 86400) drain_s = 86400; /* a day is for ever, and its milliseconds fit */
    snprintf(drain, sizeof drain, "%d", drain_s);
    ad_client_text_query(&path, &first, "drain", drain_s >= 0 ? drain : NULL);
    if (drain_s > 0 && x.timeout_ms < drain_s * 1000 + DRAIN_MARGIN_MS) x.timeout_ms = drain_s * 1000 + DRAIN_MARGIN_MS;
    return ad_client_finish(c, &x, &path, out, err);
}

/* ---- aliases ---- */

ad_client_status ad_client_put_alias(ad_client *c, const char *alias, const ad_client_target *targets, size_t n, ad_client_reply *out, ad_client_error *err)
{
    json_t *list = json_array();
    ad_client_status st = need("alias", alias, err);
    for (size_t i = 0; i < n && st == AD_CLIENT_OK; i++) {
        if (!targets[i].model || targets[i].weight <= 0) st = ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "a target needs a model and a weight above 0");
        else json_array_append_new(list, json_pack("{s:s, s:i}", "model", targets[i].model, "weight", targets[i].weight));
    }
    if (st == AD_CLIENT_OK && (!n || json_array_size(list) != n)) st = ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "an alias needs a target, its name in UTF-8");
    if (st != AD_CLIENT_OK) {
        json_decref(list);
        return st;
    }
    ad_client_text path = path_of("/v1/aliases/", alias, "");
    return send_json(c, &(ad_client_exchange){.method = "PUT"}, &path, json_pack("{s:o}", "targets", list), out, err);
}

ad_client_status ad_client_list_aliases(ad_client *c, ad_client_reply *out, ad_client_error *err)
{
    ad_client_text path = {0};
    ad_client_text_literal(&path, "/v1/aliases");
    return get(c, &path, out, err);
}

ad_client_status ad_client_show_alias(ad_client *c, const char *alias, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("alias", alias, err);
    if (st != AD_CLIENT_OK) return st;
    ad_client_text path = path_of("/v1/aliases/", alias, "");
    return get(c, &path, out, err);
}

ad_client_status ad_client_delete_alias(ad_client *c, const char *alias, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("alias", alias, err);
    if (st != AD_CLIENT_OK) return st;
    ad_client_text path = path_of("/v1/aliases/", alias, "");
    return ad_client_finish(c, &(ad_client_exchange){.method = "DELETE"}, &path, out, err);
}

/* ---- models and the rest ---- */

ad_client_status ad_client_complete(ad_client *c, const ad_client_prompt *p, ad_client_reply *out, ad_client_error *err)
{
    ad_client_status st = need("model", p->model, err);
    if (st != AD_CLIENT_OK) return st;
    json_t *body = json_pack("{s:s, s:s, s:f}", "model", p->model, "prompt", p->prompt ? p->prompt : "", "temperature", p->temperature);
    if (body && p->max_tokens > 0) json_object_set_new(body, "max_tokens", json_integer(p->max_tokens));
    ad_client_text path = {0};
    ad_client_text_literal(&path, "/v1/completions");
    return send_json(c, &(ad_client_exchange){.method = "POST"}, &path, body, out, err);
}

const char *ad_client_completion_text(const ad_client_reply *r)
{
    const char *text = json_string_value(json_object_get(json_array_get(json_object_get(r->json, "choices"), 0), "text"));
    return text ? text : "";
}

ad_client_status ad_client_call(ad_client *c, const char *method, const char *path, const json_t *body, const char *if_match, ad_client_reply *out,
                                ad_client_error *err)
{
    ad_client_status st = need("method", method, err);
    if (st != AD_CLIENT_OK) return st;
    if (!path || path[0] != '/' || !ad_client_header_safe(method) || strchr(method, ' ') || !ad_client_header_safe(path) || strchr(path, ' '))
        return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "a method is one word; a path begins with a slash and is percent-encoded");
    ad_client_text copy = {0};
    ad_client_exchange x = {.method = method, .if_match = if_match};
    ad_client_text_literal(&copy, path);
    return body ? send_json(c, &x, &copy, json_copy((json_t *)body), out, err) : ad_client_finish(c, &x, &copy, out, err);
}
