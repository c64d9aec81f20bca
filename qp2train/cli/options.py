"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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


def pairs(texts: list[str] | None) -> dict[str, str]:
    """OLD=NEW → {OLD: NEW}."""
    pairs = [text.partition("=") for text in texts or []]
    wrong = ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r}: write OLD=NEW", param_hint="--map")
    return {old: new for old, _, new in pairs}


def check_table(path: Path) -> None:
    """Refuse what would not be a patch table, before there is a long wait for it."""
    if path.suffix.lower() not in (".parquet", ".csv") or path.is_dir():
        raise typer.BadParameter(f"{path}: a patch table is a file .parquet, or .csv for QuPath", param_hint="--out")


def check_picture(path: Path) -> None:
    """Refuse what matplotlib cannot write before there is a long wait for it."""
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise typer.BadParameter(f"{path}: a picture's name ends in .png, .jpg, .pdf or .svg", param_hint="--preview")
