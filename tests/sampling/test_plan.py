import logging
from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import shapely
from fakes import FakeEntry, square

from qp2train import Annotation, Box, LabelMap, paint, sample_patches
from qp2train.errors import (
    LabelError,
    MissingCalibrationError,
    NoAnnotationError,
    Qp2trainError,
    SlideError,
    SlideNotFoundError,
)
from qp2train.sampling.mask import Painter

TUMOR = LabelMap(["Tumor"])
BOTH = LabelMap(["Stroma", "Tumor"])


# Patches begin at whole patch pixels, so their centre is up to half a pixel's diagonal from the point that was drawn.
HALF_DIAGONAL = 0.5**0.5 + 1e-6


def classes_at_the_centre(table, row: int) -> set[str]:
    """The classes within half a patch pixel of a patch's centre."""
    box, ref = table.box(row), table.slides[table.rows["entry"].iloc[row]]
    pixel = box.width / table.size_px
    x, y = box.x + box.width / 2 - pixel / 2, box.y + box.height / 2 - pixel / 2
    mask = paint(ref.annotations, table.labels, box=Box(x, y, pixel, pixel), size=(64, 64))
    return {table.labels.names[v] for v in np.unique(mask) if v != 255}


class TestBalanced:
    def test_each_class_gets_its_patches_however_rare_and_background_where_a_region_makes_it(self):
        drawn = [square(0, 0, 100, "Stroma"), square(150, 150, 4, "Tumor"), square(100, 100, 90, "Region*")]
        table = sample_patches([FakeEntry("a", drawn)], BOTH, size=16, per_class=40)
        assert Counter(table.rows["label"]) == {"Stroma": 40, "Tumor": 40, "Background": 40}

    def test_without_a_region_there_is_no_background(self):
        table = sample_patches([FakeEntry("a", [square(0, 0, 50)])], TUMOR, size=16, per_class=10)
        assert set(table.rows["label"]) == {"Tumor"}

    def test_a_patchs_centre_lies_in_its_annotation_and_is_of_its_class(self):
        drawn = [
            square(10, 10, 80, "Stroma", id="s"),
            square(40, 40, 30, "Tumor", id="t"),
            square(0, 0, 180, "Region*", id="r"),
        ]
        table = sample_patches([FakeEntry("a", drawn, mpp=0.5)], BOTH, size=20, mpp=0.7, per_class=30)
        by_id = {a.id: a for a in drawn}
        for i, row in enumerate(table.rows.itertuples()):
            box = table.box(i)
            centre = shapely.Point(box.x + box.width / 2, box.y + box.height / 2)
            assert by_id[row.annotation].geometry.distance(centre) <= HALF_DIAGONAL * 0.7 / 0.5
            assert row.label in classes_at_the_centre(table, i)

    def test_a_small_annotation_gets_as_many_as_a_large_one(self):
        drawn = [square(0, 0, 150, id="large"), square(180, 180, 3, id="small")]
        table = sample_patches([FakeEntry("a", drawn)], TUMOR, size=8, per_class=400)
        assert Counter(table.rows["annotation"])["small"] == pytest.approx(200, abs=60)

    @pytest.mark.parametrize(("weight", "share"), [("area", 9 / 10), ("sqrt_area", 3 / 4)])
    def test_or_by_area(self, weight, share):
        drawn = [square(0, 0, 90, id="large"), square(150, 150, 30, id="small")]
        table = sample_patches([FakeEntry("a", drawn)], TUMOR, size=8, per_class=800, annotation_weight=weight)
        assert Counter(table.rows["annotation"])["large"] / 800 == pytest.approx(share, abs=0.06)

    def test_slides_share_by_their_annotations(self):
        entries = [FakeEntry("a", [square(0, 0, 9)] * 3), FakeEntry("b", [square(0, 0, 9)])]
        table = sample_patches(entries, TUMOR, size=8, per_class=400)
        assert Counter(table.rows["entry"])["a"] / 400 == pytest.approx(3 / 4, abs=0.08)

    @pytest.mark.parametrize(
        "geometry",
        [
            shapely.Point(50.5, 50.5),
            shapely.MultiPoint([(50.2, 50.9), (90, 90)]),
            shapely.LineString([(10, 10), (90, 57), (20, 80)]),
            shapely.MultiLineString([[(10, 10), (90, 57)], [(20, 80), (30, 80)]]),
            shapely.box(50.6, 50.6, 50.9, 50.9),
            shapely.MultiPolygon([shapely.box(1, 1, 3, 3), shapely.box(90, 90, 99, 99)]),
            shapely.Polygon([(0, 0), (40, 40), (40, 0), (0, 40)]),  # a bow-tie
        ],
        ids=lambda g: g.geom_type,
    )
    def test_points_lines_and_slivers_can_be_learnt_from(self, geometry):
        table = sample_patches([FakeEntry("a", [Annotation(geometry, "Tumor")])], TUMOR, size=16, per_class=5)
        assert len(table) == 5
        box = table.box(0)
        centre = shapely.Point(box.x + 8, box.y + 8)
        assert geometry.distance(centre) <= HALF_DIAGONAL

    def test_an_outline_without_extent_gets_no_patch(self):
        drawn = [Annotation(shapely.Polygon([(40, 70), (50, 80), (45, 75)]), "Tumor"), square(70, 30, 20, "Tumor")]
        table = sample_patches([FakeEntry("a", drawn)], TUMOR, size=16, per_class=40)
        assert set(table.rows["annotation"]) == {drawn[1].id}
        assert (table.rows["annotated"] > 0).all()

    def test_a_class_that_others_cover_everywhere_is_named(self):
        drawn = [square(10, 10, 50, "Stroma"), square(10, 10, 50, "Ignore*"), square(90, 90, 9, "Tumor")]
        with pytest.raises(LabelError, match="class 'Stroma' has 1 annotation"):
            sample_patches([FakeEntry("a", drawn)], BOTH, size=8, per_class=4)

    def test_where_it_is_partly_covered_only_the_rest_is_drawn(self):
        drawn = [square(0, 0, 50, "Stroma", id="s"), square(0, 0, 40, "Tumor")]
        table = sample_patches([FakeEntry("a", drawn)], BOTH, size=8, per_class=30)
        assert all(label in classes_at_the_centre(table, i) for i, label in enumerate(table.rows["label"]))
        assert Counter(table.rows["label"])["Stroma"] == 30

    def test_min_annotated_leaves_out_patches_that_are_mostly_unknown(self):
        entry = FakeEntry("a", [square(50, 50, 60)])
        table = sample_patches([entry], TUMOR, size=32, per_class=30, min_annotated=0.9)
        assert (table.rows["annotated"] >= 0.9).all()
        with pytest.raises(LabelError, match=r"min_annotated=0\.9"):
            sample_patches([FakeEntry("a", [square(50, 50, 4)])], TUMOR, size=32, per_class=30, min_annotated=0.9)

    def test_the_share_that_is_annotated(self):
        entry = FakeEntry("a", [square(100, 0, 1000)])  # everything right of x = 100
        table = sample_patches([entry], TUMOR, size=40, strategy="grid")
        edge = table.rows[table.rows["x"] == 80]
        assert edge["annotated"].tolist() == pytest.approx([0.5] * len(edge))


