"""What both clients need to reach a server: the target, how it is encrypted, and the key."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio

from .channel import ChannelOptions, channel_options
from .key import CallMetadata, call_metadata
from .target import is_loopback, resolve_target
from .tls import Tls, TlsFiles, read_files, resolve_tls

Options = list[tuple[str, str | int]]


@dataclass(frozen=True, slots=True)
class Connection:
    """A server, and how to connect to it. Opens nothing before it is asked for a channel."""

    target: str
    metadata: CallMetadata
    """Goes out with every call."""
    options: Options
    tls: TlsFiles | None

    def channel(self) -> grpc.Channel:
        """A new channel, for threads."""
        if self.tls is None:
            return grpc.insecure_channel(self.target, options=self.options)
        return grpc.secure_channel(self.target, _credentials(self.tls), options=self.options)

    def aio_channel(self) -> grpc.aio.Channel:
        """A new channel of the loop that runs."""
        if self.tls is None:
            return grpc.aio.insecure_channel(self.target, options=self.options)
        return grpc.aio.secure_channel(self.target, _credentials(self.tls), options=self.options)


def connection_to(
    target: str | None, *, key: str | None, tls: bool | Tls | None, options: ChannelOptions
) -> Connection:
    """The connection that a client's arguments ask for, the variables filling what they leave out.

    Raises:
        ValueError: the key cannot be one, or a TLS file is missing or no such file.
    """
    target = resolve_target(target)
    metadata = call_metadata(key)
    chosen = resolve_tls(tls, target)
    files = None if chosen is None else read_files(chosen)
    ours: dict[str, str | int] = {}
    if is_loopback(target):
        # A proxy that the environment names would be told the key, in plaintext.
        ours["grpc.enable_http_proxy"] = 0
    if files is not None and files.server_name:
        ours["grpc.ssl_target_name_override"] = files.server_name
    return Connection(target, metadata, channel_options((*ours.items(), *options)), files)


def _credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(files.ca, files.key, files.cert)
