"""Original checkpoints of SAM and MobileSAM: the same answers, nothing missing, nothing run."""

from __future__ import annotations

import itertools
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="models of the SAM family need the transformers package (extra `sam`)")
import tinysam
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import SamConfig, SamModel

from qp2train.errors import ModelError
from qp2train.refine.prompts import Prompt
from qp2train.refine.samkeys import built_from
from qp2train.refine.samload import load_sam

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def vit() -> State:
    return tinysam.original(tinysam.sam())


# MobileSAM, small: channels, blocks, heads and windows of its four stages, as published but for the channels.
DIMS, DEPTHS, HEADS, WINDOWS = (8, 8, 12, 16), (1, 1, 2, 1), (1, 2, 3, 4), (7, 7, 14, 7)


@pytest.fixture(scope="module")
def mobile() -> State:
    """Random weights by the names and shapes that MobileSAM's own classes give them."""
    drawn = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=drawn)

    state: State = {}

    def conv_norm(name: str, inside: int, outside: int, px: int, *, depthwise: bool = False) -> None:
        state[f"{name}.c.weight"] = random(outside, 1 if depthwise else inside, px, px)
        for part in ("weight", "bias", "running_mean"):
            state[f"{name}.bn.{part}"] = random(outside) + (part == "weight")
        state[f"{name}.bn.running_var"] = random(outside).abs() + 0.5
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def plain(name: str, *shape: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = random(*shape), random(shape[0])

    encoder = "image_encoder"
    conv_norm(f"{encoder}.patch_embed.seq.0", 3, DIMS[0] // 2, 3)
    conv_norm(f"{encoder}.patch_embed.seq.2", DIMS[0] // 2, DIMS[0], 3)
    for stage, (dim, depth) in enumerate(zip(DIMS, DEPTHS, strict=True)):
        for block in range(depth):
            at = f"{encoder}.layers.{stage}.blocks.{block}"
            if stage == 0:
                conv_norm(f"{at}.conv1", dim, 4 * dim, 1)
                conv_norm(f"{at}.conv2", 4 * dim, 4 * dim, 3, depthwise=True)
                conv_norm(f"{at}.conv3", 4 * dim, dim, 1)
                continue
            state[f"{at}.attn.attention_biases"] = random(HEADS[stage], WINDOWS[stage] ** 2)
            plain(f"{at}.attn.norm", dim)
            plain(f"{at}.attn.qkv", 3 * dim, dim)
            plain(f"{at}.attn.proj", dim, dim)
            plain(f"{at}.mlp.norm", dim)
            plain(f"{at}.mlp.fc1", 4 * dim, dim)
            plain(f"{at}.mlp.fc2", dim, 4 * dim)
            conv_norm(f"{at}.local_conv", dim, dim, 3, depthwise=True)
        if stage < 3:
            at, wider = f"{encoder}.layers.{stage}.downsample", DIMS[stage + 1]
            conv_norm(f"{at}.conv1", dim, wider, 1)
            conv_norm(f"{at}.conv2", wider, wider, 3, depthwise=True)
            conv_norm(f"{at}.conv3", wider, wider, 1)
    plain(f"{encoder}.norm_head", DIMS[-1])  # TinyViT's own, which MobileSAM keeps and does not use
    plain(f"{encoder}.head", 10, DIMS[-1])
    for i, shape in enumerate([(tinysam.HIDDEN, DIMS[-1], 1, 1), None, (tinysam.HIDDEN, tinysam.HIDDEN, 3, 3), None]):
        state[f"{encoder}.neck.{i}.weight"] = random(*(shape or (tinysam.HIDDEN,)))
        if shape is None:
            state[f"{encoder}.neck.{i}.bias"] = random(tinysam.HIDDEN)
    there = tinysam.sam().state_dict()
    return state | {old: there[new] for old, new in tinysam.decoder_names()}


def reference(state: State, x: torch.Tensor) -> torch.Tensor:
    """MobileSAM's image encoder, written down from its description with nothing but torch's functions."""

    def conv_norm(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.c.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        bn = [state[f"{name}.bn.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *bn)

    def both(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def attention(x: torch.Tensor, at: str, heads: int, window: int) -> torch.Tensor:
        """(windows, window², C)"""
        n, tokens, dim = x.shape
        x = F.layer_norm(x, (dim,), *both(f"{at}.norm"))
        qkv = F.linear(x, *both(f"{at}.qkv")).view(n, tokens, heads, 3, dim // heads)
        q, k, v = (qkv[:, :, :, i].transpose(1, 2) for i in range(3))
        # Numbered in the order in which the offsets occur: of a first pixel with all, that is row by row.
        places = list(itertools.product(range(window), range(window)))
        table = [[abs(a[0] - b[0]) * window + abs(a[1] - b[1]) for b in places] for a in places]
        biases = state[f"{at}.attention_biases"][:, torch.tensor(table)]
        weights = (q @ k.transpose(-2, -1) * (dim // heads) ** -0.5 + biases).softmax(dim=-1)
        return F.linear((weights @ v).transpose(1, 2).reshape(n, tokens, dim), *both(f"{at}.proj"))

    def windows(x: torch.Tensor, at: str, heads: int, window: int) -> torch.Tensor:
        """(N, C, H, W) attended to window by window; what is beyond the border is zeros."""
        n, dim, height, width = x.shape
        padded = F.pad(x, (0, -width % window, 0, -height % window))
        out = torch.zeros_like(padded)
        for top, left in itertools.product(range(0, padded.shape[2], window), range(0, padded.shape[3], window)):
            part = padded[:, :, top : top + window, left : left + window]
            said = attention(part.flatten(2).transpose(1, 2), at, heads, window)
            out[:, :, top : top + window, left : left + window] = said.transpose(1, 2).view(n, dim, window, window)
        return out[:, :, :height, :width]

    e = "image_encoder"
    x = conv_norm(F.gelu(conv_norm(x, f"{e}.patch_embed.seq.0", 2)), f"{e}.patch_embed.seq.2", 2)
    for stage in range(4):
        for block in range(DEPTHS[stage]):
            at = f"{e}.layers.{stage}.blocks.{block}"
            if stage == 0:
                y = F.gelu(conv_norm(F.gelu(conv_norm(x, f"{at}.conv1")), f"{at}.conv2"))
                x = F.gelu(x + conv_norm(y, f"{at}.conv3"))
                continue
            x = x + windows(x, f"{at}.attn", HEADS[stage], WINDOWS[stage])
            x = conv_norm(x, f"{at}.local_conv").permute(0, 2, 3, 1)
            y = F.layer_norm(x, (x.shape[-1],), *both(f"{at}.mlp.norm"))
            y = F.linear(F.gelu(F.linear(y, *both(f"{at}.mlp.fc1"))), *both(f"{at}.mlp.fc2"))
            x = (x + y).permute(0, 3, 1, 2)
        if stage < 3:  # the last one does not halve
            at = f"{e}.layers.{stage}.downsample"
            y = F.gelu(conv_norm(F.gelu(conv_norm(x, f"{at}.conv1")), f"{at}.conv2", 1 if stage == 2 else 2))
            x = conv_norm(y, f"{at}.conv3")
    for i, px in ((0, 1), (2, 3)):
        x = F.conv2d(x, state[f"{e}.neck.{i}.weight"], padding=px // 2).permute(0, 2, 3, 1)
        x = F.layer_norm(x, (x.shape[-1],), *both(f"{e}.neck.{i + 1}"), eps=1e-6).permute(0, 3, 1, 2)
    return x


PROMPTS = [Prompt([(5, 9)], [1]), Prompt([(5, 9), (20, 30)], [1, 0], (2, 3, 25, 40)), Prompt(mask=np.eye(50, 30) > 0)]


def test_a_sam_in_the_original_layout_answers_the_same(vit: State, tmp_path: Path) -> None:
    folder = tinysam.save(tinysam.sam(), tmp_path / "sam", "sam")
    torch.save(vit, tmp_path / "sam_vit.pth")
    theirs, ours = load_sam(folder, device="cpu"), load_sam(tmp_path / "sam_vit.pth", device="cpu")
    assert ours.digest == theirs.digest
    assert ours.id.startswith("sam_vit-")
    image = tinysam.picture()
    for prompt in PROMPTS:
        for a, b in zip(*(m.encode(image).predict(prompt) for m in (ours, theirs)), strict=True):
            assert np.array_equal(a.mask, b.mask)
            assert a.iou == pytest.approx(b.iou, abs=1e-5)


@pytest.mark.parametrize(
    ("dim", "blocks", "heads", "attends_to_all"),
    [(768, 12, 12, [2, 5, 8, 11]), (1024, 24, 16, [5, 11, 17, 23]), (1280, 32, 16, [7, 15, 23, 31])],
    ids=["B", "L", "H"],
)
def test_published_sizes_are_recognised(dim: int, blocks: int, heads: int, attends_to_all: list[int]) -> None:
    """On tensors without memory, of the published shapes."""
    vision = {"hidden_size": dim, "num_hidden_layers": blocks, "num_attention_heads": heads}
    vision |= {"global_attn_indexes": attends_to_all}
    with torch.device("meta"):
        published = SamModel(SamConfig(vision_config=vision))
    there = published.state_dict()
    names = [*tinysam.encoder_names(blocks), *tinysam.decoder_names()]
    net = built_from({old: there[new] for old, new in names})
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in there.items()}
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        ours, theirs = (getattr(n.config, part).to_dict() for n in (net, published))
        differ = {k for k in ours if ours[k] != theirs[k]}
        assert differ <= {"mlp_ratio", "mlp_dim"}
        assert ours.get("mlp_dim") == theirs.get("mlp_dim")


def test_the_wrappings_of_other_tools_are_taken_off(vit: State, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pth"
    torch.save(vit, plain)
    digest = load_sam(plain, device="cpu").digest
    held = {
        "exported": OrderedDict(vit),
        "micro-sam": {"model_state": OrderedDict(vit), "decoder_state": {"a": torch.zeros(1)}},
        "torch-em": {"model_state": {f"sam.{k}": v for k, v in vit.items()}, "epoch": 3},
        "lightning": {"state_dict": {f"module.sam.{k}": v for k, v in vit.items()}},
    }
    for name, what in held.items():
        torch.save(what, tmp_path / f"{name}.pt")
        assert load_sam(tmp_path / f"{name}.pt", device="cpu").digest == digest
    torch.save(vit, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert load_sam(tmp_path / "legacy.pth", device="cpu").digest == digest
    save_file(vit, tmp_path / "sam.safetensors")
    assert load_sam(tmp_path / "sam.safetensors", device="cpu").digest == digest


def test_half_precision_is_taken_as_32_bits(vit: State, tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in vit.items()}, tmp_path / "half.pt")
    model = load_sam(tmp_path / "half.pt", device="cpu")
    assert {v.dtype for v in model.net.state_dict().values()} == {torch.float32}
    assert model.encode(tinysam.picture()).predict(PROMPTS[0])[0].mask.shape == (50, 30)


def test_mobilesam_sees_what_its_description_says(mobile: State, tmp_path: Path) -> None:
    torch.save(mobile, tmp_path / "mobile_sam.pt")
    model = load_sam(tmp_path / "mobile_sam.pt", device="cpu")
    frame, pixels = model.prepare(tinysam.picture(90, 120))
    assert (frame.inner, frame.side, frame.grid) == ((768, 1024), 1024, 256)
    (seen,) = model.embed(pixels)
    with torch.no_grad():
        expected = reference(mobile, pixels)
    assert seen.shape == (1, tinysam.HIDDEN, 64, 64)
    assert expected.std() > 0.1
    assert torch.allclose(seen, expected, atol=1e-4)


def test_mobilesam_answers_prompts_and_is_saved_in_the_original_layout(mobile: State, tmp_path: Path) -> None:
    torch.save(mobile, tmp_path / "mobile_sam.pt")
    model = load_sam(tmp_path / "mobile_sam.pt", device="cpu")
    again = load_sam(model.save(tmp_path / "mine"), device="cpu")
    assert again.id == f"mine-{model.digest[:8]}"
    first, second = (m.encode(tinysam.picture(50, 30)) for m in (model, again))
    for prompt in PROMPTS:
        found = first.predict(prompt)
        assert len(found) == (3 if prompt is PROMPTS[0] else 1)
        assert all(c.mask.shape == (50, 30) for c in found)
        assert [c.iou for c in found] == pytest.approx([c.iou for c in second.predict(prompt)], abs=1e-5)
    from safetensors.torch import load_file

    unused = {k for k in mobile if "head." in k and k.startswith("image_encoder")}
    assert {*load_file(tmp_path / "mine" / "model.safetensors")} == {*mobile} - unused


@pytest.mark.parametrize("kind", ["vit", "mobile"])
def test_each_weight_must_be_there_in_its_shape_and_no_other(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    state: State = request.getfixturevalue(kind)
    file = tmp_path / "sam.pth"
    rng = np.random.default_rng(0)
    needed = [k for k in state if not k.endswith("num_batches_tracked") and "head." not in k.removeprefix("mask")]
    chosen = rng.choice(needed, 12, replace=False).tolist()
    for key in [*chosen, "mask_decoder.mask_tokens.weight", "image_encoder.neck.0.weight"]:
        torch.save({k: v for k, v in state.items() if k != key}, file)
        with pytest.raises(ModelError, match=f"not in the file: .*{key}"):
            load_sam(file, device="cpu")
    torch.save(state | {"mask_decoder.hf_token.weight": torch.zeros(1, 32)}, file)
    with pytest.raises(ModelError, match=r"only in the file: mask_decoder\.hf_token\.weight"):
        load_sam(file, device="cpu")
    for key in ("image_encoder.neck.2.weight", "prompt_encoder.no_mask_embed.weight", "mask_decoder.iou_token.weight"):
        torch.save(state | {key: torch.zeros(3, 5)}, file)
        with pytest.raises(ModelError):
            load_sam(file, device="cpu")
    key = "mask_decoder.output_hypernetworks_mlps.2.layers.1.weight"
    torch.save(state | {key: torch.zeros(3, 5)}, file)
    with pytest.raises(ModelError, match=r"of another shape: .*mlps\.2\.layers\.1\.weight \(3, 5\) for \(32, 32\)"):
        load_sam(file, device="cpu")


def test_what_is_computed_or_counted_may_be_there_or_not(mobile: State, tmp_path: Path) -> None:
    less = {k: v for k, v in mobile.items() if "num_batches" not in k and "image_encoder.head" not in k}
    torch.save(less | {"pixel_mean": torch.zeros(3, 1, 1)}, tmp_path / "sam.pt")
    load_sam(tmp_path / "sam.pt", device="cpu")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_checkpoint_are_named_and_run_nothing(vit: State, tmp_path: Path) -> None:
    torch.save(vit, tmp_path / "whole.pth")
    whole, trap = (tmp_path / "whole.pth").read_bytes(), tmp_path / "trap"
    files = {
        "empty.pth": b"",
        "text.pth": b"<html>404 not found</html>",
        "half.pth": whole[: len(whole) // 2],
        "cut.pth": whole[:-100],
        "evil.pth": pickle.dumps(Evil(trap)),
        "junk.safetensors": b"\xff" * 64,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    held = {
        "evil-zip.pth": {"image_encoder.patch_embed.proj.weight": Evil(trap)},
        "list.pth": [1, 2],
        "nothing.pth": {},
        "numbers.pth": {"image_encoder.pos_embed": 3},
        "other.pth": {"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)},
        "transformers.pth": tinysam.sam().state_dict(),
        "sparse.pth": vit | {"image_encoder.pos_embed": torch.zeros(3, 3).to_sparse()},
        "integers.pth": vit | {"mask_decoder.iou_token.weight": torch.zeros(1, 32, dtype=torch.int32)},
        "vast.pth": vit | {"image_encoder.pos_embed": torch.zeros(1).expand(1, 8, 8, 1 << 36)},
        "nan.pth": vit | {"mask_decoder.iou_token.weight": torch.full((1, 32), torch.nan)},
        "flat.pth": vit | {"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(5, 0)},
    }
    for name, what in held.items():
        torch.save(what, tmp_path / name)
    said = {"other.pth": "it has conv1.weight, fc.bias", "transformers.pth": "transformers' names",
            "numbers.pth": "'image_encoder.pos_embed' is no named tensor"}  # fmt: skip
    for name in [*files, *held]:
        with pytest.raises(ModelError, match=said.get(name, name.split(".")[0])):
            load_sam(tmp_path / name, device="cpu")
    assert not trap.exists()
