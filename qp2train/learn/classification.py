"""Classification: which network of timm says what a whole patch is."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import nn

from qp2train.core.labels import LabelMap
from qp2train.errors import ModelError
from qp2train.learn.encoders import architecture_of, pretrained_encoder
from qp2train.learn.foundation import Architecture, pooled
from qp2train.learn.lora import add_lora
from qp2train.learn.mixup import check_mixup
from qp2train.learn.specs import check_options, check_stain
from qp2train.learn.typed import check_types
from qp2train.slides.stain import Stain

Tune = Literal["full", "frozen", "probe", "lora"]

# The logit of a class that no training patch had: its probability is 0, in 16 bits too.
NEVER = -1e4
# Units of the hidden layer on a frozen encoder.
HIDDEN = 512


@dataclass(frozen=True)
class Classification:
    """A patch classifier, not yet trained: any timm encoder and a linear layer.

    It tells all of `labels.names` apart, background first, in that order. A class of which the training table has no
    patch (often "Background") is never predicted, and its probability is 0.

    Args:
        labels: Classes.
        encoder: Any timm model ("resnet18", "convnext_tiny", "vit_small_patch16_224", …), "hf-hub:owner/name", or a
            foundation encoder by its short name: see `foundation.FOUNDATION`.
        encoder_weights: "imagenet" = those published for the encoder, a foundation encoder's own included (from the
            local cache or the hub); a file (.safetensors, .pth, .bin) or a folder with one; None = random.
        tune: What is trained. "full": everything; give a small `lr` and perhaps `layer_decay` to `fit`. "frozen": two
            layers on the fixed encoder. "probe": one layer on the fixed encoder. "lora": small additions to the
            encoder's attention, and one layer.
        lora_rank: Of these additions.
        dropout: Share of the features that are dropped in training.
        context: µm per pixel at which the patch's surroundings are read too, of the table's `context`: one encoder
            reads all scales, and its features lie side by side.
        share: None = a patch's class is its `label` in the table: of the annotation that it was drawn for, or from
            the slide's metadata with `label_from`. A number: the class that fills at least this share of its
            annotated part; patches without such a class are left out.
        mixup: Strength of mixup, see `mixup.mixed`; 0 = off.
        options: Further keyword arguments of `timm.create_model` (`drop_path_rate`, …).
        stain: Recolour every slide like a reference first, as for `Segmentation`.

    Raises:
        ModelError: A number out of its range, an unknown `tune`, or options that are no plain data.
    """

    labels: LabelMap
    encoder: str = "resnet18"
    encoder_weights: str | None = "imagenet"
    tune: Tune = "full"
    lora_rank: int = 8
    dropout: float = 0.0
    context: Sequence[float] = ()
    share: float | None = None
    mixup: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    stain: Stain | None = None

    def __post_init__(self) -> None:
        check_stain(self.stain)
        weights: object = self.encoder_weights
        if isinstance(weights, os.PathLike):
            object.__setattr__(self, "encoder_weights", os.fspath(weights))
        if self.tune not in get_args(Tune):
            raise ModelError(f"tune must be one of {', '.join(get_args(Tune))}, not {self.tune!r}")
        check_types(Classification, vars(self), ModelError)
        object.__setattr__(self, "context", tuple(float(mpp) for mpp in self.context))
        if not 0 <= self.dropout < 1 or self.lora_rank < 1:
            raise ModelError(
                f"dropout must be from 0 to below 1, and lora_rank at least 1, not {self.dropout} and {self.lora_rank}"
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise ModelError(f"share must be above 0 and at most 1, not {self.share}")
        check_mixup(self.mixup)
        if not all(0 < mpp < math.inf for mpp in self.context):
            raise ModelError(f"context must be µm per pixel, each above 0, not {self.context}")
        check_options(self.options)

    @property
    def arch(self) -> str:
        """What a model is called that has no other name."""
        return "classifier"

    def build(self) -> ClassificationNet:
        """The network, with pretrained encoder weights where they can be had.

        Raises:
            ModelError: An unknown encoder or option; weights that cannot be had, or that do not fit.
        """
        named = architecture_of(self.encoder, self.encoder_weights)
        architecture = Architecture(named.name, {**named.options, **self.options}, named.mean, named.std, named.pool)
        encoder = pretrained_encoder(self.encoder, self.encoder_weights, architecture)
        net = ClassificationNet(self, architecture, encoder)
        if self.tune == "lora":
            add_lora(encoder, self.lora_rank)
        elif self.tune != "full":
            encoder.requires_grad_(False)
        return net

    @classmethod
    def from_dict(cls, labels: LabelMap, network: Mapping[str, Any], encoder: Mapping[str, Any]) -> ClassificationNet:
        """The network of a saved model, its weights not yet loaded.

        Raises:
            ModelError, KeyError, TypeError, ValueError, AttributeError: The data are none.
        """
        spec = cls(labels, encoder_weights=None, **network)
        architecture = Architecture.from_dict(encoder)
        return ClassificationNet(spec, architecture, architecture.create())


class ClassificationNet(nn.Module):
    """Normalisation + encoder + head: RGB pixels in 0–255 (B, 3, H, W) → logits (B, C), C as `labels.names`.

    With `context` the pixels are (B, 1 + scales, 3, H, W), the patch itself first.

    Args:
        spec: What to build.
        architecture: Of the encoder.
        encoder: The encoder.
    """

    def __init__(self, spec: Classification, architecture: Architecture, encoder: nn.Module) -> None:
        super().__init__()
        self.spec, self.architecture, self.encoder = spec, architecture, encoder
        self.scales = 1 + len(spec.context)
        timms: Any = encoder
        width = int(timms.head_hidden_size) * (2 if architecture.pool == "token+mean" else 1) * self.scales
        classes = len(spec.labels.names)
        hidden = [nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(spec.dropout)] if spec.tune == "frozen" else []
        last = nn.Linear(HIDDEN if hidden else width, classes)
        self.head = nn.Sequential(nn.Dropout(spec.dropout), *hidden, last)
        self.known: torch.Tensor
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("known", torch.ones(classes, dtype=torch.bool))
        self.register_buffer("mean", 255 * torch.tensor(architecture.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(architecture.std).reshape(1, 3, 1, 1), persistent=False)

    @property
    def is_fixed(self) -> bool:
        """Whether nothing of the encoder is trained."""
        return self.spec.tune in ("frozen", "probe")

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, C), `NEVER` for classes without a training patch."""
        fixed = self.is_fixed and self.training
        if fixed:  # and its batch normalisation and dropout too; said here, as trainers switch all parts at once
            self.encoder.eval()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not fixed):
            features = self.features(pixels)
        return self.classified(features)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B·scales, 3, H, W) as the encoder wants them: a patch's scales one after the other.

        Raises:
            ModelError: Pixels of another number of scales.
        """
        given = 1 if pixels.ndim == 4 else pixels.shape[1]
        if given != self.scales:
            raise ModelError(f"the network reads {self.scales} scales, not {given}")
        return (pixels.reshape(-1, *pixels.shape[-3:]).float() - self.mean) / self.std

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, F): what the encoder sees in each patch, the scales side by side."""
        encoder: Any = self.encoder
        return self.pooled(encoder.forward_features(self.normalised(pixels)), len(pixels))

    def pooled(self, maps: torch.Tensor, patches: int) -> torch.Tensor:
        """(patches, F) from what the encoder's `forward_features` returned."""
        return pooled(self.architecture, self.encoder, maps).reshape(patches, -1)

    def classified(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) logits of (B, F) features."""
        logits: torch.Tensor = self.head(features).float()
        return logits.masked_fill(~self.known, NEVER)

    def check_size(self, size_px: int) -> None:
        """Refuse patches of a size that the encoder cannot take.

        Raises:
            ModelError: Naming the sizes near it that it can take, if they are multiples of its own patches.
        """
        encoder: Any = self.encoder
        step = getattr(getattr(encoder, "patch_embed", None), "patch_size", (1, 1))[0]
        was = encoder.training
        encoder.eval()
        try:
            with torch.no_grad():
                encoder.forward_features(torch.zeros(1, 3, size_px, size_px))
        except (RuntimeError, AssertionError) as error:
            low = max(1, size_px // step) * step
            near = f"; {low} and {low + step} px are multiples of its {step} px" if step > 1 else ""
            raise ModelError(f"the encoder cannot take patches of {size_px} px{near}: {error}") from error
        finally:
            encoder.train(was)

    def parameter_groups(self, *, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
        """What is trained, for the optimiser; with `layer_decay` below 1 the encoder's first layers move least.

        Source: timm's `param_groups_layer_decay`, which knows the layers of its networks.
        """
        head = {"params": [*self.head.parameters()], "lr": lr, "weight_decay": weight_decay}
        trained = [p for p in self.encoder.parameters() if p.requires_grad]
        if not trained:
            return [head]
        if layer_decay == 1 or self.spec.tune != "full":
            return [head, {"params": trained, "lr": lr, "weight_decay": weight_decay}]
        return [head, *self._by_layer(lr, weight_decay, layer_decay)]

    def _by_layer(self, lr: float, weight_decay: float, layer_decay: float) -> Iterator[dict[str, Any]]:
        for group in param_groups_layer_decay(self.encoder, weight_decay, layer_decay=layer_decay):
            yield {
                "params": group["params"],
                "lr": lr * layer_decay * group["lr_scale"],  # the head is the layer above the encoder's last
                "weight_decay": group["weight_decay"],
            }
