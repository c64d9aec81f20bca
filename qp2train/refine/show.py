"""shown: a refiner's region as a figure, which answers clicks where matplotlib can pass them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from shapely.geometry.base import BaseGeometry

from qp2train.errors import PromptError
from qp2train.refine.refiner import PREDICTED_IOU

if TYPE_CHECKING:
    from qp2train.refine.refiner import Refiner

# Colours that are told apart by those who cannot tell red from green.
OUTLINE, BELONGS, NOT = "#ffd500", "#0072b2", "#d55e00"
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


def _draw(axes: Any, refiner: Refiner) -> None:
    (box, picture), last = refiner.seen, refiner.last
    axes.clear()
    axes.imshow(picture, extent=(box.x, box.right, box.bottom, box.y))
    for label, colour, marker in ((1, BELONGS, "o"), (0, NOT, "X")):
        points = np.array([p for p, given in zip(last.points, last.labels, strict=True) if given == label])
        if len(points):
            axes.scatter(*points.T, c=colour, marker=marker, s=70, edgecolors="white", zorder=3)
    if last.box is not None:
        corner = last.box.x, last.box.y
        axes.add_patch(Rectangle(corner, last.box.width, last.box.height, fill=False, ec=BELONGS, ls="--", lw=1.5))
    if last.found:
        best = last.found[0]
        axes.add_patch(PathPatch(_path(best.geometry), fc="none", ec=OUTLINE, lw=2))
        axes.set_title(f"{best.class_name or 'object'}, predicted IoU {best.measurements[PREDICTED_IOU]:.2f}")
    elif last.points or last.box is not None:
        axes.set_title("nothing was found")
    else:
        axes.set_title("click on an object")
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
        axes.set_title(str(error))
    else:
        _draw(axes, refiner)
    axes.figure.canvas.draw_idle()


def _pressed(axes: Any, refiner: Refiner, event: Any) -> None:
    if event.key == "u":
        refiner.undo()
        _draw(axes, refiner)
        axes.figure.canvas.draw_idle()


def _path(geometry: BaseGeometry) -> Path:
    parts = getattr(geometry, "geoms", [geometry])
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    return Path.make_compound_path(*(Path(np.asarray(ring.coords)[:, :2], closed=True) for ring in rings))
