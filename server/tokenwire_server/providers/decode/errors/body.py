"""Reading of the errors that providers send, in any of their envelopes.

- OpenAI, Groq, vLLM, OpenRouter, LiteLLM: `{"error": {"message", "type", "code", "param"}}`
- Anthropic: `{"type": "error", "error": {"type", "message"}}`
- Google, also as the only item of a list: `{"error": {"code": 400, "status", "message", "details": []}}`
- llama.cpp: `{"error": {"code": 400, "type", "message", "n_ctx"}}`, in a stream also without "error"
- Text Generation Inference: `{"error": "...", "error_type": "..."}`
- xAI, Ollama: `{"error": "...", "code": "..."}`
- older vLLM, Mistral: `{"object": "error", "message", "type", "code": 400}`
- OpenAI Responses: `{"type": "error", "code", "message", "param"}`
- FastAPI: `{"detail": "..."}` or `{"detail": [{"loc": [], "msg", "type"}]}`
- Azure, Bedrock, DashScope: `{"code", "message"}` or `{"message"}`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..json import join_surrogates, loads

MAX_TEXT_CHARS = 4096
"""Maximum length of a message that is read, and searched for known texts."""
MAX_LOG_CHARS = 2000
"""Maximum length of a provider's text in the log."""
_MAX_DEPTH = 4
"""Maximum number of envelopes in each other that are opened."""

_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class ErrorBody(msgspec.Struct, frozen=True):
    """One error as its provider describes it. All fields are empty if they are missing or not readable."""

    message: str = ""
    """The text, at most `MAX_TEXT_CHARS`. OpenRouter's text is followed by that of the provider behind it."""
    type: str = ""
    code: str = ""
    """The code, without numbers that repeat the HTTP status."""
    field: str = ""
    names: tuple[str, ...] = ()
    """Everything that names the kind of error, in lower case, the most specific first."""
    retry_delay: str = ""
    """Google's RetryInfo, such as "34.5s"."""
    input_tokens: int | None = None
    limit_tokens: int | None = None
    """llama.cpp's figures for a request that does not fit into the context."""
    log_text: str = ""
    """The whole error for the log, at most `MAX_LOG_CHARS`."""


def parse(data: bytes) -> object:
    """Return the JSON value, or the text if the data is not JSON. A byte order mark is ignored."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return loads(_ANYTHING, data)
    except (msgspec.DecodeError, RecursionError):
        return data[: 4 * MAX_TEXT_CHARS].decode(errors="replace")


def read(value: object) -> ErrorBody:
    """Read an error in any envelope. Whatever the value is, this returns what can be read of it."""
    levels = list(_levels(value))
    if isinstance(levels[-1], str):
        message = levels[-1]
    else:
        message = next(filter(None, map(_message, reversed(levels))), "")
    fields = [level for level in reversed(levels) if isinstance(level, Mapping)]
    reasons, retry_delay = _google_details(fields)
    codes = _texts(fields, "code", "error_code", "internalCode")
    types = [kind for kind in _texts(fields, "type") if kind != "error"]  # that of the envelope
    types += _texts(fields, "status", "error_type", "__type")
    types = [kind for kind in types if not kind.isdigit()]
    names = [*reasons, *codes, *types, *_texts(fields, "status")]
    return ErrorBody(
        message=join_surrogates(message[:MAX_TEXT_CHARS]),
        type=next(iter(types), ""),
        code=next((code for code in [*reasons, *codes] if not _is_status(code)), ""),
        field=next(iter(_texts(fields, "param")), "") or _location(fields),
        names=tuple(name[:128].lower() for name in names),
        retry_delay=retry_delay,
        input_tokens=_count(fields, "n_prompt_tokens"),
        limit_tokens=_count(fields, "n_ctx"),
        log_text=_log_text(levels[-1]),
    )


def is_error(value: object) -> bool:
    """Return whether a JSON value is an error and not an answer, or an event of one."""
    if isinstance(value, list):
        return bool(value) and is_error(value[0])
    if not isinstance(value, Mapping):
        return False
    if value.get("error") or value.get("object") == "error" or value.get("type") == "error":
        return True
    if "choices" in value or "output" in value or "content" in value or value.get("type"):
        return False
    return bool(value.get("detail") or value.get("errors")) or (
        isinstance(value.get("message"), str) and bool(value.get("code") or len(value) == 1)
    )


def _levels(value: object) -> Iterator[object]:
    """Yield a value and what it encloses: the envelope first, the error itself last."""
    for _ in range(_MAX_DEPTH):
        if isinstance(value, list):
            value = value[0] if value else {}
        yield value
        if not isinstance(value, Mapping):
            return
        inner = next((value[key] for key in _ENVELOPES if value.get(key)), None)
        if not isinstance(inner, Mapping | list | str):
            return
        value = inner


_ENVELOPES = ("error", "detail", "errors", "base_resp")
"""Keys of the error in its envelope. `base_resp` is MiniMax's."""


def _message(level: object) -> str:
    """Return the text of one level, with the text that it passes on from another provider."""
    if not isinstance(level, Mapping):
        return level if isinstance(level, str) else ""
    text = ""
    for key in ("message", "msg", "error_msg", "status_msg", "title"):
        if text := _text(level.get(key)):
            break
    metadata = level.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None  # OpenRouter
    return f"{text}: {raw}" if isinstance(raw, str) and raw else text


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list):  # Mistral: {"message": {"detail": [...]}}
        *_, last = _levels(value)
        return last if isinstance(last, str) else _message(last) if last is not value else ""
    return ""


def _texts(fields: list[Mapping[str, Any]], *keys: str) -> list[str]:
    """Return the values of the keys that are texts or whole numbers, as texts."""
    values = [level.get(key) for level in fields for key in keys]
    return [
        str(value)
        for value in values
        if (isinstance(value, str) and value) or (type(value) is int and 0 < value < 2**63)
    ]


def _google_details(fields: list[Mapping[str, Any]]) -> tuple[list[str], str]:
    """Return the reasons of google.rpc.ErrorInfo, and the delay of RetryInfo."""
    reasons: list[str] = []
    delay = ""
    for level in fields:
        details = level.get("details")
        for detail in details[:16] if isinstance(details, list) else ():
            if isinstance(detail, Mapping):
                reasons += _texts([detail], "reason")
                delay = delay or next(iter(_texts([detail], "retryDelay")), "")
    return reasons, delay


def _location(fields: list[Mapping[str, Any]]) -> str:
    """Return FastAPI's path of an invalid field, such as `messages.0.role`."""
    for level in fields:
        path = level.get("loc")
        if isinstance(path, list):
            steps = [str(step) for step in path[:16] if isinstance(step, str | int)]
            return ".".join(steps[1:] if steps[:1] == ["body"] else steps)
    return ""


def _count(fields: list[Mapping[str, Any]], key: str) -> int | None:
    values = (level.get(key) for level in fields)
    return next((n for n in values if type(n) is int and 0 <= n < 2**53), None)


def _is_status(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdigit() and "400" <= text < "600"


def _log_text(value: object) -> str:
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError, TypeError):
        text = "an error that is nested too deeply"
    return join_surrogates(text[:MAX_LOG_CHARS])
