"""The report's pictures: patches chosen by their scores, and slides, read anew and drawn over."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.core.labels import LabelMap
from qp2train.core.patches import PatchTable, SlideRef
from qp2train.errors import SlideError
from qp2train.infer.predict import choose_device, predict
from qp2train.learn.classification import Classification
from qp2train.learn.models import Model
from qp2train.learn.segmentation import Segmentation
from qp2train.report.figures import outlined
from qp2train.report.html import Kind, Picture
from qp2train.report.overlay import beside, heated, jpeg, nearest, truth_and_prediction
from qp2train.report.words import plural
from qp2train.reporting.classified import Said, classified, rows_by_place
from qp2train.sampling.mask import Painter
from qp2train.slides import open_slide
from qp2train.slides.stain import normalised

log = logging.getLogger(__name__)

PATCH_PX, SLIDE_PX = 288, 640
NEUTRAL = (40, 110, 200)  # where background is seen, which has no colour
SEEN: Mapping[Kind, str] = {
    "worst": "one of the worst patches",
    "median": "a typical patch",
    "best": "one of the best patches",
    "uncertain": "one of the most uncertain patches",
}


@dataclass(frozen=True)
class Shots:
    """What came of it.

    Args:
        pictures: In the order in which they are to be shown.
        missing: What could not be shown, and why.
    """

    pictures: Sequence[Picture]
    missing: Sequence[str]


def choose(patches: Sequence[Mapping[str, Any]], count: int, *, apart_px: float = 0.0) -> dict[Kind, list[int]]:
    """Which patches are shown: indices of the `count` worst, middle, best and most uncertain ones.

    Of few patches as many as leave each in one of the first three galleries only. Equal scores keep their order.

    Args:
        patches: As in metrics.json.
        count: Of each kind.
        apart_px: Patches of a gallery that are nearer than this, both ways, show the same: the second is passed over.
    """
    scores = [score_of(p) for p in patches]
    scored = sorted((i for i, s in enumerate(scores) if s is not None), key=lambda i: scores[i] or 0.0)
    doubted = [i for i, p in enumerate(patches) if p.get("uncertainty") is not None]
    doubted.sort(key=lambda i: -patches[i]["uncertainty"])
    each = min(count, max(1, len(scored) // 3))
    third = range(len(scored) // 3, len(scored) - len(scored) // 3)
    middle = [scored[rank] for rank in sorted(third, key=lambda rank: abs(rank - (len(scored) - 1) / 2))]
    ranked: dict[Kind, tuple[list[int], int]] = {
        "worst": (scored, each),
        "median": (middle, each if len(scored) > 2 else 0),
        "best": (scored[::-1], each if len(scored) > 1 else 0),
        "uncertain": (doubted, count),
    }
    return {kind: _apart(patches, order, number, apart_px) for kind, (order, number) in ranked.items()}


def _apart(patches: Sequence[Mapping[str, Any]], order: Sequence[int], count: int, apart_px: float) -> list[int]:
    """The first of them, without those that lie on one before."""
    taken: list[int] = []
    for i in order:
        if len(taken) == count:
            break
        if not any(_near(patches[i], patches[j], apart_px) for j in taken):
            taken.append(i)
    return taken


def _near(one: Mapping[str, Any], other: Mapping[str, Any], px: float) -> bool:
    return one.get("entry") == other.get("entry") and all(abs(one.get(k, 0.0) - other.get(k, 0.0)) < px for k in "xy")


def score_of(patch: Mapping[str, Any]) -> float | None:
    """Of a classification the probability of the true class, else the mean Dice of the patch's classes."""
    score = patch.get("score")
    return patch.get("dice") if score is None else score


def patch_shots(
    metrics: Mapping[str, Any], table: PatchTable, model: Model | None, *, count: int = 4, device: str = "auto"
) -> Shots:
    """Best, middle, worst and most uncertain patches with annotation and prediction. One slide is open at a time.

    Args:
        metrics: metrics.json.
        table: All parts of the run.
        model: Predicts them anew; None, or one of another task: only the annotation is shown.
        count: Of each kind.
        device: As `predict`.
    """
    patches = metrics.get("patches") or []
    side = max((table.side_px(e) for e in table.slides), default=0.0)
    chosen = choose(patches, count, apart_px=side / 2)
    wanted = sorted({i for indices in chosen.values() for i in indices})
    drawn: dict[int, _Drawn] = {}
    missing: list[str] = []
    for entry in dict.fromkeys(str(patches[i].get("entry")) for i in wanted):
        ref, here = table.slides.get(entry), [i for i in wanted if str(patches[i].get("entry")) == entry]
        if ref is None:
            missing.append(f"Left out: {_count_of(here)} of {entry}, an image that the run's patches do not know.")
            continue
        try:
            drawn.update(zip(here, _drawn(ref, patches, here, table, model, device), strict=True))
        except (SlideError, OSError) as error:
            log.warning("%s: no pictures in the report: %s", ref.name, error)
            missing.append(f"Left out: {_count_of(here)} of {ref.name}, as the slide cannot be read: {error}")
    pictures = []
    for kind, indices in chosen.items():
        for i in (i for i in indices if i in drawn):
            name, (picture, said, other) = table.slides[str(patches[i]["entry"])].name, drawn[i]
            alt = f"{name}: {SEEN[kind]}, with what was annotated{other}"
            height, width = picture.shape[:2]
            pictures.append(Picture(kind, jpeg(picture), width, height, alt, patch=i, slide=name, said=said))
    return Shots(pictures, missing)


