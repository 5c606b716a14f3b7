# SPDX-License-Identifier: MIT
"""Adapters arrive, change and leave while the daemon serves."""
import contextlib
import http.client
import json
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
import unittest

from daemon import PATIENCE, fails_to_start, wait_until
from registry_util import ADAPTERS, BASE, Registry, files_of, make_adapter, multipart, parts_of, read


class Stored(unittest.TestCase):
    """A daemon over a state directory of its own."""
    options = ()

    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(prefix="adapterd-test-")
        self.state = os.path.join(self.tmp.name, "state")
        self.d = self.start()

    def start(self, *options, model=BASE, **kw):
        return Registry(model, "--served-name", "base", "--state-dir", self.state, "--threads", "1", *self.options, *options, **kw)

    def restart(self, *options, **kw):
        self.d.stop()
        self.d = self.start(*options, **kw)

    def tearDown(self):
        self.d.stop()
        self.tmp.cleanup()

    def blobs(self):
        return [d for _, folders, _ in os.walk(os.path.join(self.state, "blobs")) for d in folders if len(d) == 64]

    def wait_until_nothing_is_incoming(self):
        wait_until(lambda: not os.listdir(os.path.join(self.state, "incoming")), "nothing is incoming")

    def wait_until_verified(self, name):
        wait_until(lambda: self.d.show(name)[1]["state"] != "verifying", f"{name} is verified")


