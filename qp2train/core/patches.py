"""PatchTable: one row per patch, with all that is needed to paint its mask again."""

from __future__ import annotations

import hashlib
import html
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from shapely.errors import ShapelyError

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.core.grouping import groups_of
from qp2train.core.labels import LabelMap
from qp2train.core.snapshot import Snapshot
from qp2train.core.snapshotfile import read_snapshots, write_snapshots
from qp2train.core.splitting import deal, deal_folds
from qp2train.core.stratified import deal_folds_stratified, deal_stratified
from qp2train.errors import Qp2trainError, SplitError

log = logging.getLogger(__name__)

COLUMNS = {
    "entry": "str",  # id of the image in its project
    "x": "float64",  # top-left corner, full-resolution px
    "y": "float64",
    "label": "str",  # class of the annotation that the patch was drawn for, or that fills most of it; "" = none
    "annotation": "str",  # id of that annotation, "" where the patch was drawn for none
    "annotated": "float64",  # share of the patch that is not ignored
    "group": "str",  # patient, else slide: never split
    "split": "str",  # "train", "val", "test" or ""
    "weight": "float64",  # for weighted draws
}
# Same order as the names given to `split`.
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SlideRef:
    """A slide as the table remembers it: where its file is and what was drawn on it.

    Annotations may be given in any form, and are kept as a `Snapshot`.
    """

    entry: str
    name: str
    path: str
    mpp: float
    size: tuple[int, int]
    metadata: Mapping[str, str]
    annotations: Sequence[Annotation]
    view: str = ""  # what of the file it shows: QuPath's cropped, rotated and flipped images; "" = all of it

    def __post_init__(self) -> None:
        object.__setattr__(self, "annotations", Snapshot(self.annotations))

    @property
    def snapshot(self) -> Snapshot:
        """The annotations, by columns."""
        return Snapshot(self.annotations)


