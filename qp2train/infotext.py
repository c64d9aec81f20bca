"""The check-up as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qp2train.qupath.checkkinds import KINDS
from qp2train.qupath.checkup import CheckUp, ClassFacts, Finding, ImageFacts
from qp2train.qupath.uris import STORED

_COLOURS = {"problem": "red", "note": "yellow"}
_PLAIN = {"detection": "detections", "cell": "cells", "tile": "tiles", "tma_core": "TMA cores"}
_IMAGES_NAMED = 5
_ROWS = 200

Rgb = tuple[int, int, int]
_NO_COLOUR = (128, 128, 128)


def render(result: CheckUp, *, colors: Mapping[str, Rgb], backend: str = "") -> RenderableType:
    """Images, classes, findings; `backend` is said below the title."""
    head = f"[bold]{escape(result.name)}[/]: {len(result.images)} image{'s' * (len(result.images) != 1)}"
    head += f" · saved by QuPath {escape(result.version)}" if result.version else ""
    parts: list[RenderableType] = [Text.from_markup(head)]
    if backend:
        parts.append(Text(backend))
    parts += [_images(result), _classes(result, colors), *_unused(result, colors), *_groups(result)]
    parts += _findings(result.findings)
    return Group(*parts)


def _images(result: CheckUp) -> Table:
    table = Table(title="Images", title_justify="left")
    for column in ("id", "name", "px", "µm/px", "metadata", "annotations", "slide"):
        table.add_column(column, overflow="fold", justify="right" if column in ("id", "µm/px") else "left")
    for image in result.images[:_ROWS]:
        table.add_row(*_row(image))
    if len(result.images) > _ROWS:
        table.caption = f"and {len(result.images) - _ROWS} more"
    return table


def _row(image: ImageFacts) -> tuple[str, ...]:
    drawn = [f"{facts.count} × {name}" for name, facts in image.classes.items()]
    drawn += [f"{count} by {source}" for source, count in image.models.items()]
    drawn += [f"{count} × ({_PLAIN[kind]})" for kind, count in image.others.items()]
    where = "[red]not found[/]" if image.path is None else "found" if image.how == STORED else escape(image.how)
    return (
        escape(image.id),
        escape(image.name),
        "{} × {}".format(*image.size) if image.size else "?",
        f"{image.mpp:.4g}" if image.mpp else "[red]none[/]",
        escape("\n".join(f"{k}: {v}" for k, v in image.metadata.items())) or "–",
        escape("\n".join(drawn)) or "–",
        where,
    )


def _classes(result: CheckUp, colors: Mapping[str, Rgb]) -> RenderableType:
    if not result.classes:
        return Text("No image has an annotation yet.")
    table = Table(title="Annotations by class, and what a training makes of them", title_justify="left")
    table.add_column("class", overflow="fold", min_width=14)
    for column in ("number", "mm²", "images"):
        table.add_column(column, justify="right")
    table.add_column("in a training")
    training = result.training()
    for name, facts in result.classes.items():
        square = _square(colors.get(name, _NO_COLOUR))
        table.add_row(f"{square} {escape(name)}", *_numbers(facts), escape(training[name]))
    others: Counter[str] = Counter()
    for image in result.images:
        others.update({f"({_PLAIN[kind]})": count for kind, count in image.others.items()})
        others.update({"(predictions nobody corrected)": sum(image.models.values())})
    for name, count in others.items():
        if count:
            table.add_row(f"  {name}", str(count), "", "", "ignored")
    return table


def _numbers(facts: ClassFacts) -> tuple[str, str, str]:
    area = f"{facts.area_mm2:.3g}" if facts.without_scale < facts.count else "?"
    more = f" (+ {facts.without_scale} without scale)" if 0 < facts.without_scale < facts.count else ""
    return str(facts.count), area + more, str(facts.images)


def _unused(result: CheckUp, colors: Mapping[str, Rgb]) -> Iterator[RenderableType]:
    names = [f"{_square(rgb)} {escape(name)}" for name, rgb in colors.items() if name not in result.classes]
    if names:
        yield Text.from_markup(f"Classes of the project that no annotation has: {'  '.join(names)}")


def _square(color: Rgb) -> str:
    return "[rgb({},{},{})]■[/]".format(*color)


def _groups(result: CheckUp) -> Iterator[RenderableType]:
    if result.groups:
        said = ", ".join(f"{key} ({count} different)" for key, count in result.groups.items())
        yield Text(f"To split by: {said}")


def _findings(findings: tuple[Finding, ...]) -> Iterator[RenderableType]:
    if not findings:
        yield Text("Nothing wrong was found.", style="green")
        return
    table = Table(title="Findings", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("where", overflow="fold")
    table.add_column("what to do", overflow="fold")
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        key = (finding.kind, finding.detail if finding.kind == "overlap" else "")
        kinds.setdefault(key, []).append(finding)
    for (kind, detail), group in kinds.items():
        severity, what, remedy = KINDS[kind]
        area = sum(f.area_mm2 or 0 for f in group)
        said = f"{sum(f.count for f in group)} {what}" if group[0].ids else what
        said += f": {detail}" if detail else ""
        said += f", {area:.3g} mm²" if area else ""
        mark = f"[{_COLOURS[severity]}]{severity}[/]"
        table.add_row(mark, escape(said), escape("\n".join(_where(group))), escape(remedy))
    yield table


def _where(group: list[Finding]) -> Iterator[str]:
    for finding in group[:_IMAGES_NAMED]:
        said = str(finding.count) if finding.ids else finding.detail
        yield ": ".join(part for part in (finding.name, said) if part)
    if len(group) > _IMAGES_NAMED:
        yield f"and {len(group) - _IMAGES_NAMED} more images"
