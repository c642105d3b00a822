import inspect
import re

import pytest

import tokenwire
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.wire.generation import GenerationFields
from tokenwire.wire.requests import RequestFields, build_request
from tokenwire.wire.spelling import CLIENT_HINTS, HINTS, USAGE_HINTS
from tokenwire.wire.usage import UsageFields

EVERY_FIELD = {
    "max_output_tokens": 100,
    "temperature": 0,
    "top_p": 0.5,
    "top_k": 3,
    "seed": 0,
    "presence_penalty": -1.5,
    "frequency_penalty": 1,
    "stop_sequences": ["END", "STOP"],
    "reasoning": {"effort": "high", "budget_tokens": 2048, "summary": "auto"},
    "logprobs": {"top_count": 2},
    "service_tier": "flex",
}
AS_MESSAGE = pb.GenerationConfig(
    max_output_tokens=100,
    temperature=0,
    top_p=0.5,
    top_k=3,
    seed=0,
    presence_penalty=-1.5,
    frequency_penalty=1,
    stop_sequences=["END", "STOP"],
    reasoning=pb.ReasoningConfig(
        effort=pb.REASONING_EFFORT_HIGH,
        budget_tokens=2048,
        summary=pb.REASONING_SUMMARY_AUTO,
    ),
    logprobs=pb.LogprobsConfig(top_count=2),
    service_tier="flex",
)
NAMES = list(EVERY_FIELD)


def generation(**fields):
    return build_request("m", "Hi", **fields).generation


def test_every_field_of_generation_is_a_keyword():
    assert GenerationFields.__optional_keys__ == set(pb.GenerationConfig.DESCRIPTOR.fields_by_name)
    assert EVERY_FIELD.keys() == GenerationFields.__optional_keys__

    assert generation(**EVERY_FIELD) == AS_MESSAGE
    assert generation(generation=EVERY_FIELD) == AS_MESSAGE
    assert generation(generation=AS_MESSAGE) == AS_MESSAGE


@pytest.mark.parametrize("name", NAMES)
def test_keywords_and_generation_can_be_combined_but_not_repeat_a_field(name):
    rest = {each: value for each, value in EVERY_FIELD.items() if each != name}

    assert generation(generation=rest, **{name: EVERY_FIELD[name]}) == AS_MESSAGE
    with pytest.raises(ValueError, match=f"^{name}: is given twice, also in generation$"):
        generation(generation=EVERY_FIELD, **{name: EVERY_FIELD[name]})


def test_the_callers_generation_is_not_changed():
    mine = pb.GenerationConfig(seed=1)

    generation(generation=mine, temperature=1)

    assert mine == pb.GenerationConfig(seed=1)


@pytest.mark.parametrize("name", NAMES)
def test_none_is_the_default_of_the_provider(name):
    assert not build_request("m", "Hi", **{name: None}).HasField("generation")
    assert generation(generation={name: None}) == pb.GenerationConfig()


def test_short_forms():
    high = pb.ReasoningConfig(effort=pb.REASONING_EFFORT_HIGH)
    assert generation(reasoning="high").reasoning == high
    assert generation(reasoning="HIGH").reasoning == high
    assert generation(reasoning=high).reasoning == high
    assert generation(reasoning={"effort": "REASONING_EFFORT_HIGH"}).reasoning == high
    assert generation(reasoning={"effort": pb.REASONING_EFFORT_HIGH}).reasoning == high
    assert generation(stop_sequences="END").stop_sequences == ["END"]
    assert generation(logprobs=True).HasField("logprobs")
    assert generation(logprobs=True).logprobs.top_count == 0
    assert generation(logprobs=0).HasField("logprobs")
    assert generation(logprobs=5).logprobs.top_count == 5
    assert not generation(logprobs=False, seed=1).HasField("logprobs")


def test_short_names_of_enums_in_every_mapping():
    request = build_request(
        "m",
        "Hi",
        tool_choice={"mode": "required"},
        retention={"on_disconnect": "continue"},
        cache={"mode": "read_write"},
        response_format={"json_schema": {"name": "a", "on_invalid": "fail"}},
    )

    assert request.tool_choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED
    assert request.retention.on_disconnect == pb.ON_DISCONNECT_CONTINUE
    assert request.cache.mode == pb.CACHE_MODE_READ_WRITE
    assert request.response_format.json_schema.on_invalid == pb.ON_INVALID_FAIL


