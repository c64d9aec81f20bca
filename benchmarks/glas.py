"""Leave-one-patient-out on real colon tissue: five slides of the GlaS challenge as a QuPath project.

    python benchmarks/glas.py DATA --out runs/glas [--grade] [--patients p01,p06] [--seed 0] [--set fit.epochs=5]

DATA holds slides/, project/ (QuPath 0.6, glands outlined inside Region* fields) and groundtruth/ (label images and
valid masks). For each patient a model is trained on the other four, for a fixed number of steps: its last weights are
used, so nothing of the left-out patient chooses anything. It predicts the left-out slide, the prediction is written
into a copy of the project, read back, and scored at full resolution inside the annotated fields: pixel Dice, and the
object Dice of the challenge (Sirinukunwattana et al. 2017) of the glands as predicted and as divided at their waists.
Intervals are over patients: a patient has too few fields for one of their own. With --grade, benign and malignant
glands are two classes.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize
from skimage.measure import label

import qp2train as qp
from qp2train.core.agreement import class_scores
from qp2train.core.confusion import Confusion
from qp2train.core.intervals import bootstrap
from qp2train.core.labels import BACKGROUND_NAME
from qp2train.infer.objects import object_dice
from qp2train.recipe import checked_arguments, override
from qp2train.report.figures import prediction_over_truth

GLAND = qp.LabelMap({"Gland": ["Benign gland", "Malignant gland"]})
GRADE = qp.LabelMap(["Benign gland", "Malignant gland"])
# Calling every annotated pixel gland scores this; a model must be better.
FLOOR = {"p01": 0.63, "p02": 0.69, "p03": 0.57, "p05": 0.54, "p06": 0.83}
MARGIN, MEAN = 0.05, 0.80


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/glas"))
    parser.add_argument("--grade", action="store_true", help="benign and malignant glands apart")
    parser.add_argument("--patients", default=",".join(FLOOR))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    settings = yaml.safe_load(Path(__file__).with_name("glas.yaml").read_text(encoding="utf-8"))
    for text in asked.set:
        override(settings, text)
    arguments = {section: checked_arguments(section, given) for section, given in settings.items()}

    asked.out.mkdir(parents=True, exist_ok=True)
    copy = asked.out / "project"
    if not copy.exists():
        shutil.copytree(asked.data / "project", copy)
    project = qp.Project(copy, image_roots=[asked.data / "slides"])
    labels = GRADE if asked.grade else GLAND
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    print(f"{'patient':8} {'Dice':>6} {'floor':>6} {'gain':>6} {'object Dice':>12} {'divided':>8} {'training':>9}")
    results = {}
    for patient in asked.patients.split(","):
        result = leave_out(patient, project, labels, arguments, asked.data, asked.out, asked.seed)
        results[patient] = result
        dice = gland_dice(np.array(result["confusion"]))
        print(
            f"{patient:8} {dice:6.3f} {FLOOR[patient]:6.2f} {dice - FLOOR[patient]:+6.3f} "
            f"{result['object_dice']:12.3f} {result['object_dice_divided']:8.3f} {result['train_s']:7.0f} s",
            flush=True,
        )
    (asked.out / f"results-seed{asked.seed}.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    confusions = np.array([r["confusion"] for r in results.values()])
    dice = gland_dice(confusions)
    show("mean of patients", bootstrap(np.stack([dice, np.ones(len(dice))], axis=1), lambda s: s[:, 0] / s[:, 1]))
    show("all pixels", bootstrap(confusions, gland_dice))
    if asked.grade:
        for i, name in enumerate(labels.names):
            show(name, bootstrap(confusions, lambda s, i=i: class_scores(s)["dice"][:, i]))
        print("true class (rows) and predicted class of glands' pixels, per patient:")
        for patient, confusion in zip(results, confusions, strict=True):
            print(patient, *(f"{n}: {row.tolist()}" for n, row in zip(labels.names, confusion, strict=True)), sep="  ")
    enough = dice.mean() >= MEAN and all(d >= FLOOR[p] + MARGIN for p, d in zip(results, dice, strict=True))
    print("target (mean ≥ 0.80, each ≥ 0.05 above its floor):", "reached" if enough else "NOT reached")
    return 0 if enough else 1


def leave_out(
    patient: str, project: qp.Project, labels: qp.LabelMap, arguments: dict[str, dict], data: Path, out: Path, seed: int
) -> dict[str, Any]:
    others = [e for e in project if e.metadata["patient"] != patient]
    (left_out,) = (e for e in project if e.metadata["patient"] == patient)
    began = time.monotonic()
    table = qp.sample_patches(others, labels, seed=seed, **arguments["sample"])
    spec = qp.Segmentation(table.labels, **arguments["model"])
    model = qp.fit(spec, table, seed=seed, out=out / patient, progress=False, **arguments["fit"])
    train_s = time.monotonic() - began
    with left_out.slide() as slide:
        scores = qp.predict(model, slide, **arguments["predict"])
        found = qp.vectorise(scores, **arguments["vectorise"])
        # Each fold has its own model, so an earlier run's objects are another model's: only this one's may stay.
        for source in {a.source for a in left_out.annotations()} - {None}:
            project.clear(source=source, entries=[left_out])
        project.write(left_out, found, source=model.id)
        predicted = [a for a in left_out.annotations() if a.source == model.id]
        box = qp.Box(0, 0, *slide.size)
        truth = [a for a in left_out.annotations() if a.source is None and labels.name_of(a.class_name)]
        figure = prediction_over_truth(
            slide.thumbnail(1600), predicted, truth, box=box, colors={"Gland": (0, 158, 115), **project.classes}
        )
        figure.savefig(out / f"{patient}.png", dpi=130)
    glands = np.asarray(Image.open(data / "groundtruth" / f"{patient}_labels.png")).astype(np.int32)
    valid = np.asarray(Image.open(data / "groundtruth" / f"{patient}_valid.png")) > 0
    true_class = class_of_each(glands, painted([(a, labels.value_of(a.class_name) or 0) for a in truth], glands))
    said_class = painted([(a, labels.value_of(a.class_name) or 0) for a in predicted], glands)
    divided = qp.vectorise(
        scores, **{**arguments["vectorise"], "separate": [n for n in labels.names if n != BACKGROUND_NAME]}
    )
    return {
        "confusion": Confusion.of(true_class[valid], said_class[valid], labels.names).matrix.tolist(),
        "object_dice": of_objects(predicted, glands, valid),
        "object_dice_divided": of_objects(divided, glands, valid),
        "train_s": train_s,
        "objects": len(predicted),
    }


def gland_dice(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """(…, C, C) → (…): Dice of gland of whatever class against background."""
    hit = confusions[..., 1:, 1:].sum(axis=(-2, -1))
    return 2 * hit / (confusions[..., 1:, :].sum(axis=(-2, -1)) + confusions[..., 1:].sum(axis=(-2, -1)))


def class_of_each(glands: NDArray[np.int32], painted_classes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The class image of numbered glands: each gland's own outline, and the class that most of its pixels have."""
    votes = np.zeros((glands.max() + 1, painted_classes.max() + 1), np.int64)
    np.add.at(votes, (glands, painted_classes), 1)
    votes[0] = votes[:, 0] = 0
    return votes.argmax(axis=1).astype(np.int32)[glands]


def of_objects(annotations: list[qp.Annotation], glands: NDArray[np.int32], valid: NDArray[np.bool_]) -> float:
    """Object Dice inside the fields: what meets only outside of them, where nobody knows, is not one object."""
    numbered = np.where(valid, painted([(a, i) for i, a in enumerate(annotations, start=1)], glands), 0)
    return object_dice(label(numbered, connectivity=1), np.where(valid, glands, 0))


def painted(numbered: list[tuple[qp.Annotation, int]], like: NDArray[np.int32]) -> NDArray[np.int32]:
    shapes = [(a.geometry, i) for a, i in numbered]
    return rasterize(shapes, out_shape=like.shape, dtype=np.int32) if shapes else np.zeros(like.shape, np.int32)


def show(what: str, interval: NDArray[np.float64]) -> None:
    value, low, high = interval
    print(f"{what:18} {value:.3f} ({low:.3f}–{high:.3f}, 95 % over patients)")


if __name__ == "__main__":
    raise SystemExit(main())
