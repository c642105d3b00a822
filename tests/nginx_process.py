"""A real nginx with the configuration in deploy/nginx, on free ports, with its files in a temporary folder."""

import re
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from programs import required_program
from server_process import stop

SHIPPED = Path(__file__).parents[1] / "deploy" / "nginx"
INSTALLED = "/etc/nginx/tokenwire/"
LOGS = "/var/log/nginx/"
READY_S = 15
KINDS = ("edge", "grpc")
TEMPORARY = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    url: str
    tls_url: str | None
    """For browsers, with HTTP/2. None without a certificate."""
    target: str
    """Of gRPC, in plaintext."""
    tls_target: str | None
    """Of gRPC. None without a certificate."""
    folder: Path
    process: subprocess.Popen

    def log(self):
        """Return the access logs and all error logs."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def remove_server(self, server):
        """Remove a server from the upstream of gRPC and reload the configuration, as operators do."""
        path = self.folder / "grpc.conf"
        path.write_text(_replaced(path.read_text(), f"(?m)^    server {re.escape(server)} .*$", ""))
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running_nginx(edges=(), *, servers=(), certificate=None, settings="", replaced=()):
    """Run nginx in front of edges and servers, given by their addresses `host:port`. Yields an Nginx.

    `certificate` is the paths of a certificate and its key; with it, TLS is served too. `settings` are
    further directives of the http block, such as a shorter time-out. `replaced` are directives of the shipped
    files, with what replaces them.
    """
    binary = required_program("nginx")
    with tempfile.TemporaryDirectory(prefix="tw-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers run as another user
        ports = _configure(folder, edges, servers, certificate, settings, dict(replaced))
        main = f"daemon off; pid {folder}/nginx.pid;"
        argv = [
            binary,
            "-p",
            folder,
            "-c",
            folder / "nginx.conf",
            "-e",
            folder / "error.log",
            "-g",
            main,
        ]
        with (folder / "start.log").open("wb") as output:
            process = subprocess.Popen(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        nginx = Nginx(
            f"http://127.0.0.1:{ports[0]}",
            f"https://127.0.0.1:{ports[1]}" if certificate else None,
            f"127.0.0.1:{ports[2]}",
            f"127.0.0.1:{ports[3]}" if certificate else None,
            folder,
            process,
        )
        try:
            give_up = time.monotonic() + READY_S
            while not _accepts(ports[0] if edges else ports[2]):
                assert process.poll() is None, nginx.log()
                assert time.monotonic() < give_up, nginx.log()
                time.sleep(0.02)
            yield nginx
        finally:
            stop(process)


def _configure(folder, edges, servers, certificate, settings, replaced):
    """Write the shipped files with addresses and paths of this run. Return the ports."""
    ports = _free_ports(4)
    names = ("nginx", *(f"{kind}{part}" for kind in KINDS for part in ("", "-tls", "-locations")))
    files = {name: (SHIPPED / f"{name}.conf").read_text() for name in names}
    paths = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in TEMPORARY)
    main = _replaced(files["nginx"], r"(?m)^http \{\n", f"http {{\n{paths}{settings}\n")
    for number, (kind, upstreams) in enumerate(zip(KINDS, (edges, servers), strict=True)):
        plain, tls = ports[2 * number : 2 * number + 2]
        included = {kind: bool(upstreams), f"{kind}-tls": bool(upstreams and certificate)}
        for name, is_included in included.items():
            line = f"include {INSTALLED}{name}.conf;"
            main = _replaced(main, rf"(# )?{line}", line if is_included else "")
        lines = "\n".join(f"    server {each} max_fails=3 fail_timeout=10s;" for each in upstreams)
        site = _replaced(files[kind], r"(?m)^    server 127\.0\.0\.1:\d+ .*$", lines)
        files[kind] = _replaced(site, r"(?m)^    listen \d+", f"    listen 127.0.0.1:{plain}")
        files[f"{kind}-tls"] = _replaced(
            files[f"{kind}-tls"], r"(?m)^    listen \d+ ", f"    listen 127.0.0.1:{tls} "
        )
    files["nginx"] = main
    for old, new in replaced.items():
        assert any(old in text for text in files.values()), old
        files = {name: text.replace(old, new) for name, text in files.items()}
    for name, text in files.items():
        here = text.replace(INSTALLED, f"{folder}/").replace(LOGS, f"{folder}/")
        (folder / f"{name}.conf").write_text(here)
    if certificate:
        for name, path in zip(("cert", "key"), certificate, strict=True):
            (folder / f"{name}.pem").write_bytes(Path(path).read_bytes())
    return ports


def _replaced(text, pattern, new):
    """Replace the one place that matches."""
    text, count = re.subn(pattern, lambda _: new, text)
    assert count == 1, f"deploy/nginx has {count} places like {pattern!r}"
    return text


def _free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _accepts(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
