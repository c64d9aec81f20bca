"""OME-TIFF that OpenSlide refuses, and images of other channels than red, green and blue."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from tiffs import picture, set_tile

from qp2train import Box, open_channels, open_slide
from qp2train.errors import MissingCalibrationError, SlideError, SlideNotFoundError, UnreadableSlideError
from qp2train.slides.tiffslide import TiffSlide


def write_ome(path: Path, array: np.ndarray, axes: str, *, levels: int = 1, **how) -> Path:
    """An OME-TIFF; each further level is every second pixel of the one before."""
    metadata = {
        "axes": axes,
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.5,
        "PhysicalSizeXUnit": "µm",
        **how.pop("metadata", {}),
    }
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(array, subifds=levels - 1, metadata=metadata, **how)
        for level in range(1, levels):
            step = [slice(None, None, 2**level) if axis in "YX" else slice(None) for axis in axes]
            tiff.write(array[tuple(step)], subfiletype=1, metadata=None, **how)
    return path


def stack(shape: tuple[int, ...], dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, shape).astype(dtype)


class TestColour:
    def test_a_pyramid_in_sub_pictures(self, tmp_path):
        array = picture(300, 400)
        path = write_ome(tmp_path / "a.ome.tif", array, "YXS", levels=3, tile=(64, 64), photometric="rgb")
        with open_slide(path) as slide:
            assert slide.level_sizes == ((400, 300), (200, 150), (100, 75))
            assert slide.mpp == 0.5
            assert np.array_equal(slide.read(Box(0, 0, 400, 300), (400, 300)), array)
            assert np.array_equal(slide.read(Box(80, 40, 80, 80), (20, 20)), array[::4, ::4][10:30, 20:40])
            assert (slide.read(Box(390, 0, 20, 10), (20, 10))[:, 10:] == 255).all()

    def test_strips_and_grey(self, tmp_path):
        grey = picture(100, 130)[..., 0]
        path = write_ome(tmp_path / "a.ome.tif", grey, "YX", rowsperstrip=7)
        with open_slide(path, mpp=0.3) as slide:
            assert isinstance(slide, TiffSlide)
            assert slide.mpp == 0.3
            assert np.array_equal(slide.read(Box(0, 0, 130, 100), (130, 100)), np.repeat(grey[..., None], 3, axis=2))
            assert np.array_equal(pickle.loads(pickle.dumps(slide)).thumbnail(50), slide.thumbnail(50))

    def test_print_resolution_is_no_pixel_size(self, tmp_path):
        for dpi, mpp in [(72, None), (300, None), (50_800, 0.5)]:
            tifffile.imwrite(
                tmp_path / "a.tif", picture(40, 40), resolution=(dpi, dpi), resolutionunit="INCH", metadata=None
            )
            with open_slide(tmp_path / "a.tif") as slide:
                if mpp is None:
                    with pytest.raises(MissingCalibrationError):
                        slide.mpp  # noqa: B018
                else:
                    assert slide.mpp == pytest.approx(mpp)

    @pytest.mark.parametrize(("axes", "shape"), [("CYX", (3, 40, 50)), ("ZYX", (2, 40, 50)), ("TCYX", (2, 4, 40, 50))])
    def test_channels_and_planes_are_refused_with_the_way_to_read_them(self, tmp_path, axes, shape):
        path = write_ome(tmp_path / "a.ome.tif", stack(shape, np.uint8), axes, photometric="minisblack")
        with pytest.raises(UnreadableSlideError, match=r"a\.ome\.tif has .*open_channels"):
            open_slide(path)


class TestChannels:
    def test_channels_by_name_and_number(self, tmp_path):
        array = stack((3, 90, 110))
        names = {"Channel": {"Name": ["DAPI", "CD3", "CD8"]}}
        path = write_ome(tmp_path / "a.ome.tif", array, "CYX", tile=(32, 32), photometric="minisblack", metadata=names)
        with open_channels(path) as slide:
            assert slide.channels == ("DAPI", "CD3", "CD8")
            assert (slide.size, slide.mpp, slide.dtype) == ((110, 90), 0.5, np.uint16)
            box = Box(10, 20, 64, 32)
            assert np.array_equal(slide.read(box, (64, 32)), array[:, 20:52, 10:74])
            assert np.array_equal(slide.read(box, (64, 32), channels=["CD8", 0]), array[[2, 0], 20:52, 10:74])
            for wrong in ("CD4", 3, -1):
                with pytest.raises(SlideError, match="DAPI, CD3, CD8"):
                    slide.read(box, (64, 32), channels=[wrong])

    def test_the_mean_keeps_sixteen_bits_and_beyond_the_border_is_nothing(self, tmp_path):
        array = np.array([[[1000, 3000], [2000, 60000]]], np.uint16)
        path = write_ome(tmp_path / "a.ome.tif", array, "CYX", photometric="minisblack")
        with open_channels(path) as slide:
            assert slide.read(Box(0, 0, 2, 2), (1, 1)).tolist() == [[[16500]]]
            assert slide.read(Box(1, 1, 2, 2), (2, 2)).tolist() == [[[60000, 0], [0, 0]]]
            assert slide.channels == ("Channel 1",)

    def test_slices_times_and_levels(self, tmp_path):
        array = stack((2, 3, 4, 64, 48))
        path = write_ome(tmp_path / "a.ome.tif", array, "TZCYX", levels=2, tile=(16, 16), photometric="minisblack")
        with open_channels(path) as slide:
            assert (slide.times, slide.depth, len(slide.channels)) == (2, 3, 4)
            assert slide.downsamples == (1.0, 2.0)
            read = slide.read(Box(0, 0, 48, 64), (48, 64), z=2, t=1)
            assert np.array_equal(read, array[1, 2])
            assert np.array_equal(slide.read(Box(0, 0, 48, 64), (24, 32), z=1), array[0, 1][:, ::2, ::2])
            with pytest.raises(SlideError, match="3 z-slices and 2 time points"):
                slide.read(Box(0, 0, 8, 8), (8, 8), z=3)

    def test_floating_point(self, tmp_path):
        array = np.random.default_rng(0).normal(size=(2, 30, 20)).astype(np.float32)
        path = write_ome(tmp_path / "a.ome.tif", array, "CYX", photometric="minisblack", compression="zlib")
        with open_channels(path) as slide:
            assert np.array_equal(slide.read(Box(0, 0, 20, 30), (20, 30)), array)
            assert np.allclose(
                slide.read(Box(0, 0, 20, 30), (10, 15)), array.reshape(2, 15, 2, 10, 2).mean((2, 4)), atol=1e-6
            )

    def test_colours_that_lie_apart(self, tmp_path):
        array = stack((3, 40, 30), np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate", tile=(16, 16))
        with open_channels(tmp_path / "a.tif") as slide:
            assert np.array_equal(slide.read(Box(0, 0, 30, 40), (30, 40)), array)

    def test_colour_pixels_are_three_channels(self, tmp_path):
        array = picture(40, 30)
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", tile=(16, 16), compression="zlib")
        with open_channels(tmp_path / "a.tif") as slide:
            assert np.array_equal(slide.read(Box(0, 0, 30, 40), (30, 40)), np.moveaxis(array, 2, 0))

    def test_pages_of_which_the_file_says_nothing(self, tmp_path):
        pages = stack((3, 40, 50))
        for path, how in ((tmp_path / "shaped.tif", {}), (tmp_path / "bare.tif", {"metadata": None})):
            tifffile.imwrite(path, pages, photometric="minisblack", **how)
            with pytest.raises(UnreadableSlideError, match=r"3 images; .*open_channels"):
                open_slide(path)
            with open_channels(path) as image:
                assert image.channels == ("Channel 1", "Channel 2", "Channel 3")
                assert np.array_equal(image.read(Box(0, 0, 50, 40), (50, 40)), pages)

    def test_an_imagej_stack(self, tmp_path):
        array = stack((2, 3, 20, 30))
        tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": "ZCYX"})
        with open_channels(tmp_path / "a.tif") as slide:
            assert (slide.depth, len(slide.channels)) == (2, 3)
            assert np.array_equal(slide.read(Box(0, 0, 30, 20), (30, 20), z=1), array[1])

    def test_it_travels_as_its_path(self, tmp_path):
        path = write_ome(tmp_path / "a.ome.tif", stack((2, 30, 30)), "CYX", photometric="minisblack")
        with open_channels(path, mpp=0.7) as slide, pickle.loads(pickle.dumps(slide)) as again:
            assert again.mpp == 0.7
            assert np.array_equal(again.read(Box(0, 0, 9, 9), (9, 9)), slide.read(Box(0, 0, 9, 9), (9, 9)))

    def test_what_cannot_be_opened(self, tmp_path):
        with pytest.raises(SlideNotFoundError):
            open_channels(tmp_path / "none.tif")
        (tmp_path / "no.tif").write_bytes(b"II*\0" + b"\xff" * 50)
        with pytest.raises(UnreadableSlideError, match=r"no\.tif"):
            open_channels(tmp_path / "no.tif")
        path = write_ome(tmp_path / "a.ome.tif", stack((2, 64, 64)), "CYX", photometric="minisblack", tile=(32, 32))
        with pytest.raises(SlideError, match="mpp"):
            open_channels(path, mpp=-1)
        set_tile(path, 1, 2, offset=2**31 - 1)
        with (
            open_channels(path) as slide,
            pytest.raises(UnreadableSlideError, match=r"a\.ome\.tif: cannot decode tile 2"),
        ):
            slide.read(Box(0, 0, 64, 64), (64, 64))


def test_real_files(shared_data):
    with open_channels(shared_data / "slides" / "qupath_cells-2z.ome.tif") as slide:
        expected = tifffile.imread(shared_data / "slides" / "qupath_cells-2z.ome.tif")
        assert (slide.depth, slide.channels) == (2, ("Channel 1",))
        for z in (0, 1):
            assert np.array_equal(slide.read(Box(0, 0, *slide.size), slide.size, z=z)[0], expected[z])
    file = shared_data / "slides" / "instanseg_HE_example.tif"
    with open_slide(file) as slide:
        assert np.array_equal(slide.read(Box(0, 0, *slide.size), slide.size), tifffile.imread(file))
    fluorescence = sorted((shared_data / "qupath_public").rglob("*.tif"))
    opened = [open_channels(file) for file in fluorescence]
    assert {len(slide.channels) for slide in opened} == {3}
    for slide in opened:
        assert slide.read(Box(0, 0, 50, 50), (25, 25)).shape == (3, 25, 25)
        slide.close()


class TestPartsElsewhere:
    def test_channels_in_other_files_are_refused_not_mixed_up(self, tmp_path):
        """OME-TIFF may name other files for further channels."""
        pixels = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="P:0" '
        pixels += 'DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="2" SizeZ="1" SizeT="1">'
        pixels += '<Channel ID="C:0"/><Channel ID="C:1"/>{}</Pixels></Image></OME>'
        data = (
            '<TiffData IFD="0" FirstC="{0}" PlaneCount="1"><UUID FileName="f{0}.ome.tif">urn:uuid:{0}</UUID></TiffData>'
        )
        xml = pixels.format(data.format(0) + data.format(1))
        for i in range(2):
            tifffile.imwrite(
                tmp_path / f"f{i}.ome.tif", stack((64, 64), np.uint8) // (i + 1), description=xml, metadata=None
            )
        for door in (open_channels, open_slide):
            with pytest.raises(UnreadableSlideError, match=r"f0\.ome\.tif"):
                door(tmp_path / "f0.ome.tif")

    def test_grey_of_four_bits_is_shown_as_bright_as_it_is(self, tmp_path):
        grey = np.arange(16, dtype=np.uint8).repeat(16).reshape(16, 16)
        tifffile.imwrite(tmp_path / "a.tif", grey, bitspersample=4, metadata=None)
        with open_slide(tmp_path / "a.tif") as slide:
            assert slide.read(Box(0, 0, 16, 16), (16, 16)).max() == 255
