"""The bounds of the simulator's journal."""

from tokenwire_server.simulator.journal import (
    MAX_BODY_BYTES,
    MAX_ENTRIES,
    MAX_KEPT_BYTES,
    Journal,
)


def written(journal, key, body=b""):
    return journal.open(key=key, path="/", model="m", headers={}, body=body)


def test_beyond_the_bound_the_oldest_requests_are_removed_and_the_counters_kept():
    journal = Journal()
    for i in range(MAX_ENTRIES + 10):
        journal.close(written(journal, f"k{i}"), aborted=i % 2 == 0)
    assert journal.find("k9") is None
    assert journal.find("k10") is not None
    stats = journal.stats(connections_open=0, connections_total=0)
    assert stats.requests_total == MAX_ENTRIES + 10
    assert (stats.requests_open, stats.requests_aborted) == (0, MAX_ENTRIES // 2 + 5)


def test_beyond_the_bound_the_oldest_bodies_are_removed_and_their_entries_kept():
    journal = Journal()
    count = MAX_KEPT_BYTES // MAX_BODY_BYTES + 3
    entries = [written(journal, f"k{i}", b"x" * MAX_BODY_BYTES) for i in range(count)]
    assert [entry.body is None for entry in entries] == [True] * 3 + [False] * (count - 3)
    assert journal.find("k0") is entries[0]


def test_a_body_beyond_its_bound_is_not_kept():
    assert written(Journal(), "k", b"x" * (MAX_BODY_BYTES + 1)).body is None


def test_attempts_are_counted_by_key_and_only_the_first_end_counts():
    journal = Journal()
    written(journal, "k")
    entry = written(journal, "k")
    journal.close(entry, aborted=True)
    journal.close(entry, aborted=False)
    assert (entry.attempt, entry.aborted) == (2, True)
    assert journal.find("k") is entry
