# SPDX-License-Identifier: MIT
"""Limits of tenants and keys: refusals that clients understand, and everything given back that was not used."""
import json
import os
import tempfile
import threading
import unittest

from daemon import TINY, Daemon, wait_until
from registry_util import make_adapter
from tenant_util import Tenants

MODEL = os.path.join(TINY, "models", "llama-gqa")
JSON = {"Content-Type": "application/json"}
# Each route that computes or reads texts, with a body that it takes.
ROUTES = {
    "/v1/completions": {"model": "llama-gqa", "prompt": [5, 6], "max_tokens": 2}, "/v1/chat/completions": {"model": "llama-gqa", "messages": []}, "/v1/responses": {"model": "llama-gqa", "input": "a"},
    "/v1/embeddings": {"model": "llama-gqa", "input": [5, 6]}, "/embedding": {"content": [5]}, "/embeddings": {"content": [5]}, "/tokenize": {"prompt": "a"}, "/v1/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]}, "/v1/detokenize": {"tokens": [5]}, "/completion": {"prompt": [5], "n_predict": 1}, "/completions": {"prompt": [5], "n_predict": 1},
    "/generate": {"inputs": "a"}, "/generate_stream": {"inputs": "a"}, "/": {"inputs": "a"}, "/apply-template": {"messages": []},
}


