"""The connection options, which every command has, and the client that they describe."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..connect.key import KEY_VARIABLE, check_key
from ..connect.target import DEFAULT_TARGET, TARGET_VARIABLE, resolve_target
from ..connect.tls import (
    CA_VARIABLE,
    CERT_VARIABLE,
    PLAINTEXT_VARIABLE,
    Tls,
    named_tls,
    resolve_tls,
)
from ..connect.tls import KEY_VARIABLE as TLS_KEY_VARIABLE
from .exit_codes import EXIT_WRONG_USAGE
from .parser import Command, params_of
from .terminal import say
from .values import WrongUsage, text_value

if TYPE_CHECKING:
    from ..aio.client import AsyncClient

MAX_KEY_BYTES = 4096
"""Size of a key file. A larger one is not a key: gRPC would refuse it in a call's metadata."""

PANEL = "Connection options"

_TLS_FIELD = re.compile(r"tls\.(ca|cert|key)")


@dataclass(frozen=True, slots=True)
class Connection:
    """How a command reaches its server."""

    target: str
    key_file: str | None = None
    tls: bool | None = None
    """None: the environment and the target decide."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def client(self, *, retries: bool = True) -> AsyncClient:
        """Return a client for this connection.

        Raises:
            SystemExit: with 2, after an error line, if a file is missing or has wrong contents.
        """
        from ..aio.client import AsyncClient
        from ..stream.retry import MAX_RETRIES

        try:
            key = None if self.key_file is None else _key_in(self.key_file)
            max_retries = MAX_RETRIES if retries else 0
            return AsyncClient(self.target, key=key, tls=self._tls(), max_retries=max_retries)
        except ValueError as error:
            say(f"tokenwire: {self._name_options(str(error))}")
            raise SystemExit(EXIT_WRONG_USAGE) from None

    def is_encrypted(self) -> bool:
        """Return whether the client uses TLS."""
        return resolve_tls(self._tls(), self.target) is not None

    def options(self) -> list[str]:
        """Return the options that make another command connect in the same way."""
        words = [] if self.target == resolve_target(None) else ["--target", self.target]
        files = (self.tls_ca, self.tls_cert, self.tls_key)
        if self.tls is False:
            words += ["--plaintext"]
        elif self.tls and not any(files):
            words += ["--tls"]
        names = ("--key-file", "--tls-ca", "--tls-cert", "--tls-key")
        for option, value in zip(names, (self.key_file, *files), strict=True):
            words += [option, value] if value else []
        return words

    def _tls(self) -> bool | Tls | None:
        """Return the TLS settings of the options, which take precedence over the environment."""
        given = {"ca": self.tls_ca, "cert": self.tls_cert, "key": self.tls_key}
        if not any(given.values()):
            return self.tls
        return replace(named_tls() or Tls(), **{name: path for name, path in given.items() if path})

    def _name_options(self, message: str) -> str:
        """Replace fields of `Tls` in an error of the client with the options or variables that set them."""
        variables = {"ca": CA_VARIABLE, "cert": CERT_VARIABLE, "key": TLS_KEY_VARIABLE}

        def name(field: re.Match[str]) -> str:
            option, variable = f"tls_{field[1]}", variables[field[1]]
            is_variable = not getattr(self, option) and os.environ.get(variable)
            return variable if is_variable else "--" + option.replace("_", "-")

        fields, separator, problem = message.partition(": ")
        if not _TLS_FIELD.match(fields):
            return message
        if problem.startswith("is required with "):  # other problems contain paths
            problem = _TLS_FIELD.sub(name, problem)
        return _TLS_FIELD.sub(name, fields) + separator + problem


class ServerCommand(Command):
    """A command that calls a server. It has the connection options; its function gets a Connection
    as `context.obj`.
    """

    def __init__(self, name: str | None, *, params: list[Any], **settings: Any) -> None:
        super().__init__(name, params=[*params, *_connection_params()], **settings)

    def invoke(self, ctx: Any) -> Any:
        given = {param.name: ctx.params.pop(param.name) for param in _connection_params()}
        try:
            ctx.obj = _connection(**given)
        except WrongUsage as error:
            ctx.fail(str(error))
        return super().invoke(ctx)


def _file(option: str, help_text: str) -> Any:
    return typer.Option(
        option, metavar="FILE", parser=text_value, help=help_text, rich_help_panel=PANEL
    )


def _connection(
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="HOST:PORT",
            parser=text_value,
            help=f"Address of the server.  [default: ${TARGET_VARIABLE}, or {DEFAULT_TARGET}]",
            rich_help_panel=PANEL,
        ),
    ] = None,
    key_file: Annotated[
        str | None,
        _file("--key-file", f"File with your key.  [default: the key in ${KEY_VARIABLE}]"),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            help="Encrypt the connection. This is the default, except to this machine.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    plaintext: Annotated[
        bool,
        typer.Option(
            "--plaintext",
            help="Do not encrypt the connection: others on the network can read your key.  "
            f"[default: ${PLAINTEXT_VARIABLE}]",
            rich_help_panel=PANEL,
        ),
    ] = False,
    tls_ca: Annotated[
        str | None,
        _file(
            "--tls-ca",
            "Certificates of the authorities to trust.  "
            f"[default: ${CA_VARIABLE}, or those that gRPC includes]",
        ),
    ] = None,
    tls_cert: Annotated[
        str | None,
        _file(
            "--tls-cert",
            f"Your certificate, if the server requires one.  [default: ${CERT_VARIABLE}]",
        ),
    ] = None,
    tls_key: Annotated[
        str | None,
        _file("--tls-key", f"Private key of your certificate.  [default: ${TLS_KEY_VARIABLE}]"),
    ] = None,
) -> Connection:
    is_tls = tls or bool(tls_ca or tls_cert or tls_key)
    if plaintext and is_tls:
        raise WrongUsage("--plaintext contradicts --tls, --tls-ca, --tls-cert and --tls-key")
    return Connection(
        target=resolve_target(target),
        key_file=key_file,
        tls=False if plaintext else (True if is_tls else None),
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )


@cache
def _connection_params() -> list[Any]:
    return params_of(_connection)


def _key_in(path: str) -> str:
    name = f"--key-file {path}"
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name}: cannot read it: {error.strerror or error}") from None
    key = data.decode("ascii", "replace").strip()
    if not key or len(data) > MAX_KEY_BYTES:
        raise ValueError(f"{name}: there is no key in it")
    check_key(key, name)
    return key
