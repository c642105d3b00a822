import asyncio
from types import SimpleNamespace

import pytest
from stages_support import stages_into

from tokenwire_server.config import FilterConfig
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.content.filter_stage import BLOCKED, FilterStage
from tokenwire_server.events import TextDelta
from tokenwire_server.streams import holding
from tokenwire_server.streams.holding import HoldTimer

pytestmark = pytest.mark.virtual_time


class Held:
    """Stages with filters, their timer, and what passed with the seconds since the start."""

    def __init__(self, *filters):
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        configs = {str(n): FilterConfig(**fields) for n, fields in enumerate(filters)}
        made = [FilterStage(each) for each in FilterSet.of(configs).chosen("", "")]
        self.passed, self.ends = [], []
        self.stages = stages_into(lambda delta: self.passed.append((delta.text, self.now)), made)
        self.timer = HoldTimer(self.stages, lambda: self.ends.append(self.now))

    @property
    def now(self):
        return round(self._loop.time() - self._began, 1)

    def append(self, text):
        self.timer.append(TextDelta(text, 0))


@pytest.fixture(autouse=True)
def one_clock(monkeypatch):
    """Lets the timer read the clock of the event loop."""
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr(holding, "time", clock)


def pattern(*patterns, action="redact", hold_s=1.0):
    return {"action": action, "patterns": patterns, "hold_s": hold_s}


async def test_text_is_released_after_a_pause_and_not_while_more_arrives():
    held = Held(pattern("[a-z]{9}"))
    for char in "abcde":
        held.append(char)
        await asyncio.sleep(0.9)
    assert held.passed == []
    await asyncio.sleep(9.0)
    assert held.passed == [("abcde", 4.6)]


async def test_each_filter_holds_text_for_its_own_time():
    held = Held(pattern("abx", hold_s=3.0), pattern("abcx", hold_s=1.0))
    held.append("ab")
    await asyncio.sleep(9.0)
    assert held.passed == [("ab", 3.0)], "the second one had waited long enough"
    held.append("c ab")
    assert held.passed[1:] == [("c ", 9.0)]
    await asyncio.sleep(1.0)
    held.append("c")
    assert held.passed[2:] == []
    await asyncio.sleep(9.0)
    assert held.passed[2:] == [("abc", 11.0)], "only the second one holds it"


async def test_a_match_that_is_released_may_end_the_answer():
    held = Held(pattern("secrets?", action="block"))
    held.append("a secret")
    await asyncio.sleep(9.0)
    assert held.passed == [("a ", 0.0)]
    assert held.ends == [1.0]
    assert held.stages.end == BLOCKED


async def test_what_arrived_while_the_event_loop_was_busy_comes_before_the_release():
    held = Held(pattern("secret"))
    held.append("a sec")
    asyncio.get_running_loop().steal(3.0)
    await asyncio.sleep(0.01)  # the timer, which is late, runs before anything that has arrived
    held.append("ret b sec")
    await asyncio.sleep(9.0)
    assert [text for text, _ in held.passed] == ["a ", "[redacted] b ", "sec"]


async def test_a_busy_event_loop_does_not_stop_the_release():
    held = Held(pattern("secret"))
    held.append("sec")
    for _ in range(30):
        asyncio.get_running_loop().steal(0.3)
        await asyncio.sleep(0.01)
    assert [text for text, _ in held.passed] == ["sec"]
    assert held.passed[0][1] <= 3.0


async def test_nothing_runs_after_close_or_without_held_text():
    held = Held(pattern("secret"))
    held.append("harmless ")
    assert len(asyncio.get_running_loop()._scheduled) == 0
    held.append("sec")
    held.timer.close()
    await asyncio.sleep(9.0)
    assert held.passed == [("harmless ", 0.0)]
