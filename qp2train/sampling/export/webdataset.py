"""WebDataset: <split>-000000.tar …, in each <name>.png (or .jpg), <name>.mask.png and <name>.json of a patch.

A stream is shuffled within a buffer only, so the patches of a split are dealt to its shards at random; they are still
read slide after slide. Shards of one split are about equally long.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from qp2train.sampling.export.manifest import write_manifest
from qp2train.sampling.export.pictures import ending, mask_bytes, picture_bytes, split_folders
from qp2train.sampling.export.reading import Job, Patch

# Files open at a time; most systems allow a process 1,024, macOS 256.
MOST_OPEN = 128
# Of a tar archive, for each of three members: header, extended header, padding; and the JSON.
OVERHEAD_BYTES = 3 * 3 * 512 + 4096


def write(job: Job, folder: Path) -> None:
    """Fill `folder` with shards and the manifest."""
    splits = split_folders(job.manifest, without="patches")
    described, shards = job.manifest.to_dict("records"), [""] * len(splits)
    begun: Counter[str] = Counter()
    done = 0
    for rows in _batches(job.in_reading_order(), splits, _per_shard(job) * MOST_OPEN):
        split = splits[rows[0]]
        count = math.ceil(len(rows) / _per_shard(job))
        dealt = np.random.default_rng([job.seed, begun[split]]).permutation(len(rows)) % count
        for row, n in zip(rows, dealt, strict=True):
            shards[row] = f"{split}-{begun[split] + int(n):06d}.tar"
        begun[split] += count
        with ExitStack() as files:
            tars = {
                shard: files.enter_context(tarfile.open(folder / shard, "w", format=tarfile.PAX_FORMAT))
                for shard in sorted({shards[row] for row in rows})
            }
            for patch in job.patches(rows, done=done):
                _add(tars[shards[patch.row]], job, patch, described[patch.row])
        done += len(rows)
    write_manifest(folder, job.table, job.manifest.assign(shard=shards))


def _per_shard(job: Job) -> int:
    """Patches that stay below the shard's size, whatever is in them: PNG adds a little to what it cannot compress."""
    patch_bytes = round(1.01 * 4 * job.table.size_px**2) + OVERHEAD_BYTES
    return max(1, job.shard_bytes // patch_bytes)


def _batches(order: list[int], splits: pd.Series, most: int) -> Iterator[list[int]]:
    """Rows of one split, in reading order, as many as may be dealt out at once."""
    for split in sorted(set(splits)):
        rows = [row for row in order if splits[row] == split]
        yield from (rows[start : start + most] for start in range(0, len(rows), most))


def _add(tar: tarfile.TarFile, job: Job, patch: Patch, described: Mapping[Any, Any]) -> None:
    members = {
        ending(job): picture_bytes(job, patch),
        ".mask.png": mask_bytes(patch.mask, job.table.labels),
        ".json": orjson.dumps(described),
    }
    for end, data in members.items():
        info = tarfile.TarInfo(patch.name + end)  # its time is 0: same patches, same bytes
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
