"""Tiles decoded directly are OpenSlide's pixels, or OpenSlide reads them."""

import contextlib
import logging
import multiprocessing
import pickle
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from tiffs import picture, set_tile, tile_bytes, write_slide

from qp2train import Box, open_slide
from qp2train.errors import UnreadableSlideError
from qp2train.slides.openslide import OpenSlideSlide
from qp2train.slides.slide import PyramidSlide
from qp2train.slides.tilecache import TILES, TileCache
from qp2train.slides.tiled import TiledSlide

KINDS = {
    "JPEG 4:4:4": {"compression": "jpeg", "subsampling": (1, 1)},
    "JPEG 4:2:2": {"compression": "jpeg", "subsampling": (2, 1)},
    "JPEG 4:2:0": {"compression": "jpeg", "subsampling": (2, 2), "compressionargs": {"level": 85}},
    "JPEG 2000": {"compression": 33005, "aperio": True},
    "Aperio JPEG": {"compression": "jpeg", "subsampling": (2, 2), "aperio": True},
    "LZW": {"compression": "lzw"},
    "LZW, differences": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib"},
    "none": {},
}


@pytest.fixture(autouse=True)
def _no_tiles_from_other_tests():
    TILES.clear()


def by_openslide(path: Path, level: int) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        rgba = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
    return np.where(rgba[..., 3:] == 255, rgba[..., :3], 255).astype(np.uint8)


def whole_level(slide: PyramidSlide, level: int) -> np.ndarray:
    return slide._read_level(level, 0, 0, *slide.level_sizes[level])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(384, 512), (299, 517), (61, 77)], ids=str)
def test_pixels_are_openslides(tmp_path, kind, size):
    path = write_slide(tmp_path / "s.tif", picture(*size), **KINDS[kind])
    with open_slide(path) as slide:
        assert isinstance(slide, TiledSlide)
        assert len(slide.level_sizes) == 3
        for level in range(3):
            assert np.array_equal(whole_level(slide, level), by_openslide(path, level))


@pytest.mark.parametrize("tile", [16, 48, 256])
def test_a_region_across_tiles_is_the_part_of_the_whole(tmp_path, tile):
    array = picture(300, 400)
    with open_slide(write_slide(tmp_path / "s.tif", array, tile=tile)) as slide:
        rng = np.random.default_rng(0)
        for _ in range(50):
            x, y, w, h = (int(v) for v in rng.integers((-60, -60, 1, 1), (400, 300, 200, 200)))
            padded = np.pad(array, ((200, 200), (200, 200), (0, 0)), constant_values=255)
            assert np.array_equal(slide.read(Box(x, y, w, h), (w, h)), padded[y + 200 :, x + 200 :][:h, :w])


def test_averaged_reading_is_the_same_through_either_door(tmp_path):
    path = write_slide(tmp_path / "s.tif", picture(512, 512), compression="jpeg")
    with open_slide(path) as fast, OpenSlideSlide(path) as slow:
        for box, size in [
            (Box(3, 5, 96, 96), (32, 32)),
            (Box(0.5, 7.25, 300, 200), (110, 70)),
            (Box(-9, 0, 64, 64), (16, 16)),
        ]:
            assert np.array_equal(fast.read(box, size), slow.read(box, size))
        assert fast.mpp == slow.mpp
        assert fast.properties == slow.properties


def test_what_openslide_shows_otherwise_is_left_to_it(tmp_path, caplog):
    """Aperio's JPEG 2000 in YCbCr: OpenSlide converts the colours, the bare decoder does not."""
    path = write_slide(tmp_path / "s.svs", picture(300, 300), aperio=True, compression=33003, photometric="ycbcr")
    with caplog.at_level(logging.INFO), open_slide(path) as slide:
        assert isinstance(slide, OpenSlideSlide)
        assert np.array_equal(whole_level(slide, 0), by_openslide(path, 0))
    assert "s.svs: read by OpenSlide" in caplog.text


