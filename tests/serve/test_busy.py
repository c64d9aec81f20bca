"""Many at once: equal images are looked at once, a full queue says so, slow work is given up, memory is bounded."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from servestubs import StubModel, blank, listening

from qp2train.errors import PromptError
from qp2train.serve.app import create_app
from qp2train.serve.encodings import Encodings, Looked, held_bytes
from qp2train.serve.models import Models, Remembering, Served
from qp2train.serve.settings import Settings
from qp2train.serve.workers import Workers


def body(value: int = 200, **more: object) -> dict[str, object]:
    return {"type": "vit_h", "b64img": blank(value=value), "point_coords": [[9, 9]], "point_labels": [1], **more}


def app_of(stub: StubModel, **settings: object):
    return create_app(Models([("stub", stub)]), settings=Settings(**settings))


def test_clients_that_send_the_same_image_share_one_look() -> None:
    stub = StubModel()
    stub.slow_encode = 0.2
    with listening(app_of(stub, threads=8)) as base, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{base}/sam/", json=body(), timeout=30), range(12)))
        assert [answer.status_code for answer in answers] == [200] * 12
        assert len(stub.images) == 1
        assert len(stub.asked) == 12
        measured = httpx.get(f"{base}/metrics").text
    assert "qp2train_views_misses_total 1.0" in measured
    assert "qp2train_views_hits_total 11.0" in measured


def test_when_the_queue_is_full_the_others_are_told_to_come_again() -> None:
    stub = StubModel()
    stub.wait = threading.Event()
    with listening(app_of(stub, threads=1, queue=2)) as base, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(httpx.post, f"{base}/sam/", json=body(i), timeout=30) for i in range(2)]
        while "qp2train_queue 2.0" not in httpx.get(f"{base}/metrics").text:
            time.sleep(0.01)
        refused = httpx.post(f"{base}/sam/", json=body(3))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "busy" in refused.json()["detail"]
        began = time.perf_counter()  # what needs no model is answered all the same
        assert httpx.get(f"{base}/sam/progress/").status_code == 200
        assert time.perf_counter() - began < 1
        stub.wait.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        assert httpx.post(f"{base}/sam/", json=body(3)).status_code == 200


def test_what_takes_too_long_is_a_504_and_what_waited_for_it_is_never_begun() -> None:
    stub = StubModel()
    stub.wait = threading.Event()
    with listening(app_of(stub, threads=1, seconds=0.3)) as base, ThreadPoolExecutor(2) as pool:
        late = list(pool.map(lambda i: httpx.post(f"{base}/sam/", json=body(i), timeout=30), range(2)))
        assert [answer.status_code for answer in late] == [504, 504]
        assert "--seconds" in late[0].json()["detail"]
        stub.wait.set()
        assert httpx.post(f"{base}/sam/", json=body(9), timeout=30).status_code == 200
    assert len(stub.images) == 2


def test_automask_ends_by_itself_when_its_time_is_over() -> None:
    stub = StubModel()
    app = app_of(stub, seconds=0.2)
    with listening(app) as base:
        answer = httpx.post(f"{base}/sam/automask/", json=body(points_per_side=128), timeout=30)
        assert answer.status_code == 504
        while app.state.workers.held:
            time.sleep(0.01)
    assert len(stub.asked) < 128 * 128


def test_stopping_finishes_what_was_begun() -> None:
    stub = StubModel()
    stub.slow_encode = 0.4
    with ThreadPoolExecutor(1) as pool:
        with listening(app_of(stub)) as base:
            begun = pool.submit(httpx.post, f"{base}/sam/", json=body(), timeout=30)
            while not stub.images:
                time.sleep(0.01)
        assert begun.result().status_code == 200


def view_of(nbytes: int) -> Looked:
    return Looked(StubModel().encode(np.zeros((1, 1, 3), np.uint8)), 1, 1, nbytes)


def test_the_least_recently_used_view_goes_first() -> None:
    kept, made = Encodings(100), list[str]()

    def get(key: str, nbytes: int = 40) -> None:
        kept.get(key, lambda: (made.append(key), view_of(nbytes))[1])

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    assert kept.nbytes == 80
    get("huge", 101)
    assert kept.nbytes == 80
    assert (kept.hits, kept.misses, len(kept)) == (2, 5, 2)


def test_an_error_of_looking_goes_to_all_who_wait_and_is_not_kept() -> None:
    kept, begun, go_on = Encodings(100), threading.Event(), threading.Event()

    def fails() -> Looked:
        begun.set()
        go_on.wait(10)
        raise PromptError("no")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, "a", fails)
        begun.wait(10)
        second = pool.submit(kept.get, "a", lambda: view_of(1))
        while kept.hits == 0:
            time.sleep(0.001)
        go_on.set()
        for future in (first, second):
            with pytest.raises(PromptError):
                future.result()
    assert kept.get("a", lambda: view_of(1)).nbytes == 1


def test_what_a_view_holds_is_counted_within_lists_and_objects() -> None:
    class View:
        def __init__(self) -> None:
            self.name = "text"
            self.parts = [np.zeros(10, np.uint8), {"more": np.zeros((2, 2), np.float32)}]
            self.inner = np.zeros(1, np.float64)
            self.loop = self

    assert held_bytes(View()) >= 10 + 16 + 8


def test_one_thread_at_a_time_uses_a_model() -> None:
    inside, most = 0, 0

    class Busy(StubModel):
        def encode(self, image: np.ndarray):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1
            return super().encode(image)

    served = Served("busy", Busy, id="busy-1")
    remembering = Remembering(served, Encodings(0))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: remembering.encode(np.full((2, 2, 3), i, np.uint8)), range(16)))
    assert most == 1


def test_a_server_that_stops_takes_nothing_new() -> None:
    workers = Workers(threads=1, queue=1, seconds=1)
    workers.close()
    with pytest.raises(HTTPException) as refused:
        asyncio.run(workers.run(lambda: None))
    assert refused.value.status_code == 503
    assert workers.held == 0
