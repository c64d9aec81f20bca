"""Where patches are cut: on a grid, at random, or balanced over classes and annotations."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap
from qp2train.core.patches import COLUMNS, PatchTable, SlideRef
from qp2train.errors import LabelError, NoAnnotationError, ProjectError, Qp2trainError, SlideError
from qp2train.sampling.entry import Entry
from qp2train.sampling.mask import Painter

log = logging.getLogger(__name__)

Strategy = Literal["balanced", "grid", "random"]
AnnotationWeight = Literal["equal", "sqrt_area", "area"]
Progress = Callable[[str, int, int], None]

# A patch is judged on at most this many points a side: shares to 1 %, at a 16th of the time of a full mask.
JUDGED_PX = 64
# A slide may be smaller than a patch, but a patch 8 times its size is a slip of the pen, and takes minutes to read.
LARGEST_PATCH = 8
# Draws before a place is given up as painted over or too sparsely annotated.
TRIES = 50


def sample_patches(
    entries: Iterable[Entry],
    labels: LabelMap,
    *,
    size: int = 256,
    mpp: float = 1.0,
    strategy: Strategy = "balanced",
    per_class: int = 500,
    count: int = 2000,
    overlap: float = 0.0,
    min_annotated: float = 0.0,
    annotation_weight: AnnotationWeight = "equal",
    skip_unreadable: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> PatchTable:
    """Choose patches of `size` × `size` pixels at `mpp` µm per pixel from the annotated images.

    "balanced" draws `per_class` patches for each class (background too, where `Region*` makes there be
    some): first an annotation of the class, then a point in it, which becomes the patch's centre (to a pixel). So a
    rare class gets as many patches as a common one, and a small annotation as many as a large one.
    "grid" cuts every slide into tiles; "random" draws `count` patches, uniformly over the annotated area's
    bounding boxes. In both, only patches with something annotated are kept.
    Patches may reach over the slide's border, where the picture is white and the mask ignored.

    Args:
        entries: A Project, a SlideFolder, or any images with annotations. Images without are left out.
        labels: Class → pixel value; its colours are completed from the project's classes.
        size: Side in pixels.
        mpp: µm per pixel.
        strategy: "balanced", "grid" or "random".
        per_class: Number of patches per class ("balanced").
        count: Number of patches ("random").
        overlap: Share of a patch's side that neighbours have in common ("grid"), 0 ≤ overlap < 1.
        min_annotated: Least share of the patch that is not ignored; 0 = at least one point is annotated.
        annotation_weight: How often an annotation is drawn: "equal", or by "sqrt_area" or "area".
        skip_unreadable: Leave out slides that are missing or unreadable, with a warning, instead of refusing.
        seed: Same seed, same entries, same table.
        progress: Called with (slide name, done, total) after each slide.

    Raises:
        NoAnnotationError: No image has an annotation of any class.
        LabelError: A class that no annotation has, or of which no point is left unpainted.
        SlideError, ProjectError: Slides that are missing, unreadable or uncalibrated, or of a kind that only QuPath
            can show; all of them are named.
    """
    if size < 1 or not 0 < mpp < math.inf or not 0 <= overlap < 1 or not 0 <= min_annotated <= 1 or seed < 0:
        raise Qp2trainError(
            f"size must be ≥ 1 px, mpp > 0, 0 ≤ overlap < 1, 0 ≤ min_annotated ≤ 1 and seed ≥ 0, not size={size}, "
            f"mpp={mpp}, overlap={overlap}, min_annotated={min_annotated}, seed={seed}"
        )
    if per_class < 1 or count < 1:
        raise Qp2trainError(f"per_class and count must be at least 1, not per_class={per_class}, count={count}")
    if annotation_weight not in get_args(AnnotationWeight):
        raise Qp2trainError(
            f"annotation_weight must be one of {', '.join(get_args(AnnotationWeight))}, not {annotation_weight!r}"
        )
    labels = labels.with_colors(getattr(entries, "classes", {}))
    slides = _annotated_slides(entries, labels, skip_unreadable=skip_unreadable, progress=progress)
    for slide in slides:
        if size * mpp / slide.mpp > LARGEST_PATCH * max(slide.size):
            raise Qp2trainError(
                f"a patch of {size} px at {mpp:g} µm/px is {size * mpp / 1000:g} mm wide, more than {LARGEST_PATCH} "
                f"times {slide.name} ({max(slide.size) * slide.mpp / 1000:.3g} mm). Is mpp = {mpp:g} µm per px meant?"
            )
    rng = np.random.default_rng(seed)
    plan = _Plan(slides, labels, size=size, mpp=mpp, min_annotated=min_annotated, rng=rng)
    if strategy == "balanced":
        rows = list(plan.balanced(per_class, annotation_weight))
    elif strategy == "grid":
        rows = list(plan.grid(overlap))
    elif strategy == "random":
        rows = list(plan.random(count))
    else:
        raise Qp2trainError(f"strategy must be 'balanced', 'grid' or 'random', not {strategy!r}")
    if not rows:
        raise NoAnnotationError(
            f"no patch of {size} px at {mpp:g} µm/px has {min_annotated:.0%} of its area annotated; "
            "lower min_annotated, or draw Region* rectangles round completely annotated parts"
        )
    frame = pd.DataFrame(rows, columns=["entry", "x", "y", "label", "annotation", "annotated"])
    frame["group"], frame["split"] = frame["entry"], ""
    share = frame["label"].map(frame["label"].value_counts())
    frame["weight"] = len(frame) / share / frame["label"].nunique()
    return PatchTable(frame.astype(COLUMNS), {s.entry: s for s in slides}, labels, size, mpp)


Row = tuple[str, float, float, str, str, float]


class _Plan:
    """One slide's painter each, and the strategies over them."""

    def __init__(
        self,
        slides: list[SlideRef],
        labels: LabelMap,
        *,
        size: int,
        mpp: float,
        min_annotated: float,
        rng: np.random.Generator,
    ) -> None:
        self.labels, self.rng, self.min_annotated, self.size = labels, rng, min_annotated, size
        self.slides = {s.entry: s for s in slides}
        self.sides = {s.entry: size * mpp / s.mpp for s in slides}
        self.painters = {s.entry: Painter(s.annotations, labels, slide_size=s.size) for s in slides}
        self.judged_px = min(size, JUDGED_PX)

    def balanced(self, per_class: int, weight: AnnotationWeight) -> Iterator[Row]:
        for value in (*range(1, len(self.labels.classes) + 1), BACKGROUND):
            name = self.labels.names[value]
            shapes = [
                (s.entry, a)
                for s in self.slides.values()
                for a in s.annotations
                if self.labels.value_of(a.class_name) == value and not a.geometry.is_empty
            ]
            if not shapes:
                continue
            weights = np.array([_weight(a.geometry, weight) for _, a in shapes])
            found = 0
            for i in self.rng.choice(len(shapes), size=per_class, p=weights / weights.sum()):
                entry, annotation = shapes[i]
                row = self._around(entry, annotation, value)
                if row is not None:
                    found += 1
                    yield row
            if found == 0 and value != BACKGROUND:
                raise LabelError(
                    f"class {name!r} has {len(shapes)} annotation(s), but no patch could be drawn: other annotations "
                    f"cover them, or less than min_annotated={self.min_annotated:g} of each patch is annotated"
                )
            if found < per_class:
                # Little background is common and no fault: a Region* may be painted over almost everywhere.
                level = logging.INFO if value == BACKGROUND else logging.WARNING
                log.log(level, "class %r: %d of %d patches; the rest found no free point", name, found, per_class)

    def grid(self, overlap: float) -> Iterator[Row]:
        for entry, slide in self.slides.items():
            side = self.sides[entry]
            step = side * (1 - overlap)
            width, height = slide.size
            for y in np.arange(0, height, step):
                for x in np.arange(0, width, step):
                    row = self._judge(entry, float(x), float(y), "", None)
                    if row is not None:
                        yield row

    def random(self, count: int) -> Iterator[Row]:
        boxes = [
            (s.entry, a.geometry.bounds)
            for s in self.slides.values()
            for a in s.annotations
            if self.labels.value_of(a.class_name) not in (None, IGNORE) and not a.geometry.is_empty
        ]
        if not boxes:
            return
        areas = np.array([max(x1 - x0, 1) * max(y1 - y0, 1) for _, (x0, y0, x1, y1) in boxes])
        found, tries = 0, 0
        while found < count and tries < count * TRIES:
            tries += 1
            entry, (x0, y0, x1, y1) = boxes[self.rng.choice(len(boxes), p=areas / areas.sum())]
            half = self.sides[entry] / 2
            row = self._judge(entry, self.rng.uniform(x0, x1) - half, self.rng.uniform(y0, y1) - half, "", None)
            if row is not None:
                found += 1
                yield row
        if found < count:
            log.warning("%d of %d random patches are annotated enough", found, count)

    def _around(self, entry: str, annotation: Annotation, value: int) -> Row | None:
        """A patch centred on a point of the annotation whose pixel is of the class, None if none is found."""
        half = self.sides[entry] / 2
        for _ in range(TRIES):
            x, y = random_point(annotation.geometry, self.rng)
            pixel = self.painters[entry].paint(Box(x - 0.5, y - 0.5, 1, 1), (1, 1))[0, 0]
            if pixel == value:
                row = self._judge(entry, x - half, y - half, annotation.id, value)
                if row is not None:
                    return row
        return None

    def _judge(self, entry: str, x: float, y: float, annotation: str, value: int | None) -> Row | None:
        side, scale = self.sides[entry], self.sides[entry] / self.size
        # On whole patch pixels, as prediction reads them: between them a picture would be interpolated, and softer.
        x, y = round(x / scale) * scale, round(y / scale) * scale
        mask = self.painters[entry].paint(Box(x, y, side, side), (self.judged_px, self.judged_px))
        counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[:IGNORE]
        share = counts.sum() / mask.size
        if value is None:
            if share == 0:
                return None
            classes = counts[1:]
            value = int(classes.argmax()) + 1 if classes.any() else BACKGROUND
        if share < self.min_annotated:
            return None
        return entry, x, y, self.labels.names[value], annotation, float(share)


