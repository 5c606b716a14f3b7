# SPDX-License-Identifier: MIT
"""HTTP/1.1 on the wire: framing, pipelining, streamed bodies. What is refused: test_http_hardening."""
import json
import os
import re
import socket
import time
import unittest

from daemon import PATIENCE, TINY, Daemon, wait_until
from upload_daemon import UploadDaemon

HOST = b"Host: x\r\n"
CLOSE = HOST + b"Connection: close\r\n"
LAST = b"GET /livez HTTP/1.1\r\n" + CLOSE + b"\r\n"


def post(body, extra=b""):
    return (b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body) + extra + b"\r\n" + body)


class Protocol(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--max-body", "100k")

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def status(self, data):
        out = self.d.raw(data)
        match = re.match(rb"HTTP/1.1 (\d{3}) ", out)
        self.assertTrue(match, (data[:80], out[:200]))
        return int(match[1])

    def statuses(self, data):
        return [int(s) for s in re.findall(rb"HTTP/1.1 (\d{3}) ", self.d.raw(data))]

    def test_keep_alive_answers_many_requests_on_one_connection(self):
        s = socket.create_connection((self.d.host, self.d.port))
        for _ in range(5):
            s.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            self.assertIn(b"200 OK", s.recv(4096))
        s.close()

    def test_pipelined_requests_are_answered_in_order(self):
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 2}).encode()
        self.assertEqual(self.statuses(post(body) + b"GET /nope HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n" + post(b"{}") + LAST),
                         [200, 404, 200, 400, 200])

    def test_many_pipelined_requests_do_not_starve_or_grow_without_bound(self):
        self.assertEqual(self.statuses((b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n") * 2999 + LAST), [200] * 3000)

    def test_a_request_may_come_byte_by_byte(self):
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 1}).encode()
        s = socket.create_connection((self.d.host, self.d.port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for b in post(body) + LAST:
            s.sendall(bytes([b]))
        out = b""
        while chunk := s.recv(4096):
            out += chunk
        s.close()
        self.assertEqual(out.count(b"HTTP/1.1 200 OK"), 2)

    def test_chunked_bodies_are_read(self):
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 1}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]) for i in range(0, len(body), 7)) + b"0\r\n\r\n"
        self.assertEqual(self.statuses(head + chunks + LAST), [200, 200])

    def test_chunked_bodies_over_the_limit_are_413(self):
        head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(self.status(head + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 4 + b"0\r\n\r\n"), 413)

    def test_expect_100_continue_is_answered(self):
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 1}).encode()
        s = socket.create_connection((self.d.host, self.d.port))
        request = post(body, b"Expect: 100-continue\r\n")
        s.sendall(request[:-len(body)])
        self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        s.sendall(body)
        self.assertIn(b"200 OK", s.recv(4096))
        s.close()

    def test_http_1_0_closes_and_streams_until_the_end(self):
        self.assertIn(b"Connection: close", self.d.raw(b"GET /livez HTTP/1.0\r\n\r\n"))
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 3, "stream": True}).encode()
        out = self.d.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.assertNotIn(b"chunked", out)
        self.assertTrue(out.endswith(b"data: [DONE]\n\n"))

    def test_targets_may_be_absolute(self):
        self.assertEqual(self.status(b"GET http://x/livez HTTP/1.1\r\n" + CLOSE + b"\r\n"), 200)
        self.assertEqual(self.status(b"GET /livez?a=b HTTP/1.1\r\n" + CLOSE + b"\r\n"), 200)

    def test_a_large_body_sent_in_full_still_reads_the_413(self):
        body = b"x" * 3_000_000
        self.assertEqual(self.status(post(body)), 413)

    def test_encoded_bodies_are_415(self):
        s = self.d.raw(post(b"{}", b"Content-Encoding: gzip\r\nConnection: close\r\n"))
        self.assertIn(b"HTTP/1.1 415 ", s)
        self.assertIn(b"\r\nAccept-Encoding: identity\r\n", s)
        self.assertEqual(self.status(post(b"{}", b"Content-Encoding: identity\r\nConnection: close\r\n")), 400)

    def test_an_upgrade_wish_is_ignored(self):
        self.assertEqual(self.statuses(b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + LAST), [200, 200])

    def test_half_sent_requests_do_not_disturb_others(self):
        open_ones = []
        for data in (b"", b"G", b"GET /livez HTTP/1.1\r\nHost:", post(b"{}")[:-1]):
            s = socket.create_connection((self.d.host, self.d.port))
            s.sendall(data)
            open_ones.append(s)
        self.assertEqual(self.d.get("/health")[0], 200)
        for s in open_ones:
            s.close()
        self.assertEqual(self.d.get("/health")[0], 200)


