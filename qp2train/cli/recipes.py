"""Verbs on the way from a recipe to predictions: sample, train, evaluate, predict; and the demo of all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from qp2train.cli.app import app
from qp2train.cli.options import (
    Format,
    How,
    Objects,
    Place,
    ProjectArgument,
    RecipeArgument,
    Roots,
    RunArgument,
    Set,
    check_picture,
    check_table,
)
from qp2train.cli.show import console, print_counts, print_frame, progress, say

if TYPE_CHECKING:
    from qp2train.infer.evaluation import Evaluation
    from qp2train.qupath.entry import ImageEntry
    from qp2train.qupath.folder import FolderEntry
    from qp2train.refine.evaluation import PromptEvaluation


@app.command(epilog="Example: [bold]qp2train sample recipe.yaml --out patches.parquet --preview patches.png[/]")
def sample(
    recipe: RecipeArgument,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Write the patch table here: Parquet, or .csv for QuPath.")] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of patches and masks here, and X_map.png beside X.png.")
    ] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Write the patches into the project as tiles, in place of earlier ones.")
    ] = False,
    mode: Annotated[How, typer.Option(help="Of --tiles: replace earlier ones, add, or only show.")] = "replace",
    export: Annotated[
        Path | None, typer.Option(help="Write patches and masks for other tools into this folder.")
    ] = None,
    format: Annotated[Format | None, typer.Option(help="What --export writes; png if not given.")] = None,
) -> None:
    """Choose patches as a recipe says; print how many per class and split."""
    from qp2train import runs
    from qp2train.recipe import load_recipe
    from qp2train.sampling.patchtiles import PATCH_SOURCE

    if preview is not None:
        check_picture(preview)
    if mode != "replace" and not tiles:
        raise typer.BadParameter(f"{mode!r} says how tiles are written: add --tiles", param_hint="--mode")
    if out is not None:
        check_table(out)
    if format is not None and export is None:
        raise typer.BadParameter(f"{format!r} says what is exported: add --export FOLDER", param_hint="--format")
    if export is not None:
        from qp2train.sampling.export import check_export, export_patches

        check_export(export, format=format or "png")  # before a long wait
    with progress("slides") as update:
        asked = load_recipe(recipe, set_ or [])
        table = runs.sample(asked, progress=update)
    print_counts(table.counts(), repr(table))
    if left_out := [f"{n} × {fault}" for fault, n in table.rejected.items() if n]:
        say(f"left out: {', '.join(left_out)}")
    if out is not None:
        written = table.to_csv(out) if out.suffix.lower() == ".csv" else table.save(out)
        say(f"patches: {written}")
    if preview is not None:
        from qp2train.preview import save_preview

        sheet, where = save_preview(table, preview)
        say(f"contact sheet: {sheet}")
        say(f"slide map: {where}")
    if tiles:
        for report in runs.write_patches(asked, table, mode=mode):
            say(str(report))
            if mode == "dry-run":
                say(indent(report.difference(), "  "))
        if mode != "dry-run":
            say(f"to take the tiles out: qp2train clear {asked.project} --source {PATCH_SOURCE}")
    if export is not None:
        with progress("patches") as update:
            export_patches(table, export, format=format or "png", progress=update)
        say(f"{format or 'png'}: {export}")


@app.command(epilog="Example: [bold]qp2train train recipe.yaml --set fit.epochs=5[/]")
def train(recipe: RecipeArgument, set_: Set = None) -> None:
    """Sample, split and train as a recipe says; print the scores on the held-out patches."""
    from qp2train import runs
    from qp2train.learn.hardware import first_process
    from qp2train.recipe import load_recipe
    from qp2train.reporting import write_report

    asked = load_recipe(recipe, set_ or [])
    with progress("slides") as update:
        table = runs.sample(asked, progress=update)
    if first_process():
        print_counts(table.counts(), repr(table))
    model = runs.train(asked, table)
    if not first_process():
        return
    console.print(f"model [bold]{escape(model.id)}[/] in {escape(str(asked.out))}", soft_wrap=True)
    held_out = [split for split in ("val", "test") if (table.rows["split"] == split).any()]
    for split in held_out:
        _print_scores(runs.evaluate_run(asked.out, split), split)
    if held_out:
        say(f"report: {write_report(asked.out, split=held_out[-1])}")


@app.command(epilog="Example: [bold]qp2train evaluate runs/tumor --split test[/]")
def evaluate(
    run: RunArgument, split: Annotated[str, typer.Option(help="Which patches: train, val or test.")] = "test"
) -> None:
    """Score a run's model on its held-out patches: Dice per class and patient; of prompts, how many clicks it takes."""
    from qp2train import runs

    _print_scores(runs.evaluate_run(run, split), split)


