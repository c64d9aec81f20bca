"""export_patches: a patch table as files that other tools read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from qp2train.core.patches import PatchTable
from qp2train.errors import NoAnnotationError, Qp2trainError
from qp2train.sampling.export import clam, coco, png, webdataset, yolo, zarr
from qp2train.sampling.export.manifest import manifest_of
from qp2train.sampling.export.reading import Job, Progress
from qp2train.sampling.export.staging import check_free, staged

log = logging.getLogger(__name__)

Format = Literal["png", "coco", "yolo", "zarr", "webdataset", "clam", "trident"]
# What each format is written with, beyond what every install has.
_NEEDS: dict[str, str] = {"zarr": "zarr", "clam": "h5py", "trident": "h5py"}
_WITH_PICTURES = ("png", "coco", "yolo", "webdataset")


def export_patches(
    table: PatchTable,
    out: str | Path,
    *,
    format: Format = "png",
    jpeg_quality: int | None = None,
    shard_mb: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write patches, their masks and a manifest as another tool wants them.

    Names are `<slide>_x<left>_y<top>_<class>[_<ROI name>]`, with the patch's corner in full-resolution px and the name
    of its annotation or of the nearest named one round it. Masks hold label values, 255 = ignored.

    "png" pairs of pictures and masks with a palette; `import_png` reads them back.
    "coco" instances, as polygons; holes and what is ignored as run-length codes.
    "yolo" instances, as outlines.
    "zarr" one array of pictures and one of masks.
    "webdataset" shards of pictures, masks and JSON.
    "clam", "trident" coordinates only, one HDF5 file per slide.

    Args:
        table: The patches; their slides are read again.
        out: A new or empty folder. It gets its name when all is written; until then, it has ".partial" at the end.
        format: See above; each is described in its file of `qp2train/sampling/export`.
        jpeg_quality: 1 to 100: pictures as JPEG, smaller, but not as they were ("png", "coco", "yolo", "webdataset").
            None = PNG, exact. Masks are PNG always.
        shard_mb: Largest size of a shard, in 10⁶ bytes ("webdataset").
        seed: Which patch comes into which shard ("webdataset").
        progress: Called with (slide name, done, total).

    Returns:
        The folder.

    Raises:
        Qp2trainError: An unknown format, a package that is not installed, or a folder that is not empty.
        NoAnnotationError: The table has no patch.
        SlideError: A slide is missing or unreadable.
    """
    check_export(out, format=format, jpeg_quality=jpeg_quality)
    if shard_mb < 1 or seed < 0:
        raise Qp2trainError(f"shard_mb must be at least 1 and seed ≥ 0, not {shard_mb} and {seed}")
    if len(table) == 0:
        raise NoAnnotationError("the table has no patch to export")
    if table.context:
        log.warning("the patches' context at %s µm per pixel is not exported", ", ".join(map(str, table.context)))
    with staged(out) as folder:
        manifest = manifest_of(table)
        job = Job(table, manifest, jpeg_quality, shard_mb * 1_000_000, seed, progress)
        _writer(format)(job, folder)
    log.info("%d patches as %s in %s", len(table), format, out)
    return Path(out)


def check_export(out: str | Path, *, format: str, jpeg_quality: int | None = None) -> None:
    """Refuse what `export_patches` would refuse, before there is a table.

    Raises:
        Qp2trainError: An unknown format, a package that is not installed, or a folder that is not empty.
    """
    if format not in get_args(Format):
        raise Qp2trainError(f"format must be one of {', '.join(get_args(Format))}, not {format!r}")
    if jpeg_quality is not None and (format not in _WITH_PICTURES or not 1 <= jpeg_quality <= 100):
        raise Qp2trainError(
            f"jpeg_quality is 1 to 100, for {', '.join(_WITH_PICTURES)}; not {jpeg_quality} for {format!r}"
        )
    needed = _NEEDS.get(format)
    if needed is not None and find_spec(needed) is None:
        raise Qp2trainError(f'format {format!r} needs the package {needed}: pip install "qp2train[export]"')
    check_free(out)


def _writer(format: Format) -> Callable[[Job, Path], None]:
    match format:
        case "clam" | "trident":
            return partial(clam.write, layout=format)
        case "png":
            return png.write
        case "coco":
            return coco.write
        case "yolo":
            return yolo.write
        case "zarr":
            return zarr.write
        case "webdataset":
            return webdataset.write
