"""The jobs of the load process and their results. Pure values, sent as JSON.

Durations are seconds unless the name has another unit. Times are those of CLOCK_MONOTONIC. `model_prefix`
precedes the simulator's model name: a server calls it `openai/sim?tokens=5`, the simulator itself
`sim?tokens=5`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Protocol = Literal["grpc", "sse", "edge"]
"""How a target is called: ChatStream of Tokenwire's server, Chat Completions, or the HTTP API of the edge."""


class Target(msgspec.Struct, frozen=True):
    """A server that streams tokens: its address `host:port`, and its protocol."""

    address: str
    """With gRPC, several addresses may be given, separated by commas. Connections take them in turn."""
    protocol: Protocol
    model_prefix: str = ""
    api_key: str = ""
    """Key that callers send as `authorization: Bearer`. Empty: none."""
    headers: dict[str, str] = {}
    """Other headers that callers send. Not with gRPC."""


class Streams(msgspec.Struct, frozen=True, tag=True):
    """Many concurrent streams. CPU and gaps are measured over a steady window.

    Paced (`tokens_per_second` > 0): streams start over `ramp_s`, out of phase with each other. After
    `settle_s` the window of `window_s` begins. All streams end together shortly after it. Unpaced: each
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
    """Processes whose CPU is measured, by name. Their descendants are included."""
    json_tokens: list[str] = []
    """Tokens of the JSON answer of every stream, whose values are requested, too. Only with gRPC. Empty: the
    answers are generated."""
    text_seed: int = 0
    """The answers have many different words, and each answer has others: the text of the seed `text_seed` plus
    the number of the stream. 0: all have the same few words. Only with gRPC."""


class StreamsResult(msgspec.Struct, frozen=True):
    tokens: int
    """Tokens delivered within the window."""
    messages: int
    """Messages with these tokens. Fewer than tokens if the sender merged them."""
    seconds: float
    cpu_us_per_token: dict[str, float]
    """CPU time by the names of `Streams.watch`, and "load" for the load process itself."""
    others_cores: float
    """Cores used by processes that are not part of this run."""
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_ms_quantiles: list[float]
    """201 quantiles, evenly spaced from 0 to 1, of the time between tokens."""
    itl_p50_ms: float
    itl_p99_ms: float


class FirstToken(msgspec.Struct, frozen=True, tag=True):
    """Time to the first token of an idle target, one stream at a time. Targets alternate."""

    targets: dict[str, Target]
    samples: int


class FirstTokenResult(msgspec.Struct, frozen=True):
    ttft_ms: dict[str, list[float]]
    """Sorted times, by the names of `FirstToken.targets`."""


class KeepOpen(msgspec.Struct, frozen=True, tag=True):
    """Open streams that stay silent after `tokens`, and measure the target's memory.

    `steps` are increasing numbers of open streams. Memory is measured at each step.
    """

    target: Target
    tokens: int
    steps: list[int]
    watch_pid: int
    token_interval_ms: int = 10
    channels: int = 4


class KeepOpenResult(msgspec.Struct, frozen=True):
    rss_bytes: list[int]
    """Resident memory at each step."""


class Wire(msgspec.Struct, frozen=True, tag=True):
    """Bytes on the wire for one paced token, counted by a relay."""

    target: Target
    tokens: int = 100
    token_interval_ms: int = 20


class WireResult(msgspec.Struct, frozen=True):
    bytes_per_token: float
    """All bytes that the server sent, including HTTP/2 frames of all kinds."""
    text_bytes_per_token: float
    """Size of the text in UTF-8."""


class Flood(msgspec.Struct, frozen=True, tag=True):
    """Speed of the simulator: one unpaced answer to a client that only counts bytes."""

    target: Target
    tokens: int
    watch_pid: int


class FloodResult(msgspec.Struct, frozen=True):
    seconds: float
    cpu_s: float


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Resume a finished, unpaced answer from its beginning, one call at a time."""

    target: Target
    tokens: int
    samples: int


