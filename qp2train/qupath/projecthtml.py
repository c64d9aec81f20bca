"""A project as a table in a notebook."""

from __future__ import annotations

import base64
from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from qp2train.errors import QuPathFormatError
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.pathobject import Rgb
from qp2train.qupath.qpproj import default_color

if TYPE_CHECKING:
    from qp2train.qupath.project import Project

_THUMBNAIL_LIMIT = 500_000  # bytes; fifty of them are to fit into a notebook
_ROWS_SHOWN = 50


def table(project: Project) -> str:
    """HTML with one row per image: thumbnail, name, size, µm per px, metadata, annotations per class."""
    colors = project.classes
    entries = list(project)
    rows = "".join(_row(entry, colors) for entry in entries[:_ROWS_SHOWN])
    more = f"<p>… and {len(entries) - _ROWS_SHOWN} more</p>" if len(entries) > _ROWS_SHOWN else ""
    heads = "".join(f"<th>{head}</th>" for head in ("", "id", "image", "px", "µm/px", "metadata", "annotations"))
    title = f"<b>{escape(project.name)}</b> · {len(entries)} images · QuPath {escape(project.version or '?')}"
    return f"<div>{title}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{more}</div>"


def _row(entry: ImageEntry, colors: dict[str, Rgb]) -> str:
    size = f"{entry.width or '?'} &times; {entry.height or '?'}"
    mpp = f"{entry.mpp:.4g}" if entry.mpp is not None else "&ndash;"
    metadata = "<br>".join(f"{escape(key)}: {escape(value)}" for key, value in entry.metadata.items())
    missing = "" if entry.path else " <small>(slide not found)</small>"
    cells = (
        _thumbnail(entry),
        escape(entry.id),
        escape(entry.name) + missing,
        size,
        mpp,
        metadata,
        _counts(entry, colors),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _thumbnail(entry: ImageEntry) -> str:
    picture = entry.thumbnail()
    if picture is None or len(picture) > _THUMBNAIL_LIMIT:
        return ""
    data = base64.b64encode(picture).decode("ascii")
    return f'<img alt="" style="max-height:64px;max-width:96px" src="data:image/jpeg;base64,{data}">'


def _counts(entry: ImageEntry, colors: dict[str, Rgb]) -> str:
    try:
        counts = Counter(a.class_name for a in entry.annotations())
    except QuPathFormatError as error:
        return f"<small>{escape(str(error))}</small>"
    lines = []
    for name, count in counts.most_common():
        r, g, b = colors.get(name, default_color(name)) if name is not None else (128, 128, 128)
        swatch = f'<span style="color:rgb({r},{g},{b})">■</span>'
        lines.append(f"{swatch} {escape(name or 'unclassified')} {count}")
    return "<br>".join(lines) or "&ndash;"
