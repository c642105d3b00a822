"""The HTTP server of the metrics."""

import asyncio
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tokenwire_server.telemetry import metrics_server
from tokenwire_server.telemetry.metrics import Metrics
from tokenwire_server.telemetry.metrics_server import MAX_CONNECTIONS, MetricsServer


@asynccontextmanager
async def serving(host="127.0.0.1"):
    """Serve metrics; yields the server and a session for its address."""
    metrics = Metrics()
    metrics.refused("Chat", "RATE_LIMITED")
    async with MetricsServer(metrics.registry, host, 0) as server:
        address = f"[{host}]" if ":" in host else host
        async with aiohttp.ClientSession(f"http://{address}:{server.port}") as session:
            yield server, session


async def test_the_format_is_text_unless_the_client_accepts_openmetrics():
    async with serving() as (_, session):
        async with session.get("/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert 'refused_total{method="Chat",reason="RATE_LIMITED"} 1.0' in await answer.text()
        accepted = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        async with session.get("/metrics", headers=accepted) as answer:
            assert answer.content_type == "application/openmetrics-text"
            families = {f.name: f.type for f in text_string_to_metric_families(await answer.text())}
    assert len(families) > 15
    assert families["tokenwire_calls_refused"] == "counter"
    assert families["tokenwire_time_to_first_token_seconds"] == "histogram"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/metrics", 405), ("HEAD", "/metrics", 200)],
)  # fmt: skip
async def test_only_get_of_metrics_is_answered(method, path, status):
    async with serving() as (_, session), session.request(method, path) as answer:
        assert answer.status == status


async def test_invalid_requests_are_refused_without_a_line_in_the_log(caplog):
    async with serving() as (server, session):
        for request in (b"garbage\r\n\r\n", b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request)
            assert b" 400 " in await reader.readline()
            writer.close()
        async with session.get("/metrics", headers={"Accept": "text/plain;version=x"}) as answer:
            assert answer.status == 200
    assert not caplog.records


async def test_a_caller_that_reads_nothing_is_disconnected(monkeypatch):
    monkeypatch.setattr(metrics_server, "WRITE_S", 0.2)
    registry = CollectorRegistry()
    Gauge("large", "x" * 2**24, registry=registry)  # more than the buffers of the sockets
    async with MetricsServer(registry, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readline()
        while server.connection_count:
            await asyncio.sleep(0.01)
        received = 0
        with suppress(ConnectionError):
            while chunk := await reader.read(2**20):
                received += len(chunk)
        assert received < 2**24
        writer.close()


async def test_connections_above_the_maximum_are_refused_and_idle_ones_are_closed(monkeypatch):
    monkeypatch.setattr(metrics_server, "IDLE_S", 0.3)
    async with serving() as (server, session):
        idle = [
            await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MAX_CONNECTIONS)
        ]
        for _, writer in idle:
            writer.write(b"GET /metrics HTTP/1.1\r\n")  # never complete
        async with session.get("/metrics") as answer:
            assert answer.status == 503
        for reader, writer in idle:
            assert await reader.read() == b""
            writer.close()
        async with session.get("/metrics") as answer:
            assert answer.status == 200
