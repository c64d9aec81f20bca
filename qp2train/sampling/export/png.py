"""PNG pairs: images/<split>/<name>.png and masks/<split>/<name>.png.

A folder per split below one for pictures and one for masks, with equal names, is what mmsegmentation's
`BaseSegDataset` expects (`data_prefix=dict(img_path="images/train", seg_map_path="masks/train")`, `img_suffix=".png"`;
255 is its `ignore_index`), and the usual dataset classes round segmentation-models-pytorch. nnU-Net wants names that
end in "_0000" and labels without a gap: there, give 255 the number after the last class, "ignore" in dataset.json.
"""

from __future__ import annotations

from pathlib import Path

from qp2train.sampling.export.manifest import write_manifest
from qp2train.sampling.export.pictures import (
    make_folders,
    mask_bytes,
    mask_paths,
    picture_bytes,
    picture_paths,
    split_folders,
)
from qp2train.sampling.export.reading import Job


def write(job: Job, folder: Path) -> None:
    """Fill `folder` with pictures, masks and the manifest."""
    folders = split_folders(job.manifest)
    images, masks = picture_paths(job, folders), mask_paths(job, folders)
    make_folders(folder, images, masks)
    for patch in job.patches():
        (folder / images[patch.row]).write_bytes(picture_bytes(job, patch))
        (folder / masks[patch.row]).write_bytes(mask_bytes(patch.mask, job.table.labels))
    write_manifest(folder, job.table, job.manifest.assign(image=images, mask=masks))
