"""Each distribution with each of its extras, in an environment with the packages that it requires and no others."""

import json
import subprocess
from functools import cache

import pytest
from environments import Environment, completed, environ

from server_process import stop

pytestmark = pytest.mark.process

NO_WAIT = {"TOKENWIRE_DRAIN_ACCEPT_S": "0", "TOKENWIRE_EDGE_DRAIN_ACCEPT_S": "0"}
"""Variables with which servers and edges stop at once: no load balancer has to notice it."""
FRAMEWORKS = {"tokenwire.http.starlette": "starlette", "tokenwire.testing.fixtures": "pytest"}
"""Modules for programs that have another package anyway."""
IMPORT_ALL = """
import importlib, json, pkgutil, sys
import tokenwire
missing = {}
for module in pkgutil.walk_packages(tokenwire.__path__, "tokenwire.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
imported = sorted(name for name in sys.modules if name.startswith("tokenwire"))
print(json.dumps({"imported": imported, "missing": missing}))
"""


@pytest.fixture(scope="module")
def installed(unpacked, tmp_path_factory):
    """Installs one of the wheels with some extras."""

    @cache
    def install(name, *extras):
        return Environment(tmp_path_factory.mktemp("venv"), unpacked, name, extras)

    return install


def modules_of(project):
    """Return the names of the modules in a folder of packages."""
    paths = (path.relative_to(project).with_suffix("").parts for path in project.rglob("*.py"))
    return {".".join(parts).removesuffix(".__init__") for parts in paths}


def assert_one_line(result, *texts):
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1), (
        result.stderr
    )
    for text in texts:
        assert text in result.stderr


def imports(environment):
    """Import all modules of the client. Return those imported, and what others lack."""
    done = completed(environment.python("-c", IMPORT_ALL))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return set(result["imported"]), result["missing"]


def test_the_client_alone_brings_at_most_four_packages(installed):
    assert installed("tokenwire").packages == {
        "tokenwire",
        "googleapis-common-protos",
        "grpcio",
        "protobuf",
        "typing-extensions",
    }


def test_the_client_alone_imports_all_modules_but_those_of_extras(installed, unpacked):
    client = installed("tokenwire")
    imported, missing = imports(client)
    assert set(missing.values()) <= {
        "markdown_it",
        "msgspec",
        "rich",
        "typer",
        *FRAMEWORKS.values(),
    }
    assert {"tokenwire", "tokenwire.api", "tokenwire.aio.client", "tokenwire.sync.client"} <= (
        imported
    )
    assert imported | set(missing) >= modules_of(unpacked["tokenwire"]) - {"tokenwire.__main__"}
    assert list(client.commands) == ["tokenwire"]


def test_the_client_with_its_extras_imports_every_module_without_the_server(installed, unpacked):
    imported, missing = imports(installed("tokenwire", "cli", "structured"))
    assert missing == FRAMEWORKS
    assert imported == modules_of(unpacked["tokenwire"]) - set(FRAMEWORKS)


def test_without_the_cli_extra_the_command_says_in_one_line_what_to_install(installed):
    client = installed("tokenwire")
    hint = 'tokenwire: the package typer is missing: pip install "tokenwire[cli]"'
    assert_one_line(client.run("tokenwire", "models"), hint)
    assert_one_line(completed(client.python("-m", "tokenwire", "models")), hint)


def test_python_m_runs_the_command(installed):
    client = installed("tokenwire", "cli")
    done = completed(client.python("-m", "tokenwire", "--version"))
    assert done.stdout == client.run("tokenwire", "--version").stdout != ""
    helped = completed(client.python("-m", "tokenwire", "--help"))
    assert "__main__" not in helped.stdout
    assert helped.stdout == client.run("tokenwire", "--help").stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("extras", [(), ("otel",)])
