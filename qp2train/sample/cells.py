"""Where nuclei sit: in rows at the base of epithelium, along fibres in stroma, in crowds where lymphocytes gather."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from qp2train.core.geometry import areal
from qp2train.sample.anatomy import Anatomy
from qp2train.sample.canvas import COARSE, Layer
from qp2train.sample.glands import Gland
from qp2train.sample.noise import Floats, smooth_noise
from qp2train.sample.stamps import NUCLEUS, PART, along_outline, draw_stamps, print_stamps, scattered

Spots = tuple[NDArray[np.float64], NDArray[np.float64]]

# How likely a place in the stroma (one per 13 px) holds a cell of each sort.
_STROMA = {
    Layer.PROPRIA: {"spindle": 0.12, "lymphocyte": 0.17, "plasma": 0.14, "eosinophil": 0.025},
    Layer.DESMOPLASIA: {"spindle": 0.26, "lymphocyte": 0.09, "plasma": 0.03, "eosinophil": 0.008},
    Layer.SUBMUCOSA: {"spindle": 0.06, "lymphocyte": 0.012},
    Layer.MUSCLE: {"muscle": 0.24},
    Layer.WALL: {"muscle": 0.14},
    Layer.FOLLICLE: {"lymphocyte": 0.95},
}


def print_cells(
    canvas: Floats,
    label: NDArray[np.uint8],
    potential: Floats,
    anatomy: Anatomy,
    rng: np.random.Generator,
) -> None:
    """Print all nuclei and other cell parts of a slide on its canvas."""
    stroma = _stroma(label, potential, rng)
    for name in ("plasma", "eosinophil"):
        part = draw_stamps(rng, PART["cytoplasm" if name == "plasma" else "eosinophil"])
        xy, angle = stroma[name]
        print_stamps(canvas, part, xy + rng.normal(0, 2.2, xy.shape), angle, rng)
    for name, (xy, angle) in stroma.items():
        look = "lymphocyte" if name == "eosinophil" else name
        print_stamps(canvas, draw_stamps(rng, NUCLEUS[look]), xy, angle, rng)

    print_stamps(canvas, draw_stamps(rng, PART["goblet"]), *_goblets(anatomy, rng), rng)
    print_stamps(canvas, draw_stamps(rng, NUCLEUS["epithelium"]), *_benign(anatomy, rng), rng)
    print_stamps(canvas, draw_stamps(rng, NUCLEUS["tumour"], variants=16), *_malignant(anatomy, rng), rng)
    print_stamps(canvas, draw_stamps(rng, NUCLEUS["pyknotic"]), *_debris(anatomy, rng), rng)
    print_stamps(canvas, draw_stamps(rng, PART["red_cell"]), *_blood(anatomy, rng), rng)
    thin = draw_stamps(rng, NUCLEUS["endothelium"])
    rings = [v.lumen for v in anatomy.vessels] + list(anatomy.adipocytes)
    pitches = [24.0] * len(anatomy.vessels) + [150.0] * len(anatomy.adipocytes)
    for ring, pitch in zip(rings, pitches, strict=True):
        xy, angle = along_outline(rng, shapely.get_coordinates(ring.exterior), pitch=pitch, jitter=0.8)
        print_stamps(canvas, thin, xy, angle + np.pi / 2, rng)


def _stroma(label: NDArray[np.uint8], potential: Floats, rng: np.random.Generator) -> dict[str, Spots]:
    height, width = label.shape
    xy = scattered(rng, (height, width), 13.0)
    here = label[xy[:, 1].astype(int), xy[:, 0].astype(int)]
    for dx, dy in ((9, 0), (-9, 0), (0, 9), (0, -9)):  # nothing hangs over the edge of the tissue
        row, column = xy[:, 1].astype(int) + dy, xy[:, 0].astype(int) + dx
        here = np.where(label[row.clip(0, height - 1), column.clip(0, width - 1)] == Layer.GLASS, Layer.GLASS, here)
    crowd = np.exp(0.45 * smooth_noise(rng, (width, height), 140).at(xy))
    down: Floats = np.gradient(potential, axis=0)
    right: Floats = np.gradient(potential, axis=1)
    row = np.minimum(xy[:, 1].astype(int) // COARSE, potential.shape[0] - 1)
    column = np.minimum(xy[:, 0].astype(int) // COARSE, potential.shape[1] - 1)
    along = np.arctan2(down[row, column], right[row, column]) + np.pi / 2 + rng.normal(0, 0.22, len(xy))
    left, draw = np.ones(len(xy), bool), rng.random(len(xy))
    out = {}
    for name in ("lymphocyte", "plasma", "eosinophil", "spindle", "muscle"):
        chance = np.array([_STROMA.get(layer, {}).get(name, 0.0) for layer in Layer])[here]
        chance = np.minimum(chance * np.where((name == "muscle") | (here == Layer.FOLLICLE), 1.0, crowd), 0.95)
        chosen = left & (draw < chance)
        draw = np.where(left, np.maximum(draw - chance, 0), 1) / np.maximum(1 - chance, 1e-9)
        left &= ~chosen
        out[name] = (xy[chosen], along[chosen])
    return out


def _rings(gland: Gland, depth: float) -> list[NDArray[np.float64]]:
    """Closed lines `depth` px inside a gland's outline."""
    inner = areal(gland.outline.buffer(-depth))
    return [shapely.get_coordinates(p.exterior) for p in shapely.get_parts(inner) if p.length > 60]