class TestGrid:
    def test_it_covers_the_slide_and_keeps_what_is_annotated(self):
        entry = FakeEntry("a", [square(-50, -50, 300, "Region*"), square(0, 0, 40)])
        table = sample_patches([entry], TUMOR, size=50, strategy="grid")
        assert sorted(zip(table.rows["x"], table.rows["y"], strict=True)) == [
            (x, y) for x in (0, 50, 100, 150) for y in (0, 50, 100, 150)
        ]
        assert Counter(table.rows["label"]) == {"Tumor": 1, "Background": 15}
        assert set(table.rows["annotation"]) == {""}

    def test_patches_without_annotation_are_left_out(self):
        table = sample_patches([FakeEntry("a", [square(60, 10, 30)])], TUMOR, size=50, strategy="grid")
        assert table.rows[["x", "y"]].to_numpy().tolist() == [[50, 0]]

    def test_overlap(self):
        entry = FakeEntry("a", [square(-50, -50, 300)])
        table = sample_patches([entry], TUMOR, size=40, strategy="grid", overlap=0.5)
        assert sorted(set(table.rows["x"])) == [20.0 * i for i in range(10)]

    def test_steps_are_in_the_slides_own_pixels(self):
        entries = [FakeEntry("a", [square(-50, -50, 300)], mpp=0.5), FakeEntry("b", [square(-50, -50, 300)], mpp=1.0)]
        table = sample_patches(entries, TUMOR, size=25, mpp=2.0, strategy="grid")
        assert sorted(set(table.rows[table.rows["entry"] == "a"]["x"])) == [0, 100]
        assert sorted(set(table.rows[table.rows["entry"] == "b"]["x"])) == [0, 50, 100, 150]

    def test_the_label_is_the_class_that_fills_most(self):
        drawn = [square(0, 0, 50, "Stroma"), square(0, 0, 40, "Tumor")]
        table = sample_patches([FakeEntry("a", drawn)], BOTH, size=50, strategy="grid")
        assert table.rows["label"].tolist() == ["Tumor"]


