# SPDX-License-Identifier: MIT
"""Starts adapterd for a test and talks to it, with the standard library only."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import contract

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY = os.path.join(ROOT, "tests", "golden", "tiny")
SHARED = os.path.join(ROOT, "..", "shared", "golden")
ADAPTERD = os.environ.get("ADAPTERD", os.path.join(ROOT, "build", "server", "adapterd"))
MODEL = os.environ.get("AD_TEST_MODEL", "")  # SmolLM2-135M-Instruct, or empty


PATIENCE = 120  # seconds that a test waits for what takes a moment on an idle machine


def wait_until(true, what, seconds=PATIENCE):
    """Waits until true() is that, which it then returns. The patience is for a loaded machine: it bounds nothing of ours."""
    end = time.monotonic() + seconds
    while not (answer := true()):
        if time.monotonic() > end:
            raise AssertionError(f"{what() if callable(what) else what}: not after {seconds} s")
        time.sleep(0.02)
    return answer


def everything(s):
    """What comes over a connection until its other side closes it."""
    out = b""
    try:
        while chunk := s.recv(65536):
            out += chunk
    except ConnectionResetError:
        pass
    return out


def needs_model(test):
    return unittest.skipUnless(MODEL, "the default model is not at hand (AD_TEST_MODEL)")(test)


def clean_env():
    return {k: v for k, v in os.environ.items() if not k.startswith("ADAPTERD")}


class Daemon:
    """A running adapterd on a free port; stop() ends it and insists on a clean exit."""
    program = None  # whose /openapi.json holds

    def __init__(self, model, *options, adapters=(), log_level="warn", env=None):
        self.program = ADAPTERD
        args = [ADAPTERD, "--model", model, "--port", "0", "--log-level", log_level, *options]
        for name in adapters:
            args += ["--adapter", f"{name}={os.path.join(TINY, 'adapters', name)}"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=self.log, text=True, env={**clean_env(), **(env or {})})
        line = self.process.stdout.readline()
        match = re.fullmatch(r"adapterd: listening on https?://([^\n]+):(\d+)\n", line)
        if not match:
            self.process.wait()
            raise RuntimeError(f"adapterd did not start: {self.stderr()}")
        self.host, self.port = match[1].strip("[]"), int(match[2])

    def stderr(self):
        fd = self.log.fileno()  # the daemon writes where this file's position is, which pread leaves alone
        return os.pread(fd, os.fstat(fd).st_size, 0).decode()

    def stop(self, sig=signal.SIGTERM, timeout=60):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(timeout)
        self.process.stdout.close()
        errors = self.stderr()
        self.log.close()
        assert code == 0, f"adapterd ended with {code}: {errors[-4000:]}"
        return errors

    # ---- requests ----

    def request(self, method, path, body=None, headers=None, timeout=PATIENCE):
        """(status, headers, body bytes) over a connection of its own."""
        c = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            status, got, reply = r.status, r.headers, r.read()
            assert r.reason not in ("", "Unknown"), f"{status} has no phrase"
        finally:
            c.close()
        contract.check(self, method, path, status, got, reply, body, (headers or {}).get("Content-Type", ""))
        return status, got, reply

    def get(self, path):
        status, _, body = self.request("GET", path)
        return status, json.loads(body)

    def receipt(self, model="base"):
        """What replies of a name carry beside their answer."""
        status, m = self.get("/v1/models/" + model)
        assert status == 200, m
        return {"adapter_version": m["adapter_version"], **({"adapter_mode": "unmerged"} if m["parent"] else {})}

    def post(self, body, path="/v1/completions", timeout=PATIENCE):
        """(status, parsed reply); body is an object, or bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, reply = self.request("POST", path, raw, {"Content-Type": "application/json"}, timeout)
        return status, json.loads(reply)

    def complete(self, **fields):
        status, reply = self.post({"temperature": 0, **fields})
        assert status == 200, (status, reply)
        return reply

    def stream(self, timeout=PATIENCE, **fields):
        """The parsed events of a streamed completion, without the final [DONE], which must be there."""
        raw = json.dumps({"temperature": 0, "stream": True, **fields}).encode()
        status, headers, body = self.request("POST", "/v1/completions", raw, {"Content-Type": "application/json"}, timeout)
        assert status == 200, (status, body)
        assert headers["Content-Type"].startswith("text/event-stream"), headers["Content-Type"]
        events = body.decode().split("\n\n")
        assert events[-1] == "" and events[-2] == "data: [DONE]", events[-2:]
        return [json.loads(e.removeprefix("data: ")) for e in events[:-2]]

    def open_request(self, body, path="/v1/completions"):
        """Sends a request and does not wait; closing the socket that comes back takes it back."""
        raw = json.dumps(body).encode()
        s = socket.create_connection((self.host, self.port), timeout=PATIENCE)
        s.sendall(f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return s

    def raw(self, data, half_close=False):
        """Sends bytes as they are; everything the daemon says until it closes the connection."""
        with socket.create_connection((self.host, self.port), timeout=PATIENCE) as s:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            return everything(s)

    def metric(self, name):
        """The value of a metric without labels, or with them in the name."""
        text = self.request("GET", "/metrics")[2].decode()
        match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(match[1]) if match else None

    def wait_for(self, name, value, seconds=10):
        """Waits until a metric has a value."""
        wait_until(lambda: self.metric(name) == value, lambda: f"{name} is {self.metric(name)}, to be {value}", seconds)


def fails_to_start(*args, env=None):
    """The message of an adapterd that must refuse to start."""
    p = subprocess.run([ADAPTERD, *args], capture_output=True, text=True, timeout=PATIENCE, env={**clean_env(), **(env or {})})
    assert p.returncode in (1, 2), (p.returncode, p.stdout, p.stderr)
    last = p.stderr.strip().splitlines()[-1]
    assert last.startswith("adapterd: "), p.stderr
    return last


CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if reasoning_effort is defined %}Effort: {{ reasoning_effort }}
{% endif %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class TemplateTests(unittest.TestCase):
    """Tests of one daemon on a small model with a chat template."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        template = os.path.join(cls.dir.name, "chat.jinja")
        with open(template, "w") as f:
            f.write(CHATML)
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--chat-template-file", template, adapters=("qv", "all"))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()
        cls.dir.cleanup()
