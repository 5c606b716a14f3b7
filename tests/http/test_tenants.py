# SPDX-License-Identifier: MIT
"""Tenants and keys: who may do what on every route, keys that live and end, what survives a restart."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from daemon import ADAPTERD, TINY, Daemon, clean_env, fails_to_start, wait_until
from registry_util import Registry, make_adapter, multipart, parts_of
from tenant_util import Client

BASE = os.path.join(TINY, "models", "llama-gqa")
VERBS = ["infer", "list", "upload", "activate", "delete", "merge", "metrics"]
WRONG = "sk-ad-0123456789ab-" + "A" * 43
KEY = re.compile(r"sk-ad-[0-9a-f]{12}-[A-Za-z0-9_-]{43}")


def create_admin_key(state, *name):
    p = subprocess.run([ADAPTERD, "--state-dir", state, "--create-admin-key", *name], capture_output=True, text=True, timeout=120, env=clean_env())
    return p.returncode, p.stdout, p.stderr


class TenantTests(unittest.TestCase):
    """A daemon with a state directory, and a key with all verbs."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.state = os.path.join(self.dir.name, "state")
        self.admin = create_admin_key(self.state)[1].strip()
        self.start()

    def tearDown(self):
        if self.d:
            self.d.stop()
        self.dir.cleanup()

    def start(self, *options, adapters=("qv",)):
        self.d = Daemon(BASE, "--served-name", "base", "--state-dir", self.state, *options, adapters=adapters)

    def restart(self, sig=signal.SIGTERM):
        if sig == signal.SIGKILL:
            self.d.process.kill()
            self.d.process.wait()
            self.d.process.stdout.close()
            self.d.log.close()
        else:
            self.d.stop(sig)
        self.start()

    def call(self, method, path, body=None, key=None, **headers):
        """(status, parsed reply or None, headers); body is an object or None."""
        h = {**({"Content-Type": "application/json"} if body is not None else {}), **({"Authorization": f"Bearer {key}"} if key else {}), **headers}
        status, got, reply = self.d.request(method, path, json.dumps(body).encode() if body is not None else None, h)
        try:
            return status, json.loads(reply), got
        except ValueError:
            return status, None, got

    def op(self, method, path, body=None):
        """The operator does it, and it works."""
        status, reply, _ = self.call(method, path, body, self.admin)
        self.assertIn(status, (200, 201), reply)
        return reply

    def tenant(self, name, **fields):
        return self.op("POST", "/v1/admin/tenants", {"name": name, **fields})

    def key(self, tenant, verbs=VERBS, **fields):
        return self.op("POST", "/v1/admin/keys", {"tenant": tenant, "verbs": list(verbs), **fields})

    def upload(self, name, key, seed=1):
        kind, body = multipart(parts_of(make_adapter(seed), name=name))
        status, _, reply = self.d.request("POST", "/v1/adapters", body, {"Content-Type": kind, "Authorization": f"Bearer {key}"})
        self.assertEqual(status, 201, reply)

    def status(self, key, path="/v1/models"):
        return self.call("GET", path, key=key)[0]


