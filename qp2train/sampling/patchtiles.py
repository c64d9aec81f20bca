"""Patches as tile objects, so that QuPath shows where they lie."""

from __future__ import annotations

from collections.abc import Iterator

import shapely

from qp2train.core.annotation import Annotation
from qp2train.core.patches import PatchTable

# What such objects carry as their source, beside the models' ids.
PATCH_SOURCE = "qp2train-patches"
ANNOTATED = "annotated"


def patch_tiles(table: PatchTable) -> Iterator[tuple[str, list[Annotation]]]:
    """The patches of each slide as tiles: (id of the image, its tiles), in full-resolution pixels.

    Class: the patch's label, None where it has none. Name: its split. Measurement "annotated": the share of the patch
    that is not ignored, 0–1. A patch over the slide's border is drawn whole.
    """
    for entry, part in table.rows.groupby("entry", sort=False):
        left, top = part["x"].to_numpy(), part["y"].to_numpy()
        side = table.side_px(str(entry))
        squares = shapely.box(left, top, left + side, top + side)
        about = zip(squares, part["label"], part["split"], part["annotated"].round(4), strict=True)
        yield (
            str(entry),
            [
                Annotation(
                    square, label or None, kind="tile", name=split or None, measurements={ANNOTATED: float(share)}
                )
                for square, label, split, share in about
            ],
        )
