/* SPDX-License-Identifier: MIT */
/* /openapi.json against the route table, both ways. */
#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"
#include "server/tenancy/tenancy.h"
#include "tests/unit/suite.h"

static json_t *document(void)
{
    json_t *doc = json_loads(ad_openapi_json, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(doc);
    return doc;
}

/* Whether the route takes the document's path. What a parameter stands for is one letter here: only the rest of a path decides. */
static bool takes(const ad_http_route *r, const char *path)
{
    char sample[200];
    const char *star = strchr(r->path, '*');
    size_t n = 0, head = star ? (size_t)(star - r->path) : 0, tail = star ? strlen(star + 1) : 0;
    for (const char *p = path; *p; p++) {
        sample[n++] = *p == '{' ? 'x' : *p;
        if (*p == '{') p = strchr(p, '}');
    }
    sample[n] = '\0';
    return star ? n > head + tail && !strncmp(sample, r->path, head) && !strcmp(sample + n - tail, star + 1) : !strcmp(sample, r->path);
}

/* The route that gets METHOD path, as the server finds it: the first. */
static const ad_http_route *find_route(const char *method, const char *path)
{
    int n;
    const ad_http_route *routes = ad_api_routes(&n);
    for (int i = 0; i < n; i++)
        if (!strcasecmp(routes[i].method, method) && takes(&routes[i], path)) return &routes[i];
    return NULL;
}

/* Calls see(method, path, operation) for each operation. */
static void each_operation(json_t *doc, void (*see)(const char *method, const char *path, json_t *operation))
{
    const char *path, *method;
    json_t *item, *operation;
    json_object_foreach(json_object_get(doc, "paths"), path, item) {
        json_object_foreach(item, method, operation)
            if (strcmp(method, "parameters")) see(method, path, operation);
    }
}

static const ad_http_route *wanted;
static bool found;

static void see_if_wanted(const char *method, const char *path, json_t *operation)
{
    (void)operation;
    found = found || find_route(method, path) == wanted;
}

START_TEST(every_route_is_documented)
{
    json_t *doc = document();
    int n;
    const ad_http_route *routes = ad_api_routes(&n);
    for (wanted = routes; wanted < routes + n; wanted++) {
        found = false;
        each_operation(doc, see_if_wanted);
        ck_assert_msg(found, "%s %s is not in server/api/openapi/", wanted->method, wanted->label);
    }
    json_decref(doc);
}
END_TEST

static void see_route(const char *method, const char *path, json_t *operation)
{
    (void)operation;
    ck_assert_msg(find_route(method, path) != NULL, "%s %s is documented, and no route takes it", method, path);
}

START_TEST(everything_documented_is_a_route)
{
    json_t *doc = document();
    each_operation(doc, see_route);
    json_decref(doc);
}
END_TEST

static json_t *ids;

static void see_form(const char *method, const char *path, json_t *operation)
{
    const char *id = json_string_value(json_object_get(operation, "operationId"));
    bool has_body = !strcmp(method, "post") || !strcmp(method, "put") || !strcmp(method, "patch");
    ck_assert_msg(id && !json_object_get(ids, id), "%s %s has no operationId of its own", method, path);
    json_object_set_new(ids, id, json_true());
    ck_assert_msg(json_string_length(json_object_get(operation, "summary")) > 0, "%s %s has no summary", method, path);
    const json_t *responses = json_object_get(operation, "responses");
    ck_assert_msg(json_object_get(responses, "200") || json_object_get(responses, "201"), "%s %s does not say what a 200 is", method, path);
    ck_assert_msg(has_body || !json_object_get(operation, "requestBody"), "%s %s has a body", method, path);
}

START_TEST(every_operation_has_an_id_a_summary_and_a_success)
{
    json_t *doc = document();
    ids = json_object();
    each_operation(doc, see_form);
    json_decref(ids);
    json_decref(doc);
}
END_TEST

static void see_security(const char *method, const char *path, json_t *operation)
{
    const json_t *security = json_object_get(operation, "security"), *responses = json_object_get(operation, "responses");
    ad_verb verb = (ad_verb)find_route(method, path)->verb;
    const json_t *last = json_array_get(security, json_array_size(security) - 1);
    const char *asked = json_string_value(json_array_get(json_object_get(last, "key"), 0));
    ck_assert_msg(json_array_size(security) == (verb == AD_VERB_OPEN ? 0 : verb == AD_VERB_METRICS ? 2 : 1), "%s %s has another number of ways in", method, path);
    if (verb == AD_VERB_OPEN) return;
    ck_assert_msg(asked && !strcmp(asked, ad_verb_name(verb)), "%s %s asks for another verb than its route", method, path);
    ck_assert_msg(json_object_get(responses, "401") && json_object_get(responses, "403"), "%s %s does not say what a 401 and a 403 are", method, path);
}

START_TEST(an_operation_s_security_is_its_route_s_verb)
{
    json_t *doc = document();
    each_operation(doc, see_security);
    json_decref(doc);
}
END_TEST

START_TEST(the_document_is_of_this_version)
{
    json_t *doc = document();
    ck_assert_str_eq(json_string_value(json_object_get(doc, "openapi")), "3.1.0");
    ck_assert_str_eq(json_string_value(json_object_get(json_object_get(doc, "info"), "version")), AD_VERSION);
    json_decref(doc);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("openapi");
    TCase *t = tcase_create("openapi");
    tcase_add_test(t, every_route_is_documented);
    tcase_add_test(t, everything_documented_is_a_route);
    tcase_add_test(t, every_operation_has_an_id_a_summary_and_a_success);
    tcase_add_test(t, an_operation_s_security_is_its_route_s_verb);
    tcase_add_test(t, the_document_is_of_this_version);
    suite_add_tcase(s, t);
    return tu_run(s);
}
