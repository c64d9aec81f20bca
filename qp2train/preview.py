"""Look at a patch table before training on it: patches with their masks, and where they lie on the slides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import shapely
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qp2train.core.labels import BACKGROUND_NAME, Color
from qp2train.core.patches import SPLITS, PatchTable, SlideRef
from qp2train.report.figures import Picture, contact_sheet
from qp2train.report.slidemap import MappedSlide, slide_map
from qp2train.sampling.mask import Painter
from qp2train.slides import open_slide

CLASSES_SHOWN = 24  # rows of a sheet that can still be read
THUMBNAIL_PX = 900
SPLIT_COLORS: dict[str, Color] = {"train": (0, 114, 178), "val": (230, 159, 0), "test": (204, 121, 167)}
NO_CLASS: Color = (110, 110, 110)


def save_preview(table: PatchTable, path: str | Path) -> tuple[Path, Path]:
    """Write the contact sheet to `path`, and the slide map beside it; returns the paths of both."""
    sheet = Path(path)
    where = sheet.with_name(f"{sheet.stem}_map{sheet.suffix}")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet_of(table).savefig(sheet, dpi=110)
    slide_map_of(table).savefig(where, dpi=130)
    return sheet, where


def contact_sheet_of(table: PatchTable, *, count: int = 32, columns: int = 8, seed: int = 0) -> Figure:
    """Patches of a table with their masks laid over, class by class, each with as many of every split as possible.

    One slide is open at a time.

    Args:
        table: Where from.
        count: Patches shown, about: every class fills whole rows, and at least one. Of more than 24 classes the most
            frequent are shown.
        columns: Per row.
        seed: Which ones.
    """
    names = table.rows["label"].value_counts().index[:CLASSES_SHOWN]
    each = max(1, count // (columns * max(1, len(names)))) * columns
    rng = np.random.default_rng(seed)
    chosen = [_some_of_each_split(table.rows, str(name), each, rng) for name in sorted(names)]
    pictures = {row: (picture, mask) for row, picture, mask in _pictures(table, [i for rows in chosen for i in rows])}
    cells: list[tuple[Picture, Picture, str] | None] = []
    for rows in chosen:
        label, split = (table.rows[c].iloc[rows].tolist() for c in ("label", "split"))
        cells += [(*pictures[i], " · ".join(filter(None, (n, s)))) for i, n, s in zip(rows, label, split, strict=True)]
        cells += [None] * (-len(rows) % columns)
    return contact_sheet(cells, table.labels, columns=columns)


def slide_map_of(
    table: PatchTable, *, by: Literal["class", "split"] = "class", count: int = 12, columns: int = 4
) -> Figure:
    """Thumbnails of the slides with the patches as coloured squares, and the annotations as thin outlines.

    One slide is open at a time, and at most `count` thumbnails are kept.

    Args:
        table: Where from.
        by: What the colour of a square says.
        count: Slides shown, at most; of more, some of every split.
        columns: Per row.
    """
    rows = table.rows
    splits = {str(entry): _splits(part) for entry, part in rows.groupby("entry")["split"]}
    ordered = sorted(splits, key=lambda e: ([_rank(s) for s in splits[e]], table.slides[e].name))
    shown = [
        ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    ]
    key = rows["label" if by == "class" else "split"].replace("", "none")
    colors = _colors(table, [str(n) for n in key.unique()], by)
    mapped = [_mapped(table, entry, key, splits[entry]) for entry in shown]
    note = f"{len(rows):,} patches of {table.size_px} px at {table.mpp:g} µm/px on {len(ordered)} slides"
    if len(shown) < len(ordered):
        note += f"; {len(shown)} of them shown"
    return slide_map(mapped, colors, note=note, columns=columns)


def _some_of_each_split(rows: pd.DataFrame, label: str, count: int, rng: np.random.Generator) -> list[int]:
    """Positions of rows of a class, split by split; where one has too few, the others have more."""
    of_class = np.flatnonzero(rows["label"].to_numpy() == label)
    split = rows["split"].to_numpy()[of_class]
    groups = [rng.permutation(of_class[split == s]).tolist() for s in _splits(pd.Series(split))]
    taken: list[list[int]] = [[] for _ in groups]
    while sum(map(len, taken)) < min(count, len(of_class)):
        for group, kept in zip(groups, taken, strict=True):
            if len(kept) < len(group) and sum(map(len, taken)) < count:
                kept.append(group[len(kept)])
    return [i for kept in taken for i in kept]


def _splits(splits: pd.Series) -> list[str]:
    return sorted(map(str, splits.unique()), key=_rank)


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _pictures(table: PatchTable, rows: list[int]) -> Iterator[tuple[int, Picture, Picture]]:
    """(row, picture, mask), slide by slide."""
    size = (table.size_px, table.size_px)
    entries = table.rows["entry"].iloc[rows].tolist()
    for entry in dict.fromkeys(entries):
        ref = table.slides[entry]
        painter = Painter(ref.annotations, table.labels, slide_size=ref.size)
        with open_slide(ref.path, mpp=ref.mpp, view=ref.view) as slide:
            for row in (r for r, e in zip(rows, entries, strict=True) if e == entry):
                box = table.box(row)
                yield row, slide.read(box, size), painter.paint(box, size)


def _mapped(table: PatchTable, entry: str, key: pd.Series, splits: list[str]) -> MappedSlide:
    ref = table.slides[entry]
    here = (table.rows["entry"] == entry).to_numpy()
    with open_slide(ref.path, mpp=ref.mpp, view=ref.view) as slide:
        picture = slide.thumbnail(THUMBNAIL_PX)
    return MappedSlide(
        picture=picture,
        size=ref.size,
        name=ref.name,
        about=" · ".join([*filter(None, splits), f"{int(here.sum()):,}"]),
        squares=table.rows.loc[here, ["x", "y"]].to_numpy(),
        side=table.side_px(entry),
        keys=tuple(map(str, key[here])),
        outlines=_outlines(ref, table, coarser=max(ref.size) / THUMBNAIL_PX),
    )


def _outlines(ref: SlideRef, table: PatchTable, *, coarser: float) -> list[NDArray[np.float64]]:
    """Rings and lines of the annotations that count, without what a thumbnail cannot show."""
    drawn = [a.geometry for a in ref.annotations if table.labels.value_of(a.class_name) is not None]
    lines = shapely.get_parts(shapely.boundary(shapely.get_parts(shapely.simplify(drawn, coarser / 2))))
    kept = [line for line in lines if line is not None and line.geom_type in ("LineString", "LinearRing")]
    return [np.asarray(line.coords) for line in kept if not line.is_empty]


def _colors(table: PatchTable, names: list[str], by: str) -> dict[str, Color]:
    """Colours of what is there, classes in the order of the map."""
    if by == "split":
        return {n: SPLIT_COLORS.get(n, NO_CLASS) for n in sorted(names, key=_rank)}
    classes = table.labels.classes
    known = {n: table.labels.color(n) for n in classes if n in names}
    others = sorted((n for n in names if n not in known), key=lambda n: (n == BACKGROUND_NAME, n))
    return {**known, **dict.fromkeys(others, NO_CLASS)}
