"""The model's card: README.md in its folder, for people who are handed the model and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from qp2train.core.grouping import patients_of
from qp2train.core.labels import BACKGROUND_NAME
from qp2train.core.patches import PatchTable
from qp2train.learn.models import Model

README = "README.md"
PIPELINES = {"segmentation": "image-segmentation", "classification": "image-classification"}
# Shown of an evaluation, in this order, per class and over all: metric and its name.
SCORES = (
    ("dice", "Dice"),
    ("iou", "IoU"),
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("f1", "F1"),
    ("roc_auc", "ROC-AUC"),
)
OVERALL = (("balanced_accuracy", "Balanced accuracy"), ("kappa", "Cohen’s κ"), ("ece", "Calibration error (ECE)"))
MISSING = "–"


def trained_on(train: PatchTable, val: PatchTable | None = None) -> dict[str, dict[str, int]]:
    """Patients, slides and patches of training and validation: what a card says, as `Model.about["data"]`.

    Counts only: a model that is handed on names no patient. A slide that names none counts as one.
    """
    return {name: _counts(table) for name, table in (("train", train), ("val", val)) if table is not None}


def card_text(model: Model, evaluation: Mapping[str, Any] | None = None) -> str:
    """The card as Markdown, with the metadata that Hugging Face's hub reads.

    Args:
        model: A trained model; `about` says what it was trained on (`trained_on`).
        evaluation: metrics.json of an evaluation; None = the card says that there is none.
    """
    about, labels = model.about, model.labels
    classes = ", ".join(map(escaped, labels.classes))
    versions = ", ".join(f"{escaped(k)} {escaped(str(v))}" for k, v in (about.get("versions") or {}).items())
    arguments = about.get("arguments") or {}
    chosen = ", ".join(f"`{_code(k)}={_code(v)}`" for k, v in arguments.items())
    members = {n: ", ".join(labels.merged.get(n, ())) or "annotated, and none of the others" for n in labels.names}
    rows = "\n".join(f"| {i} | {escaped(n)} | {escaped(m)} |" for i, (n, m) in enumerate(members.items()))
    return f"""\
---
{_front_matter(model)}---

# {escaped(model.id)}

A network for {model.task} of digital pathology slides into {classes}, trained with qp2train on annotations made in
QuPath.

## Intended use

Research. It finds {classes} on slides that were prepared, stained and scanned like those it was trained on, at
{model.mpp:g} µm per pixel. Its predictions are drafts for a pathologist to check and correct. It is no medical
device, and must not decide on anybody's diagnosis or treatment.

## What it was trained on

{_data(model)}

Patches are {model.size_px} × {model.size_px} pixels at {model.mpp:g} µm per pixel.
{_started(model)}

## Classes

| value | class | QuPath classes |
|---|---|---|
{rows}

What nobody annotated was {"ignored" if labels.unannotated == "ignore" else "taken for background"} in training.

## How to use it

In Python, from the folder that holds this file:

```python
import qp2train as qp

model = qp.load_model("path/to/this/folder")
{_example(model)}
```

On the command line, for a QuPath project:

```sh
qp2train predict path/to/this/folder path/to/project.qpproj --write
```

## Evaluation

{_evaluation(evaluation)}

## Limitations

- Other scanners, stains, organs and diseases than those of training are unknown to it; look at its predictions on a few
  of your own slides first, and evaluate it on annotations of your own.
- It calls every pixel one of its classes, also what is none of them: folds, pen marks, tissue never annotated.
- Scores are of the patients that were evaluated. With few patients they say little about the next one.

## How it was trained

{chosen or "The arguments were not recorded."}

Versions: {versions or "not recorded"}.

## Licence

Not chosen yet: whoever hands the model on has to name one here, and to see that the owners of slides and annotations,
and the licence of the weights it began with, allow it.

## Citation

Name this model by its id, {escaped(model.id)}, and qp2train; and cite QuPath: Bankhead P et al., “QuPath: Open source
software for digital pathology image analysis”, Scientific Reports 7, 16878 (2017), doi:10.1038/s41598-017-17204-5.
"""


def write_card(model: Model, folder: str | Path, evaluation: Mapping[str, Any] | None = None) -> Path:
    """Write the card as README.md into the model's folder, over an older one. Returns its path."""
    path = Path(folder) / README
    new = path.with_name(f".{README}.new")
    new.write_text(card_text(model, evaluation), encoding="utf-8")
    return new.replace(path)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a paragraph or a table's cell."""
    lines = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", lines)


