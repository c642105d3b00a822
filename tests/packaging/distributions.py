"""The distributions of this repository, and how they are built."""

import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROJECTS = {"tokenwire": ROOT / "client", "tokenwire-server": ROOT / "server"}
"""The folder from which each distribution is built."""


def build(project, target, folder):
    """Build the wheel or the sdist of the project in this folder. Return its path."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(words, cwd=project, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


def built(unpacked):
    """Return the distribution whose wheel is unpacked in this folder."""
    (metadata,) = unpacked.glob("*.dist-info")
    return PathDistribution(metadata)
