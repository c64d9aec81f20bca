"""Images that somebody sent: what is one works, what is none is a 4xx that says why, and nothing is a 500."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from PIL import Image
from servestubs import StubModel, b64, file_of, png

from qp2train.serve.app import create_app
from qp2train.serve.images import read_image
from qp2train.serve.models import Models
from qp2train.serve.settings import Settings

MOST = 4_000_000
RGB = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = create_app(Models([("stub", StubModel())]), settings=Settings(image_px=MOST))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def asked(client: TestClient, image: str, model: str = "run:stub"):
    body = {"type": "vit_h", "b64img": image, "bbox": [0, 0, 20, 20], "checkpoint_url": model}
    return client.post("/sam/", json=body)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of some kB that says it has so many pixels, and has the zeros for them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min(50_000_000, (width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    plain = file_of(Image.fromarray(RGB))
    packed = b"Comment\0\0" + zlib.compress(b" " * 100_000_000, 9)
    return plain[:33] + chunk(b"zTXt", packed) + plain[33:]


WORKING = {
    "grey": (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=2)),
    "16 bit": (Image.fromarray(GREY.astype(np.uint16) << 8 | 7), np.repeat(GREY[..., None], 3, axis=2)),
    "1 bit": (Image.fromarray(GREY > 127), np.repeat((GREY > 127)[..., None] * 255, 3, axis=2)),
    "opaque alpha": (Image.fromarray(RGB).convert("RGBA"), RGB),
    "transparent is white": (Image.new("RGBA", (40, 30), (9, 9, 9, 0)), np.full((30, 40, 3), 255)),
    "grey alpha": (Image.new("LA", (40, 30), (9, 255)), np.full((30, 40, 3), 9)),
    "palette": (Image.fromarray(RGB // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE), RGB // 128 * 255),
    "1×1": (Image.fromarray(RGB[:1, :1]), RGB[:1, :1]),
    "30,000×1": (Image.fromarray(np.resize(RGB, (1, 30_000, 3))), np.resize(RGB, (1, 30_000, 3))),
    "1×30,000": (Image.fromarray(np.resize(RGB, (30_000, 1, 3))), np.resize(RGB, (30_000, 1, 3))),
}


@pytest.mark.parametrize("name", WORKING)
def test_every_kind_of_png_is_read(client: TestClient, name: str) -> None:
    image, expected = WORKING[name]
    sent = b64(file_of(image))
    np.testing.assert_array_equal(read_image(sent, max_px=MOST), expected)
    for model in ("run:stub", "run:colours"):
        assert asked(client, sent, model).status_code == 200


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_read(client: TestClient, mode: str) -> None:
    sent = b64(file_of(Image.new("RGB", (40, 30), (200, 100, 50)).convert(mode), "JPEG", quality=95))
    expected = Image.new("RGB", (40, 30), (200, 100, 50)).convert(mode).convert("RGB")
    np.testing.assert_allclose(read_image(sent, max_px=MOST), np.array(expected), atol=4)
    assert asked(client, sent).status_code == 200


def test_line_breaks_within_base64_do_not_matter() -> None:
    text = png(RGB)
    broken = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    np.testing.assert_array_equal(read_image(broken, max_px=MOST), RGB)


PLAIN = file_of(Image.fromarray(RGB))
REFUSED = {
    "a bomb of 10^10 pixels": (bomb(100_000, 100_000), 413, "pixels"),
    "a bomb of 10^8 pixels": (bomb(10_000, 10_000), 413, "pixels"),
    "a pixel too many": (bomb(2001, 2000), 413, "2001×2000"),
    "a bomb of text": (text_bomb(), 422, "damaged"),
    "no pixel": (bomb(0, 0), 422, "damaged"),
    "truncated": (PLAIN[:-400], 422, "damaged"),
    "only a header": (PLAIN[:33], 422, "damaged"),
    "truncated JPEG": (file_of(Image.fromarray(RGB), "JPEG")[:300], 422, "damaged"),
    "TIFF": (file_of(Image.fromarray(RGB), "TIFF"), 422, "no PNG or JPEG"),
    "text": (b"hello", 422, "no PNG or JPEG"),
    "nothing": (b"", 422, "no PNG or JPEG"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "no PNG or JPEG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_in_words(client: TestClient, name: str) -> None:
    data, status, said = REFUSED[name]
    answer = asked(client, b64(data))
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.parametrize("text", ["", "####", "abc", "äöü", "data:image/png;base64,AAAA"])
def test_what_is_no_base64_is_refused(client: TestClient, text: str) -> None:
    answer = asked(client, text)
    assert answer.status_code == 422
    assert "b64img" in answer.json()["detail"]


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    sent = b64(bomb(6000, 6000))
    tracemalloc.start()
    with pytest.raises(HTTPException):
        read_image(sent, max_px=MOST)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_damaged_files_are_images_or_refused() -> None:
    """Bytes of PNG and JPEG files exchanged, cut and doubled: each is read or refused with a 4xx."""
    rng = np.random.default_rng(0)
    seeds = [file_of(image) for image, _ in WORKING.values() if image.size == (40, 30)]
    seeds += [file_of(Image.fromarray(RGB).convert(mode), "JPEG") for mode in ("RGB", "CMYK")]
    seen = {"read": 0, "413": 0, "422": 0}
    for _ in range(int(os.environ.get("QP2TRAIN_EXAMPLES", "2000"))):
        data = bytearray(seeds[rng.integers(len(seeds))])
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(len(data)))
            data[at] = rng.integers(256)
        if rng.random() < 0.2:
            at, length = int(rng.integers(len(data))), int(rng.integers(50))
            data[at:at] = data[at : at + length]
        seen[outcome(b64(bytes(data)))] += 1
    assert seen["read"] > 50
    assert seen["422"] > 50


def outcome(sent: str) -> str:
    try:
        return "read" if read_image(sent, max_px=MOST).ndim == 3 else "no picture"
    except HTTPException as refused:
        return str(refused.status_code)
