"""Slides that look the same, in different parts of a split."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import table_of, write_png
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate

import qp2train as qp
from qp2train.errors import SplitError
from qp2train.sampling.leakage import check_leakage, look_of, similarity

GLASS = 240


def tissue(seed: int, size: tuple[int, int] = (200, 260)) -> np.ndarray:
    """Blotches within an ellipse on glass."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    within = ((y - height / 2) / (0.36 * height)) ** 2 + ((x - width / 2) / (0.38 * width)) ** 2 < 1
    blotches = gaussian_filter(rng.normal(0, 1, size), 6)
    grey = np.where(within, 140 + 45 * blotches / blotches.std(), GLASS)
    return np.clip(np.repeat(grey[..., None], 3, axis=2), 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=50)
    return np.asarray(Image.open(buffer))


def scanned_again(picture: np.ndarray) -> np.ndarray:
    """Put on the stage 2° askew, with other margins, at 0.8 of the size; paler, and with noise."""
    wide = np.pad(picture, ((10, 40), (30, 5), (0, 0)), constant_values=GLASS)
    turned = rotate(wide, 2, reshape=True, order=1, mode="constant", cval=GLASS)
    height, width = turned.shape[:2]
    small = np.asarray(Image.fromarray(turned).resize((int(0.8 * width), int(0.8 * height)), Image.Resampling.BOX))
    noise = np.random.default_rng(0).normal(0, 4, small.shape)
    return np.clip(small * 0.9 + 20 + noise, 0, 255).astype(np.uint8)


SAME = {
    "copied": lambda p: p.copy(),
    "compressed": jpeg,
    "half the size": lambda p: p[::2, ::2],
    "turned": lambda p: np.rot90(p),
    "upside down": lambda p: np.rot90(p, 2),
    "mirrored": lambda p: p[:, ::-1],
    "mirrored and turned": lambda p: np.rot90(p[:, ::-1]),
    "less glass": lambda p: p[20:-20, 30:-30],
    "scanned again": scanned_again,
    "paler": lambda p: (p * 0.5 + 100).astype(np.uint8),
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_tissue_looks_the_same(how):
    one, other = look_of(tissue(0)), look_of(np.ascontiguousarray(SAME[how](tissue(0))))
    assert similarity([one], [other])[0, 0] > 0.9


def test_other_tissue_of_the_same_shape_does_not():
    looks = [look_of(tissue(seed)) for seed in range(30)]
    alike = similarity(looks, looks)
    np.testing.assert_allclose(np.diag(alike), 1, atol=1e-5)
    assert alike[~np.eye(30, dtype=bool)].max() < 0.7


def test_similarity_is_symmetrical():
    looks = [look_of(tissue(seed)) for seed in range(6)]
    alike = similarity(looks, looks)
    np.testing.assert_allclose(alike, alike.T, atol=1e-5)


def test_tissue_of_other_proportions_is_not_compared():
    assert similarity([look_of(tissue(0))], [look_of(tissue(0)[:, ::3])])[0, 0] == -1


@pytest.mark.parametrize("size", [(60, 60), (1, 1), (1, 300)])
def test_a_blank_slide_has_no_look(size):
    assert look_of(np.full((*size, 3), GLASS, np.uint8)) is None


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (3, 200)])
def test_a_tiny_slide_does_no_harm(size):
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    look = look_of(picture)
    assert look is None or np.isfinite(look.cells).all()


def table(folder: Path, pictures: Mapping[str, np.ndarray], split: Mapping[str, str]) -> qp.PatchTable:
    """Two patches of each picture, each of its own patient."""
    made = table_of(dict.fromkeys(pictures, 2), **{name: {"patient": f"P-{name}"} for name in pictures})
    paths = {name: str(write_png(folder / f"{name}.png", np.ascontiguousarray(p))) for name, p in pictures.items()}
    slides = {name: replace(ref, path=paths[name]) for name, ref in made.slides.items()}
    return replace(made, slides=slides, rows=made.rows.assign(split=made.rows["entry"].map(split)))


PICTURES = {"a": tissue(0), "b": tissue(1), "c": np.rot90(tissue(0)), "d": np.full((80, 80, 3), GLASS, np.uint8)}


def test_two_slides_that_look_the_same_are_told_and_not_refused(tmp_path, caplog):
    (leak,) = check_leakage(table(tmp_path, PICTURES, {"a": "train", "b": "train", "c": "test", "d": "test"}))
    assert (leak.kind, leak.certain) == ("picture", False)
    assert leak.names == ("c.svs (test)", "a.svs (train)")
    assert "c.svs (test) and a.svs (train) look the same" in caplog.text


def test_in_one_part_they_may(tmp_path):
    assert check_leakage(table(tmp_path, PICTURES, {"a": "train", "b": "test", "c": "train", "d": "test"})) == []


def test_pictures_need_not_be_looked_at(tmp_path):
    split = {"a": "train", "b": "train", "c": "test", "d": "test"}
    assert check_leakage(table(tmp_path, PICTURES, split), pictures=False) == []


def test_blank_slides_are_not_alike(tmp_path):
    blank = {"a": PICTURES["d"], "b": PICTURES["d"]}
    assert check_leakage(table(tmp_path, blank, {"a": "train", "b": "test"})) == []


def test_a_slide_that_cannot_be_read_is_named_and_the_others_are_compared(tmp_path, caplog):
    split = {"a": "train", "b": "train", "c": "test", "d": "test"}
    given = table(tmp_path, PICTURES, split)
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "d.png").unlink()
    (leak,) = check_leakage(given)
    assert leak.kind == "picture"
    assert "cannot be read: b.svs" in caplog.text
    assert "cannot be read: d.svs" in caplog.text


def test_nothing_is_read_where_patches_were_dealt_out(tmp_path, caplog):
    parts = table(tmp_path, {"a": tissue(0)}, {"a": ""}).split(by="patch", fractions=(0.5, 0.5))
    (tmp_path / "a.png").unlink()
    check_leakage(*parts)
    assert "cannot be read" not in caplog.text


class TestGlas:
    @pytest.fixture
    def sampled(self, shared_data: Path) -> qp.PatchTable:
        folder = shared_data / "glas"
        project = qp.Project(folder / "project", image_roots=[folder / "slides"])
        labels = qp.LabelMap({"Gland": ["Benign gland", "Malignant gland"]})
        return qp.sample_patches(project, labels, per_class=20, mpp=2, size=64)

    def test_patients_in_training_and_test_are_named(self, sampled):
        """As in the challenge's own split, which has 11 of its 12 test patients in training, too."""
        half = np.where(np.arange(len(sampled)) % 2, "train", "test")
        with pytest.raises(SplitError, match=r"'p01' \(test and train\).*'p06' \(test and train\)"):
            check_leakage(replace(sampled, rows=sampled.rows.assign(split=half)))

    def test_five_patients_are_five_pictures(self, sampled):
        assert check_leakage(*sampled.split()) == []

    def test_a_slide_copied_under_another_patients_name_is_found(self, sampled, tmp_path):
        copy = shutil.copy(sampled.slides["1"].path, tmp_path / "copy.tiff")
        slides = {**sampled.slides, "2": replace(sampled.slides["2"], path=str(copy))}
        parts = replace(sampled, slides=slides).split(assign={"p02": "test"})
        assert [set(leak.names) for leak in check_leakage(*parts)] == [{"p01.tiff (train)", "p02.tiff (test)"}]
