"""What a pathologist would draw on a slide in half an hour: little, slightly off, and in several ways.

One or two locked rectangles (`Region*`) inside which everything is outlined; beyond them single glands, strokes of the
brush over stroma, loose `Ignore*` loops about artefacts, a few points and a line.
"""

from __future__ import annotations

import numpy as np
import shapely
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import areal, clean
from qp2train.sample.bend import largest
from qp2train.sample.tissue import DrawnSlide, new_id, rounded

CLASSES = ("Gland", "Tumor", "Stroma")
# How much of each a slide's regions should show together, as a share of one region's area. Glass too: without the
# tissue's edge in a region, a model never learns where tissue ends.
_ENOUGH = {"Gland": 0.5, "Tumor": 0.4, "Stroma": 0.4, "Fat": 0.1, "glass": 0.15}


def annotate(
    slide: DrawnSlide,
    seed: int | list[int],
    *,
    regions: int = 2,
    region_px: int = 900,
    singles: int = 6,
    strokes: int = 4,
    unclassified: bool = True,
) -> list[Annotation]:
    """Draw sparse annotations by hand, in full-resolution pixels.

    Args:
        slide: What to annotate.
        seed: Fixes the choice of places and the hand's tremor.
        regions: How many `Region*` rectangles, fewer when they do not fit without overlap.
        region_px: Their typical side; at most 0.4 of the slide's.
        singles: How many glands of each class to outline outside the regions.
        strokes: How many brush strokes over stroma outside the regions.
        unclassified: Add points and a line without a class, as people leave them.
    """
    rng = np.random.default_rng(seed)
    hand = _Hand(rng)
    frames = _regions(slide, rng, regions, region_px)
    seen = shapely.union_all(frames)
    avoided = shapely.union_all([seen, *(a.geometry for a in slide.artefacts)])
    out = [
        Annotation(frame, "Region*", name=f"region {i}", locked=True, id=new_id(rng))
        for i, frame in enumerate(frames, 1)
    ]
    for frame in frames:
        out += _filled(slide, frame, hand)
    for class_name in ("Gland", "Tumor"):
        free = [a for a in slide.of_class(class_name) if a.geometry.distance(avoided) > 10]
        for i in rng.permutation(len(free))[:singles]:
            out.append(hand.drawn(hand.outlined(free[i].geometry), class_name))
    out += _strokes(slide, seen, hand, strokes)
    for spoilt in slide.artefacts:
        loop = largest(hand.outlined(shapely.simplify(spoilt.geometry.buffer(14), 4)))
        out.append(hand.drawn(loop.intersection(shapely.box(0, 0, *slide.size_px)), "Ignore*", name=spoilt.name))
    return out + (_remarks(slide, hand) if unclassified else [])


class _Hand:
    """A steady but human hand: outlines with few vertices, 1 to 2 px off."""

    def __init__(self, rng: np.random.Generator, *, tremor_px: float = 1.2, vertex_px: float = 13.0) -> None:
        self.rng = rng
        self.tremor_px = tremor_px
        self.vertex_px = vertex_px

    def outlined(self, area: BaseGeometry) -> shapely.Polygon:
        """The area's outer border as a hand would draw it."""
        ring = largest(area).exterior
        count = max(8, round(ring.length / self.vertex_px))
        points = shapely.get_coordinates(
            shapely.line_interpolate_point(ring, np.arange(count) / count, normalized=True)
        )
        wander = ndimage.gaussian_filter1d(self.rng.standard_normal((count, 2)), 1.2, axis=0, mode="wrap") * 2.0
        return largest(clean(shapely.Polygon(points + wander * self.tremor_px)))

    def drawn(self, geometry: BaseGeometry, class_name: str | None, *, name: str | None = None) -> Annotation:
        return Annotation(rounded(geometry), class_name, name=name, id=new_id(self.rng))


