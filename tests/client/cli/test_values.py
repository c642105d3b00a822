from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.cli.values import label_value, time_value, usd_value

NOW = datetime(2026, 7, 31, 13, 14, 15, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2026-07-01", datetime(2026, 7, 1, tzinfo=UTC)),
        ("2026-07-01T12:30", datetime(2026, 7, 1, 12, 30, tzinfo=UTC)),
        ("2026-07-01 12:30:01.5", datetime(2026, 7, 1, 12, 30, 1, 500_000, tzinfo=UTC)),
        ("2026-07-01T00:30+02:00", datetime(2026, 6, 30, 22, 30, tzinfo=UTC)),
        ("2026-07-01T00:30Z", datetime(2026, 7, 1, 0, 30, tzinfo=UTC)),
        ("24h", NOW - timedelta(days=1)),
        ("90m", NOW - timedelta(minutes=90)),
        ("30s", NOW - timedelta(seconds=30)),
        ("0d", NOW),
        ("7d", NOW - timedelta(days=7)),
    ],
)
def test_a_time_is_in_utc_and_a_span_is_counted_back_from_now(text, means):
    assert time_value(text, NOW) == means


@given(st.datetimes(timezones=st.just(timezone(timedelta(hours=-3)))))
def test_a_time_with_an_offset_is_converted_to_utc(time):
    try:
        in_utc = time.astimezone(UTC)
    except OverflowError:
        return
    assert time_value(time.isoformat(), NOW) == in_utc


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "7", "7w", "-7d", "999999999d", "2026-13-01", "9999-12-31T23:59-12:00"],
)
def test_a_wrong_time_is_named_with_the_valid_forms(text):
    with pytest.raises(ValueError, match="is not a span before now"):
        time_value(text, NOW)


@given(st.text())
def test_every_text_is_parsed_or_refused_with_a_message(text):
    for read in (lambda: time_value(text, NOW), lambda: usd_value(text), lambda: label_value(text)):
        try:
            read()
        except ValueError as error:
            assert str(error)


def test_a_label_is_a_key_and_a_value():
    assert label_value("team=search=fast") == ("team", "search=fast")
    assert label_value("team=") == ("team", "")
    for wrong in ("team", "=search", ""):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            label_value(wrong)
