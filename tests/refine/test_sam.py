"""The SAM family answers prompts: the same as through transformers' own processors, in the view's pixels."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="models of the SAM family need the transformers package (extra `sam`)")
import tinysam
import torch

from qp2train import ArraySlide, Box, Refiner
from qp2train.errors import ModelError, PromptError
from qp2train.refine.prompts import Prompt
from qp2train.refine.sam import SamPrompts
from qp2train.refine.samframe import SURE, Frame, question
from qp2train.refine.samload import load_sam
from qp2train.refine.transformersdoor import of_transformers

KINDS = {"sam": tinysam.sam, "sam2": tinysam.sam2, "sam3": tinysam.sam3, "edgetam": tinysam.edgetam}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sams")
    return {kind: tinysam.save(make(), root / f"tiny-{kind}", kind) for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def sam(folders: dict[str, Path]) -> SamPrompts:
    return load_sam(folders["sam"], device="cpu")


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.hypot(columns - x, rows - y) <= radius


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_transformers_own_way(folders: dict[str, Path], kind: str) -> None:
    model = load_sam(folders[kind], device="cpu")
    net, processor, image = model.net, tinysam.processor(kind), tinysam.picture()
    scale = (64 / 50, 64 / 50) if kind == "sam" else (64 / 30, 64 / 50)  # SAM 1 rounds 38.4 columns to 38
    half = (0.5 * 30 / 38 if kind == "sam" else 0.5 / scale[0], 0.5 / scale[1])
    # SAM means pixels' centres by integers, and pixels of its own square at that.
    points, box = np.array([[5.0, 9.0], [20.0, 31.0]]), np.array([2.0, 3.0, 25.0, 40.0])
    asked = [
        ({"points": points[:1], "labels": [1]}, {"input_points": points[None, None, :1], "input_labels": [[[1]]]}),
        ({"points": points, "labels": [1, 0]}, {"input_points": points[None, None], "input_labels": [[[1, 0]]]}),
        ({"box": box}, {"input_boxes": box[None, None]}),
    ]
    view = model.encode(image)
    for ours, theirs in asked:
        shifted = {
            k: (v - (half if v.shape[-1] == 2 else half * 2)).tolist() if isinstance(v, np.ndarray) else v
            for k, v in theirs.items()
        }
        given = processor(images=image, return_tensors="pt", **shifted)
        sizes = [given.pop("original_sizes")] + ([given.pop("reshaped_input_sizes")] if kind == "sam" else [])
        several = len(ours.get("points", ())) == 1
        with torch.no_grad():
            said = net(
                **{k: v.float() if v.is_floating_point() else v for k, v in given.items()}, multimask_output=several
            )
        masks = processor.post_process_masks(said.pred_masks, *sizes)[0][0].numpy()
        found = view.predict(Prompt(**ours))
        order = np.argsort(-said.iou_scores[0, 0].numpy(), kind="stable")
        assert len(found) == (3 if several else 1)
        for candidate, i in zip(found, order, strict=True):
            assert candidate.mask.shape == (50, 30)
            assert np.array_equal(candidate.mask, masks[i])
            assert candidate.iou == pytest.approx(np.clip(said.iou_scores[0, 0, i].item(), 0, 1), abs=1e-4)
        assert [c.iou for c in found] == sorted((c.iou for c in found), reverse=True)


def test_the_encoder_runs_once_per_view(folders: dict[str, Path]) -> None:
    model, runs = load_sam(folders["sam"], device="cpu"), []
    model.net.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    view = model.encode(tinysam.picture())
    for prompt in (Prompt([(5, 5)], [1]), Prompt(box=(1, 1, 9, 9)), Prompt(mask=disc(50, 30, 9, 9, 5))):
        view.predict(prompt)
    assert len(runs) == 1


FRAME = Frame((4, 8), (4, 8), 8, 4)


def test_a_mask_becomes_logits_by_the_share_of_each_cell() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:2, :3] = True  # cells of 2 × 2 px: a whole one, and half of its neighbour
    share = FRAME.share(mask)
    assert share.tolist() == [[1, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    asked = question(Prompt([(1, 1)], [1], mask=mask), FRAME)
    assert torch.allclose(asked["input_masks"][0, 0], SURE * (2 * share - 1))
    assert set(asked) == {"multimask_output", "input_points", "input_labels", "input_masks"}
    assert asked["multimask_output"] is False


def test_a_mask_alone_comes_with_its_box_and_a_click_in_its_middle() -> None:
    mask = np.zeros((4, 8), bool)
    mask[0:3, 2:7] = True
    asked = question(Prompt(mask=mask), FRAME)
    assert asked["input_boxes"].tolist() == [[[1.5, -0.5, 6.5, 2.5]]]
    assert (asked["input_points"].tolist(), asked["input_labels"].tolist()) == ([[[[3.0, 1.0]]]], [[[1]]])


def test_a_click_against_a_part_of_a_mask_comes_with_the_masks_box_but_no_click_for_it() -> None:
    mask = np.zeros((4, 8), bool)
    mask[0:3, 2:7] = True
    asked = question(Prompt([(3.5, 1.5)], [0], mask=mask), FRAME)
    assert "input_boxes" in asked
    assert asked["input_labels"].tolist() == [[[0]]]


def test_a_click_for_more_than_the_mask_brings_no_box_that_would_forbid_it() -> None:
    mask = np.zeros((4, 8), bool)
    mask[0:3, 2:4] = True
    asked = question(Prompt([(7, 3)], [1], mask=mask), FRAME)
    assert "input_boxes" not in asked


def test_boxes_are_cut_at_the_view_and_of_two_clicks_on_one_spot_the_later_counts() -> None:
    asked = question(Prompt([(1, 1), (1, 1)], [0, 1], (-5, 1, 3, 99)).within(4, 8), FRAME)
    assert asked["input_boxes"].tolist() == [[[-0.5, 0.5, 2.5, 3.5]]]
    assert asked["input_labels"].tolist() == [[[1]]]


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt([(5, 5)], [0]),
        Prompt([(-5, 5)], [1]),
        Prompt(box=(90, 90, 99, 99)),
        Prompt(mask=np.zeros((50, 30), bool)),
    ],
    ids=["against all", "click beyond", "box beyond", "empty mask"],
)
def test_where_nothing_is_meant_nothing_is_found(sam: SamPrompts, prompt: Prompt) -> None:
    (found,) = sam.encode(tinysam.picture()).predict(prompt)
    assert found.iou == 0
    assert not found.mask.any()
    assert found.mask.shape == (50, 30)


class Parrot(SamPrompts):
    """Answers with the mask that it is given."""

    def answer(self, embeddings: Any, asked: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return asked["input_masks"][0], torch.tensor([0.9])


@pytest.mark.parametrize("shape", [(48, 64), (64, 24), (100, 37), (500, 20), (31, 33), (7, 2000), (1, 1)])
def test_masks_of_any_view_come_back_where_they_were(sam: SamPrompts, shape: tuple[int, int]) -> None:
    parrot = Parrot("parrot", sam.net, sam.images)
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2 :, shape[1] // 2 :] = True  # against the border that the padding is at
    (found,) = parrot.encode(tinysam.picture(*shape)).predict(Prompt(mask=mask))
    assert found.mask.shape == shape
    cell = max(*shape, 64) / 32
    wrong = found.mask != mask
    near = np.zeros(shape, bool)
    near[int(max(0, shape[0] // 2 - cell)) : int(shape[0] // 2 + cell + 1)] = True
    near[:, int(max(0, shape[1] // 2 - cell)) : int(shape[1] // 2 + cell + 1)] = True
    assert not (wrong & ~near).any()
    if min(shape) > 2 * cell or shape == (1, 1):  # a thinner strip has no cell of the grid to itself
        assert not wrong[-1, -1]


@pytest.mark.parametrize("shape", [(50, 30), (64, 64), (10, 200)])
def test_answers_are_scaled_as_transformers_scales_them(sam: SamPrompts, shape: tuple[int, int]) -> None:
    frame, _ = sam.prepare(tinysam.picture(*shape))
    logits = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = sam.images.post_process_masks([logits[None]], [frame.view], [frame.inner], binarize=False)[0][0]
    assert torch.equal(frame.to_view(logits), theirs)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 400, 3), (700, 3, 3), (3, 90, 3)])
def test_a_view_of_any_shape_is_answered(folders: dict[str, Path], kind: str, shape: tuple[int, int, int]) -> None:
    view = load_sam(folders[kind], device="cpu").encode(np.full(shape, 200, np.uint8))
    assert view.predict(Prompt([(0.5, 0.5)], [1]))[0].mask.shape == shape[:2]


def test_masks_count(sam: SamPrompts) -> None:
    view = sam.encode(tinysam.picture(64, 64))
    click = {"points": [(32, 32)], "labels": [1]}
    one, other = (view.predict(Prompt(mask=disc(64, 64, x, 32, 12), **click))[0] for x in (25, 39))
    assert not np.array_equal(one.mask, other.mask)
    again = view.predict(Prompt(mask=disc(64, 64, 25, 32, 12), **click))[0]
    assert np.array_equal(one.mask, again.mask)
    assert one.iou == again.iou


def test_a_mask_of_another_view_and_what_is_no_picture_are_refused(sam: SamPrompts) -> None:
    with pytest.raises(PromptError, match="the view 30×50"):
        sam.encode(tinysam.picture()).predict(Prompt(mask=np.zeros((10, 10), bool)))
    with pytest.raises(PromptError, match="uint8"):
        sam.encode(np.zeros((5, 5, 3)))


def test_the_id_names_the_folder_and_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    first, again = (load_sam(folders["sam"], device="cpu") for _ in range(2))
    assert first.id == again.id
    assert first.id.startswith("tiny-sam-")
    cached = tmp_path / "models--facebook--sam-vit-base" / "snapshots" / "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f"
    other = load_sam(tinysam.save(tinysam.shaken(tinysam.sam(), seed=1), cached), device="cpu")
    assert other.id.startswith("sam-vit-base-")
    assert other.digest != first.digest


def test_a_folder_without_a_processor_gets_the_right_one(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("sam", "sam2", "sam3"):
        bare = load_sam(tinysam.save(KINDS[kind](), tmp_path / kind), device="cpu")
        image = tinysam.picture()
        whole = load_sam(folders[kind], device="cpu")
        assert torch.equal(bare.prepare(image)[1], whole.prepare(image)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_answers_the_same(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    model = load_sam(folders[kind], device="cpu")
    again = load_sam(model.save(tmp_path / "mine"), device="cpu")
    assert again.id == f"mine-{model.digest[:8]}"
    prompt = Prompt([(5, 5)], [1])
    for a, b in zip(*(m.encode(tinysam.picture()).predict(prompt) for m in (model, again)), strict=True):
        assert np.array_equal(a.mask, b.mask)
    again.save(tmp_path / "mine")  # over the older one


def test_saving_deletes_nothing_else_and_leaves_the_older_one_when_it_fails(sam: SamPrompts, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.docx").touch()
    with pytest.raises(ModelError, match=r"thesis\.docx"):
        sam.save(tmp_path / "work")
    sam.save(tmp_path / "mine")
    before = {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()}
    broken = SamPrompts("broken", sam.net, object())  # no processor: fails when half is written
    with pytest.raises(AttributeError):
        broken.save(tmp_path / "mine")
    assert {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()} == before


def test_a_refiner_takes_it(sam: SamPrompts) -> None:
    refiner = Refiner(sam, view_px=64)
    refiner.set_region(ArraySlide(tinysam.picture(200, 200), mpp=0.5), Box(20, 30, 100, 60))
    for found in refiner.predict(box=Box(40, 40, 50, 40)):
        assert Box(20, 30, 100, 60).polygon.buffer(1e-6).covers(found.geometry)


def test_of_a_model_for_video_the_part_for_pictures_is_loaded(tmp_path: Path) -> None:
    memory = ["memory_attention_hidden_size", "memory_attention_feed_forward_hidden_size", "memory_encoder_hidden_size"]
    memory += ["mask_downsampler_embed_dim", "memory_fuser_embed_dim", "memory_fuser_intermediate_dim"]
    config = of_transformers("Sam2VideoConfig")(
        vision_config=tinysam.sam2().config.vision_config.to_dict(),
        memory_encoder_output_channels=16,
        **dict.fromkeys(memory, tinysam.HIDDEN),
        **tinysam.LATER,
    )
    video = tinysam.shaken(of_transformers("Sam2VideoModel")(config))
    model = load_sam(tinysam.save(video, tmp_path / "video", "sam2"), device="cpu")
    assert type(model.net).__name__ == "Sam2Model"
    for part in ("vision_encoder", "mask_decoder", "prompt_encoder"):
        theirs = getattr(video, part).state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in getattr(model.net, part).state_dict().items())


def damaged(folder: Path, to: Path, **changed: bytes | None) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        data = changed.get(file.name.replace(".", "_"), file.read_bytes())
        if data is not None:
            (to / file.name).write_bytes(data)
    return to


def test_folders_that_hold_no_sam_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    whole = folders["sam"]
    config, weights = (whole / "config.json").read_bytes(), (whole / "model.safetensors").read_bytes()
    cases: list[tuple[dict[str, bytes | None], str]] = [
        ({"config_json": None}, "missing or damaged"),
        ({"config_json": b"{"}, "missing or damaged"),
        ({"config_json": b"[]"}, "missing or damaged"),
        ({"config_json": b'{"model_type": "bert"}'}, "type 'bert'"),
        ({"config_json": b'{"model_type": ["sam"]}'}, "type"),
        ({"config_json": config.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": "two"')}, "usable"),
        ({"config_json": config.replace(b'"mlp_dim": 48', b'"mlp_dim": 40')}, "usable|lacks"),
        ({"config_json": config.replace(b'"num_multimask_outputs": 3', b'"num_multimask_outputs": 5')}, "usable|lacks"),
        ({"model_safetensors": None}, "usable"),
        ({"model_safetensors": weights[: len(weights) // 2]}, "usable"),
        ({"model_safetensors": b"nonsense"}, "usable"),
        ({"processor_config_json": b"{"}, "usable"),
    ]
    for i, (changed, said) in enumerate(cases):
        with pytest.raises(ModelError, match=said):
            load_sam(damaged(whole, tmp_path / str(i), **changed), device="cpu")
    with pytest.raises(ModelError, match="is not there"):
        load_sam(tmp_path / "nowhere")


def test_missing_weights_are_an_error_and_others_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from safetensors.torch import load_file, save_file

    folder = tinysam.save(tinysam.sam(), tmp_path / "sam")
    state = load_file(folder / "model.safetensors")
    save_file(state | {"hq_token": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    with caplog.at_level(logging.WARNING):
        load_sam(folder, device="cpu")
    assert "hq_token" in caplog.text
    del state["mask_decoder.iou_token.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"mask_decoder\.iou_token\.weight"):
        load_sam(folder, device="cpu")
    save_file(
        state | {"mask_decoder.iou_token.weight": torch.full((1, 32), torch.nan)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"iou_token.weight holds values that are no finite"):
        load_sam(folder, device="cpu")


def test_files_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    folder = tinysam.save(tinysam.sam(), tmp_path / "sam")
    of_transformers("SamProcessor")(of_transformers("SamImageProcessor")()).save_pretrained(folder)
    with pytest.raises(ModelError, match="mixes files of two models"):
        load_sam(folder, device="cpu").encode(tinysam.picture())


def test_without_transformers_one_is_told_what_to_install(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="has no Sam9Model: update it"):
        of_transformers("Sam9Model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r'pip install "qp2train\[sam\]"'):
        load_sam(folders["sam"])


def test_nothing_is_printed(folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_sam(folders["sam2"], device="cpu").save(tmp_path / "mine")
    said = capfd.readouterr()
    assert said.out + said.err == ""
