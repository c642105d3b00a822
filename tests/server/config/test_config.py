import json
import re
import runpy
from decimal import Decimal
from pathlib import Path
from typing import Annotated, get_args, get_origin

import pytest
from pydantic import BaseModel

from tokenwire_server.config import (
    ConfigError,
    Limits,
    Settings,
    TenantLimits,
    known_providers,
    load,
)

SCRIPTS = Path(__file__).parents[3] / "scripts"


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
        ("request_per_minute = 1", "request_per_minute: no such setting"),
    ],
)
def test_an_invalid_limit_is_refused_with_its_path(tmp_path, line, fault):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"[tenants.acme]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value).startswith(f"{path}: tenants.acme.{fault}")


def test_all_invalid_limits_are_named_at_once(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text("[tenants.acme]\nrequests_per_minute = 0\n[tenants.b]\ntokens = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert "tenants.acme.requests_per_minute: " in str(caught.value)
    assert "tenants.b.tokens: no such setting" in str(caught.value)


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
        ("TENANTS__ACME__TOKENS", "3", "tokens: no such setting"),
    ],
)
def test_a_variable_with_an_invalid_limit_is_refused_with_its_path(monkeypatch, name, value, fault):
    monkeypatch.setenv(f"TOKENWIRE_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    assert str(caught.value).startswith(f"TOKENWIRE_{name}: {fault.partition(': ')[2]}")


MONTHLY = "usage_kept_days = {}\n[tenants.acme]\nspend_usd_per_month = 5\n"


def test_a_monthly_spend_limit_needs_the_records_of_a_month(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text(MONTHLY.format(30))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value).startswith(
        f"{path}: tenants.acme.spend_usd_per_month: needs usage_kept_days of at least 31, not 30"
    )
    path.write_text(MONTHLY.format(31))
    assert load(path, {}).usage_kept_days == 31
    path.write_text(MONTHLY.format(1).replace("month", "day"))
    assert load(path, {}).usage_kept_days == 1


def leaves(annotation):
    """Return the types at the ends of an annotation such as `dict[str, X] | None`."""
    kinds = get_args(annotation)
    if get_origin(annotation) is Annotated:
        kinds = kinds[:1]
    return set().union(*map(leaves, kinds)) or {annotation}


def fields(kind=Settings, path=()):
    """Yield the path and the field of every setting. `x` is the name in tables whose names are free."""
    for name, field in kind.model_fields.items():
        yield (*path, name), field
        for inner in leaves(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                named = ("x",) if get_origin(field.annotation) is dict else ()
                yield from fields(inner, (*path, name, *named))


NUMBERS = [path for path, field in fields() if leaves(field.annotation) & {int, float, Decimal}]


def sections(kind=Settings):
    """Yield the settings, and every section in them."""
    yield kind
    for field in kind.model_fields.values():
        for inner in leaves(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from sections(inner)


def test_every_setting_has_a_description():
    described = runpy.run_path(str(SCRIPTS / "configuration.py"))["attribute_docstrings"]
    for section in sections():
        docstrings = described(section)
        assert [name for name in section.model_fields if not docstrings.get(name)] == [], section


INVALID_NUMBERS = (
    True,
    False,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e308,
    2**63,
    -1,
    "nan",
    "inf",
)
INVALID_NUMBERS_IN_VARIABLES = (
    "true",
    "nan",
    "inf",
    "-inf",
    "1e308",
    str(2**63),
    "-1",
    "",
    "1" * 5000,
)


def test_the_numbers_under_test_include_those_of_every_section():
    found = set(NUMBERS)
    assert {
        ("usage_kept_days",),
        ("limits", "max_streams"),
        ("providers", "x", "default_max_output_tokens"),
        ("models", "x", "prices", "cache_read"),
        ("tenants", "x", "spend_usd_per_day"),
    } <= found
    assert len(found) > 30


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_every_number_is_finite_bounded_and_no_boolean(path):
    for value in INVALID_NUMBERS:
        given = value
        for step in reversed(path):
            given = {step: given}
        with pytest.raises(ConfigError) as caught:
            load(None, given, {})
        assert "-".join(path).replace("_", "-") in str(caught.value), value
    for text in INVALID_NUMBERS_IN_VARIABLES:
        name = f"TOKENWIRE_{'__'.join(path).upper()}"
        with pytest.raises(ConfigError) as caught:
            load(None, {}, {name: text})
        assert f"{name}: " in str(caught.value), text


@pytest.mark.parametrize(
    ("default", "maximum"),
    [
        ("linger_s", "max_linger_s"),
        ("log_ttl_s", "max_log_ttl_s"),
        ("cache_ttl_s", "max_cache_ttl_s"),
        ("max_cached_answer_bytes", "max_cache_bytes"),
        ("max_log_bytes", "max_total_log_bytes"),
    ],
)
def test_a_default_above_its_maximum_is_refused_with_both(default, maximum):
    low, high = (2**21, 2**22) if "bytes" in default else (5, 6)
    variables = {f"TOKENWIRE_LIMITS__{default}".upper(): str(high)}
    with pytest.raises(ConfigError) as caught:
        load(None, {"limits": {maximum: low}}, variables)
    assert str(caught.value) == f"{next(iter(variables))}: is above limits.{maximum}, {low:g}"
    assert getattr(load(None, {"limits": {maximum: low}}, {}).limits, maximum) == low


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("TOKENWIRE_LIMITS__MAX_STREAMS", "many", "Input should be a valid integer"),
        ("TOKENWIRE_LIMITS__MAX_STREAM", "5", "no such setting"),
        ("TOKENWIRE_LISTEN__X", "5", "no such setting"),
        ("TOKENWIRE_TENANTS____X", "5", "no such setting"),
        ("TOKENWIRE_MODELS", '{"a": {bad', "is not JSON: Expecting property name"),
        ("TOKENWIRE_MODELS", "[" * 100_000, "is nested too deeply"),
        ("TOKENWIRE_MODELS", '{"a/b": {"targe": "x"}}', "a/b.targe: no such setting"),
        (
            "TOKENWIRE_MODELS",
            '{"m": {"targets": ["x/y", {"target": "x/y", "weight": 2}]}}',
            "m.targets.1: 'x/y' is given twice",
        ),
        (
            "TOKENWIRE_MODELS",
            '{"m": {"fallbacks": ["a", "b", "a"]}}',
            "m.fallbacks.2: 'a' is given twice",
        ),
        (
            "TOKENWIRE_MODELS",
            '{"m": {"target": "x/y", "targets": ["x/z"]}}',
            "m.targets: cannot be set together with target",
        ),
        (
            "TOKENWIRE_MODELS",
            '{"m": {"targets": [{"target": "x/y", "weight": -1}]}}',
            "m.targets.0.weight: ",
        ),
        ("TOKENWIRE_LIMITS", '{"linger_s": 601}', "linger_s: is above limits.max_linger_s, 600"),
        (
            "TOKENWIRE_PROVIDERS__LOCAL__KIND",
            "anthropic",
            "providers.local.base_url: Field required",
        ),
        ("TOKENWIRE_LISTEN", "", "must be HOST:PORT"),
        ("TOKENWIRE_TLS__CERT", "", "is empty"),
        ("tokenwire_listen", "nowhere", "must be HOST:PORT"),
    ],
)
def test_a_fault_in_a_variable_names_the_variable_and_not_the_file(
    tmp_path, variable, value, fault
):
    path = tmp_path / "tokenwire.toml"
    path.write_text("[limits]\nmax_streams = 5\n[models.a]\ntarget = 'b/c'\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert fault in str(caught.value)
    assert str(path) not in str(caught.value)


def test_faults_of_several_sources_are_each_named_with_their_own(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text("drain_grace_s = -1\n[limits]\nmax_streams = 5\nmax_readers = 0\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {"listen": "x"}, {"TOKENWIRE_LIMITS__MAX_STREAMS": "0"})
    places = [fault.rpartition(": ")[0] for fault in str(caught.value).split("; ")]
    assert {place.partition(": must")[0] for place in places} == {
        "--listen",
        f"{path}: drain_grace_s",
        "TOKENWIRE_LIMITS__MAX_STREAMS",
        f"{path}: limits.max_readers",
    }


def test_a_value_that_must_be_a_table_is_named_with_its_source(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text("limits = 3\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {"TOKENWIRE_LIMITS__MAX_STREAMS": "5"})
    assert str(caught.value) == f"{path}: limits: must be a table"


PRICES = {"input": 1, "output": 2}


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("TOKENWIRE_MODELS", json.dumps({"openai/GPT-X": {"prices": PRICES}}), "openai/GPT-X"),
        ("TOKENWIRE_MODELS__openai/GPT-X__PRICES", json.dumps(PRICES), "openai/GPT-X"),
        ("TOKENWIRE_MODELS__FAST__PRICES", json.dumps(PRICES), "fast"),
    ],
)
def test_a_model_keeps_the_case_of_its_name_in_variables(variable, value, name):
    (found,) = load(None, {}, {variable: value}).models.items()
    assert (found[0], found[1].prices.output) == (name, 2)


def test_a_variable_of_a_setting_overrides_the_variable_of_its_table():
    variables = {
        "TOKENWIRE_LIMITS__MAX_STREAMS": "7",
        "TOKENWIRE_LIMITS": '{"max_streams": 6, "max_readers": 8}',
    }
    limits = load(None, {}, variables).limits
    assert (limits.max_streams, limits.max_readers) == (7, 8)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\xff", "is not UTF-8 at byte 0"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
        (b"a = " + b"1" * 5000, "Exceeds the limit"),
        (b"a b", "line 1"),
        (b'"\\n" = 1', r"'\n': no such setting"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_with_its_name(tmp_path, content, fault):
    path = tmp_path / "tokenwire.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_bytes("\ufefflisten = '127.0.0.1:7'\n".encode())
    assert load(path, {}, {}).listen == "127.0.0.1:7"


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"])
def test_an_empty_base_url_is_the_default_and_a_bad_one_names_its_variable(name):
    assert known_providers({name: ""}) == known_providers({})
    with pytest.raises(ConfigError) as caught:
        known_providers({name: "http://user:secret@host"})
    assert str(caught.value).startswith(f"{name}: must not contain a user name or a password")
    assert "secret" not in str(caught.value)


def test_the_defaults_are_within_their_own_bounds():
    assert Limits.model_validate(Limits().model_dump()) == Limits()
    assert load(None, {}, {}) == Settings()


def test_variables_of_the_edge_and_of_clients_are_not_settings_of_the_server():
    variables = {"TOKENWIRE_EDGE_LISTEN": "127.0.0.1:8080", "TOKENWIRE_KEY": "tw_1"}
    assert load(None, {}, variables) == load(None, {}, {})


def test_no_variable_of_the_client_is_an_unknown_setting():
    client = Path(__file__).parents[3] / "client/tokenwire"
    names = {
        name
        for path in client.rglob("*.py")
        for name in re.findall(r'"(TOKENWIRE_[A-Z_]+[A-Z])"', path.read_text())
    }
    assert {"TOKENWIRE_TARGET", "TOKENWIRE_HISTORY"} <= names
    load(None, {}, dict.fromkeys(names, "x"))
