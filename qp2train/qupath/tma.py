"""The grid of a tissue microarray: which core stands where. Source: qupath.lib.objects.hierarchy.DefaultTMAGrid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qp2train.errors import QuPathFormatError
from qp2train.qupath.javanodes import JObject
from qp2train.qupath.javatypes import as_object, elements

_GRID = "qupath.lib.objects.hierarchy.DefaultTMAGrid"


@dataclass(frozen=True, slots=True)
class TmaGrid:
    """A TMA grid. It and its cores are read, never written or changed: make them in QuPath.

    Args:
        width: Cores in a row.
        height: Rows.
        cores: The ids of all cores, row by row; missing cores are there, with `metadata["isMissing"]`.
    """

    width: int
    height: int
    cores: tuple[str, ...]


def read_grid(hierarchy: JObject, ids: Mapping[int, str]) -> TmaGrid | None:
    """The grid of a hierarchy; None if it has none.

    Args:
        hierarchy: QuPath's PathObjectHierarchy.
        ids: `id()` of an object's node → the object's id, for all objects.

    Raises:
        QuPathFormatError: A grid of another class, of the wrong size, or with a core that is not in the hierarchy.
    """
    node = hierarchy.ref("tmaGrid") if "tmaGrid" in hierarchy.desc.slots else None
    if node is None:
        return None
    grid = as_object(node)
    if grid.desc.name != _GRID:
        raise QuPathFormatError(f"a TMA grid of class {grid.desc.name}: qp2train reads {_GRID}")
    width, height = grid.integer("gridWidth"), grid.integer("gridHeight")
    cores = elements(grid.ref("cores"))
    if min(width, height) < 0 or width * height != len(cores):
        raise QuPathFormatError(f"a TMA grid of {width} x {height} with {len(cores)} cores")
    try:
        return TmaGrid(width, height, tuple(ids[id(core)] for core in cores))
    except KeyError as error:
        raise QuPathFormatError("a core of the TMA grid is not among the objects") from error
