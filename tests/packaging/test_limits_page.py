"""docs/limits.md names each limit of the server, with its default."""

import re

from docs_pages import text_of

from tokenwire_server.config import Limits

UNITS = {"": 1, " s": 1, " KiB": 2**10, " MiB": 2**20}


def value_of(text):
    """Return a default as the page writes it: `8 MiB`, or `4 MiB - 4 KiB`."""
    first, *others = re.findall(r"([\d,]+)((?: s| KiB| MiB)?)", text.partition(";")[0])
    numbers = [int(number.replace(",", "")) * UNITS[unit] for number, unit in (first, *others)]
    return numbers[0] - sum(numbers[1:])


def test_the_page_of_limits_has_the_defaults_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \|(.+)\|$", text_of("docs/limits.md"), re.MULTILINE)
    assert len(rows) == 15
    for name, cells in rows:
        default = cells.split("|")[-2].strip()
        assert value_of(default) == Limits.model_fields[name].default, name


def test_the_page_of_limits_names_every_maximum_that_callers_do_not_set():
    text = text_of("docs/limits.md")
    maxima = {name for name in Limits.model_fields if name.startswith(("max_", "upstream_"))}
    of_callers = {"max_linger_s", "max_log_ttl_s", "max_cache_ttl_s", "max_cached_answer_bytes"}
    assert {name for name in maxima if f"`{name}`" not in text} == of_callers
