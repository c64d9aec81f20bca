"""The check-up of a project: what is there, what is wrong, what a training would use."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import shapely

from qp2train.core.annotation import Annotation
from qp2train.core.labels import REGION
from qp2train.errors import MissingCalibrationError, Qp2trainError
from qp2train.qupath.checkkinds import KINDS, Severity
from qp2train.qupath.checkobjects import check_objects
from qp2train.qupath.entry import ImageEntry
from qp2train.qupath.folder import FolderEntry, SlideFolder
from qp2train.qupath.project import Project
from qp2train.qupath.qpdata import ReadResult
from qp2train.qupath.qpproj import objects_lost
from qp2train.qupath.uris import STORED

UNCLASSIFIED = "Unclassified"
MOST_IDS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know about a project.

    Args:
        kind: One of `KINDS`.
        count: Objects, images or folders.
        image: The id of the image; None = the project.
        name: The image's name.
        detail: What the kind does not say: a message, the classes that overlap.
        ids: Of the first objects.
        area_mm2: Of overlaps, where the image is calibrated.
    """

    kind: str
    count: int
    image: str | None = None
    name: str = ""
    detail: str = ""
    ids: tuple[str, ...] = ()
    area_mm2: float | None = None

    @property
    def severity(self) -> Severity:
        """A problem makes training or prediction fail, or learn what nobody meant; the rest are notes."""
        return KINDS[self.kind][0]


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """What was drawn of a class.

    Args:
        count: Annotations.
        area_mm2: The sum of their areas.
        without_scale: How many of them lie on images without pixel size; their area is not in the sum.
        images: On how many images.
    """

    count: int
    area_mm2: float = 0.0
    without_scale: int = 0
    images: int = 1

    def __add__(self, other: ClassFacts) -> ClassFacts:
        return ClassFacts(
            self.count + other.count,
            self.area_mm2 + other.area_mm2,
            self.without_scale + other.without_scale,
            self.images + other.images,
        )


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image. `classes`: what humans annotated; `models`: objects of each; `others`: detections … by kind."""

    id: str
    name: str
    path: str | None
    how: str
    size: tuple[int, int] | None
    mpp: float | None
    metadata: Mapping[str, str]
    classes: Mapping[str, ClassFacts]
    models: Mapping[str, int]
    others: Mapping[str, int]
    image_type: str = ""


@dataclass(frozen=True, slots=True)
class CheckUp:
    """What `check` found."""

    name: str
    path: str
    version: str | None
    images: tuple[ImageFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def classes(self) -> dict[str, ClassFacts]:
        """Class → what was drawn of it in all images."""
        total: dict[str, ClassFacts] = {}
        for image in self.images:
            for name, facts in image.classes.items():
                total[name] = total[name] + facts if name in total else facts
        return dict(sorted(total.items()))

    @property
    def groups(self) -> dict[str, int]:
        """Metadata key that every image has → how many values it takes: what `split` can go by."""
        keys = [set(image.metadata) for image in self.images]
        common = sorted(set.intersection(*keys)) if keys else []
        return {key: len({image.metadata[key] for image in self.images}) for key in common}

    def training(self) -> dict[str, str]:
        """Class → what a training with default settings makes of it."""
        said = {}
        for name in self.classes:
            base = name.split(": ")[0]
            if name == UNCLASSIFIED:
                said[name] = "ignored: no class"
            elif name == REGION:
                said[name] = "background, where nothing else is drawn in it"
            elif name.endswith("*"):
                said[name] = "ignored, and whatever lies under it"
            else:
                said[name] = "learnt" if name == base else f"learnt as {base}, unless it is mapped"
        return said

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON.

        Keys: name, path, version, images (id, name, path, how, size, mpp, metadata, classes {name: {count, area_mm2,
        without_scale, images}}, models {source: objects}, others {kind: objects}, image_type), classes, groups,
        training, findings (kind, severity, what, remedy, count, image, name, detail, ids, area_mm2).
        """
        data = asdict(self)
        data["classes"] = {name: asdict(facts) for name, facts in self.classes.items()}
        data["groups"], data["training"] = self.groups, self.training()
        data["findings"] = [
            {**asdict(f), "severity": f.severity, "what": KINDS[f.kind][1], "remedy": KINDS[f.kind][2]}
            for f in self.findings
        ]
        return data


