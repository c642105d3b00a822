"""Answers as objects of a class, from a real server."""

import copy
import dataclasses
import json
from typing import Annotated, Literal, TypedDict
from urllib.parse import quote

import msgspec
import pydantic
import pytest
from e2e_calls import PROVIDERS

import tokenwire
from tokenwire.structured.answer_type import answer_type


@dataclasses.dataclass
class Step:
    title: str
    minutes: Annotated[int, msgspec.Meta(ge=0)]
    next: "Step | None" = None


@dataclasses.dataclass
class Plan:
    """A plan of a trip."""

    kind: Literal["trip", "walk"]
    steps: list[Step]


class PlanDict(TypedDict):
    kind: str
    steps: list[Step]


class PlanStruct(msgspec.Struct):
    kind: str
    steps: list[Step]


class StepModel(pydantic.BaseModel):
    title: str
    minutes: int = pydantic.Field(ge=0)
    next: "StepModel | None" = None


class PlanModel(pydantic.BaseModel):
    kind: str
    steps: list[StepModel]


KINDS = [Plan, PlanDict, PlanStruct, PlanModel]
ANSWER = '{"kind":"trip","steps":[{"title":"pack","minutes":7,"next":null}]}'


def model(text, provider="openai", **fields):
    options = "&".join(f"{name}={value}" for name, value in fields.items())
    return f"{provider}/sim?text={quote(text)}&itl_ms=0&{options}".rstrip("&")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_answer_is_an_object_of_the_class(server, provider, kind):
    expected = answer_type(kind).parse(ANSWER)
    async with tokenwire.AsyncClient(server) as client:
        answer = await client.chat(model(ANSWER, provider), "plan", response_format=kind)
        assert answer.parsed == expected
        assert answer.json_result.is_valid
        call = client.chat_stream(model(ANSWER, provider), "plan", response_format=kind)
        async with call as stream:
            partials = [copy.deepcopy(stream.partial) async for _ in stream]
        assert stream.result == (await stream.final()).parsed == expected
        assert partials[0] is None
        assert partials[-1] == json.loads(ANSWER)


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_for_threads_has_the_same(server, kind):
    expected = answer_type(kind).parse(ANSWER)
    with tokenwire.Client(server) as client:
        assert client.chat(model(ANSWER), "plan", response_format=kind).parsed == expected
        with client.chat_stream(model(ANSWER), "plan", response_format=kind) as stream:
            fields = list(stream.values)
            assert [field.pointer for field in fields[-2:]] == ["/steps", ""]
            assert stream.result == expected
        assert client.count_tokens(model(ANSWER), "plan", response_format=kind).input_tokens > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_the_demo_model_answers_with_an_object_of_the_class(server, kind):
    async with tokenwire.AsyncClient(server) as client:
        answer = await client.chat("openai/demo", "plan", response_format=kind)
        assert answer.json_result.is_valid, answer.json_result
        plan = answer.parsed if isinstance(answer.parsed, dict) else vars_of(answer.parsed)
        assert plan["steps"][0].minutes >= 0


def vars_of(value):
    return {name: getattr(value, name) for name in ("kind", "steps")}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_cut_answer_has_what_arrived(server, provider):
    long_answer = json.dumps({"kind": "trip", "steps": [{"title": "pack " * 9, "minutes": 1}]})
    ask = {"response_format": Plan, "generation": {"max_output_tokens": 10}}
    async with tokenwire.AsyncClient(server) as client:
        answer = await client.chat(model(long_answer, provider), "plan", **ask)
        with pytest.raises(tokenwire.AnswerCut) as cut:
            _ = answer.parsed
        async with client.chat_stream(model(long_answer, provider), "plan", **ask) as stream:
            await stream.final()
            with pytest.raises(tokenwire.AnswerCut) as streamed:
                _ = stream.result
    for error in (cut.value, streamed.value):
        assert error.finish_reason == tokenwire.FinishReason.MAX_TOKENS
        assert long_answer.startswith(error.text)
        assert error.partial["kind"] == "trip"
        assert error.stream_id
        assert error.violations
    assert stream.partial == streamed.value.partial


async def test_a_refusal_has_its_explanation(server):
    refusing = "anthropic/sim?refusal=1&refusal_category=bio&refusal_explanation=Not that."
    async with tokenwire.AsyncClient(server) as client:
        answer = await client.chat(refusing, "plan", response_format=Plan)
    with pytest.raises(tokenwire.AnswerRefused) as refused:
        _ = answer.parsed
    assert (refused.value.category, refused.value.explanation) == ("bio", "Not that.")


async def test_an_answer_that_the_class_refuses_has_its_place(server):
    wrong = '{"kind":"trip","steps":[{"title":"pack","minutes":-1,"next":null}]}'
    async with tokenwire.AsyncClient(server) as client:
        answer = await client.chat(model(wrong), "plan", response_format=Plan)
        assert answer.json_result.is_valid  # `minutes >= 0` is not in the schema that is sent
    with pytest.raises(tokenwire.InvalidAnswer) as invalid:
        _ = answer.parsed
    assert [each.field for each in invalid.value.violations] == ["/steps/0/minutes"]
    assert invalid.value.text == wrong


async def test_a_stream_that_is_resumed_from_its_beginning_has_the_object(server):
    keep = tokenwire.retention("continue", log_ttl_s=60)
    ask = {"response_format": Plan, "retention": keep}
    async with tokenwire.AsyncClient(server) as client:
        async with client.chat_stream(model(ANSWER), "plan", **ask) as stream:
            await stream.final()
        async with client.resume(stream.stream_id, response_format=Plan) as again:
            assert (await again.final()).parsed == stream.result
            assert again.partial == json.loads(ANSWER)
        async with client.resume(stream.stream_id, 3, response_format=Plan) as rest:
            await rest.final()
            with pytest.raises(tokenwire.IncompleteStream):
                _ = rest.result


async def test_a_class_of_another_kind_is_refused_before_a_call_is_made(server):
    async with tokenwire.AsyncClient(server) as client:
        for call in (client.chat, client.chat_stream, client.count_tokens):
            with pytest.raises(TypeError, match="int cannot be a response_format"):
                await call("openai/demo", "Hi", response_format=int)
