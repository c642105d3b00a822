"""Real `tokenwire` commands, forked from a process that has imported what they import.

`command()` returns the first words of a command line for `subprocess`. They start command_launcher.py, which
passes its standard files, arguments and variables to command_preload.py. That forks a process, which runs
the command in the folder of the tests and exits as any Python does. The launcher forwards signals to it and
returns its exit code. Use the command itself for tests of imports, of its terminal and of files that are
closed.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def command():
    """Start the process that is forked. Return the words before the arguments of a command."""
    address = f"tokenwire-tests-{os.getpid()}"
    preload = subprocess.Popen(
        [sys.executable, FOLDER / "command_preload.py", address],
        stdin=subprocess.PIPE,  # it exits at the end of this process, which closes the pipe
        stdout=subprocess.PIPE,
        start_new_session=True,  # without a terminal
    )
    assert preload.stdout.readline() == b"ready\n"
    command.preload = preload  # the end of the object would close the pipes
    return [sys.executable, "-I", "-S", os.fspath(FOLDER / "command_launcher.py"), address]
