import json

import pytest
from fakes import square

from qp2train import LabelMap
from qp2train.core.labels import PALETTE
from qp2train.errors import LabelError


def test_classes_count_from_one_and_background_is_zero():
    labels = LabelMap(["Stroma", "Tumor"])
    assert labels.names == ("Background", "Stroma", "Tumor")
    assert [labels.value_of(c) for c in ("Stroma", "Tumor")] == [1, 2]


@pytest.mark.parametrize(
    ("class_name", "value"),
    [
        ("Region*", 0),
        ("Ignore*", 255),
        ("Artefact*", 255),
        ("Tumor", 1),
        ("Tumor: Positive", 1),
        ("Tumor: Positive: 2+", 1),
        ("Tumor bed", None),
        ("tumor", None),
        ("Stroma", None),
        (None, None),
        ("", None),
    ],
)
def test_what_a_qupath_class_paints(class_name, value):
    assert LabelMap(["Tumor"]).value_of(class_name) == value


def test_the_longest_mapped_prefix_of_a_derived_class_wins():
    labels = LabelMap(["Tumor", "Tumor: Positive"])
    assert labels.value_of("Tumor: Negative") == 1
    assert labels.value_of("Tumor: Positive") == 2
    assert labels.value_of("Tumor: Positive: 3+") == 2


def test_a_starred_class_can_be_mapped_and_region_can_be_ignored():
    labels = LabelMap({"Fold": "Fold*"}, ignore=["Region*"])
    assert labels.value_of("Fold*") == 1
    assert labels.value_of("Region*") == 255


def test_several_classes_merge_under_one_label():
    labels = LabelMap({"Tumor": ["Tumour", "Carcinoma"], "Stroma": "Stroma"}, background=["Glass"], ignore=["Blur"])
    assert [labels.value_of(c) for c in ("Tumour", "Carcinoma", "Stroma", "Glass", "Blur")] == [1, 1, 2, 0, 255]
    assert labels.name_of("Carcinoma: In situ") == "Tumor"
    assert [labels.name_of(c) for c in ("Glass", "Blur", "Region*", "Ignore*", "Other", None)] == [None] * 6


def test_a_labels_own_name_counts_since_a_model_predicts_it():
    assert LabelMap({"Tumor": ["Tumour"]}).value_of("Tumor") == 1


def test_colours_are_the_given_then_the_projects_then_a_palette():
    labels = LabelMap({"A": ["a", "b"], "B": "B", "C": "C"}, colors={"B": (1, 2, 3)})
    labels = labels.with_colors({"b": (9, 9, 9), "B": (7, 7, 7), "other": (0, 0, 0)})
    assert labels.color("A") == (9, 9, 9)
    assert labels.color("B") == (1, 2, 3)
    assert labels.color("C") == PALETTE[2]


def test_more_classes_than_palette_colours_still_have_one():
    labels = LabelMap([f"c{i}" for i in range(20)])
    assert all(len(labels.color(n)) == 3 for n in labels.classes)


def test_plain_data_and_back():
    labels = LabelMap(
        {"A": ["a", "b"], "B": "B"},
        background=["Glass"],
        ignore=["Blur"],
        unannotated="background",
        paint_order=["B", "A"],
        colors={"A": (1, 2, 3)},
    )
    assert LabelMap.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


@pytest.mark.parametrize(
    ("arguments", "more", "said"),
    [
        ([], {}, "at least one class"),
        ("Tumor", {}, r"write \['Tumor'\]"),
        (["A", "A"], {}, "'A' is listed twice"),
        ({"A": ["x"], "B": ["x"]}, {}, "'x' is mapped to more than one label"),
        ({"A": ["B"], "B": ["C"]}, {}, "'B' is mapped to more than one label"),
        (["A"], {"background": ["A"]}, "'A' is mapped to more than one label"),
        (["A"], {"ignore": ["x"], "background": ["x"]}, "'x' is mapped to more than one label"),
        ({"A": []}, {}, "'A' merges no class"),
        (["A"], {"unannotated": "tissue"}, "'tissue'"),
        (["A"], {"paint_order": ["A", "Z"]}, "'Z'"),
        (["A", "B"], {"paint_order": ["A"]}, "missing: B"),
        (["A", "B"], {"paint_order": ["A", "A"]}, "each class once"),
        (["A"], {"colors": {"Z": (0, 0, 0)}}, "'Z'"),
        (["A"], {"colors": {"A": (0, 0)}}, "colour"),
        (["A"], {"colors": {"A": (0, 0, 256)}}, "colour"),
        (["A"], {"colors": {"A": "#ff0000"}}, "colour"),
        (["Background", "A"], {}, "Background"),
        ([f"c{i}" for i in range(255)], {}, "at most 254"),
        ([1, 2], {}, "text"),
        ([""], {}, "text"),
    ],
)
def test_contradictions_are_refused_and_named(arguments, more, said):
    with pytest.raises(LabelError, match=said):
        LabelMap(arguments, **more)


def test_254_classes_fit():
    assert LabelMap([f"c{i}" for i in range(254)]).value_of("c253") == 254


def test_a_misspelt_class_is_refused_and_the_present_ones_named():
    with pytest.raises(LabelError, match=r"'Tumour'.*Stroma, Tumor: Positive"):
        LabelMap(["Tumour"]).check_against([square(0, 0, 9, "Tumor: Positive"), square(0, 0, 9, "Stroma")])
    with pytest.raises(LabelError, match="none"):
        LabelMap(["Tumor"]).check_against([square(0, 0, 9, None)])


def test_a_class_that_is_there_as_derived_class_is_enough():
    LabelMap(["Tumor"]).check_against([square(0, 0, 9, "Tumor: Positive")])