class EveryRoute(TenantTests):
    NAMED = ("/v1/adapters/{name}", "/v1/models/{id}", "/v1/aliases/{name}")  # whose path names something that a tenant owns

    def status_of(self, method, path, key):
        """(status, body); of a stream that does not end only the status."""
        if path != "/v1/adapters/events":
            body = {} if method in ("POST", "PUT", "PATCH") else None
            headers = {**({"Content-Type": "application/json"} if body == {} else {}), **({"Authorization": f"Bearer {key}"} if key else {})}
            status, _, reply = self.d.request(method, path, b"{}" if body == {} else None, headers)
            return status, reply
        with socket.create_connection((self.d.host, self.d.port), timeout=60) as s:
            s.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + (f"Authorization: Bearer {key}\r\n".encode() if key else b"") + b"\r\n")
            return int(s.recv(15).split()[1]), b""

    def test_every_route_by_no_key_a_wrong_one_another_tenant_s_one_without_its_verb_and_the_right_one(self):
        for name in ("acme", "rival"):
            self.tenant(name)
        right, other = self.key("acme")["key"], self.key("rival")["key"]
        without = {v: self.key("acme", [w for w in VERBS if w != v])["key"] for v in VERBS}
        without["admin"] = self.key("default")["key"]
        self.upload("x", right)
        doc = self.d.get("/openapi.json")[1]
        rows = []
        for template, item in doc["paths"].items():
            for method in item.keys() - {"parameters"}:
                security = item[method]["security"]
                rows.append((template, method.upper(), security[-1]["key"][0] if security else "open"))
        # What removes comes last, and what ends the daemon at the very end.
        rows.sort(key=lambda r: (r[0].endswith("/drain"), r[1] == "DELETE", r[0], r[1]))
        lines = [f"{'route':<40} {'verb':<9} {'none':>5} {'wrong':>5} {'other':>5} {'no verb':>7} {'right':>5}"]
        for template, method, verb in rows:
            path = re.sub(r"\{\w+\}", "x", template)
            is_open = verb == "open" or verb == "metrics"  # these come from this machine
            bodies = {}
            got = []
            for who, key in (("none", None), ("wrong", WRONG), ("other", other), ("without", without.get(verb, right)), ("right", self.admin if verb == "admin" else right)):
                status, bodies[who] = self.status_of(method, path, key)
                got.append(status)
            lines.append(f"{method + ' ' + template:<40} {verb:<9} {got[0]:>5} {got[1]:>5} {got[2]:>5} {got[3]:>7} {got[4]:>5}")
            what = lines[-1]
            if is_open:
                self.assertFalse({401, 403} & set(got), what)
                continue
            self.assertEqual(got[:2] + got[3:4], [401, 401, 403], what)
            self.assertNotIn(got[4], (401, 403), what)
            self.assertEqual(got[2] == 403, verb == "admin", what)
            if any(template.startswith(named) for named in self.NAMED):
                absent, reply = self.status_of(method, path.replace("/x", "/y"), other)
                self.assertEqual((got[2], bodies["other"].replace(b"x", b"y")), (absent, reply.replace(b"x", b"y")), what + ": what is another's is not as if it were absent")
        print("\n" + "\n".join(lines))


