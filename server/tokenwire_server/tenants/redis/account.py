"""What this process has charged to one holder, and has to report to Redis."""

from __future__ import annotations

from ..limits import Holder
from .charges import Charge, Report

COUNTED_S = 61.0
"""Charges that wait for longer are dropped: what they charge or refund does not count any more."""

PREFIX = "tokenwire:"
FORMAT = 1
"""Format of the states. Processes of different versions with different formats count separately."""


class Account:
    """The open streams of this process that a holder has, and charges that Redis does not have yet.

    Times are seconds of one monotonic clock. There are at most a few charges for each second of the last
    minute.
    """

    __slots__ = ("_report_time", "_sent", "_unsent", "holder", "key", "streams", "tenant")

    def __init__(self, tenant: str, holder: Holder, key: str) -> None:
        self.tenant = tenant
        self.holder = holder
        self.key = key
        self.streams = 0
        self._unsent: dict[tuple[int, int], tuple[int, int]] = {}
        """Requests and tokens, by bucket and second."""
        self._sent: list[tuple[int, Charge]] = []
        """Charges that a call has carried, each with its second. It is not known if Redis has them."""
        self._report_time: float | None = None
        """When the last report was made, if Redis may count streams since."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to report."""
        return not (self.streams or self._unsent or self._sent) and self._report_time is None

    def add(self, bucket: int, requests: int, tokens: int, now: float) -> None:
        """Charge usage to a bucket, or to the present one, 0. It may be negative."""
        name = bucket, int(now)
        had_requests, had_tokens = self._unsent.get(name, (0, 0))
        self._unsent[name] = had_requests + requests, had_tokens + tokens

    def report(self, number: int, used: tuple[int, int], now: float) -> Report:
        """Return the report for a call with this number.

        `used` are the requests and tokens of this process in the last minute, which all charges are a part
        of. After a call without an answer, report again.
        """
        self.drop_expired(now)
        self._report_time = now
        for (bucket, second), (requests, tokens) in self._unsent.items():
            self._sent.append((second, Charge(number, bucket, requests, tokens)))
        self._unsent.clear()
        return Report(self.streams, *used, [charge for _, charge in self._sent])

    def reported(self) -> None:
        """Note that Redis has answered the last report. Takes of the same call are not counted yet."""
        self._sent.clear()
        if not self.streams:
            self._report_time = None

    def drop_expired(self, now: float) -> None:
        """Drop charges that do not count any more."""
        since = now - COUNTED_S
        if self._sent:
            self._sent = [sent for sent in self._sent if sent[0] >= since]
        for name in [name for name in self._unsent if name[1] < since]:
            del self._unsent[name]
        if self._report_time is not None and self._report_time < since:
            self._report_time = None


def key_of(prefix: str, tenant: str, holder: Holder) -> str:
    """Return the key of a holder's state. Those of one tenant are in one slot of a cluster."""
    name = "tenant" if holder.scope == "tenant" else f"key:{holder.counted_as}"
    return f"{prefix}{{{tenant}}}:limits{FORMAT}:{name}"
