"""An event loop for tests that wait, but should not take the time."""

import asyncio
import selectors


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock does not run: when nothing else happens, it jumps to the next timer.

    Pauses take no time, and how busy the machine is changes no figure.
    """

    def __init__(self):
        self.now = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self):
        return self.now

    def steal(self, seconds):
        """Let time pass in which the loop does not run."""
        self.now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    ARRIVAL_S = 0.002
    """What was sent on a loopback connection is there within this time."""

    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        if not timeout or timeout < 0:
            return super().select(timeout)
        events = super().select(self.ARRIVAL_S)
        if not events:
            self._loop.now += timeout
        return events


def pytest_asyncio_loop_factories(item):
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}
