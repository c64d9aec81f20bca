import numpy as np
import pytest
import tifffile
from fakes import write_png, write_pyramid
from PIL import Image

from qp2train import ArraySlide, Box, open_slide
from qp2train.errors import MissingCalibrationError, SlideError, SlideNotFoundError, UnreadableSlideError
from qp2train.slides.tiled import TiledSlide

RAMP = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)


def test_a_plain_image_is_a_slide_without_scale(tmp_path):
    slide = open_slide(write_png(tmp_path / "a.png", RAMP))
    assert isinstance(slide, ArraySlide)
    assert (slide.name, slide.path) == ("a.png", str(tmp_path / "a.png"))
    assert np.array_equal(slide.read(Box(0, 0, 30, 20), (30, 20)), RAMP)
    with pytest.raises(MissingCalibrationError, match=r"a\.png"):
        _ = slide.mpp


def test_transparent_is_white(tmp_path):
    rgba = np.dstack([RAMP, np.zeros((20, 30), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (open_slide(tmp_path / "a.png").read(Box(0, 0, 30, 20), (30, 20)) == 255).all()


def test_a_grey_image_is_read_as_rgb(tmp_path):
    Image.fromarray(RAMP[..., 0]).save(tmp_path / "g.png")
    assert np.array_equal(open_slide(tmp_path / "g.png").read(Box(0, 0, 30, 20), (30, 20))[..., 2], RAMP[..., 0])


def test_no_file(tmp_path):
    with pytest.raises(SlideNotFoundError, match=r"absent\.svs"):
        open_slide(tmp_path / "absent.svs")
    with pytest.raises(FileNotFoundError):
        open_slide(tmp_path)


@pytest.mark.parametrize("name", ["a.svs", "a.png", "a.tif", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"no picture", b"II*\x00\x08\x00\x00\x00\xff\xff"])
def test_no_picture(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UnreadableSlideError, match=r"a\."):
        open_slide(file)


def test_a_truncated_png(tmp_path):
    file = write_png(tmp_path / "a.png", RAMP)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UnreadableSlideError, match=r"a\.png"):
        open_slide(file)


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_is_none(tmp_path, mpp):
    with pytest.raises(SlideError, match="mpp must be a positive number"):
        open_slide(write_png(tmp_path / "a.png", RAMP), mpp=mpp)


def test_names_with_spaces_and_umlauts(tmp_path):
    file = write_pyramid(tmp_path / "Fall 1 – Übersicht.tif", [np.full((128, 128, 3), 9, np.uint8)])
    with open_slide(file) as slide:
        assert isinstance(slide, TiledSlide)
        assert slide.read(Box(0, 0, 2, 2), (2, 2))[0, 0].tolist() == [9, 9, 9]


def test_what_is_read_can_be_written_to(tmp_path):
    """Whoever reads may draw on it, however it was read."""
    with open_slide(write_pyramid(tmp_path / "p.tif", [np.zeros((128, 128, 3), np.uint8)])) as slide:
        for box, size in [(Box(0, 0, 8, 8), (8, 8)), (Box(-4, 0, 8, 8), (8, 8)), (Box(0, 0, 8, 8), (4, 4))]:
            assert slide.read(box, size).flags.writeable


class TestRealSlides:
    """Each of the shared slides opens and reads, or says which one it is that does not."""

    def test_an_aperio_scan(self, shared_data):
        with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:
            assert slide.size == (2220, 2967)
            assert slide.mpp == pytest.approx(0.499, abs=1e-3)
            assert {"label", "macro", "thumbnail"} <= set(slide.associated_images)
            read = slide.read(Box(1000, 1000, 512, 512), (256, 256))
            exact = slide.read(Box(1000, 1000, 512, 512), (512, 512)).reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
            assert np.abs(read - exact).max() <= 1

    def test_levels_of_a_generic_tiff_show_the_same(self, shared_data):
        with open_slide(shared_data / "slides" / "openslide_boxes.tiff") as slide:
            assert len(slide.downsamples) == 4
            width, height = slide.size
            size = (width // 8, height // 8)
            coarse = slide.read(Box(0, 0, size[0] * 8, size[1] * 8), size).astype(float)
            fine = slide.read(Box(0, 0, size[0] * 8, size[1] * 8), (size[0] * 8, size[1] * 8))
            mean = fine.reshape(size[1], 8, size[0], 8, 3).mean(axis=(1, 3))
            assert np.abs(coarse - mean).mean() < 8

    def test_a_slide_that_opens_and_fails_on_reading(self, shared_data):
        path = shared_data / "slides" / "openslide_unreadable.svs"
        with open_slide(path) as slide, pytest.raises(UnreadableSlideError, match="openslide_unreadable"):
            slide.read(Box(0, 0, *slide.size), (64, 64))

    def test_a_file_that_is_no_slide(self, shared_data):
        with pytest.raises(UnreadableSlideError, match="broken_histolab"):
            open_slide(shared_data / "slides" / "broken_histolab.svs")

    def test_every_file_reads_or_gives_its_error(self, shared_data):
        files = [f for f in sorted((shared_data / "slides").iterdir()) if f.is_file()]
        files += sorted((shared_data / "glas" / "slides").glob("*.tif*"))
        refused = {}
        for file in files:
            try:
                with open_slide(file, mpp=0.5) as slide:
                    picture = slide.thumbnail(64)
            except UnreadableSlideError as error:
                refused[file.name] = str(error)
            else:
                assert picture.ndim == 3
                assert max(picture.shape[:2]) <= 64
        assert {"broken_histolab.svs", "openslide_unreadable.svs"} <= set(refused)
        assert all(name in said for name, said in refused.items())
        assert len(files) - len(refused) >= 10


def test_a_plain_image_that_is_too_large_says_what_to_do(tmp_path):
    Image.new("1", (14000, 14000)).save(tmp_path / "huge.png")
    with pytest.raises(UnreadableSlideError, match="pyramidal TIFF"):
        open_slide(tmp_path / "huge.png")


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.int32])
def test_more_than_eight_bits_are_not_cut_off(tmp_path, kind):
    Image.fromarray(np.full((4, 4), 999, kind)).save(tmp_path / "deep.tif")
    with pytest.raises(UnreadableSlideError, match=rf"deep\.tif has pixels of type {np.dtype(kind)}"):
        open_slide(tmp_path / "deep.tif")


def test_of_a_stack_the_first_image_is_not_taken_for_all(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 8, 8), np.uint8), imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(UnreadableSlideError, match=r"stack\.tif has 3 channels; .*open_channels"):
        open_slide(tmp_path / "stack.tif")
    tifffile.imwrite(tmp_path / "one.tif", np.zeros((8, 8, 3), np.uint8), imagej=True)
    assert open_slide(tmp_path / "one.tif").size == (8, 8)
