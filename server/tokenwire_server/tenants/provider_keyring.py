"""The provider keys of tenants in memory, and the providers that send them. No call waits for the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ..config import EVERY_OTHER_TENANT, TenantLimits
from ..errors import StoreUnavailable, UpstreamAuth, operator_text
from ..providers.base import Provider
from ..providers.registry import ProviderRegistry
from .keyring import REFRESH_S, ChangeSource, read_changes
from .master_keys import MasterKeys, Undecryptable
from .provider_keystore import StoredProviderKey

logger = logging.getLogger(__name__)

_Name = tuple[str, str]
"""A tenant and a provider."""


class ProviderKeyring:
    """The provider keys of a source. `follow` reads them again every second.

    A key stays encrypted until its tenant uses it. While the source cannot be read, the keys that were read
    last are used for `trusted_s`. After that, `provider` raises StoreUnavailable if any tenant has a key,
    because keys may have been stored or deleted in the meantime.
    """

    def __init__(
        self,
        source: ChangeSource[StoredProviderKey],
        master_keys: MasterKeys,
        registry: ProviderRegistry,
        tenants: Mapping[str, TenantLimits],
        *,
        trusted_s: float,
    ) -> None:
        """`tenants` are those of the settings, which say who may only use its own keys."""
        self._source = source
        self._master_keys = master_keys
        self._registry = registry
        self._tenants = tenants
        self._trusted_s = trusted_s
        self._keys: dict[_Name, StoredProviderKey] = {}
        self._providers: dict[_Name, Provider] = {}
        """The providers with a tenant's key that have been used: an object of 1 kB for each."""
        self._revision = 0
        self._read_at = time.monotonic()
        self._is_lost = False

    def replace(self, tenants: Mapping[str, TenantLimits]) -> None:
        """Use other settings of tenants."""
        self._tenants = tenants

    def provider(self, tenant: str, name: str) -> Provider | None:
        """Return the provider that sends the tenant's key. None: the server's key is used.

        Raises UpstreamAuth if the tenant's key cannot be decrypted; StoreUnavailable.
        """
        if self._keys and time.monotonic() - self._read_at > self._trusted_s:
            raise StoreUnavailable(
                "the database of provider keys has not been reached for too long"
            )
        key = self._keys.get((tenant, name))
        if key is None:
            return None
        found = self._providers.get((tenant, name))
        if found is None:
            try:
                found = self._registry.with_key(name, key.text(self._master_keys))
            except Undecryptable:  # logged when it was read
                error = UpstreamAuth(
                    f"the key of this tenant for provider {name!r} cannot be decrypted; the operator must "
                    "fix this",
                    provider=name,
                )
                error.is_own_key = True
                raise error from None
            if found is not None:
                self._providers[tenant, name] = found
        return found

    def may_use_server_keys(self, tenant: str) -> bool:
        """Return whether the server's key is used for a tenant that has none of its own for a provider."""
        limits = self._tenants.get(tenant) or self._tenants.get(EVERY_OTHER_TENANT)
        return limits is None or not limits.own_keys_only

    async def refresh(self) -> None:
        """Read the changes, and log which keys cannot be decrypted.

        After a failed read all keys are read, because the database may be an older copy when it is back.

        Raises StoreUnavailable. Cancellation changes nothing.
        """
        known = 0 if self._is_lost else self._revision
        known, revision, changed = await read_changes(self._source, known)
        self._read_at = time.monotonic()
        self._revision = revision
        if known and not changed:
            return
        if not known:
            self._keys.clear()
            self._providers.clear()
        for key in changed:
            name = key.tenant, key.provider
            self._providers.pop(name, None)
            if key.encrypted is None:
                self._keys.pop(name, None)
            else:
                self._keys[name] = key
        self._log_undecryptable(changed)

    async def follow(self) -> NoReturn:
        """Refresh every second until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001  # streams continue after any error
                if not self._is_lost:
                    logger.warning("provider keys cannot be read: %s", operator_text(error))
                self._is_lost = True
                continue
            if self._is_lost:
                logger.warning("provider keys can be read again")
                self._is_lost = False

    def _log_undecryptable(self, keys: Sequence[StoredProviderKey]) -> None:
        for key in keys:
            if key.encrypted is None:
                continue
            try:
                key.text(self._master_keys)
            except Undecryptable as error:
                logger.error(  # noqa: TRY400  # the cause is in the text
                    "the key of tenant %s for provider %s cannot be decrypted, so its requests are "
                    "refused: %s",
                    key.tenant,
                    key.provider,
                    error,
                )
