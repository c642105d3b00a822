"""The encoding of each model, and the loading of encodings."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import re
from importlib.machinery import PathFinder
from types import ModuleType

from ..config import ProviderKind
from .tokens import Characters, Encoding, TokenCounter

O200K = "o200k_base"
CL100K = "cl100k_base"

CLAUDE_PERCENT = 120
"""Claude's tokenizer is not public. Compared with o200k, Claude 3.5 has 16 % more tokens in English, 21 %
more in mathematics, and 30 % more in Python:
https://venturebeat.com/ai/hidden-costs-in-ai-deployment-why-claude-models-may-be-20-30-more-expensive-than-gpt-in-enterprise-settings"""
NEW_CLAUDE_PERCENT = 156
"""Claude Opus 4.7 and later models have about 30 % more tokens than older ones in the same text:
https://platform.claude.com/docs/en/build-with-claude/token-counting"""
CLAUDE_TOOLS_TOKENS = 346
"""Tokens of the instructions that Claude 4 gets with any tool:
https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview#pricing"""

# The mapping of tiktoken: https://github.com/openai/tiktoken/blob/main/tiktoken/model.py
_CL100K = re.compile(r"gpt-(?:4|3\.5|35)(?:-|$)")
_O200K = re.compile(r"(?:chatgpt-4o|gpt-4o|gpt-4\.[15]|gpt-5(?:\.1)?|gpt-oss|o1|o3|o4-mini)(?:-|$)")
# Models for which OpenAI's rule for tokens in messages is published. For GPT-5 it is off by one.
_COUNTED = re.compile(r"gpt-(?:3\.5-turbo|35-turbo|4|4-32k|4-turbo|4o|4o-mini)(?:-\d{4}[-\d]*)?$")
_OLD_CLAUDE = re.compile(
    r"claude-(?:instant|v?[123](?!\d)|(?:opus|sonnet|haiku)-4(?:-[0-6](?!\d)|-\d{8}|[@:]|$))"
)

_PACKAGE = "bpe_openai"
_EXTENSION = "bpe_openai._bindings"


class Tokenizers:
    """Token counters for models.

    Models of OpenAI use their own encoding. Claude uses o200k, multiplied by a measured factor. All other
    models, including new ones of OpenAI, use o200k as an estimate.
    """

    def __init__(self) -> None:
        self._encodings: dict[str, Encoding] = {}

    async def load(self) -> None:
        """Load the encodings from the installed package, in a thread. Await it before serving.

        It takes 70 ms and blocks the event loop for most of it, because the extension keeps the GIL. It needs
        50 MB of memory, and 45 MB more that processes share. Until then counts are estimates.
        """
        for name in (O200K, CL100K):
            self._encodings[name] = await asyncio.to_thread(_encoding, name)

    def counter(self, kind: ProviderKind, model: str) -> TokenCounter:
        """Return the counter of a model, by the provider's name for it.

        A vendor before a slash and the suffix of a fine-tuned model are ignored.
        """
        name = model.lower().rpartition("/")[2]
        base = name.removeprefix("ft:").partition(":")[0]
        is_cl100k = _CL100K.match(base) is not None
        encoding = self._encodings.get(CL100K if is_cl100k else O200K)
        if encoding is None:
            return TokenCounter(Characters())
        if is_cl100k or _O200K.match(base):
            counts_requests = kind == "openai-chat" and _COUNTED.match(base) is not None
            return TokenCounter(encoding, exact=True, counts_requests=counts_requests)
        if "claude" in name:
            is_old = _OLD_CLAUDE.search(name.replace(".", "-"))
            return TokenCounter(
                encoding,
                percent=CLAUDE_PERCENT if is_old else NEW_CLAUDE_PERCENT,
                tools_tokens=CLAUDE_TOOLS_TOKENS,
            )
        return TokenCounter(encoding)


@functools.cache
def _encoding(name: str) -> Encoding:
    encoding: Encoding = _extension().tokenizer_for_encoding(name)
    return encoding


def _extension() -> ModuleType:
    """Load the package's extension without the package, whose import takes 0.8 s and 110 MB.

    The package would load all encodings into Python objects, which counting does not need.
    """
    package = importlib.util.find_spec(_PACKAGE)
    spec = package and PathFinder.find_spec(_EXTENSION, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{_EXTENSION} is not installed", name=_EXTENSION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
