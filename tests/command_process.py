"""Real `tokenwire` and `tokenwire-server` commands, forked from a process that has imported what they import.

`command()` returns the first words of a command line for `subprocess`. They start command_launcher.py, which
passes its folder, standard files, arguments and variables to command_preload.py. That forks a process, which
runs the command and exits, without freeing what was imported. The launcher forwards signals to it and
returns its exit code. Use the command itself for tests of imports, of its terminal and of files that are
closed.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

_preloads = []


def command(package="tokenwire.cli"):
    """Return the words before the arguments of a command.

    `package` is that of the command: `tokenwire.cli` or `tokenwire_server`. With `tokenwire` the command runs a
    Python file that uses the client. The first call for each of them starts the process that is forked.
    """
    return _launcher_of(package)


@cache  # on its own: with and without the default argument are two entries
def _launcher_of(package):
    address = f"tokenwire-tests-{package}-{os.getpid()}"
    preload = subprocess.Popen(
        [sys.executable, FOLDER / "command_preload.py", address, package],
        stdin=subprocess.PIPE,  # it exits at the end of this process, which closes the pipe
        stdout=subprocess.PIPE,
        start_new_session=True,  # without a terminal
    )
    assert preload.stdout.readline() == b"ready\n"
    _preloads.append(preload)  # the end of the object would close the pipes
    return [sys.executable, "-I", "-S", os.fspath(FOLDER / "command_launcher.py"), address]
