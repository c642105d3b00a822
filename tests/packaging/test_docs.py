"""The blocks of code and output in README.md and docs/ are true, in the order in which they are read."""

import json
import os
import re
import runpy
import socket
import textwrap
import tomllib
from dataclasses import replace

import pytest
from docs_pages import (
    BROWSER_LANGUAGES,
    DRAWINGS,
    EXCERPTS,
    PAGES,
    ROOT,
    TEXTS,
    all_blocks,
    text_of,
)
from docs_reader import Reader, copy_of_the_clone, environ_of_a_reader, forked_commands
from docs_terminal import Terminal

import tokenwire
from tokenwire.v1 import error_pb2, event_pb2
from tokenwire_edge import settings as edge_settings
from tokenwire_server.config import BreakerConfig, load
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.monitoring import read_at_scrapes
from tokenwire_server.routing.breakers import Breakers
from tokenwire_server.rpc.status import CODES
from tokenwire_server.streams.metrics import add_breakers, add_latency
from tokenwire_server.streams.otel_metrics import INSTRUMENTS
from tokenwire_server.telemetry.metrics import Metrics
from tokenwire_server.telemetry.semconv import ATTRIBUTES

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_EDGE_ADDRESS = "127.0.0.1:8080"
METRICS_ADDRESS = "127.0.0.1:9464"
MODERATOR_PORT = "8090"

FOLDERS = ("client", "deploy", "docs", "protos", "requirements", "scripts", "server", "tests")
"""The folders of the repository whose paths the pages name."""

NOT_RUN = {
    ("docs/deployment.md", "it needs a container engine"),
    ("docs/deployment.md", "it needs a Kubernetes cluster"),
    ("docs/deployment.md", "it needs root, and changes the machine"),
    ("docs/edge-operations.md", "it needs root, and changes the machine"),
    ("docs/replicas.md", "it needs root, and changes the machine"),
    ("docs/operations.md", "it needs Prometheus"),
    ("docs/operations.md", "tests/deploy/test_backup.py runs it, with a server"),
    (
        "docs/quickstart.md",
        "it needs a package index; tests/packaging/test_extras.py installs the wheels",
    ),
    ("client/README.md", "it needs a package index; tests/packaging/test_extras.py installs it"),
    ("client/README.md", "it needs a package index"),
    ("docs/web-servers.md", "it needs a package index"),
    ("server/README.md", "it needs a package index; tests/packaging/test_extras.py installs it"),
    ("docs/python-reference.md", "it is a fragment from a docstring"),
}
"""The blocks that are marked as not run: the page, and the reason."""

FRAGMENT = """\
import asyncio
import tokenwire

async def main():
    async with tokenwire.AsyncClient() as client:
{}
asyncio.run(main())
"""


def unused_address():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def blocks_with(address, edge_address, metrics_address):
    """Return the blocks of all pages, with these addresses instead of the defaults."""
    moderator_port = unused_address().rpartition(":")[2]

    def with_addresses(text):
        text = text.replace(DEFAULT_ADDRESS, address).replace(DEFAULT_EDGE_ADDRESS, edge_address)
        text = text.replace(METRICS_ADDRESS, metrics_address)
        return text.replace(MODERATOR_PORT, moderator_port)

    return [replace(block, text=with_addresses(block.text)) for block in all_blocks()]


def can_run(command):
    """Return whether the command's tool is installed: `make tools` needs the network, and Go."""
    line, _ = command
    has_grpcurl = (ROOT / ".tools/bin/grpcurl").exists()
    assert has_grpcurl or not os.environ.get("REQUIRE_ALL_TESTS"), (
        "`make tools` installs grpcurl (needs Go)"
    )
    return has_grpcurl or ("grpcurl" not in line and line != "make tools")


