"""A bound that tenants share."""

import random
from collections import Counter

import pytest

from tokenwire_server.errors import Overloaded
from tokenwire_server.rpc.authentication import OpenCalls
from tokenwire_server.shares import SharedBound
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streamlog.space import LogSpace


def flood(bound, tenant):
    """Take as many as possible."""
    count = 0
    while bound.may_take(tenant):
        bound.take(tenant)
        count += 1
    return count


@pytest.mark.parametrize("size", [1, 2, 9, 20, 2000])
def test_one_tenant_leaves_a_part_for_others_who_get_it_at_once(size):
    shared = SharedBound(size, lambda: True)
    taken = flood(shared, "acme")
    assert taken == max(1, -(-size * 8 // 9))
    assert size < 9 or shared.may_take("globex")


def test_one_tenant_gets_the_whole_bound_if_there_are_no_others():
    assert flood(SharedBound(20, lambda: False), "default") == 20


@pytest.mark.parametrize("count", [2, 3, 10])
def test_tenants_that_all_flood_get_equal_parts_whoever_came_first(count):
    shared, have = SharedBound(1800, lambda: True), Counter()
    have["tenant-0"] = flood(shared, "tenant-0")
    choose = random.Random(7)
    for _ in range(20_000):
        leaver = choose.choices([*have], [*have.values()])[0]
        shared.give(leaver)
        have[leaver] -= 1
        for name in (*["tenant-0"] * 10, *(f"tenant-{n}" for n in range(1, count))):
            if shared.may_take(name):
                shared.take(name)
                have[name] += 1
        assert shared.used == have.total() <= shared.bound
    share = 1800 * 8 / (8 * count + 1)
    assert len(have) == count
    assert all(abs(n - share) <= share / 10 for n in have.values())


def test_nothing_can_be_taken_while_the_bound_is_below_what_is_used():
    shared = SharedBound(10, lambda: True)
    flood(shared, "acme")
    shared.bound = 5
    assert not shared.may_take("acme")
    assert not shared.may_take("globex")
    shared.give("acme", 8)
    assert shared.may_take("acme")


def test_calls_of_one_tenant_leave_places_for_another():
    calls, running = OpenCalls(18, lambda: True), []

    def open_call(tenant):
        call = calls.counted(tenant)
        call.__enter__()
        running.append(call)

    with pytest.raises(Overloaded, match="too many calls of this tenant are open"):
        for _ in range(18):
            open_call("acme")
    assert len(running) == 16
    open_call("globex")
    for call in running:
        call.__exit__(None, None, None)
    open_call("acme")


def test_a_tenant_that_takes_little_memory_may_open_streams_while_others_have_filled_it():
    space = LogSpace(16 * 2**20, lambda: None, lambda: True)
    space.take(20 * 2**20, "acme")
    assert space.full
    assert not space.may_open("acme")
    assert space.may_open("globex")
    log = MemoryLog(2**30, space, "globex")
    space.take(2**20, "globex")
    assert not space.may_open("globex")
    log.drop()
    space.give(2**20, "globex")
    assert space.may_open("globex")
