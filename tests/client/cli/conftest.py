import asyncio
import os

import pytest

from ..conftest import LIMIT_S


class Terminal:
    """A pseudo-terminal, and what a command has written to it."""

    def __init__(self):
        self._master, self.slave = os.openpty()
        self._grew = asyncio.Event()
        self._closed = False
        self._bytes = b""
        self.shown = ""
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def _read(self):
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: no process holds the other side any more
            data = b""
        if not data:
            self.close()
        self._bytes += data
        self.shown = self._bytes.decode(errors="replace").replace("\r\n", "\n")
        self._grew.set()

    def close(self):
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)

    async def shows(self, what):
        async with asyncio.timeout(LIMIT_S):
            while what not in self.shown:
                assert not self._closed, f"{what!r} never came: {self.shown!r}"
                self._grew.clear()
                await self._grew.wait()

    async def prompts(self):
        """Wait until a prompt is the last thing shown: keys that are typed before are not edited."""
        async with asyncio.timeout(LIMIT_S):
            while not self.shown.endswith("> "):
                assert not self._closed, f"there is no prompt: {self.shown!r}"
                self._grew.clear()
                await self._grew.wait()

    def type(self, keys):
        os.write(self._master, keys)

    async def start(self, command_line, *arguments, columns=80, term="xterm"):
        command_line.environment |= {"TERM": term, "COLUMNS": str(columns)}
        process = await command_line.start(
            *arguments, stdin=self.slave, stdout=self.slave, stderr=self.slave
        )
        os.close(self.slave)
        return process

    async def end_of(self, process):
        async with asyncio.timeout(LIMIT_S):
            code = await process.wait()
            while not self._closed:
                self._grew.clear()
                await self._grew.wait()
        return code


@pytest.fixture
async def terminal():
    each = Terminal()
    yield each
    each.close()
