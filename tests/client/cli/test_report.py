import pytest
from google.protobuf.duration_pb2 import Duration

from tokenwire.cli.report import Tally
from tokenwire.v1.event_pb2 import Finished, Timings, ToolCallDelta
from tokenwire.v1.usage_pb2 import Usage

from ..conftest import event, finished, reasoning, started, text, unknown_event


def tally_of(*timed):
    tally = Tally()
    for at_s, each in timed:
        tally.add(each, at_s)
    return tally


def test_ttft_is_the_callers_and_counts_the_first_token_of_any_kind():
    timed = [(0.01, started()), (0.5, reasoning(2, "Hm")), (1.5, text(3, "a")), (2.5, finished(4))]

    assert tally_of(*timed).finished_line(2.5) == (
        "TTFT 500 ms, 17.0 tokens/s, 12 tokens in, 34 out, finished: stop"
    )


def test_the_servers_speed_counts_more_than_ours():
    timings = Timings(ttft=Duration(seconds=1), output_tokens_per_second=99.94)
    end = Finished(reason=42, usage=Usage(input_tokens=1, output_tokens=2), timings=timings)

    line = tally_of((1.25, text(1, "a")), (2, event(2, finished=end))).finished_line(2)

    assert line == "TTFT 1.2 s, 99.9 tokens/s, 1 tokens in, 2 out, finished: reason 42"


def test_an_answer_without_tokens_has_neither_ttft_nor_speed():
    line = tally_of((0.1, started()), (0.2, finished(2))).finished_line(0.2)

    assert line == "12 tokens in, 34 out, finished: stop"


def test_a_cancelled_stream_tells_events_and_a_guess_of_its_tokens():
    arguments = event(4, tool_call_delta=ToolCallDelta(arguments_json="{}"))
    timed = [started(), text(2, "ü" * 4), reasoning(3, "abcd"), arguments, unknown_event(5)]

    tally = tally_of(*((0.1, each) for each in timed))

    assert tally.cancelled_line(1.23) == "cancelled after 5 events, ~4 tokens, 1.2 s"
    assert tally_of((0.1, started())).cancelled_line(0.1) == (
        "cancelled after 1 event, ~0 tokens, 100 ms"
    )


def test_a_stream_that_has_not_finished_has_no_figures():
    with pytest.raises(ValueError, match="not finished"):
        tally_of((0.1, started())).finished_line(1)