class TestDamage:
    def test_a_missing_tile_of_the_last_level_is_made_as_openslide_does(self, tmp_path):
        path = write_slide(tmp_path / "s.svs", picture(512, 512), aperio=True, compression="jpeg", levels=(1, 2))
        set_tile(path, 1, 3, count=0)
        with open_slide(path) as slide:
            assert isinstance(slide, TiledSlide)
            assert np.array_equal(whole_level(slide, 1), by_openslide(path, 1))

    def test_below_a_missing_tile_openslide_trusts_no_level(self, tmp_path):
        path = write_slide(tmp_path / "s.svs", picture(512, 512), aperio=True, compression="jpeg")
        set_tile(path, 1, 3, count=0)
        with open_slide(path) as slide:
            assert isinstance(slide, OpenSlideSlide)
            for level in range(3):
                assert np.array_equal(whole_level(slide, level), by_openslide(path, level))

    def test_a_damaged_tile_is_a_named_error_and_the_others_are_read(self, tmp_path):
        array = picture(512, 512)
        path = write_slide(tmp_path / "s.tif", array, levels=(1,), compression="zlib")
        offset, count = tile_bytes(path, 0, 5)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"\xff" * count)
        with open_slide(path) as slide:
            for _ in range(2):
                with pytest.raises(UnreadableSlideError, match=r"s\.tif: cannot read"):
                    slide.read(Box(128, 128, 128, 128), (128, 128))
                assert np.array_equal(slide.read(Box(384, 0, 128, 128), (128, 128)), array[:128, 384:])

    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
    def test_a_truncated_file(self, tmp_path, kept):
        path = write_slide(tmp_path / "s.tif", picture(512, 512), compression="jpeg")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
        with pytest.raises(UnreadableSlideError, match=r"s\.tif"), open_slide(path) as slide:
            slide.read(Box(0, 0, 512, 512), (512, 512))

    @pytest.mark.parametrize("lie", [{"offset": 2**31}, {"count": 2**32 - 1}, {"offset": 0}, {"count": 1}], ids=str)
    def test_a_file_that_lies_of_its_tiles(self, tmp_path, lie):
        path = write_slide(tmp_path / "s.tif", picture(512, 512), levels=(1,), compression="jpeg")
        set_tile(path, 0, 6, **lie)
        with pytest.raises(UnreadableSlideError, match=r"s\.tif"), open_slide(path) as slide:
            slide.read(Box(0, 0, 512, 512), (512, 512))

    def test_a_tile_that_claims_to_be_huge_is_not_decoded(self, tmp_path):
        """4 kB of JPEG that say 65,000 × 65,000 would take 12 GB."""
        path = write_slide(tmp_path / "s.tif", picture(512, 512), levels=(1,), compression="jpeg")
        offset, count = tile_bytes(path, 0, 6)
        data = bytearray(path.read_bytes())
        header = data.index(b"\xff\xc0", offset, offset + count)
        data[header + 5 : header + 9] = (65_000).to_bytes(2, "big") * 2
        path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open_slide(path) as slide, pytest.raises(UnreadableSlideError, match=r"s\.tif"):
            slide.read(Box(256, 128, 10, 10), (10, 10))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB

    def test_a_closed_slide_says_so(self, tmp_path):
        slide = open_slide(write_slide(tmp_path / "s.tif", picture(100, 100)))
        slide.close()
        with pytest.raises(UnreadableSlideError, match="closed"):
            slide.read(Box(0, 0, 10, 10), (10, 10))


def _mean(slide: PyramidSlide, box: Box) -> float:
    return float(slide.read(box, (64, 64)).mean())


