"""Probes of a real application; the server behind it is one that the test answers for."""

import asyncio

import pytest
from fastapi import FastAPI

from raw_http import head, responses, serving
from tokenwire.errors import ConnectionLost
from tokenwire_edge.app import create_app
from tokenwire_edge.problems import Problem
from tokenwire_edge.routes.health import CACHE_S, Readiness
from tokenwire_edge.settings import Settings

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


class Server:
    """Answers the calls of a channel, once it may."""

    def __init__(self, answer=SERVING):
        self.answer = answer
        self.calls = []
        self.may_answer = asyncio.Event()

    async def unary(self, method, request, *, timeout_s):
        self.calls.append((method, request))
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_flood_of_probes_costs_one_call_a_second():
    now = 0.0
    readiness, server = Readiness(clock=lambda: now), Server()
    probes = [asyncio.create_task(readiness.check(server)) for _ in range(1000)]
    await asyncio.sleep(0)
    probes[0].cancel()  # the one that asks
    server.may_answer.set()
    await asyncio.wait(probes)
    assert sum(probe.cancelled() for probe in probes) == 1
    assert server.calls == [("grpc.health.v1.Health/Check", b"")] * 2
    now = CACHE_S
    await readiness.check(server)
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(NOT_SERVING, "DRAINING"), (b"", "DRAINING"), (ConnectionLost("gone"), "UNAVAILABLE")],
)
async def test_a_server_that_drains_or_is_down_makes_the_edge_unready(answer, reason):
    readiness, server = Readiness(), Server(answer)
    server.may_answer.set()
    for _ in range(2):
        with pytest.raises(Problem) as caught:
            await readiness.check(server)
        assert (caught.value.status, caught.value.reason) == (503, reason)
    assert len(server.calls) == 1


def test_an_edge_that_shuts_down_is_alive_and_unready():
    app: FastAPI = create_app(Settings())
    with serving(app) as edge:
        app.state.shutdown.requested.set()
        with edge.connection(
            head("/healthz") + head("/readyz", "GET", "connection: close")
        ) as connection:
            alive, ready = responses(connection)
    assert alive.status == 200
    assert ready.problem == (503, "DRAINING")
