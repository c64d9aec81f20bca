"""Outlines of the tissue in slide pixels, without ink and folds where asked."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from skimage.draw import disk as disc

from qp2train import ArraySlide, open_slide, tissue_regions
from qp2train.errors import MissingCalibrationError, SlideError
from qp2train.slides import tissue as tissue_module
from qp2train.slides.tissue import tissue_mask

GLASS, PINK = (242, 241, 243), (220, 150, 190)
BLUE, GREEN = (30, 90, 200), (40, 140, 70)


def overview(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (150, 200), color=PINK) -> np.ndarray:
    """Boxes (x0, y0, x1, y1) of tissue on glass."""
    image = np.empty((*shape, 3))
    image[:] = GLASS
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = color
    return np.clip(image + np.random.default_rng(0).normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def slide_of(picture: np.ndarray, *, mpp: float = 2.0, each: int = 4) -> ArraySlide:
    """A slide of which `picture` is the overview at 8 µm per pixel."""
    return ArraySlide(np.kron(picture, np.ones((each, each, 1), np.uint8)), mpp=mpp)


def doubled(picture: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The tissue there lies double: the light that goes through goes through it twice."""
    out = picture.astype(float)
    out[rows, columns] = out[rows, columns] ** 2 / 255
    return out.astype(np.uint8)


def test_outlines_are_in_slide_pixels_from_top_to_bottom():
    found = tissue_regions(slide_of(overview((20, 100, 70, 140), (100, 20, 180, 80))))
    expected = [shapely.box(400, 80, 720, 320), shapely.box(80, 400, 280, 560)]
    assert len(found) == 2
    for polygon, box in zip(found, expected, strict=True):
        assert polygon.is_valid
        assert polygon.intersection(box).area / polygon.union(box).area > 0.9
        assert np.abs(np.subtract(polygon.bounds, box.bounds)).max() <= 8  # two pixels of the overview


def test_outlines_follow_the_pixels_of_the_overview():
    for polygon in tissue_regions(slide_of(overview((20, 30, 120, 100)))):
        assert not (shapely.get_coordinates(polygon) % 4).any()


def test_a_wide_hole_is_a_hole_a_small_one_is_filled():
    picture = overview((20, 20, 180, 130))
    picture[50:90, 40:80] = GLASS  # 40 × 40 pixels of 8 µm: 102,400 µm²
    picture[60:75, 120:135] = GLASS  # 14,400 µm²
    (piece,) = tissue_regions(slide_of(picture))
    (hole,) = piece.interiors
    assert shapely.Polygon(hole).centroid.distance(shapely.Point(240, 280)) < 8
    (piece,) = tissue_regions(slide_of(picture), min_area_um2=150_000)
    assert len(piece.interiors) == 0


def test_small_pieces_are_left_out():
    slide = slide_of(overview((20, 20, 120, 120), (150, 20, 170, 40)))  # the second: 25,600 µm²
    assert len(tissue_regions(slide)) == 1
    assert len(tissue_regions(slide, min_area_um2=10_000)) == 2


def test_a_corner_of_glass_is_no_hole():
    picture = overview((0, 0, 200, 150))
    picture[:15, :15] = GLASS
    (piece,) = tissue_regions(slide_of(picture))
    assert not piece.contains(shapely.Point(20, 20))


def test_glass_has_no_tissue():
    assert tissue_regions(slide_of(overview())) == []


def test_a_slide_coarser_than_the_overview_and_one_of_a_single_pixel():
    (piece,) = tissue_regions(ArraySlide(overview((20, 20, 120, 120)), mpp=30.0))
    assert piece.area == pytest.approx(100 * 100, rel=0.1)
    assert tissue_regions(ArraySlide(np.full((1, 1, 3), 255, np.uint8), mpp=0.5)) == []


def test_a_large_slide_is_looked_at_more_coarsely(monkeypatch, caplog):
    monkeypatch.setattr(tissue_module, "OVERVIEW_PX", 150 * 200 // 4)
    (piece,) = tissue_regions(slide_of(overview((20, 20, 180, 130))))
    assert "16" in caplog.text
    assert piece.area == pytest.approx(160 * 110 * 16, rel=0.06)


@pytest.mark.parametrize("wrong", [{"mpp": 0}, {"mpp": float("nan")}, {"min_area_um2": -1.0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(SlideError, match="min_area_um2"):
        tissue_regions(slide_of(overview()), **wrong)


def test_without_a_pixel_size_there_is_no_scale():
    with pytest.raises(MissingCalibrationError):
        tissue_regions(ArraySlide(overview()))


@pytest.mark.parametrize("ink", [BLUE, GREEN, (25, 25, 28)])
def test_a_pen_stroke_is_left_out_when_asked(ink):
    picture = overview((20, 20, 120, 130))
    picture[10:140, 150:170] = ink
    (piece,) = tissue_regions(slide_of(picture), pen=True)
    assert piece.bounds[2] <= 124 * 4
    if max(ink) - min(ink) > 50:
        assert len(tissue_regions(slide_of(picture))) == 2, "it counts as tissue otherwise"


def test_a_pen_over_tissue_takes_only_what_it_covers():
    picture = overview((20, 20, 180, 130))
    picture[:, 90:102] = BLUE
    left, right = tissue_regions(slide_of(picture), pen=True)
    assert left.area + right.area == pytest.approx((160 - 12 - 10) * 110 * 16, rel=0.08)


def test_a_fold_is_left_out_when_asked():
    picture = doubled(overview((20, 20, 180, 130)), slice(35, 115), slice(90, 98))  # 64 µm × 640 µm
    mask = tissue_mask(picture, mpp=8.0, folds=True)
    assert tissue_mask(picture, mpp=8.0)[40:110, 92:96].all()
    assert not mask[40:110, 91:97].any()
    assert mask[25:125, 30:80].all()
    assert mask[25:125, 110:170].all()


def test_round_dense_tissue_and_bands_of_another_hue_are_no_folds():
    picture = overview((20, 20, 180, 130))
    rows, columns = disc((75, 60), 9)
    picture[rows, columns] = doubled(picture, slice(None), slice(None))[rows, columns]
    picture[35:115, 130:138] = (120, 90, 160)  # nuclei in a row: dense in red more than in green
    assert np.array_equal(tissue_mask(picture, mpp=8.0, folds=True), tissue_mask(picture, mpp=8.0))


def test_real_slides_lose_nothing_to_pen_and_folds_and_have_a_piece_per_field(shared_data):
    pieces = {}
    for path in sorted((shared_data / "glas" / "slides").glob("*.tiff")):
        with open_slide(path) as slide:
            pieces[path.stem] = len(tissue_regions(slide))
            whole = sum(p.area for p in tissue_regions(slide))
            kept = sum(p.area for p in tissue_regions(slide, pen=True, folds=True))
        assert kept > 0.99 * whole, path.name
    assert pieces == {"p01": 3, "p02": 4, "p03": 2, "p05": 1, "p06": 1}
