"""The server as a later release may be: its stored entries have one more field, or another format."""

import os
import runpy

from tokenwire_server.streamlog import entries


class LaterBatch(entries.Batch, frozen=True, gc=False, array_like=True):
    new: str = "unknown to the release before"


class LaterFacts(entries.StreamFacts, frozen=True, array_like=True):
    new: str = "unknown to the release before"


entries.Batch, entries.StreamFacts = LaterBatch, LaterFacts
if os.environ.get("LATER_FORMAT"):
    entries.FORMAT = int(os.environ["LATER_FORMAT"])
    entries.READ_FORMATS |= {entries.FORMAT}

runpy.run_module("tokenwire_server", run_name="__main__", alter_sys=True)