def weigh(data):
    """What /sink makes of a body."""
    return {"bytes": len(data), "sum": sum(b * ((i + 1) & 0xFFFF) for i, b in enumerate(data)) & 0xFFFFFFFF}


def chunked(data, size):
    return b"".join(b"%x\r\n%s\r\n" % (len(data[i:i + size]), data[i:i + size]) for i in range(0, len(data), size)) + b"0\r\n\r\n"


class Streams(unittest.TestCase):
    window_ms = 60_000  # for a body's 4 KiB a second, among others

    @classmethod
    def setUpClass(cls):
        cls.d = UploadDaemon(str(cls.window_ms))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def sink(self, body, query="", headers=None):
        status, _, reply = self.d.request("POST", "/sink" + query, body, headers)
        return status, json.loads(reply) if status == 200 else reply

    def head(self, path, body, extra=b""):
        return b"POST %s HTTP/1.1\r\n" % path + HOST + b"Content-Length: %d\r\n" % len(body) + extra + b"\r\n"

    def aborted(self):
        return self.d.get("/counts")[1]["aborted"]

    def connect(self):
        s = socket.create_connection((self.d.host, self.d.port), timeout=PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s


class StreamedBodies(Streams):
    """Routes that take the body as it comes."""
    data = bytes(i * 7 % 251 for i in range(300_000))

    def test_every_byte_arrives_once_and_in_order(self):
        self.assertEqual(self.sink(self.data), (200, weigh(self.data)))
        self.assertEqual(self.sink(b""), (200, weigh(b"")))
        self.assertEqual(self.sink(chunked(self.data, 1000), "", {"Transfer-Encoding": "chunked"}), (200, weigh(self.data)))

    def test_pausing_loses_nothing(self):
        for every, ms in ((1, 0), (1, 1), (50_000, 20)):
            data = self.data if every > 1 else self.data[:700]
            query = f"?pause_every={every}&pause_ms={ms}"
            self.assertEqual(self.sink(data, query), (200, weigh(data)))
            self.assertEqual(self.sink(chunked(data, 7), query, {"Transfer-Encoding": "chunked"}), (200, weigh(data)))
        self.assertEqual(self.sink(b"", "?start_ms=20"), (200, weigh(b"")))

    def test_a_paused_body_holds_the_client_back(self):
        s = self.connect()
        body = bytes(64_000_000)
        sent, end = 0, time.monotonic() + 0.7
        s.sendall(self.head(b"/sink?start_ms=1500", body))
        s.setblocking(False)
        while time.monotonic() < end:
            try:
                sent += s.send(body[sent:sent + 1_000_000])
            except BlockingIOError:
                time.sleep(0.01)
        self.assertLess(sent, 20_000_000)
        s.setblocking(True)
        s.sendall(body[sent:])
        self.assertIn(b'"bytes":64000000', s.recv(4096))
        s.close()

    def test_pipelined_requests_follow_a_streamed_body(self):
        body = b"x" * 5000
        out = self.d.raw((self.head(b"/sink", body) + body) * 3 + b"GET /nope HTTP/1.1\r\n" + CLOSE + b"\r\n")
        self.assertEqual(re.findall(rb"HTTP/1.1 (\d{3}) ", out), [b"200"] * 3 + [b"404"])

    def test_a_body_may_come_byte_by_byte(self):
        s = self.connect()
        request = self.head(b"/sink?pause_every=3&pause_ms=0", b"abcdefgh") + b"abcdefgh"
        for b in request + request:
            s.sendall(bytes([b]))
        out = b""
        while out.count(b'"bytes":8') < 2:
            more = s.recv(4096)
            self.assertTrue(more, out)
            out += more
        s.close()

    def test_continue_is_said_once_the_handler_has_accepted(self):
        s = self.connect()
        start = time.monotonic()
        s.sendall(self.head(b"/sink?start_ms=300", b"hello", b"Expect: 100-continue\r\n"))
        self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertGreater(time.monotonic() - start, 0.28)
        s.sendall(b"hello")
        self.assertIn(b'"bytes":5', s.recv(4096))
        s.close()

    def test_a_refusal_comes_instead_of_continue(self):
        for path, status in ((b"/sink?reply=401", 401), (b"/sink?max=4", 413), (b"/ignore", 202)):
            out = self.d.raw(self.head(path, b"hello", b"Expect: 100-continue\r\n"))
            self.assertEqual(re.findall(rb"HTTP/1.1 (\d{3}) ", out), [b"%d" % status])
            self.assertIn(b"Connection: close", out)

    def test_a_reply_before_the_end_is_read_by_a_client_that_sends_on(self):
        body = bytes(3_000_000)
        for query, status in ((b"reply=401", b"401"), (b"reply_after=100000", b"422"), (b"max=200000", b"413")):
            before = self.aborted()
            out = self.d.raw(self.head(b"/sink?" + query, body) + body + b"GET /query HTTP/1.1\r\n" + HOST + b"\r\n")
            self.assertEqual(re.findall(rb"HTTP/1.1 (\d{3}) ", out), [status], query)
            self.assertEqual(self.aborted() - before, query.startswith(b"max"))

    def test_the_limit_holds_for_chunked_bodies_too(self):
        before = self.aborted()
        head = b"POST /sink?max=100000 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        out = self.d.raw(head + chunked(b"x" * 100_001, 0x8000))
        self.assertIn(b"HTTP/1.1 413 ", out)
        self.assertEqual(self.aborted() - before, 1)
        self.assertIn(b'"bytes":100000', self.d.raw(head + chunked(b"x" * 100000, 50000) + b"GET /query HTTP/1.1\r\n" + CLOSE + b"\r\n"))

    def test_broken_framing_is_400_and_the_handler_hears_of_it(self):
        head = b"POST /sink HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        for body in (b"zz\r\n", b"3\r\nabcd\r\n", b"3\nabc\r\n", b"5\r\nhello\r\nffffffffffffffffff\r\n", b"2\r\n{}0\r\n\r\n"):
            before = self.aborted()
            out = self.d.raw(head + body + b"GET /query HTTP/1.1\r\n" + HOST + b"\r\n")
            self.assertEqual(re.findall(rb"HTTP/1.1 (\d{3}) ", out), [b"400"], body)
            self.assertEqual(self.aborted() - before, 1)

    def test_a_client_that_leaves_is_noticed(self):
        before = self.aborted()
        s = self.connect()
        s.sendall(self.head(b"/sink", b"x" * 1000) + b"x" * 10)
        s.close()
        wait_until(lambda: self.aborted() - before == 1, "it is noticed")

    def test_a_body_may_be_collected(self):
        self.assertEqual(self.d.request("POST", "/collect", b"a" * 1000)[2], b"a" * 1000)
        self.assertEqual(self.d.request("POST", "/collect", b"")[2], b"")
        self.assertEqual(self.d.request("POST", "/collect", chunked(b"a" * 1001, 500), {"Transfer-Encoding": "chunked"})[0], 413)

    def test_a_body_that_nobody_takes_is_thrown_away(self):
        out = self.d.raw(self.head(b"/ignore", b"x" * 1000) + b"x" * 1000 + b"GET /nope HTTP/1.1\r\n" + CLOSE + b"\r\n")
        self.assertEqual(re.findall(rb"HTTP/1.1 (\d{3}) ", out), [b"202", b"404"])

    def test_replies_without_a_body_say_so(self):
        for status in (204, 304):
            out = self.d.raw(b"GET /status/%d HTTP/1.1\r\n" % status + HOST + b"\r\nGET /status/201 HTTP/1.1\r\n" + CLOSE + b"\r\n")
            first, second = out.split(b"HTTP/1.1 201 Created\r\n")
            self.assertTrue(first.endswith(b"\r\n\r\n"))
            self.assertNotRegex(first, rb"(?i)content-")
            self.assertIn(b'ETag: "r1"', first)
            self.assertTrue(second.endswith(b"Connection: close\r\nContent-Length: 4\r\n\r\ntext"))

    def test_the_usual_methods_are_taken_and_others_listed(self):
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
            self.assertEqual(self.d.request(method, "/status/200")[::2], (200, b"" if method == "HEAD" else b"text"))
        status, headers, _ = self.d.request("POST", "/status/200")
        self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"))
        out = self.d.raw(b"OPTIONS /status/1 HTTP/1.1\r\n" + HOST + b"\r\nOPTIONS /nope HTTP/1.1\r\n" + CLOSE + b"\r\n")
        self.assertEqual(re.findall(rb"HTTP/1.1 (\d{3}) ", out), [b"204", b"404"])
        self.assertIn(b"\r\nAllow: GET, HEAD, PUT, PATCH, DELETE, OPTIONS\r\n", out)

    def test_statuses_have_their_reasons(self):
        for status, text in ((201, b"Created"), (202, b"Accepted"), (409, b"Conflict"), (412, b"Precondition Failed"), (507, b"Insufficient Storage")):
            self.assertIn(b"HTTP/1.1 %d %s\r\n" % (status, text), self.d.raw(b"GET /status/%d HTTP/1.1\r\n" % status + CLOSE + b"\r\n"))

    def test_query_values_are_decoded(self):
        for query, value in (("q=a%2Fb", "a/b"), ("x=1&q=a+b&q=c", "a b"), ("q", ""), ("q=", ""), ("%71=1", "1"), ("q=%41%42%43%44%45%46%47", "ABCDEFG"), ("q=a=b", "a=b"),
                             ("x=%zz&q=1", "1"), ("", None), ("x=q", None), ("qq=1", None), ("q=12345678", None), ("q=%00", None), ("q=%4", None), ("q=%zz", None), ("&&", None)):
            reply = self.d.get("/query?" + query)[1]
            self.assertEqual(reply, {"found": value is not None, "value": value or ""}, query)


class SlowBody(Streams):
    window_ms = 1000

    def test_a_slow_body_is_408(self):
        before = self.aborted()
        s = self.connect()
        s.sendall(self.head(b"/sink", bytes(100_000)))
        start, out = time.monotonic(), b""
        s.settimeout(0.05)
        while time.monotonic() - start < 10 and b"408" not in out:
            try:
                s.sendall(b"x" * 100)
                out = s.recv(4096)
            except TimeoutError:
                pass
        self.assertIn(b"HTTP/1.1 408 ", out)
        self.assertLess(time.monotonic() - start, 3)
        self.assertEqual(self.aborted() - before, 1)
        s.close()


class Clocks(Streams):
    """Windows that are short for a client, and yet leave it a second in which it does not run."""
    window_ms = 3000

    def test_a_body_just_fast_enough_may_take_longer_than_any_timeout(self):
        s = self.connect()
        body = bytes(30_000)
        s.sendall(self.head(b"/sink", body))
        for i in range(0, len(body), 500):
            s.sendall(body[i:i + 500])
            time.sleep(0.06)
        self.assertIn(b'"bytes":30000', s.recv(4096))
        s.close()

    def test_no_clock_runs_while_the_body_is_paused(self):
        self.assertEqual(self.sink(b"x" * 100, "?start_ms=4500"), (200, weigh(b"x" * 100)))

    def test_a_stream_outlives_every_timeout(self):
        status, _, body = self.d.request("GET", "/silent?ms=4500")
        self.assertEqual((status, body), (200, b"before\nafter\n"))
