"""The limits of callers."""

from __future__ import annotations

from .bounds import CallerLimit, Usd
from .section import Section

EVERY_OTHER_TENANT = "*"


class CallerLimits(Section):
    """Limits of one key, or of one tenant. By default there is no limit besides those of the server."""

    requests_per_minute: CallerLimit | None = None
    """Maximum number of chats and CountTokens calls in any 60 seconds. The next one gets RATE_LIMITED."""
    tokens_per_minute: CallerLimit | None = None
    """Maximum number of input and output tokens in any 60 seconds. A chat counts with its estimate when it
    starts, and with its real usage when it ends. A chat whose estimate exceeds what is left gets
    RATE_LIMITED."""
    concurrent_streams: CallerLimit | None = None
    """Maximum number of streams that generate at once. The next one gets TOO_MANY_STREAMS."""
    messages_per_request: CallerLimit | None = None
    """Maximum number of messages in a chat. A chat with more gets QUOTA_EXHAUSTED."""
    bytes_per_request: CallerLimit | None = None
    """Maximum size of a request, in bytes after decompression. A larger one gets QUOTA_EXHAUSTED."""


class TenantLimits(CallerLimits):
    """Limits of all callers of a tenant together."""

    spend_usd_per_day: Usd | None = None
    """Maximum cost of the tenant's streams in one day (UTC), in US dollars. A chat reserves its likely
    cost. If less is left, it gets QUOTA_EXHAUSTED. If a stream needs more than it reserved and
    nothing is left, it finishes with BUDGET. Models without a known price are refused. Streams with
    the tenant's own provider key do not count."""
    spend_usd_per_month: Usd | None = None
    """Maximum cost of the tenant's streams in one month (UTC), in US dollars, with the effects of
    `spend_usd_per_day`."""
    own_keys_only: bool = False
    """Whether the tenant's requests use only its own provider keys, and never the server's. A request to a
    provider for which no key of the tenant is stored gets PERMISSION_DENIED, and is not sent."""
