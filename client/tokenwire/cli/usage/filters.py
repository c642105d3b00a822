"""What `tokenwire usage` can be asked for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..values import label_value, midnight, positive_int_value, text_value, time_value

if TYPE_CHECKING:
    from ...usage import UsageFields, UsageGroupName, UsageOutcomeName

GROUPS: tuple[UsageGroupName, ...] = ("day", "model", "label", "key")
"""In the order in which the server sorts by them."""

OUTCOMES: tuple[UsageOutcomeName, ...] = (
    "open",
    "finished",
    "cancelled",
    "time_limit",
    "budget",
    "failed",
    "lost",
)

DEFAULT_DAYS = 30

_LABEL = "label:"

_DESCRIPTION = """\
what your streams used: a summary by day, or with --records (or --csv, or
--json) a line for each stream, newest first.

WHEN is a date or a time (UTC, unless it bears a zone), 24h (ago), or 7d: the
beginning (UTC) of the day 7 days ago. A record can be read about a second
after what it tells has happened.
"""

CSV_HELP = """\
--csv is RFC 4180, in UTF-8: costs exact, in US dollars and in millionths of
one, and empty where they are not known; times in UTC; labels as JSON. Every
stream that was opened in the time stands in it exactly once. A text that
begins with = + - @ or ' has a ' put before it, lest a spreadsheet run it.
"""


@dataclass(frozen=True, slots=True)
class UsageArguments:
    """Which records, and what of them."""

    since: datetime
    until: datetime | None
    models: tuple[str, ...]
    labels: Mapping[str, str]
    outcomes: tuple[UsageOutcomeName, ...]
    key_prefix: str
    group_by: tuple[UsageGroupName, ...]
    """Empty: the records themselves."""
    label_key: str
    csv: bool
    limit: int | None
    """Most records. None: all."""

    def fields(self) -> UsageFields:
        """Which records, as the client takes it."""
        return {
            "since": self.since,
            "until": self.until,
            "models": self.models,
            "labels": self.labels,
            "outcomes": self.outcomes,
            "key_prefix": self.key_prefix,
        }


def describe_usage(usage: argparse.ArgumentParser) -> None:
    """Add the command's own arguments to its parser."""
    usage.description = _DESCRIPTION
    usage.epilog = f"{CSV_HELP}\n{usage.epilog}"
    usage.add_argument(
        "--since",
        type=_now_or_then,
        metavar="WHEN",
        help=f"streams opened then or later (default: {DEFAULT_DAYS} days before --until, or now)",
    )
    usage.add_argument(
        "--until", type=_now_or_then, metavar="WHEN", help="streams opened before (default: now)"
    )
    usage.add_argument(
        "--model",
        "-m",
        type=text_value,
        action="append",
        default=[],
        metavar="M",
        help="provider/model or alias; several times: any of them",
    )
    usage.add_argument(
        "--label",
        type=label_value,
        action="append",
        default=[],
        metavar="K=V",
        help="streams with this label; several times: with all of them",
    )
    usage.add_argument(
        "--outcome",
        choices=OUTCOMES,
        action="append",
        default=[],
        metavar="O",
        help=f"{', '.join(OUTCOMES)}; several times: any of them",
    )
    usage.add_argument(
        "--key-prefix", type=text_value, default="", metavar="P", help="streams begun with this key"
    )
    usage.add_argument(
        "--by",
        type=_groups,
        metavar="GROUPS",
        help="add records up by day, model, label:KEY or key, or several, with commas",
    )
    usage.add_argument("--records", action="store_true", help="single records, newest first")
    usage.add_argument("--csv", action="store_true", help="print records, or groups, as CSV")
    usage.add_argument("--limit", type=positive_int_value, metavar="N", help="at most N records")


def usage_of(given: argparse.Namespace, parser: argparse.ArgumentParser) -> UsageArguments:
    """What was asked for.

    Raises:
        SystemExit: with 2, where arguments contradict each other.
    """
    if given.csv and given.json:
        parser.error("--csv contradicts --json")
    if given.records and given.by:
        parser.error("--records contradicts --by")
    records = given.records or ((given.csv or given.json) and not given.by)
    if given.limit is not None and not records:
        parser.error("--limit goes with --records, --csv and --json, without --by")
    labels = dict(given.label)
    if len(labels) < len(given.label):
        parser.error("--label names a key twice")
    until: datetime | None = given.until
    since: datetime | None = given.since
    if since is None:
        since = _days_before(until or datetime.now(UTC), parser)
    if until is not None and until <= since:
        parser.error("--until must be later than --since")
    groups: tuple[UsageGroupName, ...] = () if records else ("day",)
    label_key = ""
    if given.by:
        groups, label_key = given.by
    return UsageArguments(
        since=since,
        until=until,
        models=tuple(given.model),
        labels=labels,
        outcomes=tuple(given.outcome),
        key_prefix=given.key_prefix,
        group_by=groups,
        label_key=label_key,
        csv=given.csv,
        limit=given.limit,
    )


def _days_before(time: datetime, parser: argparse.ArgumentParser) -> datetime:
    try:
        return midnight(time - timedelta(days=DEFAULT_DAYS))
    except OverflowError:
        parser.error("--until is too long ago")


def _now_or_then(text: str) -> datetime:
    return time_value(text, datetime.now(UTC))


def _groups(text: str) -> tuple[tuple[UsageGroupName, ...], str]:
    """The groups, in the server's order, and the key of the label among them."""
    found: list[str] = []
    label_key = ""
    for name in text_value(text).split(","):
        group = name
        if name.startswith(_LABEL) and name != _LABEL:
            group, label_key = "label", name.removeprefix(_LABEL)
        elif name not in GROUPS or name == "label":
            raise argparse.ArgumentTypeError(f"{name!r} is not among day, model, label:KEY, key")
        if group in found:
            raise argparse.ArgumentTypeError(f"{group} stands twice")
        found.append(group)
    return tuple(group for group in GROUPS if group in found), label_key
