# SPDX-License-Identifier: MIT
"""Every golden case over HTTP: prompt ids, greedy ids and the five best log-probabilities of each position."""
import json
import os
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import MODEL, ROOT, SHARED, TINY, Daemon, needs_model


def read_cases(folder):
    with open(os.path.join(folder, "cases.json")) as f:
        return json.load(f)["cases"]


class Golden(unittest.TestCase):
    def check_case(self, d, base, c):
        """c over HTTP; the tolerance is that of the logits: 2e-4 of the largest, ten times what two f32 programs differ by."""
        name, n = c["name"], len(c["greedy"])
        reply = d.complete(model=c["adapter"] or base, prompt=c["ids"], max_tokens=max(n, 1), logprobs=5, echo=True,
                           return_token_ids=True, return_tokens_as_token_ids=True, ignore_eos=True)
        choice = reply["choices"][0]
        self.assertEqual(choice["prompt_token_ids"], c["ids"], name)
        self.assertEqual(choice["token_ids"][:n], c["greedy"], name)
        bound = 2e-4 * c["max_abs_logit"] * 2  # of the logit and of the log of the sum
        tops = choice["logprobs"]["top_logprobs"]
        self.assertIsNone(tops[0])
        # Row i of the golden lists predicts position i + 1; some cases have the last row only.
        first = len(c["ids"]) - len(c["top5_ids"])
        for i, (ids, logits, lse) in enumerate(zip(c["top5_ids"], c["top5_logits"], c["logsumexp"])):
            top = tops[first + i + 1]
            for token, logit in zip(ids, logits):
                got = top.get(f"token_id:{token}")
                if got is None:  # only a near tie for the fifth place may push it out
                    self.assertLess(logit - lse - sorted(top.values())[-5], bound, (name, i, token))
                else:
                    self.assertLess(abs(got - (logit - lse)), bound, (name, i, token))

    def check_text(self, d, base, c):
        if c.get("text") is None:
            return
        reply = d.complete(model=c["adapter"] or base, prompt=c["text"], max_tokens=1, return_token_ids=True)
        self.assertEqual(reply["choices"][0]["prompt_token_ids"], c["ids"], c["name"])

    def run_all(self, model, cases, options):
        base = "the-base"
        d = Daemon(model, "--served-name", base, "--weights", "f32", "--kv-type", "f32", *options)
        try:
            with ThreadPoolExecutor(8) as pool:  # mixed adapters in one batch
                list(pool.map(lambda c: self.check_case(d, base, c), cases))
            for c in cases:
                self.check_text(d, base, c)
        finally:
            d.stop()

    def run_folder(self, folder):
        cases = read_cases(folder)
        for model in sorted({c["model"] for c in cases}):
            of_model = [c for c in cases if c["model"] == model]
            options = []
            for a in sorted({c["adapter"] for c in of_model} - {None}):
                options += ["--adapter", f"{a}={folder}/adapters/{a}"]
            with self.subTest(model=model):
                self.run_all(os.path.join(folder, model), of_model, options)

    def test_every_tiny_case_has_the_golden_ids_and_logprobs(self):
        self.run_folder(TINY)

    @unittest.skipUnless(os.path.isdir(SHARED), "../shared is not here")
    def test_every_tiny_case_of_all_the_golden_data_too(self):
        self.run_folder(os.path.join(SHARED, "tiny"))

    @needs_model
    @unittest.skipUnless(os.path.isdir(SHARED), "../shared is not here")
    def test_every_smollm2_case_has_the_golden_ids_and_logprobs(self):
        folder = os.path.join(SHARED, "smollm2")
        cases = read_cases(folder)
        options = []
        for a in sorted({c["adapter"] for c in cases} - {None}):
            options += ["--adapter", f"{a}={folder}/adapters/{a}"]
        self.run_all(MODEL, cases, options)


@needs_model
class Demo(unittest.TestCase):
    def test_the_demo_adapters_reach_their_accuracy(self):
        """Within 2 points of the oracle's accuracy; 8 requests of four adapters share each batch."""
        d = Daemon(MODEL, "--adapter-dir", os.path.join(ROOT, "deploy", "adapters"))
        jobs, wanted = [], {}
        for task in ("sentiment", "sql", "extract", "pirate"):
            with open(os.path.join(ROOT, "tests", "golden", "demo", task + ".eval.json")) as f:
                data = json.load(f)
            wanted[task] = data["accuracy"]
            jobs += [(task, c) for c in data["cases"]]
        jobs.sort(key=lambda j: j[1]["prompt"])  # mixes the tasks

        def ask(job):
            task, c = job
            reply = d.complete(model=task, prompt=c["prompt"], max_tokens=len(c["oracle_ids"]) + 8)
            return task, reply["choices"][0]["text"].strip() == c["expected"].strip()

        try:
            with ThreadPoolExecutor(8) as pool:
                results = list(pool.map(ask, jobs))
        finally:
            d.stop()
        for task, accuracy in wanted.items():
            right = [ok for t, ok in results if t == task]
            self.assertGreaterEqual(sum(right) / len(right), accuracy - 0.02, task)
