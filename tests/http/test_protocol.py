# SPDX-License-Identifier: MIT
"""HTTP/1.1 on the wire: framing, pipelining, limits, what is refused."""
import json
import os
import re
import socket
import time
import unittest

from daemon import TINY, Daemon

HOST = b"Host: x\r\n"


def post(body, extra=b""):
    return (b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body) + extra + b"\r\n" + body)


class Protocol(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--max-body", "100k", "--max-connections", "40")

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def status(self, data, **more):
        out = self.d.raw(data, **more)
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
        self.assertEqual(self.statuses(post(body) + b"GET /nope HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n" + post(b"{}") + b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"),
                         [200, 404, 200, 400, 200])

    def test_many_pipelined_requests_do_not_starve_or_grow_without_bound(self):
        self.assertEqual(self.statuses((b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n") * 3000), [200] * 3000)

    def test_a_request_may_come_byte_by_byte(self):
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 1}).encode()
        s = socket.create_connection((self.d.host, self.d.port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for b in post(body) + b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n":
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
        self.assertEqual(self.statuses(head + chunks + b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"), [200, 200])

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
        self.assertEqual(self.status(b"GET http://x/livez HTTP/1.1\r\n" + HOST + b"\r\n"), 200)
        self.assertEqual(self.status(b"GET /livez?a=b HTTP/1.1\r\n" + HOST + b"\r\n"), 200)

    def test_what_proxies_disagree_on_is_refused(self):
        get = b"GET /livez HTTP/1.1\r\n"
        bad = {
            "length and chunked": post(b"{}", b"Transfer-Encoding: chunked\r\n"),
            "two lengths": post(b"{}", b"Content-Length: 2\r\n"),
            "signed length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +2\r\n\r\n{}",
            "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -2\r\n\r\n{}",
            "empty length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\n",
            "length list": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2, 2\r\n\r\n{}",
            "length with underscore": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1_0\r\n\r\n",
            "space before colon": get + b"Host : x\r\n\r\n",
            "bare line ends": b"GET /livez HTTP/1.1\nHost: x\n\n",
            "one bare line end": get + b"Host: x\nA: b\r\n\r\n",
            "folded header": get + HOST + b"A: b\r\n c\r\n\r\n",
            "no host": get + b"\r\n",
            "two hosts": get + HOST + HOST + b"\r\n",
            "NUL in a value": get + HOST + b"A: b\0c\r\n\r\n",
            "CR in a value": get + HOST + b"A: b\rc\r\n\r\n",
            "control byte in a value": get + HOST + b"A: b\x01c\r\n\r\n",
            "strange coding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "coding list": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "leading comma coding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
            "two codings": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "odd space around coding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n",
            "coding in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "hex prefix": b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
            "signed chunk size": b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
            "huge chunk size": b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
            "bare line ends between chunks": b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
            "missing line end after chunk": b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n",
            "CR in chunk extension": b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2;a\rb\r\n{}\r\n0\r\n\r\n",
            "odd version": b"GET /livez HTTP/1.32\r\n" + HOST + b"\r\n",
            "version 1.2": b"GET /livez HTTP/1.2\r\n" + HOST + b"\r\n",
            "version 2": b"GET /livez HTTP/2.0\r\n" + HOST + b"\r\n",
            "no version": b"GET /livez\r\n\r\n",
            "empty header name": get + HOST + b": b\r\n\r\n",
            "header without colon": get + HOST + b"Abc\r\n\r\n",
            "leading space in first header": get + b" Host: x\r\n\r\n",
            "high byte in name": get + HOST + b"A\xe9: b\r\n\r\n",
            "two spaces": b"GET  /livez HTTP/1.1\r\n" + HOST + b"\r\n",
            "tab": b"GET\t/livez HTTP/1.1\r\n" + HOST + b"\r\n",
            "relative target": b"GET livez HTTP/1.1\r\n" + HOST + b"\r\n",
            "bad escape": b"GET /livez%zz HTTP/1.1\r\n" + HOST + b"\r\n",
            "escaped NUL": b"GET /livez%00 HTTP/1.1\r\n" + HOST + b"\r\n",
            "unknown method": b"FOO /livez HTTP/1.1\r\n" + HOST + b"\r\n",
            "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            "unknown expectation": post(b"{}", b"Expect: wonders\r\n"),
        }
        for name, data in bad.items():
            with self.subTest(name):
                status = self.status(data + b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
                self.assertIn(status, (400, 405, 417, 501, 505))
                if status != 405:
                    self.assertEqual(len(self.statuses(data + b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")), 1, "the connection went on")
        self.assertEqual(self.status(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"), 200)

    def test_heads_have_limits(self):
        self.assertEqual(self.status(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"), 414)
        self.assertEqual(self.status(b"GET /livez HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 40000 + b"\r\n\r\n"), 431)
        self.assertEqual(self.status(b"GET /livez HTTP/1.1\r\n" + HOST + b"".join(b"a%d: b\r\n" % i for i in range(120)) + b"\r\n"), 400)
        self.assertEqual(self.status(b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999\r\n\r\n"), 413)

    def test_a_large_body_sent_in_full_still_reads_the_413(self):
        body = b"x" * 3_000_000
        self.assertEqual(self.status(post(body)), 413)

    def test_an_upgrade_wish_is_ignored(self):
        self.assertEqual(self.status(b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), 200)

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

    def test_connections_beyond_the_limit_are_turned_away(self):
        conns = [socket.create_connection((self.d.host, self.d.port)) for _ in range(60)]
        time.sleep(0.3)
        turned_away = 0
        for s in conns:
            s.settimeout(0.05)
            try:
                turned_away += s.recv(200).startswith(b"HTTP/1.1 503")
            except (TimeoutError, ConnectionResetError):
                pass
        for s in conns:
            s.close()
        self.assertGreaterEqual(turned_away, 15)
        time.sleep(0.3)
        self.assertEqual(self.d.get("/health")[0], 200)


class SlowClients(unittest.TestCase):
    def test_a_head_that_trickles_is_cut_off(self):
        d = Daemon(os.path.join(TINY, "models", "llama-gqa"))
        try:
            s = socket.create_connection((d.host, d.port))
            start = time.monotonic()
            s.sendall(b"GET /livez HTTP/1.1\r\n")
            s.settimeout(1)
            closed = False
            while time.monotonic() - start < 20 and not closed:
                try:
                    s.sendall(b"a: b\r\n")
                    closed = s.recv(100) == b""
                except TimeoutError:
                    pass
                except OSError:
                    closed = True
            self.assertTrue(closed)
            self.assertLess(time.monotonic() - start, 15)
            s.close()
        finally:
            d.stop()
