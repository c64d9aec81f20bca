"""Runs: a recipe becomes a run folder, and a run predicts a project, image by image.

RUN/
  recipe.yaml                     what was asked for, overrides included
  patches.parquet                 every patch with its split
  patches.annotations.parquet     a snapshot of the annotations
  model/                          model.json, weights.safetensors
  logs/                           learning curves: metrics.csv, TensorBoard
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from qp2train.core.annotation import Annotation
from qp2train.core.labels import LabelMap
from qp2train.core.leakage import Parts, leaks, report
from qp2train.core.patches import PatchTable
from qp2train.errors import LabelError, ProjectError, Qp2trainError, RecipeError, SplitError
from qp2train.infer.crossval import Comparison, compare_evaluations
from qp2train.infer.evaluate import evaluate, fit_temperature
from qp2train.infer.evaluation import Evaluation
from qp2train.infer.predict import predict
from qp2train.infer.tiles import tiles
from qp2train.infer.vectorise import AREA, vectorise
from qp2train.learn.card import write_card
from qp2train.learn.fit import fit
from qp2train.learn.hardware import first_process
from qp2train.learn.models import Model, Spec
from qp2train.learn.objects import objects_of
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.folder import FolderEntry, SlideFolder
from qp2train.qupath.geojson import write_geojson
from qp2train.qupath.open import open_project
from qp2train.qupath.placing import Under
from qp2train.qupath.project import Project
from qp2train.qupath.writereport import Mode, WriteReport
from qp2train.recipe import NETWORKS, Recipe, checked_arguments, override, read_yaml
from qp2train.refine.evaluation import PromptEvaluation, evaluate_prompts
from qp2train.sampling.images import Progress
from qp2train.sampling.leakage import check_leakage
from qp2train.sampling.patchtiles import PATCH_SOURCE, patch_tiles
from qp2train.sampling.plan import sample_patches
from qp2train.slides.tissue import tissue_regions

log = logging.getLogger(__name__)

# What outlines of tissue carry as their source, beside the models' ids.
TISSUE_SOURCE = "qp2train-tissue"
RECIPE, TABLE, MODEL, EVALUATION = "recipe.yaml", "patches.parquet", "model", "evaluation"


def sample(recipe: Recipe, *, progress: Progress | None = None) -> PatchTable:
    """The patches that a recipe asks for, each with its split. Without a `split` section all are for training.

    What may leak between the parts is logged, see `check_leakage`.
    """
    table = all_patches(recipe, progress=progress)
    if "split" not in recipe.sections:
        return replace(table, rows=table.rows.assign(split="train", group=table.rows["entry"]))
    table = joined(table.split(**recipe["split"]))
    check_leakage(table)
    return table


def all_patches(recipe: Recipe, *, progress: Progress | None = None) -> PatchTable:
    """The patches that a recipe asks for, not yet divided."""
    project = open_project(recipe.project, image_roots=recipe.image_roots)
    return sample_patches(project, recipe.labels, **recipe["sample"], progress=progress)


def write_patches(recipe: Recipe, table: PatchTable, *, mode: Mode = "replace") -> Iterator[WriteReport]:
    """Write patches into the recipe's project as tile objects, image by image; they replace those written before.

    Their source is "qp2train-patches"; `Project.clear(source="qp2train-patches")` takes them out.

    Args:
        recipe: Where the project is.
        table: The patches.
        mode: As `Project.write`.
    """
    project = open_project(recipe.project, image_roots=recipe.image_roots)
    labels = table.labels.with_colors(getattr(project, "classes", {}))
    how: dict[str, Any] = {"source": PATCH_SOURCE, "mode": mode, "colors": {n: labels.color(n) for n in labels.classes}}
    others = {entry.id for entry in project} if mode != "add" else set()
    for entry, found in patch_tiles(table):
        others.discard(entry)
        yield project.write(entry, found, **how)
    for entry in sorted(others):  # sampled before, and not now
        if any(a.source == PATCH_SOURCE for a in project[entry].annotations("all")):
            yield project.write(entry, [], **how)


def train(recipe: Recipe, table: PatchTable, *, progress: bool = True) -> Model:
    """Train as a recipe says on the patches that `sample` chose, into the recipe's run folder.

    Raises:
        SplitError: A patient or slide is in several parts of the table, and this was not asked for.
    """
    report(leak for leak in leaks(Parts.of([table])) if leak.certain)
    if recipe.task == "prompted":  # what could not be scored after hours is said before
        for part in dict.fromkeys(table.rows["split"]):
            objects_of(table.select(part), part=part)
    val = table.select("val")
    arguments = {"out": recipe.out, "progress": progress, **recipe["fit"]}
    model = fit(network(recipe, table.labels), table.select("train"), val if len(val) else None, **arguments)
    if not first_process():  # the others have helped, and write nothing
        return model
    shutil.rmtree(recipe.out / EVALUATION, ignore_errors=True)  # what is there was of an older model
    if len(val) and recipe.task != "prompted":  # which gives outlines, and no probabilities to be right about
        model = fit_temperature(model, val)
        write_card(model, model.save(recipe.out / MODEL))
    table.save(recipe.out / TABLE)
    (recipe.out / RECIPE).write_text(recipe.text, encoding="utf-8")
    return model


def network(recipe: Recipe, labels: LabelMap) -> Spec:
    """The network that a recipe asks for, not yet trained."""
    return NETWORKS[recipe.task](labels, **recipe["model"])


def prediction_settings(run: str | Path, overrides: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """The checked `predict` and `vectorise` settings of a run's recipe, if it has one, with overrides.

    Raises:
        RecipeError: An override of another section, an unknown key or a wrong type, or a damaged recipe.
    """
    file = run_folder(run) / RECIPE
    data = read_yaml(file) if file.is_file() else {}
    settings = {section: data.get(section) or {} for section in ("predict", "vectorise")}
    for text in overrides:
        override(settings, text)
    unknown = sorted(set(settings) - {"predict", "vectorise"})
    if unknown:
        raise RecipeError(f"--set {unknown[0]}…: prediction has the sections predict and vectorise")
    return {section: checked_arguments(section, given) for section, given in settings.items()}


def evaluate_run(run: str | Path, split: str) -> Evaluation | PromptEvaluation:
    """Score a run's model on the patches of one of its splits, and keep that in RUN/evaluation/SPLIT.

    Raises:
        SplitError: The run has no patch of that split.
    """
    model = Model.load(run)
    table = PatchTable.load(run_folder(run) / TABLE)
    part = table.select(split)
    if len(part) == 0:
        there = ", ".join(sorted(set(table.rows["split"])))
        raise SplitError(f"{run} has no patches of the split {split!r}; it has: {there}")
    found = evaluate_prompts(model, part) if model.task == "prompted" else evaluate(model, part)
    folder = run_folder(run)
    found.save(evaluation_folder(folder, split))
    if split == "test" and (folder / MODEL).is_dir():
        write_card(model, folder / MODEL, found.to_dict())
    return found


def evaluation_folder(run: str | Path, split: str) -> Path:
    """Where a run keeps an evaluation: metrics.json and counts.npz."""
    return Path(run) / EVALUATION / split


def compare_runs(a: str | Path, b: str | Path, *, split: str | None = None, metric: str = "dice") -> Comparison:
    """Is run `b` better than run `a`? Both were scored on the same patches; see `compare_evaluations`.

    Args:
        a: A run.
        b: Another one.
        split: Which evaluation; None = "cross-validation" where both have it, else "test".
        metric: As `compare_evaluations`.

    Raises:
        EvaluationError: A run has no such evaluation, or they are not of the same patches.
    """
    runs = [run_folder(a), run_folder(b)]
    if split is None:
        split = "cross-validation" if all(evaluation_folder(r, "cross-validation").is_dir() for r in runs) else "test"
    first, second = (Evaluation.load(evaluation_folder(r, split)) for r in runs)
    names = (runs[0].name, runs[1].name) if runs[0].name != runs[1].name else (str(runs[0]), str(runs[1]))
    return compare_evaluations(first, second, metric=metric, names=names)


def run_folder(given: str | Path) -> Path:
    """The run's folder, also where its `model` folder was given."""
    folder = Path(given).absolute()
    return folder.parent if folder.name == MODEL and (folder.parent / RECIPE).is_file() else Path(given)


