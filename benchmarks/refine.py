"""Clicks that expert gland outlines need, on real colon tissue: five slides of the GlaS challenge as a QuPath project.

    python benchmarks/refine.py DATA [--objects 20] [--seed 0]

DATA as for glas.py. Of each patient `--objects` glands are drawn at random. A gland is shown with 40 % more round it,
256 px on the longer side, and is clicked as `click_through` does: at the centre of the largest error, 20 times at
most; only inside the annotated fields something can be wrong. Once from nothing, once with jittered clicks, and once
from a degraded outline (moved by a tenth of its size and dilated), as a rough annotation would be. What answers is the
training-free fallback, which has seen no patient. NoC@85: mean clicks to an IoU of 0.85, 20 where it is never reached.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import shapely
import shapely.affinity

import qp2train as qp
from qp2train.core.clicks import ClickScores, iou
from qp2train.core.labels import BACKGROUND
from qp2train.refine.clicks import click_through
from qp2train.refine.fallback import ColourModel
from qp2train.refine.outline import mask_of
from qp2train.refine.prompts import Prompt

VIEW_PX, ROUND = 256, 1.4
GLANDS = qp.LabelMap({"Gland": ["Benign gland", "Malignant gland"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--objects", type=int, default=20, help="glands per patient")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    project = qp.Project(asked.data / "project", image_roots=[asked.data / "slides"])
    model, rng = ColourModel(), np.random.default_rng(asked.seed)
    curves: dict[str, list[list[float]]] = {"from nothing": [], "jittered": [], "from a rough outline": []}
    rough, alone, times = list[float](), list[float](), list[float]()
    for entry in project:
        drawn = entry.annotations()
        glands = [a.geometry for a in drawn if GLANDS.name_of(a.class_name)]
        known = shapely.union_all([a.geometry for a in drawn if GLANDS.value_of(a.class_name) == BACKGROUND])
        with entry.slide() as slide:
            for i in rng.permutation(len(glands))[: asked.objects]:
                box = round_about(glands[i])
                scale = VIEW_PX / max(box.width, box.height)
                size = max(1, round(box.width * scale)), max(1, round(box.height * scale))
                truth, valid = mask_of(glands[i], box, size), mask_of(known, box, size) | mask_of(glands[i], box, size)
                if not truth.any():
                    continue
                view = model.encode(slide.read(box, size))
                start = mask_of(degraded(glands[i], rng), box, size)
                alone.append(iou(view.predict(Prompt(mask=start))[0].mask, truth, valid=valid))
                rough.append(iou(start, truth, valid=valid))
                began = time.process_time()
                curves["from nothing"].append(click_through(view, truth, valid=valid))
                times.append((time.process_time() - began) / max(1, len(curves["from nothing"][-1]) - 1))
                curves["jittered"].append(click_through(view, truth, valid=valid, rng=rng))
                curves["from a rough outline"].append(click_through(view, truth, valid=valid, start=start))
    print(f"{len(rough)} glands of {len(project)} patients, {model.id}, seed {asked.seed}")
    print(f"{'':22} {'IoU@0':>6} {'@1':>6} {'@3':>6} {'@5':>6} {'NoC@80':>7} {'@85':>6} {'@90':>6} {'never .85':>9}")
    for how, found in curves.items():
        scores = ClickScores.of(found)
        at = " ".join(f"{scores.iou_at(k):6.3f}" for k in (0, 1, 3, 5))
        noc = " ".join(f"{scores.clicks_to(t):6.2f}" for t in (0.80, 0.85, 0.90))
        print(f"{how:22} {at} {noc:>21} {scores.never():9.2f}")
    print(f"rough outlines alone, without a click: IoU {np.mean(rough):.3f} → {np.mean(alone):.3f}")
    q = np.percentile(times, [50, 95]) * 1000
    print(f"CPU per click, simulation included: median {q[0]:.0f} ms, 95 % below {q[1]:.0f} ms")


def round_about(gland: shapely.geometry.base.BaseGeometry) -> qp.Box:
    left, top, right, bottom = gland.bounds
    width, height = (right - left) * ROUND, (bottom - top) * ROUND
    return qp.Box((left + right - width) / 2, (top + bottom - height) / 2, width, height)


def degraded(gland: shapely.geometry.base.BaseGeometry, rng: np.random.Generator) -> shapely.geometry.base.BaseGeometry:
    side, angle = np.sqrt(gland.area), rng.uniform(0, 2 * np.pi)
    moved = shapely.affinity.translate(gland, 0.1 * side * np.cos(angle), 0.1 * side * np.sin(angle))
    return moved.buffer(0.05 * side)


if __name__ == "__main__":
    main()
