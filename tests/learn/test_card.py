"""The model's card."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from fakes import table_of
from markdown_it import MarkdownIt
from torch import nn

from qp2train import LabelMap, Model, Segmentation, fit, load_model
from qp2train.learn.card import card_text, trained_on, write_card
from qp2train.learn.classification import Classification

EVIL = "<script>1</script>|a_b_*c*"
METRICS = {
    "task": "segmentation",
    "split": "test",
    "classes": ["Background", EVIL],
    "pooled": {
        "dice": {"Background": 0.9, EVIL: 0.8125, "mean": 0.8125},
        "recall": {"Background": 0.75, EVIL: None, "mean": None},
        "f1": {"Background": 0.9, EVIL: 0.8125, "mean": 0.8125},
        "kappa": {"all": 0.5},
    },
    "intervals": {"dice": {EVIL: {"value": 0.8125, "low": 0.5, "high": 1.0}}},
    "patients": {"P1": {}, "P2": {}},
    "patches": [{}, {}, {}],
}


def model(**about: object) -> Model:
    labels = LabelMap({EVIL: ["Tumor", "Tumour"]}, unannotated="background")
    spec = Segmentation(labels, encoder="resnet18", encoder_weights=None)
    return Model("tumor-1a2b", spec, nn.Identity(), 256, 0.5, about)  # type: ignore[arg-type]


def rendered(text: str) -> str:
    _, front, body = text.split("---\n", 2)
    assert set(yaml.safe_load(front)) == {"library_name", "license", "pipeline_tag", "tags"}
    return MarkdownIt().enable("table").render(body)


def test_names_are_shown_as_they_are_and_are_never_markup() -> None:
    html = rendered(card_text(model(), METRICS))
    assert "<script>" not in html
    assert "<td>&lt;script&gt;1&lt;/script&gt;|a_b_*c*</td>" in html, "in one cell, its bar and stars kept"


def test_the_sections_that_a_hub_expects_are_there_in_order() -> None:
    text = card_text(model())
    wanted = ["Intended use", "What it was trained on", "Classes", "How to use it", "Evaluation", "Limitations",
              "How it was trained", "Licence", "Citation"]  # fmt: skip
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == wanted
    assert text.count("\n# ") == 1


def test_it_says_what_the_model_learnt_from_and_names_no_patient() -> None:
    table = table_of({"s1": 3, "s2": 2, "s3": 1}, s1={"patient": "Erika"}, s2={"patient": "Erika"})
    # s1 and s2 are one patient's; s3 does not say whose it is.
    assert trained_on(table) == {"train": {"patients": 2, "slides": 3, "patches": 6}}
    val = table.take([5])
    text = card_text(model(data=trained_on(table, val)))
    assert "| train | 2 | 3 | 6 |\n| val | 1 | 1 | 1 |" in text
    assert "Erika" not in text
    assert "256 × 256 pixels at 0.5 µm per pixel" in text
    assert "taken for background in training" in text


def test_scores_stand_with_their_intervals_and_what_is_not_known_is_a_dash() -> None:
    text = card_text(model(), METRICS)
    assert "On 3 patches of 2 patients of the part “test”" in text
    assert "| class | Dice | Recall |\n" in text, "F1 of pixels is Dice"
    assert "| 0.812 (0.500–1.000) | – |" in text
    assert "- Cohen’s κ: 0.500" in text
    assert "There are no intervals" in card_text(model(), METRICS | {"intervals": {}})
    assert "somewhat too good" in card_text(model(), METRICS | {"split": "val"})
    assert "was not evaluated" in card_text(model())


def test_arguments_and_beginnings() -> None:
    text = card_text(
        model(arguments={"lr": 0.001, "name": "`x`"}, versions={"torch": "2.6"}, encoder_weights="imagenet")
    )
    assert "`lr=0.001`, `name='x'`" in text
    assert "Versions: torch 2.6." in text
    assert "began with the weights imagenet" in text
    assert "began with random weights" in card_text(model())


def test_it_is_written_into_the_folder_over_an_older_one(tmp_path) -> None:
    write_card(model(), tmp_path)
    path = write_card(model(), tmp_path, METRICS)
    assert path == tmp_path / "README.md"
    assert path.read_text(encoding="utf-8") == card_text(model(), METRICS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bad", ["a\nb", "# a", "a\n\n## b"])
def test_a_name_over_several_lines_stays_in_its_line(bad: str) -> None:
    labels = LabelMap([bad])
    spec = replace(model().spec, labels=labels)
    text = card_text(replace(model(), spec=spec))
    assert "\n## b" not in text
    assert len([line for line in text.splitlines() if line.startswith("| 1 |")]) == 1


def test_a_trained_model_comes_with_its_card(spec, train_val, tmp_path) -> None:
    train, val = train_val
    out = fit(spec, train, val, epochs=1, batch_size=12, augment="none", progress=False, out=tmp_path / "run")
    text = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert text == card_text(out)
    assert f"| train | 2 | 2 | {len(train)} |\n| val | 2 | 2 | {len(val)} |" in text
    assert card_text(load_model(tmp_path / "run")) == text


def test_a_classifier_has_one_as_well() -> None:
    spec = Classification(LabelMap(["Tumor"]), encoder="resnet10t", encoder_weights=None)
    text = card_text(Model("tiles-1", spec, spec.build(), 64, 1.0, {}))
    assert "A network for classification" in text
    assert "encoder resnet10t" in rendered(text)
