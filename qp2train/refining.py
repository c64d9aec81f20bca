"""refine_project: what is prompted in a project's images becomes outlines, image by image."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from qp2train.core.annotation import REPLACED_KEY, Annotation
from qp2train.core.geometry import areal
from qp2train.errors import ProjectError, PromptError, Qp2trainError
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.folder import FolderEntry, SlideFolder
from qp2train.qupath.hierarchy import NEW_IDS
from qp2train.qupath.project import Project
from qp2train.qupath.qpdata import DESCRIPTION_KEY
from qp2train.qupath.replaced import taken_out
from qp2train.qupath.writereport import Mode, WriteReport
from qp2train.refine.fallback import ColourModel
from qp2train.refine.onslide import CORRECTS_KEY, ORIGIN_KEY, refine_slide
from qp2train.refine.prompts import PromptModel
from qp2train.refine.refiner import PROMPT_KEY
from qp2train.runs import TISSUE_SOURCE, Outcome
from qp2train.sampling.images import Progress
from qp2train.sampling.patchtiles import PATCH_SOURCE
from qp2train.slides import Slide

log = logging.getLogger(__name__)

# Corrections of predictions are of the same object from this IoU on.
THE_SAME = 0.5


def refine_project(
    project: Project | SlideFolder,
    *,
    model: PromptModel | None = None,
    entries: Iterable[ImageEntry | FolderEntry] | None = None,
    write: bool = False,
    outlines: Sequence[str] = (),
    corrected: bool = False,
    in_place: bool = False,
    class_name: str | None = None,
    mpp: float | None = None,
    pictures: str | Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Outline what is prompted on a project's images, see `refine_slide`; what was drawn stays, unless `in_place`.

    Refining again replaces what the same prompts have asked for before, unless a human has corrected it since; answers
    to other prompts stay. The objects' source is the prompted model's id. An image that fails is reported; the others
    still come.

    Args:
        project: Where the prompts are, and where the outlines are written.
        model: What answers; None = the training-free fallback.
        entries: Which images; None = all.
        write: Write into the project; otherwise the report says what would be written.
        outlines: Classes whose areas are rough outlines to be made better.
        corrected: Also what other models have outlined where a point corrects it, see `wishes`, annotations and
            detections; the new outline takes the place of the predicted one. Not for folders with GeoJSON.
        in_place: Better outlines take the place of the rough ones of the classes `outlines` that a human drew and did
            not lock, with their names. Those come back when the better ones are taken out, see
            `Project.write(in_place_of=)`; until then a model learns from the better ones. Not for folders with GeoJSON.
        class_name: Of objects whose prompt does not say its class.
        mpp: µm per pixel at which outlines of large objects are wanted, see `refine_slide`.
        pictures: A folder for one picture per image: each object before and after.
        progress: Called with (image name, images done, images in all).

    Raises:
        ProjectError: `corrected` or `in_place`, and the project is a folder.
        PromptError: `mpp` is not above 0.
    """
    if corrected and not isinstance(project, Project):
        raise ProjectError(f"{project.path} is a folder of GeoJSON: --corrected (corrected=) is for QuPath projects")
    if mpp is not None and not 0 < mpp < math.inf:
        raise PromptError(f"mpp must be a number above 0, not {mpp}")
    if in_place and not isinstance(project, Project):
        raise ProjectError(f"{project.path} is a folder of GeoJSON: --replace (in_place=) is for QuPath projects")
    answering: PromptModel = ColourModel() if model is None else model
    chosen = list(project if entries is None else entries)
    unseen = set(outlines)
    for done, entry in enumerate(chosen):
        if progress is not None:
            progress(entry.name, done, len(chosen))
        try:
            prompted = _Prompted.of(entry, answering.id, outlines, corrected=corrected)
            unseen -= {a.class_name for a in prompted.drawn}
            slide = entry.slide()
            try:
                found = refine_slide(
                    slide,
                    prompted.drawn,
                    model=answering,
                    outlines=outlines,
                    predicted=prompted.predicted,
                    class_name=class_name,
                    mpp=mpp,
                )
                found = [a for a in found if not prompted.has_answered(a)]
                if pictures is not None and found:
                    _before_after(slide, found, Path(pictures) / f"{entry.id}-{Path(entry.name).stem}.png")
            finally:
                slide.close()
            yield Outcome(entry, found, _written(project, entry, prompted, found, write=write, in_place=in_place))
        except Qp2trainError as error:
            log.info("%s: %s", entry.name, error)  # the caller has it in the outcome
            yield Outcome(entry, error=error)
    if unseen:
        log.warning("no area of class %s is in these images", ", ".join(sorted(map(repr, unseen))))


