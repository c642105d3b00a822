"""The tree of errors: reasons, blame, retries, copies."""

import copy
import pickle
import re
from pathlib import Path

import grpc
import pytest

import tokenwire
from tokenwire import errors
from tokenwire.errors.base import Retry
from tokenwire.v1.error_pb2 import ErrorReason
from tokenwire.v1.usage_pb2 import Usage

ROOT = Path(__file__).parents[3]
OLD = {"DEADLINE"}
"""Reasons of servers before 0.1."""
BLAMES = (
    tokenwire.RequestError,
    tokenwire.AccessError,
    tokenwire.LimitExceeded,
    tokenwire.UpstreamError,
    tokenwire.ServerError,
    tokenwire.TransportError,
    tokenwire.CallEnded,
    tokenwire.ToolRunError,
)


def all_classes(kind=tokenwire.TokenwireError):
    return {kind}.union(*(all_classes(each) for each in kind.__subclasses__()))


LEAVES = sorted(
    (each for each in all_classes() if not each.__subclasses__()), key=lambda each: each.__name__
)


def rows_of_the_docs():
    text = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \|(.*)\|$", text, re.MULTILINE)
    return [(name, cells.rpartition(" | ")[2].strip()) for name, cells in rows]


def test_every_reason_of_the_proto_has_a_class():
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()[1:]}
    assert errors.CLASS_OF_REASON.keys() - OLD == names


@pytest.mark.parametrize(("reason", "cell"), rows_of_the_docs())
def test_a_class_is_as_retryable_and_resumable_as_the_documentation_says(reason, cell):
    kind = errors.CLASS_OF_REASON[reason]
    refused = kind("m", reason=reason)
    refused_for_now = kind("m", reason=reason, retry_after_s=1.5)
    documented = {"Yes": Retry.YES, "If RetryInfo": Retry.IF_RETRY_INFO}
    first, _, rest = cell.partition(", ")
    rule = Retry.NO if rest == "with a new stream" else documented.get(first, Retry.NO)
    if rest.startswith(("by resuming", "but it may fail")):
        rule = Retry.NO
    assert refused.retryable == (rule is Retry.YES)
    assert refused_for_now.retryable == (rule is not Retry.NO)
    resumed = kind("m", reason=reason, stream_id="st_1", last_sequence=7)
    assert resumed.resume_after == (7 if "resum" in cell else None)
    assert refused.resume_after is None


@pytest.mark.parametrize("kind", LEAVES)
def test_each_error_has_one_class_that_says_who_has_to_act(kind):
    assert sum(issubclass(kind, blame) for blame in BLAMES) == 1
    assert getattr(tokenwire, kind.__name__) is kind


def test_the_tree_in_the_docstring_is_the_tree():
    shown, path = {}, ["TokenwireError"]
    for indent, name in re.findall(r"^    ((?:[| ]   )*)\+-- (\w+)", errors.__doc__, re.MULTILINE):
        depth = len(indent) // 4 + 1
        path[depth:] = [name]
        shown[name] = path[depth - 1]
    assert shown == {
        kind.__name__: kind.__bases__[0].__name__
        for kind in all_classes() - {tokenwire.TokenwireError}
    }


def test_python_code_can_catch_deadlines_and_lost_connections_as_usual():
    assert issubclass(tokenwire.DeadlineExceeded, TimeoutError)
    assert issubclass(tokenwire.ConnectionLost, ConnectionError)


@pytest.mark.parametrize("kind", [tokenwire.UpstreamUnavailable, tokenwire.UpstreamRateLimited])
def test_a_failed_stream_is_retryable_only_if_it_has_used_nothing(kind):
    def failed(usage):
        return kind("m", stream_id="st_1", retry_after_s=1.0, usage=usage)

    assert failed(Usage()).retryable
    assert not failed(None).retryable
    assert not failed(Usage(input_tokens=1)).retryable
    assert not failed(Usage(output_tokens=1)).retryable
    assert not failed(Usage(estimated=True)).retryable, "an unknown number of tokens"
    assert not failed(Usage(cost_microusd=1)).retryable
    assert not failed(Usage(server_tool_counts={"web_search": 1})).retryable
    assert kind("m", retry_after_s=1.0).retryable, "no stream had started"


@pytest.mark.parametrize("kind", LEAVES)
def test_no_other_error_of_a_stream_is_retryable(kind):
    error = kind("m", stream_id="st_1", retry_after_s=1.0, usage=Usage())
    ended = {tokenwire.UpstreamUnavailable, tokenwire.UpstreamRateLimited}
    assert error.retryable == (kind in ended)


def test_an_unknown_reason_is_judged_by_its_code():
    def unknown(reason="NEW", code=grpc.StatusCode.UNAVAILABLE, **facts):
        return tokenwire.TokenwireError("m", reason=reason, code=code, **facts)

    assert unknown(retry_after_s=1).retryable
    assert not unknown().retryable
    assert not unknown(retry_after_s=1, stream_id="st_1").retryable
    assert not unknown(code=grpc.StatusCode.ABORTED, retry_after_s=1).retryable
    assert not unknown(reason="", retry_after_s=1).retryable, "of a proxy"


@pytest.mark.parametrize("kind", LEAVES)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_errors_can_be_copied_and_pickled(kind, copied):
    error = kind(
        "said",
        code=grpc.StatusCode.ABORTED,
        reason="R",
        metadata={"a": "b"},
        request_id="rq",
        stream_id="st_1",
        last_sequence=7,
        usage=Usage(input_tokens=3),
        retry_after_s=1.5,
        violations=[tokenwire.Violation("a", "b")],
    )
    error.attempts = 3
    error.add_note("a note")

    other = copied(error)

    assert type(other) is kind
    assert vars(other) == vars(error)
    assert (str(other), repr(other), other.args) == (str(error), repr(error), error.args)


def test_the_repr_shows_what_is_set():
    limited = tokenwire.RateLimited(
        "too much",
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason="RATE_LIMITED",
        retry_after_s=2.5,
        request_id="rq_1",
        metadata={"limit": "requests_per_minute"},
    )
    assert repr(limited) == (
        "RateLimited('too much', code=RESOURCE_EXHAUSTED, reason='RATE_LIMITED', retry_after_s=2.5, "
        "request_id='rq_1', metadata={'limit': 'requests_per_minute'})"
    )
    assert repr(tokenwire.ConnectionLost("cut")) == "ConnectionLost('cut', code=UNAVAILABLE)"
