"""The settings of the protection against overload."""

from __future__ import annotations

from .bounds import Count, PauseSeconds, Seconds, SecondsOrZero
from .section import Section


class OverloadConfig(Section):
    """What the server does while its event loop is late: it reads the open streams less often, and then it
    refuses new chats.
    """

    max_lag_s: SecondsOrZero = 0.01
    """Maximum lag of the event loop, in seconds: how late its timers run, as the median of about ten samples
    in `interval_s`. Above it, fewer chats may be open, and the next ones get OVERLOADED. A single pause does
    not count. 0 turns the limit off."""
    interval_s: Seconds = 1.0
    """Seconds between two decisions. If the event loop was late, the limit on open chats is set up to 25 %
    lower than their number. If it was on time and a chat was refused, the limit rises by up to 4 %, but at
    least by 1."""
    max_pause_s: PauseSeconds = 0.05
    """Maximum pause, in seconds, between two reads of a stream while the server is busy. There are pauses
    while the lag is above a fifth of `max_lag_s`. If tokens collect for longer than `max_pause_s` and
    `max_lag_s` together before they are read, new chats are refused, too. 0, or a `max_lag_s` of 0, turns
    the pauses off."""
    min_chats: Count = 20
    """Number of chats that may always be open at once, whatever the lag is."""
