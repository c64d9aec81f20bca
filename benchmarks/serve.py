"""What the server costs beside the model, and whether it stands a crowd. Loopback, one process, this computer alone.

    python benchmarks/serve.py [--clients 50] [--seconds 60] [--round-trips 30]

1. Round trip: a noisy view of 1500×900 pixels, as QuPath's SAM extension sends it, in full with each click; a model
   that takes no time answers with a disc. So all of the time is the server's: JSON, base64, PNG, hash, outline.
   "first" is an image that is new to the server, "again" one that it knows. Goal: at most 60 ms.
2. Crowd: `--clients` clients ask for `--seconds` seconds, each on views of its own, a new one every ten clicks; the
   training-free fallback answers. Printed: answers, errors, the median and 99 % of the times, resident memory before,
   after a third of the time, and at the end.
3. SAM: a click on a new view, and a second one on the same, by a SAM of ViT-B's size with random weights (what it says
   means nothing, what it takes does). Goal: the second at least 5 times as fast.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from qp2train.refine.prompts import Candidate, Prompt, PromptModel

WIDTH, HEIGHT = 1500, 900
CROWD = 400, 300


class Instant:
    """Answers at once with a disc."""

    id = "instant"

    def __init__(self) -> None:
        rows, columns = np.ogrid[:HEIGHT, :WIDTH]
        self.disc = (rows - HEIGHT // 2) ** 2 + (columns - WIDTH // 2) ** 2 < 100**2

    def encode(self, image: np.ndarray) -> Instant:
        return self

    def predict(self, prompt: Prompt) -> list[Candidate]:
        return [Candidate(self.disc, 0.9)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--round-trips", type=int, default=30)
    parser.add_argument("--without-sam", action="store_true", help="leave out 3")
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.listen:
        listen(with_sam=not asked.without_sam)
        return
    command = [sys.executable, __file__, "--listen", *(["--without-sam"] if asked.without_sam else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                sys.exit("the server did not start")
            round_trip(address, asked.round_trips)
            crowd(address, server.pid, asked.clients, asked.seconds)
            if not asked.without_sam:
                second_click(address)
        finally:
            server.terminate()


def listen(*, with_sam: bool) -> None:
    import uvicorn

    from qp2train.serve.app import create_app
    from qp2train.serve.models import Models
    from qp2train.serve.run import listen_on
    from qp2train.serve.settings import Settings

    logging.basicConfig(level=logging.ERROR)
    served = [("instant", Instant()), *([("sam", random_sam())] if with_sam else [])]
    with listen_on("127.0.0.1", 0) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        app = create_app(Models(served), settings=Settings(queue=256, cache_bytes=256 << 20))
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listening])


def random_sam() -> PromptModel:
    """A SAM ViT-B as transformers describes it, with weights drawn at random."""
    import torch
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    import qp2train as qp

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        SamModel(SamConfig()).save_pretrained(folder)
        SamProcessor(SamImageProcessor()).save_pretrained(folder)
        return qp.load_sam(folder)


def second_click(address: str, views: int = 3) -> None:
    rng, times = np.random.default_rng(2), list[list[float]]()
    with httpx.Client(base_url=address, timeout=300) as client:
        for _ in range(views):
            image, kept = picture(rng, WIDTH, HEIGHT), list[float]()
            for _ in range(2):
                began = time.perf_counter()
                answer = client.post(
                    "/sam/", content=body_of(image, "run:sam"), headers={"Content-Type": "application/json"}
                )
                kept.append(time.perf_counter() - began)
                assert answer.status_code == 200, answer.text
            times.append(kept)
    first, second = np.median(times, axis=0)
    print(f"SAM ViT-B (random weights), view of {WIDTH}×{HEIGHT}, median of {views} views:")
    print(f"  first click {first:.2f} s, second click {second:.2f} s: {first / second:.0f} times as fast")


def round_trip(address: str, times: int) -> None:
    rng = np.random.default_rng(0)
    first, again = list[float](), list[float]()
    with httpx.Client(base_url=address, timeout=60) as client:
        for i in range(times + 1):
            body = body_of(picture(rng, WIDTH, HEIGHT), "run:instant")
            for kept in (first, again):
                began = time.perf_counter()
                answer = client.post("/sam/", content=body, headers={"Content-Type": "application/json"})
                if i:  # the first one imports and fills caches
                    kept.append(time.perf_counter() - began)
                assert answer.status_code == 200, answer.text
    print(f"round trip without a model, {WIDTH}×{HEIGHT}, {len(body) / 1e6:.1f} MB a request, {times} times:")
    for name, kept in (("first", first), ("again", again)):
        print(f"  {name}: median {np.median(kept) * 1000:.0f} ms, 95 % below {np.percentile(kept, 95) * 1000:.0f} ms")


def crowd(address: str, pid: int, clients: int, seconds: float) -> None:
    rng = np.random.default_rng(1)
    bodies = [body_of(picture(rng, *CROWD), "run:colours") for _ in range(clients)]
    times, errors, before = list[float](), list[str](), resident_mb(pid)
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        with httpx.Client(base_url=address, timeout=120) as client:
            for i in itertools.count():
                if time.perf_counter() > end:
                    return
                body = bodies[(number + i // 10) % clients]
                began = time.perf_counter()
                try:
                    answer = client.post("/sam/", content=body, headers={"Content-Type": "application/json"})
                    if answer.status_code != 200:
                        errors.append(f"{answer.status_code} {answer.text[:100]}")
                except httpx.HTTPError as error:
                    errors.append(repr(error))
                times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)
    warm = resident_mb(pid)
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    print(f"{clients} clients for {took:.0f} s, views of {CROWD[0]}×{CROWD[1]}, colour-fallback:")
    print(f"  {len(times)} answers, {len(times) / took:.1f} a second, {len(errors)} errors {sorted(set(errors))[:3]}")
    print(f"  median {np.median(times):.2f} s, 99 % below {np.percentile(times, 99):.2f} s")
    print(
        f"  resident memory of the server: {before:.0f} MB before, {warm:.0f} MB after a third of the time, "
        f"{resident_mb(pid):.0f} MB at the end"
    )


def picture(rng: np.random.Generator, width: int, height: int) -> str:
    """Tissue-like: smooth colour and the noise of a camera, so that PNG is as large as it is for slides."""
    coarse = rng.integers(150, 250, (height // 50 + 1, width // 50 + 1, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.int16) + rng.integers(-6, 7, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG", compress_level=3)
    return base64.b64encode(file.getvalue()).decode()


def body_of(image: str, model: str) -> bytes:
    at = {"point_coords": [[200, 150]], "point_labels": [1]}
    return json.dumps({"type": "vit_h", "b64img": image, "checkpoint_url": model, **at}).encode()


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6 if status.is_file() else float("nan")


if __name__ == "__main__":
    main()
