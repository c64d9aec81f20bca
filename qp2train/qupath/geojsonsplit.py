"""A GeoJSON text in pieces → its features, one text each, so that no file need be parsed as a whole.

Brackets are found with numpy, quotes and backslashes honoured. A text is a list of features, an object with a list
"features", any other object, or several of these, each on a line of its own (RFC 8142: or after a record separator).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from qp2train.errors import QuPathFormatError

_MAX_DEPTH = 1000  # what the parsers stand; a feature of QuPath has six levels, and three more for each parent
_MAX_FEATURE = 1 << 28  # bytes of one feature; its numbers take sixteen times that as objects
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = 1, 2, 3, 4
_CODES = bytes(
    {34: _QUOTE, 92: _BACKSLASH, 91: _OPEN, 123: _OPEN, 93: _CLOSE, 125: _CLOSE}.get(i, 0) for i in range(256)
)
_BOM, _SEPARATOR = b"\xef\xbb\xbf", b"\x1e"
_BLANK = b" \t\r\n"
_FEATURES = re.compile(rb'(?<!\\)"features"[ \t\r\n]*:[ \t\r\n]*\Z')
_KEY_BYTES = 64  # how far before its bracket the key "features" is looked for


def split(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The texts of the features, in order: for every piece those that end in it.

    An object that held a list "features" comes last, with that list empty.

    Raises:
        QuPathFormatError: Brackets do not match, something else stands between features, or one is too large.
    """
    scanner, splitter = _Scanner(), _Splitter()
    for piece in pieces:
        splitter.add(piece)
        found = splitter.walk(*scanner.brackets(piece))
        if found:
            yield found
    splitter.end()


