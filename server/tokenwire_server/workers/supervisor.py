"""The process that starts the workers, replaces those that end, and stops them all."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import ConfigError, Settings, WorkerConfig, reloaded
from ..signals import Stop, stop_on_signals
from ..telemetry import set_log_level
from ..threads import ReaderThread
from .address import reserved
from .channel import Start
from .process import WorkerProcess

if TYPE_CHECKING:
    from .metrics import WorkerMetrics

logger = logging.getLogger(__name__)

READY_S = 120.0
"""How long a worker may take until it answers calls."""
MIGRATION_S = 600.0
"""How much longer the first worker may take, which updates the database's schema."""
STEADY_S = 30.0
"""A worker that was ready for this long before it ended is replaced without a delay."""
MIN_DELAY_S, MAX_DELAY_S = 0.5, 10.0
MAX_FAILURES = 5
"""Workers in a row that may end before they are ready. Then the server ends with an error if no other worker
serves: others continue without Redis or the database, and a new worker needs them."""
STOP_S = 5.0
"""How long workers may take to stop after the grace period. They take at most 2 s. Then they are killed."""
READ_TIMEOUT_S = 10.0
"""How long reading the configuration may take after SIGHUP."""


async def supervise(
    settings: Settings,
    config: Path | None,
    flags: Mapping[str, Any],
    *,
    read: Callable[[], Settings],
    demo: bool,
    ready: Callable[[str], None],
) -> bool:
    """Serve with `settings.workers` processes until a stop is requested.

    Return whether all of them ended in order. `config` and `flags` are where the workers read their settings
    again after SIGHUP, and `read` returns those settings. `ready` gets the address once every worker answers
    calls.

    Raises ConfigError with the reason if the address cannot be used, or if a worker cannot start.
    """
    if settings.tenants and settings.redis.url is None:
        logger.warning(
            "the limits of tenants apply to each of the %d workers: a tenant may use %d times as much",
            *(settings.workers, settings.workers),
        )
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved(settings.listen))
        database, simulator_url = settings.database, ""
        if demo:
            from ..simulator import Simulator

            simulator_url = (await stack.enter_async_context(Simulator())).url
            if "database" not in settings.model_fields_set:
                folder = tempfile.TemporaryDirectory(
                    prefix="tokenwire-", ignore_cleanup_errors=True
                )
                database = f"sqlite:///{stack.enter_context(folder)}/tokenwire.db"
        metrics = None
        if settings.metrics_listen is not None:
            from .metrics import WorkerMetrics

            metrics = WorkerMetrics()
            await stack.enter_async_context(metrics.serving(settings.metrics_listen))

        def start_of(settings: Settings, number: int, *, migrates: bool) -> Start:
            return Start(
                settings=settings,
                config=config,
                flags=flags,
                is_demo=demo,
                worker=WorkerConfig(
                    number=number,
                    address=address,
                    database=database,
                    migrates=migrates,
                    simulator_url=simulator_url,
                ),
            )

        supervisor = Supervisor(settings, read, start_of, metrics)
        try:
            await supervisor.start()
            stop = stop_on_signals(before_exit=supervisor.kill)
            ready(address)
            return await supervisor.serve(stop)
        finally:
            await supervisor.aclose()


