"""Services that check texts: OpenAI's moderations endpoint, and any HTTP service with a small contract."""

from __future__ import annotations

from .moderator import ModerationSet, Moderator, Observe
from .service import ModerationFailed, ModerationService, TextSource, Verdict

__all__ = [
    "ModerationFailed",
    "ModerationService",
    "ModerationSet",
    "Moderator",
    "Observe",
    "TextSource",
    "Verdict",
]
