"""Draw one H&E-like slide of colon with a carcinoma, and say what lies where."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import areal
from qp2train.sample.anatomy import Anatomy, draw_anatomy
from qp2train.sample.artefacts import ARTEFACTS
from qp2train.sample.canvas import base_coat, fibre_potential, layers
from qp2train.sample.cells import print_cells
from qp2train.sample.stain import STAINS, Stain, developed, scanned

MPP = 0.5
SEEN_PX2 = 2_000  # vessels smaller than 500 µm² are left in the stroma, as anyone who outlines stroma would


@dataclass(frozen=True, slots=True)
class DrawnSlide:
    """A drawn slide and the truth about it.

    Args:
        image: uint8 (H, W, 3) RGB at 0.5 µm per pixel.
        truth: Every "Gland" and "Tumor" (outline with its lumen), the "Stroma" between them, each "Fat" lobule and
            larger "Vessel", and a "Region*" over the whole slide: what no class covers is background. Areas that
            an artefact spoils are "Ignore*".
        artefacts: The spoilt areas alone, exactly; the name says what happened.
    """

    image: NDArray[np.uint8]
    truth: list[Annotation]
    artefacts: list[Annotation]

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.image.shape[1], self.image.shape[0]

    def of_class(self, class_name: str) -> list[Annotation]:
        """The truth's annotations of one class."""
        return [a for a in self.truth if a.class_name == class_name]


def draw_slide(
    seed: int | Sequence[int],
    *,
    size_px: tuple[int, int] = (3072, 2304),
    stain: Stain = STAINS[0],
    artefacts: Sequence[str] = ("dust",),
) -> DrawnSlide:
    """Draw a slide of size_px = (width, height) at 0.5 µm/px; the same arguments give the same pixels.

    Takes about 3 s on one core at the default size. The layout keeps its scale in µm, so a small slide holds fewer
    glands, not smaller ones; below about 500 px there may be none.

    Raises:
        ValueError: An artefact is unknown.
    """
    if unknown := [name for name in artefacts if name not in ARTEFACTS]:
        raise ValueError(f"unknown artefact {unknown[0]!r}: choose from {', '.join(ARTEFACTS)}")
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng, size_px)
    label = layers(anatomy, size_px, rng)
    potential = fibre_potential(anatomy, size_px, rng)
    canvas = base_coat(label, potential, rng)
    print_cells(canvas, label, potential, anatomy, rng)
    density = developed(canvas, stain)
    spoilt = {name: ARTEFACTS[name](density, anatomy.tissue, rng) for name in artefacts}
    image = scanned(density, stain, rng)
    ignored = _annotations("Ignore*", {name: area for name, area in spoilt.items() if not area.is_empty}, rng)
    return DrawnSlide(image, _truth(anatomy, size_px, rng) + ignored, ignored)


def new_id(rng: np.random.Generator) -> str:
    """A UUID's text drawn from the generator, so that a seed fixes it."""
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def _annotations(
    class_name: str,
    areas: dict[str, BaseGeometry] | list[BaseGeometry],
    rng: np.random.Generator,
) -> list[Annotation]:
    named = areas.items() if isinstance(areas, dict) else [(None, area) for area in areas]
    return [Annotation(rounded(area), class_name, name=name, id=new_id(rng)) for name, area in named]


def rounded(geometry: BaseGeometry) -> BaseGeometry:
    """On QuPath's grid of 0.01 px, still valid."""
    return shapely.set_precision(geometry, 0.01)


def _truth(anatomy: Anatomy, size_px: tuple[int, int], rng: np.random.Generator) -> list[Annotation]:
    frame = shapely.box(0, 0, *size_px)
    glands = [g.outline for g in anatomy.glands if not g.malignant]
    tumour = [g.outline for g in anatomy.glands if g.malignant]
    vessels = [v.wall for v in anatomy.vessels if v.wall.area >= SEEN_PX2]
    fat = [p for p in shapely.get_parts(areal(anatomy.fat)) if not p.is_empty]
    # Rounding moves borders by 0.005 px: subtract what is written, not what was drawn, and classes never overlap.
    others = shapely.union_all([rounded(p) for p in (*glands, *tumour, *vessels, *fat)])
    stroma = areal(anatomy.tissue.intersection(frame).difference(others))
    pieces = [p for p in shapely.get_parts(stroma) if p.area > 100]
    return [
        *_annotations("Region*", {"whole slide": frame}, rng),
        *_annotations("Stroma", pieces, rng),
        *_annotations("Fat", fat, rng),
        *_annotations("Vessel", vessels, rng),
        *_annotations("Gland", glands, rng),
        *_annotations("Tumor", tumour, rng),
    ]
