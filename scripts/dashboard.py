"""Write the Grafana dashboard deploy/grafana/tokenwire.json from the panels in dashboard_panels.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashboard_panels import COLUMNS, RECENT, ROWS, Panel

PATH = Path(__file__).parents[1] / "deploy" / "grafana" / "tokenwire.json"

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def main() -> None:
    """Write the dashboard."""
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text())


def text() -> str:
    """Return the dashboard as JSON."""
    return json.dumps(dashboard(), indent=2) + "\n"


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "tokenwire",
        "title": "Tokenwire",
        "tags": ["tokenwire"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    datasource = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }
    provider = _variable("provider", "label_values(tokenwire_streams_total, provider)")
    model = _variable(
        "model", 'label_values(tokenwire_streams_total{provider=~"$provider"}, model)'
    )
    return [datasource, provider, model]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels() -> list[dict[str, Any]]:
    """Return the rows and their panels, from left to right and from top to bottom."""
    found: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        found.append({"type": "row", "title": title, "collapsed": False, "gridPos": place})
        y += 1
        x = height = 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            found.append(_panel(panel) | {"gridPos": place})
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return [panel | {"id": number} for number, panel in enumerate(found, start=1)]


def _panel(panel: Panel) -> dict[str, Any]:
    is_table, is_stat = panel.kind == "table", panel.kind == "stat"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": query.expression,
            "legendFormat": query.legend,
            "instant": is_table,
            "range": not is_table,
            "format": "table" if is_table else "time_series",
        }
        for index, query in enumerate(panel.queries)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if not is_table:
        defaults["min"] = 0
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if panel.is_stacked else 0,
            "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
        }
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": _units() if is_table else []},
    }
    if is_table:
        made["transformations"] = _columns()
    elif is_stat:
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"}
    else:
        made["options"] = {"legend": {"showLegend": True}, "tooltip": {"mode": "multi"}}
    return made


def _columns() -> list[dict[str, Any]]:
    """Return what joins the queries of the table of recent latencies to one row for each model."""
    names = {
        f"Value #{chr(ord('A') + index)}": title for index, (_, title) in enumerate(RECENT)
    } | {"provider": "Provider", "model": "Model"}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
    ]


def _units() -> list[dict[str, Any]]:
    units = {"TTFT p50": "s", "TTFT p95": "s", "Errors": "percentunit"}
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "unit", "value": unit}],
        }
        for name, unit in units.items()
    ]


if __name__ == "__main__":
    main()
