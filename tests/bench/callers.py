"""Callers with gRPC and with HTTP/SSE. While a stream runs they only record the arrivals.

Messages are decoded after the run. So the load, which shares the machine with the measured process, uses
little CPU.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate

import aiohttp
import grpc
import msgspec
from jobs import Target

from tokenwire.v1 import chat_pb2, event_pb2
from tokenwire_server.simulator import generated_text, varied_text

METHOD = "/tokenwire.v1.ChatService/ChatStream"
CALL_LIMIT_S = 120.0
CONNECT_LIMIT_S = 10.0
JSON_SCHEMA = '{"type": "array", "items": {"type": "string"}}'
"""The schema of JSON answers."""
_CONTENT = re.compile(rb'"content":\s*"[^"]|"text":\{"text":"')
"""Text of a token, from a provider and from the edge."""


class Unmeasurable(Exception):
    """A measurement failed, so there is no result."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message with text."""

    instant: float
    tokens: int
    """Tokens that are complete with this message."""


class Recording:
    """One received stream. Times are those of time.monotonic()."""

    __slots__ = ("called", "instants", "json_tokens", "payloads", "text_seed", "tokens")

    def __init__(self, tokens: int, json_tokens: Sequence[str] = (), text_seed: int = 0) -> None:
        self.tokens = tokens
        self.json_tokens = json_tokens
        """Tokens of a JSON answer, in place of a generated one."""
        self.text_seed = text_seed
        self.called = 0.0
        self.instants: list[float] = []
        self.payloads: list[bytes] = []

    @property
    def expected(self) -> Sequence[str]:
        """The tokens that the provider sends."""
        if self.text_seed:
            return varied_text(self.tokens, self.text_seed)
        return self.json_tokens or generated_text(self.tokens)


class GrpcCaller:
    """Calls ChatStream over several connections, as several callers would."""

    def __init__(self, target: Target, channels: int) -> None:
        # Without a separate pool, channels of one process share one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._prefix = target.model_prefix
        self._metadata = (("authorization", f"Bearer {target.api_key}"),) if target.api_key else ()
        addresses = target.address.split(",")
        self._channels = [
            grpc.aio.insecure_channel(addresses[number % len(addresses)], options)
            for number in range(channels)
        ]
        self._methods: list[grpc.aio.UnaryStreamMultiCallable[bytes, bytes]] = [
            channel.unary_stream(METHOD) for channel in self._channels
        ]
        self._turn = 0

    async def connect(self) -> None:
        """Connect all channels. Raises TimeoutError if the server does not answer."""
        async with asyncio.timeout(CONNECT_LIMIT_S):
            for channel in self._channels:
                await channel.channel_ready()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def messages(self, model: str) -> AsyncGenerator[bytes]:
        """Yield serialized TokenEvents. Raises grpc.RpcError. Closing the iterator early cancels the call."""
        self._turn += 1
        call = self._methods[self._turn % len(self._methods)](
            request(self._prefix + model), timeout=CALL_LIMIT_S, metadata=self._metadata
        )
        try:
            async for payload in call:
                yield payload
        finally:
            call.cancel()

    async def record(self, model: str, recording: Recording) -> None:
        """One stream from its call to its end."""
        self._turn += 1
        method = self._methods[self._turn % len(self._methods)]
        message = request(self._prefix + model, has_values=bool(recording.json_tokens))
        noted, kept, now = recording.instants.append, recording.payloads.append, time.monotonic
        recording.called = now()
        call = method(message, timeout=CALL_LIMIT_S, metadata=self._metadata)
        async for payload in call:
            noted(now())
            kept(payload)

    @staticmethod
    def arrivals(recording: Recording) -> Iterator[Arrival]:
        """The arrivals of text. Raises Unmeasurable unless the text is what the provider sent."""
        event, text, end = event_pb2.TokenEvent(), [], None
        ends = list(accumulate(map(len, recording.expected)))  # of the tokens, in characters
        chars = tokens = 0
        for instant, payload in zip(recording.instants, recording.payloads, strict=True):
            event.ParseFromString(payload)
            kind = event.WhichOneof("event")
            if kind == "text":
                text.append(event.text.text)
                chars += len(text[-1])
                seen, tokens = tokens, bisect_right(ends, chars)
                yield Arrival(instant, tokens - seen)
            elif kind == "finished":
                end = event.finished.reason
        if end != event_pb2.FINISH_REASON_STOP:
            raise Unmeasurable(f"a stream did not finish with STOP but {end}")
        _compare("".join(text), recording)


