import pytest

from tokenwire_server.config import ConfigError, TenantLimits, load


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenwire.toml"
    path.write_text('listen = "127.0.0.1:1"\ndrain_grace_s = 1\n[limits]\nmax_streams = 1\n')
    monkeypatch.setenv("TOKENWIRE_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("TOKENWIRE_DRAIN_GRACE_S", "2")
    settings = load(path, {"listen": "127.0.0.1:3"})
    assert settings.listen == "127.0.0.1:3"
    assert settings.drain_grace_s == 2
    assert settings.limits.max_streams == 1


def test_the_limits_of_a_tenant_come_from_the_file_and_from_variables(tmp_path, monkeypatch):
    path = tmp_path / "tokenwire.toml"
    path.write_text(
        "[tenants.acme]\nrequests_per_minute = 5\n[tenants.'*']\nbytes_per_request = 9\n"
    )
    monkeypatch.setenv("TOKENWIRE_TENANTS__ACME__TOKENS_PER_MINUTE", "7")
    settings = load(path, {})
    assert settings.tenants == {
        "acme": TenantLimits(requests_per_minute=5, tokens_per_minute=7),
        "*": TenantLimits(bytes_per_request=9),
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "requests_per_minute = 0",
            "requests_per_minute: Input should be greater than or equal to 1",
        ),
        ("tokens_per_minute = -1", "tokens_per_minute: Input should be greater than or equal to 1"),
        (
            "tokens_per_minute = 1_000_000_000_001",
            "tokens_per_minute: Input should be less than or equal to 1000000000000",
        ),
        ("concurrent_streams = 'many'", "concurrent_streams: Input should be a valid integer"),
        ("messages_per_request = 1.5", "messages_per_request: Input should be a valid integer"),
        ("request_per_minute = 1", "request_per_minute: there is no such setting"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_with_its_path(tmp_path, line, fault):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"[tenants.acme]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value).startswith(f"{path}: tenants.acme.{fault}")


def test_every_limit_that_makes_no_sense_is_named_at_once(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text("[tenants.acme]\nrequests_per_minute = 0\n[tenants.b]\ntokens = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert "tenants.acme.requests_per_minute: " in str(caught.value)
    assert "tenants.b.tokens: there is no such setting" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        (
            "TENANTS__ACME__TOKENS_PER_MINUTE",
            "0",
            "tokens_per_minute: Input should be greater than or equal to 1",
        ),
        (
            "TENANTS__ACME__TOKENS_PER_MINUTE",
            "many",
            "tokens_per_minute: Input should be a valid integer",
        ),
        ("TENANTS__ACME__TOKENS", "3", "tokens: there is no such setting"),
    ],
)
def test_a_variable_with_a_limit_that_makes_no_sense_is_refused_with_its_path(
    monkeypatch, name, value, fault
):
    monkeypatch.setenv(f"TOKENWIRE_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    assert str(caught.value).startswith(f"settings: tenants.acme.{fault}")


MONTHLY = "usage_kept_days = {}\n[tenants.acme]\nspend_usd_per_month = 5\n"


def test_records_are_not_forgotten_before_the_month_that_they_are_to_limit_is_over(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text(MONTHLY.format(30))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value).startswith(
        f"{path}: tenants: acme.spend_usd_per_month needs usage_kept_days of at least 31, not 30"
    )
    path.write_text(MONTHLY.format(31))
    assert load(path, {}).usage_kept_days == 31
    path.write_text(MONTHLY.format(1).replace("month", "day"))  # no day is longer than it
    assert load(path, {}).usage_kept_days == 1
