"""Transcripts: the bytes of a provider (`NAME.sse`), and the expected result (`NAME.events.json`).

    {
      "events": [{"type": "text", "text": "Hello", "index": 0}, ...],
      "end": {"complete": "STOP"},      or {"broken": "UPSTREAM_BROKEN", "error_type": "..."}
      "usage": {"input_tokens": 5, "output_tokens": 2},                               or null
      "response_id": "chatcmpl-1",
      "model": "gpt-4o",
      "quirks": {"done_marker": false}                             left out if they are the defaults
    }

`end` also has "provider_reason", and "refusal" if the provider explained one. Fields with their default
value are left out. To create the expected file of a new transcript, print the result and review it:

    python tests/conformance/transcripts_support.py openai-chat/NAME [--done_marker=false]
"""

import importlib
import json
import os
import sys
from functools import cache, cached_property
from pathlib import Path

import msgspec

from tokenwire_server.config import ProviderConfig
from tokenwire_server.errors import UpstreamError
from tokenwire_server.events import (
    Citation,
    InvalidToolCall,
    Logprobs,
    Notice,
    ReasoningDelta,
    TextDelta,
    TextInfo,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.providers.decode.base import Complete, Decoder
from tokenwire_server.providers.registry import DIALECTS

FOLDER = Path(__file__).parent / "transcripts"

ORACLES = {
    "openai-chat": "oracle_chat",
    "openai-responses": "oracle_responses",
    "anthropic": "oracle_anthropic",
}
"""Modules with `accumulate(body: bytes) -> Answer`, based on the official SDKs."""

RECORDED_FOLDERS = {
    "openai-chat": "chat",
    "openai-responses": "responses",
    "anthropic": "anthropic",
}
"""Folders of the recorded streams of providers, below $TOKENWIRE_TRANSCRIPTS."""

_TYPES = {
    TextDelta: "text",
    TextInfo: "text_info",
    ReasoningDelta: "reasoning",
    ToolCallStarted: "tool_call_started",
    ToolCallDelta: "tool_call_delta",
    ToolCall: "tool_call",
    InvalidToolCall: "invalid_tool_call",
    Citation: "citation",
    Logprobs: "logprobs",
    Notice: "notice",
}


class Answer(msgspec.Struct, frozen=True):
    """A complete answer, assembled by a decoder or an SDK."""

    text: str
    reasoning: str
    signatures: list[str]
    tool_calls: list[tuple[str, str, str]]
    """(id, name, arguments)."""
    finish_reason: str
    """Name of Tokenwire's FinishReason."""
    usage: Usage | None


class Transcript(msgspec.Struct, frozen=True, dict=True):
    dialect: str
    path: Path

    @property
    def name(self) -> str:
        return f"{self.dialect}/{self.path.stem}"

    @property
    def body(self) -> bytes:
        return self.path.read_bytes()

    @property
    def is_expected(self) -> bool:
        return self.path.with_suffix(".events.json").exists()

    @property
    def expected(self) -> dict:
        return json.loads(self.path.with_suffix(".events.json").read_text())

    @cached_property
    def _config(self) -> ProviderConfig:
        quirks = self.expected.get("quirks", {}) if self.is_expected else {}
        return _config(self.dialect, quirks)

    def decoder(self) -> Decoder:
        return DIALECTS[self.dialect].decoder(self._config)

    def oracle(self) -> Answer:
        return importlib.import_module(ORACLES[self.dialect]).accumulate(self.body)


def own_transcripts() -> list[Transcript]:
    return [
        Transcript(dialect, path)
        for dialect in ORACLES
        for path in sorted((FOLDER / dialect).glob("*.sse"))
    ]


def recorded_transcripts() -> list[Transcript]:
    """Return the recorded streams of real providers. None if $TOKENWIRE_TRANSCRIPTS is not set."""
    if not (root := os.environ.get("TOKENWIRE_TRANSCRIPTS")):
        return []
    return [
        Transcript(dialect, path)
        for dialect, folder in RECORDED_FOLDERS.items()
        for path in sorted((Path(root) / folder).glob("*.sse"))
    ]


def new_decoder(dialect: str, **quirks: object) -> Decoder:
    """Return a decoder. It needs the end marker, as OpenAI must send it, unless a quirk says otherwise."""
    return DIALECTS[dialect].decoder(_config(dialect, quirks))


def _config(dialect: str, quirks: dict) -> ProviderConfig:
    quirks = {"done_marker": True, **quirks}
    return ProviderConfig(kind=dialect, base_url="http://provider.test", quirks=quirks)


def decode(decoder: Decoder, *pieces: bytes) -> dict:
    """Feed the pieces and the end of the body. Return the result in the format of the expected files."""
    deltas = [delta for piece in pieces for delta in decoder.feed(piece)]
    deltas += decoder.eof()
    return {
        "events": [_event(delta) for delta in deltas],
        "end": _end(decoder.end),
        "usage": None if decoder.usage is None else _fields(decoder.usage),
        "response_id": decoder.response_id,
        "model": decoder.model,
    }


def answer(outcome: dict) -> Answer:
    """Assemble the answer from a result."""
    events = outcome["events"]

    def joined(kind: str) -> str:
        return "".join(event["text"] for event in events if event["type"] == kind)

    return Answer(
        text=joined("text"),
        reasoning=joined("reasoning"),
        signatures=list(filter(None, map(_signature, events))),
        tool_calls=[
            (event["id"], event["name"], event["arguments_json"])
            for event in events
            if event["type"] == "tool_call"
        ],
        finish_reason=outcome["end"].get("complete", ""),
        usage=outcome["usage"] and msgspec.convert(outcome["usage"], Usage),
    )


def _signature(event: dict) -> str:
    """Return the signature of a block, or the encrypted content in its provider state."""
    _, _, data = event.get("provider_state", "").partition("\0")
    state = json.loads(data) if event["type"] == "reasoning" and data.startswith("{") else {}
    return event.get("signature") or state.get("encrypted_content", "")


def _event(delta) -> dict:
    return {"type": _TYPES[type(delta)], **_fields(delta)}


def _end(end: Complete | UpstreamError | None) -> dict:
    if isinstance(end, Complete):
        refusal = {"refusal": _fields(end.refusal)} if end.refusal is not None else {}
        reason = {"provider_reason": end.provider_reason} if end.provider_reason else {}
        return {"complete": end.reason.name, **reason, **refusal}
    assert isinstance(end, UpstreamError), "eof() left the end open"
    assert not end.provider_text or end.provider_text not in str(end), "the provider's text leaks"
    broken = {"broken": end.reason}
    if end.error_type:
        broken["error_type"] = end.error_type
    return broken


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict:
    return dict(zip(kind.__struct_fields__[::-1], kind.__struct_defaults__[::-1], strict=False))


def _fields(struct: msgspec.Struct) -> dict:
    defaults = _defaults(type(struct))
    fields = msgspec.structs.asdict(struct)
    return {
        name: _plain(value) for name, value in fields.items() if value != defaults.get(name, ...)
    }


def _plain(value: object) -> object:
    """Return a value in the form that JSON has for it."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    return _fields(value) if isinstance(value, msgspec.Struct) else value


def _write(outcome: dict) -> str:
    """Write one event per line, so that a person can review it."""
    events = ",\n".join(
        "    " + json.dumps(event, ensure_ascii=True) for event in outcome["events"]
    )
    rest = {key: value for key, value in outcome.items() if key != "events"}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in rest.items()]
    return (
        "{\n"
        + ",\n".join([f'  "events": [\n{events}\n  ]' if events else '  "events": []', *lines])
        + "\n}\n"
    )


if __name__ == "__main__":
    name, *options = sys.argv[1:]
    given = {
        key: json.loads(value)
        for key, _, value in (option.removeprefix("--").partition("=") for option in options)
    }
    body = (FOLDER / f"{name}.sse").read_bytes()
    result = decode(new_decoder(name.partition("/")[0], **given), body)
    sys.stdout.write(_write({**result, "quirks": given} if given else result))
