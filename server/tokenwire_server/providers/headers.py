"""The headers of the requests to a provider.

They are those of its official SDK, except `User-Agent`, `Accept-Encoding`, `anthropic-version` and those that
describe the SDK. Tests compare them. The server does not import the SDKs: that would take 1.3 s of CPU at its
start and 50 MiB of memory, and the SDKs read variables of the environment that can replace a key.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import __version__
from ..config import ProviderKind

ANTHROPIC_VERSION = "2023-06-01"
"""The version of the wire format that the decoder reads. Newer versions refuse temperature, top_p and top_k
even for models that support them."""
NO_KEY = "none"
"""Sent to servers that need no key. Some require the header nevertheless."""
USER_AGENT = f"tokenwire/{__version__}"

OPENAI_PROVIDERS = frozenset({"openai", "openai-responses"})
"""The names of OpenAI among the providers that need no configuration."""
OPENAI_ORGANIZATION = {
    "OpenAI-Organization": "OPENAI_ORG_ID",
    "OpenAI-Project": "OPENAI_PROJECT_ID",
}
"""The headers that OpenAI gets with the server's key, and the variables that contain their values."""


def json_headers(key: str) -> dict[str, str]:
    """Return the headers of a request with a JSON body. Without a key, it has no `Authorization`."""
    headers = {
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
    }
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def request_headers(
    kind: ProviderKind, key: str, organization: Mapping[str, str], configured: Mapping[str, str]
) -> dict[str, str]:
    """Return the headers of all requests to a provider: those of its SDK, replaced by the configured ones.

    `organization` has the headers of OPENAI_ORGANIZATION for which there are values.
    """
    # A configured header may contain the key of a server that needs no other.
    headers = {**json_headers(key or ("" if configured else NO_KEY)), **organization}
    if kind == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
    return with_configured(headers, configured)


def with_configured(headers: Mapping[str, str], configured: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` and `configured` together. A configured header replaces one of the same name, in
    upper or lower case.
    """
    names = {name.lower() for name in configured}
    return {
        **{name: value for name, value in headers.items() if name.lower() not in names},
        **configured,
    }
