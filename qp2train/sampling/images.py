"""Which images are sampled: each is opened once, and what is drawn on it is kept as a snapshot."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import shapely

from qp2train.core.annotation import Annotation
from qp2train.core.geometry import Box
from qp2train.core.labels import IGNORE, LabelMap
from qp2train.core.patches import SlideRef
from qp2train.core.snapshot import Snapshot
from qp2train.errors import LabelError, NoAnnotationError, ProjectError, SlideError
from qp2train.sampling.entry import Entry, Objects

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Images:
    """The images of a sampling.

    Args:
        refs: Those that are used.
        drawn: QuPath class → number of objects on them.
        entries: Entry id → where it came from.
    """

    refs: Sequence[SlideRef]
    drawn: Mapping[str | None, int]
    entries: Mapping[str, Entry]


def open_images(
    entries: Iterable[Entry],
    labels: LabelMap,
    *,
    objects: Objects,
    unannotated: bool,
    labelled: bool,
    skip_unreadable: bool,
    progress: Progress | None,
) -> Images:
    """Open every image that is needed once. All troubles are reported together, before any long work.

    Args:
        entries: The images.
        labels: The classes.
        objects: Which kinds of objects count as drawn.
        unannotated: Images without a drawn object of these classes are used, too.
        labelled: The classes come from elsewhere; the drawn objects need not have them.
        skip_unreadable: Leave out slides that cannot be used, with a warning.
        progress: Called with (name, done, total).

    Raises:
        NoAnnotationError: Nothing was drawn, and `unannotated` is false.
        LabelError: A class that nothing drawn has.
        SlideError, ProjectError: Slides that cannot be used, all of them named.
    """
    images = list(entries)
    refs: list[SlideRef] = []
    problems: list[tuple[str, SlideError | ProjectError]] = []
    everything, usable = Counter[str | None](), Counter[str | None]()
    for done, entry in enumerate(images, start=1):
        found = entry.annotations() if objects == "annotation" else entry.annotations(objects)
        # A model must not learn from what a model predicted.
        drawn = [a for a in found if a.drawn]
        del found
        empty = shapely.is_empty([a.geometry for a in drawn])
        names = Counter(a.class_name for a, nowhere in zip(drawn, empty, strict=True) if not nowhere)
        everything += names
        if unannotated or any(labels.value_of(name) is not None for name in names):
            try:
                refs.append(_reference(entry, drawn))
                usable += names
            except (SlideError, ProjectError) as error:  # the latter: QuPath computes its pixels
                problems.append((entry.name, error))
        if progress is not None:
            progress(entry.name, done, len(images))
    _report(problems, len(images), skip=skip_unreadable and bool(refs))
    if not everything and not unannotated:
        raise NoAnnotationError(f"none of the {len(images)} images has an annotation drawn by a human")
    if everything and not labelled:
        labels.check_names(everything)
        labels.check_names(usable)
    for name, n in everything.items():
        if labels.value_of(name) is None:
            log.info("%d object(s) of class %r paint nothing: it is not in the label map", n, name or "unclassified")
    if len(refs) + len(problems) < len(images):
        log.info("%d of %d images have no annotation of these classes", len(images) - len(refs), len(images))
    return Images(refs, usable, {entry.id: entry for entry in images})


def classes_from(refs: Sequence[SlideRef], key: str, labels: LabelMap) -> dict[str, str]:
    """Entry id → class, from the slides' metadata.

    Raises:
        LabelError: Slides without the key, a value that is no class, or a class that no slide has; all named.
    """
    without = [ref.name for ref in refs if not ref.metadata.get(key)]
    if without:
        raise LabelError(
            f"label_from={key!r}: {len(without)} of {len(refs)} slides have no such metadata: {_some(without)}. Fill "
            "it in in QuPath (project list, right click, Edit metadata), or in a folder's metadata.csv"
        )
    values = {ref.metadata[key]: labels.value_of(ref.metadata[key]) for ref in refs}
    wrong = [f"{ref.name}: {ref.metadata[key]!r}" for ref in refs if values[ref.metadata[key]] in (None, IGNORE)]
    if wrong:
        raise LabelError(
            f"label_from={key!r}: on {len(wrong)} of {len(refs)} slides it is none of the classes "
            f"{', '.join(labels.classes)}: {_some(wrong)}. Merge it under one: LabelMap({{'Tumor': ['tumour', 'T1']}})"
        )
    labels.check_names(values)
    return {ref.entry: labels.names[values[ref.metadata[key]] or 0] for ref in refs}


def _report(problems: Sequence[tuple[str, SlideError | ProjectError]], count: int, *, skip: bool) -> None:
    if problems and not skip:
        raise type(problems[0][1])(
            f"{len(problems)} of {count} slides cannot be used:\n"
            + "\n".join(f"  {name}: {error}" for name, error in problems)
            + "\nCure them, or leave them out with skip_unreadable=True."
        )
    for name, problem in problems:
        log.warning("left out: %s: %s", name, problem)


def _reference(entry: Entry, drawn: Iterable[Annotation]) -> SlideRef:
    slide = entry.slide()
    try:
        slide.read(Box(0, 0, 1, 1), (1, 1))  # a slide can open well and fail at its first pixel
        metadata = dict(entry.metadata)
        return SlideRef(entry.id, entry.name, slide.path, slide.mpp, slide.size, metadata, Snapshot(drawn), slide.view)
    finally:
        slide.close()


def _some(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
