"""The types of the public API, as mypy and pyright check them in a caller's code."""

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import node
import tokenwire

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".mypy_cache/typing"
"""What mypy has found out about the packages in earlier runs."""
USES = "uses.py"
WRONG_USES = "wrong_uses.py"


def mypy_errors(folder):
    """Return the errors that mypy reports, by file and line."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    done = subprocess.run(
        [*command, f"--cache-dir={CACHE}", "--follow-imports=silent", USES, WRONG_USES],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=folder,
    )
    assert not done.stderr, done.stderr
    for report in re.finditer(r"^(.*?):(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        yield report[1], int(report[2]), report[3]


def pyright_errors(folder):
    """Return the errors that pyright reports, by file and line."""
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    output = node.run(
        *("pyright", "--project", str(folder), "--pythonpath", sys.executable, "--outputjson"),
        timeout_s=250,
        exit_codes=(0, 1),
    )
    found = json.loads(output)
    assert found["summary"]["filesAnalyzed"] == 2
    for report in found["generalDiagnostics"]:
        yield Path(report["file"]).name, report["range"]["start"]["line"] + 1, report["message"]


@pytest.fixture(scope="module", params=[mypy_errors, pyright_errors])
def errors(request, tmp_path_factory):
    """The errors of both files: their texts by line."""
    folder = tmp_path_factory.mktemp("typing")
    for name in (USES, WRONG_USES):
        shutil.copy(HERE / name, folder)
    found = {USES: defaultdict(list), WRONG_USES: defaultdict(list)}
    for name, line, text in request.param(folder):
        found[name][line].append(text)
    return found


def test_a_file_that_uses_every_public_name_has_no_errors(errors):
    assert errors[USES] == {}


def test_that_file_uses_every_public_name():
    text = (HERE / USES).read_text()
    names = tokenwire.__all__
    assert [name for name in names if not re.search(rf"\btokenwire\.{name}\b", text)] == []


def test_wrong_uses_are_reported(errors):
    lines = (HERE / WRONG_USES).read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = errors[WRONG_USES]
    assert {line: texts for line, texts in found.items() if line not in wrong} == {}
    assert wrong - found.keys() == set()
