"""Damaged variants of a file's bytes, each made by a random.Random alone, so repeatable.

With `mutate_qpdata` and `mutate_geojson` there are three depths, since each reaches code that the others do not: bytes,
the words of the format (lengths, handles, type codes; JSON tokens), and the parsed tree written back (well-formed
files that say something impossible).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]


def several(rng: Random, data: bytes, others: Sequence[bytes], known: Sequence[Mutation]) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = rng.choice(known)(rng, data, others)
    return data


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def some_range(rng: Random, data: bytes) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, min(len(data), start + rng.choice((1, 2, 4, 9, 40, 300, 3000))))


def _flip_bit(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data)) if data else 0
    return put(data, at, bytes([data[at] ^ 1 << rng.randrange(8)])) if data else data


def _set_bytes(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    new = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\x70", b"\x78", rng.randbytes(4), bytes(8)))
    return put(data, rng.randrange(len(data) + 1), new)


def _truncate(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _delete(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    gone = some_range(rng, data)
    return data[: gone.start] + data[gone.stop :]


def _duplicate(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    again = some_range(rng, data)
    return data[: again.stop] + data[again] * rng.choice((1, 1, 2, 50)) + data[again.stop :]


def _move(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    part, at = data[some_range(rng, data)], rng.randrange(len(data) + 1)
    return data[:at] + part + data[at:]


def _splice(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


BYTES: tuple[Mutation, ...] = (_flip_bit, _set_bytes, _truncate, _delete, _duplicate, _move, _splice)
