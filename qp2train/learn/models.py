"""Segmentation: which network. Model: a trained one, and its folder."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import nn

from qp2train.core.labels import LabelMap
from qp2train.errors import LabelError, ModelError

log = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS, CARD = "weights.safetensors", "model.json"
# What pretrained encoders of torchvision, timm and smp were trained with (ImageNet), of pixels in 0–1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PACKAGES = ("qp2train", "torch", "segmentation-models-pytorch", "albumentations", "lightning")


@dataclass(frozen=True)
class Segmentation:
    """A segmentation network of segmentation-models-pytorch, not yet trained.

    Args:
        labels: Classes; the network also learns the background.
        arch: Architecture: "unet", "unetplusplus", "fpn", "segformer", …
        encoder: Encoder: "resnet34", "efficientnet-b0", "tu-<any timm model>", …
        encoder_weights: "imagenet" (from the local cache or the hub; without network and cache this is said,
            and training starts from scratch), a file with the encoder's weights (.safetensors or .pth), or
            None to start from scratch.
        options: Further keyword arguments of the architecture, as smp names them (`decoder_channels`, …).
    """

    labels: LabelMap
    arch: str = "unet"
    encoder: str = "resnet34"
    encoder_weights: str | None = "imagenet"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.encoder_weights is not None:
            object.__setattr__(self, "encoder_weights", os.fspath(self.encoder_weights))
        try:
            json.dumps(dict(self.options))
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"options must be plain numbers, texts and lists, to be kept with the model: {error}"
            ) from error

    def build(self) -> SegmentationNet:
        """The network, with pretrained encoder weights where they can be had.

        Raises:
            ModelError: An unknown architecture, encoder or option, or a weights file that does not fit.
        """
        named = self.encoder_weights
        if named is None or Path(named).is_file():
            net = self._create(None)
            if named is not None:
                load_encoder(net.get_submodule("encoder"), Path(named))
            return SegmentationNet(net)
        if named.endswith((".pth", ".pt", ".safetensors")) or os.sep in named:
            raise ModelError(f"there is no file of encoder weights at {named}")
        try:
            log.info("looking for pretrained weights %r of %s (cache, then hub)", named, self.encoder)
            return SegmentationNet(self._create(named))
        except OSError as error:
            log.warning(
                "no pretrained weights %r for %s: not in the cache, and the hub cannot be reached (%s). "
                "Training starts from scratch. To use them, run once with network, or give "
                "encoder_weights=<file>; encoder_weights=None stops asking.",
                named,
                self.encoder,
                type(error).__name__,
            )
            return SegmentationNet(self._create(None))

    def _create(self, weights: str | None) -> nn.Module:
        try:
            net: nn.Module = smp.create_model(
                self.arch,
                self.encoder,
                encoder_weights=weights,
                classes=len(self.labels.names),
                **self.options,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"cannot build {self.arch!r} with encoder {self.encoder!r}: {error}") from error
        # smp hands what it does not know on to the encoder, and only timm's look at it.
        known = inspect.signature(type(net)).parameters
        unknown = [] if self.encoder.startswith("tu-") else sorted(set(self.options) - set(known))
        if unknown:
            raise ModelError(f"{self.arch!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
        return net


class SegmentationNet(nn.Module):
    """Normalisation + network: RGB pixels in 0–255 (B, 3, H, W) → logits (B, C, H, W)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", 255 * torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net((pixels.float() - self.mean) / self.std)
        return logits

    def check_size(self, size_px: int) -> None:
        """Refuse patches of a size that the network cannot halve as often as it must.

        Raises:
            ModelError: Naming the nearest size that it can take.
        """
        net: Any = self.net
        try:
            net.check_input_shape(torch.empty(1, 3, size_px, size_px))
        except RuntimeError as error:
            raise ModelError(f"the network cannot take patches of {size_px} px: {error}") from error


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


def load_encoder(encoder: nn.Module, file: Path) -> None:
    """Load an encoder's weights, from .safetensors or a tensors-only .pth.

    Raises:
        ModelError: The file is damaged, or its keys are not the encoder's; the first that differ are named.
    """
    try:
        weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        if not isinstance(weights, Mapping):
            raise TypeError(f"it holds a {type(weights).__name__}, not named tensors")
        encoder.load_state_dict(weights)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, TypeError, ValueError) as error:
        raise ModelError(f"{file} does not hold weights of this encoder: {str(error)[:300]}") from error


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
