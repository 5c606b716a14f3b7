# SPDX-License-Identifier: MIT
"""The load generator against a running daemon."""
import json
import os
import subprocess
import tempfile
import unittest

from daemon import ADAPTERD, TINY, Daemon

BENCH = os.path.join(os.path.dirname(os.path.dirname(ADAPTERD)), "clients", "adapterbench")


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", adapters=("qv", "all"))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def run_bench(self, *options):
        with tempfile.NamedTemporaryFile() as out:
            p = subprocess.run([BENCH, "--url", f"http://127.0.0.1:{self.d.port}", "--json", out.name, *options], capture_output=True, text=True, timeout=120)
            return p, json.load(open(out.name)) if os.path.getsize(out.name) else None

    def test_a_closed_loop_counts_every_token(self):
        p, r = self.run_bench("--models", "base,qv,all", "--streams", "6", "--requests", "30", "--prompt-tokens", "5-9", "--output-tokens", "7")
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertEqual((r["done"], r["errors"], r["output_tokens"]), (30, 0, 210))
        self.assertEqual(set(r["tokens_per_second_by_model"]), {"base", "qv", "all"})
        self.assertAlmostEqual(r["fairness"], 1, places=6)
        self.assertLessEqual(r["ttft"]["p50"], r["ttft"]["max"])
        self.assertIn("30 done", p.stdout)

    def test_arrivals_and_popularity_have_their_shapes(self):
        for arrivals in ("poisson:200", "gamma:200:2"):
            p, r = self.run_bench("--models", "base,qv,all", "--arrivals", arrivals, "--duration", "1", "--popularity", "zipf:2", "--prompt-tokens", "3", "--output-tokens", "2")
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertGreater(r["done"], 50)
            speeds = r["tokens_per_second_by_model"]
            self.assertGreater(speeds["base"], speeds["all"])
        p, r = self.run_bench("--models", "base,qv", "--popularity", "identical", "--requests", "5", "--output-tokens", "2")
        self.assertEqual(r["tokens_per_second_by_model"]["qv"], 0)

    def test_tenants_are_told_apart(self):
        p, r = self.run_bench("--models", "base", "--tenant", "many=:6", "--tenant", "few=:2:qv", "--requests", "40", "--prompt-tokens", "5", "--output-tokens", "7")
        self.assertEqual(p.returncode, 0, p.stderr)
        many, few = r["tenants"]["many"], r["tenants"]["few"]
        self.assertEqual((r["streams"], many["streams"], few["streams"], many["done"] + few["done"], r["errors"]), (8, 6, 2, 40, 0))
        self.assertGreater(few["done"], 1)
        self.assertGreater(many["done"], few["done"])
        self.assertAlmostEqual(many["share"] + few["share"], 1, places=6)
        self.assertGreater(few["ttft"]["p50"], 0)
        self.assertIn("few: 2 streams", p.stdout)

    def test_it_hangs_up_as_told_and_tells_errors(self):
        p, r = self.run_bench("--models", "base", "--requests", "20", "--hang-up", "1", "--output-tokens", "200")
        self.assertEqual((r["cut"], r["errors"]), (20, 0), p.stdout)
        p, r = self.run_bench("--models", "nope", "--requests", "3")
        self.assertEqual((p.returncode, r["errors"]), (1, 3))
        self.assertIn("does not exist", p.stdout)
        self.d.wait_for("adapterd_requests_running", 0)

    def test_options_of_wrong_form_are_refused(self):
        for options in (["--models"], ["--models", "a", "--streams", "0"], ["--models", "a", "--arrivals", "x"], ["--models", "a", "--popularity", "zipf:x"], ["--models", "a", "--output-tokens", "5-2"], ["--tenant", "a=:1"],
                        ["--models", "a", "--tenant", "a"], ["--models", "a", "--tenant", "a=k:0"], ["--models", "a", "--tenant", "=k:1"], []):
            self.assertEqual(subprocess.run([BENCH, *options], capture_output=True).returncode, 2, options)