def _code(value: object) -> str:
    """Text that can stand between backticks."""
    return " ".join(str(value).replace("`", "'").split())


def _counts(table: PatchTable) -> dict[str, int]:
    entries = set(table.rows["entry"])
    of_entry = patients_of(table.slides.values(), table.grouped_by)
    patients = {of_entry.get(e, f"slide {e}") for e in entries}
    return {"patients": len(patients), "slides": len(entries), "patches": len(table)}


def _front_matter(model: Model) -> str:
    data = {
        "library_name": "qp2train",
        "license": "other",
        "pipeline_tag": PIPELINES.get(model.task, model.task),
        "tags": ["digital-pathology", "histology", "qupath", model.task],
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _data(model: Model) -> str:
    parts = model.about.get("data") or {}
    if not parts:
        patches = model.about.get("patches") or {}
        if not patches:
            return "This was not recorded."
        return f"{patches.get('train', 0):,} patches; {patches.get('val', 0):,} others chose the best epoch."
    head = "| part | patients | slides | patches |\n|---|---:|---:|---:|\n"
    return head + "\n".join(
        f"| {escaped(name)} | {counts['patients']:,} | {counts['slides']:,} | {counts['patches']:,} |"
        for name, counts in parts.items()
    )


def _started(model: Model) -> str:
    network = f"{escaped(model.spec.arch)} with the encoder {escaped(model.spec.encoder)}"
    weights = model.about.get("encoder_weights")
    began = f"the weights {escaped(str(weights))}" if weights else "random weights"
    return f"The network is {network}, which began with {began}."


def _example(model: Model) -> str:
    if model.task == "classification":
        return "print(model.labels.names, model.size_px, model.mpp)"
    return (
        'with qp.open_slide("slide.svs") as slide:\n'
        "    scores = qp.predict(model, slide)\n"
        'qp.write_geojson("slide.geojson", qp.vectorise(scores, min_area_um2=500))'
    )


def _evaluation(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "It was not evaluated. Nothing is known of how good it is."
    pooled, intervals = found.get("pooled") or {}, found.get("intervals") or {}
    patients = len(found.get("patients") or {})
    shown = [(m, said) for m, said in SCORES if m in pooled]
    if found.get("task") == "segmentation":
        shown = [(m, said) for m, said in shown if m != "f1"]  # of pixels the same as Dice
    head = f"| class | {' | '.join(said for _, said in shown)} |\n|---|{'---:|' * len(shown)}\n"
    names = [*(c for c in found.get("classes") or ()), "mean"]
    rows = [f"| {escaped(n)} | {' | '.join(_score(pooled, intervals, m, n) for m, _ in shown)} |" for n in names]
    overall = [f"- {said}: {_score(pooled, intervals, m, 'all')}" for m, said in OVERALL if m in pooled]
    split = str(found.get("split") or "")
    what = "pixels" if found.get("task") == "segmentation" else "patches"
    about = (
        f"On {len(found.get('patches') or ()):,} patches of {patients} patients of the part “{escaped(split)}”, "
        f"all {what} together; the mean is of the classes without {BACKGROUND_NAME.lower()}."
    )
    if split == "val":
        about += " The best epoch was chosen by these patches, so the scores are somewhat too good."
    said = " In brackets: 95 % intervals over patients." if "(" in "".join(rows) else " There are no intervals."
    return f"{about}{said}\n\n{head}" + "\n".join(rows) + ("\n\n" + "\n".join(overall) if overall else "")


def _score(pooled: Mapping[str, Any], intervals: Mapping[str, Any], metric: str, key: str) -> str:
    value = (pooled.get(metric) or {}).get(key)
    if value is None:
        return MISSING
    found = (intervals.get(metric) or {}).get(key) or {}
    if found.get("low") is None or found.get("high") is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({found['low']:.3f}–{found['high']:.3f})"
