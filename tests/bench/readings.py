"""Data of running processes from the kernel: CPU time, memory, machine. Linux only."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

_PAGE_BYTES = 4096
_TICKS_PER_SECOND = 100


def family(pid: int) -> list[int]:
    """Return the process and all its descendants."""
    members = [pid]
    for parent in members:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            # A thread may end meanwhile; its children then belong to another thread.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                members.extend(int(child) for child in children.read_text().split())
    return members


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process and its living descendants, in seconds.

    Read from the process's CPU clock, which has a resolution of nanoseconds. The 10 ms ticks of
    /proc/PID/stat are too coarse for one stream. The clock's id is computed as in clock_getcpuclockid(3).
    """
    return sum(time.clock_gettime((~member << 3) | 2) for member in family(pid))


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants."""
    return sum(
        int(Path(f"/proc/{member}/statm").read_text().split()[1]) * _PAGE_BYTES
        for member in family(pid)
    )


def machine_busy_s() -> float:
    """Return the core-seconds for which the whole machine was busy, in steps of 10 ms."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[1:8])
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
