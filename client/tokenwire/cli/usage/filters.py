"""The filters and the form of usage, as options that both usage commands have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ..values import (
    Label,
    WrongUsage,
    choice_parser,
    label_value,
    labels_of,
    positive_int_value,
    text_value,
    time_value,
)

OUTCOMES = ("open", "finished", "cancelled", "time_limit", "budget", "failed", "lost")

DEFAULT_SPAN = timedelta(days=30)

LABEL_GROUP = "label:"
"""Begins a group by a label. The label's key follows."""

FILTERS = "Filters"
FORM = "Output"

WHEN_HELP = """\
WHEN is a span before now (7d, 24h, 90m, 30s), a date (2026-07-31, from midnight UTC) or a time
(2026-07-31T12:00, in UTC unless it has an offset). 7d means the last 7 times 24 hours."""

CSV_HELP = """\
CSV output (RFC 4180, UTF-8):
  Costs are exact, and empty if they are not known. Times are in UTC, labels are JSON.
  A text that begins with = + - @ or ' is preceded by ', to prevent formula injection."""

Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        metavar="WHEN",
        parser=time_value,
        help="Streams opened at this time or later.  [default: 30d before --until]",
        rich_help_panel=FILTERS,
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until",
        metavar="WHEN",
        parser=time_value,
        help="Streams opened before this time.  [default: now]",
        rich_help_panel=FILTERS,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        parser=text_value,
        help="Streams of this model: as it was requested, or the PROVIDER/MODEL that answered. "
        "If repeated: of any of them.",
        rich_help_panel=FILTERS,
    ),
]
Labels = Annotated[
    list[Label] | None,
    typer.Option(
        "--label",
        metavar="KEY=VALUE",
        parser=label_value,
        help="Streams with this label. If repeated: with all of them.",
        rich_help_panel=FILTERS,
    ),
]
Outcomes = Annotated[
    list[str] | None,
    typer.Option(
        "--outcome",
        metavar="OUTCOME",
        parser=choice_parser(OUTCOMES),
        help=f"Streams that ended like this: {', '.join(OUTCOMES)}. If repeated: any of them.",
        rich_help_panel=FILTERS,
    ),
]
Records = Annotated[
    bool,
    typer.Option(
        "--records", help="Print one line per stream, the newest first.", rich_help_panel=FORM
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        parser=positive_int_value,
        help="Print at most N records.  [default: all]",
        rich_help_panel=FORM,
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.", rich_help_panel=FORM)]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per line.", rich_help_panel=FORM)
]


@dataclass(frozen=True, slots=True)
class UsageFilters:
    """Which streams are meant: those that match all of these."""

    since: datetime
    until: datetime | None = None
    models: tuple[str, ...] = ()
    """Any of them. Empty: every model."""
    labels: Mapping[str, str] | None = None
    outcomes: tuple[str, ...] = ()
    """Any of them. Empty: every outcome."""
    key_prefix: str | None = None


def filters_of(
    *,
    since: datetime | None,
    until: datetime | None,
    models: Sequence[str] | None,
    labels: Sequence[Label] | None,
    outcomes: Sequence[str] | None,
    key_prefix: str | None,
) -> UsageFilters:
    """Return the filters that the options describe. Raises WrongUsage if they contradict each other."""
    if since is None:
        try:
            since = (until or datetime.now(UTC)) - DEFAULT_SPAN
        except OverflowError:
            raise WrongUsage("--until is too long ago") from None
    if until is not None and until <= since:
        raise WrongUsage("--until must be later than --since")
    return UsageFilters(
        since=since,
        until=until,
        models=tuple(models or ()),
        labels=labels_of(labels),
        outcomes=tuple(outcomes or ()),
        key_prefix=key_prefix,
    )


def check_form(*, csv: bool, json: bool, records: bool, by: bool, limit: bool) -> None:
    """Raise WrongUsage if the options for the form contradict each other.

    `records` is whether `--records` is given, or implied by another option; `by` and `limit` are whether
    these options are given.
    """
    if csv and json:
        raise WrongUsage("--csv contradicts --json")
    if records and by:
        raise WrongUsage("--records contradicts --by")
    if limit and not records:
        raise WrongUsage("--limit is only for records: add --records")


def groups_parser(groups: Sequence[str], *, one_label: bool = False) -> Callable[[str], Groups]:
    """Return a parser of `--by` that accepts these groups, and labels: any number, or `one_label`."""
    known = ", ".join((*groups, f"{LABEL_GROUP}KEY"))

    def groups_value(text: str) -> Groups:
        found = tuple(text_value(text).split(","))
        for group in found:
            is_label = group.startswith(LABEL_GROUP) and group != LABEL_GROUP
            if not is_label and group not in groups:
                raise ValueError(f"{group!r} is not one of {known}")
            if found.count(group) > 1:
                raise ValueError(f"{group} is given twice")
        if one_label and sum(group.startswith(LABEL_GROUP) for group in found) > 1:
            raise ValueError("label is given twice")
        return Groups(found)

    return groups_value


@dataclass(frozen=True, slots=True)
class Groups:
    """What `--by` names, in the given order."""

    names: tuple[str, ...]
    """Each a group, or `label:` and the label's key."""
