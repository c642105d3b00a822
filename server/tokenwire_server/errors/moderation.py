"""Errors of moderation services."""

from __future__ import annotations

from .base import TokenwireError


class ModerationUnavailable(TokenwireError):
    """The request could not be checked, and nothing unchecked may be sent to a provider."""

    reason = "MODERATION_UNAVAILABLE"

    def __init__(self, moderation: str, *, retry_after_s: float = 1.0) -> None:
        self.moderation = moderation
        """Its name in the settings."""
        self.retry_after_s = retry_after_s
        super().__init__(f"moderation {moderation!r} could not check the request")

    def facts(self) -> dict[str, str]:
        return {"moderation": self.moderation}


class AnswerUnchecked(TokenwireError):
    """The answer could not be checked, and no unchecked text may be shown. Set `at`."""

    reason = "ANSWER_UNCHECKED"

    def __init__(self, moderation: str) -> None:
        self.moderation = moderation
        """Its name in the settings."""
        super().__init__(f"moderation {moderation!r} could not check the answer")

    def facts(self) -> dict[str, str]:
        return {"moderation": self.moderation}
