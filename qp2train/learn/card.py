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
PIPELINES = {
    "segmentation": "image-segmentation",
    "classification": "image-classification",
    "prompted": "mask-generation",
}
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

{_kind(model, classes)}, trained with qp2train on annotations made in QuPath.

## Intended use

Research. {_use(model, classes)} Its predictions are drafts for a pathologist to check and correct. It is no medical
device, and must not decide on anybody's diagnosis or treatment.

## What it was trained on

{_data(model)}

{_patches(model)}
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
{_command(model)}
```

## Evaluation

{_evaluation(evaluation)}

## Limitations

- Other scanners, stains, organs and diseases than those of training are unknown to it; look at its predictions on a few
  of your own slides first, and evaluate it on annotations of your own.
- {_weakness(model)}
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


def _kind(model: Model, classes: str) -> str:
    if model.task == "prompted":
        return f"A network that outlines what is clicked on in digital pathology slides: {classes}"
    return f"A network for {model.task} of digital pathology slides into {classes}"


def _use(model: Model, classes: str) -> str:
    if model.task == "prompted":
        return (
            f"Clicks, boxes and rough outlines become outlines of single objects ({classes}; of none it says which "
            "class it is), on slides that were prepared, stained and scanned like those it was trained on."
        )
    return (
        f"It finds {classes} on slides that were prepared, stained and scanned like those it was trained on, at "
        f"{model.mpp:g} µm per pixel."
    )


def _patches(model: Model) -> str:
    if model.task == "prompted":
        return f"It looks at {model.size_px} × {model.size_px} pixels, in which an object is shown at any scale."
    return f"Patches are {model.size_px} × {model.size_px} pixels at {model.mpp:g} µm per pixel."


def _command(model: Model) -> str:
    if model.task == "prompted":
        return "qp2train refine path/to/project.qpproj --model path/to/this/folder --write"
    return "qp2train predict path/to/this/folder path/to/project.qpproj --write"


def _weakness(model: Model) -> str:
    if model.task == "prompted":
        return "It outlines something wherever it is clicked, also where there is no object like those it has learnt."
    return (
        "It calls every pixel one of its classes, also what is none of them: folds, pen marks, tissue never annotated."
    )


def _example(model: Model) -> str:
    if model.task == "prompted":
        return (
            'refiner = qp.Refiner(qp.load_prompt_model("path/to/this/folder"))\n'
            'with qp.open_slide("slide.svs") as slide:\n'
            "    refiner.set_region(slide, qp.Box(12_000, 8_000, 800, 800))\n"
            "    found = refiner.click(12_310, 8_420)"
        )
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
    if found.get("task") == "prompted":
        return _clicks(found, pooled, intervals)
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


def _clicks(found: Mapping[str, Any], pooled: Mapping[str, Any], intervals: Mapping[str, Any]) -> str:
    scored, names = found.get("scored") or {}, list(pooled.get("nothing") or {})
    head = f"| clicks | {' | '.join(names)} |\n|---|{'---:|' * len(names)}\n"
    ways = {"nothing": "from nothing", "wide": "in a view twice as wide", "rough": "from a rough outline"}
    rows = [
        f"| {said} | {' | '.join(_score(pooled, intervals, way, n) for n in names)} |" for way, said in ways.items()
    ]
    return (
        f"On {scored.get('objects', 0):,} objects of {scored.get('patients', 0)} patients of the part "
        f"“{escaped(str(found.get('split') or ''))}”, clicked on by a program at the centre of the largest error. "
        "iou@k: mean IoU after k clicks; noc@k: mean clicks to an IoU of k/100, 20 where it is never reached; never: "
        "share that never reaches 0.85. In brackets: 95 % intervals over patients, where there are several.\n\n"
        f"{head}" + "\n".join(rows)
    )


def _score(pooled: Mapping[str, Any], intervals: Mapping[str, Any], metric: str, key: str) -> str:
    value = (pooled.get(metric) or {}).get(key)
    if value is None:
        return MISSING
    found = (intervals.get(metric) or {}).get(key) or {}
    if found.get("low") is None or found.get("high") is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({found['low']:.3f}–{found['high']:.3f})"
