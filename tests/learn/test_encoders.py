"""Weights of foundation encoders are not at hand: their networks are checked by size, the loading on tiny ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from discs import LABELS
from safetensors.torch import save_file

from qp2train import Segmentation
from qp2train.errors import ModelError
from qp2train.learn import foundation
from qp2train.learn.classification import Classification
from qp2train.learn.encoders import architecture_of, load_encoder, pretrained_encoder, read_weights
from qp2train.learn.foundation import FOUNDATION, Architecture, Foundation, foundation_of, pooled
from qp2train.learn.models import Model, load_model
from qp2train.learn.segmentation import SegmentationNet

# A vision transformer of 2 layers, 8 wide.
SMALL = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2}
VIT = Architecture("vit_tiny_patch16_224", SMALL)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def tiny(monkeypatch) -> Foundation:
    """A foundation encoder that is small enough for a test."""
    made = Foundation(VIT, "nobody/Tiny", "CC0", prefix="visual.trunk.")
    monkeypatch.setattr(foundation, "FOUNDATION", {**FOUNDATION, "tiny": made})
    return made


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class TestFoundation:
    @pytest.mark.parametrize(
        ("name", "parameters", "features", "patch"),
        # Millions of parameters as published: UNI 303, UNI2-h 681, Virchow2 631, H-optimus 1,135, Phikon 86,
        # Phikon-v2 303, CONCH's ViT-B 86, Prov-GigaPath 1,135. Features as the model cards say (Virchow2 2·1280).
        [
            ("uni", 303, 1024, 16),
            ("uni2-h", 681, 1536, 14),
            ("virchow2", 631, 2560, 14),
            ("h-optimus-0", 1135, 1536, 14),
            ("h-optimus-1", 1135, 1536, 14),
            ("phikon", 86, 768, 16),
            ("phikon-v2", 303, 1024, 16),
            ("conch", 86, 768, 16),
            ("gigapath", 1135, 1536, 16),
        ],
    )
    def test_the_network_has_the_published_size(self, name, parameters, features, patch):
        with torch.device("meta"):  # shapes alone: the largest would take 4.5 GB
            architecture = FOUNDATION[name].architecture
            net = architecture.create()
            seen = net.forward_features(torch.zeros(2, 3, 224, 224))
        assert round(sum(p.numel() for p in net.parameters()) / 1e6) == parameters
        assert pooled(architecture, net, seen).shape == (2, features)
        assert net.patch_embed.patch_size == (patch, patch)

    def test_each_has_its_own_normalisation(self):
        assert FOUNDATION["h-optimus-1"].architecture.mean == (0.707223, 0.578729, 0.703617)
        assert FOUNDATION["conch"].architecture.std == (0.26862954, 0.26130258, 0.27577711)
        assert FOUNDATION["uni"].architecture.mean == (0.485, 0.456, 0.406)

    def test_the_address_on_the_hub_names_it_too(self):
        assert foundation_of("hf-hub:MahmoodLab/UNI2-h") is FOUNDATION["uni2-h"]
        assert foundation_of("hf_hub:mahmoodlab/uni2-h") is FOUNDATION["uni2-h"]
        assert foundation_of("resnet18") is None

    def test_token_and_mean(self):
        # 1 class token, 4 registers and 4 patch tokens; the mean is of the patches alone.
        architecture = Architecture("vit_tiny_patch16_224", {**SMALL, "reg_tokens": 4}, pool="token+mean")
        net = architecture.create()
        tokens = torch.arange(9.0).reshape(1, 9, 1).expand(1, 9, 8)
        assert pooled(architecture, net, tokens)[0].tolist() == [0.0] * 8 + [6.5] * 8


class TestWithoutTheWeights:
    @pytest.mark.parametrize("name", sorted(FOUNDATION))
    def test_the_error_says_which_file_where_from_and_where_to(self, offline, name):
        with pytest.raises(ModelError) as error:
            Classification(LABELS, encoder=name).build()
        said = str(error.value)
        assert f"the weights of the encoder {name!r} are not in the cache" in said
        assert "model.safetensors or pytorch_model.bin" in said
        assert f"https://huggingface.co/{FOUNDATION[name].repository}" in said
        assert FOUNDATION[name].licence in said
        assert "encoder_weights=<that folder or file>" in said

    def test_an_absent_path_says_the_same(self, tmp_path):
        with pytest.raises(ModelError, match=r"no file or folder of encoder weights at .*absent.* Wanted is"):
            Classification(LABELS, encoder="uni", encoder_weights=tmp_path / "absent").build()

    def test_a_folder_without_them_too(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(ModelError, match=r"holds no model\.safetensors .*MahmoodLab/UNI"):
            Classification(LABELS, encoder="uni", encoder_weights=tmp_path).build()

    def test_any_model_of_the_hub(self, offline):
        with pytest.raises(ModelError, match=r"config\.json of 'hf-hub:nobody/Net' cannot be had"):
            Classification(LABELS, encoder="hf-hub:nobody/Net").build()

    def test_imagenet_weights_that_cannot_be_had_are_said_and_not_refused(self, offline, caplog):
        Classification(LABELS, encoder="resnet18").build()
        assert "no pretrained weights for resnet18" in caplog.text
        assert "Training starts from scratch" in caplog.text

    def test_the_models_card_names_the_terms(self, tiny, tmp_path):
        net = Classification(LABELS, encoder="tiny", encoder_weights=None).build()
        folder = Model("m-0", net.spec, net, 32, 1.0, {}).save(tmp_path / "m")
        card = json.loads((folder / "model.json").read_text())
        assert card["encoder_source"] == {"url": "https://huggingface.co/nobody/Tiny", "licence": "CC0"}
        assert load_model(folder).net.architecture == VIT

    def test_at_random_only_when_asked_for(self, tiny):
        assert Classification(LABELS, encoder="tiny", encoder_weights=None).build().scales == 1

    def test_an_unknown_name_names_its_neighbours(self):
        with pytest.raises(ModelError, match=r"no encoder 'resnet81'; near it: .*resnet18"):
            architecture_of("resnet81", None)


def _timm(state: dict, _: Path) -> dict:
    return state


def _wrapped(state: dict, _: Path) -> dict:
    return {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}


def _with_head(state: dict, _: Path) -> dict:
    return {**state, "head.weight": torch.zeros(10, 8), "head.bias": torch.zeros(10)}


def _of_clip(state: dict, _: Path) -> dict:
    return {"text.x": torch.zeros(1), **{f"visual.trunk.{k}": v for k, v in state.items()}}


def _transformers(state: dict, _: Path) -> dict:
    """As transformers' ViTModel names the same tensors."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    inside = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    out = {"embeddings.mask_token": torch.zeros(1, 1, 8), "pooler.dense.weight": torch.zeros(8, 8)}
    for key, value in state.items():
        if not key.startswith("blocks."):
            out[names[key]] = value
            continue
        _, n, rest = key.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        if part == "attn.qkv":
            for name, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"encoder.layer.{n}.attention.attention.{name}.{kind}"] = piece.clone()
        else:
            out[f"encoder.layer.{n}.{inside[part]}.{kind}"] = value
    return out


