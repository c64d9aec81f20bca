"""Verbs about a project: info, tissue, clear, relink."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from qp2train.cli.app import app
from qp2train.cli.options import Backend, Map, ProjectArgument, Roots, pairs
from qp2train.cli.show import console, in_utf8, progress, say

if TYPE_CHECKING:
    from qp2train.qupath.entry import ImageEntry
    from qp2train.qupath.folder import FolderEntry


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

    opened = open_project(project, image_roots=image_root or [], uri_map=pairs(map_), backend=backend)
    found = ""
    if backend == "paquo":
        from qp2train.qupath.bridge import describe

        found = f"read by {describe()}"
    logging.getLogger("qp2train.qupath").setLevel(logging.ERROR)  # what they say is among the findings
    with progress("images") as update:
        result = check(opened, open_slides=open_slides, progress=update)
    if as_json:
        said = {**result.to_dict(), "backend": found or backend}
        sys.stdout.write(json.dumps(said, indent=2, ensure_ascii=not in_utf8()) + "\n")
    else:
        console.print(render(result, colors=opened.classes if isinstance(opened, Project) else {}, backend=found))
    if strict and any(finding.severity == "problem" for finding in result.findings):
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
    with progress("images") as update:
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
            say(f"{outcome.entry.name}: {len(outcome.annotations)} × {class_name}, {area:.2f} mm²")
            say(f"  {outcome.report}")
    if write:
        say(f"to take the outlines out: qp2train clear {project} --source {runs.TISSUE_SOURCE}")
    else:
        say("nothing was written: add --write")
    if failed:
        console.print(f"[red]{failed} of {len(chosen)} images failed[/]; the others are done")
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]qp2train refine liver/project.qpproj --from Gland --write[/]")
def refine(
    project: ProjectArgument,
    from_: Annotated[
        list[str] | None, typer.Option("--from", help="Areas of this class are rough outlines; may be repeated.")
    ] = None,
    corrected: Annotated[
        bool,
        typer.Option("--corrected", help="Predictions with a Prompt point are corrected, and give way to the answer."),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Better outlines take the place of your rough ones; clear brings those back."),
    ] = False,
    mpp: Annotated[
        float | None, typer.Option(help="Large objects are gone along in closer views of so many µm per pixel.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="A folder for one picture per image, before and after.")] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Of objects whose prompt does not say it, as 'Prompt+: Gland' does.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="What answers: a run with 'task: prompted', or a SAM's folder or checkpoint."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the outlines into the project.")] = False,
    image: Annotated[list[str] | None, typer.Option(help="Only this image (id or name); may be repeated.")] = None,
    image_root: Roots = None,
) -> None:
    """Outline what is prompted in a project: points [bold]Prompt+[/] and [bold]Prompt-[/], boxes [bold]Prompt box[/].

    What you drew stays, but for --replace; refining again replaces what was refined before. Without a model colours
    alone answer.
    """
    from qp2train.qupath.open import open_project
    from qp2train.refine.load import load_prompt_model
    from qp2train.refining import refine_project

    if replace and not from_:
        raise typer.BadParameter("say which outlines to replace: --from Gland", param_hint="--replace")

    opened = open_project(project, image_roots=image_root or [])
    chosen: list[ImageEntry | FolderEntry] = [opened[i] for i in image] if image else [*opened]
    failed, sources = 0, set[str]()
    answering = None if model is None else load_prompt_model(model)
    with progress("images") as update:
        for outcome in refine_project(
            opened,
            model=answering,
            entries=chosen,
            write=write,
            outlines=from_ or [],
            corrected=corrected,
            in_place=replace,
            class_name=class_name,
            mpp=mpp,
            pictures=pictures,
            progress=update,
        ):
            if outcome.report is None:
                failed += 1
                console.print(f"[red]failed[/] {escape(f'{outcome.entry.name}: {outcome.error}')}", soft_wrap=True)
                continue
            say(f"{outcome.entry.name}: {len(outcome.annotations)} outlined")
            say(f"  {outcome.report}")
            sources.add(outcome.report.source)
    for source in sorted(sources) if write else ():
        say(f"to take the outlines out: qp2train clear {project} --source {source}")
    if not write:
        say("nothing was written: add --write")
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
    """Take one model's objects out of a project; everything else stays as it is.

    What they had taken the place of, by refine --replace, comes back.
    """
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
        say(str(report))
        if dry_run:
            say(indent(report.difference(), "  "))
    if not reports:
        found = sorted({a.source for e in opened for a in e.annotations("all") if a.source is not None})
        say(f"no object of {source!r}; the project has objects of: {', '.join(found) or 'no model'}")
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

    opened = Project(project, image_roots=image_root or [], uri_map=pairs(map_))
    changed = opened.relink(dry_run=not write)
    for one in changed:
        say(f"{one.name}: {one.old}\n  -> {one.new} ({one.how})")
    missing = [at for at in opened.located() if at.path is None]
    for at in missing:
        say(f"{at.name}: {at.uri} not found; looked in {'; '.join(at.looked) or 'nowhere'}")
    done = "written into the project" if write else "found; nothing was written: add --write"
    say(f"{len(changed)} moved, {done}; {len(missing)} missing")
    if missing:
        raise typer.Exit(1)
