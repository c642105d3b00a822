"""The extrapolation to a million streams, on made-up results of the benchmark."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from server_process import Forked, stop

RUN_LIMIT_S = 120


@pytest.mark.process
def test_each_stage_carries_more_streams_and_names_its_first_bottleneck(tmp_path: Path) -> None:
    bars = {"stream_kib": 58.0, "log_entry_bytes": 117.0, "wire_bytes": 26.4}
    pair = {
        name: {"cpu_us_per_token": {"target": us}}
        for name, us in (("without", 60.0), ("having", 70.0))
    }
    results = tmp_path / "bench.json"
    results.write_text(
        json.dumps(
            {
                "bars": [{"key": key, "measured": value} for key, value in bars.items()],
                "shared": {"pairs": [pair]},
            }
        )
    )
    with (tmp_path / "log").open("w+") as log:
        arguments = (str(results), "--streams", "20")
        program = Path(__file__).with_name("scale.py")
        process = Forked(arguments, dict(os.environ), log, program=program, cwd=tmp_path)
        try:
            with process.stdout as stdout:
                text = stdout.read()
            process.wait(RUN_LIMIT_S)
        finally:
            stop(process)
        log.seek(0)
        assert process.returncode == 0, log.read()
    found = re.findall(r"^ *([\d,]+) streams: (.+); then (.+) -> ", text, re.MULTILINE)
    counts = [int(count.replace(",", "")) for count, _, _ in found]
    assert counts == sorted(counts)
    assert counts[-1] >= 1_000_000
    assert [bottleneck for _, _, bottleneck in found][:3] == [
        "the process's core",
        "the cores of the machine",
        "Redis's core",
    ]
