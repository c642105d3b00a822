"""The simulator's server: routes, and the choice of the scenario for each request.

POST /v1/chat/completions, /v1/responses, /v1/messages         a provider's answer
POST /v1/responses/input_tokens, /v1/messages/count_tokens     a provider's count of input tokens
GET  /v1/models                                                the models `demo` and `sim`
GET  /simulator/stats                                          `Stats` as JSON
GET  /simulator/requests/KEY                                   the latest `Entry` of a key, as JSON
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import msgspec

from . import chat_completions, messages, responses
from .call import Call, choose_scenario, json_object
from .connection import Connection, HttpRequest
from .exchange import JSON
from .journal import Entry, Journal, Stats
from .pacer import Pacer
from .scenario import Scenario, ScenarioError
from .wire import BadRequest, CountingFormat, WireFormat, input_bytes

FORMATS: Mapping[str, WireFormat] = {
    chat_completions.PATH: chat_completions,
    responses.PATH: responses,
    messages.PATH: messages,
}

COUNTING_FORMATS: Mapping[str, CountingFormat] = {
    responses.COUNT_PATH: responses,
    messages.COUNT_PATH: messages,
}

MODELS = ("demo", "sim")


class Simulator:
    """A server of three providers' wire formats. It runs while its `async with` block is active.

    `default` is the scenario of models other than `demo` and `sim?...`; None: the one of `demo`. Port 0
    selects a free port. Leaving the block closes all connections. Must be used in one event loop.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, default: Scenario | None = None
    ) -> None:
        self._host = host
        self._port = port
        self._default = default
        self._journal = Journal()
        self._connections: set[Connection] = set()
        self._connections_total = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._pacer = Pacer(loop)
        self._server = await loop.create_server(self._connect, self._host, self._port, backlog=4096)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self._pacer.close()
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """The address as HOST:PORT."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    @property
    def url(self) -> str:
        """Base URL for Anthropic's SDK. For OpenAI's SDK, append `/v1`."""
        return f"http://{self.address}"

    def stats(self) -> Stats:
        return self._journal.stats(
            connections_open=len(self._connections), connections_total=self._connections_total
        )

    def find(self, key: str) -> Entry | None:
        """Return the latest request with a scenario's `key`, or the request whose answer has this id."""
        return self._journal.find(key)

    def _connect(self) -> Connection:
        self._connections_total += 1
        return Connection(self._handle, self._connections)

    def _handle(self, request: HttpRequest, connection: Connection) -> None:
        wire_format = FORMATS.get(request.path)
        if wire_format is not None and request.method == "POST":
            self._provide(wire_format, request, connection)
            return
        counting_format = COUNTING_FORMATS.get(request.path)
        if counting_format is not None and request.method == "POST":
            self._count(counting_format, request, connection)
            return
        status, payload = self._get(request)
        connection.send(status, JSON, msgspec.json.encode(payload))

    def _get(self, request: HttpRequest) -> tuple[int, object]:
        if request.path in FORMATS or request.path in COUNTING_FORMATS:
            return 405, chat_completions.error(405, "Use POST.")
        if request.method != "GET":
            return 404, chat_completions.error(404, f"No {request.method} {request.path} here.")
        if request.path == "/v1/models":
            return 200, _models(request.headers)
        if request.path == "/simulator/stats":
            return 200, self.stats()
        prefix = "/simulator/requests/"
        entry = self.find(unquote(request.path.removeprefix(prefix)))
        if not request.path.startswith(prefix) or entry is None:
            return 404, chat_completions.error(404, f"There is no entry for {request.path}.")
        body = None if entry.body is None else entry.body.decode("utf-8", "replace")
        return 200, msgspec.structs.asdict(entry) | {"body": body}

    def _provide(
        self, wire_format: WireFormat, request: HttpRequest, connection: Connection
    ) -> None:
        try:
            body = json_object(request.body)
            asked = wire_format.read(body, input_bytes(request.body, wire_format.INPUT_FIELDS))
            scenario = choose_scenario(request.headers, asked, self._default)
        except (BadRequest, ScenarioError) as error:
            Call(wire_format, request, connection, self._journal).refuse(error)
            return
        call = Call(
            wire_format, request, connection, self._journal, model=asked.model, key=scenario.key
        )
        call.answer(asked, scenario, self._pacer)

    def _count(
        self, counting_format: CountingFormat, request: HttpRequest, connection: Connection
    ) -> None:
        try:
            body = json_object(request.body)
            size_bytes = input_bytes(request.body, counting_format.INPUT_FIELDS)
            asked = counting_format.read_count(body, size_bytes)
            scenario = choose_scenario(request.headers, asked, self._default)
        except (BadRequest, ScenarioError) as error:
            Call(counting_format, request, connection, self._journal).refuse(error)
            return
        key = scenario.key and f"{scenario.key}:count"
        call = Call(counting_format, request, connection, self._journal, model=asked.model, key=key)
        call.count(counting_format, asked, scenario)


async def run_simulator(listen: str, ready: Callable[[str], None]) -> None:
    """Serve on HOST:PORT until cancelled. Port 0 selects a free port. Calls `ready` with a line that has the
    URL.

    Raises ValueError if `listen` is not an address, and OSError if it cannot be bound.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{listen!r} is not HOST:PORT")
    async with Simulator(host.strip("[]") or "127.0.0.1", int(port)) as simulator:
        ready(f"simulator ready at {simulator.url}")
        await asyncio.get_running_loop().create_future()


def _models(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the list of models, in Anthropic's format if Anthropic's SDK requests it."""
    if "anthropic-version" in headers:
        models: list[dict[str, Any]] = [
            {
                "id": name,
                "type": "model",
                "display_name": name,
                "lifecycle": "active",
                "created_at": "2026-01-01T00:00:00Z",
            }
            for name in MODELS
        ]
        return {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    models = [
        {"id": name, "object": "model", "created": 1767225600, "owned_by": "tokenwire"}
        for name in MODELS
    ]
    return {"object": "list", "data": models}
