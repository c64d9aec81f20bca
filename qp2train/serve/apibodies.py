"""What programs and the page send and get under /api/v1; coordinates are full-resolution pixels of the slide."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import orjson
import shapely
from pydantic import BaseModel, ConfigDict, Field

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box, areal
from qp2train.errors import PromptError
from qp2train.qupath.geojsonshape import ShapeError, read_shapes, to_geojson

_FAR = 1e10
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
Coordinate = Annotated[float, Field(ge=-_FAR, le=_FAR, allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, le=_FAR, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=200)]
Geometry = Annotated[dict[str, Any], Field(examples=[{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9]]]}])]


class Region(BaseModel):
    """A rectangle on the slide."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"x": 0, "y": 0, "width": 512, "height": 512}]})

    x: Coordinate
    y: Coordinate
    width: Length
    height: Length

    @property
    def box(self) -> Box:
        return Box(self.x, self.y, self.width, self.height)


class ModelInfo(BaseModel):
    """A model that answers prompts."""

    name: str
    url: str = Field(description="What names it: here as `model`, in QuPath's SAM extension as `checkpoint_url`.")
    id: str = Field(description="The model's own id.")
    source: str = Field(description="Whose objects a project's saved answers are: `qp2train clear --source`.")
    fallback: bool = Field(description="It has seen no annotation: it knows colours alone.")


class EntryInfo(BaseModel):
    """An image of the project."""

    id: str
    name: str


class EntrySize(EntryInfo):
    """An image of the project and its slide."""

    width: int = Field(description="Full-resolution pixels.")
    height: int = Field(description="Full-resolution pixels.")
    mpp: float | None = Field(description="µm per pixel; null = nobody said.")


class PredictBody(BaseModel):
    """A prompt on a region of a slide."""

    model_config = ConfigDict(extra="forbid")

    region: Region = Field(description="What the model looks at.")
    model: Text | None = Field(None, description="Url or name; null = the first.")
    points: list[Annotated[list[Coordinate], Field(min_length=2, max_length=2)]] = Field(
        [], max_length=10_000, description="[x, y] of each click.", examples=[[[256, 256]]]
    )
    labels: list[Annotated[int, Field(ge=0, le=1)]] | None = Field(
        None, description="Of each click, 1 = belongs to the object, 0 = does not; null = all belong.", examples=[[1]]
    )
    box: Region | None = Field(None, description="Round the object.")
    mask: Geometry | None = Field(None, description="The object as it was outlined so far, a GeoJSON geometry.")
    class_name: Text | None = Field(None, description="The class that the answer gets.", examples=["Gland"])
    view_px: int | None = Field(None, ge=1, description="Longest side of what the model looks at; null = 1024.")
    all: bool = Field(False, description="All that the prompt may mean, not only the best answer.")

    def outline(self) -> shapely.Polygon | shapely.MultiPolygon | None:
        """The mask's area.

        Raises:
            PromptError: It is no GeoJSON geometry with an area.
        """
        return None if self.mask is None else geometry_of(self.mask)


class Said(BaseModel):
    """What an object says of itself, as QuPath's GeoJSON has it."""

    model_config = ConfigDict(extra="ignore")

    objectType: Literal["annotation"] = "annotation"
    name: Text | None = None
    classification: dict[str, Any] | None = None
    measurements: dict[Text, Annotated[float, Field(allow_inf_nan=False)]] = Field(default={}, max_length=100)
    metadata: dict[Text, str] = Field(default={}, max_length=100)

    @property
    def class_name(self) -> str | None:
        given = self.classification or {}
        names = given.get("names", [given["name"]] if "name" in given else [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise PromptError("a classification is {name: text} or {names: [texts]}")
        return ": ".join(names) or None


class Feature(BaseModel):
    """An object: GeoJSON as QuPath reads it."""

    type: Literal["Feature"] = "Feature"
    id: str = Field(default_factory=lambda: str(uuid.uuid4()), description="Kept when it is saved.")
    geometry: Geometry
    properties: Said = Said()

    def annotation(self) -> Annotation:
        """As an object of a project.

        Raises:
            PromptError: Its geometry has no area, its id is no UUID, its class no text.
        """
        if not _UUID.fullmatch(self.id):
            raise PromptError(
                f"an object's id is a UUID in small letters, not {self.id[:100]!r}; leave it out for a new one"
            )
        geometry = geometry_of(self.geometry)
        said = self.properties
        return Annotation(
            geometry,
            said.class_name,
            name=said.name,
            id=self.id,
            measurements=said.measurements,
            metadata=said.metadata,
        )


class SaveBody(BaseModel):
    """Answers that are to be kept."""

    model_config = ConfigDict(extra="forbid")

    model: Text | None = Field(None, description="Url or name of the model that gave them; null = the first.")
    features: list[Feature] = Field(min_length=1, max_length=1000)


class Saved(BaseModel):
    """What a change of the project did."""

    source: str = Field(description="The objects' provenance: `qp2train clear PROJECT --source …` takes them out.")
    added: int
    removed: int
    kept_edited: int = Field(description="Objects that were edited in QuPath since, and stay.")
    ids: list[str] = Field(description="Of the objects that were added.")


def feature(annotation: Annotation) -> dict[str, Any]:
    """An answer as GeoJSON, for orjson."""
    said: dict[str, Any] = {
        "objectType": "annotation",
        "measurements": dict(annotation.measurements),
        "metadata": dict(annotation.metadata),
    }
    if annotation.class_name is not None:
        said["classification"] = {"names": annotation.class_name.split(": ")}
    return {"type": "Feature", "id": annotation.id, "geometry": to_geojson(annotation.geometry), "properties": said}


def features_json(annotations: Iterable[Annotation]) -> bytes:
    """Answers as a JSON list of features."""
    return orjson.dumps([feature(a) for a in annotations], option=orjson.OPT_SERIALIZE_NUMPY)


def geometry_of(given: dict[str, Any]) -> shapely.Polygon | shapely.MultiPolygon:
    """The area of a GeoJSON geometry.

    Raises:
        PromptError: It is none, or a line or points.
    """
    try:
        (geometry,), _ = read_shapes([given])
    except ShapeError as error:
        raise PromptError(f"the geometry is not understood: {error}") from error
    area = areal(geometry)
    if area.is_empty:
        raise PromptError("the geometry has no area: it must be a Polygon or MultiPolygon")
    return area
