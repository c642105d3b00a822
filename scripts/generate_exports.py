"""Generate client/tokenwire/_exports.py from the imports of api.py: the module of each public name.

`generate_exports.py` writes the file, `generate_exports.py --check` fails if it is not up to date.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "client" / "tokenwire"
EXPORTS = PACKAGE / "_exports.py"
HEADER = '''\
# Generated from api.py by scripts/generate_exports.py. Do not edit.
"""The module of each public name, which is loaded on first use of the name."""

MODULES = {
'''


def exports() -> str:
    """Return the text of the file."""
    modules = {
        name.name: f"{PACKAGE.name}.{node.module}" if node.level else node.module
        for node in ast.parse((PACKAGE / "api.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    lines = (f'    "{name}": "{modules[name]}",\n' for name in sorted(modules))
    return f"{HEADER}{''.join(lines)}}}\n"


def main() -> int:
    if EXPORTS.exists() and EXPORTS.read_text() == exports():
        return 0
    if "--check" in sys.argv:
        print("stale: _exports.py; run make sync", file=sys.stderr)
        return 1
    EXPORTS.write_text(exports())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
