"""Mapping of failed requests to a provider to Tokenwire's errors."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence

import aiohttp

from .. import descriptors
from ..errors import (
    Overloaded,
    TokenwireError,
    UnknownModel,
    UpstreamAuth,
    UpstreamError,
    UpstreamUnavailable,
)
from .connection import FramingError, InvalidResponse
from .decode import errors
from .decode.errors import body as error_body
from .decode.errors import retry_delay
from .decode.errors.body import MAX_LOG_CHARS
from .decode.errors.redaction import Secrets, public_text
from .decode.errors.retry_delay import DEFAULT_RETRY_AFTER_S
from .http import ConnectTimedOut, StatusError

CONNECT = "upstream_connect_s"
"""The name of the limit on connecting, in the settings."""
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
"""OpenSSL's reasons for an answer that is not TLS."""
TLS_ALERT = "\\x15\\x03"
"""First bytes of a TLS alert, as an error quotes them. A TLS server answers a request without TLS with it."""


class Faults:
    """Maps what goes wrong with one provider to the errors for callers.

    `str()` of each error contains none of the provider's text. No attribute of the error contains a secret
    of the operator.
    """

    def __init__(
        self,
        provider: str,
        base_url: str,
        secrets: Iterable[str] = (),
        *,
        is_own_key: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_own_key`: requests send a tenant's own key. `clock` returns the Unix time: some providers name
        the time of a retry as a date.
        """
        self._is_own_key = is_own_key
        self._provider = provider
        self._base_url = base_url
        self._secrets = Secrets(secrets)
        self._clock = clock

    def of_request(self, error: BaseException, *, path: str, model: str) -> TokenwireError:
        """Return the error for a request that failed with one of `http.RequestError`."""
        if isinstance(error, StatusError):
            return self._of_status(error, path=path, model=model)
        if _lacks_descriptors(error):
            return Overloaded(
                "no more files or connections can be opened", limit=descriptors.limit()
            )
        causes = _causes(error)
        is_too_slow = any(isinstance(cause, ConnectTimedOut) for cause in causes)
        return UpstreamUnavailable(
            f"provider {self._provider!r} cannot be reached: {connection_fault(error)}",
            provider=self._provider,
            provider_text=self._secrets.remove(_cause_text(causes)),
            retry_after_s=DEFAULT_RETRY_AFTER_S,
            limit_name=CONNECT if is_too_slow else "",
        )

    def of_answer(self, error: UpstreamError) -> UpstreamError:
        """Return the error that a decoder found in an answer, without the operator's secrets."""
        remove = self._secrets.remove
        error.provider_text = remove(error.provider_text)
        error.provider_message = public_text(remove(error.provider_message))
        for name in ("error_type", "error_code", "field"):
            value = getattr(error, name)
            if remove(value) != value:
                setattr(error, name, "")
        if self._is_own_key and isinstance(error, UpstreamAuth):
            error.is_own_key = True
            text = (
                f"provider {self._provider!r} refuses the tenant's own key or account; the key that is "
                "stored for the tenant must be replaced"
            )
            error.args = (text,)
        return error

    def of_body(self, value: object) -> UpstreamError:
        """Return the error for a body that contains an error, although the HTTP status is a success."""
        return self.of_answer(errors.classify(value, provider=self._provider))

    def wrong_address(self, what: str, *, path: str, text: str = "") -> UpstreamUnavailable:
        """Return the error for an answer that shows that the base URL is wrong. A retry does not help."""
        return UpstreamUnavailable(
            f"provider {self._provider!r} {what}; the operator must check its base_url",
            provider=self._provider,
            provider_text=self._secrets.remove(f"{self._base_url}{path}: {text}"),
        )

    def _of_status(self, refusal: StatusError, *, path: str, model: str) -> TokenwireError:
        status = refusal.status
        value = error_body.parse(refusal.body)
        if status in (400, 404) and errors.is_unknown_model(value, status):
            return UnknownModel(
                model,
                why=f"provider {self._provider!r} does not offer this model",
                provider_text=self._secrets.remove(error_body.read(value).log_text),
            )
        if status in (404, 405):
            text = error_body.read(value).log_text
            error = self.wrong_address(f"has no such path (HTTP {status})", path=path, text=text)
            error.status = status
            return error
        delay_s = retry_delay.from_headers(refusal.headers, self._clock())
        found = errors.classify(
            value, status=status, provider=self._provider, retry_after_s=delay_s
        )
        return self.of_answer(found)


def _lacks_descriptors(error: BaseException) -> bool:
    """Return whether the connection failed because the process or the system has no descriptors left.

    Name resolution that fails for this reason reports another error number or none, so a file is opened
    as a test.
    """
    causes = _causes(error)
    if any(isinstance(c, OSError) and c.errno in descriptors.OUT_OF_DESCRIPTORS for c in causes):
        return True
    return any(isinstance(c, socket.gaierror) for c in causes) and descriptors.are_exhausted()


def connection_fault(error: BaseException) -> str:
    """Return why a request got no response, without the address and without what the server sent."""
    causes = _causes(error)
    if any(getattr(cause, "reason", None) in NOT_TLS for cause in causes):
        return "it does not use TLS; should its address begin with http://?"
    for cause in causes:
        if isinstance(cause, FramingError):
            return f"it {cause}"
        if isinstance(cause, aiohttp.ClientConnectorDNSError):
            return "its name cannot be resolved"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted, or not valid for its address"
        if isinstance(cause, aiohttp.ClientSSLError | ssl.SSLError):
            return "TLS failed"
        if isinstance(cause, InvalidResponse) and TLS_ALERT in str(cause):
            return "it uses TLS; should its address begin with https://?"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, aiohttp.ClientConnectorError) and isinstance(
            cause.os_error, ConnectionRefusedError
        ):
            return "connection refused"
        if isinstance(cause, aiohttp.ClientConnectorError):
            code = cause.os_error.errno
            return os.strerror(code).lower() if code else "no connection could be opened"
        if isinstance(cause, ConnectTimedOut):
            return f"connecting took longer than {cause.limit_s:g} s ({CONNECT})"
    return "the connection broke before it answered"


def _cause_text(causes: Sequence[BaseException]) -> str:
    """Return the chain of exceptions for the log."""
    return " < ".join(f"{type(c).__name__}: {c}" for c in causes)[:MAX_LOG_CHARS]


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 8:
        chain.append(cause)
        cause = cause.__cause__
    return chain
