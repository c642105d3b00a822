"""The limits of the server."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from .bounds import Bytes, Count, Seconds, SecondsOrZero, Tokens
from .section import Section
from .sources import fault_at


class Limits(Section):
    """Limits of the server, each with what happens when it is reached."""

    max_streams: Count = 2000
    """Maximum number of streams that generate at once. The next one gets OVERLOADED. Tenants share the
    number."""
    assumed_output_tokens: Tokens = 1024
    """Number of output tokens to assume for a chat without `max_output_tokens`, when tokens per minute and
    spend are reserved for it. The real number replaces it when the stream ends."""
    max_request_bytes: Bytes = Field(default=8 * 2**20, ge=1024, le=64 * 2**20)
    """Maximum size of a chat request, in bytes after decompression. A larger one gets INVALID_REQUEST. For
    all other requests the maximum is 64 KiB."""
    max_request_fields: Count = Field(default=100_000, ge=1000, le=1_000_000)
    """Maximum number of fields of a chat request, including the entries of its lists and maps and the
    values of its JSON schemas. A request with more gets INVALID_REQUEST. The number bounds the cost of
    parsing, which delays other streams."""
    max_log_bytes: Bytes = Field(default=8 * 2**20, ge=4096)
    """Maximum size of the content that is kept of one stream, in bytes. Beyond it the oldest entries are
    dropped, and a reader that needs them gets SLOW_READER."""
    max_total_log_bytes: Bytes = Field(default=512 * 2**20, ge=2**20)
    """Maximum size of the content that is kept of all streams, in bytes. Beyond it ended streams are
    dropped: the oldest ones of the tenant whose ended streams take the most memory. If no ended stream is
    left, the next stream gets OVERLOADED. Tenants share the memory."""
    max_chat_answer_bytes: Bytes = Field(default=4 * 2**20 - 4096, ge=1024, le=64 * 2**20)
    """Maximum size of the response of a Chat call, in bytes. At most `max_log_bytes`. A larger answer ends
    the call with ANSWER_TOO_LARGE, and its stream can be read for at least `log_ttl_s` more. Most gRPC
    clients refuse messages above 4 MiB by default."""
    max_counts: Count = 64
    """Maximum number of CountTokens calls that run at once. One tenant may have a quarter of them, at least
    1. The next call gets OVERLOADED."""
    max_readers: Count = 10_000
    """Maximum number of calls that read streams at once. The next one gets OVERLOADED. Tenants share the
    number."""
    heartbeat_interval_s: Seconds = 15.0
    """Seconds without an event until a reader gets a heartbeat, if the caller sets no interval."""
    min_delivery_interval_s: Seconds = 1.0
    """Minimum interval of heartbeats and usage events that a caller may set, in seconds. A shorter one gets
    INVALID_REQUEST."""
    linger_s: Seconds = 30.0
    """Seconds for which a stream with ON_DISCONNECT_CONTINUE continues without a reader, if the caller sets
    no `linger`."""
    max_linger_s: Seconds = 600.0
    """Maximum `linger` that a caller may set, in seconds. A longer one gets INVALID_REQUEST."""
    log_ttl_s: SecondsOrZero = 60.0
    """Seconds for which a stream can be read after its end, if the caller sets no `log_ttl`."""
    max_log_ttl_s: SecondsOrZero = 3600.0
    """Maximum `log_ttl` that a caller may set, in seconds. A longer one gets INVALID_REQUEST."""
    max_cache_bytes: Bytes = 64 * 2**20
    """Maximum size of all answers in the response cache, in bytes. Beyond it the least recently used answers
    are dropped, of the tenant whose answers take the most memory. 0 turns the cache off."""
    max_cached_answer_bytes: Bytes = 2 * 2**20
    """Maximum size of one cached answer, in bytes of its log: about 110 bytes for each token. A larger answer
    is not cached."""
    cache_ttl_s: Seconds = 3600.0
    """Maximum age of an answer from the response cache, in seconds, if the caller sets no `ttl`."""
    max_cache_ttl_s: Seconds = 86400.0
    """Maximum `ttl` of cached answers that a caller may set, in seconds. A longer one gets
    INVALID_REQUEST."""
    reader_stall_s: Seconds = 30.0
    """Seconds for which a write may be blocked because the caller accepts nothing. Then the caller gets
    SLOW_READER."""
    max_stream_duration_s: Seconds = 3600.0
    """Maximum duration of a stream in seconds, from the accepted request to its end. Then the stream finishes
    with TIME_LIMIT."""
    upstream_connect_s: Seconds = 5.0
    """Seconds for connecting to a provider: name lookup, TCP and TLS together. Then the request has failed:
    it is repeated, or the stream fails with UPSTREAM_UNAVAILABLE."""
    upstream_first_content_s: SecondsOrZero = 600.0
    """Seconds from the request to a provider until the first text, reasoning or tool call. Headers, role
    chunks and pings do not count. Then the stream fails with UPSTREAM_UNAVAILABLE, without a retry: the
    provider may bill the request. 0 turns the limit off. It does not apply to models with the capability
    "reasoning" and to requests that ask for reasoning, unless the model sets `first_content_s`."""
    upstream_drip_s: SecondsOrZero = 1800.0
    """Seconds from the head of a provider's answer until the first content, however many pings, comments
    and empty chunks arrive in between. Then the stream fails with UPSTREAM_UNAVAILABLE, without a retry. It
    applies to all models. 0 turns the limit off."""
    upstream_idle_s: Seconds = 600.0
    """Maximum time without any bytes from a provider, in seconds, from the request to the end of the answer.
    Then the stream fails with UPSTREAM_STALLED, or with UPSTREAM_UNAVAILABLE before the first content."""

    @model_validator(mode="after")
    def _defaults_are_within_maxima(self) -> Self:
        """Reject a default above its maximum if it was set. Otherwise it is lowered where it is used."""
        for name, maximum in _MAXIMA.items():
            if name in self.model_fields_set and getattr(self, name) > getattr(self, maximum):
                raise fault_at([name], f"is above limits.{maximum}, {getattr(self, maximum):g}")
        return self


_MAXIMA = {
    "linger_s": "max_linger_s",
    "log_ttl_s": "max_log_ttl_s",
    "cache_ttl_s": "max_cache_ttl_s",
    "max_cached_answer_bytes": "max_cache_bytes",
    "max_chat_answer_bytes": "max_log_bytes",
    "max_log_bytes": "max_total_log_bytes",
}
"""The limits that have another limit as their maximum, and that maximum."""
