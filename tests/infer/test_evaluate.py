import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import BLUE, FIRST_LAB, RED, FakeEntry, square, stained, write_png
from pixelnets import ByColour, model_of

from qp2train import ArraySlide, Box, Confusion, LabelMap, PatchTable, compare, evaluate, sample_patches
from qp2train.errors import ModelError, NoAnnotationError
from qp2train.slides.stain import NormalisedSlide

LABELS = LabelMap(["Tumor"])
BOX = Box(0, 0, 10, 10)


class TestEvaluate:
    @pytest.fixture
    def table(self, tmp_path):
        """Two slides of 32×32. On each, 16×16 is tumour; on "b" only half of that is red."""
        entries = []
        for name, rows in (("a", 16), ("b", 8)):
            array = np.full((32, 32, 3), BLUE, np.uint8)
            array[:rows, :16] = RED
            path = write_png(tmp_path / f"{name}.png", array)
            drawn = [square(0, 0, 32, "Region*"), square(0, 0, 16)]
            entries.append(FakeEntry(name, drawn, array, 1.0, {"patient": f"P{name}"}, str(path)))
        table = sample_patches(entries, LABELS, size=16, strategy="grid")
        return replace(table, rows=table.rows.assign(group=["P" + e for e in table.rows["entry"]]))

    def test_by_hand(self, table):
        found = evaluate(model_of(ByColour()), table, device="cpu")
        assert list(found.groups) == ["Pa", "Pb"]
        assert found.groups["Pa"].matrix.tolist() == [[768, 0], [0, 256]]
        assert found.groups["Pb"].matrix.tolist() == [[768, 0], [128, 128]]
        assert found.groups["Pb"].dice()["Tumor"] == pytest.approx(2 * 128 / (256 + 128))
        assert found.pooled.dice()["Tumor"] == pytest.approx(2 * 384 / (512 + 384))

    def test_patches_are_recoloured_as_the_model_was_trained(self, tmp_path):
        def grid(name: str, array: np.ndarray) -> PatchTable:
            path = str(write_png(tmp_path / f"{name}.png", array))
            entry = FakeEntry("a", [square(0, 0, 400, "Region*"), square(0, 0, 30)], array, 1.0, path=path)
            return sample_patches([entry], LABELS, size=50, strategy="grid")

        array, model = stained(FIRST_LAB), model_of(ByColour())
        recoloured = NormalisedSlide(ArraySlide(array, mpp=1.0), "macenko").read(Box(0, 0, 400, 300), (400, 300))
        by_model = evaluate(replace(model, spec=replace(model.spec, stain="macenko")), grid("as scanned", array))
        by_hand = evaluate(model, grid("recoloured", recoloured))
        assert np.array_equal(by_model.histograms, by_hand.histograms)
        assert not np.array_equal(by_model.histograms, evaluate(model, grid("as scanned", array)).histograms)

    def test_its_table_has_a_row_per_patient(self, table):
        found = evaluate(model_of(ByColour()), table, device="cpu").table()
        assert found.index.tolist() == ["Pa", "Pb", "all pixels"]
        assert found.columns.tolist() == ["Background", "Tumor", "mean"]
        assert found.loc["Pa", "mean"] == pytest.approx(1.0)

    def test_batches_do_not_matter(self, table):
        one, all_ = (evaluate(model_of(ByColour()), table, batch_size=b, device="cpu") for b in (1, 8))
        assert all(np.array_equal(one.groups[g].matrix, all_.groups[g].matrix) for g in one.groups)

    def test_what_nobody_annotated_does_not_count(self, table):
        slides = {k: replace(s, annotations=(s.annotations[1],)) for k, s in table.slides.items()}
        found = evaluate(model_of(ByColour()), replace(table, slides=slides), device="cpu")
        assert found.pooled.matrix.tolist() == [[0, 0], [128, 384]]

    def test_text_and_notebook_views(self, table):
        found = evaluate(model_of(ByColour()), table, device="cpu")
        assert "all pixels" in str(found)
        assert "0.667" in str(found)
        assert "<table" in found._repr_html_()

    def test_what_does_not_fit_is_refused(self, table):
        with pytest.raises(ModelError, match="µm/px"):
            evaluate(model_of(ByColour(), mpp=2.0), table, device="cpu")
        with pytest.raises(ModelError, match="Stroma"):
            evaluate(model_of(ByColour()), replace(table, labels=LabelMap(["Stroma"])), device="cpu")
        with pytest.raises(NoAnnotationError):
            evaluate(model_of(ByColour()), table.take([]), device="cpu")


class TestCompare:
    REGION = square(0, 0, 10, "Region*")

    def test_by_hand(self):
        found = compare([square(0, 0, 4)], [square(2, 0, 4), self.REGION], LABELS, box=BOX)
        # 4×4 predicted and 4×4 true share 2×4 pixels; 100 in all.
        assert found.matrix.tolist() == [[100 - 24, 8], [8, 8]]
        assert found.dice()["Tumor"] == pytest.approx(0.5)
        assert found.iou()["Tumor"] == pytest.approx(1 / 3)

    def test_where_the_truth_says_nothing_nothing_counts(self):
        assert compare([square(0, 0, 4)], [square(2, 0, 4)], LABELS, box=BOX).matrix.tolist() == [[0, 0], [8, 8]]

    def test_no_prediction_is_background(self):
        found = compare([], [square(0, 0, 2), self.REGION], LABELS, box=BOX)
        assert found.matrix.tolist() == [[96, 0], [4, 0]]
        assert found.dice()["Tumor"] == 0

    def test_no_truth_is_no_score(self):
        assert math.isnan(compare([square(0, 0, 4)], [], LABELS, box=BOX).mean_dice())

    def test_at_a_downsample(self):
        found = compare([square(0, 0, 4)], [square(0, 0, 4), self.REGION], LABELS, box=BOX, downsample=2)
        assert found.matrix.tolist() == [[21, 0], [0, 4]]

    @pytest.mark.parametrize("band", [1, 3, 7, 100])
    @pytest.mark.parametrize("downsample", [1.0, 1.7])
    def test_the_band_does_not_matter(self, band, downsample):
        drawn = [square(1, 1, 3.3), square(5, 4, 4.1)]
        found = [
            compare(drawn, [square(2, 0, 6), self.REGION], LABELS, box=BOX, downsample=downsample, band=b)
            for b in (band, 1000)
        ]
        assert np.array_equal(found[0].matrix, found[1].matrix)

    def test_it_is_a_confusion(self):
        assert isinstance(compare([], [], LABELS, box=BOX), Confusion)
