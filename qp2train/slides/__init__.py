"""Pixels in: whole slides, any region at any resolution."""

from qp2train.slides.channels import ChannelSlide, open_channels
from qp2train.slides.open import open_slide
from qp2train.slides.slide import ArraySlide, Slide

__all__ = ["ArraySlide", "ChannelSlide", "Slide", "open_channels", "open_slide"]
