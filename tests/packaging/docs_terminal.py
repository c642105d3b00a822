"""A terminal that runs commands as a reader does, line by line in one bash, and compares their output."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

COMMAND_S = 100
STOP_S = 15
PROMPT = re.compile(r"(?:\([^)\n]*\) )?<<(\d+)>> ")
CONTROLLED = (
    "import fcntl, os, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp('bash', ['bash', '--noprofile', '--norc', '--noediting', '-i'])"
)


class Terminal:
    """An interactive bash on a pseudo-terminal of 80 columns, as a context manager."""

    def __init__(self, folder, environ):
        self._folder = folder
        self._environ = environ | {"PS1": "<<$?>> ", "PS2": "", "TERM": "dumb"}
        self.shown = ""

    def __enter__(self):
        self._screen, inside = os.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        settings = termios.tcgetattr(inside)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(inside, termios.TCSANOW, settings)
        self._bash = subprocess.Popen(
            [sys.executable, "-c", CONTROLLED],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            cwd=self._folder,
            env=self._environ,
            start_new_session=True,
        )
        os.close(inside)
        self._read_until(PROMPT, 0)
        return self

    def __exit__(self, *_):
        """Close the terminal: bash and its jobs get SIGHUP, as when a window is closed."""
        os.close(self._screen)
        try:
            self._bash.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
            self._bash.wait()

    def run(self, line):
        """Type a line and wait for the prompt; return the exit code and the output before the prompt."""
        began = self.type(line + "\n")
        prompt = self._read_until(PROMPT, began)
        return int(prompt[1]), self.shown[began : prompt.start()]

    def type(self, keys):
        """Type keys; return the position in `shown` where their output begins."""
        began = len(self.shown)
        os.write(self._screen, keys.encode())
        return began

    def wait_for(self, text, began):
        """Wait until this is shown; a job in the background may show it after the prompt."""
        return self._read_until(re.compile(re.escape(text)), began)

    def _read_until(self, pattern, began):
        deadline = time.monotonic() + COMMAND_S
        while not (found := pattern.search(self.shown, began)):
            ready, _, _ = select.select([self._screen], [], [], max(0, deadline - time.monotonic()))
            assert ready, (
                f"{pattern.pattern!r} was not shown in {COMMAND_S} s: {self.shown[began:]}"
            )
            self.shown += os.read(self._screen, 65536).decode(errors="replace").replace("\r", "")
        return found


def varying_hidden(text):
    """Hide what differs between two runs: ids, keys, addresses, times and speeds."""
    for varying in (
        r"\b(?:[0-9a-f]{32}|tw_[0-9a-f]{12}|chatcmpl-[0-9a-f]+)\b",
        r"127\.0\.0\.1:\d+",
        r"\d{4}-\d\d-\d\dT[\d:.]+Z",
        r"\b[\d.]+ ?m?s\b",
        r"[\d.]+ tokens/s",
        r'(?<="output_tokens_per_second": )[\d.]+',
    ):
        text = re.sub(varying, "#", text)
    return text


def is_shown(wanted, real):
    """Return whether the output matches the page: `...` matches any text, and spaces do not count."""
    real = " ".join(varying_hidden(real).split())
    position = 0
    pieces = re.split(r"\[\.\.\.\]|^\.\.\.$", varying_hidden(wanted), flags=re.MULTILINE)
    for piece in (" ".join(piece.split()) for piece in pieces):
        found = real.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return True
