"""Foundation encoders of pathology: which timm network each one is, how it wants its pixels, where it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import timm
import torch
from timm.layers.mlp import SwiGLUPacked
from torch import nn

from qp2train.errors import ModelError

# What encoders of torchvision, timm and smp were trained with (ImageNet), of pixels in 0–1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of CLIP (CONCH's open_clip_custom/constants.py), and of bioptimus' model cards.
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BIOPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)

# Layers that options may name, since JSON holds no classes.
_LAYERS: Mapping[str, Any] = {"SwiGLUPacked": SwiGLUPacked}

# What `timm.create_model` would fetch files by: no part of a description that anyone may have written.
FETCHING = frozenset({"pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"})

Pool = Literal["own", "token+mean"]


@dataclass(frozen=True)
class Architecture:
    """A timm network: all that is needed to build it again without a download.

    Args:
        name: timm's name of it.
        options: Arguments of `timm.create_model`; plain data, layers by name.
        mean: Of the pixels that it was trained with, in 0–1.
        std: Their standard deviation.
        pool: What becomes the features of a patch: "own" = what the network says, "token+mean" = class token beside
            the mean of the patch tokens.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    pool: Pool = "own"

    def create(self, *, pretrained: bool = False, **more: Any) -> nn.Module:
        """The encoder without a classifier; any weights of timm's own are loaded with `pretrained`.

        Raises:
            ModelError: timm knows no such network or option, or cannot build it so.
        """
        options = self.arguments(**more)
        failed: Exception | None = None
        # Transformers with position embeddings take other sizes than they were trained with if this is said.
        for attempt in ({"dynamic_img_size": True, **options}, options):
            try:
                made: nn.Module = timm.create_model(self.name, pretrained=pretrained, **attempt)
                return made
            except OSError:  # no weights, of which some releases of the hub's client say that they are a wrong value
                raise
            except TypeError as error:
                failed = error
            except (ValueError, AssertionError, KeyError, RuntimeError) as error:
                failed = error
                break
        raise ModelError(f"cannot build the encoder {self.name!r} with {dict(self.options)}: {failed}") from failed

    def arguments(self, **more: Any) -> dict[str, Any]:
        """Of `timm.create_model`, the layers that they name included.

        Raises:
            ModelError: An option that would fetch a file.
        """
        wrong = sorted(FETCHING & {*self.options, *more})
        if wrong:
            raise ModelError(f"{wrong[0]!r} is no option of a network: encoder_weights says where its weights are")
        options = {**self.options, **more, "num_classes": 0}
        if self.pool != "own":
            options["global_pool"] = ""
        return {k: _LAYERS.get(v, v) if k == "mlp_layer" else v for k, v in options.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for model.json; `from_dict` takes it back."""
        return {
            "name": self.name,
            "options": dict(self.options),
            "mean": list(self.mean),
            "std": list(self.std),
            "pool": self.pool,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """The architecture that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: The data are none.
        """
        mean, std = (tuple(float(v) for v in data[key]) for key in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or data["pool"] not in ("own", "token+mean"):
            raise ValueError(f"normalisation {mean}, {std} or pool {data['pool']!r} is none")
        if not isinstance(data["name"], str) or ":" in data["name"]:  # no name that timm would look for on the hub
            raise ValueError(f"{data['name']!r} names no architecture of timm")
        return cls(data["name"], dict(data["options"]), mean, std, data["pool"])


@dataclass(frozen=True)
class Foundation:
    """A published encoder.

    Args:
        architecture: The network.
        repository: Where it is published on huggingface.co; most ask you to accept their terms first.
        licence: In short; read it there.
        prefix: What the encoder's keys begin with in the file, where it holds more than the encoder.
    """

    architecture: Architecture
    repository: str
    licence: str
    prefix: str = ""

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}"


_VIT = {"img_size": 224, "init_values": 1e-5}
_BY_NC_ND = "CC BY-NC-ND 4.0"

# Sources: the model cards and config.json at each `url`; for loading without the hub, TRIDENT's patch_encoder_models
# (github.com/mahmoodlab/TRIDENT), which builds the same networks and loads their files with strict=True.
FOUNDATION: Mapping[str, Foundation] = {
    "uni": Foundation(Architecture("vit_large_patch16_224", {**_VIT, "patch_size": 16}), "MahmoodLab/UNI", _BY_NC_ND),
    "uni2-h": Foundation(
        Architecture(
            "vit_giant_patch14_224",
            {
                **_VIT,
                "patch_size": 14,
                "depth": 24,
                "num_heads": 24,
                "embed_dim": 1536,
                "mlp_ratio": 2.66667 * 2,
                "no_embed_class": True,
                "mlp_layer": "SwiGLUPacked",
                "act_layer": "silu",
                "reg_tokens": 8,
            },
        ),
        "MahmoodLab/UNI2-h",
        _BY_NC_ND,
    ),
    "virchow2": Foundation(
        Architecture(
            "vit_huge_patch14_224",
            {**_VIT, "mlp_ratio": 5.3375, "mlp_layer": "SwiGLUPacked", "act_layer": "silu", "reg_tokens": 4},
            pool="token+mean",
        ),
        "paige-ai/Virchow2",
        _BY_NC_ND,
    ),
    "h-optimus-0": Foundation(
        Architecture("vit_giant_patch14_reg4_dinov2", _VIT, *_BIOPTIMUS), "bioptimus/H-optimus-0", "Apache-2.0"
    ),
    "h-optimus-1": Foundation(
        Architecture("vit_giant_patch14_reg4_dinov2", _VIT, *_BIOPTIMUS), "bioptimus/H-optimus-1", _BY_NC_ND
    ),
    "phikon": Foundation(
        Architecture("vit_base_patch16_224", {"img_size": 224}), "owkin/phikon", "Owkin non-commercial"
    ),
    "phikon-v2": Foundation(Architecture("vit_large_patch16_224", _VIT), "owkin/phikon-v2", "Owkin non-commercial"),
    # The trunk of its vision tower, without the attentional pooler that prepares for texts.
    "conch": Foundation(
        Architecture("vit_base_patch16_224", {"img_size": 448}, *_CLIP),
        "MahmoodLab/CONCH",
        _BY_NC_ND,
        prefix="visual.trunk.",
    ),
    "gigapath": Foundation(
        Architecture(
            "vit_giant_patch14_dinov2",
            {**_VIT, "patch_size": 16, "mlp_ratio": 5.33334},
        ),
        "prov-gigapath/prov-gigapath",
        "Apache-2.0; research only",
    ),
}


def foundation_of(encoder: str) -> Foundation | None:
    """The foundation encoder of a name ("uni2-h") or address ("hf-hub:MahmoodLab/UNI2-h"), None if it is none."""
    name = encoder.lower()
    repository = name.replace("hf_hub:", "hf-hub:").removeprefix("hf-hub:")
    found = (f for f in FOUNDATION.values() if f.repository.lower() == repository)
    return FOUNDATION.get(name) or next(found, None)


def pooled(architecture: Architecture, encoder: Any, features: torch.Tensor) -> torch.Tensor:
    """(B, F) features of patches from what `encoder.forward_features` returned."""
    if architecture.pool == "own":
        out: torch.Tensor = encoder.forward_head(features, pre_logits=True)
        return out
    tokens = features[:, encoder.num_prefix_tokens :].mean(dim=1)
    return torch.cat([features[:, 0], tokens], dim=1)
