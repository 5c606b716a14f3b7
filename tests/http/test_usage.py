# SPDX-License-Identifier: MIT
"""The usage ledger: what it has is the sum of what the replies said, whatever happens to clients and to the daemon."""
import collections
import csv
import datetime
import io
import json
import os
import signal
import socket
import sqlite3
import tempfile
import threading
import time
import unittest

from daemon import TINY, Daemon, wait_until

MODEL = os.path.join(TINY, "models", "llama-gqa")
JSON = {"Content-Type": "application/json"}
REQUESTS = int(os.environ.get("AD_USAGE_REQUESTS", "5000"))
CONNECTIONS = 24


def call(daemon, method, path, body=None, key=None):
    headers = dict(JSON) if body is not None else {}
    if key:
        headers["Authorization"] = "Bearer " + key
    status, got, reply = daemon.request(method, path, None if body is None else json.dumps(body).encode(), headers)
    return status, json.loads(reply) if got.get("Content-Type", "").startswith("application/json") else reply.decode()


def metric(daemon, name):
    text = daemon.request("GET", "/metrics")[2].decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " "))


def rows_of(state):
    """{(tenant, key, adapter): [requests, prompt, cached, generated]}, read by SQLite itself."""
    db = sqlite3.connect(os.path.join(state, "registry.db"))
    sums = collections.defaultdict(lambda: [0, 0, 0, 0])
    for tenant, key, adapter, *counts in db.execute("SELECT tenant, key, adapter, requests, prompt_tokens, cached_tokens, generated_tokens FROM usage"):
        sums[tenant, key, adapter] = [a + b for a, b in zip(sums[tenant, key, adapter], counts)]
    db.close()
    return dict(sums)


