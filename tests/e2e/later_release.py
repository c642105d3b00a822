"""The command of a later release, whose schema has one more revision.

`LATER_MIGRATIONS` is a folder with a copy of the migrations, and that revision in addition.
"""

import os
import runpy
import sys
from pathlib import Path

from tokenwire_server.storage import schema

schema.MIGRATIONS = os.environ["LATER_MIGRATIONS"]
versions = Path(schema.MIGRATIONS, "versions").glob("r*.py")
schema.REVISIONS = tuple(sorted(path.name[1:5] for path in versions))

sys.modules.pop("tokenwire_server.__main__", None)  # run anew, with these variables
runpy.run_module("tokenwire_server", run_name="__main__", alter_sys=True)
