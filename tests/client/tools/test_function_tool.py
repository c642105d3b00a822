import dataclasses
import enum
import functools
import json
import math
import subprocess
import sys
from contextlib import suppress
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.tools.arguments import InvalidArguments
from tokenwire.tools.function_tool import to_function_tools


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


@dataclasses.dataclass
class Place:
    latitude: float
    longitude: float = 0.0


class Span(TypedDict, total=False):
    days: int


class Options(msgspec.Struct):
    is_short: bool = False


def schema_of(annotation, *default):
    """Return the schema of the only parameter of a function."""

    def function(value): ...

    function.__annotations__["value"] = annotation
    function.__defaults__ = default
    return tokenwire.function_tool(function).parameters


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (Any, {}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal["a", "b"], {"enum": ["a", "b"]}),
        (Annotated[int, msgspec.Meta(ge=1, le=7)], {"type": "integer", "minimum": 1, "maximum": 7}),
        (Annotated[str, msgspec.Meta(description="A city")], {"type": "string", "description": "A city"}),
        (Annotated[str, "A city"], {"type": "string", "description": "A city"}),
    ],
)  # fmt: skip
def test_the_schema_of_a_parameter_is_that_of_its_type(annotation, schema):
    assert schema_of(annotation) == {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("annotation", "definition"),
    [
        (Unit, {"enum": ["c", "f"]}),
        (Place, {"type": "object", "properties": {"latitude": {"type": "number"}, "longitude": {"type": "number", "default": 0.0}}, "required": ["latitude"]}),
        (Span, {"type": "object", "properties": {"days": {"type": "integer"}}, "required": []}),
        (Options, {"type": "object", "properties": {"is_short": {"type": "boolean", "default": False}}, "required": []}),
    ],
)  # fmt: skip
def test_a_type_with_a_name_is_a_definition_of_the_schema(annotation, definition):
    schema = schema_of(annotation)
    assert schema["properties"]["value"] == {"$ref": f"#/$defs/{annotation.__name__}"}
    assert schema["$defs"] == {annotation.__name__: {"title": annotation.__name__} | definition}


@pytest.mark.parametrize("default", [None, 3, "x", 1.5, True])
def test_a_parameter_with_a_default_is_optional_and_shows_it(default):
    schema = schema_of(Any, default)
    assert schema["required"] == []
    assert schema["properties"]["value"] == {"default": default}


@dataclasses.dataclass
class Limits:
    most: float = math.inf


def test_a_default_that_json_does_not_have_is_not_in_the_schema():
    def find(limits: list[Limits], price: float = math.inf, weight: float = math.nan) -> None: ...

    made = tokenwire.function_tool(find)
    text = made.definition.parameters_json_schema
    schema = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert schema["required"] == ["limits"]
    assert schema["$defs"]["Limits"]["required"] == []
    assert made.decode('{"limits": []}')["price"] == math.inf


def test_the_description_is_the_docstring_and_its_args_describe_the_parameters():
    def forecast(city: str, days: int = 1, place: Place | None = None) -> str:
        """Return the weather
        in a city.

        It has rain and temperature.

        Args:
            city: Name of the city,
                in English.
                Note: no country.
            days (int): Number of days.
            unknown: Not a parameter.

        Returns:
            A text.
        """

    made = tokenwire.function_tool(forecast)
    assert made.name == "forecast"
    assert made.description == "Return the weather\nin a city.\n\nIt has rain and temperature."
    described = {
        name: each.get("description") for name, each in made.parameters["properties"].items()
    }
    assert described == {
        "city": "Name of the city, in English. Note: no country.",
        "days": "Number of days.",
        "place": None,
    }
    assert made.definition.name == "forecast"
    assert json.loads(made.definition.parameters_json_schema) == made.parameters


def test_a_name_and_a_description_can_be_given_also_as_a_decorator():
    @tokenwire.function_tool(name="get-time", description="The time")
    def now() -> str:
        return "noon"

    assert (now.name, now.description, now()) == ("get-time", "The time", "noon")
    assert tokenwire.function_tool(now.function).name == "now"


