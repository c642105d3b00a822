"""Exchanges with Redis, in which everything that processes share about tenants is reported and requested."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import resources
from typing import NamedTuple, NoReturn, Protocol

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError, ResponseError

logger = logging.getLogger(__name__)

LEASE_S = 5.0
"""How long what a process holds counts after its last report. All processes use the same."""
EXCHANGE_S = 1.0
"""How long Redis may take to answer, before the process enforces the limits alone."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 1.0


class Script:
    """A script that runs in Redis. It takes keys and one argument, and returns bytes, or nil for a call that
    came after a later one of the same process.
    """

    def __init__(self, name: str) -> None:
        self.source = resources.files(__package__).joinpath(name).read_bytes()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class Header(NamedTuple):
    """What each call carries."""

    process: str
    number: int
    """A later call of the process has a higher one."""
    lease_ms: int
    now_ms: int
    """The time, in tests. 0: the time of Redis."""


class Command(NamedTuple):
    """A call of a script."""

    script: Script
    keys: Sequence[str]
    """All in one slot of a cluster."""
    argument: bytes


class Call(Protocol):
    """A call that was prepared by a participant. One of `answered` and `failed` is called, or both if the
    first raises an error.
    """

    def command(self, header: Header) -> Command: ...

    def answered(self, answer: bytes) -> None:
        """Take over the answer."""
        ...

    def failed(self) -> None:
        """Decide without Redis what is not decided. It may have run the call, or may run it later."""
        ...


class Participant(Protocol):
    """What takes part in the exchanges. Each method is one synchronous step."""

    def prepare(self, number: int) -> Iterable[Call]:
        """Return calls for what waits and what is due, a bounded number. `number` is that of the calls."""
        ...

    def renew(self) -> None:
        """Report everything that this process holds, or has to report, with the next exchanges."""
        ...

    def lost(self) -> None:
        """Decide what waits without Redis: it does not serve the calls."""
        ...

    @property
    def is_due(self) -> bool:
        """Whether there is something to report."""
        ...