def _gathered(spots: list[Spots]) -> Spots:
    if not spots:
        return np.empty((0, 2)), np.empty(0)
    return np.concatenate([s[0] for s in spots]), np.concatenate([s[1] for s in spots])


def _kept(spots: Spots, keep: NDArray[np.bool_]) -> Spots:
    return spots[0][keep], spots[1][keep]


def _goblets(anatomy: Anatomy, rng: np.random.Generator) -> Spots:
    spots = []
    for gland in anatomy.glands:
        if gland.malignant:
            continue
        plenty = rng.uniform(0.45, 0.95)
        for ring in _rings(gland, 27):
            found = along_outline(rng, ring, pitch=15.5, jitter=3.0)
            spots.append(_kept(found, rng.random(len(found[0])) < plenty))
    return _clear_of_lumen(_gathered(spots), anatomy, -1)


def _benign(anatomy: Anatomy, rng: np.random.Generator) -> Spots:
    glands = [g for g in anatomy.glands if not g.malignant]
    return _gathered([along_outline(rng, r, pitch=10.2, jitter=1.6) for g in glands for r in _rings(g, 11.5)])


def _malignant(anatomy: Anatomy, rng: np.random.Generator) -> Spots:
    """Several rows, out of step, and crowds between the lumina of a cribriform gland."""
    spots = []
    for gland in anatomy.glands:
        if not gland.malignant:
            continue
        for depth, share in ((13, 1.0), (27, 0.62)):
            for ring in _rings(gland, depth):
                found = along_outline(rng, ring, pitch=13.5, jitter=3.0)
                spots.append(_kept(found, rng.random(len(found[0])) < share))
        for lumen in gland.lumina:
            ring = shapely.get_coordinates(lumen.buffer(15).exterior)
            found = along_outline(rng, ring, pitch=17.0, jitter=3.0)
            inner = gland.outline.buffer(-38)
            shapely.prepare(inner)
            spots.append(_kept(found, shapely.contains_xy(inner, found[0])))
        core = shapely.difference(gland.outline.buffer(-44), shapely.union_all([p.buffer(30) for p in gland.lumina]))
        if not core.is_empty:
            x0, y0, x1, y1 = core.bounds
            xy = scattered(rng, (int(y1 - y0) + 1, int(x1 - x0) + 1), 22.0) + np.array([x0, y0])
            xy = xy[shapely.contains_xy(core, xy)]
            spots.append((xy, rng.uniform(0, np.pi, len(xy))))
    xy, angle = _clear_of_lumen(_gathered(spots), anatomy, 3)
    return xy, angle + rng.normal(0, 0.3, len(angle))


def _clear_of_lumen(spots: Spots, anatomy: Anatomy, margin: float) -> Spots:
    """Drop points in a lumen or nearer to it than `margin` px."""
    lumina = [p.buffer(margin) for g in anatomy.glands for p in g.lumina]
    tree = shapely.STRtree(lumina)
    hit, _ = tree.query(shapely.points(spots[0]), predicate="intersects")
    keep = np.ones(len(spots[0]), bool)
    keep[hit] = False
    return _kept(spots, keep)


def _debris(anatomy: Anatomy, rng: np.random.Generator) -> Spots:
    lumina = [p.buffer(-8) for g in anatomy.glands if g.content == "debris" for p in g.lumina]
    return _inside(lumina, rng, pitch=13.0, share=0.4)


def _blood(anatomy: Anatomy, rng: np.random.Generator) -> Spots:
    spots = [_inside([v.lumen.buffer(-3)], rng, pitch=10.5, share=v.filled) for v in anatomy.vessels]
    return _gathered(spots)


def _inside(areas: list[shapely.Polygon], rng: np.random.Generator, *, pitch: float, share: float) -> Spots:
    found = []
    for area in areas:
        if area.is_empty:
            continue
        x0, y0, x1, y1 = area.bounds
        xy = scattered(rng, (int(y1 - y0) + 2, int(x1 - x0) + 2), pitch) + np.array([x0, y0])
        xy = xy[shapely.contains_xy(area, xy) & (rng.random(len(xy)) < share)]
        found.append((xy, rng.uniform(0, np.pi, len(xy))))
    return _gathered(found)
