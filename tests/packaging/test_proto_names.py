"""The protos can be compiled for other languages as they are."""

from importlib import import_module
from pkgutil import iter_modules

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tokenwire import v1

PROTOS = [
    import_module(f"tokenwire.v1.{module.name}").DESCRIPTOR
    for module in iter_modules(v1.__path__)
    if module.name.endswith("_pb2")
]


def messages_in(container):
    nested = "message_types_by_name" if hasattr(container, "package") else "nested_types_by_name"
    for message in getattr(container, nested).values():
        yield message
        yield from messages_in(message)


def accessors_in_java(field: FieldDescriptor) -> set[str]:
    """Return the suffixes of the names that Java's generator derives from a field's name."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"map", "count"}
    derived = {"list", "count"} if field.is_repeated else set()
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return derived | {"bytes"}
        case FieldDescriptor.TYPE_ENUM:
            return derived | {"value"}
        case FieldDescriptor.TYPE_MESSAGE:
            return derived | {"builder", "or_builder"}
    return derived


@pytest.mark.parametrize("proto", PROTOS, ids=lambda proto: proto.name)
def test_no_field_has_a_name_that_java_derives_from_another_field(proto):
    collisions = []
    message: Descriptor
    for message in messages_in(proto):
        names = {field.name for field in message.fields}
        derived = {f"{f.name}_{suffix}" for f in message.fields for suffix in accessors_in_java(f)}
        derived |= {f"{oneof.name}_case" for oneof in message.oneofs}
        collisions += [f"{message.name}.{name}" for name in names & derived]
    assert not collisions


@pytest.mark.parametrize("proto", PROTOS, ids=lambda proto: proto.name)
def test_every_proto_has_the_options_of_each_generator(proto):
    options = proto.GetOptions()
    assert options.go_package.endswith("/tokenwire/v1;tokenwirev1")
    assert (options.java_package, options.java_multiple_files) == ("dev.tokenwire.v1", True)
    assert options.csharp_namespace == "Tokenwire.V1"