class TestFiles:
    @pytest.mark.parametrize("form", [_timm, _wrapped, _with_head, _of_clip, _transformers])
    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "x.pth"])
    def test_forms_that_are_published(self, tmp_path, tiny, form: Callable, name: str):
        torch.manual_seed(1)
        source = VIT.create()
        held = form(source.state_dict(), tmp_path)
        if name.endswith("safetensors"):
            if form is _wrapped:
                pytest.skip("safetensors holds no mappings of mappings")
            save_file({k: v.contiguous() for k, v in held.items()}, tmp_path / name)
        else:
            torch.save(held, tmp_path / name)
        for given in (tmp_path / name, tmp_path):  # the file, or its folder
            assert same(pretrained_encoder("tiny", str(given), VIT), source)

    def test_position_embeddings_of_another_size_are_interpolated(self, tmp_path):
        large = Architecture("vit_tiny_patch16_224", {**SMALL, "img_size": 64})
        torch.save(large.create().state_dict(), tmp_path / "x.pth")
        net = VIT.create()
        load_encoder(net, tmp_path / "x.pth")
        assert net.pos_embed.shape == (1, 1 + 2 * 2, 8)

    def test_the_first_keys_that_differ_are_named(self, tmp_path):
        state = VIT.create().state_dict()
        state["odd"] = state.pop("norm.bias")
        state["norm.weight"] = torch.ones(9)
        torch.save(state, tmp_path / "x.pth")
        said = r"not in the file: norm\.bias; only in the file: odd; of another shape: norm\.weight \(9,\) for \(8,\)"
        with pytest.raises(ModelError, match=said):
            load_encoder(VIT.create(), tmp_path / "x.pth")

    def test_many_that_differ_are_counted(self, tmp_path):
        torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
        with pytest.raises(ModelError, match=r"cls_token, pos_embed, patch_embed\.proj\.weight and \d+ more; only"):
            load_encoder(VIT.create(), tmp_path / "x.pth")

    @pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.bin"])
    @pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", b"\x80\x02."])
    def test_damaged_files(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match="does not hold weights"):
            read_weights(tmp_path / name)

    def test_nothing_is_unpickled(self, tmp_path):
        marker = tmp_path / "was-run"

        class Bomb:
            def __reduce__(self):
                return Path.touch, (marker,)

        (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": Bomb()}, protocol=2))
        torch.save({"a": Bomb()}, tmp_path / "y.pth")
        for name in ("x.pth", "y.pth"):
            with pytest.raises(ModelError, match="does not hold weights"):
                read_weights(tmp_path / name)
        assert not marker.exists()

    def test_several_files_of_which_none_has_the_usual_name(self, tmp_path):
        for name in ("a.pth", "b.pth"):
            torch.save({}, tmp_path / name)
        with pytest.raises(ModelError, match=r"it has a\.pth, b\.pth: name one of them"):
            pretrained_encoder("uni", str(tmp_path), VIT)


class TestAnyHubModel:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        torch.save(VIT.create().state_dict(), tmp_path / "pytorch_model.bin")
        config = {
            "architecture": "vit_tiny_patch16_224",
            "model_args": SMALL,
            "num_classes": 0,
            "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    def test_a_downloaded_folder_is_enough(self, folder, offline):
        spec = Classification(LABELS, encoder="hf-hub:nobody/Net", encoder_weights=folder)
        net = spec.build()
        assert net.architecture.mean == (0.5, 0.5, 0.5)
        assert net(torch.full((1, 3, 32, 32), 127.5)).shape == (1, 3)

    @pytest.mark.parametrize(
        "config",
        ["[]", "{", '{"architecture": 3}', '{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [1]}}'],
    )
    def test_a_description_that_is_none(self, folder, offline, config):
        (folder / "config.json").write_text(config)
        with pytest.raises(ModelError, match="does not describe a timm model"):
            Classification(LABELS, encoder="hf-hub:nobody/Net", encoder_weights=folder).build()

    @pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "pretrained_cfg", "cache_dir"])
    def test_options_that_would_fetch_files(self, key):
        with pytest.raises(ModelError, match=f"'{key}' is no option"):
            Architecture("resnet18", {key: "/etc/passwd"}).create()


