import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tokenwire.v1 import error_pb2
from tokenwire_server import errors
from tokenwire_server.events import Usage
from tokenwire_server.providers.decode.errors import classify
from tokenwire_server.request import Violation
from tokenwire_server.rpc.status import CODES, DOMAIN, to_status


def kinds(cls=errors.TokenwireError):
    for sub in cls.__subclasses__():
        if hasattr(sub, "reason"):
            yield sub
        yield from kinds(sub)


def exceeded(kind=errors.RateLimited, **fields):
    said = {"scope": "key", "subject": "tw_1", "allowed": 5, "asked": 1, "remaining": 0}
    return kind("requests_per_minute", **(said | fields))


def details(error):
    status = to_status(error)
    unpacked = []
    for detail in status.details:
        kind = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])
        message = kind()
        assert detail.Unpack(message)
        unpacked.append(message)
    return unpacked


def test_every_error_has_a_code_and_a_reason_in_the_proto():
    in_proto = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()}  # noqa: SIM118
    reasons = {kind.reason for kind in kinds()}
    assert reasons == set(CODES) == in_proto - {"UNSPECIFIED"}


@pytest.mark.parametrize("kind", sorted(set(kinds()), key=lambda k: k.__name__))
def test_each_status_has_exactly_one_error_info(kind):
    made = {
        errors.InvalidRequest: lambda: kind([Violation("a", "b")]),
        errors.UnknownModel: lambda: kind("m", why="no"),
        errors.PermissionDenied: lambda: kind("m"),
        errors.RateLimited: lambda: exceeded(kind),
        errors.TooManyStreams: lambda: exceeded(kind),
        errors.QuotaExhausted: lambda: exceeded(kind, field="messages"),
        errors.BudgetExceeded: lambda: kind("max_input_tokens", allowed=1, estimated=2),
        errors.Overloaded: lambda: kind("full", limit=3),
        errors.ProviderBusy: lambda: kind("openai", limit=3),
        errors.StreamNotFound: kind,
        errors.Draining: kind,
        errors.ProducerLost: kind,
        errors.InvalidAnswer: kind,
        errors.ResumePointAhead: lambda: kind(9, earliest=2, latest=5),
        errors.ResumePointExpired: lambda: kind(0, earliest=2, latest=5),
        errors.SlowReader: lambda: kind("slow", earliest_sequence=5),
        errors.AnswerTooLarge: lambda: kind("id", answer_bytes=5, limit_bytes=4),
        errors.InternalFault: lambda: kind("id"),
    }.get(kind, lambda: kind("text"))()
    infos = [d for d in details(made) if isinstance(d, error_details_pb2.ErrorInfo)]
    assert [(info.reason, info.domain) for info in infos] == [(kind.reason, DOMAIN)]
    assert to_status(made).code == CODES[kind.reason].value[0]


def test_a_retry_delay_is_sent_as_retry_info():
    found = details(errors.StoreUnavailable("gone", retry_after_s=1.5))
    (retry,) = [d for d in found if isinstance(d, error_details_pb2.RetryInfo)]
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_a_limit_is_reported_with_its_size_its_owner_and_a_retry_delay():
    info, retry, quota = details(exceeded(retry_after_s=2.5))
    assert dict(info.metadata) == {
        "limit": "requests_per_minute",
        "scope": "key",
        "allowed": "5",
        "remaining": "0",
        "asked": "1",
    }
    assert retry.retry_delay.ToMilliseconds() == 2500
    (violation,) = quota.violations
    assert violation.subject == "key:tw_1"
    assert violation.description.endswith("0 left, 1 requested; retry in 2.5 s")


def test_a_limit_of_one_request_is_reported_with_its_path_and_no_retry_delay():
    info, quota, bad = details(exceeded(errors.QuotaExhausted, field="messages"))
    assert quota.violations[0].description.endswith("waiting does not help")
    assert [violation.field for violation in bad.field_violations] == ["messages"]
    assert info.reason == "QUOTA_EXHAUSTED"


def test_a_budget_is_reported_with_the_estimate():
    (info,) = details(errors.BudgetExceeded("max_cost_microusd", allowed=5, estimated=7))
    assert dict(info.metadata) == {
        "limit": "max_cost_microusd",
        "allowed": "5",
        "estimated": "7",
    }


def test_a_failure_after_the_first_token_has_the_position_and_the_usage():
    error = errors.UpstreamBroken("broke", provider="p")
    error.at = errors.StreamPosition(
        "id",
        7,
        Usage(
            3,
            4,
            reasoning_tokens=0,
            long_cache_write_tokens=2,
            server_tools=(("web_fetch", 1), ("web_search", 6)),
            service_tier="priority",
            cost_microusd=5,
            estimated=True,
        ),
    )
    (info,) = details(error)
    assert dict(info.metadata) == {
        "provider": "p",
        "stream_id": "id",
        "last_sequence": "7",
        "input_tokens": "3",
        "output_tokens": "4",
        "reasoning_tokens": "0",
        "long_cache_write_tokens": "2",
        "cost_microusd": "5",
        "usage_estimated": "true",
        "service_tier": "priority",
        "server_tool_counts": '{"web_fetch": 1, "web_search": 6}',
    }
    tools = tuple((f"tool {n:060}", n) for n in range(100))
    error.at = errors.StreamPosition("id", 7, Usage(3, 4, server_tools=tools))
    (info,) = details(error)
    assert "server_tool_counts" not in info.metadata  # no room


