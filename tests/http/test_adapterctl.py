# SPDX-License-Identifier: MIT
"""adapterctl: every command as people and as programs read it, its exit codes, and servers that mean no good."""
import hashlib
import json
import os
import pty
import re
import select
import shutil
import socket
import ssl
import subprocess
import tarfile
import tempfile
import threading
import time
import unittest
import urllib.parse

from daemon import ADAPTERD, PATIENCE, TINY, Daemon, clean_env

CTL = os.path.join(os.path.dirname(os.path.dirname(ADAPTERD)), "clients", "adapterctl")
OK, FAILED, USAGE, NOT_FOUND, CONFLICT, REFUSED, UNREACHABLE, LIMIT = range(8)


def environment(**more):
    return {**{k: v for k, v in clean_env().items() if not k.startswith("ADAPTERCTL")}, "TZ": "UTC", **more}


def ctl(*args, port=None, env=None, timeout=PATIENCE):
    url = ["--url", f"http://127.0.0.1:{port}"] if port else []
    return subprocess.run([CTL, *url, *args], capture_output=True, text=True, timeout=timeout, env=environment(**(env or {})), stdin=subprocess.DEVNULL)


class Scratch(unittest.TestCase):
    """A directory of its own, and adapters in it."""

    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)

    def adapter(self, name="qv", **config):
        """The path of a tiny adapter; config is changed in a copy of it."""
        path = os.path.join(TINY, "adapters", name)
        if not config:
            return path
        copy = os.path.join(self.dir, f"{name}-{len(os.listdir(self.dir))}")
        shutil.copytree(path, copy)
        file = os.path.join(copy, "adapter_config.json")
        with open(file) as f:
            now = json.load(f)
        with open(file, "w") as f:
            json.dump({**now, **config}, f)
        return copy

    def file(self, name, data):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(data)
        return path


# ---- the daemon ----

BASE = os.path.join(TINY, "models", "llama-gqa")


