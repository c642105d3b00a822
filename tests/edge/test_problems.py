"""Errors of the server as HTTP responses: a deliberate status for each reason, and nothing internal."""

import ast
import re
from pathlib import Path

import grpc
import msgspec
import pytest

from tokenwire.errors import TokenwireError, Violation
from tokenwire.http.problems import STATUS_OF_REASON
from tokenwire.v1.error_pb2 import ErrorReason
from tokenwire.wire.status import from_status
from tokenwire_edge.problems import Problem, problem_of

REASONS = [name.removeprefix("ERROR_REASON_") for name, number in ErrorReason.items() if number]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "edge.md"


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_status_and_the_page_lists_it(reason):
    problem = problem_of(TokenwireError("text", code=grpc.StatusCode.UNKNOWN, reason=reason))
    assert problem.status == STATUS_OF_REASON[reason]
    assert (problem.content()["reason"], problem.content()["detail"]) == (reason, "text")
    assert re.search(rf"^\| {problem.status} \|.*`{reason}`", PAGE.read_text(), re.MULTILINE)


def test_the_page_lists_every_reason_of_the_edge_itself():
    sources = (ROOT / "server" / "tokenwire_edge").rglob("*.py")
    calls = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    reasons = {
        call.args[1].value
        for call in calls
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Problem"
        if isinstance(call.args[1], ast.Constant)
    }
    assert "BODY_TOO_LARGE" in reasons
    assert reasons <= {*re.findall(r"`([A-Z_]+)`", PAGE.read_text())}


def test_an_unknown_reason_is_mapped_by_its_code():
    new = TokenwireError("text", code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="NEW_LIMIT")
    assert (problem_of(new).status, problem_of(new).reason) == (429, "NEW_LIMIT")
    new = TokenwireError("text", code=grpc.StatusCode.DATA_LOSS, reason="NEW_LOSS")
    assert problem_of(new).status == 502


@pytest.mark.parametrize("code", list(grpc.StatusCode)[1:])
def test_errors_of_grpc_and_proxies_show_nothing_of_the_network_behind_the_edge(code):
    text = "failed to connect to all addresses; last error: ipv4:10.1.2.3:50051: Connection refused"
    problem = problem_of(from_status(code, text))
    assert 400 <= problem.status <= 599
    assert problem.reason == code.name
    assert "10.1.2.3" not in problem.body().decode()


def test_facts_violations_and_the_time_to_wait_are_in_the_response():
    error = TokenwireError(
        "messages: is required",
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="INVALID_REQUEST",
        metadata={"limit": "x"},
        stream_id="ab",
        last_sequence=7,
        retry_after_s=0.2,
        violations=[Violation("messages", "is required")],
    )
    problem = problem_of(error)
    assert msgspec.json.decode(problem.body()) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "reason": "INVALID_REQUEST",
        "detail": "messages: is required",
        "facts": {"limit": "x", "stream_id": "ab", "last_sequence": "7"},
        "violations": [{"field": "messages", "description": "is required"}],
        "retryAfterS": 0.2,
    }
    assert problem.headers()["retry-after"] == "1"
    assert problem.headers()["content-type"] == "application/problem+json"


def test_a_request_that_is_too_large_for_the_caller_is_not_to_be_sent_again():
    def quota(**facts):
        return problem_of(TokenwireError("text", reason="QUOTA_EXHAUSTED", metadata=facts)).status

    assert quota(limit="bytes_per_request") == 413
    assert quota(limit="spend_microusd_per_day") == 429


@pytest.mark.parametrize("reason", ["SLOW_READER", "DRAINING"])
def test_the_cursor_of_a_reader_is_its_own_and_not_the_position_of_the_stream(reason):
    error = TokenwireError(
        "text",
        code=grpc.StatusCode.UNAVAILABLE,
        reason=reason,
        metadata={"stream_id": "ab", "last_sequence": "900"},
        last_sequence=0,
    )
    assert problem_of(error).facts["last_sequence"] == "0"


def test_statuses_that_clients_act_on_have_their_headers():
    assert (
        problem_of(TokenwireError("text", code=grpc.StatusCode.UNAVAILABLE)).headers()[
            "retry-after"
        ]
        == "1"
    )
    assert Problem(401, "UNAUTHENTICATED", "no key").headers()["www-authenticate"] == "Bearer"
    assert Problem(499, "CANCELLED", "left").content()["title"] == "Client Closed Request"
