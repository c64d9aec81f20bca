"""Well-known binary from a file that nobody vouches for.

GEOS recurses into geometry collections without a limit, so a crafted 1 MB ROI would end the process. The structure
is therefore walked here first: nesting bounded, every count compared with the bytes that remain.
"""

from __future__ import annotations

import struct

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.errors import QuPathFormatError

_MAX_DEPTH = 16
_EWKB_Z, _EWKB_M, _EWKB_SRID = 0x80000000, 0x40000000, 0x20000000


def read_wkb(raw: bytes) -> BaseGeometry:
    """A 2-D geometry from WKB or EWKB of either byte order.

    Raises:
        QuPathFormatError: The bytes are no WKB, or collections nest more than 16 deep.
    """
    try:
        _check(raw)
        with np.errstate(all="ignore"):  # signalling NaNs
            return shapely.force_2d(shapely.from_wkb(raw))
    except (struct.error, IndexError) as error:
        raise QuPathFormatError(f"a geometry is truncated: WKB of {len(raw)} bytes") from error
    except shapely.errors.ShapelyError as error:
        raise QuPathFormatError(f"a geometry of {len(raw)} bytes is not WKB: {error}") from error


def _check(raw: bytes) -> None:
    pos = 0
    left = [1]  # geometries still to come, per open collection
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        order = "<" if raw[pos] == 1 else ">"
        code = struct.unpack_from(order + "I", raw, pos + 1)[0]
        pos += 5 + (4 if code & _EWKB_SRID else 0)
        iso, kind = divmod(code & 0xFFFF, 1000)
        extra = bool(code & _EWKB_Z) + bool(code & _EWKB_M) + (0, 1, 1, 2)[iso if iso < 4 else 0]
        size = 8 * (2 + extra)
        if kind == 1:
            pos += size
        elif kind in (2, 3, 4, 5, 6, 7):
            count = struct.unpack_from(order + "I", raw, pos)[0]
            pos += 4
            if kind == 2:
                pos += count * size
            elif kind == 3:
                for _ in range(count):
                    pos += 4 + size * struct.unpack_from(order + "I", raw, pos)[0]
            elif len(left) >= _MAX_DEPTH:
                raise QuPathFormatError(f"geometries nested more than {_MAX_DEPTH} deep")
            else:
                left.append(count)
        else:
            raise QuPathFormatError(f"geometry type {code} in WKB is unknown")
        if pos > len(raw):
            raise QuPathFormatError(f"a geometry is truncated: {pos} bytes needed, {len(raw)} there")
