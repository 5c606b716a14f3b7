# SPDX-License-Identifier: MIT
"""What /metrics says: its two formats, what is counted for whom, and what Prometheus' own programs make of it and of deploy/prometheus."""
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from daemon import ROOT, TINY, Daemon, wait_until

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
    from prometheus_client.parser import text_string_to_metric_families as read_text
except ImportError:
    read_open_metrics = read_text = None

BASE = os.path.join(TINY, "models", "llama-gqa")
DEPLOY = os.path.join(ROOT, "deploy", "prometheus")
# What Prometheus 2.42 sends.
ACCEPT = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def program(name):
    """Of the Debian package prometheus: in $AD_PROMETHEUS, which tests/run sets, or installed; else None."""
    return shutil.which(name, path=os.environ.get("AD_PROMETHEUS", "")) or shutil.which(name)


def needs(name):
    return unittest.skipUnless(program(name), f"{name} (Debian package prometheus) is not at hand: $AD_PROMETHEUS names the folder that has it")


class MetricsTests(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(BASE, "--served-name", "base", *cls.options, adapters=("qv", "all", "rslora"))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def scrape(self, accept=None):
        status, headers, body = self.d.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
        self.assertEqual(status, 200)
        return headers["Content-Type"], body.decode()


class Text(MetricsTests):
    def assert_strict(self, text):
        """What promtool lets pass and a scraper may not: families apart, each with its lines before its samples, no sample twice."""
        family, told, seen = None, {}, set()
        self.assertEqual(text[-1], "\n")
        self.assertNotIn("\r", text)
        for line in text[:-1].split("\n"):
            if line.startswith("# "):
                keyword, name = line.split(" ")[1:3]
                self.assertIn(keyword, ("TYPE", "HELP"))
                if name != family:
                    self.assertNotIn(name, told, "a family in two places")
                    family, told[name] = name, set()
                self.assertNotIn(keyword, told[name], line)
                told[name].add(keyword)
                continue
            match = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (\S+)', line)
            self.assertTrue(match, line)
            self.assertEqual(told[family], {"TYPE", "HELP"}, line)
            self.assertIn(match[1], {family, *(f"{family}_{s}" for s in ("bucket", "sum", "count"))}, line)
            float(match[3])
            self.assertNotIn((match[1], match[2]), seen, "a series twice")
            seen.add((match[1], match[2]))

    def test_without_a_wish_it_is_format_0_0_4_and_strictly_so(self):
        self.d.complete(model="qv", prompt="hello", max_tokens=4)
        for accept in (None, "*/*", "text/plain;version=1.0.0", "application/openmetrics-text;q=0.1,text/plain", "nonsense"):
            kind, text = self.scrape(accept)
            self.assertEqual(kind, "text/plain; version=0.0.4; charset=utf-8", accept)
            self.assert_strict(text)

    @unittest.skipUnless(read_text, "the Python package prometheus-client is not installed")
    def test_both_formats_say_the_same_and_a_strict_parser_takes_them(self):
        self.d.complete(model="all", prompt="hello", max_tokens=4)
        kind, opened = self.scrape(ACCEPT)
        self.assertEqual(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.assertTrue(opened.endswith("\n# EOF\n"))
        families = {f.name: f for f in read_open_metrics(opened)}
        for family in read_text(self.scrape()[1]):
            twin = families.pop(family.name)
            self.assertEqual((family.type, family.documentation), (twin.type, twin.documentation), family.name)
            self.assertLessEqual({(s.name, tuple(s.labels.items())) for s in twin.samples}, {(s.name, tuple(s.labels.items())) for s in family.samples}, family.name)
        self.assertEqual(families, {})

    @needs("promtool")
    def test_promtool_finds_nothing_in_our_own_names(self):
        self.d.complete(model="qv", prompt="hello", max_tokens=4)
        text = self.scrape()[1]
        own = "".join(line + "\n" for line in text.splitlines() if not re.match(r"(# \w+ )?(vllm|llamacpp):", line))
        self.assertIn("adapterd_build_info", own)
        p = subprocess.run([program("promtool"), "check", "metrics"], input=own, capture_output=True, text=True, timeout=120)
        self.assertEqual((p.returncode, p.stdout, p.stderr), (0, "", ""))
        p = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=120)
        others = [line for line in (p.stdout + p.stderr).splitlines() if "should not contain ':'" not in line]
        self.assertEqual(others, [], "beside the colons of vLLM's and llama-server's names")

    def test_process_metrics_are_those_of_the_process(self):
        pid = self.d.process.pid
        self.assertEqual(self.d.metric("process_start_time_seconds"), int(self.d.metric("process_start_time_seconds")))
        self.assertLess(abs(self.d.metric("process_start_time_seconds") - time.time()), 3600)
        self.assertGreater(self.d.metric("process_cpu_seconds_total"), 0)
        self.assertLess(abs(self.d.metric("process_open_fds") - len(os.listdir(f"/proc/{pid}/fd"))), 8)
        with open(f"/proc/{pid}/limits") as f:
            self.assertIn(str(int(self.d.metric("process_max_fds"))), f.read())
        with open(f"/proc/{pid}/status") as f:
            status = f.read()
        self.assertLess(abs(self.d.metric("process_resident_memory_bytes") / 1024 - int(re.search(r"VmRSS:\s+(\d+)", status)[1])), 16384)
        self.assertGreater(self.d.metric("process_virtual_memory_bytes"), self.d.metric("process_resident_memory_bytes"))


class Counting(MetricsTests):
    def total(self, name):
        return self.d.metric(name) or 0

    def test_each_adapter_and_tenant_has_its_own_requests_and_tokens(self):
        def counts(label):
            return {f: self.total(f"adapterd_{label.split('=')[0]}_{f}_total{{{label}}}") for f in ("requests", "prompt_tokens", "generated_tokens", "failures", "rejections")}
        before, everybody, base = counts('adapter="rslora"'), counts('tenant="default"'), counts('adapter="base"')
        usage = self.d.complete(model="rslora", prompt=[[1, 2, 3], [4, 5]], n=2, max_tokens=6, ignore_eos=True)["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"]), (5, 24))
        want = {"requests": 1, "prompt_tokens": 5, "generated_tokens": 24, "failures": 0, "rejections": 0}
        self.assertEqual(counts('adapter="rslora"'), {k: before[k] + v for k, v in want.items()})
        self.assertEqual(counts('tenant="default"'), {k: everybody[k] + v for k, v in want.items()})
        self.assertEqual(counts('adapter="base"'), base)
        self.d.complete(model="base", prompt=[1, 2], max_tokens=3, ignore_eos=True)
        self.assertEqual(counts('adapter="base"'), {**base, "requests": base["requests"] + 1, "prompt_tokens": base["prompt_tokens"] + 2, "generated_tokens": base["generated_tokens"] + 3})

    def test_a_request_whose_client_leaves_counts_what_it_got_and_as_client_left(self):
        gone, tokens = self.total('adapterd_errors_total{reason="client_left"}'), self.total('adapterd_adapter_generated_tokens_total{adapter="all"}')
        s = self.d.open_request({"model": "all", "prompt": [1, 2], "max_tokens": 400, "n": 64, "ignore_eos": True, "stream": True})
        self.assertIn(b"200 OK", s.recv(65536))
        while b'"text"' not in s.recv(65536):
            pass
        s.close()
        wait_until(lambda: self.total('adapterd_errors_total{reason="client_left"}') == gone + 1, "it was not counted")
        self.assertGreater(self.total('adapterd_adapter_generated_tokens_total{adapter="all"}'), tokens)

    def test_errors_are_counted_by_reason(self):
        for body, status, reason in ((b"{", 400, "invalid_json"), ({"model": "nope", "prompt": "x"}, 404, "model_not_found"), ({"model": "base", "prompt": "x", "n": -1}, 400, "invalid_value")):
            name = f'adapterd_errors_total{{reason="{reason}"}}'
            before = self.total(name)
            self.assertEqual(self.d.post(body)[0], status)
            self.assertEqual(self.total(name), before + 1, reason)
        for path, reason in (("/nowhere", "not_found"), ("/v1/completions", "method_not_allowed")):
            name = f'adapterd_errors_total{{reason="{reason}"}}'
            before = self.total(name)
            self.d.request("GET", path)
            self.assertEqual(self.total(name), before + 1, reason)

    def test_steps_are_timed_by_phase_and_add_up(self):
        def steps(phase):
            return self.total(f'adapterd_step_duration_seconds_count{{phase="{phase}"}}')
        prefill, decode, waits = steps("prefill"), steps("decode"), self.total("adapterd_queue_duration_seconds_count")
        self.d.complete(model="base", prompt=[7, 8, 9], max_tokens=5, ignore_eos=True)
        self.assertEqual((steps("prefill"), steps("decode")), (prefill + 1, decode + 4))
        self.assertEqual(self.total("adapterd_queue_duration_seconds_count"), waits + 1)
        self.assertEqual(sum(map(steps, ("prefill", "decode", "mixed"))), self.total("adapterd_engine_steps_total"))

    def test_the_prefix_cache_tells_queries_and_hits(self):
        prompt = list(range(1, 41))
        self.d.complete(model="base", prompt=prompt, max_tokens=1, ignore_eos=True)
        queries, hits = self.total("adapterd_prefix_cache_queries_total"), self.total("adapterd_cached_prompt_tokens_total")
        cached = self.d.complete(model="base", prompt=prompt, max_tokens=1, ignore_eos=True)["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(cached, 0)
        self.assertEqual((self.total("adapterd_prefix_cache_queries_total"), self.total("adapterd_cached_prompt_tokens_total")), (queries + 40, hits + cached))

    def test_times_between_tokens_are_kept_by_our_bounds_and_by_vllm_s(self):
        self.d.complete(model="base", prompt=[1], max_tokens=4, ignore_eos=True)
        text = self.scrape()[1]
        ours = re.findall(r'^adapterd_inter_token_latency_seconds_bucket{le="([^"]+)"} (\d+)$', text, re.M)
        theirs = re.findall(r'^vllm:inter_token_latency_seconds_bucket{engine="0",model_name="base",le="([^"]+)"} (\d+)$', text, re.M)
        self.assertEqual(ours[0][0], "0.0005")
        self.assertEqual([b for b, _ in theirs], "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 +Inf".split())
        self.assertEqual(ours[-1][1], theirs[-1][1])
        self.assertEqual(dict(ours)["0.01"], dict(theirs)["0.01"])

    def test_merged_weights_show_whose_they_are(self):
        self.assertEqual(self.d.post({"adapter": "qv"}, "/v1/admin/merge")[0], 200)
        self.assertEqual((self.total('adapterd_merged_adapter_info{adapter="qv"}'), self.total("adapterd_merged_adapters"), self.total("adapterd_merges_running")), (1, 1, 0))
        self.assertEqual(self.d.post({"adapter": None}, "/v1/admin/merge")[0], 200)
        self.assertNotIn("adapterd_merged_adapter_info", self.scrape()[1])


class FewRows(MetricsTests):
    options = ("--metrics-top", "2")

    def test_adapters_beyond_the_first_are_counted_together(self):
        for model, n in (("qv", 1), ("all", 2), ("rslora", 3), ("base", 1)):
            for _ in range(n):
                self.d.complete(model=model, prompt=[1, 2], max_tokens=3, ignore_eos=True)
        got = dict(re.findall(r'^adapterd_adapter_generated_tokens_total{adapter="([^"]+)"} (\d+)$', self.scrape()[1], re.M))
        self.assertEqual(got, {"qv": "3", "all": "6", "other": "12"})


class Limited(MetricsTests):
    def test_what_a_limit_refuses_counts_for_its_tenant(self):
        def call(method, path, body, **headers):
            status, _, reply = self.d.request(method, path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
            return status, json.loads(reply)
        root = {"Authorization": "Bearer " + call("POST", "/v1/admin/keys", {"verbs": ["admin", "infer"]})[1]["key"]}
        self.assertEqual(call("POST", "/v1/admin/tenants", {"name": "acme", "limits": {"requests_per_minute": 2}}, **root)[0], 201)
        theirs = {"Authorization": "Bearer " + call("POST", "/v1/admin/keys", {"tenant": "acme", "verbs": ["infer"]}, **root)[1]["key"]}
        answers = []
        body = json.dumps({"model": "base", "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True})
        for _ in range(5):
            c = http.client.HTTPConnection(self.d.host, self.d.port, timeout=120)
            c.request("POST", "/v1/completions", body, {"Content-Type": "application/json", **theirs})
            answers.append(c.getresponse().status)
            c.close()
        taken, refused = answers.count(200), answers.count(429)
        self.assertEqual(taken + refused, 5)
        self.assertGreater(refused, 0)
        for field, want in (("requests", 5), ("rejections", refused), ("prompt_tokens", 3 * taken), ("generated_tokens", 4 * taken), ("failures", 0)):
            self.assertEqual(self.d.metric(f'adapterd_tenant_{field}_total{{tenant="acme"}}'), want, field)
        self.assertEqual(self.d.metric('adapterd_errors_total{reason="rate_limit_exceeded"}'), refused)


class Fleet(unittest.TestCase):
    """Prometheus itself, with the configuration and the rules of deploy/prometheus."""

    def query(self, url, path, **what):
        try:
            with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(what)}", timeout=30) as r:
                return json.load(r)["data"]
        except (urllib.error.URLError, ConnectionError):
            return None  # not yet

    def value(self, url, expression):
        found = (self.query(url, "/api/v1/query", query=expression) or {}).get("result")
        return float(found[0]["value"][1]) if found else None

    @needs("prometheus")
    def test_prometheus_scrapes_a_running_daemon_by_the_sample_configuration(self):
        d = Daemon(BASE, "--served-name", "base", adapters=("qv",))
        self.addCleanup(d.stop)
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder, True)
        with open(os.path.join(DEPLOY, "prometheus.yml")) as f:
            config = f.read()
        self.assertIn("127.0.0.1:8000", config)
        config = config.replace("127.0.0.1:8000", f"127.0.0.1:{d.port}").replace("alerts.yml", os.path.join(DEPLOY, "alerts.yml"))
        with open(os.path.join(folder, "prometheus.yml"), "w") as f:
            f.write(re.sub(r"(scrape|evaluation)_interval: \S+", r"\1_interval: 500ms", config))
        with socket.create_server(("127.0.0.1", 0)) as s:
            url = f"http://127.0.0.1:{s.getsockname()[1]}"
        log = open(os.path.join(folder, "log"), "w+")
        self.addCleanup(log.close)
        p = subprocess.Popen([program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={url[7:]}"], stdout=log, stderr=log)
        self.addCleanup(p.wait)
        self.addCleanup(p.terminate)
        d.complete(model="qv", prompt="hello", max_tokens=5, ignore_eos=True)
        end = time.monotonic() + 120
        while self.value(url, 'adapterd_adapter_generated_tokens_total{adapter="qv"}') != 5:
            log.seek(0)
            self.assertIsNone(p.poll(), log.read()[-2000:])
            self.assertLess(time.monotonic(), end, log.read()[-2000:])
            time.sleep(0.2)
        targets = lambda: [(t["health"], t["lastError"]) for t in self.query(url, "/api/v1/targets")["activeTargets"]]
        wait_until(lambda: targets() == [("up", "")], targets)
        for expression, want in (("up", 1), ("adapterd_build_info", 1), ("adapterd_adapters", 1), ("sum(adapterd_time_to_first_token_seconds_bucket{le='+Inf'})", 1), ("vllm:num_requests_running", 0),
                                 ("count(vllm:kv_cache_usage_perc)", 1)):
            wait_until(lambda e=expression, w=want: self.value(url, e) == w, f"{expression} is {want}")
        self.assertIsNone(self.value(url, "vllm:lora_requests_info"), "the configuration leaves it out: each set of names would be a series of its own")
        rules = lambda: [r for g in self.query(url, "/api/v1/rules")["groups"] for r in g["rules"]]
        self.assertGreater(len(rules()), 5)
        wait_until(lambda: all(r["health"] != "unknown" for r in rules()), "all rules are evaluated")
        self.assertEqual([(r["name"], r.get("lastError")) for r in rules() if r["health"] != "ok"], [])
        self.assertEqual([r["name"] for r in rules() if r["state"] == "firing"], [])

    @needs("promtool")
    def test_the_sample_configuration_and_the_alerts_are_what_promtool_takes(self):
        for args in (["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
            p = subprocess.run([program("promtool"), *args], cwd=DEPLOY, capture_output=True, text=True, timeout=300)
            self.assertEqual(p.returncode, 0, p.stdout + p.stderr)

    def test_every_metric_that_an_alert_reads_is_there_and_every_alert_is_tested(self):
        d = Daemon(BASE, "--served-name", "base", adapters=("qv",))
        try:
            d.complete(model="qv", prompt="hello", max_tokens=5)
            text = d.request("GET", "/metrics")[2].decode()
        finally:
            d.stop()
        with open(os.path.join(DEPLOY, "alerts.yml")) as f:
            rules = f.read()
        with open(os.path.join(DEPLOY, "alerts_test.yml")) as f:
            tested = set(re.findall(r"alertname: (\w+)", f.read()))
        self.assertEqual(set(re.findall(r"alert: (\w+)", rules)), tested)
        for name in set(re.findall(r"\b(?:adapterd|process)_\w+", rules)):
            self.assertRegex(text, rf"(?m)^{name}[{{ ]")


class UnderLoad(unittest.TestCase):
    def test_a_scraper_that_polls_all_the_time_gets_growing_counters_while_it_generates(self):
        d = Daemon(BASE, "--served-name", "base", adapters=("qv", "all"))
        stop = threading.Event()

        def load(model):
            while not stop.is_set():
                d.complete(model=model, prompt=[[1, 2, 3]] * 8, max_tokens=40, ignore_eos=True)

        threads = [threading.Thread(target=load, args=(m,)) for m in ("qv", "all", "base")]
        try:
            for t in threads:
                t.start()
            before, busy, end = {}, 'adapterd_adapter_generated_tokens_total{adapter="qv"}', time.monotonic() + 120
            for i in range(1 << 30):
                if i > 60 and before.get(busy):
                    break
                self.assertLess(time.monotonic(), end, "nothing was generated")
                text = d.request("GET", "/metrics")[2].decode()
                now = {series: float(value) for series, value in re.findall(r"^(\S+(?:_total|_count|_sum|_bucket)(?:{.*})?) (\S+)$", text, re.M)}
                self.assertLessEqual(before.keys(), now.keys())
                self.assertEqual([s for s in before if before[s] > now[s]], [])
                before = now
                self.assertEqual(len(re.findall(r"^vllm:lora_requests_info{", text, re.M)), 1)
        finally:
            stop.set()
            for t in threads:
                t.join()
            d.stop()
