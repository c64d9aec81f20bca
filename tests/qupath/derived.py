"""Images of a project that QuPath derives from a file, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fakes import write_png

from qp2train.core.annotation import Annotation
from qp2train.qupath.project import Project
from qp2train.qupath.qpproj import read_json, to_json

# 4 px wide, 3 px high; red is ten times the row plus the column
TINY = np.stack([10 * np.arange(3)[:, None] + np.arange(4) + shift for shift in (0, 100, 200)], axis=-1).astype(
    np.uint8
)


def around(inner: dict[str, Any], kind: str, **more: object) -> dict[str, Any]:
    """A builder round a builder, with the keys of QuPath's own."""
    return {"builderType": kind, "builder": inner, **more}


def rotated(inner: dict[str, Any], degrees: int) -> dict[str, Any]:
    return around(inner, "rotated", rotation=f"ROTATE_{degrees or 'NONE'}")


def flipped(inner: dict[str, Any], flip: str) -> dict[str, Any]:
    return around(inner, "flipped", flip=flip)


def cropped(inner: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return around(inner, "cropped", region={"x": x, "y": y, "width": width, "height": height, "z": 0, "t": 0})


def project_of(
    folder: Path,
    builder: dict[str, Any],
    size: tuple[int, int] | None,
    *,
    mpp: float | None = 1.0,
    annotations: tuple[Annotation, ...] = (),
) -> Project:
    """A project of one image, "tiny.png", made by `builder`; `size` is what QuPath has noted as its size."""
    made = Project.create(folder)
    entry = made.add_image(
        folder / "tiny.png", width=(size or (1, 1))[0], height=(size or (1, 1))[1], mpp=mpp, annotations=annotations
    )
    data = read_json(made.file)
    noted = data["images"][0]["serverBuilder"]["metadata"]
    data["images"][0]["serverBuilder"] = {**builder, **({"metadata": noted} if size else {})}
    made.file.write_bytes(to_json(data))
    if size is None:
        (entry.folder / "server.json").unlink()
    return Project(made.file)


def leaf(folder: Path, array: np.ndarray = TINY, **more: object) -> dict[str, Any]:
    """A builder of a plain image in the project's folder, which is written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write_png(folder / "tiny.png", array)
    reader = "qupath.imagej.images.servers.ImageJServerBuilder"
    return {"builderType": "uri", "providerClassName": reader, "uri": path.as_uri(), "args": [], **more}
