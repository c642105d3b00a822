"""The options of `tokenwire usage`."""

from __future__ import annotations

from typing import Annotated

import typer

from ...connect.channel import SUMMARY_TIMEOUT_S
from ..connection import Connection
from ..options import SummaryTimeout
from ..running import run
from ..usage.filters import (
    CSV_HELP,
    FILTERS,
    FORM,
    WHEN_HELP,
    Csv,
    Groups,
    Json,
    Labels,
    Limit,
    Models,
    Outcomes,
    Records,
    Since,
    Until,
    check_form,
    filters_of,
    groups_parser,
)
from ..values import text_value

USAGE_EPILOG = f"""\
{WHEN_HELP}

{CSV_HELP}

Examples:
  tokenwire usage --since 7d --by model,label:team
  tokenwire usage --records --limit 20
  tokenwire usage --since 2026-07-01 --until 2026-08-01 --csv > july.csv"""


def usage(
    context: typer.Context,
    since: Since = None,
    until: Until = None,
    model: Models = None,
    label: Labels = None,
    outcome: Outcomes = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            "--key-prefix",
            metavar="PREFIX",
            parser=text_value,
            help="Streams that were opened with the key that has this prefix.",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    by: Annotated[
        Groups | None,
        typer.Option(
            "--by",
            metavar="GROUP,...",
            parser=groups_parser(("day", "model", "key"), one_label=True),
            help="Print sums by day, model, key or label:KEY.  [default: day]",
            rich_help_panel=FORM,
        ),
    ] = None,
    records: Records = False,
    limit: Limit = None,
    csv: Csv = False,
    json: Json = False,
    timeout: SummaryTimeout = SUMMARY_TIMEOUT_S,
) -> None:
    """Print what your streams used and cost.

    By default, print a sum for each day. With --records, or with --csv or --json without --by, print one line
    for each stream, the newest first. A record is available about a second after the event that it reports.
    """
    is_records = records or ((csv or json) and by is None)
    check_form(csv=csv, json=json, records=is_records, by=by is not None, limit=limit is not None)
    filters = filters_of(
        since=since, until=until, models=model, labels=label, outcomes=outcome, key_prefix=key
    )
    from ..commands.usage import UsageForm, summary_groups, usage

    group_by, label_key = ((), "") if is_records else summary_groups(by or Groups(("day",)))
    form = UsageForm(group_by=group_by, label_key=label_key, csv=csv, json=json, limit=limit)
    connection: Connection = context.obj
    run(usage(connection, filters, form, timeout_s=timeout), connection)
