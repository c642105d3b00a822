"""The reference of the Python client is written from the docstrings, which all public names have."""

import inspect
import re
import runpy

import pytest
from docs_pages import ROOT, blocks_of, text_of
from google.protobuf.message import Message

import tokenwire

PUBLIC = {name: getattr(tokenwire, name) for name in tokenwire.__all__}
OWN = {
    name: each
    for name, each in PUBLIC.items()
    if not (inspect.isclass(each) and issubclass(each, Message))
}
"""The names that the client defines. The protos describe the messages."""


def members_of(kind):
    """Yield the members of a class, and of its bases in the package that are not public."""
    for each in kind.__mro__:
        if each is kind or (
            each.__module__.startswith("tokenwire.") and each.__name__ not in PUBLIC
        ):
            yield from vars(each).items()


def members():
    """Yield the name and the object of each public function, class, method and property."""
    for name, each in OWN.items():
        if not (inspect.isclass(each) or inspect.isfunction(each)):
            continue  # an alias of a type: the reference has the string below it
        yield name, each
        for member, value in members_of(each) if inspect.isclass(each) else ():
            function = getattr(value, "__func__", value)
            is_own = inspect.isfunction(function) or isinstance(function, property)
            if is_own and not member.startswith("_"):
                yield f"{name}.{member}", function


def test_the_reference_is_written_from_the_docstrings(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = runpy.run_path(str(ROOT / "scripts" / "python_reference.py"))["page"]
    assert text_of("docs/python-reference.md") == page(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_in_the_reference(name):
    async_name = f"Async{name}"
    shown = async_name if async_name in PUBLIC else name
    assert re.search(rf"`{shown}[`(]", text_of("docs/python-reference.md"))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_has_a_link_to_an_example_that_is_run(name):
    has_async_name = f"Async{name}" in PUBLIC
    shown, label = (f"Async{name}", "With threads") if has_async_name else (name, "Example")
    entry = re.search(
        rf"^(?:### `{shown}[`(]|- `{shown}`: \[\w+\.proto\]).*?(?=\n(?:#|- )|\Z)",
        text_of("docs/python-reference.md"),
        re.MULTILINE | re.DOTALL,
    )
    link = re.search(rf"{label}: \[[^\]]+\]\(([\w-]+\.md)#", entry[0])
    assert link, f"no python block of docs/*.md uses tokenwire.{name}"
    programs = [
        block.text
        for block in blocks_of(f"docs/{link[1]}")
        if block.language == "python" and not block.why_not
    ]
    assert any(re.search(rf"\b{name}\b", program) for program in programs)


@pytest.mark.parametrize(("name", "value"), list(members()))
def test_everything_public_has_a_docstring_and_types(name, value):
    assert inspect.getdoc(value), name
    function = value.fget if isinstance(value, property) else value
    if inspect.isfunction(function):
        signature = inspect.signature(function)
        typed = [
            each.annotation
            for each in signature.parameters.values()
            if each.name not in {"self", "cls"}
        ]
        assert inspect.Signature.empty not in [*typed, signature.return_annotation]
