"""Serve the built-in demo on a free port, stream one chat through it, and stop it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
PROMPT = "What is Tokenwire?"
MODEL = "anthropic/demo"
STOP_S = 10


def main() -> int:
    """Serve and chat. Return the exit code of the first command that failed, or 0."""
    serve = [str(BIN / "tokenwire-server"), "serve", "--demo", "--listen", "127.0.0.1:0"]
    print(f"+ tokenwire-server {' '.join(serve[1:])}", flush=True)
    # Settings of this shell, such as a key or a database, belong to other servers.
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")
    }
    environ |= {"TOKENWIRE_LOG_LEVEL": "WARNING"}
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=environ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                return server.wait()
            print(line, end="")
            address = line.split()[-1]
            chat = [str(BIN / "tokenwire"), "chat", PROMPT, "--model", MODEL, "--target", address]
            print(f'+ tokenwire chat "{PROMPT}" --model {MODEL} --target {address}', flush=True)
            return subprocess.call(chat, env=environ, stdin=subprocess.DEVNULL)
        except KeyboardInterrupt:
            return 130
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(STOP_S)


if __name__ == "__main__":
    sys.exit(main())