@dataclass(frozen=True)
class _Prompted:
    """What is there to refine in an image."""

    source: str  # what will answer
    drawn: list[Annotation]  # what may be a prompt
    predicted: list[Annotation]  # what models have outlined, and points may correct
    rough: list[Annotation]  # those of `drawn` that are rough outlines of the classes asked for
    earlier: list[Annotation]  # answers of earlier runs

    @classmethod
    def of(cls, entry: ImageEntry | FolderEntry, source: str, outlines: Sequence[str], *, corrected: bool) -> _Prompted:
        there = entry.annotations("all" if corrected else "annotation")
        earlier = [a for a in there if ORIGIN_KEY in a.metadata]
        # What earlier answers have taken the place of is there again once they are taken out.
        drawn = [a for a in taken_out(there, source) if a.kind == "annotation"]
        others = {str(a.source) for a in there if _replaces(a) and a.source not in (None, source)}
        if others and (outlines or corrected):
            log.warning(
                "%s: outlines of %s stand in the place of yours, and are left as they are: to refine yours anew, take "
                "them out first, `qp2train clear --source`",
                entry.name,
                ", ".join(sorted(others)),
            )
        predicted = [a for a in there if corrected and _is_prediction(a, source)]
        predicted += _before_corrections(earlier)
        return cls(source, drawn, predicted, [a for a in drawn if a.class_name in outlines], earlier)

    def has_answered(self, found: Annotation) -> bool:
        """Whether a human has corrected the answer to the same prompt, or to one that a model has drawn again."""
        return any(
            a.metadata[ORIGIN_KEY] == found.metadata[ORIGIN_KEY] or _is_corrected_again(a, [found])
            for a in self.earlier
            if a.source is None
        )


def _written(
    project: Project | SlideFolder,
    entry: ImageEntry | FolderEntry,
    prompted: _Prompted,
    found: Sequence[Annotation],
    *,
    write: bool,
    in_place: bool,
) -> WriteReport:
    """Write new answers, and keep those to prompts that were not asked this time."""
    anew = {a.metadata[ORIGIN_KEY] for a in found}
    kept = [
        a
        for a in prompted.earlier
        if a.source == prompted.source and a.metadata[ORIGIN_KEY] not in anew and not _is_corrected_again(a, found)
    ]
    mode: Mode = "replace" if write else "dry-run"
    if not isinstance(project, Project):
        return project.write(entry.id, [*found, *kept], source=prompted.source, mode=mode)
    shared = {object_id for object_id, times in Counter(a.id for a in prompted.drawn).items() if times > 1}
    rough = {a.id: a for a in prompted.rough if a.source is None and not a.locked and in_place and a.id not in shared}
    if in_place and shared:
        log.warning(
            "%s: objects share an id, and so get their answer beside them: run in QuPath %s", entry.name, NEW_IDS
        )
    found = [_named_as(rough.get(a.metadata[ORIGIN_KEY]), a) for a in found]
    gone = {a.id for a in prompted.earlier if a.source == prompted.source} - {a.id for a in kept}
    kept = [replace(a, parent=None) if a.parent in gone else a for a in kept]
    # Of a copy, which carries the same along, the first one stays where it is.
    taking = {a.metadata[ORIGIN_KEY]: a.id for a in reversed(kept) if _replaces(a)}
    taking |= {a.metadata[ORIGIN_KEY]: a.id for a in found if a.metadata[ORIGIN_KEY] in rough}
    others = [a for a in prompted.predicted if a.source is not None]
    gives_way = {a.id for a in others if a.id in anew or a.metadata.get(CORRECTS_KEY) in anew}
    report = project.write(
        entry.id,
        [*found, *kept],
        source=prompted.source,
        mode=mode,
        in_place_of={new_id: old_id for old_id, new_id in taking.items()},
    )
    if write:  # the new ones are in before the old ones go
        _take_out(project, entry.id, prompted.predicted, gives_way)
    return replace(report, corrected=len(gives_way))


