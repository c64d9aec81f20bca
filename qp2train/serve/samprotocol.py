"""The words of QuPath's SAM extension (client 0.9): what it sends, and the features that it understands.

Coordinates are pixels of the image that is sent; absent means null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
import shapely
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from qp2train.core.clicks import BitMask, extent_of
from qp2train.core.geometry import Box
from qp2train.qupath.geojsonshape import to_geojson
from qp2train.qupath.qpdata import SOURCE_KEY
from qp2train.refine.outline import outline_of
from qp2train.refine.prompts import Candidate, Prompt
from qp2train.serve.automask import Grid, Output
from qp2train.serve.images import read_mask
from qp2train.serve.models import SamType, Served

_FAR = 1 << 31
Coordinate = Annotated[int, Field(ge=-_FAR, le=_FAR)]
Point = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
BoxOf = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]
Image = Annotated[str, Field(description="A PNG file in base64, without a prefix.")]
Share = Annotated[float, Field(ge=0, le=1)]

ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGN4tuUSAATwAm3+0MLIAAAAAElFTkSuQmCC"
_MOST_POINTS = 10_000
_MOST_BOXES = 1_000


class Body(BaseModel):
    """What every request says."""

    model_config = ConfigDict(extra="ignore")  # a newer extension may say more

    type: SamType = Field("vit_h", description="The kind of model chosen in QuPath; all of ours are of every kind.")
    b64img: Image = Field(examples=[ONE_PIXEL])
    checkpoint_url: str | None = Field(None, description="The model's url in `weights/`; null = the first.")


class PromptBody(Body):
    """Clicks, a box, a mask, or several of them."""

    bbox: BoxOf | None = Field(None, description="[x1, y1, x2, y2]; it may leave the image.", examples=[[0, 0, 1, 1]])
    point_coords: list[Point] | None = Field(None, max_length=_MOST_POINTS, examples=[[[0, 0]]])
    point_labels: list[Annotated[int, Field(ge=0, le=1)]] | None = Field(None, examples=[[1]])
    b64mask: Image | None = None
    multimask_output: bool | None = False

    def prompt(self, height: int, width: int, *, max_px: int) -> Prompt:
        """The prompt for an image of this size. A click means its pixel's middle.

        Raises:
            PromptError: Nothing is prompted, or it contradicts itself.
            HTTPException: The mask is no image of this size.
        """
        points = self.point_coords or []
        mask = None if self.b64mask is None else read_mask(self.b64mask, (height, width), max_px=max_px)
        return Prompt(
            # A client that rounds may say "beside the last pixel" and mean that.
            [(x + 0.5 - (x == width), y + 0.5 - (y == height)) for x, y in points],
            [1] * len(points) if self.point_labels is None else self.point_labels,
            None if self.bbox is None else (self.bbox[0], self.bbox[1], self.bbox[2], self.bbox[3]),
            mask,
        )


class AutomaskBody(Body):
    """Everything on the image. Our models have no stability score, so what is said of it does nothing."""

    points_per_side: int = Field(32, ge=1, le=128)
    points_per_batch: int = Field(64, ge=1)
    pred_iou_thresh: float = Field(0.88, ge=0, le=1)
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: Share = 0.7
    crop_n_layers: int = Field(0, ge=0, le=3)
    crop_nms_thresh: Share = 0.7
    crop_overlap_ratio: Annotated[float, Field(ge=0, lt=1)] = 512 / 1500
    crop_n_points_downscale_factor: int = Field(1, ge=1, le=128)
    min_mask_region_area: int = Field(0, ge=0, le=_FAR)
    include_image_edge: bool = True
    output_type: Output = "Single mask"

    def grid(self) -> Grid:
        return Grid(
            points_per_side=self.points_per_side,
            crop_layers=self.crop_n_layers,
            crop_overlap=self.crop_overlap_ratio,
            crop_downscale=self.crop_n_points_downscale_factor,
            output=self.output_type,
            min_iou=self.pred_iou_thresh,
            nms_iou=self.box_nms_thresh,
            crop_nms_iou=self.crop_nms_thresh,
            min_area=self.min_mask_region_area,
            edge=self.include_image_edge,
        )


class ConceptBody(Body):
    """Boxes round objects, in place of a text that only SAM 3 would understand."""

    type: SamType = "sam3"
    text_prompt: str | None = None
    positive_bboxes: list[BoxOf] | None = Field(
        None, max_length=_MOST_BOXES, description="[x, y, width, height]", examples=[[[0, 0, 1, 1]]]
    )
    negative_bboxes: list[BoxOf] | None = Field(None, max_length=_MOST_BOXES)
    reset_prompts: bool | None = None
    confidence_threshold: Share | None = None

    def prompts(self) -> list[Prompt]:
        """One per positive box; the middles of negative boxes within it are clicks on what does not belong to it.

        Raises:
            HTTPException: There is no positive box.
            PromptError: A box is empty.
        """
        if not self.positive_bboxes:
            said = (
                f"the text {self.text_prompt[:100]!r} means nothing to the models here: draw boxes round objects"
                if self.text_prompt
                else "nothing is prompted: draw boxes round objects"
            )
            raise HTTPException(422, said)
        against = [(x + w / 2, y + h / 2) for x, y, w, h in self.negative_bboxes or ()]
        prompts = []
        for x, y, w, h in self.positive_bboxes:
            inside = [(px, py) for px, py in against if x <= px < x + w and y <= py < y + h]
            prompts.append(Prompt(inside, [0] * len(inside), (x, y, x + w, y + h)))
        return prompts


class Weights(BaseModel):
    """A model as the extension lists it."""

    type: SamType
    name: str
    url: str


class Progress(BaseModel):
    """Of a download; there is none."""

    message: str | None
    percent: int


class Properties(BaseModel):
    """What the extension takes over besides the outline; `quality` becomes the measurement "SAM Quality"."""

    label: str
    quality: float | None = None
    sam_model: str
    metadata: dict[str, str]


class Feature(BaseModel):
    """An object that was found: a Polygon or MultiPolygon with its holes, in pixels of the image."""

    type: Literal["Feature"]
    geometry: dict[str, Any]
    properties: Properties


def features(candidates: Iterable[Candidate], served: Served) -> list[dict[str, Any]]:
    """What was found, each mask with its own score; an empty mask is nothing."""
    return [
        {
            "type": "Feature",
            "geometry": to_geojson(_outline(c.mask)),
            "properties": {
                "label": "object",
                **({"quality": round(float(c.iou), 4)} if math.isfinite(c.iou) else {}),
                "sam_model": served.id,
                "metadata": {SOURCE_KEY: served.source},
            },
        }
        for c in candidates
        if np.any(c.mask)
    ]


def _outline(mask: BitMask) -> shapely.Polygon | shapely.MultiPolygon:
    """Of the mask's own box alone: of a small object on a large view it takes a tenth of the time."""
    left, top, right, bottom = extent_of(mask)
    return outline_of(np.ascontiguousarray(mask[top:bottom, left:right]), Box(left, top, right - left, bottom - top))
