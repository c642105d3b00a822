"""What the README says is so. Its grpcurl commands are run in interop/test_grpcurl.py."""

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tokenwire_server.config import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


CLIENT, COSTS = blocks("python")
PRICES, PROVIDERS = blocks("toml")


def test_the_client_example_runs(start):
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (_, address):
        program = CLIENT.replace("127.0.0.1:50051", address)
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
        )
    assert result.returncode == 0, result.stderr
    assert "Tokenwire turns" in result.stdout
    assert "output_tokens: 105" in result.stdout


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
    assert {"run", "test", "layers"} <= named <= targets


def test_the_demo_shows_tokens_streaming():
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts/demo.py")], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "tokenwire-server: listening on 127.0.0.1:" in result.stdout
    assert "Tokenwire turns the token streams" in result.stdout
    summary, named = result.stderr.splitlines()[-2:]
    assert re.fullmatch("stream [0-9a-f]{32}", named)
    assert re.fullmatch(
        r"TTFT \d+ ms, [\d.]+ tokens/s, \d+ tokens in, \d+ out, \$0\.\d+, finished: stop", summary
    )


def test_three_lines_make_a_key_and_call_with_it(start, tmp_path):
    create, serve, chat = re.findall(
        r"^\$ (export TOKENWIRE_KEY=.*)\n\$ (tokenwire-server serve .*) &\n\$ (tokenwire chat .*)$",
        README,
        re.MULTILINE,
    )[0]
    programs = Path(sys.executable).parent
    environ = {name: value for name, value in os.environ.items() if "TOKENWIRE" not in name}
    environ |= {"PATH": f"{programs}:{environ['PATH']}"}
    database = {"TOKENWIRE_DATABASE": f"sqlite:///{tmp_path}/tokenwire.db"}  # as in its folder

    def shell(script, **env):
        return subprocess.run(
            ["bash", "-ec", script], capture_output=True, text=True, timeout=60,
            cwd=tmp_path, env=environ | env,
        )  # fmt: skip

    made = shell(f"{create}; echo $TOKENWIRE_KEY")
    key = made.stdout.strip()
    assert (tmp_path / "tokenwire.db").exists()
    with start(*serve.split()[1:], "--listen", "127.0.0.1:0", env=database) as (_, address):
        answered = shell(chat, TOKENWIRE_KEY=key, TOKENWIRE_TARGET=address)
        assert answered.returncode == 0, answered.stderr
        assert "Tokenwire turns the token streams" in answered.stdout
        refused = shell(chat, TOKENWIRE_TARGET=address)
        assert refused.returncode == 1
        assert "a key is required" in refused.stderr
        (shown,) = re.findall(r"^\$ tokenwire ping\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
        pinged = shell("tokenwire ping", TOKENWIRE_KEY=key, TOKENWIRE_TARGET=address).stdout
    varying = r"127\.0\.0\.1:\d+|[\d.]+ ms|tw_[0-9a-f]{12}"
    assert re.sub(varying, "#", pinged) == re.sub(varying, "#", shown)
