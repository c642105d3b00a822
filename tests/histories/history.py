"""The history of one stream: its readers' events, the answers of control calls, and the provider's reference.

Times are seconds since the epoch, as is the server's `end_time`. Both are from one machine.
"""

from dataclasses import dataclass, field

CAUGHT_UP = "caught_up"
DRAINING = "draining"
MADE = ("heartbeat", "usage", CAUGHT_UP, DRAINING)
"""Kinds of events that are made for one reader. They are not entries of the log."""
DELTAS = ("text", "reasoning", "arguments")
"""Kinds of entries that merging may join."""
CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Entry:
    """One entry of the log between Started and the end, as it follows from the provider's answer."""

    kind: str
    """One of text, reasoning, arguments, call_started, call and notice; text_info and citation in tests of
    streams."""
    index: int = 0
    """Index of the block. For a notice: the number of the attempt that follows."""
    text: str = ""
    name: str = ""
    """Name of the tool, "signed" for reasoning with a signature, or RETRYING or FALLBACK."""


@dataclass(frozen=True)
class Seen:
    """An event that a reader received: one of an Entry's kinds, or started, finished, or one of MADE."""

    sequence: int
    kind: str
    index: int = 0
    text: str = ""
    name: str = ""
    """As in Entry. For finished: its reason."""
    proof: object = None
    """Data that only the provider determines and that must be equal for every reader: an id or a signature.
    For started and finished: the whole message."""
    usage: object = None
    """For finished and usage: the figures."""
    at: float = 0.0


@dataclass(frozen=True)
class End:
    """How a call ended."""

    kind: str
    """ok; failed: with a reason; cut: by the reader or its connection; lost: neither of these."""
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    """Metadata of the error."""
    at: float = 0.0


@dataclass
class Reading:
    """One call that reads the stream."""

    after: int
    sent: float = 0.0
    attaches: bool = False
    """Whether it is a ChatStream with the request_id, and not a ResumeStream."""
    heartbeat_s: float | None = None
    usage_s: float | None = None
    stream_id: str = ""
    server: int = 0
    """The number of the server process that it called."""
    confirmed: float | None = None
    """When the initial metadata arrived. From then on the server counts the call as a reader."""
    events: list[Seen] = field(default_factory=list)
    deadline: float | None = None
    """When its call ends by itself, if it set a deadline."""
    left: float | None = None
    """When it began to leave voluntarily."""
    end: End | None = None

    @property
    def position(self) -> int:
        """The last sequence that it received, which is its cursor."""
        return self.events[-1].sequence if self.events else self.after


@dataclass(frozen=True)
class Info:
    """The stream's state in the answer of a control call."""

    reason: str
    """Finish or error reason. Empty while the stream runs."""
    last_sequence: int
    reader_count: int = 0
    usage: object = None
    end_time: float = 0.0


@dataclass(frozen=True)
class Answer:
    """The answer of GetStream, CancelStream or DeleteStream."""

    call: str
    """One of get, cancel and delete."""
    sent: float
    at: float
    info: Info | None = None
    refusal: str = ""
    """Reason of the error, if the call failed."""
    server: int = 0
    """The number of the server process that was called."""


@dataclass(frozen=True)
class Reference:
    """What an undisturbed request leads to: the notices of its attempts, and the complete answer."""

    entries: tuple[Entry, ...]
    end: str | None
    """The reason with which the stream then ends. None if the provider stays silent."""
    certain: int
    """Number of entries that arrive before a failure. Later entries may arrive."""

    @property
    def notice_count(self) -> int:
        """The number of entries before the first content."""
        return sum(entry.kind == "notice" for entry in self.entries)


@dataclass
class Fault:
    """A fault of the servers or of their Redis, in which a history took place."""

    kind: str
    """kill: a server was killed, with -9.
    drain: a server got SIGTERM. It ends when it has exited.
    away: Redis did not answer, or did not run.
    cut_off: one server could not reach Redis.
    closed: Redis closed connections.
    lost: Redis lost all its data.
    damaged: Redis lost a part of one stream's log."""
    began: float
    ended: float
    server: int | None = None
    """The number of the server process. None: all of them."""
    stream_id: str = ""
    """The stream of a damaged log."""
    detail: str = ""


@dataclass
class History:
    """One stream, from its first call to its last one."""

    reference: Reference
    seed: int = 0
    linger_s: float | None = None
    """None if the stream is cancelled when its last reader leaves."""
    log_ttl_s: float = 60.0
    is_tight: bool = False
    """Whether its server has little memory, so that old entries and ended streams are dropped."""
    stream_id: str = ""
    readings: list[Reading] = field(default_factory=list)
    strangers: list[Reading] = field(default_factory=list)
    """Calls that got another stream and left it immediately."""
    answers: list[Answer] = field(default_factory=list)
    request_count: int = 0
    """Requests that the providers got."""
    is_shared: bool = False
    """Whether its server shares streams with others, which readers and control calls may use too."""
    owner: int = 0
    """The number of the server process that ran the stream."""
    faults: list[Fault] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """What still existed long after the last reader left."""
