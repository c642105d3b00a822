import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.v1.error_pb2 import ErrorReason
from tokenwire.v1.usage_pb2 import Usage
from tokenwire.wire.status import from_status

from ..conftest import status

Code = grpc.StatusCode

CLASSES = {
    "INVALID_REQUEST": tokenwire.InvalidRequest,
    "UNKNOWN_MODEL": tokenwire.UnknownModel,
    "CONTEXT_TOO_LONG": tokenwire.ContextTooLong,
    "UNAUTHENTICATED": tokenwire.Unauthenticated,
    "PERMISSION_DENIED": tokenwire.PermissionDenied,
    "RATE_LIMITED": tokenwire.RateLimited,
    "TOO_MANY_STREAMS": tokenwire.TooManyStreams,
    "QUOTA_EXHAUSTED": tokenwire.QuotaExhausted,
    "BUDGET_EXCEEDED": tokenwire.BudgetExceeded,
    "MODERATION_UNAVAILABLE": tokenwire.ModerationUnavailable,
    "OVERLOADED": tokenwire.Overloaded,
    "STORE_UNAVAILABLE": tokenwire.StoreUnavailable,
    "STREAM_NOT_FOUND": tokenwire.StreamNotFound,
    "RESUME_POINT_EXPIRED": tokenwire.ResumePointExpired,
    "RESUME_POINT_AHEAD": tokenwire.ResumePointAhead,
    "RESUME_DISABLED": tokenwire.ResumeDisabled,
    "REQUEST_ID_REUSED": tokenwire.RequestIdReused,
    "UPSTREAM_REJECTED": tokenwire.UpstreamRejected,
    "UPSTREAM_AUTH": tokenwire.UpstreamAuth,
    "UPSTREAM_RATE_LIMITED": tokenwire.UpstreamRateLimited,
    "UPSTREAM_UNAVAILABLE": tokenwire.UpstreamUnavailable,
    "UPSTREAM_BROKEN": tokenwire.UpstreamBroken,
    "UPSTREAM_STALLED": tokenwire.UpstreamStalled,
    "PRODUCER_LOST": tokenwire.ProducerLost,
    "DEADLINE": tokenwire.DeadlineExceeded,
    "SLOW_READER": tokenwire.SlowReader,
    "ANSWER_TOO_LARGE": tokenwire.AnswerTooLarge,
    "ANSWER_UNCHECKED": tokenwire.AnswerUnchecked,
    "INVALID_ANSWER": tokenwire.InvalidAnswer,
    "DRAINING": tokenwire.Draining,
    "SERVER_STOPPED": tokenwire.ServerStopped,
    "INTERNAL": tokenwire.InternalError,
}


def error_of(rpc, **known):
    return from_status(rpc.code, rpc.details, rpc.trailing_metadata, **known)


@pytest.mark.parametrize(
    "reason", [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()[1:]]
)
def test_every_error_reason_has_a_class(reason):
    error = error_of(status(Code.ABORTED, reason))

    assert type(error) is CLASSES[reason]
    assert (error.reason, error.code) == (reason, Code.ABORTED)
    assert str(error) == f"{reason}: said by the server"


def test_the_facts_of_a_resume_error_are_fields():
    held = {"earliest_sequence": "17", "latest_sequence": "90"}
    expired = error_of(status(Code.OUT_OF_RANGE, "RESUME_POINT_EXPIRED", metadata=held))
    ahead = error_of(status(Code.OUT_OF_RANGE, "RESUME_POINT_AHEAD", metadata={}))
    reused = error_of(
        status(Code.ALREADY_EXISTS, "REQUEST_ID_REUSED", metadata={"request_id": "r-1"})
    )

    assert (expired.earliest_sequence, expired.latest_sequence) == (17, 90)
    assert (ahead.earliest_sequence, ahead.latest_sequence) == (0, 0)
    assert isinstance(ahead, tokenwire.ResumePointError)
    assert reused.request_id == "r-1"


