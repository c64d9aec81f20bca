"""write_report: a run folder in, its report.html out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from qp2train.core.patches import PatchTable
from qp2train.errors import ModelError, Qp2trainError
from qp2train.learn.models import Model
from qp2train.qupath.savefile import save
from qp2train.report.html import Facts, report_html
from qp2train.report.plots import DATA, METRICS
from qp2train.reporting.datacard import FORMAT, data_card
from qp2train.reporting.shots import Shots, patch_shots, slide_shots

log = logging.getLogger(__name__)

REPORT, RECIPE, TABLE = "report.html", "recipe.yaml", "patches.parquet"
MODEL, WEIGHTS = Path("model", "model.json"), Path("model", "weights.safetensors")
# Of a cross-validation, whose models are its folds'.
FOLD, POOLED, HELD_OUT = "fold-1", "cross-validation", "held-out"
# Which evaluation is shown, the first that is there.
SPLITS = ("test", POOLED, HELD_OUT, "val")


def write_report(
    run: str | Path, *, split: str = "test", patches: int = 4, slides: int = 0, device: str = "auto"
) -> Path:
    """Write RUN/report.html, one file that needs no other, and RUN/evaluation/SPLIT/data.json beside metrics.json.

    What the run does not have is left out, and the report says so: an evaluation, the recipe, slides that have moved.
    An older report is replaced whole, or not at all.

    Args:
        run: The run's folder.
        split: Which evaluation; where the run has none of "test", that of its cross-validation is shown, a fold's of
            what it held out, or that of "val", with a warning.
        patches: How many best, typical, worst and most uncertain patches are shown.
        slides: How many whole slides are predicted and shown, worst and best among them. Each takes as long as
            `predict`.
        device: "auto", "cpu", "cuda", …

    Returns:
        The report's path.

    Raises:
        ModelError: The folder holds no model.
        Qp2trainError: A file of the run is damaged, or the report could not be written.
    """
    folder = Path(run)
    if split == "test":
        split = next((s for s in SPLITS if is_current(folder, s)), split)
    pooled = split == POOLED and (folder / FOLD).is_dir()  # another model may lie beside the folds
    about = _model(folder, pooled=pooled)
    file = _evaluation(folder, split)
    metrics = _json(file) if is_current(folder, split) else None
    if metrics is None and file.is_file():
        log.warning("%s is of another model than the one that is there now, and is not shown: evaluate again", file)
    table = _table(folder) if not pooled else None
    data = {**(data_card(table) if table is not None else {"format": FORMAT}), "history": history(folder, about)}
    _replace(file.with_name(DATA), json.dumps(data, indent=1, ensure_ascii=False))
    shots = _shots(folder, metrics, table, patches=patches, slides=slides, device=device)
    recipe = folder / RECIPE
    facts = Facts(
        metrics,
        data,
        about,
        recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        datetime.fromtimestamp(file.stat().st_mtime).date().isoformat() if metrics is not None else "",
        shots.missing,
    )
    return _replace(folder / REPORT, report_html(facts, shots.pictures))


def is_current(run: str | Path, split: str) -> bool:
    """Whether a run holds an evaluation of this part, and it is of the model that is there now."""
    folder = Path(run)
    metrics = _json(_evaluation(folder, split))
    if metrics is None:
        return False
    if split == POOLED:
        models = [_json(f) or {} for f in sorted(folder.glob(f"fold-*/{MODEL}"))]
        return set(str(metrics.get("model")).split(", ")) <= {str(m.get("id")) for m in models}
    return metrics.get("model") == (_json(folder / MODEL) or {}).get("id")


def history(folder: Path, about: Mapping[str, Any]) -> list[dict[str, float]]:
    """Per epoch what logs/metrics.csv holds, the last value of each; without the file, what the model remembers."""
    file = folder / "logs" / "metrics.csv"
    if not file.is_file():
        return [dict(row) for row in (about.get("about") or {}).get("history") or ()]
    try:
        rows = pd.read_csv(file)
    except (ValueError, OSError) as error:  # the former: pandas' parser
        raise Qp2trainError(f"{file} is damaged: {error}; delete it to have a report without it") from error
    if "epoch" not in rows:
        return []
    each = rows.drop(columns="step", errors="ignore").groupby("epoch", as_index=False).last()
    each["epoch"] += 1  # Lightning counts from 0
    return [{str(k): v for k, v in row.items() if pd.notna(v)} for row in each.to_dict("records")]


def _shots(
    folder: Path, metrics: Mapping[str, Any] | None, table: PatchTable | None, *, patches: int, slides: int, device: str
) -> Shots:
    if metrics is None:
        return Shots((), ())
    if metrics.get("split") == POOLED:
        return Shots((), ("Pictures, data and learning curves of the folds are in the folds’ own reports.",))
    if metrics.get("task") == "prompted":
        return Shots((), ("There are no pictures: what a network for prompts answers depends on the prompt.",))
    lacking = [
        str(n) for n, there in ((TABLE, table is not None), (WEIGHTS, (folder / WEIGHTS).is_file())) if not there
    ]
    if table is None or lacking:
        return Shots((), (f"There are no pictures, as {lacking[0]} is missing in the run folder.",))
    if not patches and not slides:
        return Shots((), ())
    model = Model.load(folder)
    drawn = patch_shots(metrics, table, model, count=patches, device=device)
    whole = slide_shots(metrics, table, model, count=slides, device=device)
    return Shots([*drawn.pictures, *whole.pictures], [*drawn.missing, *whole.missing])


def _table(folder: Path) -> PatchTable | None:
    """The run's patches; None where they, or what was drawn on their slides, are missing."""
    file = folder / TABLE
    there = file.is_file() and file.with_suffix(".annotations.parquet").is_file()
    return PatchTable.load(file) if there else None


def _model(folder: Path, *, pooled: bool) -> dict[str, Any]:
    """model.json of the run; of a cross-validation that of a fold, under the run's name."""
    own, fold = _json(folder / MODEL), _json(folder / FOLD / MODEL)
    if own is None and fold is None:
        raise ModelError(f"{folder} is no run folder: {MODEL} is missing")
    if own is not None and not pooled:
        return own
    about = {k: v for k, v in ((fold or {}).get("about") or {}).items() if k not in ("history", "table", "data")}
    return {**(fold or {}), "id": f"{folder.absolute().name}, cross-validated", "about": about}


def _evaluation(folder: Path, split: str) -> Path:
    return folder / "evaluation" / split / METRICS


def _json(file: Path) -> dict[str, Any] | None:
    """None if there is no such file."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise Qp2trainError(f"{file} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise Qp2trainError(f"{file} is damaged: it holds no object")
    return data


def _replace(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save(file, text.encode())
    return file
