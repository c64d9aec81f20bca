"""Pictures and masks as PNG and JPEG, and where they lie."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from PIL import Image

from qp2train.core.labels import BACKGROUND, IGNORE, LabelMap
from qp2train.sampling.export.naming import safe
from qp2train.sampling.export.reading import Job, Patch
from qp2train.sampling.mask import Mask
from qp2train.slides.slide import RGB

IMAGES, MASKS = "images", "masks"
SPLIT_BYTES = 40
UNASSIGNED = "unassigned"  # patches without a split, where others have one
# As the "void" of PASCAL VOC's masks.
IGNORE_COLOR = (224, 224, 192)
# Of stained tissue, level 6 is 7 % smaller and takes 1.7 times as long.
PNG_LEVEL = 1


def split_folders(manifest: pd.DataFrame, *, without: str = "") -> pd.Series:
    """The folder of each patch's split; `without` for all if no patch has one."""
    split = manifest["split"].map(lambda name: safe(name, SPLIT_BYTES))
    return split.replace("", UNASSIGNED) if split.any() else split.replace("", without)


def picture_paths(job: Job, folders: pd.Series) -> pd.Series:
    """images/<split>/<name>.png of each patch."""
    return _paths(IMAGES, folders, job.manifest["name"], ending(job))


def mask_paths(job: Job, folders: pd.Series) -> pd.Series:
    """masks/<split>/<name>.png of each patch."""
    return _paths(MASKS, folders, job.manifest["name"], ".png")


def text_paths(job: Job, folders: pd.Series) -> pd.Series:
    """labels/<split>/<name>.txt of each patch."""
    return _paths("labels", folders, job.manifest["name"], ".txt")


def ending(job: Job) -> str:
    """Of a picture's file."""
    return ".png" if job.jpeg_quality is None else ".jpg"


def picture_bytes(job: Job, patch: Patch) -> bytes:
    """The picture, as PNG or JPEG (colours at full resolution)."""
    return encoded(patch.image, job.jpeg_quality)


def encoded(image: RGB, jpeg_quality: int | None = None) -> bytes:
    """An H×W×3 picture as PNG, or as JPEG of a quality."""
    out = io.BytesIO()
    if jpeg_quality is None:
        Image.fromarray(image).save(out, "PNG", compress_level=PNG_LEVEL)
    else:
        Image.fromarray(image).save(out, "JPEG", quality=jpeg_quality, subsampling=0)
    return out.getvalue()


def mask_bytes(mask: Mask, labels: LabelMap) -> bytes:
    """A mask as PNG with a palette: the index is the label's value, the colour its class's."""
    palette = [(0, 0, 0)] * (IGNORE + 1)
    palette[IGNORE] = IGNORE_COLOR
    for value, name in enumerate(labels.classes, start=BACKGROUND + 1):
        palette[value] = labels.color(name)
    image = Image.fromarray(mask)
    image.putpalette([channel for color in palette for channel in color])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def make_folders(folder: Path, *paths: pd.Series) -> None:
    """The folders that these paths need."""
    for parent in {Path(path).parent for some in paths for path in some}:
        (folder / parent).mkdir(parents=True, exist_ok=True)


def _paths(top: str, folders: pd.Series, names: pd.Series, end: str) -> pd.Series:
    return pd.Series([f"{top}/{f}/{n}{end}" if f else f"{top}/{n}{end}" for f, n in zip(folders, names, strict=True)])