class TestSharing:
    @pytest.mark.parametrize("door", [open_slide, OpenSlideSlide])
    @pytest.mark.parametrize("start", ["fork", "spawn"])
    def test_processes(self, tmp_path, door, start):
        path = write_slide(tmp_path / "s.tif", picture(512, 512), compression="jpeg")
        boxes = [Box(x, y, 64, 64) for x in range(0, 448, 90) for y in range(0, 448, 90)]
        with door(path) as slide:
            expected = [_mean(slide, box) for box in boxes]
            with multiprocessing.get_context(start).Pool(2) as pool:
                assert pool.starmap(_mean, [(slide, box) for box in boxes], chunksize=3) == expected

    def test_threads_share_one_reader(self, tmp_path):
        array = picture(512, 512)
        wrong: list[int] = []
        with open_slide(write_slide(tmp_path / "s.tif", array, tile=64, compression="zlib")) as slide:

            def reading(seed: int) -> None:
                rng = np.random.default_rng(seed)
                for _ in range(60):
                    x, y = (int(v) for v in rng.integers(0, 412, 2))
                    if not np.array_equal(slide.read(Box(x, y, 100, 100), (100, 100)), array[y : y + 100, x : x + 100]):
                        wrong.append(seed)

            threads = [threading.Thread(target=reading, args=(seed,)) for seed in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert wrong == []

    def test_a_slide_is_pickled_as_its_path(self, tmp_path):
        with open_slide(write_slide(tmp_path / "s.tif", picture(300, 300)), mpp=0.7) as slide:
            data = pickle.dumps(slide)
            assert len(data) < 1000
            with pickle.loads(data) as again:
                assert isinstance(again, TiledSlide)
                assert again.mpp == 0.7

    def test_what_is_read_is_ones_own(self, tmp_path):
        with open_slide(write_slide(tmp_path / "s.tif", picture(256, 256))) as slide:
            first = slide.read(Box(0, 0, 128, 128), (128, 128))
            kept = first.copy()
            first[:] = 0
            assert np.array_equal(slide.read(Box(0, 0, 128, 128), (128, 128)), kept)


class TestCache:
    def test_the_tiles_used_last_are_kept(self):
        cache = TileCache(capacity=300)
        tiles = {name: np.full((10, 10, 1), i, np.uint8) for i, name in enumerate("abcd")}
        for name in "abc":
            cache.put(name, tiles[name])
        assert cache.get("a") is tiles["a"]
        cache.put("d", tiles["d"])
        assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
        assert cache.nbytes == 300

    def test_a_tile_larger_than_all_is_not_kept(self):
        cache = TileCache(capacity=10)
        cache.put("a", np.zeros((4, 4, 1), np.uint8))
        assert cache.get("a") is None
        assert cache.nbytes == 0

    def test_reading_fills_it_to_its_bound(self, tmp_path, monkeypatch):
        monkeypatch.setattr(TILES, "capacity", 5 * 64 * 64 * 3)
        with open_slide(write_slide(tmp_path / "s.tif", picture(512, 512), tile=64)) as slide:
            slide.read(Box(0, 0, 512, 512), (512, 512))
        assert TILES.nbytes == 5 * 64 * 64 * 3


def test_real_slides_are_read_as_openslide_reads_them(shared_data):
    files = [*(shared_data / "slides").iterdir(), *(shared_data / "glas" / "slides").glob("*.tif*")]
    fast = compared = 0
    for file in files:
        if openslide.OpenSlide.detect_format(str(file)) is None or file.name == "openslide_unreadable.svs":
            continue
        with open_slide(file, view="") as slide:
            fast += isinstance(slide, TiledSlide)
            for level in range(len(slide.level_sizes)):
                assert np.array_equal(whole_level(slide, level), by_openslide(file, level)), (file, level)
                compared += 1
    assert fast >= 7
    assert compared >= 20


class TestScaledDecode:
    @pytest.mark.parametrize("size", [(512, 512), (461, 533)], ids=str)
    @pytest.mark.parametrize(("downsample", "level"), [(2, 2.0), (3, 2.0), (4, 4.0), (6, 4.0), (8, 8.0)])
    def test_pixels_are_near_the_mean_and_in_place(self, tmp_path, size, downsample, level):
        path = write_slide(tmp_path / "s.tif", picture(*size, blob=12), levels=(1, 8), tile=64, compression="jpeg")
        width, height = size[1] // downsample - 2, size[0] // downsample - 2
        box = Box(downsample, 2 * downsample, width * downsample, height * downsample)
        with open_slide(path) as exact, open_slide(path, scaled_decode=True) as scaled:
            assert scaled.downsamples[scaled._level_for(downsample)] == pytest.approx(level, rel=0.02)
            expected = exact.read(box, (width, height)).astype(int)
            difference = np.abs(scaled.read(box, (width, height)).astype(int) - expected)
            moved = np.abs(np.roll(expected, 1, axis=1) - expected)[:, 1:].mean()
        assert difference.mean() < 1.5
        assert difference.mean() < moved / 5  # a shift by a pixel would show

    def test_a_real_slide_whose_jpeg_holds_red_green_and_blue(self, shared_data):
        """Aperio says so in the TIFF's tags only; taken for YCbCr, its colours would be off by 50 grey levels."""
        path = shared_data / "slides" / "CMU-1-Small-Region.svs"
        box = Box(0, 0, 2200, 2896)
        with open_slide(path) as exact, open_slide(path, scaled_decode=True) as scaled:
            assert scaled.downsamples == (1.0, 2.0, 4.0, 8.0)
            for size in [(1100, 1448), (550, 724), (275, 362)]:
                difference = np.abs(scaled.read(box, size).astype(int) - exact.read(box, size))
                assert difference.mean() < 0.5

    def test_levels_that_would_look_different_are_not_made(self, tmp_path, monkeypatch):
        path = write_slide(tmp_path / "s.tif", picture(512, 512), levels=(1,), compression="jpeg")
        monkeypatch.setattr("qp2train.slides.tiled.ALIKE", -1.0)
        with open_slide(path, scaled_decode=True) as slide:
            assert slide.downsamples == (1.0,)

    def test_it_is_asked_for(self, tmp_path):
        path = write_slide(tmp_path / "s.tif", picture(512, 512), levels=(1,), compression="jpeg")
        with open_slide(path) as exact, open_slide(path, scaled_decode=True) as scaled:
            assert exact.downsamples == (1.0,)
            assert scaled.downsamples == (1.0, 2.0, 4.0, 8.0)
            again = pickle.loads(pickle.dumps(scaled))
            assert again.downsamples == scaled.downsamples
            assert np.array_equal(again.thumbnail(64), scaled.thumbnail(64))

    def test_full_resolution_and_other_compressions_stay_exact(self, tmp_path):
        for how in ({"compression": "jpeg"}, {"compression": "zlib"}):
            path = write_slide(tmp_path / "s.tif", picture(300, 300), levels=(1,), **how)
            with open_slide(path) as exact, open_slide(path, scaled_decode=True) as scaled:
                for size in [(300, 300), (200, 200)] + [(100, 100)] * (how["compression"] == "zlib"):
                    assert np.array_equal(scaled.read(Box(0, 0, 300, 300), size), exact.read(Box(0, 0, 300, 300), size))


def test_patches_that_fit_the_tiles_are_not_kept(tmp_path):
    """Each tile of such a grid is asked for once; keeping it would only push out others."""
    array = picture(256, 256)
    with open_slide(write_slide(tmp_path / "s.tif", array, levels=(1,), tile=64)) as slide:
        TILES.clear()
        for x in range(0, 256, 64):
            assert np.array_equal(slide.read(Box(x, 64, 64, 64), (64, 64)), array[64:128, x : x + 64])
        assert TILES.nbytes == 0
        slide.read(Box(32, 64, 64, 64), (64, 64))
        first = slide.read(Box(0, 64, 64, 64), (64, 64))
        first[:] = 0  # a kept tile is handed out as a copy
        assert np.array_equal(slide.read(Box(0, 64, 64, 64), (64, 64)), array[64:128, :64])


class TestWhichPagesAreLevels:
    """Files hold other pictures, too, and of any size."""

    def write(self, path: Path, *pages: tuple[np.ndarray, dict]) -> Path:
        with tifffile.TiffWriter(path) as tiff:
            for array, how in pages:
                tiff.write(array, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None, **how)
        return path

    def test_another_picture_of_a_levels_size_is_none(self, tmp_path):
        main, level, other = picture(400, 400), picture(200, 200, 1), picture(200, 200, 2)
        pages = [(main, {}), (other, {}), (level, {"subfiletype": 1})]
        with open_slide(self.write(tmp_path / "s.tif", *pages)) as slide:
            assert np.array_equal(slide.read(Box(0, 0, 400, 400), (200, 200)), level)

    def test_an_ome_file_that_begins_with_another_picture(self, tmp_path):
        """The first image that its XML names is then a picture of the label, with a scale of its own."""
        main, label = picture(512, 512), picture(128, 128, 1)
        image = '<Image ID="Image:{0}"><Pixels ID="P:{0}" DimensionOrder="XYCZT" Type="uint8" SizeX="{1}" SizeY="{1}" '
        image += 'SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="{2}"><Channel ID="C:{0}" SamplesPerPixel="3"/>'
        image += '<TiffData IFD="{3}" PlaneCount="1"/></Pixels></Image>'
        xml = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}{}</OME>'
        xml = xml.format(image.format(0, 128, 8.0, 1), image.format(1, 512, 0.25, 0))
        path = self.write(tmp_path / "s.tif", (main, {"description": xml}), (label, {}))
        with open_slide(path, mpp=None) as slide:
            assert slide.level_sizes == ((512, 512),)
            assert not slide.calibrated


