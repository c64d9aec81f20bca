"""Cross-validation of a recipe: every patient is held out once, and predicted by a model that never saw it.

RUN/
  recipe.yaml
  fold-1 … fold-k/                an ordinary run each, with evaluation/held-out/ and fold.json, written last
  evaluation/cross-validation/    metrics.json and counts.npz of all folds' held-out patches together
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from qp2train.core.patches import PatchTable
from qp2train.errors import EvaluationError, RecipeError, SplitError
from qp2train.infer.crossval import pool_folds
from qp2train.infer.evaluate import evaluate, fit_temperature
from qp2train.infer.evaluation import Evaluation
from qp2train.learn.card import write_card
from qp2train.learn.fit import fit
from qp2train.recipe import Recipe
from qp2train.runs import MODEL, RECIPE, TABLE, all_patches, evaluation_folder, joined, network
from qp2train.sampling.images import Progress
from qp2train.sampling.leakage import check_leakage

log = logging.getLogger(__name__)

HELD_OUT, POOLED, DONE = "held-out", "cross-validation", "fold.json"
FOLDED = ("by", "seed", "stratify")  # what a cross-validation uses of a recipe's split section
Told = Callable[[int, Evaluation], None]


def crossval(
    recipe: Recipe, *, folds: int = 5, progress: Progress | None = None, told: Told | None = None, bar: bool = True
) -> Evaluation:
    """Train and score a recipe `folds` times, each time without a part of the patients.

    Nothing of a fold's held-out patients chooses anything of its model: where the recipe keeps the best epoch, that is
    chosen on other patients, taken from the fold's training part. Folds that an earlier, stopped run finished with the
    same recipe and patches are not trained again.

    Args:
        recipe: What to train. Of its `split` section `by`, `seed` and `stratify` are used.
        folds: How many parts the patients are divided into; as many as there are patients = leave one out.
        progress: Called with (slide name, done, total) while patches are chosen.
        told: Called with a fold's number, from 1, and its evaluation.
        bar: Show a progress bar of each training.

    Returns:
        The held-out predictions of all folds as one evaluation, with intervals over all patients.

    Raises:
        SplitError: Fewer patients than folds, fewer than two folds, or a patient in several folds.
        RecipeError: The recipe is of prompts.
    """
    if recipe.task == "prompted":
        raise RecipeError("prompts are not cross-validated: train with a split, and evaluate on its test part")
    table = all_patches(recipe, progress=progress)
    how = {key: value for key, value in recipe["split"].items() if key in FOLDED}
    unused = sorted(set(recipe["split"]) - set(FOLDED))
    if unused:
        log.warning(
            "split.%s is not used: in a cross-validation every patient of the project is held out once. Patients that "
            "are to be kept for a last test must not be in the project",
            ", split.".join(unused),
        )
    found = []
    for number, (train, held_out) in enumerate(table.folds(folds, **how), start=1):
        check_leakage(train, held_out, pictures=number == 1)  # the looks of all slides are compared at once
        folder = recipe.out / f"fold-{number}"
        # Where things lie may change; what is trained, and whose tissue is in which part, may not.
        key = {
            "task": recipe.task,
            "sections": json.loads(json.dumps(recipe.sections, default=str)),
            "parts": [train.digest(), held_out.digest()],
        }
        evaluation = _finished(folder, key)
        if evaluation is None:
            (folder / DONE).unlink(missing_ok=True)
            evaluation = _fold(recipe, folder, train, held_out, how, bar=bar)
            (folder / DONE).write_text(json.dumps(key, indent=1), encoding="utf-8")
        else:
            log.info("fold %d was finished before, and is not trained again", number)
        found.append(evaluation)
        if told is not None:
            told(number, evaluation)
    pooled = pool_folds(found, split=POOLED)
    pooled.save(evaluation_folder(recipe.out, POOLED))
    (recipe.out / RECIPE).write_text(recipe.text, encoding="utf-8")
    return pooled


def _fold(
    recipe: Recipe, folder: Path, train: PatchTable, held_out: PatchTable, how: dict[str, Any], *, bar: bool
) -> Evaluation:
    arguments = {"progress": bar, **recipe["fit"], "out": folder}
    val = None
    if arguments.get("keep", "best") == "best":
        train, val = next(_inner(train, how), (train, None))
    model = fit(network(recipe, train.labels), train, val, **arguments)
    if val is not None:
        model = fit_temperature(model, val)
        write_card(model, model.save(folder / MODEL))
    (folder / RECIPE).write_text(recipe.text, encoding="utf-8")
    parts = {"train": train, "val": val, HELD_OUT: held_out}
    named = [replace(t, rows=t.rows.assign(split=name)) for name, t in parts.items() if t is not None]
    joined(named).save(folder / TABLE)
    evaluation = replace(evaluate(model, held_out), split=HELD_OUT)
    evaluation.save(evaluation_folder(folder, HELD_OUT))
    return evaluation


def _inner(train: PatchTable, how: dict[str, Any]) -> Iterator[tuple[PatchTable, PatchTable]]:
    """The part of a fold's training patients that chooses the epoch: a fifth, or one of fewer than five."""
    groups = train.rows["group"].nunique()
    if groups < 2:
        log.warning("one patient is left to train on: no epoch can be chosen, and the last one is kept")
        return
    try:
        yield next(train.folds(min(5, groups), **how))
    except SplitError as error:
        log.warning("no patients can be set aside to choose an epoch (%s): the last one is kept", error)


def _finished(folder: Path, key: dict[str, Any]) -> Evaluation | None:
    """The evaluation of a fold that was finished with the same recipe and patches."""
    try:
        known = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return Evaluation.load(evaluation_folder(folder, HELD_OUT)) if known == key else None
    except (OSError, ValueError, EvaluationError):
        return None