def test_text_of_the_provider_is_never_in_the_status():
    error = errors.UpstreamRejected("refused", provider_text="CANARY", error_type="t", field="f")
    assert b"CANARY" not in to_status(error).SerializeToString()


def test_the_longest_rejection_fits_in_the_trailers():
    said = {"message": "é" * 5000, "type": "t" * 500, "code": "c" * 128, "param": "p" * 128}
    error = classify({"error": said}, status=400, provider="p" * 256)
    error.at = errors.StreamPosition("i" * 36, 2**53, Usage(2**53, 2**53, 2**53, 2**53, 2**53))
    status = to_status(error)
    (info,) = details(error)
    assert info.metadata["provider_message"] == "é" * 512
    assert info.metadata["provider_error_code"] == "c" * 128
    # The details are sent in base64, and the message percent-encoded.
    sent_bytes = len(status.SerializeToString()) * 4 / 3 + len(status.message.encode()) * 3
    assert sent_bytes < 6000


def test_a_thousand_violations_fit_in_the_trailers():
    error = errors.InvalidRequest(
        [Violation(f"messages[{i}].role", "é" * 500) for i in range(1000)]
    )
    status = to_status(error)
    assert len(status.SerializeToString()) < 6000
    bad = error_details_pb2.BadRequest()
    status.details[1].Unpack(bad)
    listed = len(bad.field_violations) - 1
    assert bad.field_violations[-1].description == f"{1000 - listed} more violations are not listed"


def test_a_last_violation_says_that_checking_stopped_early():
    violations = [Violation(f"messages[{i}].role", "is required") for i in range(3)]
    error = errors.InvalidRequest(violations, all_found=False)
    assert str(error) == "messages[0].role: is required (and at least 2 more)"
    (bad,) = [d for d in details(error) if isinstance(d, error_details_pb2.BadRequest)]
    assert [found.field for found in bad.field_violations] == [
        *(violation.field for violation in violations),
        "",
    ]
    assert bad.field_violations[-1].description.startswith("checking stopped here")


def test_the_status_can_be_read_back():
    status = to_status(errors.ServerStopped("bye"))
    again = status_pb2.Status.FromString(status.SerializeToString())
    assert again.code == grpc.StatusCode.UNAVAILABLE.value[0]


def test_the_code_tells_whether_a_retry_can_succeed():
    """UNAVAILABLE is what clients' retry policies repeat: nothing that was paid for may have it."""
    code = grpc.StatusCode
    assert CODES == {
        "INVALID_REQUEST": code.INVALID_ARGUMENT,
        "UNKNOWN_MODEL": code.NOT_FOUND,
        "CONTEXT_TOO_LONG": code.INVALID_ARGUMENT,
        "UNAUTHENTICATED": code.UNAUTHENTICATED,
        "PERMISSION_DENIED": code.PERMISSION_DENIED,
        "RATE_LIMITED": code.RESOURCE_EXHAUSTED,
        "TOO_MANY_STREAMS": code.RESOURCE_EXHAUSTED,
        "QUOTA_EXHAUSTED": code.RESOURCE_EXHAUSTED,
        "BUDGET_EXCEEDED": code.FAILED_PRECONDITION,
        "MODERATION_UNAVAILABLE": code.UNAVAILABLE,
        "OVERLOADED": code.UNAVAILABLE,
        "STORE_UNAVAILABLE": code.UNAVAILABLE,
        "STREAM_NOT_FOUND": code.NOT_FOUND,
        "RESUME_POINT_EXPIRED": code.OUT_OF_RANGE,
        "RESUME_POINT_AHEAD": code.OUT_OF_RANGE,
        "RESUME_DISABLED": code.UNIMPLEMENTED,
        "REQUEST_ID_REUSED": code.ALREADY_EXISTS,
        "UPSTREAM_REJECTED": code.INVALID_ARGUMENT,
        "UPSTREAM_AUTH": code.FAILED_PRECONDITION,
        "UPSTREAM_RATE_LIMITED": code.UNAVAILABLE,
        "UPSTREAM_UNAVAILABLE": code.UNAVAILABLE,
        "UPSTREAM_BROKEN": code.ABORTED,
        "UPSTREAM_STALLED": code.ABORTED,
        "PRODUCER_LOST": code.ABORTED,
        "ANSWER_UNCHECKED": code.ABORTED,
        "INVALID_ANSWER": code.ABORTED,
        "SLOW_READER": code.UNAVAILABLE,
        "ANSWER_TOO_LARGE": code.RESOURCE_EXHAUSTED,
        "DRAINING": code.UNAVAILABLE,
        "SERVER_STOPPED": code.UNAVAILABLE,
        "INTERNAL": code.INTERNAL,
    }


def test_the_providers_error_code_is_in_the_metadata():
    error = errors.UpstreamRejected(
        "no", provider="p", status=400, error_type="too_long", field="messages"
    )
    (info,) = details(error)
    assert dict(info.metadata) == {
        "provider": "p",
        "provider_status": "400",
        "provider_error_type": "too_long",
        "provider_field": "messages",
    }


def test_a_long_text_is_cut_to_fit_in_the_trailers():
    error = errors.UpstreamUnavailable("x" * 50_000, provider="p" * 50_000)
    assert len(to_status(error).SerializeToString()) < 1000
