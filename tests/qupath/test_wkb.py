from __future__ import annotations

import contextlib
import struct

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from qp2train.errors import QuPathFormatError
from qp2train.qupath.wkb import read_wkb

SHAPES = [
    "POINT (1 2)",
    "MULTIPOINT ((1 2), (3 4))",
    "LINESTRING (0 0, 1 1, 2 0)",
    "MULTILINESTRING ((0 0, 1 1), (2 2, 3 3))",
    "POLYGON ((0 0, 9 0, 9 9, 0 9, 0 0), (1 1, 2 1, 2 2, 1 1))",
    "MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)), ((5 5, 6 5, 6 6, 5 5)))",
    "GEOMETRYCOLLECTION (POINT (1 2), POLYGON ((0 0, 1 0, 1 1, 0 0)))",
    "POLYGON EMPTY",
    "GEOMETRYCOLLECTION EMPTY",
]


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("byte_order", [0, 1])
def test_all_types_in_both_byte_orders(text: str, byte_order: int) -> None:
    shape = shapely.from_wkt(text)
    assert read_wkb(shapely.to_wkb(shape, byte_order=byte_order)) == shape


@pytest.mark.parametrize("flavor", ["extended", "iso"])
def test_z_and_srid_are_dropped(flavor: str) -> None:
    shape = shapely.from_wkt("POLYGON Z ((0 0 5, 1 0 5, 1 1 5, 0 0 5))")
    assert not shapely.has_z(read_wkb(shapely.to_wkb(shape, output_dimension=3, flavor=flavor)))
    with_srid = shapely.to_wkb(shapely.set_srid(shapely.Point(1, 2), 4326), include_srid=True)
    assert read_wkb(with_srid) == shapely.Point(1, 2)


def test_deep_nesting_is_refused_before_geos_recurses() -> None:
    bomb = struct.pack("<BII", 1, 7, 1) * 200_000 + struct.pack("<BIdd", 1, 1, 0, 0)
    with pytest.raises(QuPathFormatError, match="nested more than 16 deep"):
        read_wkb(bomb)


@pytest.mark.parametrize("count", [5, 0xFFFFFFFF])
def test_counts_beyond_the_data_are_refused(count: int) -> None:
    with pytest.raises(QuPathFormatError, match="truncated"):
        read_wkb(struct.pack("<BII", 1, 2, count) + bytes(16))


@given(st.sampled_from(SHAPES), st.data())
def test_damage_raises_nothing_else(text: str, data: st.DataObject) -> None:
    raw = bytearray(shapely.to_wkb(shapely.from_wkt(text)))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(QuPathFormatError):
        read_wkb(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
