"""Content filters of 20 patterns, words and ready-made rules each."""

from __future__ import annotations

_SECRETS = {
    "action": "block",
    "ready_made": ["api_key"],
    "patterns": [
        r"-----BEGIN CERTIFICATE-----",
        r"(?i:password|passphrase)\s*[:=]\s*\S+",
        r"\bpostgres(?:ql)?://[^\s@]+@\S+",
        r"\beyJ[A-Za-z0-9_-]{20,}\b",
    ],
}
_PERSONAL = {
    "action": "redact",
    "ready_made": ["email", "card_number", "iban"],
    "patterns": [
        r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b",
        r"\+[0-9]{1,3}[ -][0-9]{6,12}\b",
        r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b",
        r"\b[A-Z]{2}-[0-9]{6}\b",
        r"\bcustomer (?:number )?[0-9]{5,}\b",
    ],
    "words": [
        "Project Falcon",
        "Alice Example",
        "Blue Harbour",
        "thorn",
        "comet",
        "margin call",
        "Orion",
    ],
    "ignore_case": True,
}
_ABSENT = {
    "action": "redact",
    "ready_made": ["card_number", "iban"],
    "patterns": [
        r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"-----BEGIN [A-Z ]+-----",
        r"\+[0-9]{1,3}[ -][0-9]{6,12}",
        r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}",
        *(rf"\b{letter}[A-Z]-[0-9]{{6}}\b" for letter in "ABCDEF"),
    ],
    "words": ["Falcon", "Alice Example", "Blue Harbour", "Thorn", "Comet", "Margin Call", "Orion"],
}

FILTERS: dict[str, dict[str, object]] = {
    "twenty": {"secrets": _SECRETS, "personal": _PERSONAL},
    "absent": {"absent": _ABSENT},
}
"""The simulator's text contains no match of any of them. `absent`: in it, no match of them begins either."""