@pytest.mark.parametrize("reason", ["RATE_LIMITED", "TOO_MANY_STREAMS", "QUOTA_EXHAUSTED"])
def test_the_facts_of_a_limit_are_fields(reason):
    facts = {
        "limit": "tokens_per_minute",
        "scope": "tenant",
        "allowed": "1000",
        "remaining": "-5",
        "asked": "20",
    }

    error = error_of(status(Code.RESOURCE_EXHAUSTED, reason, metadata=facts))
    bare = error_of(status(Code.RESOURCE_EXHAUSTED, reason, metadata={"allowed": "many"}))

    assert isinstance(error, tokenwire.LimitExceeded)
    assert (error.limit, error.scope) == ("tokens_per_minute", "tenant")
    assert (error.allowed, error.remaining, error.asked) == (1000, -5, 20)
    assert (bare.limit, bare.scope) == ("", "")
    assert (bare.allowed, bare.remaining, bare.asked) == (None, None, None)


def test_the_facts_of_an_exceeded_budget_are_fields():
    facts = {"limit": "max_cost_microusd", "allowed": "0", "estimated": "417"}

    error = error_of(status(Code.FAILED_PRECONDITION, "BUDGET_EXCEEDED", metadata=facts))
    bare = error_of(status(Code.FAILED_PRECONDITION, "BUDGET_EXCEEDED"))

    assert (error.limit, error.allowed, error.estimated) == ("max_cost_microusd", 0, 417)
    assert (bare.limit, bare.allowed, bare.estimated) == ("", None, None)


def test_permission_denied_names_the_model():
    denied = status(Code.PERMISSION_DENIED, "PERMISSION_DENIED", metadata={"model": "openai/x"})

    assert error_of(denied).model == "openai/x"


@pytest.mark.parametrize("reason", ["SLOW_READER", "DRAINING"])
def test_the_cursor_of_a_reader_is_what_it_read_and_not_what_was_sent(reason):
    sent = status(Code.UNAVAILABLE, reason, metadata={"stream_id": "st_9", "last_sequence": "90"})

    assert error_of(sent, stream_id="st_9", last_sequence=40).last_sequence == 40


def test_an_unknown_reason_is_the_base_class_with_its_code():
    error = error_of(status(Code.RESOURCE_EXHAUSTED, "FROM_THE_FUTURE"))

    assert type(error) is tokenwire.TokenwireError
    assert (error.reason, error.code) == ("FROM_THE_FUTURE", Code.RESOURCE_EXHAUSTED)


def test_the_facts_of_a_failed_stream_are_fields():
    facts = {
        "stream_id": "st_9",
        "last_sequence": "37",
        "input_tokens": "12",
        "output_tokens": "41",
        "reasoning_tokens": "0",
        "long_cache_write_tokens": "8",
        "cost_microusd": "77",
        "usage_estimated": "true",
        "service_tier": "flex",
        "server_tool_counts": '{"web_search": 2, "odd": -1, "\\ud800": 1, "text": "3", "many": 1e99}',
        "provider": "openai",
    }

    error = error_of(status(Code.ABORTED, "UPSTREAM_BROKEN", metadata=facts))

    assert isinstance(error, tokenwire.UpstreamError)
    assert (error.stream_id, error.last_sequence) == ("st_9", 37)
    assert error.usage == Usage(
        input_tokens=12,
        output_tokens=41,
        reasoning_tokens=0,
        long_cache_write_tokens=8,
        cost_microusd=77,
        estimated=True,
        service_tier="flex",
        server_tool_counts={"web_search": 2},
    )
    assert not error.usage.HasField("cache_read_tokens")
    assert error.metadata == facts


@pytest.mark.parametrize("text", ["", "[", "[1]", "7", "[" * 100_000, f'{{"a": {"9" * 9999}}}'])
def test_malformed_tool_counts_count_as_missing(text):
    facts = {"input_tokens": "1", "output_tokens": "2", "server_tool_counts": text}
    error = error_of(status(Code.ABORTED, "UPSTREAM_BROKEN", metadata=facts))
    assert error.usage == Usage(input_tokens=1, output_tokens=2)


def test_the_readers_position_completes_the_error():
    error = error_of(status(Code.ABORTED, "UPSTREAM_BROKEN"), stream_id="st_1", last_sequence=5)

    assert (error.stream_id, error.last_sequence, error.usage) == ("st_1", 5, None)


