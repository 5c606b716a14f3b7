# SPDX-License-Identifier: MIT
"""A registry of adapters over HTTP in a few lines: the contract that clients are tested against, without a model behind it."""
import email
import hashlib
import io
import json
import queue
import re
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Refusal(Exception):
    def __init__(self, status, code, message, **more):
        super().__init__(message)
        self.status, self.reply = status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}, **more}


class Adapter:
    def __init__(self, name, revision):
        self.name, self.revision, self.created = name, revision, int(time.time())
        self.versions, self.active, self.previous, self.pinned, self.labels, self.description = {}, None, None, False, {}, None

    def json(self, whole=True):
        v = self.versions.get(self.active)
        out = {"object": "adapter", "name": self.name, "digest": v and v["digest"], "version": self.active, "state": "ready" if v else "staged", "resident": True,
               "rank": 4, "modules_matched": 2, "bytes_disk": sum(x["bytes_disk"] for x in self.versions.values()), "bytes_packed": 2048, "merged": False, "pinned": self.pinned,
               "description": self.description, "labels": self.labels, "origin": "upload", "created": self.created, "last_used": None, "requests": 0,
               "revision": self.revision, "etag": f'"r{self.revision}"', "signer": None, "warnings": []}
        if whole:
            out["versions"] = list(self.versions.values())
            out["modules"] = {"model.layers.0.self_attn.q_proj": {"rank": 4, "scaling": 2.0, "norm": 0.5}, "model.layers.0.self_attn.v_proj": {"rank": 4, "scaling": 2.0, "norm": 0.25}}
        return out


class Registry:
    def __init__(self):
        self.adapters, self.aliases, self.revision, self.events, self.listeners = {}, {}, 0, [], []
        self.lock = threading.RLock()

    def touch(self, a):
        self.revision += 1
        a.revision = self.revision
        return a

    def tell(self, name, version, digest, state, previous):
        event = (len(self.events) + 1, {"name": name, "version": version, "digest": digest, "state": state, "previous": previous, "time": int(time.time())})
        self.events.append(event)
        for q in self.listeners:
            q.put(event)

    def find(self, name, if_match=None):
        a = self.adapters.get(name)
        if not a:
            raise Refusal(404, "adapter_not_found", f"The adapter `{name}` does not exist.")
        if if_match not in (None, f'"r{a.revision}"'):
            raise Refusal(412, "precondition_failed", "the adapter changed meanwhile")
        return a

    def activate(self, a, number):
        v = a.versions[number]
        if a.active and a.active != number:
            a.previous = a.active
            a.versions[a.active]["state"] = "staged"
        a.active = number
        previous, v["state"] = v["state"], "ready"
        self.tell(a.name, number, v["digest"], "ready", previous)

    def admit(self, name, up, dry_run):
        self.tell(name, None, None, "uploading", None)
        self.tell(name, None, None, "verifying", "uploading")
        report = {"digest": up["digest"], "format": up["format"], "rank": 4, "modules_matched": 2, "tensors_matched": 4, "unmatched": [], "modules": {}, "warnings": up["warnings"],
                  "base_model": None, "signature": {"status": "none"}, "selftest": None}
        if "frobnicate" in up["config"]:
            raise Refusal(422, "adapter_refused", "adapter_config.json: frobnicate is not understood", report={**report, "digest": None, "unmatched": ["a.tensor"]})
        if up.get("sha256", up["weights_sha256"]) != up["weights_sha256"]:
            raise Refusal(422, "digest_mismatch", "the weights have another SHA-256", report=report)
        if dry_run:
            return 200, {"object": "adapter.report", "admitted": False, **report}
        a = self.adapters.get(name)
        if a and a.active and a.versions[a.active]["digest"] == up["digest"]:
            return 200, a.json()
        if a and not up["add"]:
            raise Refusal(409, "adapter_exists", f"{name} exists with another digest")
        a = self.adapters.setdefault(name, Adapter(name, 0))
        a.description, a.labels = up.get("description", a.description), json.loads(up["labels"]) if "labels" in up else a.labels
        number = max(a.versions, default=0) + 1
        a.versions[number] = {"version": number, "digest": up["digest"], "state": "staged", "created": int(time.time()), "bytes_disk": up["bytes"], "bytes_packed": 2048, "resident": True,
                              "leases": 0, "last_used": None, "requests": 0, "origin": "upload", "signer": None, "base_matches": True, "reason": None}
        if up.get("activate", "true") == "true":
            self.activate(a, number)
        else:
            self.tell(name, number, up["digest"], "staged", "verifying")
        return 201, {**self.touch(a).json(), "warnings": up["warnings"], "report": report}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, value, headers=()):
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(raw)

    def handle_any(self):
        url = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        path = unquote(url.path)
        try:
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == self.command:
                    if action is events:
                        return events(self)
                    with self.server.registry.lock:
                        status, value = action(self, self.server.registry, *match.groups())
                    etag = [("ETag", value["etag"])] if "etag" in value else []
                    return self.reply(status, value, etag)
            raise Refusal(404, "not_found", "no such route")
        except Refusal as e:
            self.reply(e.status, e.reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def json(self):
        return json.loads(self.body or b"{}")

    def upload(self, add):
        """The fields of a form, with what is in its files."""
        form = email.message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + self.body)
        up, files = {"add": add, "warnings": []}, {}
        for part in form.get_payload():
            name, data = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            if part.get_filename():
                files[name] = data
            else:
                up[name] = data.decode()
        if "archive" in files:
            try:
                with tarfile.open(fileobj=io.BytesIO(files["archive"])) as t:
                    for m in t.getmembers():
                        if m.isfile():
                            files["config" if m.name.endswith(".json") else "weights"] = t.extractfile(m).read()
            except tarfile.TarError:
                raise Refusal(422, "adapter_refused", "the archive cannot be read") from None
        weights = files.get("gguf") or files["weights"]
        up["config"] = files.get("config", b"").decode()
        if "no-op" in up["config"]:
            up["warnings"] = ["BA is 0: the adapter does nothing"]
        up["format"] = "gguf" if "gguf" in files else "peft"
        up["bytes"] = sum(map(len, files.values()))
        up["weights_sha256"] = hashlib.sha256(weights).hexdigest()
        up["digest"] = hashlib.sha256(up["config"].encode() + weights).hexdigest()
        return up


