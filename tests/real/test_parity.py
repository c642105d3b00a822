"""The same questions, asked with the official SDKs and with Tokenwire: the same answers from the same server."""

import json

import openai
import pytest
from questions import DIALECTS, Question, request, sdk_answer, sdk_body, tokenwire_answer

import tokenwire
from tokenwire.v1.event_pb2 import ToolCall

each_dialect = pytest.mark.parametrize("dialect", DIALECTS)
openai_dialects = pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses"])
"""Those in which llama-server takes options of its own."""

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Bergen"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
}
EMOJI = 'root ::= "🦙é" [🐑-🐕] "ж"'
"""A grammar of characters that are no tokens: the model has to write their bytes."""


async def both(client, llama, dialect, question):
    """Ask in both ways. Return the answer, which must be the same."""
    answer = sdk_answer(dialect, sdk_body(dialect, question, llama.url))
    assert await tokenwire_answer(client, dialect, question) == answer
    return answer


@each_dialect
@pytest.mark.parametrize(
    ("prompt", "ends_by_itself"),
    [
        pytest.param("Which pear?", False, id="cut by its limit"),
        pytest.param("Is it ripe?", True, id="ended by the model"),
        pytest.param("Count.", True, id="empty"),
    ],
)
async def test_text_finish_reason_and_usage_are_the_same(
    client, llama, dialect, prompt, ends_by_itself
):
    answer = await both(client, llama, dialect, Question(prompt, max_output_tokens=60))

    assert bool(answer.text) == (prompt != "Count.")
    # In Responses, llama-server calls an answer complete whatever ended it.
    is_cut = not ends_by_itself and dialect != "openai-responses"
    assert answer.finish_reason == ("MAX_TOKENS" if is_cut else "STOP")
    assert (answer.usage.output_tokens == 60) == (not ends_by_itself)
    assert not answer.usage.estimated


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic"])
async def test_a_stop_sequence_ends_the_answer(client, llama, dialect):
    answer = await both(client, llama, dialect, Question("Which pear?", stop="pear"))

    assert answer.text
    assert "pear" not in answer.text
    assert answer.finish_reason == {"openai-chat": "STOP", "anthropic": "STOP_SEQUENCE"}[dialect]


async def test_an_answer_follows_its_json_schema(client, llama):
    question = Question(schema=WEATHER, max_output_tokens=400)

    answer = await both(client, llama, "openai-chat", question)

    value = json.loads(answer.text)
    assert value["city"] in ("Oslo", "Bergen")
    assert 1 <= value["days"] <= 9
    assert answer.finish_reason == "STOP"


@openai_dialects
async def test_an_answer_follows_its_grammar(client, llama, dialect):
    question = Question(grammar='root ::= "pear" | "apple"')

    answer = await both(client, llama, dialect, question)

    assert answer.text in ("pear", "apple")
    assert answer.finish_reason == "STOP"


@openai_dialects
async def test_characters_written_byte_by_byte_are_whole(client, llama, dialect):
    answer = await both(client, llama, dialect, Question(grammar=EMOJI))

    assert answer.text.startswith("🦙é")
    assert answer.text.endswith("ж")
    assert answer.usage.output_tokens >= 12


@openai_dialects
async def test_a_limit_within_a_character_leaves_it_out(client, llama, dialect):
    question = Question(max_output_tokens=18, grammar="root ::= " + '"🦙" ' * 9)

    answer = await both(client, llama, dialect, question)

    assert answer.text == "🦙" * 4
    assert answer.usage.output_tokens == 18


@openai_dialects
async def test_bytes_that_are_not_text_become_replacement_characters(client, llama, dialect):
    (first_byte,) = llama.tokens("\x01")
    always_ff = {"logit_bias": [[first_byte + 0xFE, 1000]]}

    answer = await both(client, llama, dialect, Question(max_output_tokens=16, options=always_ff))

    assert answer.text == "\ufffd" * 16


@each_dialect
@pytest.mark.parametrize(("prompt", "calls"), [("a", 2), ("Oslo?", 4)])
async def test_tool_calls_are_the_same(tools_client, tools_llama, dialect, prompt, calls):
    question = Question(prompt, tools={"weather": WEATHER}, max_output_tokens=800)

    answer = await both(tools_client, tools_llama, dialect, question)

    assert [name for _, name, _ in answer.tool_calls] == ["weather"] * calls
    assert all("city" in json.loads(arguments) for _, _, arguments in answer.tool_calls)
    assert answer.finish_reason == "TOOL_CALLS"


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic"])
async def test_a_tool_call_cut_by_the_limit_is_not_completed(tools_client, tools_llama, dialect):
    question = Question("a", tools={"weather": WEATHER}, max_output_tokens=20)

    answer = await tokenwire_answer(tools_client, dialect, question)

    assert answer.tool_calls == []
    assert answer.finish_reason == "MAX_TOKENS"