class Served(Scratch):
    """A daemon for the class, without adapters at the begin of each test."""
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.state = tempfile.mkdtemp()
        cls.server = Daemon(BASE, "--served-name", "base", "--threads", "1", "--state-dir", cls.state, *cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        shutil.rmtree(cls.state)

    def setUp(self):
        super().setUp()
        for path in ("aliases", "adapters"):
            for v in self.server.get(f"/v1/{path}")[1]["data"]:
                status, _, body = self.server.request("DELETE", f"/v1/{path}/" + urllib.parse.quote(v["name"], safe=""))
                self.assertEqual(status, 200, body)

    def run_ctl(self, *args, want=OK, **more):
        p = ctl(*args, port=self.server.port, **more)
        self.assertEqual(p.returncode, want, (args, p.stdout, p.stderr))
        return p

    def out(self, *args, **more):
        return self.run_ctl(*args, **more).stdout

    def json(self, *args, **more):
        out = self.out(*args, "--json", **more)
        self.assertEqual(out.count("\n"), 1, out)
        return json.loads(out)

    def upload(self, name, adapter="qv", *options):
        return self.json("upload", name, self.adapter(adapter), *options)


class Commands(Served):
    options = ("--adapter-root", os.path.join(TINY, "adapters"))

    def test_an_upload_is_listed_and_shown(self):
        out = self.out("upload", "sql", self.adapter(), "--description", "makes SQL", "--label", "team=search", "--label", "env=prod")
        self.assertRegex(out, r"^uploaded sql: version 1 is active, digest [0-9a-f]{12}; rank \d+, \d+ modules, [\d.]+ KiB\n$")
        lines = self.out("list").splitlines()
        self.assertEqual(lines[0].split(), ["NAME", "STATE", "VERSION", "DIGEST", "RANK", "DISK", "PACKED", "REQUESTS", "LAST", "USED", "FLAGS"])
        self.assertRegex(lines[1], r"^sql +ready +1 +[0-9a-f]{12} +\d+ +[\d.]+ KiB ")
        self.assertEqual(lines[0].index("DIGEST"), re.search(r"[0-9a-f]{12}", lines[1]).start())
        shown = self.out("show", "sql")
        for line in (r"^Name +sql$", r"^State +ready$", r"^Digest +[0-9a-f]{64}$", r"^Description +makes SQL$", r"^Label +team=search$", r"^Label +env=prod$", r'^ETag +"r\d+"$',
                     r"^VERSION +STATE +DIGEST ", r"^ +1 +ready +[0-9a-f]{12} "):
            self.assertRegex(shown, re.compile(line, re.M))
        self.assertNotIn("q_proj", shown)
        self.assertRegex(self.out("show", "sql", "--modules"), re.compile(r"^model\.layers\.0\.self_attn\.q_proj +\d+ +\d", re.M))

    def test_json_is_what_the_server_said(self):
        a = self.upload("sql")
        self.assertEqual((a["object"], a["name"], a["version"]), ("adapter", "sql", 1))
        raw = self.server.request("GET", "/v1/adapters/sql")[2].decode()
        self.assertEqual(self.out("show", "sql", "--json"), raw.rstrip("\n") + "\n")
        self.assertEqual(self.json("list")["data"][0]["name"], "sql")
        p = self.run_ctl("show", "nobody", "--json", want=NOT_FOUND)
        self.assertEqual(json.loads(p.stdout)["error"]["code"], "adapter_not_found")
        self.assertIn("HTTP 404, adapter_not_found", p.stderr)

    def test_the_same_content_is_unchanged_and_another_a_conflict(self):
        self.upload("sql")
        self.assertTrue(self.out("upload", "sql", self.adapter()).startswith("unchanged sql:"))
        p = self.run_ctl("upload", "sql", self.adapter("all"), want=CONFLICT)
        self.assertIn("adapter_exists", p.stderr)
        self.run_ctl("upload", "--name", "other", self.adapter("all"))
        self.run_ctl("upload", self.adapter("all"), want=USAGE)
        self.run_ctl("upload", "a", self.adapter("all"), "--name", "b", want=USAGE)

    def test_versions_are_added_activated_and_rolled_back(self):
        first = self.upload("sql")["digest"]
        out = self.out("upload", "sql", self.adapter("all"), "--new-version", "--no-activate")
        self.assertRegex(out, r"version 1 is active, digest [0-9a-f]{12}; version 2 is staged, digest [0-9a-f]{12}; rank")
        self.assertIn("activated sql: version 2 is active", self.out("activate", "sql", "2"))
        self.assertEqual(self.json("rollback", "sql")["version"], 1)
        self.assertEqual(self.json("activate", "sql", self.json("show", "sql")["versions"][1]["digest"][:12])["version"], 2)
        self.assertEqual(self.json("activate", "sql", first)["version"], 1)
        self.run_ctl("activate", "sql", "9", want=NOT_FOUND)
        self.run_ctl("rollback", "nobody", want=NOT_FOUND)
        self.upload("fresh")
        self.run_ctl("rollback", "fresh", want=CONFLICT)
        self.assertEqual(self.out("delete", "sql@2"), "deleted sql@2\n")
        self.run_ctl("delete", "sql@1", want=CONFLICT)

    def test_if_match_guards_a_change(self):
        etag = self.upload("sql")["etag"]
        self.run_ctl("pin", "sql", "--if-match", '"r0"', want=CONFLICT)
        self.run_ctl("pin", "sql", "--if-match", etag.strip('"'))
        for args in (["unpin", "sql"], ["rollback", "sql"], ["activate", "sql", "1"], ["delete", "sql"], ["label", "sql", "a=b"], ["upload", "sql", self.adapter("all"), "--new-version"]):
            self.run_ctl(*args, "--if-match", etag, want=CONFLICT)
        self.run_ctl("upload", "sql", self.adapter(), "--if-match", etag, want=USAGE)

    def test_pins_and_labels(self):
        self.upload("sql")
        self.assertTrue(self.out("pin", "sql").startswith("pinned sql:"))
        self.assertIn("pinned", self.out("list").splitlines()[1])
        self.assertFalse(self.json("unpin", "sql")["pinned"])
        self.assertEqual(self.json("label", "sql", "a=1", "b=x=y")["labels"], {"a": "1", "b": "x=y"})
        self.assertEqual(self.json("label", "sql", "a-", "nothing-", "c=3")["labels"], {"b": "x=y", "c": "3"})
        self.assertEqual(self.json("label", "sql", "--clear", "d=4", "--description", "new")["labels"], {"d": "4"})
        a = self.json("label", "sql", "--description", "newer")
        self.assertEqual((a["labels"], a["description"]), ({"d": "4"}, "newer"))
        for args in (["label", "sql"], ["label", "sql", "no-equals"], ["label", "sql", "=v"], ["label", "sql", "-"]):
            self.run_ctl(*args, want=USAGE)

    def test_lists_are_narrowed_and_cut_into_pages(self):
        for i in range(7):
            self.upload(f"a{i}" if i < 5 else f"b{i}", "qv", "--label", f"odd={i % 2}")
        self.run_ctl("upload", "c", self.adapter(), "--no-activate")

        def names(*args):
            return [line.split()[0] for line in self.out("list", *args).splitlines()[1:]]
        self.assertEqual(names(), ["a0", "a1", "a2", "a3", "a4", "b5", "b6", "c"])
        self.assertEqual(names("--prefix", "b"), ["b5", "b6"])
        self.assertEqual(names("--label", "odd=1"), ["a1", "a3", "b5"])
        self.assertEqual(names("--state", "staged"), ["c"])
        self.assertEqual(names("--after", "a3", "--limit", "2"), ["a4", "b5"])
        self.assertIn("--after a1", self.run_ctl("list", "--limit", "2").stderr)
        self.assertEqual([a["name"] for a in self.json("list")["data"]], names())
        self.assertEqual([a["name"] for a in self.json("list", "--limit", "2")["data"]], ["a0", "a1"])
        self.run_ctl("list", "--label", "odd", want=USAGE)

    def test_aliases(self):
        self.upload("sql")
        self.run_ctl("upload", "sql", self.adapter("all"), "--new-version")
        self.assertEqual(self.out("alias", "set", "live", "sql@1=90", "sql@2=10").splitlines()[1].split(None, 1), ["live", "sql@1=90, sql@2=10"])
        self.run_ctl("alias", "set", "one", "sql")
        self.assertEqual([line.split()[0] for line in self.out("alias", "list").splitlines()], ["ALIAS", "live", "one"])
        self.assertEqual(self.json("alias", "show", "live")["targets"], [{"model": "sql@1", "weight": 90}, {"model": "sql@2", "weight": 10}])
        self.assertEqual(self.out("alias", "delete", "live"), "deleted live\n")
        self.run_ctl("alias", "delete", "live", want=NOT_FOUND)
        self.run_ctl("alias", "set", "x", "nobody", want=REFUSED)
        for args in (["set", "x"], ["set", "x", "m=0"], ["set", "x", "m=w"], ["set", "x", "=5"], ["list", "x"], ["show"], ["drop", "x"]):
            self.run_ctl("alias", *args, want=USAGE)

    def test_names_with_slashes_reach_the_server_whole(self):
        self.upload("team/sql")
        self.assertEqual(self.json("show", "team/sql")["name"], "team/sql")
        self.assertEqual(self.json("pin", "team/sql")["name"], "team/sql")
        self.run_ctl("delete", "team/sql")

    def test_deletes_drain(self):
        self.upload("sql")
        self.assertEqual(self.out("delete", "sql", "--drain", "5"), "deleted sql\n")
        self.run_ctl("delete", "sql", want=NOT_FOUND)
        self.upload("sql")
        self.assertEqual(self.json("delete", "sql")["object"], "adapter.deleted")

    def test_a_dry_run_reports_and_adds_nothing(self):
        out = self.out("dry-run", self.adapter())
        self.assertRegex(out, re.compile(r"^Digest +[0-9a-f]{64}$", re.M))
        self.assertRegex(out, re.compile(r"^Format +peft$", re.M))
        self.assertEqual(self.json("dry-run", "x", self.adapter())["object"], "adapter.report")
        self.assertEqual(self.json("list")["data"], [])

    def test_a_dry_run_tells_whether_the_name_could_take_it(self):
        self.upload("sql", "qv")
        self.assertEqual(self.json("dry-run", self.adapter("all"))["object"], "adapter.report")
        self.run_ctl("dry-run", "sql", self.adapter("all"), want=CONFLICT)
        self.assertEqual(self.json("dry-run", "--new-version", "sql", self.adapter("all"))["object"], "adapter.report")
        self.run_ctl("dry-run", "--new-version", "other", self.adapter("all"), want=NOT_FOUND)
        self.run_ctl("dry-run", "--new-version", self.adapter("all"), want=USAGE)
        self.assertEqual(self.json("show", "sql")["version"], 1)

    def test_digest_prints_what_is_to_be_signed(self):
        digest = self.upload("sql")["digest"]
        self.assertEqual(self.out("digest", self.adapter()), digest + "\n")
        self.assertEqual(self.json("digest", self.adapter())["digest"], digest)

    def test_verify_tells_whether_the_files_are_whole(self):
        digest = self.upload("sql")["digest"]
        self.assertEqual(self.out("verify", "sql").splitlines()[0], f"sql: the stored files are what they were, digest {digest}")
        self.assertTrue(self.json("verify", "sql")["ok"])
        self.run_ctl("verify", "nobody", want=NOT_FOUND)
        blob = os.path.join(self.state, "blobs", digest[:2], digest, "adapter_model.safetensors")
        os.chmod(blob, 0o600)
        with open(blob, "r+b") as f:
            f.seek(-1, os.SEEK_END)
            last = f.read(1)
            f.seek(-1, os.SEEK_END)
            f.write(bytes([last[0] ^ 1]))
        p = self.run_ctl("verify", "sql", want=FAILED)
        self.assertIn(f"expected was {digest}", p.stderr)
        self.assertFalse(json.loads(self.run_ctl("verify", "sql", "--json", want=FAILED).stdout)["ok"])

    def test_archives_and_gguf_files_are_uploaded(self):
        path = os.path.join(self.dir, "sql.tar.gz")
        with tarfile.open(path, "w:gz") as t:
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                t.add(os.path.join(self.adapter(), name), name)
        self.assertEqual(self.upload("sql")["digest"], self.json("upload", "tarred", path)["digest"])
        self.run_ctl("upload", "no", self.file("x.zip", b"no archive at all"), want=REFUSED)
        out = os.path.join(self.dir, "qv.gguf")
        p = ctl("convert", "--base", os.path.join(TINY, "models", "llama-gqa"), self.adapter(), out)
        self.assertEqual(p.returncode, OK, p.stderr)
        self.run_ctl("upload", "ggufed", out)

    def test_a_refused_adapter_is_explained(self):
        bad = self.adapter(frobnicate=1)
        for args in (["upload", "bad", bad], ["dry-run", bad], ["digest", bad]):
            p = self.run_ctl(*args, want=REFUSED)
            self.assertIn("frobnicate", p.stderr)
        p = self.run_ctl("upload", "bad", bad, "--json", want=REFUSED)
        self.assertIn("report", json.loads(p.stdout))
        p = self.run_ctl("upload", "bad", self.adapter(), "--sha256", "0" * 64, want=REFUSED)
        with open(os.path.join(self.adapter(), "adapter_model.safetensors"), "rb") as f:
            self.run_ctl("upload", "good", self.adapter(), "--sha256", hashlib.sha256(f.read()).hexdigest().upper())

    def test_a_directory_of_the_server_is_added_by_its_path(self):
        a = self.json("upload", "there", self.adapter(), "--on-server", "--label", "a=b")
        self.assertEqual((a["digest"], a["labels"]), (self.upload("here")["digest"], {"a": "b"}))
        self.assertEqual(self.json("dry-run", self.adapter("all"), "--on-server")["admitted"], False)
        self.assertEqual(self.out("digest", self.adapter()), a["digest"] + "\n")
        p = self.run_ctl("upload", "outside", self.adapter(r=4), "--on-server", want=FAILED)
        self.assertRegex(p.stderr, r"HTTP 4\d\d")

    def test_a_self_test_decides(self):
        good = self.file("good", json.dumps({"prompts": [{"prompt": "Hello", "max_divergence": 1e9}]}).encode())
        bad = self.file("bad", json.dumps({"prompts": [{"prompt": "Hello", "expect": "no model says this", "max_tokens": 2}]}).encode())
        self.run_ctl("upload", "good", self.adapter(), "--selftest", good)
        for options in ((), ("--on-server",)):
            p = self.run_ctl("upload", "bad", self.adapter(), "--selftest", bad, *options, want=REFUSED)
            self.assertRegex(p.stderr, re.compile(r'^Self-test +FAILED "Hello", answer ', re.M))
        self.run_ctl("show", "bad", want=NOT_FOUND)

    def test_files_that_cannot_be_read_are_failures(self):
        for args in (["upload", "a", "/nowhere"], ["upload", "a", self.dir], ["upload", "a", self.adapter(), "--signature", "/nowhere"], ["upload", "a", "/dev/null"],
                     ["upload", "a", self.adapter(), "--selftest", self.file("zero", b"\0")], ["upload", "a", self.adapter(), "--selftest", self.file("big", b"x" * (1 << 20 | 1))]):
            p = self.run_ctl(*args, want=FAILED)
            self.assertRegex(p.stderr, r"^adapterctl: .+\n$")


class Signed(Served):
    """A daemon that takes signed adapters only."""

    @classmethod
    def setUpClass(cls):
        if not shutil.which("minisign"):
            raise unittest.SkipTest("the program minisign is not at hand")
        cls.keys = tempfile.mkdtemp()
        cls.key = os.path.join(cls.keys, "key")
        subprocess.run(["minisign", "-G", "-W", "-p", cls.key + ".pub", "-s", cls.key], check=True, capture_output=True)
        cls.options = ("--signatures", "require", "--trusted-key", cls.key + ".pub")
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.keys)

    def sign(self, text):
        path = self.file("digest", text.encode())
        subprocess.run(["minisign", "-S", "-s", self.key, "-m", path, "-t", "release 7"], check=True, capture_output=True, stdin=subprocess.DEVNULL)
        return path + ".minisig"

    def test_digest_sign_and_upload(self):
        self.run_ctl("upload", "sql", self.adapter(), want=REFUSED)
        signature = self.sign(self.out("digest", self.adapter()))
        self.run_ctl("upload", "other", self.adapter("all"), "--signature", signature, want=REFUSED)
        self.run_ctl("upload", "sql", self.adapter(), "--signature", signature)
        self.assertRegex(self.out("show", "sql"), re.compile(r'^Signed by +[0-9A-F]{16}, "release 7"$', re.M))
        self.assertIn("signature: valid", self.out("verify", "sql"))

    def test_the_digest_is_the_same_with_and_without_a_server(self):
        self.assertEqual(self.out("digest", self.adapter()), ctl("digest", "--base", BASE, self.adapter()).stdout)


