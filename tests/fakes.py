"""Stand-ins for what lies outside the rooms under test: annotated images, slide files, networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
import tifffile
from PIL import Image

from qp2train import Annotation, ArraySlide, Box, LabelMap, PatchTable
from qp2train.core.patches import COLUMNS, SlideRef
from qp2train.errors import SlideNotFoundError

RED, BLUE, WHITE = (200, 40, 60), (40, 60, 200), (255, 255, 255)
# Optical density per unit of haematoxylin and of eosin, for R, G and B, in two laboratories.
FIRST_LAB = np.array([[0.65, 0.70, 0.29], [0.10, 0.95, 0.28]])
SECOND_LAB = np.array([[0.50, 0.75, 0.43], [0.25, 0.85, 0.46]])


@dataclass
class FakeEntry:
    """An annotated image in memory: what a QuPath project's entry is to the room `sampling`."""

    id: str
    drawn: Sequence[Annotation] = ()
    array: np.ndarray | None = field(default_factory=lambda: np.full((200, 200, 3), 255, np.uint8))
    mpp: float | None = 1.0
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None

    @property
    def name(self) -> str:
        return f"slide {self.id}"

    def slide(self) -> ArraySlide:
        if self.array is None:
            raise SlideNotFoundError(f"there is no slide at {self.id}.svs")
        slide = ArraySlide(self.array, mpp=self.mpp, name=self.name)
        slide.path = self.path or slide.path
        return slide

    def annotations(self, kinds: str = "annotation") -> list[Annotation]:
        wanted = {"annotation": ("annotation",), "detection": ("detection", "cell", "tile")}.get(kinds)
        return [a for a in self.drawn if wanted is None or a.kind in wanted]


def square(x: float, y: float, side: float, class_name: str | None = "Tumor", **more: object) -> Annotation:
    return Annotation(shapely.box(x, y, x + side, y + side), class_name, **more)  # type: ignore[arg-type]


def table_of(groups: Mapping[str, int], **metadata: Mapping[str, str]) -> PatchTable:
    """A table of so many patches per slide; `metadata` by slide."""
    import pandas as pd

    rows = [(s, 8.0 * i, 0.0, "Tumor", "", 1.0, s, "", 1.0) for s, n in groups.items() for i in range(n)]
    slides = {
        s: SlideRef(s, f"{s}.svs", f"/{s}.svs", 0.5, (100, 100), metadata.get(s, {}), (square(0, 0, 9),))
        for s in groups
    }
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return PatchTable(frame, slides, LabelMap(["Tumor"]), 64, 1.0)


def write_pyramid(path: Path, levels: Sequence[np.ndarray], *, mpp: float = 0.5, tile: int = 64) -> Path:
    """A tiled, uncompressed pyramid of H×W×3 uint8 levels, as a generic TIFF that OpenSlide reads."""
    per_cm = (1e4 / mpp, 1e4 / mpp)
    with tifffile.TiffWriter(path) as tiff:
        for i, level in enumerate(levels):
            tiff.write(
                level,
                tile=(tile, tile),
                photometric="rgb",
                resolution=(per_cm[0] / 2**i, per_cm[1] / 2**i),
                resolutionunit="CENTIMETER",
                subfiletype=int(i > 0),
                metadata=None,
            )
    return path


def write_leica(path: Path, array: np.ndarray, *, at: tuple[int, int], within: tuple[int, int]) -> Path:
    """A scan of a part of a glass slide of `within` = (width, height) px, which the file calls its bounds."""
    (height, width), nm = array.shape[:2], 500
    size, place = f'sizeX="{width * nm}" sizeY="{height * nm}"', f'offsetX="{at[0] * nm}" offsetY="{at[1] * nm}"'
    xml = (
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" sizeX="{within[0] * nm}" sizeY="{within[1] * nm}"><image name="i">'
        f'<creationDate>2020</creationDate><device model="m" version="1"/><pixels sizeX="{width}" sizeY="{height}">'
        f'<dimension sizeX="{width}" sizeY="{height}" r="0" ifd="0"/></pixels><view {size} {place} spacingZ="0"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )
    tifffile.imwrite(path, array, tile=(64, 64), photometric="rgb", description=xml, metadata=None)
    return path


def write_png(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def speckle(rng: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    """A class map with single pixels, holes and large parts; 255 here and there."""
    coarse = rng.integers(0, classes + 1, (height // 5 + 1, width // 5 + 1)).astype(np.uint8)
    classmap = np.kron(coarse, np.ones((5, 5), np.uint8))[:height, :width]
    noisy = rng.random((height, width)) < 0.2
    classmap[noisy] = rng.integers(0, classes + 1, int(noisy.sum()))
    classmap[rng.random((height, width)) < 0.05] = 255
    return classmap


def stained(densities: np.ndarray, *, bath: float = 1.0) -> np.ndarray:
    """400×300: nuclei of much haematoxylin in uneven eosin, and 60 px of glass at the right."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:300, :400]
    nuclei = ((rows % 24 - 12) ** 2 + (columns % 24 - 12) ** 2 < 40).astype(float)
    eosin = 0.9 * (1 - nuclei) * (0.6 + 0.4 * np.sin(rows / 30) ** 2)
    amounts = np.stack([1.6 * nuclei + 0.05, eosin], axis=2) * rng.uniform(0.8, 1.0, (300, 400, 1))
    amounts[:, -60:] = 0
    return np.clip(np.rint(256 * np.exp(-bath * amounts @ densities) - 1), 0, 255).astype(np.uint8)


def whole(array: np.ndarray) -> Box:
    height, width = array.shape[:2]
    return Box(0, 0, width, height)
