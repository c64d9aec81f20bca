"""Zarr 3: one group with `images` (N, H, W, 3) and `masks` (N, H, W), uint8, a chunk per patch, in the table's order.

The group's attributes are those of manifest.json, and `rows`: a list per column of manifest.csv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from qp2train.core.labels import IGNORE
from qp2train.sampling.export.manifest import about
from qp2train.sampling.export.reading import Job


def write(job: Job, folder: Path) -> None:
    """Make `folder` a Zarr group."""
    import zarr  # of the extra `export`

    count, side = len(job.table), job.table.size_px
    said: dict[str, Any] = {**about(job.table), "rows": job.manifest.to_dict("list")}
    plain = orjson.loads(orjson.dumps(said, option=orjson.OPT_NON_STR_KEYS))
    group = zarr.create_group(store=str(folder), attributes=plain, zarr_format=3)
    images = group.create_array(
        "images",
        shape=(count, side, side, 3),
        chunks=(1, side, side, 3),
        dtype="uint8",
        dimension_names=("patch", "y", "x", "channel"),
    )
    masks = group.create_array(
        "masks",
        shape=(count, side, side),
        chunks=(1, side, side),
        dtype="uint8",
        fill_value=IGNORE,
        dimension_names=("patch", "y", "x"),
    )
    for patch in job.patches():
        images[patch.row] = patch.image
        masks[patch.row] = patch.mask
