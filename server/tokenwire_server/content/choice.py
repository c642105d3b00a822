"""Chooses the stages of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ..request import ChatRequest, JsonSchemaFormat
from .filter_set import ConfiguredFilter, FilterSet
from .filter_stage import FilterStage
from .report_stage import ReportStage
from .stages import Stage
from .structured.schema import CompiledSchema, compile_schema
from .structured.schema_graph import SchemaRefused
from .structured.stage import StructuredOutput

MAX_SCHEMA_CHARS = 16 * 1024
"""Longest schema: to compile it takes up to 20 ms of the event loop, usually 5."""
MAX_SCHEMAS = 32
"""Compiled schemas that are kept: callers use the same ones again."""


def stages_of(
    request: ChatRequest, filters: FilterSet, tenant: str, moderations: Sequence[Stage] = ()
) -> list[Stage]:
    """Return the stages for the answer to a request, in order. Usually there are none.

    Filters come first, and then `moderations`: the values of a JSON answer are those of the text that passed.
    """
    stages: list[Stage] = [filter_stage(each) for each in filters.chosen(tenant, request.model)]
    stages += moderations
    wanted = request.response_format
    if isinstance(wanted, JsonSchemaFormat) and wanted.stream_values:
        schema = compiled_schema(wanted.schema_json)
        stages.append(StructuredOutput(schema, fails_if_invalid=wanted.on_invalid == "fail"))
    return stages


def filter_stage(chosen: ConfiguredFilter) -> FilterStage | ReportStage:
    """Return the stage of a filter for one answer."""
    return ReportStage(chosen) if chosen.config.action == "report" else FilterStage(chosen)


@lru_cache(MAX_SCHEMAS)
def compiled_schema(schema_json: str) -> CompiledSchema:
    """Compile a schema of a request, or return it as it was compiled before. Raises SchemaRefused."""
    if len(schema_json) > MAX_SCHEMA_CHARS:
        raise SchemaRefused(f"the schema is longer than {MAX_SCHEMA_CHARS:,} characters")
    return compile_schema(schema_json)
