"""The keys in memory, and the authentication of calls. No call waits for the database."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn, Protocol, TypeVar

from ..errors import StoreUnavailable, Unauthenticated, operator_text
from .caller import DEFAULT_TENANT, Caller
from .key import ApiKey, parse_key_text

logger = logging.getLogger(__name__)

REFRESH_S = 1.0
"""How often keys are read again. A revoked key is refused after this, and the time that a read takes."""
READ_TIMEOUT_S = 3.0
"""How long one read may take."""

_SCHEME = "bearer "
_REQUIRED = (
    "a key is required, in the metadata `authorization: Bearer KEY`; the server's operator can create one "
    "with `tokenwire-server keys create`"
)
_REQUIRED_AUTO = (
    "a key is required, in the metadata `authorization: Bearer KEY`, because the server has keys; the "
    "operator can create more with `tokenwire-server keys create`, or serve without keys with `--auth none`"
)
_NO_DIGEST = bytes(32)


Key = TypeVar("Key")
Key_co = TypeVar("Key_co", covariant=True)


class ChangeSource(Protocol[Key_co]):
    """A store of keys."""

    async def changes(self, since_revision: int) -> tuple[int, Sequence[Key_co]]:
        """Return the newest revision, and every key that changed after `since_revision`.

        Raises StoreUnavailable.
        """
        ...


KeySource = ChangeSource[ApiKey]


async def read_changes(source: ChangeSource[Key], known: int) -> tuple[int, int, Sequence[Key]]:
    """Read the keys that changed after the revision `known`.

    Returns the revision after which they were read, the newest revision, and the keys. The first one is
    `known`, or 0 if the database is a different one, or an older copy. Raises StoreUnavailable.
    """
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            revision, changed = await source.changes(known)
            if revision < known:
                known = 0
                revision, changed = await source.changes(known)
    except TimeoutError:
        raise StoreUnavailable("the keys cannot be read: no answer") from None
    return known, revision, changed


class Keyring:
    """The keys of a source. `follow` reads them again every second.

    While the source cannot be read, the keys that were read last are used for `trusted_s`. After that every
    call that needs a key is refused with StoreUnavailable.
    """

    def __init__(
        self,
        source: KeySource,
        *,
        mode: Literal["auto", "keys", "none"],
        trusted_s: float,
    ) -> None:
        self._source = source
        self._mode = mode
        self._trusted_s = trusted_s
        self._keys: dict[str, ApiKey] = {}
        self._needs_keys = mode == "keys"
        self._revision = 0
        self._read_at = time.monotonic()
        self._is_lost = False

    @property
    def needs_keys(self) -> bool:
        """Whether calls without a key are refused. With "auto", once there is any key, even a revoked one."""
        return self._needs_keys

    def has_active_key(self) -> bool:
        now = time.time()
        return any(key.active(now) for key in self._keys.values())

    def authenticate(
        self, credentials: Sequence[str | bytes], certified_tenant: str | None = None
    ) -> Caller:
        """Return the caller for the values of a call's `authorization` metadata.

        `certified_tenant` is the tenant in the connection's client certificate, if it names one.

        Raises Unauthenticated, StoreUnavailable.
        """
        if not credentials:
            if self._mode != "none":
                self._check_trusted()
            if self.needs_keys:
                raise Unauthenticated(_REQUIRED_AUTO if self._mode == "auto" else _REQUIRED)
            return Caller(certified_tenant or DEFAULT_TENANT)
        self._check_trusted()
        key = self._key(credentials)
        if key.revoke_time is not None:
            raise Unauthenticated(f"the key {key.prefix} was revoked")
        if not key.active(time.time()):
            raise Unauthenticated(f"the key {key.prefix} has expired")
        if certified_tenant is not None and certified_tenant != key.tenant:
            raise Unauthenticated(
                f"the key {key.prefix} does not belong to the tenant that the certificate names"
            )
        return Caller(key.tenant, key.prefix, key.family, key.models, key.limits, key.expire_time)

    async def refresh(self) -> list[str]:
        """Read the changes. Return the prefixes of keys that were revoked since the last read.

        After a failed read all keys are read, because the database may be an older copy when it is back.

        Raises StoreUnavailable. Cancellation changes nothing.
        """
        known = 0 if self._is_lost else self._revision
        known, revision, changed = await read_changes(self._source, known)
        self._read_at = time.monotonic()
        if known and revision == known:
            return []
        before = self._keys
        kept = before if known else {}
        self._keys = kept | {key.prefix: key for key in changed}
        self._revision = revision
        if self._keys and self._mode == "auto":  # and still if all keys are lost later
            self._needs_keys = True
        return [
            prefix
            for prefix, key in before.items()
            if key.revoke_time is None and self._is_revoked(prefix)
        ]

    async def follow(self, revoked: Callable[[str], None]) -> NoReturn:
        """Refresh every second until cancelled. Call `revoked` with the prefix of each revoked key."""
        while True:
            await asyncio.sleep(REFRESH_S)
            needed_keys = self._needs_keys
            try:
                prefixes = await self.refresh()
            except Exception as error:  # noqa: BLE001  # streams continue after any error
                if not self._is_lost:
                    logger.warning(
                        "keys cannot be read: %s; the last known keys are used for %g s",
                        operator_text(error),
                        self._trusted_s,
                    )
                self._is_lost = True
                continue
            if self._is_lost:
                logger.warning("keys can be read again")
                self._is_lost = False
            if self._needs_keys and not needed_keys:
                logger.warning(
                    "the database contains keys now: from now on every call needs one; to serve without "
                    "keys, restart with --auth none"
                )
            for prefix in prefixes:
                logger.info("key %s was revoked: its calls and streams end", prefix)
                revoked(prefix)

    def _key(self, credentials: Sequence[str | bytes]) -> ApiKey:
        """Return the stored key. Raises Unauthenticated, with the same text for every key that is not
        stored.
        """
        if len(credentials) > 1:
            raise Unauthenticated("the metadata `authorization` is given more than once")
        (value,) = credentials
        if not isinstance(value, str) or not value[: len(_SCHEME)].lower() == _SCHEME:
            raise Unauthenticated("the metadata `authorization` is not `Bearer KEY`")
        secret = parse_key_text(value[len(_SCHEME) :].strip(" "))
        if secret is None:
            raise Unauthenticated(
                "the metadata `authorization` contains no key of Tokenwire, which has the form tw_..._..."
            )
        key = self._keys.get(secret.prefix)
        digest = _NO_DIGEST if key is None else key.digest
        if not self._keys and not self._needs_keys:
            raise Unauthenticated("this server has no keys: call it without a key")
        if not hmac.compare_digest(digest, secret.digest) or key is None:
            raise Unauthenticated("unknown key")
        return key

    def _is_revoked(self, prefix: str) -> bool:
        key = self._keys.get(prefix)
        return key is None or key.revoke_time is not None

    def _check_trusted(self) -> None:
        age_s = time.monotonic() - self._read_at
        if age_s > self._trusted_s:
            raise StoreUnavailable("the database of keys has not been reached for too long")
