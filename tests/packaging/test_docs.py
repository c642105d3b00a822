"""What the README says is true, and its commands work in the order in which they are written."""

import os
import re
import shutil
import socket
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from docs_terminal import File, Terminal, is_shown, steps_of

from tokenwire_server.config import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


_, COSTS = blocks("python")
PRICES, PROVIDERS = blocks("toml")


def copy_of_the_clone(folder):
    """Copy what the README's commands use, with an environment in which nothing has to be installed."""
    for name in ("LICENSE", "Makefile", "README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    for name in ("client", "protos", "requirements", "scripts", "server"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = folder / ".venv"
    environment.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".ready":
            (environment / path.name).symlink_to(path)
    (environment / ".ready").touch()
    if (ROOT / ".tools").exists():
        (folder / ".tools").symlink_to(ROOT / ".tools")
    return folder


def environ_of_a_reader(address):
    """Return variables with another port than the default, which may be in use, and a PATH without this
    environment.
    """
    programs = Path(sys.executable).parent
    paths = [path for path in os.environ["PATH"].split(":") if Path(path) != programs]
    foreign = ("TOKENWIRE_", "OPENAI_", "ANTHROPIC_", "VIRTUAL_ENV", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "PATH": ":".join(paths),
        "TOKENWIRE_LISTEN": address,
        "TOKENWIRE_TARGET": address,
    }


def can_run(line):
    """Return whether a command runs here. Other tests cover those that need the network: test_extras.py
    installs the wheel, and `make tools` installs grpcurl.
    """
    if "dist/venv" in line:
        return False
    has_grpcurl = (ROOT / ".tools/bin/grpcurl").exists()
    assert has_grpcurl or not os.environ.get("CI"), "`make tools` installs grpcurl (needs Go)"
    return has_grpcurl or ("grpcurl" not in line and line != "make tools")


@pytest.mark.timeout(600)
def test_its_commands_work_line_by_line_in_one_terminal(tmp_path):
    folder = copy_of_the_clone(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    mismatches, ran = [], 0
    with Terminal(folder, environ_of_a_reader(address)) as terminal:
        for step in steps_of(README.replace("127.0.0.1:50051", address)):
            if isinstance(step, File):
                (folder / step.name).write_text(step.text)
                continue
            if not can_run(step.line):
                continue
            ran += 1
            if step.line == "tokenwire-server serve":  # in the foreground, until Ctrl-C
                began = terminal.type(step.line + "\n")
                terminal.wait_for(step.shown.strip(), began)
                code, shown = terminal.run("\x03")
                assert code == 0, shown
                continue
            began = len(terminal.shown)
            code, shown = terminal.run(step.line)
            if step.line.endswith("&"):
                terminal.wait_for(step.shown.strip(), began)
                continue
            fails = step.shown.startswith("ERROR")
            if (code != 0) != fails or not is_shown(step.shown, shown):
                mismatches.append(f"$ {step.line}\n{shown}(exit code {code}), not\n{step.shown}")
    assert not mismatches, "\n".join(mismatches)
    assert ran >= 30


def test_the_example_of_counting_and_reckoning_runs(start):
    program = "\n".join(
        [
            "import asyncio, tokenwire",
            "from datetime import UTC, datetime",
            "async def main():",
            '  async with tokenwire.AsyncClient("ADDRESS") as client:',
            *(f"    {line}" for line in COSTS.splitlines()),
            "  print(counted.max_cost_microusd, response.finished.usage.cost_microusd, days)",
            "asyncio.run(main())",
        ]
    )
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (_, address):
        program = program.replace("ADDRESS", address).replace("openai/gpt-4o", "openai/demo")
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
        )
    assert result.returncode == 0, result.stderr
    assert re.match(r"508 533 \[", result.stdout)


def test_the_examples_of_configuration_are_accepted(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text(PROVIDERS + PRICES)
    settings = load(path, {})
    assert settings.models["local/qwen3-8b"].prices.output == Decimal("0.4")
    assert settings.tenants["acme"].spend_usd_per_month == 1000
    assert settings.providers["local"].kind == "openai-chat"
    assert settings.models["fast"].target == "local/qwen3-8b"
    assert settings.limits.max_streams == 500


def test_a_variable_overrides_the_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenwire.toml"
    path.write_text(PROVIDERS)
    name, value = re.search(r"`(TOKENWIRE_LIMITS__\w+)=(\d+)`", README).groups()
    monkeypatch.setenv(name, "7")
    assert value == "500"
    assert load(path, {}).limits.max_streams == 7


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()


def test_every_make_target_it_names_exists():
    named = set(re.findall(r"`make ([a-z-]+)`", README))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "test", "layers"} <= named <= targets
