"""PatchTable: one row per patch, with all that is needed to paint its mask again."""

from __future__ import annotations

import hashlib
import html
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from shapely.errors import ShapelyError

from qp2train.core.annotation import Annotation, from_frame, to_frame
from qp2train.core.geometry import Box
from qp2train.core.labels import LabelMap
from qp2train.core.splitting import deal, deal_folds
from qp2train.errors import Qp2trainError, SplitError

log = logging.getLogger(__name__)

COLUMNS = {
    "entry": "str",  # id of the image in its project
    "x": "float64",  # top-left corner, full-resolution px
    "y": "float64",
    "label": "str",  # class of the annotation that the patch was drawn for, or that fills most of it
    "annotation": "str",  # id of that annotation, "" for grid and random patches
    "annotated": "float64",  # share of the patch that is not ignored
    "group": "str",  # patient, else slide: never split
    "split": "str",  # "train", "val", "test" or ""
    "weight": "float64",  # for weighted draws
}
# Same order as the names given to `split`.
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SlideRef:
    """A slide as the table remembers it: where its file is and what was drawn on it."""

    entry: str
    name: str
    path: str
    mpp: float
    size: tuple[int, int]
    metadata: Mapping[str, str]
    annotations: tuple[Annotation, ...]
    view: str = ""  # what of the file it shows: QuPath's cropped, rotated and flipped images; "" = all of it


