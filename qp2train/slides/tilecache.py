"""The decoded tiles that this process keeps, bounded in bytes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

# Enough for three rows of 256-px tiles across a slide 100,000 px wide; every process of a loader has its own.
CACHE_BYTES = 256 << 20

Pixels = NDArray[np.uint8]


class TileCache:
    """The tiles used last, of all slides together. Threads may share it.

    Args:
        capacity: Bytes of pixels kept.
    """

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        self.capacity = capacity
        self._tiles: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of pixels held now."""
        return self._bytes

    def get(self, key: Hashable) -> Pixels | None:
        """The tile, which must not be written to; None if it is not held."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: Pixels) -> None:
        """Keep a tile, and drop those not used for longest."""
        with self._lock:
            if tile.nbytes > self.capacity or key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self.capacity:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Drop all tiles."""
        # A new lock: in a forked process, the old one may be held by a thread that does not exist there.
        self._lock = threading.Lock()
        self._tiles = OrderedDict()
        self._bytes = 0


TILES = TileCache()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TILES.clear)
