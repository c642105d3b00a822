"""Options of a request: every bound, from both sides, and the path of each violation."""

import pytest
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2 as pb
from tokenwire_server.config import Limits
from tokenwire_server.request import Delivery, Retention
from tokenwire_server.rpc.parse import parse_chat_request

USER = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="hello")])
CONTINUE, CANCEL = pb.ON_DISCONNECT_CONTINUE, pb.ON_DISCONNECT_CANCEL
READ_WRITE, REFRESH = pb.CACHE_MODE_READ_WRITE, pb.CACHE_MODE_REFRESH
DEFAULTS = Limits()
NANO = Duration(nanos=1)
NEVER = (
    Duration(seconds=-1),
    Duration(nanos=-1),
    Duration(seconds=2**62),
    Duration(seconds=-(2**62)),
)


def seconds(whole, nanos=0):
    return Duration(seconds=whole, nanos=nanos)


def parsed(limits=DEFAULTS, **fields):
    request = pb.ChatRequest(**{"model": "openai/m", "messages": [USER], **fields})
    return parse_chat_request(request.SerializeToString(), limits)


def paths(limits=DEFAULTS, **fields):
    return [violation.field for violation in parsed(limits, **fields)[1]]


def delivery(**fields):
    return {"delivery": pb.DeliveryOptions(**fields)}


def retention(**fields):
    return {"retention": pb.RetentionOptions(**fields)}


def cache(mode, **fields):
    return {"cache": pb.CacheOptions(mode=mode, **fields)}


ACCEPTED = [
    delivery(heartbeat_interval=seconds(1)),
    delivery(heartbeat_interval=seconds(3600)),
    delivery(usage_interval=seconds(1)),
    delivery(usage_interval=seconds(3600)),
    retention(on_disconnect=CONTINUE, linger=NANO),
    retention(on_disconnect=CONTINUE, linger=seconds(600)),
    retention(on_disconnect=CONTINUE),
    retention(on_disconnect=CANCEL),
    retention(log_ttl=seconds(0)),
    retention(log_ttl=seconds(3600)),
    retention(soft_deadline_margin=NANO),
    retention(soft_deadline_margin=seconds(3600)),
    retention(on_disconnect=CANCEL, soft_deadline_margin=seconds(1)),
    cache(pb.CACHE_MODE_OFF),
    cache(READ_WRITE),
    cache(READ_WRITE, ttl=NANO),
    cache(READ_WRITE, ttl=seconds(86400)),
    cache(REFRESH, ttl=seconds(86400)),
    {"request_id": "!"},
    {"request_id": "~" * 128},
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=str)
def test_values_at_a_bound_are_accepted(fields):
    assert paths(**fields) == []


