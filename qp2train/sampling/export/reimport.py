"""import_png: pairs of pictures and masks as a patch table."""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from PIL import Image
from rasterio.features import shapes

from qp2train.core.annotation import Annotation
from qp2train.core.labels import BACKGROUND, BACKGROUND_NAME, IGNORE, LabelMap
from qp2train.core.patches import COLUMNS, SPLITS, PatchTable, SlideRef
from qp2train.errors import (
    LabelError,
    NoAnnotationError,
    Qp2trainError,
    SlideError,
    SlideNotFoundError,
    UnreadableSlideError,
)
from qp2train.sampling.export.manifest import CSV, JSON, KIND
from qp2train.sampling.export.pictures import IMAGES, MASKS
from qp2train.sampling.mask import Mask

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# As of plain pictures: half a GB.
MAX_PIXELS = 178_956_970
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "qp2train/import_png")


@dataclass(frozen=True)
class _Pair:
    """A picture, its mask, and what the manifest says of them."""

    name: str
    image: Path
    mask: Path
    said: Mapping[str, Any]
    metadata: Mapping[str, str]


def import_png(
    folder: str | Path, *, labels: LabelMap | None = None, mpp: float | None = None, size: int | None = None
) -> PatchTable:
    """Pictures and indexed masks as a patch table that `fit` and `evaluate` take.

    Each picture becomes a slide of its own and its mask annotations with the same pixels: painting them gives the mask
    back, value for value; 255 stays ignored. What `export_patches(format="png")` wrote keeps class, split, group and
    weight of each patch, and the metadata of its slide; "slide" holds its name, and "patient" too where there is
    none, so that a new split never parts patches of one slide.

    Other folders need images/… and masks/… with the same names but for the ending, and, below both, perhaps
    folders train, val and test, which become the split. There every picture is a group of its own: what they
    have in common is not known.

    Args:
        folder: Holds `images` and `masks`.
        labels: What the masks' values mean: 0 = background, 1 = the first class … Default: as exported.
        mpp: µm per pixel of the pictures. Default: as exported.
        size: Side of a patch. Larger pictures become a grid of patches, the last of which may reach over the border.
            Default: the pictures' own, which must then be squares of one size.

    Raises:
        SlideError: A picture or mask is missing or unreadable, or they differ in size.
        LabelError: A mask has a value without a class, or nobody says what the values mean.
        Qp2trainError: No such pairs, a damaged manifest, or sizes that differ.
    """
    folder = Path(folder).absolute()
    about = _about(folder)
    labels = labels or _labels(about, folder)
    mpp = mpp if mpp is not None else about.get("mpp")
    if not isinstance(mpp, int | float) or not 0 < mpp < float("inf"):
        raise Qp2trainError(f"{folder}: nobody says how many µm a pixel is wide, or it is {mpp!r}; give mpp=0.5")
    # The masks' values are the classes' numbers, whatever was merged under a class or ignored before.
    plain = LabelMap(list(labels.classes), background=[BACKGROUND_NAME], colors=labels.colors)
    slides: dict[str, SlideRef] = {}
    rows: list[tuple[Any, ...]] = []
    for pair in _exported(folder, about) if about else _found(folder):
        ref, mask = _slide(pair, plain, float(mpp))
        slides[ref.entry] = ref
        side = size or ref.size[0]
        if size is None and (ref.size != (side, side) or (rows and side != rows[0][-1])):
            raise Qp2trainError(
                f"{pair.image} has {ref.size[0]}×{ref.size[1]} px: not all are squares of one size; give size=256 or so"
            )
        rows += [(*row, side) for row in _rows(pair, ref, mask, plain, side)]
    if not rows:
        raise NoAnnotationError(f"{folder}: no patch has a pixel that is not ignored")
    frame = pd.DataFrame([row[:-1] for row in rows], columns=list(COLUMNS)).astype(COLUMNS)
    return PatchTable(frame, slides, plain, rows[0][-1], float(mpp))


