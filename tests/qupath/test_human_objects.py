"""A human's objects are not changed by anything that is written back: over random hierarchies and random writes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from qp2train.core.annotation import Annotation, Kind, Plane
from qp2train.qupath.javanodes import JString
from qp2train.qupath.pathobject import set_children, walk
from qp2train.qupath.qpbuild import Builder
from qp2train.qupath.qpdata import SOURCE_KEY, QpData, load, read_annotations
from qp2train.qupath.writeback import remove_objects, write_objects

from .own_bytes import human_objects, own_bytes
from .worked_example import TRIANGLE

SHAPES = (
    shapely.box(0, 0, 9, 9),
    shapely.Polygon([(0.1, 0), (9, 1 / 3), (5, 7)]),
    shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 3, 3)),
    shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(4, 4, 5, 5)]),
    shapely.LineString([(0, 0), (5, 5)]),
    shapely.LineString([(0, 0), (5, 5), (9, 0)]),
    shapely.MultiLineString([[(0, 0), (5, 5)], [(9, 9), (8, 8)]]),
    shapely.Point(3, 4),
    shapely.MultiPoint([(3, 4), (5, 6)]),
)
SOURCES = ("a", "b", "c")
NUMBERS = itertools.count()  # no two predictions have the same id


def annotations(source: st.SearchStrategy[str | None]) -> st.SearchStrategy[Annotation]:
    """Objects of every kind but TMA cores, which are not written."""
    kinds: tuple[Kind, ...] = ("annotation", "detection", "cell", "tile")
    return st.builds(
        Annotation,
        st.sampled_from(SHAPES),
        st.sampled_from([None, "Tumor", "Tumor: Positive", "Ünïcode 腫瘍", "A: B: C"]),
        kind=st.sampled_from(kinds),
        name=st.none() | st.text(max_size=4),
        measurements=st.dictionaries(st.sampled_from(["a", "b", "ä", ""]), st.floats(width=32), max_size=3),
        locked=st.booleans(),
        id=st.uuids(version=4).map(str),
        plane=st.builds(Plane, st.integers(-1, 2), st.integers(0, 3), st.integers(0, 3)),
        color=st.none() | st.just((1, 2, 3)),
        source=source,
        metadata=st.dictionaries(st.sampled_from(["k", "Case ID", "😀"]), st.text(max_size=4), max_size=2),
        nucleus=st.none() | st.just(shapely.box(1, 1, 2, 2)),
    ).map(lambda a: a if a.kind == "cell" else replace(a, nucleus=None))


@dataclass(frozen=True)
class Step:
    """One write or clear. `places` say where the annotations go, `seed` what a human edits afterwards."""

    what: Literal["replace", "add", "clear"]
    source: str
    wanted: list[Annotation]
    places: list[float]
    edits: int
    seed: int


steps = st.builds(
    Step,
    st.sampled_from(["replace", "replace", "add", "clear"]),
    st.sampled_from(SOURCES),
    st.lists(annotations(st.none()), max_size=4),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
    st.integers(0, 2),
    st.integers(0, 1 << 30),
)


def hierarchy(objects: Sequence[tuple[Annotation, float]]) -> bytes:
    """A file with these objects, each under the root or one before it; the number says which.

    So humans' objects lie under predictions and the other way round, to any depth.
    """
    data = load(TRIANGLE)
    root = next(walk(data.root))
    set_children(root, [])
    ids: list[str | None] = [None]
    for one, place in objects:
        parent = ids[int(place * len(ids))]
        write_objects(data, [replace(one, source=None, parent=parent)], source=one.source, mode="add")
        ids.append(one.id)
    return data.to_bytes()


def edit_by_hand(data: QpData, rng: Random) -> None:
    """What a human does in QuPath to one object, a prediction as a rule: another name, class, lock, outline, parent."""
    objects = list(walk(data.root))[1:]
    if not objects:
        return
    obj = rng.choice(objects)
    contents, builder = obj.node.contents, Builder(data.classes)
    how = rng.randrange(5)
    after = obj.children_at + 1 + len(obj.children)
    if how == 0:
        contents[0] = JString(f"checked {rng.random()}")
    elif how == 1:
        contents[after] = builder.boolean(not obj.locked)
    elif how == 2:
        contents[after + 1] = builder.path_class("Corrected")
    elif how == 3:
        contents[after + 2] = builder.roi(Annotation(shapely.box(0, 0, rng.random(), 1)))
    elif obj.parent is not None:  # dragged to the root
        set_children(obj.parent, [child for child in obj.parent.children if child is not obj.node])
        root = next(walk(data.root))
        set_children(root, [*root.children, obj.node])


@dataclass(frozen=True)
class Seen:
    """One object as it lies in a file: its own bytes, the model that made it, and the object it lies under."""

    own: bytes
    source: str | None
    under: str | None


def tree(data: QpData) -> dict[str | None, Seen]:
    return {
        o.id: Seen(own_bytes(o), o.metadata.get(SOURCE_KEY), o.parent.id if o.parent else None) for o in walk(data.root)
    }


def left_above(under: str | None, before: dict[str | None, Seen], after: dict[str | None, Seen]) -> str | None:
    """Where something belongs that lay under `under`: there, or under the nearest of its ancestors that is left."""
    while under is not None and under not in after:
        under = before[under].under
    return under


def do(data: QpData, step: Step) -> QpData:
    """Carry a step out; its annotations go under objects that a replace does not take out."""
    if step.what == "clear":
        remove_objects(data, step.source)
        return load(data.to_bytes())
    parents = [None, *(key for key, seen in tree(data).items() if seen.source != step.source)]
    wanted = [
        replace(a, id=f"00000000-0000-4000-8000-{next(NUMBERS):012d}", parent=parents[int(place * len(parents))])
        for a, place in zip(step.wanted, step.places, strict=False)
    ]
    write_objects(data, wanted, source=step.source, mode=step.what)
    return load(data.to_bytes())


hierarchies = st.lists(
    st.tuples(annotations(st.sampled_from([None, None, *SOURCES])), st.floats(0, 1, exclude_max=True)),
    max_size=10,
    unique_by=lambda pair: pair[0].id,
).map(hierarchy)


@settings(max_examples=200)
@given(start=hierarchies, steps=st.lists(steps, min_size=1, max_size=5))
def test_what_a_human_drew_or_corrected_stays_through_any_writes_and_clears(start: bytes, steps: list[Step]) -> None:
    data = load(start)
    for step in steps:
        rng = Random(step.seed)
        for _ in range(step.edits):
            edit_by_hand(data, rng)
        before, human = tree(data), human_objects(data)
        corrected = set(read_annotations(data).edited)
        data = do(data, step)
        after = tree(data)
        assert human_objects(data) == human  # bytes, order, and the nearest human object above
        for key, seen in before.items():
            if seen.source == step.source and key not in corrected and step.what != "add":
                assert key not in after
            else:
                assert after[key] == replace(seen, under=left_above(seen.under, before, after))


@settings(max_examples=200)
@given(start=hierarchies, steps=st.lists(steps, min_size=1, max_size=5))
def test_clearing_every_source_gives_what_the_human_had(start: bytes, steps: list[Step]) -> None:
    humans_alone = load(start)
    for source in SOURCES:
        remove_objects(humans_alone, source)
    data = load(start)
    for step in steps:
        data = do(data, step)
    for source in SOURCES:
        remove_objects(data, source)
    assert data.to_bytes() == humans_alone.to_bytes()
