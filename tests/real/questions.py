"""Questions that are asked in two ways: with a provider's official SDK, and with Tokenwire.

The answers are compared as the conformance suite does it: the SDK's is what it reads from the bytes that the
server sent. Only the ids of tool calls differ, which the server draws at random.
"""

import importlib
import json
from dataclasses import dataclass, field

import anthropic
import openai
from transcripts_support import ORACLES, Answer

from tokenwire.v1 import event_pb2
from tokenwire_server.events import Usage

DIALECTS = list(ORACLES)
MODEL = "tiny"
NO_KEY = "none"


@dataclass(frozen=True)
class Question:
    prompt: str = "Which pear?"
    max_output_tokens: int = 24
    stop: str = ""
    tools: dict = field(default_factory=dict)
    """JSON Schemas of tools, by name. One of them must be called."""
    schema: dict | None = None
    grammar: str = ""
    conversation: dict = field(default_factory=dict)
    """In place of the prompt: the keys of the body in each wire format, and the messages for Tokenwire."""
    options: dict = field(default_factory=dict)
    """Keys of the body that only llama-server knows."""


def sdk_body(dialect, question, url):
    """Ask with the SDK. Return the bytes of the answer's body."""
    ask = {"openai-chat": _chat, "openai-responses": _responses, "anthropic": _messages}[dialect]
    return ask(question, url)


def sdk_answer(dialect, body):
    return _comparable(importlib.import_module(ORACLES[dialect]).accumulate(body))


async def tokenwire_answer(client, dialect, question):
    """Ask through Tokenwire, and assemble the answer from the events of the stream."""
    async with client.chat_stream(**request(dialect, question), timeout=60) as stream:
        return assembled([event async for event in stream])


def request(dialect, question):
    """Return the arguments of `chat_stream`."""
    generation = {"max_output_tokens": question.max_output_tokens, "temperature": 0}
    if question.stop:
        generation["stop_sequences"] = [question.stop]
    fields = {}
    if question.tools:
        fields["tools"] = [
            {"name": name, "parameters_json_schema": json.dumps(schema)}
            for name, schema in question.tools.items()
        ]
        fields["tool_choice"] = {"mode": "TOOL_CHOICE_MODE_REQUIRED"}
    if question.schema:
        schema = {"name": "answer", "schema_json": json.dumps(question.schema), "strict": True}
        fields["response_format"] = {"json_schema": schema}
    options = dict(question.options)
    if question.grammar and dialect == "openai-chat":
        fields["response_format"] = {"grammar": {"definition": question.grammar}}
    elif question.grammar:
        options["grammar"] = question.grammar
    if options:
        fields["provider_options"] = options
    return {
        "model": f"llama-{dialect}/{MODEL}",
        "messages": question.conversation.get("tokenwire", question.prompt),
        "generation": generation,
        **fields,
    }


def assembled(events):
    finished = events[-1].finished
    return _comparable(
        Answer(
            text="".join(event.text.text for event in events),
            reasoning="".join(event.reasoning.text for event in events),
            signatures=[e.reasoning.signature for e in events if e.reasoning.signature],
            tool_calls=[
                (call.id, call.name, call.arguments_json)
                for call in (e.tool_call.tool_call for e in events if e.HasField("tool_call"))
            ],
            finish_reason=event_pb2.FinishReason.Name(finished.reason).removeprefix(
                "FINISH_REASON_"
            ),
            usage=usage(finished.usage),
        )
    )


def usage(sent):
    """Return the usage of the proto as the server's type."""
    optional = ("reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
    return Usage(
        input_tokens=sent.input_tokens,
        output_tokens=sent.output_tokens,
        estimated=sent.estimated,
        **{name: getattr(sent, name) for name in optional if sent.HasField(name)},
    )


def _comparable(answer):
    return Answer(
        **{
            name: getattr(answer, name) for name in Answer.__struct_fields__ if name != "tool_calls"
        },
        tool_calls=[("", name, arguments) for _, name, arguments in answer.tool_calls],
    )


def _only(question):
    return [{"role": "user", "content": question.prompt}]


def _extra(question):
    return question.options | ({"grammar": question.grammar} if question.grammar else {})


def _chat(question, url):
    given = dict(question.conversation.get("openai-chat") or {"messages": _only(question)})
    if question.stop:
        given["stop"] = [question.stop]
    if question.tools:
        given["tools"] = [
            {"type": "function", "function": {"name": name, "parameters": schema}}
            for name, schema in question.tools.items()
        ]
        given["tool_choice"] = "required"
    if question.schema:
        schema = {"name": "answer", "schema": question.schema, "strict": True}
        given["response_format"] = {"type": "json_schema", "json_schema": schema}
    with (
        openai.OpenAI(api_key=NO_KEY, base_url=f"{url}/v1", max_retries=0) as client,
        client.chat.completions.with_streaming_response.create(
            model=MODEL,
            stream=True,
            stream_options={"include_usage": True},
            temperature=0,
            max_tokens=question.max_output_tokens,
            extra_body=_extra(question),
            **given,
        ) as response,
    ):
        return response.read()


def _responses(question, url):
    given = dict(question.conversation.get("openai-responses") or {"input": question.prompt})
    if question.tools:
        given["tools"] = [
            {"type": "function", "name": name, "parameters": schema, "strict": False}
            for name, schema in question.tools.items()
        ]
        given["tool_choice"] = "required"
    with (
        openai.OpenAI(api_key=NO_KEY, base_url=f"{url}/v1", max_retries=0) as client,
        client.responses.with_streaming_response.create(
            model=MODEL,
            stream=True,
            temperature=0,
            max_output_tokens=question.max_output_tokens,
            extra_body=_extra(question),
            **given,
        ) as response,
    ):
        return response.read()


def _messages(question, url):
    given = dict(question.conversation.get("anthropic") or {"messages": _only(question)})
    if question.stop:
        given["stop_sequences"] = [question.stop]
    if question.tools:
        given["tools"] = [
            {"name": name, "input_schema": schema} for name, schema in question.tools.items()
        ]
        given["tool_choice"] = {"type": "any"}
    with (
        anthropic.Anthropic(api_key=NO_KEY, base_url=url, max_retries=0) as client,
        client.messages.with_streaming_response.create(
            model=MODEL,
            stream=True,
            max_tokens=question.max_output_tokens,
            extra_body={"temperature": 0, **question.options},  # the SDK has no such argument,
            **given,
        ) as response,
    ):
        return response.read()
