"""Pixels in: whole slides, any region at any resolution."""

from qp2train.slides.openslide import open_slide
from qp2train.slides.slide import ArraySlide, Slide

__all__ = ["ArraySlide", "Slide", "open_slide"]
