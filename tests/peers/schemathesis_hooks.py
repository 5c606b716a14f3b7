# SPDX-License-Identifier: MIT
"""What tests/peers/schemathesis adds to Schemathesis: names that exist, and which statuses are documented."""
import schemathesis

# What the response `default` stands for, and what methods that no route has get.
ANYWHERE = {400, 404, 405, 408, 413, 414, 415, 417, 431, 501, 503, 505}
MODELS = ["base", "sql", "sql@1", "fixed", "spread"]


@schemathesis.check
def documented_status(ctx, response, case):
    status = response.status_code
    if response.request.method in ("OPTIONS", "HEAD", "TRACE"):
        return
    assert str(status) in case.operation.definition.raw["responses"] or status in ANYWHERE, f"status {status} is not documented"
    assert status < 500 or status in (501, 503, 505, 507), f"status {status}: {response.text[:500]}"


@schemathesis.check
def unknown_methods(ctx, response, case):
    """405 and 501 mean what they say, and Allow has what is documented. It may have more: a name may hold slashes, so what follows one may be a name, too."""
    if response.request.method == "OPTIONS" or response.status_code == 405:
        allowed = ", ".join(response.headers["allow"]).split(", ")
        documented = [m.upper() for m in case.operation.schema.raw_schema["paths"][case.operation.path] if m != "parameters"]
        assert set(documented) <= set(allowed), f"Allow: {response.headers['allow']}"
        assert response.status_code != 405 or response.request.method not in allowed, f"405, and Allow: {response.headers['allow']}"
    assert response.status_code != 501 or response.request.method not in ("GET", "POST", "PUT", "PATCH", "DELETE"), f"501 for {response.request.method}"


def drawn(text, choices):
    """One of `choices`, or in one of five cases None: what was generated stays. The same for the same text."""
    n = sum(text.encode("utf-8", "replace")) % (len(choices) * 5 // 4 + 1)
    return choices[n] if n < len(choices) else None


@schemathesis.hook
def map_body(context, body):
    """A drawn name would almost never be a model's."""
    parameters = body.get("parameters") if isinstance(body, dict) else None
    for fields, key in ((body, "model"), (parameters, "adapter_id")):
        if isinstance(fields, dict) and isinstance(fields.get(key), str):
            fields[key] = drawn(repr(body), MODELS) or fields[key]
    return body


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    for key in ("name", "id"):
        if path_parameters and isinstance(path_parameters.get(key), str):
            path_parameters[key] = drawn(path_parameters[key], ["sql", "fixed", "spread"]) or path_parameters[key]
    return path_parameters