class TestRandom:
    def test_so_many_each_with_something_annotated(self):
        entry = FakeEntry("a", [square(30, 30, 50), square(0, 0, 190, "Region*")])
        table = sample_patches([entry], TUMOR, size=16, strategy="random", count=70)
        assert len(table) == 70
        assert (table.rows["annotated"] > 0).all()
        assert set(table.rows["label"]) == {"Tumor", "Background"}

    def test_fewer_than_asked_is_said(self, caplog):
        entry = FakeEntry("a", [square(0, 0, 20), square(0, 0, 19, "Ignore*")])
        with caplog.at_level(logging.WARNING):
            table = sample_patches([entry], TUMOR, size=4, strategy="random", count=40, min_annotated=0.4)
        assert f"{len(table)} of 40 random patches" in caplog.text


class TestSeed:
    @pytest.mark.parametrize("strategy", ["balanced", "random"])
    def test_same_seed_same_table_other_seed_other(self, strategy):
        entries = [FakeEntry("a", [square(0, 0, 90, id="i"), square(100, 100, 50, "Stroma", id="j")])]
        seeds = (0, 0, 1)
        digests = [
            sample_patches(entries, BOTH, size=16, strategy=strategy, per_class=9, count=9, seed=s).digest()
            for s in seeds
        ]
        assert digests[0] == digests[1] != digests[2]

    def test_the_global_generator_is_left_alone(self):
        np.random.seed(7)
        before = np.random.get_state()[1].tolist()
        sample_patches([FakeEntry("a", [square(0, 0, 90)])], TUMOR, size=16, per_class=5)
        assert np.random.get_state()[1].tolist() == before


class TestWhoIsLearntFrom:
    def test_what_a_model_drew_is_not(self):
        drawn = [square(0, 0, 50), square(100, 100, 50, source="unet-1234")]
        table = sample_patches([FakeEntry("a", drawn)], TUMOR, size=8, per_class=30)
        assert (table.rows[["x", "y"]].to_numpy() < 60).all()
        assert len(table.slides["a"].annotations) == 1

    def test_images_without_annotation_of_these_classes_are_left_out_unopened(self):
        entries = [
            FakeEntry("a", [square(0, 0, 50)]),
            FakeEntry("none", [], array=None),
            FakeEntry("other", [square(0, 0, 50, "Other")], array=None),
            FakeEntry("predicted", [square(0, 0, 50, source="m")], array=None),
        ]
        assert list(sample_patches(entries, TUMOR, size=8, per_class=3).slides) == ["a"]

    def test_nothing_drawn_at_all(self):
        for entries in ([], [FakeEntry("a")], [FakeEntry("a", [square(0, 0, 9, source="m")])]):
            with pytest.raises(NoAnnotationError, match="drawn by a human"):
                sample_patches(entries, TUMOR, size=8)

    def test_a_misspelt_class_names_those_that_exist(self):
        entries = [FakeEntry("a", [square(0, 0, 50, "Tumor"), square(0, 0, 20, "Stroma")])]
        with pytest.raises(LabelError, match=r"'Tumour'.*Stroma, Tumor"):
            sample_patches(entries, LabelMap(["Tumour"]), size=8)
        with pytest.raises(LabelError, match=r"'Tumour'.*Stroma, Tumor"):
            sample_patches(entries, LabelMap(["Stroma", "Tumour"]), size=8)

    def test_nothing_is_annotated_enough(self):
        with pytest.raises(NoAnnotationError, match="min_annotated"):
            sample_patches([FakeEntry("a", [square(0, 0, 9)])], TUMOR, size=64, strategy="grid", min_annotated=1.0)

    @pytest.mark.parametrize("strategy", ["balanced", "grid", "random", "centred", "border"])
    def test_coordinates_that_are_no_numbers_are_passed_over(self, strategy):
        with np.errstate(invalid="ignore"):
            wrong = shapely.from_wkt(
                ["POLYGON ((0 0, inf 0, 5 5, 0 0))", "POLYGON ((0 0, nan 3, 5 5, 0 0))", "LINESTRING (0 0, nan 1)"]
            )
        drawn = [square(10, 10, 20, id="good"), square(0, 0, 200, "Region*"), *(Annotation(g, "Tumor") for g in wrong)]
        table = sample_patches([FakeEntry("a", drawn)], TUMOR, size=4, strategy=strategy, per_class=20, count=20)
        assert set(table.rows["annotation"]) <= {"good", "", drawn[1].id}

    def test_annotations_without_area_or_place(self):
        empty = Annotation(shapely.Polygon(), "Tumor")
        for strategy in ("balanced", "grid", "random"):
            with pytest.raises(NoAnnotationError):
                sample_patches([FakeEntry("a", [empty])], TUMOR, size=8, strategy=strategy, count=3)


