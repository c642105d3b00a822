"""The images of deploy/container: built with buildah, run and stopped. `make image-test` runs these tests.

If the base image cannot be pulled, an image of the same name is made of Debian's packages, with debootstrap.
Building takes minutes, and needs root. Everything is in a temporary folder.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from programs import required_program

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy" / "container" / "Containerfile"
SERVER, EDGE = "127.0.0.1:50951", "127.0.0.1:50952"
"""Containers share the network of this machine, where the default ports may be in use."""
HEALTHY_S = 60
STORAGE = '[storage]\ndriver = "vfs"\ngraphroot = "{0}/graph"\nrunroot = "{0}/run"\n'


class Buildah:
    """The command, with a storage of its own."""

    def __init__(self, folder):
        (folder / "storage.conf").write_text(STORAGE.format(folder))
        self._program = required_program("buildah")
        self.environ = os.environ | {
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def words(self, *arguments):
        return [self._program, *map(str, arguments)]

    def __call__(self, *arguments, timeout=900):
        result = subprocess.run(
            self.words(*arguments),
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=timeout,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def can_pull(self, image):
        words = self.words("pull", "--quiet", image)
        try:
            return not subprocess.run(
                words, capture_output=True, env=self.environ, timeout=60
            ).returncode
        except subprocess.TimeoutExpired:
            return False


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    folder = tmp_path_factory.mktemp("buildah")
    buildah = Buildah(folder)
    base = re.search(r"^ARG PYTHON_IMAGE=(.+)$", CONTAINERFILE.read_text(), re.MULTILINE)[1]
    if not buildah.can_pull(base):
        packages = "--include=python3,python3-venv,ca-certificates"
        debootstrap = [required_program("debootstrap"), "--variant=minbase", packages, "bookworm"]
        subprocess.run([*debootstrap, folder / "base"], check=True, capture_output=True)
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", folder / "base" / "etc" / "ssl" / "certs")
        (folder / "Base").write_text("FROM scratch\nCOPY base/ /\n")
        buildah("build", "--quiet", "-t", base, "-f", folder / "Base", folder)
        shutil.rmtree(folder / "base")
    return buildah


class Container:
    """A container of one of the images, and what its configuration says."""

    def __init__(self, buildah, target, **environ):
        self._buildah = buildah
        image = f"tokenwire-{target}"
        build = ("build", "--layers", "--quiet", "--format", "docker", "--target", target)
        buildah(*build, "-t", image, "-f", CONTAINERFILE, ROOT)
        self.name = buildah("from", f"localhost/{image}").strip()
        inspected = json.loads(buildah("inspect", "--type", "image", f"localhost/{image}"))
        self.config = inspected["Docker"]["config"]
        self._environ = [f"--env={name}={value}" for name, value in environ.items()]

    def words(self, *words):
        return self._buildah.words("run", *self._environ, self.name, "--", *words)

    def run(self, *words):
        environ = self._buildah.environ
        return subprocess.run(
            self.words(*words), capture_output=True, text=True, env=environ, timeout=60
        )

    def start(self, *words):
        """Start the image's command with these words added. The first line of its output is its id."""
        command = self.words("sh", "-c", 'echo $$; exec "$@"', "sh", *self.config["Cmd"], *words)
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=self._buildah.environ
        )

    def wait_until_healthy(self):
        kind, *words = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        deadline = time.monotonic() + HEALTHY_S
        while (result := self.run(*words)).returncode:
            assert time.monotonic() < deadline, result.stderr


@pytest.fixture(scope="module")
def server(buildah):
    return Container(buildah, "server", TOKENWIRE_LISTEN=SERVER)


@pytest.fixture(scope="module")
def edge(buildah):
    return Container(buildah, "edge", TOKENWIRE_EDGE_LISTEN=EDGE, TOKENWIRE_EDGE_TARGET=SERVER)


def test_the_images_serve_report_their_health_and_stop_on_sigterm(server, edge):
    with server.start("--demo") as serving, edge.start() as forwarding:
        processes = {
            serving: int(serving.stdout.readline()),
            forwarding: int(forwarding.stdout.readline()),
        }
        try:
            server.wait_until_healthy()
            edge.wait_until_healthy()
            body = {
                "model": "openai/demo",
                "messages": [{"role": "ROLE_USER", "parts": [{"text": "hi"}]}],
            }
            request = urllib.request.Request(
                f"http://{EDGE}/v1/chat",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert b"Tokenwire turns" in answer.read()
        finally:
            for number in processes.values():
                os.kill(number, signal.SIGTERM)
        assert [process.wait(20) for process in processes] == [0, 0]


def test_the_images_run_as_a_user_that_can_change_only_its_own_folder(server):
    assert server.config["User"] == "10001:10001"
    assert server.run("touch", "tokenwire.db").returncode == 0
    changed = server.run(
        *("find", "/", "-xdev", "-writable", "-not", "-type", "l"),
        *("-not", "-path", "/proc/*", "-not", "-path", "/dev/*", "-not", "-path", "/sys/*"),
    )
    folders = {
        "/tmp",
        "/var/tmp",
        "/run/lock",
        "/var/lib/tokenwire",
        "/var/lib/tokenwire/tokenwire.db",
    }
    assert set(changed.stdout.split()) <= folders


def test_the_images_contain_no_installer_cache_and_no_source(server):
    found = server.run(
        "sh", "-c", "command -v pip-audit gcc; ls -d /src /build /root/.cache /tmp/*"
    )
    assert found.stdout == ""
    assert server.run("/opt/tokenwire/bin/python3", "-m", "pip", "--version").returncode != 0
