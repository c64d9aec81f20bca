"""Training a SAM's mask decoder: on dark discs, which a random SAM knows nothing of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="models of the SAM family need the transformers package (extra `sam`)")
import tinysam
import torch

from qp2train.core.clicks import iou
from qp2train.errors import ModelError, PromptError, Qp2trainError
from qp2train.refine.mobilesam import TinyEncoder
from qp2train.refine.prompts import Prompt
from qp2train.refine.sam import SamPrompts
from qp2train.refine.samcache import SUFFIX, EmbeddingCache
from qp2train.refine.samload import load_sam
from qp2train.refine.samtune import Example, example_loss, mask_loss, tune_sam
from qp2train.refine.transformersdoor import of_transformers


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.hypot(columns - x, rows - y) <= radius


def discs(count: int = 6, height: int = 64, width: int = 48) -> list[Example]:
    rng, made = np.random.default_rng(0), list[Example]()
    for i in range(count):
        mask = disc(height, width, *rng.uniform(16, 32, 2), rng.uniform(8, 14))
        image = np.where(mask[..., None], (90, 40, 120), (230, 190, 215)) + rng.integers(-9, 10, (height, width, 3))
        # Of every other one the lower part was not annotated.
        valid = None if i % 2 else np.arange(height)[:, None].repeat(width, axis=1) < 56
        made.append((image.astype(np.uint8), mask if valid is None else mask & valid, valid))
    return made


@pytest.fixture
def model(tmp_path: Path) -> SamPrompts:
    return load_sam(tinysam.save(tinysam.sam(), tmp_path / "tiny", "sam"), device="cpu")


def test_training_lowers_the_loss_and_leaves_everything_but_the_decoder_as_it_was(
    model: SamPrompts, tmp_path: Path
) -> None:
    before = {k: v.clone() for k, v in model.net.state_dict().items()}
    examples, losses = discs(), list[float]()
    tuned = tune_sam(
        model,
        examples,
        steps=60,
        batch=2,
        lr=4e-3,
        cache=tmp_path / "kept",
        progress=lambda *said: losses.append(said[2]),
    )
    assert len(losses) == 60

    def score(of: SamPrompts) -> float:
        """Mean loss over the same prompts for both."""
        rng, kept = np.random.default_rng(1), EmbeddingCache(model, tmp_path / "kept")
        with torch.no_grad():
            found = [
                example_loss(of, kept.get(e[0])[1], kept.get(e[0])[0], e[1], np.ones_like(e[1]), rng).item()
                for e in examples * 3
            ]
        return float(np.mean(found))

    assert score(tuned) < 0.7 * score(model)
    found = [(m.encode(image).predict(Prompt([(24, 24)], [1]))[0].mask, mask) for m in (model, tuned)
             for image, mask, _ in examples if mask[24, 24]]  # fmt: skip
    half = len(found) // 2
    assert np.mean([iou(*f) for f in found[:half]]) < 0.3 < 0.7 < np.mean([iou(*f) for f in found[half:]])
    after = tuned.net.state_dict()
    for key, value in before.items():
        assert torch.equal(model.net.state_dict()[key], value), "the given model is not changed"
        if not key.startswith("mask_decoder."):
            assert torch.equal(after[key], value)
    assert any(not torch.equal(after[k], v) for k, v in before.items())
    assert tuned.id.startswith("tiny-tuned-")
    assert not any(p.requires_grad for p in tuned.net.parameters())
    assert not tuned.net.mask_decoder.training
    again = load_sam(tuned.save(tmp_path / "mine"), device="cpu")
    assert again.digest == tuned.digest
    for a, b in zip(*(m.encode(examples[0][0]).predict(Prompt([(20, 20)], [1])) for m in (tuned, again)), strict=True):
        assert np.array_equal(a.mask, b.mask)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(model: SamPrompts) -> None:
    ids = [tune_sam(model, discs(3), steps=3, batch=2, seed=seed).digest for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("kind", ["sam2", "sam3"])
def test_later_models_learn_too(kind: str, tmp_path: Path) -> None:
    folder = tinysam.save(getattr(tinysam, kind)(), tmp_path / kind, kind)
    model = load_sam(folder, device="cpu")
    tuned = tune_sam(model, discs(2), steps=2, batch=2, cache=tmp_path / "kept", name="mine")
    assert tuned.digest != model.digest
    assert load_sam(tuned.save(tmp_path / "mine"), device="cpu").id == tuned.id


def test_the_encoder_runs_once_per_view_over_all_trainings(model: SamPrompts, tmp_path: Path) -> None:
    runs: list[int] = []
    model.net.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    first = tune_sam(model, discs(3), steps=5, batch=2, cache=tmp_path / "kept")
    assert len(runs) == 3
    second = tune_sam(model, discs(3), steps=5, batch=2, cache=tmp_path / "kept")
    assert len(runs) == 3
    assert first.digest == second.digest == tune_sam(model, discs(3), steps=5, batch=2).digest
    assert len(runs) == 3 + 10


def test_damaged_embeddings_are_made_again(model: SamPrompts, tmp_path: Path) -> None:
    image = tinysam.picture()
    whole = EmbeddingCache(model, tmp_path).get(image)[1]
    (file,) = tmp_path.glob(f"*{SUFFIX}")
    data = file.read_bytes()
    for bad in (b"", data[:-1], data[:100], data[:200] + b"x" + data[201:]):
        file.write_bytes(bad)
        assert torch.equal(EmbeddingCache(model, tmp_path).get(image)[1][0], whole[0])
        assert file.read_bytes() == data


def test_the_kept_embeddings_stay_below_their_limit(model: SamPrompts, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    EmbeddingCache(model, folder).get(tinysam.picture(seed=99))
    (file,) = folder.iterdir()
    limit = 4.5 * file.stat().st_size
    kept = EmbeddingCache(model, folder, limit_gb=limit / 1e9)
    for seed in range(12):
        kept.get(tinysam.picture(seed=seed))
        assert sum(f.stat().st_size for f in folder.iterdir()) <= limit
    assert len(list(folder.iterdir())) >= 3
    assert not file.exists()
    tiny = EmbeddingCache(model, tmp_path / "none", limit_gb=1e-9)
    tiny.get(tinysam.picture())
    assert not list((tmp_path / "none").iterdir())


def test_embeddings_of_another_model_or_view_are_not_taken(model: SamPrompts, tmp_path: Path) -> None:
    other = SamPrompts("other", tinysam.shaken(tinysam.sam(), seed=1), model.images)
    image = tinysam.picture()
    folder = tmp_path / "kept"
    one = EmbeddingCache(model, folder).get(image)[1][0]
    assert not torch.equal(EmbeddingCache(other, folder).get(image)[1][0], one)
    turned = np.ascontiguousarray(image.transpose(1, 0, 2)).reshape(image.shape[1], image.shape[0], 3)
    assert EmbeddingCache(model, folder).get(turned)[0].view == (30, 50)
    assert len(list(folder.iterdir())) == 3


def test_where_nothing_can_be_kept_one_is_told(model: SamPrompts, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Qp2trainError, match="no embeddings can be kept"):
        EmbeddingCache(model, tmp_path / "file")
    with pytest.raises(Qp2trainError, match="positive number"):
        EmbeddingCache(model, tmp_path, limit_gb=0)


def test_what_cannot_be_learnt_from_is_named(model: SamPrompts) -> None:
    image, mask, _ = discs(1)[0]
    cases: list[tuple[object, str]] = [
        ([], "no object to learn from"),
        ([(image, np.zeros_like(mask), None)], "example 0 has no object"),
        ([(image, mask, ~mask)], "example 0 has no object"),
        ([(image, mask[1:], None)], "of the view's size"),
        ([(image, mask.astype(float), None)], "must be bool"),
        ([(image / 255, mask, None)], "uint8"),
    ]
    for examples, said in cases:
        with pytest.raises(PromptError, match=said):
            tune_sam(model, examples, steps=1)  # type: ignore[arg-type]
    for wrong in ({"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": float("nan")}):
        with pytest.raises(ModelError, match="at least 1"):
            tune_sam(model, discs(1), **wrong)
    with pytest.raises(ModelError, match="diverged"):
        tune_sam(model, discs(2), steps=40, lr=1e30)


def test_unknown_pixels_and_worse_candidates_do_not_count() -> None:
    truth = torch.tensor([[True, False], [False, False]])
    known = torch.tensor([[True, True], [True, False]])
    right = torch.tensor([[9.0, -9.0], [-9.0, -9.0]])
    wrong_where_unknown, all_wrong = right.clone(), -right
    wrong_where_unknown[1, 1] = 9.0
    ious = torch.tensor([1.0])
    assert mask_loss(right[None], ious, truth, known) == mask_loss(wrong_where_unknown[None], ious, truth, known)
    both = mask_loss(torch.stack([all_wrong, right]), torch.tensor([0.0, 1.0]), truth, known)
    assert both == pytest.approx(mask_loss(right[None], ious, truth, known).item(), abs=1e-6)
    assert mask_loss(all_wrong[None], ious, truth, known) > 3


def test_mobilesam_learns_and_stays_mobilesam(tmp_path: Path) -> None:
    model = SamPrompts("mobile", tinysam.mobile(), of_transformers("SamImageProcessor")())
    tuned = tune_sam(model, discs(1), steps=1, batch=1)
    again = load_sam(tuned.save(tmp_path / "mobile"), device="cpu")
    assert isinstance(again.net.vision_encoder, TinyEncoder)
    assert again.digest == tuned.digest != model.digest
