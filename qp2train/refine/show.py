"""shown: a refiner's region as a figure, which answers clicks where matplotlib can pass them on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import shapely
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.errors import PromptError
from qp2train.refine.refiner import PREDICTED_IOU, PROMPT_KEY
from qp2train.slides import Slide

if TYPE_CHECKING:
    from qp2train.refine.refiner import Refiner

# Colours that are told apart by those who cannot tell red from green.
OUTLINE, BELONGS, NOT = "#ffd500", "#0072b2", "#d55e00"
# Of a picture among others.
CELL_PX = 260
LIVE = ("ipympl", "nbagg", "widget")


def shown(refiner: Refiner, *, size: float) -> Figure:
    """See `Refiner.show`."""
    box, _ = refiner.seen
    scale = size / max(box.width, box.height)
    dimensions = max(1.0, box.width * scale), max(1.0, box.height * scale) + 0.6
    live = any(name in matplotlib.get_backend().lower() for name in LIVE)
    if live:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=dimensions)
    else:
        figure = Figure(figsize=dimensions)
    axes = figure.subplots()
    _draw(axes, refiner)
    figure.tight_layout()
    if live:
        figure.canvas.mpl_connect("button_press_event", lambda event: _clicked(axes, refiner, event))
        figure.canvas.mpl_connect("key_press_event", lambda event: _pressed(axes, refiner, event))
    return figure


def before_and_after(slide: Slide, refined: Sequence[Annotation], *, most: int = 24, columns: int = 6) -> Figure:
    """Each refined object with its prompt: what was drawn before, and the outline that came of it.

    Args:
        slide: Where they lie.
        refined: Of `Refiner` or `refine_slide`: their prompts are in their metadata.
        most: Of more, so many evenly through the list.
        columns: Pictures per row.
    """
    chosen = [refined[i * len(refined) // most] for i in range(most)] if len(refined) > most else list(refined)
    rows, columns = max(1, math.ceil(len(chosen) / columns)), max(1, min(columns, len(chosen)))
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows + 0.3), layout="constrained")
    cells = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, annotation in zip(cells, chosen, strict=False):
        prompt = json.loads(annotation.metadata[PROMPT_KEY])
        view = _box(prompt["region"])
        scale = CELL_PX / max(view.width, view.height)
        picture = slide.read(view, (max(1, round(view.width * scale)), max(1, round(view.height * scale))))
        axes.imshow(picture, extent=(view.x, view.right, view.bottom, view.y))
        if prompt.get("mask"):
            axes.add_patch(PathPatch(_path(shapely.from_wkt(prompt["mask"])), fc="none", ec=NOT, lw=1.2, ls="--"))
        _mark(axes, prompt["points"], prompt["labels"], _box(prompt["box"]) if prompt.get("box") else None)
        axes.add_patch(PathPatch(_path(annotation.geometry), fc="none", ec=OUTLINE, lw=1.6))
        axes.set_xlim(view.x, view.right)
        axes.set_ylim(view.bottom, view.y)
        axes.set_title(_title(annotation, ", "), fontsize=8, parse_math=False)
    left_out = f"; {len(chosen)} of {len(refined)} are shown" if len(chosen) < len(refined) else ""
    figure.suptitle(
        f"{slide.name}: before (dashed: outline orange, box blue) and after (yellow), predicted IoU{left_out}",
        fontsize=9,
        parse_math=False,
    )
    return figure


def _title(annotation: Annotation, before_iou: str) -> str:
    """Its class, and how well it may fit; what was gone along in closer views does not say."""
    said = annotation.class_name or "object"
    iou = annotation.measurements.get(PREDICTED_IOU)
    return said if iou is None else f"{said}{before_iou}{iou:.2f}"


def _draw(axes: Any, refiner: Refiner) -> None:
    (box, picture), last = refiner.seen, refiner.last
    axes.clear()
    axes.imshow(picture, extent=(box.x, box.right, box.bottom, box.y))
    _mark(axes, last.points, last.labels, last.box)
    if last.found:
        best = last.found[0]
        axes.add_patch(PathPatch(_path(best.geometry), fc="none", ec=OUTLINE, lw=2))
        axes.set_title(_title(best, ", predicted IoU "), parse_math=False)
    elif last.points or last.box is not None:
        axes.set_title("nothing was found", parse_math=False)
    else:
        axes.set_title("click on an object", parse_math=False)
    axes.set_xlim(box.x, box.right)
    axes.set_ylim(box.bottom, box.y)
    axes.set_xlabel("full-resolution px")


def _clicked(axes: Any, refiner: Refiner, event: Any) -> None:
    """Left = belongs, right = does not; while a tool of the toolbar is chosen, clicks are that one's."""
    if event.inaxes is not axes or event.button not in (1, 3) or str(getattr(axes.figure.canvas.toolbar, "mode", "")):
        return
    try:
        refiner.click(event.xdata, event.ydata, belongs=event.button == 1)
    except PromptError as error:
        axes.set_title(str(error), parse_math=False)
    else:
        _draw(axes, refiner)
    axes.figure.canvas.draw_idle()


def _pressed(axes: Any, refiner: Refiner, event: Any) -> None:
    if event.key == "u":
        refiner.undo()
        _draw(axes, refiner)
        axes.figure.canvas.draw_idle()


def _box(edges: Sequence[float]) -> Box:
    left, top, right, bottom = edges
    return Box(left, top, right - left, bottom - top)


def _mark(axes: Any, points: Sequence[Sequence[float]], labels: Sequence[int], box: Box | None) -> None:
    for label, colour, marker in ((1, BELONGS, "o"), (0, NOT, "X")):
        given = np.array([p for p, said in zip(points, labels, strict=True) if said == label])
        if len(given):
            axes.scatter(*given.T, c=colour, marker=marker, s=70, edgecolors="white", zorder=3)
    if box is not None:
        axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, fill=False, ec=BELONGS, ls="--", lw=1.5))


def _path(geometry: BaseGeometry) -> Path:
    parts = getattr(geometry, "geoms", [geometry])
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    return Path.make_compound_path(*(Path(np.asarray(ring.coords)[:, :2], closed=True) for ring in rings))
