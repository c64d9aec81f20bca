"""An entry's own words in project.qpproj: name, description, metadata, tags.

Source: qupath.lib.projects.DefaultProject (DefaultProjectImageEntry).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qp2train.errors import ProjectError

_ORDER = ("serverBuilder", "entryID", "randomizedName", "imageName", "description", "metadata", "tags")


def edited(
    item: Mapping[str, Any],
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
    tags: Iterable[str] | None = None,
    description: str | None = None,
) -> dict[str, Any]:
    """An entry's JSON with other values; see `Project.edit`. Unknown keys and the order of keys stay.

    Raises:
        ProjectError: A value that QuPath cannot hold.
    """
    new = dict(item)
    if name is not None:
        if not isinstance(name, str) or not name.strip():
            raise ProjectError(f"name={name!r}: an image needs a name")
        new = _with(new, "imageName", name)
    if description is not None:
        if not isinstance(description, str):
            raise ProjectError(f"description={description!r}: give a text")
        new = _with(new, "description", description)
        if not description:  # QuPath writes none then
            del new["description"]
    if metadata is not None:
        wrong = [(k, v) for k, v in dict(metadata).items() if not (isinstance(k, str) and k and isinstance(v, str))]
        if wrong:
            raise ProjectError(f"metadata: {wrong[0][0]!r} is {wrong[0][1]!r}; QuPath holds texts only, under a name")
        new = _with(new, "metadata", dict(metadata))
    if tags is not None:
        given = [tags] if isinstance(tags, str) else list(tags)
        if isinstance(tags, str) or not all(isinstance(tag, str) and tag for tag in given):
            raise ProjectError(f"tags={tags!r}: give a list of texts")
        new = _with(new, "tags", list(dict.fromkeys(given)))  # a set that keeps its order, in QuPath, too
    return new


def _with(item: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """A value set; a new key comes behind the nearest one that precedes it in QuPath's own files."""
    if key in item:
        return {**item, key: value}
    before = [other for other in item if other in _ORDER[: _ORDER.index(key)]]
    place = list(item).index(before[-1]) + 1 if before else 0
    pairs = list(item.items())
    return dict([*pairs[:place], (key, value), *pairs[place:]])
