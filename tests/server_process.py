"""Real `tokenwire-server` processes.

The imports take most of the time of every start. So servers are forked from a process that has done them, and
that is as single-threaded as one that begins; from there on they run what the command runs.
"""

import asyncio
import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver, reduction, resource_tracker
from pathlib import Path

from tokenwire_server.storage.database import Database

STOP_S = 15

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(["server_preload"])


def start_forkserver():
    """Start the process that is forked, with the folder of these files on its path. Idempotent."""
    path = os.environ.get("PYTHONPATH")
    folder = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = folder if path is None else os.pathsep.join((folder, path))
    try:
        forkserver.ensure_running()
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def forkserver_address():
    """Start the process that is forked. Return its address, or None if others cannot join it."""
    if sys.version_info >= (3, 14):  # they would need a key
        return None
    start_forkserver()
    return forkserver._forkserver._forkserver_address


def join_forkserver(address):
    """Fork from the process that another one has started. It must not end before this one."""
    server = forkserver._forkserver
    server._forkserver_address = address
    server._forkserver_alive_fd = os.open(os.devnull, os.O_WRONLY)  # the other one keeps it alive
    server.ensure_running = forkserver.ensure_running = resource_tracker.ensure_running


@contextmanager
def running(*arguments, env=None, program="tokenwire_server"):
    """A `tokenwire-server` process; yields it and the address it prints once it is ready.

    It has its own database, migrated and without keys, unless `env` names another. A variable that is None
    in `env` is not set. The file `process.log` contains its log while it runs. `program` replaces the server,
    see `Forked`.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("a+") as log:
        environ = _environ()
        if "TOKENWIRE_DATABASE" not in (env or {}):
            environ["TOKENWIRE_DATABASE"] = copy_migrated(Path(folder) / "tokenwire.db")
        environ = {
            name: value for name, value in (environ | (env or {})).items() if value is not None
        }
        process = Forked(arguments, environ, log, program=program)
        process.log = log
        try:
            line = process.stdout.readline()
            if not line:
                process.wait(STOP_S)
                log.seek(0)
                raise AssertionError(f"it did not start: {log.read()}")
            yield process, line.split()[-1].removeprefix("http://")
        finally:
            stop(process)
            process.stdout.close()
            log.seek(0)
            sys.stderr.write(log.read())  # pytest shows it when the test failed


def completed(*arguments, env=None, cwd=None, program="tokenwire_server"):
    """Run a `tokenwire-server` command to its end; return a `subprocess.CompletedProcess`.

    It is forked, as servers are. Warnings are errors, and on stderr. `env` adds to the variables of this
    process, without those of Tokenwire and of the providers. `program` replaces the command, see `Forked`.
    """
    with tempfile.TemporaryFile("a+") as log:
        arguments = tuple(map(str, arguments))
        process = Forked(
            arguments, _environ() | (env or {}), log, cwd=cwd, is_strict=True, program=program
        )
        try:
            with process.stdout:
                stdout = process.stdout.read()
            process.wait(STOP_S)
        finally:
            process.kill()
        log.seek(0)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, log.read())


def copy_migrated(path):
    """Make an SQLite file with the current schema and no rows; return its URL.

    Creating the schema takes a fourth of the CPU of a server's start, so this process creates it once.
    """
    shutil.copy(_migrated_file(), path)
    return f"sqlite:///{path}"


@cache
def _migrated_file():
    folder = tempfile.TemporaryDirectory(prefix="tw-schema-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "tokenwire.db"

    async def migrate():
        async with Database(f"sqlite:///{path}") as database:
            await database.prepare(migrate=True)

    with ThreadPoolExecutor(1) as thread:  # an event loop may be running in this one
        thread.submit(asyncio.run, migrate()).result()
    return path


def stop(process):
    """As an operator stops it; killed, and the test red, when it does not obey."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


class Forked:
    """What a test needs of `subprocess.Popen`, of a process forked from one that has imported all.

    `program` is the name of a package of a command, or the path of a Python file or of a folder with
    `__main__.py`. `log` is its stderr. Its stdout is a pipe, `stdout`, or the descriptor that is given.
    """

    def __init__(
        self,
        arguments,
        environ,
        log,
        *,
        stdout=None,
        cwd=None,
        is_strict=False,
        program="tokenwire_server",
    ):
        start_forkserver()
        self.stdout = None
        if stdout is None:
            ours, theirs = os.pipe()
            self.stdout = os.fdopen(ours)
        else:
            theirs = os.dup(stdout)
        # `daemon`: killed, should this process end without stopping it.
        self._process = _forking.Process(
            target=_run,
            args=(
                *(program, arguments, environ, cwd, is_strict),
                *(_Passed(theirs), _Passed(log.fileno())),
            ),
            daemon=True,
        )
        self._process.start()
        os.close(theirs)
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("tokenwire-server", timeout)
        return self.returncode

    def send_signal(self, number):
        with suppress(ProcessLookupError):  # it has ended, and `poll` may not say so yet
            if self.poll() is None:
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class _Passed:
    """An open file that goes to the process that is forked."""

    def __init__(self, number):
        self._number = number

    def __reduce__(self):
        return _detached, (reduction.DupFd(self._number),)


def _detached(passed):
    return passed.detach()


def _run(program, arguments, environ, cwd, is_strict, stdout, log):
    for number, place in ((stdout, 1), (log, 2)):
        os.dup2(number, place)
        os.close(number)
    # The objects that exist were made for the files of the tests' own process: those may be seekable.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    if is_strict:
        warnings.simplefilter("error")
    if cwd is not None:
        os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None  # found anew, with these variables
    try:
        _run_program(program, arguments)
    finally:
        sys.stdout.flush()  # an error is printed, as at the exit of any Python


def _run_program(program, arguments):
    if isinstance(program, Path):
        sys.argv = [os.fspath(program), *arguments]
        sys.path.insert(0, os.fspath(program if program.is_dir() else program.parent))
        runpy.run_path(os.fspath(program), run_name="__main__")
    else:
        sys.argv = [program.replace("_", "-"), *arguments]
        sys.modules.pop(f"{program}.__main__", None)  # run anew, with these variables
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def _environ():
    """What servers are not told, unless a test says so: keys and settings of whoever runs the tests."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TOKENWIRE_")}
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        environ.pop(key, None)
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling all modules is a third of each start
    environ.pop("PYTHONUNBUFFERED", None)  # operators have buffers
    environ["TOKENWIRE_DRAIN_ACCEPT_S"] = "0"  # no load balancer has to notice that they stop
    environ["TOKENWIRE_OVERLOAD__MAX_LAG_S"] = "0"  # the machine may be busy
    return environ
