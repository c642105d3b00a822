import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.content.structured import bounds, schema_cost
from tokenwire_server.content.structured import schema as schema_module
from tokenwire_server.content.structured.pattern_cost import automaton_size
from tokenwire_server.content.structured.schema import compile_schema
from tokenwire_server.content.structured.schema_graph import SchemaGraph, SchemaRefused
from tokenwire_server.content.structured.stage import StructuredOutput
from tokenwire_server.events import TextDelta


def refusal(schema):
    """Return the problem and the pointer of a schema that is refused."""
    with pytest.raises(SchemaRefused) as refused:
        compile_schema(schema if isinstance(schema, str) else json.dumps(schema))
    return refused.value.problem, refused.value.pointer


def violations(schema, value):
    found = compile_schema(json.dumps(schema)).violations(json.dumps(value))
    return [(each.pointer, each.description) for each in found]


def result(text, schema=None):
    stage = StructuredOutput(compile_schema(json.dumps(schema)) if schema is not None else None)
    stage.feed([TextDelta(text, 0)] if text else [])
    return stage.finish()[-1]


def nested(depth, leaf):
    for _ in range(depth):
        leaf = {"x": leaf}
    return leaf


def doubling(count, last=None, **keywords):
    """A schema of `count` lines that expands to more than 2**count subschemas."""
    steps = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(count)}
    return {"$ref": "#/$defs/a0", "$defs": {**steps, f"a{count}": last or {"const": 1}}, **keywords}


ONE_WAY = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}
TWICE = {"anyOf": [ONE_WAY, {**ONE_WAY, "required": ["x", "y"]}, {"const": 1}]}
"""Two ways lead to each level of a document."""

OUTSIDE = "a reference leads out of the schema"
NOWHERE = "a reference leads to no schema"
PATTERN = "the pattern is invalid, too large, or has look-around or back-references"
ITSELF = "a reference leads back to itself for the same value"