def test_arguments_are_converted_to_the_types_of_the_parameters():
    def f(place: Place, unit: Unit = Unit.CELSIUS, tags: list[str] = ["x"]): ...  # noqa: B006

    decode = tokenwire.function_tool(f).decode
    assert decode('{"place": {"latitude": 1}, "unit": "f"}') == {
        "place": Place(1.0),
        "unit": Unit.FAHRENHEIT,
        "tags": ["x"],
    }


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('{"city": 7}', "Expected `str`, got `int` - at `$.city`"),
        ("{}", "Object missing required field `city`"),
        ("", "Object missing required field `city`"),
        ('{"city": "B", "town": "B"}', "Object contains unknown field `town`"),
        ('{"city": "B", "days": 8}', "Expected `int` <= 7 - at `$.days`"),
        ("[]", "Expected `object`, got `array`"),
        ("null", "Expected `object`, got `null`"),
        ('{"city": "', "Input data was truncated"),
        ('{"city": ' + "[" * 100_000, "Expected `str`, got `array` - at `$.city`"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_place(arguments, problem):
    def f(city: str, days: Annotated[int, msgspec.Meta(le=7)] = 1): ...

    with pytest.raises(InvalidArguments) as caught:
        tokenwire.function_tool(f).decode(arguments)
    assert str(caught.value) == problem


@given(st.text() | st.from_type(dict).map(str) | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(json.dumps))  # fmt: skip
def test_any_text_is_decoded_or_refused(text):
    def f(city: str = "", tags: list[int] = []): ...  # noqa: B006

    for made in (
        tokenwire.function_tool(f),
        tokenwire.function_tool(f, parameters={"type": "object"}),
    ):
        with suppress(InvalidArguments):
            assert isinstance(made.decode(text), dict)


@dataclasses.dataclass
class Table:
    rows: dict[str, int]

    def __post_init__(self):
        self.first = self.rows["first"]


def test_what_a_class_raises_when_its_object_is_made_is_a_fault_of_the_arguments():
    def show(table: Table) -> None: ...

    decode = tokenwire.function_tool(show).decode
    with pytest.raises(InvalidArguments, match="first"):
        decode('{"table": {"rows": {}}}')


def test_a_tool_with_its_own_schema_gets_plain_values():
    def f(**arguments): ...

    schema = {"type": "object", "properties": {"x": {}}}
    made = tokenwire.function_tool(f, parameters=schema)
    assert made.parameters == schema
    assert made.decode('{"x": [1]}') == {"x": [1]}
    for text in ("[]", "{", "[" * 100_000):
        with pytest.raises(InvalidArguments):
            made.decode(text)


class Calculator:
    factor = 2

    def double(self, value: int) -> int:
        """Return twice the value."""
        return self.factor * value

    async def __call__(self, value: int) -> int:
        """Return the value."""
        return value


def variadic(*values: int): ...
def keywords(**values: int): ...
def positional(value: int, /): ...
def untyped(value): ...
def custom(value: InvalidArguments): ...
def ambiguous(value: Place | Span): ...
def unresolved(value: "Missing"): ...  # noqa: F821
def generator(value: int):
    yield value


async def async_generator(value: int):
    yield value


def constrained(value: Annotated[str, msgspec.Meta(ge=1)]): ...  # fmt: skip


@pytest.mark.parametrize(
    ("function", "error", "problem"),
    [
        (variadic, TypeError, r"tool variadic cannot have \*values"),
        (keywords, TypeError, r"tool keywords cannot have \*\*values"),
        (positional, TypeError, "positional-only parameter 'value'"),
        (untyped, TypeError, "tool untyped: parameter 'value' has no type hint"),
        (custom, TypeError, "the type of parameter 'value' has no JSON Schema.*InvalidArguments"),
        (ambiguous, TypeError, "tool ambiguous: .*'value'"),
        (unresolved, TypeError, "the type hints cannot be read: name 'Missing'"),
        (constrained, TypeError, "tool constrained: .*'value'"),
        (generator, TypeError, "cannot be a generator"),
        (async_generator, TypeError, "cannot be a generator"),
        (Place, TypeError, "not the class Place"),
        ("text", TypeError, "not str"),
        (tokenwire.function_tool(lambda: 1, name="x"), TypeError, "a tool already"),
        (lambda: 1, ValueError, "not '<lambda>'"),
        (Calculator(), ValueError, "not ''"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_when_the_tool_is_made(function, error, problem):
    with pytest.raises(error, match=problem):
        tokenwire.function_tool(function)


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65])
def test_a_name_that_the_server_refuses_is_refused(name):
    with pytest.raises(ValueError, match="1 to 64"):
        tokenwire.function_tool(lambda: 1, name=name)


def test_methods_partial_functions_and_objects_that_can_be_called_are_tools():
    double = tokenwire.function_tool(Calculator().double)
    assert double(**double.decode('{"value": 2}')) == 4
    assert double.description == "Return twice the value."
    assert not double.is_async
    called = tokenwire.function_tool(Calculator(), name="identity")
    assert called.is_async
    assert tokenwire.function_tool(functools.partial(Calculator()), name="identity").is_async
    assert called.description == "Return the value."
    assert called.parameters["properties"] == {"value": {"type": "integer"}}


def test_what_a_partial_function_sets_is_hidden_from_the_model():
    def read(user: str, page: int = 1):
        """Return a page."""
        return user, page

    made = tokenwire.function_tool(functools.partial(read, user="secret"))
    assert (made.name, made.description) == ("read", "Return a page.")
    assert "secret" not in made.definition.parameters_json_schema
    assert made.parameters["properties"].keys() == {"page"}
    assert made(**made.decode('{"page": 2}')) == ("secret", 2)
    with pytest.raises(InvalidArguments):
        made.decode('{"user": "other"}')


def test_a_run_needs_functions_with_different_names():
    def f(): ...

    made = tokenwire.function_tool(f, name="g")
    assert to_function_tools([f, made]).keys() == {"f", "g"}
    with pytest.raises(ValueError, match="two tools have the name 'f'"):
        to_function_tools([f, f])
    for definition in (tokenwire.tool("f"), {"name": "f"}):
        with pytest.raises(TypeError, match="needs a function"):
            to_function_tools([definition])


def test_the_builder_of_definitions_refuses_a_function():
    with pytest.raises(TypeError, match="function_tool"):
        tokenwire.tool(variadic)


WITHOUT_EXTRA = """
import sys
sys.modules["msgspec"] = None
import tokenwire
from tokenwire.tools.outcome import returned
def f(x: int): ...
made = tokenwire.function_tool(f, parameters={"type": "object"})
assert made.decode('{"x": 1}') == {"x": 1}
assert returned({"a": [1]}).text == '{"a": [1]}'
assert returned({1, 2}).error is not None
try:
    tokenwire.function_tool(f)
except ImportError as error:
    print(error)
"""


@pytest.mark.process
def test_without_the_extra_the_error_names_it_and_own_schemas_work():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA], capture_output=True, text=True, timeout=30
    )
    assert 'pip install "tokenwire[structured]"' in done.stdout, done.stderr
