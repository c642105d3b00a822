"""Removal of credentials from texts of providers that callers or the log receive. Pure functions.

A text may repeat the key that it refuses, the operator's organization, or an address with a password. What
looks like one is replaced. So are the operator's own secrets, whatever they look like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_MESSAGE_BYTES = 1024
"""Maximum size of a text for callers, in UTF-8."""
MIN_SECRET_CHARS = 6
"""Shorter texts are not taken for secrets: replacing them would damage the text and protect nothing."""
REDACTED = "[redacted]"

_URL_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]{1,512}@")
_SCHEME = re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE)
_NAMED = re.compile(
    r"(\b(?:api|access|secret|auth|subscription)[-_ ]?(?:key|token)(?: provided)?"
    r"(?:[\"']?\s?[=:]\s?[\"']?|\s[\"'`])"
    r"|[?&](?:key|token|password|secret)=)[^\s\"'`&]+",
    re.IGNORECASE,
)
_OWNER = re.compile(
    r"(\b(?:organi[sz]ation|workspace|account|tenant|subscription|project)(?:[-_ ]?id)?"
    r"[\"']?\s?[=:(]?\s?[\"'`(]?)(?=[a-z-]*\d)[\w-]{6,}"
    r"|(\barn:[\w-]*:[\w-]*:[\w-]*:)\d{6,}",
    re.IGNORECASE,
)
"""Ids of the operator's accounts, which only the word before them shows."""
_WORD = re.compile(r"[\w.~+/=*-]{6,}", re.ASCII)
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"[sprk]k-[\w*.-]{3}|[sr]k_(?:live|test)_"  # OpenAI, Anthropic, OpenRouter, DeepSeek, ...
    r"|gsk_|xai-|hf_|nvapi-|pplx-|fw_|csk-|tgp_|r8_|tw_"  # Groq, xAI, Hugging Face, NVIDIA, ..., our own
    r"|AIza|ya29\.|AKIA|ASIA|ABSK|ghp_|github_pat_|glpat-"  # Google, AWS, GitHub, GitLab
    r"|eyJ[\w-]+\."  # JSON web tokens
    r"|org-|org_|proj_|wrkspc_|user-[A-Za-z0-9]{12}|projects?/[\w-]|project_number"  # organizations
    r")"
)
_RANDOM = re.compile(r"[A-Za-z0-9]{32,}")


def public_text(text: str, max_bytes: int = MAX_MESSAGE_BYTES) -> str:
    """Return a provider's text for callers: on one line, bounded, without credentials."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    redacted = redact(" ".join(printable.split()))
    return redacted.encode(errors="replace")[:max_bytes].decode(errors="ignore")


def redact(text: str) -> str:
    """Replace what looks like a key, a token, or the id of an organization or a project."""
    text = _URL_CREDENTIALS.sub(f"{REDACTED}@", text)
    text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    text = _NAMED.sub(rf"\1{REDACTED}", text)
    text = _OWNER.sub(rf"\1\2{REDACTED}", text)
    return _WORD.sub(_redact_word, text)


class Secrets:
    """The operator's own secrets for one provider: its key, and the values of configured headers."""

    def __init__(self, values: Iterable[str]) -> None:
        words = {word for value in values for word in value.split()}
        self._words = sorted(
            (word for word in words if len(word) >= MIN_SECRET_CHARS), key=len, reverse=True
        )

    def remove(self, text: str) -> str:
        """Replace the secrets, and the beginning of one at the end of a text that may have been cut."""
        for word in self._words:
            text = text.replace(word, REDACTED)
        for word in self._words:
            for size in range(min(len(word) - 1, len(text)), MIN_SECRET_CHARS - 1, -1):
                if text.endswith(word[:size]):
                    text = text[:-size] + REDACTED
                    break
        return text


def _redact_word(found: re.Match[str]) -> str:
    word = found[0]
    if _KEY.search(word) or any(_is_random(run) for run in _RANDOM.findall(word)):
        return REDACTED
    return word


def _is_random(run: str) -> bool:
    return any(map(str.isdigit, run)) and any(map(str.isalpha, run))
