"""Reading a region at any scale is the area average of what it covers."""

import pickle

import numpy as np
import pytest
from fakes import BLUE, RED, square, write_png, write_pyramid
from hypothesis import given
from hypothesis import strategies as st

from qp2train import ArraySlide, Box, LabelMap, open_slide, paint
from qp2train.errors import MissingCalibrationError
from qp2train.slides.slide import PyramidSlide


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey(rows: list[list[int]]) -> np.ndarray:
    return np.repeat(np.array(rows, np.uint8)[:, :, None], 3, axis=2)


def covered(array: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The area average by brute force: each axis by its shares, white beyond the border."""
    pad = 40
    padded = np.pad(array.astype(float), ((pad, pad), (pad, pad), (0, 0)), constant_values=255)

    def shares(start: float, length: float, count: int, n: int) -> np.ndarray:
        edges = start + pad + length / count * np.arange(count + 1)
        pixel = np.arange(n)
        low, high = np.maximum(edges[:-1, None], pixel), np.minimum(edges[1:, None], pixel + 1)
        return np.clip(high - low, 0, None) / (length / count)

    rows = shares(box.y, box.height, size[1], padded.shape[0])
    columns = shares(box.x, box.width, size[0], padded.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, padded, columns)


def test_a_region_at_full_resolution_is_the_array_itself():
    array = noise(40, 50)
    assert np.array_equal(ArraySlide(array).read(Box(7, 3, 20, 30), (20, 30)), array[3:33, 7:27])


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_whole_downsamples_are_the_mean(factor):
    array = noise(60, 60)
    read = ArraySlide(array).read(Box(0, 0, 60, 60), (60 // factor, 60 // factor))
    mean = array.reshape(60 // factor, factor, 60 // factor, factor, 3).mean(axis=(1, 3))
    assert np.abs(read - mean).max() <= 1


def test_fractional_boxes_by_hand():
    slide = ArraySlide(grey([[0, 10, 20, 40, 80, 160]]))
    # Half of the first, all of the second, half of the third: (0/2 + 10 + 20/2) / 2 = 10; then (10 + 40 + 40) / 2 = 45.
    assert slide.read(Box(0.5, 0, 4, 1), (2, 1))[0, :, 0].tolist() == [10, 45]
    # 1.5 px each: (0 + 5)/1.5, (5 + 20)/1.5, (40 + 40)/1.5, (40 + 160)/1.5
    assert slide.read(Box(0, 0, 6, 1), (4, 1))[0, :, 0].tolist() == [3, 17, 53, 133]
    # The same scale, a quarter of a pixel on: 2.5 (either way), 12.5, 25, 50.
    assert slide.read(Box(0.25, 0, 4, 1), (4, 1))[0, 2:, 0].tolist() == [25, 50]


def test_rows_by_hand():
    slide = ArraySlide(grey([[0], [10], [20], [40], [80], [160]]))
    assert slide.read(Box(0, 0.5, 1, 4), (1, 2))[:, 0, 0].tolist() == [10, 45]


def test_beyond_the_border_is_white():
    slide = ArraySlide(np.zeros((4, 4, 3), np.uint8))
    read = slide.read(Box(-2, -1, 4, 3), (4, 3))
    assert read[..., 0].tolist() == [[255] * 4, [255, 255, 0, 0], [255, 255, 0, 0]]
    assert (slide.read(Box(50, 50, 8, 8), (4, 4)) == 255).all()
    assert slide.read(Box(3, 0, 2, 2), (1, 1))[0, 0, 0] == 128  # half black, half beyond: 127.5


@given(
    x=st.floats(-30, 30),
    y=st.floats(-30, 30),
    downsample=st.floats(1, 9),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_any_box_at_any_downsample_is_the_area_average(x, y, downsample, size):
    array = noise(40, 50)
    box = Box(x, y, size[0] * downsample, size[1] * downsample)
    read = ArraySlide(array).read(box, size)
    assert read.shape == (size[1], size[0], 3)
    assert read.dtype == np.uint8
    assert np.abs(read - covered(array, box, size)).max() <= 1.01


@given(x=st.floats(0, 100), y=st.floats(0, 100), downsample=st.floats(0.3, 8))
def test_a_slope_is_read_where_it_is(x, y, downsample):
    """The grey value is the position, so that a shift by a tenth of a pixel would be seen in the mean."""
    ramp = np.tile(np.arange(250, dtype=np.uint8), (250, 1))
    array = np.stack([ramp, ramp.T, np.zeros_like(ramp)], axis=-1)
    box = Box(x, y, 16 * downsample, 16 * downsample)
    read = ArraySlide(array).read(box, (16, 16)).astype(float)
    inner = read[2:-2, 2:-2]  # enlarging sees the edge of what it read
    centre = box.x + 8 * downsample - 0.5, box.y + 8 * downsample - 0.5
    assert inner[..., 0].mean() == pytest.approx(centre[0], abs=0.51)
    assert inner[..., 1].mean() == pytest.approx(centre[1], abs=0.51)


@pytest.mark.parametrize("offset", [(0, 0), (1, 3), (7, 5), (13.5, 2.25)])
@pytest.mark.parametrize("downsample", [1, 2, 3.7, 4])
def test_reading_and_painting_agree_in_position(offset, downsample):
    """The picture is the mask: red where the annotation is, blue elsewhere."""
    drawn = [square(10, 10, 30), square(55, 21, 7), square(60, 60, 33)]
    array = np.full((120, 120, 3), BLUE, np.uint8)
    for a in drawn:
        x0, y0, x1, y1 = map(int, a.geometry.bounds)
        array[y0:y1, x0:x1] = RED
    box = Box(*offset, 20 * downsample, 20 * downsample)
    read = ArraySlide(array).read(box, (20, 20)).astype(float)
    mask = paint([*drawn, square(-99, -99, 999, "Region*")], LabelMap(["Tumor"]), box=box, size=(20, 20))
    red = (read[..., 0] - BLUE[0]) / (RED[0] - BLUE[0])  # the share of the pixel that is annotated
    assert (mask[red > 0.76] == 1).all()  # more than ¾ covered by a rectangle: the centre is inside
    assert (mask[red < 0.24] == 0).all()
    if downsample == 1 and all(float(o).is_integer() for o in offset):
        assert np.array_equal(red > 0.5, mask == 1)
        assert set(np.unique(red)) <= {0, 1}
    assert (red > 0.9).any()


def test_a_scale_in_um_per_pixel():
    array = noise(64, 64)
    slide = ArraySlide(array, mpp=0.25)
    assert np.array_equal(slide.read_mpp(8, 4, (10, 12), mpp=0.5), slide.read(Box(8, 4, 20, 24), (10, 12)))


def test_an_uncalibrated_slide_says_what_to_do():
    slide = ArraySlide(noise(8, 8), name="scan.png")
    assert not slide.calibrated
    with pytest.raises(MissingCalibrationError, match=r"scan\.png.*mpp="):
        _ = slide.mpp
    assert "uncalibrated" in repr(slide)


@pytest.mark.parametrize(("most", "shape"), [(25, (20, 25, 3)), (1000, (40, 50, 3)), (1, (1, 1, 3))])
def test_a_thumbnail_is_no_larger_than_asked_and_never_enlarged(most, shape):
    assert ArraySlide(noise(40, 50)).thumbnail(most).shape == shape


def test_a_slide_is_closed_at_the_end_of_a_block(tmp_path):
    with open_slide(write_png(tmp_path / "a.png", noise(8, 8)), mpp=1) as slide:
        assert slide.size == (8, 8)


class Coloured(PyramidSlide):
    """Three levels (1, 2, 4), each of one grey, that remember what was read of them."""

    def __init__(self):
        super().__init__(path="", name="coloured", mpp=1)
        self.asked: list[tuple[int, ...]] = []

    def _level_sizes(self):
        return ((400, 400), (200, 200), (100, 100))

    def _read_level(self, level, x, y, width, height):
        self.asked.append((level, x, y, width, height))
        return np.full((height, width, 3), 50 * (level + 1), np.uint8)


@pytest.mark.parametrize(
    ("downsample", "level"), [(0.5, 0), (1, 0), (1.9, 0), (1.9995, 1), (2, 1), (3.9, 1), (4, 2), (30, 2)]
)
def test_the_coarsest_level_that_is_fine_enough_is_read(downsample, level):
    slide = Coloured()
    read = slide.read(Box(40, 40, 10 * downsample, 10 * downsample), (10, 10))
    assert read[0, 0, 0] == 50 * (level + 1)
    assert {a[0] for a in slide.asked} == {level}


def test_no_more_is_read_of_a_level_than_is_needed():
    slide = Coloured()
    slide.read(Box(8, 16, 40, 40), (10, 10))
    assert slide.asked == [(2, 2, 4, 10, 10)]
    slide.read(Box(9, 16, 40, 40), (10, 10))
    assert slide.asked[-1] == (2, 2, 4, 11, 10)


@pytest.fixture(scope="module")
def levels():
    full = np.kron(noise(64, 96), np.ones((4, 4, 1), np.uint8))
    return [full, full[::2, ::2].copy(), full[::4, ::4].copy()]


@pytest.fixture(scope="module")
def slide(levels, tmp_path_factory):
    with open_slide(write_pyramid(tmp_path_factory.mktemp("pyramid") / "p.tif", levels, mpp=0.5)) as slide:
        yield slide


class TestPyramidOnDisk:
    def test_size_scale_and_levels(self, slide):
        assert slide.size == (384, 256)
        assert slide.downsamples == (1, 2, 4)
        assert slide.mpp == pytest.approx(0.5, rel=1e-4)

    def test_an_own_scale_wins(self, slide):
        with open_slide(slide.path, mpp=0.25) as other:
            assert other.mpp == 0.25

    @pytest.mark.parametrize("box", [Box(0, 0, 64, 64), Box(33, 17, 64, 64), Box(301, 200, 64, 64)])
    def test_full_resolution(self, slide, levels, box):
        padded = np.pad(levels[0], ((0, 99), (0, 99), (0, 0)), constant_values=255)
        x, y = int(box.x), int(box.y)
        assert np.array_equal(slide.read(box, (64, 64)), padded[y : y + 64, x : x + 64])

    @pytest.mark.parametrize("factor", [2, 4])
    def test_a_stored_level_comes_unchanged(self, slide, levels, factor):
        level = levels[factor // 2]
        read = slide.read(Box(8 * factor, 4 * factor, 32 * factor, 20 * factor), (32, 20))
        assert np.array_equal(read, level[4:24, 8:40])

    @pytest.mark.parametrize("downsample", [1.5, 3, 6])
    def test_between_levels_the_finer_one_is_averaged(self, slide, levels, downsample):
        factor = {1.5: 1, 3: 2, 6: 4}[downsample]
        level = levels[factor // 2]
        read = slide.read(Box(16, 24, 20 * downsample, 20 * downsample), (20, 20))
        part = Box(16 / factor, 24 / factor, 20 * downsample / factor, 20 * downsample / factor)
        assert np.abs(read - covered(level, part, (20, 20))).max() <= 1.01

    def test_beyond_the_border_is_white(self, slide):
        read = slide.read(Box(-64, -64, 128, 128), (64, 64))
        assert (read[:32] == 255).all()
        assert (read[:, :32] == 255).all()
        assert not (read[32:, 32:] == 255).all()

    def test_another_process_reopens_it(self, slide):
        other = pickle.loads(pickle.dumps(slide))
        assert np.array_equal(other.read(Box(5, 5, 9, 9), (9, 9)), slide.read(Box(5, 5, 9, 9), (9, 9)))
        other.close()
