"""What a worker gets from the process that started it, besides the settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What one of several processes that share an address gets."""

    number: int
    """1 for the first worker. A worker that replaces another one has its number."""
    address: str
    """Address to share with the other workers, as HOST:PORT. The port is not 0."""
    database: str
    """URL of the database."""
    migrates: bool
    """Whether it may update the database's schema. Others need it to be up to date."""
    simulator_url: str = ""
    """URL of the simulator that the workers of a demo share."""