@dataclass(frozen=True)
class Outcome:
    """What became of one image: its annotations and the report of writing them, or what went wrong."""

    entry: ImageEntry | FolderEntry
    annotations: Sequence[Annotation] = ()
    report: WriteReport | None = None
    file: Path | None = None
    error: Qp2trainError | None = None


def predict_project(
    model: Model,
    project: Project | SlideFolder,
    *,
    entries: Iterable[ImageEntry | FolderEntry] | None = None,
    write: bool = False,
    mode: Mode = "replace",
    under: Under = "root",
    merge: bool = False,
    geojson: str | Path | None = None,
    tile_um: float | None = None,
    predict_args: Mapping[str, Any] | None = None,
    vectorise_args: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Outcome]:
    """Predict images one after the other; one that fails is reported, and the others still come.

    Args:
        model: A trained model.
        project: Where the images are, and where predictions are written.
        entries: Which images; None = all.
        write: Write into the project.
        mode: As `Project.write`: in place of what this model wrote there before, beside it, or only a report.
        under: As `Project.write`: directly under the image, or under the annotation round a prediction.
        merge: As `Project.write`: also into entries that changed since they were read.
        geojson: A folder for one GeoJSON file per image.
        tile_um: Write tiles of this side with class probabilities (a heatmap in QuPath) instead of outlines.
        predict_args: Of `predict`.
        vectorise_args: Of `vectorise`.
        progress: Called with (image name, windows done, windows in all).
    """
    colors = {n: model.labels.with_colors(getattr(project, "classes", {})).color(n) for n in model.labels.classes}
    if not isinstance(project, Project) and (under != "root" or merge):
        raise ProjectError(f"{project.path} is a folder of GeoJSON files: under= and merge= are for QuPath projects")
    for entry in project if entries is None else entries:
        try:
            found = _predicted(model, entry, tile_um, predict_args or {}, vectorise_args or {}, progress)
            report, file = None, None
            if geojson is not None:
                file = Path(geojson) / f"{entry.id}-{Path(entry.name).stem}.geojson"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_geojson(file, [replace(a, source=model.id) for a in found], colors=colors)
            if write and isinstance(project, Project):
                report = project.write(
                    entry.id, found, source=model.id, colors=colors, mode=mode, under=under, merge=merge
                )
            elif write:
                report = project.write(entry.id, found, source=model.id, colors=colors, mode=mode)
            yield Outcome(entry, found, report, file)
        except Qp2trainError as error:
            log.info("%s: %s", entry.name, error)  # the caller has it in the outcome
            yield Outcome(entry, error=error)