@pytest.mark.timeout(600)
def test_the_commands_and_programs_of_all_pages_work_in_one_terminal(tmp_path):
    folder = copy_of_the_clone(tmp_path)
    address, edge_address = unused_address(), unused_address()
    ran_count = 0
    has_forked = False
    usual_pace = folder / "usual_pace"
    environ = environ_of_a_reader(address, edge_address, usual_pace)
    with Terminal(folder, environ) as terminal:
        reader = Reader(terminal, folder, usual_pace)
        for block in blocks_with(address, edge_address, unused_address()):
            if block.why_not:
                continue
            if block.saved_as:
                reader.save(block.saved_as, block.text)
            elif block.language == "python":
                reader.save("fragment.py", FRAGMENT.format(textwrap.indent(block.text, " " * 8)))
                reader.run(block.place, "fragment fragment.py", "")
            elif not block.language:
                for line, wanted in filter(can_run, block.commands()):
                    reader.run(block.place, line, wanted)
                    if (
                        line == "source .venv/bin/activate"
                    ):  # `make demo` has run the commands themselves
                        terminal.run(f"export PATH={forked_commands(folder)}:$PATH")
                        has_forked = True
                    ran_count += 1
    assert not reader.mismatches, "\n".join(reader.mismatches)
    assert ran_count >= 30
    assert has_forked


def test_the_pages_of_the_docs_are_all_tested():
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} == {
        page for page in PAGES if page.startswith("docs/")
    }


def test_every_block_is_tested_or_marked_with_the_reason():
    unclear = [
        block.place
        for block in all_blocks()
        if not (
            block.why_not
            or block.language
            in ("python", "toml", "json", *BROWSER_LANGUAGES, *DRAWINGS, *EXCERPTS)
            or (not block.language and block.text.startswith("$ "))
        )
    ]
    assert not unclear
    fences = sum(text_of(page).count("```") for page in PAGES)
    assert fences == 2 * len(all_blocks()), "a fence is indented, or is not closed"
    assert {(block.page, block.why_not) for block in all_blocks() if block.why_not} == NOT_RUN


def test_the_tool_loop_of_the_quickstart_is_short():
    (loop,) = (block for block in all_blocks() if block.saved_as == "weather.py")
    assert "run_tools" in loop.text
    assert len([line for line in loop.text.splitlines() if line]) <= 12


def test_the_relay_in_fastapi_is_short():
    (relay,) = (block for block in all_blocks() if block.saved_as == "relay.py")
    assert "resumable=True" in relay.text
    assert len([line for line in relay.text.splitlines() if line]) <= 15


def test_the_json_in_the_pages_is_json():
    for block in all_blocks():
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_the_configuration_files_of_a_page_are_accepted_together(page, tmp_path):
    path = tmp_path / "tokenwire.toml"
    path.write_text(
        "".join(b.text for b in all_blocks() if b.page == page and b.language == "toml")
    )
    if page.startswith("docs/edge"):
        edge_settings.load({}, path)
    else:
        FilterSet.of(load(path, {}).filters)


def test_the_tables_of_settings_are_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "configuration.py"))
    for path, settings in script["PAGES"].items():
        assert path.read_text() == script["page"](path, settings), "run `make docs`"


def test_the_table_of_metrics_is_that_of_the_code():
    metrics = Metrics(has_tenant_label=True)
    add_latency(metrics, table=None)
    add_breakers(metrics, Breakers(BreakerConfig()))
    read_at_scrapes(
        metrics, streams=None, ledger=None, otel=None, load=None, shared=None, shared_limits=None
    )
    rows = [
        (name, kind, ", ".join(f"`{label}`" for label in labels), meaning)
        for name, kind, labels, meaning in metrics.descriptions
    ]
    table = re.findall(
        r"^\| `(tokenwire_\w+)` \| (\w+) \| (?:(.+?) )?\| (.+) \|$",
        text_of("docs/operations.md"),
        re.MULTILINE,
    )
    assert table == rows