class Connection:
    """Keep-alive, and nothing but what is needed: thousands of requests go over it."""

    def __init__(self, daemon, key):
        self.daemon, self.key = daemon, key
        self.sock = None

    def close(self):
        if self.sock:
            self.sock.close()
        self.sock = None

    def send(self, path, body):
        if not self.sock:
            self.sock = socket.create_connection((self.daemon.host, self.daemon.port), timeout=120)
            self.buffer = b""
        raw = json.dumps(body).encode()
        self.sock.sendall(f"POST {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {self.key}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)

    def until(self, mark):
        while mark not in self.buffer:
            got = self.sock.recv(65536)
            assert got, self.buffer[-500:]
            self.buffer += got
        taken, self.buffer = self.buffer.split(mark, 1)
        return taken

    def head(self):
        lines = self.until(b"\r\n\r\n").decode().lower().split("\r\n")
        assert lines[0] == "http/1.1 200 ok", (lines, self.buffer)
        return dict(line.split(": ", 1) for line in lines[1:])

    def reply(self):
        """The usage block."""
        head = self.head()
        if "content-length" in head:
            n = int(head["content-length"])
            while len(self.buffer) < n:
                self.buffer += self.sock.recv(65536)
            body, self.buffer = self.buffer[:n], self.buffer[n:]
            return json.loads(body)["usage"]
        events = self.until(b"\r\n0\r\n\r\n").decode()
        return json.loads(events.split('"usage":')[-1].split("}}")[0] + "}}")

    def leave_after(self, events):
        """Reads so many events at least, then leaves; tokens that were received."""
        self.head()
        got = self.buffer
        while got.count(b"data: ") < events and b"[DONE]" not in got:
            more = self.sock.recv(4096)
            assert more
            got += more
        self.close()
        return got.count(b'"token_ids":[') - got.count(b'"token_ids":[]')


class Sums(unittest.TestCase):
    """Thousands of requests of two tenants over many connections; some clients leave."""

    def bodies(self, i):
        """(path, body, events after which the client leaves or 0) of request i; `layers` is answered only to those who leave."""
        prompt = [5 + (i * 7 + k) % 200 for k in range(1 + i % 40)]
        if i % 10 == 3:
            return "/v1/completions", {"model": "layers", "prompt": prompt, "max_tokens": 400, "stream": True, "ignore_eos": True, "return_token_ids": True}, 1 + i % 3
        if i % 10 == 7:
            return "/v1/embeddings", {"model": "qv", "input": [prompt, prompt[:1]]}, 0
        body = {"model": ("llama-gqa", "qv")[i % 2], "prompt": prompt if i % 4 else [prompt, prompt[:2]], "max_tokens": 1 + i % 4, "n": 1 + i % 2, "best_of": 1 + i % 3 if i % 2 == 0 and not i % 5 else 1 + i % 2, "seed": i}
        if i % 3 == 0 and body["best_of"] == body["n"]:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if i % 11 == 0:
            body["stop"] = ["a", "e"]
        return "/v1/completions", body, 0

    def work(self, daemon, account, numbers, sums, left, failures):
        tenant, key, secret = account
        c = Connection(daemon, secret)
        try:
            for i in numbers:
                path, body, events = self.bodies(i)
                c.send(path, body)
                if events:
                    received = c.leave_after(events)
                    left.append((tenant, key, len(body["prompt"]), received, body["max_tokens"]))
                    continue
                usage = c.reply()
                counts = [1, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage.get("completion_tokens", 0)]
                row = tenant, key, "" if body["model"] == "llama-gqa" else body["model"]
                with self.lock:
                    sums[row] = [a + b for a, b in zip(sums[row], counts)]
        except Exception as e:  # pylint: disable=broad-except
            failures.append(e)
        finally:
            c.close()

    def test_the_ledger_is_the_sum_of_the_replies(self):
        self.lock = threading.Lock()
        sums, left, failures = collections.defaultdict(lambda: [0, 0, 0, 0]), [], []
        with tempfile.TemporaryDirectory() as state:
            daemon = Daemon(MODEL, "--state-dir", state, adapters=("qv", "layers"))
            accounts = make_accounts(daemon)
            threads = [threading.Thread(target=self.work, args=(daemon, accounts[t % len(accounts)], range(t, REQUESTS, CONNECTIONS), sums, left, failures)) for t in range(CONNECTIONS)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(failures, [])
            self.assertEqual(sum(s[0] for s in sums.values()) + len(left), REQUESTS)
            admin = accounts[0][2]
            wait_until(lambda: all(e["use"]["concurrent_requests"] == 0 for e in call(daemon, "GET", "/v1/admin/limits", key=admin)[1]["data"]), "requests whose clients left end")
            seen = usage_by_all(daemon, admin)
            daemon.stop()
            stored = rows_of(state)
            self.assertEqual({k: v for k, v in stored.items() if k[2] != "layers"}, dict(sums))
            for tenant, key, _ in accounts:
                mine = [m for m in left if m[:2] == (tenant, key)]
                requests, prompt, _, generated = stored.get((tenant, key, "layers"), [0] * 4)
                self.assertEqual((requests, prompt), (len(mine), sum(m[2] for m in mine)))
                self.assertGreaterEqual(generated, sum(m[3] for m in mine))
                self.assertLessEqual(generated, sum(m[4] for m in mine))
            self.assertLess(sum(v[3] for k, v in stored.items() if k[2] == "layers"), sum(m[4] for m in left))  # whoever leaves is not generated for to the end
            self.assertEqual(seen, stored)
            daemon = Daemon(MODEL, "--state-dir", state, adapters=("qv", "layers"))
            self.assertEqual(usage_by_all(daemon, admin), seen)
            daemon.stop()
            self.assertEqual(rows_of(state), stored)


def make_accounts(daemon):
    """[(tenant, key id, key)]; the first is the operator's."""
    made = [call(daemon, "POST", "/v1/admin/keys", {"verbs": ["admin", "infer", "list"]})[1]]
    admin = made[0]["key"]
    for tenant in ("acme", "globex"):
        assert call(daemon, "POST", "/v1/admin/tenants", {"name": tenant}, admin)[0] == 201
    for tenant in ("acme", "acme", "globex"):
        made.append(call(daemon, "POST", "/v1/admin/keys", {"tenant": tenant}, admin)[1])
    return [(m["tenant"], m["id"], m["key"]) for m in made]


def usage(daemon, key, query=""):
    """All pages of the last two days, as one list of (day, result)."""
    start = int(time.time()) - 86400
    out, page = [], ""
    while True:
        status, reply = call(daemon, "GET", f"/v1/organization/usage/completions?start_time={start}&{query}{page}", key=key)
        assert status == 200, reply
        out += [(b["start_time"], r) for b in reply["data"] for r in b["results"]]
        if not reply["has_more"]:
            return out
        page = "&page=" + reply["next_page"]


def counts_of(result):
    return [result["num_model_requests"], result["input_tokens"], result["input_cached_tokens"], result["output_tokens"]]


def usage_by_all(daemon, key):
    """As rows_of has it."""
    sums = collections.defaultdict(lambda: [0, 0, 0, 0])
    for _, r in usage(daemon, key, "group_by[]=project_id&group_by[]=api_key_id&group_by[]=model"):
        at = r["project_id"], r["api_key_id"] or "", "" if r["model"] == "llama-gqa" else r["model"]
        sums[at] = [a + b for a, b in zip(sums[at], counts_of(r))]
    return dict(sums)


class Crashes(unittest.TestCase):
    def test_kill_9_loses_at_most_what_was_not_written_and_doubles_nothing(self):
        each = {"model": "llama-gqa", "prompt": [5, 6, 7], "max_tokens": 2, "temperature": 0, "ignore_eos": True}
        least = most = 0
        with tempfile.TemporaryDirectory() as state:
            for last in (False, False, False, True):
                daemon = Daemon(MODEL, "--state-dir", state)
                requests, prompt, _, generated = usage_by_all(daemon, None).get(("default", "", ""), [0] * 4)
                self.assertTrue(least <= requests <= most, (least, requests, most))
                self.assertEqual((prompt, generated), (3 * requests, 2 * requests))
                if last:
                    daemon.stop()
                    self.assertEqual(rows_of(state)["default", "", ""][0], requests)
                    break
                c = Connection(daemon, "none")
                for n in (40, 20):
                    for _ in range(n):
                        c.send("/v1/completions", each)
                        c.reply()
                    if n == 40:
                        wait_until(lambda d=daemon: metric(d, "adapterd_usage_rows_waiting") == 0, "what was used goes to the store by itself")
                least, most = requests + 40, requests + 60
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
                daemon.process.stdout.close()
                daemon.log.close()
                c.close()


class Routes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(MODEL, adapters=("qv",))
        cls.accounts = make_accounts(cls.daemon)
        cls.admin, cls.acme, cls.acme_too, cls.globex = (a[2] for a in cls.accounts)
        status, narrow = call(cls.daemon, "POST", "/v1/admin/keys", {"tenant": "acme", "adapters": ["qv"]}, cls.admin)
        assert status == 201, narrow
        cls.narrow = narrow["key"]
        for key, model, n in ((cls.admin, "llama-gqa", 1), (cls.acme, "llama-gqa", 2), (cls.acme, "qv", 3), (cls.acme_too, "qv", 1), (cls.globex, "qv", 4), (cls.narrow, "qv", 2)):
            for _ in range(n):
                status, reply = call(cls.daemon, "POST", "/v1/completions", {"model": model, "prompt": [5, 6, 7], "max_tokens": 2, "ignore_eos": True}, key)
                assert status == 200, reply

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def groups(self, key, query, *names):
        return {tuple(r[n] for n in names): counts_of(r) for _, r in usage(self.daemon, key, query)}

    def test_groups_and_filters_and_both_ways_to_write_arrays(self):
        requests = lambda key, query, *names: {k: v[0] for k, v in self.groups(key, query, *names).items()}
        self.assertEqual(requests(self.admin, "", "project_id", "api_key_id", "model"), {(None, None, None): 13})
        self.assertEqual(requests(self.admin, "group_by=project_id", "project_id"), {("default",): 1, ("acme",): 8, ("globex",): 4})
        self.assertEqual(requests(self.admin, "group_by=model&group_by[]=project_id", "project_id", "model"),
                         {("default", "llama-gqa"): 1, ("acme", "llama-gqa"): 2, ("acme", "qv"): 6, ("globex", "qv"): 4})
        self.assertEqual(requests(self.admin, "group_by=model&models[]=qv&project_ids=acme&project_ids=globex", "model"), {("qv",): 10})
        self.assertEqual(requests(self.admin, f"api_key_ids={self.accounts[1][1]}", "model"), {(None,): 5})
        self.assertEqual(requests(self.admin, "project_ids=nobody", "model"), {})
        self.assertEqual(self.groups(self.admin, "models=llama-gqa", "model")[None,][1:2], [9])

    def test_a_tenant_sees_itself_and_a_narrow_key_what_it_used(self):
        self.assertEqual(self.groups(self.acme, "group_by=project_id", "project_id").keys(), {("acme",)})
        self.assertEqual(self.groups(self.acme, "project_ids=globex", "project_id"), {})
        self.assertEqual([r["num_model_requests"] for _, r in usage(self.daemon, self.acme)], [8])
        self.assertEqual([r["num_model_requests"] for _, r in usage(self.daemon, self.narrow)], [2])
        self.assertEqual(call(self.daemon, "GET", "/v1/admin/usage", key=self.acme)[0], 403)

    def test_buckets_are_days_and_come_in_pages(self):
        today = int(time.time()) // 86400
        get = lambda query: call(self.daemon, "GET", "/v1/organization/usage/completions?" + query, key=self.admin)
        status, page = get(f"start_time={(today - 9) * 86400 + 5}&limit=4")
        self.assertEqual((status, page["object"], len(page["data"]), page["has_more"]), (200, "page", 4, True))
        days = [b["start_time"] // 86400 for b in page["data"]]
        while page["has_more"]:
            page = get(f"start_time={(today - 9) * 86400 + 5}&limit=4&page={page['next_page']}")[1]
            days += [b["start_time"] // 86400 for b in page["data"]]
        self.assertEqual(days[:10], list(range(today - 9, today + 1)))
        for query, param in (("", "start_time"), ("start_time=x", "start_time"), ("start_time=5&end_time=5", "end_time"), ("start_time=5&limit=32", "limit"), ("start_time=5&bucket_width=1h", "bucket_width"),
                             ("start_time=5&page=page_x", "page"), ("start_time=86400&page=page_0", "page"), ("start_time=5&group_by=user_id", "group_by"), ("start_time=5&models=" + "x" * 300, "models")):
            status, reply = get(query)
            self.assertEqual((status, reply["error"]["param"]), (400, param), query)

    def test_all_rows_as_json_and_as_csv(self):
        rows = call(self.daemon, "GET", "/v1/admin/usage", key=self.admin)[1]["data"]
        self.assertEqual(sum(r["requests"] for r in rows), 13)
        self.assertEqual([r["tenant"] for r in rows], ["acme"] * 4 + ["default"] + ["globex"])
        for r in rows:
            self.assertEqual((r["prompt_tokens"], r["generated_tokens"]), (3 * r["requests"], 2 * r["requests"]))
            self.assertEqual(r["version"] is None, r["model"] == "llama-gqa")
            self.assertGreater(r["engine_ms"], 0)
        text = call(self.daemon, "GET", "/v1/admin/usage?format=csv", key=self.admin)[1]
        parsed = list(csv.DictReader(io.StringIO(text)))
        self.assertEqual(list(parsed[0]), list(rows[0]))
        for p, r in zip(parsed, rows, strict=True):
            self.assertEqual({k: v or None for k, v in p.items()}, {k: v if v is None else f"{v:.3f}" if k == "engine_ms" else str(v) for k, v in r.items()})
        yesterday = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=2)
        self.assertEqual(call(self.daemon, "GET", f"/v1/admin/usage?to={yesterday}", key=self.admin)[1]["data"], [])
        self.assertEqual(call(self.daemon, "GET", f"/v1/admin/usage?to={yesterday}&format=csv", key=self.admin)[1].count("\n"), 1)
        for query, param in (("from=2026-13-01", "from"), ("from=yesterday", "from"), ("to=2026-1-1", "to"), ("from=2026-02-02&to=2026-02-01", "from"), ("from=1990-01-01", "from"), ("format=xml", "format")):
            status, reply = call(self.daemon, "GET", "/v1/admin/usage?" + query, key=self.admin)
            self.assertEqual((status, reply["error"]["param"]), (400, param), query)
