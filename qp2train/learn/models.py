"""Model: a trained network and its folder."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file
from torch import nn

from qp2train.core.labels import LabelMap
from qp2train.errors import LabelError, ModelError
from qp2train.learn.classification import Classification, ClassificationNet
from qp2train.learn.foundation import foundation_of
from qp2train.learn.lora import merged_state
from qp2train.learn.modelfiles import CARD, WEIGHTS, check_target, file_digest, open_model, replace_folder
from qp2train.learn.normalisation import checked
from qp2train.learn.prompted import Prompted, PromptedNet
from qp2train.learn.segmentation import Segmentation, SegmentationNet

FORMAT = 1
# No patch is larger; a card that says so would have prediction ask for all memory.
LARGEST_PX = 100_000
PACKAGES = ("qp2train", "torch", "segmentation-models-pytorch", "timm", "albumentations", "lightning")

# The kinds of networks, as recipes and cards name them.
TASKS = {Segmentation: "segmentation", Classification: "classification", Prompted: "prompted"}
_PIXELS = ("mean", "std")

Spec = Segmentation | Classification | Prompted
Net = SegmentationNet | ClassificationNet | PromptedNet

_NOT_OURS = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    LabelError,
    SafetensorError,
    RuntimeError,
    OSError,
)


@dataclass(frozen=True)
class Model:
    """A trained model, of segmentation, of patch classification or for prompts.

    Args:
        id: Name and a hash of the weights. It marks the objects that the model writes into projects.
        spec: How the network is built.
        net: The network, in evaluation mode.
        size_px: Side of the patches it was trained on; both are the defaults of prediction.
        mpp: µm per pixel it was trained at.
        about: What made it: training arguments, scores, package versions.
    """

    id: str
    spec: Spec
    net: Net
    size_px: int
    mpp: float
    about: Mapping[str, Any]

    @property
    def labels(self) -> LabelMap:
        return self.spec.labels

    @property
    def task(self) -> str:
        """What it does: segmentation, classification or prompted."""
        return TASKS[type(self.spec)]

    def save(self, folder: str | Path) -> Path:
        """Write `model.json` and `weights.safetensors` into `folder`; an older model there is replaced whole.

        Returns the folder.

        Raises:
            ModelError: There is something else than a model, which stays as it is; or the network is none of a model's.
        """
        folder = Path(folder)
        check_target(folder)
        if not isinstance(self.net, Net):
            raise ModelError("a classifier that is used as a segmentation has no files: save the classifier itself")
        new = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        card = {
            "format": FORMAT,
            "task": self.task,
            "id": self.id,
            "labels": self.labels.to_dict(),
            "network": _network(self.spec, self.net),
            "size_px": self.size_px,
            "mpp": self.mpp,
            "normalisation": {k: [round(v / 255, 6) for v in getattr(self.net, k).flatten().tolist()] for k in _PIXELS},
            "about": self.about,
        }
        published = foundation_of(self.spec.encoder)
        if published is not None:  # whose terms hold for what was made of it too
            card["encoder_source"] = {"url": published.url, "licence": published.licence}
        if isinstance(self.net, ClassificationNet):
            card["encoder"] = self.net.architecture.to_dict()
        save_file(_tensors(self.net), new / WEIGHTS)
        card["weights_sha256"] = file_digest(new / WEIGHTS)
        (new / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False), encoding="utf-8")
        return replace_folder(new, folder)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load a model that `save` wrote. Nothing is unpickled, and nothing of a zip is written to disk.

        Args:
            path: The model's folder, the run folder that holds it as `model/`, or a .zip of either.

        Raises:
            ModelError: No model there, a newer format, a file that was tampered with, or weights that do not fit the
                network.
        """
        files = open_model(Path(path))
        try:
            card = json.loads(files.card)
            if type(card["format"]) is not int or card["format"] < 1:
                raise ValueError(f"format {card['format']!r}")
            if card["format"] > FORMAT:
                raise ModelError(f"{path} was written by a newer qp2train (format {card['format']}); update qp2train")
            name, size_px, mpp, about = card["id"], card["size_px"], card["mpp"], card["about"]
            right = type(size_px) is int and 1 <= size_px <= LARGEST_PX  # bool is an int, too
            right = right and type(mpp) in (int, float) and 0 < mpp < math.inf
            if not (right and is_plain(name) and isinstance(about, dict)):
                raise ValueError(f"id {name!r}, size_px {size_px!r}, mpp {mpp!r}, about of {type(about).__name__}")
            said = card.get("weights_sha256")  # which older models do not have
            if said is not None and said != (found := files.digest()):
                raise ValueError(f"{WEIGHTS} is not the file that {CARD} was written with: its SHA-256 is {found}")
            spec, net = _built(card)
            net.load_state_dict(files.tensors())
            broken = next(not_finite(net), None)
            if broken is not None:
                raise ValueError(f"{broken} holds values that are no finite numbers: a training that diverged?")
        except _NOT_OURS as error:
            raise ModelError(f"{path} does not hold a usable model: {str(error)[:500]}") from error
        return cls(name, spec, net.eval(), size_px, mpp, about)

    def __repr__(self) -> str:
        return f"Model({self.id!r}, {self.spec.arch}/{self.spec.encoder}, {', '.join(self.labels.classes)})"