class _Scanner:
    """Finds the outer brackets of a text that comes in pieces."""

    def __init__(self) -> None:
        self._at = 0  # bytes seen
        self._depth = 0
        self._in_text = False
        self._escaped = False  # whether the next byte follows a backslash that counts

    def brackets(self, piece: bytes) -> tuple[list[int], list[bool], list[int]]:
        """Where brackets of the three outer levels are, whether they open, and the depth outside of each."""
        codes = np.frombuffer(piece.translate(_CODES), np.uint8)
        at = np.flatnonzero(codes != 0)
        kinds = codes[at]
        quotes = kinds == _QUOTE
        if b"\\" in piece or self._escaped:
            quotes &= ~self._are_escaped(at, kinds, len(piece))
        count = np.cumsum(quotes) + self._in_text
        if len(count):
            self._in_text = bool(count[-1] & 1)
        outside = (kinds >= _OPEN) & (count & 1 == 0)
        at, opens = at[outside], kinds[outside] == _OPEN
        inner = np.cumsum(np.where(opens, 1, -1)) + self._depth
        if len(inner):
            self._depth = int(inner[-1])
            if inner.max() > _MAX_DEPTH:
                raise QuPathFormatError(f"not JSON of features: brackets nested more than {_MAX_DEPTH} deep")
        outer = inner - opens
        wanted = outer <= 2
        start, self._at = self._at, self._at + len(piece)
        return (at[wanted] + start).tolist(), opens[wanted].tolist(), outer[wanted].tolist()

    def _are_escaped(self, at: NDArray[np.intp], kinds: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
        slashes = at[kinds == _BACKSLASH]
        first = np.flatnonzero(np.diff(slashes, prepend=-2) != 1)
        starts = slashes[first]
        lengths = np.diff(first, append=len(slashes))
        ends = starts + lengths  # the byte after each run
        carried = self._escaped
        if carried and len(starts) and starts[0] == 0:
            lengths[0] += 1
        odd = ends[lengths % 2 == 1]
        if carried and not (len(starts) and starts[0] == 0):
            odd = np.concatenate([[0], odd])
        self._escaped = bool(len(odd)) and int(odd[-1]) == size
        return np.isin(at, odd, assume_unique=True)


class _Splitter:
    """Walks along the brackets and cuts the features out."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._offset = 0  # bytes dropped from the front of `_text`
        self._level = 0  # depth at which features lie: 0 values of their own, 1 a list, 2 the list "features"
        self._gap = 0  # where the last feature ended
        self._first = True  # nothing yet in this list
        self._start: int | None = None  # where the current feature began
        self._shell: list[bytes] = []  # the parts so far of the object round the list "features"
        self._count = 0

    def add(self, piece: bytes) -> None:
        keep = self._gap if self._start is None else self._start
        del self._text[: keep - self._offset]
        self._offset = keep
        self._text += piece
        if len(self._text) > _MAX_FEATURE + len(piece):
            raise QuPathFormatError(f"feature {self._count} takes more than {_MAX_FEATURE >> 20} MB")

    def _cut(self, start: int, stop: int) -> bytes:
        return bytes(self._text[start - self._offset : stop - self._offset])

    def walk(self, places: list[int], opening: list[bool], outer: list[int]) -> list[bytes]:
        found = []
        for at, opens, depth in zip(places, opening, outer, strict=True):
            level = self._level
            if depth == level:
                if not opens:
                    if self._start is None:
                        raise self._unexpected(at)
                    text = self._cut(self._start, at + 1)
                    if level == 0 and self._shell:
                        text = b"".join([*self._shell, text])
                        self._shell.clear()
                    else:
                        self._count += 1
                    found.append(text)
                    self._enter(level, at + 1, first=False)
                    continue
                self._check_gap(at)
                if level or self._text[at - self._offset] == ord("{"):
                    self._start = at
                else:
                    self._enter(1, at + 1)
            elif depth < level:
                self._leave(at)
            elif level == 0 and depth == 1 and opens and self._is_features(at):
                assert self._start is not None
                self._shell.append(self._cut(self._start, at + 1))
                self._enter(2, at + 1)
        return found

    def _enter(self, level: int, at: int, *, first: bool = True) -> None:
        self._level, self._gap, self._first, self._start = level, at, first, None

    def _leave(self, at: int) -> None:
        """A list ends at `at`; the object round the list "features" may have more to say."""
        gap = self._cut(self._gap, at).strip(_BLANK)
        if gap != b"" and (gap != b"," or self._first):
            raise self._unexpected(self._gap)
        if self._text[at - self._offset] != ord("]") or self._level == 0:
            raise self._unexpected(at)
        if self._level == 2:
            self._level, self._start = 0, at
        else:
            self._enter(0, at + 1, first=False)

    def _check_gap(self, at: int) -> None:
        gap = self._cut(self._gap, at)
        if self._level:
            if gap.strip(_BLANK) != (b"" if self._first else b","):
                raise self._unexpected(self._gap)
        elif gap.removeprefix(_BOM if not self._gap else b"").strip(_BLANK + _SEPARATOR):
            raise self._unexpected(self._gap)
        elif not self._first and not any(end in gap for end in (b"\n", b"\r", _SEPARATOR)):
            raise QuPathFormatError(f"not JSON: after feature {self._count - 1} another value follows on the same line")

    def _is_features(self, at: int) -> bool:
        assert self._start is not None
        if self._text[at - self._offset] != ord("["):
            return False
        return _FEATURES.search(self._cut(max(self._start, at - _KEY_BYTES), at)) is not None

    def _unexpected(self, at: int) -> QuPathFormatError:
        if not self._gap and self._cut(0, 2) in (b"\xff\xfe", b"\xfe\xff"):
            return QuPathFormatError("not JSON in UTF-8, but UTF-16: save it as UTF-8")
        return QuPathFormatError(f"not JSON: feature {self._count} expected, found {self._cut(at, at + 40)!r}")

    def end(self) -> None:
        rest = bytes(self._text[self._gap - self._offset :])
        if self._start is not None or self._level:
            raise QuPathFormatError(f"not JSON: the text ends before feature {self._count} is complete")
        if rest.removeprefix(_BOM).strip(_BLANK + _SEPARATOR):
            raise self._unexpected(self._gap)
        if self._first:
            raise QuPathFormatError("not JSON: the file is empty")
