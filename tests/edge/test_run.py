"""`make run`: the demo and its playground."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "scripts" / "run.py"


@pytest.mark.usefixtures("interruptible")
def test_one_command_serves_the_demo_and_its_playground_and_ctrl_c_stops_both():
    with subprocess.Popen(
        [sys.executable, RUN, "127.0.0.1:0", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            server, edge = run.stdout.readline(), run.stdout.readline()
            assert server.startswith("tokenwire-server: listening on 127.0.0.1:")
            assert edge.startswith("tokenwire-edge: listening on http://127.0.0.1:")
            url = edge.split()[-1]
            with urllib.request.urlopen(f"{url}/") as page:
                assert "<title>" in page.read().decode()
            body = json.dumps({"model": "anthropic/demo", "prompt": "hello"}).encode()
            chat = urllib.request.Request(
                f"{url}/v1/chat", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(chat) as answer:
                assert json.load(answer)["finished"]["reason"] == "FINISH_REASON_STOP"
        finally:
            os.kill(run.pid, signal.SIGINT)
        assert run.wait(30) == 0
        assert run.stdout.read() == ""
