"""Types of JSON answers."""

from typing import TYPE_CHECKING

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A value of JSON, as Python's `json` reads it."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ParsedT_co = TypeVar("ParsedT_co", covariant=True, default=Json)
    """Type of the object that an answer becomes: the class in `response_format`. Without one, JSON."""
else:
    from typing import TypeVar

    ParsedT_co = TypeVar("ParsedT_co", covariant=True)  # Python 3.11 has no defaults
