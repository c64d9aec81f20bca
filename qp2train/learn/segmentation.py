"""Segmentation: which network of segmentation-models-pytorch."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from qp2train.core.labels import LabelMap
from qp2train.errors import ModelError
from qp2train.learn.encoders import PUBLISHED, architecture_of, load_encoder, load_named, weights_file
from qp2train.learn.foundation import MEAN, STD, Architecture, foundation_of
from qp2train.learn.normalisation import normalisation
from qp2train.learn.specs import check_options, check_stain
from qp2train.learn.typed import check_types
from qp2train.slides.stain import Stain

log = logging.getLogger(__name__)

# Arguments of smp's networks that are no options, and why.
OURS: Mapping[str, str] = {
    "activation": "losses and predictions start from the network's logits",
    "aux_params": "a segmentation network gives its map and nothing else",
    "in_channels": "pixels are RGB",
    "classes": "`labels` says them",
    "arch": "it is an argument of its own",
    "encoder_name": "`encoder` says it",
    "encoder_weights": "it is an argument of its own",
}
_HUB = re.compile(r"tu-(hf[-_]hub:.+)")


@dataclass(frozen=True)
class Segmentation:
    """A segmentation network of segmentation-models-pytorch, not yet trained.

    Args:
        labels: Classes; the network also learns the background.
        arch: Architecture: "unet", "unetplusplus", "fpn", "segformer", …
        encoder: Encoder: "resnet34", "efficientnet-b0", "tu-<any timm model>", …; with arch="dpt" also a foundation
            encoder ("uni", "h-optimus-0", …; see `foundation.FOUNDATION`).
        encoder_weights: "imagenet" (from the local cache or the hub; without network and cache this is said,
            and training starts from scratch), a file with the encoder's weights (.safetensors or .pth), or
            None to start from scratch; of the file a folder with one will do. Of a foundation encoder: "imagenet" = its
            own weights; an error if they cannot be had. timm's and the hub's encoders ("tu-hf-hub:<owner>/<name>") take
            timm's own files.
        options: Further keyword arguments of the architecture, as smp names them (`decoder_channels`, …).
        multilabel: Classes may overlap: each is told from all else by itself, and there is no background. See
            `LayerPainter` for what an annotation then says.
        stain: Recolour every slide like a reference first, in training and prediction: "macenko" or "reinhard"; see
            `NormalisedSlide`. None = as scanned.
    """

    labels: LabelMap
    arch: str = "unet"
    encoder: str = "resnet34"
    encoder_weights: str | None = "imagenet"
    options: Mapping[str, Any] = field(default_factory=dict)
    multilabel: bool = False
    stain: Stain | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The classes in the order of the logits: background first, unless classes may overlap."""
        return self.labels.classes if self.multilabel else self.labels.names

    def __post_init__(self) -> None:
        check_stain(self.stain)
        weights: object = self.encoder_weights
        if isinstance(weights, os.PathLike):
            object.__setattr__(self, "encoder_weights", os.fspath(weights))
        check_types(Segmentation, vars(self), ModelError)
        check_options(self.options, ours=OURS)
        if ":" in self.encoder and foundation_of(self.encoder) is None and _HUB.fullmatch(self.encoder) is None:
            raise ModelError(
                f"{self.encoder!r} names no encoder: give one of smp's or timm's, 'tu-hf-hub:<owner>/<name>', or a "
                "foundation encoder, and encoder_weights=<file or folder>"
            )

    @classmethod
    def from_dict(cls, labels: LabelMap, network: Mapping[str, Any]) -> Segmentation:
        """The description of a saved model; to build it, nothing is fetched and no file is opened.

        Raises:
            ModelError, KeyError, TypeError, ValueError, AttributeError: The data are none.
        """
        spec = cls(labels, encoder_weights=None, **network)
        if _HUB.fullmatch(spec.encoder):
            raise ModelError(f"the encoder {spec.encoder!r} would be fetched from the hub")
        return spec

    def build(self) -> SegmentationNet:
        """The network, with pretrained encoder weights where they can be had.

        Raises:
            ModelError: An unknown architecture, encoder or option, or a weights file that does not fit.
        """
        named, known, hub = self.encoder_weights, foundation_of(self.encoder), _HUB.fullmatch(self.encoder)
        if known is not None:
            return self._on(known.architecture)
        if hub is not None:
            return self._of_hub(hub[1])
        if named is None:
            return self._normalised(self.create(None))
        if named != PUBLISHED and Path(named).exists():
            net = self.create(None)
            self._load(net, weights_file(self.encoder, named))
            return self._normalised(net)
        if named.endswith((".pth", ".pt", ".safetensors")) or os.sep in named:
            raise ModelError(f"there is no file of encoder weights at {named}")
        try:
            log.info("looking for pretrained weights %r of %s (cache, then hub)", named, self.encoder)
            return self._normalised(self.create(named), named)
        except OSError as error:
            log.warning(
                "no pretrained weights %r for %s: not in the cache, and the hub cannot be reached (%s). "
                "Training starts from scratch. To use them, run once with network, or give "
                "encoder_weights=<file>; encoder_weights=None stops asking.",
                named,
                self.encoder,
                type(error).__name__,
            )
            return self._normalised(self.create(None))

    def _normalised(self, net: nn.Module, weights: str | None = None) -> SegmentationNet:
        mean, std = normalisation(self.encoder, weights)
        return SegmentationNet(net, mean=mean, std=std)

    def _load(self, net: nn.Module, file: Path) -> None:
        """The encoder's weights: of timm's encoders those of the whole network will do."""
        if self.encoder.startswith("tu-"):
            load_encoder(net.get_submodule("encoder.model"), file, prefix="model.", part=True)
        else:
            load_encoder(net.get_submodule("encoder"), file)

    def _of_hub(self, name: str) -> SegmentationNet:
        """The network on a timm encoder that somebody published, with its weights and its normalisation."""
        architecture = architecture_of(name, self.encoder_weights)
        if "mlp_layer" in architecture.options:
            raise ModelError(
                f"{self.encoder!r} cannot be a segmentation's encoder: its layers are not timm's usual ones"
            )
        plain = replace(
            self,
            encoder=f"tu-{architecture.name}",
            options={**architecture.options, **self.options},
            encoder_weights=None,
        )
        net = plain.create(None)
        if self.encoder_weights is not None:
            plain._load(net, weights_file(name, self.encoder_weights))
        return SegmentationNet(net, mean=architecture.mean, std=architecture.std, plain=plain)

    def _on(self, architecture: Architecture) -> SegmentationNet:
        """The network on a foundation encoder, with its weights and its normalisation."""
        if self.arch.lower() != "dpt":
            raise ModelError(
                f"{self.arch!r} cannot be built on {self.encoder!r}, a vision transformer: "
                "use arch='dpt', or another encoder"
            )
        if "depth" in architecture.options:
            raise ModelError(f"{self.encoder!r} cannot be a segmentation's encoder: smp takes its depth for its own")
        named = self.encoder_weights
        file = None if named is None else weights_file(self.encoder, named)
        options = {"dynamic_img_size": True, **architecture.arguments(), **self.options}
        net = replace(self, encoder=f"tu-{architecture.name}").create(None, **options)
        if file is not None:
            load_named(net.get_submodule("encoder.model"), self.encoder, file)
        return SegmentationNet(net, mean=architecture.mean, std=architecture.std)

    def create(self, weights: str | None, **options: Any) -> nn.Module:
        """The bare network of smp, with weights that it fetches itself or None; `options` in place of the own ones.

        Raises:
            ModelError: An unknown architecture, encoder or option.
        """
        options = options or dict(self.options)
        try:
            net: nn.Module = smp.create_model(
                self.arch,
                self.encoder,
                encoder_weights=weights,
                classes=len(self.outputs),
                **options,
            )
        except OSError:  # no weights, of which some releases of the hub's client say that they are a wrong value
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, AssertionError, AttributeError, IndexError) as error:
            raise ModelError(f"cannot build {self.arch!r} with encoder {self.encoder!r}: {error}") from error
        # smp hands what it does not know on to the encoder, and only timm's look at it.
        known = inspect.signature(type(net)).parameters
        unknown = [] if self.encoder.startswith("tu-") else sorted(set(self.options) - set(known))
        if unknown:
            raise ModelError(f"{self.arch!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
        return net


class SmpNet(nn.Module):
    """A network of smp with the normalisation of the pixels that its encoder was trained with.

    Args:
        net: The network.
        mean: Of the pixels, in 0–1.
        std: Their standard deviation.
        plain: What builds the same network without the hub, if its description would ask the hub.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        plain: Segmentation | None = None,
    ) -> None:
        super().__init__()
        self.net, self.plain = net, plain
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", 255 * torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)

    def normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the normalisation that a model was trained with; what differs by rounding only stays."""
        for name, value in (("mean", mean), ("std", std)):
            own = self.get_buffer(name)
            given = 255 * torch.tensor(value).reshape(1, 3, 1, 1).to(own)
            if not torch.allclose(own, given, rtol=0, atol=255e-6):
                own.copy_(given)

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


class SegmentationNet(SmpNet):
    """Normalisation + network: RGB pixels in 0–255 (B, 3, H, W) → logits (B, C, H, W)."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net((pixels.float() - self.mean) / self.std)
        return logits