def random_point(geometry: BaseGeometry, rng: np.random.Generator) -> tuple[float, float]:
    """A uniformly drawn point of an area, a line or a set of points, in full-resolution pixels."""
    if geometry.area > 0:
        x0, y0, x1, y1 = geometry.bounds
        shapely.prepare(geometry)
        while True:
            x, y = rng.uniform(x0, x1, 64), rng.uniform(y0, y1, 64)
            inside = np.flatnonzero(shapely.contains_xy(geometry, x, y))
            if inside.size:
                return float(x[inside[0]]), float(y[inside[0]])
    if geometry.length > 0:
        point = shapely.line_interpolate_point(shapely.line_merge(geometry), rng.uniform(0, 1), normalized=True)
        return float(point.x), float(point.y)
    xy = shapely.get_coordinates(geometry)
    x, y = xy[rng.integers(len(xy))]
    return float(x), float(y)


def _weight(geometry: BaseGeometry, how: AnnotationWeight) -> float:
    area = max(float(geometry.area), 1.0)
    weights: dict[AnnotationWeight, float] = {"equal": 1.0, "sqrt_area": math.sqrt(area), "area": area}
    return weights[how]


def _annotated_slides(
    entries: Iterable[Entry], labels: LabelMap, *, skip_unreadable: bool, progress: Progress | None
) -> list[SlideRef]:
    """Open every annotated image once. All troubles are reported together, before any long work."""
    images = list(entries)
    slides: list[SlideRef] = []
    problems: list[tuple[str, SlideError | ProjectError]] = []
    everything: list[Annotation] = []
    for done, entry in enumerate(images, start=1):
        # A model must not learn from what a model predicted.
        drawn = tuple(a for a in entry.annotations() if a.source is None)
        everything += drawn
        if any(labels.value_of(a.class_name) is not None for a in drawn):
            try:
                slides.append(_reference(entry, drawn))
            except (SlideError, ProjectError) as error:  # the latter: QuPath computes its pixels
                problems.append((entry.name, error))
        if progress is not None:
            progress(entry.name, done, len(images))
    if problems and not (skip_unreadable and slides):
        raise type(problems[0][1])(
            f"{len(problems)} of {len(images)} slides cannot be used:\n"
            + "\n".join(f"  {name}: {error}" for name, error in problems)
            + "\nCure them, or leave them out with skip_unreadable=True."
        )
    for name, problem in problems:
        log.warning("left out: %s: %s", name, problem)
    if not everything:
        raise NoAnnotationError(f"none of the {len(images)} images has an annotation drawn by a human")
    labels.check_against(everything)
    if problems:
        labels.check_against(a for s in slides for a in s.annotations)
    unused = Counter(a.class_name or "unclassified" for a in everything if labels.value_of(a.class_name) is None)
    for name, n in unused.items():
        log.info("%d annotation(s) of class %r paint nothing: the class is not in the label map", n, name)
    if len(slides) + len(problems) < len(images):
        log.info("%d of %d images have no annotation of these classes", len(images) - len(slides), len(images))
    return slides


def _reference(entry: Entry, drawn: tuple[Annotation, ...]) -> SlideRef:
    slide = entry.slide()
    try:
        slide.read(Box(0, 0, 1, 1), (1, 1))  # a slide can open well and fail at its first pixel
        metadata = dict(entry.metadata)
        return SlideRef(entry.id, entry.name, slide.path, slide.mpp, slide.size, metadata, drawn, slide.view)
    finally:
        slide.close()
