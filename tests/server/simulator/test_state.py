"""Provider state in simulated answers: what the second turn of a tool loop needs, and what is refused."""

import copy
import json
import re

import pytest

QUESTION = {"role": "user", "content": "Where is it?"}
OTHER = {"role": "user", "content": "Another question"}
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses"}
STATES = ("anthropic", "openai", "gemini", "openrouter", "minimax", "deepseek")


def request_of(state, conversation, *, stream, fields):
    field = "input" if state == "openai" else "messages"
    limit = {"max_tokens": 999} if state == "anthropic" else {}
    model = f"sim?state={state}&tokens=5&tools=2{fields}"
    return {"model": model, "stream": stream, field: conversation, **limit}


def read(state, whole):
    """Return the messages with which a caller sends an answer back, and the ids of its calls."""
    if state == "anthropic":
        ids = [block["id"] for block in whole["content"] if block["type"] == "tool_use"]
        return [{"role": "assistant", "content": whole["content"]}], ids
    if state == "openai":
        return whole["output"], [item["call_id"] for item in whole["output"] if "call_id" in item]
    message = whole["choices"][0]["message"]
    return [message], [call["id"] for call in message.get("tool_calls", [])]


def results_in(state, ids):
    if state == "anthropic":
        results = [{"type": "tool_result", "tool_use_id": id_, "content": "x"} for id_ in ids]
        return [{"role": "user", "content": results}]
    if state == "openai":
        return [{"type": "function_call_output", "call_id": id_, "output": "x"} for id_ in ids]
    return [{"role": "tool", "tool_call_id": id_, "content": "x"} for id_ in ids]


@pytest.fixture
def ask(wire):
    async def ask(state, conversation, *, stream=False, fields=""):
        path = PATHS.get(state, "/v1/chat/completions")
        await wire.ask(path, request_of(state, conversation, stream=stream, fields=fields))
        status, _, body = await wire.answer()
        return status, body if stream else json.loads(body)

    return ask


@pytest.fixture
def first_turn(ask):
    """Returns the conversation after the first turn of a tool loop."""

    async def first_turn(state):
        _, whole = await ask(state, [QUESTION])
        answer, ids = read(state, whole)
        assert len(ids) == 2
        return [QUESTION, *answer, *results_in(state, ids)]

    return first_turn


@pytest.mark.parametrize("state", STATES)
async def test_a_conversation_continues_while_all_its_state_is_sent_back(ask, state):
    conversation = [QUESTION]
    for calls_tools in (True, False, True, False):
        status, whole = await ask(state, conversation)
        assert status == 200
        answer, ids = read(state, whole)
        assert bool(ids) == calls_tools
        conversation += [*answer, *(results_in(state, ids) if ids else [OTHER])]


async def test_an_answer_of_another_provider_needs_no_state(ask, first_turn):
    for state in STATES[2:]:
        foreign = without_state(await first_turn(state))
        for other in set(STATES[2:]) - {state}:
            assert (await ask(other, foreign))[0] == 200
    for state in STATES[:2]:
        written = json.dumps(without_state(await first_turn(state)))
        foreign = json.loads(re.sub(r"_[0-9a-f]{24}", lambda found: found[0][::-1], written))
        assert (await ask(state, foreign))[0] == 200


async def test_a_call_of_another_provider_can_need_the_general_signature(ask, first_turn):
    conversation = without_state(await first_turn("deepseek"))
    fields = "&unsigned_calls=refused"
    status, body = await ask("gemini", conversation, fields=fields)
    assert status == 400
    assert "missing a thought_signature" in body[0]["error"]["message"]
    assert (await ask("gemini", [*conversation, OTHER], fields=fields))[0] == 200
    google = {"thought_signature": "skip_thought_signature_validator"}
    conversation[1]["tool_calls"][0]["extra_content"] = {"google": google}
    assert (await ask("gemini", conversation, fields=fields))[0] == 200


async def test_a_cache_hint_may_move_between_two_turns(ask):
    text = {"type": "text", "text": "Where is it?"}
    question = {"role": "user", "content": [text]}
    _, whole = await ask("anthropic", [question])
    answer, ids = read("anthropic", whole)
    hinted = {"role": "user", "content": [{**text, "cache_control": {"type": "ephemeral"}}]}
    conversation = [hinted, *answer, *results_in("anthropic", ids)]
    assert (await ask("anthropic", conversation))[0] == 200


def without_state(conversation):
    """Return the conversation as a caller sends it that drops all state."""
    conversation = copy.deepcopy(conversation)
    for message in conversation:
        for field in (
            "reasoning",
            "reasoning_content",
            "reasoning_details",
            "extra_content",
            "phase",
        ):
            message.pop(field, None)
        for call in message.get("tool_calls", []):
            call.pop("extra_content", None)
        if isinstance(message.get("content"), list):
            message["content"] = [
                block for block in message["content"] if "thinking" not in block.get("type", "")
            ]
    return [message for message in conversation if message.get("type") != "reasoning"]


def without_phase(conversation):
    return [
        {name: value for name, value in item.items() if name != "phase"} for item in conversation
    ]


