"""The unit of deploy/systemd: systemd accepts it, and the server starts with its command and settings."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from programs import required_program
from tokenwire_server.config import load

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "tokenwire.service"
CONFIGURATION = FOLDER / "tokenwire.toml"
MAX_EXPOSURE = 1.5
"""`systemd-analyze security` rates a unit from 0 to 10. Without hardening it is 9.6."""


def directive(name):
    """Return the value of a directive that the unit has once."""
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return value


@pytest.fixture
def unit(tmp_path):
    """A copy of the unit, with the path of a server that is installed."""
    path = tmp_path / UNIT.name
    programs = Path(sys.executable).parent
    path.write_text(UNIT.read_text().replace("/opt/tokenwire/bin", str(programs)))
    return path


def analyze(*words):
    program = required_program("systemd-analyze")
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60)


def test_systemd_accepts_the_unit(unit):
    result = analyze("verify", unit)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_unit_restricts_what_the_server_may_do(unit):
    result = analyze("security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert float(exposure[1]) <= MAX_EXPOSURE, result.stdout


def test_the_server_starts_with_the_command_and_the_settings_of_the_unit(start, tmp_path):
    program, *words = shlex.split(directive("ExecStart"))
    assert Path(program).name == "tokenwire-server"
    assert "/etc/tokenwire/tokenwire.toml" in words
    words = [
        str(CONFIGURATION) if word == "/etc/tokenwire/tokenwire.toml" else word for word in words
    ]
    names = re.findall(r"^#(\w+)=", (FOLDER / "example.environment").read_text(), re.MULTILINE)
    env = dict.fromkeys(names, "key") | {
        "TOKENWIRE_DATABASE": f"sqlite:///{tmp_path}/tokenwire.db",
        "TOKENWIRE_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_DRAIN_GRACE_S": "0",
    }
    with start(*words, env=env) as (_, address):
        assert address.startswith("127.0.0.1:")


def test_the_server_is_not_killed_before_its_drain_has_ended():
    settings = load(CONFIGURATION, {}, {})
    assert int(directive("TimeoutStopSec")) > settings.drain_grace_s + 2
    assert (directive("KillSignal"), directive("KillMode")) == ("SIGTERM", "mixed")


def test_the_database_is_in_a_folder_that_the_server_can_write():
    state = f"/var/lib/{directive('StateDirectory')}"
    assert load(CONFIGURATION, {}, {}).database.startswith(f"sqlite:///{state}/")
    assert directive("WorkingDirectory") == state
