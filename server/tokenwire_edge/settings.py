"""The edge's settings: defaults, then a TOML file, then `TOKENWIRE_EDGE_*` variables, then flags.

The text under each field is its description in the reference of all settings. Unknown names are errors.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

ENV_PREFIX = "TOKENWIRE_EDGE_"

Seconds = Annotated[float, Field(gt=0, le=86_400)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 30)]


class Settings(BaseSettings):
    """Everything an operator can set. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    listen: str = "127.0.0.1:8080"
    """Address on which HTTP is served."""
    log_level: Literal["INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of the log records that are written to stderr. INFO has one for each request."""
    target: str = "127.0.0.1:50051"
    """Address of the Tokenwire server: `host:port`, without `http://`. Or those of several servers that share
    their streams, such as `ipv4:10.0.0.1:50051,10.0.0.2:50051`: they get the calls in turn."""
    tls: bool | None = None
    """Whether the connection to the server is encrypted. By default it is, except to a loopback address."""
    tls_ca: str | None = None
    """File with the CA certificates that the server's certificate is checked against (PEM)."""
    tls_cert: str | None = None
    """File with the edge's own certificate, for a server that requires one (PEM)."""
    tls_key: str | None = None
    """File with the private key of `tls_cert` (PEM)."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the edge, such as `https://app.example.com`. None by default."""
    playground: bool = True
    """Whether the playground is served at `/`. The browser client is always at `/static/tokenwire.js`."""

    ticket_secrets: tuple[SecretStr, ...] = ()
    """Secrets of at least 32 characters that encrypt and sign the tickets of EventSource. The first one is
    used for new tickets. Tickets of all of them are accepted, so that a secret can be replaced. All edge
    processes need the same secrets. Without any, this process uses a random one, and other processes refuse
    its tickets."""
    ticket_ttl_s: Seconds = 600.0
    """Seconds for which a ticket can be used to connect. A connection that is open then stays open."""
    linger_s: Seconds = 30.0
    """Seconds for which a stream of `POST /v1/chat/streams` continues without a reader, if the request sets
    no `retention.linger`."""

    heartbeat_interval_s: Annotated[float, Field(ge=1, le=15)] = 10.0
    """Seconds without an event after which a stream gets a heartbeat, so that no proxy closes it."""
    stream_timeout_s: Seconds = 3600.0
    """Seconds after which a stream's request ends, unless the header `grpc-timeout` sets less."""
    call_timeout_s: Seconds = 60.0
    """Seconds after which any other request ends, except `POST /v1/chat`, which has `stream_timeout_s`."""
    connect_timeout_s: Seconds = 5.0
    """Seconds that an attempt to connect to the server may take."""

    max_connections: Count = 4096
    """HTTP connections that may be open at once. Further ones get 503 with Retry-After."""
    max_header_bytes: Bytes = 16 * 1024
    """Largest size of a request's head. A larger one gets 431."""
    max_request_bytes: Bytes = 32 * 1024 * 1024
    """Largest size of a request's body. A larger one gets 413. The server has its own, lower limit."""
    max_body_bytes_held: Bytes = 256 * 1024 * 1024
    """Largest size of all bodies that are being received, and of all WebSocket messages. Above it, requests
    with a body get 503, and WebSockets are closed with 1013."""
    header_timeout_s: Seconds = 10.0
    """Seconds in which a request's head must arrive."""
    body_timeout_s: Seconds = 30.0
    """Seconds in which a request's body must arrive."""
    keep_alive_s: Seconds = 75.0
    """Seconds for which an idle HTTP connection stays open. It must be longer than the proxy's idle time."""
    write_stall_s: Seconds = 60.0
    """Seconds for which a caller may accept no data before its connection is closed."""
    drain_grace_s: SecondsOrZero = 10.0
    """Seconds after SIGTERM in which open requests can end. Then streams end with DRAINING."""
    drain_accept_s: SecondsOrZero = 2.0
    """Seconds after SIGTERM for which new requests are served, while `/readyz` answers 503: the time in which
    load balancers notice it. Then new requests get 503 DRAINING. This time is part of `drain_grace_s`. After
    SIGINT, such as Ctrl-C, new requests get 503 at once."""

    max_frame_bytes: Bytes = 16 * 1024 * 1024
    """Largest size of a WebSocket message from a caller. A larger one closes the socket with 1009."""
    max_streams_per_socket: Annotated[int, Field(ge=1, le=1000)] = 32
    """Streams that one WebSocket can read at once."""
    socket_auth_timeout_s: Seconds = 10.0
    """Seconds in which a WebSocket must authenticate."""
    socket_ping_interval_s: Seconds = 20.0
    """Seconds between two pings on a WebSocket. If one is not answered in this time, the socket is closed."""


class ConfigError(Exception):
    """The settings cannot be used. The text is one line with the settings and their faults."""


def load(flags: Mapping[str, Any], file: Path | None) -> Settings:
    """Return the settings of all sources. Raises ConfigError."""

    class Sources(Settings):
        model_config = SettingsConfigDict(toml_file=file)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # not a source here
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the same
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    try:
        _check_names(file)
        found = Sources(**flags)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise ConfigError(
            "; ".join(_fault(fault["loc"], fault["msg"]) for fault in faults)
        ) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    return Settings.model_construct(**dict(found))


def _check_names(file: Path | None) -> None:
    """Check the file, and that no source has a name that is not a setting. Raises ConfigError."""
    names: dict[str, str] = {}
    if file is not None:
        try:
            names |= dict.fromkeys(tomllib.loads(file.read_text("utf-8")), str(file))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror or error}") from None
        except ValueError as error:  # of TOML, or of UTF-8
            raise ConfigError(f"{file}: {error}") from None
    for variable in os.environ:
        if variable.upper().startswith(ENV_PREFIX):
            names[variable[len(ENV_PREFIX) :].lower()] = variable
    for name, source in names.items():
        if name not in Settings.model_fields:
            nearest = get_close_matches(name, Settings.model_fields, 1)
            hint = f": did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"{source}: {name}: no such setting{hint}")


def _fault(path: tuple[int | str, ...], text: str) -> str:
    """Return pydantic's text in an operator's words."""
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return f"{'.'.join(map(str, path))}: {text}"


_WORDS = (
    ("Input should be", "must be"),
    ("Value error, ", ""),
    ("a valid tuple", "a list of strings"),
    ("a valid boolean, unable to interpret input", "true or false"),
    ("a valid number, unable to parse string as a number", "a number"),
    ("a valid integer, unable to parse string as an integer", "a whole number"),
    ("a valid ", "a "),
)