def _about(folder: Path) -> dict[str, Any]:
    """manifest.json, {} if there is none."""
    if not (folder / JSON).is_file():
        return {}
    try:
        about = json.loads((folder / JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Qp2trainError(f"{folder / JSON} cannot be read: {error}") from error
    if not isinstance(about, dict) or about.get("kind") != KIND:
        raise Qp2trainError(f"{folder / JSON} is no manifest of qp2train; remove it to read the folder without")
    return about


def _labels(about: Mapping[str, Any], folder: Path) -> LabelMap:
    if not about:
        raise LabelError(f'{folder} has no {JSON}: say what the masks\' values mean, labels=LabelMap(["Tumor", …])')
    try:
        return LabelMap.from_dict(about["labels"])
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Qp2trainError(f"{folder / JSON}: its labels are damaged: {error!r}") from error


def _exported(folder: Path, about: Mapping[str, Any]) -> Iterator[_Pair]:
    """The pairs that the manifest lists."""
    texts = ["name", "slide", "entry", "label", "roi", "split", "group", "image", "mask"]
    try:
        rows = pd.read_csv(folder / CSV, keep_default_na=False, dtype=dict.fromkeys(texts, str), encoding="utf-8")
        rows = rows[[*texts, "annotated", "weight"]].astype({"annotated": float, "weight": float})
        if not (np.isfinite(rows["weight"]) & (rows["weight"] >= 0) & rows["annotated"].between(0, 1)).all():
            raise ValueError("a weight is negative or no number, or a share not between 0 and 1")
        if rows["name"].duplicated().any():
            raise ValueError("a name comes twice")
        of = {str(e): {str(k): str(v) for k, v in s["metadata"].items()} for e, s in about["slides"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pd.errors.ParserError) as error:
        raise Qp2trainError(f"{folder}: its manifest is damaged: {error}") from error
    for said in rows.to_dict("records"):
        image, mask = (_listed(folder, str(said[key])) for key in ("image", "mask"))
        metadata = {**of.get(str(said["entry"]), {}), "slide": str(said["slide"]), "roi": str(said["roi"])}
        metadata = {**metadata, "patient": metadata.get("patient") or str(said["entry"])}
        yield _Pair(str(said["name"]), image, mask, {str(k): v for k, v in said.items()}, metadata)


def _listed(folder: Path, name: str) -> Path:
    """A file that the manifest names."""
    try:
        file = (folder / name).resolve()
        if file.is_relative_to(folder.resolve()) and file.is_file():
            return file
    except (OSError, ValueError) as error:  # a name that no file can have
        raise SlideNotFoundError(f"{folder / CSV} names {name[:200]!r}: {error.__class__.__name__}") from error
    raise SlideNotFoundError(f"{folder / CSV} names {name[:200]!r}, which is not in the folder")


def _found(folder: Path) -> Iterator[_Pair]:
    """Pictures below images/, each with the mask of the same name below masks/."""
    images, masks = folder / IMAGES, folder / MASKS
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not found:
        raise Qp2trainError(f"there is no picture in {images}; expected {IMAGES}/NAME.png and {MASKS}/NAME.png")
    for image in found:
        relative = image.relative_to(images)
        there = [p for p in (masks / relative.with_suffix(s) for s in (".png", ".tif", ".tiff", ".bmp")) if p.is_file()]
        if not there:
            raise SlideNotFoundError(f"{image} has no mask: there is no {(masks / relative).with_suffix('.png')}")
        split = relative.parts[0] if relative.parts[0] in SPLITS else ""
        yield _Pair(relative.with_suffix("").as_posix(), image, there[0], {"split": split}, {})


def _slide(pair: _Pair, labels: LabelMap, mpp: float) -> tuple[SlideRef, Mask]:
    mask = _read_mask(pair.mask)
    height, width = mask.shape
    if _size(pair.image) != (width, height):
        w, h = _size(pair.image)
        raise SlideError(f"{pair.image} has {w}×{h} px and its mask {width}×{height}: they must be equal")
    wrong = np.setdiff1d(np.unique(mask), [*range(len(labels.names)), IGNORE])
    if wrong.size:
        raise LabelError(
            f"{pair.mask} has the value {wrong[0]}; the classes are {', '.join(labels.classes)} "
            f"(1 to {len(labels.classes)}), beside 0 = background and 255 = ignored"
        )
    drawn = tuple(vectorised(mask, labels, pair.name))
    return SlideRef(pair.name, pair.image.name, str(pair.image), mpp, (width, height), pair.metadata, drawn), mask


def vectorised(mask: Mask, labels: LabelMap, name: str) -> Iterator[Annotation]:
    """Annotations that paint exactly this mask: one for each 4-connected part of one value, none for 255."""
    for i, (geometry, value) in enumerate(shapes(mask, mask=mask != IGNORE, connectivity=4)):
        outside, *holes = geometry["coordinates"]
        identity = str(uuid.uuid5(_NAMESPACE, f"{name} {i}"))
        yield Annotation(shapely.Polygon(outside, holes), labels.names[int(value)], id=identity)


def _rows(pair: _Pair, ref: SlideRef, mask: Mask, labels: LabelMap, side: int) -> Iterator[tuple[Any, ...]]:
    """The patches of a picture, as `COLUMNS`."""
    said, (width, height) = pair.said, ref.size
    if "label" in said and (width, height) == (side, side):
        yield ref.entry, 0, 0, said["label"], "", *(said[c] for c in ("annotated", "group", "split", "weight"))
        return
    group, split, weight = said.get("group", ref.entry), said.get("split", ""), said.get("weight", 1.0)
    for y in range(0, height, side):
        for x in range(0, width, side):
            counts = np.bincount(mask[y : y + side, x : x + side].ravel(), minlength=IGNORE + 1)[:IGNORE]
            if counts.any():
                value = int(counts[1:].argmax()) + 1 if counts[1:].any() else BACKGROUND
                yield ref.entry, x, y, labels.names[value], "", counts.sum() / side**2, group, split, weight


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        return image.size


def _read_mask(path: Path) -> Mask:
    with _opened(path) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise UnreadableSlideError(f"{path} is a colour picture ({image.mode}); a mask has one number per pixel")
        try:
            values = np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableSlideError(f"{path} is damaged: {error}") from error
    if values.min() < 0 or values.max() > IGNORE:
        raise LabelError(f"{path} has the value {values.max()}; a mask's values are 0 to 255")
    return values.astype(np.uint8)


def _opened(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, of large images: refused below
            image = Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableSlideError(f"{path} cannot be read: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnreadableSlideError(f"{path} has more than {MAX_PIXELS / 1e6:.0f} megapixels")
    return image