REFUSED = [
    (delivery(heartbeat_interval=seconds(0, 999_999_999)), "delivery.heartbeat_interval"),
    (delivery(heartbeat_interval=seconds(0)), "delivery.heartbeat_interval"),
    (delivery(heartbeat_interval=seconds(3600, 1000)), "delivery.heartbeat_interval"),
    (delivery(usage_interval=seconds(0, 999_999_999)), "delivery.usage_interval"),
    (delivery(usage_interval=seconds(0)), "delivery.usage_interval"),
    (delivery(usage_interval=seconds(3600, 1000)), "delivery.usage_interval"),
    (retention(on_disconnect=CONTINUE, linger=seconds(0)), "retention.linger"),
    (retention(on_disconnect=CONTINUE, linger=seconds(600, 1000)), "retention.linger"),
    (retention(linger=seconds(5)), "retention.linger"),
    (retention(on_disconnect=CANCEL, linger=seconds(5)), "retention.linger"),
    (retention(log_ttl=seconds(3600, 1000)), "retention.log_ttl"),
    (retention(soft_deadline_margin=seconds(0)), "retention.soft_deadline_margin"),
    (retention(soft_deadline_margin=seconds(3600, 1000)), "retention.soft_deadline_margin"),
    (
        retention(on_disconnect=CONTINUE, soft_deadline_margin=seconds(1)),
        "retention.soft_deadline_margin",
    ),
    (retention(on_disconnect=3), "retention.on_disconnect"),
    (retention(on_disconnect=-1), "retention.on_disconnect"),
    (retention(on_disconnect=2**31 - 1), "retention.on_disconnect"),
    (cache(4), "cache.mode"),
    (cache(-1), "cache.mode"),
    (cache(pb.CACHE_MODE_OFF, ttl=seconds(1)), "cache.ttl"),
    (cache(pb.CACHE_MODE_UNSPECIFIED, ttl=seconds(1)), "cache.ttl"),
    (cache(READ_WRITE, ttl=seconds(0)), "cache.ttl"),
    (cache(READ_WRITE, ttl=seconds(86400, 100_000)), "cache.ttl"),
    ({"request_id": "a" * 129}, "request_id"),
    ({"request_id": " "}, "request_id"),
    ({"request_id": "a b"}, "request_id"),
    ({"request_id": "a\n"}, "request_id"),
    ({"request_id": "a\x7f"}, "request_id"),
    ({"request_id": "a\x00"}, "request_id"),
    ({"request_id": "ä"}, "request_id"),
]
REFUSED += [
    (fields, path)
    for span in NEVER
    for fields, path in (
        (delivery(heartbeat_interval=span), "delivery.heartbeat_interval"),
        (delivery(usage_interval=span), "delivery.usage_interval"),
        (retention(on_disconnect=CONTINUE, linger=span), "retention.linger"),
        (retention(log_ttl=span), "retention.log_ttl"),
        (retention(soft_deadline_margin=span), "retention.soft_deadline_margin"),
        (cache(REFRESH, ttl=span), "cache.ttl"),
    )
]


@pytest.mark.parametrize(("fields", "path"), REFUSED, ids=str)
def test_values_beyond_a_bound_and_contradictions_are_refused_with_their_path(fields, path):
    assert paths(**fields) == [path]


def test_all_violations_are_reported_at_once():
    assert paths(
        request_id=" ",
        delivery=pb.DeliveryOptions(heartbeat_interval=seconds(0), usage_interval=seconds(-1)),
        retention=pb.RetentionOptions(on_disconnect=9, linger=seconds(0), log_ttl=seconds(-1)),
        cache=pb.CacheOptions(mode=9, ttl=seconds(0)),
        generation=pb.GenerationConfig(temperature=9),
    ) == [
        "request_id",
        "generation.temperature",
        "delivery.heartbeat_interval",
        "delivery.usage_interval",
        "retention.linger",
        "retention.log_ttl",
        "retention.on_disconnect",
        "cache.ttl",
        "cache.mode",
    ]


def test_the_servers_settings_are_the_defaults():
    limits = Limits(heartbeat_interval_s=7, linger_s=8, log_ttl_s=9, cache_ttl_s=10)
    request, _ = parsed(limits)
    assert request.delivery == Delivery(heartbeat_s=7, usage_s=None)
    assert request.retention == Retention(linger_s=None, log_ttl_s=9)
    assert request.cache is None
    assert (request.request_id, request.body_hash) == ("", b"")
    request, _ = parsed(limits, **retention(on_disconnect=CONTINUE), **cache(READ_WRITE))
    assert request.retention == Retention(linger_s=8, log_ttl_s=9)
    assert request.cache.ttl_s == 10


def test_a_span_keeps_its_fraction():
    request, _ = parsed(**retention(on_disconnect=CONTINUE, linger=seconds(1, 500_000_000)))
    assert request.retention.linger_s == 1.5


@pytest.mark.parametrize(
    ("limits", "fields", "path"),
    [
        (
            Limits(min_delivery_interval_s=5),
            delivery(usage_interval=seconds(4)),
            "delivery.usage_interval",
        ),
        (
            Limits(max_linger_s=5),
            retention(on_disconnect=CONTINUE, linger=seconds(6)),
            "retention.linger",
        ),
        (Limits(max_log_ttl_s=5), retention(log_ttl=seconds(6)), "retention.log_ttl"),
        (
            Limits(max_stream_duration_s=5),
            retention(soft_deadline_margin=seconds(6)),
            "retention.soft_deadline_margin",
        ),
        (Limits(max_cache_ttl_s=5), cache(READ_WRITE, ttl=seconds(6)), "cache.ttl"),
    ],
    ids=str,
)
def test_an_operator_may_move_each_bound(limits, fields, path):
    assert paths(limits, **fields) == [path]