@dataclass(frozen=True)
class PatchTable:
    """Patches of `size_px` × `size_px` pixels at `mpp` µm per pixel.

    Args:
        rows: One row per patch; columns as in `COLUMNS`.
        slides: Entry id → the slide, with a snapshot of its annotations.
        labels: What the classes mean.
        size_px: Side of a patch, in pixels at `mpp`.
        mpp: µm per patch pixel.
    """

    rows: pd.DataFrame
    slides: Mapping[str, SlideRef]
    labels: LabelMap
    size_px: int
    mpp: float

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[SlideRef, Box]]:
        """The slide and the box (full-resolution px) of each patch, in row order."""
        return ((self.slides[e], self.box(i)) for i, e in enumerate(self.rows["entry"]))

    def box(self, row: int) -> Box:
        """The box of a patch in full-resolution pixels of its slide."""
        entry, x, y = (self.rows[c].iloc[row] for c in ("entry", "x", "y"))
        side = self.side_px(entry)
        return Box(float(x), float(y), side, side)

    def side_px(self, entry: str) -> float:
        """The side of a patch in full-resolution pixels of a slide."""
        return self.size_px * self.mpp / self.slides[entry].mpp

    def select(self, split: str) -> Self:
        """The rows of one split."""
        return self._with(self.rows[self.rows["split"] == split])

    def take(self, rows: Iterable[int] | Iterable[bool]) -> Self:
        """The rows at these positions, or where a boolean mask is True."""
        return self._with(self.rows.iloc[list(rows)])

    def to_csv(self, path: str | Path) -> Path:
        """Write the patches for QuPath (groovy/show_patches.groovy) and for spreadsheets.

        Columns: entry (its id), image (the slide's name), x, y (left and top edge), size (all in full-resolution px),
        label, split, weight, annotated. The annotations are not in it: `save` keeps them, and is what training reads.
        """
        rows = self.rows.assign(
            image=[self.slides[e].name for e in self.rows["entry"]],
            size=[self.side_px(e) for e in self.rows["entry"]],
        )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = ["entry", "image", "x", "y", "size", "label", "split", "weight", "annotated"]
        rows[columns].to_csv(path, index=False)
        return path

    def counts(self) -> pd.DataFrame:
        """Patches per class (rows) and split (columns)."""
        split = self.rows["split"].replace("", "all")
        return pd.crosstab(self.rows["label"], split).rename_axis(index="class", columns="split")

    def split(
        self,
        *,
        by: str = "patient",
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        assign: Mapping[str, str] | None = None,
    ) -> tuple[Self, ...]:
        """Divide into tables that share no group.

        Groups are dealt out whole, the largest first, each to the part that is furthest from its share of
        patches; equal groups in seeded order.

        Args:
            by: "slide", or a key of the slides' metadata ("patient"). A slide without the key is its own
                group when no slide has it, and an error when only some have it. "patch" ignores groups:
                neighbouring patches then leak from training into testing, and scores come out too high.
            fractions: Share of patches of each part: train, val, test.
            seed: Which of equally good divisions is taken.
            assign: Group → "train", "val" or "test", for a division made by hand; replaces `fractions`.
                Groups that it does not name are for training.

        Raises:
            SplitError: Fewer groups than parts, fractions that do not add up to 1, or an unknown group.
        """
        group, sizes = self._groups(by)
        if assign is not None:
            _check_assignment(assign, sizes)
            part = {g: assign.get(g, "train") for g in sizes}
            used = [s for s in SPLITS if s in part.values()]
        else:
            if len(fractions) > len(SPLITS):
                raise SplitError(f"at most {len(SPLITS)} fractions ({', '.join(SPLITS)}), not {len(fractions)}")
            used = list(SPLITS[: len(fractions)])
            part = {g: used[i] for g, i in deal(sizes, fractions, seed=seed).items()}
        rows = self.rows.assign(group=group, split=group.map(part))
        return tuple(self._with(rows[rows["split"] == s]) for s in used)

    def folds(self, k: int, *, by: str = "patient", seed: int = 0) -> Iterator[tuple[Self, Self]]:
        """(train, held-out) for each of `k` folds; every group is held out once.

        Raises:
            SplitError: Fewer groups than folds.
        """
        group, sizes = self._groups(by)
        fold = group.map(deal_folds(sizes, k, seed=seed))
        for i in range(k):
            rows = self.rows.assign(group=group, split=np.where(fold == i, "val", "train"))
            yield self._with(rows[fold != i]), self._with(rows[fold == i])

    def digest(self) -> str:
        """A short hash of patches, annotations, labels and scale: equal tables, equal digest."""
        h = hashlib.sha256(json.dumps([self.labels.to_dict(), self.size_px, self.mpp]).encode())
        h.update(pd.util.hash_pandas_object(self.rows, index=False).to_numpy().tobytes())
        for ref in self.slides.values():
            h.update(f"{ref.name} {ref.size} {ref.mpp}{ref.view}".encode())
            h.update(b"".join(a.geometry.wkb + f"{a.class_name} {a.parent}".encode() for a in ref.annotations))
        return h.hexdigest()[:16]

    def save(self, path: str | Path) -> Path:
        """Write the patches to `path` (Parquet) and the annotations beside it (`*.annotations.parquet`).

        Returns the path of the patches.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        slides = [
            {f.name: getattr(s, f.name) for f in fields(SlideRef) if f.name != "annotations"}
            for s in self.slides.values()
        ]
        about = {"labels": self.labels.to_dict(), "size_px": self.size_px, "mpp": self.mpp, "slides": slides}
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        kept = table.schema.metadata or {}
        table = table.replace_schema_metadata({**kept, b"qp2train": json.dumps(about).encode()})
        drawn = [to_frame(s.annotations).assign(entry=s.entry) for s in self.slides.values()]
        if drawn:
            pd.concat(drawn).to_parquet(_annotations_path(path), index=False)
        pq.write_table(table, path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a table that `save` wrote.

        Raises:
            Qp2trainError: The file is no patch table of qp2train.
        """
        path = Path(path)
        try:
            table = pq.read_table(path)
            about = json.loads(table.schema.metadata[b"qp2train"])
            rows = table.to_pandas()[list(COLUMNS)]
            drawn = pd.read_parquet(_annotations_path(path))
            by_entry = {str(e): from_frame(part) for e, part in drawn.groupby("entry", sort=False)}
            slides = {
                s["entry"]: SlideRef(**{**s, "size": tuple(s["size"])}, annotations=tuple(by_entry.get(s["entry"], [])))
                for s in about["slides"]
            }
            return cls(rows, slides, LabelMap.from_dict(about["labels"]), about["size_px"], about["mpp"])
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException, ShapelyError) as error:
            raise Qp2trainError(f"{path} is no patch table written by qp2train: {error}") from error

    def _groups(self, by: str) -> tuple[pd.Series, dict[str, int]]:
        if by == "patch":
            log.warning(
                "splitting by patch: neighbouring patches of one slide fall into training AND testing, so the scores "
                "say nothing about a new patient. Use by='patient' for numbers that you report."
            )
            group = pd.Series(self.rows.index.astype(str), index=self.rows.index)
        else:
            group = self.rows["entry"].map(groups_of(self, by))
        return group, {str(g): int(n) for g, n in group.value_counts().items()}

    def _with(self, rows: pd.DataFrame) -> Self:
        return replace(self, rows=rows.reset_index(drop=True))

    def __repr__(self) -> str:
        slides = self.rows["entry"].nunique()
        return f"PatchTable({len(self)} patches of {self.size_px} px at {self.mpp:g} µm/px from {slides} slides)"

    def _repr_html_(self) -> str:
        head = f"<b>{len(self)} patches</b> of {self.size_px} × {self.size_px} px at {self.mpp:g} µm/px"
        names = self.rows.groupby("entry").size().rename(index=lambda e: html.escape(self.slides[e].name))
        per_slide = ", ".join(f"{name}: {n}" for name, n in names.items())
        return f"{head}{self.counts().to_html()}<small>{per_slide}</small>"


def groups_of(table: PatchTable, by: str) -> dict[str, str]:
    """Entry id → group.

    Raises:
        SplitError: Only some of the slides have the metadata key `by`.
    """
    slides = table.slides.values()
    if by == "slide":
        return {s.entry: s.entry for s in slides}
    without = [s.name for s in slides if not s.metadata.get(by)]
    if without and len(without) < len(table.slides):
        raise SplitError(
            f"split by {by!r}: {len(without)} of {len(table.slides)} slides have no such metadata ({without[0]!r} …). "
            "Fill it in in QuPath (project list, right click, Edit metadata), or split by='slide'."
        )
    if without:
        log.warning("no slide has the metadata %r: every slide is taken for a patient of its own", by)
        return {s.entry: s.entry for s in slides}
    return {s.entry: s.metadata[by] for s in slides}


def _check_assignment(assign: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    unknown = sorted(set(assign) - set(sizes))
    if unknown:
        raise SplitError(f"assign names the group {unknown[0]!r}; the groups are {', '.join(sorted(sizes))}")
    wrong = sorted(set(assign.values()) - set(SPLITS))
    if wrong:
        raise SplitError(f"assign gives {wrong[0]!r}; a split is one of {', '.join(SPLITS)}")


def _annotations_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.parquet')}.annotations.parquet")
