"""The usage of Chat Completions, as different servers report it."""

import msgspec
import pytest

from tokenwire_server.events import Usage
from tokenwire_server.providers.decode.openai_chat.usage import Usage as Reported
from tokenwire_server.providers.decode.openai_chat.usage import latest, usage_figures


def figures(prompt, completion, total, **fields):
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return usage_figures(msgspec.convert({**counts, **fields}, Reported))


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        # Cached tokens within the input, under different names
        (figures(900, 7, 907, cached_tokens=800), Usage(900, 7, None, 800)),
        (figures(900, 7, 907, prompt_cache_hit_tokens=800, prompt_cache_miss_tokens=100), Usage(900, 7, None, 800)),
        (figures(900, 7, 907, cached_tokens=800, prompt_tokens_details={"cached_tokens": 0}), Usage(900, 7, None, 800)),
        (
            figures(
                8040, 23, 8063, cache_creation_input_tokens=8000, cache_read_input_tokens=0,
                prompt_tokens_details={"cached_tokens": 0, "cache_creation_tokens": 8000},
            ),
            Usage(8040, 23, None, 0, 8000),
        ),
        (figures(900, 7, 907, prompt_tokens_details={"cache_write_tokens": 500}), Usage(900, 7, None, None, 500)),
        (figures(900, 7, 907, prompt_tokens_details={"cache_creation_input_tokens": 500}), Usage(900, 7, None, None, 500)),
        (figures(900, 7, 907, cache_creation={"ephemeral_1h_input_tokens": 300}), Usage(900, 7, None, None, 300, 300)),
        # Cached tokens beside the input
        (figures(412, 23, 9435, cache_read_input_tokens=9000, cache_creation_input_tokens=0), Usage(9412, 23, None, 9000, 0)),
        (figures(412, 23, 435, cache_read_input_tokens=9000), Usage(9412, 23, None, 9000)),
        (figures(412, 23, 9535, cache_read_input_tokens=9000, cache_creation_input_tokens=100), Usage(9512, 23, None, 9000, 100)),
        (
            figures(9412, 23, 18475, cache_read_input_tokens=9000, reasoning_tokens=40),
            Usage(18412, 63, 40, 9000),
        ),
        # Reasoning beside the output
        (figures(32, 9, 135, completion_tokens_details={"reasoning_tokens": 94}), Usage(32, 103, 94)),
        (figures(32, 103, 135, reasoning_tokens=94), Usage(32, 103, 94)),
        (figures(32, 9, 135), Usage(32, 103)),
        (figures(900, 9, 1003, cached_tokens=800), Usage(900, 103, None, 800)),
        # Tools that the server ran
        (figures(1, 2, 3, server_tool_use={"web_search_requests": 2, "x_requests": 0}), Usage(1, 2, server_tools=(("web_search", 2),))),
        (
            figures(1, 2, 3, server_tool_use_details={"web_search_requests": 1, "web_fetch_requests": 3, "tool_calls_executed": 4}),
            Usage(1, 2, server_tools=(("web_fetch", 3), ("web_search", 1))),
        ),
        (figures(1, 2, 3, num_search_queries=5), Usage(1, 2, server_tools=(("web_search", 5),))),
        (figures(1, 2, 3, service_tier="priority"), Usage(1, 2, service_tier="priority")),
        # Missing and invalid figures
        (figures(None, 7, 907), Usage(900, 7)),
        (figures(900, 7, 907, cached_tokens=-1), Usage(900, 7)),
        (figures(None, None, 907), None),
        (figures(-1, 7, None), None),
        (figures(1, 2**60, None), None),
    ],
)  # fmt: skip
def test_usage_is_read_in_one_convention(reported, expected):
    assert reported == expected


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        (None, Usage(0, 0), Usage(0, 0)),
        (Usage(50, 1), Usage(50, 7), Usage(50, 7)),
        (Usage(50, 7, 3, 20, 10, 5), Usage(0, 0), Usage(50, 7, 3, 20, 10, 5)),
        (Usage(50, 1, None, 20), Usage(0, 7, 4, 0), Usage(50, 7, 4, 20)),
        (Usage(50, 7, 3), Usage(60, 0, 0), Usage(60, 7, 3)),
        # Groq: the same figures a second time, without details
        (Usage(50, 7, 3, 20, 10, 5), Usage(50, 7), Usage(50, 7, 3, 20, 10, 5)),
        (Usage(50, 7, 3, 20), Usage(50, 7, 0, 0), Usage(50, 7, 0, 0)),
        (
            Usage(5, 1, service_tier="flex", server_tools=(("x", 1),)),
            Usage(5, 2),
            Usage(5, 2, service_tier="flex", server_tools=(("x", 1),)),
        ),
    ],
)
def test_later_figures_replace_earlier_ones_but_zeros_do_not(earlier, later, expected):
    assert latest(earlier, later) == expected
