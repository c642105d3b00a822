"""One stream's history: what its readers saw, what control calls answered, what the provider said.

Instants are seconds since the epoch, as the server's own `end_time` is: both are of one machine.
"""

from dataclasses import dataclass, field

MADE = ("heartbeat", "usage")
"""Kinds made for one reader: no entry of the log stands behind them."""
DELTAS = ("text", "reasoning", "arguments")
"""Kinds that merging may join."""
CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Entry:
    """One entry of the log, as the provider's answer makes it, between Started and the end."""

    kind: str
    """text, reasoning, arguments, call_started or call."""
    index: int = 0
    text: str = ""
    name: str = ""
    """Of a tool; "signed" of reasoning that bears a signature."""


@dataclass(frozen=True)
class Seen:
    """An event as a reader saw it: an Entry's kinds, and started, finished, heartbeat, usage."""

    sequence: int
    kind: str
    index: int = 0
    text: str = ""
    name: str = ""
    """As in Entry; of finished its reason."""
    proof: object = None
    """What only this stream's provider knows and every reader must see alike: an id, a signature;
    of started and finished the whole message."""
    usage: object = None
    """Of finished and usage: the figures."""
    at: float = 0.0


@dataclass(frozen=True)
class End:
    """How a call ended."""

    kind: str
    """ok; failed: with a reason; cut: by the reader, or its wire; lost: with neither."""
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    """The error's metadata."""
    at: float = 0.0


@dataclass
class Reading:
    """One call that reads."""

    after: int
    sent: float = 0.0
    attaches: bool = False
    """It was a ChatStream with the request_id, not a ResumeStream."""
    heartbeat_s: float | None = None
    usage_s: float | None = None
    stream_id: str = ""
    confirmed: float | None = None
    """When the initial metadata came: from here on the server counts it as a reader."""
    events: list[Seen] = field(default_factory=list)
    left: float | None = None
    """When it began to leave by itself."""
    end: End | None = None

    @property
    def position(self) -> int:
        """The last sequence it saw; its cursor."""
        return self.events[-1].sequence if self.events else self.after


@dataclass(frozen=True)
class Info:
    """What a control call told of the stream."""

    reason: str
    """Of its end; empty while it runs."""
    last_sequence: int
    reader_count: int = 0
    usage: object = None
    end_time: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What GetStream, CancelStream or DeleteStream answered."""

    call: str
    """get, cancel or delete."""
    sent: float
    at: float
    info: Info | None = None
    refusal: str = ""
    """The reason of its error."""


@dataclass(frozen=True)
class Reference:
    """What the provider says when nobody disturbs it."""

    entries: tuple[Entry, ...]
    end: str | None
    """The reason with which the stream then ends. None: the provider falls silent for good."""
    certain: int
    """So many of the entries come before a failure; the rest may."""


@dataclass
class History:
    """One stream, from its first call to its last."""

    reference: Reference
    seed: int = 0
    linger_s: float | None = None
    """None: the stream is cancelled when its last reader leaves."""
    log_ttl_s: float = 60.0
    is_tight: bool = False
    """Its server keeps little: old entries go, and streams that ended."""
    stream_id: str = ""
    readings: list[Reading] = field(default_factory=list)
    strangers: list[Reading] = field(default_factory=list)
    """Calls that were led to another stream, and left it at once."""
    answers: list[Answer] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """What was still there long after the last reader left."""
