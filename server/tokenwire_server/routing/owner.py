"""What the attempts of a stream use: the stream that owns them, and what all streams share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..config import Limits
from ..content.filter_set import NO_FILTERS, FilterSet
from ..events import Delta
from ..moderation.moderator import NO_MODERATION, ModerationSet
from ..pricing.estimate import Estimator
from ..providers.base import Route
from ..providers.decode.base import Complete
from .attempt import Attempt
from .breakers import Breakers
from .checker import Checker
from .pacing import ReadPacing
from .reading import StagedAnswer
from .retry import AttemptError, Retries


class Routing:
    """What the attempts of all streams of a process share."""

    def __init__(
        self,
        limits: Limits,
        retries: Retries,
        breakers: Breakers,
        estimator: Estimator,
        pacing: ReadPacing,
        filters: FilterSet = NO_FILTERS,
        moderation: ModerationSet = NO_MODERATION,
    ) -> None:
        self.limits = limits
        self.retries = retries
        self.breakers = breakers
        self.estimator = estimator
        self.pacing = pacing
        self.checker = Checker()
        self.filters = filters
        """The filters of new streams."""
        self.moderation = moderation
        """The moderations of new streams."""


class AttemptOwner(Protocol):
    """The stream whose attempts are run. Each method is one synchronous step."""

    @property
    def stream_id(self) -> str: ...

    @property
    def has_ended(self) -> bool:
        """Whether the stream has ended. Then the outcome of the attempt changes nothing."""
        ...

    @property
    def append(self) -> Callable[[Delta], object]:
        """Takes the parts of the answer, and notices."""
        ...

    @property
    def stages(self) -> StagedAnswer | None:
        """What the answer passes before it is appended. None: nothing."""
        ...

    def left_s(self) -> float:
        """Return how long a further attempt may be waited for."""
        ...

    def attempt_started(self, attempt: Attempt) -> None: ...

    def attempt_failed(self, attempt: Attempt, error: AttemptError) -> None: ...

    def attempt_refused(self, route: Route, error: AttemptError) -> None: ...

    def first_content(self, attempt: Attempt) -> None: ...

    def finish(self, end: Complete) -> None:
        """End the stream as the answer of the current attempt ended."""
        ...

    def fail(self, error: AttemptError) -> None:
        """End the stream with the error that its callers get."""
        ...
