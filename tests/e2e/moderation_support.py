"""Servers with moderation, at a real service, and texts."""

import asyncio
import json

from moderation_services import moderation

CALM = "all is calm and nothing happens here "
BAD = "then comes violence "
FAULTS = {"down": (503, b""), "garbage": (200, b"<html>"), "slow": None}


class Moderated:
    """Servers with a moderation each, at one service. They run until the end of the module."""

    def __init__(self, service, start, simulator, stack):
        self.service = service
        self._start, self._simulator, self._stack = start, simulator, stack
        self._servers = {}

    def server(self, env=None, **settings):
        """Return the process and the address of a server with a moderation `m`."""
        key = json.dumps([settings, env])
        if key not in self._servers:
            settings = {"window_chars": 20, "overlap_chars": 5, "timeout_s": 30.0, **settings}
            configured = {"m": moderation(self.service, **settings)}
            env = {"TOKENWIRE_MODERATION": json.dumps(configured)} | (env or {})
            env = self._simulator.environ() | {"MODERATION_KEY": "k"} | env
            self._servers[key] = self._stack.enter_context(
                self._start("serve", "--listen", "127.0.0.1:0", env=env)
            )
        return self._servers[key]

    async def until_asked(self, count=1):
        """Wait until as many checks are open."""
        async with asyncio.timeout(20):
            while self.service.open_count < count:
                await asyncio.sleep(0.01)

    async def until_idle(self):
        async with asyncio.timeout(20):
            while self.service.open_count:
                await asyncio.sleep(0.01)
