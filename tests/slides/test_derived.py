"""A cropped, turned or mirrored slide reads as a slide whose pixels were cropped, turned or mirrored."""

import pickle

import numpy as np
import pytest
from fakes import write_leica, write_png, write_pyramid
from hypothesis import given
from hypothesis import strategies as st

from qp2train import ArraySlide, Box, open_slide
from qp2train.core.view import View
from qp2train.errors import MissingCalibrationError, SlideError
from qp2train.slides.derived import DerivedSlide, seen_as
from qp2train.slides.openslide import stored_bounds

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
VIEWS = [
    View(0, 0, 50, 40, turns=1),
    View(3, 5, 30, 20),
    View(3, 5, 30, 20, mirrored=True, turns=3, order="BGR"),
    View(0, 0, 50, 40, mirrored=True, turns=2),
    View(-4, 10, 20, 40, turns=3),  # beyond the picture: white
]


def as_array(view: View) -> np.ndarray:
    """The whole view, by slicing."""
    pad = 50
    padded = np.pad(PICTURE, ((pad, pad), (pad, pad), (0, 0)), constant_values=255)
    x, y = view.x + pad, view.y + pad
    return view.shown(padded[y : y + view.height, x : x + view.width])


@pytest.mark.parametrize("view", VIEWS, ids=str)
@given(
    x=st.floats(-15, 40),
    y=st.floats(-15, 40),
    downsample=st.one_of(st.just(1.0), st.just(2.0), st.floats(0.5, 6)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    whole=st.booleans(),
)
def test_any_box_at_any_scale_is_read_as_from_the_transformed_picture(view, x, y, downsample, size, whole):
    slide, truth = seen_as(ArraySlide(PICTURE), view), ArraySlide(as_array(view))
    assert slide.size == truth.size
    if whole:
        x, y = round(x), round(y)
    box = Box(x, y, size[0] * downsample, size[1] * downsample)
    read, expected = slide.read(box, size).astype(int), truth.read(box, size).astype(int)
    assert read.shape == expected.shape == (size[1], size[0], 3)
    if whole and downsample == 1:
        assert np.array_equal(read, expected)
    inside = min(x, y) >= 0 and box.right <= slide.size[0] and box.bottom <= slide.size[1]
    if inside or downsample >= 1:  # enlarging interpolates across the border
        assert np.abs(read - expected).max() <= 1


@pytest.mark.parametrize("view", VIEWS[:4], ids=str)
def test_thumbnails_and_writing_into_what_was_read(view):
    slide, truth = seen_as(ArraySlide(PICTURE), view), ArraySlide(as_array(view))
    assert np.abs(slide.thumbnail(13).astype(int) - truth.thumbnail(13)).max() <= 1
    assert slide.read(Box(0, 0, 4, 4), (4, 4)).flags.writeable


def test_a_pyramid_is_used_and_its_coarse_levels_end_where_the_view_does(tmp_path):
    full = np.kron(PICTURE, np.ones((8, 8, 1), np.uint8))  # 400 × 320
    path = write_pyramid(tmp_path / "p.tif", [full, full[::2, ::2], full[::4, ::4]], mpp=0.5)
    view = View(8, 80, 242, 160, turns=1)  # ends within a pixel of the coarse levels
    with open_slide(path, view=str(view)) as slide:
        assert (slide.size, slide.downsamples, slide.view) == ((160, 242), (1, 2, 4), "8,80 242x160 turned 90")
        assert slide.mpp == pytest.approx(0.5, rel=1e-4)
        expected = view.shown(full[80:240, 8:250])
        assert np.array_equal(slide.read(Box(5, 7, 100, 60), (100, 60)), expected[7:67, 5:105])
        truth = ArraySlide(expected)
        for downsample in (2, 4, 8):  # each pixel of PICTURE is 8 px wide: the levels hold the same
            box = Box(0, 0, 160, 240)
            size = (160 // downsample, 240 // downsample)
            assert np.abs(slide.read(box, size).astype(int) - truth.read(box, size)).max() <= 1
        last = slide.read(Box(0, 240, 160, 4), (40, 1)).astype(int)  # half a pixel of level 4, then white
        assert np.abs(last - truth.read(Box(0, 240, 160, 4), (40, 1))).max() <= 1


def test_a_view_opens_again_from_its_text_and_from_a_pickle(tmp_path):
    path = write_png(tmp_path / "a.png", PICTURE)
    with open_slide(path, mpp=0.25, view="3,5 30x20 mirrored turned 90") as slide:
        for again in (open_slide(slide.path, mpp=0.25, view=slide.view), pickle.loads(pickle.dumps(slide))):
            assert (again.size, again.mpp, again.view, again.name) == ((20, 30), 0.25, slide.view, "a.png")
            assert np.array_equal(again.read(Box(0, 0, 20, 30), (20, 30)), slide.read(Box(0, 0, 20, 30), (20, 30)))


def test_pyramids_on_disk_travel_to_other_processes_by_path(tmp_path):
    path = write_pyramid(tmp_path / "p.tif", [np.kron(PICTURE, np.ones((4, 4, 1), np.uint8))])
    with open_slide(path, view="0,0 100x100 turned 180") as slide:
        data = pickle.dumps(slide)
        assert len(data) < 2000
        assert np.array_equal(pickle.loads(data).thumbnail(50), slide.thumbnail(50))


def test_a_view_of_a_view():
    slide = seen_as(seen_as(ArraySlide(PICTURE), View(3, 5, 30, 20, turns=1)), View(2, 4, 10, 12, mirrored=True))
    assert (slide.size, slide.level_sizes) == ((10, 12), ((10, 12),))
    expected = np.rot90(PICTURE[5:25, 3:33], -1)[4:16, 2:12][:, ::-1]
    assert np.array_equal(slide.read(Box(0, 0, 10, 12), (10, 12)), expected)


def test_all_of_a_slide_is_the_slide_itself():
    slide = ArraySlide(PICTURE)
    assert seen_as(slide, View(0, 0, 50, 40)) is slide
    assert slide.view == ""


def test_a_view_of_an_uncalibrated_slide_is_uncalibrated(tmp_path):
    with (
        open_slide(write_png(tmp_path / "a.png", PICTURE), view="0,0 9x9") as slide,
        pytest.raises(MissingCalibrationError, match=r"a\.png"),
    ):
        _ = slide.mpp


def test_a_text_that_is_no_view(tmp_path):
    with pytest.raises(SlideError, match="'upside down' is no view"):
        open_slide(write_png(tmp_path / "a.png", PICTURE), view="upside down")


def test_what_lies_outside_is_not_even_read():
    class Counting(ArraySlide):
        reads = 0

        def _read_level(self, level, x, y, width, height):
            self.reads += 1
            return super()._read_level(level, x, y, width, height)

    below = Counting(PICTURE)
    slide = DerivedSlide(below, View(0, 0, 10, 10))
    assert (slide.read(Box(20, 20, 8, 8), (8, 8)) == 255).all()
    assert below.reads == 0


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ({"x": "5", "y": "7", "width": "30", "height": "20"}, (5, 7, 30, 20)),
        ({"x": "5", "y": "7", "width": "30"}, None),
        ({"x": "5", "y": "7", "width": "30", "height": "1e3"}, None),
        ({"x": "5", "y": "7", "width": "30", "height": "0"}, None),
        ({}, None),
    ],
)
def test_the_part_that_is_not_empty_is_stated_by_four_numbers_or_not_at_all(given, bounds):
    assert stored_bounds({f"openslide.bounds-{key}": value for key, value in given.items()}) == bounds


class TestBounds:
    """A file that says which part of it is not empty is shown as QuPath shows it: that part only."""

    @pytest.fixture
    def path(self, tmp_path):
        return write_leica(tmp_path / "a.scn", PICTURE, at=(100, 50), within=(300, 200))

    def test_the_part_counts_from_its_corner(self, path):
        with open_slide(path, mpp=1) as slide:
            assert (slide.size, slide.view) == ((50, 40), "100,50 50x40")
            assert np.array_equal(slide.read(Box(0, 0, 50, 40), (50, 40)), PICTURE)
            assert np.array_equal(pickle.loads(pickle.dumps(slide)).thumbnail(), PICTURE)

    def test_the_file_whole(self, path):
        with open_slide(path, view="") as slide:
            assert (slide.size, slide.view) == ((300, 200), "")
            assert np.array_equal(slide.read(Box(100, 50, 50, 40), (50, 40)), PICTURE)

    def test_a_view_counts_from_the_corner_of_the_file(self, path):
        with open_slide(path, view="101,52 9x9") as slide:
            assert np.array_equal(slide.read(Box(0, 0, 9, 9), (9, 9)), PICTURE[2:11, 1:10])
