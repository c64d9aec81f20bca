"""Patches as tile objects."""

from __future__ import annotations

from fakes import table_of

from qp2train.sampling.patchtiles import PATCH_SOURCE, patch_tiles


def test_a_tile_per_patch_with_its_class_split_and_share():
    table = table_of({"a": 2, "b": 1})  # 64 px at 1 µm on slides of 0.5 µm: 128 px wide
    table.rows.loc[1, ["label", "split", "annotated"]] = ["", "train", 0.123456]
    tiles = dict(patch_tiles(table))
    assert [(k, len(v)) for k, v in tiles.items()] == [("a", 2), ("b", 1)]
    first, second = tiles["a"]
    assert (first.kind, first.class_name, first.name) == ("tile", "Tumor", None)
    assert first.geometry.bounds == (0, 0, 128, 128)
    assert (second.class_name, second.name) == (None, "train")
    assert second.geometry.bounds == (8, 0, 136, 128)
    assert dict(second.measurements) == {"annotated": 0.1235}


def test_the_source_is_what_the_command_line_documents():
    assert PATCH_SOURCE == "qp2train-patches"
