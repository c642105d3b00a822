"""Python programs that are forked from this process, so that they import nothing that it has imported.

This is for a process with one thread that has not used gRPC. A fork also starts with this process's heap:
`--tiny` uses it, where limits are wide and starting takes longer than measuring.
"""

from __future__ import annotations

import io
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import IO, NoReturn


class Forked:
    """What the benchmark needs of `subprocess.Popen`. `argv` is [PYTHON, "-m", MODULE, ...] or [PYTHON, FILE, ...].

    A file that is None is /dev/null.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: IO[bytes] | None,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run(argv[1:], (stdin, stdout, stderr), env)
        self._ended = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            ended, _, _ = select.select([self._ended], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._ended)
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _run(
    words: Sequence[str], files: Sequence[IO[bytes] | None], env: Mapping[str, str]
) -> NoReturn:
    """Become the program, and exit with its exit code."""
    code: object = 1
    try:
        for number, file in enumerate(files):
            os.dup2(os.open(os.devnull, os.O_RDWR) if file is None else file.fileno(), number)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)), line_buffering=True
        )
        os.environ.clear()
        os.environ.update(env)
        if words[0] == "-m":
            sys.argv = [words[1], *words[2:]]
            sys.modules.pop(f"{words[1]}.__main__", None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [*words]
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - as Python does at the end of a program
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)
