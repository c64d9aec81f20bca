"""The slide map: where on each slide patches were taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

TITLE_LETTERS = 40
MANY = 200  # patches or annotations on a slide; of more, each is drawn smaller or paler
PANEL_IN = 3.4


@dataclass(frozen=True, slots=True)
class MappedSlide:
    """One panel of a map.

    Args:
        picture: H×W×3 uint8, the whole slide.
        size: (width, height) in full-resolution pixels, as all that follows.
        name: Above it, cut if long.
        about: Beside the name.
        squares: (n, 2): left and top of each patch.
        side: Of the patches.
        keys: Of each patch, what its colour says.
        outlines: Of the annotations: (n, 2) each.
    """

    picture: NDArray[np.uint8]
    size: tuple[int, int]
    name: str
    about: str
    squares: NDArray[np.float64]
    side: float
    keys: tuple[str, ...]
    outlines: Sequence[NDArray[np.float64]] = ()


def slide_map(
    slides: Sequence[MappedSlide],
    colors: Mapping[str, tuple[int, int, int]],
    *,
    note: str = "",
    columns: int = 4,
) -> Figure:
    """Slides side by side, each with its patches as squares; where they crowd, with a dot in the middle of each.

    Args:
        slides: What is shown, row by row.
        colors: Key → (r, g, b), in the legend's order.
        note: Above all.
        columns: Per row.
    """
    rows = max(1, -(-len(slides) // columns))
    columns = max(1, -(-len(slides) // rows))  # five are three and two, not four and one
    # As flat as the slides are, within what still has room for a title.
    shape = np.median([s.size[1] / s.size[0] for s in slides]) if slides else 1.0
    width = PANEL_IN * columns if columns > 1 else 2 * PANEL_IN
    height = rows * (width / columns * float(np.clip(shape, 0.4, 1.6)) + 0.3) + 0.65
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, slide in zip(panels, slides, strict=False):
        _draw(axes, slide, colors)
    figure.suptitle(note, fontsize=9, x=0.01, ha="left")
    handles: list[Patch | Line2D] = [
        Patch(facecolor=(*_rgb(c), 0.35), edgecolor=_rgb(c), label=name) for name, c in colors.items()
    ]
    if any(_crowd(s) > 1 for s in slides):
        dot = Line2D(
            [], [], marker="o", markerfacecolor="0.4", markeredgecolor="white", ls="", label="middle of a patch"
        )
        handles.append(dot)
    handles.append(Line2D([], [], color="black", lw=0.7, label="annotation"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=9, frameon=False)
    return figure


def _draw(axes: Axes, slide: MappedSlide, colors: Mapping[str, tuple[int, int, int]]) -> None:
    width, height = slide.size
    axes.imshow(slide.picture, extent=(0, width, height, 0), interpolation="antialiased", alpha=0.85)
    alpha = float(np.clip(0.75 * (MANY / max(1, len(slide.outlines))) ** 0.25, 0.2, 0.75))
    lines = LineCollection(slide.outlines, colors="black", linewidths=0.45, alpha=alpha)
    axes.add_collection(lines, autolim=False)
    x, y = slide.squares[:, 0], slide.squares[:, 1]
    right, bottom = x + slide.side, y + slide.side
    corners = np.stack([np.stack(p, axis=-1) for p in ((x, y), (right, y), (right, bottom), (x, bottom))], axis=1)
    rgb = np.array([_rgb(colors[key]) for key in slide.keys]).reshape(-1, 3)
    # The more patches lie over one another, the paler each square, and the more its centre says.
    crowd = max(1.0, _crowd(slide))
    faces, edges = (np.hstack([rgb, np.full((len(x), 1), top / crowd)]) for top in (0.3, 0.9))
    squares = PolyCollection(list(corners), facecolors=faces, edgecolors=edges, linewidths=0.8)
    axes.add_collection(squares, autolim=False)
    if crowd > 1:
        middle = slide.squares + slide.side / 2
        area = float(np.clip(9 * MANY / len(x), 2, 9))
        axes.scatter(middle[:, 0], middle[:, 1], s=area, c=rgb, edgecolors="white", linewidths=0.04 * area)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", anchor="N")
    room = TITLE_LETTERS - len(slide.about)
    name = slide.name if len(slide.name) <= room else f"{slide.name[: room - 1]}…"
    axes.set_title(" · ".join(filter(None, (name, slide.about))), fontsize=9)


def _crowd(slide: MappedSlide) -> float:
    """How often the patches would cover the slide."""
    return len(slide.squares) * slide.side**2 / (slide.size[0] * slide.size[1])


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    r, g, b = color
    return r / 255, g / 255, b / 255
