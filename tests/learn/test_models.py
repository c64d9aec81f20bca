import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qp2train import LabelMap, Model, Segmentation, load_model
from qp2train.errors import ModelError
from qp2train.learn.models import model_id

LABELS = LabelMap(["Stroma", "Tumor"], colors={"Tumor": (1, 2, 3)}, ignore=["Blur"])
SPEC = Segmentation(
    LABELS, encoder="resnet18", encoder_weights=None, options={"encoder_depth": 3, "decoder_channels": (16, 8, 8)}
)
PIXELS = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SPEC.build().eval()
    return Model(model_id("made", net), SPEC, net, 64, 0.5, {"note": "µ"})


@pytest.fixture
def folder(model, tmp_path):
    return model.save(tmp_path / "model")


def logits(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return model.net(PIXELS)


class TestNetwork:
    def test_one_logit_per_class_and_background(self, model):
        assert logits(model).shape == (1, 3, 64, 64)

    def test_pixels_of_0_to_255_are_normalised_within(self, model):
        mean = 255 * torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
        std = 255 * torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
        with torch.inference_mode():
            expected = model.net.net((PIXELS.float() - mean) / std)
        assert torch.equal(logits(model), expected)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"arch": "unet3000"}, "unet3000"),
            ({"encoder": "resnet1"}, "resnet1"),
            ({"options": {"magic": 1}}, "magic"),
            ({"encoder_weights": "imagenett"}, "imagenett"),
            ({"encoder_weights": "weights/none.pth"}, "no file of encoder weights at weights/none.pth"),
        ],
    )
    def test_what_cannot_be_built_is_named(self, wrong, said):
        with pytest.raises(ModelError, match=said):
            replace(SPEC, **wrong).build()


def test_options_that_cannot_be_kept_are_refused_before_training():
    with pytest.raises(ModelError, match="options"):
        replace(SPEC, options={"decoder_channels": {16, 8}})


class TestEncoderWeights:
    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls):
        with torch.random.fork_rng():
            torch.manual_seed(99)
            return SPEC.build().net.encoder.state_dict()

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_a_file_is_loaded(self, tmp_path, weights, suffix):
        file = tmp_path / f"encoder{suffix}"
        save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
        for named in (str(file), file):
            encoder = replace(SPEC, encoder_weights=named).build().net.encoder
            assert all(torch.equal(encoder.state_dict()[k], v) for k, v in weights.items())

    def test_a_file_that_lacks_a_weight_is_refused(self, tmp_path, weights):
        file = tmp_path / "encoder.safetensors"
        save_file({k: v for k, v in weights.items() if k != "conv1.weight"}, file)
        with pytest.raises(ModelError, match=r"(?s)encoder\.safetensors.*conv1\.weight"):
            replace(SPEC, encoder_weights=str(file)).build()

    @pytest.mark.parametrize("name", ["e.safetensors", "e.pth"])
    @pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 truncated"])
    def test_a_file_that_is_none_is_refused(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=r"e\."):
            replace(SPEC, encoder_weights=str(tmp_path / name)).build()

    def test_a_file_with_other_things_is_refused(self, tmp_path):
        for i, other in enumerate([torch.zeros(3), [1, 2], {"state_dict": {}}, "text"]):
            torch.save(other, tmp_path / f"{i}.pth")
            with pytest.raises(ModelError, match=f"{i}.pth"):
                replace(SPEC, encoder_weights=str(tmp_path / f"{i}.pth")).build()


