"""What the load process can be asked to do, and what it answers. Pure values, sent as JSON.

All durations are seconds unless the name says otherwise; instants are those of CLOCK_MONOTONIC.
`model_prefix` is what stands before the simulator's own model name: a server calls it
`openai/sim?tokens=5`, the simulator itself `sim?tokens=5`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Protocol = Literal["grpc", "sse"]


class Target(msgspec.Struct, frozen=True):
    """Something that streams tokens: an address `host:port`, and how it is spoken to."""

    address: str
    protocol: Protocol
    model_prefix: str = ""
    api_key: str = ""
    """What callers send as `authorization: Bearer`. Empty: nothing."""


class Streams(msgspec.Struct, frozen=True, tag=True):
    """Many streams at once; CPU and gaps are judged over a steady window.

    Paced (`tokens_per_second` > 0): streams start over `ramp_s`, out of step with each other; after
    `settle_s` the window of `window_s` begins; all streams end together just after it. Unpaced: each
    stream has `burst_tokens`, and the window is the whole run.
    """

    target: Target
    streams: int
    tokens_per_second: float
    ramp_s: float = 0.0
    settle_s: float = 0.0
    window_s: float = 0.0
    burst_tokens: int = 0
    channels: int = 4
    watch: dict[str, int] = {}
    """Processes whose CPU is read, by name; their descendants count with them."""


class StreamsResult(msgspec.Struct, frozen=True):
    tokens: int
    """Delivered within the window."""
    messages: int
    """That carried them: fewer than tokens where the sender merged."""
    seconds: float
    cpu_us_per_token: dict[str, float]
    """By the names of `Streams.watch`, and "load" for the load process itself."""
    others_cores: float
    """Cores kept busy by processes that have no part in this run."""
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_ms_quantiles: list[float]
    """201 quantiles, evenly spaced from 0 to 1, of the gaps between tokens."""
    itl_p50_ms: float
    itl_p99_ms: float


class FirstToken(msgspec.Struct, frozen=True, tag=True):
    """Time to the first token of an idle target, one stream at a time, targets taking turns."""

    targets: dict[str, Target]
    samples: int


class FirstTokenResult(msgspec.Struct, frozen=True):
    ttft_ms: dict[str, list[float]]
    """Sorted, by the names of `FirstToken.targets`."""


class Hold(msgspec.Struct, frozen=True, tag=True):
    """Open streams and keep them open in silence after `tokens`; read the target's memory then.

    `steps` are numbers of open streams, growing; memory is read at each.
    """

    target: Target
    tokens: int
    steps: list[int]
    watch_pid: int
    token_interval_ms: int = 10
    channels: int = 4


class HoldResult(msgspec.Struct, frozen=True):
    rss_bytes: list[int]
    """One for each step."""


class Wire(msgspec.Struct, frozen=True, tag=True):
    """Bytes on the wire for one paced token, through a relay that counts them."""

    target: Target
    tokens: int = 100
    token_interval_ms: int = 20


class WireResult(msgspec.Struct, frozen=True):
    bytes_per_token: float
    """Everything the server sent, HTTP/2 frames of every kind included."""
    text_bytes_per_token: float
    """The text alone, in UTF-8."""


class Flood(msgspec.Struct, frozen=True, tag=True):
    """How fast the simulator writes one unpaced answer to a client that only counts bytes."""

    target: Target
    tokens: int
    watch_pid: int


class FloodResult(msgspec.Struct, frozen=True):
    seconds: float
    cpu_s: float


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Read a finished, unpaced answer again from its beginning, one call at a time."""

    target: Target
    tokens: int
    samples: int


class ResumeResult(msgspec.Struct, frozen=True):
    """From the call to the first event, and to the end. Sorted."""

    first_event_ms: list[float]
    whole_ms: list[float]
    cold_first_event_ms: list[float]
    """The same on a channel that is made for it, connecting included."""
    cold_whole_ms: list[float]
    events: int
    """That a whole answer came in."""


Last = Literal["process", "channel"]


class Audience(msgspec.Struct, frozen=True, tag=True):
    """Several readers of one paced stream. All but the last are watched over the window.

    The last one has small windows, and is a process of its own, or a channel of the load process.
    `frozen`: once all read, the process is stopped, or the channel read no more. `settle_s` then fills
    what the way to it can hold.
    """

    target: Target
    last: Last
    frozen: bool
    readers: int
    text: str
    """Of each token."""
    tokens_per_second: float
    settle_s: float
    window_s: float
    watch_pid: int


class AudienceResult(msgspec.Struct, frozen=True):
    gaps: int
    """Between events, of all watched readers."""
    gap_p50_ms: float
    gap_p99_ms: float
    tokens: int
    """That the stream had when the window ended."""
    rss_bytes: int
    """When all had begun to read."""
    rss_most_bytes: int
    """From then to the end of the window, looked at ten times a second."""


class Retain(msgspec.Struct, frozen=True, tag=True):
    """Streams that are read to their end and stay readable, `at_once` of them at a time."""

    target: Target
    streams: int
    tokens: int
    at_once: int = 20
    token_interval_ms: int = 1


class RetainResult(msgspec.Struct, frozen=True):
    streams: int


Job = Streams | FirstToken | Hold | Wire | Flood | Resume | Audience | Retain
