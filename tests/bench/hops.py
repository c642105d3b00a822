"""Instructions that each step of a token's path takes, compared with a budget.

    python tests/bench/hops.py [--write-budgets] [HOP ...]

Unlike CPU time, the number of instructions is nearly the same in each run, also on a busy machine. Valgrind
counts them. They depend on the build of Python and on the libraries, so a budget is a multiple of the
instructions of a reference loop, which are counted in the same run. `hop_loops` has the hops, and `hop_floors`
the least that they could take.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from callers import Unmeasurable
from plan import FULL, HOP_LIMIT_OF_BUDGET, Bar

HERE = Path(__file__).parent
BUDGETS = HERE / "hop_budgets.json"
RUN_LIMIT_S = 300
FLOOR = " floor"
"""What follows the name of a hop where its floor is counted."""
PYTHON = f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}"
"""What budgets are for."""


class Hops(msgspec.Struct, frozen=True):
    """The hops that were measured."""

    reference: float
    """Instructions of one pass of the reference loop."""
    instructions: dict[str, float]
    """Instructions per token, by hop."""
    floors: dict[str, float]
    """Instructions per token of the floors, by hop."""
    budgets: dict[str, float]
    """The budgets of hops, as multiples of the reference. Empty if there are none for this Python."""

    def budget(self, hop: str) -> float | None:
        """Return the budget of a hop in instructions of this run. None: it has none."""
        ratio = self.budgets.get(hop)
        return None if ratio is None else ratio * self.reference

    @property
    def bars(self) -> list[Bar]:
        """Return a bar for each hop that has a budget."""
        return [
            Bar(
                f"hop_{hop}",
                f"hop {hop}: instructions per token",
                count,
                HOP_LIMIT_OF_BUDGET * budget,
                "instr",
            )
            for hop, count in self.instructions.items()
            if (budget := self.budget(hop)) is not None
        ]


def count_hops(tokens: int, say: Callable[[str], None], names: Sequence[str] = ()) -> Hops:
    """Count the instructions of hops, by default of all. Raises Unmeasurable if valgrind is missing or fails."""
    say(f"instructions of each hop, {tokens} tokens")
    instructions = _instructions(tokens, names)
    reference = instructions.pop("reference")
    floors = {
        name.removesuffix(FLOOR): instructions.pop(name)
        for name in list(instructions)
        if name.endswith(FLOOR)
    }
    return Hops(reference, instructions, floors, _all_budgets().get(PYTHON, {}))


def hop_lines(results: Hops) -> list[str]:
    """Return the figures as lines of text."""
    lines = [
        f"instructions per token of each hop (one pass of the reference: {results.reference:,.0f})"
    ]
    for hop, count in results.instructions.items():
        budget = results.budget(hop)
        compared = "no budget" if budget is None else f"{count / budget - 1:+.1%} of {budget:,.0f}"
        floor = f"   floor {results.floors[hop]:,.0f}" if hop in results.floors else ""
        lines.append(f"  {hop:20}{count:>9,.0f}   {compared:16}{floor}")
    if not results.budgets:
        lines.append(f"There are no budgets for {PYTHON}: --write-budgets writes them.")
    return [*lines, ""]


def write_budgets(results: Hops, kept: Mapping[str, float]) -> None:
    """Make the measured figures the budgets for this Python, and keep others."""
    measured = {hop: round(n / results.reference, 4) for hop, n in results.instructions.items()}
    budgets = _all_budgets() | {PYTHON: {**kept, **measured}}
    BUDGETS.write_bytes(msgspec.json.format(msgspec.json.encode(budgets)) + b"\n")


def _all_budgets() -> dict[str, dict[str, float]]:
    return msgspec.json.decode(BUDGETS.read_bytes(), type=dict[str, dict[str, float]])


def _instructions(tokens: int, names: Sequence[str]) -> dict[str, float]:
    """Return the instructions per token of hops and of the reference.

    Each hop is run twice, with so many tokens and with twice as many. The difference is free of what is done
    only once: imports, compiling patterns, and the first passes, which the interpreter specializes.
    """
    if shutil.which("valgrind") is None:
        raise Unmeasurable("valgrind is not installed: `make tools` installs it")
    # A random seed would change the collisions in dictionaries, and with them the number of instructions.
    env = os.environ | {"PYTHONHASHSEED": "0"}
    env.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # all modules would be compiled again, at 50 times the cost
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind",
            # Without the simulation of caches it takes half the time of callgrind.
            *("--tool=cachegrind", "--cache-sim=no"),
            *(f"--cachegrind-out-file={folder}/%p", f"--log-file={folder}/log"),
            *(sys.executable, str(HERE / "hop_runs.py"), str(tokens), *names),
        ]
        try:
            run = subprocess.run(command, env=env, capture_output=True, timeout=RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Unmeasurable(f"the hops took longer than {RUN_LIMIT_S} s") from None
        if run.returncode != 0:
            raise Unmeasurable(f"the hops failed: {run.stderr.decode()}")
        pids = msgspec.json.decode(run.stdout, type=dict[str, tuple[int, int]])
        return {
            hop: (_total(Path(folder, str(twice))) - _total(Path(folder, str(once)))) / tokens
            for hop, (once, twice) in pids.items()
        }


def _total(path: Path) -> int:
    """Return the number of instructions of a process, from the file that cachegrind wrote."""
    found = re.search(r"^summary: (\d+)", path.read_text(), re.MULTILINE)
    if found is None:
        raise Unmeasurable("valgrind counted no instructions")
    return int(found[1])


def main() -> int:
    """Count, and print or write. Return 1 if a budget is exceeded, or 2 if the measurement failed."""
    parser = argparse.ArgumentParser(prog="hops", description=__doc__.partition("\n")[0])
    parser.add_argument("hops", nargs="*", metavar="HOP", help="hops to count (default: all)")
    parser.add_argument(
        "--write-budgets", action="store_true", help="make the counted figures the budgets"
    )
    arguments = parser.parse_args()
    try:
        results = count_hops(FULL.hop_tokens, lambda _: None, arguments.hops)
    except Unmeasurable as error:
        print(f"could not measure: {error}", file=sys.stderr)
        return 2
    print("\n".join(hop_lines(results)))
    if arguments.write_budgets:
        write_budgets(results, kept=results.budgets if arguments.hops else {})
        return 0
    return 0 if all(bar.met for bar in results.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
