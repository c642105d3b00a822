import asyncio
import subprocess
import sys

import pytest

from tokenwire_server.pricing.tokenizers import (
    CLAUDE_PERCENT,
    NEW_CLAUDE_PERCENT,
    Tokenizers,
)
from tokenwire_server.request import ChatRequest, Message, Text

BIRTHDAY = "お誕生日おめでとう"
O200K, CL100K = 8, 9


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    loaded = Tokenizers()
    asyncio.run(loaded.load())
    return loaded


@pytest.mark.parametrize(
    ("model", "tokens", "exact"),
    [
        ("gpt-4o", O200K, True),
        ("gpt-4o-mini-2024-07-18", O200K, True),
        ("ft:gpt-4o-2024-08-06:acme::abc", O200K, True),
        ("chatgpt-4o-latest", O200K, True),
        ("gpt-4.1-nano", O200K, True),
        ("gpt-4.5-preview", O200K, True),
        ("gpt-5", O200K, True),
        ("gpt-5-mini", O200K, True),
        ("GPT-5.1", O200K, True),
        ("o1", O200K, True),
        ("o3-mini", O200K, True),
        ("o4-mini-2025-04-16", O200K, True),
        ("openai/gpt-oss-120b", O200K, True),
        ("gpt-4", CL100K, True),
        ("gpt-4-turbo-2024-04-09", CL100K, True),
        ("gpt-3.5-turbo-0125", CL100K, True),
        ("gpt-35-turbo", CL100K, True),
        ("ft:gpt-3.5-turbo:acme", CL100K, True),
        ("gpt-6-sol", O200K, False),
        ("gpt-5.6-luna", O200K, False),
        ("gpt-j-6b", O200K, False),
        ("demo", O200K, False),
        ("meta-llama/Llama-3.3-70B-Instruct", O200K, False),
        ("o1x", O200K, False),
        ("", O200K, False),
    ],
)
def test_only_a_models_own_tokenizer_is_exact(tokenizers, model, tokens, exact):  # fmt: skip
    counter = tokenizers.counter("openai-chat", model)
    assert (counter.count(BIRTHDAY), counter.exact) == (tokens, exact)


@pytest.mark.parametrize(
    ("model", "percent"),
    [
        ("claude-3-5-sonnet-20241022", CLAUDE_PERCENT),
        ("claude-2.1", CLAUDE_PERCENT),
        ("claude-3-haiku-20240307", CLAUDE_PERCENT),
        ("claude-opus-4-20250514", CLAUDE_PERCENT),
        ("claude-opus-4@20250514", CLAUDE_PERCENT),
        ("claude-opus-4-1", CLAUDE_PERCENT),
        ("claude-sonnet-4-0", CLAUDE_PERCENT),
        ("claude-sonnet-4-5-20250929", CLAUDE_PERCENT),
        ("claude-haiku-4-5", CLAUDE_PERCENT),
        ("claude-opus-4-6", CLAUDE_PERCENT),
        ("anthropic/claude-sonnet-4.5", CLAUDE_PERCENT),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", CLAUDE_PERCENT),
        ("claude-opus-4-7", NEW_CLAUDE_PERCENT),
        ("claude-opus-4-10", NEW_CLAUDE_PERCENT),
        ("anthropic/claude-opus-4.8", NEW_CLAUDE_PERCENT),
        ("claude-sonnet-5", NEW_CLAUDE_PERCENT),
        ("claude-opus-5-5", NEW_CLAUDE_PERCENT),
        ("claude-fable-5", NEW_CLAUDE_PERCENT),
        ("claude-haiku-5-5", NEW_CLAUDE_PERCENT),
    ],
)
def test_claude_is_estimated_by_a_factor(tokenizers, model, percent):
    counter = tokenizers.counter("anthropic", model)
    assert not counter.exact
    assert counter.count("hello" * 100) == percent


@pytest.mark.parametrize(
    ("kind", "model", "exact"),
    [
        ("openai-chat", "gpt-4o", True),
        ("openai-chat", "gpt-4o-2024-08-06", True),
        ("openai-chat", "gpt-3.5-turbo-0125", True),
        ("openai-chat", "gpt-4", True),
        ("openai-chat", "gpt-4o-search-preview", False),
        ("openai-chat", "gpt-5", False),
        ("openai-chat", "o3", False),
        ("openai-responses", "gpt-4o", False),
        ("openai-chat", "llama", False),
        ("anthropic", "claude-opus-4-5", False),
    ],
)
async def test_a_request_is_exact_only_if_the_rule_is_published(tokenizers, kind, model, exact):
    asked = ChatRequest("m", (Message("user", (Text("hi"),)),))
    assert (await tokenizers.counter(kind, model).count_request(asked)).exact == exact


async def test_before_it_is_loaded_a_text_is_estimated_by_its_length():
    counter = Tokenizers().counter("openai-chat", "gpt-4o")
    assert not counter.exact
    assert counter.count("x" * 4000) == 1000
    asked = ChatRequest("m", (Message("user", (Text("x" * 4000),)),))
    assert not (await counter.count_request(asked)).exact


async def test_concurrent_loading_works():
    first, second = Tokenizers(), Tokenizers()
    await asyncio.gather(first.load(), first.load(), second.load())
    assert first.counter("openai-chat", "gpt-4").count(BIRTHDAY) == CL100K
    assert second.counter("openai-chat", "gpt-4o").count(BIRTHDAY) == O200K


@pytest.mark.process
def test_importing_loads_no_encoding_and_loading_only_the_extension():
    script = """
import sys, socket, asyncio
from tokenwire_server.pricing.tokenizers import Tokenizers
assert not any(name.startswith("bpe_openai") for name in sys.modules)
def refuse(*args): raise AssertionError("a connection")
socket.socket.connect = refuse
tokenizers = Tokenizers()
asyncio.run(tokenizers.load())
assert tokenizers.counter("openai-chat", "gpt-4o").exact
assert "bpe_openai" not in sys.modules
import warnings
warnings.simplefilter("ignore")  # of its own
import bpe_openai  # who wants all of it still gets it
assert bpe_openai.get_encoding("o200k_base").encode("hello world") == [24912, 2375]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