def add(h, r):
    up = h.upload(add=False)
    return r.admit(up["name"], up, h.query.get("dry_run") == "true")


def add_version(h, r, name):
    r.find(name, h.headers.get("If-Match"))
    return r.admit(name, h.upload(add=True), False)


def list_all(h, r):
    key, _, value = h.query.get("label", "").partition(":")
    some = [a for n, a in sorted(r.adapters.items()) if n > h.query.get("after", "") and n.startswith(h.query.get("prefix", "")) and
            ("state" not in h.query or a.json()["state"] == h.query["state"]) and (not key or a.labels.get(key) == value)]
    page = int(h.query.get("limit", 100))
    data = [a.json(whole=False) for a in some[:page]]
    return 200, {"object": "list", "data": data, "has_more": len(some) > page, "first_id": data[0]["name"] if data else None, "last_id": data[-1]["name"] if data else None}


def show(h, r, name):
    return 200, r.find(name).json()


def activate(h, r, name):
    a = r.find(name, h.headers.get("If-Match"))
    wanted = h.json()["version"]
    for number, v in a.versions.items():
        if number == wanted or (isinstance(wanted, str) and len(wanted) >= 12 and v["digest"].startswith(wanted)):
            r.activate(a, number)
            return 200, r.touch(a).json()
    raise Refusal(404, "version_not_found", "no such version")


def rollback(h, r, name):
    a = r.find(name, h.headers.get("If-Match"))
    if not a.previous:
        raise Refusal(409, "no_previous_version", "there is no previous version")
    r.activate(a, a.previous)
    return 200, r.touch(a).json()


def verify(h, r, name):
    a = r.find(name)
    digest = a.versions[a.active]["digest"]
    return 200, {"object": "adapter.verification", "ok": True, "digest": digest, "expected": digest, "signature": {"status": "none"}}


def patch(h, r, name):
    a = r.find(name, h.headers.get("If-Match"))
    for key, value in h.json().items():
        setattr(a, key, {} if key == "labels" and value is None else value)
    return 200, r.touch(a).json()


def delete(h, r, name):
    name, _, number = name.partition("@")
    a = r.find(name, h.headers.get("If-Match"))
    if number:
        if int(number) == a.active:
            raise Refusal(409, "version_active", "the version is active")
        del a.versions[int(number)]
    else:
        del r.adapters[name]
        r.tell(name, a.active, None, "gone", "ready")
    return 200, {"object": "adapter.deleted", "name": name, "deleted": True, "drained": h.query.get("drain") != "0"}


def put_alias(h, r, alias):
    for t in h.json()["targets"]:
        if t["model"].partition("@")[0] not in r.adapters:
            raise Refusal(422, "invalid_target", "there is no such model")
    r.aliases[alias] = {"object": "alias", "name": alias, "targets": h.json()["targets"]}
    return 200, r.aliases[alias]


def list_aliases(h, r):
    return 200, {"object": "list", "data": list(r.aliases.values())}


def one_alias(h, r, alias):
    if alias not in r.aliases:
        raise Refusal(404, "alias_not_found", "no such alias")
    return 200, r.aliases.pop(alias) if h.command == "DELETE" else r.aliases[alias]


def events(h):
    r, q = h.server.registry, queue.Queue()
    with r.lock:
        for event in r.events[int(h.headers["Last-Event-ID"]):] if h.headers.get("Last-Event-ID") else ():
            q.put(event)
        r.listeners.append(q)
    h.send_response(200)
    h.send_header("Content-Type", "text/event-stream")
    h.send_header("Connection", "close")
    h.end_headers()
    try:
        h.wfile.write(b": hello\n\n")
        while (event := q.get()) is not None:
            h.wfile.write(f"id: {event[0]}\nevent: state\ndata: {json.dumps(event[1])}\n\n".encode())
    except OSError:
        pass  # the listener left
    with r.lock:
        r.listeners.remove(q)
    h.close_connection = True


NAME = "(.+)"
ROUTES = [("POST", "/v1/adapters", add), ("GET", "/v1/adapters", list_all), ("GET", "/v1/adapters/events", events), ("POST", f"/v1/adapters/{NAME}/versions", add_version),
          ("POST", f"/v1/adapters/{NAME}/activate", activate), ("POST", f"/v1/adapters/{NAME}/rollback", rollback), ("POST", f"/v1/adapters/{NAME}/verify", verify),
          ("GET", f"/v1/adapters/{NAME}", show), ("PATCH", f"/v1/adapters/{NAME}", patch), ("DELETE", f"/v1/adapters/{NAME}", delete), ("GET", "/v1/aliases", list_aliases),
          ("PUT", f"/v1/aliases/{NAME}", put_alias), ("GET", f"/v1/aliases/{NAME}", one_alias), ("DELETE", f"/v1/aliases/{NAME}", one_alias)]


class FakeRegistry:
    """Serves on a free port of this machine until stop()."""

    def __init__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.registry = True, Registry()
        self.registry, self.port = self.server.registry, self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self):
        for q in self.registry.listeners:
            q.put(None)
        self.server.shutdown()
        self.server.server_close()
