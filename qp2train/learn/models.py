"""Model: a trained network and its folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import nn

from qp2train.core.labels import LabelMap
from qp2train.errors import LabelError, ModelError
from qp2train.learn.encoders import MEAN, STD
from qp2train.learn.segmentation import Segmentation, SegmentationNet

FORMAT = 1
WEIGHTS, CARD = "weights.safetensors", "model.json"
PACKAGES = ("qp2train", "torch", "segmentation-models-pytorch", "albumentations", "lightning")


@dataclass(frozen=True)
class Model:
    """A trained segmentation model.

    Args:
        id: Name and a hash of the weights. It marks the objects that the model writes into projects.
        spec: How the network is built.
        net: The network, in evaluation mode.
        size_px: Side of the patches it was trained on; both are the defaults of prediction.
        mpp: µm per pixel it was trained at.
        about: What made it: training arguments, scores, package versions.
    """

    id: str
    spec: Segmentation
    net: SegmentationNet
    size_px: int
    mpp: float
    about: Mapping[str, Any]

    @property
    def labels(self) -> LabelMap:
        return self.spec.labels

    def save(self, folder: str | Path) -> Path:
        """Write `model.json` and `weights.safetensors` into `folder`; an older model there is replaced whole.

        Returns the folder.
        """
        folder = Path(folder)
        new = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        card = {
            "format": FORMAT,
            "task": "segmentation",
            "id": self.id,
            "labels": self.labels.to_dict(),
            "network": {k: v for k, v in asdict(self.spec).items() if k not in ("labels", "encoder_weights")},
            "size_px": self.size_px,
            "mpp": self.mpp,
            "normalisation": {"mean": MEAN, "std": STD},
            "about": self.about,
        }
        (new / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False), encoding="utf-8")
        save_file(_tensors(self.net), new / WEIGHTS)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a model that `save` wrote. Nothing is unpickled.

        Args:
            folder: The model's folder, or the run folder that holds it as `model/`.

        Raises:
            ModelError: No model there, a newer format, or weights that do not fit the network.
        """
        folder = Path(folder)
        if not (folder / CARD).is_file() and (folder / "model" / CARD).is_file():
            folder = folder / "model"
        try:
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            if card["format"] > FORMAT:
                raise ModelError(f"{folder} was written by a newer qp2train (format {card['format']}); update qp2train")
            name, size_px, mpp = card["id"], card["size_px"], card["mpp"]
            if card["task"] != "segmentation" or not (isinstance(name, str) and size_px >= 1 and mpp > 0):
                raise ValueError(f"task {card['task']!r}, id {name!r}, size_px {size_px!r}, mpp {mpp!r}")
            spec = Segmentation(LabelMap.from_dict(card["labels"]), encoder_weights=None, **card["network"])
            weights = load_file(folder / WEIGHTS)
            model = cls(name, spec, spec.build(), size_px, mpp, card["about"])
            model.net.load_state_dict(weights)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ModelError(f"{folder} is no model folder: {CARD} or {WEIGHTS} is missing") from error
        except (KeyError, TypeError, ValueError, AttributeError, LabelError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"{folder} does not hold a usable model: {error}") from error
        model.net.eval()
        return model

    def __repr__(self) -> str:
        return f"Model({self.id!r}, {self.spec.arch}/{self.spec.encoder}, {', '.join(self.labels.classes)})"


def load_model(folder: str | Path) -> Model:
    """See `Model.load`."""
    return Model.load(folder)


def model_id(name: str, net: nn.Module) -> str:
    """`name` and a hash of the weights: equal weights, equal id."""
    return f"{name}-{hashlib.sha256(save(_tensors(net))).hexdigest()[:8]}"


def package_versions() -> dict[str, str]:
    """The versions of what trains a model."""
    return {name: version(name) for name in PACKAGES}


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
