"""What the flags of `serve` change, and that a flag which is not there changes nothing."""

from pathlib import Path

import pytest

from tokenwire_server.__main__ import _parser, _settings_in
from tokenwire_server.config import load


def said(*flags):
    return _settings_in(_parser().parse_args(["serve", *flags]))


def test_without_flags_nothing_is_said():
    assert said() == said("--demo") == {}


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--listen", "127.0.0.1:1"], {"listen": "127.0.0.1:1"}),
        (["--database", "sqlite:///x"], {"database": "sqlite:///x"}),
        (["--auth", "keys"], {"auth": "keys"}),
        (["--no-migrate"], {"migrate": False}),
        (["--tls-cert", "c"], {"tls": {"cert": "c"}}),
        (
            ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"],
            {"tls": {"cert": "c", "key": "k", "client_ca": "a"}},
        ),
    ],
)
def test_each_flag_is_one_setting(flags, settings):
    assert said(*flags) == settings


def test_flags_leave_what_the_environment_says_of_the_rest(monkeypatch):
    monkeypatch.setenv("TOKENWIRE_MIGRATE", "false")
    monkeypatch.setenv("TOKENWIRE_AUTH", "none")
    monkeypatch.setenv("TOKENWIRE_TLS__CERT", "of-the-environment")
    monkeypatch.setenv("TOKENWIRE_TLS__KEY", "of-the-environment")
    settings = load(None, said("--tls-key", "of-the-flag"))
    assert (settings.migrate, settings.auth) == (False, "none")
    assert settings.tls.cert == Path("of-the-environment")
    assert settings.tls.key == Path("of-the-flag")