class LimitsTest(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(MODEL, *cls.options, adapters=("qv",))

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def setUp(self):
        self.put()

    def call(self, method, path, body=None, key=None):
        """(status, headers, parsed reply)"""
        headers = dict(JSON) if body is not None else {}
        if key:
            headers["Authorization"] = "Bearer " + key
        status, got, reply = self.daemon.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        return status, got, json.loads(reply) if got.get("Content-Type", "").startswith("application/json") else reply

    def put(self, of="tenants/default", key=None, **limits):
        status, _, reply = self.call("PUT", "/v1/admin/limits/" + of, limits, key)
        self.assertEqual(status, 200, reply)
        self.assertEqual(reply["limits"], limits)
        return reply

    def use(self, of="tenants/default", key=None):
        return self.call("GET", "/v1/admin/limits/" + of, key=key)[2]["use"]

    def complete(self, prompt=4, max_tokens=2, key=None, **more):
        body = {"model": "llama-gqa", "prompt": list(range(5, 5 + prompt)), "temperature": 0, "ignore_eos": True, **more}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        return self.call("POST", "/v1/completions", body, key)

    def open_stream(self, **fields):
        """A socket whose stream has begun; the request goes on for as long as the context."""
        s = self.daemon.open_request({"model": "llama-gqa", "prompt": [5, 6, 7, 8], "stream": True, "ignore_eos": True, "temperature": 0, **fields})
        self.addCleanup(s.close)
        got = b""
        while b"data: " not in got:
            got += s.recv(4096)
        return s

    def check_refusal(self, status, headers, code, longest_ms):
        self.assertEqual(status, 429)
        ms = int(headers["retry-after-ms"])
        self.assertTrue(0 < ms <= longest_ms, ms)
        self.assertEqual(int(headers["Retry-After"]), (ms + 999) // 1000)
        self.assertEqual(headers["x-should-retry"], "false" if code == "insufficient_quota" else None)


class Requests(LimitsTest):
    def test_requests_come_from_a_bucket_and_the_headers_tell_what_is_left(self):
        self.put(requests_per_minute=3)
        for left in (2, 1, 0):
            status, headers, _ = self.complete()
            self.assertEqual((status, headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]), (200, "3", str(left)))
            self.assertRegex(headers["x-ratelimit-reset-requests"], r"^\d+(\.\d+)?s$|^1m0s$")
            self.assertIsNone(headers["x-ratelimit-limit-tokens"])
        status, headers, reply = self.complete()
        self.check_refusal(status, headers, "rate_limit_exceeded", 20000)
        self.assertEqual(headers["x-ratelimit-remaining-requests"], "0")
        self.assertEqual((reply["error"]["type"], reply["error"]["code"]), ("rate_limit_error", "rate_limit_exceeded"))
        self.assertRegex(reply["error"]["message"], r"^The tenant's limit of 3 requests per minute is reached; try again in [\d.ms]+\.$")

    def test_every_route_that_works_for_its_sender_counts_and_refuses_in_its_own_form(self):
        for path, body in ROUTES.items():
            with self.subTest(path):
                self.put()
                self.put(requests_per_minute=1)
                status, headers, _ = self.call("POST", path, body)
                self.assertLess(status, 500)
                self.assertEqual(headers["x-ratelimit-remaining-requests"], "0")
                status, headers, reply = self.call("POST", path, body)
                self.check_refusal(status, headers, "rate_limit_exceeded", 60000)
                text = reply["error"] if isinstance(reply["error"], str) else reply["error"]["message"]
                self.assertIn("1 requests per minute", text)

    def test_without_limits_there_are_no_headers(self):
        status, headers, _ = self.complete()
        self.assertEqual((status, [h for h in headers if h.lower().startswith("x-ratelimit")]), (200, []))

    def test_only_so_many_requests_at_a_time(self):
        self.put(concurrent_requests=2)
        first, _ = self.open_stream(max_tokens=500), self.open_stream(max_tokens=500)
        status, headers, _ = self.complete()
        if self.use()["concurrent_requests"] == 2:  # a fast machine may have finished one already
            self.check_refusal(status, headers, "rate_limit_exceeded", 1000)
        first.close()
        wait_until(lambda: self.complete()[0] == 200, "a place that a client left is free")
        wait_until(lambda: self.use()["concurrent_requests"] == 0, "all places are free in the end")

    def test_what_is_wrong_with_a_request_gives_its_tokens_back(self):
        self.put(prompt_tokens_per_minute=100, generated_tokens_per_minute=100, concurrent_requests=5)
        for body in ({"model": "nobody", "prompt": [5]}, {"model": "llama-gqa", "prompt": [5], "temperature": 9}, {"model": "llama-gqa", "prompt": []}):
            self.assertIn(self.call("POST", "/v1/completions", body)[0], (400, 404))
        self.assertEqual(self.daemon.request("POST", "/v1/completions", b"{", JSON)[0], 400)
        use = self.use()
        self.assertEqual((use["prompt_tokens_per_minute"], use["generated_tokens_per_minute"], use["concurrent_requests"]), (0, 0, 0))


class Tokens(LimitsTest):
    def test_prompts_and_answers_come_from_buckets_of_their_own(self):
        self.put(prompt_tokens_per_minute=1000, generated_tokens_per_minute=50)
        status, headers, reply = self.complete(max_tokens=45)
        self.assertEqual((status, reply["usage"]["completion_tokens"]), (200, 45))
        self.assertEqual((headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]), ("50", "5"))  # the bucket with the least left
        status, headers, reply = self.complete(max_tokens=45)
        self.check_refusal(status, headers, "rate_limit_exceeded", 60000)
        self.assertIn("generated tokens per minute", reply["error"]["message"])
        self.assertEqual(self.call("POST", "/v1/embeddings", {"model": "llama-gqa", "input": [[5] * 400, [6] * 400]})[0], 200)
        status, headers, reply = self.call("POST", "/v1/embeddings", {"model": "llama-gqa", "input": [[5] * 400, [6] * 400]})
        self.check_refusal(status, headers, "rate_limit_exceeded", 60000)
        self.assertIn("prompt tokens per minute", reply["error"]["message"])

    def test_what_can_never_fit_is_no_429(self):
        self.put(prompt_tokens_per_minute=10, generated_tokens_per_minute=100)
        for fields in ({"prompt": 11}, {"max_tokens": 101}, {"max_tokens": 30, "n": 4}, {"max_tokens": 30, "best_of": 4}):
            status, _, reply = self.complete(**fields)
            self.assertEqual((status, reply["error"]["code"]), (400, "request_too_large"), fields)
        self.assertEqual(self.complete(max_tokens=30, n=3)[0], 200)
        status, _, reply = self.call("POST", "/v1/completions", {"model": "llama-gqa", "prompt": [[5] * 6, [6] * 5], "max_tokens": 1})
        self.assertEqual((status, reply["error"]["code"]), (400, "request_too_large"))

    def test_who_leaves_gets_back_what_was_not_generated(self):
        self.put(generated_tokens_per_minute=64000)
        before = self.use()["generated_tokens_per_day"]
        s = self.open_stream(max_tokens=500, n=128)  # seconds of work
        self.assertEqual(self.use()["generated_tokens_per_day"] - before, 64000)
        s.close()
        wait_until(lambda: self.use()["concurrent_requests"] == 0, "the request ends")
        used = self.use()["generated_tokens_per_day"] - before
        self.assertTrue(0 < used < 64000, used)
        self.assertEqual(self.complete(max_tokens=min(500, 64000 - used))[0], 200)

    def test_a_stop_string_gives_the_rest_back(self):
        text = self.complete(max_tokens=3)[2]["choices"][0]["text"]
        self.put(generated_tokens_per_minute=100)
        before = self.use()["generated_tokens_per_day"]
        for _ in range(3):
            status, _, reply = self.complete(max_tokens=100, stop=text[:1] or None)
            if status == 429:
                break
            self.assertEqual(status, 200, reply)
            before += reply["usage"]["completion_tokens"]
        self.assertEqual(self.use()["generated_tokens_per_day"], before)

    def test_max_tokens_is_refused_when_said_and_bounds_what_is_not_said(self):
        self.put(max_tokens=7)
        status, _, reply = self.complete(max_tokens=8)
        self.assertEqual((status, reply["error"]["param"]), (400, "max_tokens"))
        self.assertIn("limit is 7", reply["error"]["message"])
        self.assertEqual(self.complete(max_tokens=7)[2]["usage"]["completion_tokens"], 7)
        self.assertEqual(self.complete(max_tokens=None)[2]["usage"]["completion_tokens"], 7)
        reply = self.call("POST", "/completion", {"prompt": [5, 6], "n_predict": -1, "ignore_eos": True})[2]
        self.assertEqual(reply["tokens_predicted"], 7)

    def test_the_context_is_a_smaller_one(self):
        self.put(context=12)
        status, _, reply = self.complete(prompt=13, max_tokens=1)
        self.assertEqual((status, reply["error"]["code"]), (400, "context_length_exceeded"))
        self.assertIn("12 tokens by the limit of this tenant", reply["error"]["message"])
        self.assertEqual(self.complete(prompt=10, max_tokens=3)[0], 400)
        reply = self.call("POST", "/completion", {"prompt": [5] * 8, "n_predict": -1, "ignore_eos": True})[2]
        self.assertEqual(reply["tokens_predicted"], 4)

    def test_streams_are_refused_before_they_begin_and_have_the_headers(self):
        self.put(requests_per_minute=1)
        body = {"model": "llama-gqa", "prompt": [5, 6], "max_tokens": 2, "stream": True}
        status, headers, _ = self.call("POST", "/v1/completions", body)
        self.assertEqual((status, headers["x-ratelimit-remaining-requests"]), (200, "0"))
        status, headers, reply = self.call("POST", "/v1/completions", body)
        self.check_refusal(status, headers, "rate_limit_exceeded", 60000)
        self.assertEqual(reply["error"]["code"], "rate_limit_exceeded")


