"""Other gateways in front of the simulator, each as one process."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import msgspec
from jobs import Target
from processes import HERE, Processes, Running

TOOLS = HERE.parents[1] / ".tools"
INSTALL_LIMIT_S = 600.0
LITELLM_VERSION = "1.108.7"
LITELLM_READY_LIMIT_S = 90.0
PORTKEY = HERE / "portkey"
"""The folder whose package-lock.json pins Portkey's gateway and its dependencies.

`@hono/node-server` is not the newest that the gateway accepts, because streaming fails with 1.14.2 and newer
(https://github.com/Portkey-AI/gateway/issues/1389). The older ones do not support Node.js 24
(https://github.com/Portkey-AI/gateway/issues/1604).
"""

NGINX_CONFIG = """
daemon off;
worker_processes 1;
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  scgi_temp_path {folder}/scgi;
  uwsgi_temp_path {folder}/uwsgi;
  upstream simulator {{ server {simulator}; keepalive 64; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://simulator;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""

LITELLM_CONFIG = """
model_list:
  - model_name: "*"
    litellm_params:
      model: "openai/*"
      api_base: "http://{simulator}/v1"
      api_key: "bench"
litellm_settings:
  telemetry: false
"""


class Peer(msgspec.Struct, frozen=True):
    """A running peer and its description."""

    name: str
    processes: tuple[Running, ...]
    """All processes that serve its callers. Their CPU is added up."""
    target: Target


@contextmanager
def nginx(processes: Processes, simulator: Running, folder: Path) -> Iterator[Peer | None]:
    """Start nginx as a reverse proxy without buffering. Return None if it is not installed."""
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        print("skipped nginx: install it with `apt-get install nginx-light`")
        yield None
        return
    address = _free_address()
    config = folder / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(folder=folder, simulator=simulator.address, address=address)
    )
    argv = [binary, "-p", str(folder), "-c", str(config)]
    with processes.start("nginx", argv, ready=_accepts(address)) as running:
        shown = subprocess.run([binary, "-v"], capture_output=True, text=True).stderr
        yield Peer(shown.strip().rpartition(" ")[2], (running,), Target(address, "sse"))


@contextmanager
def litellm(processes: Processes, simulator: Running, folder: Path) -> Iterator[Peer | None]:
    """Start LiteLLM's proxy with one worker, installed on first use. Return None if that fails."""
    home = TOOLS / "litellm"
    python = str(home / "bin" / "python")
    uv = [sys.executable, "-m", "uv"]
    package = f"litellm[proxy]=={LITELLM_VERSION}"
    if not _install_once(
        home,
        package,
        [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
        [*uv, "pip", "install", "--quiet", "--python", python, package],
    ):
        print(f"skipped LiteLLM: could not install {package} in {home}")
        yield None
        return
    address = _free_address()
    host, _, port = address.partition(":")
    config = folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(simulator=simulator.address))
    key = f"sk-{secrets.token_hex(32)}"  # required to start
    argv = [str(home / "bin" / "litellm"), "--config", str(config), "--host", host, "--port", port]
    with processes.start(
        "litellm",
        argv,
        env={
            "LITELLM_MASTER_KEY": key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        },
        ready=_answers(address, "/health/liveliness"),
        ready_limit_s=LITELLM_READY_LIMIT_S,
    ) as running:
        yield Peer(f"litellm/{LITELLM_VERSION}", (running,), Target(address, "sse", api_key=key))


@contextmanager
def portkey(processes: Processes, simulator: Running) -> Iterator[Peer | None]:
    """Start Portkey's gateway, installed on first use. Return None if that fails.

    It listens on all interfaces: it has no option for the address. It keeps no logs without its page, which
    `--headless` turns off. Requests name their provider.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        print("skipped Portkey: install Node.js and npm")
        yield None
        return
    home = TOOLS / "portkey"
    lock = (PORTKEY / "package-lock.json").read_text()
    shutil.copytree(PORTKEY, home, dirs_exist_ok=True)
    options = ("--loglevel=error", "--no-audit", "--no-fund", "--ignore-scripts", "--engine-strict")
    if not _install_once(home, lock, [npm, "ci", *options, "--prefix", str(home)]):
        print(f"skipped Portkey: `npm ci` failed in {home}")
        yield None
        return
    address = _free_address()
    package = home / "node_modules" / "@portkey-ai" / "gateway"
    port = address.rpartition(":")[2]
    argv = [node, str(package / "build" / "start-server.js"), "--headless", f"--port={port}"]
    with processes.start("portkey", argv, ready=_answers(address, "/")) as running:
        version = msgspec.json.decode((package / "package.json").read_bytes())["version"]
        headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://{simulator.address}/v1",
        }
        target = Target(address, "sse", api_key="bench", headers=headers)
        yield Peer(f"portkey/{version}", (running,), target)


def _install_once(home: Path, pins: str, *commands: list[str]) -> bool:
    """Run the commands that install a program in `home`, unless they have done so with the same `pins`.

    Return False if a command fails.
    """
    stamp = home / ".installed"
    if stamp.exists() and stamp.read_text() == pins:
        return True
    print(f"installing {home.name} in {home}", file=sys.stderr)
    for command in commands:
        try:
            if subprocess.run(command, timeout=INSTALL_LIMIT_S).returncode != 0:
                return False
        except subprocess.TimeoutExpired:
            return False
    stamp.write_text(pins)
    return True


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _accepts(address: str) -> Callable[[], str | None]:
    host, _, port = address.partition(":")

    def ready() -> str | None:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return address
        except OSError:
            return None

    return ready


def _answers(address: str, path: str) -> Callable[[], str | None]:
    def ready() -> str | None:
        try:
            with urlopen(f"http://{address}{path}", timeout=2):
                return address
        except (URLError, OSError):
            return None

    return ready