def _regions(slide: DrawnSlide, rng: np.random.Generator, wanted: int, side_px: int) -> list[shapely.Polygon]:
    """Rectangles that together show as much as possible of each class, each the best of random ones."""
    width, height = slide.size_px
    covered = {c: shapely.union_all([a.geometry for a in slide.of_class(c)]) for c in (*CLASSES, "Fat", "Vessel")}
    covered["glass"] = shapely.box(0, 0, width, height).difference(shapely.union_all(list(covered.values())))
    del covered["Vessel"]
    spoilt = shapely.union_all([a.geometry for a in slide.artefacts])
    found: list[shapely.Polygon] = []
    shown = dict.fromkeys(_ENOUGH, 0.0)
    for _ in range(wanted):
        best, best_score = None, 0.0
        for _ in range(60):
            w, h = np.round(np.minimum(side_px * rng.uniform(0.75, 1.1, 2), 0.4 * np.array(slide.size_px)))
            x, y = np.floor(rng.uniform((0, 0), (width - w, height - h)))
            frame = shapely.box(x, y, x + w, y + h)
            gain = {c: shown[c] + area.intersection(frame).area for c, area in covered.items()}
            # The root makes the first glands of a class worth more than the last of another.
            score = sum(np.sqrt(min(gain[c] / (enough * side_px**2), 1)) for c, enough in _ENOUGH.items())
            if score > best_score and all(frame.distance(f) > 60 for f in found) and frame.distance(spoilt) > 30:
                best, best_score = frame, score
        if best is not None:
            found.append(best)
            shown = {c: shown[c] + area.intersection(best).area for c, area in covered.items()}
    return found


def _filled(slide: DrawnSlide, frame: shapely.Polygon, hand: _Hand) -> list[Annotation]:
    """Everything inside a region: each gland, and the stroma that is left, drawn by subtraction."""
    out = []
    for class_name in ("Gland", "Tumor"):
        for truth in slide.of_class(class_name):
            if not truth.geometry.intersects(frame):
                continue
            seen = largest(hand.outlined(truth.geometry).intersection(frame))
            if seen.area > 150:
                out.append(hand.drawn(seen, class_name))
    glands = shapely.union_all([a.geometry for a in out])
    # A loose outline of the tissue, minus glands, minus what is no stroma: how QuPath's "subtract" is used.
    others = [hand.outlined(a.geometry) for c in ("Fat", "Vessel") for a in slide.of_class(c)]
    tissue = shapely.union_all([a.geometry for a in slide.truth if a.class_name in (*CLASSES, "Fat", "Vessel")])
    stroma = areal(tissue.intersection(frame).difference(shapely.union_all([glands, *others])).buffer(-1).buffer(1))
    stroma = shapely.simplify(stroma, 0.8)
    if stroma.area > 500:
        out.append(hand.drawn(stroma, "Stroma"))
    return out


def _strokes(slide: DrawnSlide, seen: BaseGeometry, hand: _Hand, wanted: int) -> list[Annotation]:
    """Short strokes with QuPath's brush, well inside the stroma."""
    rng, radius = hand.rng, 15.0
    stroma = shapely.union_all([a.geometry for a in slide.of_class("Stroma")]).difference(seen.buffer(10))
    for spoilt in slide.artefacts:
        stroma = stroma.difference(spoilt.geometry)
    room = areal(stroma.buffer(-radius - 3))
    shapely.prepare(room)
    out: list[Annotation] = []
    x0, y0, x1, y1 = room.bounds if not room.is_empty else (0, 0, 0, 0)
    for _ in range(400):
        if len(out) == wanted or room.is_empty:
            break
        start = rng.uniform((x0, y0), (x1, y1))
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 12))
        path = start + np.cumsum(np.column_stack([np.cos(turns), np.sin(turns)]) * 18, 0)
        inside = shapely.contains_xy(room, path)
        length = int(inside.argmin()) if not inside.all() else len(path)
        if length < 5:
            continue
        stroke = shapely.LineString(path[:length]).buffer(radius, quad_segs=4).intersection(stroma)
        if all(stroke.distance(other.geometry) > 200 for other in out):
            out.append(hand.drawn(largest(stroke), "Stroma"))
    return out


def _remarks(slide: DrawnSlide, hand: _Hand) -> list[Annotation]:
    """Points and a line that someone left for a colleague; no class, so they train nothing."""
    tumours = [a.geometry for a in slide.of_class("Tumor")]
    if not tumours:
        return []
    chosen = hand.rng.permutation(len(tumours))[:3]
    points = shapely.MultiPoint([tumours[i].representative_point() for i in chosen])
    x0, y0, x1, y1 = shapely.union_all(tumours).bounds
    line = shapely.LineString([((x0 + x1) / 2, y0), ((x0 + x1) / 2 + 12, y1)])
    return [hand.drawn(points, None, name="mitoses?"), hand.drawn(line, None, name="depth of invasion")]
