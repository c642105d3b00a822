"""The floor of each hop: the minimum work in Python to pass on a token there, as a loop over tokens.

A floor handles no errors and has no limits. What a hop takes beyond its floor is the cost of what the server
promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import msgspec
from hop_events import DELTAS, anthropic_events, chat_events, padded_chat_events, responses_events
from hop_tasks import Loop, in_event_loop

from tokenwire.v1 import event_pb2


class _Delta(msgspec.Struct, gc=False):
    content: str = ""


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta


class _Chat(msgspec.Struct, gc=False):
    choices: list[_Choice]


class _TextDelta(msgspec.Struct, gc=False):
    text: str = ""


class _Messages(msgspec.Struct, gc=False):
    delta: _TextDelta


class _Responses(msgspec.Struct, gc=False):
    delta: str = ""


def _receiving() -> Loop:
    """Return a loop in which bytes are sent, and received in the callback of the transport."""
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in chat_events()]

    async def pass_all(count: int) -> None:
        loop = asyncio.get_running_loop()
        waiting = islice(cycle(pieces), count)
        done = loop.create_future()
        senders: list[asyncio.Transport] = []

        class Sender(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                senders.append(transport)  # type: ignore[arg-type]

        class Receiver(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                piece = next(waiting, None)
                if piece is None:
                    done.set_result(None)
                else:
                    senders[0].write(piece)

        server = await loop.create_server(Sender, "127.0.0.1", 0)
        await loop.create_connection(Receiver, *server.sockets[0].getsockname()[:2])
        while not senders:
            await asyncio.sleep(0)
        senders[0].write(next(waiting))
        await done
        server.close()

    return in_event_loop(pass_all)


def _framing() -> Loop:
    """Return a loop that takes the data of an event, without knowing whether the event is whole."""
    pieces = chat_events()

    def loop(count: int) -> None:
        for piece in islice(cycle(pieces), count):
            piece[6:-2]

    return loop


def _decoding(kind: type[msgspec.Struct], events: Callable[[], list[bytes]]) -> Callable[[], Loop]:
    """Return a loop that decodes the text of JSON, and no other field."""

    def prepare() -> Loop:
        payloads = [event.partition(b"data: ")[2][:-2] for event in events()]
        decode = msgspec.json.Decoder(kind).decode

        def loop(count: int) -> None:
            for payload in islice(cycle(payloads), count):
                decode(payload)

        return loop

    return prepare


def _appending() -> Loop:
    """Return a loop that appends to a list, and counts the characters."""

    def loop(count: int) -> None:
        entries = []
        chars = 0
        for delta in islice(cycle(DELTAS), count):
            entries.append(delta)
            chars += len(delta.text)

    return loop


def _taking() -> Loop:
    """Return a loop in which a task waits for each entry of a list."""

    async def pass_all(count: int) -> None:
        loop = asyncio.get_running_loop()
        entries: list[object] = []
        sleeper: asyncio.Future[None] = loop.create_future()

        async def read() -> None:
            nonlocal sleeper
            taken = 0
            while taken < count:
                await sleeper
                sleeper = loop.create_future()
                taken += len(entries[taken:])

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        for delta in islice(cycle(DELTAS), count):
            entries.append(delta)
            sleeper.set_result(None)
            await asyncio.sleep(0)
        await reading

    return in_event_loop(pass_all)


def _encoding() -> Loop:
    """Return a loop that serializes a message that exists."""
    messages = [_message(delta.text) for delta in DELTAS]

    def loop(count: int) -> None:
        for message in islice(cycle(messages), count):
            message.SerializeToString()

    return loop


def _writing() -> Loop:
    """Return a loop that serializes a message that exists, and writes it as the hop does."""
    messages = [_message(delta.text) for delta in DELTAS]

    async def write(data: bytes) -> None:
        pass

    async def pass_all(count: int) -> None:
        for message in islice(cycle(messages), count):
            await write(message.SerializeToString())

    return in_event_loop(pass_all)


def _message(text: str) -> Any:
    return event_pb2.TokenEvent(sequence=1000, text=event_pb2.TextDelta(text=text))


FLOORS: dict[str, Callable[[], Loop]] = {
    "receive": _receiving,
    "framing": _framing,
    "openai-chat": _decoding(_Chat, chat_events),
    "openai-chat-padded": _decoding(_Chat, padded_chat_events),
    "anthropic": _decoding(_Messages, anthropic_events),
    "openai-responses": _decoding(_Responses, responses_events),
    "append": _appending,
    "attempt": _appending,
    "append-take": _taking,
    "encode": _encoding,
    "write": _writing,
}
"""The floors of the hops of these names, as `HOPS`. The others are work that only this server does."""
