/* SPDX-License-Identifier: MIT */
#include "server/api/accounts.h"

#include <string.h>

enum { PAGE_MOST = 1000 };

/* ---- what a request says ---- */

static const char *find_unknown(const json_t *body, const char *const *known)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)body, key, value) {
        const char *const *k = known;
        while (*k && strcmp(*k, key)) k++;
        if (!*k) return key;
    }
    return NULL;
}

json_t *ad_read_fields(ad_http_exchange *x, const char *const *known)
{
    ad_str body = ad_http_body(x);
    ad_fault f = {0};
    if (body.len && !ad_require_json(x)) return NULL;
    json_t *v = body.len ? ad_read_json(body.ptr, body.len, 0, NULL) : json_object();
    const char *unknown = find_unknown(v, known);
    if (json_is_object(v) && !unknown) return v;
    if (unknown) ad_fault_set(&f, 400, "unknown_field", NULL, "the body has an unknown field \"%.100s\"", unknown);
    else ad_fault_set(&f, 400, "invalid_json", NULL, "The body is not a JSON object");
    ad_reply_fault(x, &f);
    json_decref(v);
    return NULL;
}

bool ad_read_text_field(const json_t *body, const char *name, size_t most, bool *set, const char **out, ad_fault *f)
{
    const json_t *v = json_object_get(body, name);
    *set = v != NULL;
    *out = json_string_value(v);
    if (!v || json_is_null(v) || (*out && json_string_length(v) <= most)) return true;
    return ad_fault_set(f, 400, "invalid_value", name, "`%s` must be a string of at most %zu bytes, or null", name, most);
}

bool ad_read_limits_field(const json_t *body, bool of_key, bool *set, ad_limits *out, ad_fault *f)
{
    const json_t *v = json_object_get(body, "limits");
    char field[64];
    ad_err err;
    *set = v != NULL;
    if (!v || json_is_null(v) || ad_limits_read(out, v, of_key, field, &err) == AD_OK) return true;
    return ad_fault_set(f, 400, "invalid_value", *field ? field : "limits", "%s", err.msg);
}

bool ad_read_page(ad_http_exchange *x, ad_page *page)
{
    int64_t limit = PAGE_MOST;
    ad_fault f = {0};
    if (ad_http_query_value(x, "after", page->after, sizeof page->after) < 0) return ad_reply_refusal(x, 400, "invalid_value", "after", "`after` is malformed or too long");
    if (!ad_query_integer(x, "limit", 1, PAGE_MOST, &limit, &f)) return ad_reply_fault(x, &f), false;
    page->limit = (size_t)limit;
    return true;
}

/* ---- what is answered ---- */

void ad_reply_page(ad_http_exchange *x, json_t *data, bool has_more)
{
    ad_reply_json(x, 200, json_pack("{s:s, s:o, s:b}", "object", "list", "data", data, "has_more", has_more));
}

void ad_reply_lost_page(ad_http_exchange *x)
{
    ad_reply_refusal(x, 400, "invalid_value", "after", "`after` is no id of this list, or no longer: begin again without it");
}

void ad_reply_unknown(ad_http_exchange *x, const char *what, const char *code, const char *param, const char *id)
{
    ad_fault f = {0};
    ad_fault_set(&f, 404, code, param, "The %s `%.150s` does not exist.", what, id);
    ad_reply_fault(x, &f);
}

json_t *ad_tenant_json(const ad_tenant *t)
{
    return json_pack("{s:s, s:s, s:f, s:s?, s:o, s:s?, s:I, s:i}", "object", "tenant", "name", t->name, "weight", t->weight, "priority", t->priority,
                     "limits", ad_limits_json(&t->allowance.limits), "description", t->description, "created", (json_int_t)t->created, "keys", t->n_keys);
}

static json_t *time_json(int64_t t) { return t ? json_integer(t) : json_null(); }

json_t *ad_key_json(const ad_key *k)
{
    json_t *verbs = json_array(), *globs = json_array();
    for (int v = 0; v < AD_VERBS; v++)
        if (k->verbs >> v & 1) json_array_append_new(verbs, json_string(ad_verb_name(v)));
    for (int i = 0; i < k->n_globs; i++) json_array_append_new(globs, json_string(k->globs[i]));
    return json_pack("{s:s, s:s, s:s, s:s?, s:o, s:o, s:o, s:I, s:o, s:o, s:o}", "object", "key", "id", k->id, "tenant", k->caller.tenant->name, "name", k->name,
                     "verbs", verbs, "adapters", globs, "limits", ad_limits_json(&k->allowance.limits), "created", (json_int_t)k->created,
                     "expires", time_json(k->expires), "last_used", time_json(k->last_used), "revoked", time_json(k->revoked));
}

void ad_reply_account_refusal(ad_http_exchange *x, const ad_account_outcome *o)
{
    ad_fault f = {0};
    ad_fault_from(&f, &o->err, NULL);
    if (o->code) f.code = o->code;
    if (o->http) f.http = o->http;
    ad_reply_fault(x, &f);
}
