"""The pictures. Each function returns a matplotlib Figure; nothing is shown or saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box, areal
from qp2train.core.labels import IGNORE, LabelMap

Picture = NDArray[np.uint8]
Colors = Mapping[str, tuple[int, int, int]]

UNCLASSIFIED = (90, 90, 90)


def overlay(
    picture: Picture,
    annotations: Iterable[Annotation],
    *,
    box: Box,
    colors: Colors,
    title: str = "",
    fill: float = 0.2,
) -> Figure:
    """Annotations drawn over a picture of `box`.

    Args:
        picture: H×W×3 uint8, the pixels of `box`.
        annotations: In full-resolution pixels.
        box: What the picture shows.
        colors: Class → (r, g, b); a class without one is drawn in grey.
        title: Above the picture.
        fill: Opacity of the areas; outlines are always opaque.
    """
    figure, (axes,) = _row(1, picture.shape)
    _draw(axes, picture, annotations, box=box, colors=colors, title=title, fill=fill)
    return figure


def prediction_over_truth(
    picture: Picture,
    predicted: Iterable[Annotation],
    truth: Iterable[Annotation],
    *,
    box: Box,
    colors: Colors,
    title: str = "",
) -> Figure:
    """The picture three times: as it is, with the truth, with the prediction."""
    figure, axes = _row(3, picture.shape)
    _draw(axes[0], picture, [], box=box, colors={}, title=title or "slide")
    _draw(axes[1], picture, truth, box=box, colors=colors, title="truth", fill=0.3)
    _draw(axes[2], picture, predicted, box=box, colors=colors, title="prediction", fill=0.3)
    return figure


def contact_sheet(
    patches: Sequence[tuple[Picture, Picture, str] | None], labels: LabelMap, *, columns: int = 8, alpha: float = 0.3
) -> Figure:
    """Patches with their masks laid over and outlined in the classes' colours.

    Args:
        patches: (picture H×W×3 uint8, mask H×W uint8, caption) each; None = an empty place. Ignored pixels are greyed
            out.
        labels: Classes and colours.
        columns: Patches per row.
        alpha: Opacity of the masks.
    """
    rows = max(1, -(-len(patches) // columns))
    figure = Figure(figsize=(1.5 * columns, 1.7 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, patch in zip(grid.ravel(), patches, strict=False):
        if patch is None:
            continue
        picture, mask, caption = patch
        axes.imshow(outlined(picture, mask, labels, alpha=alpha))
        axes.set_title(caption, fontsize=8)
    _legend(figure, {name: labels.color(name) for name in labels.classes})
    return figure


def _edges(mask: Picture) -> NDArray[np.bool_]:
    """Pixels beside one of another value: lines of a hundredth of the picture's side."""
    edge = np.zeros(mask.shape, dtype=bool)
    for distance in range(1, 1 + max(1, round(max(mask.shape) / 200))):
        for axis in (0, 1):
            near, far = [(slice(None),) * axis + (s,) for s in (slice(None, -distance), slice(distance, None))]
            apart = mask[near] != mask[far]
            edge[near] |= apart
            edge[far] |= apart
    return edge


def outlined(picture: Picture, mask: Picture, labels: LabelMap, *, alpha: float = 0.35) -> Picture:
    """As `tinted`, and each class with an outline in its full colour."""
    shown = tinted(picture, mask, labels, alpha=alpha)
    edge = _edges(mask)
    for value, name in enumerate(labels.classes, start=1):
        shown[edge & (mask == value)] = labels.color(name)
    return shown


def tinted(picture: Picture, mask: Picture, labels: LabelMap, *, alpha: float = 0.35) -> Picture:
    """A patch with its mask in colour: classes tinted, background as it is, ignored pixels grey and pale."""
    out = picture.astype(np.float32)
    for value, name in enumerate(labels.classes, start=1):
        here = mask == value
        out[here] = (1 - alpha) * out[here] + alpha * np.array(labels.color(name), dtype=np.float32)
    nobody = mask == IGNORE
    grey = out[nobody].mean(axis=-1, keepdims=True)
    out[nobody] = 0.5 * grey + 0.5 * 235
    return out.round().astype(np.uint8)


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss over the epochs, and validation Dice per class where there was validation."""
    keys = sorted({k for row in history for k in row if k.startswith("val/dice")})
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9 if keys else 4.5, 3.2), layout="constrained")
    loss, *rest = figure.subplots(1, 2 if keys else 1, squeeze=False)[0]
    for key in ("train/loss", "val/loss"):
        if any(key in row for row in history):
            loss.plot(epochs, [row.get(key, np.nan) for row in history], marker=".", label=key.split("/")[0])
    loss.set(xlabel="epoch", ylabel="loss")
    for dice in rest:
        for key in keys:
            name = key.removeprefix("val/dice").strip("/") or "mean of classes"
            values = [row.get(key, np.nan) for row in history]
            dice.plot(epochs, values, marker=".", label=name, lw=2.5 if key == "val/dice" else 1.2)
        dice.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    for axes in (loss, *rest):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    return figure


def _row(count: int, shape: tuple[int, ...]) -> tuple[Figure, list[Axes]]:
    height, width = shape[:2]
    side = 7.0 if count == 1 else 4.6
    figure = Figure(figsize=(side * count, side * height / width + 0.7), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _draw(
    axes: Axes,
    picture: Picture,
    annotations: Iterable[Annotation],
    *,
    box: Box,
    colors: Colors,
    title: str,
    fill: float = 0.2,
) -> None:
    axes.imshow(picture, extent=(box.x, box.right, box.bottom, box.y), interpolation="nearest")
    window = box.polygon
    seen: dict[str, tuple[int, int, int]] = {}
    for annotation in annotations:
        if not annotation.geometry.intersects(window):
            continue
        name = annotation.class_name or "unclassified"
        color = annotation.color or colors.get(name, UNCLASSIFIED)
        seen[name] = color
        rgb = _rgb(color)
        path = _path(annotation.geometry)
        if path is not None:
            axes.add_patch(PathPatch(path, facecolor=(*rgb, fill), edgecolor=rgb, lw=0.9))
        else:
            for part in shapely.get_parts(annotation.geometry):
                xy = shapely.get_coordinates(part)
                axes.plot(xy[:, 0], xy[:, 1], marker="o" if len(xy) == 1 else None, ms=4, color=rgb, lw=1.2)
    axes.set(xlim=(box.x, box.right), ylim=(box.bottom, box.y), xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)
    if seen:
        handles = [Patch(color=_rgb(c), label=n) for n, c in sorted(seen.items())]
        axes.legend(
            handles=handles,
            fontsize=7,
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            ncols=min(4, len(seen)),
            frameon=False,
        )


def _path(geometry: BaseGeometry) -> Path | None:
    """Exterior and holes of an area as one path; None for lines and points."""
    polygons = [p for p in shapely.get_parts(areal(geometry)) if not p.is_empty]
    rings = [np.asarray(ring.coords) for p in shapely.orient_polygons(polygons) for ring in (p.exterior, *p.interiors)]
    if not rings:
        return None
    return Path.make_compound_path(*(Path(ring, closed=True) for ring in rings))


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    r, g, b = color
    return r / 255, g / 255, b / 255


def _legend(figure: Figure, colors: Colors) -> None:
    handles = [Patch(color=_rgb(c), label=n) for n, c in colors.items()]
    handles.append(Patch(color="0.92", label="not annotated"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
