/* SPDX-License-Identifier: MIT */
#include "server/api/auth.h"

#include <string.h>
#include <strings.h>

#include "server/api/error_form.h"

static const char denied[AD_VERBS][80] = {
    [AD_VERB_ADMIN] = "This key may not do that: it lacks the verb `admin`.",
    [AD_VERB_INFER] = "This key may not do that: it lacks the verb `infer`.",
    [AD_VERB_LIST] = "This key may not do that: it lacks the verb `list`.",
    [AD_VERB_UPLOAD] = "This key may not do that: it lacks the verb `upload`.",
    [AD_VERB_ACTIVATE] = "This key may not do that: it lacks the verb `activate`.",
    [AD_VERB_DELETE] = "This key may not do that: it lacks the verb `delete`.",
    [AD_VERB_MERGE] = "This key may not do that: it lacks the verb `merge`.",
    [AD_VERB_METRICS] = "This key may not do that: it lacks the verb `metrics`.",
};

/* The key that a request brings, or NULL. */
static const char *find_key(const ad_http_exchange *x)
{
    static const char scheme[] = "Bearer";
    enum { SCHEME = sizeof scheme - 1 };
    const char *value = ad_http_header(x, "authorization"), *plain = ad_http_header(x, "x-api-key");
    if (value && !strncasecmp(value, scheme, SCHEME) && value[SCHEME] == ' ') return value + SCHEME + strspn(value + SCHEME, " ");
    return plain ? plain : value;
}

/* Of two keys a proxy before us may have looked at the other one: neither counts. */
static bool brings_two(const ad_http_exchange *x) { return ad_http_header_at(x, "authorization", 1) || ad_http_header_at(x, "x-api-key", 1); }

static void release_sender(void *sender) { ad_caller_release(sender); }

static void set_sender(ad_http_exchange *x, const ad_caller *caller) { ad_http_set_sender(x, (void *)ad_caller_retain(caller), release_sender); }

/* Whether a route asks who its sender is. */
static bool needs_key(const ad_tenancy *t, ad_verb verb, const ad_http_exchange *x)
{
    return ad_tenancy_has_keys(t) && verb != AD_VERB_OPEN && !(verb == AD_VERB_METRICS && ad_http_is_local(x));
}

int ad_auth_admit(void *arg, ad_http_exchange *x, const char **why)
{
    const ad_app *app = arg;
    ad_verb verb = ad_http_matched_route(x)->verb;
    if (!needs_key(app->tenancy, verb, x)) {
        set_sender(x, ad_tenancy_nobody(app->tenancy));
        return 0;
    }
    bool two = brings_two(x);
    const char *key = find_key(x);
    const ad_caller *caller = key && !two ? ad_tenancy_identify(app->tenancy, key) : NULL;
    if (!caller) {
        ad_http_set_header(x, "WWW-Authenticate", "Bearer");
        *why = two ? "This has one of the headers Authorization and x-api-key twice: send one." : key ? "The API key is not valid." : "This needs an API key: send it in the header Authorization: Bearer KEY.";
        return 401;
    }
    set_sender(x, caller);
    *why = denied[verb];
    return ad_caller_may(caller, verb, NULL) ? 0 : 403;
}

const ad_caller *ad_caller_of(const ad_http_exchange *x) { return ad_http_sender(x); }

bool ad_require_verb(ad_http_exchange *x, ad_verb verb, const char *name)
{
    const ad_caller *caller = ad_caller_of(x);
    if (ad_caller_may(caller, verb, name)) return true;
    if (!ad_caller_may(caller, verb, NULL)) return ad_reply_refusal(x, 403, ad_insufficient_permissions, NULL, denied[verb]);
    ad_fault f = {0};
    ad_fault_set(&f, 403, ad_insufficient_permissions, NULL, "This key may not do that to `%.150s`.", name);
    ad_reply_fault(x, &f);
    return false;
}
