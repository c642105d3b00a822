"""Each extra of the built wheel, with the packages that it requires and no others.

Nothing is downloaded: a virtual environment gets the wheel, and links to files of this environment: those
of the packages that the extra requires, directly or indirectly. A folder that belongs to one package is
linked as a whole, also with its bytecode: otherwise each start would compile thousands of modules. The
files of the wheel are linked, too: what one environment compiles, the others use.
"""

import os
import subprocess
import venv
import zipfile
from collections import Counter
from functools import cache
from importlib.metadata import distribution, distributions, entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from server_process import stop


def required(requirements, extras, found):
    """Return the distributions that these requirements need, and their extras, by canonical name."""
    for requirement in map(Requirement, requirements):
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            continue
        name = requirement.name.lower().replace("_", "-")
        if found.get(name, frozenset()) >= requirement.extras and name in found:
            continue
        found[name] = found.get(name, frozenset()) | requirement.extras
        required(distribution(name).requires or (), found[name], found)
    return found


@cache
def folders_of_one():
    """Return the folders next to the packages that belong to one distribution: not `google`, for example."""
    owners = Counter(
        folder
        for each in distributions()
        for folder in {file.parts[0] for file in each.files or () if len(file.parts) > 1}
    )
    return {folder for folder, count in owners.items() if count == 1} - {"..", "__pycache__"}


@cache
def paths_of(name):
    """Return the paths of a distribution: whole folders, or the files of folders that others share."""
    return {
        Path(file.parts[0]) if file.parts[0] in folders_of_one() else Path(file)
        for file in distribution(name).files
        if ".." not in file.parts and (file.suffix != ".pyc" or len(file.parts) > 2)
    }


class Environment:
    """A virtual environment in which the wheel, whose files are in `unpacked`, is installed with some extras."""

    def __init__(self, folder, unpacked, extras):
        self._bin = folder / "bin"
        venv.create(folder)
        (site,) = folder.glob("lib/python3*/site-packages")
        for path in unpacked.iterdir():
            (site / path.name).symlink_to(path)
        (metadata,) = site.glob("tokenwire-*.dist-info/METADATA")
        requirements = [
            line.removeprefix("Requires-Dist: ")
            for line in metadata.read_text().splitlines()
            if line.startswith("Requires-Dist: ")
        ]
        self.packages = frozenset(required(requirements, extras, {}))
        for name in self.packages:
            for path in paths_of(name):
                if not (site / path).exists():
                    (site / path).parent.mkdir(parents=True, exist_ok=True)
                    (site / path).symlink_to(distribution(name).locate_file(path))
        (self._entries,) = metadata.parent.glob("entry_points.txt")

    def command(self, name, *arguments):
        """Return the command line that runs one of the wheel's commands, like the script that pip creates."""
        (entry,) = entry_points(group="console_scripts", name=name)
        assert f"{name} = {entry.value}" in self._entries.read_text()
        module, _, function = entry.value.partition(":")
        run = f"import sys; from {module} import {function}; sys.argv[0] = {name!r}; sys.exit({function}())"
        return [str(self._bin / "python"), "-c", run, *arguments]

    def run(self, name, *arguments, cwd=None):
        return subprocess.run(
            self.command(name, *arguments),
            capture_output=True,
            text=True,
            timeout=100,
            env=environ(),
            cwd=cwd,
        )


def environ():
    names = ("PYTHONPATH", "OPENAI_", "ANTHROPIC_", "TOKENWIRE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Installs the wheel with some extras."""
    unpacked = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)

    @cache
    def install(*extras):
        return Environment(tmp_path_factory.mktemp("venv"), unpacked, extras)

    return install


def assert_one_line(result, *texts):
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1), (
        result.stderr
    )
    for text in texts:
        assert text in result.stderr


def test_without_extras_each_command_says_in_one_line_what_to_install(installed, wheel):
    bare = installed()
    assert_one_line(
        bare.run("tokenwire", "models"), "typer", 'pip install ".[cli]"', f'"{wheel.name}[cli]"'
    )
    assert_one_line(
        bare.run("tokenwire-server", "serve", "--demo"),
        'pip install ".[server]"',
        f'"{wheel.name}[server]"',
    )
    assert_one_line(bare.run("tokenwire-edge", "serve"), f'"{wheel.name}[edge]"')


@pytest.mark.timeout(600)
@pytest.mark.parametrize("extra", ["server", "otel"])
def test_each_server_extra_serves_and_the_cli_extra_calls_it(installed, extra, tmp_path):
    server = installed(extra)
    assert server.run("tokenwire-server", "--version").stdout.startswith("tokenwire-server ")
    words = server.command("tokenwire-server", "serve", "--demo", "--listen", "127.0.0.1:0")
    traces = {"TOKENWIRE_OTEL__TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    env = environ() | (traces if extra == "otel" else {})
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=tmp_path
        )
    with process:
        try:
            address = process.stdout.readline().split()[-1]
            chat = installed("cli").run(
                "tokenwire", "chat", "What is Tokenwire?", "--target", address
            )
        finally:
            stop(process)
    assert "Tokenwire turns" in chat.stdout, chat.stderr + (tmp_path / "log").read_text()


def test_without_the_postgres_extra_the_missing_package_is_named(installed, wheel):
    words = ("tokenwire-server", "keys", "list", "--database", "postgresql://u@127.0.0.1:1/x")
    assert_one_line(installed("postgres").run(*words), "postgresql://127.0.0.1:1/x cannot be used")
    assert installed("postgres").packages > installed("server").packages  # so it serves, too
    assert_one_line(installed("server").run(*words), "asyncpg", f'"{wheel.name}[postgres]"')


def test_without_the_redis_extra_the_missing_package_is_named(installed, wheel, tmp_path):
    words = ("serve", "--demo", "--listen", "127.0.0.1:0", "--redis-url", "redis://127.0.0.1:1/0")
    assert_one_line(
        installed("redis").run("tokenwire-server", *words, cwd=tmp_path),
        "redis: redis://127.0.0.1:1/0 cannot be reached: Connection refused",
    )
    assert_one_line(
        installed("server").run("tokenwire-server", *words, cwd=tmp_path),
        *("redis: the package redis is missing", f'"{wheel.name}[redis]"'),
    )


def test_without_the_otel_extra_the_missing_package_is_named(installed, wheel, tmp_path):
    settings = tmp_path / "tokenwire.toml"
    settings.write_text("[otel]\ntraces = true\n")
    result = installed("server").run(
        *("tokenwire-server", "serve", "--demo", "--listen", "127.0.0.1:0"),
        *("--config", str(settings), "--database", f"sqlite:///{tmp_path}/tokenwire.db"),
    )
    assert (result.returncode, result.stdout) == (1, "")
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("tokenwire-server"))
    assert "otel: the package opentelemetry" in error
    assert f'"{wheel.name}[otel]"' in error
