"""What the patterns that come with Tokenwire find. All values are examples of their issuers' documentation."""

import pytest

from tokenwire_server.content.filters import Rule, compile_rules

FILTERS = {
    name: compile_rules([Rule(name=name, action="redact", ready_made=name, replacement="***")])
    for name in ("card_number", "iban", "email", "api_key")
}


def redacted(name, text):
    whole, pieces = FILTERS[name].new(), FILTERS[name].new()
    output = whole.feed(text) + whole.finish()
    assert "".join(map(pieces.feed, text)) + pieces.finish() == output
    return output


@pytest.mark.parametrize(
    "number",
    [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "3782 822463 10005",
        "5555555555554444",
        "4222222222222",  # 13 digits
        "6304 0000 0000 0000 000",  # 19 digits
        "\uff14111 1111\u00a01111\u200b1111",
    ],
)
def test_card_numbers_are_found(number):
    assert redacted("card_number", f"My card: {number}.") == "My card: ***."
    assert redacted("card_number", number) == "***"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111 1111 1111 1111 123", "*** 123"),  # the security code
        ("12 4111 1111 1111 1111", "12 ***"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("41111111111111111111111", "41111111111111111111111"),  # too long
        ("x4111111111111111", "x4111111111111111"),
        ("4111  1111  1111  1111", "4111  1111  1111  1111"),
        ("4111 1111 1111", "4111 1111 1111"),
    ],
)
def test_other_digits_are_not_card_numbers(text, expected):
    assert redacted("card_number", text) == expected


@pytest.mark.parametrize(
    "number",
    [
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "NO9386011117947",
        "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    ],
)
def test_ibans_are_found(number):
    assert redacted("iban", f"To {number}, please") == "To ***, please"
    assert redacted("iban", f"To {number} IN TIME") == "To *** IN TIME"


@pytest.mark.parametrize(
    "text", ["DE89 3704 0044 0532 0130 01", "AB12 CDEF", "XDE89370400440532013000"]
)
def test_other_text_is_no_iban(text):
    assert redacted("iban", text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to bob.b+x@mail.example.org.", "write to ***."),
        ("bob@example.org, eve@example.org", "***, ***"),
        ("bob@ example.org @bob bob@localhost", "bob@ example.org @bob bob@localhost"),
        ("mailto:bob@ex\u00e4mple.org", "mailto:***"),
    ],
)
def test_email_addresses_are_found(text, expected):
    assert redacted("email", text) == expected


@pytest.mark.parametrize(
    "key",
    [
        "sk-" + "a1B2" * 12,
        "sk-proj-" + "a1_2" * 12,
        "sk-ant-api03-" + "a-B2" * 20,
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2_" * 10,
        "xox" + "b-123456789012-abcdef",
        "AIza" + "a1_-B" * 7,
        "sk_live_" + "a1B2" * 6,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_api_keys_are_found(key):
    assert redacted("api_key", f"The key is {key} .") == "The key is *** ."


def test_words_like_keys_are_none():
    text = (
        "Use sk-learn, ask-me, AKIA, ghp_ and the xoxo-theme; eyJ.eyJ -----BEGIN CERTIFICATE-----"
    )
    assert redacted("api_key", text) == text
