"""Classes as formats of answers: what is requested, and what comes back."""

import dataclasses
import datetime
import json
import subprocess
import sys
from typing import Annotated, Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from tokenwire.errors import InvalidAnswer, Violation
from tokenwire.structured.answer_type import answer_type, answer_type_of

T = TypeVar("T")


@dataclasses.dataclass
class Step:
    title: str
    minutes: int = 5


@dataclasses.dataclass
class Plan:
    """A plan of a trip."""

    title: Annotated[str, msgspec.Meta(description="at most 40 letters", max_length=40)]
    steps: list[Step]
    first: Step | None = None


class AnyStruct(msgspec.Struct):
    value: Any


class AnyModel(pydantic.BaseModel):
    value: Any


class PlanStruct(msgspec.Struct):
    title: str
    steps: list[Step]


class PlanDict(TypedDict):
    title: str
    steps: list[Step]
    note: NotRequired[str]


class StepModel(pydantic.BaseModel):
    title: str
    minutes: int = pydantic.Field(5, ge=1)


class PlanModel(pydantic.BaseModel):
    title: str
    steps: list[StepModel]
    next: "PlanModel | None" = None


@pydantic.dataclasses.dataclass
class PlanOfPydantic:
    title: str
    steps: list[StepModel]


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Pet(msgspec.Struct):
    pet: Cat | Dog
    seen: datetime.date


class Tree(msgspec.Struct):
    name: str
    children: list["Tree"]


def schema_of(kind):
    return json.loads(answer_type(kind).response_format.json_schema.schema_json)


def schemas_in(schema):
    match schema:
        case dict():
            yield schema
            for each in schema.values():
                yield from schemas_in(each)
        case list():
            for each in schema:
                yield from schemas_in(each)


ALL = [Plan, PlanStruct, PlanDict, PlanModel, PlanOfPydantic, Page[Step], Pet, Tree]


@pytest.mark.parametrize("kind", ALL)
def test_schemas_are_in_the_subset_of_strict_mode(kind):
    """https://platform.openai.com/docs/guides/structured-outputs#supported-schemas"""
    assert answer_type(kind).response_format.json_schema.strict
    schema = schema_of(kind)
    assert schema["type"] == "object"
    for each in schemas_in(schema):
        if each.get("type") == "object":
            assert each["additionalProperties"] is False
            assert each["required"] == list(each["properties"])
        assert "$ref" not in each or list(each) == ["$ref"]
        assert not each.keys() & {"default", "oneOf", "discriminator", "maxLength", "minimum"}


def test_descriptions_reach_the_model_with_the_constraints_that_providers_refuse():
    schema = schema_of(Plan)
    assert schema["description"] == "A plan of a trip."
    assert schema["properties"]["title"] == {
        "type": "string",
        "description": "at most 40 letters (maxLength: 40)",
    }
    minutes = schema_of(PlanModel)["$defs"]["StepModel"]["properties"]["minutes"]
    assert minutes == {"type": "integer", "title": "Minutes", "description": "(minimum: 1)"}


class Described(msgspec.Struct):
    step: Annotated[Step, msgspec.Meta(description="the first one")]


class DescribedModel(pydantic.BaseModel):
    step: StepModel = pydantic.Field(description="the first one")


@pytest.mark.parametrize(("kind", "name"), [(Described, "Step"), (DescribedModel, "StepModel")])
def test_a_reference_has_no_keywords_beside_it(kind, name):
    """OpenAI refuses them."""
    step = schema_of(kind)["properties"]["step"]
    assert step == {"description": "the first one", "anyOf": [{"$ref": f"#/$defs/{name}"}]}


def test_only_definitions_that_are_used_are_sent():
    assert schema_of(PlanStruct).keys() >= {"$defs"}
    assert schema_of(PlanStruct)["$defs"].keys() == {"Step"}
    assert schema_of(Tree)["$defs"].keys() == {"Tree"}
    assert "$defs" not in schema_of(Step)


@pytest.mark.parametrize(
    ("field", "value"),
    [(dict[str, int], {"b": 1}), (Any, None), (tuple[int, str], [1, "b"]), (list, []), (dict, {})],
)
def test_a_field_that_strict_mode_cannot_describe_makes_the_schema_not_strict(field, value):
    kind = dataclasses.make_dataclass("Kind", [("title", str), ("field", field)])
    assert not answer_type(kind).response_format.json_schema.strict
    assert schema_of(kind)["required"] == ["title", "field"]
    assert answer_type(kind).parse(json.dumps({"title": "a", "field": value})).title == "a"


def test_a_mapping_keeps_the_schema_of_its_values():
    kind = dataclasses.make_dataclass("Kind", [("steps", dict[str, Step])])
    steps = schema_of(kind)["properties"]["steps"]
    assert steps["additionalProperties"] == {"$ref": "#/$defs/Step"}


def test_the_name_is_one_that_providers_accept():
    assert answer_type(Page[Step]).response_format.json_schema.name == "Page"
    kind = dataclasses.make_dataclass("Größe" * 20, [("x", int)])
    name = answer_type(kind).response_format.json_schema.name
    assert name.startswith("Gr_e")
    assert len(name) == 64


TEXT = '{"title":"a","steps":[{"title":"b"},{"title":"c","minutes":7}]}'


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Plan, Plan("a", [Step("b"), Step("c", 7)])),
        (PlanStruct, PlanStruct("a", [Step("b"), Step("c", 7)])),
        (PlanDict, {"title": "a", "steps": [Step("b"), Step("c", 7)]}),
        (
            PlanModel,
            PlanModel(title="a", steps=[StepModel(title="b"), StepModel(title="c", minutes=7)]),
        ),
        (
            PlanOfPydantic,
            PlanOfPydantic("a", [StepModel(title="b"), StepModel(title="c", minutes=7)]),
        ),
    ],
)
def test_the_answer_becomes_an_object_of_the_class_with_its_defaults(kind, value):
    parsed = answer_type(kind).parse(TEXT)
    assert parsed == value
    assert type(parsed) is type(value)


