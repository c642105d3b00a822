"""The settings that the options of `serve` give. An option that is not given changes nothing."""

from pathlib import Path

import pytest

from tokenwire.cli.parser import run_app
from tokenwire_server.commands.app import app
from tokenwire_server.commands.options import PROGRAM
from tokenwire_server.config import CallerLimits, Settings, load


class Servers:
    """Keeps the options instead of serving."""

    def serve(self, options):
        self.options = options
        return 0


def settings_of(*flags):
    servers = Servers()
    assert run_app(app, PROGRAM, ["serve", *flags], shared=servers) == 0
    return servers.options.settings


def test_without_options_no_setting_is_given():
    assert settings_of() == settings_of("--demo") == {}


def test_the_help_names_every_limit_of_a_key(capsys):
    assert run_app(app, PROGRAM, ["keys", "create", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Limits of the key: {', '.join(CallerLimits.model_fields)}." in shown


def test_the_help_shows_the_default_settings(capsys):
    assert run_app(app, PROGRAM, ["serve", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"[default: {Settings().listen}]" in shown
    assert f"[default: {Settings().auth}]" in shown
    assert f"[default: {Settings().database.removeprefix('sqlite:///')} in this folder" in shown


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--listen", "127.0.0.1:1"], {"listen": "127.0.0.1:1"}),
        (["--metrics-listen", "127.0.0.1:2"], {"metrics_listen": "127.0.0.1:2"}),
        (["--log-format", "json"], {"log_format": "json"}),
        (["--database", "sqlite:///x"], {"database": "sqlite:///x"}),
        (["--auth", "keys"], {"auth": "keys"}),
        (["--redis-url", "redis://h"], {"redis": {"url": "redis://h"}}),
        (["--no-migrate"], {"migrate": False}),
        (["--tls-cert", "c"], {"tls": {"cert": "c"}}),
        (
            ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"],
            {"tls": {"cert": "c", "key": "k", "client_ca": "a"}},
        ),
    ],
)
def test_each_option_is_one_setting(flags, settings):
    assert settings_of(*flags) == settings


def test_options_override_only_their_own_settings_in_the_environment(monkeypatch):
    monkeypatch.setenv("TOKENWIRE_MIGRATE", "false")
    monkeypatch.setenv("TOKENWIRE_AUTH", "none")
    monkeypatch.setenv("TOKENWIRE_TLS__CERT", "of-the-environment")
    monkeypatch.setenv("TOKENWIRE_TLS__KEY", "of-the-environment")
    settings = load(None, settings_of("--tls-key", "of-the-flag"))
    assert (settings.migrate, settings.auth) == (False, "none")
    assert settings.tls.cert == Path("of-the-environment")
    assert settings.tls.key == Path("of-the-flag")
