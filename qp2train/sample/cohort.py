"""Which slides the sample project has: patients, blocks, stains, artefacts, and who annotated what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qp2train.core.annotation import Annotation
from qp2train.sample.annotate import annotate
from qp2train.sample.stain import STAINS, Stain
from qp2train.sample.tissue import DrawnSlide, draw_slide

SIZE_PX = (3072, 2304)
_ARTEFACTS = (("dust", "fold"), ("dust", "pen", "bubble"), ("dust", "blur"), ("dust", "pen", "fold"))


@dataclass(frozen=True, slots=True)
class SlidePlan:
    """One slide of the cohort before it is drawn."""

    number: int
    patient: str
    block: str
    stain: Stain
    artefacts: tuple[str, ...]
    annotated: bool

    @property
    def name(self) -> str:
        """The slide's name, also its file's stem."""
        return f"{self.patient}-{self.block}"

    @property
    def metadata(self) -> dict[str, str]:
        """What the project says about the slide."""
        return {"patient": self.patient, "block": self.block, "stain": f"HE {self.stain.name}", "site": "colon"}


def plan_cohort(patients: int = 3) -> list[SlidePlan]:
    """The slides of `patients` patients: the first has two, the others one; the last one's carry no annotations.

    Raises:
        ValueError: Fewer than 1 or more than 99 patients.
    """
    if not 1 <= patients <= 99:
        raise ValueError(f"patients must be from 1 to 99, not {patients}")
    blocks = [(p, b) for p in range(patients) for b in ("AB" if p == 0 else "A")]
    return [
        SlidePlan(
            number=i,
            patient=f"P{p + 1:02d}",
            block=block,
            stain=STAINS[p % len(STAINS)],
            artefacts=_ARTEFACTS[i % len(_ARTEFACTS)],
            annotated=p < patients - 1 or patients == 1,
        )
        for i, (p, block) in enumerate(blocks)
    ]


def draw_cohort(
    seed: int = 0,
    *,
    patients: int = 3,
    size_px: tuple[int, int] = SIZE_PX,
) -> Iterator[tuple[SlidePlan, DrawnSlide, list[Annotation]]]:
    """Draw slide after slide: its plan, its pixels and truth, and what a human annotated on it."""
    for plan in plan_cohort(patients):
        slide = draw_slide([seed, plan.number], size_px=size_px, stain=plan.stain, artefacts=plan.artefacts)
        yield plan, slide, annotate(slide, [seed, plan.number, 1]) if plan.annotated else []