class TestSlidesInTrouble:
    BAD = (
        FakeEntry("lost", [square(0, 0, 50)], array=None),
        FakeEntry("no scale", [square(0, 0, 50)], mpp=None),
    )

    def test_all_of_them_are_named_in_one_error(self):
        with pytest.raises(SlideNotFoundError) as caught:
            sample_patches([*self.BAD, FakeEntry("a", [square(0, 0, 50)])], TUMOR, size=8)
        said = str(caught.value)
        assert "2 of 3 slides" in said
        assert "slide lost" in said
        assert "slide no scale" in said
        assert "skip_unreadable=True" in said

    def test_an_uncalibrated_slide_says_which_argument_helps(self):
        with pytest.raises(MissingCalibrationError, match="mpp="):
            sample_patches([self.BAD[1]], TUMOR, size=8)

    def test_they_can_be_left_out_with_a_warning(self, caplog):
        with caplog.at_level(logging.WARNING):
            table = sample_patches(
                [*self.BAD, FakeEntry("a", [square(0, 0, 50)])], TUMOR, size=8, per_class=3, skip_unreadable=True
            )
        assert list(table.slides) == ["a"]
        assert "left out: slide lost" in caplog.text
        assert "left out: slide no scale" in caplog.text

    def test_but_not_all_of_them(self):
        with pytest.raises(SlideError, match="2 of 2"):
            sample_patches(self.BAD, TUMOR, size=8, skip_unreadable=True)

    def test_a_class_that_only_the_left_out_have_is_named(self):
        good = FakeEntry("a", [square(0, 0, 50, "Stroma")])
        with pytest.raises(LabelError, match="'Tumor'"):
            sample_patches([*self.BAD, good], BOTH, size=8, skip_unreadable=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 0}, "size=0"),
        ({"mpp": 0.0}, "mpp=0"),
        ({"mpp": float("nan")}, "mpp=nan"),
        ({"overlap": 1.0}, "overlap=1"),
        ({"min_annotated": 1.5}, "min_annotated=1.5"),
        ({"strategy": "magic"}, "'magic'"),
        ({"annotation_weight": "magic"}, "'magic'"),
        ({"per_class": 0}, "per_class=0"),
        ({"strategy": "random", "count": 0}, "count=0"),
        ({"size": 32.5}, "size must be a whole number, not 32.5"),
        ({"seed": "7"}, "seed must be a whole number, not '7'"),
        ({"per_class": 2.0}, "per_class must be a whole number"),
        ({"mpp": "fine"}, "mpp must be a number of µm per pixel, or several, not 'fine'"),
        ({"mpp": ["fine"]}, "mpp must be a number"),
    ],
)
def test_arguments_that_make_no_sense(wrong, said):
    with pytest.raises(Qp2trainError, match=said):
        sample_patches([FakeEntry("a", [square(0, 0, 50)])], TUMOR, **wrong)


