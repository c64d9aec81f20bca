"""YOLO segmentation: images/<split>/<name>.png, labels/<split>/<name>.txt and data.yaml.

A line of a label file is one object: its class, counted from 0, and the corners of its outline as shares of the
patch's side. An outline can have no hole: each hole is joined to it by a cut there and back, which fills to the same
area. The parts of an object of several parts are objects of their own. Nothing can be ignored: what nobody annotated
counts as background, and a warning says in how many patches there is some.

Source: https://docs.ultralytics.com/datasets/segment; masks are filled by OpenCV's fillPoly (even-odd).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import shapely
import yaml
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from qp2train.core.labels import IGNORE
from qp2train.sampling.export.instances import LEAST_PX2, Instance, Instances
from qp2train.sampling.export.manifest import write_manifest
from qp2train.sampling.export.pictures import make_folders, picture_bytes, picture_paths, split_folders, text_paths
from qp2train.sampling.export.reading import Job

log = logging.getLogger(__name__)


def write(job: Job, folder: Path) -> None:
    """Fill `folder` with pictures, label files, data.yaml and the manifest. Without splits all is for training."""
    splits, side = split_folders(job.manifest, without="train"), job.table.size_px
    images, texts = picture_paths(job, splits), text_paths(job, splits)
    make_folders(folder, images, texts)
    finder, of, unsure, holes = None, None, 0, 0
    for patch in job.patches():
        if finder is None or of is not patch.ref:
            finder, of = Instances(list(patch.ref.annotations), job.table.labels), patch.ref
        found = finder.within(patch.box, side)
        (folder / images[patch.row]).write_bytes(picture_bytes(job, patch))
        (folder / texts[patch.row]).write_text("".join(_lines(found, side)), encoding="utf-8", newline="\n")
        unsure += bool((patch.mask == IGNORE).any())
        holes += sum(len(part.interiors) > 0 for one in found for part in shapely.get_parts(one.area))
    if holes:
        log.info("%d objects have holes: written as one outline with cuts", holes)
    if unsure:
        log.warning(
            "%d of %d patches are not annotated everywhere; YOLO takes the rest for background. Draw Region* "
            "rectangles round completely annotated parts and sample with min_annotated=1, or use the COCO format",
            unsure,
            len(images),
        )
    names = dict(enumerate(job.table.labels.classes))
    about = yaml.safe_dump({**_folders(set(splits)), "names": names}, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(about, encoding="utf-8")
    write_manifest(folder, job.table, job.manifest.assign(image=images, labels=texts))


def _folders(splits: set[str]) -> dict[str, str]:
    """Split → folder, beside data.yaml. YOLO insists on training and validation."""
    found: dict[str, str] = {split: f"images/{split}" for split in ("train", "val", "test") if split in splits}
    present = next(iter(found.values()), f"images/{min(splits)}")
    for split in ("train", "val"):
        if split not in found:
            log.warning("no patch is for %s, which YOLO insists on: data.yaml names %s for it", split, present)
    return {"train": present, "val": present, **found}


def _lines(instances: list[Instance], side: int) -> list[str]:
    parts = [(one.value - 1, part) for one in instances for part in shapely.get_parts(one.area)]
    return [
        f"{index} {' '.join(f'{v:.6f}' for v in (one_outline(part) / side).ravel())}\n"
        for index, part in parts
        if part.area >= LEAST_PX2
    ]


def one_outline(polygon: shapely.Polygon) -> NDArray[np.float64]:
    """The corners (N×2) of one closed line that runs round the polygon's outside and, by cuts, its holes."""
    polygon = shapely.orient_polygons(polygon)  # holes against the outside: open by either rule of filling
    line: NDArray[np.float64] = shapely.get_coordinates(polygon.exterior)[:-1]
    # A cut runs back on itself and so has no area, whatever it crosses; from left to right it is short.
    for ring in sorted(polygon.interiors, key=lambda ring: ring.bounds):
        hole = shapely.get_coordinates(ring)[:-1]
        distance, nearest = cKDTree(line).query(hole)
        start = int(distance.argmin())
        leave, round_hole = int(nearest[start]), np.roll(hole, -start, axis=0)
        line = np.concatenate([line[: leave + 1], round_hole, round_hole[:1], line[leave:]])
    return line
