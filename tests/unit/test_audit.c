/* SPDX-License-Identifier: MIT */
/* Which requests the audit log knows, route by route. */
#include "server/api/audit.h"
#include "server/tenancy/tenancy.h"
#include "tests/unit/suite.h"

#include <string.h>

START_TEST(every_route_that_may_change_something_has_a_name_there_and_no_other_has)
{
    int n;
    const ad_http_route *routes = ad_api_routes(&n);
    for (int i = 0; i < n; i++) {
        const ad_http_route *r = &routes[i];
        bool by_nature = !strcmp(r->method, "PUT") || !strcmp(r->method, "PATCH") || !strcmp(r->method, "DELETE");
        bool changes = strcmp(r->method, "GET") && (by_nature || r->verb == AD_VERB_ADMIN || r->verb == AD_VERB_UPLOAD || r->verb == AD_VERB_ACTIVATE || r->verb == AD_VERB_DELETE || r->verb == AD_VERB_MERGE);
        const char *action = ad_audit_action(r, "/v1/adapters/x/activate");
        ck_assert_msg(!!action == changes, "%s %s", r->method, r->path);
        if (!action) continue;
        size_t object = strspn(action, "abcdefghijklmnopqrstuvwxyz"), rest = action[object] == '.' ? strspn(action + object + 1, "abcdefghijklmnopqrstuvwxyz_") : 0;
        ck_assert_msg(object && rest && !action[object + 1 + rest], "%s %s is called \"%s\": give it a name in audit.c", r->method, r->path, action);
    }
}
END_TEST

START_TEST(what_is_done_to_an_adapter_is_told_by_the_end_of_the_path)
{
    static const char *const pairs[][2] = {
        {"/v1/adapters/a/versions", "adapter.upload"}, {"/v1/adapters/a/b/activate", "adapter.activate"}, {"/v1/adapters/a/rollback", "adapter.rollback"}, {"/v1/adapters/a/verify", "adapter.verify"},
    };
    const ad_http_route r = {.method = "POST", .path = "/v1/adapters/*", .label = "/v1/adapters/{name}/{action}", .verb = AD_VERB_UPLOAD};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) ck_assert_str_eq(ad_audit_action(&r, pairs[i][0]), pairs[i][1]);
    ck_assert_str_eq(ad_audit_action(&r, "/v1/adapters/a/nonsense\n"), r.label); /* what strangers write is never an action */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("audit");
    TCase *tc = tcase_create("routes");
    tcase_add_test(tc, every_route_that_may_change_something_has_a_name_there_and_no_other_has);
    tcase_add_test(tc, what_is_done_to_an_adapter_is_told_by_the_end_of_the_path);
    suite_add_tcase(s, tc);
    return tu_run(s);
}
