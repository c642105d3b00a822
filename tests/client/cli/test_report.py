import pytest
from google.protobuf.duration_pb2 import Duration

from tokenwire.cli.connection import Connection
from tokenwire.cli.report import Tally, error_lines, stream_text, usage_text
from tokenwire.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidAnswer,
    UpstreamRejected,
    Violation,
)
from tokenwire.v1.chat_pb2 import StreamInfo
from tokenwire.v1.event_pb2 import (
    FINISH_REASON_OTHER,
    FINISH_REASON_STOP,
    NOTICE_KIND_CAUGHT_UP,
    Finished,
    Heartbeat,
    Notice,
    Timings,
    ToolCallDelta,
)
from tokenwire.v1.usage_pb2 import Usage
from tokenwire.wire.status import from_status

from ..conftest import event, finished, reasoning, started, text, tool_call, unknown_event

LOST_LINE = "tokenwire: the connection to 127.0.0.1:50051 was lost after event 7"


def tally_of(*timed, resumed=False):
    tally = Tally(resumed=resumed)
    for at_s, each in timed:
        tally.add(each, at_s)
    return tally


def problems(*timed, resumed=False):
    return list(tally_of(*timed, resumed=resumed).problem_lines())


def test_ttft_is_measured_here_and_counts_the_first_token_of_any_kind():
    timed = [(0.01, started()), (0.5, reasoning(2, "Hm")), (1.5, text(3, "a")), (2.5, finished(4))]

    assert tally_of(*timed).finished_line(2.5) == (
        "TTFT 500 ms, 17.0 tokens/s, 12 tokens in, 34 out, finished: stop"
    )


def test_the_speed_that_the_server_reports_takes_precedence():
    timings = Timings(ttft=Duration(seconds=1), output_tokens_per_second=99.94)
    end = Finished(reason=42, usage=Usage(input_tokens=1, output_tokens=2), timings=timings)

    line = tally_of((1.25, text(1, "a")), (2, event(2, finished=end))).finished_line(2)

    assert line == "TTFT 1.2 s, 99.9 tokens/s, 1 tokens in, 2 out, finished: reason 42"


def test_without_the_servers_speed_none_is_shown_for_a_model_that_reasoned():
    usage = Usage(input_tokens=1, output_tokens=1000, reasoning_tokens=990)
    end = event(2, finished=Finished(reason=1, usage=usage))

    line = tally_of((1.25, text(1, "a")), (2, end)).finished_line(2)

    assert line == "TTFT 1.2 s, 1 tokens in, 1000 out, finished: stop"


def test_an_answer_without_tokens_has_neither_ttft_nor_speed():
    line = tally_of((0.1, started()), (0.2, finished(2))).finished_line(0.2)

    assert line == "12 tokens in, 34 out, finished: stop"


@pytest.mark.parametrize(
    ("reason", "count", "line"),
    [
        (3, 34, "MAX_TOKENS after 34 reasoning tokens; try a higher --max-output-tokens"),
        (11, 0, "CONTEXT_FULL; try a shorter prompt"),
        (1, 0, "STOP"),
    ],
)
def test_an_answer_without_text_says_how_it_ended(reason, count, line):
    usage = Usage(output_tokens=34, reasoning_tokens=count)
    timed = [
        (0.1, reasoning(2, "Hm")),
        (0.2, event(3, finished=Finished(reason=reason, usage=usage))),
    ]

    assert problems(*timed) == [f"the answer has no text: it ended with {line}"]
    assert not problems((0.1, text(1, "a")), *timed)
    assert not problems((0.1, tool_call(1, "f", "{}")), *timed)
    assert not problems(*timed, resumed=True)


def test_the_provider_s_own_reason_is_added_if_the_reason_is_other():
    def line(reason):
        end = Finished(reason=reason, provider_finish_reason="weird\nword")
        return tally_of((0.1, event(2, finished=end))).finished_line(0.1)

    assert line(FINISH_REASON_OTHER).endswith("finished: other (weird word)")
    assert line(FINISH_REASON_STOP).endswith("finished: stop")


