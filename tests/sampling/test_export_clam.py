"""Coordinates as CLAM and TRIDENT read them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import openslide
import pandas as pd
import pytest
from fakes import write_pyramid
from small import small_table

from qp2train import PatchTable, export_patches
from qp2train.core.view import View


def on_pyramid(tmp_path: Path, rows, **more) -> PatchTable:
    """Slide A as a pyramid of 256×192, 128×96 and 64×48 px, 0.5, 1 and 2 µm per pixel."""
    base = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    levels = [np.kron(base, np.ones((k, k, 1), np.uint8)) for k in (4, 2, 1)]
    path = write_pyramid(tmp_path / "Case A.tif", levels, mpp=0.5)
    table = small_table(tmp_path, rows, **more)
    return replace(table, slides={"a": replace(table.slides["a"], path=str(path), size=(256, 192))})


def read(path: Path) -> tuple[list[list[int]], dict]:
    with h5py.File(path) as file:
        return file["coords"][:].tolist(), dict(file["coords"].attrs)


@pytest.mark.parametrize(("mpp", "level"), [(0.5, 0), (1.0, 1), (2.0, 2)])
def test_clam_reads_what_the_slide_shows_there(tmp_path, mpp, level):
    """As CLAM does it: `read_region(coord, patch_level, (patch_size, patch_size))`."""
    table = on_pyramid(tmp_path, [("a", 16, 32, "Tumor", "", ""), ("a", 64, 0, "Stroma", "", "")], mpp=mpp)
    out = export_patches(table, tmp_path / "out", format="clam")
    coords, attributes = read(out / "patches" / "Case A.h5")
    assert coords == [[16, 32], [64, 0]]
    assert (attributes["patch_level"], attributes["patch_size"]) == (level, 8)
    assert attributes["patch_size_level0"] == 8 * 2**level
    from qp2train import open_slide

    with openslide.OpenSlide(table.slides["a"].path) as slide, open_slide(table.slides["a"].path) as ours:
        for row, corner in enumerate(coords):
            region = np.asarray(slide.read_region(tuple(corner), level, (8, 8)).convert("RGB"))
            assert np.array_equal(region, ours.read(table.box(row), (8, 8)))


def test_tridents_attributes_give_the_same_place(tmp_path):
    """As TRIDENT does it: `round(patch_size * level0_magnification / target_magnification)` px of level 0."""
    table = on_pyramid(tmp_path, [("a", 16, 32, "Tumor", "", "")], mpp=0.75)
    coords, said = read(export_patches(table, tmp_path / "out", format="trident") / "patches" / "Case A_patches.h5")
    assert coords == [[16, 32]]
    assert (said["patch_size"], said["level0_magnification"]) == (8, 20)
    assert round(said["patch_size"] * said["level0_magnification"] / said["target_magnification"]) == 12
    assert (said["patch_size_level0"], said["level0_width"], said["level0_height"]) == (12, 256, 192)
    assert (said["name"], said["overlap"]) == ("Case A", 0)


def test_between_stored_levels_clam_reads_more_pixels_of_the_finer_one(tmp_path, caplog):
    table = on_pyramid(tmp_path, [("a", 16, 32, "Tumor", "", "")], mpp=1.5)
    _, said = read(export_patches(table, tmp_path / "out", format="clam") / "patches" / "Case A.h5")
    assert (said["patch_level"], said["patch_size"], said["patch_size_level0"]) == (1, 12, 24)
    assert said["target_magnification"] == 10
    assert "1 of 1 slides have no stored level of 1.5 µm per pixel" in caplog.text
    assert "Case A.svs: 12 px of level 1, 1 µm per pixel" in caplog.text


def test_positions_between_pixels_are_rounded_and_said(tmp_path, caplog):
    table = on_pyramid(tmp_path, [("a", 16.4, 32.6, "Tumor", "", ""), ("a", 5, 6, "Tumor", "", "")])
    with caplog.at_level(logging.WARNING):
        out = export_patches(table, tmp_path / "out", format="clam")
    assert read(out / "patches" / "Case A.h5")[0] == [[16, 33], [5, 6]]
    assert "1 patches lie between pixels: moved by 0.4 px at most" in caplog.text
    rows = pd.read_csv(out / "manifest.csv")
    assert rows[["x", "y", "level0_x", "level0_y"]].to_numpy().tolist()[0] == [16.4, 32.6, 16, 33]


def test_of_a_cropped_and_mirrored_image_coordinates_are_those_of_the_file(tmp_path):
    table = on_pyramid(tmp_path, [("a", 10, 20, "Tumor", "", "")])
    view = View(100, 50, 80, 60).flipped("horizontal")
    ref = replace(table.slides["a"], view=str(view), size=view.size)
    out = export_patches(replace(table, slides={"a": ref}), tmp_path / "out", format="clam")
    # 10–18 of 80, mirrored: 62–70; from 100 on.
    assert read(out / "patches" / "Case A.h5")[0] == [[162, 70]]


def test_two_images_of_one_file_share_its_coordinates(tmp_path):
    table = on_pyramid(tmp_path, [("a", 8, 8, "Tumor", "", ""), ("crop", 0, 0, "Stroma", "", "")])
    crop = replace(table.slides["a"], entry="crop", view=str(View(40, 40, 30, 30)), size=(30, 30))
    out = export_patches(replace(table, slides={**table.slides, "crop": crop}), tmp_path / "out", format="clam")
    assert [p.name for p in (out / "patches").iterdir()] == ["Case A.h5"]
    assert read(out / "patches" / "Case A.h5")[0] == [[8, 8], [40, 40]]


def test_classes_lie_beside_the_coordinates(tmp_path):
    table = on_pyramid(tmp_path, [("a", 8, 8, "Tumor", "", ""), ("a", 0, 0, "grade 3", "", "")])
    out = export_patches(table, tmp_path / "out", format="clam")
    with h5py.File(out / "patches" / "Case A.h5") as file:
        assert file["labels"][:].tolist() == [2, -1]


def test_a_file_per_slide_named_as_the_slides_file(tmp_path):
    out = export_patches(small_table(tmp_path), tmp_path / "out", format="clam")
    assert sorted(p.name for p in (out / "patches").iterdir()) == ["a.h5", "b.h5"]
    assert pd.read_csv(out / "manifest.csv")["file"].tolist() == [
        "patches/a.h5",
        "patches/b.h5",
        "patches/a.h5",
        "patches/a.h5",
    ]
