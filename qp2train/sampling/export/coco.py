"""COCO: images/<split>/<name>.png and annotations/instances_<split>.json.

Objects are the annotations, clipped to the patch; they may overlap. One without a hole is written as polygons; one
with a hole as an uncompressed run-length code, since COCO fills every polygon. What nobody annotated and what is
ignored becomes, for every class, one annotation with `iscrowd` 1: COCO's own way to say that what a detector finds
there is neither right nor wrong. Numbers of classes are the masks' values.

Source: https://cocodataset.org/#format-data; pycocotools reads a list of `counts` as uncompressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pandas as pd
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from qp2train.core.labels import IGNORE
from qp2train.sampling.export.instances import Instance, Instances
from qp2train.sampling.export.manifest import write_manifest
from qp2train.sampling.export.pictures import make_folders, picture_bytes, picture_paths, split_folders
from qp2train.sampling.export.reading import Job, Patch

ANNOTATIONS = "annotations"
# Of corners, in pixels: as COCO's own files.
DECIMALS = 2


def write(job: Job, folder: Path) -> None:
    """Fill `folder` with pictures, one JSON file per split, and the manifest."""
    splits = split_folders(job.manifest)
    images = picture_paths(job, splits)
    make_folders(folder, images, pd.Series([f"{ANNOTATIONS}/x"]))
    with ExitStack() as files:
        into = {
            split: files.enter_context(
                _Instances(folder / ANNOTATIONS / _file_name(split), job, images[splits == split])
            )
            for split in sorted(set(splits))
        }
        finder, of = None, None
        for patch in job.patches():
            if finder is None or of is not patch.ref:
                finder, of = Instances(list(patch.ref.annotations), job.table.labels), patch.ref
            (folder / images[patch.row]).write_bytes(picture_bytes(job, patch))
            into[splits[patch.row]].add(patch, finder.within(patch.box, job.table.size_px))
    write_manifest(folder, job.table, job.manifest.assign(image=images))


class _Instances:
    """One JSON file, written as patches come, so that a million objects need no memory."""

    def __init__(self, path: Path, job: Job, images: pd.Series) -> None:
        self._path, self._job, self._images, self._count = path, job, images, 0

    def __enter__(self) -> _Instances:
        table, side = self._job.table, self._job.table.size_px
        described = self._job.manifest.loc[self._images.index].to_dict("records")
        head = {
            "info": {"description": f"{len(self._images)} patches at {table.mpp:g} µm per pixel, exported by qp2train"},
            "licenses": [],
            "categories": [
                {"id": value, "name": name, "supercategory": "", "color": list(table.labels.color(name))}
                for value, name in enumerate(table.labels.classes, start=1)
            ],
            "images": [
                {"id": row + 1, "file_name": Path(path).name, "width": side, "height": side, **said}
                for row, path, said in zip(self._images.index, self._images, described, strict=True)
            ],
        }
        self._file: BinaryIO = self._path.open("wb")
        self._file.write(orjson.dumps(head)[:-1] + b',"annotations":[')
        return self

    def add(self, patch: Patch, instances: list[Instance]) -> None:
        for one in _annotations(patch, instances, len(self._job.table.labels.classes)):
            self._count += 1
            text = orjson.dumps({"id": self._count, "image_id": patch.row + 1, **one})
            self._file.write(b",\n" * (self._count > 1) + text)

    def __exit__(self, *_: object) -> None:
        self._file.write(b"]}")
        self._file.close()


def _file_name(split: str) -> str:
    return f"instances_{split}.json" if split else "instances.json"


def _annotations(patch: Patch, instances: list[Instance], classes: int) -> Iterator[dict[str, Any]]:
    for one in instances:
        yield {
            "category_id": one.value,
            "iscrowd": 0,
            "segmentation": _segmentation(one.area, patch.mask.shape),
            "bbox": _bbox(*one.area.bounds),
            "area": round(one.area.area, DECIMALS),
            "annotation": one.annotation.id,
            "name": one.annotation.name or "",
        }
    ignored = patch.mask == IGNORE
    if ignored.any():
        y, x = ignored.nonzero()
        crowd = {
            "iscrowd": 1,
            "segmentation": {"size": list(ignored.shape), "counts": run_lengths(ignored)},
            "bbox": _bbox(x.min(), y.min(), x.max() + 1, y.max() + 1),
            "area": int(ignored.sum()),
        }
        yield from ({"category_id": value, **crowd} for value in range(1, classes + 1))


def _segmentation(area: shapely.Polygon | shapely.MultiPolygon, shape: tuple[int, ...]) -> Any:
    parts = shapely.get_parts(area)
    if any(part.interiors for part in parts):
        inside = rasterize([area], out_shape=shape, dtype="uint8")
        return {"size": list(shape), "counts": run_lengths(inside.astype(bool))}
    return [np.round(shapely.get_coordinates(part)[:-1], DECIMALS).ravel().tolist() for part in parts]


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs down the columns, the first of them of False (0 if the mask begins with True)."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def _bbox(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [round(float(v), DECIMALS) for v in (left, top, right - left, bottom - top)]
