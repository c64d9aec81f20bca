"""The whole way on the sample project: draw, train on two patients, predict the third, write back, score."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from qp2train.core.geometry import Box
from qp2train.errors import ProjectError
from qp2train.infer.evaluate import compare
from qp2train.preview import contact_sheet_of
from qp2train.qupath.geojson import read_geojson
from qp2train.qupath.project import Project
from qp2train.recipe import load_recipe
from qp2train.report.figures import learning_curves, prediction_over_truth
from qp2train.runs import predict_project, prediction_settings, sample, train
from qp2train.sample.project import make_project, project_folder, truth_file

HELD_OUT = "P03"
RECIPE = """\
# Glands, tumour and stroma of the sample project; about two minutes of training on two CPU cores.
project: sample/project
out: runs/glands
labels:
  classes: [Gland, Tumor, Stroma]
sample:
  size: 160
  mpp: 2.0
  per_class: 160
  seed: {seed}
split:
  by: patient
  fractions: [1.0]              # both annotated patients are learnt from; the third has no annotation
model:
  arch: unet
  encoder: resnet18
  encoder_weights: null         # from scratch: no download
  options: {{encoder_depth: 4, decoder_channels: [128, 64, 32, 16]}}
fit:
  epochs: 4
  batch_size: 12
  lr: 0.002
  ema: 0.98
  seed: {seed}
predict:
  overlap: 0.5
vectorise:
  min_area_um2: 100
"""


def run_demo(out: str | Path, *, seed: int = 0) -> Iterator[str]:
    """Run the demo into a new folder; yields a line of text for each thing done.

    Raises:
        ProjectError: The folder exists and holds something else than an earlier demo.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / "recipe.yaml").is_file():
        raise ProjectError(f"{out} holds other files; give a new folder: qp2train demo --out another")
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def since() -> str:
        return f"[{time.monotonic() - began:4.0f} s]"

    yield f"{since()} drawing four slides of three patients, and their QuPath project"
    make_project(out / "sample", seed=seed, overwrite=True)
    (out / "recipe.yaml").write_text(RECIPE.format(seed=seed), encoding="utf-8")
    recipe = load_recipe(out / "recipe.yaml")
    table = sample(recipe)
    contact_sheet_of(table).savefig(out / "patches.png", dpi=110)
    counts = ", ".join(f"{n} {name}" for name, n in table.rows["label"].value_counts().items())
    yield f"{since()} {len(table)} patches of {table.size_px} px at {table.mpp:g} µm/px: {counts}  (patches.png)"
    model = train(recipe, table)
    learning_curves(model.about["history"]).savefig(out / "learning.png", dpi=110)
    yield f"{since()} trained {model.id}  ({recipe.out / 'model'})"
    project = Project(project_folder(out / "sample"))
    held_out = [e for e in project if e.metadata["patient"] == HELD_OUT]
    settings = prediction_settings(recipe.out)
    for outcome in predict_project(
        model,
        project,
        entries=held_out,
        write=True,
        predict_args=settings["predict"],
        vectorise_args=settings["vectorise"],
    ):
        if outcome.error is not None:
            raise outcome.error
        entry = project[outcome.entry.id]
        yield f"{since()} {outcome.report}"
        # Scored from what stands in the project now, as QuPath will show it.
        predicted = [a for a in entry.annotations() if a.source == model.id]
        truth = read_geojson(truth_file(out / "sample", entry.name))
        with entry.slide() as slide:
            box = Box(0, 0, *slide.size)
            scores = compare(predicted, truth, model.labels, box=box, downsample=2)
            figure = prediction_over_truth(
                slide.thumbnail(1600),
                predicted,
                [a for a in truth if model.labels.name_of(a.class_name)],
                box=box,
                colors=project.classes,
                title=f"{entry.name}, held out",
            )
        figure.savefig(out / "prediction.png", dpi=150)
        each = ", ".join(f"{name} {scores.dice()[name]:.3f}" for name in model.labels.classes)
        yield f"{since()} held-out Dice of {entry.name}: {scores.mean_dice():.3f} ({each})"
    yield f"{since()} pictures: {out / 'prediction.png'}, {out / 'patches.png'}, {out / 'learning.png'}"
    yield (
        "To look at it in QuPath: File > Project > Open project, choose "
        f"{project.file}, and double-click {held_out[0].name}; the predictions are ordinary annotations."
    )
    yield f"To take them out again: qp2train clear {project.path} --source {model.id}"
