"""A real nginx with the configuration in deploy/nginx, on free ports, with its files in a temporary folder."""

import re
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from programs import required_program
from server_process import stop

SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx"
INSTALLED = "/etc/nginx/tokenwire/"
LOGS = "/var/log/nginx/"
READY_S = 15
TEMPORARY = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    url: str
    tls_url: str | None
    """For browsers, with HTTP/2. None without a certificate."""
    folder: Path

    def log(self):
        """Return the access log of the edge and all error logs."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@contextmanager
def running_nginx(edges, *, certificate=None, settings=""):
    """Run nginx in front of edges, given by their addresses `host:port`. Yields an Nginx.

    `certificate` is the paths of a certificate and its key; with it, edge-tls.conf is served too.
    `settings` are further directives of the http block, such as a shorter time-out.
    """
    binary = required_program("nginx")
    with tempfile.TemporaryDirectory(prefix="tw-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers run as another user
        ports = _configure(folder, edges, certificate, settings)
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
            folder,
        )
        try:
            give_up = time.monotonic() + READY_S
            while not _accepts(ports[0]):
                assert process.poll() is None, nginx.log()
                assert time.monotonic() < give_up, nginx.log()
                time.sleep(0.02)
            yield nginx
        finally:
            stop(process)


def _configure(folder, edges, certificate, settings):
    """Write the shipped files with addresses and paths of this run. Return the ports."""
    ports = _free_ports(2)
    main = (SHIPPED / "nginx.conf").read_text()
    site = (SHIPPED / "edge.conf").read_text()
    tls = (SHIPPED / "edge-tls.conf").read_text()
    paths = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in TEMPORARY)
    main = _replaced(main, r"(?m)^http \{\n", f"http {{\n{paths}{settings}\n")
    servers = "\n".join(f"    server {edge} max_fails=3 fail_timeout=10s;" for edge in edges)
    site = _replaced(site, r"(?m)^    server 127\.0\.0\.1:8080 .*$", servers)
    site = _replaced(site, r"listen 80;", f"listen 127.0.0.1:{ports[0]};")
    if certificate:
        main = _replaced(main, r"# (?=include \S+/edge-tls\.conf)", "")
        tls = _replaced(tls, r"(?m)^    listen 443 ", f"    listen 127.0.0.1:{ports[1]} ")
        for kind, path in zip(("cert", "key"), certificate, strict=True):
            (folder / f"{kind}.pem").write_bytes(Path(path).read_bytes())
    locations = (SHIPPED / "edge-locations.conf").read_text()
    for file, text in (
        ("nginx.conf", main),
        ("edge.conf", site),
        ("edge-tls.conf", tls),
        ("edge-locations.conf", locations),
    ):
        here = text.replace(INSTALLED, f"{folder}/").replace(LOGS, f"{folder}/")
        (folder / file).write_text(here)
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
