"""API keys: their text, and what is stored of it. Pure."""

from __future__ import annotations

import hashlib
import re
import secrets

import msgspec

from ..config import CallerLimits

PREFIX_BYTES = 6
SECRET_BYTES = 32
"""256 random bits. Nobody can try them all, so the digest needs no salt and no stretching."""

TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""A valid tenant name, for `fullmatch`."""
MODEL_PATTERN = re.compile(r"[^\s\x00-\x1f\x7f?\[,]+")
"""One of `ApiKey.models`. `*` is the only wildcard: `?` and `[` of file names are not allowed."""

PREFIX = re.compile(rf"tw_[0-9a-f]{{{2 * PREFIX_BYTES}}}")
_KEY = re.compile(rf"tw_[0-9a-f]{{{2 * PREFIX_BYTES}}}_[0-9a-f]{{{2 * SECRET_BYTES}}}")
_PREFIX_CHARS = len("tw_") + 2 * PREFIX_BYTES


MAX_TIME_S = 253_402_300_799.0
"""9999-12-31T23:59:59Z, the last time that dates and `google.protobuf.Timestamp` can represent."""
MAX_LIFETIME_S = 36_500 * 86_400.0


class ApiKey(msgspec.Struct, frozen=True):
    """A stored key: everything except the secret. Times are seconds since the epoch, at most MAX_TIME_S."""

    prefix: str
    """Beginning of the key's text, shown in lists and logs: `tw_` and 12 hex digits."""
    family: str
    """Prefix of the first key of the family: the key that was rotated first, or this one."""
    tenant: str
    digest: bytes
    """SHA-256 of the key's whole text."""
    create_time: float
    models: tuple[str, ...] = ()
    """Patterns of the models that the key may call; `*` matches any text. Empty: every model."""
    limits: CallerLimits = CallerLimits()
    expire_time: float | None = None
    revoke_time: float | None = None

    def active(self, now: float) -> bool:
        """Return whether the key is accepted at this time."""
        return self.revoke_time is None and (self.expire_time is None or now < self.expire_time)


class UnreadableKey(ApiKey, frozen=True):
    """A key whose row cannot be read. Calls with it are refused; lists show only its prefix and tenant."""

    def active(self, now: float) -> bool:  # noqa: ARG002
        return False


class Secret(msgspec.Struct, frozen=True):
    """A key's prefix and digest, parsed from its text. Only the digest is stored."""

    prefix: str
    digest: bytes


def make_key_text() -> str:
    """Return the text of a new key: `tw_PREFIX_SECRET`, both in random hex digits."""
    return f"tw_{secrets.token_hex(PREFIX_BYTES)}_{secrets.token_hex(SECRET_BYTES)}"


def parse_key_text(text: str) -> Secret | None:
    """Return the prefix and digest of a key, or None if the text is malformed."""
    if not _KEY.fullmatch(text):
        return None
    return Secret(text[:_PREFIX_CHARS], hashlib.sha256(text.encode()).digest())