def check(
    project: Project | SlideFolder,
    *,
    open_slides: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> CheckUp:
    """Look at every image of a project; one that cannot be read is a finding, and the others are looked at.

    Args:
        project: An opened project or folder of slides.
        open_slides: Open each slide (no pixel is read), to see whether it can be used.
        progress: Called with (image name, done, total).
    """
    images: list[ImageFacts] = []
    findings: list[Finding] = []
    entries: list[ImageEntry | FolderEntry] = [*project]
    for done, entry in enumerate(entries, start=1):
        facts, found = _check_entry(entry, open_slides)
        images.append(facts)
        findings += found
        if progress is not None:
            progress(entry.name, done, len(project))
    version = project.version if isinstance(project, Project) else None
    if isinstance(project, Project) and (orphans := project.orphans()):
        findings.append(Finding("orphans", len(orphans), detail=", ".join(p.name for p in orphans[:MOST_IDS])))
    result = CheckUp(project.name, str(project.path), version, tuple(images), tuple(findings))
    some = Counter(key for image in images for key in image.metadata)
    partly = {key: n for key, n in some.items() if n < len(images)}
    if len(images) > 1 and not result.groups:
        findings.append(Finding("no-common-metadata", len(images)))
    if partly:
        said = ", ".join(f"{key}: {n} of {len(images)} images" for key, n in partly.items())
        findings.append(Finding("partial-metadata", len(partly), detail=said))
    order = {kind: i for i, kind in enumerate(KINDS)}
    findings.sort(key=lambda f: (f.severity != "problem", order[f.kind]))
    return CheckUp(result.name, result.path, version, result.images, tuple(findings))


@dataclass
class _Findings:
    """Findings of one image."""

    entry: ImageEntry | FolderEntry
    found: list[Finding] = field(default_factory=list)

    def add(self, kind: str, ids: Sequence[str] = (), *, detail: str = "", area_mm2: float | None = None) -> None:
        count = len(ids) or 1
        self.found.append(Finding(kind, count, self.entry.id, self.entry.name, detail, tuple(ids[:MOST_IDS]), area_mm2))


def _check_entry(entry: ImageEntry | FolderEntry, open_slides: bool) -> tuple[ImageFacts, list[Finding]]:
    findings = _Findings(entry)
    size, mpp, how = _check_slide(entry, findings, open_slides)
    image_type = ""
    try:
        if isinstance(entry, ImageEntry):
            read, image_type = entry.read(kinds="all"), entry.image_type
        else:
            read = ReadResult(entry.annotations("all"))
    except (Qp2trainError, OSError) as error:  # the other images still have to be looked at
        findings.add("data-unreadable", detail=str(error))
        read = ReadResult([])
    edited = set(read.edited)  # what a human has corrected is the human's
    objects = [replace(a, source=None) if a.id in edited else a for a in read.annotations]
    px_mm2 = None if mpp is None else mpp**2 / 1e6
    if isinstance(entry, ImageEntry) and (entry.folder / "data.qpdata.bkp").exists():
        findings.add("save-interrupted")
    if isinstance(entry, ImageEntry) and (lost := objects_lost(entry.folder)):
        findings.add("data-lost", detail=f"summary.json speaks of {lost} objects")
    for kind, ids in (("repaired", read.repaired), ("no-shape", read.without_shape), ("corrected", read.edited)):
        if ids:
            findings.add(kind, ids)
    repeated = [object_id for object_id, n in Counter(a.id for a in objects).items() if n > 1]
    if repeated:
        findings.add("duplicate-id", repeated)
    for found in check_objects(objects, size):
        area = None if found.area_px2 is None or px_mm2 is None else found.area_px2 * px_mm2
        findings.add(found.kind, found.ids, detail=" and ".join(found.classes or ()), area_mm2=area)
    facts = ImageFacts(
        entry.id,
        entry.name,
        None if entry.path is None else str(entry.path),
        how,
        size,
        mpp,
        dict(entry.metadata),
        _class_facts([a for a in objects if a.kind == "annotation" and a.drawn], px_mm2),
        dict(Counter(a.source for a in objects if a.source is not None)),
        dict(Counter(a.kind for a in objects if a.kind != "annotation" and a.source is None)),
        image_type,
    )
    return facts, findings.found


def _class_facts(annotations: Sequence[Annotation], px_mm2: float | None) -> dict[str, ClassFacts]:
    counts: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    for annotation in annotations:
        name = annotation.class_name or UNCLASSIFIED
        counts[name] += 1
        areas[name] += shapely.area(annotation.geometry)
    if px_mm2 is None:
        return {name: ClassFacts(n, without_scale=n) for name, n in sorted(counts.items())}
    return {name: ClassFacts(n, float(areas[name]) * px_mm2) for name, n in sorted(counts.items())}


def _check_slide(
    entry: ImageEntry | FolderEntry, findings: _Findings, open_slides: bool
) -> tuple[tuple[int, int] | None, float | None, str]:
    """Size, µm per pixel, and how the slide was found."""
    size, mpp, how = None, None, STORED
    if isinstance(entry, ImageEntry):
        size = (entry.width, entry.height) if entry.width and entry.height else None
        mpp, how = entry.mpp, entry.resolved_how
        if entry.path is None:
            findings.add("slide-missing", detail=entry.uri)
        elif how != STORED:
            findings.add("moved", detail=how)
    if entry.path is not None and (open_slides or size is None):
        try:
            with entry.slide() as slide:
                size = size or slide.size
                with contextlib.suppress(MissingCalibrationError):
                    mpp = mpp or slide.mpp
        except (Qp2trainError, OSError) as error:
            findings.add("slide-unusable", detail=str(error))
    if mpp is None and not any(f.kind in ("slide-missing", "slide-unusable") for f in findings.found):
        findings.add("uncalibrated")
    return size, mpp, how
