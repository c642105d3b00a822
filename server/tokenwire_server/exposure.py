"""Who can reach this server: checks of its address, its keys and its TLS files."""

from __future__ import annotations

import ipaddress
import logging

from .config import ConfigError, Settings
from .tenants.keyring import Keyring

logger = logging.getLogger(__name__)


def require_keys(settings: Settings, keyring: Keyring) -> None:
    """Check that an address that other machines can reach needs keys, unless the operator opted out."""
    if keyring.needs_keys or settings.auth == "none" or _is_loopback(settings.listen):
        return
    raise ConfigError(
        f"listen: {settings.listen} can be reached from other machines, and there are no keys: create one "
        "with tokenwire-server keys create --tenant NAME, or serve with --auth none"
    )


def log_exposure(settings: Settings, keyring: Keyring) -> None:
    """Log a warning if the server accepts more callers, or fewer, than the operator may expect."""
    if keyring.needs_keys and not keyring.has_active_key():
        logger.warning(
            "a key is required and no key is active, so every call is refused: create one with "
            "tokenwire-server keys create --tenant NAME, or serve with --auth none"
        )
    if _is_loopback(settings.listen):
        if not keyring.needs_keys:
            logger.info("no key is required: every process on this machine is served")
    elif not keyring.needs_keys:
        logger.warning(
            "no key is required: every caller that reaches %s is served", settings.listen
        )
    elif settings.tls.cert is None:
        logger.warning("keys and prompts reach %s in clear text: see --tls-cert", settings.listen)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
