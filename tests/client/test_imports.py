"""The client works with a base installation, and loads gRPC only on demand."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

BASE = {"tokenwire", "grpc", "google", "typing_extensions"}
"""typing_extensions is a dependency of grpcio."""

FOREIGN = """
import sys, json
import grpc  # itself loads grpc_health and others where they happen to be installed
before = set(sys.modules)
import {module}
names = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(names - set(sys.stdlib_module_names))))
"""


def foreign_modules_of(module):
    code = FOREIGN.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_client_needs_nothing_but_its_base_dependencies():
    assert foreign_modules_of("tokenwire.api, tokenwire.http, tokenwire.v1.error_pb2") <= BASE


def test_the_fake_service_for_tests_needs_no_more_and_no_pytest():
    assert foreign_modules_of("tokenwire.testing") <= BASE


def test_the_command_line_is_not_loaded_before_it_runs():
    assert foreign_modules_of("tokenwire.cli") <= BASE


SLOW = {"asyncio", "google.protobuf", "grpc", "pydantic", "rich.console", "typer.rich_utils"}
RUN_AND_PRINT_SLOW = """
import json, sys
from tokenwire.cli import main
main({arguments!r})
print(json.dumps(sorted(set({slow!r}) & set(sys.modules))), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["--help"], set()),
        (["usage", "--help"], set()),
        (["chat", "Hi", "--max-output-tokens", "x"], set()),
        (["models", "--target", "127.0.0.1:1"], {"asyncio", "google.protobuf", "grpc"}),
    ],
)
def test_a_command_loads_only_the_slow_modules_that_it_needs(arguments, loaded):
    code = RUN_AND_PRINT_SLOW.format(arguments=arguments, slow=sorted(SLOW))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert set(json.loads(done.stderr.splitlines()[-1])) == loaded, done.stderr


LAZY = """
import sys, tokenwire, tokenwire.cli, tokenwire.v1.event_pb2
assert "grpc" not in sys.modules
assert tokenwire.AsyncClient.__module__ == "tokenwire.aio.client"
assert "grpc" in sys.modules
assert "user" in dir(tokenwire)
from tokenwire import *
assert AsyncClient is tokenwire.AsyncClient
try:
    from tokenwire import nothing
except ImportError:
    print("none")
"""


def test_grpc_is_loaded_when_a_public_name_is_used():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=30)
    assert done.stdout == "none\n", done.stderr


def test_the_client_runs_without_any_other_package():
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {BASE!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import tokenwire
client = tokenwire.Client("127.0.0.1:1")
try:
    client.chat("m", "Hi", timeout=0.001)
except tokenwire.TokenwireError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() in {"ConnectionLost", "DeadlineExceeded"}, done.stderr