@app.command(epilog="Example: [bold]qp2train crossval recipe.yaml --folds 5[/]")
def crossval(
    recipe: RecipeArgument,
    folds: Annotated[int, typer.Option(min=2, help="Parts that the patients are divided into.")] = 5,
    set_: Set = None,
) -> None:
    """Train and score a recipe once per part of the patients, each time without that part.

    A stopped run goes on with the fold at which it was stopped.
    """
    from qp2train.crossval import POOLED
    from qp2train.crossval import crossval as run_folds
    from qp2train.recipe import load_recipe
    from qp2train.reporting import write_report

    def told(number: int, found: Evaluation) -> None:
        say(f"fold {number} of {folds}: {', '.join(found.patients)}: mean Dice {found.table()['mean'].iloc[-1]:.3f}")

    asked = load_recipe(recipe, set_ or [])
    with progress("slides") as update:
        pooled = run_folds(asked, folds=folds, progress=update, told=told, bar=False)
    print_frame(pooled.table(), "Dice of the held-out patients")
    for number in range(1, folds + 1):
        write_report(asked.out / f"fold-{number}")
    say(f"report with intervals over patients: {write_report(asked.out, split=POOLED)}; each fold has its own, too")


@app.command(epilog="Example: [bold]qp2train compare runs/unet runs/segformer --metric dice[/]")
def compare(
    first: RunArgument,
    second: RunArgument,
    split: Annotated[
        str | None, typer.Option(help="Which evaluation: test, val or cross-validation (if both have it).")
    ] = None,
    metric: Annotated[str, typer.Option(help="dice, iou, precision, recall, roc_auc, pr_auc, kappa, …")] = "dice",
) -> None:
    """Is the second run better than the first? Difference on the same patients, with interval and p-value."""
    from qp2train import runs

    found = runs.compare_runs(first, second, split=split, metric=metric)
    print_frame(found.table, f"{metric}, {found.patients} patients")
    say(found.sentence)


@app.command(epilog="Example: [bold]qp2train report runs/tumor[/]")
def report(
    run: RunArgument,
    split: Annotated[
        str | None,
        typer.Option(help="Which patches are scored: test or val; held-out of a fold. Default: what there is."),
    ] = None,
    slides: Annotated[int, typer.Option(min=0, help="How many whole slides are predicted for it.")] = 0,
) -> None:
    """Write RUN/report.html: scores with intervals, curves, pictures; one file, for people."""
    from qp2train import runs
    from qp2train.reporting.write import SPLITS, is_current, write_report

    folder = runs.run_folder(run)
    if not any(is_current(folder, known) for known in ([split] if split else SPLITS)):
        runs.evaluate_run(folder, split or "test")
    say(f"report: {write_report(folder, split=split or 'test', slides=slides)}")


