"""Tickets: let EventSource, which cannot send headers, read one stream for a short time.

A ticket contains the id of the stream and the caller's `Authorization`, because the edge keeps no state and
the server checks the key of every call. It is encrypted and signed (Fernet: AES-128-CBC and HMAC-SHA256), so
neither a URL nor a log shows the key. Every edge process that has the same secrets accepts it.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Sequence
from secrets import token_urlsafe
from typing import NamedTuple

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .problems import Problem
from .settings import Settings

MIN_SECRET_CHARS = 32
MAX_AUTHORIZATION_BYTES = 2048
"""The longest `Authorization` that fits in a ticket. A URL has to stay short; the server's keys have about
50 characters."""

_MAX_TICKET_CHARS = 4096
_TICKET = re.compile(r"[A-Za-z0-9_-]+")
_CLOCK_SKEW_S = 60.0
_SEPARATOR = b"\0"


class Ticket(NamedTuple):
    """A new ticket."""

    text: str
    """Base64url without padding: safe in a URL."""
    expire_time: float
    """Seconds since the epoch. From then on, the ticket is refused."""


class Tickets:
    """Creates and reads tickets.

    The first secret encrypts new tickets, and tickets of all secrets are accepted. To replace a secret, add
    the new one at the end on every edge, then move it to the front, then remove the old one. `clock` returns
    seconds since the epoch.

    Raises ValueError if there is no secret or one is too short.
    """

    def __init__(self, secrets: Sequence[str], *, ttl_s: float, clock: Callable[[], float]) -> None:
        if not secrets:
            raise ValueError("ticket_secrets: at least one is required")
        for index, secret in enumerate(secrets):
            if len(secret) < MIN_SECRET_CHARS:
                raise ValueError(
                    f"ticket_secrets[{index}]: has {len(secret)} characters; "
                    f"at least {MIN_SECRET_CHARS} are required"
                )
        self._fernet = MultiFernet([_fernet(secret) for secret in secrets])
        self._ttl_s = ttl_s
        self._clock = clock

    def issue(self, stream_id: str, authorization: str) -> Ticket:
        """Return a ticket for one stream. `authorization` is empty if the caller sent none.

        Raises Problem 400 if `authorization` is too long.
        """
        content = _SEPARATOR.join((stream_id.encode(), authorization.encode()))
        if len(content) - len(stream_id) - 1 > MAX_AUTHORIZATION_BYTES:
            what = f"is longer than {MAX_AUTHORIZATION_BYTES} bytes, so no ticket can contain it"
            raise Problem(
                400,
                "INVALID_REQUEST",
                f"authorization {what}",
                violations=[("authorization", what)],
            )
        issue_time = int(self._clock())  # Fernet's timestamps are whole seconds
        token = self._fernet.encrypt_at_time(content, issue_time)
        return Ticket(token.rstrip(b"=").decode(), issue_time + self._ttl_s)

    def read(self, ticket: str, stream_id: str) -> str:
        """Return the `Authorization` in a ticket for this stream, empty if it has none.

        Raises Problem 401: TICKET_EXPIRED for a ticket of this edge that is too old, else TICKET_INVALID. A
        valid ticket for another stream is refused like a forged one, so that the answer reveals nothing.
        """
        if len(ticket) > _MAX_TICKET_CHARS or not _TICKET.fullmatch(ticket):
            raise _invalid()
        token = ticket + "=" * (-len(ticket) % 4)
        try:
            issue_time = self._fernet.extract_timestamp(token)  # checks the signature
            content = self._fernet.decrypt(token)
        except (InvalidToken, ValueError):
            raise _invalid() from None
        owner, _, authorization = content.partition(_SEPARATOR)
        now = self._clock()
        if owner != stream_id.encode() or issue_time > now + _CLOCK_SKEW_S:
            raise _invalid()
        if now >= issue_time + self._ttl_s:
            raise Problem(401, "TICKET_EXPIRED", "the ticket has expired: request a new one")
        return authorization.decode()


def tickets_of(settings: Settings) -> Tickets:
    """Return the tickets of an edge process. Without secrets in the settings, it uses a random one.

    Raises ValueError if a secret is too short.
    """
    secrets = [secret.get_secret_value() for secret in settings.ticket_secrets]
    own = [] if secrets else [token_urlsafe(MIN_SECRET_CHARS)]
    return Tickets(secrets or own, ttl_s=settings.ticket_ttl_s, clock=time.time)


def _invalid() -> Problem:
    return Problem(401, "TICKET_INVALID", "the ticket is not valid for this stream")


def _fernet(secret: str) -> Fernet:
    """Return the key of a secret. HKDF is enough: a secret is random, and not a password."""
    derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"tokenwire-edge tickets v1")
    return Fernet(base64.urlsafe_b64encode(derive.derive(secret.encode())))