def find_tissue(
    project: Project | SlideFolder,
    *,
    entries: Iterable[ImageEntry | FolderEntry] | None = None,
    write: bool = False,
    class_name: str = "Tissue",
    pen: bool = False,
    folds: bool = False,
    min_area_um2: float = 50_000.0,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Outline the tissue of images, an annotation per piece, so that each can be corrected or deleted by itself.

    Their source is "qp2train-tissue": finding again replaces them, but not those that were edited in QuPath, and
    `Project.clear(source="qp2train-tissue")` takes them out. An image that fails is reported; the others still come.

    Args:
        project: Where the images are, and where the outlines are written.
        entries: Which images; None = all.
        write: Write into the project; otherwise the report says what would be written.
        class_name: The annotations' class.
        pen: As `tissue_regions`.
        folds: As `tissue_regions`.
        min_area_um2: As `tissue_regions`.
        progress: Called with (image name, images done, images in all).

    Raises:
        LabelError: The class has no name.
    """
    if not class_name.strip():
        raise LabelError("the class of tissue outlines must have a name")
    chosen = list(project if entries is None else entries)
    for done, entry in enumerate(chosen):
        if progress is not None:
            progress(entry.name, done, len(chosen))
        try:
            slide = entry.slide()
            try:
                pieces = tissue_regions(slide, min_area_um2=min_area_um2, pen=pen, folds=folds)
                um2 = slide.mpp**2
            finally:
                slide.close()
            found = [Annotation(p, class_name, measurements={AREA: round(p.area * um2, 1)}) for p in pieces]
            mode: Mode = "replace" if write else "dry-run"
            report = project.write(entry.id, found, source=TISSUE_SOURCE, mode=mode)
            yield Outcome(entry, found, report)
        except Qp2trainError as error:
            log.info("%s: %s", entry.name, error)  # the caller has it in the outcome
            yield Outcome(entry, error=error)


def _predicted(
    model: Model,
    entry: ImageEntry | FolderEntry,
    tile_um: float | None,
    predict_args: Mapping[str, Any],
    vectorise_args: Mapping[str, Any],
    progress: Callable[[str, int, int], None] | None,
) -> list[Annotation]:
    def said(done: int, total: int) -> None:
        if progress is not None:
            progress(entry.name, done, total)

    slide = entry.slide()
    try:
        scores = predict(model, slide, progress=said, **predict_args)
    finally:
        slide.close()
    return vectorise(scores, **vectorise_args) if tile_um is None else tiles(scores, size_um=tile_um)


def joined(parts: Sequence[PatchTable]) -> PatchTable:
    """Tables of one sampling as one table."""
    return replace(parts[0], rows=pd.concat([p.rows for p in parts], ignore_index=True))
