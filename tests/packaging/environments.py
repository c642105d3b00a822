"""Virtual environments with the built wheels, and with exactly the packages that they require.

Nothing is downloaded: an environment has links to the content of the wheels, and to files of this environment:
those of the packages that are required, directly or indirectly. A folder that belongs to one package is linked
as a whole, also with its bytecode: otherwise each start would compile thousands of modules. What one
environment compiles, the others use.
"""

import os
import subprocess
import venv
from collections import Counter
from functools import cache
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from distributions import built
from packaging.requirements import Requirement


@cache
def folders_of_one():
    """Return the folders next to the packages that belong to one distribution: not `google`, for example."""
    owners = Counter(
        folder
        for each in distributions()
        for folder in {file.parts[0] for file in each.files or () if len(file.parts) > 1}
    )
    return {folder for folder, count in owners.items() if count == 1} - {"..", "__pycache__"}


@cache
def paths_of(name):
    """Return the paths of a distribution: whole folders, or the files of folders that others share."""
    return {
        Path(file.parts[0]) if file.parts[0] in folders_of_one() else Path(file)
        for file in distribution(name).files
        if ".." not in file.parts and (file.suffix != ".pyc" or len(file.parts) > 2)
    }


class Environment:
    """A virtual environment with one of our distributions, its extras, and what they require."""

    def __init__(self, folder, unpacked, name, extras=()):
        self._bin = folder / "bin"
        self._ours = {each: built(path) for each, path in unpacked.items()}
        self._extras = {}
        self._require(Requirement(f"{name}[{','.join(extras)}]" if extras else name))
        self.packages = frozenset(self._extras)
        venv.create(folder)
        (site,) = folder.glob("lib/python3*/site-packages")
        for package in self.packages:
            if package in unpacked:
                sources = {path.name: path for path in unpacked[package].iterdir()}
            else:
                locate = distribution(package).locate_file
                sources = {path: locate(path) for path in paths_of(package)}
            for path, source in sources.items():
                if not (site / path).exists():
                    (site / path).parent.mkdir(parents=True, exist_ok=True)
                    (site / path).symlink_to(source)

    def _distribution(self, name) -> Distribution:
        return self._ours.get(name) or distribution(name)

    def _require(self, requirement):
        """Add the distribution that is required, and what it requires itself with these extras."""
        name = requirement.name.lower().replace("_", "-")
        known = self._extras.get(name)
        if known is not None and known >= requirement.extras:
            return
        self._extras[name] = extras = (known or set()) | requirement.extras
        for each in map(Requirement, self._distribution(name).requires or ()):
            if not each.marker or any(
                each.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            ):
                self._require(each)

    @property
    def commands(self):
        """The commands that the installed distributions of ours have: the function of each."""
        return {
            entry.name: entry.value
            for name in self._ours.keys() & self.packages
            for entry in self._ours[name].entry_points.select(group="console_scripts")
        }

    def python(self, *arguments):
        """Return the command line that runs Python."""
        return [str(self._bin / "python"), *arguments]

    def command(self, name, *arguments):
        """Return the command line that runs a command, like the script that pip creates."""
        module, _, function = self.commands[name].partition(":")
        run = f"import sys; from {module} import {function}; sys.argv[0] = {name!r}; sys.exit({function}())"
        return self.python("-c", run, *arguments)

    def run(self, name, *arguments, cwd=None):
        """Run a command to its end."""
        return completed(self.command(name, *arguments), cwd=cwd)


def completed(words, cwd=None):
    """Run a command line without the variables that this environment has."""
    return subprocess.run(
        words, capture_output=True, text=True, timeout=100, env=environ(), cwd=cwd
    )


def environ():
    """Return the variables, without those that change what a command does."""
    names = ("PYTHONPATH", "OPENAI_", "ANTHROPIC_", "TOKENWIRE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}