def test_numbers_may_be_numpys():
    entries, own = [FakeEntry("a", [square(0, 0, 50)])], {"size": 8, "mpp": [1.0, 2.0], "per_class": 3, "seed": 1}
    numpys = {k: np.array(v) if k == "mpp" else np.int64(v) for k, v in own.items()}
    assert sample_patches(entries, TUMOR, **numpys).digest() == sample_patches(entries, TUMOR, **own).digest()


def test_progress_counts_the_slides():
    seen = []
    entries = [FakeEntry("a", [square(0, 0, 50)]), FakeEntry("b")]
    sample_patches(entries, TUMOR, size=8, per_class=2, progress=lambda *said: seen.append(said))
    assert seen == [("slide a", 1, 2), ("slide b", 2, 2)]


def test_weights_make_classes_come_equally_often():
    drawn = [square(0, 0, 100, "Stroma"), square(150, 150, 40, "Tumor")]
    table = sample_patches([FakeEntry("a", drawn)], BOTH, size=50, strategy="grid")
    sums = table.rows.groupby("label")["weight"].sum()
    assert sums.tolist() == pytest.approx([len(table) / 2] * 2)


def test_the_projects_colours_complete_the_labels():
    class Entries(list):
        classes = MappingProxyType({"Tumor": (1, 2, 3)})

    table = sample_patches(Entries([FakeEntry("a", [square(0, 0, 50)])]), TUMOR, size=8, per_class=2)
    assert table.labels.color("Tumor") == (1, 2, 3)


def test_patient_and_path_travel_with_the_table():
    entry = replace(FakeEntry("a", [square(0, 0, 50)]), metadata={"patient": "P7"}, path="/x/a.svs")
    ref = sample_patches([entry], TUMOR, size=8, per_class=2).slides["a"]
    assert (ref.path, ref.metadata["patient"], ref.mpp, ref.size) == ("/x/a.svs", "P7", 1.0, (200, 200))


class TestLattice:
    @pytest.mark.parametrize("strategy", ["balanced", "random"])
    def test_patches_begin_at_whole_patch_pixels_so_that_nothing_is_interpolated(self, strategy):
        entry = FakeEntry("a", [square(10, 10, 150)], mpp=0.5)
        table = sample_patches([entry], TUMOR, size=16, mpp=1.0, strategy=strategy, per_class=20, count=20)
        assert (table.rows[["x", "y"]] % 2 == 0).all(axis=None)


class TestBeyondTheBorder:
    def test_what_is_drawn_beside_the_slide_is_never_learnt_from(self):
        drawn = [square(150, 150, 200, id="over the edge"), square(5000, 5000, 300, "Stroma")]
        with pytest.raises(LabelError, match="class 'Stroma' has 1 annotation"):
            sample_patches([FakeEntry("a", drawn)], BOTH, size=32, per_class=4)
        table = sample_patches([FakeEntry("a", drawn[:1])], TUMOR, size=32, per_class=30)
        for slide, box in table:
            mask = Painter(slide.annotations, TUMOR, slide_size=slide.size).paint(box, (32, 32))
            inside = box.clipped_to(200, 200)
            assert (mask == 1).sum() <= inside.width * inside.height
            assert box.x + 16 < 200.5

    @pytest.mark.parametrize("bad", [{"seed": -1}, {"mpp": float("inf")}, {"overlap": 1.0}, {"size": 0}])
    def test_impossible_numbers_are_refused_before_any_work(self, bad):
        with pytest.raises(Qp2trainError, match="must be"):
            sample_patches([FakeEntry("a", [square(0, 0, 50)])], TUMOR, **bad)

    def test_a_patch_far_larger_than_the_slide_is_a_slip_of_the_pen(self):
        entry = FakeEntry("a", [square(0, 0, 50)])
        assert len(sample_patches([entry], TUMOR, size=256, mpp=2.0, per_class=2)) == 2
        with pytest.raises(Qp2trainError, match="Is mpp = 1000 µm per px meant"):
            sample_patches([entry], TUMOR, size=256, mpp=1000, per_class=2)
