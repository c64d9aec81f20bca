"""What can be given where a model for prompts is wanted."""

from __future__ import annotations

import json
import shutil

import pytest
from test_clicknet import picture

from qp2train import load_prompt_model
from qp2train.errors import PromptError
from qp2train.refine.prompts import Prompt


def test_a_run_a_model_folder_and_a_zip_answer_alike(click_model, tmp_path) -> None:
    folder = click_model.save(tmp_path / "run" / "model")
    zipped = shutil.make_archive(str(tmp_path / "model"), "zip", folder)
    view, prompt = picture(64, 64, (20, 20, 20)), Prompt([(30, 30)], [1])
    answers = []
    for given in (tmp_path / "run", folder, zipped):
        model = load_prompt_model(given)
        assert model.id == click_model.id
        answers.append(model.encode(view).predict(prompt)[0])
    assert all((a.mask == answers[0].mask).all() and a.iou == answers[0].iou for a in answers)


@pytest.mark.parametrize(("part", "iou", "said"), [("test", 0.6, True), ("test", 0.8, False), ("val", 0.6, True)])
def test_a_run_that_was_poor_on_held_out_objects_is_not_loaded_in_silence(
    click_model, tmp_path, caplog, part, iou, said
) -> None:
    click_model.save(tmp_path / "run" / "model")
    found = tmp_path / "run" / "evaluation" / part
    found.mkdir(parents=True)
    (found / "metrics.json").write_text(json.dumps({"pooled": {"nothing": {"iou@3": iou, "never": 0.4}}}))
    load_prompt_model(tmp_path / "run")
    assert ("an IoU of 0.60, and 40 % never" in caplog.text) is said


def test_a_folder_of_a_sam_is_one(tmp_path) -> None:
    pytest.importorskip("transformers", reason="models of the SAM family need the transformers package (extra `sam`)")
    import tinysam

    folder = tinysam.save(tinysam.sam(), tmp_path / "tiny", "sam")
    assert load_prompt_model(folder).id.startswith("tiny-")


def test_a_model_of_another_task_is_named(tmp_path, red_squares) -> None:
    import torch

    from qp2train import Model, Segmentation

    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    spec = Segmentation(red_squares.labels, encoder="resnet18", encoder_weights=None, options=options)
    torch.manual_seed(0)
    folder = Model("squares-1", spec, spec.build().eval(), 64, 1.0, {}).save(tmp_path / "model")
    with pytest.raises(PromptError, match="squares-1 is a model of segmentation"):
        load_prompt_model(folder)


def test_nothing_and_something_else_are_told_apart(tmp_path) -> None:
    with pytest.raises(PromptError, match="there is no model at"):
        load_prompt_model(tmp_path / "gone")
    with pytest.raises(PromptError, match="task: prompted"):
        load_prompt_model(tmp_path)