def _named_as(drawn: Annotation | None, answer: Annotation) -> Annotation:
    """The answer with the name and the description of what it takes the place of, if it does."""
    if drawn is None:
        return answer
    said = {DESCRIPTION_KEY: drawn.metadata[DESCRIPTION_KEY]} if DESCRIPTION_KEY in drawn.metadata else {}
    return replace(answer, name=drawn.name, metadata={**answer.metadata, **said})


def _replaces(answer: Annotation) -> bool:
    """Whether it stands where a human's outline was."""
    return REPLACED_KEY in answer.metadata


def _is_prediction(annotation: Annotation, source: str) -> bool:
    """Whether it is an object that another model outlined; tissue and patches are none."""
    made = not annotation.drawn and annotation.source not in (source, TISSUE_SOURCE, PATCH_SOURCE)
    return made and annotation.kind in ("annotation", "detection")


def _before_corrections(earlier: Iterable[Annotation]) -> Iterator[Annotation]:
    """The predicted objects that earlier corrections took the place of, so that their points still find them."""
    for correction in earlier:
        if CORRECTS_KEY not in correction.metadata:
            continue
        try:
            text = json.loads(correction.metadata[PROMPT_KEY])["mask"]
            with np.errstate(invalid="ignore"):
                read = shapely.from_wkt(str(text))
            if not np.isfinite(shapely.get_coordinates(read)).all():
                raise ValueError("a coordinate is not finite")
            outline = areal(shapely.make_valid(read))
        except (KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
            log.warning("what object %s corrects cannot be read from its metadata: %s", correction.id, error)
            continue
        if outline.area > 0:
            yield Annotation(
                outline,
                correction.class_name,
                name=correction.name,
                id=correction.metadata[CORRECTS_KEY],
                plane=correction.plane,
            )


def _is_corrected_again(earlier: Annotation, found: Iterable[Annotation]) -> bool:
    """Whether a model has predicted anew what this one corrected, and that was corrected now."""
    return CORRECTS_KEY in earlier.metadata and any(
        CORRECTS_KEY in a.metadata
        and (a.class_name, a.plane) == (earlier.class_name, earlier.plane)
        and _overlap(earlier.geometry, a.geometry) >= THE_SAME
        for a in found
    )


def _overlap(a: BaseGeometry, b: BaseGeometry) -> float:
    both = float(a.intersection(b).area)
    return both / max(float(a.area + b.area) - both, 1e-9)


def _take_out(project: Project, entry: str, predicted: Sequence[Annotation], ids: Container[str]) -> None:
    """The predictions of these ids, of whatever model."""
    gone = [a for a in predicted if a.source is not None and a.id in ids]
    for source in sorted({str(a.source) for a in gone}):
        project.clear(source=source, entries=[entry], ids={a.id for a in gone if a.source == source})


def _before_after(slide: Slide, found: Sequence[Annotation], file: Path) -> None:
    from qp2train.refine.show import before_and_after  # matplotlib takes a second

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        before_and_after(slide, found).savefig(file, dpi=110)
    except OSError as error:
        raise ProjectError(f"the picture {file} cannot be written: {error.strerror or error}") from error
