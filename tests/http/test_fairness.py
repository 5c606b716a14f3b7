# SPDX-License-Identifier: MIT
"""Tenants beside each other on one engine: priorities, deadlines, places in the queue, shares. What takes how many steps is in tests/unit/test_scheduler.c."""
import json
import os
import subprocess
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import ADAPTERD, TINY, Daemon

GQA = os.path.join(TINY, "models", "llama-gqa")
BENCH = os.path.join(os.path.dirname(os.path.dirname(ADAPTERD)), "clients", "adapterbench")


class Tenants(Daemon):
    """A daemon with a key per tenant in self.keys; the operator's is keys["default"]."""

    def __init__(self, *options, **weights):
        super().__init__(GQA, "--served-name", "base", *options)
        self.keys = {}
        self.keys["default"] = self.admin("/v1/admin/keys", {"tenant": "default", "verbs": ["admin", "infer", "metrics"]})["key"]
        for name, weight in weights.items():
            self.admin("/v1/admin/tenants", {"name": name, "weight": weight})
            self.keys[name] = self.admin("/v1/admin/keys", {"tenant": name, "verbs": ["infer"]})["key"]

    def call(self, method, path, fields, tenant):
        headers = {"Content-Type": "application/json"}
        if tenant in self.keys:
            headers["Authorization"] = f"Bearer {self.keys[tenant]}"
        status, _, body = self.request(method, path, json.dumps(fields), headers)
        return status, json.loads(body)

    def admin(self, path, fields, method="POST"):
        status, reply = self.call(method, path, fields, "default")
        assert status in (200, 201), reply
        return reply

    def ask(self, tenant, path="/v1/completions", **fields):
        return self.call("POST", path, {"model": "base", "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True, **fields}, tenant)

    def bench(self, *options):
        with tempfile.NamedTemporaryFile() as out:
            p = subprocess.run([BENCH, "--url", f"http://127.0.0.1:{self.port}", "--models", "base", "--json", out.name, *options], capture_output=True, text=True, timeout=300)
            assert p.returncode == 0, p.stdout + p.stderr
            return json.load(open(out.name))["tenants"]


class Turns(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Tenants("--max-running", "1", "--queue-limit", "15", a=1, b=1)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def test_priorities_and_deadlines_of_wrong_form_are_refused(self):
        for field, bad in (("priority", ("high", "", 1.5, True, [], 2 ** 40)), ("deadline_ms", (0, -1, "5", 1.5, 86400001))):
            for value in bad:
                for path, prompt in (("/v1/completions", {}), ("/v1/embeddings", {"input": "x"}), ("/completion", {}), ("/v1/chat/completions", {"messages": []})):
                    status, reply = self.d.ask("a", path, **{field: value}, **prompt)
                    self.assertEqual(status, 400, (path, field, value))
                    self.assertIn(field, reply["error"]["message"])

    def test_priorities_and_deadlines_of_right_form_are_taken(self):
        for value in ("interactive", "batch", 0, -3, 7, None):
            self.assertEqual(self.d.ask("a", priority=value)[0], 200, value)
        self.assertEqual(self.d.ask("a", deadline_ms=600000)[0], 200)
        self.assertEqual(self.d.ask("a", "/completion", priority="batch", deadline_ms=600000)[0], 200)
        self.assertEqual(self.d.ask("a", "/v1/embeddings", input="x", priority="batch")[0], 200)

    def test_a_deadline_that_passes_in_the_queue_is_a_504_that_says_so(self):
        with ThreadPoolExecutor(8) as pool:
            long = [pool.submit(self.d.ask, "a", max_tokens=450) for _ in range(8)]
            self.d.wait_for("adapterd_requests_running", 1)
            for _ in range(50):  # one may come just when a place is free
                status, reply = self.d.ask("a", deadline_ms=1)
                if status != 200:
                    break
            self.assertEqual((status, reply["error"]["code"]), (504, "deadline_exceeded"))
            self.assertIn("deadline_ms", reply["error"]["message"])
            self.assertEqual({f.result()[0] for f in long}, {200})

    def test_one_tenant_leaves_places_in_the_queue_to_others(self):
        with ThreadPoolExecutor(40) as pool:
            flood = [pool.submit(self.d.ask, "a", max_tokens=450, cache_salt=str(i + 1)) for i in range(30)]
            deadline = time.monotonic() + 60
            while not any(f.done() for f in flood) and time.monotonic() < deadline:
                time.sleep(0.001)
            status, _ = self.d.ask("b")
            replies = [f.result() for f in flood]
        self.assertEqual(status, 200)
        self.assertIn(503, {s for s, _ in replies})
        self.assertIn("other tenants", next(r["error"]["message"] for s, r in replies if s == 503))

    def test_a_tenant_whose_priority_is_batch_waits_for_the_others(self):
        self.d.admin("/v1/admin/tenants/b", {"priority": "batch"}, "PATCH")
        try:
            with ThreadPoolExecutor(12) as pool:
                done = []
                slow = [pool.submit(lambda: (self.d.ask("b", max_tokens=450), done.append("b"))) for _ in range(10)]
                self.d.wait_for("adapterd_requests_running", 1)
                self.assertEqual(self.d.ask("a", max_tokens=2)[0], 200)
                done.append("a")
                for s in slow:
                    s.result()
            self.assertEqual(done[-1], "b")
        finally:
            self.d.admin("/v1/admin/tenants/b", {"priority": None}, "PATCH")


class Shares(unittest.TestCase):
    def test_saturating_tenants_get_what_their_weights_say(self):
        d = Tenants("--max-running", "6", "--queue-limit", "100", a=2, b=1, c=1)
        try:
            options = [o for name, streams in (("a", 20), ("b", 12), ("c", 30)) for o in ("--tenant", f"{name}={d.keys[name]}:{streams}")]
            for seconds in (4, 16, 64):  # a request is a part of a share that counts when there are few
                t = d.bench(*options, "--duration", str(seconds), "--prompt-tokens", "10", "--output-tokens", "20")
                if sum(t[name]["done"] for name in "abc") > 200:
                    break
            for name, share in (("a", 0.5), ("b", 0.25), ("c", 0.25)):
                self.assertAlmostEqual(t[name]["share"], share, delta=share / 10, msg=t)
            served = {name: d.metric(f'adapterd_tenant_served_tokens_total{{tenant="{name}"}}') for name in "abc"}
            for name in "abc":  # all of its requests, to the end; a word of a prompt is some tokens
                self.assertLessEqual(served[name], t[name]["done"] * (60 + 2 * 20))
                self.assertGreaterEqual(served[name], t[name]["done"] * 2 * 20)
        finally:
            d.stop()


if __name__ == "__main__":
    unittest.main()
