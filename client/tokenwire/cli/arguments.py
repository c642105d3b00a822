"""What can be asked for on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

from ..key import KEY_VARIABLE
from ..target import DEFAULT_TARGET, TARGET_VARIABLE, resolve_target
from ..tls import CA_VARIABLE, CERT_VARIABLE, PLAINTEXT_VARIABLE
from ..tls import KEY_VARIABLE as TLS_KEY_VARIABLE

DEFAULT_MODEL = "openai/demo"
MODEL_VARIABLE = "TOKENWIRE_MODEL"

MAX_PROMPT_BYTES = 8 * 1024 * 1024
"""Longest prompt read from stdin; a server takes no more in a whole request by default."""

MAX_TIMEOUT_S = 10**8
"""Three years; a deadline beyond some hundred years has passed at once, for gRPC."""

_EPILOG = """\
exit codes: 0 answered, 1 an error (one line on stderr), 2 wrong usage,
            130 interrupted (Ctrl-C), 141 the reader of stdout left
"""


@dataclass(frozen=True, slots=True)
class Arguments:
    """One command and what it was given. Fields of other commands have their defaults."""

    command: Literal["chat", "resume", "cancel", "models", "ping"]
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
    stream_id: str = ""
    after_sequence: int = 0


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
    return replace(
        common,
        model=given.model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL,
        system=given.system,
        prompt=_prompt(given.prompt, parser),
        max_output_tokens=given.max_output_tokens,
        temperature=given.temperature,
        resumable=given.resumable,
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
    chat.add_argument("prompt", nargs="?", help="what to say; - (or nothing) reads it from stdin")
    chat.add_argument(
        "--model",
        type=_text,
        help=f"provider/model or alias (default: ${MODEL_VARIABLE} or {DEFAULT_MODEL})",
    )
    chat.add_argument("--system", type=_text, metavar="TEXT", help="instructions for the model")
    chat.add_argument("--max-output-tokens", type=_positive_int, metavar="N")
    chat.add_argument("--temperature", type=float, metavar="T")
    chat.add_argument("--timeout", type=_positive_s, metavar="S", help="deadline, in seconds")
    chat.add_argument(
        "--resumable",
        action="store_true",
        help="go on where a broken connection left the answer; the model goes on meanwhile, and if "
        "this command dies, for 30 s more",
    )
    _add_common(chat, "print every event as a line of JSON")

    resume = _command(commands, "resume", "read a stream on, or all of it")
    resume.add_argument("id", type=_stream_id, metavar="ID", help="the stream's id")
    resume.add_argument(
        "--after",
        type=_sequence,
        default=0,
        metavar="N",
        help="sequence of the last event that was seen (default: 0, none)",
    )
    resume.add_argument("--timeout", type=_positive_s, metavar="S", help="deadline, in seconds")
    _add_common(resume, "print every event as a line of JSON")

    cancel = _command(
        commands, "cancel", "stop a stream for all its readers, and tell how it ended"
    )
    cancel.add_argument("id", type=_stream_id, metavar="ID", help="the stream's id")
    _add_lookup_timeout(cancel)
    _add_common(cancel, "print the stream's state as a line of JSON")

    models = _command(commands, "models", "list the models that the server names")
    _add_lookup_timeout(models)
    _add_common(models, "print every model as a line of JSON")

    ping = _command(commands, "ping", "ask the server who you are, what you may, and how far it is")
    _add_lookup_timeout(ping)
    _add_common(ping, "print the server's answer as a line of JSON")
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


def _add_lookup_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout", type=_positive_s, default=10.0, metavar="S", help="in seconds (default: 10)"
    )


def _add_common(command: argparse.ArgumentParser, json_help: str) -> None:
    command.add_argument(
        "--target",
        type=_text,
        metavar="HOST:PORT",
        help=f"the server (default: ${TARGET_VARIABLE} or {DEFAULT_TARGET})",
    )
    command.add_argument("--json", action="store_true", help=json_help)
    connection = command.add_argument_group("connection")
    connection.add_argument(
        "--key-file",
        type=_text,
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
        type=_text,
        metavar="FILE",
        help=f"authorities to trust (default: ${CA_VARIABLE}, or Mozilla's)",
    )
    connection.add_argument(
        "--tls-cert",
        type=_text,
        metavar="FILE",
        help=f"your certificate, for servers that want one (default: ${CERT_VARIABLE})",
    )
    connection.add_argument(
        "--tls-key",
        type=_text,
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
        parser.error("what shall be said? give a prompt, or - to read it from stdin")
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


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that Python could not decode
        raise argparse.ArgumentTypeError("not UTF-8") from None
    return text


def _stream_id(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the stream's id is empty")
    return _text(text)


def _sequence(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return number


def _positive_int(text: str) -> int:
    number = int(text)
    if not 1 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def _positive_s(text: str) -> float:
    number = float(text)
    if not 0 < number <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(
            f"{text} is not a number of seconds, above 0 to {MAX_TIMEOUT_S}"
        )
    return number
