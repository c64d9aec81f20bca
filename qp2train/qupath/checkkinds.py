"""What a check-up can find, in plain words, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from qp2train.qupath.hierarchy import NEW_IDS

Severity = Literal["problem", "note"]

# kind → (severity, what is wrong, what to do)
KINDS: Mapping[str, tuple[Severity, str, str]] = {
    "slide-missing": ("problem", "slide not found", "give --image-root FOLDER, or see qp2train relink"),
    "slide-unusable": ("problem", "slide found, but cannot be used", "the message says what"),
    "moved": ("note", "slide found elsewhere than the project says", "qp2train relink --write makes it last"),
    "uncalibrated": ("problem", "no pixel size in µm", "set it in QuPath: Image tab, Pixel width and height"),
    "data-unreadable": ("problem", "annotations cannot be read", "restore data.qpdata from its backup"),
    "data-lost": ("problem", "data.qpdata is gone", "look for it in your backups before QuPath opens the image"),
    "save-interrupted": ("problem", "QuPath was interrupted while it saved", "open and save the image in QuPath"),
    "duplicate-id": ("problem", "objects share an id", f"run in QuPath: {NEW_IDS}"),
    "duplicate": ("problem", "objects drawn twice with the same outline and class", "delete one of each in QuPath"),
    "nearly-duplicate": ("note", "annotations nearly equal to another of their class", "delete one of each in QuPath"),
    "outside": ("problem", "objects outside of the image", "delete them, or look whether the slide was exchanged"),
    "over-the-edge": ("note", "annotations that reach over the image's edge", "nothing: what lies outside is ignored"),
    "overlap": ("note", "annotations of different classes on the same area", "in patches children win, then the small"),
    "crowded": ("note", "so many objects on one another that not all overlaps were measured", "look at them in QuPath"),
    "repaired": ("note", "outlines that cross themselves", "nothing: they are read as QuPath repairs them"),
    "no-shape": ("note", "objects without a shape", "nothing: they are left out"),
    "unclassified": ("note", "annotations without a class", "nothing is learnt from them: set a class in QuPath"),
    "tiny": ("note", "annotations smaller than a pixel", "delete them in QuPath: they are clicks gone wrong"),
    "no-area": ("note", "lines and points", "they are learnt from, one pixel wide"),
    "other-plane": ("note", "objects on another z-slice or time point", "learnt from as if they lay on the slide"),
    "corrected": ("note", "predictions that were corrected by hand", "they count as yours and are learnt from"),
    "no-common-metadata": (
        "note", "no metadata that all images have, to split by", "set 'patient' in QuPath: project list, Edit metadata",
    ),
    "partial-metadata": ("note", "metadata that only some images have", "give it to all, to split by it"),
    "orphans": ("note", "data folders of images that are no longer in the project", "nothing: QuPath keeps them, too"),
}  # fmt: skip