class Uploads(Stored):
    def test_an_uploaded_adapter_answers_like_the_same_adapter_of_the_command_line(self):
        status, a = self.d.upload("qv", files_of("qv"), description="two modules", labels='{"team":"x"}')
        self.assertEqual(status, 201, a)
        self.assertEqual(self.d.headers["Location"], "/v1/adapters/qv")
        self.assertEqual(self.d.headers["ETag"], a["etag"])
        self.assertEqual((a["name"], a["version"], a["state"], a["description"], a["labels"]), ("qv", 1, "ready", "two modules", {"team": "x"}))
        self.assertEqual(a["origin"], "upload")
        self.assertTrue(a["report"]["modules"])
        ids, version = self.d.answer("qv")
        self.assertEqual(version, a["digest"])
        other = Registry(BASE, "--served-name", "base", "--threads", "1", adapters=["qv"])
        try:
            self.assertEqual(other.answer("qv"), (ids, version))
            self.assertNotEqual(other.answer("base")[0], ids)
        finally:
            other.stop()

    def test_parts_come_in_any_order_and_the_weights_digest_is_checked(self):
        import hashlib
        config, weights = files_of("qv")
        good = hashlib.sha256(weights).hexdigest()
        parts = [("weights", "w", weights), ("sha256", None, good.encode()), ("config", "c", config), ("name", None, b"a")]
        self.assertEqual(self.d.send("/v1/adapters", parts)[0], 201)
        wrong = parts_of((config, weights), name="b", sha256="0" * 64)
        for order in (wrong, wrong[::-1]):
            status, e = self.d.send("/v1/adapters", order)
            self.assertEqual((status, e["error"]["code"], e["report"]["object"], e["report"]["admitted"]), (422, "digest_mismatch", "adapter.report", False), e)
            self.assertIn(good, e["error"]["message"])
        self.assertEqual(self.d.names(), ["a"])

    def test_the_same_content_again_is_no_conflict_but_other_content_is(self):
        self.assertEqual(self.d.upload("a", files_of("qv"))[0], 201)
        status, a = self.d.upload("a", files_of("qv"))
        self.assertEqual((status, a["version"]), (200, 1))
        status, e = self.d.upload("a", make_adapter(1))
        self.assertEqual((status, e["error"]["code"]), (409, "adapter_exists"))
        self.assertEqual(self.d.show("a")[1]["digest"], a["digest"])

    def test_a_dry_run_reports_and_admits_nothing(self):
        status, r = self.d.upload("a", files_of("qv"), query="?dry_run=true")
        self.assertEqual((status, r["object"], r["admitted"]), (200, "adapter.report", False), r)
        self.assertEqual(len(r["digest"]), 64)
        self.assertGreater(r["modules_matched"], 0)
        self.assertEqual(self.d.names(), [])
        self.assertEqual(self.d.show("a")[0], 404)
        self.assertEqual(os.listdir(os.path.join(self.state, "incoming")), [])

    def test_a_dry_run_is_refused_as_the_upload_would_be(self):
        a, other = files_of("qv"), make_adapter(1)
        self.assertEqual(self.d.upload("a", a)[0], 201)
        self.d.call("PUT", "/v1/aliases/nick", {"targets": [{"model": "a", "weight": 1}]})
        stale = {"If-Match": '"r999999"'}
        calls = [("/v1/adapters", "a", other, {}, 409), ("/v1/adapters", "nick", other, {}, 409), ("/v1/adapters", "base", other, {}, 409), ("/v1/adapters", "a", a, stale, 412),
                 ("/v1/adapters", "b", other, stale, 412), ("/v1/adapters/a/versions", None, other, stale, 412), ("/v1/adapters/b/versions", None, other, {}, 404)]
        for path, name, files, headers, want in calls:
            parts = parts_of(files, **({"name": name} if name else {}))
            dry, real = self.d.send(path + "?dry_run=true", parts, headers), self.d.send(path, parts, headers)
            self.assertEqual((dry[0], dry[1]["error"]), (want, real[1].get("error")), (path, name))
            self.assertEqual(real[0], want)
        for path, parts in (("/v1/adapters", parts_of(a, name="a")), ("/v1/adapters", parts_of(other)), ("/v1/adapters/a/versions", parts_of(other))):
            status, r = self.d.send(path + "?dry_run=true", parts)
            self.assertEqual((status, r["object"], r["admitted"]), (200, "adapter.report", False), r)
        self.assertEqual((self.d.names(), self.d.show("a")[1]["version"], len(self.d.show("a")[1]["versions"])), (["a"], 1, 1))

    def test_a_new_name_has_no_etag_to_match(self):
        self.assertEqual(self.d.upload("a", make_adapter(1), headers={"If-Match": '"r1"'})[0], 412)
        self.assertEqual(self.d.names(), [])
        self.assertEqual(self.d.upload("a", make_adapter(1))[0], 201)
        self.assertEqual(self.d.upload("a", make_adapter(1), headers={"If-Match": '"r999999"'})[0], 412)
        self.assertEqual(self.d.upload("a", make_adapter(1), headers={"If-Match": self.d.show("a")[1]["etag"]})[0], 200)

    def test_what_is_staged_already_is_not_staged_again(self):
        self.assertEqual(self.d.upload("a", make_adapter(1), activate="false")[0], 201)
        self.assertEqual(self.d.upload("a", make_adapter(1), activate="false")[0], 200)
        self.assertEqual(self.d.upload("a", make_adapter(1))[0], 409)  # the reply must not look as if it were active
        self.assertEqual(self.d.new_version("a", make_adapter(1), activate="false")[0], 200)
        self.assertEqual(self.d.new_version("a", make_adapter(2))[1]["version"], 2)
        self.assertEqual(self.d.new_version("a", make_adapter(1), activate="false")[0], 200)
        test = json.dumps({"prompts": [{"prompt": "Hello", "max_divergence": 100}]})
        self.assertEqual(self.d.new_version("a", make_adapter(1), activate="false", selftest=test)[0], 201)  # it has a test of its own
        self.assertEqual([(v["version"], v["state"]) for v in self.d.show("a")[1]["versions"]], [(1, "staged"), (2, "ready"), (3, "staged")])

    def test_a_name_that_has_no_address_of_its_own_is_refused(self):
        status, e = self.d.upload("events", make_adapter(1))
        self.assertEqual((status, e["error"]["param"]), (400, "name"), e)
        self.assertEqual(self.d.upload("team/events", make_adapter(1))[0], 201)

    def test_what_a_body_says_beside_its_field_is_no_secret_wish(self):
        self.d.upload("a", make_adapter(1))
        self.d.new_version("a", make_adapter(2))
        for action, body in (("rollback", b'{"version": 2}'), ("rollback", b"junk"), ("rollback", b"[]"), ("verify", b'{"version": 1}'), ("activate", b'{"version": 1, "at": "noon"}')):
            status, e = self.d.call("POST", f"/v1/adapters/a/{action}", body)
            self.assertEqual(status, 400, (action, body, e))
        self.assertEqual(self.d.show("a")[1]["version"], 2)
        for body in (None, b"{}"):
            self.assertEqual(self.d.call("POST", "/v1/adapters/a/rollback", body)[0], 200)

    def test_what_is_refused_says_why_and_changes_nothing(self):
        config, weights = files_of("qv")
        wrong_rank = json.dumps({**json.loads(config), "r": 3}).encode()
        status, e = self.d.upload("a", (wrong_rank, weights))
        self.assertEqual(status, 422)
        self.assertIn("shape", e["error"]["message"])
        self.assertEqual(e["report"]["admitted"], False)
        names = [n for n in json.loads(weights[8:8 + int.from_bytes(weights[:8], "little")]) if n != "__metadata__"]
        self.assertEqual(len(e["report"]["reasons"]), len(names), e)  # all of them, each by name
        for n in names:
            self.assertIn(n, "".join(e["report"]["reasons"]))
        more = json.dumps({**json.loads(config), "target_modules": ["q_proj", "v_proj", "o_proj"]}).encode()
        reasons = self.d.upload("a", (more, weights))[1]["report"]["reasons"]
        self.assertTrue(reasons and all("o_proj" in r and "no pair" in r for r in reasons), reasons)
        self.assertNotIn(self.tmp.name, "".join(reasons))
        for files, want in (((config, weights[:-4]), 422), ((b"{", weights), 422), ((config, b"junk"), 422), ((b'{"peft_type":"IA3"}', weights), 422)):
            self.assertEqual(self.d.upload("a", files)[0], want)
        self.assertEqual(self.d.upload("../x", (config, weights))[0], 400)
        self.assertEqual(self.d.upload("base", (config, weights))[0], 409)
        for query in ("?dry_run=definitely", "?dry_run=%zz", "?dry_run=yes"):
            self.assertEqual(self.d.upload("a", (config, weights), query)[0], 400)
        self.assertEqual(self.d.names(), [])
        self.wait_until_nothing_is_incoming()
        self.assertEqual([f for _, _, fs in os.walk(os.path.join(self.state, "blobs")) for f in fs], [])

    def test_archives_are_unpacked(self):
        for kind, ext in (("gztar", "tar.gz"), ("tar", "tar"), ("zip", "zip")):
            path = shutil.make_archive(os.path.join(self.tmp.name, "a"), kind, ADAPTERS, "qv")
            with open(path, "rb") as f:
                status, a = self.d.send("/v1/adapters", [("name", None, ext.encode()), ("archive", os.path.basename(path), f.read())])
            self.assertEqual(status, 201, a)
        digests = {self.d.show(n)[1]["digest"] for n in ("tar", "tar.gz", "zip")}
        self.assertEqual(len(digests), 1)

    def test_what_is_on_its_way_can_be_seen(self):
        kind, body = multipart(parts_of(make_adapter(5), name="new"))
        c = http.client.HTTPConnection(self.d.host, self.d.port, timeout=PATIENCE)
        c.putrequest("POST", "/v1/adapters")
        c.putheader("Content-Type", kind)
        c.putheader("Content-Length", str(len(body)))
        c.endheaders()
        c.send(body[:-10])
        wait_until(lambda: self.d.show("new")[0] == 200, "it is there")
        self.assertEqual(self.d.show("new")[1]["state"], "uploading")
        self.assertEqual([a["name"] for a in self.d.call("GET", "/v1/adapters?state=uploading")[1]["data"]], ["new"])
        self.assertEqual(self.d.names(), [])
        self.assertEqual(self.d.post({"model": "new", "prompt": "x"})[0], 404)
        c.send(body[-10:])
        reply = c.getresponse()
        self.assertEqual((reply.status, json.loads(reply.read())["pending"]), (201, None))
        self.assertEqual((self.d.show("new")[1]["state"], self.d.show("new")[1]["pending"]), ("ready", None))
        self.assertEqual(self.d.call("GET", "/v1/adapters?state=uploading")[1]["data"], [])

    def test_a_client_that_leaves_leaves_nothing_behind(self):
        kind, body = multipart(parts_of(make_adapter(5), name="gone"))
        c = http.client.HTTPConnection(self.d.host, self.d.port, timeout=PATIENCE)
        c.putrequest("POST", "/v1/adapters")
        c.putheader("Content-Type", kind)
        c.putheader("Content-Length", str(len(body)))
        c.endheaders()
        c.send(body[: len(body) // 2])
        wait_until(lambda: os.listdir(os.path.join(self.state, "incoming")), "it has begun")
        c.close()
        self.wait_until_nothing_is_incoming()
        self.assertEqual(self.d.names(), [])


class Versions(Stored):
    def setUp(self):
        super().setUp()
        self.d.upload("a", make_adapter(1))
        self.one = self.d.show("a")[1]

    def test_a_new_version_answers_at_once_and_the_old_one_by_number_and_digest(self):
        before, v1 = self.d.answer("a")
        status, a = self.d.new_version("a", make_adapter(2))
        self.assertEqual((status, a["version"]), (201, 2), a)
        after, v2 = self.d.answer("a")
        self.assertNotEqual(v1, v2)
        self.assertEqual(v2, a["digest"])
        self.assertEqual(self.d.answer("a@1"), (before, v1))
        self.assertEqual(self.d.answer(f"a@{v1[:12]}"), (before, v1))
        self.assertEqual(self.d.answer("a@2"), (after, v2))
        for unknown in ("a@3", "a@" + "0" * 12, "a@"):
            self.assertEqual(self.d.post({"model": unknown, "prompt": "x"})[0], 404, unknown)

    def test_an_adapter_that_is_only_staged_shows_its_modules(self):
        self.d.upload("s", make_adapter(7), activate="false")
        for _ in range(2):
            a = self.d.show("s")[1]
            self.assertEqual((a["state"], a["version"]), ("staged", None))
            self.assertTrue(a["modules"] and a["tensors_matched"])
            self.restart()

    def test_a_staged_version_waits_for_its_activation(self):
        status, a = self.d.new_version("a", make_adapter(2), activate="false")
        self.assertEqual((status, a["version"]), (201, 1))
        self.assertEqual([v["state"] for v in a["versions"]], ["ready", "staged"])
        self.assertEqual(self.d.answer("a")[1], self.one["digest"])
        status, a = self.d.call("POST", "/v1/adapters/a/activate", {"version": 2})
        self.assertEqual((status, a["version"]), (200, 2), a)
        status, a = self.d.call("POST", "/v1/adapters/a/rollback")
        self.assertEqual((status, a["version"]), (200, 1))
        status, a = self.d.call("POST", "/v1/adapters/a/activate", {"version": a["versions"][1]["digest"][:16]})
        self.assertEqual((status, a["version"]), (200, 2))
        self.assertEqual(self.d.call("POST", "/v1/adapters/a/activate", {"version": 9})[0], 404)
        self.assertEqual(self.d.call("POST", "/v1/adapters/nobody/activate", {"version": 1})[0], 404)

    def test_a_change_of_something_changed_meanwhile_is_refused(self):
        etag = self.one["etag"]
        status, a = self.d.new_version("a", make_adapter(2), headers={"If-Match": etag})
        self.assertEqual(status, 201)
        for method, path, body in (("POST", "activate", {"version": 1}), ("POST", "rollback", {}), ("PATCH", "", {"pinned": True}), ("DELETE", "", None)):
            status, e = self.d.call(method, f"/v1/adapters/a/{path}".rstrip("/"), body, {"If-Match": etag})
            self.assertEqual((status, e["error"]["code"]), (412, "precondition_failed"), method)
        self.assertEqual(self.d.new_version("a", make_adapter(3), headers={"If-Match": etag})[0], 412)
        for tags, want in ((a["etag"], 304), (f'"x", W/{a["etag"]}', 304), ("*", 304), (etag, 200), ('"x"', 200), ("r1", 200), ('"', 200), ("", 200)):
            self.assertEqual(self.d.request("GET", "/v1/adapters/a", headers={"If-None-Match": tags})[0], want, tags)
        for tags, want in ((f'"x", {etag}, {a["etag"]}', 200), (f'W/{a["etag"]}', 412), ('"x"', 412), ("r1", 412), ('"r1', 412), ('"r99999999999999999999"', 412), ("*", 200)):
            self.assertEqual(self.d.call("PATCH", "/v1/adapters/a", {"pinned": False}, {"If-Match": tags})[0], want, tags)
            a = self.d.show("a")[1]
        self.assertEqual(self.d.call("PATCH", "/v1/adapters/a", {"pinned": True}, {"If-Match": a["etag"]})[0], 200)

    def test_activating_what_is_active_changes_nothing(self):
        status, a = self.d.call("POST", "/v1/adapters/a/activate", {"version": 1})
        self.assertEqual((status, a["version"], a["etag"]), (200, 1, self.one["etag"]))

    def test_labels_and_description_do_not_go_with_a_version(self):
        for field in ({"labels": "{}"}, {"description": "x"}):
            self.assertEqual(self.d.new_version("a", make_adapter(2), **field)[0], 400)
        self.assertEqual(self.d.show("a")[1]["etag"], self.one["etag"])

    def test_five_versions_are_kept(self):
        for i in range(2, 10):
            self.assertEqual(self.d.new_version("a", make_adapter(i))[0], 201)
        numbers = [v["version"] for v in self.d.show("a")[1]["versions"]]
        self.assertEqual(numbers, [5, 6, 7, 8, 9][-len(numbers):] if 4 not in numbers else [4, 5, 6, 7, 8, 9])
        self.assertGreaterEqual(len(numbers), 5)
        wait_until(lambda: len(self.blobs()) <= len(numbers), "the others' files are gone")
        self.assertEqual(len(self.blobs()), len(numbers))

    def test_versions_can_be_deleted_one_by_one(self):
        self.d.new_version("a", make_adapter(2))
        self.assertEqual(self.d.call("DELETE", "/v1/adapters/a@2")[0], 409)
        etag = self.d.show("a")[1]["etag"]
        self.assertEqual(self.d.call("DELETE", "/v1/adapters/a@1")[0], 200)
        status, _, _ = self.d.request("GET", "/v1/adapters/a", None, {"If-None-Match": etag})
        self.assertEqual(status, 200)
        self.assertEqual([v["version"] for v in self.d.show("a")[1]["versions"]], [2])
        self.assertEqual(self.d.call("DELETE", "/v1/adapters/a@1")[0], 404)
        self.assertEqual(self.d.call("POST", "/v1/adapters/a/rollback")[0], 409)

    def test_labels_pin_and_description_change_and_filter(self):
        self.d.upload("b", make_adapter(2), labels='{"team":"x","env":"prod"}')
        status, a = self.d.call("PATCH", "/v1/adapters/a", {"labels": {"team": "y"}, "pinned": True, "description": "hello"})
        self.assertEqual((status, a["labels"], a["pinned"], a["description"]), (200, {"team": "y"}, True, "hello"))
        listed = lambda q: [x["name"] for x in self.d.call("GET", "/v1/adapters?" + q)[1]["data"]]
        self.assertEqual((listed("label=team:x"), listed("label=team:y"), listed("label=team"), listed("label=zzz")), (["b"], ["a"], ["a", "b"], []))
        self.assertEqual((listed("prefix=b"), listed("state=ready"), listed("state=staged")), (["b"], ["a", "b"], []))
        for bad in ({"labels": []}, {"labels": {"x": 1}}, {"pinned": 1}, {"name": "c"}, {"description": 5}):
            self.assertEqual(self.d.call("PATCH", "/v1/adapters/a", bad)[0], 400, bad)

    def test_a_state_that_does_not_exist_is_no_empty_list(self):
        for query, param in (("state=redy", "state"), ("state=null", "state"), ("prefix=" + 129 * "x", None), ("after=" + 129 * "x", None)):
            status, reply = self.d.call("GET", "/v1/adapters?" + query)
            self.assertEqual((status, reply["error"]["code"], reply["error"]["param"]), (400, "invalid_value", param), query)

    def test_pages_follow_one_another(self):
        for i in range(25):
            self.d.upload(f"p/{i:02d}", make_adapter(1))
        names, after = [], ""
        while True:
            page = self.d.call("GET", f"/v1/adapters?prefix=p/&limit=10&after={after}")[1]
            names += [a["name"] for a in page["data"]]
            after = page["last_id"]
            if not page["has_more"]:
                break
        self.assertEqual(names, [f"p/{i:02d}" for i in range(25)])
        self.assertEqual(self.d.call("GET", "/v1/adapters?limit=0")[0], 400)
        self.assertEqual(self.d.call("GET", "/v1/adapters/p%2F03")[1]["name"], "p/03")

    def test_a_removed_adapter_is_gone_but_running_requests_finish_on_it(self):
        box = {}
        t = threading.Thread(target=lambda: box.update(r=self.d.post({"model": "a", "prompt": [1, 2, 3], "max_tokens": 400, "n": 32, "temperature": 0, "ignore_eos": True, "return_token_ids": True})))
        want = self.d.post({"model": "a", "prompt": [1, 2, 3], "max_tokens": 400, "n": 32, "temperature": 0, "ignore_eos": True, "return_token_ids": True})[1]
        t.start()
        wait_until(lambda: self.d.show("a")[1]["versions"][0]["leases"], "it runs")
        status, r = self.d.call("DELETE", "/v1/adapters/a")
        self.assertEqual((status, r["deleted"]), (200, True))
        self.assertEqual(self.d.post({"model": "a", "prompt": "x"})[0], 404)
        t.join()
        self.assertEqual(box["r"][0], 200)
        self.assertEqual(box["r"][1]["choices"][0]["token_ids"], want["choices"][0]["token_ids"])
        self.assertEqual(box["r"][1]["adapter_version"], self.one["digest"])
        self.d.wait_for("adapterd_adapter_live_bytes", 0)
        self.assertEqual(self.d.metric("adapterd_adapter_versions_retired"), 0)

    def test_draining_waits_for_running_requests(self):
        box = {}
        n = 100 if os.environ.get("AD_SLOW_BUILD") else 400  # steps, of which ThreadSanitizer may take 60 s for all
        t = threading.Thread(target=lambda: box.update(r=self.d.post({"model": "a", "prompt": [1, 2, 3], "max_tokens": n, "n": 32, "temperature": 0, "ignore_eos": True})))
        t.start()
        wait_until(lambda: self.d.show("a")[1]["versions"][0]["leases"], "it runs")
        status, r = self.d.call("DELETE", "/v1/adapters/a?drain=60")
        self.assertEqual((status, r["drained"]), (200, True))
        t.join()
        self.assertEqual(box["r"][0], 200)
        self.assertEqual(self.d.show("a")[0], 404)


class Aliases(Stored):
    def test_a_canary_gets_its_share_and_a_user_stays_where_he_is(self):
        self.d.upload("a", make_adapter(1))
        self.d.new_version("a", make_adapter(2), activate="false")
        status, alias = self.d.call("PUT", "/v1/aliases/chat", {"targets": [{"model": "a", "weight": 90}, {"model": "a@2", "weight": 10}]})
        self.assertEqual(status, 200, alias)
        two = self.d.show("a")[1]["versions"][1]["digest"]
        served = lambda i: self.d.post({"model": "chat", "prompt": [1 + i % 50], "max_tokens": 1, "temperature": 0, "user": f"user-{i}"})[1]["adapter_version"]
        first = [served(i) for i in range(300)]
        share = sum(v == two for v in first) / len(first)
        self.assertTrue(0.04 < share < 0.18, share)
        self.assertEqual([served(i) for i in range(60)], first[:60])
        self.assertIn("chat", [m["id"] for m in self.d.get("/v1/models")[1]["data"]])
        self.restart()
        self.assertEqual([served(i) for i in range(60)], first[:60])
        self.assertEqual(self.d.call("GET", "/v1/aliases")[1]["data"][0]["targets"], alias["targets"])
        self.assertEqual(self.d.call("DELETE", "/v1/aliases/chat")[0], 200)
        self.assertEqual(self.d.post({"model": "chat", "prompt": "x"})[0], 404)

    def test_an_alias_needs_targets_that_are_there_and_a_name_of_its_own(self):
        self.d.upload("a", make_adapter(1))
        put = lambda name, targets: self.d.call("PUT", f"/v1/aliases/{name}", {"targets": targets})[0]
        self.assertEqual(put("b", [{"model": "nobody", "weight": 1}]), 422)
        self.assertEqual(put("a", [{"model": "a", "weight": 1}]), 409)
        self.assertEqual(put("base", [{"model": "a", "weight": 1}]), 409)
        for bad in ([], [{"model": "a", "weight": 0}], [{"weight": 1}], [{"model": "a", "weight": 1.5}], "a", [{"model": "a", "share": 1}]):
            self.assertEqual(put("b", bad), 400, bad)
        self.assertEqual(self.d.call("PUT", "/v1/aliases/b", {"targets": [{"model": "a"}], "weights": [1]})[0], 400)
        self.assertEqual(put("b", [{"model": "a"}]), 200)
        self.assertEqual(put("c", [{"model": "b", "weight": 1}]), 400)
        self.assertEqual(self.d.upload("b", make_adapter(2))[0], 409)

    def test_an_etag_guards_an_alias(self):
        self.d.upload("a", make_adapter(1))
        body = {"targets": [{"model": "a"}]}
        self.assertEqual(self.d.call("PUT", "/v1/aliases/b", body, {"If-Match": '"r1"'})[0], 412)  # it is not there
        first = self.d.call("PUT", "/v1/aliases/b", body)[1]["etag"]
        self.assertEqual(self.d.headers["ETag"], first)
        self.assertEqual(self.d.call("PUT", "/v1/aliases/b", body, {"If-Match": first})[0], 200)
        for method in ("PUT", "DELETE"):
            status, e = self.d.call(method, "/v1/aliases/b", body if method == "PUT" else None, {"If-Match": first})
            self.assertEqual((status, e["error"]["code"]), (412, "precondition_failed"))
        now = self.d.call("GET", "/v1/aliases/b")[1]["etag"]
        self.assertEqual(self.d.request("GET", "/v1/aliases/b", headers={"If-None-Match": now})[0], 304)
        self.assertEqual(self.d.call("DELETE", "/v1/aliases/b", None, {"If-Match": f'{first}, {now}'})[0], 200)

    def test_there_are_as_many_aliases_as_adapters_at_most(self):
        self.restart("--max-adapters", "2")
        self.d.upload("a", make_adapter(1))
        put = lambda name: self.d.call("PUT", f"/v1/aliases/{name}", {"targets": [{"model": "a"}]})[0]
        self.assertEqual([put("b"), put("c"), put("d"), put("b")], [200, 200, 503, 200])


class Restarts(Stored):
    def test_everything_acknowledged_is_there_after_a_kill(self):
        self.d.upload("a", make_adapter(1), description="d", labels='{"k":"v"}')
        self.d.new_version("a", make_adapter(2))
        self.d.upload("b", make_adapter(3))
        self.d.call("PATCH", "/v1/adapters/b", {"pinned": True})
        self.d.upload("gone", make_adapter(4))
        self.d.call("DELETE", "/v1/adapters/gone")
        before = [self.d.show(n)[1] for n in ("a", "b")]
        answers = [self.d.answer(n) for n in ("a", "a@1", "b")]
        self.d.process.send_signal(signal.SIGKILL)
        self.d.process.wait()
        self.d = self.start()
        self.assertEqual(self.d.names(), ["a", "b"])
        after = [self.d.show(n)[1] for n in ("a", "b")]
        for x, y in zip(before, after):
            for key in ("name", "digest", "version", "description", "labels", "pinned", "revision", "rank", "modules_matched", "bytes_disk", "modules", "created"):
                self.assertEqual(x[key], y[key], key)
        self.assertEqual([self.d.answer(n) for n in ("a", "a@1", "b")], answers)
        self.assertEqual(self.d.new_version("a", make_adapter(5))[1]["version"], 3)

    def test_a_start_lets_versions_beyond_the_kept_ones_go(self):
        self.d.upload("a", make_adapter(1))
        self.d.call("PUT", "/v1/aliases/first", {"targets": [{"model": "a@1"}]})  # keeps it
        for i in range(2, 9):
            self.d.new_version("a", make_adapter(i))
        self.assertEqual([v["version"] for v in self.d.show("a")[1]["versions"]], [1, 4, 5, 6, 7, 8])
        self.d.stop()
        with contextlib.closing(sqlite3.connect(os.path.join(self.state, "registry.db"))) as db, db:
            db.execute("DELETE FROM alias")
        self.d = self.start()
        self.assertEqual([v["version"] for v in self.d.show("a")[1]["versions"]], [4, 5, 6, 7, 8])
        self.assertEqual(self.d.call("POST", "/v1/adapters/a/verify")[1]["ok"], True)

    def test_revisions_are_never_used_twice(self):
        self.d.upload("a", make_adapter(1))
        r = self.d.show("a")[1]["revision"]
        self.d.call("DELETE", "/v1/adapters/a")
        self.restart()
        self.d.upload("a", make_adapter(1))
        self.assertGreater(self.d.show("a")[1]["revision"], r)

    def test_nothing_is_acknowledged_while_the_directory_is_away(self):
        self.d.upload("a", make_adapter(1))
        os.rename(self.state, self.state + "-away")
        for method, path, body in (("PATCH", "/v1/adapters/a", {"pinned": True}), ("PUT", "/v1/aliases/b", {"targets": [{"model": "a"}]}), ("DELETE", "/v1/adapters/a", None)):
            status, e = self.d.call(method, path, body)
            self.assertEqual(status, 500, method)
            self.assertNotIn(self.tmp.name, json.dumps(e))
        self.d.answer("a")
        self.assertFalse(self.d.show("a")[1]["pinned"])
        os.rename(self.state + "-away", self.state)
        self.assertEqual(self.d.call("PATCH", "/v1/adapters/a", {"pinned": True})[0], 200)
        self.restart()
        self.assertTrue(self.d.show("a")[1]["pinned"])

    def test_a_second_daemon_refuses_the_same_directory(self):
        message = fails_to_start("--model", BASE, "--port", "0", "--state-dir", self.state)
        self.assertIn(self.state, message)

    def test_a_stored_name_on_the_command_line_refuses_the_start(self):
        self.d.upload("qv", make_adapter(1))
        self.d.stop()
        message = fails_to_start("--model", BASE, "--port", "0", "--state-dir", self.state, "--adapter", "qv=" + os.path.join(ADAPTERS, "qv"))
        self.assertIn("qv", message)
        self.d = self.start()

    def test_damaged_files_are_the_servers_fault_and_messages_do_not_tell_where_they_lie(self):
        self.d.upload("a", make_adapter(1))
        digest = self.d.show("a")[1]["digest"]
        path = os.path.join(self.state, "blobs", digest[:2], digest, "adapter_model.safetensors")
        for damage in (lambda: self.flip(path), lambda: os.truncate(path, 100), lambda: os.unlink(path)):
            damage()
            self.restart()
            status, e = self.d.post({"model": "a", "prompt": "x"})
            verdict = self.d.call("POST", "/v1/adapters/a/verify")[1]
            self.assertEqual((status, verdict["ok"], self.d.show("a")[1]["state"]), (500, False, "failed"), e)
            self.assertNotIn(self.tmp.name, json.dumps([e, verdict]))

    def flip(self, path):
        with open(path, "r+b") as f:
            f.seek(-1, os.SEEK_END)
            last = f.read(1)[0]
            f.seek(-1, os.SEEK_END)
            f.write(bytes([last ^ 1]))

    def test_a_version_that_cannot_be_read_is_checked_against_another_base_once(self):
        self.d.upload("a", make_adapter(1))
        self.d.upload("b", make_adapter(2))
        digest = self.d.show("a")[1]["digest"]
        shutil.rmtree(os.path.join(self.state, "blobs", digest[:2], digest))
        self.restart(model=os.path.join(os.path.dirname(BASE), "llama-spm-mha"))
        self.wait_until_verified("b")
        self.assertEqual(self.d.show("b")[1]["state"], "incompatible")
        wait_until(lambda: self.d.metric("adapterd_adapter_loads_total") >= 2, "both were looked at")
        time.sleep(0.2)
        self.assertEqual(self.d.metric("adapterd_adapter_loads_total"), 2)

    def test_with_another_base_misfits_are_listed_not_deleted_and_come_back(self):
        self.d.upload("a", make_adapter(1))
        self.restart(model=os.path.join(os.path.dirname(BASE), "llama-spm-mha"))
        self.wait_until_verified("a")
        a = self.d.show("a")[1]
        self.assertEqual(a["state"], "incompatible", a)
        self.assertTrue(a["versions"][0]["reason"])
        self.assertEqual(self.d.post({"model": "a", "prompt": "x"})[0], 422)
        self.restart(model=os.path.join(os.path.dirname(BASE), "llama-spm-mha"))
        self.assertEqual(self.d.show("a")[1]["state"], "incompatible")
        self.restart()
        self.wait_until_verified("a")
        self.assertEqual(self.d.show("a")[1]["state"], "ready")
        self.d.answer("a")

    def test_damaged_files_are_noticed_and_not_served(self):
        self.d.upload("a", make_adapter(1))
        digest = self.d.show("a")[1]["digest"]
        self.assertEqual(self.d.call("POST", "/v1/adapters/a/verify")[1]["ok"], True)
        self.d.stop()
        path = os.path.join(self.state, "blobs", digest[:2], digest, "adapter_model.safetensors")
        data = bytearray(open(path, "rb").read())
        data[-1] ^= 1
        open(path, "wb").write(data)
        self.d = self.start()
        status, e = self.d.post({"model": "a", "prompt": "x"})
        self.assertEqual(status, 500)
        self.assertIn("digest", e["error"]["message"])
        self.assertEqual(self.d.call("POST", "/v1/adapters/a/verify")[1]["ok"], False)
        a = self.d.show("a")[1]
        self.assertEqual((a["digest"], a["state"]), (digest, "failed"))
        self.assertIn("digest", a["versions"][0]["reason"])
        self.assertEqual([x["name"] for x in self.d.call("GET", "/v1/adapters?state=failed")[1]["data"]], ["a"])
        self.assertEqual(self.d.upload("a", make_adapter(1))[0], 200)  # the same content heals it
        self.assertEqual(self.d.call("POST", "/v1/adapters/a/verify")[1]["ok"], True)
        self.assertEqual(self.d.show("a")[1]["state"], "ready")
        self.assertEqual(self.d.answer("a")[1], digest)
        self.restart()
        self.assertEqual(self.d.answer("a")[1], digest)

    def test_a_version_that_cannot_be_read_for_another_base_says_so(self):
        digest = self.d.upload("a", make_adapter(1))[1]["digest"]
        self.d.stop()
        os.unlink(os.path.join(self.state, "blobs", digest[:2], digest, "adapter_model.safetensors"))
        self.d = self.start(model=os.path.join(os.path.dirname(BASE), "mistral-headdim"))
        self.wait_until_verified("a")
        a = self.d.show("a")[1]
        self.assertEqual(a["state"], "failed", a)
        self.assertIn("adapter_model.safetensors", a["versions"][0]["reason"])

    def test_a_verification_answers_whatever_the_damaged_files_say(self):
        digest = self.d.upload("a", make_adapter(1))[1]["digest"]
        path = os.path.join(self.state, "blobs", digest[:2], digest, "adapter_model.safetensors")
        data = read(path)
        n = int.from_bytes(data[:8], "little")
        for pad in range(2):  # a message that is cut may end inside a character
            head = data[8:8 + n].replace(b"base_model", b"x" * pad + "\u00e9".encode() * 600, 1)
            with open(path, "wb") as f:
                f.write(len(head).to_bytes(8, "little") + head + data[8 + n:])
            status, v = self.d.call("POST", "/v1/adapters/a/verify")
            self.assertEqual((status, v["object"], v["ok"]), (200, "adapter.verification", False))


class InMemory(unittest.TestCase):
    def test_without_a_state_directory_the_registry_says_so_and_works(self):
        d = Registry(BASE, "--served-name", "base", "--threads", "1", log_level="warn")
        try:
            self.assertEqual(d.upload("a", make_adapter(1))[0], 201)
            d.answer("a")
        finally:
            log = d.stop()
        self.assertIn("in memory only", log)


class Residency(Stored):
    options = ("--adapter-memory", "60k", "--loaders", "2", "--cold-timeout", "300") # sanitizers take their time

    def test_cold_adapters_come_into_memory_once_whoever_asks(self):
        for i in range(12):
            self.assertEqual(self.d.upload(f"a{i}", make_adapter(i))[0], 201)
        self.assertLess(self.d.metric("adapterd_adapters_resident"), 12)
        self.assertLessEqual(self.d.metric("adapterd_adapter_memory_bytes"), 60 * 1024)
        self.assertGreater(self.d.metric("adapterd_adapter_evictions_total"), 0)
        self.restart()
        self.assertEqual(self.d.metric("adapterd_adapters_resident"), 0)
        results = []
        threads = [threading.Thread(target=lambda: results.append(self.d.answer("a3"))) for _ in range(50)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(set(map(str, results))), 1)
        self.assertEqual(self.d.metric("adapterd_adapter_loads_total"), 1)

    def test_an_adapter_larger_than_the_budget_is_refused(self):
        status, e = self.d.upload("big", make_adapter(1, rank=64, modules=("q_proj", "k_proj", "v_proj")))
        self.assertEqual(status, 413, e)
        self.assertIn("--adapter-memory", e["error"]["message"])
        self.assertEqual(self.d.names(), [])

    def test_a_cold_adapter_can_be_answered_503_instead(self):
        self.d.upload("a", make_adapter(1))
        self.restart("--cold-adapter", "refuse")
        status, e = self.d.post({"model": "a", "prompt": "x", "max_tokens": 1})
        self.assertEqual((status, e["error"]["code"]), (503, "adapter_loading"))
        wait_until(lambda: self.d.show("a")[1]["resident"], "it is loaded")
        self.assertEqual(self.d.post({"model": "a", "prompt": "x", "max_tokens": 1})[0], 200)

    def test_pinned_adapters_stay(self):
        for i in range(3):
            self.d.upload(f"a{i}", make_adapter(i))
        self.d.call("PATCH", "/v1/adapters/a0", {"pinned": True})
        for i in range(3, 12):
            self.d.upload(f"a{i}", make_adapter(i))
        self.assertTrue(self.d.show("a0")[1]["resident"])
        self.restart()
        wait_until(lambda: self.d.show("a0")[1]["resident"], "it is loaded again")

    def test_pins_that_fill_the_memory_do_not_keep_a_new_version_out(self):
        each = self.d.upload("a", make_adapter(1))[1]["bytes_packed"]
        for i in range(60 * 1024 // each):
            self.assertEqual(self.d.upload(f"a{i}", make_adapter(2 + i))[0], 201)
            self.d.call("PATCH", f"/v1/adapters/a{i}", {"pinned": True})
        wait_until(lambda: all(self.d.show(f"a{i}")[1]["resident"] for i in range(60 * 1024 // each)), "they are in memory")
        status, v = self.d.new_version("a0", make_adapter(100))
        self.assertEqual((status, v["version"]), (201, 2), v)
        wait_until(lambda: self.d.show("a0")[1]["resident"], "it is in memory, where the old one was")
        self.assertEqual(self.d.answer("a0")[1], v["digest"])
        self.assertEqual(self.d.upload("b", make_adapter(101))[0], 201)  # it waits on the disk until there is room
        self.assertEqual(self.d.post({"model": "b", "prompt": "x", "max_tokens": 1})[0], 503)
        self.d.call("PATCH", "/v1/adapters/a1", {"pinned": False})
        self.d.answer("b")
        self.assertLessEqual(self.d.metric("adapterd_adapter_memory_bytes"), 60 * 1024)

    def test_what_was_found_in_an_adapter_of_the_command_line_is_shown_when_it_left_memory(self):
        self.restart("--adapter", f"qv={ADAPTERS}/qv")
        for i in range(10):
            self.d.upload(f"a{i}", make_adapter(i))
        away = self.d.show("qv")[1]
        self.d.answer("qv")
        here = self.d.show("qv")[1]
        self.assertEqual((away["resident"], here["resident"]), (False, True))
        for key in ("modules", "norms", "tensors_matched", "format", "warnings", "base_model"):
            self.assertEqual(away[key], here[key], key)

    def test_a_request_that_waits_gets_its_version_though_all_names_of_it_are_removed(self):
        for name, seed in (("a", 1), ("twin", 1), ("busy", 2), ("more", 3)):
            self.assertEqual(self.d.upload(name, make_adapter(seed))[0], 201)
        digest, answers = self.d.show("a")[1]["digest"], []
        busy = [self.d.open_request({"model": name, "prompt": [1, 2], "max_tokens": 500, "n": 32, "ignore_eos": True}) for name in ("busy", "more")]
        self.d.wait_for("adapterd_requests_running", 64, PATIENCE)
        waiting = threading.Thread(target=lambda: answers.append(self.d.post({"model": "a", "prompt": [1, 2], "max_tokens": 2})))
        waiting.start()
        self.d.wait_for("adapterd_adapter_waits", 1)
        for name in ("a", "twin"):
            self.assertEqual(self.d.call("DELETE", f"/v1/adapters/{name}")[0], 200)
        self.assertEqual(self.d.metric("adapterd_adapter_waits"), 1)
        for s in busy:
            s.close() # what they hold is free now
        waiting.join()
        self.assertEqual((answers[0][0], answers[0][1].get("adapter_version")), (200, digest), answers)
        self.d.wait_for("adapterd_adapter_versions_retired", 0)
        wait_until(lambda: digest not in self.blobs(), "its files are gone")

    def test_requests_wait_while_leases_hold_all_memory(self):
        for i in range(4):
            self.d.upload(f"a{i}", make_adapter(i))
        answers = {}
        def ask(i):
            answers[i] = self.d.post({"model": f"a{i % 4}", "prompt": [1, 2], "max_tokens": 60, "temperature": 0, "ignore_eos": True})
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(32)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual({s for s, _ in answers.values()}, {200})


class Reloads(Stored):
    def start(self, *options, **kw):
        self.set_timeout(300)
        return super().start("--adapter-memory", "60k", "--config", os.path.join(self.tmp.name, "conf"), *options, **kw)

    def set_timeout(self, seconds):
        with open(os.path.join(self.tmp.name, "conf"), "w") as f:
            f.write(f"cold-timeout = {seconds}\n")

    def test_who_waits_for_memory_waits_as_long_as_was_said_when_he_came(self):
        for i in range(4):
            self.d.upload(f"a{i}", make_adapter(i))
        endless = {"prompt": [1, 2], "max_tokens": 500, "n": 32, "ignore_eos": True}
        busy = [self.d.open_request({"model": name, **endless}) for name in ("a0", "a1")]
        self.d.wait_for("adapterd_requests_running", 64, PATIENCE)
        patient = self.d.open_request({"model": "a2", "prompt": [1, 2], "max_tokens": 1})
        self.d.wait_for("adapterd_adapter_waits", 1)
        self.set_timeout(1)
        self.d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any(r["action"] == "config.reload" for r in self.d.get("/v1/admin/audit")[1]["data"]), "a reload")
        status = self.d.post({"model": "a3", "prompt": [1, 2], "max_tokens": 1})[0]
        self.assertEqual((status, self.d.metric("adapterd_adapter_waits")), (503, 1))
        for s in busy:
            s.close()
        self.assertIn(b" 200 OK", patient.recv(1000))
        patient.close()


class SelfTests(Stored):
    def test_an_adapter_that_fails_its_own_test_is_not_activated(self):
        files = make_adapter(1)
        self.d.upload("probe", files)
        text = self.d.complete(model="probe", prompt="Hello", max_tokens=4)["choices"][0]["text"]
        good = json.dumps({"prompts": [{"prompt": "Hello", "expect": text, "max_tokens": 4}, {"prompt": "Hello there", "max_divergence": 100}]})
        wrong = json.dumps({"prompts": [{"prompt": "Hello", "expect": "no such answer", "max_tokens": 4}]})
        far = json.dumps({"prompts": [{"prompt": "Hello there you", "max_divergence": 0}]})
        status, a = self.d.upload("good", files, selftest=good)
        self.assertEqual((status, [r["passed"] for r in a["report"]["selftest"]]), (201, [True, True]), a)
        for selftest in (wrong, far):
            status, e = self.d.upload("bad", files, selftest=selftest)
            self.assertEqual((status, e["error"]["code"], e["report"]["selftest"][0]["passed"]), (422, "selftest_failed", False), e)
        self.assertEqual(self.d.names(), ["good", "probe"])
        status, a = self.d.new_version("good", make_adapter(2), selftest=wrong, activate="false")  # it may lie there until somebody wants it active
        self.assertEqual((status, a["version"]), (201, 1))
        for _ in range(2):
            status, e = self.d.call("POST", "/v1/adapters/good/activate", {"version": 2})
            self.assertEqual((status, e["error"]["code"]), (422, "selftest_failed"))
            self.assertEqual(self.d.show("good")[1]["version"], 1)
            self.restart()  # the test is kept with the version
        self.assertEqual(self.d.upload("x", files, selftest="{}")[0], 400)


class Events(Stored):
    def read_events(self, n, headers=None, start=None):
        c = http.client.HTTPConnection(self.d.host, self.d.port, timeout=PATIENCE)
        c.request("GET", "/v1/adapters/events", headers=headers or {})
        r = c.getresponse()
        self.assertEqual(r.status, 200)
        r.readline(), r.readline()
        if start:
            start()
        events = []
        while len(events) < n:
            line = r.readline().decode().rstrip("\n")
            if line.startswith("id: "):
                last = line[4:]
            if line.startswith("data: "):
                events.append((last, json.loads(line[6:])))
        c.close()
        return events

    def test_an_upload_that_comes_to_nothing_ends_in_the_events_too(self):
        events = self.read_events(2, start=lambda: threading.Thread(target=lambda: self.d.send("/v1/adapters", [("name", None, b"x"), ("surprise", None, b"y")])).start())
        self.assertEqual([(e["name"], e["state"], e["previous"]) for _, e in events], [("x", "uploading", None), ("x", "refused", "uploading")])

    def test_what_was_never_active_drains_before_it_is_gone(self):
        def work():
            self.d.upload("a", make_adapter(1), activate="false")
            self.d.call("DELETE", "/v1/adapters/a")
        events = self.read_events(5, start=lambda: threading.Thread(target=work).start())
        states = ["uploading", "verifying", "staged", "draining", "gone"]
        self.assertEqual([(e["state"], e["previous"]) for _, e in events], list(zip(states, [None, *states])))

    def test_states_are_streamed_and_replayed(self):
        def work():
            self.d.upload("a", make_adapter(1))
            self.d.new_version("a", make_adapter(2), activate="false")
            self.d.call("POST", "/v1/adapters/a/activate", {"version": 2})
            self.d.call("DELETE", "/v1/adapters/a")
        events = self.read_events(10, start=lambda: threading.Thread(target=work).start())
        seen = [(e["name"], e["version"], e["state"]) for _, e in events]
        for want in (("a", None, "uploading"), ("a", None, "verifying"), ("a", 1, "ready"), ("a", 2, "staged"), ("a", 1, "staged"), ("a", 2, "ready"), ("a", 2, "draining"), ("a", 2, "gone")):
            self.assertIn(want, seen)
        again = self.read_events(7, headers={"Last-Event-ID": events[2][0]})
        self.assertEqual(again, events[3:])
        times = [e["time"] for _, e in events]
        self.assertEqual(times, [round(t, 3) for t in times])  # to the ms, and no digits behind that
        self.assertLess(abs(times[0] - time.time()), 600)


if __name__ == "__main__":
    unittest.main()
