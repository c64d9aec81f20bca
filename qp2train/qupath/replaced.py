"""What a human drew, kept whole in the object that took its place: as a GeoJSON feature in its metadata."""

from __future__ import annotations

from dataclasses import replace

from qp2train.core.annotation import Annotation
from qp2train.errors import ProjectError, QuPathFormatError
from qp2train.qupath.geojson import feature_text, read_feature
from qp2train.qupath.pathobject import Classes, PathObject
from qp2train.qupath.qpdata import SOURCE_KEY, annotations_of, is_edited


def kept_text(obj: PathObject | None, object_id: str, classes: Classes) -> str:
    """The text of which `given_back` makes the object again.

    Raises:
        ProjectError: It is not there, no annotation, or a model's that no human has edited.
    """
    if obj is None or obj.kind != "annotation":
        raise ProjectError(f"there is no annotation {object_id} whose place could be taken")
    if SOURCE_KEY in obj.metadata and not is_edited(obj, classes):
        raise ProjectError(f"annotation {object_id} is a model's: clear(ids=) takes it out")
    obj.id = object_id
    (annotation,) = annotations_of([obj])
    return feature_text(replace(annotation, source=None, parent=None))


def given_back(text: str) -> Annotation:
    """The human's object.

    Raises:
        QuPathFormatError: The text was changed, and is none.
    """
    try:
        return read_feature(text)
    except QuPathFormatError as error:
        raise QuPathFormatError(
            f"what was drawn by hand cannot be put back: {error}. The file's first state is in the backup beside it"
        ) from error
