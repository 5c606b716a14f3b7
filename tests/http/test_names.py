# SPDX-License-Identifier: MIT
"""Whose adapters there are for whom, by which names. Foreign is like unknown byte for byte, on every route; what is shared everybody uses and its own tenant changes."""
import concurrent.futures
import functools
import json
import re
import socket
import time
import unittest

from registry_util import make_adapter, multipart, parts_of
from tenant_util import Tenants

BASE = "base"
PROMPT = [1, 5, 9, 17]
JSON = {"Content-Type": "application/json"}
files_of = functools.lru_cache(None)(make_adapter)  # by seed


class Names(unittest.TestCase):
    """acme and beta have an adapter `sql` each, which differ; beta has `secret` and an alias `nick`; `help`, `sql` and the alias `both` are shared."""

    @classmethod
    def setUpClass(cls):
        cls.d = Tenants("--served-name", BASE, "--adapter-root", "/nonexistent-root", "--body-timeout", "600")
        cls.op, cls.acme, cls.beta = cls.d.operator, cls.d.of["acme"], cls.d.of["beta"]

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def setUp(self):
        self.added = []
        for seed, (client, name) in enumerate(((self.op, "help"), (self.op, "sql"), (self.acme, "sql"), (self.beta, "sql"), (self.beta, "secret"))):
            self.upload(client, name, seed)
        self.put(self.op, "both", "sql", "help")
        self.put(self.beta, "nick", "secret")

    def tearDown(self):
        for a in self.op.call("GET", "/v1/aliases")[1]["data"]:
            self.op.call("DELETE", f"/v1/aliases/{a['name']}")
        for name in self.op.names():
            self.assertEqual(self.op.call("DELETE", f"/v1/adapters/{name}")[0], 200)

    def upload(self, client, name, seed, expected=201):
        status, reply = client.upload(name, files_of(seed))
        self.assertEqual(status, expected, reply)
        return reply

    def put(self, client, name, *targets, expected=200):
        status, reply = client.call("PUT", f"/v1/aliases/{name}", {"targets": [{"model": t} for t in targets]})
        self.assertEqual(status, expected, reply)
        return reply

    # ---- one name, two adapters ----

    def test_two_tenants_with_one_name_get_their_own_answers_in_one_batch(self):
        whole = {t: self.op.answer(f"{t}/sql", PROMPT) for t in ("acme", "beta")}
        whole["shared"] = self.op.answer("sql", PROMPT)
        self.assertEqual(len({v for _, v in whole.values()}), 3)
        self.assertNotEqual(whole["acme"][0], whole["beta"][0])
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            got = [(t, pool.submit(self.d.of[t].answer, "sql", PROMPT)) for _ in range(8) for t in ("acme", "beta")]
            for t, reply in got:
                self.assertEqual(reply.result(), whole[t])

    def test_a_reply_names_the_model_as_the_caller_does(self):
        for client, name in ((self.acme, "sql"), (self.acme, "sql@1"), (self.acme, "help"), (self.op, "acme/sql"), (self.beta, "nick")):
            status, reply = client.post({"model": name, "prompt": PROMPT, "max_tokens": 1})
            self.assertEqual((status, reply["model"]), (200, name))

    def test_a_name_means_the_shared_one_until_there_is_an_own_one(self):
        shared = self.op.answer("help", PROMPT)
        self.assertEqual(self.acme.answer("help", PROMPT), shared)
        self.upload(self.acme, "help", 77)
        self.assertNotEqual(self.acme.answer("help", PROMPT)[1], shared[1])
        self.assertEqual(self.beta.answer("help", PROMPT), shared)
        self.assertEqual(self.acme.show("help")[1]["owner"], "acme")
        self.assertEqual(self.acme.call("DELETE", "/v1/adapters/help")[0], 200)
        self.assertEqual(self.acme.answer("help", PROMPT), shared)

    # ---- what is foreign ----

    def requests(self, name):
        """(route as the document has it, method, path, body, headers) of whatever names an adapter or an alias."""
        files = multipart(parts_of(make_adapter(9)))
        prompt, chat = {"prompt": PROMPT, "max_tokens": 1}, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        alias = {"targets": [{"model": name}]}
        plain = [("/v1/completions", prompt), ("/v1/chat/completions", chat), ("/v1/responses", {"input": "x"}), ("/v1/embeddings", {"input": PROMPT}), ("/embedding", {"content": "x"}),
                 ("/embeddings", {"content": "x"}), ("/tokenize", {"prompt": "x"}), ("/v1/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]}), ("/v1/detokenize", {"tokens": [1]}),
                 ("/completion", prompt), ("/completions", prompt), ("/apply-template", {"messages": []})]
        out = [(p, "POST", p, {**b, "model": name}, JSON) for p, b in plain]
        out += [(p, "POST", p, {**b, "model": BASE, "adapters": [{"name": name}]}, JSON) for p, b in plain if "tok" not in p and "template" not in p]
        for p in ("/generate", "/generate_stream", "/"):
            out.append((p, "POST", p, {"inputs": "x", "parameters": {"adapter_id": name}}, JSON))
            out.append((p, "POST", p, {"inputs": "x", "parameters": {"merged_adapters": {"ids": [name], "weights": [1]}}}, JSON))
        for method, body in (("GET", None), ("PATCH", {"pinned": True}), ("DELETE", None)):
            out.append(("/v1/adapters/{name}", method, f"/v1/adapters/{name}", body, JSON))
        out.append(("/v1/adapters/{name}", "DELETE", f"/v1/adapters/{name}@1", None, {}))
        out.append(("/v1/adapters/{name}/versions", "POST", f"/v1/adapters/{name}/versions", files[1], {"Content-Type": files[0]}))
        out.append(("/v1/adapters/{name}/versions", "POST", f"/v1/adapters/{name}/versions?dry_run=true", files[1], {"Content-Type": files[0]}))
        out.append(("/v1/adapters/{name}/activate", "POST", f"/v1/adapters/{name}/activate", {"version": 1}, {**JSON, "If-Match": '"r1"'}))
        out += [(f"/v1/adapters/{{name}}/{a}", "POST", f"/v1/adapters/{name}/{a}", {"version": 1} if a == "activate" else None, JSON) for a in ("activate", "rollback", "verify")]
        out += [("/v1/models/{id}", method, f"/v1/models/{name}", None, {}) for method in ("GET", "DELETE")]
        out += [("/v1/aliases/{name}", "GET", f"/v1/aliases/{name}", None, {"If-None-Match": "*"}), ("/v1/aliases/{name}", "DELETE", f"/v1/aliases/{name}", None, {})]
        out.append(("/v1/aliases/{name}", "PUT", "/v1/aliases/mine", alias, JSON))
        out.append(("/v1/unload_lora_adapter", "POST", "/v1/unload_lora_adapter", {"lora_name": name}, JSON))
        out.append(("/v1/load_lora_adapter", "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": "/nonexistent-root/x"}, JSON))
        out.append(("/v1/admin/merge", "POST", "/v1/admin/merge", {"adapter": name}, JSON))
        return out

    def replies(self, client, name):
        """What the client is told, request by request, but for what tells the time."""
        out = []
        for _, method, path, body, headers in self.requests(name):
            raw = json.dumps(body).encode() if isinstance(body, dict) else body
            status, got, reply = client.request(method, path, raw, {**headers, "x-request-id": "same"})
            kept = sorted((k, v) for k, v in got.items() if k.lower() not in ("date", "openai-processing-ms", "traceparent"))
            out.append((method, path, body if isinstance(body, dict) else None, status, kept, reply))
        return out

    def test_the_list_of_requests_has_every_route_that_names_an_adapter(self):
        document = self.op.call("GET", "/openapi.json")[1]
        named = {(p, m.upper()) for p, item in document["paths"].items() for m in item if m != "parameters" and re.search(r"\{(name|id)\}", p) and "/admin/" not in p}
        inference = {(p, m.upper()) for p, item in document["paths"].items() for m in item if m == "post" and item[m]["security"] in ([{"key": ["infer"]}], [{"key": ["merge"]}])}
        covered = {(r[0], r[1]) for r in self.requests("x")}
        self.assertEqual((named | inference) - covered, set())

    def test_what_is_foreign_is_answered_like_what_is_unknown_byte_for_byte(self):
        names = ["secret", "beta/secret", "beta/sql", "nick", "beta/nick", "beta/secret@1", "secret@1"]
        before = {n: self.replies(self.acme, n) for n in names}
        for name in ("sql", "secret"):
            self.assertIn(f"beta/{name}", self.op.names())
        self.assertEqual(self.beta.call("DELETE", "/v1/aliases/nick")[0], 200)
        for name in ("sql", "secret"):
            self.assertEqual(self.beta.call("DELETE", f"/v1/adapters/{name}")[0], 200)
        for n in names:
            for foreign, unknown in zip(before[n], self.replies(self.acme, n)):
                self.assertEqual(foreign, unknown)
                _, path, _, status, _, reply = foreign
                self.assertNotIn("acme/", reply.decode())
                self.assertGreaterEqual(status, 400, foreign)
                if self.is_inference(path):
                    self.assertEqual(status, 404, foreign)

    @staticmethod
    def is_inference(path):
        return not path.startswith(("/v1/adapters", "/v1/aliases", "/v1/models", "/v1/load", "/v1/unload", "/v1/admin"))

    def test_whose_it_is_finds_it_by_the_same_requests(self):
        for _, path, body, status, _, reply in self.replies(self.beta, "nick"):
            if self.is_inference(path):
                self.assertNotEqual(status, 404, (path, body, reply))

    def test_ids_of_foreign_adapters_are_unknown_ones(self):
        ids = {a["path"]: a["id"] for a in self.op.call("GET", "/lora-adapters")[1]}
        self.assertEqual({a["path"] for a in self.acme.call("GET", "/lora-adapters")[1]}, {"help", "sql"})
        self.assertIn(ids["acme/sql"], [a["id"] for a in self.acme.call("GET", "/lora-adapters")[1]])
        self.assertNotIn(ids["beta/secret"], [a["id"] for a in self.acme.call("GET", "/lora-adapters")[1]])
        secret = ids["beta/secret"]

        def ask():
            lora = [{"id": secret, "scale": 1}]
            return [self.acme.post({"prompt": PROMPT, "n_predict": 1, "lora": lora}, "/completion"), self.acme.post(lora, "/lora-adapters"),
                    self.acme.post({"model": BASE, "prompt": PROMPT, "max_tokens": 1, "lora": lora})]
        before = ask()
        self.assertEqual(self.beta.call("DELETE", "/v1/aliases/nick")[0], 200)
        self.assertEqual(self.beta.call("DELETE", "/v1/adapters/secret")[0], 200)
        self.assertEqual(before, ask())
        self.assertEqual([status for status, _ in before], [400] * 3)

    # ---- lists ----

    def test_lists_have_own_and_shared_names_and_the_operators_all_of_them(self):
        everything = ["acme/sql", "beta/secret", "beta/sql", "help", "sql"]
        self.assertEqual(self.op.names(), everything)
        self.assertEqual(self.acme.names(), ["help", "sql"])
        self.assertEqual(self.beta.names(), ["help", "secret", "sql"])
        for path in ("/v1/models", "/models"):
            self.assertEqual([m["id"] for m in self.acme.call("GET", path)[1]["data"]], [BASE, "both", "help", "sql"])
            self.assertEqual([m["id"] for m in self.beta.call("GET", path)[1]["data"]], [BASE, "both", "help", "nick", "secret", "sql"])
            self.assertEqual({m["id"] for m in self.op.call("GET", path)[1]["data"]}, {BASE, "both", "beta/nick", *everything})
        self.assertEqual([(a["name"], a["owner"]) for a in self.beta.call("GET", "/v1/aliases")[1]["data"]], [("both", "default"), ("nick", "beta")])
        self.assertEqual({a["name"]: a["owner"] for a in self.beta.call("GET", "/v1/adapters")[1]["data"]}, {"help": "default", "secret": "beta", "sql": "beta"})

    def test_pages_of_a_tenant_follow_one_another(self):
        for i, name in enumerate(("a/b", "m", "z")):
            self.upload(self.acme, name, 20 + i)
        got, after = [], ""
        while True:
            page = self.acme.call("GET", f"/v1/adapters?limit=2&after={after}")[1]
            got += [a["name"] for a in page["data"]]
            self.assertEqual(page["last_id"], got[-1])
            after = page["last_id"]
            if not page["has_more"]:
                break
        self.assertEqual(got, ["a/b", "help", "m", "sql", "z"])
        self.assertEqual([a["name"] for a in self.acme.call("GET", "/v1/adapters?prefix=a/")[1]["data"]], ["a/b"])
        self.assertEqual(self.acme.call("GET", "/v1/adapters?prefix=acme")[1]["data"], [])

    def test_replies_to_changes_have_the_callers_name(self):
        reply = self.upload(self.acme, "new", 30)
        self.assertEqual((reply["name"], reply["owner"], self.acme.headers["Location"]), ("new", "acme", "/v1/adapters/new"))
        self.assertEqual(self.op.show("acme/new")[1]["name"], "acme/new")
        self.assertEqual(self.acme.call("DELETE", "/v1/adapters/new")[1]["name"], "new")
        self.upload(self.op, "acme/given", 31)
        self.assertEqual(self.acme.show("given")[1]["owner"], "acme")
        self.assertEqual(self.acme.call("DELETE", "/v1/models/given")[1]["id"], "given")

    # ---- events ----

    def test_events_of_others_are_not_told(self):
        start = self.op.events()
        self.upload(self.acme, "mark", 39)
        mark = next(start)[0]
        streams = {c: c.events({"Last-Event-ID": mark}) for c in (self.op, self.acme, self.beta)}
        self.upload(self.beta, "hidden", 40)
        self.upload(self.acme, "own", 41)
        self.upload(self.op, "last", 42)

        def until_last(stream):
            seen = set()
            for _, e in stream:
                if e["name"] not in ("mark", "acme/mark"):
                    seen.add(e["name"])
                if e["name"] == "last" and e["state"] == "ready":
                    return seen
            return seen
        expected = {self.op: {"beta/hidden", "acme/own", "last"}, self.acme: {"own", "last"}, self.beta: {"hidden", "last"}}
        self.assertEqual({c: until_last(s) for c, s in streams.items()}, expected)
        self.assertEqual({c: until_last(c.events({"Last-Event-ID": mark})) for c in expected}, expected)  # and again, as they are kept

    def test_events_end_with_the_key_that_follows_them(self):
        gone = {
            "revoked": lambda c: self.op.call("PATCH", f"/v1/admin/keys/{c.id}", {"revoked": True}),
            "removed": lambda c: self.op.call("DELETE", f"/v1/admin/keys/{c.id}"),
            "narrowed": lambda c: self.op.call("PATCH", f"/v1/admin/keys/{c.id}", {"verbs": ["infer"]}),
        }
        for how, end in gone.items():
            with self.subTest(how):
                client = self.d.new_client("acme")
                stream = client.events()
                self.upload(self.acme, f"before-{how}", 61)
                self.assertEqual(next(stream)[1]["name"], f"before-{how}")
                self.assertEqual(end(client)[0], 200)
                self.upload(self.acme, f"after-{how}", 62)
                self.assertFalse([e for _, e in stream if e["name"] != f"before-{how}"])  # and it ends

    # ---- one tenant leaves room for another ----

    def begin_upload(self, client):
        """The socket of an upload that stops in the middle."""
        kind, body = multipart(parts_of(files_of(0), name="half"))
        s = socket.create_connection((self.d.host, self.d.port), timeout=60)
        s.sendall(f"POST /v1/adapters HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {client.key}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:900])
        return s

    def status(self, s):
        """That was answered, or None."""
        s.settimeout(0.05)
        try:
            return int(s.recv(4096).split()[1])
        except TimeoutError:
            return None

    def test_uploads_that_do_not_end_leave_room_for_other_tenants(self):
        begun = [self.begin_upload(self.acme) for _ in range(9)]
        for _ in range(2):
            self.d.get("/health")  # the second comes on a connection that is read after all of theirs
        self.assertEqual({self.status(s) for s in begun}, {None, 503})
        self.upload(self.beta, "through", 70)
        self.upload(self.op, "through", 71)
        for s in begun:
            s.close()

    def test_streams_of_events_leave_room_for_other_tenants(self):
        begun = []

        def follow(client):
            s = socket.create_connection((self.d.host, self.d.port), timeout=60)
            s.sendall(f"GET /v1/adapters/events HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {client.key}\r\n\r\n".encode())
            begun.append(s)
            return int(s.recv(4096).split()[1])
        self.assertIn(503, [follow(self.acme) for _ in range(256)])
        self.assertEqual([follow(self.beta), follow(self.op)], [200, 200])
        for s in begun:
            s.close()

    # ---- what is shared ----

    def test_what_is_shared_nobody_but_its_tenant_changes(self):
        before = self.op.show("help")[1]
        files = files_of(50)
        for status, reply in (self.acme.new_version("help", files), self.acme.call("PATCH", "/v1/adapters/help", {"pinned": True}), self.acme.call("DELETE", "/v1/adapters/help"),
                              self.acme.call("DELETE", "/v1/adapters/help@1"), self.acme.call("POST", "/v1/adapters/help/activate", {"version": 1}), self.acme.call("POST", "/v1/adapters/help/rollback"),
                              self.acme.call("DELETE", "/v1/models/help"), self.acme.call("DELETE", "/v1/aliases/both")):
            self.assertEqual((status, reply["error"]["code"]), (403, "not_owner"), reply)
        self.assertEqual(self.acme.call("POST", "/v1/unload_lora_adapter", {"lora_name": "help"})[0], 403)
        self.assertEqual(self.op.show("help")[1], before)
        self.assertEqual(self.acme.call("POST", "/v1/adapters/help/verify")[0], 200)  # which reads
        shared = self.d.new_client("default")  # not the operator, but of the tenant
        self.assertEqual(shared.names(), ["help", "sql"])
        self.assertEqual(shared.call("PATCH", "/v1/adapters/help", {"pinned": True})[0], 200)
        self.assertEqual(shared.show("acme/sql")[0], 404)

    # ---- new names ----

    def test_names_that_cannot_be(self):
        self.assertEqual(self.acme.upload(BASE, files_of(60))[0], 409)
        self.put(self.acme, BASE, "sql", expected=409)
        for n, status in ((123, 201), (124, 400), (128, 400)):
            got, reply = self.acme.upload("n" * n, files_of(61))
            self.assertEqual(got, status, reply)
        self.assertIn("123 bytes", reply["error"]["message"])
        for name in ("", "/x", "a//b", "../x", "x y"):
            status, reply = self.acme.upload(name, files_of(62))
            self.assertEqual(status, 400)
            self.assertNotIn("acme", reply["error"]["message"])
        shared = self.d.new_client("default")
        self.assertEqual(shared.upload("beta/x", files_of(63))[0], 400)
        self.assertEqual(shared.upload("gamma/x", files_of(63))[0], 201)
        self.assertEqual(self.op.call("POST", "/v1/admin/tenants", {"name": "gamma"})[0], 409)
        self.assertEqual(self.acme.show("gamma/x")[1]["owner"], "default")

    def test_paths_and_addresses_are_the_operators(self):
        for c in (self.acme, self.d.new_client("default")):
            for body in ({"name": "x", "path": "/nonexistent-root/x"}, {"name": "x", "url": "https://localhost/x"}):
                self.assertEqual(c.call("POST", "/v1/adapters", body)[0], 403)
            self.assertEqual(c.call("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/nonexistent-root/x"})[0], 403)
        self.assertNotEqual(self.op.call("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/nonexistent-root/x"})[0], 403)

    def test_a_conflict_is_one_with_an_own_name(self):
        self.upload(self.acme, "secret", 70)  # beta has one
        self.upload(self.acme, "both", 71)    # an alias that is shared
        self.upload(self.acme, "secret", 72, expected=409)
        self.put(self.acme, "sql", "help", expected=409)

    def test_what_a_tenant_was_sending_when_it_went_belongs_to_nobody(self):
        self.d.add_tenant("brief")
        client = self.d.new_client("brief")
        kind, body = multipart(parts_of(files_of(65), name="x"))
        with socket.create_connection((self.d.host, self.d.port), timeout=60) as s:
            s.sendall(f"POST /v1/adapters HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {client.key}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            s.sendall(body[:1000])
            end = time.monotonic() + 60
            while [a["name"] for a in self.op.call("GET", "/v1/adapters?state=uploading")[1]["data"]] != ["brief/x"]:
                self.assertLess(time.monotonic(), end)
            self.assertEqual(self.acme.call("GET", "/v1/adapters?state=uploading")[1]["data"], [])
            heard = self.acme.events()
            for key in self.op.call("GET", "/v1/admin/keys?tenant=brief")[1]["data"]:
                self.assertEqual(self.op.call("DELETE", f"/v1/admin/keys/{key['id']}")[0], 200)
            self.assertEqual(self.op.call("DELETE", "/v1/admin/tenants/brief")[0], 200)
            self.assertEqual(self.acme.call("GET", "/v1/adapters?state=uploading")[1]["data"], [])
            s.sendall(body[1000:])
            reply = b""
            while more := s.recv(65536):
                reply += more
        self.assertTrue(reply.startswith(b"HTTP/1.1 404 "), reply)
        self.assertIn(b"tenant_not_found", reply)
        self.assertNotIn("brief/x", self.op.names())
        self.upload(self.acme, "own", 66)
        self.assertEqual(next(heard)[1]["name"], "own")

    def test_what_a_tenant_asked_for_before_it_went_is_not_of_one_with_its_name(self):
        self.d.add_tenant("renewed")
        old = self.d.new_client("renewed")
        targets = {"targets": [{"model": "help"}]}
        calls = (("PUT", "/v1/aliases/al", targets, 404), ("PATCH", "/v1/adapters/x", {"pinned": True}, 404), ("POST", "/v1/completions", {"model": "x", "prompt": PROMPT, "max_tokens": 1}, 404),
                 ("POST", "/v1/adapters/x/rollback", {}, 404), ("POST", "/v1/admin/merge", {"adapter": "x"}, 404))
        begun = []
        for method, path, body, _ in calls:
            raw = json.dumps(body).encode().ljust(200)
            s = socket.create_connection((self.d.host, self.d.port), timeout=60)
            s.sendall(f"{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {old.key}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
                      "Expect: 100-continue\r\n\r\n".encode())
            self.assertTrue(s.recv(1000).startswith(b"HTTP/1.1 100 "))  # it was let in
            begun.append((s, raw))
        for key in self.op.call("GET", "/v1/admin/keys?tenant=renewed")[1]["data"]:
            self.assertEqual(self.op.call("DELETE", f"/v1/admin/keys/{key['id']}")[0], 200)
        self.assertEqual(self.op.call("DELETE", "/v1/admin/tenants/renewed")[0], 200)
        self.d.add_tenant("renewed")
        self.upload(self.d.of["renewed"], "x", 67)
        before = self.op.show("renewed/x")[1]
        for (s, raw), (_, path, _, status) in zip(begun, calls):
            s.sendall(raw)
            reply = s.makefile("rb").read()
            s.close()
            self.assertEqual(int(reply.split()[1]), status, (path, reply))
        self.assertEqual(self.op.show("renewed/x")[1], before)
        self.assertEqual([a["name"] for a in self.op.call("GET", "/v1/aliases")[1]["data"]], ["beta/nick", "both"])

    # ---- aliases ----

    def test_an_alias_lives_in_its_tenants_namespace(self):
        own, foreign = self.acme.answer("sql", PROMPT), self.op.answer("beta/secret", PROMPT)
        reply = self.put(self.acme, "nick", "sql", "help@1")
        self.assertEqual(([t["model"] for t in reply["targets"]], reply["owner"]), (["sql", "help@1"], "acme"))
        self.put(self.acme, "nick", "sql")
        self.assertEqual(self.acme.answer("nick", PROMPT), own)
        self.assertEqual(self.beta.answer("nick", PROMPT), foreign)
        whole = self.op.call("GET", "/v1/aliases/acme/nick")[1]
        self.assertEqual([t["model"] for t in whole["targets"]], ["acme/sql"])
        self.put(self.acme, "bad", "secret", expected=422)
        self.put(self.op, "bad", "acme/sql", expected=422)       # shared, and its target would be, too
        self.put(self.op, "acme/bad", "beta/secret", expected=422)
        self.put(self.op, "acme/good", "acme/sql", "help")
        self.assertEqual([t["model"] for t in self.acme.call("GET", "/v1/aliases/good")[1]["targets"]], ["sql", "help"])

    # ---- keys for some names ----

    def test_what_is_not_among_a_keys_names_is_not_there(self):
        c = self.d.new_client("beta", adapters=["s*"])
        self.assertEqual(c.names(), ["secret", "sql"])
        self.assertEqual([m["id"] for m in c.call("GET", "/v1/models")[1]["data"]], ["secret", "sql"])
        self.assertEqual([a["path"] for a in c.call("GET", "/lora-adapters")[1]], ["sql", "sql", "secret"])
        c.answer("sql", PROMPT)
        c.answer("sql@1", PROMPT)
        for n in ("help", "nick", BASE):
            self.assertEqual(c.post({"model": n, "prompt": PROMPT, "max_tokens": 1})[0], 404)
            self.assertEqual(c.call("GET", f"/v1/models/{n}")[0], 404)
        self.assertEqual(c.post({"prompt": PROMPT, "n_predict": 1}, "/completion")[0], 404)  # which would be the base
        outside = self.replies(c, "help")
        self.assertEqual(self.op.call("DELETE", "/v1/aliases/both")[0], 200)
        self.assertEqual(self.op.call("DELETE", "/v1/adapters/help")[0], 200)
        self.assertEqual(outside, self.replies(c, "help"))
        self.assertEqual(c.upload("other", files_of(80))[0], 403)
        self.upload(c, "some", 81)

    def test_a_version_that_answers_at_once_needs_the_verb_activate(self):
        c = self.d.new_client("acme", verbs=["upload", "list"])
        self.upload(c, "mine", 90)  # nobody else's answer changes by a new name
        self.assertEqual(c.new_version("mine", files_of(91))[0], 403)
        self.assertEqual(c.new_version("mine", files_of(91), activate="false")[0], 201)
        self.assertEqual(c.call("POST", "/v1/adapters/mine/activate", {"version": 2})[0], 403)
        a = self.d.new_client("acme", verbs=["activate"])
        self.assertEqual(a.call("POST", "/v1/adapters/mine/activate", {"version": 2})[0], 200)
        self.assertEqual(a.call("POST", "/v1/adapters/mine/rollback")[0], 200)

    # ---- what else is a tenant's own ----

    def test_no_tenant_finds_the_prefix_of_anothers_prompt(self):
        prompt = [3 + i * 7 % 200 for i in range(100)]

        def cached(client, model):
            status, reply = client.post({"model": model, "prompt": prompt, "max_tokens": 1})
            self.assertEqual(status, 200, reply)
            return reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        for model in (BASE, "help"):
            for client in (self.acme, self.beta, self.op):
                self.assertEqual(cached(client, model), 0)
                self.assertGreater(cached(client, model), 0)

    def test_a_tenant_that_is_made_again_finds_nothing_of_the_one_before_it(self):
        prompt = [5 + i * 11 % 200 for i in range(100)]

        def use(client):
            status, reply = client.post({"model": BASE, "prompt": prompt, "max_tokens": 1})
            self.assertEqual(status, 200, reply)
            return reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        for _ in range(2):
            self.d.add_tenant("again")
            client = self.d.new_client("again")
            usage = f"/v1/organization/usage/completions?start_time={int(time.time())}&group_by=api_key_id"
            self.assertEqual([b["results"] for b in client.call("GET", usage)[1]["data"]], [[]])
            self.assertEqual(use(client), 0)
            self.assertGreater(use(client), 0)
            counted = client.call("GET", usage)[1]["data"][0]["results"]
            self.assertEqual([(r["api_key_id"], r["num_model_requests"]) for r in counted], [(client.id, 2)])
            self.assertEqual(self.op.call("PATCH", f"/v1/admin/keys/{self.d.of['again'].key[6:18]}", {"revoked": True})[0], 200)
            self.assertEqual(self.op.call("PATCH", f"/v1/admin/keys/{client.id}", {"revoked": True})[0], 200)
            self.assertEqual(self.op.call("DELETE", "/v1/admin/tenants/again")[0], 200)
        rows = self.op.call("GET", f"/v1/organization/usage/completions?start_time={int(time.time()) - 86400}&project_ids=again")[1]["data"]
        self.assertEqual(sum(r["num_model_requests"] for b in rows for r in b["results"]), 4, "the operator sees both")

    def test_what_answers_requests_that_name_nothing_is_set_by_tenant(self):
        ids = {a["path"]: a["id"] for a in self.op.call("GET", "/lora-adapters")[1]}
        ask = {"prompt": PROMPT, "n_predict": 8, "temperature": 0, "ignore_eos": True, "return_tokens": True}
        plain = self.acme.post(ask, "/completion")[1]["tokens"]
        own = self.acme.answer("sql", PROMPT)[0]
        self.assertNotEqual(plain, own)
        self.assertEqual(self.acme.post([{"id": ids["acme/sql"], "scale": 1}], "/lora-adapters")[0], 200)
        self.assertEqual(self.acme.post(ask, "/completion")[1]["tokens"], own)
        self.assertEqual(self.beta.post(ask, "/completion")[1]["tokens"], plain)
        self.assertEqual(self.op.post(ask, "/completion")[1]["tokens"], plain)
        self.assertEqual([a["scale"] for a in self.beta.call("GET", "/lora-adapters")[1]], [0] * 4)
        self.assertEqual(self.acme.post([], "/lora-adapters")[0], 200)

    def test_a_tenant_merges_what_it_sees_and_hears_nothing_of_what_others_merged(self):
        self.assertEqual(self.beta.call("POST", "/v1/admin/merge", {"adapter": "secret"}), (200, {"adapter": "secret", "state": "merged"}))
        self.assertEqual(self.acme.call("POST", "/v1/admin/merge", {"adapter": None}), (200, {"adapter": None, "state": "unmerged"}))
        self.assertTrue(self.beta.show("secret")[1]["merged"])
        self.assertEqual(self.op.call("POST", "/v1/admin/merge", {"adapter": None}), (200, {"adapter": None, "state": "unmerged"}))
        self.assertFalse(self.beta.show("secret")[1]["merged"])


if __name__ == "__main__":
    unittest.main()
