from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from discs import LABELS
from safetensors.torch import load_file, save_file

from qp2train.errors import ModelError
from qp2train.learn.classification import Classification
from qp2train.learn.models import Model, load_model, model_id

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    spec = Classification(LABELS, encoder="test_vit", encoder_weights=None, options={"embed_dim": 32})
    net = spec.build().eval()
    return Model(model_id("made", net), spec, net, 48, 1.0, {"temperature": 1.5})


@pytest.fixture
def folder(model, tmp_path) -> Path:
    return model.save(tmp_path / "run" / "model")


def zipped(folder: Path, file: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in sorted(folder.iterdir()):
            archive.write(part, f"{inside}{part.name}")
    return file


class TestZip:
    @pytest.mark.parametrize("inside", ["", "model/", "run/model/", "../../up/"])
    def test_a_zip_of_the_folder_or_of_the_run(self, model, folder, tmp_path, inside):
        back = load_model(zipped(folder, tmp_path / "m.zip", inside))
        assert back.id == model_id("made", back.net) == model.id
        assert back.about == {"temperature": 1.5}

    def test_nothing_is_unpacked_anywhere(self, folder, tmp_path):
        file = zipped(folder, tmp_path / "m.zip", "../")
        before = sorted(tmp_path.rglob("*"))
        load_model(file)
        assert sorted(tmp_path.rglob("*")) == before

    def test_two_models_in_one(self, folder, tmp_path):
        file = zipped(folder, tmp_path / "m.zip", "a/")
        with zipfile.ZipFile(file, "a") as archive:
            archive.write(folder / "model.json", "b/model.json")
        with pytest.raises(ModelError, match=r"holds 2 files model\.json"):
            load_model(file)

    @pytest.mark.parametrize("missing", ["model.json", "weights.safetensors"])
    def test_half_a_model(self, folder, tmp_path, missing):
        (folder / missing).unlink()
        with pytest.raises(ModelError, match=r"one model has one|is missing"):
            load_model(zipped(folder, tmp_path / "m.zip"))

    def test_a_bomb(self, folder, tmp_path):
        (folder / "weights.safetensors").write_bytes(bytes(1 << 24))  # 16 MB of zeros shrink to 16 kB
        with pytest.raises(ModelError, match=r"unpacks from .* to 16,777,216 bytes"):
            load_model(zipped(folder, tmp_path / "m.zip"))

    @pytest.mark.parametrize("at", [60, 400, -30])
    def test_a_damaged_zip(self, folder, tmp_path, at):
        file = zipped(folder, tmp_path / "m.zip")
        data = bytearray(file.read_bytes())
        data[at : at + 20 if at > 0 else None] = bytes(20 if at > 0 else -at)
        file.write_bytes(data)
        with pytest.raises(ModelError):
            load_model(file)

    @pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
    def test_what_is_no_zip_of_a_model(self, tmp_path, content):
        (tmp_path / "m.zip").write_bytes(content)
        with pytest.raises(ModelError):
            load_model(tmp_path / "m.zip")


def tampered(folder: Path, **changes: object) -> Path:
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**card, **changes}), encoding="utf-8")
    return folder


class TestATamperedClassifier:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("task", "detection"),
            ("task", ["classification"]),
            ("task", "segmentation"),
            ("format", 0),
            ("format", True),
            ("format", 1.0),
            ("format", None),
            ("id", ""),
            ("id", "../../etc/x"),
            ("id", "a\\b"),
            ("id", "a\nb"),
            ("size_px", 10**9),
            ("mpp", True),
            ("weights_sha256", 5),
            ("weights_sha256", ""),
            ("size_px", 48.5),
            ("size_px", True),
            ("mpp", "1"),
            ("mpp", 1e400),
            ("about", []),
            ("network", {"tune": "sideways"}),
            ("network", {"context": "x"}),
            ("network", {"encoder_weights": "/etc/passwd"}),
            ("network", {"labels": 3}),
            ("encoder", None),
            ("encoder", {}),
            ("encoder", {"name": "hf-hub:evil/net", "options": {}, "mean": [0] * 3, "std": [1] * 3, "pool": "own"}),
            ("encoder", {"name": "local-dir:/tmp", "options": {}, "mean": [0] * 3, "std": [1] * 3, "pool": "own"}),
            ("encoder", {"name": "nonet", "options": {}, "mean": [0] * 3, "std": [1] * 3, "pool": "own"}),
            ("encoder", {"name": "test_vit", "options": {}, "mean": [0] * 3, "std": [0] * 3, "pool": "own"}),
            ("encoder", {"name": "test_vit", "options": {}, "mean": [0] * 3, "std": [1] * 3, "pool": "none"}),
            (
                "encoder",
                {
                    "name": "test_vit",
                    "options": {"checkpoint_path": "/etc/passwd"},
                    "mean": [0] * 3,
                    "std": [1] * 3,
                    "pool": "own",
                },
            ),
        ],
    )
    def test_is_a_named_error(self, folder, key, value):
        with pytest.raises(ModelError):
            load_model(tampered(folder, **{key: value}))

    def test_a_newer_format_says_to_update(self, folder):
        with pytest.raises(ModelError, match="update qp2train"):
            load_model(tampered(folder, format=2))

    def test_json_too_deep_to_read(self, folder):
        (folder / "model.json").write_text("[" * 100_000)
        with pytest.raises(ModelError, match="usable"):
            load_model(folder)

    def test_weights_of_other_shapes(self, folder):
        weights = load_file(folder / "weights.safetensors")
        weights["head.1.weight"] = torch.zeros(4, 32)
        save_file(weights, folder / "weights.safetensors")
        with pytest.raises(ModelError, match=r"size mismatch for head\.1\.weight"):
            load_model(tampered(folder, weights_sha256=None))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_no_numbers(self, folder, value):
        weights = load_file(folder / "weights.safetensors")
        weights["head.1.weight"][0, 0] = value
        save_file(weights, folder / "weights.safetensors")
        with pytest.raises(ModelError, match=r"head\.1\.weight holds values that are no finite numbers"):
            load_model(tampered(folder, weights_sha256=None))

    @pytest.mark.parametrize("packed", [False, True])
    def test_weights_of_another_model_of_the_same_network(self, model, folder, tmp_path, packed):
        other = load_model(folder).net
        torch.nn.init.zeros_(other.head[-1].weight)
        save_file(other.state_dict(), folder / "weights.safetensors")
        with pytest.raises(ModelError, match=r"not the file that model\.json was written with"):
            load_model(zipped(folder, tmp_path / "m.zip") if packed else folder)

    def test_a_model_that_was_saved_without_a_digest(self, model, folder):
        assert load_model(tampered(folder, weights_sha256=None)).id == model.id

    @pytest.mark.parametrize("at", range(0, 200, 20))
    def test_any_changed_byte_of_the_weights_header_is_noticed_or_harmless(self, folder, at):
        file = folder / "weights.safetensors"
        data = bytearray(file.read_bytes())
        data[at] ^= 0xFF
        file.write_bytes(data)
        with pytest.raises(ModelError, match="usable"):
            load_model(folder)

    def test_a_pickle_in_the_place_of_weights(self, folder):
        torch.save({"a": torch.zeros(1)}, folder / "weights.safetensors")
        with pytest.raises(ModelError, match="usable"):
            load_model(folder)

    def test_a_moved_folder_is_the_same_model(self, model, folder, tmp_path):
        shutil.move(folder, tmp_path / "elsewhere")
        assert load_model(tmp_path / "elsewhere").id == model.id
