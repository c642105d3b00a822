"""Log probabilities of an answer's tokens. They are deterministic: a test can compute them."""

from __future__ import annotations

from typing import Any

from .words import WORDS

MAX_TOP = 20


def logprob(position: int, rank: int = 0) -> float:
    """Return the log probability of the token at a position, or of the alternative with this rank."""
    return -0.125 * (1 + position % 8) - rank


def token_logprob(token: str, position: int, top: int) -> dict[str, Any]:
    """Return the log probabilities of a token, with the `top` most likely ones at its position."""
    likely = [token, *(WORDS[(position + rank) % len(WORDS)] for rank in range(1, top))][:top]
    return {
        **_entry(token, logprob(position)),
        "top_logprobs": [
            _entry(alternative, logprob(position, rank)) for rank, alternative in enumerate(likely)
        ],
    }


def top_count(value: object) -> int:
    """Return the number of alternatives that a request's `top_logprobs` asks for."""
    return min(value, MAX_TOP) if isinstance(value, int) and value > 0 else 0


def _entry(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}