def test_retry_info_and_violations_are_fields():
    retry = RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    wrong = BadRequest.FieldViolation(field="messages[0].role", description="is required")

    full = error_of(status(Code.UNAVAILABLE, "OVERLOADED", more=[retry]))
    invalid = BadRequest(field_violations=[wrong, wrong])
    refused = error_of(status(Code.INVALID_ARGUMENT, "INVALID_REQUEST", more=[invalid]))

    assert full.retry_after_s == 1.5
    assert refused.retry_after_s is None
    assert refused.violations == (tokenwire.Violation("messages[0].role", "is required"),) * 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, tokenwire.ConnectionLost),
        (Code.DEADLINE_EXCEEDED, tokenwire.DeadlineExceeded),
        (Code.CANCELLED, tokenwire.Cancelled),
        (Code.UNAUTHENTICATED, tokenwire.Unauthenticated),
        (Code.UNIMPLEMENTED, tokenwire.TokenwireError),
    ],
)
def test_without_an_error_info_the_code_decides(code, kind):
    error = from_status(code, "made by gRPC itself")

    assert type(error) is kind
    assert (error.reason, str(error)) == ("", f"{code.name}: made by gRPC itself")


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (Code.INTERNAL, "RST_STREAM with error code 2", tokenwire.ConnectionLost),
        (Code.CANCELLED, "RST_STREAM with error code 8", tokenwire.ConnectionLost),
        (Code.INTERNAL, "Failed to parse", tokenwire.TokenwireError),
        (Code.PERMISSION_DENIED, "RST_STREAM with error code 12", tokenwire.TokenwireError),
    ],
)
def test_a_reset_by_a_proxy_is_connection_lost(code, said, kind):
    assert type(from_status(code, f"Stream removed (Received {said})")) is kind


def test_a_reason_of_another_domain_is_ignored():
    error = error_of(status(Code.UNAVAILABLE, "OVERLOADED", domain="googleapis.com"))

    assert type(error) is tokenwire.ConnectionLost
    assert error.reason == ""


@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=20), st.text(max_size=30)))
def test_malformed_details_do_not_hide_the_error(garbage, facts):
    unreadable = from_status(
        Code.UNAVAILABLE, "broken", [("grpc-status-details-bin", garbage)], last_sequence=3
    )
    odd = {"last_sequence": "-1", "input_tokens": "1e9", "output_tokens": "٣", **facts}
    nonsense = error_of(status(Code.ABORTED, "UPSTREAM_BROKEN", metadata=odd))

    assert unreadable.code is Code.UNAVAILABLE
    assert unreadable.last_sequence == 3
    assert type(nonsense) is tokenwire.UpstreamBroken


def test_one_malformed_detail_does_not_affect_the_others():
    rpc = status(Code.UNAVAILABLE, "OVERLOADED")
    details = Status.FromString(rpc.trailing_metadata[0][1])
    for kind in ("RetryInfo", "BadRequest", "FromTheFuture"):
        details.details.add(type_url=f"type.googleapis.com/google.rpc.{kind}", value=b"\xff")
    trailers = [("grpc-status-details-bin", details.SerializeToString())]

    error = from_status(rpc.code, rpc.details, trailers)

    assert type(error) is tokenwire.Overloaded
    assert (error.retry_after_s, error.violations) == (None, ())


def test_an_error_can_be_pickled():
    error = error_of(
        status(Code.ABORTED, "UPSTREAM_BROKEN", metadata={"stream_id": "st_1", "provider": "x"})
    )

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is tokenwire.UpstreamBroken
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.UNAVAILABLE, "SLOW_READER"),
        (Code.UNAVAILABLE, "DRAINING"),
        (Code.UNAVAILABLE, "STORE_UNAVAILABLE"),
        (Code.UNAVAILABLE, "OVERLOADED"),
        (Code.DEADLINE_EXCEEDED, "DEADLINE"),
    ],
)
def test_a_reader_that_was_ended_resumes_after_what_it_has_read(code, reason):
    """The stream goes on: the server's sequence counts events that may not have arrived."""
    metadata = {"stream_id": "st_1", "last_sequence": "90"}
    error = error_of(status(code, reason, metadata=metadata), stream_id="st_1", last_sequence=7)

    assert (error.resume_after, error.last_sequence) == (7, 7)


def test_an_answer_that_is_too_large_is_read_from_its_beginning():
    metadata = {"stream_id": "st_1", "earliest_sequence": "1"}
    error = error_of(status(Code.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE", metadata=metadata))

    assert (error.stream_id, error.resume_after) == ("st_1", 0)


def test_a_stream_that_has_ended_is_not_resumed():
    metadata = {"stream_id": "st_1", "last_sequence": "90"}
    error = error_of(status(Code.ABORTED, "UPSTREAM_BROKEN", metadata=metadata), last_sequence=7)

    assert (error.resume_after, error.last_sequence) == (None, 90)