@pytest.mark.parametrize("page", [0, 1])
def test_tiles_that_fit_into_no_memory_are_refused(tmp_path, page):
    """OpenSlide would end the process."""
    path = write_slide(tmp_path / "s.tif", picture(512, 512))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[page].tags["TileWidth"].overwrite(1 << 30)
    with pytest.raises(UnreadableSlideError, match="it has tiles of 1073741824×"):
        open_slide(path)


def test_openslide_is_not_freed_under_a_read_of_another_thread(tmp_path):
    path = write_slide(tmp_path / "s.tif", picture(512, 512))
    slides = [OpenSlideSlide(path)]
    stop = threading.Event()

    def reading() -> None:
        while not stop.is_set():
            with contextlib.suppress(UnreadableSlideError):
                slides[0].read(Box(0, 0, 512, 512), (512, 512))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(reading) for _ in range(2)]
        for _ in range(40):
            slides[0].close()
            slides[0] = OpenSlideSlide(path)
        stop.set()
        for reader in readers:
            reader.result()


def test_a_slide_closed_by_one_thread_never_shows_another_file_to_the_next(tmp_path):
    """A closed file's number is given to the next one that is opened."""
    paths = [write_slide(tmp_path / f"{i}.tif", np.full((256, 256, 3), 50 + 100 * i, np.uint8)) for i in range(2)]
    slides = [open_slide(paths[0])]
    wrong: list[int] = []
    stop = threading.Event()

    def reading() -> None:
        while not stop.is_set():
            try:
                TILES.clear()
                value = int(slides[0]._file.read(8, 4) == b"")
                value = int(slides[0].read(Box(0, 0, 8, 8), (8, 8))[0, 0, 0]) + value
            except (OSError, UnreadableSlideError):
                continue
            if value != 50:
                wrong.append(value)

    threads = [threading.Thread(target=reading) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        slides[0].close()
        with open_slide(paths[1]) as other:
            other.read(Box(0, 0, 8, 8), (8, 8))
            slides[0] = open_slide(paths[0])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
