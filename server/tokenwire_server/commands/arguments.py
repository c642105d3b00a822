"""The arguments of the operator's commands, and what may be said in them.

Nothing is imported here before an argument needs it: `serve` pays for this module too.
"""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import CallerLimits

    Parsers = argparse._SubParsersAction[argparse.ArgumentParser]

OUTCOMES = ("open", "finished", "cancelled", "time_limit", "budget", "failed", "lost")
GROUPS = ("tenant", "day", "model", "key")
MAX_SPAN = timedelta(days=36500)

_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def add_commands(commands: Parsers) -> None:
    """Add `migrate`, `keys` and `usage` to the commands."""
    migrate = commands.add_parser("migrate", help="bring the database's schema up to date")
    _add_database(migrate)
    keys = commands.add_parser("keys", help="create, list, revoke and rotate the keys of callers")
    actions = keys.add_subparsers(dest="action", required=True)

    create = actions.add_parser("create", help="print a new key: it is shown this once")
    create.add_argument("--tenant", type=tenant, required=True, metavar="NAME", help="whose it is")
    create.add_argument(
        "--models",
        type=models,
        default=(),
        metavar="NAME,...",
        help="what it may call; * stands for any text, as in openai/*; default: every model",
    )
    create.add_argument(
        "--limits",
        type=limits,
        metavar="NAME=N,...",
        help="what its calls may take, such as requests_per_minute=60; default: no limits of its own",
    )
    create.add_argument(
        "--expires",
        type=expiry,
        metavar="WHEN",
        help="a span such as 30d or 12h, a date (its first moment in UTC), or a time as RFC 3339; at "
        "most 36500d from now; default: never",
    )

    listing = actions.add_parser("list", help="list keys, oldest first, never their secrets")
    listing.add_argument("--tenant", type=tenant, metavar="NAME", help="those of one tenant")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")

    revoke = actions.add_parser("revoke", help="have a key taken no longer")
    _add_which(revoke)
    rotate = actions.add_parser("rotate", help="print a new key that takes the place of one")
    _add_which(rotate)
    rotate.add_argument(
        "--overlap",
        type=span,
        default="24h",
        metavar="SPAN",
        help="how long the old one is still taken, such as 12h or 0s; default: 24h",
    )
    for action in (create, listing, revoke, rotate):
        _add_database(action)
    _add_usage(commands)


def _add_usage(commands: Parsers) -> None:
    usage = commands.add_parser("usage", help="what streams used and cost, of all tenants or one")
    usage.add_argument("--tenant", type=tenant, metavar="NAME", help="streams of one tenant")
    usage.add_argument("--key", type=prefix, metavar="PREFIX", help="those that one key began")
    usage.add_argument(
        "--since",
        type=past,
        default="30d",
        metavar="WHEN",
        help="opened then or later: a span before now, such as 7d or 12h, a date (its first moment in "
        "UTC), or a time as RFC 3339; default: 30d",
    )
    usage.add_argument("--until", type=past, metavar="WHEN", help="opened before then")
    usage.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="as it was asked for, or provider/model that served; more than once: any of them",
    )
    usage.add_argument(
        "--label",
        action="append",
        type=label,
        default=[],
        metavar="KEY=VALUE",
        help="with this label; more than once: with all of them",
    )
    usage.add_argument(
        "--outcome", action="append", choices=OUTCOMES, default=[], help="that ended so"
    )
    usage.add_argument(
        "--by",
        type=groups,
        default="tenant",
        metavar="GROUP,...",
        help="sums by tenant (default), day, model, key, label:KEY",
    )
    usage.add_argument("--records", action="store_true", help="each stream, the newest first")
    form = usage.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="as CSV, times in UTC, exact US dollars")
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    _add_database(usage)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--database", metavar="URL", help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
    )
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings")


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix", type=prefix, nargs="?", metavar="PREFIX", help="tw_ and 12 digits"
    )
    parser.add_argument(
        "--tenant", type=tenant, metavar="NAME", help="whose key it is; enough if it has just one"
    )


def tenant(text: str) -> str:
    from ..tenants.key import TENANT_NAME

    if not TENANT_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "must begin with a small letter or digit; then also . _ - may follow, 64 in all"
        )
    return text


def models(text: str) -> tuple[str, ...]:
    from ..tenants.key import MODEL_PATTERN

    patterns = tuple(text.split(","))
    for pattern in patterns:
        if not MODEL_PATTERN.fullmatch(pattern):
            raise argparse.ArgumentTypeError(
                f"{pattern!r} is no model: no spaces, ? or [; * stands for any text"
            )
    return patterns


def limits(text: str) -> CallerLimits:
    from pydantic import ValidationError

    from ..config import CallerLimits
    from ..config.bounds import MAX_CALLER_LIMIT

    known = ", ".join(CallerLimits.model_fields)
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in CallerLimits.model_fields:
            raise argparse.ArgumentTypeError(f"{name!r} is no limit: NAME=N, NAME one of {known}")
        if name in found:
            raise argparse.ArgumentTypeError(f"{name} stands there twice")
        if not (number.isascii() and number.isdigit()):
            raise argparse.ArgumentTypeError(f"{name} must be a whole number above 0")
        try:
            found[name] = int(number)
            CallerLimits(**found)
        except (ValidationError, ValueError):  # int() refuses 4300 digits
            raise argparse.ArgumentTypeError(
                f"{name} must be from 1 to {MAX_CALLER_LIMIT}"
            ) from None
    return CallerLimits(**found)


def span(text: str) -> timedelta:
    """A span such as 30d, 12h, 5m, 0s."""
    match = _SPAN.fullmatch(text)
    found = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else MAX_SPAN * 2
    if found > MAX_SPAN:
        raise argparse.ArgumentTypeError(
            f"must be a number and s, m, h or d, such as 24h; at most {MAX_SPAN.days}d"
        )
    return found


def expiry(text: str) -> float:
    """When a key expires, in seconds since the epoch."""
    now = datetime.now(UTC)
    when = now + span(text) if _SPAN.fullmatch(text) else _time(text)
    if when <= now:
        raise argparse.ArgumentTypeError("lies in the past")
    if when - now > MAX_SPAN:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SPAN.days}d from now")
    return when.timestamp()


def past(text: str) -> float:
    """A moment, in seconds since the epoch; spans lie before now."""
    when = datetime.now(UTC) - span(text) if _SPAN.fullmatch(text) else _time(text)
    return when.timestamp()


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "must be a span such as 30d or 12h, a date such as 2027-01-31, or a time such as "
            "2027-01-31T12:00:00Z"
        ) from None
    if when.tzinfo is None:
        if len(text) > len("2027-01-31"):
            raise argparse.ArgumentTypeError("must say its offset from UTC, as in ...T12:00:00Z")
        when = when.replace(tzinfo=UTC)
    return when


def label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError("must be KEY=VALUE")
    return key, value


def groups(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    for group in found:
        if group not in GROUPS and not (group.startswith("label:") and group != "label:"):
            raise argparse.ArgumentTypeError(
                f"{group!r} is no group: {', '.join(GROUPS)} or label:KEY"
            )
        if found.count(group) > 1:
            raise argparse.ArgumentTypeError(f"{group} stands there twice")
    return found


def prefix(text: str) -> str:
    """A key's prefix, cut off if it is a whole key. A text that is neither is not said again."""
    from ..tenants.key import PREFIX, parse_key_text

    secret = parse_key_text(text)
    if secret is not None:
        return secret.prefix
    if not PREFIX.fullmatch(text):
        raise argparse.ArgumentTypeError("must be the beginning of a key: tw_ and 12 hex digits")
    return text
