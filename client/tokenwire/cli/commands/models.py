"""`tokenwire models`: what the server offers by name."""

from __future__ import annotations

import sys

from tokenwire.v1.model_pb2 import Model, ModelCapability

from ..app import Arguments
from ..money import usd_text
from ..render import print_table, visible, write_json
from .client_for import client_for

_HEADINGS = (
    "MODEL",
    "PROVIDER",
    "ITS NAME THERE",
    "CAN",
    "CONTEXT",
    "MAX OUTPUT",
    "$/M IN",
    "$/M OUT",
)
_REPEATED_IN_ID = (1, 2)


async def list_models(arguments: Arguments) -> None:
    """List the models: a table on a terminal, tab-separated lines without a heading elsewhere.

    Raises:
        TokenwireError: the server did not tell.
    """
    async with client_for(arguments) as client:
        models = await client.list_models(timeout=arguments.timeout_s)
    if arguments.json:
        for model in models:
            write_json(model)
    elif sys.stdout.isatty():
        _print_table(models)
    else:
        sys.stdout.writelines("\t".join(_row(model)) + "\n" for model in models)
        sys.stdout.flush()


def _print_table(models: list[Model]) -> None:
    """Print the models, without empty columns, and without provider and name if they repeat the ids."""
    from rich.table import Table
    from rich.text import Text

    rows = [_row(model) for model in models]
    shown = [column for column in range(len(_HEADINGS)) if any(row[column] for row in rows)]
    if all(row[0] == f"{row[1]}/{row[2]}" for row in rows):
        shown = [column for column in shown if column not in _REPEATED_IN_ID]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in shown:
        table.add_column(_HEADINGS[column])
    for row in rows:
        table.add_row(*(Text(visible(row[column])) for column in shown))
    print_table(table)


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
    )


def _capability_text(capability: ModelCapability.ValueType) -> str:
    try:
        return ModelCapability.Name(capability).removeprefix("MODEL_CAPABILITY_").lower()
    except ValueError:
        return str(capability)  # a newer server's
