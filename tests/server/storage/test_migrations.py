"""The revisions of the schema only add to it: servers of the release before use it at the same time."""

import io
import re

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from tokenwire_server.storage import schema

CONSTANT = r"(?:'[^']*'|-?\d+(?:\.\d+)?|true|false)"
"""A default with which PostgreSQL adds a column without rewriting the table."""
ADDS_COLUMN = re.compile(
    r"ALTER TABLE \w+ ADD COLUMN \w+ [A-Z]+(?: PRECISION)?(?:\(\d+\))?"
    rf"(?: DEFAULT {CONSTANT}(?: NOT NULL)?)?"
)
OF_TABLE = re.compile(
    r"(?:CREATE TABLE|CREATE (?:UNIQUE )?INDEX \w+ ON|INSERT INTO) (?P<table>\w+) .*", re.DOTALL
)


def scripts():
    config = Config()
    config.set_main_option("script_location", schema.MIGRATIONS)
    return list(reversed(list(ScriptDirectory.from_config(config).walk_revisions())))


def statements(upgrade):
    """Return the statements that a revision runs on PostgreSQL."""
    text = io.StringIO()
    options = {"as_sql": True, "literal_binds": True, "output_buffer": text}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with Operations.context(context):
        upgrade()
    return [each.strip() for each in text.getvalue().split(";\n") if each.strip()]


def not_additive(upgrade):
    """Return the statements of a revision that do not only add to the schema.

    A revision may create tables, with their indexes and rows. To tables that exist it may add columns that
    are null, or have a constant default. All else breaks the statements of a server of the release before, or
    keeps the lock of a table while it reads or writes each row.
    """
    created, found = set(), []
    for statement in statements(upgrade):
        creates = statement.startswith("CREATE TABLE")
        match = OF_TABLE.fullmatch(statement)
        if match is not None and (creates or match["table"] in created):
            created.add(match["table"])
        elif ADDS_COLUMN.fullmatch(statement) is None:
            found.append(statement)
    return found


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.revision)
def test_a_revision_only_adds_to_the_schema(script):
    assert statements(script.module.upgrade)
    assert not_additive(script.module.upgrade) == []


def test_each_revision_can_be_used_by_the_releases_before_it(monkeypatch):
    revisions = schema.REVISIONS
    for number in range(1, len(revisions)):
        monkeypatch.setattr(schema, "REVISIONS", revisions[:number])
        assert all(map(schema.is_newer, revisions[number:]))
        assert not any(map(schema.is_newer, revisions[:number]))


RECORDS = "tokenwire_usage_records"


@pytest.mark.parametrize(
    "change",
    [
        lambda op: op.drop_column(RECORDS, "labels"),
        lambda op: op.drop_table(RECORDS),
        lambda op: op.rename_table(RECORDS, "tokenwire_records"),
        lambda op: op.alter_column(RECORDS, "labels", new_column_name="tags"),
        lambda op: op.alter_column(RECORDS, "attempts", type_=sa.BigInteger),
        lambda op: op.alter_column(RECORDS, "ttft_s", nullable=False),
        lambda op: op.add_column(RECORDS, sa.Column("region", sa.String, nullable=False)),
        lambda op: op.add_column(RECORDS, sa.Column("region", sa.String, unique=True)),
        lambda op: op.add_column(
            RECORDS,
            sa.Column("made", sa.Double, nullable=False, server_default=sa.text("random()")),
        ),
        lambda op: op.create_index("ix_region", RECORDS, ["model"]),
        lambda op: op.create_index("ix_region", RECORDS, ["model"], unique=True),
        lambda op: op.create_check_constraint("positive", RECORDS, sa.text("attempts > 0")),
        lambda op: op.execute(f"UPDATE {RECORDS} SET own_key = false"),
        lambda op: op.bulk_insert(
            sa.table(RECORDS, sa.column("stream_id", sa.String)), [{"stream_id": "x"}]
        ),
    ],
)
def test_a_change_that_is_not_additive_is_found(change):
    from alembic import op

    assert not_additive(lambda: change(op))


@pytest.mark.parametrize(
    "change",
    [
        lambda op: op.add_column(RECORDS, sa.Column("region", sa.String)),
        lambda op: op.add_column(RECORDS, sa.Column("score", sa.Double)),
        lambda op: op.add_column(
            RECORDS, sa.Column("region", sa.String, nullable=False, server_default="eu")
        ),
        lambda op: op.add_column(
            RECORDS, sa.Column("weight", sa.Integer, nullable=False, server_default="1")
        ),
    ],
)
def test_a_change_that_is_additive_is_accepted(change):
    from alembic import op

    assert not_additive(lambda: change(op)) == []