@app.command(epilog="Example: [bold]qp2train predict runs/tumor liver/project.qpproj --write[/]")
def predict(
    run: RunArgument,
    project: ProjectArgument,
    write: Annotated[bool, typer.Option("--write", help="Write the predictions into the project.")] = False,
    geojson: Annotated[Path | None, typer.Option(help="Write a GeoJSON file per image into this folder.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="Only this image (id or name); may be repeated.")] = None,
    unannotated: Annotated[bool, typer.Option("--unannotated", help="Only images no human annotated.")] = False,
    objects: Annotated[
        Objects | None, typer.Option("--as", help="Editable annotations, detections (many, fast) or tiles (heatmap).")
    ] = None,
    tile_um: Annotated[float, typer.Option(help="Side of a tile, in µm.")] = 100.0,
    under: Annotated[Place, typer.Option(help="Directly under the image, or under the enclosing annotation.")] = "root",
    mode: Annotated[How, typer.Option(help="Replace this model's earlier objects, add, or only show.")] = "replace",
    merge: Annotated[bool, typer.Option("--merge", help="Write also if the image was saved meanwhile.")] = False,
    image_root: Roots = None,
    set_: Set = None,
) -> None:
    """Predict a project's images and write the predictions back as QuPath objects.

    Writing again replaces what this model wrote, except what was edited in QuPath; [bold]--mode dry-run[/] shows what
    would change. Settings of prediction are the run's recipe's; [bold]--set predict.tta=dihedral[/] or
    [bold]--set vectorise.min_area_um2=500[/] replaces them.
    """
    from qp2train import runs
    from qp2train.learn.models import load_model
    from qp2train.qupath.open import open_project

    model = load_model(run)
    opened = open_project(project, image_roots=image_root or [])
    chosen: list[ImageEntry | FolderEntry] = [opened[i] for i in image] if image else [*opened]
    if unannotated:
        chosen = [e for e in chosen if not any(a.drawn for a in e.annotations())]
    settings = runs.prediction_settings(run, set_ or [])
    if objects in ("annotation", "detection"):
        settings["vectorise"]["kind"] = objects
    write = write or mode == "dry-run"
    failed = 0
    with progress("windows") as update:
        outcomes = runs.predict_project(
            model,
            opened,
            entries=chosen,
            write=write,
            mode=mode,
            under=under,
            merge=merge,
            geojson=geojson,
            tile_um=tile_um if objects == "tile" else None,
            predict_args=settings["predict"],
            vectorise_args=settings["vectorise"],
            progress=update,
        )
        for outcome in outcomes:
            if outcome.error is not None:
                failed += 1
                console.print(f"[red]failed[/] {escape(f'{outcome.entry.name}: {outcome.error}')}", soft_wrap=True)
                continue
            counts = Counter(str(a.class_name) for a in outcome.annotations)
            said = ", ".join(f"{n} × {name}" for name, n in counts.items()) or "nothing"
            say(f"{outcome.entry.name}: {said}")
            if outcome.report is not None:
                say(f"  {outcome.report}")
                if mode == "dry-run":
                    say(indent(outcome.report.difference(), "  "))
            if outcome.file is not None:
                say(f"  {outcome.file}")
    written = write and mode != "dry-run"
    older = {a.source for e in chosen for a in e.annotations("all")} - {None, model.id} if written else set()
    if older:
        say(f"these images also hold predictions of {', '.join(sorted(map(str, older)))}")
        say(f"to take them out: qp2train clear {project} --source NAME")
    if not write and geojson is None:
        console.print("nothing was written: add --write (into the project) or --geojson FOLDER")
    if failed:
        console.print(f"[red]{failed} of {len(chosen)} images failed[/]; the others are done")
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]qp2train demo --out demo[/]")
def demo(
    out: Annotated[Path, typer.Option(help="A new folder for the sample project and what is made of it.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the drawn slides and of the training.")] = 0,
) -> None:
    """Draw a sample project, train on two patients, predict the third, write it back; about three minutes."""
    from qp2train.demo import run_demo

    for line in run_demo(out, seed=seed):
        say(line)


def _print_scores(found: Evaluation | PromptEvaluation, split: str) -> None:
    print_frame(found.table(), f"{found.title}, {split}")
