"""Annotated objects → views of them: picture, the object, and where anything is known."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry
from torch.utils.data import Dataset

from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE
from qp2train.core.patches import PatchTable
from qp2train.errors import NoAnnotationError
from qp2train.learn.augment import Augmentation, apply
from qp2train.learn.data import CACHE_BYTES, OPEN_SLIDES
from qp2train.learn.order import Key
from qp2train.sampling.mask import Painter
from qp2train.slides import Slide
from qp2train.slides.reading import AS_SCANNED, Reading

# A view's side, as a multiple of the object's longer one, and how far it strays in training.
ROUND, STRAY = 1.4, 0.25
# So often a view is of another width, by a factor between these, with the object anywhere: a click does not say how
# large it is, and of objects larger than a view a part is shown.
OTHER_SHARE, CLOSEST, WIDEST = 0.15, 0.4, 4.0
# An object is read once, with so much round it that every other view lies inside, and kept so finely.
_READ = ROUND * (1 + STRAY) + 2 * STRAY
# In a view's mask; what is not known is `IGNORE`.
OTHER, OBJECT = 0, 1

Item = tuple[torch.Tensor, torch.Tensor, int]  # picture 3×H×W, mask H×W, seed


@dataclass(frozen=True)
class Objects:
    """The annotated areas of a table's slides.

    Args:
        table: A row per object: its entry, class and annotation, its middle as x and y (full-resolution px).
        geometries: (N,) their outlines, on the slide.
        sides: (N,) the longer side of each, in full-resolution px.
    """

    table: PatchTable
    geometries: Sequence[BaseGeometry]
    sides: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.geometries)

    def view(self, row: int, *, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> Box:
        """The square round an object, in full-resolution px.

        Args:
            row: Which object.
            scale: Of its side, 1 = 1.4 × the object's longer one.
            shift: Of its middle, as shares of the object's longer side.
        """
        x, y = self.table.rows[["x", "y"]].to_numpy()[row] + np.array(shift) * self.sides[row]
        side = ROUND * scale * self.sides[row]
        return Box(float(x - side / 2), float(y - side / 2), side, side)


def objects_of(table: PatchTable, *, part: str = "") -> Objects:
    """The objects on a table's slides: every area of a class, of whatever class it is.

    Lines and points have no inside, and what is background or ignored is no object.

    Args:
        table: Patches of the slides.
        part: How an error names them.

    Raises:
        NoAnnotationError: There is none.
    """
    rows, geometries, sides = [], list[BaseGeometry](), list[float]()
    for entry in dict.fromkeys(table.rows["entry"]):
        ref = table.slides[entry]
        patch = table.rows[table.rows["entry"] == entry].iloc[0]
        edge = Box(0, 0, *ref.size).polygon
        for drawn in ref.annotations:
            value = table.labels.value_of(drawn.class_name)
            if value in (None, BACKGROUND, IGNORE) or drawn.geometry.area == 0:
                continue
            inside = drawn.geometry.intersection(edge)
            if inside.area == 0:
                continue
            left, top, right, bottom = inside.bounds
            geometries.append(inside)
            sides.append(max(right - left, bottom - top))
            said = {"label": table.labels.name_of(drawn.class_name), "annotation": drawn.id, "weight": 1.0}
            rows.append({**patch, **said, "x": (left + right) / 2, "y": (top + bottom) / 2})
    if not rows:
        raise NoAnnotationError(
            f"no area is annotated as {' or '.join(table.labels.classes)} on the {table.rows['entry'].nunique()} slides"
            f"{f' of the part {part!r}' if part else ''}: prompts are learnt and judged by outlines of objects, not by "
            "points and lines"
        )
    frame = table.rows.iloc[[0] * len(rows)].reset_index(drop=True)
    frame = frame.assign(**{column: [row[column] for row in rows] for column in frame.columns})
    return Objects(replace(table, rows=frame, context=()), geometries, np.array(sides))


class ObjectViews(Dataset[Item]):
    """Views of objects, asked for by (row, seed): picture 3×H×W and mask H×W (0 other, 1 object, 255 unknown), uint8.

    A row beyond the objects begins anew, so that an epoch may see each several times. With an augmentation, views
    stray; a seed decides how. Slides are opened on first use in each process, never pickled.

    Args:
        objects: The objects.
        size_px: Side of a view.
        augmentation: What is done to it; None = the view is exact.
        reading: How slides are read.
    """

    def __init__(
        self,
        objects: Objects,
        size_px: int,
        augmentation: Augmentation | None = None,
        *,
        reading: Reading = AS_SCANNED,
    ) -> None:
        self.objects, self.size_px, self.augmentation = objects, size_px, augmentation
        self._transform = augmentation.compose() if augmentation is not None else None
        self._reading = reading
        self._entries = objects.table.rows["entry"].tolist()
        self._open: OrderedDict[str, tuple[Slide, Painter]] = OrderedDict()
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, key: Key) -> Item:
        row, seed = key[0] % len(self.objects), key[1]
        if self._transform is None or self.augmentation is None:
            image, mask = self.read(row, self.objects.view(row), self.size_px)
        else:
            image, mask = self._strayed(row, np.random.default_rng([seed, 1]), self.augmentation)
            image, mask = apply(self._transform, image, mask, seed=seed)
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), torch.from_numpy(mask), seed

    def read(self, row: int, box: Box, px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A view as it is: picture px×px×3, mask px×px, uint8."""
        slide, painter = self._opened(self._entries[row])
        painted = painter.paint(box, (px, px))
        at = Affine(box.width / px, 0, box.x, 0, box.height / px, box.y)
        mask = np.where(painted == IGNORE, IGNORE, OTHER).astype(np.uint8)
        inside = rasterize([(self.objects.geometries[row], 1)], out_shape=mask.shape, transform=at, dtype=np.uint8)
        # Under its own outline a pixel is annotated, and so ignored only if it is to be.
        mask[(inside > 0) & (painted != IGNORE)] = OBJECT
        return slide.read(box, (px, px)), mask

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict(), "_cache": {}, "_kept_bytes": 0}

    def _strayed(
        self, row: int, rng: np.random.Generator, augmentation: Augmentation
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A view of another scale and place, with what the augmentation wants round it: cut from what was read once."""
        px, wide = augmentation.read_px, augmentation.read_px / self.size_px
        if rng.random() < OTHER_SHARE:
            scale = float(np.exp(rng.uniform(np.log(CLOSEST), np.log(WIDEST))))
            dx, dy = rng.uniform(-1, 1, 2) * max(STRAY, abs(ROUND * scale - 1) / 2)
            return self.read(row, self.objects.view(row, scale=scale * wide, shift=(dx, dy)), px)
        pair = self._cache.get(row)
        if pair is None:
            whole = self.objects.view(row, scale=_READ * wide / ROUND)
            finest = px * _READ / (ROUND * (1 - STRAY))  # what the closest view shows
            pair = self.read(row, whole, math.ceil(min(finest, max(whole.width, self.size_px))))
            if self._kept_bytes < CACHE_BYTES:
                self._cache[row] = pair
                self._kept_bytes += 4 * pair[1].size
        dx, dy = rng.uniform(-STRAY, STRAY, 2)
        # Where the augmentation turns pictures it also scales them, by as much.
        scale = rng.uniform(1 - STRAY, 1 + STRAY) if wide == 1 else 1.0
        # The object's longer side in pixels of what was read.
        unit = len(pair[1]) / (_READ * wide)
        side = ROUND * scale * wide * unit
        left, top = ((len(pair[1]) - side) / 2 + d * unit for d in (dx, dy))
        zoom = px / side
        # cv2 counts from the pixels' middles, we from their corners.
        turn = np.array([[zoom, 0, (0.5 - left) * zoom - 0.5], [0, zoom, (0.5 - top) * zoom - 0.5]])
        image = cv2.warpAffine(pair[0], turn, (px, px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        mask = cv2.warpAffine(
            pair[1], turn, (px, px), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORE
        )
        return np.asarray(image, np.uint8), np.asarray(mask, np.uint8)

    def _opened(self, entry: str) -> tuple[Slide, Painter]:
        if entry in self._open:
            self._open.move_to_end(entry)
            return self._open[entry]
        table = self.objects.table
        ref = table.slides[entry]
        self._open[entry] = self._reading.open(ref), Painter(ref.annotations, table.labels, slide_size=ref.size)
        if len(self._open) > OPEN_SLIDES:
            self._open.popitem(last=False)[1][0].close()
        return self._open[entry]
