"""How many clicks held-out objects need, as metrics.json says it and the report shows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bs4 import BeautifulSoup

from qp2train.errors import NoAnnotationError
from qp2train.refine.evaluation import STARTS, PromptEvaluation, evaluate_prompts
from qp2train.refine.fallback import ColourModel
from qp2train.refine.prompts import Candidate
from qp2train.report.html import Facts, report_html


class Knowing:
    """Answers every prompt with the object, which it sees by its colour; the first click's answer is too large."""

    id = "knowing"

    def encode(self, image):
        red = image[..., 0].astype(int) - image[..., 2] > 0

        class View:
            def predict(self, prompt):
                mask = np.ones_like(red) if len(prompt.points) == 1 and prompt.mask is None else red
                return [Candidate(mask, 1.0)]

        return View()


@pytest.fixture(scope="module")
def held_out(red_squares):
    return red_squares.take([e in ("s2", "s3") for e in red_squares.rows["entry"]])


@pytest.fixture(scope="module")
def known(held_out) -> PromptEvaluation:
    return evaluate_prompts(Knowing(), held_out)


def test_clicks_are_counted_to_the_first_answer_that_fits(known) -> None:
    data = known.to_dict()
    nothing, rough = data["pooled"]["nothing"], data["pooled"]["rough"]
    assert nothing["noc@85"] == nothing["noc@90"] == 2  # the first answer is all of the view
    assert nothing["iou@1"] == pytest.approx(1 / 1.96, abs=0.05)
    assert nothing["iou@3"] > 0.95
    assert nothing["never"] == 0
    # From an outline on, the first answer is right; and a few outlines were good enough before.
    assert 0.5 < rough["noc@85"] <= 1
    assert data["pooled"]["box"]["iou"] > 0.95
    refined = data["pooled"]["refinement"]
    assert refined["gain"] == pytest.approx(refined["after"] - refined["before"])
    assert refined["gain"] > 0.1
    assert data["scored"] == {"patients": 2, "slides": 2, "objects": 8}


def test_the_means_follow_from_the_objects_and_patients_that_are_listed(known) -> None:
    data = known.to_dict()
    assert np.mean([o["box"] for o in data["clicked"]]) == pytest.approx(data["pooled"]["box"]["iou"])
    assert np.mean([p["nothing"]["iou@1"] for p in data["patients"].values()]) == pytest.approx(
        data["pooled"]["nothing"]["iou@1"]
    )  # the patients have as many objects each
    interval = data["intervals"]["nothing"]["iou@1"]
    assert interval["low"] <= data["pooled"]["nothing"]["iou@1"] <= interval["high"]


def test_one_patient_has_no_interval(held_out) -> None:
    data = evaluate_prompts(Knowing(), held_out.take(held_out.rows["entry"] == "s2")).to_dict()
    assert data["intervals"]["nothing"]["iou@1"] is None


def test_the_same_seed_draws_the_same_objects(held_out) -> None:
    a, b, c = (evaluate_prompts(Knowing(), held_out, most=3, seed=s).to_dict() for s in (1, 1, 2))
    assert a == b
    assert len(a["clicked"]) == 3
    assert a["clicked"] != c["clicked"]


def test_a_trained_network_and_the_fallback_are_scored_alike(click_model, held_out) -> None:
    trained, fallback = evaluate_prompts(click_model, held_out), evaluate_prompts(ColourModel(), held_out, most=1)
    assert trained.model == click_model.id
    assert trained.table().loc["nothing", "iou@3"] > 0.75
    assert list(trained.table().index) == list(STARTS)
    assert fallback.model == "colour-fallback"


def test_no_object_is_an_error(held_out) -> None:
    with pytest.raises(NoAnnotationError):
        evaluate_prompts(Knowing(), held_out.take([]))


def test_metrics_json_is_written_whole_and_the_report_shows_its_numbers(known, tmp_path) -> None:
    folder = known.save(tmp_path / "evaluation" / "test")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    model = {"id": "knowing", "labels": {"classes": {"Tumor": ["Tumor"]}, "unannotated": "ignore"}, "task": "prompted"}
    page = BeautifulSoup(report_html(Facts(metrics, {"format": 1, "history": []}, model)), "html.parser")
    section = page.find(id="clicks")
    shown = {tag["data-source"]: tag.get_text() for tag in section.find_all(attrs={"data-source": True})}
    assert shown["metrics.json#/pooled/nothing/noc@85"] == "2.000"
    assert shown["metrics.json#/pooled/nothing/never"] == "0 %"
    assert len(shown) > 60
    assert len(section.find_all("polyline")) == 4
    assert page.find(id="confusion") is None
