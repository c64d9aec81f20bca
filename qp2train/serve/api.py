"""/api/v1: models, images, prompts on slides, saving; described in /openapi.json."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response

from qp2train.core.geometry import Box
from qp2train.serve.apibodies import (
    EntryInfo,
    EntrySize,
    Feature,
    ModelInfo,
    PredictBody,
    Region,
    SaveBody,
    Saved,
    features_json,
)
from qp2train.serve.encodings import Encodings
from qp2train.serve.models import Models, Remembering
from qp2train.serve.problems import PROBLEMS_OF_PROJECTS
from qp2train.serve.project import ServedProject
from qp2train.serve.settings import Settings
from qp2train.serve.workers import Workers

_SHOWN_PX = 1024


def api_router(
    models: Models, encodings: Encodings, workers: Workers, settings: Settings, project: ServedProject | None
) -> APIRouter:
    """The routes under /api/v1; without a project those of images answer 404."""
    router = APIRouter(prefix="/api/v1", tags=["programs"], responses=PROBLEMS_OF_PROJECTS)

    def served_project() -> ServedProject:
        if project is None:
            raise HTTPException(404, "this server was started without a project: qp2train serve --project PROJECT")
        return project

    def side(asked: int | None) -> int:
        if asked is None:
            return min(_SHOWN_PX, settings.region_px)
        if asked > settings.region_px:
            raise HTTPException(413, f"a view's longest side is {settings.region_px} px at most, not {asked}")
        return asked

    @router.get("/models")
    async def list_models() -> list[ModelInfo]:
        """The models that answer prompts; the first is taken where none is named."""
        return [
            ModelInfo(name=one.name, url=one.url, id=one.id, source=one.source, fallback=one.fallback) for one in models
        ]

    @router.get("/entries")
    async def list_entries() -> list[EntryInfo]:
        """The project's images."""
        at = served_project()
        return await workers.run(lambda: [EntryInfo(id=entry.id, name=entry.name) for entry in at.entries()])

    @router.get("/entries/{entry_id}")
    async def show_entry(entry_id: str) -> EntrySize:
        """An image and the size of its slide."""
        at = served_project()
        entry, width, height, mpp = await workers.run(lambda: at.size_of(entry_id))
        return EntrySize(id=entry.id, name=entry.name, width=width, height=height, mpp=mpp)

    @router.get(
        "/entries/{entry_id}/region.png", response_class=Response, responses={200: {"content": {"image/png": {}}}}
    )
    async def show_region(
        entry_id: str,
        x: Annotated[float | None, Query(description="Left, with y, width and height; none of them = all.")] = None,
        y: float | None = None,
        width: float | None = None,
        height: float | None = None,
        max_px: Annotated[int | None, Query(ge=1, description="Longest side; null = 1024, or the limit.")] = None,
    ) -> Response:
        """A region of a slide as a picture, never enlarged."""
        at, longest, box = served_project(), side(max_px), _box(x, y, width, height)
        content = await workers.run(lambda: at.picture(entry_id, box, max_px=longest))
        return Response(content, media_type="image/png")

    @router.post("/entries/{entry_id}/predict", response_model=list[Feature])
    async def predict(entry_id: str, body: PredictBody) -> Response:
        """Outline what is prompted on a region of a slide."""
        at, view_px = served_project(), side(body.view_px)

        def found() -> bytes:
            model = Remembering(models.find(body.model), encodings)
            outline = body.outline()
            refiner = at.refiner(entry_id, body.region.box, model, view_px=view_px)
            annotations = refiner.predict(
                points=[(x, y) for x, y in body.points],
                labels=body.labels,
                box=None if body.box is None else body.box.box,
                mask=outline,
                class_name=body.class_name or None,
            )
            return features_json(annotations if body.all else annotations[:1])

        return Response(await workers.run(found), media_type="application/json")

    @router.post("/entries/{entry_id}/objects")
    async def save(entry_id: str, body: SaveBody) -> Saved:
        """Write answers into the project, beside all that is there; their ids are kept."""
        at, served = served_project(), models.find(body.model)
        annotations = [feature.annotation() for feature in body.features]
        report = await workers.run(lambda: at.add(entry_id, annotations, source=served.source))
        return Saved(
            source=served.source,
            added=report.added,
            removed=0,
            kept_edited=0,
            ids=[a.id for a in annotations],
        )

    @router.delete("/entries/{entry_id}/objects")
    async def take_out(
        entry_id: str,
        model: Annotated[str | None, Query(description="Url or name; null = the first.")] = None,
        object_id: Annotated[list[str] | None, Query(description="Which of its objects; none given = all.")] = None,
    ) -> Saved:
        """Take a model's saved answers out of an image again, but not those that were edited in QuPath since."""
        at, served = served_project(), models.find(model)
        report = await workers.run(lambda: at.take_out(entry_id, object_id or [], source=served.source))
        kept = report.kept_edited
        return Saved(source=served.source, added=0, removed=report.removed - report.added, kept_edited=kept, ids=[])

    return router


def _box(x: float | None, y: float | None, width: float | None, height: float | None) -> Box | None:
    given = {"x": x, "y": y, "width": width, "height": height}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise HTTPException(422, f"a region is x, y, width and height: {', '.join(missing)} is missing")
    try:
        return Region.model_validate(given).box
    except ValueError as error:
        raise HTTPException(422, "a region has finite numbers, and a width and height above 0") from error
