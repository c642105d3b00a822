"""A streamed answer with the pace, noise and faults of its scenario."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Mapping

from .compression import Compressor
from .connection import Connection
from .exchange import Exchange
from .journal import Entry, Journal
from .pacer import GRAIN_S, Pacer, Ticket
from .scenario import Scenario
from .wire import AnswerStream

BATCH_TOKENS = 256
"""Maximum number of tokens in one write: 30 to 70 KiB, depending on the format."""

_PIECE = b"x" * 2**15
_GARBAGE = {
    "json": b'data: {"choices": [{"delta"\n\n',
    "binary": bytes(range(128, 256)) + b"\x00\xff\n\n",
    "utf8": b'data: {"type": "\xf0\x9f", "choices": [{"delta": {"content": "\xf0\x9f"}}]}\n\n',
}


class Playback(Exchange):
    """Sends one `AnswerStream` on a connection.

    Without a pace, tokens are sent in batches, one per iteration of the event loop, while the client reads.
    With a pace, each token is sent at its time, and late tokens are sent together.
    """

    def __init__(
        self,
        connection: Connection,
        journal: Journal,
        entry: Entry,
        *,
        pacer: Pacer,
        stream: AnswerStream,
        scenario: Scenario,
    ) -> None:
        super().__init__(connection, journal, entry)
        self._loop = asyncio.get_running_loop()
        self._pacer = pacer
        self._ticket: Ticket | None = None
        self._stream = stream
        self._scenario = scenario
        self._itl_s = scenario.itl_s
        self._jitter_s = scenario.jitter_ms / 1000
        self._random = random.Random(scenario.seed)
        self._index = 0
        self._resume: Callable[[], None] | None = None
        """Function to call when the client reads again."""
        self._is_split = scenario.split > 0
        self._counts_items = not self._is_split and not scenario.huge_line
        self._batch = 1 if self._is_split else BATCH_TOKENS
        self._items = self._pieces() if self._is_split else self._tokens()
        self._compressor = Compressor(scenario.encoding) if scenario.encoding else None
        if self._compressor is not None:
            self._items = map(self._compressor.piece, self._items)

    def start(self, headers: Mapping[str, str]) -> None:
        """Send the head, and the events before the first token."""
        fields = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        if self._scenario.encoding:
            fields["content-encoding"] = self._scenario.encoding
        self._connection.begin(200, {**fields, **headers})
        scenario = self._scenario
        if scenario.headers_then_silent:
            return
        self._first_due = self._loop.time() + scenario.ttft_ms / 1000
        if not self._is_split:
            self._connection.write(self._encoded(self._opening()))
        if scenario.ttft_ms:
            self._timer = self._loop.call_at(self._first_due, self._run)
        else:
            self._run()

    def resumed(self) -> None:
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()

    def act(self, now: float) -> float | None:
        """Write what is due. See Paced."""
        data = next(self._items, None)
        if data is None:
            self._finish()
            return None
        self._index = index = self._index + 1
        due = self._first_due + index * self._itl_s if not self._jitter_s else self._due(index)
        if self._counts_items:
            self._entry.tokens_sent += 1
        if due <= now:
            data, due = self._with_late(data, due, now)
        self._connection.write(data)
        if self._connection.is_paused:
            self._resume = self._pace
            return None
        return due

    def _with_late(self, data: bytes, due: float, now: float) -> tuple[bytes, float]:
        """Join `data` and all other items that are due. Return the result and the time of the next write."""
        late = [data]
        while due <= now and len(late) < self._batch:
            following = next(self._items, None)
            if following is None:
                break
            late.append(following)
            self._index += 1
            due = self._due(self._index)
        if self._counts_items:
            self._entry.tokens_sent += len(late) - 1
        # A playback that cannot keep its pace lets others run first.
        return b"".join(late), max(due, now + GRAIN_S)

    def _run(self) -> None:
        self._timer = None
        if self._itl_s:
            self._pace()
        else:
            self._burst()

    def _pace(self) -> None:
        self._ticket = self._pacer.add(self._due(self._index), self)

    def _burst(self) -> None:
        items = list(itertools.islice(self._items, self._batch))
        if items:
            if self._counts_items:
                self._entry.tokens_sent += len(items)
            self._connection.write(b"".join(items))
        if len(items) < self._batch:
            self._finish()
        elif self._connection.is_paused:
            self._resume = self._burst
        else:
            self._timer = self._loop.call_soon(self._burst)

    def _due(self, index: int) -> float:
        due = self._first_due + index * self._itl_s
        if self._jitter_s:
            due += self._random.uniform(-self._jitter_s, self._jitter_s)
        return due

    def _close(self, *, aborted: bool) -> None:
        if self._ticket is not None:
            self._ticket.cancel()
        self._resume = None
        super()._close(aborted=aborted)

    def _finish(self) -> None:
        scenario = self._scenario
        ending = b"" if self._is_split else self._encoded(self._ending())
        is_cut_off = scenario.stall_after is not None or scenario.drop_after is not None
        if self._compressor is not None and not is_cut_off:
            ending += self._compressor.end()
        if ending:
            self._connection.write(ending)
        if scenario.stall_after is not None:
            return
        if scenario.drop_after is not None:
            self._connection.break_off(rst=scenario.drop == "rst")
        else:
            self._connection.end()
        self._close(aborted=False)

    def _opening(self) -> bytes:
        bom = b"\xef\xbb\xbf" if self._scenario.bom else b""
        unknown = self._stream.unknown() if self._scenario.unknown else b""
        return bom + self._lines(self._stream.opening() + unknown)

    def _ending(self) -> bytes:
        scenario = self._scenario
        if scenario.error_event_after is not None:
            return self._lines(self._stream.error())
        is_cut_off = scenario.drop_after is not None or scenario.stall_after is not None
        if is_cut_off or scenario.missing_end or scenario.huge_line:
            return b""
        return self._lines(self._stream.closing())

    def _encoded(self, data: bytes) -> bytes:
        return self._compressor.piece(data) if self._compressor is not None and data else data

    def _lines(self, data: bytes) -> bytes:
        return data.replace(b"\n", b"\r\n") if self._scenario.crlf else data

    def _tokens(self) -> Iterator[bytes]:
        """Return the items between opening and ending: each is a token, with the noise around it."""
        scenario = self._scenario
        if scenario.huge_line:
            return _huge_line(scenario.huge_line)
        tokens = self._stream.deltas()
        lasts = (scenario.drop_after, scenario.stall_after, scenario.error_event_after)
        for last in lasts:
            if last is not None:
                tokens = itertools.islice(tokens, last)
        if scenario.pings or scenario.garbage_after is not None:
            tokens = self._noisy(tokens)
        return map(self._lines, tokens) if scenario.crlf else tokens

    def _noisy(self, tokens: Iterator[bytes]) -> Iterator[bytes]:
        scenario = self._scenario
        garbage = _GARBAGE[scenario.garbage]
        for count, token in enumerate(tokens, start=1):
            data = token
            if scenario.garbage_after == count - 1:
                data = garbage + data
            if scenario.pings and count % scenario.pings == 0:
                data += self._stream.ping()
            yield data

    def _pieces(self) -> Iterator[bytes]:
        """Yield the whole body in pieces of `split` bytes; the last one may be shorter."""
        size = self._scenario.split
        rest = self._opening()
        for token in self._tokens():
            self._entry.tokens_sent += not self._scenario.huge_line
            rest += token
            whole = len(rest) - len(rest) % size
            yield from (rest[i : i + size] for i in range(0, whole, size))
            rest = rest[whole:]
        rest += self._ending()
        yield from (rest[i : i + size] for i in range(0, len(rest), size))


def _huge_line(size_bytes: int) -> Iterator[bytes]:
    yield b"data: "
    for _ in range(size_bytes // len(_PIECE)):
        yield _PIECE
    if rest := size_bytes % len(_PIECE):
        yield _PIECE[:rest]
