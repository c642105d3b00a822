"""Node, and the packages in `tests/edge/js/package-lock.json`, which only tests use."""

import fcntl
import os
import subprocess
from pathlib import Path

from programs import required_program

FOLDER = Path(__file__).parent / "edge/js"


def installed():
    """Return the folder with the installed packages. Installs them if they are not those of the lock file."""
    npm = required_program("npm")
    lock = FOLDER / "package-lock.json"
    stamp = FOLDER / "node_modules/.installed"
    with lock.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)  # tests run in several processes
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            subprocess.run(
                [npm, "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, timeout=100
            )
            stamp.write_bytes(lock.read_bytes())
    return FOLDER


def run(*arguments, timeout_s=100, exit_codes=(0,)):
    """Run a program of the packages, or `node`, in their folder. Return its stdout."""
    folder = installed()
    path = f"{folder / 'node_modules/.bin'}{os.pathsep}{os.environ['PATH']}"
    completed = subprocess.run(
        arguments,
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert completed.returncode in exit_codes, completed.stdout + completed.stderr
    return completed.stdout