def test_unions_and_generic_classes_are_read():
    assert answer_type(Pet).parse('{"pet":{"type":"Dog","name":"Rex"},"seen":"2026-11-30"}') == Pet(
        Dog("Rex"), datetime.date(2026, 11, 30)
    )
    assert answer_type(Page[Step]).parse('{"items":[{"title":"a"}]}') == Page([Step("a")])


@pytest.mark.parametrize(
    ("kind", "text", "violation"),
    [
        (
            Plan,
            '{"title":"a","steps":[{"title":1}]}',
            ("/steps/0/title", "Expected `str`, got `int`"),
        ),
        (Plan, '{"title":"a"}', ("", "Object missing required field `steps`")),
        (
            Plan,
            '{"title":"%s","steps":[]}' % ("a" * 41),
            ("/title", "Expected `str` of length <= 40"),
        ),
        (Plan, '{"title":', ("", "Input data was truncated")),
        (Plan, "", ("", "Input data was truncated")),
        (PlanDict, '{"title":"a","steps":[7]}', ("/steps/0", "Expected `object`, got `int`")),
        (
            PlanModel,
            '{"title":"a","steps":[{"title":"b","minutes":0}]}',
            ("/steps/0/minutes", "Input should be greater than or equal to 1"),
        ),
        (PlanModel, "{", ("", "Invalid JSON: EOF while parsing an object at line 1 column 1")),
    ],
)
def test_what_the_class_does_not_accept_is_reported_with_its_place(kind, text, violation):
    with pytest.raises(InvalidAnswer) as caught:
        answer_type(kind).parse(text)
    assert caught.value.text == text
    assert caught.value.violations == (Violation(*violation),)
    assert violation[1] in str(caught.value)


def test_pydantic_reports_every_violation():
    with pytest.raises(InvalidAnswer) as caught:
        answer_type(PlanModel).parse('{"title":1,"steps":[{}]}')
    assert [each.field for each in caught.value.violations] == ["/title", "/steps/0/title"]


@pytest.mark.parametrize("kind", [AnyStruct, AnyModel])
def test_an_answer_that_is_nested_too_deep_is_invalid(kind):
    depth = 100_000
    text = f'{{"value": {"[" * depth}{"]" * depth}}}'
    with pytest.raises(InvalidAnswer) as caught:
        answer_type(kind).parse(text)
    assert caught.value.text == text


def test_the_place_ends_at_a_key_that_msgspec_does_not_report():
    kind = dataclasses.make_dataclass("Kind", [("steps", dict[str, Step])])
    with pytest.raises(InvalidAnswer) as caught:
        answer_type(kind).parse('{"steps":{"a":{"title":1}}}')
    assert caught.value.violations[0].field == "/steps"


class Renamed(msgspec.Struct, rename={"part": "a/b~c"}):
    part: int


class RenamedModel(pydantic.BaseModel):
    part: int = pydantic.Field(alias="a/b~c")


@pytest.mark.parametrize("kind", [Renamed, RenamedModel])
def test_the_place_is_a_json_pointer_with_the_names_of_the_answer(kind):
    assert "a/b~c" in schema_of(kind)["properties"]
    with pytest.raises(InvalidAnswer) as caught:
        answer_type(kind).parse('{"a/b~c": "x"}')
    assert caught.value.violations[0].field == "/a~1b~0c"


class Pair(NamedTuple):
    a: int
    b: int


class Row(msgspec.Struct, array_like=True):
    a: int


class Odd(msgspec.Struct):
    thread: subprocess.Popen


@dataclasses.dataclass
class Unresolved:
    thing: "Missing"  # noqa: F821


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int cannot be a response_format: give a dataclass, a TypedDict"),
        (dict, "dict cannot be a response_format: give a dataclass"),
        (list[Step], "list cannot be a response_format: give a dataclass"),
        (Pair, "Pair cannot be a response_format: give a dataclass"),
        (Row, "Row cannot be a response_format: an answer must be an object with named fields"),
        (
            Odd,
            "^Odd cannot be a response_format: type <class 'subprocess.Popen'> is not supported$",
        ),
        (Unresolved, "^Unresolved cannot be a response_format: name 'Missing' is not defined$"),
    ],
)
def test_other_classes_are_refused_when_the_request_is_made(kind, text):
    with pytest.raises(TypeError, match=text):
        answer_type_of(kind)


def test_instances_and_formats_are_not_classes():
    assert answer_type_of(Step) is answer_type(Step)
    assert answer_type_of(Page[Step]) is answer_type(Page[Step])
    for value in (Step("a"), answer_type(Step).response_format, {"text": {}}, None):
        assert answer_type_of(value) is None


WITHOUT_MSGSPEC = """
import sys
sys.modules["msgspec"] = None
import dataclasses, pydantic
from tokenwire.structured.answer_type import answer_type

class Model(pydantic.BaseModel):
    a: int

print(answer_type(Model).parse('{"a":1}'))

@dataclasses.dataclass
class Step:
    title: str

try:
    answer_type(Step)
except ImportError as error:
    print(error)
"""


@pytest.mark.process
def test_without_the_extra_the_error_names_it_and_a_pydantic_model_works():
    run = [sys.executable, "-c", WITHOUT_MSGSPEC]
    done = subprocess.run(run, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == (
        "a=1\n"
        "a dataclass, TypedDict or Struct as response_format requires msgspec, from the extra `structured`: "
        'pip install "tokenwire[structured]"\n'
    )
