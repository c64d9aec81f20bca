"""The image encoder of MobileSAM: timm's TinyVit, with the neck of SAM."""

from __future__ import annotations

from math import isqrt
from typing import Any, cast

import torch
from timm.layers.norm import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import nn

# `model_type` of a folder that holds a MobileSAM.
MOBILE = "mobile_sam"
# Nothing in a checkpoint says for which pictures it was made; there is this size only.
IMAGE_PX, PATCH_PX = 1024, 16
STAGES = 4


class TinyEncoder(nn.Module):
    """(N, 3, 1024, 1024) → (N, C, 64, 64), in the place of a SamModel's `vision_encoder`.

    The trunk is built as a class, not by name: the package mobile_sam, where somebody has it, overwrites timm's names.

    Args:
        dims: Channels of the four stages.
        depths: Blocks of each.
        heads: Attention heads of each; the first stage has none, and its number does not count.
        windows: Sides of the attention windows, likewise.
        out: C.
        mlp_ratio, expand_ratio: How much broader than a stage the insides of its blocks are.
        local_px: Side of the convolution between attention and MLP.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        windows: tuple[int, ...],
        out: int,
        *,
        mlp_ratio: float = 4.0,
        expand_ratio: float = 4.0,
        local_px: int = 3,
    ) -> None:
        super().__init__()
        trunk: Any = TinyVit(
            embed_dims=dims,
            depths=depths,
            num_heads=heads,
            window_sizes=windows,
            drop_path_rate=0.0,
            mlp_ratio=mlp_ratio,
            mbconv_expand_ratio=expand_ratio,
            local_conv_size=local_px,
        )
        trunk.head = nn.Identity()
        # MobileSAM ends at a sixteenth of the picture's size, as SAM does, where TinyVit would halve once more.
        trunk.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.trunk = trunk
        self.neck = _Neck(dims[-1], out)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (cast(torch.Tensor, self.neck(self.trunk.stages(self.trunk.patch_embed(pixel_values)))),)


class _Neck(nn.Sequential):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out, 1, bias=False)
        self.layer_norm1 = LayerNorm2d(out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.layer_norm2 = LayerNorm2d(out, eps=1e-6)


def tiny_encoder(shapes: dict[str, tuple[int, ...]], out: int) -> TinyEncoder:
    """The encoder that a MobileSAM checkpoint was made with, untrained.

    Args:
        shapes: Of the checkpoint's tensors, by their original names.
        out: Channels of its embeddings.

    Raises:
        KeyError: A tensor that says how it is built is missing.
        ValueError: It is built otherwise.
    """
    stages = [f"image_encoder.layers.{stage}.blocks" for stage in range(STAGES)]
    biases = [shapes[f"{at}.0.attn.attention_biases"] for at in stages[1:]]
    inside, dim = shapes[f"{stages[1]}.0.mlp.fc1.weight"]
    expanded, first = shapes[f"{stages[0]}.0.conv1.c.weight"][:2]
    return TinyEncoder(
        (first, *(shapes[f"{at}.0.mlp.fc1.weight"][1] for at in stages[1:])),
        tuple(count_numbers(shapes, f"{at}.") for at in stages),
        (1, *(heads for heads, _ in biases)),
        (1, *(isqrt(offsets) for _, offsets in biases)),
        out,
        mlp_ratio=inside / dim,
        expand_ratio=expanded / first,
        local_px=shapes[f"{stages[1]}.0.local_conv.c.weight"][-1],
    )


def count_numbers(shapes: dict[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbers follow a prefix in the names."""
    return len({k.removeprefix(prefix).split(".")[0] for k in shapes if k.startswith(prefix)})
