from hypothesis import given
from hypothesis import strategies as st

from tokenwire.stream.tool_loop import PendingCall
from tokenwire.stream.tool_schedule import ToolSchedule
from tokenwire.tools.function_tool import function_tool
from tokenwire.v1.event_pb2 import ToolCall

TOOL = function_tool(lambda: 1, name="tool")


def schedule(count, max_concurrency=2, tool_timeout_s=10.0):
    calls = [PendingCall(ToolCall(), TOOL, {}) for _ in range(count)]
    made = ToolSchedule(calls, max_concurrency=max_concurrency, tool_timeout_s=tool_timeout_s)
    return made, calls


def test_calls_start_in_order_as_far_as_there_is_room():
    made, (a, b, c) = schedule(3)
    assert made.start(0) == [a, b]
    assert made.start(1) == []
    assert made.end(b, 3) == 3
    assert made.start(3) == [c]
    assert not made.is_empty
    assert (made.end(a, 4), made.end(c, 5)) == (4, 2)
    assert made.is_empty


def test_the_time_of_a_call_runs_from_its_own_start():
    made, (a, b, c) = schedule(3)
    assert made.wait_s(0) is None
    made.start(0)
    made.end(a, 4)
    made.start(4)
    assert made.wait_s(4) == 6
    assert made.overdue(9.9) == []
    assert made.overdue(10) == [b]
    assert made.wait_s(12) == 0
    made.end(b, 12)
    assert made.wait_s(12) == 2
    assert made.overdue(14) == [c]


def test_a_call_ends_once():
    made, (a,) = schedule(1)
    made.start(0)
    assert made.end(a, 10) == 10
    assert made.end(a, 11) is None


def test_without_a_limit_no_call_is_overdue():
    made, _ = schedule(1, tool_timeout_s=None)
    made.start(0)
    assert made.wait_s(1e9) is None
    assert made.overdue(1e9) == []


@given(st.integers(0, 20), st.integers(1, 5), st.data())
def test_every_call_starts_once_and_never_more_than_the_bound_at_once(count, bound, data):
    made, calls = schedule(count, max_concurrency=bound)
    running, started = [], []
    now = 0.0
    while not made.is_empty:
        new = made.start(now)
        started += new
        running += new
        assert 0 < len(running) <= bound
        assert len(running) == min(bound, count - len(started) + len(running))
        now += 1
        ended = data.draw(st.sampled_from(running))
        running.remove(ended)
        made.end(ended, now)
    assert started == calls
