"""/sam: the endpoints that QuPath's SAM extension calls."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import orjson
from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import PlainTextResponse

from qp2train import __version__
from qp2train.refine.prompts import Candidate, Pixels
from qp2train.serve.automask import automask
from qp2train.serve.encodings import Encodings, Looked
from qp2train.serve.images import read_image
from qp2train.serve.models import SAM_TYPES, Models, Remembering, SamType, Served
from qp2train.serve.problems import PROBLEMS
from qp2train.serve.samprotocol import (
    AutomaskBody,
    ConceptBody,
    Feature,
    Progress,
    PromptBody,
    Weights,
    features,
)
from qp2train.serve.settings import Settings
from qp2train.serve.workers import Workers

NOT_FOR_US = "this server answers prompts on one image; it does not follow objects through a stack or video"


def sam_router(models: Models, encodings: Encodings, workers: Workers, settings: Settings) -> APIRouter:
    """The routes under /sam."""
    router = APIRouter(tags=["QuPath's SAM extension"])

    def looked_at(served: Served, b64img: str) -> Looked:
        """By the text, not the pixels: a prompt on a known image costs no decoding."""

        def look() -> Looked:
            image = read_image(b64img, max_px=settings.image_px)
            return Looked.of(served.encode(image), height=image.shape[0], width=image.shape[1])

        key = served.url, hashlib.sha256(b64img.encode("utf-8", "surrogatepass")).digest()
        return encodings.get(key, look)

    def prompted(body: PromptBody) -> bytes:
        served = models.find(body.checkpoint_url)
        looked = looked_at(served, body.b64img)
        found = looked.view.predict(body.prompt(looked.height, looked.width, max_px=settings.image_px))
        return _answer(found if body.multimask_output else found[:1], served)

    def concept(body: ConceptBody) -> bytes:
        prompts, served = body.prompts(), models.find(body.checkpoint_url)
        looked, deadline, found = looked_at(served, body.b64img), _deadline(settings), list[Candidate]()
        for prompt in prompts:
            if time.monotonic() > deadline:
                raise TimeoutError
            found += looked.view.predict(prompt)[:1]
        least = body.confidence_threshold or 0
        return _answer([one for one in found if one.iou >= least], served)

    def everything(body: AutomaskBody) -> bytes:
        served, deadline = models.find(body.checkpoint_url), _deadline(settings)
        image: Pixels = read_image(body.b64img, max_px=settings.image_px)
        look = Remembering(served, encodings).encode
        return _answer(automask(image, look, body.grid(), deadline=deadline), served)

    async def prompt(body: PromptBody) -> Response:
        """Outline what is prompted: one POST per object."""
        return _json(await workers.run(lambda: prompted(body)))

    # The extension posts to the base address exactly as it was typed.
    how: dict[str, Any] = {"methods": ["POST"], "response_model": list[Feature], "responses": PROBLEMS}
    router.add_api_route("/sam", prompt, **how)
    router.add_api_route("/sam/", prompt, **how, include_in_schema=False)

    @router.post("/sam/automask/", response_model=list[Feature], responses=PROBLEMS)
    async def automask_(body: AutomaskBody) -> Response:
        """Outline everything on an image."""
        return _json(await workers.run(lambda: everything(body)))

    @router.post("/sam/sam3/", response_model=list[Feature], responses=PROBLEMS)
    async def sam3(body: ConceptBody) -> Response:
        """Outline an object in each box."""
        return _json(await workers.run(lambda: concept(body)))

    @router.get("/sam/version/", response_class=PlainTextResponse)
    async def version() -> str:
        """The server's version."""
        return __version__

    @router.get("/sam/weights/", responses=PROBLEMS)
    async def weights(type: SamType | None = None) -> list[Weights]:
        """The models, under the kind of model that was chosen in QuPath."""
        types = SAM_TYPES if type is None else (type,)
        return [Weights(type=of, name=served.name, url=served.url) for of in types for served in models]

    @router.post("/sam/weights/", response_class=PlainTextResponse, responses=PROBLEMS)
    async def register(body: Weights) -> str:
        """Models come with the server: nothing is downloaded."""
        if body.url not in {served.url for served in models}:
            known = ", ".join(served.url for served in models)
            raise HTTPException(
                422,
                f"this server downloads nothing: start it with the model, `qp2train serve RUN`. It has: {known}",
            )
        return f"{body.name} is here already"

    @router.get("/sam/weights/cancel/", response_class=PlainTextResponse)
    async def cancel() -> str:
        """There is no download to stop."""
        return "nothing is being downloaded"

    @router.get("/sam/progress/")
    async def progress() -> Progress:
        """Of a download; there is none."""
        return Progress(message=None, percent=-1)

    for path in ("upload", "video", "sam3video"):

        @router.post(f"/sam/{path}/", status_code=501, responses={501: PROBLEMS[422]}, name=path)
        async def not_for_us() -> None:
            """Stacks and videos are not answered."""
            raise HTTPException(501, NOT_FOR_US)

    return router


def _deadline(settings: Settings) -> float:
    return time.monotonic() + settings.seconds


def _answer(found: Any, served: Served) -> bytes:
    return orjson.dumps(features(found, served), option=orjson.OPT_SERIALIZE_NUMPY)


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
