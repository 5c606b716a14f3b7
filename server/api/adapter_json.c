/* SPDX-License-Identifier: MIT */
#include "server/api/adapter_json.h"

#include <string.h>

#include "server/api/etag.h"
#include "server/api/upload.h"
#include "server/observe/log.h"

static json_t *time_json(int64_t t)
{
    return t ? json_integer((json_int_t)t) : json_null();
}

static json_t *signer_json(const ad_version *v)
{
    if (!*v->signer.key_id) return json_null();
    return json_pack("{s:s, s:o}", "key_id", v->signer.key_id, "comment", ad_json_text(v->signer.comment));
}

/* "upload", "path", "url", "command line" or "watch". */
static json_t *origin_json(const ad_version *v)
{
    return v->source ? ad_json_text(v->source) : json_null();
}

static json_t *version_json(const ad_version *v)
{
    char digest[65];
    ad_digest_hex(&v->digest, digest);
    json_t *o = json_pack("{s:i, s:s?, s:s, s:o, s:I, s:I, s:b, s:i, s:o, s:I}", "version", v->number, "digest", v->quarantined ? NULL : digest,
                          "state", ad_version_state_name(ad_version_get_state(v)), "created", time_json(v->created),
                          "bytes_disk", (json_int_t)v->bytes_disk, "bytes_packed", (json_int_t)v->bytes_packed, "resident", v->adapter != NULL, "leases", v->leases, "last_used", time_json(v->last_used),
                          "requests", (json_int_t)v->requests);
    json_object_set_new(o, "origin", origin_json(v));
    json_object_set_new(o, "signer", signer_json(v));
    json_object_set_new(o, "has_chat_template", json_boolean(v->chat_template != NULL));
    json_object_set_new(o, "base_matches", json_boolean(v->checked && v->fits));
    json_object_set_new(o, "reason", v->reason ? ad_json_text(v->reason) : json_null());
    return o;
}

const char *ad_adapter_state(const ad_entry *e)
{
    const ad_version *v = ad_entry_shown(e);
    return v ? ad_version_state_name(ad_version_get_state(v)) : "gone";
}

static void add_versions(const ad_entry *e, json_t *o)
{
    json_t *list = json_array();
    for (size_t i = 0; i < e->n_versions; i++) json_array_append_new(list, version_json(e->versions[i]));
    json_object_set_new(o, "versions", list);
}

/* What all versions together were asked, and when last. */
static void add_use(const ad_entry *e, json_t *o)
{
    uint64_t requests = 0;
    int64_t last = 0;
    for (size_t i = 0; i < e->n_versions; i++) {
        requests += e->versions[i]->requests;
        if (e->versions[i]->last_used > last) last = e->versions[i]->last_used;
    }
    json_object_set_new(o, "requests", json_integer((json_int_t)requests));
    json_object_set_new(o, "last_used", time_json(last));
}

bool ad_is_labels(const json_t *v)
{
    const char *key;
    json_t *item;
    if (!json_is_object(v) || json_object_size(v) > 64) return false;
    json_object_foreach((json_t *)v, key, item)
        if (!json_is_string(item) || strlen(key) > 128 || json_string_length(item) > 1024) return false;
    return true;
}

const char *ad_adapter_pending(const ad_app *app, const char *name)
{
    const char *other;
    for (int i = 0; (other = ad_keeper_verifying(app->keeper, i)); i++)
        if (!strcmp(other, name)) return "verifying";
    for (int i = 0; (other = ad_upload_name(i)); i++)
        if (!strcmp(other, name)) return "uploading";
    return NULL;
}

json_t *ad_pending_json(const ad_app *app, const ad_caller *c, const char *name, const char *state)
{
    return json_pack("{s:s, s:s, s:s, s:n, s:n, s:s, s:s, s:[]}", "object", "adapter", "name", ad_scope_shown(c, name), "owner", ad_owner_name(app, name), "digest",
                     "version", "state", state, "pending", state, "versions");
}

json_t *ad_adapter_json(const ad_app *app, const ad_caller *c, const ad_entry *e, bool whole)
{
    const ad_version *v = ad_entry_shown(e), *active = e->active;
    const ad_merge *merge = ad_merger_current(app->merger);
    char digest[65] = "", etag[AD_ETAG];
    if (active) ad_digest_hex(&active->digest, digest);
    ad_etag(e, etag);
    bool merged = merge && active && !memcmp(ad_adapter_digest(ad_merge_adapter(merge)), &active->digest, sizeof active->digest);
    json_t *o = json_pack("{s:s, s:s, s:s, s:s?, s:o, s:s, s:b, s:i, s:i, s:I, s:I, s:b, s:b, s:o, s:I, s:s}", "object", "adapter", "name", ad_scope_shown(c, e->name),
                          "owner", ad_owner_name(app, e->name), "digest", active && !active->quarantined ? digest : NULL,
                          "version", active ? json_integer(active->number) : json_null(), "state", ad_adapter_state(e), "resident", v && v->adapter,
                          "rank", v ? v->rank : 0, "modules_matched", v ? v->modules : 0, "bytes_disk", (json_int_t)(v ? v->bytes_disk : 0),
                          "bytes_packed", (json_int_t)(v ? v->bytes_packed : 0), "merged", merged, "pinned", e->pinned, "created", time_json(e->created),
                          "revision", (json_int_t)e->revision, "etag", etag);
    json_t *labels = e->labels ? json_loads(e->labels, 0, NULL) : NULL;
    json_object_set_new(o, "origin", v ? origin_json(v) : json_null());
    json_object_set_new(o, "description", e->description ? ad_json_text(e->description) : json_null());
    json_object_set_new(o, "labels", labels ? labels : json_object());
    json_object_set_new(o, "signer", v ? signer_json(v) : json_null());
    const char *pending = ad_adapter_pending(app, e->name);
    json_object_set_new(o, "pending", pending ? json_string(pending) : json_null());
    json_object_set_new(o, "has_chat_template", json_boolean(v && v->chat_template));
    add_use(e, o);
    if (!whole) return o;
    json_object_set_new(o, "chat_template", v && v->chat_template ? ad_json_text(v->chat_template) : json_null());
    add_versions(e, o);
    return o;
}

json_t *ad_refusal_json(const ad_fault *f, ad_status st, const json_t *found, json_t *reasons)
{
    json_t *body = ad_fault_json(f), *report = found ? json_copy((json_t *)found) : json_pack("{s:s}", "status", ad_status_name(st));
    json_object_set_new(report, "object", json_string("adapter.report"));
    json_object_set_new(report, "admitted", json_false());
    json_object_set_new(report, "reason", ad_json_text(f->message));
    if (reasons) json_object_set(report, "reasons", reasons);
    json_object_set_new(body, "report", report);
    return body;
}

void ad_adapter_location(const char *name, char *out, size_t size)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/";
    size_t n = (size_t)snprintf(out, size, "/v1/adapters/");
    for (; *name && n + 4 < size; name++) n += (size_t)snprintf(out + n, size - n, strchr(plain, *name) ? "%c" : "%%%02X", (unsigned char)*name);
}