def moved(conversation):
    """Return the conversation with the state of the first answer at another place of it."""
    conversation = copy.deepcopy(conversation)
    answer = conversation[1]
    if answer.get("type") == "reasoning":
        conversation[1], conversation[2] = conversation[2], answer
    elif isinstance(answer.get("content"), list):
        answer["content"].insert(0, answer["content"].pop(1))
    elif "reasoning_details" in answer:
        answer["reasoning_details"].reverse()
    else:
        first, second = answer["tool_calls"]
        second["extra_content"] = first.pop("extra_content")
    return conversation


def changed(conversation):
    """Return the conversation with one word of the first answer's state changed."""
    text = json.dumps(conversation)
    for name in ("signature", "thought_signature", "encrypted_content", "reasoning_content"):
        if f'"{name}": "' in text:
            return json.loads(text.replace(f'"{name}": "', f'"{name}": "X', 1))
    return json.loads(text.replace('"text": "', '"text": "X', 1))


def in_another_conversation(conversation):
    return [OTHER, *conversation[1:]]


@pytest.mark.parametrize(
    ("state", "damage", "said"),
    [
        ("anthropic", without_state, "Expected `thinking` or `redacted_thinking`"),
        ("anthropic", changed, "messages.1.content.0: Invalid `signature` in `thinking` block"),
        ("anthropic", moved, "cannot be modified"),
        ("anthropic", in_another_conversation, "Invalid `signature` in `thinking` block"),
        ("openai", without_state, "without its required 'reasoning' item: 'rs_"),
        ("openai", without_phase, "'input[2].phase'"),
        ("openai", changed, "could not be verified"),
        ("openai", moved, "without its required following item"),
        ("openai", in_another_conversation, "could not be verified"),
        ("gemini", without_state, "missing a thought_signature"),
        ("gemini", changed, "Corrupted thought signature"),
        ("gemini", moved, "missing a thought_signature"),
        ("gemini", in_another_conversation, "Corrupted thought signature"),
        ("openrouter", without_state, "Expected `thinking` or `redacted_thinking`"),
        ("openrouter", changed, "Invalid `signature` in `thinking` block"),
        ("openrouter", moved, "Invalid `signature` in `thinking` block"),
        ("openrouter", in_another_conversation, "Invalid `signature` in `thinking` block"),
        ("minimax", without_state, "messages[1].reasoning_details"),
        ("minimax", changed, "messages[1].reasoning_details"),
        ("minimax", in_another_conversation, "messages[1].reasoning_details"),
        ("deepseek", without_state, "Missing `reasoning_content` field"),
        ("deepseek", changed, "must be passed back"),
        ("deepseek", in_another_conversation, "must be passed back"),
    ],
)
async def test_a_request_without_the_state_as_it_was_is_refused(
    ask, first_turn, state, damage, said
):
    status, body = await ask(state, damage(await first_turn(state)))
    assert status == 400
    assert said in json.dumps(body)


@pytest.mark.parametrize("state", STATES)
async def test_a_streamed_answer_has_the_state_of_the_whole_one(ask, state):
    _, whole = await ask(state, [QUESTION])
    _, body = await ask(state, [QUESTION], stream=True)
    sealed = ("signature", "thought_signature", "data", "encrypted_content", "phase")
    marked = ("reasoning_content", "text")
    found = strings(whole, sealed)
    found += [text[text.index(" [") :] for text in strings(whole, marked) if " [" in text]
    assert found
    assert all(value.encode() in body for value in found)


async def test_a_tool_loop_with_the_sdk_passes(anthropic, openai):
    asked = {"model": "sim?state=anthropic&tokens=5&tools=1", "max_tokens": 999}
    async with anthropic.messages.stream(messages=[QUESTION], **asked) as stream:
        message = await stream.get_final_message()
    assert [block.type for block in message.content][:2] == ["thinking", "redacted_thinking"]
    results = results_in("anthropic", [message.content[-1].id])
    last = await anthropic.messages.create(
        messages=[QUESTION, {"role": "assistant", "content": message.content}, *results], **asked
    )
    assert last.stop_reason == "end_turn"
    model = "sim?state=openai&tokens=5&tools=1"
    async with openai.responses.stream(model=model, input=[QUESTION]) as stream:
        response = await stream.get_final_response()
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    results = results_in("openai", [response.output[-1].call_id])
    last = await openai.responses.create(model=model, input=[QUESTION, *response.output, *results])
    assert last.output[1].phase == "final_answer"


async def test_the_signature_of_a_text_is_alone_in_a_delta(ask, first_turn):
    conversation = await first_turn("gemini")
    _, whole = await ask("gemini", conversation)
    _, body = await ask("gemini", conversation, stream=True)
    signed = whole["choices"][0]["message"]["extra_content"]
    chunks = [json.loads(line[6:]) for line in body.split(b"\n") if b'"extra_content"' in line]
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "extra_content": signed}
    ]


async def test_a_state_that_the_format_lacks_is_refused(wire):
    await wire.chat("sim?state=anthropic")
    status, _, body = await wire.answer()
    assert status == 400
    assert b"`state` must be one of deepseek, gemini, minimax, openrouter" in body


def strings(value, names):
    """Return all strings at these names in a JSON value."""
    if isinstance(value, list):
        return [found for each in value for found in strings(each, names)]
    if not isinstance(value, dict):
        return []
    own = [value[name] for name in names if isinstance(value.get(name), str)]
    return own + [found for each in value.values() for found in strings(each, names)]
