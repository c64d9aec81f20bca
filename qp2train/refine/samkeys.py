"""Checkpoints of SAM and MobileSAM in their original layout: how they are built, and what their weights are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from qp2train.errors import ModelError
from qp2train.refine.mobilesam import IMAGE_PX, PATCH_PX, count_numbers, tiny_encoder
from qp2train.refine.transformersdoor import of_transformers

State = Mapping[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

# Of SAM's decoder, in which no tensor's shape tells the number of heads. All published ones have eight.
DECODER_HEADS = 8
VIT, TINY = "image_encoder.patch_embed.proj.weight", "image_encoder.patch_embed.seq.0.c.weight"
GAUSS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# In some files, and used by nothing: TinyViT's classifier, tables and constants that are computed.
UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.|.*\.attention_bias_idxs$|pixel_(mean|std)$")
# Files may lack these counters, which evaluation does not look at.
COUNTERS = "num_batches_tracked"

# The encoder that this describes has no layer, and makes way for a `TinyEncoder`.
_TINY_VISION = {"image_size": IMAGE_PX, "patch_size": PATCH_PX, "num_hidden_layers": 0, "global_attn_indexes": []}
# From transformers' and timm's names to the original ones, applied one after another.
_RULES = [
    (r"^(shared_image|prompt_encoder\.shared)_embedding\.positional_embedding$", GAUSS),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\.transformer\..*)layer_norm", r"\1norm"),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.trunk\.(.*)\.conv\.", r"vision_encoder.trunk.\1.c."),
    (r"^vision_encoder\.trunk\.patch_embed\.conv1\.", "image_encoder.patch_embed.seq.0."),
    (r"^vision_encoder\.trunk\.patch_embed\.conv2\.", "image_encoder.patch_embed.seq.2."),
    (r"^vision_encoder\.trunk\.stages\.(\d+)\.blocks\.", r"image_encoder.layers.\1.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
]
_HEAD = re.compile(
    r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.(proj_in|layers\.(\d+)|proj_out)"
)
_DOWN = re.compile(r"^image_encoder\.trunk\.stages\.(\d+)\.downsample\.")


def original_name(key: str, *, iou_depth: int) -> str:
    """The original name of a weight of transformers' SamModel, or of one with a `TinyEncoder`.

    Args:
        key: Its name there.
        iou_depth: Layers of the head that predicts the IoU.
    """
    for pattern, name in _RULES:
        key = re.sub(pattern, name, key)
    if (head := _HEAD.match(key)) is not None:
        last = iou_depth - 1 if "iou_" in head[1] else 2
        layer = {"proj_in": 0, "proj_out": last}.get(head[2])
        key = f"{head[1]}.layers.{int(head[3]) + 1 if layer is None else layer}{key[head.end() :]}"
    if (down := _DOWN.match(key)) is not None:  # where timm begins a stage, the original has ended the one before
        key = f"image_encoder.layers.{int(down[1]) - 1}.downsample.{key[down.end() :]}"
    return key


def original_state(net: Any) -> dict[str, torch.Tensor]:
    """The weights of such a network by their original names."""
    depth = net.config.mask_decoder_config.iou_head_depth
    return {original_name(k, iou_depth=depth): v.detach().cpu().contiguous() for k, v in net.state_dict().items()}


def built_from(state: State) -> Any:
    """A SamModel with the weights of a checkpoint in the original layout, 32-bit, on the CPU.

    How it is built is read from the shapes.

    Raises:
        ModelError: The keys are not a SAM's or MobileSAM's, all of them and no others; the first that differ are named.
    """
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    if VIT not in shapes and TINY not in shapes:
        raise ModelError(_foreign(shapes))
    try:
        with torch.device("meta"):  # the weights are put in below: none are made up
            net = of_transformers("SamModel")(_config(shapes))
        if TINY in shapes:
            net.vision_encoder = tiny_encoder(shapes, net.config.vision_config.output_channels)
    except KeyError as error:
        raise ModelError(f"not in the file: {error.args[0]}") from error
    except (ValueError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ModelError(f"the shapes of its weights are of no SAM: {str(error)[:200]}") from error
    return _filled(net, state)


def _filled(net: Any, state: State) -> Any:
    depth = net.config.mask_decoder_config.iou_head_depth
    wanted = {k: (original_name(k, iou_depth=depth), v) for k, v in net.state_dict().items()}
    names = {name for name, _ in wanted.values()}
    missing = [name for name, _ in wanted.values() if name not in state and not name.endswith(COUNTERS)]
    extra = [k for k in state if k not in names and not UNUSED.match(k)]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(v.shape)}"
        for name, v in wanted.values()
        if name in state and state[name].shape != v.shape
    ]
    parts = [
        f"{what}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for what, keys in (("not in the file", missing), ("only in the file", extra), ("of another shape", shapes))
        if keys
    ]
    if parts:
        raise ModelError("; ".join(parts))
    filled = {k: state[name] if name in state else torch.zeros_like(v) for k, (name, v) in wanted.items()}
    net.load_state_dict(filled, assign=True)
    return net.float()


def _config(shapes: Shapes) -> Any:
    """How a SAM is built, from the shapes of its weights; KeyError names one that is missing."""
    hidden = shapes["prompt_encoder.no_mask_embed.weight"][1]
    vision = _TINY_VISION if TINY in shapes else _vit(shapes)
    size = {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    inside = shapes["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"][0]
    head = "mask_decoder.iou_prediction_head.layers."
    return of_transformers("SamConfig")(
        vision_config={**vision, "num_pos_feats": hidden // 2, "output_channels": hidden},
        prompt_encoder_config={
            **size,
            "hidden_size": hidden,
            "mask_input_channels": shapes["prompt_encoder.mask_downscaling.3.weight"][0],
            "num_point_embeddings": count_numbers(shapes, "prompt_encoder.point_embeddings."),
        },
        mask_decoder_config={
            "hidden_size": hidden,
            "mlp_dim": shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
            "num_hidden_layers": count_numbers(shapes, "mask_decoder.transformer.layers."),
            "num_attention_heads": DECODER_HEADS,
            "attention_downsample_rate": hidden // inside,
            "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
            "iou_head_depth": count_numbers(shapes, head),
            "iou_head_hidden_dim": shapes[f"{head}0.weight"][0],
        },
    )


def _vit(shapes: Shapes) -> dict[str, Any]:
    dim, _, _, patch = shapes[VIT]
    grid = shapes["image_encoder.pos_embed"][1]
    depth = count_numbers(shapes, "image_encoder.blocks.")
    tables = [shapes[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
    windows = [(length + 1) // 2 for length, _ in tables]  # from -(n - 1) to n - 1
    return {
        "image_size": grid * patch,
        "patch_size": patch,
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": dim // tables[0][1],
        "mlp_dim": shapes["image_encoder.blocks.0.mlp.lin1.weight"][0],
        "qkv_bias": "image_encoder.blocks.0.attn.qkv.bias" in shapes,
        "window_size": min(windows),
        "global_attn_indexes": [i for i, n in enumerate(windows) if n == grid],
    }


def _foreign(shapes: Shapes) -> str:
    if any(k.startswith("vision_encoder.") for k in shapes):
        return "its weights have transformers' names: give the folder that has the config.json, too"
    return f"no SAM or MobileSAM, which has {VIT} or {TINY}; it has {', '.join([*shapes][:3]) or 'nothing'}"
