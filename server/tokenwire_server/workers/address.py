"""The address that workers share."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..config import ConfigError

ATTEMPTS = 5
"""Ports that are tried if a port was chosen, and is free on some addresses of a name only."""

_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@contextmanager
def reserved(listen: str) -> Iterator[str]:
    """Reserve an address for workers during the block. Yield it with its port, which is chosen if it is 0.

    The sockets that reserve it are bound and never listen, so no connection reaches them. The address stays
    reserved while no worker listens.

    Raises ConfigError if another program listens on the address, or if it is none of this machine.
    """
    host, _, port = listen.rpartition(":")
    with ExitStack() as stack:
        try:
            chosen = _bind(host.strip("[]"), int(port), stack)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {listen}: in use, or not an address of this machine"
            ) from error
        yield f"{host}:{chosen}"


def _bind(host: str, port: int, stack: ExitStack) -> int:
    """Bind the sockets, which the stack closes. Return the port. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places: list[tuple[int, tuple[Any, ...]]] = list(
        dict.fromkeys((family, address) for family, _, _, _, address in found)
    )
    for attempt in range(ATTEMPTS):
        with ExitStack() as bound:
            try:
                chosen = _bind_all(places, port, bound)
            except OSError as error:
                is_last = port != 0 or attempt == ATTEMPTS - 1
                if is_last or error.errno != errno.EADDRINUSE:
                    raise
            else:
                stack.push(bound.pop_all())
                return chosen
    raise AssertionError("unreachable: the last attempt raises")


def _bind_all(places: list[tuple[int, tuple[Any, ...]]], port: int, stack: ExitStack) -> int:
    """Bind a socket to each place that exists on this machine, all with the same port."""
    missing: OSError | None = None
    is_bound = False
    for family, (host, _, *scope) in places:
        address = (host, port, *scope)
        try:
            _check_free(family, address)
            holder = stack.enter_context(socket.socket(family))
            port = _hold(holder, address)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            missing = error
        else:
            is_bound = True
    if missing is not None and not is_bound:
        raise missing
    return port


def _check_free(family: int, address: tuple[Any, ...]) -> None:
    """Raise OSError if a program listens on the address. With SO_REUSEPORT the kernel would not say so."""
    with socket.socket(family) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # closed connections do not count
        probe.bind(address)


def _hold(holder: socket.socket, address: tuple[Any, ...]) -> int:
    """Bind a socket, so that only sockets with SO_REUSEPORT can be bound to its address. Return its port."""
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        holder.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Connections of an earlier server of one process have been closed less than a minute ago.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
    port: int = holder.getsockname()[1]
    return port
