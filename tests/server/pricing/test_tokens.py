import asyncio
import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.pricing.tokenizers import Tokenizers
from tokenwire_server.pricing.tokens import (
    IMAGE_TOKENS,
    MAX_COUNTED_CHARS,
    MAX_STEP_CHARS,
    Characters,
    OutputCount,
    TokenCount,
    TokenCounter,
    estimate_input_tokens,
)
from tokenwire_server.request import (
    Audio,
    ChatRequest,
    Document,
    Image,
    JsonSchemaFormat,
    Message,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

PROSE = (
    "It was the best of times, it was the worst of times; 1,775 of them, if you'd count. "
    "Ça va? 東京では雨が降っています。\n\n\tdef f(x):\n\t\treturn {'a': [x, 0.5]}  # 👍🏽\r\n"
)
UGLY = ["a", "A", " ", "\n", "\t \n", "7", "!a1", "é", "字", "😀", "\u200d", "\x00", "\ud800", "\U0010ffff", " a", "a ", "ab<"]  # fmt: skip
WORDS = st.sampled_from(
    ["the", " the", " of", "Ça", " 東京", "字", "\n", "\n\n", "  ", " ", ".", "'ll", "12345", "{", '"a":', "😀", "\ud83d", "\ude00", "x" * 40]
)  # fmt: skip
TEXT = st.one_of(
    st.lists(WORDS, max_size=400).map("".join),
    st.text(st.characters(), max_size=400),
    st.builds(lambda text, times: text * times, st.text(st.characters(), max_size=40), st.integers(1, 300)),
)  # fmt: skip

ANSWER = st.builds(lambda words, times: "".join(words) * times, st.lists(WORDS, max_size=60), st.integers(1, 150))  # fmt: skip


def loaded() -> Tokenizers:
    tokenizers = Tokenizers()
    asyncio.run(tokenizers.load())
    return tokenizers


TOKENIZERS = loaded()
GPT = TOKENIZERS.counter("openai-chat", "gpt-4o")
OLD_GPT = TOKENIZERS.counter("openai-chat", "gpt-4")
CLAUDE = TOKENIZERS.counter("anthropic", "claude-sonnet-4-5")
ROUGH = TokenCounter(Characters())
COUNTERS = st.sampled_from([GPT, OLD_GPT, CLAUDE, ROUGH])


def near(count: int, whole: int) -> bool:
    return abs(count - whole) <= whole * 0.02 + 2


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    at = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(at)]


def whole_count(counter: TokenCounter, text: str) -> int:
    """Count the whole text."""
    return asyncio.run(counter.count_long(text))


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 8, 9),
        ("tiktoken is great!", 6, 6),
        ("", 0, 0),
    ],
)
def test_openais_own_examples_have_openais_counts(text, o200k, cl100k):
    """From OpenAI's cookbook, "How to count tokens with tiktoken"."""
    assert (GPT.count(text), OLD_GPT.count(text)) == (o200k, cl100k)


def test_the_name_of_a_special_token_is_counted_as_text():
    assert GPT.count("<|endoftext|>") == 7


@given(TEXT)
def test_any_text_is_counted_and_no_token_is_shorter_than_a_byte(text):
    size = len(text.encode("utf-8", "surrogatepass"))
    assert 0 <= GPT.count(text) <= size
    assert (GPT.count(text) == 0) == (text == "")


@given(TEXT, TEXT)
def test_the_counts_of_two_parts_nearly_add_up_to_the_whole(left, right):
    whole = whole_count(GPT, left + right)
    parts = whole_count(GPT, left) + whole_count(GPT, right)
    # What a cut adds to a word or a run of one character: 127 of them may be 7 tokens, 128 are one.
    assert abs(parts - whole) <= whole * 0.02 + 16


@given(COUNTERS, ANSWER, st.lists(st.integers(0, 10**6), max_size=50))
def test_the_count_of_an_answer_does_not_depend_on_its_pieces(counter, text, cuts):
    output = OutputCount(counter)
    for piece in pieces_of(text, cuts):
        output.add(piece)
    assert near(output.tokens, whole_count(counter, text))
    assert output.tokens == output.tokens