class TestFolder:
    def test_what_is_loaded_predicts_the_same(self, model, folder):
        back = load_model(folder)
        assert torch.equal(logits(back), logits(model))
        assert (back.id, back.size_px, back.mpp, back.labels) == (model.id, 64, 0.5, LABELS)
        assert back.about == {"note": "µ"}
        assert not back.net.training
        assert back.spec.arch == "unet"

    def test_how_slides_are_recoloured_is_kept(self, model, tmp_path):
        spec = replace(model.spec, stain="macenko")
        folder = replace(model, spec=spec).save(tmp_path / "recoloured")
        assert load_model(folder).spec.stain == "macenko"
        card = folder / "model.json"
        card.write_text(card.read_text(encoding="utf-8").replace("macenko", "vahadane"), encoding="utf-8")
        with pytest.raises(ModelError, match="macenko, reinhard"):
            load_model(folder)

    def test_the_run_folder_will_do(self, model, folder):
        assert load_model(folder.parent).id == model.id

    def test_the_card_is_plain_json_and_the_weights_no_pickle(self, folder):
        assert sorted(p.name for p in folder.iterdir()) == ["model.json", "weights.safetensors"]
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        assert card["task"] == "segmentation"
        assert card["labels"]["colors"] == {"Tumor": [1, 2, 3]}

    def test_saving_again_replaces_and_leaves_nothing_behind(self, model, folder):
        (folder / "README.md").write_text("of the model before")
        model.save(folder)
        assert [p.name for p in folder.parent.iterdir()] == ["model"]
        assert not (folder / "README.md").exists()

    def test_a_folder_with_anything_else_is_left_alone(self, model, folder):
        (folder.parent / "notes.txt").write_text("mine")
        with pytest.raises(ModelError, match=r"holds more than a model \(model, notes\.txt\)"):
            model.save(folder.parent)
        (folder / "README.md").mkdir()
        with pytest.raises(ModelError, match=r"README\.md"):
            model.save(folder)
        assert sorted(p.name for p in folder.parent.iterdir()) == ["model", "notes.txt"]
        assert load_model(folder).id == model.id

    def test_a_file_is_left_alone(self, model, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ModelError, match="is a file"):
            model.save(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize("place", [".", "", "..", "/"])
    def test_a_place_without_a_name_is_refused(self, model, tmp_path, monkeypatch, place):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(ModelError, match="name a folder"):
            model.save(place)

    def test_an_empty_folder_will_do(self, model, tmp_path):
        (tmp_path / "new").mkdir()
        assert load_model(model.save(tmp_path / "new")).id == model.id

    def test_a_crash_while_saving_leaves_the_old_model(self, model, folder):
        broken = replace(model, id="new", about={"unwritable": object()})
        with pytest.raises(TypeError):
            broken.save(folder)
        assert load_model(folder).id == model.id
        model.save(folder)  # what the crash left behind is no obstacle

    def test_saving_into_a_new_folder_of_folders(self, model, tmp_path):
        assert load_model(model.save(tmp_path / "a" / "b" / "c")).id == model.id

    def test_the_id_is_name_and_hash_of_the_weights(self, model):
        assert model.id.startswith("made-")
        assert model_id("made", model.net) == model.id
        other = SPEC.build()
        assert model_id("made", other) != model.id


class TestWhatIsNoModel:
    def test_absent_empty_or_a_file(self, tmp_path):
        (tmp_path / "file").write_text("x")
        for path in (tmp_path / "absent", tmp_path, tmp_path / "file"):
            with pytest.raises(ModelError, match="no model folder"):
                load_model(path)

    @pytest.mark.parametrize("missing", ["model.json", "weights.safetensors"])
    def test_half_a_model(self, folder, missing):
        (folder / missing).unlink()
        with pytest.raises(ModelError, match="missing"):
            load_model(folder)

    @pytest.mark.parametrize("keep", [0, 7, 1000, -1])
    def test_truncated_weights(self, folder, keep):
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:keep])
        with pytest.raises(ModelError, match="usable"):
            load_model(folder)

    def test_somebody_elses_weights(self, folder):
        weights = load_file(folder / "weights.safetensors")
        del weights[sorted(weights)[0]]
        save_file(weights, folder / "weights.safetensors")
        with pytest.raises(ModelError, match="usable"):
            load_model(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"x"', "\udcff"])
    def test_a_card_that_is_none(self, folder, text):
        (folder / "model.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ModelError):
            load_model(folder)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("format", 99),
            ("format", "1"),
            ("task", "detection"),
            ("labels", {}),
            ("labels", None),
            ("labels", {"classes": {"A": ["A"]}}),
            ("network", {"arch": "nothing"}),
            ("network", {"arch": 3}),
            ("network", None),
            ("size_px", "64"),
            ("size_px", 0),
            ("mpp", 0),
            ("mpp", None),
            ("id", None),
        ],
    )
    def test_a_card_that_was_tampered_with(self, folder, key, value):
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        (folder / "model.json").write_text(json.dumps({**card, key: value}), encoding="utf-8")
        with pytest.raises(ModelError):
            load_model(folder)

    def test_a_newer_format_says_to_update(self, folder):
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        (folder / "model.json").write_text(json.dumps({**card, "format": 2}), encoding="utf-8")
        with pytest.raises(ModelError, match="update qp2train"):
            load_model(folder)

    def test_a_copy_elsewhere_is_the_same_model(self, model, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "copy")
        assert load_model(tmp_path / "copy").id == model.id


@pytest.mark.slow
def test_without_network_and_cache_it_says_so_and_starts_from_scratch(tmp_path):
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    offline.pop("HF_HUB_CACHE", None)
    script = Path(__file__).with_name("offline.py")
    said = subprocess.run([sys.executable, script], env=offline, capture_output=True, text=True, check=True).stderr
    assert "no pretrained weights 'imagenet' for resnet18" in said
    assert "Training starts from scratch" in said
