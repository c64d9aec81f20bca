"""Whatever is sent: no crash, no 500, and no memory that grows."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from servestubs import StubModel, blank, png

from qp2train.qupath.project import Project
from qp2train.serve.app import create_app
from qp2train.serve.models import SAM_TYPES, Models
from qp2train.serve.project import ServedProject
from qp2train.serve.settings import Settings
from tests.fakes import write_pyramid

EXAMPLES = int(os.environ.get("QP2TRAIN_EXAMPLES", "600"))
IMAGES = [blank(), blank(1, 1), blank(3, 200), "", "AAAA", blank()[:200], 5, None]
MASKS = [png(np.eye(40, 60, dtype=np.uint8) * 255), blank(2, 2), blank(), "x", None]
ODD = [None, -1, 0, 1, 7, 10**9, 10**400, 0.5, 1e308, True, "", "1", [], {}, [[]], [1, 2], [[1, 2]], "run:stub", "\x00"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("random")
    slide = write_pyramid(folder / "a.tiff", [np.full((64, 64, 3), 200, np.uint8)], mpp=1.0)
    project = Project.create(folder / "p")
    project.add_image(slide, width=64, height=64, mpp=1.0)
    stub = StubModel()
    stub.asked = stub.images = Forgetful()
    settings = Settings(seconds=5, cache_bytes=100_000, image_px=20_000)
    app = create_app(Models([("stub", stub)]), settings=settings, project=ServedProject(project.path))
    with TestClient(app, base_url="http://localhost") as client:  # a 500 is raised
        yield client


class Forgetful(list):
    def append(self, _: object) -> None:
        pass


def number(rng: random.Random) -> object:
    return rng.choice([rng.randint(-20, 80), rng.randint(-20, 80), rng.choice(ODD)])


def field(rng: random.Random, name: str) -> object:
    if rng.random() < 0.1:
        return rng.choice(ODD)
    some = [[number(rng) for _ in range(2)] for _ in range(rng.randint(0, 4))]
    return {
        "type": lambda: rng.choice([*SAM_TYPES, "vit_x"]),
        "b64img": lambda: rng.choice(IMAGES[:1] * 8 + IMAGES),
        "b64mask": lambda: rng.choice(MASKS),
        "checkpoint_url": lambda: rng.choice(["run:stub", None]),
        "bbox": lambda: [number(rng) for _ in range(4)],
        "point_coords": lambda: some,
        "point_labels": lambda: [rng.choice([0, 1, 1, number(rng)]) for _ in range(rng.choice([len(some), 1, 2]))],
        "multimask_output": lambda: rng.choice([True, False, None]),
        "points_per_side": lambda: rng.choice([1, 2, 3]),
        "crop_n_layers": lambda: rng.choice([0, 0, 1]),
        "min_mask_region_area": lambda: rng.choice([0, 5, 5000]),
        "output_type": lambda: rng.choice(["Single mask", "Multi-mask (all)", "Multi-mask (smallest)"]),
        "include_image_edge": lambda: rng.choice([True, False]),
        "positive_bboxes": lambda: [[number(rng) for _ in range(4)] for _ in range(rng.randint(0, 3))],
        "negative_bboxes": lambda: [[number(rng) for _ in range(4)] for _ in range(rng.randint(0, 3))],
        "confidence_threshold": lambda: rng.choice([0, 0.5, 1, None]),
        "text_prompt": lambda: rng.choice(["gland", "\ud800", None]),
    }[name]()


PROMPT = ["type", "b64img", "checkpoint_url", "bbox", "point_coords", "point_labels", "b64mask", "multimask_output"]
AUTOMASK = [
    "type",
    "b64img",
    "points_per_side",
    "crop_n_layers",
    "min_mask_region_area",
    "output_type",
    "include_image_edge",
]
CONCEPT = ["type", "b64img", "positive_bboxes", "negative_bboxes", "confidence_threshold", "text_prompt"]


def test_random_prompts_are_answered_or_refused_and_memory_stays(client: TestClient) -> None:
    rng, seen, before = random.Random(0), dict[int, int](), 0
    for number_of in range(EXAMPLES):
        path, names = rng.choice([("", PROMPT), ("", PROMPT), ("automask/", AUTOMASK), ("sam3/", CONCEPT)])
        body = {name: field(rng, name) for name in names if rng.random() < 0.85}
        sent = json.dumps(body).encode()
        answer = client.post(f"/sam/{path}", content=sent, headers={"content-type": "application/json"})
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert answer.status_code in (200, 413, 422), (body, answer.text)
        if number_of == EXAMPLES // 3:
            before = resident()
    assert seen[200] > EXAMPLES / 20
    assert seen[422] > EXAMPLES / 20
    assert resident() - before < 20_000_000


def resident() -> int:
    gc.collect()
    status = Path("/proc/self/statm")
    if not status.is_file():
        pytest.skip("no /proc to read the memory from")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_nothing_that_the_description_allows_is_a_500(client: TestClient) -> None:
    """Requests made from /openapi.json by schemathesis, right ones and wrong ones."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.generation import GenerationMode

    schema, tried = schemathesis.openapi.from_dict(client.get("/openapi.json").json()), dict[str, set[int]]()
    quick = settings(
        max_examples=max(8, EXAMPLES // 100),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation in (result.ok() for result in schema.get_all_operations()):
        seen = tried.setdefault(operation.label, set())
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @quick
            @given(case=operation.as_strategy(generation_mode=mode))
            def asked(case) -> None:
                if mode is GenerationMode.POSITIVE and "entry_id" in (case.path_parameters or {}):  # noqa: B023
                    case.path_parameters["entry_id"] = "1"  # one that is there
                made = case.as_transport_kwargs(base_url="http://localhost")
                made = {NAMES[name]: value for name, value in made.items() if name in NAMES}
                answer = client.request(**made)
                seen.add(answer.status_code)  # noqa: B023 - called at once
                assert answer.status_code < 500 or answer.status_code == 501, (made, answer.text)

            with contextlib.suppress(Unsatisfiable):  # nothing wrong can be sent to a route that takes nothing
                asked()
    assert 422 in tried["POST /sam"]
    assert tried["GET /sam/weights/"] >= {200, 422}
    assert tried["GET /api/v1/entries/{entry_id}"] == {200}
    assert 422 in tried["POST /api/v1/entries/{entry_id}/predict"]
    assert tried["POST /sam/video/"] == {501}
    assert all(tried.values())


# What schemathesis calls the parts of a request → what httpx does.
NAMES = {name: name for name in ("method", "url", "params", "headers", "json")} | {"data": "content"}
