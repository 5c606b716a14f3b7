# SPDX-License-Identifier: MIT
"""Merged mode: on request, at start, by itself; what it may change and what not."""
import os
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import TINY, Daemon, fails_to_start

GQA = os.path.join(TINY, "models", "llama-gqa")
ADAPTERS = ("qv", "all", "head", "embed", "patterns")


def ask(d, model, n=12, **more):
    return d.complete(model=model, prompt=[(7 * i) % 1000 for i in range(20)], max_tokens=n, logprobs=5, return_tokens_as_token_ids=True, return_token_ids=True, ignore_eos=True, **more)


def merge(d, name):
    return d.post({"adapter": name}, "/v1/admin/merge")


class Merge(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(GQA, "--served-name", "base", "--weights", "f32", adapters=ADAPTERS)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def tearDown(self):
        self.assertEqual(merge(self.d, None)[0], 200)

    def test_merged_answers_agree_and_say_so_and_unmerging_is_exact(self):
        """f32 sums in another order, and an f16 cache that may round them apart: 5e-3 in a log-probability."""
        for name in ADAPTERS:
            before = {m: ask(self.d, m) for m in ADAPTERS + ("base",)}
            self.assertEqual(before[name]["adapter_mode"], "unmerged")
            self.assertNotIn("adapter_mode", before["base"])
            self.assertEqual(merge(self.d, name), (200, {"adapter": name, "state": "merged"}))
            self.assertEqual(self.d.metric("adapterd_merged_adapters"), 1)
            merged = ask(self.d, name)
            self.assertEqual(merged["adapter_mode"], "merged")
            self.assertEqual(merged["choices"][0]["token_ids"], before[name]["choices"][0]["token_ids"])
            for a, b in zip(merged["choices"][0]["logprobs"]["token_logprobs"], before[name]["choices"][0]["logprobs"]["token_logprobs"]):
                self.assertAlmostEqual(a, b, delta=5e-3)
            for other in before:  # nobody else sees it
                if other != name:
                    self.assertEqual(ask(self.d, other)["choices"], before[other]["choices"], other)
            self.assertEqual(merge(self.d, None), (200, {"adapter": None, "state": "unmerged"}))
            self.assertEqual(ask(self.d, name)["choices"], before[name]["choices"])

    def test_merged_rows_answer_alike_alone_and_in_company(self):
        merge(self.d, "all")
        names = ["all", "base", "qv", "all", "patterns", "all", "head"]
        alone = {m: ask(self.d, m)["choices"] for m in names}
        with ThreadPoolExecutor(14) as pool:
            for m, r in zip(names * 6, pool.map(lambda m: ask(self.d, m), names * 6)):
                self.assertEqual(r["choices"], alone[m], m)

    def test_merged_and_unmerged_do_not_share_prefixes(self):
        prompt = [300 + i for i in range(40)]
        cached = lambda: self.d.complete(model="qv", prompt=prompt, max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertEqual((cached(), cached()), (0, 32))
        merge(self.d, "qv")
        self.assertEqual((cached(), cached()), (0, 32))
        merge(self.d, None)
        self.assertEqual(cached(), 32)

    def test_an_answer_keeps_the_weights_it_began_with(self):
        whole = {"unmerged": ask(self.d, "all", 300)["choices"]}
        merge(self.d, "all")
        whole["merged"] = ask(self.d, "all", 300)["choices"]
        replies = []
        t = threading.Thread(target=lambda: [replies.append(ask(self.d, "all", 300, cache_salt=str(i + 1))) for i in range(12)])
        t.start()
        while t.is_alive():
            merge(self.d, None)
            merge(self.d, "all")
        self.assertEqual(len(replies), 12)
        for r in replies:
            self.assertEqual(r["choices"], whole[r["adapter_mode"]], r["adapter_mode"])

    def test_mixes_and_weights_other_than_1_stay_unmerged(self):
        merge(self.d, "qv")
        one = self.d.complete(model="base", prompt="x", max_tokens=1, adapters=[{"name": "qv"}])
        half = self.d.complete(model="base", prompt="x", max_tokens=1, adapters=[{"name": "qv", "weight": 0.5}])
        self.assertEqual((one["adapter_mode"], half["adapter_mode"]), ("merged", "unmerged"))

    def test_requests_of_wrong_form_are_refused(self):
        for body, status in (({"adapter": "nope"}, 404), ({"adapter": 5}, 400), ({}, 400), (b"[]", 400), (b"{", 400), (b"", 400)):
            self.assertEqual(self.d.post(body, "/v1/admin/merge")[0], status, body)

    def test_switching_between_many_requests_loses_nothing(self):
        stop = threading.Event()

        def switch():
            while not stop.is_set():
                for name in ("all", "qv", None):
                    merge(self.d, name)
        t = threading.Thread(target=switch)
        t.start()
        try:
            with ThreadPoolExecutor(12) as pool:
                statuses = list(pool.map(lambda i: self.d.post({"model": ("all", "qv", "base")[i % 3], "prompt": [i], "max_tokens": 8, "ignore_eos": True})[0], range(200)))
        finally:
            stop.set()
            t.join()
        self.assertEqual(set(statuses), {200})


class MergeModes(unittest.TestCase):
    def test_merge_at_start(self):
        d = Daemon(GQA, "--served-name", "base", "--merge", "all", adapters=("all", "qv"))
        try:
            d.wait_for("adapterd_merged_adapters", 1)
            self.assertEqual(ask(d, "all")["adapter_mode"], "merged")
            self.assertEqual(ask(d, "qv")["adapter_mode"], "unmerged")
        finally:
            d.stop()
        self.assertIn("nope", fails_to_start("--model", GQA, "--merge", "nope", "--port", "0"))

    def test_auto_merges_who_owns_the_traffic_and_restores_when_others_come(self):
        d = Daemon(GQA, "--served-name", "base", "--merge", "auto", adapters=("all", "qv"))
        try:
            def drive(model, state, seconds):
                end = time.monotonic() + seconds
                while time.monotonic() < end and d.metric("adapterd_merged_adapters") != state:
                    ask(d, model, 30)
                self.assertEqual(d.metric("adapterd_merged_adapters"), state)
            drive("all", 1, 20)
            self.assertEqual(ask(d, "all")["adapter_mode"], "merged")
            drive("base", 0, 20)
            self.assertEqual(d.metric("adapterd_merge_switches_total"), 2)
        finally:
            d.stop()

    def test_more_threads_than_cpus_are_capped_with_a_warning(self):
        d = Daemon(GQA, "--threads", "500", "--log-level", "warn")
        try:
            d.complete(model="llama-gqa", prompt="x", max_tokens=3)
        finally:
            self.assertIn("threads: 500", d.stop())