# ---- events ----

class Wire:
    """Carries bytes to the daemon and back, until somebody cuts it."""

    def __init__(self, port):
        self.to, self.socket, self.open, self.accepted = port, socket.create_server(("127.0.0.1", 0)), [], 0
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def carry(self, a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve(self):
        try:
            while True:
                a = self.socket.accept()[0]
                b = socket.create_connection(("127.0.0.1", self.to))
                self.open += [a, b]
                self.accepted += 1
                for pair in ((a, b), (b, a)):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()
        except OSError:
            pass

    def cut(self):
        while self.open:
            s = self.open.pop()
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.cut()


class Events(Served):
    def setUp(self):
        super().setUp()
        self.wire = Wire(self.server.port)
        self.addCleanup(self.wire.stop)

    def listen(self, *options):
        """adapterctl events through the wire, from the first event that the daemon remembers: so it does not matter when it arrives there."""
        p = subprocess.Popen([CTL, "--url", f"http://127.0.0.1:{self.wire.port}", "events", "--last-id", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=environment())
        for end in (p.stdout.close, p.stderr.close, p.wait, p.kill):
            self.addCleanup(end)
        return p

    def read_until(self, p, name, state):
        """The JSON events up to that one."""
        events = []
        while not events or (events[-1]["name"], events[-1]["state"]) != (name, state):
            events.append(json.loads(p.stdout.readline()))
        return events

    def test_each_event_is_a_line_for_people(self):
        self.upload("people")
        p = self.listen("--name", "people", "--count", "3")
        out, err = p.communicate(timeout=PATIENCE)
        self.assertEqual((p.returncode, err), (OK, ""))
        for line, want in zip(out.splitlines(), ("people  uploading", "people  uploading ->  verifying", "people@1  \\w+ ->  ready  [0-9a-f]{12}"), strict=True):
            self.assertRegex(line, rf"^\d\d:\d\d:\d\d  \d+  {want}$")

    def test_each_event_is_a_line_of_json_at_once(self):
        p = self.listen("--json")
        for name in ("live-1", "live-2"):
            self.upload(name)
            self.assertEqual(self.read_until(p, name, "ready")[-1]["version"], 1)

    def test_after_a_break_it_goes_on_where_it_was(self):
        p = self.listen("--json")
        self.upload("before")
        seen = self.read_until(p, "before", "ready")
        self.wire.cut()
        self.upload("meanwhile")
        seen += self.read_until(p, "meanwhile", "ready")
        self.assertGreaterEqual(self.wire.accepted, 2)
        whole = ctl("events", "--json", "--last-id", "0", "--count", str(len(seen)), port=self.server.port).stdout
        self.assertEqual(seen, [json.loads(line) for line in whole.splitlines()])
        p.kill()
        self.assertIn("the stream broke", p.stderr.read())

    def test_without_reconnecting_a_break_is_the_end(self):
        p = self.listen("--json", "--no-reconnect")
        self.upload("last")
        self.read_until(p, "last", "ready")
        self.wire.cut()
        self.assertEqual(p.wait(timeout=PATIENCE), UNREACHABLE)

    def test_events_behind_an_id(self):
        self.upload("numbered")
        first, second = ctl("events", "--last-id", "0", "--name", "numbered", "--count", "3", port=self.server.port).stdout.splitlines()[:2]
        p = ctl("events", "--last-id", first.split()[1], "--name", "numbered", "--count", "1", port=self.server.port)
        self.assertEqual(p.stdout, second + "\n")

    def test_a_reader_that_leaves_ends_it(self):
        p = self.listen("--json")
        self.upload("unheard")
        self.read_until(p, "unheard", "ready")
        p.stdout.close()
        self.upload("lost")
        self.assertEqual(p.wait(timeout=PATIENCE), FAILED)


# ---- servers that fail, or mean no good ----

class Script:
    """Answers each connection with the bytes written down, whatever it asks, when it has read the head or all of it; then closes, or keeps silent."""

    def __init__(self, *replies, hold=False, whole=False, context=None):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.replies, self.hold, self.whole, self.open, self.requests, self.context = self.socket.getsockname()[1], list(replies), hold, whole, [], [], context
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                self.answer(self.socket.accept()[0])
            except OSError:  # of a client that left early; of our own socket, when it is closed
                if self.socket.fileno() < 0:
                    return

    def answer(self, c):
        if self.context:
            c = self.context.wrap_socket(c, server_side=True)
        self.requests.append(self.read(c))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        for piece in [reply] if isinstance(reply, bytes) else reply:
            c.sendall(piece)
        if self.hold:
            self.open.append(c)
            return
        c.shutdown(socket.SHUT_WR)
        c.settimeout(PATIENCE)
        while not self.context and c.recv(65536):
            pass
        c.close()

    def read(self, c):
        request = b""
        while b"\r\n\r\n" not in request and (chunk := c.recv(65536)):
            request += chunk
        head, _, body = request.partition(b"\r\n\r\n")
        if b"100-continue" in head and self.whole:
            c.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length, got = re.search(rb"(?i)content-length: (\d+)", head), len(body)
        while self.whole and length and got < int(length[1]) and (chunk := c.recv(1 << 20)):
            got += len(chunk)
        return request

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for c in self.open:
            c.close()


def reply(status, body, headers=""):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n{headers}Connection: close\r\n\r\n".encode() + raw


def fault(status, code="some_code", headers=""):
    return reply(status, {"error": {"message": "because", "type": "t", "param": None, "code": code}}, headers)


EVENTS = b"HTTP/1.1 200 x\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Servers(Scratch):
    def ask(self, *replies, args=("show", "sql"), options=(), hold=False):
        s = Script(*replies, hold=hold)
        self.addCleanup(s.stop)
        return ctl(*args, *options, port=s.port)

    def test_each_status_has_its_exit_code(self):
        for status, want in {400: FAILED, 401: FAILED, 403: FAILED, 404: NOT_FOUND, 405: FAILED, 409: CONFLICT, 412: CONFLICT, 413: LIMIT, 415: FAILED, 422: REFUSED, 429: LIMIT,
                             500: FAILED, 502: UNREACHABLE, 503: LIMIT, 504: UNREACHABLE, 507: LIMIT}.items():
            for args in (("show", "sql"), ("upload", "sql", self.adapter())):
                p = self.ask(fault(status), args=args)
                self.assertEqual((p.returncode, p.stdout), (want, ""), (status, p.stderr))
                self.assertEqual(p.stderr, f"adapterctl: because (HTTP {status}, some_code)\n")

    def test_it_tells_when_to_come_back(self):
        self.assertIn("try again in 7 s", self.ask(fault(503, headers="Retry-After: 7\r\n")).stderr)

    def test_a_refusal_while_the_upload_runs_is_understood(self):
        big = os.path.join(self.dir, "big")
        with open(big, "wb") as f:
            f.truncate(32 << 20)
        p = self.ask(fault(413), args=("upload", "big", big))
        self.assertEqual(p.returncode, LIMIT, p.stderr)

    def test_replies_that_are_none_are_failures(self):
        for raw in (reply(200, b"{"), reply(200, b"[]"), reply(200, b"null"), reply(200, b""), reply(200, b"\xff\xfe"), reply(200, b"[" * 100000), reply(200, b'{"a":"\x1b[2J"}'),
                    b"garbage\r\n\r\n", b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n"):
            for args in (("show", "sql"), ("list",), ("list", "--json"), ("alias", "list"), ("events",), ("delete", "x")):
                p = self.ask(raw, args=args)
                self.assertEqual((p.returncode, p.stdout), (FAILED, ""), (raw[:60], args, p.stderr))
                self.assertRegex(p.stderr, r"^adapterctl: http://127.0.0.1:\d+: .+\n$" if b"302" not in raw else "not followed")

    def test_json_of_wrong_types_does_no_harm(self):
        values = [None, True, -1, 1 << 62, 1e308, "x", [], {}, [[]], [None, 5, "w"], {"a": None}]
        keys = ("name digest version state rank modules_matched bytes_disk bytes_packed pinned labels created last_used requests signer warnings versions modules data targets ok "
                "signature has_more last_id drained report unmatched selftest expected").split()
        for v in values:
            body = {k: v for k in keys}
            nested = {**body, "data": [body, v], "versions": [body, v], "modules": {"m": body, "n": v}, "targets": [body, v], "selftest": [body, v], "has_more": False}
            for b in (body, nested):
                for args in (("show", "x", "--modules"), ("list", "--limit", "9"), ("alias", "list"), ("alias", "show", "x"), ("verify", "x"), ("dry-run", self.adapter()),
                             ("digest", self.adapter()), ("pin", "x"), ("delete", "x"), ("label", "x", "a=b"), ("upload", "x", self.adapter())):
                    p = self.ask(reply(200, b), args=args)
                    self.assertIn(p.returncode, (OK, FAILED), (v, args, p.stderr))
                p = self.ask(reply(422, {"error": v, "report": b}), args=("upload", "x", self.adapter()))
                self.assertEqual(p.returncode, REFUSED)

    def test_truncated_and_refused_connections_are_unreachable(self):
        for raw in (b"", b"HTTP/1.1 200 x\r\nContent-Length: 99\r\n\r\n{}", b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            p = self.ask(raw)
            self.assertEqual((p.returncode, p.stdout), (UNREACHABLE, ""), (raw, p.stderr))
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
        for args in (("list",), ("events",), ("upload", "a", self.adapter())):
            self.assertEqual(ctl(*args, port=port).returncode, UNREACHABLE)
        self.assertEqual(ctl("list", "--url", "http://host.invalid").returncode, UNREACHABLE)

    def test_silent_and_dripping_servers_time_out(self):
        for raw in (b"", b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\n{"):
            start = time.monotonic()
            p = self.ask(raw, options=("--timeout", "1"), hold=True)
            self.assertEqual(p.returncode, UNREACHABLE, p.stderr)
            self.assertLess(time.monotonic() - start, 20)

        def drip():
            yield b"HTTP/1.1 200 x\r\nContent-Length: 999\r\n\r\n"
            for _ in range(200):
                time.sleep(0.1)
                yield b" "
        p = self.ask(drip(), options=("--timeout", "2"))
        self.assertEqual(p.returncode, UNREACHABLE, p.stderr)
        for args in (("upload", "a", self.adapter()), ("events", "--no-reconnect")):
            self.assertEqual(self.ask(b"", args=args, options=("--timeout", "1"), hold=True).returncode, UNREACHABLE)

    def test_a_huge_reply_is_cut_off(self):
        def flood():
            yield b"HTTP/1.1 200 x\r\n\r\n{\"a\":\""
            for _ in range(100):
                yield b"x" * (1 << 20)
        p = self.ask(flood())
        self.assertEqual((p.returncode, p.stdout), (FAILED, ""))
        self.assertIn("larger than", p.stderr)

    def test_all_pages_of_a_list_are_read(self):
        def page(more, *names):
            return reply(200, {"object": "list", "data": [{"name": n} for n in names], "has_more": more, "first_id": names[0], "last_id": names[-1]})
        for args, read in (((), lambda out: [line.split()[0] for line in out.splitlines()[1:]]), (("--json",), lambda out: [a["name"] for a in json.loads(out)["data"]])):
            s = Script(page(True, "a", "b"), page(True, "c"), page(False, "d"))
            self.addCleanup(s.stop)
            self.assertEqual(read(ctl("list", *args, port=s.port).stdout), ["a", "b", "c", "d"])
            self.assertEqual([b"after=" + r.split(b"after=")[1][:1] for r in s.requests[1:]], [b"after=b", b"after=c"])

    def test_the_environment_names_server_and_key(self):
        s = Script(reply(200, {"data": []}))
        self.addCleanup(s.stop)
        url = f"http://127.0.0.1:{s.port}/"
        ctl("list", env={"ADAPTERCTL_URL": url})
        ctl("list", env={"ADAPTERCTL_URL": url, "ADAPTERCTL_KEY": "s3cret"})
        ctl("list", "--key", "other", "--url", url, env={"ADAPTERCTL_URL": "http://127.0.0.1:1", "ADAPTERCTL_KEY": "s3cret"})
        self.assertEqual([re.search(rb"Authorization: (.*)\r\n", r) and re.search(rb"Authorization: (.*)\r\n", r)[1] for r in s.requests], [None, b"Bearer s3cret", b"Bearer other"])

    def test_a_list_that_never_ends_is_left(self):
        p = self.ask(reply(200, {"data": [{"name": "a"}], "has_more": True, "last_id": "a"}), args=("list",))
        self.assertEqual(p.returncode, FAILED, p.stdout)

    def test_a_key_is_not_carried_to_where_a_redirect_points(self):
        other = Script(reply(200, {}))
        self.addCleanup(other.stop)
        p = self.ask(f"HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:{other.port}/v1/adapters/sql\r\nContent-Length: 0\r\n\r\n".encode(), options=("--key", "s3cret"))
        self.assertEqual((p.returncode, other.requests), (FAILED, []))

    def test_https_trusts_only_the_certificates_it_is_given(self):
        if not shutil.which("openssl"):
            self.skipTest("the program openssl is not at hand")
        key, cert = os.path.join(self.dir, "key"), os.path.join(self.dir, "cert")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        s = Script(reply(200, {"name": "sql"}), context=context)
        self.addCleanup(s.stop)
        url = ("--url", f"https://localhost:{s.port}", "--key", "s3cret")
        p = ctl("show", "sql", *url)
        self.assertEqual((p.returncode, s.requests), (UNREACHABLE, []), p.stderr)
        self.assertEqual(ctl("show", "sql", *url, "--ca-file", cert).returncode, OK)
        self.assertEqual(ctl("show", "sql", *url, "--ca-file", "/nowhere").returncode, UNREACHABLE)

    def test_labels_are_read_anew_when_somebody_came_between(self):
        a = {"name": "x", "labels": {"old": "1"}}
        s = Script(reply(200, a, 'ETag: "r1"\r\n'), fault(412), reply(200, a, 'ETag: "r2"\r\n'), reply(200, a))
        self.addCleanup(s.stop)
        p = ctl("label", "x", "new=2", port=s.port)
        self.assertEqual(p.returncode, OK, p.stderr)
        self.assertIn(b'If-Match: "r2"', s.requests[3])
        p = self.ask(reply(200, a, 'ETag: "r1"\r\n'), fault(412), reply(200, a), fault(412), reply(200, a), fault(412), reply(200, a), fault(412), reply(200, a), fault(412), reply(500, a),
                     args=("label", "x", "new=2"))
        self.assertEqual(p.returncode, CONFLICT)

    def test_events_of_strange_form_are_left_out_and_endless_ones_end_it(self):
        p = self.ask(EVENTS + b'data: nonsense\n\ndata: [1]\n\nid: 1\nevent: other\ndata: {"name":5,"time":1e300}\n\ndata: {"name":"x","version":1,\ndata: "state":"ready"}\n\n',
                     args=("events", "--json", "--no-reconnect"))
        self.assertEqual([json.loads(line).get("state") for line in p.stdout.splitlines()], [None, "ready"])
        self.assertEqual((p.returncode, p.stderr.count("left out")), (UNREACHABLE, 2))
        p = self.ask(EVENTS + b"data: " + b"x" * (2 << 20), args=("events",))
        self.assertEqual(p.returncode, FAILED, p.stderr)
        p = self.ask(EVENTS + b'data: {"name":"a"}\n\n', fault(401), args=("events",))
        self.assertEqual(p.returncode, FAILED, p.stderr)


# ---- terminals ----

def on_terminal(*args, columns=100):
    """(exit code, everything the program wrote to its terminal)"""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.clear()
        os.environ.update(environment(COLUMNS=str(columns)))
        os.execv(CTL, [CTL, *args])
    out = b""
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end and select.select([fd], [], [], 1)[0] is not None:
            out += os.read(fd, 65536)
    except OSError:
        pass
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


HARM = "\x1b]0;owned\x07\x1b[2J\r\n\x00\x7f\u009b31m\u202etxt\u2028\u200b\ufeff\U000e0041"


class Terminals(Scratch):
    def check_clean(self, text, allowed=""):
        text = text.replace("\r\n", "\n")
        bad = [c for c in text if c not in allowed and (ord(c) < 32 and c != "\n" or 0x7f <= ord(c) < 0xa0 or c in "\u202e\u2028\u200b\ufeff\U000e0041")]
        self.assertEqual(bad, [], text)

    def harmful(self):
        harm = HARM.replace("\x00", "")
        v = {"version": 1, "state": harm, "digest": harm, "origin": harm, "reason": harm}
        return {"object": harm, "name": harm, "digest": harm, "version": 1, "state": harm, "description": harm, "labels": {harm: harm}, "origin": harm, "etag": harm, "has_more": False,
                "signer": {"key_id": harm, "comment": harm}, "warnings": [harm], "unmatched": [harm], "versions": [v], "modules": {harm: {"rank": 1, "scaling": 1}}, "format": harm, "ok": True,
                "base_model": harm, "signature": {"status": harm}, "selftest": [{"prompt": harm, "answer": harm}], "targets": [{"model": harm, "weight": 1}], "last_id": harm,
                "data": [{"name": harm, "state": harm, "digest": harm, "targets": [{"model": harm, "weight": 1}]}], "expected": harm}

    COMMANDS = (("show", "x", "--modules"), ("list", "--limit", "5"), ("alias", "list"), ("alias", "show", "x"), ("verify", "x"), ("pin", "x"), ("delete", "x\x1b[2J"), ("label", "x", "--clear"))

    def test_control_characters_of_the_server_are_not_printed(self):
        for options in ((), ("--json",)):
            for args in (*self.COMMANDS, ("dry-run", self.adapter())):
                for raw in (reply(200, self.harmful()), reply(200, json.dumps(self.harmful(), ensure_ascii=False).encode(), 'ETag: "\x1b[2J"\r\n')):
                    s = Script(raw)
                    code, out = on_terminal(*args, *options, "--url", f"http://127.0.0.1:{s.port}")
                    s.stop()
                    self.assertEqual(code, OK, out)
                    out = re.sub(r"\r\[.{30}\] +\d+ %.*\r\x1b\[K", "", out)
                    self.check_clean(out)
                    if options:
                        self.assertEqual(json.loads(out.replace("\r\n", "\n"))["name"], HARM.replace("\x00", ""))
                    else:
                        p = ctl(*args, port=(s := Script(raw)).port)
                        s.stop()
                        self.check_clean(p.stdout + p.stderr)

    def test_nor_are_those_of_its_errors_and_events(self):
        harm = HARM.replace("\x00", "")
        for raw, args in ((reply(409, {"error": {"message": harm, "code": harm}}), ("show", "x")), (reply(422, {"error": {"message": harm, "code": harm}, "report": self.harmful()}), ("show", "x")),
                          (b"HTTP/1.1 302 x\r\nLocation: /\x1b[2J\r\nContent-Length: 0\r\n\r\n", ("show", "x")), (reply(200, b'{"\x1b[2J'), ("show", "x")),
                          (EVENTS + b"id: \x1b[2J\ndata: " + json.dumps(self.harmful()).encode() + b"\n\n", ("events", "--no-reconnect"))):
            s = Script(raw)
            p = ctl(*args, port=s.port)
            s.stop()
            self.assertNotEqual(p.returncode, OK)
            self.check_clean(p.stdout + p.stderr)
        self.check_clean(ctl("\x1b[2J").stderr)

    def test_json_to_a_pipe_is_byte_for_byte(self):
        raw = json.dumps(self.harmful(), ensure_ascii=False, indent="\t").encode()
        s = Script(reply(200, raw))
        p = subprocess.run([CTL, "--url", f"http://127.0.0.1:{s.port}", "show", "x", "--json"], capture_output=True, timeout=PATIENCE, env=environment())
        s.stop()
        self.assertEqual(p.stdout, raw + b"\n")

    def test_an_upload_shows_its_progress_on_a_terminal_only(self):
        big = self.file("big.tar", b"x" * (24 << 20))
        for status, code in ((201, OK), (422, REFUSED)):
            s = Script(reply(status, {"name": "big", "version": 1, "error": {"message": "no"}}), whole=True)
            got, out = on_terminal("upload", "big", big, "--url", f"http://127.0.0.1:{s.port}")
            self.assertEqual(got, code, out)
            self.assertRegex(out, r"\r\[#* *\] +\d+ %  [\d.]+ of 24\.0 MiB ")
            self.assertRegex(out, r"\r\[#{30}\] 100 %")
            self.assertIn("\r\x1b[Kuploaded big: version 1" if code == OK else "\r\x1b[Kadapterctl: no", out)
            p = ctl("upload", "big", big, port=s.port)
            s.stop()
            self.assertEqual((p.returncode, p.stderr.count("\n")), (code, int(code != OK)))


# ---- the command line ----

class CommandLine(Scratch):
    NAMES = "list show upload dry-run activate rollback alias pin unpin label delete events verify digest convert".split()

    def test_help_lists_every_command_and_exit_code(self):
        p = ctl("--help")
        self.assertEqual((p.returncode, p.stderr), (OK, ""))
        for name in self.NAMES:
            self.assertRegex(p.stdout, re.compile(rf"^  {name} ", re.M))
            one = ctl(name, "--help")
            self.assertEqual((one.returncode, one.stderr), (OK, ""))
            self.assertTrue(one.stdout.startswith(f"usage: adapterctl {name}"))
            self.assertIn("--json", one.stdout)
        for code in range(8):
            self.assertRegex(p.stdout, re.compile(rf"^  {code}  \S", re.M))
        self.assertRegex(ctl("--version").stdout, r"^adapterctl \d+\.\d+\.\d+\n$")

    def test_dumped_options_are_those_of_help(self):
        dump = json.loads(ctl("--dump-options").stdout)
        self.assertEqual([c["name"] for c in dump["commands"]], re.findall(r"^  ([a-z-]+) +\S", ctl("--help").stdout.split("adapterctl COMMAND --help")[0], re.M))
        for c in dump["commands"]:
            names = [o["name"] for o in c["options"] + dump["options"]]
            self.assertEqual(names, re.findall(r"^  --(\S+)", ctl(c["name"], "--help").stdout, re.M))

    def test_wrong_command_lines_are_refused_without_asking_a_server(self):
        for args in ([], ["frobnicate"], ["list", "extra"], ["show"], ["show", "a", "b"], ["list", "--frobnicate"], ["list", "--limit"], ["list", "--limit", "x"], ["list", "--limit", "0"],
                     ["list", "--limit", "1001"], ["list", "--drain", "5"], ["delete", "x", "--drain", "-1"], ["upload", "a"], ["activate", "a"], ["show", "x", "--timeout", "0"],
                     ["upload", "a", "b", "--sha256", "xyz"], ["show", ""], ["list", "--url", "ftp://x"], ["list", "--url", "http://u:p@x"], ["events", "--count", "0"],
                     ["list", "--key", "a\nb"], ["show", "x", "--url", "http://x/?q"], ["convert", "a", "b"], ["pin", "a", "--if-match", "a\nb"], ["upload", "a", "b", "--label", "x"]):
            p = ctl(*args)
            self.assertEqual((p.returncode, p.stdout), (USAGE, ""), (args, p.stderr))
            self.assertRegex(p.stderr, r"^adapterctl: .+\n$")

    BASE = os.path.join(TINY, "models", "llama-gqa")

    def convert(self, *args, want=OK):
        p = ctl("convert", "--base", self.BASE, *args)
        self.assertEqual(p.returncode, want, p.stderr)
        return p.stdout

    def test_convert_turns_a_directory_into_a_file_and_back(self):
        gguf, back, again = (os.path.join(self.dir, name) for name in ("one.gguf", "back", "two.gguf"))
        self.assertRegex(self.convert(self.adapter("all"), gguf), r"one\.gguf: rank \d+, \d+ modules\n$")
        self.assertRegex(self.convert(gguf, back), r"back: rank \d+, \d+ modules\n$")
        self.assertEqual(sorted(os.listdir(back)), ["adapter_config.json", "adapter_model.safetensors"])
        self.assertEqual(json.loads(self.convert(back, again, "--json"))["format"], "gguf")
        with open(gguf, "rb") as one, open(again, "rb") as two:
            self.assertEqual(one.read(), two.read())

    def test_convert_refuses_an_output_of_the_wrong_kind(self):
        gguf = os.path.join(self.dir, "x.gguf")
        self.convert(self.adapter(), os.path.join(self.dir, "x"), want=FAILED)
        self.convert(self.adapter(), gguf)
        self.convert(gguf, os.path.join(self.dir, "y.gguf"), want=FAILED)
        self.convert(gguf, gguf + "/z", want=FAILED)
        self.convert(self.adapter("mistral"), gguf, want=FAILED)
        self.assertEqual(os.listdir(self.dir), ["x.gguf"])

    def test_digest_works_without_a_server(self):
        p = ctl("digest", "--base", self.BASE, self.adapter())
        self.assertRegex(p.stdout, r"^[0-9a-f]{64}\n$")
        self.assertEqual(json.loads(ctl("digest", "--base", self.BASE, self.adapter(), "--json").stdout)["digest"], p.stdout.strip())
        self.assertEqual(ctl("digest", "--base", self.BASE, self.adapter("mistral")).returncode, FAILED)
        self.assertEqual(ctl("digest", "--base", "/nowhere", self.adapter()).returncode, FAILED)


if __name__ == "__main__":
    unittest.main()
