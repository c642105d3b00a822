"""The queue for long work: rotation, bounds, and cancellation."""

import asyncio
import itertools
import random

import pytest

from tokenwire_server.errors import Overloaded
from tokenwire_server.turns import Turns


class Queue:
    """Tasks that take turns. `order` has the names of those that got one."""

    def __init__(self, max_waiting=100):
        self.turns = Turns(max_waiting=max_waiting, refusal="full")
        self.order = []
        self.is_running = False

    def add(self, name, work=1):
        """Start a task; the first letter of its name is its tenant."""
        return asyncio.create_task(self._run(name, work))

    async def _run(self, name, work):
        async with self.turns.turn(name[0], work):
            assert not self.is_running
            self.is_running = True
            self.order.append(name)
            try:
                await asyncio.sleep(0)
            finally:
                self.is_running = False

    def assert_empty(self):
        assert not self.turns._waiting
        assert self.turns._free_count == 1


async def test_turns_go_to_tenants_in_rotation_and_to_the_tasks_of_a_tenant_in_order():
    queue = Queue()
    names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    await asyncio.gather(*map(queue.add, names))
    assert queue.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]
    queue.assert_empty()


async def test_a_free_turn_is_taken_without_a_wait():
    turns = Turns(max_waiting=1, refusal="full")
    taking = turns.turn("a", 1000).__aenter__()
    with pytest.raises(StopIteration):
        taking.send(None)


async def test_the_waiting_tenants_share_the_bound():
    queue = Queue(max_waiting=12)

    async def accepted(tenant, most=20):
        tasks = [queue.add(f"{tenant}{n}") for n in range(most)]
        asyncio.get_running_loop().call_soon(ready.set)
        await ready.wait()
        ready.clear()
        waiting.extend(task for task in tasks if not task.done())
        refused = [task.exception() for task in tasks if task.done()]
        assert all(isinstance(error, Overloaded) for error in refused)
        assert {error.limit for error in refused} == {12 // len(queue.turns._waiting)}
        return most - len(refused)

    ready, waiting = asyncio.Event(), []
    async with queue.turns.turn("z", 1):
        assert await accepted("a") == 12  # alone
        assert await accepted("b") == 6
        assert await accepted("c") == 4
        assert await accepted("a") == 0
    await asyncio.gather(*waiting)
    queue.assert_empty()


async def test_a_tenant_without_waiting_work_is_accepted_however_large_its_work_is():
    queue = Queue(max_waiting=10)
    async with queue.turns.turn("a", 1):
        tasks = [queue.add("a1", 1000), queue.add("a2"), queue.add("b1", 1000), queue.add("b2")]
        await asyncio.wait(tasks, timeout=0)
    first, second = await asyncio.gather(*tasks[1::2], return_exceptions=True)
    assert isinstance(first, Overloaded)
    assert isinstance(second, Overloaded)
    await asyncio.gather(*tasks[::2])
    queue.assert_empty()


@pytest.mark.parametrize("rounds", range(8))
@pytest.mark.parametrize("cancelled", range(6))
async def test_a_task_that_is_cancelled_leaves_the_queue_at_every_point(cancelled, rounds):
    queue = Queue()
    tasks = list(map(queue.add, ["a1", "a2", "b1", "a3", "c1", "b2"]))
    for _ in range(rounds):
        await asyncio.sleep(0)
    tasks[cancelled].cancel()
    await asyncio.wait(tasks)
    ended = [task for n, task in enumerate(tasks) if n != cancelled]
    assert all(task.exception() is None for task in ended)
    queue.assert_empty()


async def test_random_cancellations_lose_no_turn_and_no_work():
    chance = random.Random(7)
    for _ in range(300):
        queue, tasks = Queue(), []
        for n, tenant in zip(range(12), itertools.cycle("aaabc")):
            tasks.append(queue.add(f"{tenant}{n}"))
            if chance.random() < 0.5:
                chance.choice(tasks).cancel()
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        queue.assert_empty()
