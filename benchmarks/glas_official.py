"""The GlaS challenge with its official split: 85 training pictures, 60 of test A, 20 of test B.

    python benchmarks/glas_official.py DATA --out runs/glas-official [--seed 0] [--set fit.epochs=5]

DATA is the unpacked "Warwick QU Dataset (Released 2016_07_08)": train_1.bmp, train_1_anno.bmp, …, testB_20_anno.bmp and
Grade.csv (research use; Sirinukunwattana et al., Medical Image Analysis 35, 2017). One model is trained on the training
pictures from scratch for a fixed number of steps; the last, averaged weights are used, so no test picture chooses
anything. Predictions become the annotations that would be written into QuPath, and these are scored against the true
glands, for test A and B apart: pixel Dice of all pixels together; object F1, object Dice and object Hausdorff (px) as
the challenge defines them. Before training it is said which test patients were trained on, too: the official split is
by picture, not by patient.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import platform
import time
from pathlib import Path

import numpy as np
import shapely
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize, shapes

import qp2train as qp
from qp2train.errors import SplitError
from qp2train.infer.objects import ObjectCounts
from qp2train.recipe import checked_arguments, override

LABELS = qp.LabelMap(["Gland"])
MPP = 0.62  # 20×
PARTS = ("train", "testA", "testB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/glas-official"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    settings = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for text in asked.set:
        override(settings, text)
    arguments = {section: checked_arguments(section, given) for section, given in settings.items()}

    patients = patients_of(asked.data)
    folder = slide_folder(asked.data, asked.out / "slides", patients)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {device}, seed {asked.seed}")
    began = time.monotonic()
    train, test = ([e for e in folder if e.id.startswith(part)] for part in ("train", "test"))
    table = qp.sample_patches(train, LABELS, seed=asked.seed, **arguments["sample"])
    held_out = qp.sample_patches(test, LABELS, seed=asked.seed, **arguments["sample"] | {"count": len(test)})
    try:
        qp.check_leakage(table, held_out, pictures=False)
    except SplitError as error:
        print(f"{len({patients[e.id] for e in test})} test patients. The check says: {error}")
    spec = qp.Segmentation(LABELS, **arguments["model"])
    model = qp.fit(spec, table, seed=asked.seed, out=asked.out / "run", progress=False, **arguments["fit"])
    print(f"training: {time.monotonic() - began:.0f} s")
    results = {}
    for part in PARTS[1:]:
        results[part] = scored([e for e in folder if e.id.startswith(part)], model, asked.data, arguments)
        print(f"{part}: " + ", ".join(f"{name} {value:.3f}" for name, value in results[part].items()), flush=True)
    (asked.out / f"results-seed{asked.seed}.json").write_text(json.dumps(results, indent=2), encoding="utf-8")


def patients_of(data: Path) -> dict[str, str]:
    """Picture → patient, of Grade.csv."""
    with (data / "Grade.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    return {row["name"].strip(): row["patient ID"].strip() for row in rows}


def slide_folder(data: Path, out: Path, patients: dict[str, str]) -> qp.SlideFolder:
    """The pictures as a folder of slides: a gland is an annotation, the whole picture a Region*."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["slide", "patient", "mpp"])
        rows.writerows([f"{name}.png", patient, MPP] for name, patient in patients.items())
    for name in patients:
        with Image.open(data / f"{name}.bmp") as picture:
            picture.convert("RGB").save(out / f"{name}.png")
        labels = glands(data, name)
        drawn = [
            qp.Annotation(shapely.Polygon(g["coordinates"][0], g["coordinates"][1:]), "Gland")
            for g, _ in shapes(labels, mask=labels > 0, connectivity=4)
        ]
        region = qp.Annotation(shapely.box(0, 0, labels.shape[1], labels.shape[0]), "Region*")
        qp.write_geojson(out / f"{name}.geojson", [region, *drawn])
    return qp.SlideFolder(out)


def glands(data: Path, name: str) -> NDArray[np.int32]:
    return np.asarray(Image.open(data / f"{name}_anno.bmp")).astype(np.int32)


def scored(entries: list, model: qp.Model, data: Path, arguments: dict) -> dict[str, float]:
    hits, sums, counts = 0, 0, ObjectCounts()
    for entry in entries:
        truth = glands(data, entry.id)
        with entry.slide() as slide:
            found = qp.vectorise(qp.predict(model, slide, **arguments["predict"]), **arguments["vectorise"])
        numbered = [(a.geometry, i) for i, a in enumerate(found, start=1)]
        said = rasterize(numbered, truth.shape, dtype=np.int32) if numbered else np.zeros(truth.shape, np.int32)
        hits += 2 * int(((said > 0) & (truth > 0)).sum())
        sums += int((said > 0).sum() + (truth > 0).sum())
        counts += ObjectCounts.of(said, truth)
    return {"pixel dice": hits / sums, **{f"object {name}": value for name, value in counts.scores().items()}}


if __name__ == "__main__":
    main()
