import sys

import pytest

from tokenwire_server.config import ConfigError, FilterConfig, load
from tokenwire_server.content.filter_set import NO_FILTERS, FilterSet


def compiled(**fields):
    return FilterSet.of({"secrets": FilterConfig(**{"action": "redact"} | fields)})


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"patterns": ["a", "bcde(?=f)"]}, "patterns[1]: column 5: look-ahead is not supported"),
        ({"patterns": ["a*"]}, "patterns[0]: it matches the empty text"),
        ({"words": ["a", "\u200b"]}, "words[1]: nothing is left of it in the folded text"),
        ({"max_repeats": 3}, "action: repeated text cannot be redacted: most was shown"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_its_path(fields, fault):
    with pytest.raises(ConfigError) as caught:
        compiled(**fields)
    assert str(caught.value) == f"filters.secrets.{fault}"


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(ConfigError, match=r'the package google-re2 is missing: .*\[filters\]"'):
        compiled(patterns=["a"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "filters.secrets: needs at least one of patterns, words, ready_made, max_repeats"),
        ("words = ['a']\nmodel = ['b']", "filters.secrets.model: no such setting"),
        (
            "words = ['a']\napplies_to = []",
            "filters.secrets.applies_to: must have at least 1 item, not 0",
        ),
        ("words = 'a'", "filters.secrets.words: must be a list"),
        ("words = ['a']\nhold_s = 0", "filters.secrets.hold_s: Input should be greater than 0"),
        ("ready_made = ['phone']", "filters.secrets.ready_made.0: Input should be 'card_number'"),
        ("max_repeats = 0", "filters.secrets.max_repeats: Input should be greater than or equal"),
        (
            "words = ['a']\nmax_repeats = 9\napplies_to = ['text', 'input']",
            'filters.secrets.max_repeats: cannot apply to "input"',
        ),
    ],
)
def test_settings_that_are_wrong_are_refused_with_their_path(tmp_path, text, fault):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"[filters.secrets]\naction = 'block'\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert fault in str(caught.value)


def test_a_list_whose_only_member_is_invalid_is_not_also_reported_as_empty(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text("[filters.secrets]\naction = 'block'\nwords = ['a']\napplies_to = ['inputs']\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert "applies_to.0: Input should be" in str(caught.value)
    assert "at least" not in str(caught.value)


def test_a_name_must_be_printable_and_short(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text('[filters."a\\nb"]\naction = "block"\nwords = ["a"]\n')
    with pytest.raises(ConfigError, match="1 to 64 printable characters"):
        load(path, {}, {})


def test_filters_are_chosen_by_tenant_and_model_in_their_order(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text(
        "[filters.z]\naction = 'block'\nwords = ['a']\ntenants = ['acme']\n"
        "[filters.b]\naction = 'block'\nwords = ['a']\n"
        "[filters.a]\naction = 'block'\nwords = ['a']\nmodels = ['fast', 'openai/x']\n"
    )
    filters = FilterSet.of(load(path, {}, {}).filters)

    def names(tenant, model):
        return "".join(chosen.name for chosen in filters.chosen(tenant, model))

    assert names("acme", "fast") == "zba"
    assert names("acme", "openai/y") == "zb"
    assert names("globex", "openai/x") == "ba"
    assert names("globex", "openai/y") == "b"
    assert NO_FILTERS.chosen("acme", "fast") == []


def test_only_filters_that_have_changed_are_compiled_again():
    before = FilterSet.of({name: FilterConfig(action="block", words=("a",)) for name in "abc"})
    after = FilterSet.of(
        {
            "c": FilterConfig(action="block", words=("a",)),
            "b": FilterConfig(action="block", words=("b",)),
            "d": FilterConfig(action="block", words=("a",)),
        },
        before,
    )
    compiled_before = {each.name: each.compiled for each in before.chosen("", "")}
    compiled_after = {each.name: each.compiled for each in after.chosen("", "")}
    assert list(compiled_after) == ["c", "b", "d"]
    assert compiled_after["c"] is compiled_before["c"]
    assert compiled_after["b"] is not compiled_before["b"]


def test_all_kinds_of_rules_of_a_filter_are_looked_for():
    chosen = compiled(
        patterns=["bb+"], words=["see"], ready_made=["email", "iban", "email"], look_alikes=True
    ).chosen("", "")
    text = chosen[0].compiled.new()
    shown = text.feed("abbb see m@example.com s\u0435\u0435 seen ") + text.finish()
    assert shown == "a[redacted] [redacted] [redacted] [redacted] seen "


def test_a_request_cannot_be_redacted(tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text(
        "[filters.a]\naction = 'redact'\nwords = ['a']\napplies_to = ['text', 'input']\n"
    )
    with pytest.raises(ConfigError, match=r'filters\.a\.action: "redact" cannot apply to "input"'):
        load(path, {}, {})


def test_filters_of_input_and_of_output_are_chosen_separately():
    filters = FilterSet.of(
        {
            name: FilterConfig(action="block", words=["a"], applies_to=kinds, tenants=["acme"])
            for name, kinds in (("i", ["input"]), ("b", ["text", "input"]), ("o", ["text"]))
        }
    )
    assert [each.name for each in filters.of_input("acme", "fast")] == ["i", "b"]
    assert [each.name for each in filters.chosen("acme", "fast")] == ["b", "o"]
    assert filters.of_input("globex", "fast") == []
