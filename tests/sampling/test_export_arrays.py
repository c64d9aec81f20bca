"""Zarr and WebDataset, read by the packages of these names."""

from __future__ import annotations

import gc
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import webdataset
import zarr
from PIL import Image
from small import LABELS, picture, small_table

from qp2train import export_patches
from qp2train.sampling.mask import Painter

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def masks(table) -> np.ndarray:
    return np.stack([Painter(ref.annotations, LABELS, slide_size=ref.size).paint(box, (8, 8)) for ref, box in table])


def pictures(table) -> np.ndarray:
    return np.stack([picture(ord(r.entry))[int(b.y) : int(b.y) + 8, int(b.x) : int(b.x) + 8] for r, b in table])


def test_zarr_holds_pictures_and_masks_in_the_tables_order(tmp_path):
    table = small_table(tmp_path)
    group = zarr.open_group(str(export_patches(table, tmp_path / "out.zarr", format="zarr")), mode="r")
    assert group["images"].shape == (4, 8, 8, 3)
    assert group["images"].chunks == (1, 8, 8, 3)
    assert group["masks"].chunks == (1, 8, 8)
    assert np.array_equal(group["images"][:], pictures(table))
    assert np.array_equal(group["masks"][:], masks(table))


def test_zarrs_attributes_say_what_each_patch_is(tmp_path):
    group = zarr.open_group(str(export_patches(small_table(tmp_path), tmp_path / "out", format="zarr")), mode="r")
    about = dict(group.attrs)
    assert (about["mpp"], about["size_px"]) == (0.5, 8)
    assert about["labels"]["classes"] == {"Stroma": ["Stroma"], "Tumor": ["Tumor"]}
    assert about["rows"]["split"] == ["train", "val", "train", "train"]
    assert about["rows"]["x"] == [0, 0, 8, 12]
    assert about["rows"]["name"][1] == "Case_B_x0_y0_Stroma_fibres"


def members(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


def read(shards: Path, pattern: str, decode: str | None = "rgb8") -> list[dict]:
    files = sorted(str(p) for p in shards.glob(pattern))
    stream = webdataset.WebDataset(files, shardshuffle=False)
    found = list(stream if decode is None else stream.decode(decode, handler=webdataset.reraise_exception))
    del stream
    gc.collect()  # webdataset leaves the closing of shards to it
    return found


def test_a_sample_of_a_shard_is_picture_mask_and_json(tmp_path):
    table = small_table(tmp_path)
    out = export_patches(table, tmp_path / "out", format="webdataset")
    assert sorted(p.name for p in out.iterdir()) == [
        "manifest.csv",
        "manifest.json",
        "train-000000.tar",
        "val-000000.tar",
    ]
    (sample,) = read(out, "val-*.tar")
    assert sample["__key__"] == "Case_B_x0_y0_Stroma_fibres"
    assert np.array_equal(sample["png"], pictures(table)[1])
    assert sample["json"]["slide"] == "Case B.svs"
    assert (sample["json"]["x"], sample["json"]["label"], sample["json"]["roi"]) == (0.0, "Stroma", "fibres")
    assert {s["__key__"] for s in read(out, "train-*.tar")} == {
        "Case_A_x0_y0_Tumor_core",
        "Case_A_x8_y0_Stroma_edge",
        "Case_A_x12_y12_Background",
    }


def test_a_mask_of_a_shard_keeps_its_values(tmp_path):
    table = small_table(tmp_path)
    out = export_patches(table, tmp_path / "out", format="webdataset")
    (sample,) = read(out, "val-*.tar", decode=None)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample["mask.png"]))), masks(table)[1])


@pytest.fixture
def many(tmp_path: Path):
    """400 patches of 64 px; a shard of 1 MB has room for 39 of them at worst."""
    rows = [("ab"[i % 2], i % 25, i // 25, "Stroma", "", "") for i in range(400)]
    return replace(small_table(tmp_path, rows), size_px=64)


def test_shards_are_no_larger_than_asked_and_about_equal(many, tmp_path):
    out = export_patches(many, tmp_path / "out", format="webdataset", shard_mb=1)
    shards = sorted(out.glob("patches-*.tar"))
    assert [s.name for s in shards] == [f"patches-{i:06d}.tar" for i in range(len(shards))]
    assert 10 <= len(shards) <= 12
    assert max(s.stat().st_size for s in shards) <= 1_000_000
    counts = [len(members(s)) // 3 for s in shards]
    assert sum(counts) == 400
    assert max(counts) - min(counts) <= 1


def test_each_shard_has_patches_of_every_slide_though_slides_are_read_one_after_the_other(many, tmp_path):
    out = export_patches(many, tmp_path / "out", format="webdataset", shard_mb=1)
    for shard in out.glob("*.tar"):
        slides = {name.split("_x")[0] for name in members(shard)}
        assert slides == {"Case_A", "Case_B"}


def test_more_shards_than_may_be_open_are_written_in_turns(many, tmp_path, monkeypatch):
    monkeypatch.setattr("qp2train.sampling.export.webdataset.MOST_OPEN", 2)
    out = export_patches(many, tmp_path / "out", format="webdataset", shard_mb=1)
    names = [n for s in out.glob("*.tar") for n in members(s)]
    assert len(names) == len(set(names)) == 1200


def test_same_table_and_seed_same_bytes(many, tmp_path):
    one, two, other = (
        export_patches(many, tmp_path / name, format="webdataset", shard_mb=1, seed=seed)
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    first = "patches-000000.tar"
    assert (one / first).read_bytes() == (two / first).read_bytes()
    assert (one / first).read_bytes() != (other / first).read_bytes()


def test_the_manifest_names_the_shard(many, tmp_path):
    out = export_patches(many, tmp_path / "out", format="webdataset", shard_mb=1)
    row = pd.read_csv(out / "manifest.csv").iloc[7]
    with tarfile.open(out / row["shard"]) as tar:
        said = json.load(tar.extractfile(f"{row['name']}.json"))
    assert (said["x"], said["y"]) == (row["x"], row["y"])
