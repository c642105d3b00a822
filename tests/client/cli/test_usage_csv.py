import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.cli.usage.columns import cells, record_columns, summary_columns
from tokenwire.cli.usage.csv_writer import CsvWriter, safe_text
from tokenwire.v1.usage_pb2 import Usage, UsageRecord, UsageSummary

from ..usage_server import record

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    "'=1",
]


def written(columns, *messages):
    out = io.StringIO(newline="")
    CsvWriter(out, tuple(columns)).write(cells(columns, message) for message in messages)
    return out.getvalue()


def rows(columns, *messages):
    return list(csv.DictReader(io.StringIO(written(columns, *messages), newline=""), strict=True))


def flat(descriptor):
    """The names of a record's fields as columns: its usage's stand among its own."""
    for field in descriptor.fields:
        if field.name == "usage":
            yield from flat(field.message_type)
        else:
            yield {"ttft": "ttft_s", "duration": "duration_s"}.get(field.name, field.name)


def test_every_field_of_a_record_is_a_column_and_so_is_the_cost_in_dollars():
    assert set(record_columns()) == {*flat(UsageRecord.DESCRIPTOR), "cost_usd"}


def test_every_field_of_a_sum_is_a_column():
    columns = summary_columns(("day", "model", "label", "key"), "team")

    assert set(columns) == {*flat(UsageSummary.DESCRIPTOR), "label.team", "cost_usd"} - {
        "label_value",
        "server_tool_counts",
        "service_tier",
    }
    assert list(columns)[:4] == ["day", "model", "label.team", "key_prefix"]
    assert not {"day", "model"} & set(summary_columns(("key",), ""))


def test_a_record_is_exact_and_in_utc():
    usage = Usage(
        input_tokens=2**53 + 1,
        output_tokens=2,
        reasoning_tokens=0,
        cache_read_tokens=3,
        cost_microusd=9007199254740993,
        estimated=True,
        long_cache_write_tokens=0,
        server_tool_counts={"web_search": 2, "file_search": 1},
        service_tier="=priority",
    )
    full = record(1, usage=usage, reason="STOP", attempts=2, partial=True, key_prefix="tw_1")
    full.created_time.FromJsonString("2026-07-31T23:59:59.123456789+02:00")
    full.end_time.FromJsonString("2026-07-31T22:00:00.000004Z")
    full.ttft.FromNanoseconds(1_234_567_891)
    full.duration.FromNanoseconds(2_000_003_000)
    full.labels.update({"b": "2", "a": 'grün, "1"'})

    (row,) = rows(record_columns(), full)

    assert row["created_time"] == "2026-07-31T21:59:59.123456Z"
    assert row["end_time"] == "2026-07-31T22:00:00.000004Z"
    assert (row["duration_s"], row["ttft_s"]) == ("2.000003", "1.234567")
    assert row["input_tokens"] == "9007199254740993"
    assert (row["reasoning_tokens"], row["cache_read_tokens"]) == ("0", "3")
    assert (row["cache_write_tokens"], row["long_cache_write_tokens"]) == ("", "0")
    assert row["server_tool_counts"] == '{"file_search": 1, "web_search": 2}'
    assert row["service_tier"] == "'=priority"
    assert (row["cost_usd"], row["cost_microusd"]) == ("9007199254.740993", "9007199254740993")
    assert (row["estimated"], row["partial"], row["from_cache"]) == ("true", "true", "false")
    assert (row["outcome"], row["reason"], row["attempts"]) == ("finished", "STOP", "2")
    assert row["labels"] == '{"a": "grün, \\"1\\"", "b": "2"}'


def test_an_unknown_cost_is_empty_and_a_cost_of_0_is_not():
    unknown, free = Usage(input_tokens=1), Usage(cost_microusd=0)

    first, second = rows(record_columns(), record(1, usage=unknown), record(2, usage=free))

    assert (first["cost_usd"], first["cost_microusd"]) == ("", "")
    assert (first["end_time"], first["duration_s"], first["ttft_s"]) == ("", "", "")
    assert (second["cost_usd"], second["cost_microusd"]) == ("0.000000", "0")


def test_a_newer_servers_outcome_is_its_number():
    assert rows(record_columns(), record(1, outcome=42))[0]["outcome"] == "42"


def test_lines_end_with_crlf_and_the_headings_come_once_even_without_rows():
    out = io.StringIO(newline="")
    columns = summary_columns(("day",), "")
    writer = CsvWriter(out, tuple(columns))
    writer.write(())
    writer.write([cells(columns, UsageSummary(day="2026-07-31", record_count=1))])

    heading, line, rest = out.getvalue().split("\r\n")
    assert heading.startswith("day,record_count,")
    assert line.startswith("2026-07-31,1,0,0,")
    assert (rest, "\n" in heading + line) == ("", False)


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_text_of_a_caller_is_a_formula(formula):
    texts = ["tenant", "key_prefix", "request_id", "model_asked", "provider", "model", "reason"]
    odd = record(1)
    for name in [*texts, "provider_response_id", "stream_id"]:
        setattr(odd, name, formula)
    odd.labels[formula] = formula

    (row,) = rows(record_columns(), odd)
    (group,) = rows(
        summary_columns(("model", "label", "key"), "team"),
        UsageSummary(model=formula, label_value=formula, key_prefix=formula),
    )

    cells = [*row.values(), *group.values()]
    assert not any(cell.startswith(tuple("=+-@\t\r\n＝＋－＠")) for cell in cells)
    assert row["request_id"] == group["label.team"] == f"'{formula}"
    assert json.loads(row["labels"]) == {formula: formula}


@given(st.text())
def test_the_formula_mark_can_be_removed(text):
    cell = safe_text(text)

    assert (cell.removeprefix("'")) == text


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "request_id": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
                "model_asked": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
                "labels": st.dictionaries(
                    st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))
                ),
            }
        ),
        max_size=5,
    )
)
def test_every_record_is_one_row_for_any_texts(fields):
    records = [record(number, **each) for number, each in enumerate(fields)]

    read = rows(record_columns(), *records)

    assert [row["stream_id"] for row in read] == [each.stream_id for each in records]
    for row, each in zip(read, records, strict=True):
        assert row["request_id"].removeprefix("'") == each.request_id
        assert row["model_asked"].removeprefix("'") == each.model_asked
        assert json.loads(row["labels"]) == dict(each.labels)
