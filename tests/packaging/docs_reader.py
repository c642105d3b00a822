"""Someone who does what the pages of the documentation say, in a copy of the clone."""

import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

from docs_pages import ROOT
from docs_terminal import is_shown

from command_process import command
from tokenwire.cli.exit_codes import EXIT_INCOMPLETE
from tokenwire_server.ledger.writer import WRITE_EVERY_S

PACED = re.compile(r"python (watch|stop_run)\.py|curl -sN \S+/v1/chat/stream -H")
"""Commands that depend on the pace of the model `demo`. For all others it answers quickly."""
REPEATED = re.compile(r"tokenwire(-server)? usage|curl -sN \S+/v1/chat/stream -H")
"""Commands that are repeated until they show what the page does: the records of streams that have just ended,
which are written within WRITE_EVERY_S, and events of single tokens, which a busy machine joins."""
REPEATED_FOR_S = 20


def copy_of_the_clone(folder):
    """Copy what the commands use, with an environment in which nothing has to be installed."""
    for name in ("LICENSE", "Makefile", "README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    for name in ("client", "protos", "requirements", "scripts", "server"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = folder / ".venv"
    environment.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".ready":
            (environment / path.name).symlink_to(path)
    (environment / ".ready").touch()
    if (ROOT / ".tools").exists():
        (folder / ".tools").symlink_to(ROOT / ".tools")
    return folder


def forked_commands(folder):
    """Make the commands that start in a fraction of the time. Return their folder, for PATH.

    `fragment` runs a Python file. The programs that readers save are run by Python itself.
    """
    programs = folder / "forked"
    programs.mkdir()
    for name, package in (
        ("tokenwire", "tokenwire.cli"),
        ("tokenwire-server", "tokenwire_server"),
        ("fragment", "tokenwire"),
    ):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command(package))} "$@"\n')
        program.chmod(0o755)
    return programs


def environ_of_a_reader(address, edge_address, usual_pace):
    """Return variables with other ports than the defaults, which may be in use, and a PATH without this
    environment. Servers do not wait for load balancers when they stop. See `quick_demo` for `usual_pace`.
    """
    programs = Path(sys.executable).parent
    paths = [path for path in os.environ["PATH"].split(":") if Path(path) != programs]
    foreign = ("TOKENWIRE_", "OPENAI_", "ANTHROPIC_", "VIRTUAL_ENV", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "PATH": ":".join(paths),
        "TOKENWIRE_LISTEN": address,
        "TOKENWIRE_TARGET": address,
        "TOKENWIRE_DRAIN_ACCEPT_S": "0",
        "TOKENWIRE_EDGE_LISTEN": edge_address,
        "TOKENWIRE_EDGE_TARGET": address,
        "TOKENWIRE_EDGE_DRAIN_ACCEPT_S": "0",
        "USUAL_PACE": str(usual_pace),
    }


class Reader:
    """Someone who does what the pages say, in one terminal, and notes what is not as they say."""

    def __init__(self, terminal, folder, usual_pace):
        self._terminal = terminal
        self._folder = folder
        self._usual_pace = usual_pace
        self.mismatches = []

    def save(self, name, text):
        (self._folder / name).write_text(text)

    def run(self, place, line, wanted):
        """Type a command. `wanted` is the output that the page shows."""
        self._usual_pace.touch() if PACED.match(line) else self._usual_pace.unlink(missing_ok=True)
        if re.match(
            r"tokenwire-(server|edge) serve(?!.*&$)", line
        ):  # in the foreground, until Ctrl-C
            began = self._terminal.type(line + "\n")
            self._terminal.wait_for(wanted.strip(), began)
            code, shown = self._terminal.run("\x03")
            wanted = ""
        else:
            began = len(self._terminal.shown)
            code, shown = self._terminal.run(line)
            end = time.monotonic() + REPEATED_FOR_S
            while REPEATED.match(line) and not is_shown(wanted, shown) and time.monotonic() < end:
                time.sleep(WRITE_EVERY_S)
                code, shown = self._terminal.run(line)
        if line.endswith("&"):
            self._terminal.wait_for(wanted.strip(), began)
            return
        fails = re.match(r"ERROR|tokenwire(-server|-edge)?: (?!listening)", wanted) is not None
        is_cut = code == EXIT_INCOMPLETE and "finished: max_tokens" in shown
        if ((code != 0) != fails and not is_cut) or not is_shown(wanted, shown):
            self.mismatches.append(f"{place}: $ {line}\n{shown}(exit code {code}), not\n{wanted}")
