"""The series that Prometheus has of a server, to check the PromQL of alerts and dashboards against them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
OF_THE_PROCESS = {
    *("process_start_time_seconds", "process_open_fds", "process_max_fds"),
    *("process_cpu_seconds_total", "process_resident_memory_bytes"),
}
"""What the client library of Prometheus adds."""
TARGET_LABELS = {"job", "instance"}
_TABLE_ROW = re.compile(r"^\| `(tokenwire_\w+)` \| (\w+) \|(.*?)\|", re.MULTILINE)
"""A row of the table of metrics. tests/packaging/test_docs.py compares the table with the code."""


def known_series():
    """Return the labels of each series, by its name."""
    series = dict.fromkeys(("up", *OF_THE_PROCESS), TARGET_LABELS)
    for name, kind, cell in _TABLE_ROW.findall((ROOT / "docs" / "operations.md").read_text()):
        labels = TARGET_LABELS | set(re.findall(r"`(\w+)`", cell))
        if kind == "histogram":
            series |= {f"{name}_{part}": labels for part in ("count", "sum")}
            series[f"{name}_bucket"] = labels | {"le"}
        else:
            series[name] = labels
    assert len(series) > 30
    return series


def selectors(promql):
    """Return the selectors of an expression: names of series, and the labels that they match."""
    found = re.findall(r"\b((?:tokenwire|process)_\w+|up)\b(?:\{(.*?)\})?", promql, re.DOTALL)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in found]


def unknown_names(promql, series):
    """Return the series, and the labels that are matched or grouped by, which do not exist."""
    found = selectors(promql)
    assert found, promql
    known = set().union(*(series.get(name, set()) for name, _ in found))
    grouped = {
        label
        for labels in re.findall(r"\bby \(([\w, ]+)\)", promql)
        for label in labels.split(", ")
    }
    unknown = {name for name, _ in found if name not in series} | (grouped - known)
    for name, labels in found:
        unknown |= labels - series.get(name, set())
    return unknown
