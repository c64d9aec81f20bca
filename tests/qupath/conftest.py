from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from qp2train.qupath.project import Project

from .worked_example import TRIANGLE


@pytest.fixture(scope="session")
def qpdata_files(shared_data: Path) -> list[Path]:
    return sorted(shared_data.rglob("*.qpdata"))


@pytest.fixture
def glas(shared_data: Path, tmp_path: Path) -> Project:
    """A copy, to be written to, of the project with real tissue; its slides lie beside it."""
    for part in ("project", "slides"):
        shutil.copytree(shared_data / "glas" / part, tmp_path / part)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return Project(tmp_path / "project")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of ours with one image whose data is QuPath's worked example: one triangle "A1", class Tumor."""
    made = Project.create(tmp_path / "made", classes={"Tumor": (200, 0, 0)})
    entry = made.add_image(tmp_path / "a b.svs", width=100, height=80, mpp=0.5, metadata={"patient": "P-1"})
    entry.data_path.write_bytes(TRIANGLE)
    return made
