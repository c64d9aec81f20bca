"""The report: plain data and pictures in, one HTML page out that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qp2train.core.labels import LabelMap
from qp2train.report.plots import CLICKED, DATA, METRICS, clicks_plot, learning_plots, reliability_plot, threshold_plots
from qp2train.report.svg import swatch
from qp2train.report.traced import Traced, pointer
from qp2train.report.words import (
    BACKGROUND,
    LEFT_OUT,
    LOWER_IS_BETTER,
    SAID,
    has_intervals,
    headline,
    plural,
    summary,
    warnings,
)

Kind = Literal["best", "median", "worst", "uncertain", "slide"]
GALLERIES: Mapping[Kind, tuple[str, str]] = {
    "worst": ("Worst patches", "Look here first: where the model fails, and whether the annotation is to blame."),
    "median": ("Typical patches", "Those in the middle of all patches, by score."),
    "best": ("Best patches", "What the model finds easy."),
    "uncertain": (
        "Most uncertain patches",
        "Where the model itself is in doubt, from 0 (sure) to 1 (all classes are as likely). Annotating more of the "
        "like teaches it most.",
    ),
}
# Of more, a table in a page helps nobody; metrics.json has them all.
MOST_ROWS = 200


@dataclass(frozen=True)
class Picture:
    """A picture with what to say about it.

    Args:
        kind: Which gallery it belongs to.
        data: The file's bytes, PNG or JPEG.
        width: In pixels.
        height: In pixels.
        alt: What is to be seen, for those who do not see it.
        patch: Its index in metrics.json's patches.
        slide: The slide's name; of pictures of slides, the key in metrics.json's slides.
        said: In words what it is, and what it is taken for.
    """

    kind: Kind
    data: bytes
    width: int
    height: int
    alt: str
    patch: int | None = None
    slide: str = ""
    said: str = ""

    @property
    def src(self) -> str:
        """The picture inside an address."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Facts:
    """What a report is about.

    Args:
        metrics: metrics.json of the evaluation; None = there was none.
        data: data.json: the patches, slides and patients of each part, and the learning curves (see
            `reporting.data_card`).
        model: model.json.
        recipe: The recipe as YAML; "" = the run had none.
        evaluated: The day of the evaluation, as text.
        missing: What could not be shown, and why.
    """

    metrics: Mapping[str, Any] | None
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    recipe: str = ""
    evaluated: str = ""
    missing: Sequence[str] = ()


def report_html(facts: Facts, pictures: Sequence[Picture] = ()) -> str:
    """One page with all that is known of a run. The same facts and pictures give the same text.

    Every number in its tables and plots names its place in metrics.json or data.json, in an attribute `data-source`.
    It loads nothing, and has no script.

    Args:
        facts: Plain data.
        pictures: In the order in which they are shown.
    """
    traced = Traced({METRICS: facts.metrics, DATA: facts.data})
    labels = LabelMap.from_dict(facts.model["labels"])
    environment = Environment(
        loader=PackageLoader("qp2train.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(plural=plural, swatch=swatch, pointer=pointer, SAID=SAID, LOWER=LOWER_IS_BETTER)
    metrics = facts.metrics or {}
    pooled = metrics.get("pooled") or {}
    reliability = reliability_plot(traced)
    return environment.get_template("report.html.jinja").render(
        facts=facts,
        get=traced.get,
        number=traced.number,
        row_share=traced.row_share,
        metrics=metrics,
        data=facts.data,
        model=facts.model,
        about=facts.model.get("about") or {},
        colour={name: "rgb({}, {}, {})".format(*labels.color(name)) for name in labels.classes},
        warnings=list(warnings(traced)),
        summary=summary(traced),
        intervals=has_intervals(traced),
        headline=headline(metrics),
        columns=_columns(pooled, metrics),
        overall=[m for m, values in pooled.items() if isinstance(values, Mapping) and values.get("all") is not None],
        others=[m for kind in ("boundary", "objects") for m in _keys(metrics.get(kind) or {})],
        thresholds=list(threshold_plots(traced)),
        reliability=reliability,
        clicks=clicks_plot(traced),
        clicked=CLICKED,
        learning=list(learning_plots(traced)),
        galleries=[(k, *GALLERIES[k], [p for p in pictures if p.kind == k]) for k in GALLERIES],
        slides=[p for p in pictures if p.kind == "slide"],
        share=_share,
        keys_of=_keys,
        most_rows=MOST_ROWS,
        background=BACKGROUND,
    )


def _columns(pooled: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """The metrics that each class has, in the order of `SAID`."""
    classes = set(metrics.get("classes") or ())
    there = [m for m, values in pooled.items() if isinstance(values, Mapping) and classes & set(values)]
    there = [m for m in there if m not in LEFT_OUT.get(metrics.get("task", ""), ())]
    known = [m for m in SAID if m in there]
    return known + [m for m in there if m not in SAID]


def _keys(rows: Mapping[str, Any]) -> list[str]:
    """The metrics of classes; none if nothing could be measured."""
    known = (values for values in rows.values() if isinstance(values, Mapping))
    return list(dict.fromkeys(key for values in known if any(v is not None for v in values.values()) for key in values))


def _share(row: Sequence[float], column: int) -> Markup:
    """How strongly a cell of the confusion is tinted: its share of the row, in per cent."""
    total = sum(row)
    return Markup(f"{100 * row[column] / total:.1f}" if total else "0")
