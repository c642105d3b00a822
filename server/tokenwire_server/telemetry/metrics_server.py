"""Serves metrics over HTTP: GET /metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from ..config import ConfigError
from .logging import internal_fault

logger = logging.getLogger(__name__)

PATH = "/metrics"
MAX_CONNECTIONS = 16
"""Connections that get an answer. The others get 503."""
IDLE_S = 30.0
"""How long a connection may send no complete request."""
WRITE_S = 10.0
"""How long a caller may take to accept the answer. Then its connection is closed."""
CLOSE_S = 0.5
"""How long answers that are being sent may take when the server stops."""

PAUSE_S = 0.0005
"""The thread that makes the text pauses after each metric, so that the event loop gets the interpreter. It
would otherwise wait 5 ms for it each time."""

_PARSER_LOG = logging.getLogger(f"{__name__}.requests")
_PARSER_LOG.disabled = True
"""aiohttp logs a traceback for each invalid request. Everyone who reaches the port could fill the log."""


class MetricsServer:
    """Serves the metrics of a registry while its `async with` block is active.

    The text is made in a thread, one scrape at a time, so that streams do not wait for it. Entering the
    block raises OSError if the address cannot be used.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`refresh` is called before each scrape. It must end soon, and not raise."""
        self._registry = registry
        self._refresh = refresh
        self._host = host
        self._port = port
        self._turn = asyncio.Lock()
        self._server = web.Server(
            self._answer, access_log=None, logger=_PARSER_LOG, keepalive_timeout=IDLE_S
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=CLOSE_S)

    @property
    def port(self) -> int:
        """The port. It is known once the block is entered."""
        return self._port

    @property
    def connection_count(self) -> int:
        """The number of open connections."""
        return len(self._server.connections)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._response(request)
        except Exception as error:  # noqa: BLE001  # the log has the details
            response = web.Response(status=500, text=f"{internal_fault(error)}\n")
        try:
            async with asyncio.timeout(WRITE_S):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _response(self, request: web.BaseRequest) -> web.Response:
        if request.path != PATH:
            return web.Response(status=404, text=f"The metrics are at {PATH}.\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Use GET.\n", headers={"Allow": "GET, HEAD"})
        if self.connection_count > MAX_CONNECTIONS:
            return web.Response(
                status=503, text="Too many connections.\n", headers={"Connection": "close"}
            )
        encode: Callable[[Collector], bytes] = generate_latest
        content_type = CONTENT_TYPE_PLAIN_0_0_4
        # Not `choose_encoder`: some values of Accept make it raise TypeError.
        if "application/openmetrics-text" in request.headers.get("Accept", ""):
            encode, content_type = openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
        async with self._turn:
            if self._refresh is not None:
                await self._refresh()
            body = await asyncio.to_thread(_render, self._registry, encode)
        return web.Response(body=body, headers={"Content-Type": content_type})


@asynccontextmanager
async def serving_metrics(
    address: str,
    registry: CollectorRegistry,
    refresh: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[None]:
    """Serve the metrics of a registry on `metrics_listen` during the block. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    server = MetricsServer(registry, host.strip("[]"), int(port), refresh)
    try:
        await server.__aenter__()
    except OSError as error:
        raise ConfigError(
            f"metrics_listen: cannot listen on {address}: in use, or not an address of this machine"
        ) from error
    try:
        logger.info("metrics are at http://%s:%d%s", host, server.port, PATH)
        yield
    finally:
        await server.__aexit__(None, None, None)


class _Collected(Collector):
    """A metric that has been collected."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _render(registry: CollectorRegistry, encode: Callable[[Collector], bytes]) -> bytes:
    """Return the text of a registry. It is made metric by metric, with pauses."""
    end = encode(CollectorRegistry())  # OpenMetrics has a last line
    text = bytearray()
    for metric in registry.collect():
        text += encode(_Collected(metric)).removesuffix(end)
        time.sleep(PAUSE_S)
    return bytes(text + end)
