"""Where patches are cut: checks what is asked for, and asks the strategy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from qp2train.core.labels import BACKGROUND, LabelMap
from qp2train.core.patches import COLUMNS, PatchTable
from qp2train.core.scores import ScoreMap
from qp2train.errors import LabelError, NoAnnotationError, Qp2trainError
from qp2train.sampling.asked import (
    Strategy,
    check_belongs,
    check_choices,
    check_faults,
    check_numbers,
    check_sizes,
    scales_of,
    whole,
)
from qp2train.sampling.drawn import draw
from qp2train.sampling.entry import Entry, Objects
from qp2train.sampling.images import Images, Progress, classes_from, open_images
from qp2train.sampling.inspector import Fault, Inspector
from qp2train.sampling.site import WHATEVER, Include, Row, Rules, Sites
from qp2train.sampling.strategies.balanced import AnnotationWeight, InAnnotations
from qp2train.sampling.strategies.border import OnOutlines
from qp2train.sampling.strategies.centred import centred
from qp2train.sampling.strategies.grid import grid
from qp2train.sampling.strategies.hard import hard
from qp2train.sampling.strategies.ontissue import on_tissue
from qp2train.sampling.strategies.scattered import InBoxes

log = logging.getLogger(__name__)

Scores = Mapping[str, ScoreMap] | Callable[[Entry], ScoreMap]

PER_CLASS = 500


def sample_patches(
    entries: Iterable[Entry],
    labels: LabelMap,
    *,
    size: int = 256,
    mpp: float | Sequence[float] = 1.0,
    strategy: Strategy = "balanced",
    per_class: int | None = None,
    count: int = 2000,
    overlap: float = 0.0,
    include: Include = "any",
    min_annotated: float = 0.0,
    min_distance_um: float = 0.0,
    annotation_weight: AnnotationWeight = "equal",
    objects: Objects = "annotation",
    scores: Scores | None = None,
    label_from: str | None = None,
    reject: Sequence[Fault] = (),
    skip_unreadable: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> PatchTable:
    """Choose patches of `size` × `size` pixels at `mpp` µm per pixel from the annotated images.

    "balanced": `per_class` patches for each class (background too, where `Region*` makes there be some): first an
    annotation of the class, then a point in it, which becomes the patch's centre (to a pixel). So a rare class gets
    as many patches as a common one, and a small annotation as many as a large one.
    "grid": every slide cut into tiles. "random": `count` patches, uniformly over the annotated area's bounding boxes.
    "centred": one patch on the middle of each object of a class, at most `per_class` of each.
    "border": `per_class` patches for each class, centred on its outlines, where another class or background begins.
    "hard": `per_class` patches for each class, where `scores` are high for it and something else is annotated.
    "tissue": `count` patches, as many from each slide, wherever there is tissue, annotated or not.
    Patches may reach over the slide's border, where the picture is white and the mask ignored.

    Args:
        entries: A Project, a SlideFolder, or any images with annotations. Images without are left out, unless for
            "tissue".
        labels: Class → pixel value; its colours are completed from the project's classes.
        size: Side in pixels.
        mpp: µm per pixel. Of several, the first is the patches' own; the others are kept in the table as its `context`,
            with the same centres: `table.box(row, mpp=…)`.
        strategy: See above.
        per_class: Number of patches per class; None = 500, or every object ("centred").
        count: Number of patches ("random", "tissue").
        overlap: Share of a patch's side that neighbours have in common ("grid"), 0 ≤ overlap < 1.
        include: Which patches of "grid" and "random" are kept: those with "any" annotated point, or those whose
            central pixel is annotated ("centre"), which then gives the patch its class.
        min_annotated: Least share of the patch that is not ignored.
        min_distance_um: Least distance between the centres of two patches of a slide (not for "grid").
        annotation_weight: How often an annotation is drawn ("balanced"): "equal", or by "sqrt_area" or "area".
        objects: What counts as annotated: "annotation", "detection" (detections, cells and tiles), or "all".
        scores: Entry id → score map, or a function of the entry that makes it ("hard").
        label_from: A key of the slides' metadata whose value is the class of all their patches ("tissue").
        reject: Which pictures are left out: "blank", "blur", "pen" (marks), "duplicate" (nearly as one before).
            Every patch is read for it. `table.rejected` and the log say how many.
        skip_unreadable: Leave out slides that are missing or unreadable, with a warning, instead of refusing.
        seed: Same seed, same entries, same table.
        progress: Called with (slide name, done, total) after each slide is opened.

    Raises:
        NoAnnotationError: No image has an annotation of any class, or no patch keeps the rules.
        LabelError: A class that no annotation has, or of which no point is left unpainted; slides whose metadata
            name no class; a score map of other classes.
        SlideError, ProjectError: Slides that are missing, unreadable or uncalibrated, or of a kind that only QuPath
            can show; all of them are named.
    """
    scales, size, count, seed = scales_of(mpp), whole("size", size), whole("count", count), whole("seed", seed)
    per_class = None if per_class is None else whole("per_class", per_class)
    check_numbers(size, scales, overlap, min_annotated, min_distance_um, seed)
    if (per_class is not None and per_class < 1) or count < 1:
        raise Qp2trainError(f"per_class and count must be at least 1, not per_class={per_class}, count={count}")
    check_choices(
        {
            "strategy": (strategy, Strategy),
            "include": (include, Include),
            "annotation_weight": (annotation_weight, AnnotationWeight),
            "objects": (objects, Objects),
        }
    )
    check_belongs(strategy, scores=scores, label_from=label_from, min_distance_um=min_distance_um)
    check_faults(reject)
    inspector = _inspector(reject, scales[0])
    labels = labels.with_colors(getattr(entries, "classes", {}))
    images = open_images(
        entries,
        labels,
        objects=objects,
        unannotated=strategy == "tissue",
        labelled=label_from is not None,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )
    check_sizes(images.refs, size, scales)
    weak = None if label_from is None else classes_from(images.refs, label_from, labels)
    rules = Rules(
        labels,
        size,
        scales[0],
        include=include,
        min_annotated=min_annotated,
        unlabelled=strategy == "tissue",
        min_distance_um=min_distance_um,
        inspector=inspector,
    )
    sites = Sites(images.refs, rules, lambda entry: images.entries[entry].slide())
    rng = np.random.default_rng(seed)
    each = per_class or PER_CLASS
    if strategy == "balanced":
        rows = _balanced(sites, images, annotation_weight, each, rng)
    elif strategy == "grid":
        rows = list(grid(sites, overlap=overlap))
    elif strategy == "random":
        rows = draw(sites, InBoxes(), {WHATEVER: count}, rng, of_class=False)[WHATEVER]
        if len(rows) < count:
            log.warning("%d of %d random patches are annotated enough", len(rows), count)
    elif strategy == "centred":
        rows = [row for got in centred(sites, per_class=per_class, rng=rng).values() for row in got]
    elif strategy == "border":
        quotas = dict.fromkeys(range(1, len(labels.names)), each)
        rows = _gathered(draw(sites, OnOutlines(), quotas, rng, of_class=True), labels, each, "on borders")
    elif strategy == "hard":
        found = hard(sites, _maps(scores, images), per_class=each, rng=rng)
        rows = _gathered(found, labels, each, "wrongly predicted")
    else:
        rows = on_tissue(sites, count=count, rng=rng)
    rejected = dict(inspector.rejected) if inspector is not None else {}
    if rejected:
        log.info("left out: %s", ", ".join(f"{n} {fault}" for fault, n in rejected.items()))
    if not rows:
        raise NoAnnotationError(_nothing(strategy, size, scales[0], min_annotated, rejected))
    frame = pd.DataFrame(rows, columns=Row._fields)
    if weak is not None:
        frame["label"] = frame["entry"].map(weak)
    frame["group"], frame["split"] = frame["entry"], ""
    share = frame["label"].map(frame["label"].value_counts())
    frame["weight"] = len(frame) / share / frame["label"].nunique()
    slides = {ref.entry: ref for ref in images.refs}
    return PatchTable(frame.astype(COLUMNS), slides, labels, size, scales[0], scales[1:], rejected)


def _balanced(
    sites: Sites, images: Images, weight: AnnotationWeight, per_class: int, rng: np.random.Generator
) -> list[Row]:
    labels = sites.rules.labels
    drawn = [0] * len(labels.names)
    for name, n in images.drawn.items():
        value = labels.value_of(name)
        if value is not None and value < len(drawn):
            drawn[value] += n
    quotas = {value: per_class for value in (*range(1, len(drawn)), BACKGROUND) if drawn[value]}
    found = draw(sites, InAnnotations(weight), quotas, rng, of_class=True)
    inspector = sites.rules.inspector
    left_out = {fault: n for fault, n in inspector.rejected.items() if n} if inspector is not None else {}
    rejected = f", or their pictures were left out (of all classes: {left_out})" if left_out else ""
    for value, rows in found.items():
        if not rows and value != BACKGROUND:
            raise LabelError(
                f"class {labels.names[value]!r} has {drawn[value]} annotation(s), but no patch could be drawn: other "
                "annotations cover them, they lie beside the slide or within min_distance_um of other patches, or less "
                f"than min_annotated={sites.rules.min_annotated:g} of each patch is annotated{rejected}"
            )
    return _gathered(found, labels, per_class, "balanced")


def _gathered(found: Mapping[int, list[Row]], labels: LabelMap, per_class: int, what: str) -> list[Row]:
    for value, rows in found.items():
        if len(rows) < per_class:
            # Little background is common and no fault: a Region* may be painted over almost everywhere.
            level = logging.INFO if value == BACKGROUND else logging.WARNING
            said = "class %r: %d of %d patches %s; there are no more places for them"
            log.log(level, said, labels.names[value], len(rows), per_class, what)
    return [row for rows in found.values() for row in rows]


def _maps(scores: Scores | None, images: Images) -> Callable[[str], ScoreMap | None]:
    if scores is None:
        raise AssertionError("checked before")
    if callable(scores):
        return lambda entry: scores(images.entries[entry])
    unknown = sorted(set(scores) - set(images.entries))
    if unknown:
        raise Qp2trainError(
            f"scores has a map of {unknown[0]!r}, but no image has that id: {', '.join(images.entries)}"
        )
    return scores.get


def _inspector(reject: Sequence[Fault], mpp: float) -> Inspector | None:
    if not reject:
        return None
    from qp2train.slides.quality import Duplicates, faults  # on demand: most samplings never look at pixels

    return Inspector(reject, mpp=mpp, faults=faults, memory=Duplicates())


def _nothing(strategy: Strategy, size: int, mpp: float, min_annotated: float, rejected: Mapping[str, int]) -> str:
    if any(rejected.values()):
        return f"every patch was left out for its picture ({dict(rejected)}): take less into reject"
    what = {
        "border": "no class has an outline beside which another class or background is annotated",
        "hard": "no pixel of the score maps is annotated as another class than is predicted there",
        "tissue": "no slide has tissue",
    }.get(strategy, f"no patch of {size} px at {mpp:g} µm/px has {min_annotated:.0%} of its area annotated")
    return f"{what}; lower min_annotated, or draw Region* rectangles round completely annotated parts"