class TheGate(TenantTests):
    FORMS = {  # a route of each family -> its bodies of 401 and 403, without their messages
        "/v1/completions": ({"error": {"type": "authentication_error", "param": None, "code": "invalid_api_key"}}, {"error": {"type": "permission_error", "param": None, "code": "insufficient_permissions"}}),
        "/tokenize": ({"error": "Unauthorized"}, {"object": "error", "type": "Forbidden", "param": None, "code": 403, "error": {"type": "Forbidden", "param": None, "code": 403}}),
        "/completion": ({"error": {"type": "authentication_error", "code": 401}}, {"error": {"type": "permission_error", "code": 403}}),
        "/generate": ({"error_type": "authentication"}, {"error_type": "authentication"})}

    def strip(self, reply):
        """Without what is for people."""
        if isinstance(reply.get("error"), dict):
            reply["error"].pop("message")
        elif reply.get("error") != "Unauthorized":
            reply.pop("error", None)
        reply.pop("message", None)
        return reply

    def test_401_and_403_have_the_form_of_their_route(self):
        lister = self.key("default", ["list"])["key"]
        for path, (unauthorized, forbidden) in self.FORMS.items():
            for key in (None, WRONG):
                status, reply, headers = self.call("POST", path, {}, key)
                self.assertEqual((status, headers["WWW-Authenticate"], self.strip(reply)), (401, "Bearer", unauthorized), path)
            status, reply, headers = self.call("POST", path, {}, lister)
            self.assertEqual((status, headers["WWW-Authenticate"], self.strip(reply)), (403, None, forbidden), path)

    def test_a_key_comes_as_a_bearer_of_any_case_or_as_x_api_key(self):
        for headers in ({"Authorization": f"Bearer {self.admin}"}, {"Authorization": f"bEARER   {self.admin}"}, {"x-api-key": self.admin}, {"X-API-Key": self.admin, "Authorization": "Basic eDp5"}):
            self.assertEqual(self.call("GET", "/v1/models", **headers)[0], 200, headers)
        for headers in ({"Authorization": self.admin[:-1]}, {"Authorization": f"Basic {self.admin}"}, {"Authorization": "Bearer"}, {"Authorization": ""}, {"x-api-key": ""}, {"x-api-key": f"Bearer {self.admin}"},
                        {"Authorization": f"Bearer {self.admin} "[:-1] + "x"}, {"Authorization": "Bearer " + "k" * 5000}):
            self.assertEqual(self.call("GET", "/v1/models", **headers)[0], 401, headers)

    def test_a_header_that_brings_a_key_twice_is_refused_whatever_is_in_it(self):
        for name, scheme in (("Authorization", "Bearer "), ("x-api-key", "")):
            for values in ((self.admin, WRONG), (WRONG, self.admin), (self.admin, self.admin)):
                c = http.client.HTTPConnection(self.d.host, self.d.port, timeout=60)
                c.putrequest("GET", "/v1/models")
                for value in values:
                    c.putheader(name, scheme + value)
                c.endheaders()
                r = c.getresponse()
                reply = r.read()
                c.close()
                self.assertEqual((r.status, b"twice" in reply), (401, True), (name, reply))

    def test_one_cannot_tell_why_a_key_is_refused(self):
        revoked, expired = self.key("default", ["list"]), self.key("default", ["list"], expires=int(time.time()) + 4)
        self.op("PATCH", f"/v1/admin/keys/{revoked['id']}", {"revoked": True})
        wait_until(lambda: self.status(expired["key"]) == 401, "it is expired")
        wrong_end = self.admin[:-4] + ("AAAA" if self.admin[-4:] != "AAAA" else "BBBB")
        replies = {json.dumps(self.call("GET", "/v1/models", key=key)[:2]) for key in (revoked["key"], expired["key"], WRONG, wrong_end, "x")}
        self.assertEqual(len(replies), 1, replies)
        self.assertIn("401", replies.pop())

    def test_health_needs_no_key_and_neither_do_metrics_on_this_machine(self):
        for path in ("/health", "/livez", "/readyz", "/metrics", "/v1/health", "/openapi.json", "/version", "/ping"):
            for key in (None, WRONG):
                self.assertEqual(self.call("GET", path, key=key)[0], 200, path)

    def test_metrics_over_the_network_need_a_key_with_the_verb(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                s.connect(("192.0.2.1", 9))  # sends nothing: only which address we would have
                address = s.getsockname()[0]
            except OSError:
                address = "127.0.0.1"
        if address.startswith("127."):
            self.skipTest("this machine has no address but loopback")
        allowed, lister = self.key("default", ["metrics"])["key"], self.key("default", ["list"])["key"]
        self.d.stop()
        self.start("--listen", f"{address}:0")
        self.assertEqual([self.status(key, "/metrics") for key in (None, WRONG, lister, allowed)], [401, 401, 403, 200])
        self.assertEqual(self.status(None, "/health"), 200)

    def test_options_and_what_is_not_there_are_as_without_keys(self):
        self.assertEqual(self.d.request("OPTIONS", "/v1/models")[0], 204)
        self.assertEqual([self.call("GET", "/nothing")[0], self.call("DELETE", "/v1/completions")[0]], [404, 405])

    def test_who_has_no_key_is_told_before_the_body_is_sent(self):
        with socket.create_connection((self.d.host, self.d.port), timeout=60) as s:
            s.sendall(b"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n")
            self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 401 "))


class Keys(TenantTests):
    def test_a_key_is_shown_once_and_kept_nowhere(self):
        made = self.key("default", ["list"])
        self.assertRegex(made["key"], KEY)
        self.assertEqual(made["key"][6:18], made["id"])
        for reply in (self.op("GET", "/v1/admin/keys"), self.op("GET", f"/v1/admin/keys/{made['id']}"), self.op("PATCH", f"/v1/admin/keys/{made['id']}", {"name": "n"})):
            self.assertNotIn(made["key"][19:], json.dumps(reply))
        self.call("GET", "/v1/models", key=made["key"])
        log = self.d.stop()
        self.d = None
        for key in (made["key"], self.admin):
            self.assertNotIn(key[19:], log)
            for folder, _, files in os.walk(self.state):
                for name in files:
                    with open(os.path.join(folder, name), "rb") as f:
                        self.assertNotIn(key[19:].encode(), f.read(), name)

    def test_fields_come_back_and_are_changed_one_by_one(self):
        k = self.key("default", ["list", "infer"], name="ci", adapters=["sql-*", "base"], expires=4000000000, limits={"requests_per_minute": 5})
        want = {"tenant": "default", "name": "ci", "verbs": ["infer", "list"], "adapters": ["sql-*", "base"], "expires": 4000000000, "limits": {"requests_per_minute": 5}, "revoked": None, "last_used": None}
        self.assertEqual({f: k[f] for f in want}, want)
        for field, value in (("name", None), ("verbs", ["upload"]), ("adapters", ["*"]), ("expires", None), ("limits", {})):
            want[field] = value
            self.op("PATCH", f"/v1/admin/keys/{k['id']}", {field: value})
            got = self.op("GET", f"/v1/admin/keys/{k['id']}")
            self.assertEqual({f: got[f] for f in want}, want)
        self.assertEqual(self.status(k["key"]), 403)

    def test_what_is_wrong_with_a_key_s_fields_is_a_400_that_names_the_field(self):
        for field, value in (("verbs", []), ("verbs", ["fly"]), ("verbs", "infer"), ("verbs", ["open"]), ("verbs", [1]), ("adapters", []), ("adapters", [""]), ("adapters", ["x" * 129]), ("adapters", ["x"] * 65),
                             ("name", "n" * 129), ("name", 1), ("expires", 1), ("expires", "soon"), ("expires", 1e18), ("expires", True), ("tenant", 1), ("limits", 1)):
            status, reply, _ = self.call("POST", "/v1/admin/keys", {field: value}, self.admin)
            self.assertEqual((status, reply["error"]["param"]), (400, field), (field, value, reply))
        for body in ({"surprise": 1}, {"revoked": True}, {"id": "x"}):
            self.assertEqual(self.call("POST", "/v1/admin/keys", body, self.admin)[1]["error"]["code"], "unknown_field")
        self.assertEqual(self.call("POST", "/v1/admin/keys", {"tenant": "nobody"}, self.admin)[0], 404)
        self.assertEqual(self.call("PATCH", "/v1/admin/keys/0123456789ab", {"name": "x"}, self.admin)[0], 404)
        self.assertEqual(self.call("GET", "/v1/admin/keys?tenant=" + "x" * 64, key=self.admin)[0], 400)
        self.assertEqual(len(self.op("GET", "/v1/admin/keys")["data"]), 1)

    def test_only_the_operator_s_keys_can_have_admin(self):
        self.tenant("acme")
        status, reply, _ = self.call("POST", "/v1/admin/keys", {"tenant": "acme", "verbs": ["admin"]}, self.admin)
        self.assertEqual((status, reply["error"]["code"]), (400, "invalid_value"))
        k = self.key("acme", ["list"])
        self.assertEqual(self.call("PATCH", f"/v1/admin/keys/{k['id']}", {"verbs": ["admin"]}, self.admin)[0], 400)

    def test_a_revoked_key_is_refused_at_once_and_what_runs_with_it_ends_well(self):
        k = self.key("default", ["infer", "list"])
        got = {}

        def stream():
            raw = json.dumps({"model": "base", "prompt": "Hello", "max_tokens": 400, "n": 32, "ignore_eos": True, "stream": True}).encode()
            got["reply"] = self.d.request("POST", "/v1/completions", raw, {"Content-Type": "application/json", "Authorization": f"Bearer {k['key']}"})

        t = threading.Thread(target=stream)
        t.start()
        wait_until(lambda: self.d.metric("adapterd_generated_tokens_total") > 0, "it runs")
        self.op("PATCH", f"/v1/admin/keys/{k['id']}", {"revoked": True})
        self.assertEqual(self.status(k["key"]), 401)
        t.join()
        self.assertEqual(got["reply"][0], 200)
        self.assertTrue(got["reply"][2].endswith(b"data: [DONE]\n\n"))
        self.assertEqual(self.call("PATCH", f"/v1/admin/keys/{k['id']}", {"revoked": False}, self.admin)[0], 400)

    def test_rotation_leaves_both_keys_live_for_as_long_as_it_says(self):
        old = self.key("default", ["list"], name="n", adapters=["a*"], limits={"context": 9})
        new = self.op("POST", f"/v1/admin/keys/{old['id']}/rotate", {"grace_seconds": 3600})
        self.assertEqual((new["replaces"], {f: new[f] for f in ("name", "verbs", "adapters", "limits", "expires")}), (old["id"], {f: old[f] for f in ("name", "verbs", "adapters", "limits", "expires")}))
        self.assertEqual([self.status(old["key"]), self.status(new["key"])], [200, 200])
        left = self.op("GET", f"/v1/admin/keys/{old['id']}")["expires"] - time.time()
        self.assertTrue(3000 < left < 3700, left)
        newest = self.op("POST", f"/v1/admin/keys/{new['id']}/rotate", {"grace_seconds": 0})
        self.assertEqual([self.status(k["key"]) for k in (old, new, newest)], [200, 401, 200])
        self.restart()
        self.assertEqual([self.status(k["key"]) for k in (old, new, newest)], [200, 401, 200])
        self.assertEqual(self.call("POST", f"/v1/admin/keys/{new['id']}/rotate", key=self.admin)[0], 409)
        for grace in (-1, 1.5, "x", 10**9):
            self.assertEqual(self.call("POST", f"/v1/admin/keys/{old['id']}/rotate", {"grace_seconds": grace}, self.admin)[0], 400)
        self.assertEqual(self.call("POST", f"/v1/admin/keys/{old['id']}/turn", {}, self.admin)[0], 404)

    def test_when_a_key_was_last_used_is_known_after_a_restart(self):
        k, before = self.key("default", ["list"]), int(time.clock_gettime(5))  # CLOCK_REALTIME_COARSE, which time(2) reads
        self.status(k["key"])
        used = self.op("GET", f"/v1/admin/keys/{k['id']}")["last_used"]
        self.assertGreaterEqual(used, before)
        self.restart()
        self.assertEqual(self.op("GET", f"/v1/admin/keys/{k['id']}")["last_used"], used)

    def test_keys_and_tenants_survive_kill_9(self):
        self.tenant("acme", weight=2.5, description="d")
        k = self.key("acme", ["list"])
        gone = self.key("acme", ["list"])
        self.op("DELETE", f"/v1/admin/keys/{gone['id']}")
        self.restart(signal.SIGKILL)
        self.assertEqual([self.status(k["key"]), self.status(gone["key"]), self.status(self.admin)], [200, 401, 200])
        t = self.op("GET", "/v1/admin/tenants/acme")
        self.assertEqual((t["weight"], t["description"], t["keys"]), (2.5, "d", 1))

    def test_many_keys_come_in_pages(self):
        self.tenant("acme")
        made = [self.key("acme", ["list"])["id"] for _ in range(25)]
        got, after = [], ""
        while True:
            page = self.op("GET", f"/v1/admin/keys?tenant=acme&limit=10&after={after}")
            got += [k["id"] for k in page["data"]]
            if not page["has_more"]:
                break
            after = got[-1]
        self.assertEqual(got, made)
        for path in ("admin/keys", "admin/tenants", "admin/limits", "admin/audit", "adapters"):
            for wrong in ("0", "1001", "%2B5", "%205", "5x", "", "-1", "1e2", "18446744073709551617"):
                status, e = self.call("GET", f"/v1/{path}?limit={wrong}", key=self.admin)[:2]
                self.assertEqual((status, e["error"]["param"], e["error"]["message"]), (400, "limit", "`limit` must be a whole number from 1 to 1000"), (path, wrong))

    def test_a_page_behind_what_is_gone_is_refused_not_empty(self):
        self.tenant("acme")
        self.tenant("beta")
        first, last = [self.key("acme", ["list"])["id"] for _ in range(2)]
        gone = {"keys": [first], "tenants": ["beta"], "limits": ["keys/" + first, "tenants/beta"]}
        there = {"keys": [last], "tenants": ["acme"], "limits": ["keys/" + last, "tenants/acme"]}
        for path in gone:
            for after in gone[path]:
                self.assertEqual(self.call("GET", f"/v1/admin/{path}?after={after}", key=self.admin)[0], 200, (path, after))
        self.op("DELETE", f"/v1/admin/keys/{first}")
        self.op("DELETE", "/v1/admin/tenants/beta")
        for path in gone:
            for after in gone[path] + ["nobody"]:
                status, e = self.call("GET", f"/v1/admin/{path}?after={after}", key=self.admin)[:2]
                self.assertEqual((status, e["error"]["param"]), (400, "after"), (path, after, e))
                self.assertIn("begin again", e["error"]["message"])
            for after in there[path]:
                self.assertEqual(self.call("GET", f"/v1/admin/{path}?after={after}", key=self.admin)[0], 200, (path, after))

    def test_a_hundred_changes_at_once_all_count(self):
        def make(i):
            self.key("default", ["list"], name=f"k{i}")

        threads = [threading.Thread(target=lambda a=i: [make(10 * a + j) for j in range(10)]) for i in range(10)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.restart(signal.SIGKILL)
        names = sorted(k["name"] for k in self.op("GET", "/v1/admin/keys")["data"] if k["name"])
        self.assertEqual(names, sorted(f"k{i}" for i in range(100)))


class TheLastKey(TenantTests):
    def refused(self, method, path, body=None):
        status, reply, _ = self.call(method, path, body, self.admin)
        self.assertEqual((status, reply["error"]["code"]), (409, "last_admin_key"), reply)

    def test_the_last_key_that_makes_others_goes_only_by_force_and_the_door_stays_closed(self):
        path = f"/v1/admin/keys/{self.admin[6:18]}"
        self.key("default", ["list"])
        self.refused("DELETE", path)
        self.refused("PATCH", path, {"revoked": True})
        self.refused("PATCH", path, {"verbs": ["list"]})
        second = self.key("default", ["admin"])
        self.op("DELETE", path)
        self.admin = second["key"]
        self.refused("DELETE", f"/v1/admin/keys/{second['id']}")
        for k in self.op("GET", "/v1/admin/keys")["data"]:
            if k["id"] != second["id"]:
                self.op("DELETE", f"/v1/admin/keys/{k['id']}")
        status, reply, _ = self.call("DELETE", f"/v1/admin/keys/{second['id']}?force=true", key=self.admin)
        self.assertEqual((status, reply["deleted"]), (200, False))
        self.assertEqual([self.status(self.admin), self.status(None)], [401, 401])
        self.restart()
        self.assertEqual([self.status(self.admin), self.status(None)], [401, 401])
        self.d.stop()
        self.admin = create_admin_key(self.state)[1].strip()
        self.start()
        self.assertEqual(self.status(self.admin), 200)


class Tenants(TenantTests):
    def test_what_is_wrong_with_a_tenant_is_told_and_changes_nothing(self):
        self.tenant("acme")
        for body, want in (({"name": "acme"}, 409), ({"name": "default"}, 409), ({"name": "Acme"}, 400), ({"name": "a/b"}, 400), ({"name": ""}, 400), ({"name": "a" * 64}, 400), ({}, 400), ({"name": 1}, 400),
                           ({"name": "b", "weight": 0}, 400), ({"name": "b", "weight": 1001}, 400), ({"name": "b", "weight": "x"}, 400), ({"name": "b", "priority": "first"}, 400),
                           ({"name": "b", "limits": {"flights": 1}}, 400), ({"name": "b", "limits": {"context": -1}}, 400), ({"name": "b", "description": "d" * 1025}, 400), ({"name": "b", "surprise": 1}, 400)):
            status, reply, _ = self.call("POST", "/v1/admin/tenants", body, self.admin)
            self.assertEqual(status, want, (body, reply))
        for raw in (b"[]", b"{", b"1", b'{"name":"b","name":"c"}', b'{"name":"b\\u0000"}', b"[" * 100000):
            self.assertEqual(self.d.request("POST", "/v1/admin/tenants", raw, {"Content-Type": "application/json", "Authorization": f"Bearer {self.admin}"})[0], 400, raw[:50])
        self.assertEqual([t["name"] for t in self.op("GET", "/v1/admin/tenants")["data"]], ["default", "acme"])

    def test_a_patch_changes_what_it_names(self):
        self.tenant("acme", weight=2, priority="batch", limits={"adapters": 3}, description="d")
        want = {"weight": 2, "priority": "batch", "limits": {"adapters": 3}, "description": "d"}
        for field, value in (("weight", 7), ("priority", None), ("limits", {"context": 100}), ("description", None)):
            want[field] = value
            self.op("PATCH", "/v1/admin/tenants/acme", {field: value})
            self.restart()
            got = self.op("GET", "/v1/admin/tenants/acme")
            self.assertEqual({f: got[f] for f in want}, want)
        self.assertEqual(self.call("PATCH", "/v1/admin/tenants/nobody", {"weight": 1}, self.admin)[0], 404)
        self.assertEqual(self.call("PATCH", "/v1/admin/tenants/" + "a" * 64, {"weight": 1}, self.admin)[0], 404)
        self.op("PATCH", "/v1/admin/tenants/default", {"weight": 3})

    def test_a_tenant_that_owns_something_or_has_a_live_key_stays(self):
        self.tenant("acme")
        k = self.key("acme")
        self.upload("x", k["key"])
        self.assertEqual(self.call("DELETE", "/v1/admin/tenants/acme", key=self.admin)[0], 409)
        self.assertEqual(self.call("DELETE", "/v1/adapters/x", key=k["key"])[0], 200)
        status, reply, _ = self.call("DELETE", "/v1/admin/tenants/acme", key=self.admin)
        self.assertEqual((status, reply["error"]["code"]), (409, "tenant_in_use"))
        self.op("PATCH", f"/v1/admin/keys/{k['id']}", {"revoked": True})
        self.op("DELETE", "/v1/admin/tenants/acme")
        self.assertEqual(self.call("GET", f"/v1/admin/keys/{k['id']}", key=self.admin)[0], 404)
        self.assertEqual(self.call("DELETE", "/v1/admin/tenants/acme", key=self.admin)[0], 404)
        self.assertEqual(self.call("DELETE", "/v1/admin/tenants/default", key=self.admin)[0], 409)

    def test_a_name_that_would_become_a_tenant_s_own_keeps_the_tenant_out(self):
        self.upload("acme/x", self.admin)
        status, reply, _ = self.call("POST", "/v1/admin/tenants", {"name": "acme"}, self.admin)
        self.assertEqual((status, reply["error"]["code"]), (409, "name_taken"))


class TheFirstKey(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.state = os.path.join(self.dir.name, "state")

    def tearDown(self):
        self.dir.cleanup()

    def test_it_is_made_offline_and_nothing_else_is_printed(self):
        code, out, err = create_admin_key(self.state, "boss")
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, rf"\A{KEY.pattern}\n\Z")
        secret = os.stat(os.path.join(self.state, "key.secret"))
        self.assertEqual((secret.st_mode & 0o777, secret.st_size), (0o600, 32))
        d = Daemon(BASE, "--state-dir", self.state)
        try:
            k = json.loads(d.request("GET", "/v1/admin/keys", headers={"Authorization": f"Bearer {out.strip()}"})[2])["data"][0]
            self.assertEqual((k["name"], k["tenant"], sorted(k["verbs"])), ("boss", "default", sorted(VERBS + ["admin"])))
            code, out, err = create_admin_key(self.state)
            self.assertEqual((code, out), (1, ""))
            self.assertRegex(err, "in use by another daemon.*POST /v1/admin/keys")
        finally:
            d.stop()

    def test_it_needs_a_state_directory_and_the_secret_that_others_were_made_with(self):
        self.assertIn("needs --state-dir", fails_to_start("--create-admin-key"))
        create_admin_key(self.state)
        os.unlink(os.path.join(self.state, "key.secret"))
        self.assertIn("key.secret is missing", create_admin_key(self.state)[2])
        self.assertIn("key.secret is missing", fails_to_start("--model", BASE, "--port", "0", "--state-dir", self.state))

    def test_whoever_followed_the_events_before_it_does_so_no_longer(self):
        d = Registry(BASE, "--served-name", "base")
        self.addCleanup(d.stop)
        stream = Client(d, "no key yet").events()
        status, key = d.call("POST", "/v1/admin/keys", {"verbs": ["admin", "upload", "activate"], "adapters": ["*"]})
        self.assertEqual(status, 201)
        self.assertEqual(Client(d, key["key"]).upload("x", make_adapter(1))[0], 201)
        self.assertEqual(list(stream), [])

    def test_made_by_a_request_it_must_have_admin(self):
        d = Daemon(BASE, "--state-dir", self.state)
        try:
            status, reply = d.post({"verbs": ["infer"]}, "/v1/admin/keys")
            self.assertEqual((status, reply["error"]["code"]), (409, "first_key_must_be_admin"))
            self.assertEqual(d.get("/v1/models")[0], 200)
            self.assertEqual(d.post({"verbs": ["admin", "list"]}, "/v1/admin/keys")[0], 201)
            self.assertEqual(d.get("/v1/models")[0], 401)
        finally:
            d.stop()

    def test_without_a_state_directory_keys_live_as_long_as_the_daemon(self):
        d = Daemon(BASE)
        try:
            status, made = d.post({"verbs": ["admin", "list"]}, "/v1/admin/keys")
            self.assertEqual(status, 201)
            self.assertEqual(d.request("GET", "/v1/models", headers={"x-api-key": made["key"]})[0], 200)
            self.assertEqual(d.get("/v1/models")[0], 401)
        finally:
            d.stop()

    def test_without_one_no_other_machine_is_served_unless_told_to(self):
        for options in (("--host", "0.0.0.0", "--port", "0"), ("--listen", "127.0.0.1:0,[::]:0"), ("--host", "0.0.0.0", "--port", "0", "--state-dir", self.state)):
            message = fails_to_start("--model", BASE, *options)
            self.assertRegex(message, "there is no key.*--create-admin-key.*--insecure")
        d = Daemon(BASE, "--host", "0.0.0.0", "--insecure")
        d.host = "127.0.0.1"
        self.assertEqual(d.get("/v1/models")[0], 200)
        self.assertIn("whoever reaches", d.stop())
        create_admin_key(self.state)
        d = Daemon(BASE, "--host", "0.0.0.0", "--state-dir", self.state)
        d.host = "127.0.0.1"
        self.assertEqual(d.get("/v1/models")[0], 401)
        self.assertNotIn("whoever reaches", d.stop())