class Supervisor:
    """The workers of a server: `start` them, then `serve`, and `aclose` in any case."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        start_of: Callable[..., Start],
        metrics: WorkerMetrics | None,
    ) -> None:
        """`start_of` returns the start message of a worker, from its settings, its number and `migrates`."""
        self._started = self._settings = settings
        self._read = read
        self._start_of = start_of
        self._metrics = metrics
        self._workers: dict[int, WorkerProcess] = {}
        self._stopping = asyncio.Event()
        self._gave_up = asyncio.Event()
        if metrics is not None:
            metrics.workers = self._workers

    async def start(self) -> None:
        """Start all workers, and wait until they are ready.

        The first one alone updates the database's schema, and finds what is wrong with the configuration.
        The others import their modules in the meantime. Raises ConfigError if one cannot start.
        """
        first, *others = [await self._launch(n + 1) for n in range(self._settings.workers)]
        migrates = self._settings.migrate
        first.start(self._start_of(self._settings, first.number, migrates=migrates))
        await self._require_ready(first, READY_S + (MIGRATION_S if migrates else 0.0))
        for worker in others:
            worker.start(self._start_of(self._settings, worker.number, migrates=False))
        await asyncio.gather(*(self._require_ready(worker, READY_S) for worker in others))

    async def serve(self, stop: Stop) -> bool:
        """Replace workers that end, until a stop is requested. Then stop all. Return whether all ended in
        order.
        """
        reloading = asyncio.create_task(self._reload(stop), name="reload")
        keeping = [
            asyncio.create_task(self._keep(worker), name=f"keep worker {worker.number}")
            for worker in self._workers.values()
        ]
        waits = [asyncio.create_task(event.wait()) for event in (stop.requested, self._gave_up)]
        try:
            await asyncio.wait((*waits, *keeping), return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            await self._stop(stop)
            await asyncio.gather(*keeping)
        finally:
            for task in (reloading, *waits, *keeping):
                task.cancel()
        in_order = all(w.exit_code == 0 or not w.is_ready for w in self._workers.values())
        return in_order and not self._gave_up.is_set()

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self._workers.values():
            worker.send_signal(signal.SIGKILL)

    async def aclose(self) -> None:
        """Kill the workers that run, and wait until they have ended."""
        self.kill()
        await asyncio.gather(*(worker.ended() for worker in self._workers.values()))

    async def _launch(self, number: int) -> WorkerProcess:
        on_metrics = self._metrics.put if self._metrics is not None else _drop
        worker = WorkerProcess(number, on_metrics)
        await worker.launch()
        self._workers[number] = worker
        return worker

    async def _require_ready(self, worker: WorkerProcess, within_s: float) -> None:
        """Raises ConfigError if a worker does not become ready."""
        if not await worker.settled(within_s):
            await worker.ended()
            raise ConfigError(
                worker.failure
                or f"worker {worker.number} ended before it was ready: {worker.describe_end()}"
            )

    async def _keep(self, worker: WorkerProcess) -> None:
        """Replace a worker whenever it ends, until the server stops."""
        number = worker.number
        failures = early_ends = 0
        while True:
            await worker.ended()
            if self._metrics is not None:
                self._metrics.ended(number)
            if self._stopping.is_set():
                return
            failures = 0 if worker.is_ready else failures + 1
            ready_s = 0.0 if worker.ready_at is None else time.monotonic() - worker.ready_at
            early_ends = 0 if ready_s >= STEADY_S else early_ends + 1
            how = worker.describe_end() + (f": {worker.failure}" if worker.failure else "")
            if failures >= MAX_FAILURES and not self._is_serving():
                logger.critical(
                    "worker %d ended %d times in a row before it was ready, and the server stops: %s",
                    *(number, failures, how),
                )
                self._gave_up.set()
                return
            delay_s = min(MAX_DELAY_S, MIN_DELAY_S * 2 ** (early_ends - 1)) if early_ends else 0.0
            logger.error(
                "worker %d (process %d) ended with %s; it is replaced in %g s",
                *(number, worker.pid, how, delay_s),
            )
            if await _is_set_within(self._stopping, delay_s):
                return
            worker = await self._launch(number)
            worker.start(self._start_of(self._settings, number, migrates=False))
            if self._metrics is not None:
                self._metrics.restarts.inc()
            if await worker.settled(READY_S):
                logger.info("worker %d is ready again: process %d", number, worker.pid)

    def _is_serving(self) -> bool:
        return any(worker.is_serving for worker in self._workers.values())

    async def _stop(self, stop: Stop) -> None:
        """Stop all workers as the signals request. Those that do not end in time are killed."""
        ended = asyncio.gather(*(worker.ended() for worker in self._workers.values()))
        for worker in self._workers.values():
            worker.drain(is_interrupt=stop.is_interrupt)
        hurrying = asyncio.create_task(stop.hurried.wait())
        try:
            grace_s = self._settings.drain_grace_s + STOP_S
            await asyncio.wait(
                (ended, hurrying), timeout=grace_s, return_when=asyncio.FIRST_COMPLETED
            )
            if stop.hurried.is_set():
                for worker in self._workers.values():
                    worker.hurry()
                await asyncio.wait((ended,), timeout=STOP_S)
        finally:
            hurrying.cancel()
        for worker in self._workers.values():
            if worker.exit_code is None:
                logger.error("worker %d did not stop in time, and is killed", worker.number)
                worker.send_signal(signal.SIGKILL)
        await ended

    async def _reload(self, stop: Stop) -> NoReturn:
        """Let all workers reload after SIGHUP, and keep the settings for those that are started later."""
        reader = ReaderThread("reload")
        while True:
            await stop.reload.wait()
            stop.reload.clear()
            try:
                if not reader.is_busy:
                    async with asyncio.timeout(READ_TIMEOUT_S):
                        self._settings = reloaded(self._started, await reader.run(self._read))
                    set_log_level(self._settings.log_level)
            except (ConfigError, TimeoutError):
                pass  # each worker logs the reason, and counts it
            for worker in self._workers.values():
                worker.reload()


async def _is_set_within(event: asyncio.Event, delay_s: float) -> bool:
    """Wait for an event, at most `delay_s`. Return whether it is set."""
    try:
        async with asyncio.timeout(delay_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _drop(_number: int, _metrics: list[bytes]) -> None:
    """Do nothing: metrics are off."""
