# SPDX-License-Identifier: MIT
"""Holds every exchange of the HTTP tests against the daemon's own /openapi.json: status, headers, body and events must be as it says, and a body that was
taken must be one it allows. Needs jsonschema; without it nothing is checked."""
import copy
import json
import re
import urllib.parse

try:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
except ImportError:
    Draft202012Validator = None

LONGEST = 64 << 10  # bytes of a body that is looked into: jsonschema takes seconds for more

# What the response `default` stands for; any other status must be documented by itself.
ANYWHERE = {400, 404, 408, 413, 414, 415, 417, 431, 501, 503, 505}


def check_that(holds, what):
    if not holds:
        raise AssertionError(f"/openapi.json: {what}")


class Contract:
    def __init__(self, doc):
        self.doc = doc
        self.paths = [(re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(path))), item) for path, item in sorted(doc["paths"].items(), key=lambda p: ("{" in p[0], -len(p[0])))]
        self.validators = {}

    # ---- the document ----

    def resolve(self, node):
        while "$ref" in node:
            at = self.doc
            for key in node["$ref"].removeprefix("#/").split("/"):
                at = at[key]
            node = at
        return node

    def operation(self, method, path):
        for pattern, item in self.paths:
            if pattern.fullmatch(path) and method.lower() in item:
                return item[method.lower()]
        return None

    def closed(self, node, within=False):
        """The schema without room for what it does not name; within: an allOf, which closes the whole."""
        if isinstance(node, list):
            return [self.closed(n) for n in node]
        if not isinstance(node, dict):
            return node
        if within and "$ref" in node:
            return self.closed(copy.deepcopy(self.resolve(node)), within)
        out = {key: [self.closed(n, True) for n in value] if key == "allOf" else self.closed(value) for key, value in node.items() if key not in ("example", "default")}
        if not within and isinstance(node.get("properties"), dict) and "additionalProperties" not in node and ("type" in node or "allOf" in node):
            out["unevaluatedProperties"] = False
        return out

    def validator(self, schema, closed):
        key = (json.dumps(schema), closed)
        if key not in self.validators:
            components = {"schemas": self.doc["components"]["schemas"]}
            root = {"components": self.closed(components) if closed else components, "allOf": [self.closed(schema) if closed else schema]}
            self.validators[key] = Draft202012Validator(root)
        return self.validators[key]

    def validate(self, schema, value, what, closed=True):
        e = best_match(self.validator(schema, closed).iter_errors(value))
        if e:
            raise AssertionError(f"/openapi.json: {what}, at {'/'.join(map(str, e.absolute_path)) or 'its root'}: {e.message[:500]}")

    # ---- an exchange ----

    def check(self, method, target, status, headers, body, sent=None, sent_type=""):
        path = urllib.parse.unquote(target.split("?")[0])
        what = f"{method} {target[:100]} answered {status}"
        operation = self.operation(method, path)
        check_that(headers.get("x-request-id"), f"{what} without x-request-id")
        if not operation:
            check_that(status >= 400 or method in ("HEAD", "OPTIONS"), f"{what} and is not documented")
            return
        responses = operation["responses"]
        check_that(str(status) in responses or status in ANYWHERE, f"{what}, which is not documented")
        response = self.resolve(responses.get(str(status)) or responses["default"])
        for name, header in response.get("headers", {}).items():
            check_that(headers.get(name) is not None or not self.resolve(header).get("required"), f"{what} without the header {name}")
            if headers.get(name) is not None:
                self.validate(self.resolve(header)["schema"], headers[name], f"{what} with the header {name}")
        check_that(status != 503 or "Retry-After" in headers or "Retry-After" not in response.get("headers", {}), f"{what} without Retry-After")
        self.check_body(response, headers.get("Content-Type", "").split(";")[0], body, what)
        if status < 300 and sent and len(sent) <= LONGEST and sent_type.startswith("application/json"):
            schema = operation["requestBody"]["content"]["application/json"]["schema"] if "requestBody" in operation else {}
            self.validate(schema, json.loads(sent), f"{what} to a body it does not allow", closed=False)

    def check_body(self, response, kind, body, what):
        content = response.get("content")
        if not content:
            check_that(not kind, f"{what} with a body of type {kind}")
            return
        check_that(kind in content, f"{what} with a body of type {kind}")
        if len(body) > LONGEST:
            return
        if kind == "text/event-stream":
            self.check_events(content[kind], body.decode(), what)
        elif kind == "application/json":
            self.validate(content[kind]["schema"], json.loads(body), what)
        else:
            self.validate(content[kind]["schema"], body.decode(), what)

    def check_events(self, kind, text, what):
        events = kind["x-events"]
        for block in text.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
            name, data = fields.get("event", "message"), fields.get("data")
            if data is None or data == kind.get("x-last-data"):
                continue
            value = json.loads(data)
            if isinstance(value, dict) and "error" in value and name == "message":
                continue
            check_that(name in events, f"{what} with an event {name}")
            self.validate(events[name], value, f"{what} with an event {name}")


_contracts = {}


def check(daemon, method, target, status, headers, body, sent, sent_type):
    """Of a daemon.Daemon; the document is asked for once per program."""
    if not Draft202012Validator or not daemon.program:
        return
    if daemon.program not in _contracts:
        _contracts[daemon.program] = None  # meanwhile, and if it has none
        code, _, text = daemon.request("GET", "/openapi.json")
        _contracts[daemon.program] = Contract(json.loads(text)) if code == 200 else None
    if _contracts[daemon.program]:
        _contracts[daemon.program].check(method, target, status, headers, body, sent, sent_type)
