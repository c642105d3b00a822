"""The plot: the cost of a token, and the time between tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from measure import Results

FLOOR_COLOR, SERVER_COLOR, INK = "#9aa5b1", "#1f6feb", "#24292f"


def save(stem: Path, results: Results, about: dict[str, Any]) -> None:
    """Write STEM.png and STEM.svg."""
    style: Any = {
        "font.size": 9.5,
        "text.color": INK,
        "axes.edgecolor": "#d0d7de",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.hashsalt": "tokenwire",
    }
    with plt.rc_context(style):
        figure, (cost, gaps) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        _cost(cost, results)
        _gaps(gaps, results)
        figure.supxlabel(
            f"{about['cores']} cores of {about['cpu']}, CPython {about['python']}, "
            f"grpcio {about['grpcio']}, commit {about['commit']}",
            fontsize=8,
            color="#57606a",
        )
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        plt.close(figure)


def _cost(axes: Axes, results: Results) -> None:
    floor, server = zip(
        *(r.medians(lambda run: run.cpu_us_per_token["target"]) for r in results.scenarios),
        strict=True,
    )
    rows = range(len(results.scenarios))
    height = 0.36
    lower = axes.barh([y + height / 2 for y in rows], server, height, color=SERVER_COLOR)
    upper = axes.barh([y - height / 2 for y in rows], floor, height, color=FLOOR_COLOR)
    axes.bar_label(upper, [f"{us:.0f}" for us in floor], padding=3)
    axes.bar_label(
        lower,
        [
            f"{us:.0f}  ({result.median(lambda p: p.cpu_ratio):.1f}x)"
            for us, result in zip(server, results.scenarios, strict=True)
        ],
        padding=3,
    )
    axes.set_yticks(list(rows), [result.name for result in results.scenarios])
    axes.invert_yaxis()
    axes.set_xlim(0, max(*server, *floor) * 1.2)
    axes.set_xlabel("microseconds of CPU per token")
    axes.set_title("What a token costs the server", loc="left", fontweight="bold")
    axes.legend([upper, lower], ["floor: bare grpc.aio", "Tokenwire"], frameon=False)


def _gaps(axes: Axes, results: Results) -> None:
    result = results.headline
    for runs, color, label in (
        ([pair.floor for pair in result.pairs], FLOOR_COLOR, "floor: bare grpc.aio"),
        ([pair.server for pair in result.pairs], SERVER_COLOR, "Tokenwire"),
    ):
        for number, run in enumerate(runs):
            quantiles = run.itl_ms_quantiles
            shares = [n / (len(quantiles) - 1) for n in range(len(quantiles))]
            # The maximum of so many gaps depends more on the machine than on the server.
            axes.plot(
                quantiles[:-1],
                [share * 100 for share in shares[:-1]],
                color=color,
                alpha=0.75,
                linewidth=1.6,
                label=label if number == 0 else None,
            )
    axes.axhline(99, color="#d0d7de", linewidth=1, zorder=0)
    axes.annotate("p99", (0.01, 98.5), xycoords=("axes fraction", "data"), va="top")
    axes.set_ylim(0, 101)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds between two tokens")
    axes.set_ylabel("percent of gaps no longer than that")
    axes.set_title(f"How evenly tokens come, {result.name}", loc="left", fontweight="bold")
    axes.legend(frameon=False, loc="center right")
