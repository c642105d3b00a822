"""Types of JSON answers."""

from typing import TYPE_CHECKING

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A JSON value, as `json.loads` returns it."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ParsedT_co = TypeVar("ParsedT_co", covariant=True, default=Json)
    """Type of the parsed answer: the class in `response_format`, or JSON if there is none."""
else:
    from typing import TypeVar

    ParsedT_co = TypeVar("ParsedT_co", covariant=True)  # Python 3.11 has no defaults
