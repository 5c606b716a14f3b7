# SPDX-License-Identifier: MIT
"""What company, caches and queues may not change, and what they may."""
import json
import os
import random
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import TINY, Daemon, wait_until

GQA = os.path.join(TINY, "models", "llama-gqa")
ADAPTERS = ("qv", "all", "rslora", "patterns", "head", "embed")
ALONE = ("dora", "save-head", "save-embed-norm", "token-idx")  # cannot be mixed


class Batching(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(GQA, "--served-name", "base", "--queue-limit", "2000", "--step-tokens", "96", "--adapter-bytes", "300k", adapters=ADAPTERS + ALONE)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def request_of(self, rng):
        fields = {"model": rng.choice(ADAPTERS + ALONE + ("base",)), "max_tokens": rng.randrange(1, 12), "ignore_eos": rng.random() < 0.5, "seed": rng.randrange(1000),
                  "temperature": rng.choice((0, 0.7, 1.3)), "return_token_ids": True}
        start = rng.randrange(3) * 100  # some share their beginning
        fields["prompt"] = [(start + 7 * i) % 1000 for i in range(rng.randrange(1, 40))] + [rng.randrange(1000) for _ in range(rng.randrange(1, 20))]
        for key, value in {"logprobs": rng.randrange(6), "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.2, "presence_penalty": 0.5, "echo": True, "n": 2, "stop": ["e", "on"]}.items():
            if rng.random() < 0.25:
                fields[key] = value
        if rng.random() < 0.2:
            fields["model"] = "base"
            fields["adapters"] = [{"name": n, "weight": rng.choice((1, 0.5, -0.7, 2))} for n in rng.sample(ADAPTERS, rng.randrange(1, 4))]
        return fields

    def test_a_thousand_requests_answer_byte_for_byte_as_they_do_alone(self):
        rng = random.Random(11)
        n = 200 if os.environ.get("AD_SLOW_BUILD") else 1000 # ThreadSanitizer takes minutes for all
        requests = [self.request_of(rng) for _ in range(n)]
        alone = [self.d.post(r) for r in requests]
        self.assertEqual({s for s, _ in alone}, {200})
        order = list(range(n))
        rng.shuffle(order)
        with ThreadPoolExecutor(48) as pool:
            together = dict(zip(order, pool.map(lambda i: self.d.post(requests[i]), order)))
        for i, (_, reply) in enumerate(alone):
            self.assertEqual(together[i][0], 200)
            self.assertEqual(json.dumps(together[i][1]["choices"]), json.dumps(reply["choices"]), requests[i])
        self.assertGreater(self.d.metric("adapterd_cached_prompt_tokens_total"), 100)

    # ---- prefix cache ----

    def cached(self, **fields):
        r = self.d.complete(max_tokens=1, **fields)
        return r["usage"]["prompt_tokens_details"]["cached_tokens"]

    def test_a_prompt_seen_before_is_cached_by_whole_pages(self):
        prompt = [900 + i for i in range(70)]
        self.assertEqual(self.cached(model="base", prompt=prompt), 0)
        self.assertEqual(self.cached(model="base", prompt=prompt), 64)
        self.assertEqual(self.cached(model="base", prompt=prompt[:65] + [1]), 64)
        self.assertEqual(self.cached(model="base", prompt=prompt[:64]), 48)  # one token at least is computed
        self.assertEqual(self.cached(model="base", prompt=[1] + prompt), 0)

    def test_adapters_weights_salts_and_order_do_not_share(self):
        prompt = [800 + i for i in range(40)]
        two = [{"name": "qv", "weight": 1}, {"name": "all", "weight": 0.5}]
        ways = [{"model": "base"}, {"model": "qv"}, {"model": "all"}, {"model": "base", "cache_salt": "a"}, {"model": "base", "cache_salt": "b"}, {"model": "qv", "cache_salt": "a"},
                {"model": "base", "adapters": two}, {"model": "base", "adapters": two[::-1]}, {"model": "base", "adapters": [{"name": "qv", "weight": 0.5}]}]
        for w in ways:
            self.assertEqual(self.cached(prompt=prompt, **w), 0, w)
        for w in ways:
            self.assertEqual(self.cached(prompt=prompt, **w), 32, w)
        self.assertEqual(self.cached(prompt=prompt, model="base", adapters=[{"name": "qv"}]), 32)  # weight 1 is the adapter itself

    def test_generated_text_is_cached_too(self):
        r = self.d.complete(model="qv", prompt=[700 + i for i in range(10)], max_tokens=40, ignore_eos=True, return_token_ids=True)
        whole = r["choices"][0]["prompt_token_ids"] + r["choices"][0]["token_ids"]
        self.assertEqual(self.cached(model="qv", prompt=whole), 48)

    def test_choices_of_one_request_share_its_prompt(self):
        before = self.d.metric("adapterd_engine_prompt_tokens_total")
        self.d.complete(model="base", prompt=[600 + i for i in range(64)], max_tokens=2, ignore_eos=True)
        self.d.complete(model="base", prompt=[600 + i for i in range(64)], max_tokens=2, n=8, temperature=1, ignore_eos=True)
        self.assertLess(self.d.metric("adapterd_engine_prompt_tokens_total") - before, 64 + 8 * 17)

    def test_salts_of_wrong_form_are_refused(self):
        for salt in ("", 5, "x" * 300):
            status, reply = self.d.post({"model": "base", "prompt": "x", "cache_salt": salt})
            self.assertEqual((status, reply["error"]["param"]), (400, "cache_salt"))

    # ---- several adapters ----

    def logprobs(self, d=None, **fields):
        c = (d or self.d).complete(prompt=[5, 6, 7, 8], max_tokens=1, logprobs=5, return_tokens_as_token_ids=True, **fields)["choices"][0]
        return c["logprobs"]["top_logprobs"][0]

    def test_one_adapter_with_weight_1_is_that_adapter(self):
        self.assertEqual(self.logprobs(model="all"), self.logprobs(model="base", adapters=[{"name": "all", "weight": 1}]))

    def test_weights_of_a_mix_add_up(self):
        """In f32: packed weights round what goes into the next layer, and a sum in another order may round the other way."""
        d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--weights", "f32", "--kv-type", "f32", adapters=("all",))
        try:
            base, whole = self.logprobs(d, model="base"), self.logprobs(d, model="all")
            for weights, want in (([0], base), ([1, -1], base), ([0.5, 0.5], whole), ([2, -1], whole)):
                got = self.logprobs(d, model="base", adapters=[{"name": "all", "weight": w} for w in weights])
                self.assertEqual(set(got), set(want))
                for token, lp in want.items():
                    self.assertAlmostEqual(got[token], lp, delta=1e-4)
        finally:
            d.stop()

    def test_mixes_of_wrong_form_are_refused(self):
        for adapters, status in (([{"name": "nope"}], 404), ("qv", 400), ([{"weight": 1}], 400), ([{"name": 5}], 400), ([{"name": "qv", "weight": "x"}], 400),
                                 ([{"name": "qv", "weight": 1e300}], 400), ([{"name": "qv", "weight": 1001}], 400), ([{"name": "qv"}] * 9, 400), (["qv"], 400)):
            got, reply = self.d.post({"model": "base", "prompt": "x", "adapters": adapters})
            self.assertEqual((got, reply["error"]["param"]), (status, "adapters"), adapters)
        for name in ALONE:
            self.assertEqual(self.logprobs(model=name), self.logprobs(model="base", adapters=[{"name": name, "weight": 1}]))
            for adapters in ([{"name": name, "weight": 0.5}], [{"name": name}, {"name": "qv"}], [{"name": "qv"}, {"name": name}]):
                got, reply = self.d.post({"model": "base", "prompt": "x", "adapters": adapters})
                self.assertEqual((got, reply["error"]["param"]), (400, "adapters"), adapters)
                self.assertIn("by itself", reply["error"]["message"])
        for weight in (1000, -1000):
            self.assertEqual(self.d.post({"model": "base", "prompt": "x", "max_tokens": 4, "adapters": [{"name": "qv", "weight": weight}]})[0], 200)
        got, reply = self.d.post({"model": "qv", "prompt": "x", "adapters": [{"name": "all"}]})
        self.assertEqual((got, reply["error"]["param"]), (400, "adapters"))
        self.assertEqual(self.d.post({"model": "base", "prompt": "x", "max_tokens": 1, "adapters": []})[0], 200)


class Queues(unittest.TestCase):
    def test_who_waits_too_long_is_answered_503(self):
        d = Daemon(GQA, "--served-name", "base", "--max-running", "1", "--queue-timeout", "1", "--step-tokens", "1")
        try:
            with ThreadPoolExecutor(150) as pool:
                body = {"model": "base", "prompt": [(3 * i) % 1000 for i in range(400)], "max_tokens": 100, "ignore_eos": True}
                statuses = [s for s, _ in pool.map(lambda i: d.post({**body, "cache_salt": str(i + 1)}), range(150))]
            self.assertEqual(set(statuses), {200, 503})
            self.assertGreater(d.metric("adapterd_queue_timeouts_total"), 0)
            self.assertEqual(d.post({"model": "base", "prompt": "x", "max_tokens": 1})[0], 200)
        finally:
            d.stop()

    def test_a_long_prompt_does_not_stop_the_others(self):
        """A prompt of 500 tokens takes more than 30 steps of 16 rows; who streams meanwhile (for seconds, in plain C) gets a token in each."""
        d = Daemon(GQA, "--served-name", "base", "--step-tokens", "16", "--max-running", "8", "--cpu-features", "none", "--threads", "1")
        try:
            steps = lambda phase: d.metric(f'adapterd_step_duration_seconds_count{{phase="{phase}"}}')
            with d.open_request({"model": "base", "prompt": [1], "max_tokens": 500, "ignore_eos": True, "stream": True}):
                wait_until(lambda: steps("decode"), "it streams")
                prefill = steps("prefill")
                d.complete(model="base", prompt=[2] * 500, max_tokens=1)
                self.assertGreater(steps("mixed"), 30)
                self.assertEqual(steps("prefill"), prefill)
        finally:
            d.stop()

    def test_an_idle_daemon_uses_no_cpu(self):
        d = Daemon(GQA, "--served-name", "base")
        try:
            d.complete(model="base", prompt="x", max_tokens=20)
            time.sleep(0.2)
            with open(f"/proc/{d.process.pid}/stat") as f:
                before = sum(int(x) for x in f.read().rsplit(")", 1)[1].split()[11:13])
            time.sleep(2)
            with open(f"/proc/{d.process.pid}/stat") as f:
                after = sum(int(x) for x in f.read().rsplit(")", 1)[1].split()[11:13])
            self.assertLessEqual(after - before, 1)  # hundredths of a second in two seconds
        finally:
            d.stop()
