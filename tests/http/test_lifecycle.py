# SPDX-License-Identifier: MIT
"""Start, load, disconnects and the end."""
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import PATIENCE, TINY, Daemon, everything, fails_to_start, wait_until

GQA = os.path.join(TINY, "models", "llama-gqa")


ENDLESS = ("--cpu-features", "none", "--threads", "1", "--drain-timeout", "3600")  # a long request of 64 takes minutes


def long_request(stream, n=16):
    body = json.dumps({"model": "base", "prompt": [1, 2, 3], "max_tokens": 500, "ignore_eos": True, "stream": stream, "n": n}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Lifecycle(unittest.TestCase):
    def test_a_client_that_leaves_cancels_its_generations(self):
        d = Daemon(GQA, "--served-name", "base")
        try:
            for stream in (True, False):
                s = socket.create_connection((d.host, d.port))
                s.sendall(long_request(stream, 64))
                if stream:
                    s.recv(1000)
                else:
                    d.wait_for("adapterd_requests_running", 64, PATIENCE)
                s.close()
                d.wait_for("adapterd_requests_running", 0, 2)
                d.wait_for("adapterd_kv_pages_used", 0, 2)
            self.assertLess(d.metric("adapterd_engine_generated_tokens_total"), 2 * 64 * 500)
            self.assertGreaterEqual(d.metric('adapterd_http_requests_total{route="/v1/completions",status="499"}'), 2)
        finally:
            d.stop()

    def test_many_clients_that_come_and_go_leave_nothing_behind(self):
        d = Daemon(GQA, "--served-name", "base", "--max-running", "8", "--queue-limit", "40", adapters=("qv", "all"))
        try:
            def one(i):
                s = socket.create_connection((d.host, d.port))
                s.sendall(long_request(i % 2 == 0))
                s.settimeout(0.05 * (i % 4))
                try:
                    s.recv(100)
                except (TimeoutError, BlockingIOError, OSError):
                    pass
                s.close()
                return d.post({"model": ["base", "qv", "all"][i % 3], "prompt": [i], "max_tokens": 3, "ignore_eos": True})[0]
            with ThreadPoolExecutor(8) as pool:
                statuses = set(pool.map(one, range(60)))
            self.assertLessEqual(statuses, {200, 503})
            d.wait_for("adapterd_requests_running", 0)
            d.wait_for("adapterd_requests_waiting", 0)
            d.wait_for("adapterd_kv_pages_used", 0)
        finally:
            d.stop()

    def test_sigterm_finishes_what_runs_and_refuses_the_rest(self):
        d = Daemon(GQA, "--served-name", "base", "--drain-timeout", "600") # sanitizers take their time
        reply = []
        t = threading.Thread(target=lambda: reply.append(d.post({"model": "base", "prompt": [1, 2], "max_tokens": 500, "n": 16, "ignore_eos": True}, timeout=600)))
        t.start()
        wait_until(lambda: d.metric("adapterd_generated_tokens_total") > 0, "it runs")
        d.process.send_signal(signal.SIGTERM)
        t.join()
        self.assertEqual(reply[0][0], 200)
        self.assertEqual(reply[0][1]["usage"]["completion_tokens"], 8000)
        d.stop()

    def signal(self, d, number):
        """Sends it and waits until the daemon has heard it, which closes the listener."""
        def refused():
            try:
                socket.create_connection((d.host, d.port), timeout=PATIENCE).close()
                return False
            except (ConnectionRefusedError, ConnectionResetError):
                return True
        d.process.send_signal(number)
        wait_until(refused, "the listener is closed")

    def finish_after_sigterm(self, request):
        """What a request is answered whose last byte comes after the signal; and the daemon ends soon and well."""
        d = Daemon(GQA, "--served-name", "base", "--drain-timeout", "3600")
        s = socket.create_connection((d.host, d.port), timeout=PATIENCE)
        s.sendall(request[:-1])
        d.wait_for("adapterd_connections", 2, PATIENCE)
        d.get("/health")  # on a connection that came later still: what was sent is read
        self.signal(d, signal.SIGTERM)
        s.sendall(request[-1:])
        start = time.monotonic()
        with s:
            reply = everything(s)
        d.stop()
        self.assertLess(time.monotonic() - start, 5)
        return reply

    def test_a_completion_whose_body_ends_after_the_signal_is_refused(self):
        self.assertIn(b" 503 ", self.finish_after_sigterm(long_request(False)).splitlines()[0])

    def test_who_asks_for_events_after_the_signal_does_not_keep_the_daemon(self):
        self.assertIn(b" 503 ", self.finish_after_sigterm(b"GET /v1/adapters/events HTTP/1.1\r\nHost: x\r\n\r\n").splitlines()[0])

    def test_a_second_signal_stops_at_once(self):
        d = Daemon(GQA, "--served-name", "base", *ENDLESS)
        s = socket.create_connection((d.host, d.port))
        s.sendall(long_request(True, 64))
        s.recv(100)
        self.signal(d, signal.SIGINT)
        start = time.monotonic()
        self.assertIn("again: stopping now", d.stop(signal.SIGINT))
        self.assertLess(time.monotonic() - start, 5)
        s.close()

    def test_the_drain_timeout_ends_what_is_too_long(self):
        d = Daemon(GQA, "--served-name", "base", *ENDLESS[:-1], "0")
        s = socket.create_connection((d.host, d.port))
        s.sendall(long_request(True, 64))
        s.recv(100)
        start = time.monotonic()
        self.assertIn("ending them with an error", d.stop())
        self.assertLess(time.monotonic() - start, 5)
        s.close()

    def test_an_idle_daemon_ends_at_once_and_keeps_no_connection(self):
        d = Daemon(GQA, "--drain-timeout", "3600")
        s = socket.create_connection((d.host, d.port))
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        s.recv(1000)
        start = time.monotonic()
        d.stop()
        self.assertLess(time.monotonic() - start, 3)
        s.close()

    def test_a_full_queue_is_503_and_health_answers_meanwhile(self):
        d = Daemon(GQA, "--served-name", "base", "--max-running", "2", "--queue-limit", "2")
        try:
            body = {"model": "base", "prompt": [1], "max_tokens": 400, "ignore_eos": True}
            with ThreadPoolExecutor(12) as pool:
                jobs = [pool.submit(d.post, body) for _ in range(12)]
                slowest = 0
                for _ in range(20):
                    start = time.monotonic()
                    self.assertEqual(d.get("/health")[0], 200)
                    slowest = max(slowest, time.monotonic() - start)
                statuses = sorted(j.result()[0] for j in jobs)
            self.assertEqual(set(statuses), {200, 503})
            self.assertGreaterEqual(statuses.count(200), 4)
            self.assertLess(slowest, 1)
            self.assertGreaterEqual(d.metric("adapterd_requests_rejected_total"), 1)
        finally:
            d.stop()

    def test_when_the_kv_memory_is_full_the_youngest_gives_way_and_all_end_alike(self):
        """700 kB hold 42 pages of this model, one sequence takes 13 in the end: eight of them do not fit together."""
        ask = lambda d, i: d.post({"model": "base", "prompt": [i], "max_tokens": 200, "ignore_eos": True, "temperature": 1, "seed": i, "return_token_ids": True})
        d = Daemon(GQA, "--served-name", "base", "--kv-memory", "700k", "--context", "256")
        try:
            with ThreadPoolExecutor(8) as pool:
                replies = list(pool.map(lambda i: ask(d, i), range(8)))
            self.assertEqual({s for s, _ in replies}, {200})
            self.assertGreater(d.metric("adapterd_preemptions_total"), 0)
            alone = [ask(d, i)[1]["choices"] for i in range(8)]
            self.assertEqual([r["choices"] for _, r in replies], alone)
            d.wait_for("adapterd_kv_pages_used", 0)
        finally:
            d.stop()

    def test_results_do_not_depend_on_threads_or_step_size(self):
        texts = set()
        for options in (("--threads", "1"), ("--threads", "3"), ("--step-tokens", "3", "--max-running", "2"), ("--step-tokens", "64")):
            d = Daemon(GQA, "--served-name", "base", *options, adapters=("all",))
            try:
                r = d.complete(model="all", prompt=[(7 * i) % 1000 for i in range(100)], max_tokens=20, logprobs=5, echo=True, ignore_eos=True)
                texts.add(json.dumps(r["choices"]))
            finally:
                d.stop()
        self.assertEqual(len(texts), 1)

    def test_the_environment_and_a_file_configure_it_too(self):
        path = os.path.join(TINY, "..", "..", "..", "build-test.conf")
        with open(path, "w") as f:
            f.write("# a comment\nserved-name = from-file\nlog-level = error\n")
        try:
            d = Daemon(GQA, "--config", path, env={"ADAPTERD_SERVED_NAME": "from-env"})
            try:
                self.assertEqual(d.get("/v1/models")[1]["data"][0]["id"], "from-env")
            finally:
                d.stop()
        finally:
            os.unlink(path)


    def test_a_context_nobody_asked_for_shrinks_to_the_kv_memory(self):
        d = Daemon(GQA, "--kv-memory", "64k", "--log-level", "error")
        try:
            context = d.get("/v1/models")[1]["data"][0]["max_model_len"]
            self.assertLess(context, 512)
            self.assertGreaterEqual(context, 16)
        finally:
            d.stop()


class RefusesToStart(unittest.TestCase):
    def test_with_a_context_that_does_not_fit_the_kv_memory(self):
        self.assertIn("--kv-memory", fails_to_start("--model", GQA, "--kv-memory", "64k", "--context", "512"))

    def test_without_a_model(self):
        self.assertIn("--model", fails_to_start())

    def test_with_an_unknown_option(self):
        self.assertIn("--modle", fails_to_start("--modle", "x"))

    def test_with_an_unknown_environment_variable(self):
        self.assertIn("ADAPTERD_MODLE", fails_to_start("--model", GQA, env={"ADAPTERD_MODLE": "x"}))

    def test_with_a_model_that_is_not_there(self):
        self.assertIn("/nowhere", fails_to_start("--model", "/nowhere"))

    def test_with_a_model_that_is_no_model(self):
        self.assertIn("README", fails_to_start("--model", os.path.join(TINY, "..", "..", "..", "README.md")))

    def test_with_an_adapter_that_is_not_there(self):
        self.assertIn("/nowhere", fails_to_start("--model", GQA, "--adapter", "x=/nowhere"))

    def test_with_an_adapter_it_does_not_serve(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(f"{TINY}/adapters/qv", folder, dirs_exist_ok=True)
            with open(f"{folder}/adapter_config.json") as f:
                config = json.load(f)
            with open(f"{folder}/adapter_config.json", "w") as f:
                json.dump(config | {"use_qalora": True}, f)
            self.assertIn("QA-LoRA", fails_to_start("--model", GQA, "--bad-adapter", "refuse", "--adapter", f"x={folder}"))

    def test_with_an_adapter_of_another_base(self):
        self.assertIn("spm-all", fails_to_start("--model", GQA, "--bad-adapter", "refuse", "--adapter", f"x={TINY}/adapters/spm-all"))

    def test_with_two_adapters_of_one_name(self):
        self.assertIn('"x"', fails_to_start("--model", GQA, "--adapter", f"x={TINY}/adapters/qv", "--adapter", f"x={TINY}/adapters/all"))

    def test_with_an_adapter_named_like_the_base(self):
        self.assertIn("base", fails_to_start("--model", GQA, "--served-name", "base", "--adapter", f"base={TINY}/adapters/qv"))

    def test_on_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.assertIn("in use", fails_to_start("--model", GQA, "--port", str(s.getsockname()[1])))