def load_model(path: str | Path) -> Model:
    """See `Model.load`."""
    return Model.load(path)


def is_plain(name: object) -> bool:
    """Whether a text can be a model's name, which marks objects and names files: no slashes, no control characters."""
    return isinstance(name, str) and bool(name) and name.isprintable() and not {"/", "\\"} & {*name}


def not_finite(net: nn.Module) -> Iterator[str]:
    """The names of the weights, and of what batch normalisation counted, that hold infinities or no numbers."""
    counted = ((k, v) for k, v in net.named_buffers() if k.endswith(("running_mean", "running_var")))
    return (k for k, v in (*net.named_parameters(), *counted) if not torch.isfinite(v).all())


def model_id(name: str, net: nn.Module) -> str:
    """`name` and a hash of the weights: equal weights, equal id."""
    return f"{name}-{hashlib.sha256(save(_tensors(net))).hexdigest()[:8]}"


def package_versions() -> dict[str, str]:
    """The versions of what trains a model."""
    return {name: version(name) for name in PACKAGES}


def _built(card: Mapping[str, Any]) -> tuple[Spec, Net]:
    """What a card describes, its weights still to be loaded."""
    labels = LabelMap.from_dict(card["labels"])
    if card["task"] == "segmentation":
        spec = Segmentation.from_dict(labels, card["network"])
        built = spec.build()
        built.normalise_by(*checked(*(card["normalisation"][k] for k in _PIXELS)))
        return spec, built
    if card["task"] == "classification":
        net = Classification.from_dict(labels, card["network"], card["encoder"])
        return net.spec, net
    if card["task"] == "prompted":
        prompted = Prompted.from_dict(labels, card["network"])
        answering = prompted.build()
        answering.normalise_by(*checked(*(card["normalisation"][k] for k in _PIXELS)))
        return prompted, answering
    raise ValueError(f"task {card['task']!r}; this qp2train knows {', '.join(TASKS.values())}")


def _network(spec: Spec, net: Net) -> dict[str, Any]:
    """What builds the network again, without anybody's help."""
    if isinstance(net, SegmentationNet) and net.plain is not None:
        spec = net.plain
    if isinstance(net, PromptedNet) and net.plain is not None and isinstance(spec, Prompted):
        spec = replace(spec, encoder=net.plain.encoder, options=net.plain.options)
    return {k: v for k, v in asdict(spec).items() if k not in ("labels", "encoder_weights")}


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in merged_state(net).items()}
