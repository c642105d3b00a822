import json

import pytest

from tokenwire_server.config import ConfigError, load
from tokenwire_server.config.http_fields import Variable

AZURE = "[providers.azure]\nkind = 'openai-chat'\nbase_url = 'https://a.test/openai/v1'\n"


@pytest.mark.parametrize("field", ["headers", "query"])
def test_a_value_is_a_string_or_names_an_environment_variable(tmp_path, field):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"{AZURE}{field} = {{ a-b = 'x', 'C' = {{ env = 'AZURE_KEY' }} }}\n")
    azure = load(path, {}, {}).providers["azure"]
    assert getattr(azure, field) == {"a-b": "x", "C": Variable("AZURE_KEY")}
    variable = {f"TOKENWIRE_PROVIDERS__AZURE__{field.upper()}": json.dumps({"C": "$y"})}
    changed = load(path, {}, variable).providers["azure"]
    assert getattr(changed, field) == {"a-b": "x", "C": "$y"}


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("headers = { 'a b' = 'x' }", "headers.a b: is not the name of a header"),
        ("headers = { '' = 'x' }", "is not the name of a header"),
        *(
            (f"headers = {{ {name} = 'x' }}", f"headers.{name}: cannot be configured")
            for name in (
                *("Host", "content-length", "Transfer-Encoding", "Accept-Encoding", "TE"),
                *("Traceparent", "tracestate"),
            )
        ),
        ("headers = { a = 'x', A = 'y' }", "headers.A: is given twice"),
        ('headers = { a = "canary\\r\\nx: y" }', "headers.a: must contain only printable ASCII"),
        ("headers = { a = 'canaryé' }", "headers.a: must contain only printable ASCII"),
        ("headers = { a = '' }", "headers.a: is empty"),
        ("headers = { a = 7 }", "headers.a: must be a string or"),
        ("headers = { a = { env = 'A', b = 'canary' } }", "headers.a: must be a string or"),
        ("headers = { a = { env = 'A=B' } }", "headers.a.env: is not the name of an environment"),
        ("headers = 'canary'", "headers: must be a table"),
        ('query = { "a\\n" = "x" }', "is empty, too long, or contains a control character"),
        (f"query = {{ a = '{'x' * 9000}' }}", "query.a: is longer than 8192 characters"),
        (
            f"query = {{ {', '.join(f'a{n} = 1' for n in range(33))} }}",
            "query: has more than 32 entries",
        ),
    ],
)
def test_an_invalid_field_is_named_without_its_value(tmp_path, fields, fault):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"{AZURE}{fields}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert fault in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "canary" not in str(caught.value)
