"""Make the sample project: slides, a QuPath project over them with sparse annotations, and the dense truth aside.

FOLDER/
  sample.json        what made it; a folder without it is never touched
  slides/P01-A.tiff
  project/           the QuPath project
  truth/P01-A.geojson
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from qp2train.core.annotation import Annotation
from qp2train.errors import ProjectError
from qp2train.qupath.geojson import write_geojson
from qp2train.qupath.project import Project
from qp2train.sample.cohort import SIZE_PX, SlidePlan, draw_cohort, plan_cohort
from qp2train.sample.tiff import write_pyramid
from qp2train.sample.tissue import MPP, DrawnSlide

CLASS_COLORS = {
    "Gland": (60, 110, 210),
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Fat": (240, 200, 60),
    "Vessel": (225, 80, 160),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
}
_LEVELS = 4
_MARK = "sample.json"
_MADE_BY = "qp2train sample project"


def project_folder(folder: str | Path) -> Path:
    """Where the QuPath project lies in a sample folder."""
    return Path(folder) / "project"


def slide_file(folder: str | Path, name: str) -> Path:
    """A slide of a sample folder, by its entry's name."""
    return Path(folder) / "slides" / f"{name}.tiff"


def truth_file(folder: str | Path, name: str) -> Path:
    """The dense truth of a slide, by its entry's name."""
    return Path(folder) / "truth" / f"{name}.geojson"


def make_project(
    folder: str | Path,
    *,
    seed: int = 0,
    patients: int = 3,
    size_px: tuple[int, int] = SIZE_PX,
    overwrite: bool = False,
) -> Path:
    """Draw the slides and make the project; returns the QuPath project's folder.

    The first patient has two slides, the others one; the last one's carry no annotations. Slides and truth are the
    same bytes for the same seed, and annotations the same down to their ids; QuPath's own files differ in time stamps
    and in the paths they hold. Slides are drawn in a hidden folder beside the target, so a run that breaks off leaves
    no half-drawn one; a project that was not finished is made anew by the next call.

    Args:
        folder: New, empty, or made by an earlier call.
        seed: Of everything random.
        patients: How many, at least 1.
        size_px: Of each slide, (width, height).
        overwrite: Replace a finished sample project, and all that was added to it since.

    Raises:
        ProjectError: The folder is not one of ours, or is one and `overwrite` is not set.
        ValueError: `patients` is out of range.
    """
    folder = Path(folder).absolute()
    plan_cohort(patients)  # refuse nonsense before drawing
    old = _check_target(folder, overwrite)
    stage = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    made = {"made_by": _MADE_BY, "seed": seed, "patients": patients, "size_px": list(size_px), "finished": False}
    try:
        for part in ("slides", "truth"):
            (stage / part).mkdir(parents=True)
        (stage / _MARK).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        drawn = []
        for plan, slide, annotations in draw_cohort(seed, patients=patients, size_px=size_px):
            write_pyramid(slide_file(stage, plan.name), slide.image, mpp=MPP, levels=_LEVELS)
            write_geojson(truth_file(stage, plan.name), slide.truth, colors=CLASS_COLORS)
            drawn.append(_Drawn(plan, slide.size_px, _thumbnail(slide), annotations))
        if old:
            shutil.rmtree(folder)
        elif folder.exists():
            folder.rmdir()
        stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    _assemble(folder, drawn)  # in its final place: QuPath's files hold absolute paths
    (folder / _MARK).write_text(json.dumps({**made, "finished": True}, indent=2) + "\n", encoding="utf-8")
    return project_folder(folder)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What the project needs of a slide once its pixels are on disk."""

    plan: SlidePlan
    size_px: tuple[int, int]
    thumbnail: bytes
    annotations: list[Annotation]


def _check_target(folder: Path, overwrite: bool) -> bool:
    """Whether there is an earlier sample project to replace."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        ours = mark["made_by"] == _MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ProjectError(f"{folder} holds files that are not a sample project's: choose a new folder")
    if mark.get("finished") and not overwrite:
        raise ProjectError(f"{folder} holds a sample project already: use it, choose another folder, or overwrite=True")
    return True


def _assemble(folder: Path, drawn: Sequence[_Drawn]) -> None:
    project = Project.create(project_folder(folder), classes=CLASS_COLORS)
    for item in drawn:
        width, height = item.size_px
        project.add_image(
            slide_file(folder, item.plan.name),
            width=width,
            height=height,
            downsamples=[2.0**level for level in range(_LEVELS)],
            mpp=MPP,
            magnification=20.0,
            name=item.plan.name,
            metadata=item.plan.metadata,
            thumbnail=item.thumbnail,
            annotations=item.annotations,
        )


def _thumbnail(slide: DrawnSlide) -> bytes:
    """A JPEG that fits into QuPath's 1000 × 600."""
    picture = Image.fromarray(slide.image)
    picture.thumbnail((1000, 600), reducing_gap=2.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()
