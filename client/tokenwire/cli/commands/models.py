"""`tokenwire models`: the models that the server's configuration names."""

from __future__ import annotations

import sys

from google.protobuf.duration_pb2 import Duration

from tokenwire.v1.model_pb2 import BreakerState, Model, ModelCapability, ModelLatency

from ..connection import Connection
from ..money import usd_text
from ..proto_json import write_json
from ..report import span_text
from ..table import Column, table_lines, write_lines

_COLUMNS = (
    Column("MODEL"),
    Column("PROVIDER"),
    Column("PROVIDER'S NAME"),
    Column("CAPABILITIES"),
    Column("CONTEXT"),
    Column("MAX OUTPUT"),
    Column("$/M IN"),
    Column("$/M OUT"),
    Column("TTFT P50", right=True),
    Column("TTFT P95", right=True),
    Column("TOKENS/S", right=True),
    Column("ERRORS", right=True),
    Column("ATTEMPTS", right=True),
    Column("STATE"),
)
_REPEATED_IN_ID = (1, 2)


async def list_models(connection: Connection, *, timeout_s: float, as_json: bool) -> None:
    """List the models: a table on a terminal, tab-separated lines without a heading elsewhere.

    Raises:
        TokenwireError: the server did not answer.
    """
    async with connection.client() as client:
        models = await client.list_models(timeout=timeout_s)
    if as_json:
        for model in models:
            write_json(model)
    elif sys.stdout.isatty():
        _print_table(models)
    else:
        write_lines(["\t".join(_row(model)) for model in models])
    sys.stdout.flush()


def _print_table(models: list[Model]) -> None:
    """Print the models, without empty columns, and without provider and name if they repeat the ids."""
    rows = [_row(model) for model in models]
    shown = [column for column in range(len(_COLUMNS)) if any(row[column] for row in rows)]
    if all(row[0] == f"{row[1]}/{row[2]}" for row in rows):
        shown = [column for column in shown if column not in _REPEATED_IN_ID]
    write_lines(
        table_lines(
            [_COLUMNS[column] for column in shown],
            [[row[column] for column in shown] for row in rows],
        )
    )


def _row(model: Model) -> tuple[str, ...]:
    return (
        model.id,
        model.provider,
        model.provider_model,
        ",".join(_capability_text(capability) for capability in model.capabilities),
        str(model.context_window_tokens) if model.HasField("context_window_tokens") else "",
        str(model.max_output_tokens) if model.HasField("max_output_tokens") else "",
        usd_text(model.prices.input_microusd) if model.HasField("prices") else "",
        usd_text(model.prices.output_microusd) if model.HasField("prices") else "",
        *_latency_cells(model.latency),
        _breaker_text(model.breaker_state),
    )


def _latency_cells(latency: ModelLatency) -> tuple[str, ...]:
    """Return what the server measured in the last minutes. Unknown figures are empty."""
    speed = latency.output_tokens_per_second
    return (
        _ttft_text(latency.ttft_p50) if latency.HasField("ttft_p50") else "",
        _ttft_text(latency.ttft_p95) if latency.HasField("ttft_p95") else "",
        f"{speed:.1f}" if latency.HasField("output_tokens_per_second") else "",
        f"{latency.error_rate:.1%}" if latency.HasField("error_rate") else "",
        str(latency.attempt_count) if latency.attempt_count else "",
    )


def _ttft_text(ttft: Duration) -> str:
    return span_text(ttft.ToTimedelta().total_seconds())


def _breaker_text(state: BreakerState.ValueType) -> str:
    """Return the state of the circuit breaker, or nothing if requests are sent."""
    if state in (BreakerState.BREAKER_STATE_UNSPECIFIED, BreakerState.BREAKER_STATE_CLOSED):
        return ""
    try:
        return BreakerState.Name(state).removeprefix("BREAKER_STATE_").lower().replace("_", "-")
    except ValueError:
        return str(state)  # of a newer server


def _capability_text(capability: ModelCapability.ValueType) -> str:
    try:
        return ModelCapability.Name(capability).removeprefix("MODEL_CAPABILITY_").lower()
    except ValueError:
        return str(capability)  # of a newer server
