"""Reading: how the slides of a patch table are opened for a network."""

from __future__ import annotations

from dataclasses import dataclass

from qp2train.core.patches import SlideRef
from qp2train.slides.open import open_slide
from qp2train.slides.slide import Slide
from qp2train.slides.stain import Stain, normalised


@dataclass(frozen=True)
class Reading:
    """How slides are opened; it decides which pixels a network is given.

    Args:
        scaled_decode: As for `open_slide`.
        stain: Stain normalisation, see `NormalisedSlide`; None = as scanned.
    """

    scaled_decode: bool = False
    stain: Stain | None = None

    def open(self, ref: SlideRef) -> Slide:
        """The slide of a table.

        Raises:
            SlideError: It is not there, or cannot be read.
        """
        slide = open_slide(ref.path, mpp=ref.mpp, view=ref.view, scaled_decode=self.scaled_decode)
        return normalised(slide, self.stain)


AS_SCANNED = Reading()
