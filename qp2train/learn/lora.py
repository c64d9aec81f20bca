"""LoRA: a large encoder is tuned by small additions to its attention, which are folded into its weights when saved.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. W·x becomes W·x + up·(down·x), of
which only `up` (first 0) and `down` are trained; their scale α/r is 1.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import linear

from qp2train.errors import ModelError

# The linear layers of attention, as timm names them, and what the modules are called that they are in.
_LAYERS, _ATTENTION = ("qkv", "q", "k", "v", "kv", "proj", "q_proj", "k_proj", "v_proj"), ("attn", "attention")


class LoraLinear(nn.Module):
    """A fixed linear layer with a trained addition of low rank.

    Args:
        base: The layer; its parameters are fixed from now on.
        rank: Of the addition.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as torch does for a linear layer's weights

    @property
    def weight(self) -> torch.Tensor:
        """Of the linear layer that this one acts as; some attention of timm multiplies by it itself."""
        return self.base.weight + self.up @ self.down

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        out: torch.Tensor = self.base(x) + linear(linear(x, self.down), self.up)
        return out


def add_lora(encoder: nn.Module, rank: int) -> int:
    """Fix an encoder, and add trained parts of low rank to its attention; returns how many layers got one.

    Raises:
        ModelError: It has no attention, or the rank is below 1.
    """
    if rank < 1:
        raise ModelError(f"lora_rank must be at least 1, not {rank}")
    encoder.requires_grad_(False)
    found = [
        (parent, name, layer)
        for path, parent in encoder.named_modules()
        if path.rpartition(".")[2] in _ATTENTION
        for name, layer in parent.named_children()
        if name in _LAYERS and isinstance(layer, nn.Linear)
    ]
    if not found:
        raise ModelError(
            f"tune='lora' tunes attention, and {type(encoder).__name__} has none: use a vision transformer, or "
            "tune='full', 'frozen' or 'probe'"
        )
    for parent, name, layer in found:
        setattr(parent, name, LoraLinear(layer, rank))
    return len(found)


def merged_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors as if it had never had additions: they are folded into the weights. The net stays."""
    state = dict(net.state_dict())
    for path, module in net.named_modules():
        if isinstance(module, LoraLinear):
            state[f"{path}.weight"] = module.weight.detach()
            for gone in ("down", "up", "base.weight"):
                del state[f"{path}.{gone}"]
            if f"{path}.base.bias" in state:
                state[f"{path}.bias"] = state.pop(f"{path}.base.bias")
    return state
