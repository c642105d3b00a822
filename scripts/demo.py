"""Serve the built-in demo on a free port, stream one chat through it, and stop it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent
PROMPT = "What is Tokenwire?"
MODEL = "anthropic/demo"
STOP_S = 10


def main() -> int:
    serve = [str(BIN / "tokenwire-server"), "serve", "--demo", "--listen", "127.0.0.1:0"]
    print(f"$ tokenwire-server {' '.join(serve[1:])}")
    with tempfile.TemporaryDirectory() as folder:
        return show(serve, f"sqlite:///{folder}/tokenwire.db")


def show(serve: list[str], database: str) -> int:
    """Serve with a database of its own, and chat. The exit code of what failed first, or 0."""
    environ = {"TOKENWIRE_LOG_LEVEL": "WARNING", **os.environ, "TOKENWIRE_DATABASE": database}
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=environ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                return server.wait()
            print(line, end="")
            address = line.split()[-1]
            chat = [str(BIN / "tokenwire"), "chat", PROMPT, "--model", MODEL, "--target", address]
            print(f'$ tokenwire chat "{PROMPT}" --model {MODEL} --target {address}', flush=True)
            return subprocess.call(chat)
        except KeyboardInterrupt:
            return 130
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(STOP_S)


if __name__ == "__main__":
    sys.exit(main())
