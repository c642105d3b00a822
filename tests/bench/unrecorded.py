"""The server without its ledger: tokens are not counted with a vocabulary, priced or recorded."""

from __future__ import annotations

import asyncio
import sys

from tokenwire_server import app
from tokenwire_server.__main__ import main
from tokenwire_server.pricing.estimate import rough_estimate
from tokenwire_server.streams.generation import StreamObserver


class NoLedger:
    """A ledger that keeps no records."""

    instance_id = ""

    def __init__(self, *_: object, **__: object) -> None: ...

    def begin(self, record: object) -> None: ...

    close = begin

    async def run(self, open_records: object) -> None:
        await asyncio.Event().wait()

    async def flush(self, timeout_s: float) -> bool:
        return True


class RoughEstimator(app.Estimator):
    """Estimates from the length of a request alone."""

    async def estimate(self, request, route, tenant):
        return rough_estimate(request)


class NoRecords(StreamObserver):
    """Makes no usage records."""

    def __init__(self, sink: object) -> None: ...

    def open_records(self) -> None: ...


app.Ledger, app.Estimator, app.UsageRecorder = NoLedger, RoughEstimator, NoRecords

if __name__ == "__main__":
    sys.exit(main(["serve", "--listen", "127.0.0.1:0"]))