@pytest.mark.parametrize(
    ("schema", "problem", "pointer"),
    [
        ("", "the schema is not JSON: Input data was truncated", ""),
        ("[]", "the schema must be a JSON object", ""),
        ("true", "the schema must be a JSON object", ""),
        ({"type": "objekt"}, None, "/type"),
        ({"properties": {"a/b": {"minLength": -1}}}, None, "/properties/a~1b/minLength"),
        ({"$ref": "http://other.test/a"}, OUTSIDE, "/$ref"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, OUTSIDE, "/$ref"),
        (
            {"properties": {"a": {"items": {"$ref": "file:///etc/passwd"}}}},
            OUTSIDE,
            "/properties/a/items/$ref",
        ),
        ({"$defs": {"unused": {"not": {"$ref": "other.json"}}}}, OUTSIDE, "/$defs/unused/not/$ref"),
        ({"$ref": "#/x-more", "x-more": {"$ref": "urn:x:y"}}, OUTSIDE, "/x-more/$ref"),
        ({"contentSchema": {"$ref": "http://other.test/a"}}, None, ""),
        ({"$dynamicRef": "http://other.test/a#b"}, OUTSIDE, "/$dynamicRef"),
        ({"$dynamicRef": "#b"}, NOWHERE, "/$dynamicRef"),
        ({"$ref": "#/$defs/a"}, NOWHERE, "/$ref"),
        ({"$ref": 5}, "a reference must be a string", "/$ref"),
        ({"$schema": "http://other.test/schema"}, "unknown draft of JSON Schema", "/$schema"),
        ({"$schema": 7}, "unknown draft of JSON Schema", "/$schema"),
        (
            {"items": {"$schema": "http://other.test/schema"}},
            "$schema is only supported in the whole schema",
            "/items/$schema",
        ),
        (
            {"items": {"$id": "http://other.test/a"}},
            "$id is only supported in the whole schema",
            "/items/$id",
        ),
        ({"$ref": "#"}, ITSELF, ""),
        (
            {"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}},
            ITSELF,
            "/properties/a/anyOf/0",
        ),
        ({"pattern": "(?=a)b"}, PATTERN, "/pattern"),
        ({"items": {"pattern": r"(a)\1"}}, PATTERN, "/items/pattern"),
        ({"pattern": "("}, PATTERN, "/pattern"),
        ({"pattern": "(a{1000}){1000}"}, PATTERN, "/pattern"),
        ({"patternProperties": {"(?!a)": {}}}, PATTERN, "/patternProperties/(?!a)"),
        ({"allOf": [{"pattern": "a"}] * 65}, "the schema has more than 64 patterns", "/allOf/0"),
        ('{"a":' * 64 + "1" + "}" * 64, "the schema is nested deeper than 64", ""),
        ({"enum": list(range(20_000))}, "the schema has more than 20,000 values", ""),
        ({"description": "x" * 256 * 1024}, "the schema is longer than 262,144 characters", ""),
        (doubling(20), "the references expand to more than 20,000 subschemas", ""),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_schema_that_cannot_be_used_is_refused_with_its_place(schema, problem, pointer):
    found = refusal(schema)

    assert found == (problem or found[0], pointer)


@contextmanager
def schema_server():
    """Serves an empty schema at each path. Yields its address, and the paths that were requested."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def test_no_schema_is_fetched():
    with schema_server() as (address, paths):
        for reference in (
            {"$ref": f"{address}/a"},
            {"$dynamicRef": f"{address}/a#b"},
            {"$schema": f"{address}/a"},
        ):
            refusal(reference)
            refusal({"contentSchema": reference} if "$ref" in reference else {"not": reference})
            compile_schema(json.dumps({"x-unknown": reference, "const": reference}))
    assert paths == []


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": "https://json-schema.org/draft/2020-12/schema"},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": {}},
            "$ref": "#/definitions/a",
        },
        {"$id": "http://own.test/a", "$ref": "http://own.test/a#/$defs/b", "$defs": {"b": True}},
        {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
        {"enum": [{"$ref": "http://other.test/a"}], "const": {"$ref": "http://other.test/a"}},
        {"properties": {"next": {"$ref": "#"}}},
        {
            "$ref": "#node",
            "$defs": {"a b/c": {"$anchor": "node"}, "d": {"$ref": "#/$defs/a%20b~1c"}},
        },
    ],
)
def test_a_schema_within_the_limits_is_compiled(schema):
    compile_schema(json.dumps(schema))


ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"sku": {"pattern": "^[A-Z]+$"}, "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["sku"], "additionalProperties": False}},
    },
    "required": ["id"],
}  # fmt: skip


def test_violations_name_the_place_and_do_not_quote_values():
    order = {"lines": [{"sku": "SECRET?", "note": 5}, {"SECRET": 1}]}

    assert sorted(violations(ORDER, order)) == [
        ("", '"id" is a required property'),
        ("/lines/0/note", "the value is not valid under any of the schemas listed in the 'anyOf' keyword"),
        ("/lines/0/sku", 'the value does not match "^[A-Z]+$"'),
        ("/lines/1", '"sku" is a required property'),
        ("/lines/1", "'SECRET': no other names are allowed"),
    ]  # fmt: skip


def test_violations_and_their_descriptions_are_limited():
    many = violations({"items": {"const": 1}}, [2] * 100)
    assert len(many) == bounds.MAX_VIOLATIONS
    ((_, description),) = violations(
        {"properties": {"a": {}}, "additionalProperties": False}, {"n" * 1000: 1, "o": 2}
    )
    assert description == f"'{'n' * 64}...' and 1 more: no other names are allowed"
    assert violations({"additionalProperties": False}, {"a": 1}) == [
        ("", "no other names are allowed")
    ]
    ((_, description),) = violations({"enum": ["e" * 1000]}, 1)
    assert len(description) == bounds.MAX_DESCRIPTION_CHARS
    ((_, description),) = violations({"propertyNames": {"maxLength": 3}}, {"SECRET": 1})
    assert "SECRET" not in description


def test_format_is_not_checked():
    assert violations({"format": "date"}, "tomorrow") == []


def test_the_draft_decides_the_meaning():
    tuples = {"items": [{"type": "string"}], "additionalItems": False}

    assert violations({"$schema": "http://json-schema.org/draft-07/schema#", **tuples}, ["a", 1])
    assert refusal(tuples)[1] == "/items"


@pytest.mark.parametrize("depth", [3, 60])
def test_recursion_with_several_ways_takes_no_exponential_time(depth):
    began_s = time.process_time()

    assert violations(TWICE, nested(depth, 2))
    assert not violations(TWICE, nested(depth, 1))
    assert time.process_time() - began_s < 1  # measured: 2 ms; naively 3**60 steps


def test_a_pattern_made_to_backtrack_takes_linear_time():
    schema = {"pattern": "^(a+)+$"}
    began_s = time.process_time()

    assert violations(schema, "a" * 100_000 + "!")
    assert time.process_time() - began_s < 1


def test_of_a_long_document_only_the_first_violation_is_searched():
    lines = [{"sku": "?"}] * 10_000

    assert violations(ORDER, {"id": 1, "lines": lines}) == [
        ("/lines/0/sku", 'the value does not match "^[A-Z]+$"')
    ]


def test_a_violation_that_would_take_long_to_find_has_no_place():
    chain = {f"{n}": {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}]} for n in range(3000)}
    schema = {"$ref": "#/$defs/0", "$defs": {**chain, "3000": {"const": 1}}}
    unexplained = [("", "the document does not follow the schema")]

    assert violations(schema, 2) == unexplained
    assert violations(TWICE, nested(60, 2)) == unexplained
    assert (
        violations({"anyOf": [ORDER, {"type": "null"}]}, {"lines": [{"sku": "A"}] * 10_000})
        == unexplained
    )


RING = {"anyOf": [{"properties": {"x": {"$ref": "#/$defs/r"}, "k": {"const": n}}} for n in "ab"]}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "x" * schema_module.MAX_QUICK_CHARS),
        ({"pattern": "[01]*1[01]{900}x"}, "01" * 100),
        (doubling(10, {"pattern": "^[0-9]+$"}), "1" * 1000),
        (doubling(10, {"type": "integer"}, items={"$ref": "#/$defs/a0"}), [2] * 1000),
        (TWICE, nested(30, 2)),
        (
            {"properties": {"deep": {"$ref": "#/$defs/r"}}, "$defs": {"r": RING}},
            {"deep": nested(30, 1)},
        ),
    ],
)
def test_a_check_that_may_take_long_is_known_before_it_is_made(schema, value):
    assert not compile_schema(json.dumps(schema)).is_quick_for(json.dumps(value))


def test_to_know_whether_a_check_is_quick_takes_no_time_for_a_large_recursive_schema():
    names = {f"name{n}": {"type": "string"} for n in range(1300)}
    compiled = compile_schema(json.dumps({"properties": names, "items": {"$ref": "#"}}))
    document = "[" * 63 + "]" * 63
    began_s = time.process_time()

    assert not compiled.is_quick_for(document)
    assert time.process_time() - began_s < 0.01  # measured: 0.1 ms


def test_usual_checks_are_quick():
    lines = [{"sku": "ABC"}] * 500
    assert compile_schema(json.dumps(ORDER)).is_quick_for(json.dumps({"id": 1, "lines": lines}))
    assert compile_schema(json.dumps(ONE_WAY)).is_quick_for(json.dumps(nested(60, 1)))


def test_a_long_document_is_checked_with_a_usual_schema():
    lines = [{"sku": "ABC"}] * 60_000

    assert violations(ORDER, {"id": 1, "lines": lines}) == []


@pytest.mark.parametrize(
    ("pattern", "size"),
    [("^[A-Z]+$", 4), ("a{30}", 30), ("a{2,30}b", 31), ("[^]{5}a]{3,}", 3), (r"\p{Lu}{4}\{9}", 7), ("((a{10}){10}){10}", 1110), ("(ab|c){2}", 10), ("(" * 9 + "a{9}" + "){9}" * 9, 1e9)],
)  # fmt: skip
def test_the_size_of_a_pattern_counts_its_repetitions(pattern, size):
    assert automaton_size(pattern) == size


def test_recursion_through_different_kinds_of_containers_does_not_count_as_several_ways():
    recursive = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#"}}, {"type": "object", "additionalProperties": {"$ref": "#"}}]}  # fmt: skip
    nodes = SchemaGraph(recursive).nodes

    assert schema_cost.checks_per_value(nodes)[-1] < schema_module.MAX_CHECKS_PER_VALUE
    assert schema_cost.expanded_size(nodes) < 10
    assert schema_cost.checks_per_value(SchemaGraph(TWICE).nodes)[30] > 2**30


def test_many_ways_within_one_level_of_a_recursion_are_refused():
    node = {"type": "object", "properties": {"x": {"$ref": "#/$defs/a0"}}, "required": ["x"]}

    problem, _ = refusal(doubling(20, {"anyOf": [node, {"const": 1}]}))
    assert problem == "the references expand to more than 20,000 subschemas"


def test_the_cost_of_references_without_recursion_is_what_they_expand_to():
    assert schema_cost.expanded_size(SchemaGraph(doubling(8)).nodes) == 4 * 2**8 - 2
    assert schema_cost.pattern_steps(SchemaGraph({**doubling(8), "pattern": "a{30}"}).nodes) == 30


PARTS = st.recursive(
    st.sampled_from([{}, {"type": "string"}, {"type": ["integer", "null"]}, {"const": 1}, {"minLength": 2}, {"required": ["a"]}, {"maxItems": 1}, {"pattern": "^x"}, {"$ref": "#/$defs/d"}, {"uniqueItems": True}]),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("ab"), inner)}),
        st.fixed_dictionaries({"items": inner}),
        st.fixed_dictionaries({"additionalProperties": inner}),
        *(st.fixed_dictionaries({keyword: st.lists(inner, min_size=1, max_size=2)}) for keyword in ("allOf", "anyOf", "oneOf")),
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"if": inner, "then": inner, "else": inner}),
    ),
    max_leaves=6,
)  # fmt: skip
INSTANCES = st.recursive(
    st.sampled_from([None, True, 0, 1, 1.5, "", "x", "xy"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    PARTS,
    st.fixed_dictionaries({"properties": st.fixed_dictionaries({"a": PARTS})}),
    st.lists(INSTANCES, min_size=1, max_size=5),
)
def test_the_same_documents_are_valid_as_for_another_implementation(root, definition, instances):
    schema = {"allOf": [root], "$defs": {"d": definition}}
    try:
        compiled = compile_schema(json.dumps(schema))
    except SchemaRefused as refused:
        assert refused.problem == ITSELF
        return
    reference = jsonschema.Draft202012Validator(schema)
    for instance in instances:
        is_valid = not compiled.violations(json.dumps(instance))
        assert is_valid == reference.is_valid(instance), (schema, instance)


def test_an_answer_that_follows_its_schema_is_valid():
    assert result(' {"id": 1}\n', ORDER) == result("{}") == result("5")
    assert result("{}").is_valid
    assert result("{}").violations == ()


def test_what_is_around_a_document_makes_the_answer_invalid_and_its_schema_is_checked_too():
    found = result("```json\n{}\n```", ORDER)

    assert not found.is_valid
    assert [v.description for v in found.violations] == [
        "the document is inside a Markdown code fence",
        '"id" is a required property',
    ]


@pytest.mark.parametrize("text", ['{"id": 1e999}', '{"id": "\\ud800"}', '{"id": 1'])
def test_a_document_without_one_meaning_is_not_checked_with_the_schema(text):
    found = result(text, {"type": "null"})

    assert not found.is_valid
    assert len(found.violations) == 1


def test_the_last_of_two_members_with_one_name_is_checked():
    found = result('{"id": "x", "id": 1}', ORDER)

    assert [v.description for v in found.violations] == ["the object has this name twice"]
