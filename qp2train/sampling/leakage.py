"""check_leakage: is a split's test part independent of what was trained on? By the table, and by the slides' looks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.filters import threshold_otsu

from qp2train.core.leakage import NAMED, Leak, Parts, file_of, leaks, report
from qp2train.core.patches import PatchTable, SlideRef
from qp2train.errors import Qp2trainError
from qp2train.slides import open_slide
from qp2train.slides.slide import RGB

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

THUMBNAIL_PX = 512
# A slide's look: so many cells a side.
CELLS = 32
# The look reaches so many standard deviations of the tissue to each side: just inside of a full rectangle (1.73), so
# that its straight edges, which all rectangles have, do not count.
REACH = 1.6
# Measured: nine slides with glass (five real), scanned again (2° of turn, other margins, 0.8 of the size, other
# brightness, noise), correlate by 0.91 and more; 129 different pictures (nuclei, fields, slides) by 0.53 at most.
SIMILAR = 0.75
# Widths to heights of the same tissue, turned a little.
ASPECT = 1.25
# Flatter pictures (standard deviation of the grey, 0–255) are glass, and all alike.
FLAT = 4.0
READERS = 4  # a network drive makes one wait, not compute
BLOCK = 1024


def check_leakage(*tables: PatchTable, by: str | Sequence[str] = "patient", pictures: bool = True) -> list[Leak]:
    """Look for what ties the parts of a split together, so that scores would come out too high.

    Certain, and refused: a patient, or a slide's file, in several parts, unless the split was asked for by something
    else (by="slide", by="patch"). Doubtful, and logged as warnings: patients' ids that differ only in case, spaces or
    leading zeros; different regions of one file; slides that look the same.

    Looks are compared on the tissue's part of a thumbnail, in 8 orientations: copies, scans repeated, slides turned or
    mirrored, and with other glass round the tissue are found. A part of the tissue cut out of a slide is not, unless it
    is nearly all of it.

    Args:
        tables: One table with a column `split`, or the parts as a table each.
        by: The metadata key that names the patient, or several keys.
        pictures: Also compare how the slides look: a thumbnail of each is read, once.

    Returns:
        What is doubtful, and what was asked for in so many words.

    Raises:
        SplitError: A leak is certain. The patients or slides are named.
    """
    parts = Parts.of(tables)
    found = leaks(parts, by=by)
    # After patches were dealt out one by one, every slide is in every part.
    if pictures and len(parts.used) > 1 and parts.grouped_by != {"patch"} and not any(leak.certain for leak in found):
        found += _similar(parts)
    report(found)
    return found


@dataclass(frozen=True)
class Look:
    """What a slide's tissue looks like, independent of margins, size, brightness and contrast.

    Args:
        cells: CELLS × CELLS, mean 0 and norm 1: the dot product of two looks is their correlation.
        aspect: Width of the tissue over its height.
    """

    cells: Floats
    aspect: float


def look_of(picture: RGB) -> Look | None:
    """The look of a slide's thumbnail (H×W×3 uint8); None if it is blank.

    Dark parts (Otsu) give the middle and spread, and so the window that is compared; of its grey values, the detail
    finer than a quarter of it.
    """
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    if grey.std() < FLAT:
        return None
    smooth = gaussian_filter(grey, max(grey.shape) / 256)
    dark = smooth <= threshold_otsu(smooth)
    (middle_y, half_y), (middle_x, half_x) = (_spread(dark.sum(axis=axis)) for axis in (1, 0))
    blurred = gaussian_filter(grey, (1.5 * half_y / CELLS, 1.5 * half_x / CELLS), mode="nearest")
    steps = (np.arange(CELLS) + 0.5) / CELLS * 2 - 1
    where = np.meshgrid(middle_y + steps * half_y - 0.5, middle_x + steps * half_x - 0.5, indexing="ij")
    cells = map_coordinates(blurred, where, order=1, mode="nearest")
    cells -= gaussian_filter(cells, CELLS / 4, mode="nearest")
    cells -= cells.mean()
    norm = float(np.linalg.norm(cells))
    # Detail of less than a tenth of a grey level is rounding.
    return Look((cells / norm).astype(np.float32), half_x / half_y) if norm > 0.1 * CELLS else None


def similarity(one: Sequence[Look], other: Sequence[Look]) -> Floats:
    """(N, M): correlation of looks in the best of 8 orientations; -1 where the tissue's proportions differ."""
    a = np.array([look.cells.ravel() for look in one])
    width_a, width_b = (np.log([look.aspect for look in looks]) for looks in (one, other))
    best = np.full((len(one), len(other)), -1, dtype=np.float32)
    for quarters in range(4):
        turned_b = -width_b if quarters % 2 else width_b
        same = abs(width_a[:, None] - turned_b) <= np.log(ASPECT)
        for mirrored in (False, True):
            b = np.array(
                [np.rot90(look.cells[:, ::-1] if mirrored else look.cells, quarters).ravel() for look in other]
            )
            best = np.where(same, np.maximum(best, a @ b.T), best)
    return best


def _spread(profile: NDArray[np.int_]) -> tuple[float, float]:
    """Middle, and half the width of the window."""
    place = np.arange(len(profile)) + 0.5
    middle = float(np.average(place, weights=profile))
    return middle, REACH * max(1.0, float(np.sqrt(np.average((place - middle) ** 2, weights=profile))))


def _similar(parts: Parts) -> list[Leak]:
    uses: dict[tuple[str, str], tuple[SlideRef, set[str]]] = {}
    for part, slides in parts.used.items():
        for slide in slides:
            uses.setdefault((slide.path, slide.view), (slide, set()))[1].add(part)
    with ThreadPoolExecutor(READERS) as readers:
        looks = [*readers.map(_look, [slide for slide, _ in uses.values()])]
    seen = [(look, *use) for look, use in zip(looks, uses.values(), strict=True) if look is not None]
    pairs = []
    for i, j in _alike([look for look, *_ in seen]):
        (_, one, in_one), (_, other, in_other) = seen[i], seen[j]
        straddle = len(in_one | in_other) > 1
        if straddle and file_of(one) != file_of(other):
            pairs.append((f"{one.name} ({', '.join(sorted(in_one))})", f"{other.name} ({', '.join(sorted(in_other))})"))
    texts = [f"{a} and {b} look the same: is one a copy or a second scan of the other?" for a, b in pairs]
    if len(pairs) > NAMED:
        log.warning("%d pairs of slides in different parts look the same; %d are named", len(pairs), NAMED)
    return [Leak("picture", False, pair, text) for pair, text in zip(pairs[:NAMED], texts, strict=False)]


def _alike(looks: Sequence[Look]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, block by block: 10,000 slides would make a matrix of 400 MB."""
    blocks = [range(start, min(start + BLOCK, len(looks))) for start in range(0, len(looks), BLOCK)]
    for rows, columns in [*((b, b) for b in blocks), *combinations(blocks, 2)]:
        found = similarity([looks[i] for i in rows], [looks[j] for j in columns]) >= SIMILAR
        for i, j in np.argwhere(found).tolist():
            if rows[i] < columns[j]:
                yield rows[i], columns[j]


def _look(ref: SlideRef) -> Look | None:
    try:
        with open_slide(ref.path, mpp=ref.mpp, view=ref.view) as slide:
            return look_of(slide.thumbnail(THUMBNAIL_PX))
    except Qp2trainError as error:
        log.warning("not compared with the other slides, since it cannot be read: %s: %s", ref.name, error)
        return None
