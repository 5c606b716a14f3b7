# SPDX-License-Identifier: MIT
"""adapterctl's commands for operators: the server's state, tenants, keys, limits, usage, the audit log."""
import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import time

import test_adapterctl
from daemon import PATIENCE, wait_until
from test_adapterctl import CONFLICT, CTL, FAILED, NOT_FOUND, OK, USAGE, Script, ctl, environment, reply


class Operated(test_adapterctl.Served):
    """The daemon has a key of the operator; every test has a tenant of its own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        p = ctl("key", "create", "default", "--name", "ops", "--verb", "admin", "--verb", "infer", "--verb", "list", "--verb", "upload", "--adapter", "*", port=cls.server.port)
        assert p.returncode == OK, p.stderr
        cls.key = p.stdout.strip()

    def setUp(self):
        test_adapterctl.Scratch.setUp(self)
        self.tenant = "t" + os.urandom(4).hex()

    def ctl(self, *args, expect=OK, key=None):
        p = ctl(*args, port=self.server.port, env={"ADAPTERCTL_KEY": key or self.key})
        self.assertEqual(p.returncode, expect, (args, p.stdout, p.stderr))
        return p

    def json(self, *args):
        return json.loads(self.ctl(*args, "--json").stdout)

    def create(self, *options):
        self.ctl("tenant", "create", self.tenant, *options)


class Tenants(Operated):
    def test_a_tenant_is_created_changed_shown_and_deleted(self):
        self.create("--weight", "2.5", "--description", "pays")
        self.assertEqual({k: self.json("tenant", "show", self.tenant)[k] for k in ("weight", "description", "keys")}, {"weight": 2.5, "description": "pays", "keys": 0})
        self.ctl("tenant", "set", self.tenant, "--weight", "1", "--priority", "batch")
        shown = self.json("tenant", "show", self.tenant)
        self.assertEqual((shown["weight"], shown["priority"], shown["description"]), (1, "batch", "pays"))
        lines = self.ctl("tenant", "list").stdout.splitlines()
        self.assertEqual(lines[0].split()[:3], ["TENANT", "WEIGHT", "PRIORITY"])
        self.assertEqual([line.split()[:3] for line in lines if line.startswith(self.tenant)], [[self.tenant, "1", "batch"]])
        self.assertEqual(self.ctl("tenant", "delete", self.tenant).stdout, f"deleted {self.tenant}\n")
        self.ctl("tenant", "show", self.tenant, expect=NOT_FOUND)

    def test_a_tenant_that_is_there_is_not_created_again(self):
        self.create()
        self.assertIn("already", self.ctl("tenant", "create", self.tenant, expect=CONFLICT).stderr)

    def test_a_list_of_several_pages_is_whole(self):
        def page(more, *names):
            return reply(200, {"object": "list", "data": [{"name": n} for n in names], "has_more": more})
        s = Script(page(True, "a", "b"), page(True, "c"), page(False, "d"))
        self.addCleanup(s.stop)
        p = ctl("tenant", "list", "--json", port=s.port)
        self.assertEqual([t["name"] for t in json.loads(p.stdout)["data"]], ["a", "b", "c", "d"])
        self.assertEqual([r.split(b" ")[1] for r in s.requests[1:]], [b"/v1/admin/tenants?after=b", b"/v1/admin/tenants?after=c"])
        endless = Script(page(True, "a b\r\nX: y"))
        self.addCleanup(endless.stop)
        self.assertEqual(ctl("tenant", "list", port=endless.port).returncode, FAILED)

    def test_what_is_no_name_is_refused_before_anything_is_sent(self):
        for name in ("a/b", "..", "A", "", "x?y", "a b"):
            self.assertIn("tenant's name", self.ctl("tenant", "show", name, expect=USAGE).stderr)
        self.ctl("tenant", "set", self.tenant, expect=USAGE)
        self.ctl("tenant", "rename", self.tenant, expect=USAGE)
        self.ctl("tenant", "create", self.tenant, "--weight", "-1", expect=USAGE)


class Keys(Operated):
    def test_a_new_key_is_all_that_is_printed_and_works(self):
        self.create()
        p = self.ctl("key", "create", self.tenant, "--verb", "list", "--adapter", "*")
        self.assertRegex(p.stdout, r"\Ask-ad-[0-9a-f]{12}-[\w-]{43}\n\Z")
        self.ctl("list", key=p.stdout.strip())
        self.ctl("tenant", "list", key=p.stdout.strip(), expect=FAILED)

    def test_a_key_is_never_listed_but_its_id_and_scope_are(self):
        self.create()
        key = self.ctl("key", "create", self.tenant, "--name", "web", "--verb", "infer", "--verb", "list", "--adapter", "support-*", "--expires", "30d").stdout.strip()
        text = self.ctl("key", "list", "--tenant", self.tenant).stdout
        self.assertNotIn(key, text)
        self.assertRegex(text, rf"{key[6:18]}  {self.tenant} +web +infer,list +support-\* +to 20\d\d-\d\d-\d\d \d\d:\d\dZ")
        self.assertNotIn(key, json.dumps(self.json("key", "show", key[6:18])))

    def test_a_revoked_key_is_refused_at_once(self):
        self.create()
        key = self.ctl("key", "create", self.tenant, "--verb", "list", "--adapter", "*").stdout.strip()
        self.ctl("list", key=key)
        self.ctl("key", "revoke", key[6:18])
        self.assertIn("not valid", self.ctl("list", key=key, expect=FAILED).stderr)
        self.assertIn("revoked", self.ctl("key", "list", "--tenant", self.tenant).stdout)
        self.ctl("key", "delete", key[6:18])
        self.ctl("key", "show", key[6:18], expect=NOT_FOUND)

    def test_after_a_rotation_both_keys_work_until_the_grace_is_over(self):
        self.create()
        old = self.ctl("key", "create", self.tenant, "--verb", "list", "--adapter", "*").stdout.strip()
        new = self.ctl("key", "rotate", old[6:18], "--grace", "3600").stdout.strip()
        self.assertNotEqual(old, new)
        self.ctl("list", key=old)
        self.ctl("list", key=new)
        newest = self.ctl("key", "rotate", new[6:18], "--grace", "0").stdout.strip()
        self.ctl("list", key=new, expect=FAILED)
        self.ctl("list", key=newest)

    def test_the_operators_last_key_is_kept(self):
        self.assertIn("last", self.ctl("key", "revoke", self.key[6:18], expect=CONFLICT).stderr)
        self.ctl("list")

    def test_verbs_and_times_that_are_none_are_refused(self):
        self.create()
        self.assertIn("verbs", self.ctl("key", "create", self.tenant, "--verb", "fly", "--adapter", "*", expect=FAILED).stderr)
        for wrong in ("soon", "5", "-1d", "1w", "0d"):
            self.ctl("key", "create", self.tenant, "--verb", "infer", "--expires", wrong, expect=USAGE)


class TheServer(Operated):
    def test_the_state_is_told_and_agrees_with_the_reply(self):
        v = self.json("status")
        text = self.ctl("status").stdout
        self.assertIn(f"adapterd {v['version']}", text)
        self.assertIn("serving, ready", text)
        self.assertIn(f"{v['kv_pages']['total']} pages", text)
        self.assertIn(f"http://127.0.0.1:{self.server.port}", text)

    def test_drain_takes_it_out_of_rotation_and_back(self):
        self.ctl("drain")
        self.assertIn("NOT ready", self.ctl("status").stdout)
        self.ctl("drain", "off")
        self.assertIn("serving, ready", self.ctl("status").stdout)
        self.ctl("drain", "perhaps", expect=USAGE)

    def test_top_prints_as_many_looks_as_were_asked_for(self):
        self.ctl("upload", "seen", self.adapter())
        text = self.ctl("top", "--count", "2", "--interval", "1").stdout
        self.assertEqual(text.count("adapterd "), 2)
        self.assertEqual(text.count("\nseen "), 2)
        self.assertNotIn("\033", text)

    def test_top_on_a_terminal_ends_with_q_and_leaves_it_as_it_was(self):
        main, side = pty.openpty()
        p = subprocess.Popen([CTL, "top", "--interval", "60", "--url", f"http://127.0.0.1:{self.server.port}"], stdin=side, stdout=side, stderr=subprocess.PIPE,
                             env=environment(ADAPTERCTL_KEY=self.key, TERM="xterm"))
        os.close(side)
        seen, deadline = b"", time.monotonic() + PATIENCE
        while b"\033[J" not in seen and time.monotonic() < deadline:
            if select.select([main], [], [], 1)[0]:
                seen += os.read(main, 65536)
        self.assertIn(b"serving, ready", seen)
        os.write(main, b"q")
        try:
            while chunk := os.read(main, 65536):
                seen += chunk
        except OSError:  # Linux: the other side is closed
            pass
        self.assertEqual(p.wait(PATIENCE), OK, p.stderr.read())
        p.stderr.close()
        os.close(main)
        self.assertTrue(seen.startswith(b"\033[?1049h\033[?25l"))
        self.assertTrue(seen.endswith(b"\033[?25h\033[?1049l"))

    def test_top_ends_in_order_when_it_is_interrupted(self):
        p = subprocess.Popen([CTL, "top", "--count", "1000", "--interval", "60", "--url", f"http://127.0.0.1:{self.server.port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=environment(ADAPTERCTL_KEY=self.key), text=True)
        self.assertIn("adapterd ", p.stdout.readline())
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=PATIENCE)
        self.assertEqual(p.returncode, OK)


class Records(Operated):
    def test_the_audit_log_tells_who_changed_what_and_goes_on_where_one_stopped(self):
        last = self.json("audit", "--limit", "1000")["data"][-1]["seq"]
        begin = int(time.time())
        self.create()
        end = time.time()
        self.ctl("tenant", "create", self.tenant, expect=CONFLICT)
        rows = self.json("audit", "--after", str(last))["data"]
        self.assertEqual([(r["action"], r["object"], r["status"], r["key"]) for r in rows], [("tenant.create", self.tenant, 201, self.key[6:18]), ("tenant.create", self.tenant, 409, self.key[6:18])])
        self.assertTrue(begin <= rows[0]["time"] <= end, (begin, rows[0]["time"], end))  # to the second, not ten
        lines = self.ctl("audit", "--after", str(last)).stdout.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertRegex(lines[1], rf" {last + 1}  20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ  default  {self.key[6:18]}  tenant.create  {self.tenant} ")
        self.ctl("audit", "--after", "x", expect=USAGE)

    def test_audit_says_how_to_go_on_when_there_are_more_rows_and_its_help_what_after_takes(self):
        for _ in range(2):
            self.ctl("tenant", "create", "default", expect=CONFLICT)
        rows = self.json("audit", "--limit", "1000")["data"]
        seq = rows[-2]["seq"]
        self.assertIn(f"go on with --after {seq}\n", self.ctl("audit", "--limit", "1", "--after", str(rows[-3]["seq"] if len(rows) > 2 else 0)).stderr)
        self.assertEqual(self.ctl("audit", "--limit", "1", "--after", str(seq)).stderr, "")
        said = self.ctl("audit", "--help").stdout
        self.assertRegex(said, r"--after NAME\|SEQ +.*in audit the number of a row")
        self.assertRegex(said, r"--limit N +.*of the audit log 100")

    def test_limits_are_set_added_to_and_taken_away(self):
        self.create()
        self.ctl("limits", "set", "tenant", self.tenant, "requests_per_minute=60", "prompt_tokens_per_minute=10k", "bytes_stored=1G")
        self.ctl("limits", "set", "tenant", self.tenant, "context=512", "requests_per_minute=")
        want = {"prompt_tokens_per_minute": 10000, "bytes_stored": 1 << 30, "context": 512}
        self.assertEqual(self.json("tenant", "show", self.tenant)["limits"], want)
        key = self.ctl("key", "create", self.tenant, "--verb", "infer", "--adapter", "*").stdout.strip()[6:18]
        self.ctl("limits", "set", "key", key, "concurrent_requests=2")
        lines = [line.split() for line in self.ctl("limits", "list").stdout.splitlines()]
        self.assertEqual(next(x for x in lines if x[:2] == [self.tenant, "-"])[2:5], [f"{k}={v}" for k, v in sorted(want.items(), key=lambda kv: list(want).index(kv[0]))])
        self.assertEqual(next(x for x in lines if x[:2] == [self.tenant, key])[2], "concurrent_requests=2")
        for wrong in ("context", "context=x", "=5", "context=-1", "context=5kk", "context=99999999999999999999"):
            self.ctl("limits", "set", "tenant", self.tenant, wrong, expect=USAGE)
        self.ctl("limits", "set", "tenant", self.tenant, "bananas=5", expect=FAILED)
        self.assertEqual(self.json("tenant", "show", self.tenant)["limits"], want)

    def test_usage_is_a_table_json_and_csv_of_the_same_numbers(self):
        self.create()
        self.ctl("upload", "used", self.adapter())
        body = json.dumps({"model": "used", "prompt": "hello", "max_tokens": 3, "ignore_eos": True})
        status, _, answer = self.server.request("POST", "/v1/completions", body, {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"})
        self.assertEqual(status, 200)
        answer = json.loads(answer)
        mine = wait_until(lambda: [r for r in self.json("usage")["data"] if r["model"] == "used"], "a row")
        self.assertEqual([(r["tenant"], r["key"], r["requests"], r["prompt_tokens"], r["generated_tokens"]) for r in mine],
                         [("default", self.key[6:18], 1, answer["usage"]["prompt_tokens"], 3)])
        rows = [r for r in csv.DictReader(io.StringIO(self.ctl("usage", "--csv").stdout, newline="")) if r["model"] == "used"]
        self.assertEqual([(r["date"], r["version"], r["prompt_tokens"], r["generated_tokens"]) for r in rows],
                         [(mine[0]["date"], mine[0]["version"], str(mine[0]["prompt_tokens"]), "3")])
        self.assertIn("used", self.ctl("usage", "--from", mine[0]["date"], "--to", mine[0]["date"]).stdout)
        self.assertNotIn("used", self.ctl("usage", "--from", "2020-01-01", "--to", "2020-01-02").stdout)
        self.ctl("usage", "--from", "yesterday", expect=USAGE)