def test_the_tables_of_traces_and_of_opentelemetrys_metrics_are_those_of_the_code():
    text = text_of("docs/operations.md")
    assert [
        (name, spans, meaning, version)
        for name, spans, version, meaning in re.findall(
            r"^\| `([\w.]+)` \| (\w+) \| (\w+) \| (.+) \|$", text, re.MULTILINE
        )
    ] == [tuple(attribute) for attribute in ATTRIBUTES]
    assert re.findall(r"^\| `(gen_ai[\w.]+)` \| `(\S+)` \| (.+) \|$", text, re.MULTILINE) == [
        (name, unit, meaning) for name, unit, _, meaning in INSTRUMENTS
    ]


def test_the_tables_of_providers_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = runpy.run_path(str(ROOT / "scripts" / "providers.py"))["page"]
    assert text_of("docs/providers.md") == page(), "run `make docs`"


def test_the_variables_in_the_docs_override_the_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenwire.toml"
    path.write_text("[limits]\nmax_streams = 7\n")
    text = text_of("docs/configuration.md")
    limit = re.search(r"`(TOKENWIRE_LIMITS__MAX_STREAMS)=(500)`", text)
    models = re.search(r"^\$ export (TOKENWIRE_MODELS)='(.+)'$", text, re.MULTILINE)
    for variable in (limit, models):
        monkeypatch.setenv(*variable.groups())
    settings = load(path, {})
    assert settings.limits.max_streams == 500
    assert settings.models["openai/GPT-X"].prices.output == 2


def rows_of(page):
    """Return the cells of each row of the tables of a page whose first cell is a name in capitals."""
    rows = re.findall(r"^\| `([A-Z_]+)` \|(.*)\|$", text_of(page), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a name is listed twice"
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in rows}


def names_of(enum):
    """Return the names of an enum's values without their prefix, except UNSPECIFIED."""
    prefix = enum.keys()[0].removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix) for name, number in enum.items() if number}


def test_every_error_reason_is_listed_with_its_status_cause_and_remedy():
    rows = rows_of("docs/errors.md")
    assert rows.keys() == names_of(error_pb2.ErrorReason)
    for reason, (status, cause, remedy, retry) in rows.items():
        assert status == CODES[reason].name
        assert cause
        assert remedy
        assert retry.split(",")[0] in ("Yes", "No", "If RetryInfo", "Unknown")


def test_operators_find_every_error_reason_and_every_alert():
    text = text_of("docs/operations.md")
    section = text.partition("## Errors that callers get\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[A-Z_`, ]+`) \| \S", section, re.MULTILINE)
    reasons = re.findall(r"[A-Z_]+", " ".join(cells))
    assert sorted(reasons) == sorted(names_of(error_pb2.ErrorReason))
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()
    assert re.findall(r"^\| `(Tokenwire\w+)` \| \S", text, re.MULTILINE) == re.findall(
        r"alert: (\w+)", alerts
    )


def test_every_error_reason_has_the_exception_that_the_docs_promise():
    for reason in names_of(error_pb2.ErrorReason) - {"INTERNAL"}:
        exception = getattr(tokenwire, reason.title().replace("_", ""))
        assert issubclass(exception, tokenwire.TokenwireError)
    assert issubclass(tokenwire.InternalError, tokenwire.TokenwireError)


def test_every_finish_reason_is_explained():
    reasons = names_of(event_pb2.FinishReason)
    assert rows_of("docs/concepts.md").keys() - {"CANCEL", "CONTINUE"} == reasons


def anchors_of(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text_of(page)):
        path = (ROOT / page).parent / link if link else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            missing.append(f"{link}#{anchor}")
    assert not missing


@pytest.mark.parametrize("page", TEXTS)
def test_every_path_that_a_page_names_exists(page):
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[^`\s]*)`", text_of(page))
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_layers_in_the_docs_are_those_that_are_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = [c for c in contracts if c.get("containers") == ["tokenwire_server"]]
    layers = "\n".join(contract["layers"])
    assert f"```text\n{layers}\n```" in text_of("docs/architecture.md")


def test_every_make_target_that_the_pages_name_exists():
    named = {
        name for page in TEXTS for name in re.findall(r"(?:`|\$ )make ([a-z-]+)", text_of(page))
    }
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "test", "layers"} <= named <= targets