def slide_shots(
    metrics: Mapping[str, Any], table: PatchTable, model: Model | None, *, count: int, device: str = "auto"
) -> Shots:
    """Whole slides of the evaluation with annotation and prediction, evenly from worst to best.

    Each is predicted whole, which takes as long as `predict` does.

    Args:
        metrics: metrics.json.
        table: All parts of the run.
        model: Predicts them.
        count: How many, at most.
        device: As `predict`.
    """
    patches = metrics.get("patches") or []
    scores: dict[str, list[float]] = {}
    for patch in patches:
        if patch.get("entry") in table.slides:
            value = score_of(patch)
            scores.setdefault(str(patch["entry"]), []).extend([] if value is None else [value])
    ranked = sorted(scores, key=lambda e: (np.mean(scores[e]) if scores[e] else np.inf, table.slides[e].name))
    picks = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)).tolist()
    pictures, missing = [], []
    for ref in (table.slides[ranked[i]] for i in picks):
        try:
            picture = _whole(ref, table, model, device)
        except (SlideError, OSError) as error:
            log.warning("%s: no picture in the report: %s", ref.name, error)
            missing.append(f"Left out: the whole of {ref.name}, as the slide cannot be read: {error}")
            continue
        predicted = " and beside it with the model’s prediction" if model is not None else ""
        alt = f"The whole slide {ref.name} with what was annotated{predicted}"
        pictures.append(Picture("slide", jpeg(picture), picture.shape[1], picture.shape[0], alt, slide=ref.name))
    return Shots(pictures, missing)


def _count_of(pictures: Sequence[int]) -> str:
    """So many pictures, in words."""
    return f"{len(pictures)} {plural(len(pictures), 'picture')}"


class _Drawn(NamedTuple):
    """A picture, what the model says of it, and what stands beside the annotation."""

    picture: NDArray[np.uint8]
    said: str = ""
    beside: str = ""


def _drawn(
    ref: SlideRef,
    patches: Sequence[Mapping[str, Any]],
    indices: Sequence[int],
    table: PatchTable,
    model: Model | None,
    device: str,
) -> Iterator[_Drawn]:
    """The pictures of patches of one slide."""
    painter = Painter(ref.annotations, table.labels, slide_size=ref.size)
    side, shown = table.side_px(ref.entry), (PATCH_PX, PATCH_PX)
    places = rows_by_place(table) if model is not None and isinstance(model.spec, Classification) else {}
    with open_slide(ref.path, mpp=ref.mpp, view=ref.view) as slide:
        seen = normalised(slide, model.spec.stain if model is not None else None)
        for x, y in ((float(patches[i]["x"]), float(patches[i]["y"])) for i in indices):
            box = Box(x, y, side, side)
            picture, truth = slide.read(box, shown), painter.paint(box, shown)
            row = places.get((ref.entry, x, y))
            if model is not None and isinstance(model.spec, Segmentation):
                said = nearest(_classes(model, seen.read(box, (table.size_px, table.size_px)), device), shown)
                both = truth_and_prediction(picture, truth, said, table.labels)
                yield _Drawn(both, beside=" and beside it the model’s prediction")
            elif model is not None and row is not None:
                yield _of_class(picture, truth, classified(model, table, row, device=device), table.labels)
            else:
                yield _Drawn(truth_and_prediction(picture, truth, None, table.labels))


def _of_class(picture: NDArray[np.uint8], truth: NDArray[np.uint8], said: Said | None, labels: LabelMap) -> _Drawn:
    left = outlined(picture, truth, labels, alpha=0.0)
    if said is None:
        return _Drawn(left)
    text = f"{said.truth}, " + ("rightly so called" if said.truth == said.predicted else f"taken for {said.predicted}")
    if said.heat is None:
        return _Drawn(left, text)
    color = labels.color(said.predicted) if said.predicted in labels.classes else NEUTRAL
    right = heated(picture, nearest(said.heat, (PATCH_PX, PATCH_PX)), color)
    return _Drawn(beside(left, right), text, f" and beside it where the model sees {said.predicted}")


def _classes(model: Model, pixels: NDArray[np.uint8], device: str) -> NDArray[np.uint8]:
    """H×W×3 → H×W: the most probable class of each pixel; of overlapping classes, background where none is probable."""
    chosen = choose_device(device)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].to(chosen)
    with torch.inference_mode():
        logits = model.net.to(chosen).eval()(tensor)[0]
        if isinstance(model.spec, Segmentation) and model.spec.multilabel:
            logits = torch.cat([torch.zeros_like(logits[:1]), logits])  # a logit of 0 is a probability of one half
        classes = logits.argmax(dim=0)
    return np.asarray(classes.cpu().numpy(), dtype=np.uint8)


def _whole(ref: SlideRef, table: PatchTable, model: Model | None, device: str) -> NDArray[np.uint8]:
    painter = Painter(ref.annotations, table.labels, slide_size=ref.size)
    with open_slide(ref.path, mpp=ref.mpp, view=ref.view) as slide:
        scale = max(1.0, max(ref.size) / SLIDE_PX)
        shown = (max(1, round(ref.size[0] / scale)), max(1, round(ref.size[1] / scale)))
        box = Box(0, 0, *ref.size)
        said = None
        if model is not None:
            said = nearest(np.asarray(predict(model, slide, device=device).classmap), shown)
        return truth_and_prediction(slide.read(box, shown), painter.paint(box, shown), said, table.labels)
