"""Small SAMs with random weights, in transformers' layout and in the original one, made offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from qp2train.refine.mobilesam import TinyEncoder

SIDE, PATCH, HIDDEN = 64, 8, 32
PROMPTS = {"hidden_size": HIDDEN, "image_size": SIDE, "patch_size": PATCH, "mask_input_channels": 8}
DECODER = {"hidden_size": HIDDEN, "mlp_dim": 48, "num_attention_heads": 8, "iou_head_hidden_dim": 24}
LATER = {"prompt_encoder_config": {**PROMPTS, "patch_size": 16}, "mask_decoder_config": DECODER}
LATER_VISION = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": HIDDEN}


def sam() -> Any:
    """A SamModel: two blocks, the second of which attends to everything."""
    vision = {"hidden_size": 32, "output_channels": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": SIDE, "patch_size": PATCH, "window_size": 3, "global_attn_indexes": [1]}
    vision |= {"num_pos_feats": HIDDEN // 2, "mlp_ratio": 2.0}
    return shaken(
        transformers.SamModel(
            transformers.SamConfig(vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
        )
    )


def sam2() -> Any:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [4, 2, 2, 2],
        "global_attention_blocks": [3],
    }
    vision = {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], **LATER_VISION}
    return shaken(transformers.Sam2Model(transformers.Sam2Config(vision_config=vision, **LATER)))


def sam3() -> Any:
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": SIDE,
    }
    vision = {"model_type": "sam3_vision_model", "backbone_config": backbone, **LATER_VISION}
    return shaken(transformers.Sam3TrackerModel(transformers.Sam3TrackerConfig(vision_config=vision, **LATER)))


def edgetam() -> Any:
    backbone = transformers.TimmWrapperConfig(
        architecture="repvit_m1",
        num_labels=2,
        model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    )
    vision = transformers.models.edgetam.EdgeTamVisionConfig(
        backbone_config=backbone, backbone_channel_list=[384, 192, 96, 48], **LATER_VISION
    )
    return shaken(transformers.EdgeTamModel(transformers.EdgeTamConfig(vision_config=vision, **LATER)))


def mobile() -> Any:
    """A SamModel with MobileSAM's encoder, for pictures of 1024 px as every MobileSAM."""
    vision = {"image_size": 1024, "num_hidden_layers": 0, "global_attn_indexes": [], "num_pos_feats": HIDDEN // 2}
    config = transformers.SamConfig(
        vision_config={**vision, "output_channels": HIDDEN},
        prompt_encoder_config={**PROMPTS, "image_size": 1024, "patch_size": 16},
        mask_decoder_config=DECODER,
    )
    net = transformers.SamModel(config)
    net.vision_encoder = TinyEncoder((8, 8, 12, 16), (1, 1, 2, 1), (1, 2, 3, 4), (7, 7, 14, 7), HIDDEN)
    return shaken(net)


def shaken(net: Any, seed: int = 0) -> Any:
    """With random weights, the same each time, also where a new network has zeros: no exchange goes unnoticed."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_((weight == 1) + 0.1 * torch.randn(weight.shape, generator=drawn))
    return net.eval()


def processor(kind: str) -> Any:
    """The processor that such a network's folder has."""
    if kind == "sam":
        square, coarse = {"height": SIDE, "width": SIDE}, {"height": SIDE // 2, "width": SIDE // 2}
        images = transformers.SamImageProcessor(
            size={"longest_edge": SIDE},
            pad_size=square,
            mask_size={"longest_edge": SIDE // 2},
            mask_pad_size=coarse,
        )
        return transformers.SamProcessor(images)
    square = {"height": SIDE, "width": SIDE}
    if kind == "sam3":
        return transformers.Sam3TrackerProcessor(transformers.Sam3ImageProcessor(size=square), target_size=SIDE)
    return transformers.Sam2Processor(transformers.Sam2ImageProcessor(size=square), target_size=SIDE)


def save(net: Any, folder: Path, kind: str = "") -> Path:
    """A folder as transformers writes it; without `kind` it has no processor."""
    net.save_pretrained(folder)
    if kind:
        processor(kind).save_pretrained(folder)
    return folder


def picture(height: int = 50, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def decoder_names(iou_depth: int = 3) -> Iterator[tuple[str, str]]:
    """(original, transformers') names of all but the image encoder, as the original classes define them."""
    yield "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"
    for i in range(4):
        yield f"prompt_encoder.point_embeddings.{i}.weight", f"prompt_encoder.point_embed.{i}.weight"
    for name in ("not_a_point_embed", "no_mask_embed"):
        yield f"prompt_encoder.{name}.weight", f"prompt_encoder.{name}.weight"
    both = ("weight", "bias")
    scaling = {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}
    yield from (
        (f"prompt_encoder.mask_downscaling.{i}.{b}", f"prompt_encoder.mask_embed.{n}.{b}")
        for i, n in scaling.items()
        for b in both
    )
    for name in ("iou_token", "mask_tokens"):
        yield f"mask_decoder.{name}.weight", f"mask_decoder.{name}.weight"
    attention = [f"{p}_proj.{b}" for p in ("q", "k", "v", "out") for b in both]
    at = "mask_decoder.transformer"
    for i in range(2):
        for kind in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            yield from ((f"{at}.layers.{i}.{kind}.{n}",) * 2 for n in attention)
        yield from ((f"{at}.layers.{i}.mlp.{lin}.{b}",) * 2 for lin in ("lin1", "lin2") for b in both)
        for n in range(1, 5):
            yield from ((f"{at}.layers.{i}.norm{n}.{b}", f"{at}.layers.{i}.layer_norm{n}.{b}") for b in both)
    yield from ((f"{at}.final_attn_token_to_image.{n}",) * 2 for n in attention)
    yield from ((f"{at}.norm_final_attn.{b}", f"{at}.layer_norm_final_attn.{b}") for b in both)
    upscaling = {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}
    yield from (
        (f"mask_decoder.output_upscaling.{i}.{b}", f"mask_decoder.{n}.{b}") for i, n in upscaling.items() for b in both
    )
    heads = {f"output_hypernetworks_mlps.{i}": 3 for i in range(4)} | {"iou_prediction_head": iou_depth}
    for head, depth in heads.items():
        layers = ["proj_in", *(f"layers.{i}" for i in range(depth - 2)), "proj_out"]
        for i, layer in enumerate(layers):
            yield from ((f"mask_decoder.{head}.layers.{i}.{b}", f"mask_decoder.{head}.{layer}.{b}") for b in both)


def encoder_names(blocks: int = 2) -> Iterator[tuple[str, str]]:
    """(original, transformers') names of a ViT image encoder."""
    both = ("weight", "bias")
    yield "image_encoder.pos_embed", "vision_encoder.pos_embed"
    yield from ((f"image_encoder.patch_embed.proj.{b}", f"vision_encoder.patch_embed.projection.{b}") for b in both)
    for i in range(blocks):
        old, new = f"image_encoder.blocks.{i}", f"vision_encoder.layers.{i}"
        for n in ("1", "2"):
            yield from ((f"{old}.norm{n}.{b}", f"{new}.layer_norm{n}.{b}") for b in both)
        for n in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
            yield from ((f"{old}.{n}.{b}", f"{new}.{n}.{b}") for b in both)
        yield from ((f"{old}.attn.rel_pos_{d}", f"{new}.attn.rel_pos_{d}") for d in "hw")
    yield from neck_names()


def neck_names() -> Iterator[tuple[str, str]]:
    for i, n in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2")):
        for b in ("weight", "bias") if i % 2 else ("weight",):
            yield f"image_encoder.neck.{i}.{b}", f"vision_encoder.neck.{n}.{b}"


def original(net: Any) -> dict[str, torch.Tensor]:
    """A small SAM's weights under their original names."""
    there = net.state_dict()
    names = [*encoder_names(), *decoder_names()]
    # One matrix feeds both embeddings of places.
    assert {new for _, new in names} == {*there} - {"prompt_encoder.shared_embedding.positional_embedding"}
    return {old: there[new].clone() for old, new in names}
