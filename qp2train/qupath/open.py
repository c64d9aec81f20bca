"""open_project: a QuPath project or a folder of slides, whichever a path is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from qp2train.errors import NotAProjectError
from qp2train.qupath.folder import SlideFolder
from qp2train.qupath.project import Project
from qp2train.qupath.store import Backend


def open_project(
    path: str | Path,
    *,
    image_roots: Iterable[str | Path] = (),
    uri_map: Mapping[str, str | Path] | None = None,
    backend: Backend = "java-free",
) -> Project | SlideFolder:
    """Open a QuPath project (its folder or .qpproj), or a folder of slides with GeoJSON files.

    Arguments as `Project`; a folder of slides needs none of them.

    Raises:
        NotAProjectError: The path is neither.
    """
    path = Path(path)
    if path.is_dir() and not any(path.glob("*.qpproj")):
        try:
            return SlideFolder(path)
        except NotAProjectError as error:
            raise NotAProjectError(
                f"{path} is no QuPath project (it holds no .qpproj file) and no folder of slides: {error}"
            ) from error
    return Project(path, image_roots=image_roots, uri_map=uri_map, backend=backend)
