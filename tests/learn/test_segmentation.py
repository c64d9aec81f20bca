"""What a segmentation network may be built from: options, encoders, their weights and their normalisation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from qp2train import LabelMap, Segmentation, load_model
from qp2train.errors import ModelError
from qp2train.learn import encoders
from qp2train.learn.foundation import MEAN, STD
from qp2train.learn.models import Model

SPEC = Segmentation(
    LabelMap(["Tumor"]),
    encoder="tu-test_convnext",
    encoder_weights=None,
    options={"encoder_depth": 3, "decoder_channels": (16, 8, 8)},
)
PIXELS = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))


def saved(spec: Segmentation, folder: Path) -> Model:
    model = Model("made-1", spec, spec.build().eval(), 64, 1.0, {})
    model.save(folder)
    return model


def tampered(folder: Path, **network: object) -> Path:
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    card["network"].update(network)
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "said"),
        [
            ({"activation": "softmax"}, "logits"),
            ({"aux_params": {"classes": 2}}, "its map and nothing else"),
            ({"in_channels": 4}, "pixels are RGB"),
            ({"classes": 9}, "`labels` says them"),
            ({"encoder_weights": "imagenet"}, "an argument of its own"),
            ({"checkpoint_path": "/tmp/x.pth"}, "where its weights are"),
            ({"pretrained_cfg_overlay": {"file": "/tmp/x.pth"}}, "where its weights are"),
        ],
    )
    def test_what_is_no_option_is_refused_with_the_reason(self, option, said):
        with pytest.raises(ModelError, match=f"{next(iter(option))!r} is no option of a network: .*{said}"):
            replace(SPEC, options=option)

    @pytest.mark.parametrize("wrong", [{"encoder_depth": 99}, {"decoder_channels": 5}, {"decoder_channels": [16]}])
    def test_options_that_build_nothing(self, wrong):
        with pytest.raises(ModelError, match="cannot build 'unet'"):
            replace(SPEC, encoder="resnet18", options=wrong).build()

    def test_an_encoder_that_timm_does_not_have(self):
        with pytest.raises(ModelError, match="tu-nothing"):
            replace(SPEC, encoder="tu-nothing").build()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"labels": ["Tumor"]}, "labels must be a LabelMap"),
        ({"arch": None}, "arch must be a text, not None"),
        ({"encoder": 5}, "encoder must be a text, not 5"),
        ({"encoder_weights": True}, "encoder_weights must be a text or None, not True"),
        ({"options": None}, "options must be a dictionary, not None"),
        ({"multilabel": "no"}, "multilabel must be True or False, not 'no'"),
        ({"stain": 5}, "stain must be one of macenko, reinhard"),
    ],
)
def test_arguments_of_another_type_are_named(wrong, said):
    with pytest.raises(ModelError, match=said):
        replace(SPEC, **wrong)


class TestNormalisation:
    @pytest.mark.parametrize(
        ("encoder", "mean"),
        [("tu-test_convnext", (0.5, 0.5, 0.5)), ("tu-test_efficientnet", MEAN), ("resnet18", MEAN)],
    )
    def test_is_that_of_the_encoder(self, encoder, mean):
        net = replace(SPEC, encoder=encoder).build()
        assert (net.mean.flatten() / 255).tolist() == pytest.approx(mean)

    @pytest.mark.parametrize(
        ("published", "mean"),
        [
            ({"input_space": "RGB", "input_range": [0, 1]}, [0.1, 0.2, 0.3]),
            ({"input_space": "BGR", "input_range": [0, 1]}, MEAN),
            ({"input_space": "RGB", "input_range": [0, 255]}, MEAN),
        ],
    )
    def test_of_smps_encoders_what_was_published_with_the_weights(self, monkeypatch, published, mean):
        said = {**published, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
        monkeypatch.setattr(smp.encoders, "get_preprocessing_params", lambda encoder, weights: said)
        scratch = SPEC.build().net
        monkeypatch.setattr(Segmentation, "create", lambda self, weights: scratch)
        net = replace(SPEC, encoder="resnet18", encoder_weights="ssl").build()
        assert (net.mean.flatten() / 255).tolist() == pytest.approx(mean)

    def test_a_saved_model_keeps_the_one_it_was_trained_with(self, tmp_path):
        """Models of timm's encoders were trained with ImageNet's before."""
        model = saved(SPEC, tmp_path / "m")
        model.net.normalise_by(MEAN, STD)
        model.save(tmp_path / "m")
        back = load_model(tmp_path / "m")
        assert (back.net.mean.flatten() / 255).tolist() == pytest.approx(MEAN)
        with torch.inference_mode():
            assert torch.allclose(back.net(PIXELS), model.net(PIXELS), atol=1e-4)

    @pytest.mark.parametrize(
        "wrong", [None, {}, {"mean": MEAN}, {"mean": "abc", "std": STD}, {"mean": [0] * 3, "std": [0] * 3}]
    )
    def test_a_card_with_none(self, tmp_path, wrong):
        saved(SPEC, tmp_path)
        card = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        (tmp_path / "model.json").write_text(json.dumps({**card, "normalisation": wrong}), encoding="utf-8")
        with pytest.raises(ModelError, match="usable"):
            load_model(tmp_path)


class TestWeightsOfTimm:
    """A file of the whole network is a file of its encoder."""

    @pytest.fixture(params=["test_convnext", "test_resnet", "test_efficientnet"])
    def whole(self, request) -> torch.nn.Module:
        return timm.create_model(request.param).eval()

    @pytest.mark.parametrize("depth", [3, 4])
    def test_it_gives_the_same_maps(self, tmp_path, whole, depth):
        save_file(whole.state_dict(), tmp_path / "model.safetensors")
        name = f"tu-{whole.pretrained_cfg['architecture']}"
        options = {"encoder_depth": depth, "decoder_channels": [8] * depth}
        for given in (tmp_path / "model.safetensors", tmp_path):  # the file, or the folder that holds it
            net = replace(SPEC, encoder=name, encoder_weights=given, options=options).build().eval()
            maps = net.net.encoder.model(torch.ones(1, 3, 64, 64))
            expected = whole.forward_intermediates(torch.ones(1, 3, 64, 64), intermediates_only=True)
            assert torch.allclose(maps[-1], next(e for e in expected if e.shape == maps[-1].shape), atol=1e-5)

    def test_so_is_a_file_of_smps(self, tmp_path):
        net = SPEC.build()
        save_file(net.net.encoder.state_dict(), tmp_path / "e.safetensors")
        again = replace(SPEC, encoder_weights=tmp_path / "e.safetensors").build()
        mine, theirs = net.net.encoder.state_dict(), again.net.encoder.state_dict()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)

    def test_another_networks_file_is_refused(self, tmp_path):
        save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "e.safetensors")
        with pytest.raises(ModelError, match=r"not in the file: .*stem_0"):
            replace(SPEC, encoder_weights=tmp_path / "e.safetensors").build()

    def test_a_folder_without_weights(self, tmp_path):
        with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
            replace(SPEC, encoder_weights=tmp_path).build()


class TestOfTheHub:
    @pytest.fixture
    def published(self, monkeypatch, tmp_path) -> torch.nn.Module:
        """A timm network as on the hub: a description and its weights."""
        whole = timm.create_model("test_convnext", depths=(1, 1, 1, 1))
        about = {
            "architecture": "test_convnext",
            "model_args": {"depths": [1, 1, 1, 1]},
            "pretrained_cfg": {"mean": [0.1] * 3},
        }
        (tmp_path / "hub").mkdir()
        (tmp_path / "hub" / "config.json").write_text(json.dumps(about), encoding="utf-8")
        save_file(whole.state_dict(), tmp_path / "hub" / "model.safetensors")
        monkeypatch.setattr(encoders, "hf_hub_download", lambda repository, name: tmp_path / "hub" / name)
        return whole

    def test_it_may_be_named_and_the_saved_model_asks_nobody(self, published, tmp_path, monkeypatch):
        model = saved(replace(SPEC, encoder="tu-hf-hub:some/net", encoder_weights="imagenet"), tmp_path / "m")
        assert torch.equal(model.net.net.encoder.model.stem_0.weight, published.stem[0].weight)
        assert (model.net.mean.flatten() / 255).tolist() == pytest.approx([0.1] * 3)
        monkeypatch.delattr(encoders, "hf_hub_download")
        back = load_model(tmp_path / "m")
        with torch.inference_mode():
            assert torch.equal(back.net(PIXELS), model.net(PIXELS))

    @pytest.mark.parametrize("encoder", ["tu-local-dir:/tmp", "hf-hub:some/net", "local-dir:/tmp"])
    def test_other_addresses_name_no_encoder(self, encoder):
        with pytest.raises(ModelError, match="names no encoder"):
            replace(SPEC, encoder=encoder)


class TestATamperedCard:
    @pytest.fixture
    def opened(self) -> Iterator[list[str]]:
        """What is opened or asked for over the network meanwhile, of what the card names."""
        seen: list[str] = []
        watching = [True]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if watching and (event.startswith("socket.") or (event == "open" and "evil" in str(arguments[0]))):
                seen.append(f"{event} {arguments}")

        sys.addaudithook(hook)  # stays for good, but watches no longer
        yield seen
        watching.clear()

    @pytest.mark.parametrize(
        "network",
        [
            {"encoder": "tu-hf-hub:evil/net"},
            {"encoder": "tu-hf_hub:evil/net"},
            {"encoder": "tu-local-dir:/evil"},
            {"options": {"checkpoint_path": "/evil.pth"}},
            {"options": {"pretrained": True, "pretrained_cfg": {"url": "http://evil.example/x.pth"}}},
            {"options": {"pretrained_cfg_overlay": {"file": "/evil.pth"}}},
            {"options": {"cache_dir": "/evil"}},
            {"options": {"encoder_weights": "imagenet"}},
        ],
    )
    def test_fetches_nothing(self, tmp_path, opened, network):
        saved(SPEC, tmp_path)
        with pytest.raises(ModelError):
            load_model(tampered(tmp_path, **network))
        assert opened == []