@each_dialect
async def test_reasoning_is_the_same(thinking_client, thinking_llama, dialect):
    options = {"thinking_budget_tokens": 5}
    if dialect == "anthropic":
        options = {"thinking": {"type": "enabled", "budget_tokens": 5}}

    answer = await both(
        thinking_client, thinking_llama, dialect, Question("a", 40, options=options)
    )

    assert answer.reasoning
    assert answer.text
    assert answer.signatures == []


CALL = {"name": "weather", "arguments": '{"city":"Oslo","days":2}'}
TOOL_LOOP = {
    "tokenwire": [
        tokenwire.system("Be short."),
        tokenwire.user("Oslo?"),
        tokenwire.assistant(
            "I look.",
            tokenwire.Part(
                tool_call=ToolCall(id="call_1", name=CALL["name"], arguments_json=CALL["arguments"])
            ),
        ),
        tokenwire.tool_result("call_1", "Rain."),
        tokenwire.user("And then?"),
    ],
    "openai-chat": {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Oslo?"},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"id": "call_1", "type": "function", "function": CALL}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
            {"role": "user", "content": "And then?"},
        ]
    },
    "openai-responses": {
        "instructions": "Be short.",
        "input": [
            {"role": "user", "content": "Oslo?"},
            {"type": "message", "role": "assistant", "content": "I look."},
            {"type": "function_call", "call_id": "call_1", **CALL},
            {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
            {"role": "user", "content": "And then?"},
        ],
    },
    "anthropic": {
        "system": "Be short.",
        "messages": [
            {"role": "user", "content": "Oslo?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {
                        "type": "tool_use",
                        "id": "call_1",
                        "name": CALL["name"],
                        "input": json.loads(CALL["arguments"]),
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "Rain."},
                    {"type": "text", "text": "And then?"},
                ],
            },
        ],
    },
}


@each_dialect
async def test_the_second_turn_of_a_tool_loop_reaches_the_model_as_the_same_prompt(
    client, llama, dialect
):
    answer = await both(client, llama, dialect, Question(conversation=TOOL_LOOP))

    assert answer.usage.input_tokens > 80


async def test_log_probabilities_are_the_same(client, llama):
    with openai.OpenAI(api_key="none", base_url=f"{llama.url}/v1") as sdk:
        chunks = sdk.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "a"}],
            stream=True,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
        )
        sent = [c.logprobs.content for chunk in chunks for c in chunk.choices if c.logprobs]

    asked = request("openai-chat", Question("a"))
    asked["generation"]["logprobs"] = {"top_count": 2}
    async with client.chat_stream(**asked, timeout=60) as stream:
        tokens = [token async for event in stream for token in event.logprobs.tokens]

    def plain(token, token_bytes):
        return token.token, token.logprob, bytes(token_bytes)

    assert len(tokens) == 5
    assert [
        (plain(token, token.raw_bytes), [plain(top, top.raw_bytes) for top in token.top])
        for token in tokens
    ] == [
        (plain(token, token.bytes), [plain(top, top.bytes) for top in token.top_logprobs])
        for content in sent
        for token in content
    ]


@openai_dialects
async def test_input_read_from_the_prompt_cache_is_reported(client, llama, dialect):
    question = Question("Which pear is ripe?", options={"cache_prompt": True, "id_slot": 0})
    sdk_body(dialect, question, llama.url)

    answer = await both(client, llama, dialect, question)

    assert 0 < answer.usage.cache_read_tokens < answer.usage.input_tokens


async def test_input_that_the_server_does_not_report_is_estimated(client):
    """In Messages, an answer whose first token is a part of a character has no message_start."""
    answer = await tokenwire_answer(client, "anthropic", Question("iq"))

    assert answer.usage.output_tokens == 8
    assert answer.usage.input_tokens > 0
    assert answer.usage.estimated


@openai_dialects
async def test_prompt_progress_is_not_content(client, llama, dialect):
    options = {"return_progress": True, "timings_per_token": True}

    await both(client, llama, dialect, Question(options=options))
