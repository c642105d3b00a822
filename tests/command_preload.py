"""Forks a command for each connection of command_launcher.py, until stdin is closed.

Arguments: the address, and the package of the command: `tokenwire.cli` or `tokenwire_server`. With the package
`tokenwire`, each process runs a Python file that uses the client.

The forked process returns to the end of this file, so that it runs `main` and exits like the command itself,
except that it does not free what was imported. It has one thread, as a Python that begins.
"""

import os

os.environ["GRPC_VERBOSITY"] = (
    "NONE"  # gRPC reads it once, when it is loaded; the command sets it, too
)

import atexit
import gc
import importlib
import io
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path

MAX_REQUEST_BYTES = 1 << 20
PROGRAMS = {
    "tokenwire": "python",
    "tokenwire.cli": "tokenwire",
    "tokenwire_server": "tokenwire-server",
}


def preload(package):
    if package == "tokenwire_server":
        importlib.import_module("server_preload")
        importlib.import_module("quick_demo")
        return
    folders = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(folders, f"{package}."):
        importlib.import_module(module.name)
    if package == "tokenwire.cli":
        importlib.import_module("built_commands").build(f"{package}.app")
    # A collection in a forked process would copy all objects that it looks at.
    gc.collect()
    gc.freeze()


class Forks:
    """The connections, each with the process that was forked for it."""

    def __init__(self, listener):
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(0, selectors.EVENT_READ, lambda: os._exit(0))
        self._connections = {}
        self._forked = None

    def until_forked(self):
        """Return in each forked process: its request."""
        while self._forked is None:
            for key, _ in self._selector.select():
                key.data()
                if self._forked is not None:
                    break
        return self._forked

    def _accept(self):
        connection, _ = self._listener.accept()
        request, files, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
        pid = os.fork()
        if pid == 0:
            self._become(request, files)
            connection.close()
            return
        for file in files:
            os.close(file)
        ended = os.pidfd_open(pid)
        self._connections[ended] = connection
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._report(pid, ended))
        self._selector.register(
            connection, selectors.EVENT_READ, lambda: self._kill(pid, connection)
        )
        connection.send(str(pid).encode())

    def _become(self, request, files):
        self._selector.close()
        self._listener.close()
        for ended, connection in self._connections.items():
            os.close(ended)
            connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        self._forked = request

    def _report(self, pid, ended):
        _, status = os.waitpid(pid, 0)
        connection = self._connections.pop(ended)
        self._selector.unregister(ended)
        os.close(ended)
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        connection.close()

    def _kill(self, pid, connection):
        """The launcher was killed."""
        self._selector.unregister(connection)
        os.kill(pid, signal.SIGKILL)


def prepare(request, package):
    """Set what the launcher's process had: its folder, arguments, variables and standard files."""
    folder, count, *words = request.split(b"\0")
    arguments, variables = words[: int(count)], words[int(count) :]
    os.chdir(folder)
    sys.argv = [PROGRAMS[package], *map(os.fsdecode, arguments)]
    os.environb.clear()
    os.environb.update(variable.partition(b"=")[::2] for variable in variables)
    if package == "tokenwire_server" and (usual_pace := os.environ.get("USUAL_PACE")):
        importlib.import_module("quick_demo").answer_quickly(Path(usual_pace))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    sys.stdin = _text(0, "r", encoding)
    sys.stdout = _text(1, "w", encoding, line_buffering=os.isatty(1))
    sys.stderr = _text(2, "w", encoding, "backslashreplace", line_buffering=True)


def _text(number, mode, *encoding, **options):
    return io.TextIOWrapper(open(number, f"{mode}b", closefd=False), *encoding, **options)


def main_of(package):
    """Return the command's `main`."""
    if package == "tokenwire_server":
        sys.modules.pop("tokenwire_server.__main__")  # run anew, with these variables
        package = "tokenwire_server.__main__"
    if package == "tokenwire":
        return run_file
    return importlib.import_module(package).main


def run_file():
    """Run the Python file that the first argument names, as `python` does."""
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def end(code):
    """Exit as Python does, except that what was imported is not freed.

    That would copy all the memory that this process shares with others: it takes a server's command 0.14 s of
    CPU. Objects that the command has left are collected, so that they can report what is not closed.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_, address, package = sys.argv
preload(package)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(f"\0{address}")
listener.listen(100)
print("ready", flush=True)
prepare(Forks(listener).until_forked(), package)
end(main_of(package)() or 0)  # after an exception, this process exits as any Python does
