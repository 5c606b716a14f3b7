# SPDX-License-Identifier: MIT
"""The OpenAPI document: it is one, and what the other tests see is held against it (contract.py)."""
import copy
import json
import os
import unittest

import contract
from daemon import TINY, Daemon

try:
    import openapi_spec_validator
except ImportError:
    openapi_spec_validator = None


class Document(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", adapters=("qv",))
        cls.status, cls.headers, cls.text = cls.d.request("GET", "/openapi.json")
        cls.doc = json.loads(cls.text)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def test_it_is_served_as_json_to_anybody(self):
        self.assertEqual((self.status, self.headers["Content-Type"]), (200, "application/json"))
        self.assertEqual(self.doc["openapi"], "3.1.0")
        status, headers, body = self.d.request("HEAD", "/openapi.json")
        self.assertEqual((status, headers["Content-Length"], body), (200, str(len(self.text)), b""))

    def test_every_path_answers_options_and_head_as_it_answers_get(self):
        for path, item in self.doc["paths"].items():
            target = path.replace("{name}", "qv").replace("{id}", "qv")
            status, headers, body = self.d.request("OPTIONS", target)
            self.assertEqual((status, body), (204, b""), target)
            self.assertLessEqual({m.upper() for m in item if m != "parameters"} | {"OPTIONS"}, set(headers["Allow"].split(", ")), target)
            if "get" not in item or path in ("/metrics", "/v1/adapters/events", "/v1/admin/usage"):
                continue
            want, told = self.d.request("GET", target), self.d.request("HEAD", target)
            self.assertEqual((told[0], told[1]["Content-Type"], told[1]["Content-Length"], told[2]), (want[0], want[1]["Content-Type"], str(len(want[2])), b""), target)

    def test_head_of_a_stream_ends_and_leaves_the_connection_usable(self):
        got = self.d.raw(b"HEAD /v1/adapters/events HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").decode()
        self.assertEqual(got.count("HTTP/1.1 200 OK"), 2, got)
        self.assertEqual((got.count("text/event-stream"), got.count("Cache-Control"), got[-3:]), (1, 1, "ok\n"), got)

    @unittest.skipUnless(openapi_spec_validator, "the Python package openapi-spec-validator is not installed")
    def test_it_is_valid_openapi_3_1(self):
        openapi_spec_validator.validate(self.doc)

    @unittest.skipUnless(openapi_spec_validator, "the Python package openapi-spec-validator is not installed")
    def test_its_examples_are_what_its_schemas_allow(self):
        c = contract.Contract(self.doc)
        for path, item in self.doc["paths"].items():
            for method in item.keys() - {"parameters"}:
                for kind in item[method].get("requestBody", {}).get("content", {}).values():
                    if "example" in kind:
                        c.validate(kind["schema"], kind["example"], f"{method} {path}: the example", closed=False)


@unittest.skipUnless(contract.Draft202012Validator, "the Python package jsonschema is not installed")
class TheContractCheck(unittest.TestCase):
    """What would slip through it would prove nothing."""

    @classmethod
    def setUpClass(cls):
        d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", adapters=("qv",))
        cls.contract = contract.Contract(d.get("/openapi.json")[1])
        cls.sent = {"model": "base", "prompt": "Hello", "max_tokens": 2, "logprobs": 1}
        cls.raw = json.dumps(cls.sent).encode()
        _, cls.headers, reply = d.request("POST", "/v1/completions", cls.raw, {"Content-Type": "application/json"})
        cls.reply = json.loads(reply)
        cls.events = d.request("POST", "/v1/completions", json.dumps({**cls.sent, "stream": True}).encode(), {"Content-Type": "application/json"})
        cls.adapter = d.get("/v1/adapters/qv")[1]
        d.stop()

    def check(self, reply, sent=None, status=200, method="POST", target="/v1/completions", headers=None):
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.contract.check(method, target, status, headers or self.headers, body, json.dumps(sent or self.sent).encode(), "application/json")

    def refuses(self, words, reply, **more):
        with self.assertRaisesRegex(AssertionError, words):
            self.check(reply, **more)

    def test_it_accepts_what_is_true(self):
        self.check(self.reply)
        self.check(self.events[2], headers=self.events[1])
        self.check(self.adapter, method="GET", target="/v1/adapters/qv?x=1")

    def test_it_finds_fields_of_the_wrong_type_missing_and_undocumented(self):
        for key in self.reply:
            wrong = copy.deepcopy(self.reply)
            wrong[key] = [[1]]
            self.refuses(key, wrong)
            del wrong[key]
            self.refuses(key, wrong)
        self.refuses("surprise", {**self.reply, "surprise": 1})
        self.refuses("GET /v1/adapters/qv", {**self.adapter, "surprise": 1}, method="GET", target="/v1/adapters/qv")
        self.refuses("surprise", {**self.reply, "choices": [{**self.reply["choices"][0], "surprise": 1}]})

    def test_it_finds_statuses_routes_and_types_that_are_not_documented(self):
        self.refuses("418", self.reply, status=418)
        self.refuses("409", self.reply, status=409)
        self.refuses("not documented", self.reply, target="/v1/nothing")
        self.refuses("text/html", self.reply, headers={**self.headers, "Content-Type": "text/html"})
        self.refuses("without the header x-adapter-version", self.reply, headers={"x-request-id": "1", "Content-Type": "application/json"})
        self.refuses("x-request-id", self.reply, headers={"Content-Type": "application/json"})

    def test_it_finds_requests_that_are_taken_and_not_allowed(self):
        self.refuses("max_tokens|minimum", self.reply, sent={**self.sent, "max_tokens": -1})
        self.refuses("suffix|not one of", self.reply, sent={**self.sent, "suffix": "x"})

    def test_it_reads_events(self):
        self.refuses("event message.*created", self.events[2].replace(b'"created"', b'"surprise"', 1), headers=self.events[1])
        self.refuses("event other", b"event: other\n" + self.events[2], headers=self.events[1])
