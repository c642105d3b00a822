"""What can be asked for on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Literal

from ..channel import LOOKUP_TIMEOUT_S, SUMMARY_TIMEOUT_S
from ..key import KEY_VARIABLE
from ..target import DEFAULT_TARGET, TARGET_VARIABLE, resolve_target
from ..tls import CA_VARIABLE, CERT_VARIABLE, PLAINTEXT_VARIABLE
from ..tls import KEY_VARIABLE as TLS_KEY_VARIABLE
from .usage.filters import UsageArguments, describe_usage, usage_of
from .values import (
    label_value,
    positive_int_value,
    positive_s_value,
    sequence_value,
    stream_id_value,
    text_value,
    usd_value,
)

DEFAULT_MODEL = "openai/demo"
MODEL_VARIABLE = "TOKENWIRE_MODEL"

MAX_PROMPT_BYTES = 8 * 1024 * 1024
"""Longest prompt read from stdin; a server takes no more in a whole request by default."""

_EPILOG = """\
exit codes: 0 answered, 1 an error (one line on stderr), 2 wrong usage,
            130 interrupted (Ctrl-C), 141 the reader of stdout left
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """One command and what it was given. Fields of other commands have their defaults."""

    command: Literal["chat", "count", "resume", "cancel", "models", "ping", "usage"]
    target: str
    timeout_s: float | None
    json: bool
    key_file: str | None = None
    tls: bool | None = None
    """None: as the variables and the target say."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    model: str = ""
    system: str | None = None
    prompt: str = ""
    max_output_tokens: int | None = None
    temperature: float | None = None
    resumable: bool = False
    max_cost_microusd: int | None = None
    confirm_over_microusd: int | None = None
    """What the answer may cost without asking. None: anything."""
    labels: Mapping[str, str] = field(default_factory=dict)
    prompt_from_stdin: bool = False
    ask_provider: bool = False
    stream_id: str = ""
    after_sequence: int = 0
    usage: UsageArguments | None = None


def parse(argv: Sequence[str] | None) -> Arguments:
    """The arguments, the prompt read from stdin where it is there.

    Raises:
        SystemExit: with 2 for wrong usage, with 0 after `--help` and `--version`.
    """
    parser = _parser()
    given = parser.parse_args(argv)
    common = Arguments(
        command=given.name,
        target=resolve_target(given.target),
        timeout_s=given.timeout,
        json=given.json,
        key_file=given.key_file,
        tls=_tls(given, parser),
        tls_ca=given.tls_ca,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
    )
    match given.name:
        case "resume":
            return replace(common, stream_id=given.id, after_sequence=given.after)
        case "cancel":
            return replace(common, stream_id=given.id)
        case "models" | "ping":
            return common
        case "usage":
            return replace(common, usage=usage_of(given, parser))
    request = replace(
        common,
        model=given.model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL,
        system=given.system,
        prompt=_prompt(given.prompt, parser),
        prompt_from_stdin=given.prompt in (None, "-"),
        max_output_tokens=given.max_output_tokens,
        max_cost_microusd=given.max_cost,
    )
    if given.name == "count":
        return replace(request, ask_provider=given.ask_provider)
    labels = dict(given.label)
    if len(labels) < len(given.label):
        parser.error("--label names a key twice")
    return replace(
        request,
        temperature=given.temperature,
        resumable=given.resumable,
        confirm_over_microusd=given.confirm_over,
        labels=labels,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenwire",
        description="Talk to a Tokenwire server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tokenwire {version('tokenwire')}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    chat = _command(commands, "chat", "ask a model, and read its answer as it comes")
    _add_request(chat)
    chat.add_argument(
        "--confirm-over",
        type=usd_value,
        metavar="USD",
        help="ask first where it may cost more, or nobody knows what; where nobody knows how long the "
        "answer may be, it is the input that counts: give --max-output-tokens or --max-cost",
    )
    chat.add_argument(
        "--label",
        type=label_value,
        action="append",
        default=[],
        metavar="K=V",
        help="stands in the usage record; several times: several",
    )
    chat.add_argument("--temperature", type=float, metavar="T")
    chat.add_argument("--timeout", type=positive_s_value, metavar="S", help="deadline, in seconds")
    chat.add_argument(
        "--resumable",
        action="store_true",
        help="go on where a broken connection left the answer; the model goes on meanwhile, and if "
        "this command dies, for 30 s more",
    )
    _add_common(chat, "print every event as a line of JSON")

    count = _command(commands, "count", "tell what a chat would take and cost, and start none")
    _add_request(count)
    count.add_argument(
        "--ask-provider",
        action="store_true",
        help="have the provider count, where it can (default: the server counts)",
    )
    _add_lookup_timeout(count)
    _add_common(count, "print the answer as a line of JSON")

    resume = _command(commands, "resume", "read a stream on, or all of it")
    resume.add_argument("id", type=stream_id_value, metavar="ID", help="the stream's id")
    resume.add_argument(
        "--after",
        type=sequence_value,
        default=0,
        metavar="N",
        help="sequence of the last event that was seen (default: 0, none)",
    )
    resume.add_argument(
        "--timeout", type=positive_s_value, metavar="S", help="deadline, in seconds"
    )
    _add_common(resume, "print every event as a line of JSON")

    cancel = _command(
        commands, "cancel", "stop a stream for all its readers, and tell how it ended"
    )
    cancel.add_argument("id", type=stream_id_value, metavar="ID", help="the stream's id")
    _add_lookup_timeout(cancel)
    _add_common(cancel, "print the stream's state as a line of JSON")

    models = _command(commands, "models", "list the models that the server names")
    _add_lookup_timeout(models)
    _add_common(models, "print every model as a line of JSON")

    ping = _command(commands, "ping", "ask the server who you are, what you may, and how far it is")
    _add_lookup_timeout(ping)
    _add_common(ping, "print the server's answer as a line of JSON")

    usage = _command(commands, "usage", "what your streams used, and what that cost")
    describe_usage(usage)
    _add_lookup_timeout(usage, SUMMARY_TIMEOUT_S)
    _add_common(usage, "print every record, or group, as a line of JSON")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_request(command: argparse.ArgumentParser) -> None:
    """The arguments that `chat` and `count` share: what is said, to whom, and what it may take."""
    command.add_argument(
        "prompt", nargs="?", help="what to say; - (or nothing) reads it from stdin"
    )
    command.add_argument(
        "--model",
        "-m",
        type=text_value,
        help=f"provider/model or alias (default: ${MODEL_VARIABLE} or {DEFAULT_MODEL})",
    )
    command.add_argument(
        "--system", type=text_value, metavar="TEXT", help="instructions for the model"
    )
    command.add_argument("--max-output-tokens", type=positive_int_value, metavar="N")
    command.add_argument(
        "--max-cost",
        type=usd_value,
        metavar="USD",
        help="refuse it where the input alone costs more, and stop the answer there",
    )


def _add_lookup_timeout(
    command: argparse.ArgumentParser, default_s: float = LOOKUP_TIMEOUT_S
) -> None:
    command.add_argument(
        "--timeout",
        type=positive_s_value,
        default=default_s,
        metavar="S",
        help=f"in seconds (default: {default_s:g})",
    )


def _add_common(command: argparse.ArgumentParser, json_help: str) -> None:
    command.add_argument(
        "--target",
        type=text_value,
        metavar="HOST:PORT",
        help=f"the server (default: ${TARGET_VARIABLE} or {DEFAULT_TARGET})",
    )
    command.add_argument("--json", action="store_true", help=json_help)
    connection = command.add_argument_group("connection")
    connection.add_argument(
        "--key-file",
        type=text_value,
        metavar="FILE",
        help=f"a file that holds your key (default: the key in ${KEY_VARIABLE})",
    )
    connection.add_argument(
        "--tls", action="store_true", help="encrypt (default, but not to this machine)"
    )
    connection.add_argument(
        "--plaintext",
        action="store_true",
        help=f"do not; everybody on the way can read the key (default: ${PLAINTEXT_VARIABLE})",
    )
    connection.add_argument(
        "--tls-ca",
        type=text_value,
        metavar="FILE",
        help=f"authorities to trust (default: ${CA_VARIABLE}, or Mozilla's)",
    )
    connection.add_argument(
        "--tls-cert",
        type=text_value,
        metavar="FILE",
        help=f"your certificate, for servers that want one (default: ${CERT_VARIABLE})",
    )
    connection.add_argument(
        "--tls-key",
        type=text_value,
        metavar="FILE",
        help=f"its private key (default: ${TLS_KEY_VARIABLE})",
    )


def _tls(given: argparse.Namespace, parser: argparse.ArgumentParser) -> bool | None:
    wanted = given.tls or given.tls_ca or given.tls_cert or given.tls_key
    if given.plaintext and wanted:
        parser.error("--plaintext contradicts --tls, --tls-ca, --tls-cert and --tls-key")
    if given.plaintext:
        return False
    return True if wanted else None


def _prompt(given: str | None, parser: argparse.ArgumentParser) -> str:
    if given is None and sys.stdin.isatty():
        parser.error("no prompt: give a prompt, or - to read it from stdin")
    if given is None or given == "-":
        data = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
        if len(data) > MAX_PROMPT_BYTES:
            parser.error(f"the prompt on stdin is longer than {MAX_PROMPT_BYTES} bytes")
    else:
        data = os.fsencode(given)
    try:
        prompt = data.decode()
    except UnicodeDecodeError:
        parser.error("the prompt is not UTF-8")
    if not prompt.strip():
        parser.error("the prompt is empty")
    return prompt
