# SPDX-License-Identifier: MIT
"""The life of the process: what a service manager hears, draining, reloading, a stuck engine, bad adapters at the start."""
import http.client
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from daemon import ADAPTERD, CHATML, PATIENCE, TINY, clean_env, fails_to_start, wait_until
from registry_util import Registry, files_of

GQA = os.path.join(TINY, "models", "llama-gqa")


class Manager:
    """Stands for systemd: a socket that notes what it is told."""

    def __init__(self, address):
        self.heard, self.address = [], address.replace("@", "\0") if address.startswith("@") else address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.env = {"NOTIFY_SOCKET": address}
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                self.heard.append(self.socket.recv(4096).decode())
            except OSError:
                return

    def hears(self, what, more_than=0):
        wait_until(lambda: sum(what in m.split("\n") or what in m for m in self.heard) > more_than, lambda: f"{what} in {self.heard}")

    def index(self, what):
        return next(i for i, m in enumerate(self.heard) if what in m)

    def count(self, what):
        """Of all that has been sent."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            before = self.heard.count("ours")
            s.sendto(b"ours", self.address)
        wait_until(lambda: self.heard.count("ours") > before, "what was sent is heard")
        return sum(what in m for m in self.heard)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def at(self, name):
        return os.path.join(self.dir.name, name)

    def write(self, name, text):
        with open(self.at(name), "w") as f:
            f.write(text)
        return self.at(name)

    def start(self, *options, **more):
        d = Registry(GQA, "--served-name", "base", *options, **more)
        self.addCleanup(lambda: d.process.poll() is None and d.process.kill())
        return d


class Notifications(Case):
    def hear_a_life(self, address):
        m = Manager(address)
        d = self.start(env=m.env)
        m.hears("READY=1")
        self.assertLess(m.index("EXTEND_TIMEOUT_USEC"), m.index("READY=1"))
        self.assertIn("STATUS=serving base", m.heard[m.index("READY=1")])
        d.process.send_signal(signal.SIGHUP)
        m.hears("READY=1", 1)
        self.assertRegex(m.heard[m.index("RELOADING=1")], r"\nMONOTONIC_USEC=[1-9]\d+$")
        d.stop()
        m.hears("STOPPING=1")
        self.assertLess(m.index("RELOADING=1"), m.index("STOPPING=1"))
        microseconds = int(re.search(r"EXTEND_TIMEOUT_USEC=(\d+)", m.heard[m.index("STOPPING=1")])[1])
        self.assertGreater(microseconds, 30e6, "--drain-timeout")
        m.socket.close()

    def test_systemd_hears_when_we_serve_reload_and_stop(self):
        self.hear_a_life(self.at("notify"))

    def test_an_abstract_socket_will_do(self):
        self.hear_a_life(f"@adapterd-test-{os.getpid()}")

    def test_a_manager_that_is_gone_does_not_matter(self):
        d = self.start(env={"NOTIFY_SOCKET": self.at("nobody")})
        self.assertEqual(d.request("GET", "/readyz")[0], 200)
        d.stop()

    def test_the_watchdog_hears_from_the_process_it_is_meant_for_and_from_no_other(self):
        m = Manager(self.at("notify"))
        d = self.start(env={**m.env, "WATCHDOG_USEC": "200000"})
        m.hears("WATCHDOG=1", 3)
        d.stop()
        before = m.count("WATCHDOG=1")
        d = self.start(env={**m.env, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"})
        m.hears("READY=1", 1)
        time.sleep(1)
        d.stop()
        self.assertEqual(m.count("WATCHDOG=1"), before)
        m.socket.close()


class Start(Case):
    def test_without_standard_files_nothing_else_takes_their_place(self):
        command = f'exec "{ADAPTERD}" --model {GQA} --served-name base --port 0 --log-level debug --state-dir {self.at("state")} <&- 2>&-'
        p = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, text=True, env=clean_env())
        self.addCleanup(p.kill)
        port = int(p.stdout.readline().rsplit(":", 1)[1])
        self.assertEqual({os.readlink(f"/proc/{p.pid}/fd/{n}") for n in (0, 2)}, {"/dev/null"})
        p.send_signal(signal.SIGHUP)
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for _ in range(3):
            c.request("POST", "/v1/completions", json.dumps({"model": "base", "prompt": [1], "max_tokens": 2}), {"Content-Type": "application/json"})
            r = c.getresponse()
            self.assertEqual((r.status, len(json.loads(r.read())["choices"])), (200, 1))
        c.close()
        p.terminate()
        self.assertEqual(p.wait(PATIENCE), 0)
        p.stdout.close()

    def test_no_request_needs_a_thread_that_is_not_there_yet(self):
        d = self.start()
        threads = lambda: len(os.listdir(f"/proc/{d.process.pid}/task"))
        before = threads()
        self.assertEqual(d.post({"model": "base", "prompt": "x" * 100000, "max_tokens": 1})[0], 400)  # so long that it is not read by the loop
        self.assertEqual(threads(), before)
        d.stop()


class StuckEngine(Case):
    def test_a_step_without_end_fails_livez_and_the_watchdog_until_it_ends(self):
        m = Manager(self.at("notify"))
        d = self.start("--cpu-features", "none", "--threads", "1", "--weights", "f32", "--step-tokens", "65536", "--stuck-after", "1", env={**m.env, "WATCHDOG_USEC": "100000"})
        looks, runs = [], []
        for n in (4, 8, 16, 32, 64):  # one step of so many long prompts, until the machine needs three seconds for it
            body = {"model": "base", "prompt": [[(7 * i + j) % 500 + 3 for j in range(500)] for i in range(n)], "max_tokens": 1}
            t = threading.Thread(target=d.post, args=(body,), kwargs={"timeout": 600})
            t.start()
            while t.is_alive():
                status, _, text = d.request("GET", "/livez")
                looks.append((status, m.count("WATCHDOG=1")))
                if status == 503:
                    self.assertIn(b"finished no step", text)
                time.sleep(0.05)
            t.join()
            runs = [[pets for _, pets in run] for status, run in itertools.groupby(looks, lambda look: look[0]) if status == 503]
            if any(len(run) > 10 for run in runs):
                break
        self.assertTrue(any(len(run) > 10 for run in runs), "no machine is so fast")
        for run in runs:  # half a second, in which the watchdog hears ten times of a healthy process; once may have been under way
            self.assertLessEqual(run[-1] - run[0], 1)
        self.assertEqual(looks[0][0], 200)
        wait_until(lambda: d.request("GET", "/livez")[0] == 200, "alive again")
        m.hears("WATCHDOG=1", runs[-1][-1] + 1)
        self.assertEqual(d.get("/health")[1], {"status": "ok"})
        self.assertIn("finished no step", d.stop())
        m.socket.close()

    def test_an_idle_engine_is_not_stuck(self):
        d = self.start("--stuck-after", "1")
        time.sleep(4)
        self.assertEqual(d.request("GET", "/livez")[0], 200)
        d.complete(model="base", prompt=[1], max_tokens=1)
        self.assertEqual(d.request("GET", "/livez")[0], 200)
        d.stop()


LONG = {"max_tokens": 400, "ignore_eos": True, "n": 16}
MESSAGES = [{"role": "user", "content": "hello"}]
# Route, body, how its stream says that it failed.
DIALECTS = {
    "/v1/completions": ({"model": "base", "prompt": [1, 2], **LONG}, lambda e: e["error"]["type"] == "service_unavailable"),
    "/v1/chat/completions": ({"model": "base", "messages": MESSAGES, **LONG}, lambda e: e["error"]["type"] == "service_unavailable"),
    "/v1/responses": ({"model": "base", "input": "hello", "max_output_tokens": 400, "temperature": 0}, lambda e: e["type"] == "response.failed" and e["response"]["status"] == "failed" and "shutting down" in e["response"]["error"]["message"]),
    "/completion": ({"prompt": [1, 2], "n_predict": 400, "ignore_eos": True}, lambda e: e["error"]["type"] == "unavailable_error"),
    "/generate_stream": ({"inputs": "hello", "parameters": {"max_new_tokens": 400, "ignore_eos_token": True}}, lambda e: e["error_type"] == "unavailable"),
}


class Draining(Case):
    def chatty(self, *options):
        """Steps of plain C and as many generations as it takes: nothing here ends by itself before the test says so."""
        return self.start("--chat-template-file", self.write("chat.jinja", CHATML), "--cpu-features", "none", "--threads", "1", "--max-running", "512", *options)

    def keep_busy(self, d):
        """Slows each step down, so that what is asked next takes long."""
        s = d.open_request({"model": "base", "prompt": [3], "max_tokens": 500, "ignore_eos": True, "n": 128})
        d.wait_for("adapterd_requests_running", 128, PATIENCE)
        self.addCleanup(s.close)

    def ask(self, d, path, body, stream):
        c = http.client.HTTPConnection(d.host, d.port, timeout=PATIENCE)
        field = {"stream": stream} if path != "/generate_stream" else {}
        c.request("POST", path, json.dumps({**body, **field}), {"Content-Type": "application/json"})
        self.addCleanup(c.close)
        return c

    def test_what_does_not_end_in_time_ends_with_an_error_in_its_dialect_s_form(self):
        d = self.chatty("--drain-timeout", "1")
        self.keep_busy(d)
        streams = {path: self.ask(d, path, body, True) for path, (body, _) in DIALECTS.items()}
        replies = {path: c.getresponse() for path, c in streams.items()}
        whole = {path: self.ask(d, path if path != "/generate_stream" else "/generate", body, False) for path, (body, _) in DIALECTS.items()}
        first = {path: r.read(1) for path, r in replies.items()}
        d.wait_for("adapterd_requests_running", 128 + 2 * (16 + 16 + 1 + 1 + 1), PATIENCE)
        d.process.send_signal(signal.SIGTERM)
        for path, r in replies.items():
            self.assertEqual(r.status, 200)
            text = (first[path] + r.read()).decode()  # whole: a cut one would raise IncompleteRead
            last = text.split("\n\n")[-2]
            event = json.loads(re.search(r"^data: ?(.*)$", last, re.M)[1])
            self.assertTrue(DIALECTS[path][1](event), (path, event))
        for path, c in whole.items():
            r = c.getresponse()
            body = json.loads(r.read())
            self.assertEqual((r.status, r.headers["Connection"]), (503, "close"), (path, body))
            self.assertIn("shutting down", json.dumps(body))
            self.assertEqual(r.headers["Retry-After"], "1")
        self.assertIn("ending them with an error", d.stop())

    def test_a_second_signal_ends_them_at_once_with_an_error_too(self):
        d = self.chatty("--drain-timeout", "3600")
        self.keep_busy(d)
        stream, whole = (self.ask(d, "/v1/completions", DIALECTS["/v1/completions"][0], s) for s in (True, False))
        r = stream.getresponse()
        first = r.read(1)
        d.process.send_signal(signal.SIGTERM)
        wait_until(lambda: self.refused(d), "the listener is closed")
        self.assertIsNone(d.process.poll())
        d.process.send_signal(signal.SIGTERM)
        self.assertIn('"service_unavailable"', (first + r.read()).decode().split("\n\n")[-2])
        self.assertEqual(whole.getresponse().status, 503)
        self.assertIn("again: stopping now", d.stop())

    def refused(self, d):
        try:
            socket.create_connection((d.host, d.port), timeout=5).close()
            return False
        except ConnectionRefusedError:
            return True

    def test_a_body_that_is_still_coming_at_the_end_is_answered(self):
        d = self.start("--drain-timeout", "0", "--body-timeout", "600")
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n"
        sockets = []
        for path, kind in ((b"/v1/completions", b"application/json"), (b"/v1/adapters", b"multipart/form-data; boundary=b")):
            s = socket.create_connection((d.host, d.port), timeout=PATIENCE)
            s.sendall(head % (path, kind) + (b'{"model": ' if b"json" in kind else b"--b\r\n"))
            sockets.append(s)
        wait_until(lambda: d.metric("adapterd_connections") == 3, "both are connected")
        d.get("/health")  # on a connection that came later still: what they sent is read
        d.process.send_signal(signal.SIGTERM)
        for s in sockets:
            reply = b""
            while chunk := s.recv(65536):
                reply += chunk
            s.close()
            self.assertTrue(reply.startswith(b"HTTP/1.1 503 "), reply)
            self.assertIn(b"shutting down", reply)
        d.stop()

    def test_a_merge_that_still_waits_at_the_end_is_told(self):
        d = self.start("--drain-timeout", "3600", adapters=("qv",), env={"UV_THREADPOOL_SIZE": "1"})
        for i in range(16):  # the merge's turn comes behind these: texts that take the pool's one thread long, and are no answer's prompt in the end
            self.addCleanup(self.ask(d, "/v1/completions", {"model": "base", "prompt": f"{i} some words " * 400000, "max_tokens": 1}, False).close)
        merge = http.client.HTTPConnection(d.host, d.port, timeout=PATIENCE)
        self.addCleanup(merge.close)
        merge.request("POST", "/v1/admin/merge", json.dumps({"adapter": "qv"}), {"Content-Type": "application/json"})
        wait_until(lambda: d.metric("adapterd_merges_running") == 1, "the merge has begun")
        for _ in range(2):
            d.process.send_signal(signal.SIGTERM)
            wait_until(lambda: self.refused(d), "the listener is closed")
        r = merge.getresponse()
        body = json.loads(r.read())
        self.assertEqual((r.status, r.headers["Connection"], r.headers["Retry-After"], body["error"]["type"]), (503, "close", "1", "service_unavailable"), body)
        self.assertIn("shutting down", body["error"]["message"])
        d.stop()

    def test_for_the_shutdown_delay_everything_is_taken_and_connections_end_with_their_replies(self):
        d = self.start("--shutdown-delay", "3600", "--drain-timeout", "0")
        old = http.client.HTTPConnection(d.host, d.port, timeout=PATIENCE)
        old.request("GET", "/readyz")
        self.assertEqual(old.getresponse().read(), b"ok\n")
        self.assertIsNotNone(old.sock, "kept alive")
        d.process.send_signal(signal.SIGTERM)
        wait_until(lambda: d.request("GET", "/readyz")[0] == 503, "not ready")
        old.request("GET", "/v1/models")
        r = old.getresponse()
        r.read()
        self.assertEqual((r.status, r.headers["Connection"]), (200, "close"))
        self.assertEqual(d.complete(model="base", prompt=[1], max_tokens=2)["usage"]["completion_tokens"], 2)
        self.assertEqual(d.get("/health"), (503, {"status": "draining"}))
        self.assertEqual(d.request("GET", "/ping")[0], 503)
        self.assertEqual(d.request("GET", "/livez")[0], 200)
        self.assertEqual(d.get("/v1/admin/status")[1]["state"], "leaving")
        old.close()
        d.stop()  # a second signal

    def test_after_the_shutdown_delay_the_listener_closes(self):
        d = self.start("--shutdown-delay", "1")
        d.process.send_signal(signal.SIGTERM)
        self.assertEqual(d.process.wait(PATIENCE), 0)
        d.stop()


class OutOfRotation(Case):
    def drain(self, d, value):
        return d.post({"drain": value}, "/v1/admin/drain")

    def test_an_operator_s_drain_changes_readyz_and_nothing_else(self):
        d = self.start()
        self.assertEqual(self.drain(d, True), (200, {"state": "out of rotation", "draining": True, "ready": False}))
        self.assertEqual(d.request("GET", "/readyz")[::2], (503, b"draining\n"))
        self.assertEqual(d.get("/health"), (200, {"status": "ok"}))
        self.assertEqual(d.request("GET", "/livez")[0], 200)
        self.assertEqual(d.metric("adapterd_draining"), 1)
        self.assertEqual(d.complete(model="base", prompt=[1], max_tokens=2)["usage"]["completion_tokens"], 2)
        self.assertEqual(self.drain(d, False), (200, {"state": "serving", "draining": False, "ready": True}))
        self.assertEqual(d.request("GET", "/readyz")[0], 200)
        d.stop()

    def test_what_is_no_yes_or_no_is_refused(self):
        d = self.start()
        for body, param in ((b"", None), (b"[]", None), (b"{}", "drain"), (b'{"drain": 1}', "drain"), (b'{"drain": null}', "drain")):
            status, reply = d.post(body, "/v1/admin/drain")
            self.assertEqual((status, reply["error"]["param"]), (400, param))
        self.assertEqual(d.request("GET", "/readyz")[0], 200)
        d.stop()


class Status(Case):
    def test_one_look_tells_what_the_server_does(self):
        d = self.start(adapters=("qv", "all"))
        v = d.get("/v1/admin/status")[1]
        self.assertEqual((v["state"], v["ready"], v["draining"], v["model"], v["pid"]), ("serving", True, False, "base", d.process.pid))
        self.assertEqual(v["listeners"], [f"http://{d.host}:{d.port}"])
        self.assertEqual((v["adapters"]["total"], v["adapters"]["resident"]), (2, 2))
        self.assertEqual(v["requests"], {"running": 0, "waiting": 0})
        self.assertEqual(v["tokens_per_second"], {"prompt": 0, "generated": 0})
        self.assertTrue(v["last_reload"]["successful"])
        s = d.open_request({"model": "base", "prompt": [1], "max_tokens": 500, "ignore_eos": True, "n": 64})
        wait_until(lambda: d.get("/v1/admin/status")[1]["tokens_per_second"]["generated"] > 0, "a rate")
        rates = d.get("/v1/admin/status")[1]["tokens_per_second"].values()
        self.assertEqual(list(rates), [round(r, 1) for r in rates])
        s.close()
        wait_until(lambda: d.get("/v1/admin/status")[1]["tokens_per_second"]["generated"] == 0, "none")
        d.stop()


class Reload(Case):
    read = 0  # how much of the log

    def hang_up(self, d):
        """Asks for a reload; what the log says of it, once it is done."""
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: re.search(r'"reload: (done|nothing)', d.stderr()[self.read:]), "a reload")
        log = d.stderr()[self.read:]
        self.read += len(log)
        return log

    def test_what_can_change_at_run_time_does_and_the_rest_is_named(self):
        path = self.write("conf", "max-body = 8M\nqueue-limit = 5\nthreads = 1\n")
        d = self.start("--config", path, log_level="info")
        big = {"model": "base", "prompt": [1] * 2000, "max_tokens": 1}
        self.assertEqual(d.post(big)[0], 400, "too long for the context, but not for the server")
        self.write("conf", "max-body = 2k\nqueue-limit = 5\nthreads = 2\nport = 1\ndrain-timeout = 7\n")
        log = self.hang_up(d)
        self.assertIn("reload: threads has changed, which needs a restart", log)
        self.assertIn("reload: max-body is another from now on", log)
        self.assertNotIn("queue-limit", log)
        self.assertNotIn("port has", log, "the command line's wins")
        self.assertEqual(d.post(big)[0], 413)
        self.assertEqual(d.metric("adapterd_config_last_reload_successful"), 1)
        self.assertIn("at most 7 s", d.stop())

    def test_a_bad_configuration_changes_nothing_and_is_told(self):
        path = self.write("conf", "max-body = 8M\n")
        d = self.start("--config", path)
        since = d.metric("adapterd_config_last_reload_success_timestamp_seconds")
        self.assertAlmostEqual(since, time.time(), delta=PATIENCE)
        for text, why in (("max-body = 2k\nno-such-key = 1\n", "line 2"), ("max-body = 2k\nlog-level = loud\n", "loud"), ("max-body = 1\n", "at least 1k")):
            self.write("conf", text)
            log = self.hang_up(d)
            self.assertIn("reload: nothing has changed", log)
            self.assertIn(why, log)
            self.assertEqual(d.metric("adapterd_config_last_reload_successful"), 0)
            self.assertEqual(d.metric("adapterd_config_last_reload_success_timestamp_seconds"), since)
            self.assertFalse(d.get("/v1/admin/status")[1]["last_reload"]["successful"])
            self.assertEqual(d.post({"model": "base", "prompt": [1] * 2000, "max_tokens": 1})[0], 400)
        os.unlink(path)
        self.assertIn("conf", self.hang_up(d))
        self.write("conf", "max-body = 2k\n")
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.metric("adapterd_config_last_reload_successful") == 1, "the next good one")
        self.assertEqual(d.post({"model": "base", "prompt": [1] * 2000, "max_tokens": 1})[0], 413)
        d.stop()

    def test_the_last_trusted_key_stays_as_long_as_signatures_are_required(self):
        key = "trusted-key = RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n"
        path = self.write("conf", "signatures = require\nmax-body = 8M\n" + key)
        d = self.start("--config", path)
        self.write("conf", "signatures = off\nmax-body = 2k\n")
        self.assertIn("nothing has changed: trusted-key", self.hang_up(d))
        self.assertEqual(d.post({"model": "base", "prompt": [1] * 2000, "max_tokens": 1})[0], 400, "not 413")
        self.write("conf", "signatures = off\n" + key)
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.metric("adapterd_config_last_reload_successful") == 1, "one that has a key")
        d.stop()

    def test_with_few_files_there_are_few_connections_and_health_is_answered_beyond_them(self):
        d = self.start(log_level="info")
        resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE, (80, 80))
        self.assertIn("the limit of 80 open files allows; using 20", self.hang_up(d))
        idle = [socket.create_connection((d.host, d.port), timeout=PATIENCE) for _ in range(80)]
        wait_until(lambda: b" 200 OK" in d.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "those that came at once have gone")
        for _ in range(5):
            self.assertEqual(d.request("GET", "/health")[0], 200)
        for s in idle:
            s.close()
        wait_until(lambda: d.metric("adapterd_connections") == 1, "the scrape's alone")
        self.assertEqual(d.upload("a", files_of("qv"))[0], 201)
        d.stop()


class CheckConfig(Case):
    def run_it(self, *args):
        p = subprocess.run([ADAPTERD, *args], capture_output=True, text=True, timeout=PATIENCE, env=clean_env())
        return p.returncode, p.stdout, p.stderr

    def test_a_good_one_is_0_and_a_bad_one_says_why(self):
        path = self.write("conf", "model = m\nport = 1\n")
        self.assertEqual(self.run_it("--check-config", "--config", path)[0], 0)
        self.assertIn("line 2", fails_to_start("--check-config", "--config", self.write("bad", "model = m\nprot = 1\n")))

    def test_the_dump_of_a_configuration_is_that_configuration(self):
        args = ("--model", "m", "--adapter", "a=b", "--adapter", "c=d=e", "--listen", "127.0.0.1:0", "--max-body", "3k", "--source-host", "*.x", "--queue-limit", "7")
        code, dump, _ = self.run_it("--dump-config", *args)
        self.assertEqual(code, 0)
        for line in ("adapter = a=b", "adapter = c=d=e", "max-body = 3072", "queue-limit = 7", "source-host = *.x", "drain-timeout = 30"):
            self.assertIn(line + "\n", dump)
        self.assertEqual(self.run_it("--dump-config", "--config", self.write("conf", dump))[:2], (0, dump))


class Quarantine(Case):
    def broken(self, name, source="qv", files=None, config=None):
        """A copy of an adapter with other bytes in some files, or other fields in its configuration."""
        folder = self.at(name)
        shutil.copytree(os.path.join(TINY, "adapters", source), folder)
        for file, data in (files or {}).items():
            with open(os.path.join(folder, file), "wb") as f:
                f.write(data)
        if config:
            with open(os.path.join(folder, "adapter_config.json")) as f:
                whole = json.load(f) | config
            with open(os.path.join(folder, "adapter_config.json"), "w") as f:
                json.dump(whole, f)
        return folder

    def all_that_can_be_wrong(self):
        with open(os.path.join(TINY, "adapters", "qv", "adapter_model.safetensors"), "rb") as f:
            weights = f.read()
        return {
            "short": (self.broken("short", files={"adapter_model.safetensors": weights[:1000]}), "failed"),
            "garbage": (self.broken("garbage", files={"adapter_config.json": b"{"}), "failed"),
            "empty": (self.broken("empty", files={"adapter_model.safetensors": b""}), "failed"),
            "template": (self.broken("template", files={"chat_template.jinja": b"{% for %}"}), "failed"),
            "method": (self.broken("method", config={"use_qalora": True}), "incompatible"),
            "other": (os.path.join(TINY, "adapters", "spm-all"), "incompatible"),
        }

    def test_an_adapter_with_bad_files_is_listed_with_the_reason_and_nothing_else_suffers(self):
        bad = self.all_that_can_be_wrong()
        options = [o for name, (folder, _) in bad.items() for o in ("--adapter", f"{name}={folder}")]
        d = self.start(*options, adapters=("qv",))
        self.assertEqual(d.metric("adapterd_adapters_quarantined"), len(bad))
        for name, (folder, state) in bad.items():
            status, a = d.get(f"/v1/adapters/{name}")
            self.assertEqual((status, a["state"], a["digest"], a["resident"], a["versions"][0]["base_matches"]), (200, state, None, False, False), name)
            reason = a["versions"][0]["reason"]
            self.assertTrue(reason, name)
            self.assertNotIn(self.dir.name, reason, "where it lies is nobody's business")
            status, reply = d.post({"model": name, "prompt": [1], "max_tokens": 1})
            self.assertEqual((status, reply["error"]["code"], reply["error"]["param"]), (422, "adapter_unusable", "model"))
            self.assertIn(reason, reply["error"]["message"])
            self.assertEqual(d.post({"model": name + "@1", "prompt": [1], "max_tokens": 1})[0], 422)
            self.assertEqual(d.post({"adapter": name}, "/v1/admin/merge")[0], 422)
            self.assertEqual(d.post({}, f"/v1/adapters/{name}/verify")[1]["ok"], False)
        self.assertEqual({m["id"] for m in d.get("/v1/models")[1]["data"]}, {"base", "qv"})
        for model in ("base", "qv"):
            self.assertEqual(d.complete(model=model, prompt=[1], max_tokens=2)["usage"]["completion_tokens"], 2)
        log = d.stop()
        for name in bad:
            self.assertIn(f"adapter {name} is not served: ", log)

    def test_a_folder_of_adapters_may_hold_bad_ones(self):
        self.broken("bad", files={"adapter_config.json": b"[]"})
        self.broken("good")
        d = self.start("--adapter-dir", self.dir.name, "--merge", "bad")
        self.assertEqual(d.get("/v1/adapters/bad")[1]["state"], "failed")
        self.assertEqual(d.complete(model="good", prompt=[1], max_tokens=2)["usage"]["completion_tokens"], 2)
        self.assertEqual(d.metric("adapterd_merged_adapters"), 0)
        self.assertIn("nothing is merged", d.stop())

    def test_its_name_can_be_given_up(self):
        d = self.start("--adapter", "bad=" + self.broken("bad", config={"use_qalora": True}))
        self.assertEqual(d.request("POST", "/v1/unload_lora_adapter", b'{"lora_name": "bad"}', {"Content-Type": "application/json"})[0], 200)
        self.assertEqual(d.request("GET", "/v1/adapters/bad")[0], 404)
        self.assertEqual(d.post({"model": "bad", "prompt": [1]})[0], 404)
        d.stop()

    def test_a_strict_start_refuses_it(self):
        for name, (folder, _) in self.all_that_can_be_wrong().items():
            fails_to_start("--model", GQA, "--port", "0", "--bad-adapter", "refuse", "--adapter", f"{name}={folder}")

    def test_a_stored_adapter_whose_files_are_damaged_does_not_keep_the_server_from_starting(self):
        d = self.start("--state-dir", self.at("state"))
        self.assertEqual(d.upload("a", files_of("qv"))[0], 201)
        self.assertEqual(d.call("PATCH", "/v1/adapters/a", {"pinned": True})[0], 200)
        d.stop()
        for folder, _, files in os.walk(self.at("state")):
            for name in files:
                if name == "adapter_model.safetensors":
                    os.chmod(folder, 0o700)
                    os.chmod(os.path.join(folder, name), 0o600)
                    with open(os.path.join(folder, name), "r+b") as f:
                        f.truncate(500)
        d = self.start("--state-dir", self.at("state"))
        wait_until(lambda: d.get("/v1/adapters/a")[1]["state"] == "failed", "it is found out")
        self.assertEqual(d.post({"model": "a", "prompt": [1], "max_tokens": 1})[0], 500)
        self.assertEqual(d.complete(model="base", prompt=[1], max_tokens=2)["usage"]["completion_tokens"], 2)
        d.stop()