def test_a_default_of_retention_never_exceeds_its_maximum():
    limits = Limits(max_linger_s=1, max_log_ttl_s=2)
    request, _ = parsed(limits, **retention(on_disconnect=CONTINUE))
    assert (request.retention.linger_s, request.retention.log_ttl_s) == (1, 2)


def test_the_default_age_of_a_cached_answer_never_exceeds_its_maximum():
    request, _ = parsed(Limits(max_cache_ttl_s=3), **cache(READ_WRITE))
    assert request.cache.ttl_s == 3


def key(**fields):
    request, violations = parsed(**{**cache(READ_WRITE), **fields})
    assert not violations
    return request.cache.key


ASKS_SOMETHING_ELSE = {
    "model": {"model": "openai/other"},
    "provider": {"model": "anthropic/m"},
    "message": {"messages": [pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="hello ")])]},
    "role": {"messages": [pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(text="hello")])]},
    "one message more": {"messages": [USER, USER]},
    "cache hint": {
        "messages": [pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="hello", cache_hint=True)])]
    },
    "generation": {"generation": pb.GenerationConfig(max_output_tokens=1)},
    "zero temperature": {"generation": pb.GenerationConfig(temperature=0)},
    "tools": {"tools": [pb.Tool(name="t")]},
    "tool choice": {
        "tools": [pb.Tool(name="t")],
        "tool_choice": pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED),
    },
    "response format": {"response_format": pb.ResponseFormat(json=pb.JsonFormat())},
    "provider options": {"provider_options": {"user": "u"}},
}


def test_requests_for_different_answers_have_different_cache_keys():
    keys = [key()] + [key(**fields) for fields in ASKS_SOMETHING_ELSE.values()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "fields",
    [
        delivery(usage_interval=seconds(2)),
        retention(on_disconnect=CONTINUE, log_ttl=seconds(5)),
        {"request_id": "r"},
        cache(READ_WRITE, ttl=seconds(1)),
        cache(REFRESH),
    ],
    ids=str,
)
def test_requests_that_differ_only_in_delivery_have_the_same_cache_key(fields):
    assert key(**fields) == key()


def test_the_order_of_provider_options_does_not_matter():
    forth = {f"key {n}": {"a": [n]} for n in range(40)}
    back = dict(reversed(forth.items()))
    assert key(provider_options=forth) == key(provider_options=back)


def body_hash(**fields):
    request, violations = parsed(**{"request_id": "r", **fields})
    assert not violations
    return request.body_hash


def test_requests_with_the_same_id_may_differ_only_in_delivery():
    served = [
        retention(on_disconnect=CONTINUE),
        retention(log_ttl=seconds(5)),
        cache(READ_WRITE),
        cache(REFRESH),
    ]
    others = [*ASKS_SOMETHING_ELSE.values(), *served]
    hashes = [body_hash()] + [body_hash(**fields) for fields in others]
    assert len(set(hashes)) == len(hashes)
    assert body_hash(**delivery(usage_interval=seconds(2))) == body_hash()


@pytest.mark.parametrize(
    ("span", "sum_s"),
    [
        (Duration(seconds=2, nanos=-500_000_000), 1.5),
        (Duration(nanos=2_000_000_000), 2),
        (Duration(seconds=-1, nanos=2_000_000_000), 1),
    ],
    ids=["of two signs", "of two seconds of nanoseconds", "negative and positive"],
)
def test_a_malformed_duration_counts_as_the_sum_of_its_fields(span, sum_s):
    request, violations = parsed(**retention(log_ttl=span))
    assert violations == []
    assert request.retention.log_ttl_s == sum_s


def test_an_operator_may_allow_long_intervals_only():
    delivery = pb.DeliveryOptions(heartbeat_interval=seconds(7200))
    request, violations = parsed(Limits(min_delivery_interval_s=7200.0), delivery=delivery)
    assert not violations
    assert request.delivery.heartbeat_s == 7200