def test_the_server_serves_with_each_extra_and_the_client_calls_it(installed, extras, tmp_path):
    server = installed("tokenwire-server", *extras)
    assert server.run("tokenwire-server", "--version").stdout.startswith("tokenwire-server ")
    words = server.command("tokenwire-server", "serve", "--demo", "--listen", "127.0.0.1:0")
    traces = {"TOKENWIRE_OTEL__TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    env = environ() | NO_WAIT | (traces if extras == ("otel",) else {})
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=tmp_path
        )
    with process:
        try:
            address = process.stdout.readline().split()[-1]
            chats = [
                environment.run("tokenwire", "chat", "What is Tokenwire?", "--target", address)
                for environment in (installed("tokenwire", "cli"), server)
            ]
        finally:
            stop(process)
    for chat in chats:
        assert "Tokenwire turns" in chat.stdout, chat.stderr + (tmp_path / "log").read_text()


def test_the_edge_extra_serves(installed, tmp_path):
    edge = installed("tokenwire-server", "edge")
    words = edge.command("tokenwire-edge", "serve", "--listen", "127.0.0.1:0")
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environ() | NO_WAIT,
        cwd=tmp_path,
    )
    with process:
        try:
            assert process.stdout.readline().startswith("tokenwire-edge: listening on http://")
        finally:
            stop(process)


def test_without_the_edge_extra_the_missing_package_is_named(installed):
    assert_one_line(
        installed("tokenwire-server").run("tokenwire-edge", "serve"),
        'pip install "tokenwire-server[edge]"',
    )


TYPED = """
import typing, tokenwire
class Plan(typing.TypedDict):
    title: str
try:
    tokenwire.Client("127.0.0.1:1").count_tokens("m", "Hi", response_format=Plan)
except (ImportError, tokenwire.ConnectionLost) as error:
    print(type(error).__name__, error)
"""


def test_the_structured_extra_brings_what_typed_answers_need(installed):
    structured = installed("tokenwire", "structured")
    assert structured.packages - installed("tokenwire").packages == {"msgspec"}
    assert completed(structured.python("-c", TYPED)).stdout.startswith("ConnectionLost ")
    without = completed(installed("tokenwire").python("-c", TYPED)).stdout
    assert without.startswith("ImportError ")
    assert 'pip install "tokenwire[structured]"' in without


def test_without_the_postgres_extra_the_missing_package_is_named(installed):
    words = ("tokenwire-server", "keys", "list", "--database", "postgresql://u@127.0.0.1:1/x")
    assert_one_line(
        installed("tokenwire-server", "postgres").run(*words),
        "postgresql://127.0.0.1:1/x cannot be used",
    )
    assert_one_line(
        installed("tokenwire-server").run(*words),
        *("asyncpg", 'pip install "tokenwire-server[postgres]"'),
    )


def test_without_the_redis_extra_the_missing_package_is_named(installed, tmp_path):
    words = ("serve", "--demo", "--listen", "127.0.0.1:0", "--redis-url", "redis://127.0.0.1:1/0")
    assert_one_line(
        installed("tokenwire-server", "redis").run("tokenwire-server", *words, cwd=tmp_path),
        "redis: redis://127.0.0.1:1/0 cannot be reached: Connection refused",
    )
    assert_one_line(
        installed("tokenwire-server").run("tokenwire-server", *words, cwd=tmp_path),
        *("redis: the package redis is missing", 'pip install "tokenwire-server[redis]"'),
    )


def error_of_serve_with(environment, configuration, folder):
    """Return the error of a server that cannot start with this configuration."""
    settings = folder / "tokenwire.toml"
    settings.write_text(configuration)
    result = environment.run(
        *("tokenwire-server", "serve", "--demo", "--listen", "127.0.0.1:0"),
        *("--config", str(settings), "--database", f"sqlite:///{folder}/tokenwire.db"),
    )
    assert (result.returncode, result.stdout) == (1, "")
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("tokenwire-server"))
    return error


def test_without_the_otel_extra_the_missing_package_is_named(installed, tmp_path):
    error = error_of_serve_with(installed("tokenwire-server"), "[otel]\ntraces = true\n", tmp_path)
    assert "otel: the package opentelemetry" in error
    assert 'pip install "tokenwire-server[otel]"' in error


def test_without_the_filters_extra_the_missing_package_is_named(installed, tmp_path):
    configuration = '[filters.keys]\naction = "block"\nready_made = ["api_key"]\n'
    error = error_of_serve_with(installed("tokenwire-server"), configuration, tmp_path)
    assert "filters: the package google-re2 is missing" in error
    assert 'pip install "tokenwire-server[filters]"' in error