class SseCaller:
    """Posts to /v1/chat/completions over kept-alive connections."""

    PATH = "/v1/chat/completions"

    def __init__(self, target: Target, channels: int) -> None:
        del channels  # HTTP/1.1 has one connection for each stream
        self._url = f"http://{target.address}{self.PATH}"
        self._prefix = target.model_prefix
        headers = dict(target.headers)
        if target.api_key:
            headers["authorization"] = f"Bearer {target.api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=CALL_LIMIT_S),
            headers=headers,
        )

    async def connect(self) -> None:
        """Do nothing: the first request of a connection opens it."""

    async def close(self) -> None:
        await self._session.close()

    def _body(self, model: str) -> dict[str, object]:
        messages = [{"role": "user", "content": "Go."}]
        return {"model": self._prefix + model, "messages": messages, "stream": True}

    @asynccontextmanager
    async def _post(self, model: str) -> AsyncIterator[aiohttp.StreamReader]:
        async with self._session.post(self._url, json=self._body(model)) as response:
            if response.status != 200:
                raise Unmeasurable(f"HTTP {response.status}: {(await response.text())[:500]}")
            yield response.content

    async def messages(self, model: str) -> AsyncGenerator[bytes]:
        """Yield the body's bytes as they arrive."""
        async with self._post(model) as content:
            async for data in content.iter_any():
                yield data

    async def record(self, model: str, recording: Recording) -> None:
        """One stream from its call to its end."""
        noted, kept, now = recording.instants.append, recording.payloads.append, time.monotonic
        recording.called = now()
        async with self._post(model) as content:
            async for data in content.iter_any():
                noted(now())
                kept(data)

    @staticmethod
    def arrivals(recording: Recording) -> Iterator[Arrival]:
        """The arrivals of text. Raises Unmeasurable unless the text is what the provider sent."""
        rest, done = b"", False
        text: list[str] = []
        for instant, payload in zip(recording.instants, recording.payloads, strict=True):
            *lines, rest = (rest + payload).split(b"\n")
            before = len(text)
            for line in lines:
                if line.startswith(b"data: [DONE]"):
                    done = True
                elif line.startswith(b"data: {"):
                    deltas = [choice["delta"] for choice in json.loads(line[6:])["choices"]]
                    text.extend(delta["content"] for delta in deltas if delta.get("content"))
            if len(text) > before:
                yield Arrival(instant, len(text) - before)
        if not done:
            raise Unmeasurable("an answer ended without [DONE]")
        _compare("".join(text), recording)


class EdgeCaller(SseCaller):
    """Posts to the edge's /v1/chat/stream over kept-alive connections."""

    PATH = "/v1/chat/stream"

    def _body(self, model: str) -> dict[str, object]:
        return {"model": self._prefix + model, "prompt": "Go."}

    @staticmethod
    def arrivals(recording: Recording) -> Iterator[Arrival]:
        """The arrivals of text. Raises Unmeasurable unless the text is what the provider sent."""
        rest, end, seen = b"", None, 1
        text: list[str] = []
        for instant, payload in zip(recording.instants, recording.payloads, strict=True):
            *lines, rest = (rest + payload).split(b"\n")
            before = seen
            for line in lines:
                if not line.startswith(b"data: "):
                    continue
                event = msgspec.json.decode(line[6:])
                if "text" in event:
                    text.append(event["text"]["text"])
                    seen = int(event["sequence"])
                elif "finished" in event:
                    end = event["finished"]["reason"]
            if seen > before:
                yield Arrival(instant, seen - before)
        if end != "FINISH_REASON_STOP":
            raise Unmeasurable(f"a stream did not finish with STOP but {end}")
        _compare("".join(text), recording)


Caller = GrpcCaller | SseCaller
_CALLERS = {"grpc": GrpcCaller, "sse": SseCaller, "edge": EdgeCaller}


def caller(target: Target, channels: int = 1) -> Caller:
    """Return a caller for this target. Close it after use."""
    return _CALLERS[target.protocol](target, channels)


def carries_text(caller: Caller, message: bytes) -> bool:
    """Return whether a message of `Caller.messages` contains a token."""
    if isinstance(caller, GrpcCaller):
        return event_pb2.TokenEvent.FromString(message).HasField("text")
    return _CONTENT.search(message) is not None


def request(model: str, *, has_values: bool = False) -> bytes:
    """Return a serialized request. `has_values`: for a JSON answer, with its values."""
    part = chat_pb2.Part(text="Go.")
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[part])
    chat = chat_pb2.ChatRequest(model=model, messages=[message])
    if has_values:
        schema = chat.response_format.json_schema
        schema.name, schema.schema_json, schema.stream_values = "words", JSON_SCHEMA, True
    return chat.SerializeToString()


def _compare(text: str, recording: Recording) -> None:
    expected = "".join(recording.expected)
    if text != expected:
        raise Unmeasurable(
            f"a text of {len(text)} characters differs from the {len(expected)} that were sent"
        )