EFFORTS = "none, minimal, low, medium, high, xhigh, max"


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        (
            {"reasoning": "hihg"},
            ValueError,
            f"reasoning.effort: must be one of {EFFORTS}, not 'hihg'",
        ),
        (
            {"generation": {"reasoning": {"effort": ""}}},
            ValueError,
            f"generation.reasoning.effort: must be one of {EFFORTS}, not ''",
        ),
        (
            {"cache": {"mode": "on"}},
            ValueError,
            "cache.mode: must be one of off, read_write, refresh, not 'on'",
        ),
        (
            {"generation": {"max_tokens": 5}},
            TypeError,
            "generation: unknown name 'max_tokens': use max_output_tokens",
        ),
        (
            {"reasoning": {"eff": "high"}},
            TypeError,
            "reasoning: unknown name 'eff': did you mean effort?",
        ),
        (
            {"budget": {"x": 1}},
            TypeError,
            "budget: unknown name 'x': the names are max_cost_microusd, max_input_tokens",
        ),
        ({"reasoning": 5}, TypeError, "reasoning: must be a ReasoningConfig or a mapping, not int"),
        (
            {"generation": 5},
            TypeError,
            "generation: must be a GenerationConfig or a mapping, not int",
        ),
        ({"logprobs": "5"}, TypeError, "logprobs: must be a LogprobsConfig or a mapping, not str"),
    ],
)
def test_wrong_values_say_where_and_what_is_right(fields, kind, text):
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        build_request("m", "Hi", **fields)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"temperature": "warm"}, "temperature: "),
        ({"max_output_tokens": 1.5}, "max_output_tokens: "),
        ({"stop_sequences": [5]}, "stop_sequences: "),
        ({"generation": {"temperature": "warm"}}, "generation.temperature: "),
        ({"reasoning": {"budget_tokens": "many"}}, "reasoning.budget_tokens: "),
    ],
)
def test_values_of_a_wrong_type_say_where(fields, path):
    with pytest.raises(TypeError, match=f"^{re.escape(path)}"):
        build_request("m", "Hi", **fields)


def test_integers_out_of_range_say_where():
    with pytest.raises(ValueError, match=r"^seed: "):
        build_request("m", "Hi", seed=2**63)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("max_tokens", "max_output_tokens"),
        ("max_completion_tokens", "max_output_tokens"),
        ("stop", "stop_sequences"),
        ("reasoning_effort", 'reasoning="high"'),
        ("thinking", "reasoning="),
        ("top_logprobs", "logprobs=5"),
        ("n", "several requests"),
        ("stream", "chat_stream"),
        ("functions", "tools"),
        ("function_call", "tool_choice"),
        ("metadata", "labels"),
        ("parallel_tool_calls", 'tool_choice={"parallel": ...}'),
        ("system", "tokenwire.system(...)"),
        ("logit_bias", "provider_options={'logit_bias': ...}"),
        ("temprature", "did you mean temperature?"),
        ("stop_sequence", "did you mean stop_sequences?"),
        ("tool", "did you mean tools?"),
        ("user", "it has no field of its own; pass it"),
        ("effort", 'use reasoning, such as reasoning="high"'),
        ("deadline", "use timeout, in seconds"),
        ("resumable", "use chat_stream or run_tools"),
        ("max_round", "did you mean max_rounds?"),
        ("time_out", "did you mean timeout?"),
        ("max_rounds", "this method does not have this argument"),
        ("zzz", "the names are budget, cache, delivery, "),
    ],
)
def test_an_unknown_keyword_names_the_right_one(name, right):
    with pytest.raises(TypeError, match=f"^unknown name '{name}': .*{re.escape(right)}"):
        build_request("m", "Hi", **{name: 1})


def test_all_unknown_keywords_are_listed():
    with pytest.raises(
        TypeError, match=r"'stop': use stop_sequences; .*'topp': did you mean top_p"
    ):
        build_request("m", "Hi", topp=1, stop="x")


@pytest.mark.parametrize("kind", [tokenwire.AsyncClient, tokenwire.Client])
@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("base_url", "use target, such as"),
        ("api_key", "use key"),
        ("timeout", "give it to each call"),
        ("retries", "did you mean max_retries?"),
        ("zzz", "the names are key, max_retries, options, resumable, target, tls"),
    ],
)
def test_an_unknown_argument_of_a_client_names_the_right_one(kind, name, right):
    with pytest.raises(TypeError, match=f"^unknown name '{name}': {right}") as refused:
        kind(**{name: "secret"})
    assert "secret" not in str(refused.value)


def test_hints_are_for_names_that_are_not_ours():
    assert not HINTS.keys() & RequestFields.__optional_keys__
    assert not USAGE_HINTS.keys() & UsageFields.__optional_keys__
    assert not CLIENT_HINTS.keys() & inspect.signature(tokenwire.Client).parameters.keys()
    for client in (tokenwire.AsyncClient(), tokenwire.Client()):
        for call in (client.chat_stream, client.chat, client.count_tokens):
            if client.__class__ is tokenwire.Client or call == client.chat_stream:
                with pytest.raises(TypeError, match="use max_output_tokens"):
                    call("m", "Hi", max_tokens=5)
