"""What a human drew, kept whole in the object that took its place: as a GeoJSON feature in its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qp2train.core.annotation import REPLACED_KEY, Annotation
from qp2train.errors import ProjectError, QuPathFormatError
from qp2train.qupath.geojson import feature_text, read_feature
from qp2train.qupath.pathobject import Classes, PathObject
from qp2train.qupath.qpdata import SOURCE_KEY, annotations_of, is_edited


def kept_text(obj: PathObject | None, object_id: str, classes: Classes) -> str:
    """The text of which `given_back` makes the object again.

    Raises:
        ProjectError: It is not there, no annotation, a model's that no human has edited, or has no id.
    """
    if obj is None or obj.kind != "annotation" or obj.id not in (object_id, None):
        raise ProjectError(f"there is no annotation {object_id} whose place could be taken")
    if SOURCE_KEY in obj.metadata and not is_edited(obj, classes):
        raise ProjectError(f"annotation {object_id} is a model's: clear(ids=) takes it out")
    if obj.id is None:  # ids are made up by place, and places change
        raise ProjectError(
            f"annotation {object_id} is from a QuPath before 0.4, which gave objects no ids, so that it could not be "
            "put back: open and save the image in a newer QuPath first"
        )
    (annotation,) = annotations_of([obj])
    # All of its metadata: of one that a model wrote and a human edited, whose it was.
    return feature_text(replace(annotation, source=None, parent=None, metadata=obj.metadata))


def taken_out(annotations: Sequence[Annotation], source: str) -> list[Annotation]:
    """What an entry holds once the objects of a source are out, and what they had replaced is back."""
    there, left = {a.id for a in annotations}, [a for a in annotations if a.source != source]
    back = [
        given_back(a.metadata[REPLACED_KEY]) for a in annotations if a.source == source and REPLACED_KEY in a.metadata
    ]
    return [*left, *{a.id: replace(a, source=None) for a in back if a.id not in there}.values()]


def given_back(text: str) -> Annotation:
    """The human's object. Of one that a human edited the `source` names the model that it came from.

    Raises:
        QuPathFormatError: The text was changed, and is none.
    """
    try:
        return read_feature(text)
    except QuPathFormatError as error:
        raise QuPathFormatError(f"what was drawn by hand cannot be put back: {error}. Nothing was changed") from error
