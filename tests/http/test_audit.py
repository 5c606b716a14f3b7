# SPDX-License-Identifier: MIT
"""Who changed what: the audit log through its route, in the log, and in the database, where nobody can change it."""
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import unittest

from daemon import ADAPTERD, wait_until
from registry_util import BASE, Registry, make_adapter, multipart, parts_of


def write(path, files):
    """An adapter's folder: complete when it gets its name, or its weights."""
    os.makedirs(path, exist_ok=True)
    for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), files):
        with open(os.path.join(path, "." + name), "wb") as f:
            f.write(data)
        os.rename(os.path.join(path, "." + name), os.path.join(path, name))


class AuditTests(unittest.TestCase):
    def setUp(self):
        self.state = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.state, True)
        self.d = self.start()

    def start(self):
        d = Registry(BASE, "--served-name", "base", "--state-dir", self.state, log_level="info")
        self.addCleanup(lambda: d.process.poll() is None and d.stop())
        return d

    def rows(self, after=0, limit=1000, **headers):
        status, page = self.d.call("GET", f"/v1/admin/audit?after={after}&limit={limit}", headers=headers)
        self.assertEqual((status, page["object"]), (200, "list"), page)
        return page["data"]

    def wait_for_row(self, **want):
        """A row is written behind the change: with the reply, or a moment later."""
        rows = lambda: self.rows(**getattr(self, "operator", {}))
        return wait_until(lambda: [r for r in rows() if all(r.get(k) == v for k, v in want.items())], lambda: f"a row {want} in {rows()}")[-1]