class TestAsASegmentationsEncoder:
    def test_a_dense_prediction_transformer_on_it(self, monkeypatch, tmp_path):
        architecture = Architecture("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 12})
        monkeypatch.setattr(foundation, "FOUNDATION", {"tiny": Foundation(architecture, "nobody/Tiny", "CC0")})
        source = architecture.create()
        torch.save(source.state_dict(), tmp_path / "pytorch_model.bin")
        spec = Segmentation(LABELS, arch="dpt", encoder="tiny", encoder_weights=tmp_path, options={"encoder_depth": 4})
        net = spec.build().eval()
        assert same(net.net.encoder.model, source)
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)

    def test_with_its_own_normalisation(self):
        with torch.device("meta"):
            net = Segmentation(LABELS, arch="dpt", encoder="h-optimus-0", encoder_weights=None).build()
        assert net.net.encoder.model.embed_dim == 1536
        with torch.device("cpu"):
            net = SegmentationNet(net.net, mean=FOUNDATION["h-optimus-0"].architecture.mean)
        assert (net.mean.flatten() / 255).tolist() == pytest.approx([0.707223, 0.578729, 0.703617])

    def test_without_the_weights(self, offline):
        with pytest.raises(ModelError, match="Wanted is"):
            Segmentation(LABELS, arch="dpt", encoder="uni").build()

    def test_one_that_smp_cannot_build(self):
        with pytest.raises(ModelError, match="smp takes its depth for its own"):
            Segmentation(LABELS, arch="dpt", encoder="uni2-h", encoder_weights=None).build()

    def test_an_architecture_that_needs_maps_of_several_sizes(self):
        with pytest.raises(ModelError, match="use arch='dpt'"):
            Segmentation(LABELS, arch="unet", encoder="uni", encoder_weights=None).build()
