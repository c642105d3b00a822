"""The examples in the OpenAPI document. A test sends the requests to an edge in front of a demo server."""

from __future__ import annotations

from typing import Any

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

CHAT_REQUESTS: dict[str, dict[str, Any]] = {
    "prompt": {"model": "openai/demo", "prompt": "What is Tokenwire?"},
    "conversation": {
        "model": "anthropic/demo",
        "messages": [
            {"role": "ROLE_SYSTEM", "parts": [{"text": "Answer in one sentence."}]},
            {"role": "ROLE_USER", "parts": [{"text": "What is a token?"}]},
            {"role": "ROLE_ASSISTANT", "parts": [{"text": "A piece of a word."}]},
            {"role": "ROLE_USER", "parts": [{"text": "How long is one?"}]},
        ],
        "generation": {"maxOutputTokens": 200, "temperature": 0.5},
    },
    "image": {
        "model": "openai/demo",
        "messages": [
            {
                "role": "ROLE_USER",
                "parts": [
                    {"text": "What is in this image?"},
                    {
                        "image": {
                            "mediaType": "image/png",
                            "data": IMAGE,
                        }
                    },
                ],
            }
        ],
    },
    "tools": {
        "model": "openai-responses/demo",
        "prompt": "What is the weather in Berlin?",
        "tools": [
            {
                "name": "weather",
                "description": "Returns the weather of a city.",
                "parametersJsonSchema": '{"type":"object","properties":{"city":{"type":"string"}}}',
            }
        ],
        "toolChoice": {"mode": "TOOL_CHOICE_MODE_AUTO"},
    },
    "resumable": {
        "model": "openai/demo",
        "prompt": "What is Tokenwire?",
        "requestId": "question-17",
        "retention": {"onDisconnect": "ON_DISCONNECT_CONTINUE", "linger": "30s"},
        "budget": {"maxInputTokens": 1000},
        "labels": {"team": "search"},
    },
}

CHAT_RESPONSE: dict[str, Any] = {
    "streamId": "9f86d081884c7d659a2feaa0c55ad015",
    "message": {"role": "ROLE_ASSISTANT", "parts": [{"text": "Hello there!"}]},
    "finished": {
        "reason": "FINISH_REASON_STOP",
        "model": "demo",
        "provider": "openai",
        "usage": {"inputTokens": "12", "outputTokens": "5", "costMicrousd": "37"},
        "timings": {"ttft": "0.308024s", "duration": "0.403379s"},
    },
}

STREAM_INFO: dict[str, Any] = {
    "streamId": "9f86d081884c7d659a2feaa0c55ad015",
    "state": "STREAM_STATE_FINISHED",
    "finishReason": "FINISH_REASON_STOP",
    "lastSequence": "7",
    "earliestSequence": "1",
    "usage": {"inputTokens": "12", "outputTokens": "5", "costMicrousd": "37"},
    "createdTime": "2026-11-21T20:50:18.268029Z",
    "endTime": "2026-11-21T20:50:18.671408Z",
    "expireTime": "2026-11-21T20:51:18.671408Z",
}

_STARTED = (
    '{"sequence":"1","started":{"streamId":"9f86d081884c7d659a2feaa0c55ad015","model":"demo",'
    '"provider":"openai","createdTime":"2026-11-21T20:50:18.268029Z"}}'
)
_TEXT = '{"sequence":"3","text":{"text":"Hello there!"}}'
_FINISHED = (
    '{"sequence":"4","finished":{"reason":"FINISH_REASON_STOP","model":"demo","provider":"openai",'
    '"usage":{"inputTokens":"12","outputTokens":"5"}}}'
)
EVENTS = (
    f"id: 1\nevent: started\ndata: {_STARTED}\n\n"
    f"id: 3\nevent: text\ndata: {_TEXT}\n\n"
    f"id: 4\nevent: finished\ndata: {_FINISHED}\n\n"
)
LINES = f"{_STARTED}\n{_TEXT}\n{_FINISHED}\n"

PROBLEM: dict[str, Any] = {
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "reason": "INVALID_REQUEST",
    "detail": "generation.temperature: is 3; it must be 0 to 2",
    "violations": [{"field": "generation.temperature", "description": "is 3; it must be 0 to 2"}],
}