class ResumeResult(msgspec.Struct, frozen=True):
    """Times from the call to the first event, and to the end. Sorted."""

    first_event_ms: list[float]
    whole_ms: list[float]
    cold_first_event_ms: list[float]
    """The same times on a new channel, including the connect."""
    cold_whole_ms: list[float]
    events: int
    """Number of events of a whole answer."""


Last = Literal["process", "channel"]


class Audience(msgspec.Struct, frozen=True, tag=True):
    """Several readers of one paced stream. All but the last one are watched during the window.

    The last reader has small windows. It is a separate process, or a channel of the load process. `frozen`:
    when all readers have begun, its process is stopped, or its channel is no longer read. `settle_s` is time
    for the buffers on the way to it to fill.
    """

    target: Target
    last: Last
    frozen: bool
    readers: int
    text: str
    """Text of each token."""
    tokens_per_second: float
    settle_s: float
    window_s: float
    watch_pid: int


class AudienceResult(msgspec.Struct, frozen=True):
    gaps: int
    """Time between events, of all watched readers."""
    gap_p50_ms: float
    gap_p99_ms: float
    tokens: int
    """Tokens of the stream at the end of the window."""
    rss_bytes: int
    """Resident memory when all readers had begun."""
    rss_most_bytes: int
    """Maximum of the resident memory from then to the end of the window, measured ten times a second."""


class Retain(msgspec.Struct, frozen=True, tag=True):
    """Streams that are read to their end and stay readable, `at_once` of them concurrently."""

    target: Target
    streams: int
    tokens: int
    at_once: int = 20
    token_interval_ms: int = 1


class RetainResult(msgspec.Struct, frozen=True):
    streams: int


class RemoteReaders(msgspec.Struct, frozen=True, tag=True):
    """Paced streams of one server, each with a reader there and several at another server.

    The streams start over `ramp_s`. Each is read for `ramp_s` + `window_s`. What a remote reader gets in its
    first `settle_s` does not count.
    """

    streams: int
    readers_per_stream: int
    tokens_per_second: float
    ramp_s: float
    settle_s: float
    window_s: float
    owner: Target = Target("", "grpc")
    other: Target = Target("", "grpc")


class RemoteReadersResult(msgspec.Struct, frozen=True):
    readers: int
    tokens: int
    """Messages that were measured."""
    added_p50_ms: float
    """How much later a message arrives at the remote reader than at the owner's reader."""
    added_p99_ms: float


class Read(msgspec.Struct, frozen=True, tag=True):
    """Paced streams that are read to their end on one connection, by two kinds of readers in turn.

    In each round, either kind reads `streams` of them, which start over `ramp_s`. After `settle_s`, CPU and
    events are measured over `window_s`.
    """

    address: str
    rounds: int
    streams: int
    tokens_per_second: float
    ramp_s: float
    settle_s: float
    window_s: float


class ShortStreams(msgspec.Struct, frozen=True, tag=True):
    """Streams of one token, `at_once` at a time, to each target in turn.

    For a target in `watch` the CPU of that process is measured, for others that of the load process.
    """

    targets: dict[str, Target]
    watch: dict[str, int]
    rounds: int
    streams: int
    at_once: int


class ShortStreamsResult(msgspec.Struct, frozen=True):
    cpu_us: dict[str, list[float]]
    """CPU time for one stream, by target and round."""


class ReadResult(msgspec.Struct, frozen=True):
    stub_cpu_us: list[float]
    """CPU time of the load process for an event, by round, with the generated stub on grpc.aio."""
    client_cpu_us: list[float]
    """The same with Tokenwire's AsyncClient."""


Job = (
    Read
    | Streams
    | FirstToken
    | KeepOpen
    | Wire
    | Flood
    | Resume
    | Audience
    | Retain
    | RemoteReaders
    | ShortStreams
)
