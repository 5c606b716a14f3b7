#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Puts the parts of the OpenAPI document together and writes it as C: bundle.py VERSION OUT.c ROUTES.c PART.json...

Every operation gets the security that its route's verb in ROUTES.c asks for, with the responses 401 and 403 (and 429, where limits count) in the route's form, and the response `default`; every response the headers
x-request-id, traceparent and tracestate, those with JSON or events openai-processing-ms. A reference that leads nowhere, a component nobody
refers to and a key that two parts have are errors.
"""
import json
import re
import sys


def unique(pairs):
    """Of an object's members; a key that is there twice is a slip."""
    d = dict(pairs)
    assert len(d) == len(pairs), f"twice in one object: {sorted(k for k, _ in pairs)}"
    return d


def add(into, more, at):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and len(at) < 2:
            add(into[key], value, at + [key])
        elif key in into:
            sys.exit(f"{'/'.join(at + [key])} is in two parts")
        else:
            into[key] = value


def read_routes(path):
    """[(method, pattern of paths, verb)] of the table in the C file, in order."""
    with open(path, encoding="utf-8") as f:
        rows = re.findall(r'^    \{"([A-Z]+)", "([^"]+)", .*, AD_VERB_([A-Z]+)\},$', f.read(), re.M)
    return [(method.lower(), re.compile(re.escape(route).replace(r"\*", ".+")), verb.lower()) for method, route, verb in rows]


def secure(doc, routes):
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            verb = next((v for m, pattern, v in routes if m == method and pattern.fullmatch(re.sub(r"\{\w+\}", "x", path))), None)
            if not verb:
                sys.exit(f"{method.upper()} {path} is no route")
            key = {"key": [verb]}
            operation["security"] = [] if verb == "open" else [{}, key] if verb == "metrics" else [key]
            if verb == "open":
                continue
            form = operation["responses"].get("default", {"$ref": "#/components/responses/Error"})
            operation["responses"].setdefault("401", {"$ref": form["$ref"].removesuffix("Error") + "Unauthorized"})
            operation["responses"].setdefault("403", form)
            if verb == "infer":
                limit(doc, operation, form["$ref"])


def limit(doc, operation, form):
    """Requests that limits count have the response 429, and say how much is left."""
    count, reset = ({"$ref": f"#/components/headers/RateLimit{kind}"} for kind in ("Count", "Reset"))
    left = {f"x-ratelimit-{what}-{of}": reset if what == "reset" else count for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")}
    again = {"Retry-After": "RetryAfter", "retry-after-ms": "RetryAfterMs", "x-should-retry": "ShouldRetry"}
    error = doc["components"]["responses"][form.rsplit("/", 1)[1]]
    if "429" not in operation["responses"]:
        operation["responses"]["429"] = {"$ref": form.removesuffix("Error") + "Limited"}
        doc["components"]["responses"][form.rsplit("/", 1)[1].removesuffix("Error") + "Limited"] = {
            "description": "A limit of the sender's tenant or key is reached: `rate_limit_exceeded`, or `insufficient_quota` for the day's.", "content": error["content"],
            "headers": {**left, **{name: {"$ref": f"#/components/headers/{at}"} for name, at in again.items()}},
        }
    ok = operation["responses"]["200"]
    if "$ref" in ok:
        ok = doc["components"]["responses"][ok["$ref"].rsplit("/", 1)[1]]
    ok["headers"] = {**left, **ok.get("headers", {})}


def complete(doc):
    always = {"x-request-id": {"$ref": "#/components/headers/RequestId"}, "traceparent": {"$ref": "#/components/headers/TraceParent"}, "tracestate": {"$ref": "#/components/headers/TraceState"}}
    time = {"openai-processing-ms": {"$ref": "#/components/headers/ProcessingMs"}}
    responses = list(doc["components"]["responses"].values())
    for path in doc["paths"].values():
        for method, operation in path.items():
            if method == "parameters":
                continue
            operation["responses"].setdefault("default", {"$ref": "#/components/responses/Error"})
            responses += operation["responses"].values()
    for response in responses:
        if "$ref" not in response:
            timed = response.get("content", {}).keys() & {"application/json", "text/event-stream"}
            response["headers"] = {**always, **(time if timed else {}), **response.get("headers", {})}


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def check(doc):
    used = set(references(doc))
    for ref in used:
        node = doc
        for key in ref.removeprefix("#/").split("/"):
            node = node.get(key)
            if node is None:
                sys.exit(f"{ref} leads nowhere")
    for kind, components in doc["components"].items():
        for name in components:
            if kind != "securitySchemes" and not any(ref == f"#/components/{kind}/{name}" or ref.startswith(f"#/components/{kind}/{name}/") for ref in used):
                sys.exit(f"nobody refers to components/{kind}/{name}")


def main(version, out, routes, *parts):
    doc = {}
    for part in parts:
        with open(part, encoding="utf-8") as f:
            try:
                add(doc, json.load(f, object_pairs_hook=unique), [])
            except (ValueError, AssertionError) as e:
                sys.exit(f"{part}: {e}")
    doc["info"]["version"] = version
    secure(doc, read_routes(routes))
    complete(doc)
    check(doc)
    text = json.dumps(doc, separators=(",", ":")).encode("ascii")
    with open(out, "w", encoding="ascii") as f:
        f.write('#include "server/api/api.h"\n\nconst char ad_openapi_json[] = {\n')
        for i in range(0, len(text), 32):
            f.write(" ".join(f"{byte}," for byte in text[i:i + 32]) + "\n")
        f.write("0};\n")


main(*sys.argv[1:])
