"""What a refiner shows, and that a live figure's clicks are prompts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from qp2train import ArraySlide, Box, Refiner
from qp2train.errors import PromptError
from qp2train.refine import show

PINK, PURPLE = (230, 180, 210), (110, 60, 140)


@pytest.fixture
def refiner() -> Refiner:
    picture = np.full((200, 300, 3), PINK, np.uint8)
    picture[50:110, 100:180] = PURPLE
    refiner = Refiner()
    refiner.set_region(ArraySlide(picture, mpp=1.0), Box(40, 20, 200, 150))
    return refiner


def test_it_shows_the_region_in_slide_coordinates_with_clicks_box_and_outline(refiner: Refiner) -> None:
    refiner.predict(points=[(140, 80), (60, 40)], labels=[1, 0], box=Box(95, 45, 90, 70), class_name="Gland")
    (axes,) = refiner.show().axes
    assert axes.get_xlim() == (40, 240)
    assert axes.get_ylim() == (170, 20)
    assert [tuple(c.get_offsets()[0]) for c in axes.collections] == [(140, 80), (60, 40)]
    assert len(axes.patches) == 2
    outline = axes.patches[1].get_path().get_extents()
    assert np.abs(outline.get_points() - [[100, 50], [180, 110]]).max() <= 3
    assert axes.get_title().startswith("Gland, predicted IoU 0.")


def test_what_was_gone_along_in_closer_views_is_shown_without_a_predicted_iou(refiner: Refiner) -> None:
    refiner.predict(points=[(140, 80)], class_name="Gland")
    slide = ArraySlide(np.full((200, 300, 3), PINK, np.uint8), mpp=1.0)
    (axes,) = show.before_and_after(slide, refiner.closer(scale=0.5)).axes
    assert axes.get_title() == "Gland"
    assert refiner.show().axes[0].get_title() == "Gland"


def test_before_the_first_click_it_invites_one_and_a_picture_stays_a_picture(refiner: Refiner) -> None:
    figure = refiner.show()
    assert type(figure) is Figure
    assert figure.axes[0].get_title() == "click on an object"


def test_without_a_region_there_is_nothing_to_show() -> None:
    with pytest.raises(PromptError, match="no region is set"):
        Refiner().show()


def test_a_live_figures_clicks_are_prompts_and_u_undoes_them(refiner: Refiner) -> None:
    figure = refiner.show()
    (axes,) = figure.axes
    figure.canvas.toolbar = SimpleNamespace(mode="")

    def click(x: float, y: float, button: int, over: object = axes) -> None:
        show._clicked(axes, refiner, SimpleNamespace(inaxes=over, button=button, xdata=x, ydata=y))

    click(140, 80, 1)
    click(60, 40, 3)
    click(1, 1, 1, over=None)  # beside the picture
    click(140, 80, 2)
    assert refiner.last.points == ((140, 80), (60, 40))
    assert refiner.last.labels == (1, 0)
    figure.canvas.toolbar.mode = "pan/zoom"
    click(150, 90, 1)
    assert len(refiner.last.points) == 2
    show._pressed(axes, refiner, SimpleNamespace(key="u"))
    show._pressed(axes, refiner, SimpleNamespace(key="x"))
    assert refiner.last.points == ((140, 80),)
