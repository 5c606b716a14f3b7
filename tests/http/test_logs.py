# SPDX-License-Identifier: MIT
"""The log: what a request's line tells, what is never in it, its two forms, its level, traces."""
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import unittest

from daemon import ADAPTERD, TINY, Daemon, clean_env, wait_until
from registry_util import Registry, make_adapter

BASE = os.path.join(TINY, "models", "llama-gqa")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class LogTests(unittest.TestCase):
    options = ()
    level = "info"

    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(BASE, "--served-name", "base", *cls.options, adapters=("qv", "all"), log_level=cls.level)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def lines(self):
        return [json.loads(line) for line in self.d.stderr().splitlines()]

    def line_of(self, request_id, msg="request"):
        """The line of a request; it is written when its exchange has ended."""
        line, = wait_until(lambda: [line for line in self.lines() if line.get("request_id") == request_id and line["msg"] == msg], f"a line of {request_id}")
        return line

    def ask(self, request_id, method="POST", path="/v1/completions", body=None, **headers):
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        return self.d.request(method, path, raw, {"x-request-id": request_id, **({"Content-Type": "application/json"} if raw else {}), **headers})


class Lines(LogTests):
    def test_a_request_s_line_tells_who_what_how_much_and_how_long(self):
        _, headers, body = self.ask("one", body={"model": "qv", "prompt": [1, 2, 3], "max_tokens": 5, "ignore_eos": True}, traceparent=PARENT)
        line = self.line_of("one")
        self.assertRegex(line["ts"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        want = {"level": "info", "trace_id": TRACE, "peer": "127.0.0.1", "tenant": "default", "method": "POST", "route": "/v1/completions", "status": 200, "adapter": "qv",
                "adapter_version": headers["x-adapter-version"], "prompt_tokens": 3, "completion_tokens": 5}
        self.assertEqual({k: line[k] for k in want}, want)
        self.assertGreater(line["ttft_ms"], 0)
        self.assertGreaterEqual(line["dur_ms"], line["ttft_ms"])
        self.assertGreater(line["bytes"], len(body))
        self.assertNotIn("reason", line)
        self.assertNotIn("key", line)

    def test_cached_tokens_and_several_adapters_are_told(self):
        prompt = list(range(40, 80))
        body = {"model": "base", "adapters": [{"name": "qv", "weight": 0.5}, {"name": "all", "weight": 1}], "prompt": prompt, "max_tokens": 1}
        self.ask("first", body=body)
        cached = json.loads(self.ask("second", body=body)[2])["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(cached, 0)
        line = self.line_of("second")
        self.assertEqual((line["adapter"], line["cached_tokens"], line["prompt_tokens"]), ("qv,all", cached, 40))

    def test_a_refusal_tells_why(self):
        self.ask("refused", body={"model": "nope", "prompt": "x"})
        line = self.line_of("refused")
        self.assertEqual((line["status"], line["reason"]), (404, "model_not_found"))
        self.assertNotIn("prompt_tokens", line)

    def test_a_client_that_leaves_is_told_with_what_it_got(self):
        body = json.dumps({"model": "all", "prompt": [1, 2], "max_tokens": 400, "n": 64, "ignore_eos": True, "stream": True}).encode()
        s = socket.create_connection((self.d.host, self.d.port), timeout=60)
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nx-request-id: gone\r\nContent-Type: application/json\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
        while b'"text"' not in s.recv(65536):
            pass
        s.close()
        line = self.line_of("gone")
        self.assertEqual((line["status"], line["reason"], line["adapter"], line["prompt_tokens"]), (499, "client_left", "all", 2))
        self.assertGreater(line["completion_tokens"], 0)

    def test_health_and_metrics_are_not_told(self):
        for path in ("/health", "/livez", "/readyz", "/ping", "/metrics"):
            self.ask("quiet", "GET", path)
        self.ask("loud", "GET", "/v1/models")
        self.line_of("loud")
        self.assertEqual([line for line in self.lines() if line.get("request_id") == "quiet"], [])
        self.ask("wrong-method", "DELETE", "/health")
        self.assertEqual(self.line_of("wrong-method")["status"], 405)

    def test_neither_prompts_nor_keys_are_in_the_log(self):
        self.ask("secret", body={"model": "qv", "prompt": "PrIvAtE words", "max_tokens": 1}, Authorization="Bearer sk-SeCrEt")
        self.ask("secret-chat", path="/v1/chat/completions", body={"model": "qv", "messages": [{"role": "user", "content": "PrIvAtE words"}], "max_tokens": 1}, **{"x-api-key": "sk-SeCrEt"})
        self.ask("secret-bad", body=b'{"model": "qv", "prompt": "PrIvAtE words"')
        for i in ("secret", "secret-chat", "secret-bad"):
            self.line_of(i)
        self.assertNotRegex(self.d.stderr(), "PrIvAtE|SeCrEt")

    def test_control_bytes_of_strangers_forge_no_line(self):
        self.ask("forger", "DELETE", "/v1/adapters/x%0A%7B%22msg%22%3A%22forged%22%7D%1B%5B31m%FF")
        self.line_of("forger")
        self.assertNotIn("forged", [line["msg"] for line in self.lines()])
        self.assertNotIn("\x1b", self.d.stderr())


class Level(LogTests):
    level = "warn"

    def put(self, body):
        status, _, reply = self.d.request("PUT", "/v1/admin/log", json.dumps(body).encode(), {"Content-Type": "application/json"})
        return status, json.loads(reply)

    def test_it_changes_while_the_server_runs(self):
        self.assertEqual(self.d.get("/v1/admin/log"), (200, {"level": "warn"}))
        self.ask("before", "GET", "/v1/models")
        self.assertEqual(self.put({"level": "debug"}), (200, {"level": "debug"}))
        self.ask("during", "GET", "/health")
        self.assertEqual(self.line_of("during")["level"], "debug")
        self.assertEqual(self.put({"level": "error"}), (200, {"level": "error"}))
        self.ask("after", "GET", "/v1/models")
        self.assertEqual(self.d.get("/v1/admin/log"), (200, {"level": "error"}))
        self.assertEqual({line["request_id"] for line in self.lines() if "request_id" in line} & {"before", "during", "after"}, {"during"})
        for body in ({}, {"level": "loud"}, {"level": 1}, [], {"level": None}):
            self.assertEqual(self.put(body)[0], 400, body)
        self.assertEqual(self.d.get("/v1/admin/log"), (200, {"level": "error"}))


class Prompts(LogTests):
    options = ("--log-prompts", "on")
    level = "debug"

    def test_they_are_told_when_asked_for_and_only_at_level_debug(self):
        self.ask("shown", body={"model": "qv", "prompt": "tell it", "max_tokens": 1}, Authorization="Bearer sk-SeCrEt")
        self.assertEqual(self.line_of("shown", "prompt")["prompt"], "tell it")
        self.d.request("PUT", "/v1/admin/log", b'{"level": "info"}', {"Content-Type": "application/json"})
        self.ask("hidden", body={"model": "qv", "prompt": "hide it", "max_tokens": 1})
        self.line_of("hidden")
        self.assertNotRegex(self.d.stderr(), "hide it|SeCrEt")


class ForPeople(LogTests):
    options = ("--log-format", "human")

    def test_a_line_is_time_level_words_and_fields(self):
        self.ask("human", body={"model": "qv", "prompt": [1, 2], "max_tokens": 2, "ignore_eos": True})
        line = wait_until(lambda: re.search(r"^.* request_id=human .*$", self.d.stderr(), re.M), "the line")[0]
        self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\S+Z info  request request_id=human trace_id=[0-9a-f]{32} .*tenant=default .*status=200 adapter=qv .*completion_tokens=2 ")
        for line in self.d.stderr().splitlines():
            self.assertRegex(line, r"^\S+Z (error|warn |info |debug) \S")


class Traces(LogTests):
    def parent(self, *headers, path="/v1/models"):
        """The reply's (trace, span, flags) and its tracestates."""
        head = "".join(f"{h}\r\n" for h in headers)
        reply = self.d.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode()).decode().split("\r\n\r\n")[0]
        found = re.findall(r"^traceparent: (.*)$", reply.replace("\r", ""), re.M)
        self.assertEqual(len(found), 1, reply)
        match = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", found[0])
        self.assertTrue(match, found[0])
        return match.groups(), re.findall(r"^tracestate: (.*)$", reply.replace("\r", ""), re.M)

    def test_one_goes_on_with_a_span_of_ours_and_its_state_unchanged(self):
        (trace, span, flags), state = self.parent(f"traceparent: {PARENT}", "tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "tracestate: third=x")
        self.assertEqual((trace, flags, state), (TRACE, "01", ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "third=x"]))
        self.assertNotEqual(span, SPAN)

    def test_each_request_has_a_span_of_its_own(self):
        spans = {self.parent(f"traceparent: {PARENT}")[0][1] for _ in range(5)}
        self.assertEqual(len(spans), 5)

    def test_a_bad_one_begins_anew_and_its_state_is_dropped(self):
        for bad in (PARENT.upper(), PARENT + "-00", PARENT[:-1], f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", "", "nonsense", PARENT + "," + PARENT):
            (trace, _, _), state = self.parent(f"traceparent: {bad}", "tracestate: a=b")
            self.assertNotEqual(trace, TRACE, bad)
            self.assertEqual(state, [], bad)
        (trace, _, _), _ = self.parent(f"traceparent: {PARENT}", f"traceparent: {PARENT}")
        self.assertNotEqual(trace, TRACE, "two of them are none")

    def test_refusals_and_streams_have_one_too(self):
        self.assertEqual(self.parent(f"traceparent: {PARENT}", path="/nowhere")[0][0], TRACE)
        self.assertEqual(self.parent(f"traceparent: {PARENT}", "x-bad: 1", path="/v1/completions")[0][0], TRACE)
        _, headers, _ = self.ask("stream", body={"model": "base", "prompt": [1], "max_tokens": 2, "stream": True}, traceparent=PARENT)
        self.assertEqual(headers["traceparent"].split("-")[1], TRACE)
        line = self.line_of("stream")
        self.assertEqual((line["trace_id"], line["span_id"]), tuple(headers["traceparent"].split("-")[1:3]))


class Flood(LogTests):
    def test_a_warning_that_comes_again_and_again_is_held_back_and_counted(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, True)
        d = Registry(BASE, "--served-name", "base", "--state-dir", folder)
        self.assertEqual(d.upload("x", make_adapter(1))[0], 201)
        d.stop()
        shutil.rmtree(os.path.join(folder, "blobs"))  # each request for it tries to read it, and fails
        d = Registry(BASE, "--served-name", "base", "--state-dir", folder)
        self.addCleanup(d.stop)
        for _ in range(40):
            self.assertGreaterEqual(d.post({"model": "x", "prompt": "a", "max_tokens": 1})[0], 400)
        same = [line for line in map(json.loads, d.stderr().splitlines()) if line["level"] in ("warn", "error") and line["msg"].startswith("adapter x")]
        self.assertGreaterEqual(len(same), 1)
        if d.metric("adapterd_log_lines_held_back_total"):
            self.assertGreaterEqual(len(same), 10)
        self.assertEqual(len(same) + d.metric("adapterd_log_lines_held_back_total"), 40)


class Reader(unittest.TestCase):
    def test_one_that_stands_still_costs_lines_and_not_the_service(self):
        read_end, write_end = os.pipe()
        p = subprocess.Popen([ADAPTERD, "--model", BASE, "--served-name", "base", "--port", "0", "--log-level", "debug", "--log-format", "json"], stdout=subprocess.PIPE, stderr=write_end, text=True,
                             env=clean_env())
        self.addCleanup(p.kill)
        os.close(write_end)
        port = int(p.stdout.readline().rsplit(":", 1)[1])
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

        def ask(n):
            for _ in range(n):
                c.request("GET", "/health")
                r = c.getresponse()
                self.assertEqual((r.status, bool(r.read())), (200, True))
        ask(1000)  # a pipe holds 64 KiB, a few hundred lines
        log = os.fdopen(read_end)
        begun = "".join(log.readline() for _ in range(100))
        ask(1)
        p.terminate()
        self.assertEqual(p.wait(60), 0)
        lines = [json.loads(line) for line in (begun + log.read()).splitlines()]  # none is torn
        lost = [int(line["msg"].split()[0]) for line in lines if "not taken in time" in line["msg"]]
        self.assertEqual(sum(line["msg"] == "request" for line in lines) + sum(lost), 1001)
        self.assertGreater(lost[0], 0)
        log.close()
        c.close()
        p.stdout.close()