class Days(unittest.TestCase):
    def test_a_days_quota_is_not_tried_again_and_survives_a_restart(self):
        with tempfile.TemporaryDirectory() as state:
            for _ in range(2):
                daemon = Daemon(MODEL, "--state-dir", state)
                t = LimitsTest()
                t.daemon = daemon
                t.put(generated_tokens_per_day=20)
                used = t.use()["generated_tokens_per_day"]
                if not used:
                    self.assertEqual(t.complete(max_tokens=15)[0], 200)
                status, headers, reply = t.complete(max_tokens=10)
                t.check_refusal(status, headers, "insufficient_quota", 86400000)
                self.assertEqual(reply["error"]["code"], "insufficient_quota")
                self.assertEqual(t.use()["generated_tokens_per_day"], 15)
                self.assertEqual(t.complete(max_tokens=21)[0], 400)
                daemon.stop()


class Keys(LimitsTest):
    """Two tenants, and keys of theirs."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        t = cls()
        cls.admin = t.call("POST", "/v1/admin/keys", {"verbs": ["admin", "infer", "list"]})[2]["key"]
        t.call("POST", "/v1/admin/tenants", {"name": "acme"}, cls.admin)
        made = t.call("POST", "/v1/admin/keys", {"tenant": "acme"}, cls.admin)[2]
        cls.key, cls.id = made["key"], made["id"]
        cls.other = t.call("POST", "/v1/admin/keys", {"tenant": "acme"}, cls.admin)[2]["key"]

    def setUp(self):
        for of in ("tenants/acme", "keys/" + self.id):
            self.put(of, self.admin)

    def test_the_tenants_limit_is_for_all_its_keys_and_a_refusal_takes_nothing(self):
        self.put("tenants/acme", self.admin, requests_per_minute=5)
        self.put("keys/" + self.id, self.admin, requests_per_minute=2)
        self.assertEqual([self.complete(key=self.key)[0] for _ in range(3)], [200, 200, 429])
        self.assertIn("The key's limit of 2", self.complete(key=self.key)[2]["error"]["message"])
        self.assertEqual([self.complete(key=self.other)[0] for _ in range(4)], [200, 200, 200, 429])
        self.assertIn("The tenant's limit of 5", self.complete(key=self.other)[2]["error"]["message"])
        self.assertEqual(self.complete(key=self.admin)[0], 200)

    def test_limits_are_checked_listed_and_the_operators(self):
        for body, param in (({"requests": 1}, "requests"), ({"context": 0}, "context"), ({"max_tokens": "1"}, "max_tokens"), ({"bytes_resident": 5}, "bytes_resident")):
            status, _, reply = self.call("PUT", "/v1/admin/limits/keys/" + self.id, body, self.admin)
            self.assertEqual((status, reply["error"]["param"]), (400, param))
        self.assertEqual(self.call("PUT", "/v1/admin/limits/keys/" + self.id, [], self.admin)[0], 400)
        for of in ("tenants/nobody", "keys/0123456789ab"):
            self.assertEqual(self.call("PUT", "/v1/admin/limits/" + of, {}, self.admin)[0], 404)
            self.assertEqual(self.call("GET", "/v1/admin/limits/" + of, None, self.admin)[0], 404)
        self.assertEqual(self.call("PUT", "/v1/admin/limits/tenants/acme", {}, self.key)[0], 403)
        self.put("tenants/acme", self.admin, bytes_resident=1000, max_tokens=5)
        everything = self.call("GET", "/v1/admin/limits", None, self.admin)[2]["data"]
        self.assertEqual([(e["tenant"], e["key"] is None) for e in everything], [("default", True), ("acme", True), ("default", False), ("acme", False), ("acme", False)])
        self.assertEqual(everything[1]["limits"], {"bytes_resident": 1000, "max_tokens": 5})
        paged, after = [], ""
        while True:
            page = self.call("GET", f"/v1/admin/limits?limit=2&after={after}", None, self.admin)[2]
            paged += page["data"]
            after = paged[-1]["id"]
            if not page["has_more"]:
                break
        self.assertEqual([e["id"] for e in paged], [e["id"] for e in everything])
        self.assertIs(self.call("GET", "/v1/admin/limits?tenant=default&limit=2", None, self.admin)[2]["has_more"], False)  # what follows is another tenant's
        self.assertIs(self.call("GET", "/v1/admin/limits?tenant=acme&limit=2", None, self.admin)[2]["has_more"], True)
        mine = self.call("GET", "/v1/admin/limits?tenant=acme", None, self.admin)[2]["data"]
        self.assertEqual([e["id"] for e in mine], [e["id"] for e in everything if e["tenant"] == "acme"])


try:
    import openai
except ImportError:
    openai = None


@unittest.skipUnless(openai, "the Python package openai is not installed")
class OfficialClient(LimitsTest):
    def client(self):
        return openai.OpenAI(base_url=f"http://{self.daemon.host}:{self.daemon.port}/v1", api_key="none", max_retries=4)

    def refusals(self):
        text = self.daemon.request("GET", "/metrics")[2].decode()
        return sum(int(line.split()[-1]) for line in text.splitlines() if line.startswith("adapterd_http_requests_total") and '"429"' in line)

    def test_it_waits_as_long_as_it_is_told_and_tries_again(self):
        self.put(requests_per_minute=60)
        for _ in range(20):
            while self.complete(max_tokens=1)[0] == 200:
                pass
            r = self.client().completions.with_raw_response.create(model="llama-gqa", prompt=[5, 6], max_tokens=1)
            self.assertEqual(r.status_code, 200)
            if r.retries_taken:
                return
        self.fail("it was never refused")

    def test_it_does_not_try_a_used_up_quota_again(self):
        self.put(generated_tokens_per_day=self.use()["generated_tokens_per_day"] + 5)
        before = self.refusals()
        self.complete(max_tokens=5)
        with self.assertRaises(openai.RateLimitError) as e:
            self.client().completions.create(model="llama-gqa", prompt=[5, 6], max_tokens=2)
        self.assertEqual((e.exception.code, self.refusals() - before), ("insufficient_quota", 1))


class Holdings(unittest.TestCase):
    """What tenants may keep: adapters, bytes on disk, bytes in memory."""

    @classmethod
    def setUpClass(cls):
        cls.state = tempfile.TemporaryDirectory()
        cls.d = Tenants("--state-dir", cls.state.name)
        cls.files = [make_adapter(seed) for seed in range(6)]

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()
        cls.state.cleanup()

    def setUp(self):
        self.put()
        for client in (self.d.operator, *self.d.of.values()):
            for name in [a["name"] for a in client.call("GET", "/v1/adapters")[1]["data"] if not a.get("shared")]:
                client.call("DELETE", "/v1/adapters/" + name)

    def put(self, of="tenants/acme", **limits):
        status, reply = self.d.operator.call("PUT", "/v1/admin/limits/" + of, limits)
        self.assertEqual(status, 200, reply)

    def use(self, of="tenants/acme"):
        return self.d.operator.call("GET", "/v1/admin/limits/" + of)[1]["use"]

    def check_refused(self, answer, what):
        status, reply = answer
        self.assertEqual((status, reply["error"]["code"]), (403, "quota_exceeded"), reply)
        self.assertIn(what, reply["error"]["message"])

    def test_only_so_many_adapters(self):
        acme, narrow = self.d.of["acme"], self.d.new_client("acme")
        self.put(adapters=2)
        self.put("keys/" + narrow.id, adapters=1)
        self.assertEqual(narrow.upload("a", self.files[0])[0], 201)
        self.check_refused(narrow.upload("b", self.files[1]), "The key's limit of 1 adapters")
        self.assertEqual(acme.upload("b", self.files[1])[0], 201)
        self.check_refused(acme.upload("c", self.files[2]), "The tenant's limit of 2 adapters")
        self.assertEqual(acme.upload("b", self.files[1])[0], 200)  # it is there already
        self.assertEqual(acme.new_version("a", self.files[3])[0], 201)
        self.assertEqual(self.d.of["beta"].upload("c", self.files[2])[0], 201)
        self.assertEqual(self.d.operator.upload("shared", self.files[2])[0], 201)
        self.assertEqual(acme.call("DELETE", "/v1/adapters/b")[0], 200)
        self.assertEqual(self.use()["adapters"], 1)
        self.assertEqual(acme.upload("c", self.files[2])[0], 201)
        self.check_refused(self.d.operator.upload("acme/d", self.files[4]), "The tenant's limit of 2 adapters")

    def test_only_so_many_bytes_on_disk(self):
        acme = self.d.of["acme"]
        self.assertEqual(acme.upload("a", self.files[0])[0], 201)
        one = self.use()["bytes_stored"]
        self.assertEqual(one, sum(len(f) for f in self.files[0]))
        self.put(bytes_stored=2 * one)
        self.assertEqual(acme.new_version("a", self.files[1])[0], 201)
        self.check_refused(acme.new_version("a", self.files[2]), "bytes of stored adapters")
        self.check_refused(acme.upload("b", self.files[2]), "bytes of stored adapters")
        self.assertEqual(self.use()["bytes_stored"], 2 * one)

    def test_in_memory_a_tenants_own_make_room_for_each_other_and_nobody_elses_do(self):
        acme, beta = self.d.of["acme"], self.d.of["beta"]
        self.assertEqual(beta.upload("x", self.files[5])[0], 201)
        self.assertEqual(self.d.operator.upload("shared", self.files[5])[0], 201)
        self.assertEqual(acme.upload("a", self.files[0])[0], 201)
        one = self.use()["bytes_resident"]
        self.assertGreater(one, 0)
        others = self.use("tenants/beta")["bytes_resident"], self.use("tenants/default")["bytes_resident"]
        self.put(bytes_resident=2 * one)
        for name, files in zip("bcd", self.files[1:]):
            self.assertEqual(acme.upload(name, files)[0], 201)
            self.assertEqual(self.use()["bytes_resident"], min(2, "abcd".index(name) + 1) * one)
        alone = {name: acme.answer(name) for name in "abcd"}
        self.assertEqual(len({digest for _, digest in alone.values()}), 4)
        for name in "abcdabcdaabbccdd":
            self.assertEqual(acme.answer(name), alone[name])
            self.assertLessEqual(self.use()["bytes_resident"], 2 * one)
        self.assertEqual((self.use("tenants/beta")["bytes_resident"], self.use("tenants/default")["bytes_resident"]), others)
        self.put(bytes_resident=one)  # one at a time: those that come together take turns
        failures = []

        def ask(name):
            try:
                assert acme.answer(name) == alone[name]
            except Exception as e:  # pylint: disable=broad-except
                failures.append(e)
        threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd" * 3]
        for t in threads:
            t.start()
        beta.answer("x")
        for t in threads:
            t.join()
        self.assertEqual(failures, [])
        self.assertEqual(self.use()["bytes_resident"], one)

    def test_what_alone_exceeds_the_limit_is_refused(self):
        acme = self.d.of["acme"]
        self.assertEqual(acme.upload("a", self.files[0])[0], 201)
        self.assertEqual(acme.upload("b", self.files[1])[0], 201)
        one = self.use()["bytes_resident"] // 2
        acme.answer("a")
        self.put(bytes_resident=one)
        self.assertEqual(self.use()["bytes_resident"], one)  # at once
        self.put(bytes_resident=one - 1)
        self.assertEqual(self.use()["bytes_resident"], 0)
        self.check_refused(acme.upload("c", self.files[2]), "bytes of adapters in memory")
        self.check_refused(acme.post({"model": "b", "prompt": [5], "max_tokens": 1}), "more than its tenant's limit")
        self.put()
        acme.answer("b")