def test_a_cancelled_stream_reports_its_events_and_an_estimate_of_its_tokens():
    arguments = event(4, tool_call_delta=ToolCallDelta(arguments_json="{}"))
    timed = [started(), text(2, "ü" * 4), reasoning(3, "abcd"), arguments, unknown_event(5)]

    tally = tally_of(*((0.1, each) for each in timed))

    assert tally.cancelled_line(1.23) == "cancelled after 5 events, ~4 tokens, 1.2 s"
    assert tally_of((0.1, started())).cancelled_line(0.1) == (
        "cancelled after 1 event, ~0 tokens, 100 ms"
    )


def test_a_cancelled_stream_reports_its_usage_if_it_is_known():
    usage = Usage(input_tokens=12, output_tokens=3)

    line = tally_of((0.1, started()), (0.2, text(2, "a"))).cancelled_line(0.3, usage)

    assert line == "cancelled after 2 events, 12 tokens in, 3 out, 300 ms"


def test_what_the_server_makes_for_one_reader_is_not_counted_as_an_event():
    beats = [
        event(1, heartbeat=Heartbeat()),
        event(1, usage=Usage(output_tokens=3)),
        event(1, notice=Notice(kind=NOTICE_KIND_CAUGHT_UP)),
    ]

    tally = tally_of(*((0.1, each) for each in [started(), *beats]))

    assert tally.cancelled_line(0.1) == "cancelled after 1 event, ~0 tokens, 100 ms"


def test_a_resumed_stream_reports_the_servers_figures():
    timings = Timings(ttft=Duration(nanos=250_000_000), output_tokens_per_second=9)
    end = Finished(reason=1, usage=Usage(input_tokens=1, output_tokens=2), timings=timings)
    without = Finished(reason=1, usage=Usage(input_tokens=1, output_tokens=2))

    tally = tally_of((5.0, text(7, "a")), (6.0, event(8, finished=end)), resumed=True)
    bare = tally_of((5.0, text(7, "a")), (6.0, event(8, finished=without)), resumed=True)

    assert tally.finished_line(6.0) == (
        "TTFT 250 ms, 9.0 tokens/s, 1 tokens in, 2 out, finished: stop"
    )
    assert bare.finished_line(6.0) == "1 tokens in, 2 out, finished: stop"
    assert tally_of(resumed=True).finished_line(0.1) == (
        "there are no more events: the stream ended there"
    )


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (StreamInfo(state=2, finish_reason=9), "finished: cancelled, 5 tokens in, 6 out"),
        (
            StreamInfo(state=3, error_reason="UPSTREAM_BROKEN"),
            "failed: UPSTREAM_BROKEN, 5 tokens in, 6 out",
        ),
        (StreamInfo(state=1), "running, 5 tokens in, 6 out"),
    ],
)
def test_the_state_of_a_stream_is_one_line(info, says):
    info.usage.CopyFrom(Usage(input_tokens=5, output_tokens=6))

    assert stream_text(info) == says


@pytest.mark.parametrize(
    ("usage", "says"),
    [
        (Usage(service_tier="default"), "0 tokens in, 0 out"),
        (
            Usage(
                service_tier="priority", server_tool_counts={"x": 1, "a": 2}, cost_microusd=20_000
            ),
            "0 tokens in, 0 out, a: 2, x: 1, tier priority, $0.02",
        ),
        (Usage(service_tier="\x1b[2J", estimated=True), "~0 tokens in, ~0 out, tier \u241b[2J (estimated)"),
    ],
)  # fmt: skip
def test_a_usage_names_tools_and_an_unusual_tier(usage, says):
    assert usage_text(usage) == says


LOCAL = Connection("127.0.0.1:50051")
LOST = ConnectionLost("Stream removed (ping timeout)", stream_id="st_1", last_sequence=7)


