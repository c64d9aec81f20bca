import numpy as np
import pytest

from qp2train import Box, LabelMap, ScoreMap

LABELS = LabelMap(["A", "B <i>"], colors={"A": (10, 20, 30)})


@pytest.fixture
def scores() -> ScoreMap:
    """A 2×3 map of a 12×8 px slide at 0.5 µm/px: one pixel is 4×4 slide pixels, 4 µm²."""
    classmap = np.array([[0, 1, 1], [2, 1, 255]], np.uint8)
    planes = np.stack([classmap == i for i in range(3)]).astype(np.uint8) * 255
    planes[:, 0, 1] = (51, 153, 51)
    return ScoreMap(planes, classmap, Box(0, 0, 12, 8), 2.0, 0.5, LABELS)


def test_scale_is_slide_pixels_per_map_pixel(scores):
    assert scores.shape == (2, 3)
    assert scores.scale == (4, 4)


def test_areas_by_hand(scores):
    assert scores.areas_mm2() == pytest.approx({"Background": 4e-6, "A": 12e-6, "B <i>": 4e-6})


def test_probabilities_are_between_0_and_1(scores):
    assert scores.probability("A").tolist() == [[0, pytest.approx(0.6), 1], [0, 1, 0]]
    assert scores.probability("Background")[0, 0] == 1


def test_the_picture_shows_the_classes_colours_and_white_where_nothing_was_predicted(scores):
    picture = scores.picture()
    assert picture.shape == (2, 3, 3)
    assert picture[0, 1].tolist() == [10, 20, 30]
    assert picture[1, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_the_picture_is_no_larger_than_asked(scores, most):
    assert max(scores.picture(most).shape[:2]) <= most


def test_the_notebook_view_escapes_class_names(scores):
    view = scores._repr_html_()
    assert "B &lt;i&gt;" in view
    assert "B <i>" not in view
    assert "data:image/png;base64," in view
