"""Nuclei of 107 stained tiles (Data Science Bowl 2018, CC0): a semantic model, its objects divided at their waists.

    python benchmarks/nuclei.py DATA --out runs/nuclei [--seed 0] [--set fit.epochs=5]

DATA holds images/ (320 × 256 px RGB) and labels/ (uint16, a number per nucleus). Many tiles are neighbours, cut from
one picture: a random split would test on what lies beside the training tiles. Tiles whose edges continue one another
are therefore kept together, as a patient's slides are. A quarter of these pictures is held out and chooses nothing:
the number of steps is fixed, and the last, averaged weights are used. Scores: pixel Dice; object F1, object Dice and
panoptic quality (Kirillov et al. 2019) of the objects that would be written into QuPath, summed over tiles.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import platform
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize, shapes

import qp2train as qp
from qp2train.infer.objects import ObjectCounts
from qp2train.recipe import checked_arguments, override
from qp2train.report.figures import prediction_over_truth

LABELS = qp.LabelMap(["Nucleus"])
MPP = 0.5
# A neighbour's edge differs from a tile's by less than this share of what the second best one does.
CONTINUES = 0.5
Tiles = dict[str, NDArray[np.uint8]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/nuclei"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    settings = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for text in asked.set:
        override(settings, text)
    arguments = {section: checked_arguments(section, given) for section, given in settings.items()}

    folder = slide_folder(asked.data, asked.out / "slides")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    began = time.monotonic()
    table = qp.sample_patches(folder, LABELS, seed=asked.seed, **arguments["sample"])
    train, test = table.split(by="patient", fractions=(0.75, 0.25), seed=asked.seed)
    for name, part in (("train", train), ("test", test)):
        print(f"{name}: {part.rows['entry'].nunique()} tiles of {part.rows['group'].nunique()} pictures")
    spec = qp.Segmentation(LABELS, **arguments["model"])
    model = qp.fit(spec, train, seed=asked.seed, out=asked.out / "run", progress=False, **arguments["fit"])
    print(f"training: {time.monotonic() - began:.0f} s")

    whole, divided, hits, sums = ObjectCounts(), ObjectCounts(), 0, 0
    for entry in sorted(set(test.rows["entry"])):
        truth = np.asarray(Image.open(asked.data / "labels" / f"{entry}.png")).astype(np.int32)
        with folder[entry].slide() as slide:
            scores = qp.predict(model, slide, **arguments["predict"])
        found = qp.vectorise(scores, **arguments["vectorise"])
        touching = qp.vectorise(scores, **{**arguments["vectorise"], "separate": []})
        divided += ObjectCounts.of(painted(found, truth.shape), truth)
        whole += ObjectCounts.of(painted(touching, truth.shape), truth)
        hits += 2 * int(((painted(found, truth.shape) > 0) & (truth > 0)).sum())
        sums += int((painted(found, truth.shape) > 0).sum() + (truth > 0).sum())
    results = {"pixel dice": hits / sums, "as predicted": whole.scores(), "divided at waists": divided.scores()}
    print(f"pixel Dice {hits / sums:.3f}")
    for name in ("as predicted", "divided at waists"):
        print(f"{name:18}" + ", ".join(f"{k} {v:.3f}" for k, v in results[name].items()))
    (asked.out / f"results-seed{asked.seed}.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    picture(folder, sorted(set(test.rows["entry"])), model, arguments, asked.out / "nuclei.png")


def slide_folder(data: Path, out: Path) -> qp.SlideFolder:
    """The tiles as a folder of slides: a nucleus is an annotation, the whole tile a Region*, a picture a patient."""
    out.mkdir(parents=True, exist_ok=True)
    tiles = {p.stem: np.asarray(Image.open(p).convert("RGB")) for p in sorted((data / "images").glob("*.png"))}
    pictures = pictures_of(tiles)
    with (out / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["slide", "patient", "mpp"])
        rows.writerows([f"{name}.png", pictures[name], MPP] for name in tiles)
    for name, tile in tiles.items():
        shutil.copy(data / "images" / f"{name}.png", out)
        labels = np.asarray(Image.open(data / "labels" / f"{name}.png")).astype(np.int32)
        nuclei = [
            qp.Annotation(shapely.Polygon(g["coordinates"][0], g["coordinates"][1:]), "Nucleus")
            for g, _ in shapes(labels, mask=labels > 0, connectivity=4)
        ]
        region = qp.Annotation(shapely.box(0, 0, tile.shape[1], tile.shape[0]), "Region*")
        qp.write_geojson(out / f"{name}.geojson", [region, *nuclei])
    return qp.SlideFolder(out)


def pictures_of(tiles: Tiles) -> dict[str, str]:
    """Tile → the first tile of the picture that it was cut from."""
    names = list(tiles)
    owner = {name: name for name in names}

    def root(name: str) -> str:
        return name if owner[name] == name else root(owner[name])

    for across in (True, False):
        last, first = (
            np.array([(t[:, i] if across else t[i]).ravel() for t in tiles.values()], np.float32) for i in (-1, 0)
        )
        apart = np.array([np.abs(first - edge).mean(axis=1) for edge in last])
        np.fill_diagonal(apart, np.inf)
        for i, row in enumerate(apart):
            best, second = np.argsort(row)[:2]
            if apart[:, best].argmin() == i and row[best] < CONTINUES * row[second]:
                one, other = sorted((root(names[i]), root(names[best])))
                owner[other] = one
    return {name: root(name) for name in names}


def painted(annotations: list[qp.Annotation], shape: tuple[int, int]) -> NDArray[np.int32]:
    numbered = [(a.geometry, i) for i, a in enumerate(annotations, start=1)]
    return rasterize(numbered, out_shape=shape, dtype=np.int32) if numbered else np.zeros(shape, np.int32)


def picture(folder: qp.SlideFolder, entries: list[str], model: qp.Model, arguments: dict, out: Path) -> None:
    """The first held-out tile with the prediction over the truth."""
    entry = folder[entries[0]]
    with entry.slide() as slide:
        found = qp.vectorise(qp.predict(model, slide, **arguments["predict"]), **arguments["vectorise"])
        truth = [a for a in entry.annotations() if a.class_name == "Nucleus"]
        image, box = slide.thumbnail(1280), qp.Box(0, 0, *slide.size)
    seen = [replace(a, class_name="Nucleus") for a in found]
    prediction_over_truth(image, seen, truth, box=box, colors={"Nucleus": (0, 158, 115)}).savefig(out, dpi=130)


if __name__ == "__main__":
    main()
