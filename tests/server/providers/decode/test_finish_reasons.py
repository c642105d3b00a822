"""All three decoders give each word for an ending the same meaning."""

import json
from typing import get_args

import pytest
from anthropic.types import StopReason
from anthropic.types.beta import BetaStopReason
from openai.types.chat.chat_completion_chunk import Choice
from openai.types.responses.response import IncompleteDetails

from tokenwire_server.errors import UpstreamError
from tokenwire_server.events import FinishReason
from tokenwire_server.providers.decode.anthropic.decoder import AnthropicDecoder
from tokenwire_server.providers.decode.finish_reasons import FINISH_REASONS
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder
from tokenwire_server.providers.decode.openai_responses.decoder import OpenAIResponsesDecoder

OF_THE_SDKS = {
    *get_args(StopReason),
    *get_args(BetaStopReason),
    *get_args(get_args(Choice.model_fields["finish_reason"].annotation)[0]),
    *get_args(get_args(IncompleteDetails.model_fields["reason"].annotation)[0]),
}
UNKNOWN = {
    "tired",
    "stopped",
    "stop!",
    "ok",
    "success",
    "finished",
    "model_switch",
    "3",
    "STOPPING",
}
FOREIGN = {
    *FINISH_REASONS,
    "SAFETY",
    "FINISH_REASON_RECITATION",
    "contextLengthReached",
} - OF_THE_SDKS
CALLS = {word for word, reason in FINISH_REASONS.items() if reason is FinishReason.TOOL_CALLS}


def sse(*events):
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def chat(word):
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": word}]}
    return OpenAIChatDecoder(), sse(chunk) + b"data: [DONE]\n\n"


def messages(word):
    return AnthropicDecoder(), sse(
        {"type": "message_start", "message": {"id": "m", "model": "c"}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": "Hi"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": word}},
        {"type": "message_stop"},
    )


def responses(word):
    details = {"status": "incomplete", "incomplete_details": {"reason": word}}
    return OpenAIResponsesDecoder(), sse(
        {"type": "response.output_text.delta", "item_id": "m", "delta": "Hi"},
        {"type": "response.incomplete", "response": {"id": "r", **details}},
    )


def meaning(word):
    """Return what the table says of a word, as `finish_reason` compares it."""
    letters = word.lower().replace("_", "").removeprefix("finishreason")
    table = {known.replace("_", ""): reason for known, reason in FINISH_REASONS.items()}
    return table.get(letters, FinishReason.OTHER)


def test_the_words_are_those_of_the_sdks_and_more_than_twenty_others():
    assert len(OF_THE_SDKS) >= 14
    assert FINISH_REASONS.keys() >= OF_THE_SDKS
    assert len(FOREIGN) > 20


@pytest.mark.parametrize("answer", [chat, messages, responses])
@pytest.mark.parametrize("word", sorted((OF_THE_SDKS | FOREIGN | UNKNOWN) - CALLS))
def test_a_word_has_the_same_meaning_in_all_formats(answer, word):
    decoder, body = answer(word)
    decoder.feed(body)
    decoder.eof()
    reason = meaning(word)
    if answer is responses and reason is FinishReason.STOP:
        reason = FinishReason.OTHER  # the answer is incomplete, whatever the word is
    if reason is None:
        assert isinstance(decoder.end, UpstreamError)
    else:
        assert (decoder.end.reason, decoder.end.provider_reason) == (reason, word)
