"""Coordinates for CLAM and TRIDENT: one HDF5 file per slide file, with a dataset `coords` (N, 2), int64.

A row is the top-left corner of a patch in pixels of the file's level 0, as OpenSlide counts them, also where QuPath
shows a cropped or rotated image of it. HDF5 files of both layouts hold whole pixels: positions are rounded.

"clam"      patches/<slide>.h5. CLAM reads `patch_size` pixels of the stored level `patch_level`; so where no stored
            level has the patches' scale, it is the next finer one, and `patch_size` as many of its pixels as cover
            the same place. CLAM then resizes for the encoder.
"trident"   patches/<slide>_patches.h5. TRIDENT reads `patch_size` pixels at `target_magnification`, resized from
            `level0_magnification`. Only their ratio counts, so they are 10 / mpp, not rounded to 20 or 40.

Attributes of the other layout are there as well, with values that mean the same.

Sources: mahmoodlab/CLAM wsi_core/WholeSlideImage.py (process_contour), dataset_modules/dataset_h5.py;
mahmoodlab/TRIDENT trident/IO.py (coords_to_h5), trident/wsi_objects/WSIPatcher.py.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qp2train.core.geometry import Box
from qp2train.core.patches import PatchTable, SlideRef
from qp2train.core.view import View
from qp2train.sampling.export.manifest import write_manifest
from qp2train.sampling.export.naming import distinct
from qp2train.sampling.export.reading import Job
from qp2train.slides import open_slide

log = logging.getLogger(__name__)

Layout = Literal["clam", "trident"]

# A stored level is the patches' own up to this: scanners round level sizes, and the scale of both axes differs.
SAME_SCALE = 0.01
MPP_AT_1X = 10.0  # as TRIDENT has it: 40× is 0.25 µm per pixel


def write(job: Job, folder: Path, layout: Layout) -> None:
    """Fill `folder` with one file per slide file, and the manifest."""
    table = job.table
    corners = np.array([_corner(ref, box) for ref, box in table])
    whole = np.rint(corners).astype(np.int64)
    moved = np.abs(whole - corners).max(axis=1)
    if moved.max() > 1e-6:
        log.warning("%d patches lie between pixels: moved by %.2g px at most", int((moved > 1e-6).sum()), moved.max())
    paths = [table.slides[e].path for e in table.rows["entry"]]
    files = _file_names(paths, layout)
    values = [table.labels.names.index(n) if n in table.labels.names else -1 for n in table.rows["label"]]
    (folder / "patches").mkdir()
    read_as: dict[str, str] = {}
    for done, (path, rows) in enumerate(pd.Series(paths).groupby(paths, sort=False).indices.items(), start=1):
        ref = table.slides[table.rows["entry"].iloc[rows[0]]]
        said = _attributes(table, ref, layout)
        _write_file(folder / files[str(path)], whole[rows], np.array(values)[rows], said)
        if abs(said["mpp"] / table.mpp - 1) > SAME_SCALE:
            read_as[ref.name] = (
                f"{said['patch_size']} px of level {said['patch_level']}, {said['mpp']:.4g} µm per pixel"
            )
        if job.progress is not None:
            job.progress(ref.name, done, len(files))
    if read_as:
        log.warning(
            "%d of %d slides have no stored level of %g µm per pixel: CLAM will read the same places finer (%s)",
            len(read_as),
            len(files),
            table.mpp,
            "; ".join(f"{name}: {size}" for name, size in list(read_as.items())[:3]),
        )
    manifest = job.manifest.assign(file=[files[path] for path in paths], level0_x=whole[:, 0], level0_y=whole[:, 1])
    write_manifest(folder, table, manifest)


def _file_names(paths: list[str], layout: Layout) -> dict[str, str]:
    """Slide file → where its coordinates go: both tools find them by the slide file's stem."""
    files = list(dict.fromkeys(paths))
    stems = [Path(path).stem for path in files]
    names = distinct(stems)
    for path, stem, name in zip(files, stems, names, strict=True):
        if name != stem:
            log.warning("two slides are called %s: %s gets %s, rename it alike", stem, path, name)
    ending = ".h5" if layout == "clam" else "_patches.h5"
    return {path: f"patches/{name}{ending}" for path, name in zip(files, names, strict=True)}


def _corner(ref: SlideRef, box: Box) -> tuple[float, float]:
    """The corner of a patch in the file, of which the slide may be a part, turned or mirrored."""
    there = View.parse(ref.view).to_file(box) if ref.view else box
    return there.x, there.y


def _write_file(path: Path, coords: NDArray[np.int64], values: NDArray[np.int64], attributes: dict[str, Any]) -> None:
    import h5py  # of the extra `export`

    with h5py.File(path, "w") as file:
        data = file.create_dataset("coords", data=coords, maxshape=(None, 2), chunks=(32, 2))
        data.attrs.update(attributes)
        # Beside what both tools read: the value of each patch's class, -1 = none.
        file.create_dataset("labels", data=values.astype(np.int16))


def _attributes(table: PatchTable, ref: SlideRef, layout: Layout) -> dict[str, Any]:
    with open_slide(ref.path, mpp=ref.mpp, view="") as slide:
        downsamples, sizes, name = slide.downsamples, slide.level_sizes, Path(ref.path).stem
    wanted = table.mpp / ref.mpp
    level = int(np.argmin(np.abs(np.array(downsamples) / wanted - 1)))
    patch_px, downsample = table.size_px, wanted
    if abs(downsamples[level] / wanted - 1) > SAME_SCALE:
        level = max((i for i, d in enumerate(downsamples) if d <= wanted), default=0, key=lambda i: downsamples[i])
        if layout == "clam":
            downsample = downsamples[level]
            patch_px = round(table.side_px(ref.entry) / downsample)
    return {
        "name": name,
        "patch_size": patch_px,
        "patch_level": level,
        "downsample": np.array([downsamples[level]] * 2),
        "level_dim": np.array(sizes[level]),
        "downsampled_level_dim": np.array(sizes[level]),
        "save_path": "",
        "patch_size_level0": round(table.side_px(ref.entry)),
        "level0_magnification": MPP_AT_1X / ref.mpp,
        "target_magnification": MPP_AT_1X / (ref.mpp * downsample),
        "overlap": 0,
        "level0_width": sizes[0][0],
        "level0_height": sizes[0][1],
        "savetodir": "",
        "mpp": ref.mpp * downsample,
        "level0_mpp": ref.mpp,
    }