def lost(text, **position):
    return from_status(ConnectionLost.default_code, text, **position)


@pytest.mark.parametrize(
    ("error", "connection", "stream", "lines"),
    [
        (LOST, LOCAL, "plain", [LOST_LINE, "  stream st_1"]),
        (LOST, LOCAL, "resumable", [LOST_LINE, "  continue with: tokenwire resume st_1 --after 7"]),
        (
            LOST,
            LOCAL,
            "resumed",
            [LOST_LINE, "  continue with: tokenwire resume st_1 --after 7"],
        ),
        (
            ConnectionLost("Socket closed", stream_id="st_1", last_sequence=7),
            Connection("far:1"),
            "resumable",
            [
                "tokenwire: the connection to far:1 was lost after event 7",
                "  continue with: tokenwire resume st_1 --after 7 --target far:1",
            ],
        ),
        (
            ConnectionLost("Socket closed"),
            LOCAL,
            "resumable",
            ["tokenwire: the connection to 127.0.0.1:50051 was lost before any event"],
        ),
        (
            lost("failed to connect to all addresses"),
            LOCAL,
            "resumable",
            [
                "tokenwire: no server answers at 127.0.0.1:50051; start one with: tokenwire-server serve --demo"
            ],
        ),
        (
            lost("failed to connect to all addresses"),
            Connection("far:1"),
            "resumable",
            ["tokenwire: no server answers at far:1"],
        ),
        (
            lost("failed to connect to all addresses"),
            Connection("localhost"),
            "resumable",
            ["tokenwire: no server answers at localhost; give HOST:PORT: without a port it is 443"],
        ),
        (
            lost("failed to connect to all addresses", stream_id="st_1", last_sequence=7),
            LOCAL,
            "resumable",
            [
                "tokenwire: no server answers at 127.0.0.1:50051",
                "  continue with: tokenwire resume st_1 --after 7",
            ],
        ),
        (
            lost(
                "failed to connect to all addresses; Socket closed",
                stream_id="st_1",
                last_sequence=7,
            ),
            LOCAL,
            "resumable",
            [
                "tokenwire: no server answers at 127.0.0.1:50051",
                "  continue with: tokenwire resume st_1 --after 7",
            ],
        ),
        (
            DeadlineExceeded("Deadline Exceeded", stream_id="st_1", last_sequence=7),
            LOCAL,
            "resumable",  # which has cancelled the stream
            ["tokenwire: DEADLINE_EXCEEDED: the deadline passed"],
        ),
        (
            DeadlineExceeded("Deadline Exceeded", stream_id="st_1", last_sequence=7),
            LOCAL,
            "resumed",
            [
                "tokenwire: DEADLINE_EXCEEDED: the deadline passed",
                "  continue with: tokenwire resume st_1 --after 7",
            ],
        ),
    ],
)
def test_a_lost_connection_is_reported_without_grpcs_texts(
    monkeypatch, error, connection, stream, lines
):
    monkeypatch.delenv("TOKENWIRE_TARGET", raising=False)

    assert list(error_lines(error, connection, stream)) == lines


def test_a_stream_that_has_not_finished_has_no_figures():
    with pytest.raises(ValueError, match="not finished"):
        tally_of((0.1, started())).finished_line(1)


def test_a_rejection_is_reported_with_the_providers_message():
    error = UpstreamRejected(
        "refused", reason="UPSTREAM_REJECTED", metadata={"provider_message": "no such tool"}
    )
    assert list(error_lines(error, LOCAL)) == [
        "tokenwire: UPSTREAM_REJECTED: refused",
        "  the provider's message: no such tool",
    ]


def test_a_violation_by_the_whole_answer_names_the_answer():
    violation = Violation("", "is not an object")
    error = InvalidAnswer("the answer is invalid", violations=[violation])
    assert "  the answer: is not an object" in list(error_lines(error, LOCAL))
