"""Runs loops over tokens under valgrind, each twice in a forked process. `hops` starts it.

Arguments: the number of tokens of the first run, and the hops, by default all. The second run passes twice as
many. Prints a JSON object with the two process ids of each hop, and of its floor as "HOP floor". A fork has
done the imports already, and valgrind writes the number of instructions of each process to a file of its own.
"""

from __future__ import annotations

import gc
import os
import sys

import msgspec
from hop_floors import FLOORS
from hop_loops import HOPS, Loop


def main() -> None:
    tokens, names = int(sys.argv[1]), sys.argv[2:]
    unknown = set(names) - set(HOPS)
    if unknown:
        sys.exit(f"no such hops: {', '.join(unknown)}; there are {', '.join(HOPS)}")
    gc.disable()  # when it runs would depend on what was imported
    chosen = ["reference", *names] if names else HOPS
    loops = {name: HOPS[name]() for name in chosen}
    loops |= {f"{name} floor": FLOORS[name]() for name in chosen if name in FLOORS}
    pids = {name: [_run(loop, tokens), _run(loop, 2 * tokens)] for name, loop in loops.items()}
    print(msgspec.json.encode(pids).decode())


def _run(loop: Loop, tokens: int) -> int:
    """Run a loop in a forked process, and return the process's id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            loop(tokens)
            status = 0
        except BaseException:  # noqa: BLE001  # the process must end here
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("a loop failed")
    return pid


if __name__ == "__main__":
    main()
