"""What the official SDKs set in each request: the address, the key, and other headers.

Only these values come from the SDKs. A request that an SDK sends takes five times the CPU of one that
`http.Sender` sends.
"""

from __future__ import annotations

from collections.abc import Mapping

import anthropic
import httpx2
import openai

from .. import __version__
from ..config import ProviderConfig, known_providers

SdkClient = openai.AsyncOpenAI | anthropic.AsyncAnthropic

SENT_HEADERS = frozenset(
    {
        "anthropic-version",
        "authorization",
        "content-type",
        "openai-organization",
        "openai-project",
        "user-agent",
    }
)
"""The headers of the SDKs that are sent, in lower case. The others describe the SDK, or are from variables of
the environment, for any server."""
ANTHROPIC_VERSION = "2023-06-01"
"""The version of the wire format that the decoder reads. Newer versions refuse temperature, top_p and top_k
even for models that support them, and an upgrade of the SDK would change the version."""
NO_KEY = "none"
"""Sent to servers that need no key, because the SDKs require one."""

_USER_AGENT = f"tokenwire/{__version__}"
_UNUSED = httpx2.AsyncClient(transport=httpx2.AsyncBaseTransport(), trust_env=False)
"""The HTTP client of all SDK clients. Without it, each would make its own, which reads the certificates."""


def sdk_client(
    name: str, config: ProviderConfig, key: str, *, is_own_key: bool = False
) -> SdkClient:
    """Return an SDK client with this key and no other identity. It cannot send requests.

    `is_own_key`: the key belongs to a tenant. The headers are set after the construction, which adds those
    of the variables OPENAI_CUSTOM_HEADERS and ANTHROPIC_CUSTOM_HEADERS: an `Authorization` there replaces
    the key.
    """
    client: SdkClient
    headers = {"User-Agent": _USER_AGENT}
    if config.kind == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
        client = anthropic.AsyncAnthropic(
            api_key=key or NO_KEY,
            base_url=config.base_url,
            http_client=_UNUSED,
            open_telemetry=False,
        )
        client._custom_headers = headers
        return client
    # The organization and the project belong to the server's key.
    is_openai = name in known_providers({}) and not is_own_key
    client = openai.AsyncOpenAI(
        api_key=key or NO_KEY,
        base_url=config.base_url,
        # Only OpenAI may see OPENAI_ORG_ID and OPENAI_PROJECT_ID, which the SDK reads.
        organization=None if is_openai else "",
        project=None if is_openai else "",
        http_client=_UNUSED,
    )
    client._custom_headers = headers
    return client


def request_headers(
    client: SdkClient, configured: Mapping[str, str], *, sends_key: bool
) -> dict[str, str]:
    """Return the headers of each request: those of the SDK, replaced by the configured ones.

    Without `sends_key` the SDK's `Authorization` is left out.
    """
    left_out = {name.lower() for name in configured} | (set() if sends_key else {"authorization"})
    of_sdk = {
        name: value
        for name, value in {**client.auth_headers, **client.default_headers}.items()
        if name.lower() in SENT_HEADERS - left_out and isinstance(value, str) and value
    }
    return {"Accept-Encoding": "identity", **of_sdk, **configured}