class Changes(AuditTests):
    def test_each_change_has_a_row_with_its_object_and_what_it_became(self):
        d = self.d
        self.assertEqual(d.upload("a", make_adapter(1), headers={"x-request-id": "up"})[0], 201)
        self.assertEqual(d.new_version("a", make_adapter(2))[0], 201)
        self.assertEqual(d.call("POST", "/v1/adapters/a/activate", {"version": 1})[0], 200)
        self.assertEqual(d.call("POST", "/v1/adapters/a/rollback")[0], 200)
        self.assertEqual(d.call("PATCH", "/v1/adapters/a", {"pinned": True})[0], 200)
        self.assertEqual(d.call("PUT", "/v1/aliases/to", {"targets": [{"model": "a", "weight": 9}, {"model": "a@1", "weight": 1}]})[0], 200)
        self.assertEqual(d.call("POST", "/v1/admin/merge", {"adapter": "a"})[0], 200)
        self.assertEqual(d.call("POST", "/v1/admin/merge", {"adapter": None})[0], 200)
        self.assertEqual(d.call("PUT", "/v1/admin/log", {"level": "info"})[0], 200)
        self.assertEqual(d.call("POST", "/v1/admin/drain", {"drain": False})[0], 200)
        self.assertEqual(d.call("DELETE", "/v1/aliases/to")[0], 200)
        self.assertEqual(d.call("DELETE", "/v1/adapters/a")[0], 200)
        self.wait_for_row(action="adapter.remove")
        rows = self.rows()
        self.assertEqual([(r["action"], r.get("object"), r["status"], r.get("detail")) for r in rows], [
            ("adapter.upload", "a", 201, "version 1"), ("adapter.upload", "a", 201, "version 2"), ("adapter.activate", "a", 200, "version 1"), ("adapter.rollback", "a", 200, "version 2"),
            ("adapter.change", "a", 200, None), ("alias.set", "to", 200, "a 9, a@1 1"), ("merge.set", "a", 200, None), ("merge.set", None, 200, "restored"), ("log.set", None, 200, "info to info"),
            ("server.drain", None, 200, "back in rotation"), ("alias.remove", "to", 200, None), ("adapter.remove", "a", 200, None)])
        self.assertEqual([r["seq"] for r in rows], list(range(1, 13)))
        self.assertEqual((rows[0]["request_id"], rows[0]["peer"], rows[0]["tenant"], rows[0]["key"]), ("up", "127.0.0.1", "default", ""))
        self.assertLess(abs(rows[0]["time"] - time.time()), 600)
        said = [line for line in map(json.loads, d.stderr().splitlines()) if line["msg"] == "audit"]
        self.assertEqual([(s["action"], s["status"], s["request_id"]) for s in said], [(r["action"], r["status"], r["request_id"]) for r in rows])

    def test_what_was_refused_has_a_row_that_says_why(self):
        d = self.d
        self.assertEqual(d.upload("bad", (b"{}", b"nonsense"))[0], 422)
        self.assertEqual(d.call("DELETE", "/v1/adapters/nope")[0], 404)
        self.assertEqual(d.call("POST", "/v1/adapters/nope/activate", {"version": True})[0], 400)
        self.assertEqual(d.call("POST", "/v1/adapters/n/o/rollback")[0], 404)
        self.assertEqual(d.call("PUT", "/v1/aliases/x", {"targets": []})[0], 400)
        self.assertEqual(d.call("POST", "/v1/admin/merge", {"adapter": "nope"})[0], 404)
        self.assertEqual(d.call("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "relative"})[0], 400)
        self.assertEqual(d.call("PUT", "/v1/admin/log", {"level": "loud"})[0], 400)
        self.wait_for_row(action="log.set")
        rows = self.rows()
        self.assertEqual([(r["action"], r.get("object"), r["status"]) for r in rows],
                         [("adapter.upload", "bad", 422), ("adapter.remove", "nope", 404), ("adapter.activate", "nope", 400), ("adapter.rollback", "n/o", 404), ("alias.set", "x", 400), ("merge.set", None, 404), ("adapter.upload", None, 400), ("log.set", None, 400)])
        self.assertTrue(all(r["detail"] for r in rows), rows)

    def test_what_only_reads_or_asks_has_none(self):
        self.d.complete(model="base", prompt=[1], max_tokens=1)
        for path in ("/v1/adapters", "/v1/models", "/metrics", "/v1/admin/log", "/v1/admin/audit", "/nowhere"):
            self.d.request("GET", path)
        self.d.call("DELETE", "/v1/completions")
        self.assertEqual(self.rows(), [])

    def test_a_change_whose_client_left_has_a_row_with_what_came_of_it(self):
        for i in range(20):
            name = f"late{i}"
            kind, body = multipart(parts_of(make_adapter(7 + i), name=name))
            s = socket.create_connection((self.d.host, self.d.port), timeout=60)
            s.sendall(f"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nx-request-id: {name}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            s.close()
            row = self.wait_for_row(request_id=name)
            if row["status"] != 201:  # else it was answered before we left
                break
        if row["status"] != 499:  # it left when everything was there: the upload went on
            self.assertEqual((row["action"], row["object"], row["status"]), ("adapter.upload", name, 200), row)
            self.assertIn(row["detail"], ("done after its client had left", "version 1"))
            self.assertEqual(self.d.get("/v1/adapters/" + name)[0], 200)
        self.assertEqual(len([r for r in self.rows() if r["request_id"] == name]), 1)

    def test_rows_come_in_pages(self):
        for i in range(7):
            self.d.call("DELETE", f"/v1/aliases/a{i}")
        self.wait_for_row(object="a6")
        status, page = self.d.call("GET", "/v1/admin/audit?limit=3")
        self.assertEqual((status, [r["object"] for r in page["data"]], page["has_more"]), (200, ["a0", "a1", "a2"], True))
        status, page = self.d.call("GET", f"/v1/admin/audit?limit=4&after={page['data'][-1]['seq']}")
        self.assertEqual(([r["object"] for r in page["data"]], page["has_more"]), (["a3", "a4", "a5", "a6"], False))
        self.assertEqual(self.rows(after=10 ** 18), [])
        for query in ("limit=0", "limit=1001", "limit=x", "after=-1", "after=1.5", "after=99999999999999999999", "limit=", "after=%00"):
            self.assertEqual(self.d.call("GET", "/v1/admin/audit?" + query)[0], 400, query)

    def test_names_of_strangers_are_told_as_they_are_and_break_nothing(self):
        for name in ("%FF%FE", "%22%5C%0A%1B", "x" * 600, "%F0%9F%98%80"):
            self.d.call("DELETE", "/v1/aliases/" + name)
        self.wait_for_row(object="\N{GRINNING FACE}")
        objects = [r["object"] for r in self.rows()]
        self.assertEqual(objects[1:2] + objects[3:], ['"\\\n\x1b', "\N{GRINNING FACE}"])
        self.assertLess(len(objects[2]), 600)


class NobodysKey(AuditTests):
    """Changes that no request made: who made them is their peer."""

    def told(self, by):
        return [(r["action"], r.get("object"), r["status"], r.get("detail")) for r in self.rows() if r["peer"] == by]

    def test_what_a_watched_directory_changed_or_was_refused_has_rows(self):
        self.d.stop()
        watched = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, watched, True)
        self.d = Registry(BASE, "--served-name", "base", "--state-dir", self.state, "--watch-dir", watched, log_level="info")
        self.addCleanup(lambda: self.d.process.poll() is None and self.d.stop())
        write(os.path.join(watched, "w"), make_adapter(1))
        self.wait_for_row(object="w", detail="version 1")
        write(os.path.join(watched, "w"), make_adapter(2))
        self.wait_for_row(object="w", detail="version 2")
        shutil.rmtree(os.path.join(watched, "w"))
        self.wait_for_row(object="w", action="adapter.remove")
        write(os.path.join(watched, "base"), make_adapter(3))
        self.wait_for_row(object="base")
        write(os.path.join(watched, "bad"), (b"{}", b"nonsense"))
        bad = self.wait_for_row(object="bad")
        self.assertEqual(self.told("watch-dir")[:4], [("adapter.upload", "w", 201, "version 1"), ("adapter.upload", "w", 201, "version 2"), ("adapter.remove", "w", 200, None),
                                                      ("adapter.upload", "base", 409, "its name is the name of the base model")])
        self.assertEqual((bad["action"], bad["status"], bad["tenant"], bad["key"], "request_id" in bad), ("adapter.upload", 422, "default", "", False), bad)
        self.assertTrue(bad["detail"])
        self.assertEqual(len(self.rows()), 5)
        said = [line for line in map(json.loads, self.d.stderr().splitlines()) if line["msg"] == "audit"]
        self.assertEqual([s["peer"] for s in said], ["watch-dir"] * 5)

    def test_a_version_beyond_the_kept_ones_goes_with_a_row(self):
        self.assertEqual(self.d.upload("a", make_adapter(1))[0], 201)
        for seed in range(2, 7):  # five are kept behind it
            self.assertEqual(self.d.new_version("a", make_adapter(seed))[0], 201)
        row = self.wait_for_row(object="a@1")
        self.assertEqual(self.told("daemon"), [("adapter.remove", "a@1", 200, "beyond the versions that are kept")], row)

    def test_merges_that_the_daemon_or_its_command_line_decided_have_rows(self):
        self.assertEqual(self.d.upload("a", make_adapter(1))[0], 201)
        self.d.stop()
        self.d = Registry(BASE, "--served-name", "base", "--state-dir", self.state, "--merge", "a")
        self.addCleanup(lambda: self.d.process.poll() is None and self.d.stop())
        self.wait_for_row(action="merge.set", object="a")
        self.assertEqual(self.told("command line"), [("merge.set", "a", 200, None)])
        self.assertEqual(self.d.call("DELETE", "/v1/adapters/a")[0], 200)
        self.wait_for_row(action="merge.set", object="a", peer="daemon")
        self.assertEqual(self.told("daemon"), [("merge.set", "a", 200, "restored: it is active no longer")])

    def test_merges_by_themselves_have_rows(self):
        self.d.stop()
        self.d = Registry(BASE, "--served-name", "base", "--merge", "auto", adapters=("all",))
        self.addCleanup(lambda: self.d.process.poll() is None and self.d.stop())

        def drive(model, state):
            end = time.monotonic() + 120
            while time.monotonic() < end and self.d.metric("adapterd_merged_adapters") != state:
                self.d.complete(model=model, prompt=[1], max_tokens=30, ignore_eos=True)
        drive("all", 1)
        drive("base", 0)
        self.wait_for_row(detail="restored: others had half of the tokens")
        self.assertEqual(self.told("daemon"), [("merge.set", "all", 200, "it had nearly all tokens"), ("merge.set", "all", 200, "restored: others had half of the tokens")])


class Durable(AuditTests):
    def test_rows_outlive_kill_9_and_the_database_refuses_to_change_them(self):
        self.d.call("PUT", "/v1/aliases/x", {"targets": []})
        self.assertEqual(self.d.upload("a", make_adapter(3))[0], 201)
        self.wait_for_row(action="adapter.upload")
        before = self.rows()
        self.d.process.send_signal(signal.SIGKILL)
        self.d.process.wait()
        db = sqlite3.connect(os.path.join(self.state, "registry.db"))
        for change in ("UPDATE audit SET action = 'nothing'", "DELETE FROM audit", "UPDATE audit SET seq = 9 WHERE seq = 1"):
            with self.assertRaises(sqlite3.DatabaseError, msg=change):
                db.execute(change)
        db.close()
        self.d = self.start()
        self.assertEqual(self.rows(), before)
        self.d.call("DELETE", "/v1/adapters/a")
        self.assertEqual(self.wait_for_row(action="adapter.remove")["seq"], before[-1]["seq"] + 1)


class Reload(AuditTests):
    def start(self):
        self.config = os.path.join(self.state, "adapterd.conf")
        self.write("queue-limit = 100\nserved-name = base\n")
        d = Registry(BASE, "--config", self.config, "--state-dir", os.path.join(self.state, "store"), log_level="info")
        self.addCleanup(lambda: d.process.poll() is None and d.stop())
        return d

    def write(self, text):
        with open(self.config, "w") as f:
            f.write(text)

    def test_what_a_signal_changed_has_a_row_and_what_needs_a_restart_has_none(self):
        self.write("queue-limit = 101\nserved-name = other\n")
        self.d.process.send_signal(signal.SIGHUP)
        row = self.wait_for_row(action="config.reload")
        self.assertEqual((row["object"], row["peer"], row["tenant"], row["key"], row["status"]), ("queue-limit", "signal", "default", "", 200))
        self.assertEqual(len(self.rows()), 1)

    def test_a_reload_that_was_refused_has_a_row_that_says_why(self):
        self.write("queue-limit = many\n")
        self.d.process.send_signal(signal.SIGHUP)
        row = self.wait_for_row(action="config.reload")
        self.assertEqual((row.get("object"), row["peer"], row["status"]), (None, "signal", 400))
        self.assertIn("queue-limit", row["detail"])


class Keys(AuditTests):
    def test_rows_name_tenant_and_key_and_never_hold_a_key(self):
        made = self.d.call("POST", "/v1/admin/keys", {"name": "root", "verbs": ["admin", "list", "upload", "activate", "delete", "merge", "infer"]})
        self.assertEqual(made[0], 201, made)
        root = made[1]
        self.operator = {"Authorization": "Bearer " + root["key"]}
        self.assertEqual(self.d.call("POST", "/v1/admin/tenants", {"name": "acme"}, self.operator)[0], 201)
        status, key = self.d.call("POST", "/v1/admin/keys", {"tenant": "acme", "verbs": ["infer", "list"]}, self.operator)
        self.assertEqual(status, 201, key)
        theirs = {"Authorization": "Bearer " + key["key"]}
        self.assertEqual(self.d.call("DELETE", "/v1/adapters/x", headers=theirs)[0], 403)
        self.assertEqual(self.d.call("GET", "/v1/admin/audit", headers=theirs)[0], 403)
        self.assertEqual(self.d.call("PUT", "/v1/admin/log", {"level": "debug"}, theirs)[0], 403)
        self.assertEqual(self.d.call("DELETE", "/v1/adapters/x", headers={"Authorization": "Bearer nonsense"})[0], 401)
        self.wait_for_row(status=401)
        rows = [(r["tenant"], r["key"], r["action"], r.get("object"), r["status"]) for r in self.rows(**self.operator)]
        self.assertEqual(rows, [
            ("default", "", "key.create", "default", 201), ("default", root["id"], "tenant.create", "acme", 201), ("default", root["id"], "key.create", "acme", 201),
            ("acme", key["id"], "adapter.remove", "x", 403), ("acme", key["id"], "log.set", None, 403), ("", "", "adapter.remove", "x", 401)])
        details = [r.get("detail") for r in self.rows(**self.operator)]
        self.assertEqual(details[0::2][:2], [f"key {root['id']}", f"key {key['id']}"])
        lines = [line for line in map(json.loads, self.d.stderr().splitlines()) if line["msg"] == "request" and line.get("key") == key["id"]]
        self.assertEqual([line["tenant"] for line in lines], ["acme"] * 3)
        self.assertNotIn(root["key"][-43:], self.d.stderr())
        self.assertNotIn(key["key"][-43:], self.d.stderr() + json.dumps(self.rows(**self.operator)))

    def test_the_first_key_which_no_daemon_made_has_a_row_too(self):
        self.d.stop()
        key = subprocess.run([ADAPTERD, "--state-dir", self.state, "--create-admin-key"], capture_output=True, text=True, timeout=120, check=True).stdout.strip()
        self.d = self.start()
        row, = self.rows(Authorization="Bearer " + key)
        self.assertEqual((row["action"], row["peer"], row["status"], row["detail"]), ("key.create", "command line", 201, "key " + key.split("-")[2]))

    def test_strangers_cannot_fill_it(self):
        made = self.d.call("POST", "/v1/admin/keys", {"name": "root", "verbs": ["admin", "list"]})[1]
        self.operator = {"Authorization": "Bearer " + made["key"]}
        begin = time.monotonic()
        for _ in range(100):
            self.assertEqual(self.d.call("DELETE", "/v1/adapters/x", headers={"Authorization": "Bearer nonsense"})[0], 401)
        windows = 2 + (time.monotonic() - begin) // 10
        self.wait_for_row(status=401)
        self.assertLessEqual(len([r for r in self.rows(**self.operator) if r["status"] == 401]), 10 * windows)


class FullDisk(AuditTests):
    def test_rows_for_which_it_has_no_room_are_written_when_there_is_some_again(self):
        pid = self.d.process.pid
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))  # as a disk without room
        for level in ("debug", "info", "warn", "info"):  # which need none
            self.assertEqual(self.d.call("PUT", "/v1/admin/log", {"level": level})[0], 200)
        self.assertEqual(self.d.call("PUT", "/v1/aliases/x", {"targets": []})[0], 400)
        self.assertEqual(self.rows(), [])
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        self.wait_for_row(action="alias.set", status=400)
        details = [r.get("detail") for r in self.rows()]
        self.assertEqual(details, ["info to debug", "debug to info", "info to warn", "warn to info", "invalid_value"])
        self.assertEqual(self.d.call("PUT", "/v1/admin/log", {"level": "warn"})[0], 200)
        self.wait_for_row(detail="info to warn", seq=6)