class Exchange:
    """Runs one exchange at a time, each with the calls of all participants. Belongs to one event loop."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        lease_s: float = LEASE_S,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`client` returns bytes, and repeats no command. `now` is a clock in seconds for tests, in place of
        the clock of Redis.
        """
        self._client = client
        self._lease_s = lease_s
        self._now = now
        self._process = secrets.token_hex(8)
        self._number = 0
        self._participants: list[Participant] = []
        self._wake = asyncio.Event()
        self._exchanging = asyncio.Lock()
        self._has_stopped = False
        self._is_failing = False

    @property
    def is_local(self) -> bool:
        """Whether this process decides alone: Redis does not serve it, or `run` has ended."""
        return self._is_failing or self._has_stopped

    @property
    def is_failing(self) -> bool:
        """Whether Redis does not serve this process."""
        return self._is_failing

    def add(self, participant: Participant) -> None:
        self._participants.append(participant)

    def request(self) -> None:
        """Begin an exchange as soon as possible."""
        self._wake.set()

    async def run(self) -> NoReturn:
        """Exchange with Redis until cancelled. Afterwards this process decides alone."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        renew_at = loop.time() + self._lease_s / 3
        backoff_s = FIRST_BACKOFF_S
        try:
            while True:
                if not self._is_failing:
                    await _wait_until(self._wake, renew_at)
                if loop.time() >= renew_at:
                    renew_at = loop.time() + self._lease_s / 3
                    self._renew()
                is_served = await self._exchange(EXCHANGE_S)
                if task is not None and task.cancelling():
                    # redis-py uses asyncio.wait_for, which loses a cancellation at times before Python 3.12:
                    # https://github.com/python/cpython/issues/86296
                    raise asyncio.CancelledError
                if is_served:
                    backoff_s = FIRST_BACKOFF_S
                else:
                    # Other processes have lost Redis too, and should not come back together.
                    await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))  # noqa: S311
                    backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
        finally:
            self._has_stopped = True
            for participant in self._participants:
                participant.lost()

    async def flush(self, timeout_s: float) -> bool:
        """Report all that is due, when the process ends. Return whether there was time for it."""
        self._renew()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._is_due or self._exchanging.locked():
                    if not await self._exchange(EXCHANGE_S):
                        break
        return not self._is_due

    @property
    def _is_due(self) -> bool:
        return any(participant.is_due for participant in self._participants)

    def _renew(self) -> None:
        for participant in self._participants:
            participant.renew()

    async def _exchange(self, timeout_s: float) -> bool:
        """Run one exchange. Return False if Redis did not serve all of it."""
        async with self._exchanging:
            self._wake.clear()
            calls: list[Call] = []
            answers: list[bytes | Exception | None] = []
            error: Exception | None = None
            try:
                async with asyncio.timeout(timeout_s):
                    if self._is_failing:
                        await self._client.ping()
                        self._renew()
                    self._number += 1
                    for participant in self._participants:
                        calls += participant.prepare(self._number)
                    if calls:
                        answers += await self._run(calls)
            except TimeoutError:
                error = TimeoutError(f"no answer within {timeout_s:g} s")
            except (RedisError, OSError) as caught:
                error = caught
            except Exception as caught:  # streams continue after any error
                logger.exception("an exchange with Redis failed, because of an internal error")
                error = caught
            finally:
                error = self._take_over(calls, answers) or error
                if error is not None:
                    self._lost(error)
            if error is None:
                self._found()
            return error is None

    def _take_over(
        self, calls: list[Call], answers: list[bytes | Exception | None]
    ) -> Exception | None:
        """Give each call its answer. Return an error if one failed."""
        error: Exception | None = None
        failed = calls[len(answers) :]
        for call, answer in zip(calls, answers, strict=False):
            if isinstance(answer, bytes):
                try:
                    call.answered(answer)
                except Exception as caught:  # streams continue after any error
                    logger.exception("an answer of Redis is not used, because of an internal error")
                    error = caught
                else:
                    continue
            else:
                error = answer or ResponseError("a later call of this process was run before")
            failed.append(call)
        for call in failed:
            call.failed()
        return error

    async def _run(self, calls: Sequence[Call]) -> list[bytes | Exception | None]:
        """Run calls with one round trip. Raises RedisError."""
        now_ms = 0 if self._now is None else int(self._now() * 1000)
        header = Header(self._process, self._number, int(self._lease_s * 1000), now_ms)
        commands = [call.command(header) for call in calls]
        found = await self._evaluate(commands)
        missed = [index for index, answer in enumerate(found) if isinstance(answer, NoScriptError)]
        if missed:
            for script in {commands[index].script for index in missed}:
                await self._client.script_load(script.source)
            again = await self._evaluate([commands[index] for index in missed])
            for index, answer in zip(missed, again, strict=True):
                found[index] = answer
        return found

    async def _evaluate(self, commands: Sequence[Command]) -> list[bytes | Exception | None]:
        pipeline = self._client.pipeline(transaction=False)
        for script, keys, argument in commands:
            pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, argument)
        found: list[bytes | Exception | None] = await pipeline.execute(raise_on_error=False)
        return found

    def _lost(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.error(
                "the limits of tenants are not shared with other processes, because Redis does not serve "
                "them: %s; until it does, each process enforces the whole limits alone",
                error,
            )
        for participant in self._participants:
            participant.lost()

    def _found(self) -> None:
        if self._is_failing:
            self._is_failing = False
            logger.warning("the limits of tenants are shared with other processes again")


async def _wait_until(event: asyncio.Event, time: float) -> None:
    """Return when an event is set, or at a time of the loop."""
    try:
        async with asyncio.timeout_at(time):
            await event.wait()
    except TimeoutError:
        pass
