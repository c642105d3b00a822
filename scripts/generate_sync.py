"""Generate the client for threads, `sync/`, from the asyncio client, `aio/`.

Both clients differ only in `await`. Their I/O is in `transport.py`, and the concurrency of tools in
`tool_calls.py`: each client has its own version of these, written by hand.
`generate_sync.py` writes the files, `generate_sync.py --check` fails if they are not up to date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "client" / "tokenwire"
MODULES = (
    "chat_methods",
    "chat_stream",
    "client",
    "conversation",
    "lookup_methods",
    "tool_run",
)
HEADER = "# Generated from {source} by scripts/generate_sync.py. Do not edit.\n"

RULES = [
    (r"\basync (?=def|for|with)", ""),
    (r"\bawait ", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bAbstractAsync(?=[A-Z])", "Abstract"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bStopAsync(?=Iteration)", "Stop"),
    (r"\banext\(", "next("),
    (r"\b__a(?=(enter|exit|iter|next)__)", "__"),
    (r"\basyncio\.Event\b", "threading.Event"),
    (r"`async with`", "`with`"),
    (r"^import asyncio$", "import threading"),
]
TEXTS = {  # sentences that are true of one client only; each has to occur
    "The asyncio client.": "The client for threads.",
    "of the asyncio client that look": "of the client for threads that look",
    "of the asyncio client that send": "of the client for threads that send",
    "A conversation, with asyncio.": "A conversation, without asyncio.",
    "One stream, read with asyncio.": "One stream, read by a thread.",
    "for one event loop.": "for any number of threads.",
    "\n        Cancelling the awaiting task cancels the call.\n": "",
    "A run with tools, read with asyncio.": "A run with tools, read by a thread.",
    "ends the request and cancels the running tools. It waits for them for at most\n    3 seconds. A function"
    " that is not a coroutine function runs in a thread. Threads cannot be cancelled:\n    after a time"
    " limit or a cancellation it keeps running, and its result is ignored.\n": (
        "ends the request. It waits for running tools for at most 3 seconds. Each\n    tool runs in a thread."
        " Threads cannot be cancelled: after a time limit, or if it takes longer, a tool\n    keeps running,"
        " and its result is ignored.\n"
    ),
    "    Cancelling the task that reads does the same. `asyncio.CancelledError` passes through.\n": (
        "    `cancel()` can be called by another thread.\n"
    ),
    "    Cancelling the task that reads cancels the call. `asyncio.CancelledError` passes through.\n": (
        "    `cancel()` can be called by another thread.\n"
    ),
    " The client makes this call even if the reading task is cancelled.": "",
    " If it is cancelled before that, the\n        connection may stay open: call it again.": "",
}


def generated(source: str) -> str:
    """Return the code for threads."""
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    for text, replacement in TEXTS.items():
        source = source.replace(text, replacement)
    for command in (
        ["check", "--select=I,UP028", "--fix", "--unsafe-fixes", "--quiet"],
        ["format"],
    ):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename=client/sync.py", "-"]
        source = subprocess.run(
            ruff, input=source, capture_output=True, text=True, check=True
        ).stdout
    return source


def main() -> int:
    sources = {name: (PACKAGE / "aio" / f"{name}.py").read_text() for name in MODULES}
    unused = [text for text in TEXTS if not any(text in source for source in sources.values())]
    if unused:
        print(f"these texts do not occur in aio/: {unused}", file=sys.stderr)
        return 1
    stale = []
    for name, source in sources.items():
        path = PACKAGE / "sync" / f"{name}.py"
        code = HEADER.format(source=f"aio/{name}.py") + generated(source)
        if not path.exists() or path.read_text() != code:
            stale.append(path.relative_to(PACKAGE))
            if "--check" not in sys.argv:
                path.write_text(code)
    if stale and "--check" in sys.argv:
        print(f"stale: {', '.join(map(str, stale))}; run make sync", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
