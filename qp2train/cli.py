"""The command line: one verb per station of the way, each thin over the Python API."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from qp2train.errors import Qp2trainError
from qp2train.qupath.folder import FolderEntry

if TYPE_CHECKING:
    import pandas as pd

    from qp2train.qupath.entry import ImageEntry

console = Console()
INTERRUPTED = 130  # what typer exits with after Ctrl-C
app = typer.Typer(
    help="From a QuPath project to a trained model, and its predictions back into the project.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ProjectArgument = Annotated[Path, typer.Argument(help="Project folder, .qpproj, or a folder of slides with GeoJSON.")]
RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
RunArgument = Annotated[Path, typer.Argument(help="The run folder, or a model folder.")]
Roots = Annotated[list[Path] | None, typer.Option("--image-root", help="Where moved slides are looked for.")]
Objects = Literal["annotation", "detection", "tile"]
Backend = Literal["java-free", "paquo"]
Place = Literal["root", "enclosing"]
How = Literal["replace", "add", "dry-run"]
Format = Literal["png", "coco", "yolo", "zarr", "webdataset", "clam", "trident"]
Map = Annotated[list[str] | None, typer.Option("--map", help="OLD=NEW: where a folder or slide was, and is.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Replace a setting: section.key=value.")]


@app.callback()
def _setup(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_time=False)],
        force=True,
    )


@app.command(epilog="Example: [bold]qp2train info liver/project.qpproj --image-root /mnt/slides[/]")
def info(
    project: ProjectArgument,
    image_root: Roots = None,
    map_: Map = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there is a problem.")] = False,
    open_slides: Annotated[bool, typer.Option("--open/--no-open", help="Open each slide to see if it can be.")] = True,
    backend: Annotated[Backend, typer.Option(help="What reads the annotations; paquo = an installed QuPath.")] = (
        "java-free"
    ),
) -> None:
    """The check-up to run first: slides found and missing, classes and areas, what is wrong, what would be learnt."""
    from qp2train.infotext import render
    from qp2train.qupath.checkup import check
    from qp2train.qupath.open import open_project
    from qp2train.qupath.project import Project

    opened = open_project(project, image_roots=image_root or [], uri_map=_pairs(map_), backend=backend)
    found = ""
    if backend == "paquo":
        from qp2train.qupath.bridge import describe

        found = f"read by {describe()}"
    logging.getLogger("qp2train.qupath").setLevel(logging.ERROR)  # what they say is among the findings
    with _progress("images") as update:
        result = check(opened, open_slides=open_slides, progress=update)
    if as_json:
        said = {**result.to_dict(), "backend": found or backend}
        sys.stdout.write(json.dumps(said, indent=2, ensure_ascii=not _in_utf8()) + "\n")
    else:
        console.print(render(result, colors=opened.classes if isinstance(opened, Project) else {}, backend=found))
    if strict and any(finding.severity == "problem" for finding in result.findings):
        raise typer.Exit(1)


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
    format: Annotated[Format, typer.Option(help="What --export writes.")] = "png",
) -> None:
    """Choose patches as a recipe says; print how many per class and split."""
    from qp2train import runs
    from qp2train.recipe import load_recipe
    from qp2train.sampling.patchtiles import PATCH_SOURCE

    if preview is not None:
        _check_picture(preview)
    if mode != "replace" and not tiles:
        raise typer.BadParameter(f"{mode!r} says how tiles are written: add --tiles", param_hint="--mode")
    if export is not None:
        from qp2train.sampling.export import check_export, export_patches

        check_export(export, format=format)  # before a long wait
    with _progress("slides") as update:
        asked = load_recipe(recipe, set_ or [])
        table = runs.sample(asked, progress=update)
    _print_counts(table.counts(), repr(table))
    if out is not None:
        written = table.to_csv(out) if out.suffix.lower() == ".csv" else table.save(out)
        console.print(f"patches: {written}", markup=False, soft_wrap=True)
    if preview is not None:
        from qp2train.preview import save_preview

        sheet, where = save_preview(table, preview)
        _say(f"contact sheet: {sheet}")
        _say(f"slide map: {where}")
    if tiles:
        for report in runs.write_patches(asked, table, mode=mode):
            _say(str(report))
            if mode == "dry-run":
                _say(indent(report.difference(), "  "))
        if mode != "dry-run":
            _say(f"to take the tiles out: qp2train clear {asked.project} --source {PATCH_SOURCE}")
    if export is not None:
        with _progress("patches") as update:
            export_patches(table, export, format=format, progress=update)
        console.print(f"{format}: {export}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: [bold]qp2train train recipe.yaml --set fit.epochs=5[/]")
def train(recipe: RecipeArgument, set_: Set = None) -> None:
    """Sample, split and train as a recipe says; print the scores on the held-out patches."""
    from qp2train import runs
    from qp2train.recipe import load_recipe

    asked = load_recipe(recipe, set_ or [])
    with _progress("slides") as update:
        table = runs.sample(asked, progress=update)
    _print_counts(table.counts(), repr(table))
    model = runs.train(asked, table)
    console.print(f"model [bold]{escape(model.id)}[/] in {escape(str(asked.out))}", soft_wrap=True)
    for split in ("val", "test"):
        if (table.rows["split"] == split).any():
            _print_frame(runs.evaluate_run(asked.out, split).table(), f"Dice, {split}")


@app.command(epilog="Example: [bold]qp2train evaluate runs/tumor --split test[/]")
def evaluate(
    run: RunArgument, split: Annotated[str, typer.Option(help="Which patches: train, val or test.")] = "test"
) -> None:
    """Score a run's model on its held-out patches: Dice per class and patient."""
    from qp2train import runs

    _print_frame(runs.evaluate_run(run, split).table(), f"Dice, {split}")


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
        chosen = [e for e in chosen if all(a.source is not None for a in e.annotations())]
    settings = runs.prediction_settings(run, set_ or [])
    if objects in ("annotation", "detection"):
        settings["vectorise"]["kind"] = objects
    write = write or mode == "dry-run"
    failed = 0
    with _progress("windows") as update:
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
            _say(f"{outcome.entry.name}: {said}")
            if outcome.report is not None:
                _say(f"  {outcome.report}")
                if mode == "dry-run":
                    _say(indent(outcome.report.difference(), "  "))
            if outcome.file is not None:
                _say(f"  {outcome.file}")
    written = write and mode != "dry-run"
    older = {a.source for e in chosen for a in e.annotations("all")} - {None, model.id} if written else set()
    if older:
        _say(f"these images also hold predictions of {', '.join(sorted(map(str, older)))}")
        _say(f"to take them out: qp2train clear {project} --source NAME")
    if not write and geojson is None:
        console.print("nothing was written: add --write (into the project) or --geojson FOLDER")
    if failed:
        console.print(f"[red]{failed} of {len(chosen)} images failed[/]; the others are done")
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]qp2train tissue liver/project.qpproj --pen --write[/]")
def tissue(
    project: ProjectArgument,
    write: Annotated[bool, typer.Option("--write", help="Write the outlines into the project.")] = False,
    class_name: Annotated[str, typer.Option("--class", help="The class that the outlines get.")] = "Tissue",
    pen: Annotated[bool, typer.Option("--pen", help="Leave out what a pen has marked.")] = False,
    folds: Annotated[bool, typer.Option("--folds", help="Leave out folds of the section.")] = False,
    min_area_um2: Annotated[float, typer.Option(help="Smaller pieces are left out, smaller holes filled.")] = 50_000.0,
    image: Annotated[list[str] | None, typer.Option(help="Only this image (id or name); may be repeated.")] = None,
    image_root: Roots = None,
) -> None:
    """Outline the tissue of a project's images, an annotation per piece; without [bold]--write[/] only show it.

    Writing again replaces the outlines, except those that were edited in QuPath.
    """
    from qp2train import runs
    from qp2train.infer.vectorise import AREA
    from qp2train.qupath.open import open_project

    opened = open_project(project, image_roots=image_root or [])
    chosen: list[ImageEntry | FolderEntry] = [opened[i] for i in image] if image else [*opened]
    failed = 0
    with _progress("images") as update:
        for outcome in runs.find_tissue(
            opened,
            entries=chosen,
            write=write,
            class_name=class_name,
            pen=pen,
            folds=folds,
            min_area_um2=min_area_um2,
            progress=update,
        ):
            if outcome.error is not None:
                failed += 1
                console.print(f"[red]failed[/] {escape(f'{outcome.entry.name}: {outcome.error}')}", soft_wrap=True)
                continue
            area = sum(a.measurements[AREA] for a in outcome.annotations) / 1e6
            _say(f"{outcome.entry.name}: {len(outcome.annotations)} × {class_name}, {area:.2f} mm²")
            _say(f"  {outcome.report}")
    if write:
        _say(f"to take the outlines out: qp2train clear {project} --source {runs.TISSUE_SOURCE}")
    else:
        _say("nothing was written: add --write")
    if failed:
        console.print(f"[red]{failed} of {len(chosen)} images failed[/]; the others are done")
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]qp2train clear liver/project.qpproj --source tumor-1a2b3c4d[/]")
def clear(
    project: ProjectArgument,
    source: Annotated[str, typer.Option(help="The model's id, as `info` and `predict` show it.")],
    edited: Annotated[bool, typer.Option("--edited", help="Remove also what was edited in QuPath since.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Take one model's objects out of a project; everything else stays as it is, to the byte."""
    from qp2train.qupath.open import open_project
    from qp2train.qupath.project import Project

    opened = open_project(project)
    if isinstance(opened, Project):
        reports = opened.clear(source=source, edited=edited, dry_run=dry_run)
    elif dry_run or edited:
        raise typer.BadParameter("a folder of slides has neither --dry-run nor --edited: each model has its own file")
    else:
        reports = opened.clear(source=source)
    for report in reports:
        _say(str(report))
        if dry_run:
            _say(indent(report.difference(), "  "))
    if not reports:
        found = sorted({a.source for e in opened for a in e.annotations("all") if a.source is not None})
        _say(f"no object of {source!r}; the project has objects of: {', '.join(found) or 'no model'}")
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]qp2train relink liver/project.qpproj --map D:/slides=/data/slides --write[/]")
def relink(
    project: Annotated[Path, typer.Argument(help="Project folder or .qpproj.")],
    image_root: Roots = None,
    map_: Map = None,
    write: Annotated[bool, typer.Option("--write", help="Write the new places into the project.")] = False,
) -> None:
    """Find slides that have moved, and write where they are into the project, as QuPath's "Update URIs" does."""
    from qp2train.qupath.project import Project

    opened = Project(project, image_roots=image_root or [], uri_map=_pairs(map_))
    changed = opened.relink(dry_run=not write)
    for one in changed:
        _say(f"{one.name}: {one.old}\n  -> {one.new} ({one.how})")
    missing = [at for at in opened.located() if at.path is None]
    for at in missing:
        _say(f"{at.name}: {at.uri} not found; looked in {'; '.join(at.looked) or 'nowhere'}")
    done = "written into the project" if write else "found; nothing was written: add --write"
    _say(f"{len(changed)} moved, {done}; {len(missing)} missing")
    if missing:
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
        _say(line)


def main() -> None:
    """Run the command line; errors of ours and of the file system are one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe in Windows' own encoding has no letter for every class name
            stream.reconfigure(errors="backslashreplace")
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app(standalone_mode=True)
    except Qp2trainError as error:
        stderr.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(1)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        stderr.print(f"[red]error:[/] {escape(said)}")
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            stderr.print("stopped; what was being written has been left as it was")
        raise


def _in_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def _pairs(texts: list[str] | None) -> dict[str, str]:
    """OLD=NEW → {OLD: NEW}."""
    pairs = [text.partition("=") for text in texts or []]
    wrong = ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r}: write OLD=NEW", param_hint="--map")
    return {old: new for old, _, new in pairs}


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar fed with (name, done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(name: str, done: int, total: int) -> None:
            bar.update(task, description=escape(name), completed=done, total=total)

        yield update


def _say(line: str) -> None:
    """A line as it is: names and paths may hold what rich takes for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _check_picture(path: Path) -> None:
    """Refuse what matplotlib cannot write before there is a long wait for it."""
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise typer.BadParameter(f"{path}: a picture's name ends in .png, .jpg, .pdf or .svg", param_hint="--preview")


def _print_counts(counts: pd.DataFrame, title: str) -> None:
    console.print(title, highlight=False, soft_wrap=True)
    table = Table("class", *(Column(escape(str(split)), justify="right") for split in counts.columns))
    for name, row in counts.iterrows():
        table.add_row(escape(str(name)), *(str(v) for v in row))
    console.print(table)


def _print_frame(frame: pd.DataFrame, title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in frame.columns:
        table.add_column(escape(str(column)), justify="right")
    for name, row in frame.iterrows():
        table.add_row(escape(str(name)), *("–" if v != v else f"{v:.3f}" for v in row))
    console.print(table)
