"""Serve the built-in demo over gRPC, and over HTTP with the playground, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

BIN = Path(sys.executable).parent
STOP_S = 15


def main() -> int:
    """Run both processes until one of them ends, or this one gets a signal. Return the exit code."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server_options = sys.argv[1:2] or ["127.0.0.1:50051"]
    edge_options = sys.argv[2:3] or ["127.0.0.1:8080"]
    with ExitStack() as stack:
        try:
            server, address = start(
                stack, environ, "tokenwire-server", "serve", "--demo", "--listen", *server_options
            )
            edge, _ = start(
                stack,
                environ,
                "tokenwire-edge",
                *("serve", "--target", address, "--listen", *edge_options),
            )
            while server.poll() is None and edge.poll() is None:
                time.sleep(0.2)
        except KeyboardInterrupt:
            return 0
        except ChildProcessError:  # it has printed the reason
            return 1
        name = "tokenwire-edge" if server.returncode is None else "tokenwire-server"
        print(f"{name} has ended, so both are stopped", file=sys.stderr)
        return 1


def start(
    stack: ExitStack, environ: dict[str, str], program: str, *arguments: str
) -> tuple[subprocess.Popen[str], str]:
    """Start a program. Return it and its address once it is ready. `stack` stops it."""
    process = subprocess.Popen(
        [BIN / program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
        start_new_session=True,  # Ctrl-C reaches this process only, which stops both
    )
    stack.callback(stop, process)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ChildProcessError(program)
    print(line, end="", flush=True)
    return process, line.split()[-1]


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a process. At SIGTERM, it would first wait for load balancers to notice it."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
