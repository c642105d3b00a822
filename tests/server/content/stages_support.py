"""Stages without a server: checks run at once, and nothing may fail."""

from tokenwire_server.content.stages import Stages
from tokenwire_server.content.structured.document_check import _encode


def stages_into(append, made):
    """Return stages whose entries `append` takes."""
    return Stages(made, append, run_check=run_check, on_fault=fail)


async def run_check(check):
    check.take(_encode(check.schema.violations(check.document)))


def fail(error):
    raise error