@pytest.mark.parametrize("size", [1, 3, 17, 2047, 2049, 60_000])
@pytest.mark.parametrize("text", [PROSE * 300, *(ugly * (60_000 // len(ugly)) for ugly in UGLY)])
def test_an_answer_of_any_kind_is_counted_by_pieces_of_any_size(text, size):
    output = OutputCount(GPT)
    for start in range(0, len(text), size):
        output.add(text[start : start + size])
    assert near(output.tokens, whole_count(GPT, text))


@given(st.lists(WORDS, max_size=300), st.lists(st.booleans(), max_size=300))
def test_reading_the_count_does_not_change_it(pieces, asked):
    output, other = OutputCount(GPT), OutputCount(GPT)
    text = ""
    for number, piece in enumerate(pieces):
        output.add(piece)
        other.add(piece)
        text += piece
        if number < len(asked) and asked[number]:
            assert near(output.tokens, GPT.count(text))
    assert output.tokens == other.tokens


def test_only_the_last_words_of_an_answer_are_kept():
    output = OutputCount(GPT)
    for _ in range(20_000):
        output.add("")
    assert not output._pending
    for piece in [*["word "] * 20_000, *["xyz"] * 20_000, "x" * 2**20]:
        output.add(piece)
        assert sum(map(len, output._pending)) < 2048


def test_an_answer_is_not_counted_for_every_piece():
    class Counting(Characters):
        times = 0

        def count(self, text):
            self.times += 1
            return super().count(text)

    encoding = Counting()
    output = OutputCount(TokenCounter(encoding))
    for _ in range(10_000):
        output.add("four")
    assert output.tokens == 10_000
    assert encoding.times < 30


def test_frequent_reads_do_not_count_the_same_words_again():
    class Counting(Characters):
        chars = 0

        def count(self, text):
            self.chars += len(text)
            return super().count(text)

    encoding = Counting()
    output = OutputCount(TokenCounter(encoding))
    for _ in range(1000):
        output.add(" four")
        assert output.tokens
    assert encoding.chars <= 2 * len(" four") * 1000


@pytest.mark.parametrize("text", ["x1,", PROSE, '{"a": 1},'])
def test_a_giant_delta_is_sampled_and_the_samples_are_right(text):
    giant = text * (2**20 // len(text))
    assert near(GPT.count(giant), whole_count(GPT, giant))


def request(*parts: Part, role="user", **fields) -> ChatRequest:
    return ChatRequest("m", (Message(role, parts),), **fields)


async def test_a_request_of_text_is_counted_by_openais_rule():
    asked = ChatRequest(
        "m", (Message("system", (Text("2 + 2 = 4"),)), Message("user", (Text("tiktoken is great!"),)))
    )  # fmt: skip
    assert await GPT.count_request(asked) == TokenCount(7 + 6 + 2 * (3 + 1) + 3, exact=True)
    assert await CLAUDE.count_request(asked) == TokenCount(16 + 2 * (3 + 1) + 3, exact=False)


@pytest.mark.parametrize(
    "asked",
    [
        request(Text("hi"), tools=(Tool("weather", "of a city", '{"type":"object"}'),)),
        request(Text("hi"), Image(uri="https://example.com/a.png")),
        request(Text("hi"), Text("ho")),
        request(Text("hi"), response_format=JsonSchemaFormat("s", '{"type":"object"}')),
        request(Text("hi"), provider_options={"verbosity": "low"}),
        request(ToolCall("1", "weather", '{"city":"Oslo"}'), role="assistant"),
        request(ToolResult("1", "rain"), role="tool"),
        request(Reasoning("hm"), role="assistant"),
    ],
)
async def test_a_request_without_a_published_rule_is_an_estimate(asked):
    count = await GPT.count_request(asked)
    assert not count.exact
    assert count.tokens >= 8


async def test_an_image_and_tools_have_their_documented_tokens():
    plain = (await CLAUDE.count_request(request(Text("hi")))).tokens
    image = (await CLAUDE.count_request(request(Text("hi"), Image(data=b"1")))).tokens
    tools = (await CLAUDE.count_request(request(Text("hi"), tools=(Tool("", "", ""),)))).tokens
    assert image - plain == IMAGE_TOKENS
    assert tools - plain == 346


PDF = "application/pdf"
MEDIA = [
    (Document(data=b"1", media_type=PDF), 2000),
    (Document(data=bytes(2**20), media_type=PDF), 16 * 2000),
    (Document(data="東京 weather".encode() * 100, media_type="text/plain"), 350),
    (Document(uri="https://example.com/a.pdf"), 10_000),
    (Audio(bytes(320_000), "audio/wav"), 100),  # 10 s
    (Audio(bytes(160_000), "audio/mpeg"), 100),
    (ToolResult("1", "", parts=(Image(data=b"1"), Image(data=b"2"))), 2 * IMAGE_TOKENS),
    (ToolResult("1", "", parts=(Text("2 + 2 = 4"),)), 7),
]


@pytest.mark.parametrize(("part", "tokens"), MEDIA)
async def test_documents_sound_and_parts_of_results_are_estimated(part, tokens):
    plain = await GPT.count_request(request(Text("hi")))
    more = await GPT.count_request(request(Text("hi"), part))
    assert (more.tokens - plain.tokens, more.exact) == (tokens, False)
    assert estimate_input_tokens(request(part)) > 0


async def test_the_count_of_a_published_example_with_a_tool_is_close():
    """403 tokens: https://platform.claude.com/docs/en/build-with-claude/token-counting"""
    schema = '{"type":"object","properties":{"location":{"type":"string","description":"The city and state, e.g. San Francisco, CA"}},"required":["location"]}'
    tool = Tool("get_weather", "Get the current weather in a given location", schema)
    asked = request(Text("What's the weather like in San Francisco?"), tools=(tool,))
    assert (await CLAUDE.count_request(asked)).tokens == pytest.approx(403, rel=0.1)


@given(st.lists(TEXT, max_size=5))
def test_an_estimate_without_a_tokenizer_is_four_characters_a_token(texts):
    asked = request(*map(Text, texts))
    chars = sum(map(len, texts))
    assert estimate_input_tokens(asked) == -(-chars // 4)
    assert estimate_input_tokens(request(Image(data=b"1"))) == IMAGE_TOKENS


@pytest.mark.parametrize("text", [PROSE, *UGLY])
async def test_a_long_text_is_counted_without_blocking_the_loop(text):
    """Measure the tokenizer's own time, so that other load on the machine does not count."""
    million = text * (10**6 // len(text))
    asked = request(Text(million))
    longest = 0.0
    ticks = 0

    async def tick():
        nonlocal longest, ticks
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    long = await GPT.count_long(million)
    counted = await GPT.count_request(asked)
    await asyncio.sleep(0)
    ticking.cancel()
    assert counted.tokens == long + 3 + 1 + 3
    assert longest < 0.02
    assert ticks >= 2 * len(million) // MAX_STEP_CHARS


async def test_beyond_a_million_characters_a_request_is_sampled_and_marked():
    class Counting(Characters):
        chars = 0

        def count(self, text):
            self.chars += len(text)
            return super().count(text)

    encoding = Counting()
    counter = TokenCounter(encoding, exact=True, counts_requests=True)
    long = Message("user", (Text("four" * 2**17),))
    within = await counter.count_request(ChatRequest("m", (long, long)))
    assert within == TokenCount(2 * 2**17 + 2 * 4 + 3, exact=True)
    assert encoding.chars == MAX_COUNTED_CHARS
    past = await counter.count_request(ChatRequest("m", (long,) * 16))
    assert past == TokenCount(16 * 2**17 + 16 * 4 + 3, exact=False)
    assert encoding.chars < 2.3 * MAX_COUNTED_CHARS


@pytest.mark.parametrize("text", [PROSE, *UGLY])
def test_counting_takes_linear_time(text):
    short, long = text * (100_000 // len(text)), text * (800_000 // len(text))
    least_s = min(timed(lambda: whole_count(GPT, short)) for _ in range(3))
    # The least of three runs: further ones if the first is too slow.
    assert any(timed(lambda: whole_count(GPT, long)) < least_s * 8 * 4 + 0.05 for _ in range(3))


def test_a_thousand_tokens_take_less_than_two_milliseconds():
    text = PROSE
    while GPT.count(text) < 1000:
        text += PROSE
    assert min(timed(lambda: GPT.count(text)) for _ in range(10)) < 0.002


def timed(step) -> float:
    started = time.thread_time()
    step()
    return time.thread_time() - started


@settings(max_examples=scaled(30))
@given(st.text(st.characters(), max_size=200), st.integers(0, 40))
def test_a_long_text_is_cut_where_the_counts_add_up(filler, words):
    """Common text often has a space before a letter, where counts add up exactly."""
    text = (filler + " and so" * (words + 1)) * (2 * MAX_STEP_CHARS // (len(filler) + 7))
    assert near(whole_count(GPT, text), GPT._encoding.count(text.encode("utf-8", "replace").decode()))  # fmt: skip


def test_ordinary_text_is_counted_exactly_in_pieces():
    text = "All happy families are alike; every unhappy family isn't, in 1 way. " * 2000
    assert whole_count(GPT, text) == GPT._encoding.count(text)
