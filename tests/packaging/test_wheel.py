import re
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def test_the_wheel_contains_the_three_packages_typed_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "tokenwire",
        "tokenwire_edge",
        "tokenwire_server",
    }
    assert {
        "tokenwire/py.typed",
        "tokenwire_edge/openapi.json",
        "tokenwire_edge/py.typed",
        "tokenwire_edge/static/index.html",
        "tokenwire_edge/static/tokenwire.js",
        "tokenwire_server/py.typed",
        "tokenwire/v1/chat_pb2.pyi",
        "tokenwire/v1/chat_pb2_grpc.pyi",
        "tokenwire_server/rpc/tokenwire_v1.binpb",
        "tokenwire_server/simulator/server.py",
        "tokenwire_server/storage/migrations/versions/r0001_keys.py",
    } <= names


def test_who_installs_the_client_gets_three_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.split(">")[0].split("=")[0] for line in project["dependencies"]}
    assert names == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_the_locks_hold_no_addresses():
    for lock in (ROOT / "requirements").glob("*.lock"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text


def locked(name):
    """Return the versions in a lock file, by the canonical name of the package."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9.-]+)(?:\[[^]]*\])?==([^ ;]+)", text, re.MULTILINE))


def test_the_image_has_the_versions_that_the_tests_ran_with_and_all_that_the_commands_need():
    image, tested = locked("image.lock"), locked("dev.lock")
    assert image.items() <= tested.items(), "run `make lock`"
    assert locked("build.lock").items() <= tested.items(), "run `make lock`"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras.keys() == {"cli", "server", "postgres", "edge", "otel", "redis", "filters"}
    needed = {
        canonicalize_name(Requirement(line).name)
        for lines in (project["dependencies"], *extras.values())
        for line in lines
        if not (marker := Requirement(line).marker) or marker.evaluate()
    }
    assert needed - {"tokenwire"} <= image.keys(), "run `make lock`"
