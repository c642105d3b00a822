"""Answers with a backlog share the turns of the event loop, and how long they wait is known."""

import asyncio

from tokenwire_server.providers.backlog import MAX_TURN_BYTES, Backlog


async def test_the_first_waiting_answer_shows_how_long_answers_wait():
    now = 0.0
    backlog = Backlog(lambda: now)
    turns = [asyncio.create_task(backlog.turn(MAX_TURN_BYTES)) for _ in range(4)]
    assert backlog.waiting_s() == 0.0
    waited = []
    while not all(turn.done() for turn in turns):
        await asyncio.sleep(0)
        now += 1.0
        waited.append(backlog.waiting_s())
    assert max(waited) >= 2.0
    assert backlog.waiting_s() == 0.0


async def test_a_cancelled_answer_waits_no_longer():
    now = 0.0
    backlog = Backlog(lambda: now)
    turns = [asyncio.create_task(backlog.turn(MAX_TURN_BYTES)) for _ in range(3)]
    await asyncio.sleep(0)
    for turn in turns[1:]:
        turn.cancel()
    await asyncio.wait(turns)
    await asyncio.sleep(0)
    now = 5.0
    assert backlog.waiting_s() == 0.0
