"""Records that wait to be written, and what is dropped when there are too many."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.events import Usage
from tokenwire_server.ledger.pending import Pending
from tokenwire_server.ledger.record import Outcome, UsageRecord


def record(stream_id, tokens=0, outcome=Outcome.OPEN):
    return UsageRecord(
        stream_id=stream_id,
        instance_id="one",
        tenant="acme",
        key_prefix="",
        request_id="",
        labels={},
        model_asked="fast",
        created_time=1.0,
        outcome=outcome,
        usage=Usage(0, tokens),
    )


def closed(stream_id, tokens=0):
    return record(stream_id, tokens, Outcome.FINISHED)


def write_all(pending):
    written = []
    while records := pending.take(1000):
        written += records
        pending.written()
    return written


def with_rows(pending, *stream_ids):
    """Add open streams that have rows."""
    for stream_id in stream_ids:
        pending.begin(record(stream_id))
    write_all(pending)


def test_a_stream_that_begins_and_ends_at_once_is_one_record():
    pending = Pending(10)
    pending.begin(record("1"))
    pending.checkpoint(record("1", 5))
    pending.close(closed("1", 9))
    assert len(pending) == 1
    assert write_all(pending) == [closed("1", 9)]


def test_beginnings_and_ends_are_written_before_figures():
    pending = Pending(10)
    with_rows(pending, "1", "2")
    pending.checkpoint(record("1", 5))
    pending.checkpoint(record("2", 5))
    pending.begin(record("3"))
    pending.close(closed("1", 9))
    assert pending.take(2) == [record("3"), closed("1", 9)]
    pending.written()
    assert write_all(pending) == [record("2", 5)]


def test_records_that_were_not_written_wait_with_newer_ones():
    pending = Pending(10)
    with_rows(pending, "figures", "both", "end")
    for stream_id in ("figures", "both"):
        pending.checkpoint(record(stream_id, 1))
    pending.begin(record("new"))
    pending.close(closed("end", 3))
    assert len(pending.take(10)) == 4
    pending.checkpoint(record("both", 2))
    pending.close(closed("new", 4))
    pending.checkpoint(record("end", 2))
    pending.not_written()
    assert len(pending) == 4
    assert pending.take(2) == [closed("new", 4), closed("end", 3)]
    pending.written()
    assert write_all(pending) == [record("figures", 1), record("both", 2)]


def test_a_record_that_the_database_rejects_waits_behind_the_others():
    pending = Pending(10)
    for stream_id in ("bad", "2", "3"):
        pending.begin(record(stream_id))
    assert pending.take(1) == [record("bad")]
    pending.not_written()
    assert pending.take(2) == [record("2"), record("3")]


def test_when_full_figures_are_dropped_first_then_new_streams_and_never_ends():
    pending = Pending(3)
    with_rows(pending, "a", "b", "c")
    for stream_id in "abc":
        pending.checkpoint(record(stream_id, 1))
    pending.begin(record("d"))  # takes the place of c's figures
    assert len(pending) == 3
    pending.checkpoint(record("c", 2))
    for stream_id in "efg":
        pending.begin(record(stream_id))
    assert len(pending) == 3
    for stream_id in "abcdefg":
        pending.close(closed(stream_id, 9))
    assert pending.dropped_count == 1
    assert sorted(r.stream_id for r in write_all(pending)) == [*"abcdef"]


@pytest.mark.parametrize("is_written", [True, False])
def test_the_end_of_a_stream_that_is_being_written_is_accepted_when_full(is_written):
    pending = Pending(1)
    pending.begin(record("1"))
    assert pending.take(1) == [record("1")]
    pending.close(closed("1", 9))
    pending.written() if is_written else pending.not_written()
    assert write_all(pending) == [closed("1", 9)]
    assert pending.dropped_count == 0


def test_a_stream_whose_first_record_was_dropped_is_accepted_later():
    pending = Pending(1)
    pending.begin(record("1"))
    for stream_id in ("2", "3", "4"):
        pending.begin(record(stream_id))
    write_all(pending)
    pending.checkpoint(record("2", 5))
    assert write_all(pending) == [record("2", 5)]
    pending.close(closed("3", 7))
    pending.close(closed("4", 8))
    assert write_all(pending) == [closed("3", 7)]
    assert pending.dropped_count == 1


def test_streams_that_have_ended_leave_nothing_behind():
    pending = Pending(100)
    for n in range(1000):
        pending.begin(record(str(n)))
        if n % 2:
            write_all(pending)
        pending.checkpoint(record(str(n)))
        pending.close(closed(str(n)))
        write_all(pending)
    held = (pending._missing, pending._figures, pending._taken, pending._rows)
    assert not any(held)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "checkpoint", "close", "take", "written", "not written"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(max_examples=scaled(500))
@given(operations=OPERATIONS, max_count=st.integers(1, 8))
def test_after_any_operations_each_stream_has_its_last_record_or_is_counted(operations, max_count):
    """`rows` is the expected content of the database. A stream begins at most once, then has figures and
    an end.
    """
    pending, rows, newest, taken, dropped = Pending(max_count), {}, {}, [], set()
    for number, (operation, which) in enumerate(operations):
        state = newest.get(which)
        is_open = state is not None and state.outcome is Outcome.OPEN
        match operation:
            case "begin" if state is None and which not in dropped:
                newest[which] = record(str(which), number)
                pending.begin(newest[which])
            case "checkpoint" if is_open:
                newest[which] = record(str(which), number)
                pending.checkpoint(newest[which])
            case "close" if is_open:
                newest[which] = closed(str(which), number)
                pending.close(newest[which])
                if pending.dropped_count > len(dropped):
                    assert len(pending) >= max_count
                    dropped.add(which)
                    del newest[which]
            case "take" if not taken:
                taken = pending.take(which)
                assert len(taken) <= which
                for each in taken:
                    row = rows.get(each.stream_id)
                    has_row = row is not None and row.outcome is Outcome.OPEN
                    is_open = each.outcome is Outcome.OPEN
                    assert pending.is_figures(each) == (has_row and is_open)
            case "written" | "not written" if taken:
                if operation == "written":
                    for each in taken:
                        kept = rows.get(each.stream_id)
                        assert kept is None or kept.outcome is Outcome.OPEN
                        assert kept is None or kept.usage.output_tokens <= each.usage.output_tokens
                        rows[each.stream_id] = each
                    pending.written()
                else:
                    pending.not_written()
                taken = []
        assert len(pending) <= max_count + 6
    if taken:
        pending.not_written()
    for each in write_all(pending):
        rows[each.stream_id] = each
    assert pending.dropped_count == len(dropped)
    assert not {str(which) for which in dropped} & rows.keys()
    for which, state in newest.items():
        if state.outcome is not Outcome.OPEN:
            assert rows[str(which)] == state


def test_a_record_takes_microseconds_however_many_wait():
    pending = Pending(100_000)
    for n in range(100_000):
        pending.begin(record(f"old {n}"))
    records = [(record(str(n)), record(str(n), 1), closed(str(n), 2)) for n in range(5000)]
    began = time.thread_time()
    for first, middle, last in records:
        pending.begin(first)
        pending.checkpoint(middle)
        pending.close(last)
    each_us = (time.thread_time() - began) / len(records) * 1e6
    print(f"a stream's records take {each_us:.1f} us")
    assert each_us < 100  # 2 on an idle machine
