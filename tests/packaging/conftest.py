import zipfile

import pytest
from distributions import PROJECTS, build


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """The paths of the wheels, built from this repository, by the name of the distribution."""
    return {
        name: build(project, "wheel", tmp_path_factory.mktemp("dist"))
        for name, project in PROJECTS.items()
    }


@pytest.fixture(scope="session")
def unpacked(wheels, tmp_path_factory):
    """The folders with the content of the wheels, by the name of the distribution."""
    folders = {name: tmp_path_factory.mktemp("unpacked") for name in wheels}
    for name, folder in folders.items():
        with zipfile.ZipFile(wheels[name]) as archive:
            archive.extractall(folder)
    return folders