@dataclass(frozen=True)
class PatchTable:
    """Patches of `size_px` × `size_px` pixels at `mpp` µm per pixel.

    Args:
        rows: One row per patch; columns as in `COLUMNS`.
        slides: Entry id → the slide, with a snapshot of its annotations.
        labels: What the classes mean.
        size_px: Side of a patch, in pixels at `mpp`.
        mpp: µm per patch pixel.
        context: Further µm per pixel at which the same centres are looked at, with as many pixels.
        rejected: Why pictures were left out ("blur", …) → how many; empty if none was judged.
        grouped_by: What it was split by: metadata keys, "slide" or "patch"; empty if it was not, or by hand.
    """

    rows: pd.DataFrame
    slides: Mapping[str, SlideRef]
    labels: LabelMap
    size_px: int
    mpp: float
    context: tuple[float, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    grouped_by: tuple[str, ...] = ()

    @property
    def scales(self) -> tuple[float, ...]:
        """µm per pixel of the patches, then of their context."""
        return (self.mpp, *self.context)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[SlideRef, Box]]:
        """The slide and the box (full-resolution px) of each patch, in row order."""
        return ((self.slides[e], self.box(i)) for i, e in enumerate(self.rows["entry"]))

    def box(self, row: int, *, mpp: float | None = None) -> Box:
        """The box of a patch in full-resolution pixels of its slide.

        Args:
            row: Which patch.
            mpp: µm per pixel, for the box of `size_px` pixels with the same centre at that scale; None = the patch's.
        """
        entry, x, y = (self.rows[c].iloc[row] for c in ("entry", "x", "y"))
        side, own = self.side_px(entry, mpp=mpp), self.side_px(entry)
        margin = (side - own) / 2
        return Box(float(x) - margin, float(y) - margin, side, side)

    def side_px(self, entry: str, *, mpp: float | None = None) -> float:
        """The side of a patch in full-resolution pixels of a slide."""
        return self.size_px * (self.mpp if mpp is None else mpp) / self.slides[entry].mpp

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
        by: str | Sequence[str] = "patient",
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        assign: Mapping[str, str] | None = None,
        stratify: bool = False,
    ) -> tuple[Self, ...]:
        """Divide into tables that share no group.

        Groups are dealt out whole, the largest first, each to the part that is furthest from its share of
        patches; equal groups in seeded order.

        Args:
            by: "slide", or a key of the slides' metadata ("patient"). A slide without the key is its own
                group when no slide has it, and an error when only some have it. "patch" ignores groups:
                neighbouring patches then leak from training into testing, and scores come out too high.
                By several keys (["patient", "block"]), slides that share the value of any of them stay together.
            fractions: Share of patches of each part: train, val, test.
            seed: Which of equally good divisions is taken.
            assign: Group → "train", "val" or "test", for a division made by hand; replaces `fractions`.
                Groups that it does not name are for training.
            stratify: Each part also gets its share of every class's patches, as nearly as whole groups allow.

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
            if stratify:
                dealt = deal_stratified(self._class_counts(group), fractions, seed=seed)
            else:
                dealt = deal(sizes, fractions, seed=seed)
            part = {g: used[i] for g, i in dealt.items()}
        rows, named = self.rows.assign(group=group, split=group.map(part)), _keys(by)
        return tuple(self._with(rows[rows["split"] == s], grouped_by=named) for s in used)

    def folds(
        self, k: int, *, by: str | Sequence[str] = "patient", seed: int = 0, stratify: bool = False
    ) -> Iterator[tuple[Self, Self]]:
        """(train, held-out) for each of `k` folds; every group is held out once.

        Args:
            k: Number of folds.
            by: As `split`.
            seed: Which of equally good divisions is taken.
            stratify: Each fold also gets about the same number of every class's patches (scikit-learn's
                StratifiedGroupKFold, improved by exchanging groups).

        Raises:
            SplitError: Fewer groups than folds.
        """
        group, sizes = self._groups(by)
        if stratify:
            fold = group.map(deal_folds_stratified(self._class_counts(group), k, seed=seed))
        else:
            fold = group.map(deal_folds(sizes, k, seed=seed))
        for i in range(k):
            rows, named = self.rows.assign(group=group, split=np.where(fold == i, "val", "train")), _keys(by)
            yield self._with(rows[fold != i], grouped_by=named), self._with(rows[fold == i], grouped_by=named)

    def nested_folds(
        self,
        k_outer: int,
        k_inner: int,
        *,
        by: str | Sequence[str] = "patient",
        seed: int = 0,
        stratify: bool = False,
    ) -> Iterator[NestedFold]:
        """Nested cross-validation: settings are chosen on the inner folds, and scored on a test part they never saw.

            for fold in table.nested_folds(5, 3):
                best = max(settings, key=lambda s: mean(score(s, train, val) for train, val in fold.inner))
                print(score(best, fold.train, fold.test))

        Args:
            k_outer: Number of test parts; every group is in one of them.
            k_inner: Number of folds into which each outer training part is divided.
            by: As `split`.
            seed: Which of equally good divisions is taken.
            stratify: As `folds`.

        Raises:
            SplitError: Fewer groups than outer folds, or than inner folds in an outer training part.
        """
        for train, held_out in self.folds(k_outer, by=by, seed=seed, stratify=stratify):
            test = held_out._with(held_out.rows.assign(split="test"))
            inner = tuple(train.folds(k_inner, by=by, seed=seed, stratify=stratify))
            yield NestedFold(train, test, inner)

    def digest(self) -> str:
        """A short hash of patches, annotations, labels and scale: equal tables, equal digest."""
        h = hashlib.sha256(json.dumps([self.labels.to_dict(), self.size_px, self.mpp, *self.context]).encode())
        h.update(pd.util.hash_pandas_object(self.rows, index=False).to_numpy().tobytes())
        for ref in self.slides.values():
            h.update(f"{ref.name} {ref.size} {ref.mpp}{ref.view}".encode())
            columns = (ref.snapshot.column(name) for name in ("geometry", "class_name", "parent"))
            for wkb, class_name, parent in zip(*columns, strict=True):
                h.update(wkb + f"{class_name} {parent}".encode())
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
        about = {
            **{"labels": self.labels.to_dict(), "size_px": self.size_px, "mpp": self.mpp, "slides": slides},
            **{"context": self.context, "rejected": dict(self.rejected), "grouped_by": self.grouped_by},
        }
        table = pa.Table.from_pandas(self.rows, preserve_index=False)
        kept = table.schema.metadata or {}
        table = table.replace_schema_metadata({**kept, b"qp2train": json.dumps(about).encode()})
        write_snapshots(_annotations_path(path), {s.entry: s.snapshot for s in self.slides.values()})
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
            drawn = read_snapshots(_annotations_path(path))
            slides = {
                s["entry"]: SlideRef(**{**s, "size": tuple(s["size"])}, annotations=drawn.get(s["entry"], Snapshot()))
                for s in about["slides"]
            }
            labels, context = LabelMap.from_dict(about["labels"]), tuple(map(float, about.get("context", ())))
            rejected = {str(fault): int(n) for fault, n in about.get("rejected", {}).items()}
            named = tuple(map(str, about.get("grouped_by", ())))
            return cls(rows, slides, labels, about["size_px"], about["mpp"], context, rejected, named)
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException, ShapelyError) as error:
            raise Qp2trainError(f"{path} is no patch table written by qp2train: {error}") from error

    def _groups(self, by: str | Sequence[str]) -> tuple[pd.Series, dict[str, int]]:
        if _keys(by) == ("patch",):
            log.warning(
                "splitting by patch: neighbouring patches of one slide fall into training AND testing, so the scores "
                "say nothing about a new patient. Use by='patient' for numbers that you report."
            )
            group = pd.Series(self.rows.index.astype(str), index=self.rows.index)
        else:
            group = self.rows["entry"].map(groups_of([*self.slides.values()], by))
        return group, {str(g): int(n) for g, n in group.value_counts().items()}

    def _class_counts(self, group: pd.Series) -> dict[str, list[int]]:
        counts = pd.crosstab(group, self.rows["label"])
        return dict(zip(counts.index.astype(str), counts.to_numpy().tolist(), strict=True))

    def _with(self, rows: pd.DataFrame, *, grouped_by: tuple[str, ...] | None = None) -> Self:
        named = self.grouped_by if grouped_by is None else grouped_by
        return replace(self, rows=rows.reset_index(drop=True), grouped_by=named)

    def __repr__(self) -> str:
        slides = self.rows["entry"].nunique()
        return f"PatchTable({len(self)} patches of {self.size_px} px at {self.mpp:g} µm/px from {slides} slides)"

    def _repr_html_(self) -> str:
        head = f"<b>{len(self)} patches</b> of {self.size_px} × {self.size_px} px at {self.mpp:g} µm/px"
        names = self.rows.groupby("entry").size().rename(index=lambda e: html.escape(self.slides[e].name))
        per_slide = ", ".join(f"{name}: {n}" for name, n in names.items())
        if self.rejected:
            per_slide += "; left out: " + ", ".join(f"{n} {html.escape(fault)}" for fault, n in self.rejected.items())
        return f"{head}{self.counts().to_html()}<small>{per_slide}</small>"


class NestedFold(NamedTuple):
    """One outer fold of `PatchTable.nested_folds`.

    Args:
        train: All groups that are not tested.
        test: The groups that are.
        inner: (train, val) for each inner fold; together they make up the outer `train`.
    """

    train: PatchTable
    test: PatchTable
    inner: tuple[tuple[PatchTable, PatchTable], ...]


def _keys(by: str | Sequence[str]) -> tuple[str, ...]:
    return (by,) if isinstance(by, str) else tuple(by)


def _check_assignment(assign: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    unknown = sorted(set(assign) - set(sizes))
    if unknown:
        raise SplitError(f"assign names the group {unknown[0]!r}; the groups are {', '.join(sorted(sizes))}")
    wrong = sorted(set(assign.values()) - set(SPLITS))
    if wrong:
        raise SplitError(f"assign gives {wrong[0]!r}; a split is one of {', '.join(SPLITS)}")


def _annotations_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.parquet')}.annotations.parquet")
