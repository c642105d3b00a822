"""What the README says is so. Its grpcurl commands are run in interop/test_grpcurl.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tokenwire_server.config import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return found


def test_the_client_example_runs(start):
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (_, address):
        program = block("python").replace("127.0.0.1:50051", address)
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
        )
    assert result.returncode == 0, result.stderr
    assert "Tokenwire turns" in result.stdout
    assert "output_tokens: 105" in result.stdout


def test_the_configuration_example_is_accepted(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text(block("toml"))
    settings = load(path, {})
    assert settings.providers["local"].kind == "openai-chat"
    assert settings.models["fast"].target == "local/qwen3-8b"
    assert settings.limits.max_streams == 500


def test_a_variable_overrides_the_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenwire.toml"
    path.write_text(block("toml"))
    name, value = re.search(r"`(TOKENWIRE_\w+)=(\d+)`", README).groups()
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
    summary = result.stderr.strip().splitlines()[-1]
    assert re.fullmatch(
        r"TTFT \d+ ms, [\d.]+ tokens/s, \d+ tokens in, \d+ out, finished: stop", summary
    )
