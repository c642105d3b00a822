"""The OpenAPI document describes what the edge serves, and its examples work."""

import json
import re
import runpy
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema_rs
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from tokenwire_edge.app import create_app
from tokenwire_edge.openapi import document
from tokenwire_edge.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENT = json.loads(document())
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    (verb.upper(), path): operation
    for path, verbs in DOCUMENT["paths"].items()
    for verb, operation in verbs.items()
}
UNDOCUMENTED = {"/", "/openapi.json", "/v1/ws"}
"""Paths that OpenAPI does not describe: the page of the playground, the document, and the WebSocket."""


def validator(schema, *, strict=False):
    """Validates JSON against a schema of the document. `strict` accepts no undescribed field."""
    schemas = json.loads(json.dumps(SCHEMAS))
    for each in schemas.values():
        if strict and "properties" in each:
            each["additionalProperties"] = False
    return jsonschema_rs.Draft202012Validator(
        schema | {"components": {"schemas": schemas}}, validate_formats=True
    )


def schema_of(path, verb, status=200):
    return OPERATIONS[verb, path]["responses"][str(status)]["content"]["application/json"]["schema"]


def test_the_document_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    text = runpy.run_path(str(ROOT / "scripts" / "openapi.py"))["text"]
    assert document().decode() == text(), "run `make docs`"


def test_the_document_has_exactly_the_routes_that_are_served():
    served = {
        (verb, context.path.replace(":path}", "}"))
        for context in iter_route_contexts(create_app(Settings()).routes)
        if isinstance(context.original_route, APIRoute) and context.path not in UNDOCUMENTED
        for verb in context.methods - {"HEAD"}
    }
    assert served == OPERATIONS.keys()


def test_every_reference_leads_to_a_schema_and_every_schema_is_valid_and_used():
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert used | {"TokenEvent"} == SCHEMAS.keys()  # it is in texts of other formats
    for schema in SCHEMAS.values():
        jsonschema_rs.meta.validate(schema)


def test_every_operation_is_described_with_its_errors():
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(ids) == len({*ids})
    for (_, path), operation in OPERATIONS.items():
        named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert named == {*re.findall(r"{(\w+)}", path)}
        assert any(status.startswith("2") for status in operation["responses"])
        assert all(response["description"] for response in operation["responses"].values())
        if path.startswith("/v1"):
            assert operation["description"]
            assert {"400", "401", "500", "503", "504"} <= operation["responses"].keys()


def test_the_examples_fit_their_schemas():
    examples = []
    for operation in OPERATIONS.values():
        contents = [each.get("content", {}) for each in operation["responses"].values()]
        contents.append(operation.get("requestBody", {}).get("content", {}))
        for content in contents:
            for media in content.values():
                values = [each["value"] for each in media.get("examples", {}).values()]
                values += [media["example"]] if "example" in media else []
                examples += [(media["schema"], value) for value in values]
    for schema, value in examples:
        assert not [error.message for error in validator(schema, strict=True).iter_errors(value)]
    assert len(examples) > 20
    event = validator({"$ref": "#/components/schemas/TokenEvent"}, strict=True)
    streams = OPERATIONS["POST", "/v1/chat/stream"]["responses"]["200"]["content"]
    lines = re.findall(r"^data: (.*)$", streams["text/event-stream"]["example"], re.MULTILINE)
    assert lines == streams["application/x-ndjson"]["example"].splitlines()
    for line in lines:
        event.validate(json.loads(line))


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "no model"},
        {"model": "m"},
        {"model": "m", "prompt": "a", "messages": []},
        {"model": "m", "prompt": "a", "max_tokens": 5},
        {"model": "m", "prompt": "a", "generation": {"seed": "x"}},
    ],
)
def test_what_the_edge_refuses_does_not_fit_the_schema_of_a_request(body):
    assert not validator({"$ref": "#/components/schemas/ChatRequest"}).is_valid(body)


def send(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


def test_the_examples_of_requests_work_and_the_responses_fit_their_schemas(edge):
    requests = OPERATIONS["POST", "/v1/chat"]["requestBody"]["content"]["application/json"]
    bodies = [each["value"] for each in requests["examples"].values()]
    calls = [(path, "POST", body) for path in ("/v1/count", "/v1/chat") for body in bodies]
    calls += [
        (path, "GET", None)
        for path in ("/v1/models", "/v1/caller", "/v1/usage/records", "/v1/usage/summary")
    ]
    with ThreadPoolExecutor(len(calls)) as threads:
        stream = threads.submit(send, f"{edge}/v1/chat/stream", bodies[1])
        responses = list(threads.map(lambda call: send(edge + call[0], call[2]), calls))
    for (path, verb, _), response in zip(calls, responses, strict=True):
        faults = validator(schema_of(path, verb), strict=True).iter_errors(json.loads(response))
        assert not [f"{path}: {error.message} at {error.instance_path}" for error in faults]
    event = validator({"$ref": "#/components/schemas/TokenEvent"}, strict=True)
    lines = re.findall(r"^data: (.*)$", stream.result().decode(), re.MULTILINE)
    assert len(lines) > 3
    for line in lines:
        event.validate(json.loads(line))


def test_the_document_is_served_and_no_page_of_fastapi(edge):
    assert json.loads(send(f"{edge}/openapi.json")) == DOCUMENT
    for path in ("/docs", "/redoc"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            send(edge + path)
        with refused.value:
            assert refused.value.code == 404
